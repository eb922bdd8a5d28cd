"""The posterior density of a family on the unconstrained scale, its integrals by the lattice.

A position x is that of `bhlm.bayes.density` without the residual SD: [beta~ (p), scales (s),
correlations (c)]. Priors, Jacobians and their slopes are those of the compiled density, whose
residual SD is held at one. The likelihood and its exact gradient come from the nodes that maximum
likelihood uses. The sampler moves in z, x = centre + turn z, at the mode with the root of the
inverse curvature there.
"""

from typing import NamedTuple

import numpy as np

from bhlm.bayes.centring import Axes, find_axes, locate, pull_back
from bhlm.bayes.density import (
    Density,
    add_priors,
    build_density,
    constrain,
    pull_root,
    relate_root,
    root_correlations,
    scale_coordinates,
)
from bhlm.bayes.priors.correlations import pull_correlations
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.design.kernels import inlined_kernel, light_kernel
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.lattice import Rows
from bhlm.likelihood.lattice_sums import move_rows, sum_groups
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns

Array = np.ndarray

TOLERANCE = 1e-6  # of the log-likelihood near the mode, all groups together
BEGIN = 0.3  # SDs at which the search for the mode begins, per unit of a column's spread
SEARCHED = 1.0  # posterior SDs between nodes while the mode is looked for


class FamilyDensity(NamedTuple):
    """All that the density of a family reads."""

    base: Density  # priors and maps; its data are empty, its last coordinate is held at zero
    nodes: Integrator  # its modes are where each search begins, and stay as they are
    axes: Axes

    @property
    def dimension(self) -> int:
        """The length of x."""
        return self.base.dimension - 1


def build_family(
    white: WhitenedPatterns,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
) -> FamilyDensity:
    """Return the posterior density of patterns; it moves in x itself, see `centre_family`.

    Args:
        white: whitened patterns.
        priors: one prior per parameter.
        structure: of the random coefficients.
        use_likelihood: False leaves the prior alone.

    Raises:
        PriorError: a prior without a density that the kernel knows.
    """
    base = build_density(white, priors, structure, use_likelihood=use_likelihood)
    d = base.dimension - 1
    return FamilyDensity(base, Integrator(white), Axes(np.zeros(d), np.eye(d)))


class Compiled(NamedTuple):
    """The same as the kernel takes it."""

    base: Density
    rows: Rows  # the patterns at zero
    modes: Array  # (J, q)
    steps: Array  # (J,) posterior SDs between nodes
    constant: float  # of the log-likelihood
    centre: Array  # (d,)
    turn: Array  # (d, d)


def compile_family(density: FamilyDensity) -> Compiled:
    """Return a density as the kernel takes it."""
    nodes, axes = density.nodes, density.axes
    return Compiled(
        density.base, nodes.rows, nodes.modes, nodes.steps, nodes.constant,
        axes.centre, axes.turn,
    )  # fmt: skip


def log_family(x: Array, density: FamilyDensity) -> tuple[float, Array]:
    """Return the log posterior density at x (d,), Jacobian included, and its gradient (d,)."""
    return evaluate_family(x, compile_family(density))


def log_turned(z: Array, density: FamilyDensity) -> tuple[float, Array]:
    """Return the log density and its gradient (d,) by z, but for the constant log |turn|."""
    return evaluate_turned(z, compile_family(density))


