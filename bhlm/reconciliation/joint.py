"""Whether parameters vary together in the draws as they do in the posterior.

Draws of which each parameter is right by itself may still be wrong together, such as one fixed
effect whose draws were put in another order. Under normal and flat priors the fixed effects are
normal given the other parameters, with mean and covariance that are known exactly, so that

    s_i = (beta_i - mean_i) / sd_i    and    z_ij = (s_j - rho_ij s_i) / sqrt(1 - rho_ij^2)

are standard normal, s_i independent of z_ij, and both of all other parameters. Under any priors
the distribution function of a fixed effect given all others is known by an integral in one
dimension (`given_rest`), uniform at sound draws and independent of what is given. Other pairs are
compared by their rank correlations with those of the weighted draws. What is tested are products of

    v = sqrt(12) (u - 1/2)    and    c = sqrt(45/4) ((2 u - 1)^2 - 1/3)

with u a uniform rank: bounded, so that their errors hold however heavy the tails.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from scipy.stats import norm, rankdata

from bhlm.bayes.convergence import summarize
from bhlm.bayes.draws import Posterior, flatten_draws
from bhlm.bayes.importance.kernels import tabulate_cdf
from bhlm.bayes.importance.posterior import ImportancePosterior
from bhlm.bayes.importance.target import build_target, condition_fixed
from bhlm.layout import list_names
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.reconciliation.evidence import Evidence, resolve_sampled, take_sampled
from bhlm.reconciliation.given_rest import COLLINEAR, Complete, list_unplaced, place_draws
from bhlm.reconciliation.judge import FALSE_ALARMS, count_effective, standardise

Array = np.ndarray

# Probability that sound draws of one fit are refuted by one of the three kinds of test here: they
# come on top of those of each parameter by itself, and hardly add to its false alarms.
RARE = FALSE_ALARMS / 10.0
TINY = 1e-12  # of a distribution function, beyond which a draw is as far off as can be told


class Residuals(NamedTuple):
    """The fixed effects of draws less their exact conditional means, chain by chain."""

    gap: Array  # (N, p)
    sd: Array  # (N, p) exact
    corr: Array  # (N, p, p) exact


class Doubt(NamedTuple):
    """A statistic of the draws, zero on average and 1 in SD if they are sound."""

    values: Array  # (N,)
    error: float  # of what is expected, in SDs of the statistic
    told: str  # a clause on what it says, which lacks how far off it is


def find_joint(post: Posterior, evidence: Evidence) -> list[str]:
    """Return a sentence for each way in which the draws are not jointly those of the posterior.

    Of a family nothing has a known distribution given the rest, and all parameters are compared by
    their ranks. Those are compared where weighted draws are believed.
    """
    drawn, post = resolve_sampled(post, evidence.rounded), take_sampled(post)
    found = []
    residuals, complete = condition_draws(post), place_draws(post)
    if residuals is not None:
        found += _find_drift(post, residuals)
    doubts = [] if residuals is None else [_list_conditional(post, residuals, drawn)]
    doubts += [] if complete is None else [_list_complete(post, complete, drawn)]
    found += _find_worst(chain.from_iterable(doubts), post.shape)
    if evidence.weighted is not None:
        exact = evidence.weighted.resolve(evidence.rounded)
        found += _find_worst(_list_ranked(post, exact, drawn), post.shape)
    return found


def describe_joint(evidence: Evidence) -> str:
    """Return the sentence on what was tested of the draws together; empty if nothing was."""
    exact = evidence.exact
    if exact is None or not evidence.certified:
        return ""
    if exact.target.counted is not None:
        return (
            "Together, parameters are tested, pair by pair, by their rank correlations alone: "
            "nothing has a known distribution given the rest; dependence of another kind would not "
            "be seen."
        )
    lost = list_unplaced(exact)
    told = "fixed effects are tested against their exact distribution given the other parameters"
    if lost:
        told += f" (all but {list_names(lost)})"
    told += (
        ", and nothing else is tested"
        if evidence.weighted is None
        else ", and the other parameters, pair by pair, by their rank correlations"
    )
    return f"Together, {told}; dependence of another kind would not be seen."


def condition_draws(post: Posterior) -> Residuals | None:
    """Return the fixed effects less their means given the rest; None where those are unknown."""
    if isinstance(post.white, WhitenedPatterns | WhitenedNest):  # nothing is normal given the rest
        return None
    target = build_target(post.white, post.priors, post.structure)
    if not target.exact:
        return None
    beta, root, sigma = flatten_draws(post)
    first = sigma if sigma.ndim == 1 else sigma[:, 0]
    lam = np.linalg.solve(post.white.basis, root) / first[:, None, None]
    given = condition_fixed(target, lam, sigma)
    half = target.back @ np.swapaxes(np.linalg.inv(given.root), 1, 2)
    cov = half @ np.swapaxes(half, 1, 2)
    sd = np.sqrt(np.einsum("nii->ni", cov))
    gap = beta - (target.ols + given.mean @ target.back.T)
    return Residuals(gap, sd, cov / (sd[:, :, None] * sd[:, None, :]))


def _find_drift(post: Posterior, residuals: Residuals) -> list[str]:
    """Return a sentence for each fixed effect whose draws miss their exact conditional means."""
    names = post.moments.fixed
    gaps = {name: residuals.gap[:, i].reshape(post.shape) for i, name in enumerate(names)}
    limit = float(norm.isf(RARE / (2.0 * len(names))))
    return [
        f"The draws of {name} average {row.mean:+.3g} off their exact conditional means, "
        f"{abs(row.mean) / row.mcse_mean:.1f} Monte Carlo errors."
        for name, row in summarize(gaps).items()
        if abs(row.mean) > limit * row.mcse_mean
    ]


def _list_conditional(
    post: Posterior, residuals: Residuals, draws: Mapping[str, Array]
) -> Iterator[Doubt]:
    """Yield what is known of the fixed effects given the other parameters."""
    names = post.moments.fixed
    s = residuals.gap / residuals.sd
    u = ndtr(s)
    others = [each for each in post.parameters if each.is_sd or each.is_correlation]
    ranks = {str(each): _rank(draws[str(each)].ravel()) for each in others}
    for i, name in enumerate(names):
        size = math.sqrt(float(np.mean(s[:, i] ** 2)))
        yield Doubt(
            _fold(u[:, i]), 0.0,
            f"the draws of {name} vary {size:.2f} times as much about their exact means given the "
            "other parameters as they should",
        )  # fmt: skip
        for other, rank in ranks.items():
            for values, what in ((_centre(u[:, i]), "place"), (_fold(u[:, i]), "distance")):
                corr = float(np.mean(values * rank))
                yield Doubt(
                    values * rank, 0.0,
                    f"the {what} of {name} about its exact mean given the other parameters has a "
                    f"rank correlation of {corr:+.2f} with {other}, of which it is independent",
                )  # fmt: skip
        for j in range(i + 1, len(names)):
            rho = residuals.corr[:, i, j]
            left = 1.0 - rho**2
            if np.min(left) < COLLINEAR:
                continue
            z = (s[:, j] - rho * s[:, i]) / np.sqrt(left)
            drawn, exact = float(np.mean(s[:, i] * s[:, j])), float(np.mean(rho))
            yield Doubt(
                _centre(u[:, i]) * _centre(ndtr(z)), 0.0,
                f"given the other parameters {name} and {names[j]} correlate by {drawn:+.2f} in "
                f"the draws and by {exact:+.2f} exactly",
            )  # fmt: skip


def _list_complete(
    post: Posterior, complete: Complete, draws: Mapping[str, Array]
) -> Iterator[Doubt]:
    """Yield what is known of each fixed effect given all other parameters."""
    names = post.moments.fixed
    others = [str(each) for each in post.parameters if each.is_sd or each.is_correlation]
    ranks = {name: _rank(complete.b[:, i]) for i, name in enumerate(names)}
    ranks |= {name: _rank(draws[name].ravel()) for name in others}
    for name, u in zip(complete.names, complete.u.T, strict=True):
        place, distance = _centre(u), _fold(u)
        size = math.sqrt(float(np.mean(norm.ppf(np.clip(u, TINY, 1.0 - TINY)) ** 2)))
        yield Doubt(
            place, 0.0,
            f"the draws of {name} lie at {float(np.mean(u)):.2f} of their exact distributions "
            "given all other parameters, on average, where 0.50 is due",
        )  # fmt: skip
        yield Doubt(
            distance, 0.0,
            f"the draws of {name} vary {size:.2f} times as much as they should given all other "
            "parameters",
        )  # fmt: skip
        for other, rank in ranks.items():
            if other == name:
                continue
            for values, what in ((place, "place"), (distance, "distance from the middle")):
                corr = float(np.mean(values * rank))
                yield Doubt(
                    values * rank, 0.0,
                    f"the {what} of {name} in its exact distribution given all other parameters "
                    f"has a rank correlation of {corr:+.2f} with {other}, of which it is "
                    "independent",
                )  # fmt: skip


def _list_ranked(
    post: Posterior, exact: ImportancePosterior, draws: Mapping[str, Array]
) -> Iterator[Doubt]:
    """Yield the rank correlations of pairs of parameters that weighted draws have as points."""
    weight = exact.draws.weight
    own, drawn = {}, {}
    for parameter in post.parameters:
        name = str(parameter)
        kernels = exact.kernels[name]
        # A variance has the ranks of its SD.
        if parameter.is_squared or np.any(kernels.width > 0.0) or np.ptp(kernels.centre) == 0.0:
            continue
        points, cdf = tabulate_cdf(kernels, weight)
        own[name] = _centre(np.interp(kernels.centre, points, cdf))
        drawn[name] = _centre(np.interp(draws[name].ravel(), points, cdf, left=0.0, right=1.0))
    names = list(own)
    for i, name in enumerate(names):
        for other in names[i + 1 :]:
            product = own[name] * own[other]
            expected = float(weight @ product)
            sd = math.sqrt(float(weight @ (product - expected) ** 2))
            if sd == 0.0:
                continue
            found = drawn[name] * drawn[other]
            yield Doubt(
                (found - expected) / sd,
                float(np.linalg.norm(weight * (product - expected))) / sd,
                f"{name} and {other} have a rank correlation of {float(np.mean(found)):+.2f} in "
                f"the draws and of {expected:+.2f} by the independent route",
            )


def _find_worst(doubts: Iterable[Doubt], shape: tuple[int, int]) -> list[str]:
    """Return a sentence on the statistic that is furthest off beyond the limit, if one is.

    The limit is Bonferroni's. There are no more effective draws than draws, so that the
    autocorrelation is asked for only where independent draws would be refuted.
    """
    least = float(norm.isf(RARE / 2.0))  # the limit of one statistic
    count, worst, told = 0, 0.0, ""
    for each in doubts:  # too many to be kept
        count += 1
        mean, size = float(np.mean(each.values)), float(each.values.size)
        if not abs(mean) * math.sqrt(size) > max(least, worst):
            continue
        ess = min(count_effective(each.values.reshape(shape)), size)
        score = abs(standardise(mean, math.hypot(each.error, 1.0 / math.sqrt(ess))).z)
        if score > worst:
            worst, told = score, each.told
    limit = float(norm.isf(RARE / (2.0 * max(count, 1))))
    if not worst > limit:
        return []
    return [
        f"The draws are not jointly those of the posterior: {told} ({worst:.1f} standard errors, "
        f"limit {limit:.1f})."
    ]


def _rank(x: Array) -> Array:
    """Return the centred ranks of draws (N,) among themselves."""
    return _centre((rankdata(x) - 0.5) / len(x))


def _centre(u: Array) -> Array:
    return math.sqrt(12.0) * (u - 0.5)


def _fold(u: Array) -> Array:
    return math.sqrt(45.0 / 4.0) * ((2.0 * u - 1.0) ** 2 - 1.0 / 3.0)
