"""Which moments the posterior of a family has, and whether it is proper.

Where an SD grows to t the marginal likelihood of a group stays above zero if some direction of its
random effects recedes, along which no response of the group becomes less likely (all are 1, say);
else its likelihood can be integrated over the effects, and falls as 1 / t. So with N groups that do
not recede, a prior of the SD whose density falls as sd^w and f fixed effects with flat priors,
which may grow with it,

    P(sd > t) falls at least as fast as t^-index,    index = N - f - (w + 1),

and likewise where all SDs of the factor grow at once. Where SDs of nested factors grow together, N
are the units of the finest of them that do not recede, and each SD's w + 1 is taken off. These are
lower bounds: a moment that they do not promise is not reported. Source: Natarajan & Kass (2000),
JASA 95, 227-237, section 3, and Chen, Ibrahim & Shao (2003), Comput. Stat. Data Anal. 42, for
recession and propriety.
"""

import math
from collections.abc import Collection
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import linprog

from bhlm.bayes.priors.families import Flat, Prior
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.priors.tails import name_tails
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.densities import LOG
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.moments.level_patterns import AnyPatterns

Array = np.ndarray

PROGRAMS = 200  # groups whose cones are looked at, at most
COUNTED = 40  # groups that do not recede, beyond which nobody counts


class Growth(NamedTuple):
    """A way in which the SDs of a factor grow: one of them, or all together."""

    reaches: Array  # (Q,) bool, whose SD it is
    bounded: float  # combinations of effects that the likelihood bounds as they grow
    own: float  # the sum of the SDs' own indices


def index_family(
    patterns: AnyPatterns,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedPatterns | WhitenedNest,
    *,
    without: Collection[str] = (),
) -> dict[str, float]:
    """Return the tail index of every parameter: its m-th moment exists if m < index.

    Args:
        patterns: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        white: the whitened patterns, of a single factor or of nested ones.
        without: names of `bhlm.bayes.importance.target.list_priors` to swap for flat ones.
    """
    free = "fixed" in without
    flat = sum(free or isinstance(prior, Flat) for prior in priors.fixed)
    index = np.full(structure.q, np.inf)
    levels = _list_growths(patterns, structure, priors, white, without)
    for choice in product(*([None, *level] for level in levels)):
        chosen = [each for each in choice if each is not None]
        if chosen:
            # Effects of coarser units take from those of the finest what these are bounded by.
            slope = chosen[-1].bounded - flat + sum(each.own for each in chosen)
            reached = np.any([each.reaches for each in chosen], axis=0)
            index[reached] = np.minimum(index[reached], slope)
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


def _list_growths(
    patterns: AnyPatterns,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedPatterns | WhitenedNest,
    without: Collection[str],
) -> list[list[Growth]]:
    """Return the ways to grow of each factor, the coarsest first."""
    is_single = len(structure.parts) == 1
    rank = slice(None) if isinstance(white, WhitenedPatterns) else white.rank
    found, before = [], 0
    for at, (part, span) in enumerate(zip(structure.parts, structure.spans, strict=True)):
        sd = priors.sd[before : before + len(part.sds)]
        before += len(part.sds)
        swapped = {
            name
            for name, kind in (("sd", "sd" if is_single else f"sd|{part.group}"),
                               ("scale", "scale"))
            if kind in without
        }  # fmt: skip
        free = [_index(prior, power, swapped) for prior, power in zip(sd, part.powers, strict=True)]
        own = np.array(free)[list(part.owners)]
        units = white if isinstance(white, WhitenedPatterns) else white.keep_one(
            white.order.index(at)
        )  # fmt: skip
        z = patterns.take(part.names)[rank]
        ways = []
        for i in range(part.q):
            reaches = np.zeros(structure.q, dtype=bool)
            reaches[span.start + i] = True
            ways.append(Growth(reaches, float(count_along(units, z[:, i])), float(own[i])))
        if part.q > 1:
            reaches = np.zeros(structure.q, dtype=bool)
            reaches[span] = True
            bounded = float(part.q * count_bounded(units, z))
            ways.append(Growth(reaches, bounded, _sum_shared(own, part)))
        found.append(ways)
    return found if isinstance(white, WhitenedPatterns) else [found[at] for at in white.order]


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