@light_kernel
def evaluate_family(x: Array, density: Compiled) -> tuple[float, Array]:
    """Return the log posterior density at x (d,), Jacobian included, and its gradient (d,)."""
    base = density.base
    p, q, s = len(base.offset), len(base.inverse_basis), len(base.unit)
    d = len(x)
    longer, gradient = np.zeros(d + 1), np.zeros(d + 1)
    for i in range(d):
        longer[i] = x[i]
    scales = scale_coordinates(longer[p : p + s], base.unit, base.signed)
    angles = longer[p + s : d]
    factor, dfactor = np.zeros((q, q)), np.zeros((q, q))
    root_correlations(base.law, angles, base.sizes, factor)
    logp = 0.0
    if base.use_likelihood:
        lam = relate_root(base, scales, factor, 1.0)
        score, dlam = np.zeros(p + q * q), np.zeros((q, q))
        # A search always begins at the same modes, whichever chain asks: a run repeats.
        here = move_rows(density.rows, longer[:p], lam)
        logp += density.constant + sum_groups(here, density.modes, density.steps, score)
        for k in range(p):
            gradient[k] += score[k]
        for i in range(q):
            for j in range(q):
                dlam[i, j] = score[p + i * q + j]
        pull_root(base, scales, factor, 1.0, lam, dlam, dfactor, gradient)
    logp = add_priors(base, longer, scales, 1.0, logp, gradient)
    logp += pull_correlations(
        base.law, angles, base.sizes, base.eta, dfactor, gradient[p + s : d]
    )  # fmt: skip
    return logp, gradient[:d].copy()


@inlined_kernel
def evaluate_turned(z: Array, density: Compiled) -> tuple[float, Array]:
    """Return the log density and its gradient (d,) by z, but for the constant log |turn|."""
    value, slope = evaluate_family(locate(z, density.centre, density.turn), density)
    return value, pull_back(slope, density.turn)


def centre_family(density: FamilyDensity, start: Array) -> FamilyDensity:
    """Return the density in coordinates z that stand at the mode which a search finds.

    Its nodes are as dense as the log-likelihood needs to be known to 1e-6 at the mode, and at one
    posterior SD from it along each axis.

    Args:
        density: in x.
        start: where the search begins (d,).
    """
    density.nodes.steps[:] = SEARCHED
    axes = find_axes(lambda x: log_family(x, density), start)
    base, white = density.base, density.nodes.white
    if not base.use_likelihood:
        return density._replace(axes=axes)
    nodes = Integrator(white)
    steps = np.full(white.n_groups, SEARCHED)
    around = np.concatenate([axes.turn.T, -axes.turn.T])
    for x in (*(axes.centre + around), axes.centre):
        beta, lam = locate_family(density, x)
        nodes.refine(beta, lam, tolerance=TOLERANCE / white.n_groups)
        steps = np.minimum(steps, nodes.steps)
    nodes.steps[:] = steps
    return density._replace(nodes=nodes, axes=axes)


def start_search(density: FamilyDensity) -> Array:
    """Return the position (d,) at which the search for the mode begins, see `start_at_mean`."""
    return start_at_mean(density.base, density.nodes.white)


def start_at_mean(base: Density, white: WhitenedPatterns | WhitenedNest) -> Array:
    """Return the position (d,), without a residual SD, of the same mean everywhere.

    SDs are a third, per unit of their column's spread.
    """
    p, s = len(base.offset), len(base.unit)
    x = np.zeros(base.dimension - 1)
    mean = (white.y.sum() + 0.5) / (white.n.sum() + 1.0)
    level = float(white.family.apply_link(np.array(mean))) - white.offset.mean()
    x[:p] = np.linalg.lstsq(white.x, np.full(len(white.x), level))[0]
    x[p : p + s] = np.where(base.signed, BEGIN, np.log(BEGIN))
    return x


def locate_family(density: FamilyDensity, x: Array) -> tuple[Array, Array]:
    """Return whitened beta~ (p,) and lam (q, q) at a position x (d,)."""
    base = density.base
    p, q, s = len(base.offset), len(base.inverse_basis), len(base.unit)
    scales = scale_coordinates(np.ascontiguousarray(x[p : p + s]), base.unit, base.signed)
    factor = np.zeros((q, q))
    root_correlations(base.law, np.ascontiguousarray(x[p + s :]), base.sizes, factor)
    return np.ascontiguousarray(x[:p]), relate_root(base, scales, factor, 1.0)


def constrain_family(density: FamilyDensity, frame: Frame, z: Array) -> tuple[Array, Parameters]:
    """Return positions x (N, d) and the parameters, of N positions z (N, d) of the sampler."""
    x = density.axes.turn_back(z)
    longer = np.column_stack([x, np.zeros(len(x))])
    return x, constrain(density.base, density.nodes.white, frame, longer)
