"""Whether draws are those of the posterior, in location and in spread."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr
from scipy.stats import norm

from bhlm.bayes.importance.kernels import TAIL, Kernels, Located, tabulate_cdf
from bhlm.bayes.importance.posterior import ImportancePosterior
from bhlm.bayes.mixing import measure_mean
from bhlm.bayes.pareto import measure_tails
from bhlm.bayes.quadrature.posterior import QuadraturePosterior
from bhlm.likelihood.parameters import Parameter
from bhlm.reconciliation.quadrature_route import tabulate_distribution

Array = np.ndarray

FALSE_ALARMS = 2e-4  # probability that sound draws of one fit are refuted
SLACK = 0.01  # a bias, in SDs of a statistic, that is let pass whatever the errors
# Tail index (Pareto's k of the draws) up to which a statistic is near enough normal to be judged:
# a mean has a variance below 1/2, the variance of a variance exists below 1/4.
MEAN_KHAT = 0.3
SD_KHAT = 0.15
STATISTICS = {
    "location": "mean rank",
    "spread": "spread",
    "lower": "2.5 % point",
    "upper": "97.5 % point",
    "mean": "mean",
    "sd": "SD",
}


class Score(NamedTuple):
    """How far a statistic of the draws is from the posterior's."""

    z: float  # in standard errors, beyond the slack; nan if it is not judged
    error: float  # the standard error, in SDs of the statistic


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether draws are those of the posterior, in location and in spread."""

    certified: bool  # whether anything could be judged
    refuted: tuple[tuple[str, str], ...]  # (parameter, statistic), the worst first
    scores: dict[str, dict[str, Score]]  # by parameter and statistic
    limit: float  # of |z|
    resolution: float  # the shift, in posterior SDs, that is found in every parameter
    khat: float = math.nan  # of the weights that they are judged by; nan by quadrature

    @property
    def unjudged(self) -> tuple[str, ...]:
        """The parameters that are judged in location or in spread by nothing."""
        either = ("location", "mean"), ("spread", "sd")
        return tuple(
            name
            for name, row in self.scores.items()
            if not all(any(math.isfinite(row[key].z) for key in keys) for keys in either)
        )

    @property
    def sound(self) -> bool:
        """Whether the draws are certified."""
        return self.certified and not self.refuted


def judge(
    draws: Mapping[str, Array], exact: ImportancePosterior, *, certified: bool | None = None
) -> Judgement:
    """Return whether draws agree with a posterior in mean, SD, 2.5 and 97.5 % points.

    With F the posterior's distribution function and u = F(draw), four statistics are bounded, so
    that their errors hold however heavy the tails: the mean of u (location), of (2 u - 1)^2
    (spread), and the shares of draws beyond either point (lower, upper). They are the same on the
    SD and on the variance scale. Mean and SD themselves are judged too where the draws' tails are
    light enough for their errors to be normal. Each statistic has the variance that it has if the
    draws are sound, from its autocorrelation (effective sample size) and from the weights; shares
    are compared by their arcsines. The limit is Bonferroni's.

    Args:
        draws: parameter -> (chain, draw), of all parameters or some.
        exact: the posterior.
        certified: whether it may be believed; None asks its k.
    """
    with np.errstate(all="ignore"):
        scores = {name: _score(x, exact, name) for name, x in draws.items()}
    certified = exact.certified if certified is None else certified
    return _judge_scores(scores, certified=certified, khat=exact.khat)


def judge_by_quadrature(
    draws: Mapping[str, Array], found: QuadraturePosterior, parameters: Sequence[Parameter]
) -> Judgement:
    """Return whether draws agree with a posterior by quadrature, as `judge` does.

    Mean and SD are judged of every parameter whose draws have light enough tails; location,
    spread and both points of SDs, variances and correlations whose distribution is known. Draws
    are certified where every parameter is judged in location and in spread, by either.

    Args:
        draws: parameter -> (chain, draw).
        found: the posterior.
        parameters: of the draws.
    """
    with np.errstate(all="ignore"):
        scores = {str(each): _score_exact(draws[str(each)], found, each) for each in parameters}
    judged = _judge_scores(scores, certified=True)
    return replace(judged, certified=False, refuted=()) if judged.unjudged else judged


def _judge_scores(
    scores: dict[str, dict[str, Score]], *, certified: bool, khat: float = math.nan
) -> Judgement:
    judged = sum(np.isfinite(each.z) for row in scores.values() for each in row.values())
    limit = float(norm.isf(FALSE_ALARMS / (2.0 * max(judged, 1))))
    found = sorted(
        (-abs(each.z), name, statistic)
        for name, row in scores.items()
        for statistic, each in row.items()
        if abs(each.z) > limit
    )
    errors = [
        row["location" if math.isfinite(row["location"].error) else "mean"].error
        for row in scores.values()
    ]
    return Judgement(
        certified=certified,
        refuted=tuple((name, key) for _, name, key in found) if certified else (),
        scores=scores,
        limit=limit,
        resolution=limit * max(errors) + SLACK,
        khat=khat,
    )


def _score(x: Array, exact: ImportancePosterior, name: str) -> dict[str, Score]:
    """Return the score of every statistic of a parameter's draws (chain, draw)."""
    kernels, weight, located = exact.kernels[name], exact.draws.weight, exact.located[name]
    out = _score_ranks(x, kernels, weight)
    # Shares beyond a point have few events: their effective number is at most the ranks'.
    most = 1.0 / (out["location"].error ** 2)
    for key, point in (("lower", located.lower), ("upper", located.upper)):
        out[key] = _score_share(x, kernels, weight, point, is_lower=key == "lower", most=most)
    out["mean"] = out["sd"] = Score(math.nan, math.nan)
    if np.ptp(x) > 0.0 and located.sd > 0.0:
        tail = measure_tails(x)
        if tail < MEAN_KHAT:
            out["mean"] = _score_mean(x, located)
        if tail < SD_KHAT:
            out["sd"] = _score_sd(x, kernels, weight, located)
    return out


