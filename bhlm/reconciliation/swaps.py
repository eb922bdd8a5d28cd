"""The prior's share of each gap, split by name: every prior is swapped for a flat one.

log p(chosen priors) less that of priors flat on beta, G and sigma^2 is a sum of five terms
(`bhlm.bayes.importance.target.PRIORS`): the scale on which flat is flat, and the priors of SDs,
correlations, residual and fixed effects. The share of each is that of a single swap from the
chosen priors, E[chosen] - E[chosen without it]: what a reader who drops that prior will see.
Single swaps do not add up where priors stand in for one another; what is left of the whole is
named `interaction`, and no sentence blames it on one of them.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from bhlm.bayes.importance.draws import KHAT
from bhlm.bayes.importance.kernels import Kernels
from bhlm.bayes.importance.pool import Pool, join_pool, weigh_pool
from bhlm.bayes.importance.posterior import ImportancePosterior, draw_target

Array = np.ndarray

# Effective draws below which neither k nor an error is believed, and draws are taken.
ENOUGH = 400.0


class Share(NamedTuple):
    """What a swap moves a mean by, with its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Swapped:
    """The posterior of every parameter without some priors, from the pool's draws.

    The first of them are those of the posterior under the chosen priors.
    """

    without: frozenset[str]
    kernels: dict[str, Kernels]
    weight: Array  # (N,)
    khat: float

    def mean(self, name: str) -> float:
        """Return the posterior mean of a parameter."""
        return float(self.weight @ self.kernels[name].centre)

    def lean(self, name: str) -> Array:
        """Return each draw's influence on the mean (N,); its norm is the standard error."""
        return self.weight * (self.kernels[name].centre - self.mean(name))


def swap_priors(
    pool: Pool, without: frozenset[str], *, seed: int = 0, limit: float = KHAT
) -> tuple[Swapped, Pool]:
    """Return the posterior without some priors, which must be proper, and the pool it rests on.

    The pool's draws are reweighted by the ratio of the priors, so that the error of a difference
    of means is that of a difference. Where k of the new weights exceeds `limit`, or too few draws
    are effective, draws of that posterior join the pool.

    Args:
        pool: whose first draws are those of the posterior under the chosen priors.
        without: names of `PRIORS`.
        seed: of the draws that have to be taken.
        limit: of k.
    """
    known = reweight_priors(pool, without, limit=limit)
    if known is not None:
        return known, pool
    target = replace(pool.target, without=without, knee=np.full(pool.target.n_sds, -np.inf))
    count = 2 * len(pool.sources[0].draws.y)
    # Nets of one seed would be one net.
    own = int(np.random.SeedSequence([seed, len(pool.sources)]).generate_state(1)[0])
    pool = join_pool(pool, draw_target(target, seed=own, draws=count), seed=own)
    found = weigh_pool(pool, without)
    return Swapped(without, found.kernels, found.weight, found.khat), pool


def reweight_priors(pool: Pool, without: frozenset[str], *, limit: float = KHAT) -> Swapped | None:
    """Return the posterior without some priors from the pool as it is; None where that fails.

    Whether that posterior is proper is for the caller to know.
    """
    found = weigh_pool(pool, without)
    if not (found.khat <= limit and found.ess >= ENOUGH):
        return None
    return Swapped(without, found.kernels, found.weight, found.khat)


def measure_share(exact: ImportancePosterior, swapped: Swapped, name: str) -> Share:
    """Return E[chosen] - E[chosen without those priors] of a parameter."""
    weight, kernels = exact.draws.weight, exact.kernels[name]
    mean = float(weight @ kernels.centre)
    lean = swapped.lean(name)
    lean[: len(weight)] -= weight * (kernels.centre - mean)
    return Share(mean - swapped.mean(name), float(np.linalg.norm(lean)))
