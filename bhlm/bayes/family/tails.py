"""Which moments the posterior of a family has, and whether it is proper.

Where an SD grows to t the marginal likelihood of a group stays above zero if some direction of its
random effects recedes, along which no response of the group becomes less likely (all are 1, say);
else its likelihood can be integrated over the effects, and falls as 1 / t. So with N groups that do
not recede, a prior of the SD whose density falls as sd^w and f fixed effects with flat priors,
which may grow with it,

    P(sd > t) falls at least as fast as t^-index,    index = N - f - (w + 1),

and likewise where all SDs of the factor grow at once. These are lower bounds: a moment that they
do not promise is not reported. Source: Natarajan & Kass (2000), JASA 95, 227-237, section 3, and
Chen, Ibrahim & Shao (2003), Comput. Stat. Data Anal. 42, for recession and propriety.
"""

import math
from collections.abc import Collection

import numpy as np
from scipy.optimize import linprog

from bhlm.bayes.priors.families import Flat, Prior
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.priors.tails import name_tails
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.densities import LOG
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.moments.patterns import Patterns

Array = np.ndarray

PROGRAMS = 200  # groups whose cones are looked at, at most
COUNTED = 40  # groups that do not recede, beyond which nobody counts


def index_family(
    patterns: Patterns,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedPatterns,
    *,
    without: Collection[str] = (),
) -> dict[str, float]:
    """Return the tail index of every parameter: its m-th moment exists if m < index.

    Args:
        patterns: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        white: the whitened patterns.
        without: names of `bhlm.bayes.importance.target.PRIORS` to swap for flat ones.
    """
    free = "fixed" in without
    flat = sum(free or isinstance(prior, Flat) for prior in priors.fixed)
    own = np.array(
        [
            _index(prior, power, without)
            for prior, power in zip(priors.sd, structure.powers, strict=True)
        ]
    )[list(structure.owners)]
    z = patterns.take(structure.names)
    alone = np.array([count_along(white, z[:, i]) for i in range(structure.q)], dtype=float)
    index = own + alone - flat
    if structure.q > 1:
        every = _sum_shared(own, structure) + structure.q * count_bounded(white, z) - flat
        index = np.minimum(index, every)
    if not priors.frame.is_given[1]:  # as given, a coefficient is a sum of those with a prior
        index = np.minimum(index, np.min(index))
    slowest = float(np.min(index))
    # A fixed effect without a prior grows with the SDs; one with a prior no faster than that lets.
    beta = np.array(
        [
            slowest if free or isinstance(prior, Flat) else max(_index(prior), slowest)
            for prior in priors.fixed
        ]
    )
    if not priors.frame.is_given[0]:
        beta = np.minimum(beta, np.min(beta))
    if slowest <= 0.0:
        index, beta = np.minimum(index, slowest), np.minimum(beta, slowest)
    cov = np.minimum(index[:, None], index[None, :]) / 2.0
    return name_tails(patterns, structure, beta, index, cov, math.inf)


def count_along(white: WhitenedPatterns, z: Array) -> int:
    """Return how many groups recede in neither direction of one random column (I,)."""
    falls, rises = _list_losses(white)
    ahead = np.where(falls & (z < 0.0) | rises & (z > 0.0), 1, 0)
    behind = np.where(falls & (z > 0.0) | rises & (z < 0.0), 1, 0)
    at = white.starts[:-1]
    return int(np.sum((np.add.reduceat(ahead, at) > 0) & (np.add.reduceat(behind, at) > 0)))


def count_bounded(white: WhitenedPatterns, z: Array) -> int:
    """Return how many of the largest groups recede in no direction of their effects, to `COUNTED`.

    Those are the groups whose constraints a'd >= 0 leave no d but zero.
    """
    falls, rises = _list_losses(white)
    order = np.argsort(-np.diff(white.starts), kind="stable")[:PROGRAMS]
    found = 0
    for j in order:
        span = slice(white.starts[j], white.starts[j + 1])
        normals = np.concatenate([z[span][falls[span]], -z[span][rises[span]]])
        found += _spans(normals, z.shape[1])
        if found >= COUNTED:
            break
    return found


def _list_losses(white: WhitenedPatterns) -> tuple[Array, Array]:
    """Return which patterns (I,) become impossible as eta falls, and which as it rises."""
    rises = np.ones(len(white.y), bool) if white.family.code == LOG else white.y < white.n
    return white.y > 0.0, rises


def _spans(normals: Array, q: int) -> bool:
    """Return whether the normals (m, q) span R^q by positive weights."""
    if np.linalg.matrix_rank(normals) < q:
        return False
    # Sum of weights w >= 1 times the normals = 0: all of them take part.
    target = -normals.sum(axis=0)
    solved = linprog(np.zeros(len(normals)), A_eq=normals.T, b_eq=target, bounds=(0.0, None))
    return bool(solved.status == 0)


def _sum_shared(own: Array, structure: Structure) -> float:
    """Return the sum of the SDs' own indices, each of them once."""
    first = np.unique(structure.owners, return_index=True)[1]
    return float(own[first].sum())


def _index(prior: Prior, power: int = 0, without: Collection[str] = ()) -> float:
    """Return the tail index of a prior; where the scale is swapped, of SDs times sd^power."""
    upper = prior.upper_power
    if isinstance(prior, Flat):
        upper = float(power) if "scale" in without else upper
    else:
        upper = (0.0 if "sd" in without else upper) + (power if "scale" in without else 0.0)
    return -(upper + 1.0)
