"""Independent draws of a posterior, by importance resampling.

`bhlm.bayes.importance` fits a proposal to the density of (G, sigma), and every chain gets
independent draws of its own from it. With weights w of mean 1 and m draws that are wanted, each of
the n draws of a chain is taken

    r_i = floor or ceil of (m / n) w_i,    E r_i = (m / n) w_i

times, by systematic resampling. Where no weight is above n / m that is
rejection sampling: no draw is taken twice. Else copies of a draw stand next to each other, as those
of a Metropolis sampler do, and so autocorrelations, of which effective sample sizes and Monte Carlo
errors are made, count them. Of a quantity that has nothing to do with the weights, the mean of m
draws has the variance of

    effective = m^2 / sum r_i^2

independent ones. Fixed and random effects are drawn anew for every copy.

Sources: Rubin (1988), Bayesian Statistics 3, 395-402, for importance resampling; Kitagawa (1996),
J. Comput. Graph. Stat. 5, 1-25, for systematic resampling; Vehtari, Simpson, Gelman, Yao & Gabry
(2024), JMLR 25(72), for smoothed weights and k.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from bhlm.bayes.convergence import Certificate
from bhlm.bayes.draws import Settings
from bhlm.bayes.importance.draws import KHAT, smooth_weights
from bhlm.bayes.importance.mixtures import draw_mixture, log_mixture
from bhlm.bayes.importance.posterior import correct_fixed, draw_fixed, propose_target
from bhlm.bayes.importance.target import Target, build_target, weigh_positions
from bhlm.bayes.priors.families import PyMCPrior
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.errors import ArgumentError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure, lower_roots
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

ROUTE = "independent draws, importance resampling"
# From so many groups on, independent draws are the default: with random slopes k was -0.2 at 5000
# and -0.3 at 100,000 groups, 0.3 at 160, and four of five proposals effective; with fewer groups
# both ways take a second.
LARGE = 5000
PILOT = 1024  # weighted draws that judge the proposal
# Proposals per draw that is wanted, and the effective share that makes more of them needless.
RATIOS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
ENOUGH = 0.9
FEWEST = 250  # proposals of a chain
LEAST_SHARE = 0.25  # of the draws are to be effective; below, most are copies


class Independent(NamedTuple):
    """Independent draws, and what they were made from."""

    parameters: Parameters  # of all chains, one after the other
    stats: dict[str, Array]  # (chain, draw): which proposal of its chain, and its log weight
    certificate: Certificate


def choose_method(
    settings: Settings,
    n_groups: int,
    priors: ResolvedPriors,
    *,
    is_plain: bool = True,
    is_watched: bool = False,
    is_dear: bool = False,
) -> str:
    """Return "nuts" or "independent", as asked for, or as the number of groups suggests.

    Args:
        settings: what was asked for.
        n_groups: the number of groups.
        priors: one prior per parameter.
        is_plain: whether there are neither weights nor strata nor known variances.
        is_watched: whether somebody watches the sampler, or has given it a density.
        is_dear: whether each evaluation of the density factors a large matrix.

    Raises:
        ArgumentError: independent draws of what only NUTS draws.
    """
    refused = {
        "prior_only=True": settings.prior_only,
        f"sampler={settings.sampler!r}": settings.sampler is not None,
        "sampling weights, known variances or strata": not is_plain,
        "a run that is watched": is_watched,
    }
    reasons = [what for what, holds in refused.items() if holds]
    if settings.method == "independent" and reasons:
        raise ArgumentError(
            f"method='independent' is not there with {reasons[0]}; leave one of them out, or take "
            "method='nuts'"
        )
    if settings.method is not None:
        return settings.method
    custom = any(isinstance(prior, PyMCPrior) for prior in priors.every)
    is_fit = n_groups >= LARGE or is_dear
    return "nuts" if reasons or custom or not is_fit else "independent"


def draw_independent(
    white: Whitened | WhitenedCells | WhitenedPatterns,
    structure: Structure,
    priors: ResolvedPriors,
    *,
    tails: Mapping[str, float],
    settings: Settings,
    seed: int,
) -> Independent | str:
    """Return independent draws, or the reason for which there are none to be trusted.

    Args:
        white: the whitened moments.
        structure: of the random coefficients.
        priors: one prior per parameter.
        tails: of every parameter the tail index of its posterior, none above zero if improper.
        settings: how many chains and draws.
        seed: makes the draws repeatable, bit for bit.
    """
    if max(tails.values()) <= 0.0:
        return "the posterior is improper"
    target = build_target(white, priors, structure)
    return resample_target(target, chains=settings.chains, draws=settings.draws, seed=seed)


def resample_target(
    target: Target, *, chains: int, draws: int, seed: int, limit: float = KHAT
) -> Independent | str:
    """Return independent draws of a target, or the reason for which there are none to be trusted.

    Args:
        target: the posterior of (G, sigma).
        chains: how many chains, which share nothing but the proposal.
        draws: of each chain.
        seed: makes the draws repeatable.
        limit: of k.
    """
    first, second = np.random.SeedSequence([seed, 4]).spawn(2)
    target, modes, pilot = propose_target(target, seed=int(first.generate_state(1)[0]), draws=PILOT)
    if not pilot.khat <= limit:
        return _tell_khat(pilot.khat, limit)
    rng = np.random.default_rng(second)
    own = max(math.ceil(plan_ratio(pilot.weight) * draws), FEWEST)  # proposals of each chain
    y = draw_mixture(pilot.proposal, chains * own, rng, net=False)
    found = weigh_positions(target, y)
    ratio = found.value - log_mixture(pilot.proposal, y)
    beta = None
    if not target.exact:
        beta = draw_fixed(target, found.given, rng)
        ratio = ratio + correct_fixed(target, beta)
    weight, khat = smooth_weights(ratio)
    if not khat <= limit:
        return _tell_khat(khat, limit)
    weight = np.where(np.isfinite(ratio), weight, 0.0).reshape(chains, own)
    chosen = resample(weight, draws, rng)
    effective = count_effective(chosen)
    if effective < LEAST_SHARE * chosen.size:
        return (
            f"the {chosen.size} draws are worth {effective:.0f} independent ones, fewer than a "
            "quarter"
        )
    at = (chosen + own * np.arange(chains)[:, None]).ravel()
    given = type(found.given)(
        found.given.value[at], found.given.mean[at], found.given.root[at], found.given.sums
    )
    drawn = draw_fixed(target, given, rng) if beta is None else beta[at]
    parameters = Parameters(
        target.ols + drawn @ target.back.T, lower_roots(found.at.g[at]), found.at.sigma[at]
    )
    logs = np.log(weight.ravel()[at] * weight.size).reshape(chosen.shape)
    return Independent(
        parameters,
        {"proposal": chosen, "log_weight": logs},
        Certificate(
            khat=khat,
            effective=effective,
            distinct=int(sum(len(np.unique(row)) for row in chosen)),
            evaluations=modes.evaluations + pilot.evaluations + len(y),
        ),
    )


def plan_ratio(weight: Array) -> float:
    """Return how many proposals per wanted draw leave nine of ten draws effective; 4 at most.

    Args:
        weight: of draws from the proposal (N,), summing to 1.
    """
    for ratio in RATIOS:
        times = weight * len(weight) / ratio
        whole = np.floor(times)
        # E r^2 where r is floor or ceil of its mean.
        squares = whole**2 + (times - whole) * (2.0 * whole + 1.0)
        if 1.0 / (ratio * squares.mean()) >= ENOUGH:
            break
    return ratio


def resample(weight: Array, draws: int, rng: np.random.Generator) -> Array:
    """Return which of a chain's draws are taken (chain, draws), in their order.

    Args:
        weight: of the draws (chain, n), in any unit.
        draws: how many are to be taken in each chain.
        rng: gives one number by chain.
    """
    edges = np.cumsum(weight, axis=1)
    edges /= edges[:, -1:]
    points = (np.arange(draws) + rng.random((len(weight), 1))) / draws
    return np.stack(
        [
            np.searchsorted(own[:-1], each, side="right")
            for own, each in zip(edges, points, strict=True)
        ]
    )


def count_effective(chosen: Array) -> float:
    """Return how many independent draws those of `resample` (chain, draw) are worth."""
    squares = sum(float(np.sum(np.bincount(row) ** 2.0)) for row in chosen)
    return float(chosen.size**2 / squares)


def refuse_independent(formula: str, reason: str) -> ArgumentError:
    """Return the error for a posterior that independent draws do not reach."""
    return ArgumentError(
        f"method='independent' has no draws of '{formula}' that can be trusted: {reason}; take "
        "method='nuts'"
    )


def _tell_khat(khat: float, limit: float) -> str:
    return f"Pareto's k of the importance weights is {khat:.2f}, above {limit:g}"
