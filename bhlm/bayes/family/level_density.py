"""The density of a family's nested factors, its integrals by lattices within lattices.

It is that of `bhlm.bayes.level_density`, with a residual SD that is held at one, and the likelihood
and the exact gradient of `bhlm.likelihood.nested_sums`: the nodes that maximum likelihood uses.
"""

import numpy as np

from bhlm.bayes.centring import find_axes
from bhlm.bayes.density import relate_root, scale_coordinates
from bhlm.bayes.family.density import TOLERANCE, start_at_mean
from bhlm.bayes.level_density import LevelDensity, build_levels, log_levels, root_parts
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.level_pattern import pack_nodes
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest

Array = np.ndarray


def centre_nest(
    white: WhitenedNest,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
) -> tuple[LevelDensity, NestIntegrator]:
    """Return the posterior density in coordinates that stand at its mode, and its integrals.

    The mode is searched for with the widest nodes. Then these are as dense as the log-likelihood
    needs to be known to 1e-6 there, and at one posterior SD from it along each axis.

    Args:
        white: whitened patterns.
        priors: one prior per parameter.
        structure: of the random coefficients of all factors.
        use_likelihood: False leaves the prior alone.

    Raises:
        PriorError: a prior without a density that the kernel knows.
    """
    density = build_levels(white, priors, structure, use_likelihood=use_likelihood)
    nodes = NestIntegrator(white)
    axes = find_axes(lambda x: log_levels(x, density), start_at_mean(density.base, white))
    density = density._replace(centre=axes.centre, turn=axes.turn)
    if not use_likelihood:
        return density, nodes
    steps = nodes.steps.copy()
    around = np.concatenate([axes.turn.T, -axes.turn.T])
    for x in (*(axes.centre + around), axes.centre):
        beta, lams = locate_nest(density, white, x)
        nodes.refine(beta, lams, tolerance=TOLERANCE / len(steps))
        steps = np.minimum(steps, nodes.steps)
    nodes.steps[:] = steps
    nodes.evaluate(beta, lams, derivatives=False)  # searches for modes begin at those of the mode
    return density._replace(pattern=pack_nodes(nodes)), nodes


def locate_nest(density: LevelDensity, white: WhitenedNest, x: Array) -> tuple[Array, list[Array]]:
    """Return whitened beta~ (p,) and lam_l (q_l, q_l), the coarsest first, at a position x (d,)."""
    base = density.base
    p, q, s = len(base.offset), len(base.inverse_basis), len(base.unit)
    scales = scale_coordinates(np.ascontiguousarray(x[p : p + s]), base.unit, base.signed)
    factor = np.zeros((q, q))
    root_parts(density.parts, base.sizes, np.ascontiguousarray(x[p + s :]), factor)
    return np.ascontiguousarray(x[:p]), white.split(relate_root(base, scales, factor, 1.0))
