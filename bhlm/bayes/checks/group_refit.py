"""The predictive density of a group by posteriors that are sampled without it.

That is the mean of p(y_j | theta) over the posterior of the other groups. For a group far from
them the mean rests on draws that never come; it is then a product of means along a path of
posteriors. Group j enters with its cross-products and its number of rows times w, which gives a
positive l_w(theta), from 1 at w = 0 to its likelihood at w = 1, and

    log p(y_j | others) = sum_k log mean of l_w(k+1) / l_w(k) over the posterior with l_w(k).

Source: Xie, Lewis, Fan, Kuo & Chen (2011), Systematic Biology 60, 150-160, for stepping stones.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from bhlm.bayes.checks.importance import score_ratio
from bhlm.bayes.draws import Draws, flatten_draws
from bhlm.bayes.sampling import sample_whitened
from bhlm.likelihood.marginal import group_logliks

Array = np.ndarray
type Sampler = Callable[..., Draws]  # as `sample_whitened`

# Separates the seeds of refits from the fit's other streams.
REFIT = 3
# A step's ratio is trusted with a k-hat of at most 0.5, where its variance exists, and a Monte
# Carlo error of at most 0.1.
KHAT = 0.5
ERROR = 0.1
SHRINK = 0.5  # by which a step that is too long is shortened
STEPS = 20  # posteriors that are sampled before giving up
SHORTEST = 1e-12  # steps below this share of the way are not tried
NO_WAY = "no path of posteriors leads from the other groups to it; look at its rows"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The log predictive density of a group from the posterior of the others."""

    elpd: float
    mcse: float
    steps: int  # posteriors that were sampled
    failure: str  # what is wrong with it, or ""


def predict_left_out(
    fit: Draws, j: int, *, steps: int = STEPS, sample: Sampler = sample_whitened
) -> LeftOut:
    """Return the log density of group j given the others, by as many posteriors as it takes.

    The priors are the fit's as resolved: the group's rows helped to scale them, and scaling them
    anew would be another model. So are the whitened columns, which are only coordinates.

    Args:
        fit: the posterior.
        j: place of the group.
        steps: posteriors that are sampled before giving up.
        sample: how.
    """
    weight, elpd, variance = 0.0, 0.0, 0.0
    failure = ""
    for step in range(steps):
        again = _sample_weighted(fit, j, weight, step, sample)
        if not again.diagnostics.ok and not failure:
            failure = f"the posterior did not converge: {again.diagnostics.failures[0]}"
        here = _weigh_loglik(fit, again, j, weight)
        length = 1.0 - weight
        while True:
            value, error, khat = score_ratio(_weigh_loglik(fit, again, j, weight + length) - here)
            if khat <= KHAT and error <= ERROR:
                break
            length *= SHRINK
            if length < SHORTEST:
                return LeftOut(np.nan, np.nan, step + 1, failure or NO_WAY)
        weight, elpd, variance = weight + length, elpd + value, variance + error**2
        if weight >= 1.0:
            return LeftOut(elpd, float(np.sqrt(variance)), step + 1, failure)
    return LeftOut(np.nan, np.nan, steps, failure or NO_WAY)


def _sample_weighted(fit: Draws, j: int, weight: float, step: int, sample: Sampler) -> Draws:
    """Return the posterior in which group j counts `weight`."""
    blocks = fit.white.blocks.copy()
    blocks[j] *= weight
    white = replace(
        fit.white, blocks=blocks, n=fit.white.n - (1.0 - weight) * float(fit.moments.n[j])
    )
    seed = int(np.random.SeedSequence([fit.seed, REFIT, j, step]).generate_state(1)[0])
    settings = replace(fit.settings, sampler=None)  # the fastest that the priors allow
    return sample(fit.moments, fit.structure, fit.priors, white, settings=settings, seed=seed)


def _weigh_loglik(fit: Draws, draws: Draws, j: int, weight: float) -> Array:
    """Return log l_w of group j (chain, draw) at the draws of a posterior."""
    white = replace(fit.white, blocks=weight * fit.white.blocks[j : j + 1])
    logliks = group_logliks(white, weight * fit.moments.n[j : j + 1], flatten_draws(draws))
    return logliks.reshape(draws.shape)