def _score_ranks(x: Array, kernels: Kernels, weight: Array) -> dict[str, Score]:
    """Return the scores of `location` and `spread`: mean of u, and of (2 u - 1)^2."""
    points, cdf = tabulate_cdf(kernels, weight)
    u = np.interp(x, points, cdf, left=0.0, right=1.0)
    # The kernels' own u, at nodes of Gauss and Hermite where they have a width.
    nodes, shares = np.polynomial.hermite_e.hermegauss(9 if np.any(kernels.width > 0.0) else 1)
    shares = shares / shares.sum()
    own = np.interp(kernels.centre[:, None] + kernels.width[:, None] * nodes, points, cdf)
    out = {}
    for key, mine, drawn, expected, sd in (
        ("location", own, u, 0.5, math.sqrt(1.0 / 12.0)),
        ("spread", (2.0 * own - 1.0) ** 2, (2.0 * u - 1.0) ** 2, 1.0 / 3.0, math.sqrt(4.0 / 45.0)),
    ):
        by_weights = float(np.linalg.norm(weight * (mine @ shares - expected))) / sd
        error = math.hypot(by_weights, 1.0 / math.sqrt(count_effective(drawn)))
        out[key] = standardise((float(drawn.mean()) - expected) / sd, error)
    return out


def _score_share(
    x: Array, kernels: Kernels, weight: Array, point: float, *, is_lower: bool, most: float
) -> Score:
    """Return the score of the share of draws below or above a point."""
    if np.any(kernels.width > 0.0):
        below = ndtr((point - kernels.centre) / kernels.width)
    else:
        below = (kernels.centre <= point).astype(float)
    mine = below if is_lower else 1.0 - below
    own = float(weight @ mine)
    sd = math.sqrt(TAIL * (1.0 - TAIL))
    by_weights = float(np.linalg.norm(weight * (mine - own))) / sd
    return _compare_share(x < point if is_lower else x > point, by_weights, most)


