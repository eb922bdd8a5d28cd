"""Draws of several posteriors that differ in their priors, weighed for yet another.

The likelihood of a draw does not depend on the priors, so that a pool of draws is weighed for any
set of priors without another pass over the groups. Every draw is weighed against the mixture of
all proposals in proportion to their draws, which is wide where any of them is.

Source: Veach & Guibas (1995), SIGGRAPH, section 3.2, and Owen & Zhou (2000), JASA 95, 135-143,
for weights against the mixture of all proposals.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from bhlm.bayes.importance.draws import smooth_weights
from bhlm.bayes.importance.kernels import Kernels
from bhlm.bayes.importance.mixtures import log_mixture
from bhlm.bayes.importance.posterior import Drawn, ImportancePosterior, read_kernels
from bhlm.bayes.importance.target import (
    Place,
    Target,
    bend_positions,
    condition_fixed,
    list_terms,
    straighten,
)
from bhlm.likelihood.covariance import Structure
from bhlm.moments.either import Reduced

Array = np.ndarray


class Version(NamedTuple):
    """What draws are with the priors of the fixed effects, or without them."""

    height: Array  # (N,) log likelihood times those priors, integrated over beta; -inf where lost
    kernels: dict[str, Kernels]  # by parameter, in the order of the tables


@dataclass(frozen=True, slots=True)
class Pool:
    """Draws of one or several posteriors of a model, in the order in which they joined."""

    moments: Reduced
    structure: Structure
    target: Target  # of the first
    sources: tuple[Drawn, ...]
    x: Array  # (N, d) positions where nothing bends
    at: Place  # what they stand for
    jacobian: Array  # (N,) log |d (sd, R, sigma) / dx|
    log_proposal: Array  # (N,) of the mixture of all proposals, by x
    held: Version  # with the chosen priors of the fixed effects
    free: Version  # with flat ones


class Weighed(NamedTuple):
    """A pool's draws as those of one posterior."""

    kernels: dict[str, Kernels]
    weight: Array  # (N,) smoothed, summing to 1
    khat: float

    @property
    def ess(self) -> float:
        """Effective draws, 1 / sum of squared weights."""
        return float(1.0 / np.sum(self.weight**2))


def start_pool(exact: ImportancePosterior, *, seed: int = 0) -> Pool:
    """Return the pool of the draws of one posterior."""
    x, log_slope = straighten(exact.target, exact.draws.y)
    held, free = _read_versions(exact.moments, exact.structure, exact.target, exact, seed=seed)
    return Pool(
        moments=exact.moments,
        structure=exact.structure,
        target=exact.target,
        sources=(exact,),
        x=x,
        at=exact.at,
        jacobian=exact.at.jacobian - log_slope,
        log_proposal=_mix_proposals((exact,), x),
        held=held,
        free=free,
    )


def join_pool(pool: Pool, drawn: Drawn, *, seed: int = 0) -> Pool:
    """Return the pool with the draws of another posterior of the same model and data."""
    own, log_slope = straighten(drawn.target, drawn.draws.y)
    sources, x = (*pool.sources, drawn), np.concatenate([pool.x, own])
    held, free = _read_versions(pool.moments, pool.structure, pool.target, drawn, seed=seed)
    return replace(
        pool,
        sources=sources,
        x=x,
        at=Place(*(np.concatenate(pair) for pair in zip(pool.at, drawn.at, strict=True))),
        jacobian=np.concatenate([pool.jacobian, drawn.at.jacobian - log_slope]),
        log_proposal=_mix_proposals(sources, x),
        held=_join(pool.held, held),
        free=_join(pool.free, free),
    )


def weigh_pool(pool: Pool, without: frozenset[str]) -> Weighed:
    """Return a pool's draws as those of the posterior without some priors, names of `PRIORS`."""
    target = replace(pool.target, without=without)
    version = pool.free if "fixed" in without else pool.held
    with np.errstate(all="ignore"):
        height = version.height + pool.jacobian
        for term in list_terms(target, pool.at).values():
            height = height + term
        ratio = np.where(np.isfinite(height), height, -np.inf) - pool.log_proposal
    weight, khat = smooth_weights(ratio)
    return Weighed(version.kernels, weight, khat)


def _read_versions(
    moments: Reduced, structure: Structure, target: Target, drawn: Drawn, *, seed: int
) -> tuple[Version, Version]:
    """Return a posterior's draws with the chosen priors of the fixed effects, and with flat ones.

    Of the groups nothing is summed again.
    """
    lost = ~np.isfinite(drawn.draws.log_target)
    versions = []
    for without in (frozenset[str](), frozenset(("fixed",))):
        chosen = replace(target, without=without)
        given = condition_fixed(
            chosen, drawn.at.lam, drawn.at.sigma, sums=drawn.given.sums, beta=drawn.at.beta
        )
        kernels, correction = read_kernels(moments, structure, chosen, drawn.at, given, seed=seed)
        height = given.value if correction is None else given.value + correction
        versions.append(Version(np.where(lost, -np.inf, height), kernels))
    held, free = versions
    return held, free


def _mix_proposals(sources: tuple[Drawn, ...], x: Array) -> Array:
    """Return the log density (N,) by x of the mixture of all proposals."""
    total = sum(len(each.draws.y) for each in sources)
    parts = []
    for each in sources:
        y = bend_positions(each.target, x)
        _, log_slope = straighten(each.target, y)
        share = math.log(len(each.draws.y) / total)
        parts.append(share + log_mixture(each.draws.proposal, y) - log_slope)
    return np.asarray(logsumexp(parts, axis=0))


def _join(one: Version, other: Version) -> Version:
    kernels = {
        name: Kernels(
            np.concatenate([mine.centre, other.kernels[name].centre]),
            np.concatenate([mine.width, other.kernels[name].width]),
        )
        for name, mine in one.kernels.items()
    }
    return Version(np.concatenate([one.height, other.height]), kernels)
