"""Draws of a pseudo-posterior, adjusted to the sandwich covariance.

With sampling weights the pseudo-posterior is centred where it should be, but its spread, that of
H^-1, is not that of the estimates over repeated samples of the design, H^-1 B H^-1. So every draw
is moved about the mean by the symmetric matrix A with A H^-1 A' = H^-1 B H^-1 J / (J - 1), in
coordinates that have no bounds: the fixed effects, the free elements of the matrix logarithm of G,
in which every structure stays itself, and log sigma.

The weights of groups add up to their number J, whatever the rows' add up to. A pseudo-posterior of
fewer groups than were drawn would be skewed as theirs is, and lie beside the estimates by a part of
a standard error that no linear map takes away; one of more rows is too narrow, which the map mends.

Source: Williams & Savitsky (2021), Int. Stat. Rev. 89, 72-107, section 3; Leon-Novelo & Savitsky
(2019), Electron. J. Stat. 13, 1608-1645, for weights that add up to the size of the sample.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.scores import find_scores
from bhlm.likelihood.whitening import Whitened, whiten_parameters
from bhlm.moments.moments import Moments

Array = np.ndarray

LEAST = 1e-14  # of the largest eigenvalue of G: below, its logarithm is rounding


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What was done to the draws of a pseudo-posterior, or why nothing could be."""

    inflation: Array  # (d,) adjusted SD over unadjusted, by coordinate; empty where not adjusted
    failure: str = ""  # why the draws are as they were

    @property
    def sentence(self) -> str:
        """What the draws are, for every summary."""
        if self.failure:
            return (
                f"draws of the pseudo-posterior, NOT adjusted ({self.failure}): their spread is "
                "not that of the estimates under the design"
            )
        low, high = float(self.inflation.min()), float(self.inflation.max())
        return (
            "draws of the pseudo-posterior, adjusted to the sandwich covariance (Williams & "
            f"Savitsky 2021), which multiplies SDs by {low:.2f} to {high:.2f}"
        )


class Moved(NamedTuple):
    """Adjusted draws, and what was done to them."""

    parameters: Parameters
    adjustment: Adjustment


def adjust_draws(
    moments: Moments, white: Whitened, structure: Structure, parameters: Parameters
) -> Moved:
    """Return draws of a pseudo-posterior with the sandwich's covariance, or as they are.

    Args:
        moments: with sampling weights.
        white: their whitened form.
        structure: of the random coefficients.
        parameters: in N draws.
    """
    p, m = white.p, len(structure.labels)
    if white.blocks.shape[0] <= p + m + 1:
        return _leave(
            parameters, f"{white.blocks.shape[0]} groups have no covariance of {p + m + 1} scores"
        )
    phi = take_logarithms(structure, parameters)
    if not np.isfinite(phi).all():
        return _leave(parameters, "the covariance of the random effects is singular in some draws")
    centre = phi.mean(axis=0)
    naive, robust = measure_spreads(moments, white, structure, centre)
    if naive is None or robust is None:
        return _leave(parameters, "the pseudo-likelihood has no maximum near the mean of the draws")
    root, inverse = _take_roots(naive)
    middle, _ = _take_roots(root @ robust @ root)
    turn = inverse @ middle @ inverse
    moved = centre + (phi - centre) @ turn.T
    inflation = moved.std(axis=0) / phi.std(axis=0)
    return Moved(take_exponentials(structure, moved, p), Adjustment(inflation))


def _leave(parameters: Parameters, failure: str) -> Moved:
    return Moved(parameters, Adjustment(np.empty(0), failure))


def take_logarithms(structure: Structure, parameters: Parameters) -> Array:
    """Return the coordinates (N, p + m + 1) of draws: beta, free elements of log G, log sigma."""
    values, vectors = np.linalg.eigh(parameters.g)
    kept = np.where(values > LEAST * values[:, -1:], values, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = (vectors * np.log(kept)[:, None, :]) @ vectors.swapaxes(1, 2)
    free = structure.read(logs)
    return np.concatenate([parameters.beta, free, np.log(parameters.sigma)[:, None]], axis=1)


def take_exponentials(structure: Structure, phi: Array, p: int) -> Parameters:
    """Return the draws at coordinates (N, p + m + 1)."""
    logs = np.tensordot(phi[:, p:-1], structure.directions, axes=1)
    values, vectors = np.linalg.eigh(logs)
    g = (vectors * np.exp(values)[:, None, :]) @ vectors.swapaxes(1, 2)
    return Parameters(
        phi[:, :p], np.linalg.cholesky(0.5 * (g + g.swapaxes(1, 2))), np.exp(phi[:, -1])
    )


def measure_spreads(
    moments: Moments, white: Whitened, structure: Structure, phi: Array
) -> tuple[Array | None, Array | None]:
    """Return H^-1 and the sandwich (d, d) at coordinates phi (d,); None where H has no inverse.

    With G = U diag(l) U', dlog G = U (F * U'dG U) U', F_ij = (log l_i - log l_j) / (l_i - l_j) and
    1 / l_i on the diagonal (Daleckii & Krein).
    """
    p = white.p
    at = take_exponentials(structure, phi[None], p)
    beta, lam, sigma = whiten_parameters(white, at.beta[0], at.root[0], at.sigma[0])
    v = float(sigma) ** 2
    found = find_scores(moments, white, structure, beta=beta, lam=lam, v=v)
    values, vectors = np.linalg.eigh(at.g[0])
    gap = values[:, None] - values[None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (np.log(values)[:, None] - np.log(values)[None, :]) / gap
    near = np.abs(gap) < 1e-10 * values[-1]
    ratio = np.where(near, 2.0 / (values[:, None] + values[None, :]), ratio)
    m = len(structure.labels)
    slope = np.zeros((p + m + 1, p + m + 1))
    slope[:p, :p] = found.fixed
    for c, direction in enumerate(structure.directions):
        moved = white.scale**2 * white.basis @ direction @ white.basis.T
        inner = vectors @ (ratio * (vectors.T @ moved @ vectors)) @ vectors.T
        slope[p : p + m, p + c] = structure.read(inner)
    slope[-1, -1] = 0.5 / v
    hessian = 0.5 * (found.hessian + found.hessian.T)
    if not np.linalg.eigvalsh(hessian)[0] > 0.0:
        return None, None
    bread = slope @ np.linalg.inv(hessian)
    n_groups = len(found.scores)
    meat = found.scores.T @ found.scores * (n_groups / (n_groups - 1.0))
    return bread @ slope.T, bread @ meat @ bread.T


def _take_roots(matrix: Array) -> tuple[Array, Array]:
    """Return the symmetric root (d, d) of a positive matrix, and its inverse."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    sizes = np.sqrt(np.maximum(values, 0.0))
    with np.errstate(divide="ignore"):
        return (vectors * sizes) @ vectors.T, (vectors / sizes) @ vectors.T