def _compare_share(beyond: Array, by_route: float, most: float) -> Score:
    """Return the score of the draws (chain, draw) that are beyond a point.

    Args:
        beyond: which are.
        by_route: the standard error of the expected share by the other route, in SDs.
        most: the most effective draws that there may be.
    """
    beyond = beyond.astype(float)
    ess = min(count_effective(beyond), float(beyond.size)) if 0.0 < beyond.mean() < 1.0 else most
    error = math.hypot(by_route, 1.0 / math.sqrt(ess))
    gap = 2.0 * (math.asin(math.sqrt(float(beyond.mean()))) - math.asin(math.sqrt(TAIL)))
    return standardise(gap, error)


def _score_exact(x: Array, found: QuadraturePosterior, parameter: Parameter) -> dict[str, Score]:
    """Return the score of every statistic of a parameter's draws (chain, draw) by quadrature."""
    name = str(parameter)
    mean, sd, slack = found.mean[name], found.sd[name], found.error[name]
    out = dict.fromkeys(STATISTICS, Score(math.nan, math.nan))
    table = tabulate_distribution(found, parameter)
    if table is not None:
        points, cdf = table
        u = np.interp(x, points, cdf)
        for key, drawn, expected, width in (
            ("location", u, 0.5, math.sqrt(1.0 / 12.0)),
            ("spread", (2.0 * u - 1.0) ** 2, 1.0 / 3.0, math.sqrt(4.0 / 45.0)),
        ):
            error = math.hypot(slack, 1.0 / math.sqrt(count_effective(drawn)))
            out[key] = standardise((float(drawn.mean()) - expected) / width, error)
        most = count_effective(u)
        out["lower"] = _compare_share(u < TAIL, slack, most)
        out["upper"] = _compare_share(u > 1.0 - TAIL, slack, most)
    tail = measure_tails(x)
    if sd > 0.0 and tail < MEAN_KHAT:
        error = math.hypot(slack, 1.0 / math.sqrt(count_effective(x)))
        out["mean"] = standardise((float(x.mean()) - mean) / sd, error)
    if sd > 0.0 and tail < SD_KHAT:
        fourth = float(np.mean(((x - x.mean()) / x.std()) ** 4))
        own = math.sqrt(max(fourth - 1.0, 1e-3)) / 2.0
        error = math.hypot(slack / own, 1.0 / math.sqrt(count_effective((x - x.mean()) ** 2)))
        out["sd"] = standardise(math.log(float(x.std()) / sd) / own, error)
    return out


def _score_mean(x: Array, located: Located) -> Score:
    error = math.hypot(located.mean_se / located.sd, 1.0 / math.sqrt(count_effective(x)))
    return standardise((float(x.mean()) - located.mean) / located.sd, error)


def _score_sd(x: Array, kernels: Kernels, weight: Array, located: Located) -> Score:
    """Return the score of log SD, whose SD over sound draws comes from the fourth moment."""
    gap = (kernels.centre - located.mean) / located.sd
    width = kernels.width / located.sd
    fourth = float(weight @ (gap**4 + 6.0 * gap**2 * width**2 + 3.0 * width**4))
    own = math.sqrt(max(fourth - 1.0, 1e-3)) / 2.0
    ess = count_effective((x - x.mean()) ** 2)
    error = math.hypot(located.sd_se / located.sd / own, 1.0 / math.sqrt(ess))
    return standardise(math.log(float(x.std()) / located.sd) / own, error)


def count_effective(statistic: Array) -> float:
    """Return the effective number of draws of a statistic (chain, draw); 1 if it does not vary."""
    if np.ptp(statistic) == 0.0:
        return 1.0
    found = float(measure_mean(statistic[None])[0])
    return found if np.isfinite(found) and found > 0.0 else 1.0


def standardise(gap: float, error: float) -> Score:
    """Return the score of a gap beyond the slack, both in SDs of the statistic."""
    return Score(math.copysign(max(abs(gap) - SLACK, 0.0), gap) / error, error)
