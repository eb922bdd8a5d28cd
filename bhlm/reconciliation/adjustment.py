"""Whether draws of a pseudo-posterior were moved to the sandwich's covariance, computed again.

The draws before and after tell the map that led from one to the other. It must be linear about
their mean in the coordinates of `bhlm.bayes.adjust`, and lead the inverse of the Hessian there to
the sandwich; both are computed anew here, by differences of the groups' log-likelihoods by beta,
the elements of G and sigma^2, and of the coordinates by these.
"""

from dataclasses import dataclass

import numpy as np

from bhlm.bayes.adjust import take_exponentials, take_logarithms
from bhlm.bayes.draws import Draws
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.whitening import Whitened, whiten_parameters

Array = np.ndarray

STEP = 0.02  # of differences, in standard errors: leaves 1e-4 of a curvature
SAME = 0.02  # share of a variance by which the two sandwiches may differ
LINEAR = 1e-6  # what may be left of the map, in posterior SDs


@dataclass(frozen=True, slots=True)
class AdjustmentCheck:
    """What was found of the adjustment of draws under sampling weights."""

    made: bool  # whether there is one
    sentence: str  # what is wrong; empty if all is well

    @property
    def holds(self) -> bool:
        """Whether the draws have the sandwich's covariance."""
        return self.made and not self.sentence


def check_adjustment(post: Draws) -> AdjustmentCheck | None:
    """Return what became of draws under sampling weights; None where there are none.

    Args:
        post: draws.
    """
    weights = post.moments.weights
    if weights is None or not weights.is_sampling:
        return None
    if post.adjustment is None or post.adjustment.failure:
        why = post.adjustment.failure if post.adjustment is not None else "adjust=False"
        return AdjustmentCheck(
            False,
            f"The draws of the pseudo-posterior are not adjusted to the sandwich ({why}), so that "
            "their spread is not that of the estimates under the design: nothing certifies them.",
        )
    before = take_logarithms(post.structure, post.sampled.flat)
    after = take_logarithms(post.structure, post.flat)
    centre, spread = before.mean(axis=0), before.std(axis=0)
    moved, *_ = np.linalg.lstsq((before - centre) / spread, (after - centre) / spread, rcond=None)
    left = (after - centre) / spread - (before - centre) / spread @ moved
    if not np.abs(left).max() < LINEAR:
        return AdjustmentCheck(
            True,
            "The adjusted draws are no linear map of the sampled ones: up to "
            f"{np.abs(left).max():.2g} posterior SDs are left.",
        )
    turn = (spread[:, None] * moved.T) / spread
    naive, robust = difference_spreads(post, centre)
    if naive is None or robust is None:
        return AdjustmentCheck(
            True, "The pseudo-likelihood has no maximum near the mean of the draws."
        )
    size = np.sqrt(np.diag(robust))
    gap = (turn @ naive @ turn.T - robust) / np.outer(size, size)
    if not np.abs(gap).max() < SAME:
        return AdjustmentCheck(
            True,
            "The adjusted draws do not have the sandwich's covariance, computed again: it differs "
            f"by {100.0 * np.abs(gap).max():.2g} % of a variance.",
        )
    return AdjustmentCheck(True, "")


def difference_spreads(post: Draws, centre: Array) -> tuple[Array | None, Array | None]:
    """Return H^-1 and the sandwich (d, d), times J / (J - 1), at coordinates (d,), by differences.

    They are those by beta, G and sigma^2, carried to the coordinates; None where the curvature has
    the wrong sign somewhere.

    Args:
        post: the draws, with weights of groups.
        centre: the coordinates.
    """
    structure, white = post.structure, post.white
    p, d = white.p, len(centre)
    at = take_exponentials(structure, centre[None], p)
    middle = _list_elements(structure, at)[0]
    steps = STEP * _list_elements(structure, post.sampled.flat).std(axis=0)

    def place(shift: Array) -> Parameters:
        moved = middle + shift
        g = np.tensordot(moved[p:-1], structure.directions, axes=1)
        sigma = np.sqrt(moved[-1:])
        return Parameters(moved[None, :p], np.linalg.cholesky(g)[None], sigma)

    def measure(shift: Array) -> Array:
        found = place(shift)
        return _weigh_groups(white, found.beta[0], found.root[0], float(found.sigma[0]))

    unit = np.diag(steps)
    up, down = [measure(step) for step in unit], [measure(-step) for step in unit]
    height = float(measure(np.zeros(d)).sum())
    scores = np.stack([(a - b) / (2.0 * s) for a, b, s in zip(up, down, steps, strict=True)], 1)
    hessian, slope = np.empty((d, d)), np.empty((d, d))
    for i in range(d):
        ahead, behind = (take_logarithms(structure, place(side * unit[i]))[0] for side in (1, -1))
        slope[:, i] = (ahead - behind) / (2.0 * steps[i])
        hessian[i, i] = -float(up[i].sum() + down[i].sum() - 2.0 * height) / steps[i] ** 2
        for j in range(i):
            corners = [
                float(measure(a * unit[i] + b * unit[j]).sum()) * a * b
                for a in (-1.0, 1.0)
                for b in (-1.0, 1.0)
            ]
            hessian[i, j] = hessian[j, i] = -sum(corners) / (4.0 * steps[i] * steps[j])
    if not np.linalg.eigvalsh(hessian * np.outer(steps, steps))[0] > 0.0:
        return None, None
    bread = slope @ np.linalg.inv(hessian)
    n_groups = len(scores)
    meat = scores.T @ scores * (n_groups / (n_groups - 1.0))
    return bread @ slope.T, bread @ meat @ bread.T


def _list_elements(structure: Structure, parameters: Parameters) -> Array:
    """Return beta, the free elements of G and sigma^2 of draws (N, d)."""
    return np.column_stack([parameters.beta, structure.read(parameters.g), parameters.sigma**2])


def _weigh_groups(white: Whitened, beta: Array, root: Array, sigma: float) -> Array:
    """Return W_j times the log-likelihood of each group (J,), from its dense q x q algebra."""
    given, lam, relative = whiten_parameters(white, beta, root, sigma)
    assert white.sizes is not None
    assert white.groups is not None
    q, v = white.q, float(relative) ** 2
    along = np.concatenate([-given, [1.0]])
    z = white.blocks[:, :q, :q]
    zr = white.blocks[:, :q, q:] @ along
    rr = np.einsum("a,jab,b->j", along, white.blocks[:, q:, q:], along)
    inner = np.eye(q) + lam.T @ z @ lam
    lean = zr @ lam
    solved = np.linalg.solve(inner, lean[..., None])[..., 0]
    rss = rr - np.einsum("ja,ja->j", lean, solved)
    value = white.sizes[0] * np.log(2.0 * np.pi * v) + np.linalg.slogdet(inner)[1] + rss / v
    return np.asarray(-0.5 * white.groups * value)
