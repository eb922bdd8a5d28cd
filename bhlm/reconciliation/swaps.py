"""The prior's share of each gap, split by name: every prior is swapped for a flat one.

log p(chosen priors) less that of priors flat on beta, G and sigma^2 is a sum of five terms
(`bhlm.bayes.importance.target.PRIORS`): the scale on which flat is flat, and the priors of SDs,
correlations, residual and fixed effects. The share of each is that of a single swap from the
chosen priors, E[chosen] - E[chosen without it]: what a reader who drops that prior will see.
Single swaps do not add up where priors stand in for one another; what is left of the whole is
named `interaction`, and no sentence blames it on one of them.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bhlm.bayes.importance.draws import KHAT, smooth_weights
from bhlm.bayes.importance.kernels import Kernels
from bhlm.bayes.importance.posterior import ImportancePosterior, integrate_target, read_kernels
from bhlm.bayes.importance.target import condition_fixed, list_terms

Array = np.ndarray


class Share(NamedTuple):
    """What a swap moves a mean by, with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Swapped:
    """The posterior of every parameter without some priors, from the same draws or its own."""

    without: frozenset[str]
    kernels: dict[str, Kernels]
    weight: Array  # (N,)
    khat: float
    own: bool  # whether from draws of their own, independent of the others

    def mean(self, name: str) -> float:
        """Return the posterior mean of a parameter."""
        return float(self.weight @ self.kernels[name].centre)

    def lean(self, name: str) -> Array:
        """Return each draw's influence on the mean (N,); its norm is the standard error."""
        return self.weight * (self.kernels[name].centre - self.mean(name))


def swap_priors(
    exact: ImportancePosterior, without: frozenset[str], *, seed: int = 0, limit: float = KHAT
) -> Swapped:
    """Return the posterior without some priors; it must be proper.

    The weighted draws are reweighted by the ratio of the priors, so that the error of a difference
    of means is that of a difference; where k of the new weights exceeds `limit`, draws are taken.

    Args:
        exact: the posterior under the chosen priors.
        without: names of `PRIORS`.
        seed: of the draws that have to be taken.
        limit: of k.
    """
    if not without:
        return Swapped(without, exact.kernels, exact.draws.weight, exact.khat, False)
    target = replace(exact.target, without=exact.target.without | without)
    if target.exact:
        kernels, given = exact.kernels, exact.given
        if "fixed" in without:
            given = condition_fixed(target, exact.at.lam, exact.at.sigma)
            kernels, _ = read_kernels(
                exact.moments, exact.structure, target, exact.at, given, seed=seed
            )
        with np.errstate(all="ignore"):
            height = given.value + exact.at.jacobian
            for term in list_terms(target, exact.at).values():
                height = height + term
            height = np.where(np.isfinite(exact.draws.log_target), height, -np.inf)
            weight, khat = smooth_weights(height - exact.draws.log_proposal)
        if khat <= limit:
            return Swapped(without, kernels, weight, khat, False)
    fresh = integrate_target(
        exact.moments, exact.structure, target, seed=seed, draws=2 * len(exact.draws.y)
    )
    return Swapped(without, fresh.kernels, fresh.draws.weight, fresh.khat, True)


def measure_share(exact: ImportancePosterior, swapped: Swapped, name: str) -> Share:
    """Return E[chosen] - E[chosen without those priors] of a parameter."""
    weight, kernels = exact.draws.weight, exact.kernels[name]
    mean = float(weight @ kernels.centre)
    lean, other = weight * (kernels.centre - mean), swapped.lean(name)
    if swapped.own:
        error = math.hypot(float(np.linalg.norm(lean)), float(np.linalg.norm(other)))
    else:
        error = float(np.linalg.norm(lean - other))
    return Share(mean - swapped.mean(name), error)
