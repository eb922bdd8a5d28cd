"""The posterior density of several grouping factors on the unconstrained scale, compiled once.

A position x is that of `bhlm.bayes.density`, with the SDs and then the correlations of one factor
after the other, and without log sigma where it is known, or where a family has none. The sampler
moves in z, x = centre + turn z: at the mode with the root of the inverse curvature there, so that
trajectories are short from their first step on.
"""

import math
from typing import NamedTuple

import numpy as np

from bhlm.bayes.centring import Axes, find_axes
from bhlm.bayes.density import (
    Density,
    add_priors,
    build_density,
    pull_root,
    relate_root,
    scale_coordinates,
)
from bhlm.bayes.priors.correlations import correlate, find_law, pull_correlations
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.design.kernels import inlined_kernel, kernel, light_kernel
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.level_pattern import Pattern, marginal_cells, pack_cells
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import Parameters

Array = np.ndarray

PARTS = 5  # numbers that a factor's part of x is told by


class LevelDensity(NamedTuple):
    """All that the density kernel of several factors reads."""

    base: Density  # priors and maps; its data are empty
    parts: Array  # (F, PARTS) int64: law, angles, blocks, coefficients, where they begin
    etas: Array  # (F,) of the LKJ priors
    pattern: Pattern  # nested, crossed or nested of a family, for which the kernel is compiled
    centre: Array  # (d,)
    turn: Array  # (d, d)
    held: float  # the residual SD where it is known, 1 of a family; 0 where it is not

    @property
    def dimension(self) -> int:
        """The length of x."""
        return self.base.dimension - int(self.held > 0.0)


def build_levels(
    white: WhitenedCells | WhitenedNest,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
) -> LevelDensity:
    """Return the posterior density of several factors; arguments as of `build_density`.

    It moves in x itself; see `centre_levels`.

    Raises:
        PriorError: a prior without a density that the kernel knows.
    """
    base = build_density(white, priors, structure, use_likelihood=use_likelihood)
    rows = [
        (law.code, law.count(part.sizes), len(part.sizes), part.q, span.start)
        for part, span in zip(structure.parts, structure.spans, strict=True)
        for law in (find_law(part),)
    ]
    d = base.dimension - int(white.held is not None)
    return LevelDensity(
        base=base,
        parts=np.array(rows, dtype=np.int64),
        etas=np.array([corr.eta for corr in priors.corrs], dtype=np.float64),
        pattern=pack_cells(white),
        centre=np.zeros(d),
        turn=np.eye(d),
        held=0.0 if white.held is None else math.sqrt(white.held) * white.scale,
    )


@kernel
def root_parts(parts: Array, sizes: Array, angles: Array, out: Array) -> None:
    """Write the lower roots (q, q) of all factors' correlations at coordinates (c,) into `out`."""
    out[:] = 0.0
    angle, block = 0, 0
    for f in range(len(parts)):
        law, n_angles, n_blocks, q, start = parts[f]
        own = np.zeros((q, q))
        correlate(law, angles[angle : angle + n_angles], sizes[block : block + n_blocks], own)
        for i in range(q):
            for k in range(q):
                out[start + i, start + k] = own[i, k]
        angle += n_angles
        block += n_blocks


@light_kernel
def _log_whole(x: Array, density: LevelDensity) -> tuple[float, Array]:
    """Return what `log_levels` does where x ends in log sigma."""
    base, parts = density.base, density.parts
    p, q, s, d = len(base.offset), len(base.inverse_basis), len(base.unit), len(x)
    gradient = np.zeros(d)
    scales = scale_coordinates(x[p : p + s], base.unit, base.signed)
    angles = x[p + s : d - 1]
    sigma = np.exp(x[d - 1])
    factor = np.zeros((q, q))
    root_parts(parts, base.sizes, angles, factor)
    logp = 0.0
    dfactor = np.zeros((q, q))
    if base.use_likelihood:
        lam = relate_root(base, scales, factor, sigma)
        own_sigma = sigma / base.scale
        loglik, dlam, dbeta, dlog = marginal_cells(density.pattern, base.n, lam, x[:p], own_sigma)
        logp += loglik - base.n * np.log(base.scale)
        for i in range(p):
            gradient[i] += dbeta[i]
        gradient[d - 1] += dlog
        pull_root(base, scales, factor, sigma, lam, dlam, dfactor, gradient)
    logp = add_priors(base, x, scales, sigma, logp, gradient)
    angle, block = 0, 0
    for f in range(len(parts)):
        law, n_angles, n_blocks, size, start = parts[f]
        own = dfactor[start : start + size, start : start + size].copy()
        at = p + s + angle
        logp += pull_correlations(
            law, x[at : at + n_angles], base.sizes[block : block + n_blocks], density.etas[f],
            own, gradient[at : at + n_angles],
        )  # fmt: skip
        angle += n_angles
        block += n_blocks
    return logp, gradient


@light_kernel
def log_levels(x: Array, density: LevelDensity) -> tuple[float, Array]:
    """Return the log posterior density at x, Jacobian included, and its gradient (d,)."""
    if density.held == 0.0:
        return _log_whole(x, density)
    d = len(x)
    whole, gradient = np.empty(d + 1), np.empty(d)
    for i in range(d):
        whole[i] = x[i]
    whole[d] = math.log(density.held)
    value, slope = _log_whole(whole, density)
    for i in range(d):
        gradient[i] = slope[i]
    return value - whole[d], gradient  # whose Jacobian it has not


@inlined_kernel
def log_turned(z: Array, density: LevelDensity) -> tuple[float, Array]:
    """Return the log density and its gradient (d,) by z, but for the constant log |turn|."""
    value, gradient = log_levels(density.centre + density.turn @ z, density)
    return value, density.turn.T @ gradient


def turn_back(density: LevelDensity, z: Array) -> Array:
    """Return the positions x (N, d) of positions z (N, d)."""
    return Axes(density.centre, density.turn).turn_back(z)


def centre_levels(density: LevelDensity, start: Array) -> LevelDensity:
    """Return the density in coordinates z that stand at the mode which a search finds.

    The axes are those of the curvature there; where it is not that of a maximum, as short as x's.

    Args:
        density: in x.
        start: where the search begins (d,).
    """
    axes = find_axes(lambda x: log_levels(x, density), start)
    return density._replace(centre=axes.centre, turn=axes.turn)


def constrain_levels(
    density: LevelDensity, white: WhitenedCells | WhitenedNest, frame: Frame, x: Array
) -> Parameters:
    """Return the parameters at N positions x (N, d), priors standing in a frame."""
    base = density.base
    p, q, s = white.p, white.q, len(base.unit)
    if density.held > 0.0:
        x = np.column_stack([x, np.full(len(x), math.log(density.held))])
    beta = white.ols + white.scale * x[:, :p] @ white.fixed.T
    root = np.zeros((len(x), q, q))
    for row, position in enumerate(x):
        root_parts(density.parts, base.sizes, np.ascontiguousarray(position[p + s : -1]), root[row])
    sd = base.unit * np.where(base.signed, x[:, p : p + s], np.exp(x[:, p : p + s]))
    root *= sd[:, base.owners, None]
    return Parameters(beta, frame.unturn_root(root), np.exp(x[:, -1]))
