"""How probable a statement about the parameters is, given the draws; ROPE decisions."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.mixing import measure_mean
from bhlm.errors import ArgumentError
from bhlm.likelihood.parameters import check_level
from bhlm.likelihood.statements import (
    Statement,
    collect_words,
    evaluate_statement,
    judge_statement,
    read_statement,
    subtract_sides,
)

if TYPE_CHECKING:
    from bhlm.bayes.draws import Posterior

Array = np.ndarray

MEANING = {
    "accept": "accept: the region holds the whole HDI",
    "reject": "reject: the HDI lies outside of the region",
    "undecided": "undecided: the HDI lies across an end of the region",
}


@dataclass(frozen=True, slots=True)
class Probability:
    """The share of the draws for which a statement holds.

    Its `mcse` is the Monte Carlo standard error. Where all draws agree none can be estimated,
    and it is 1 / draws; the printed value then says only on which side of it the share lies.
    """

    value: float
    mcse: float
    text: str
    draws: int

    def __float__(self) -> float:
        """Return the share."""
        return self.value

    def __format__(self, spec: str) -> str:
        """Return the share in a number's format, or the whole text without one."""
        return format(self.value, spec) if spec else str(self)

    def __repr__(self) -> str:
        """Return `P(cwc(ses) > 2) = 0.9473 (MCSE 0.0035, 4000 draws)`."""
        return f"P({self.text}) {self.show()}"

    def show(self) -> str:
        """Return the share with its sign, `= 0.9473 (...)`, `< 1/4000 (...)` if no draw holds."""
        if self.value == 0.0:
            return f"< 1/{self.draws} (true in none of {self.draws} draws)"
        if self.value == 1.0:
            return f"> 1 - 1/{self.draws} (true in all of {self.draws} draws)"
        digits = len(str(self.draws))
        return f"= {self.value:.{digits}f} (MCSE {self.mcse:.{digits}f}, {self.draws} draws)"


@dataclass(frozen=True, slots=True, eq=False)
class Hypothesis:
    """The posterior of one comparison's left side less its right side.

    `lower` and `upper` are the equal-tailed interval of `level`; `evidence_ratio` is the
    posterior odds P / (1 - P), infinite where every draw agrees.
    """

    text: str
    draws: Array = field(repr=False)  # (chain, draw) left side - right side
    level: float
    mean: float
    sd: float
    lower: float
    upper: float
    probability: Probability

    @property
    def evidence_ratio(self) -> float:
        """The odds that the comparison is true: P / (1 - P)."""
        p = self.probability.value
        return p / (1.0 - p) if p < 1.0 else float("inf")

    def __repr__(self) -> str:
        """Return the posterior of the difference, the odds and the probability in three lines."""
        n = self.probability.draws
        odds = f"{self.evidence_ratio:.4g}"
        if self.probability.value in (0.0, 1.0):
            odds = f"below 1/{n - 1}" if self.probability.value == 0.0 else f"above {n - 1}"
        return (
            f"{self.text}\n"
            f"  left - right: {self.mean:.4g} (sd {self.sd:.4g}), {100 * self.level:g} % interval "
            f"[{self.lower:.4g}, {self.upper:.4g}]\n"
            f"  P {self.probability.show()}; evidence ratio {odds}"
        )


@dataclass(frozen=True, slots=True)
class Rope:
    """How a quantity's posterior lies to a region of practical equivalence [low, high].

    `decision` by the highest-density interval (HDI) of `level`: "accept" if the region holds
    all of it, "reject" if none, else "undecided". Source: Kruschke (2018), Advances in Methods
    and Practices in Psychological Science 1, 270-280.
    """

    text: str
    low: float
    high: float
    level: float
    share: Probability  # of the draws, that lie in the region
    share_of_hdi: float  # of the draws in the HDI
    hdi: tuple[float, float]
    decision: str

    def __repr__(self) -> str:
        """Return the shares, the interval and the decision in three lines."""
        return (
            f"{self.text} in [{self.low:g}, {self.high:g}]\n"
            f"  P {self.share.show()}; of the {100 * self.level:g} % HDI "
            f"[{self.hdi[0]:.4g}, {self.hdi[1]:.4g}] {100 * self.share_of_hdi:.1f} %\n"
            f"  {MEANING[self.decision]}"
        )


def find_probability(fit: "Posterior", text: str) -> Probability:
    """Return the posterior probability of a statement about the parameters.

    A statement compares expressions of the parameters under the names of the tables, on any
    scale; see `bhlm.likelihood.statements`.

    Args:
        fit: the draws.
        text: such as "Intercept > 12 and cwc(ses) > 2".

    Raises:
        ArgumentError: an unknown name, text that is no comparison, an equality, or a value that
            is not finite at some draw.
    """
    statement = read_parameters(fit, text)
    return count_draws(judge_statement(statement), text=statement.shown)


def weigh_hypothesis(fit: "Posterior", text: str, *, level: float = 0.95) -> Hypothesis:
    """Return the posterior of the difference that one comparison is about, and its odds.

    Args:
        fit: the draws.
        text: one comparison, such as "cwc(ses) > 2".
        level: of the interval.

    Raises:
        ArgumentError: as `find_probability`; more than one comparison; a level outside (0, 1).
    """
    check_level(level)
    statement = read_parameters(fit, text)
    draws = subtract_sides(statement)
    lower, upper = np.quantile(draws, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return Hypothesis(
        text=statement.shown,
        draws=draws,
        level=level,
        mean=float(draws.mean()),
        sd=float(draws.std(ddof=1)),
        lower=float(lower),
        upper=float(upper),
        probability=count_draws(judge_statement(statement), text=statement.shown),
    )


def compare_rope(
    fit: "Posterior", text: str, low: float, high: float, *, level: float = 0.95
) -> Rope:
    """Return the share of a quantity's posterior, and of its HDI, in [low, high].

    Args:
        fit: the draws.
        text: a parameter, or an expression of several.
        low: the lower end of the region of practical equivalence.
        high: its upper end.
        level: of the HDI, the narrowest interval with that share of the draws.

    Raises:
        ArgumentError: low not below high, text that is no quantity, or a level outside (0, 1).
    """
    from arviz_stats.base import array_stats

    check_level(level)
    for name, end in (("low", low), ("high", high)):
        if not isinstance(end, int | float | np.number):
            raise ArgumentError(f"{name}={end!r} is not a number; give an end of the region")
    if not low < high:
        raise ArgumentError(
            f"low={low!r} is not below high={high!r}; give the lower end of the region first"
        )
    statement = read_parameters(fit, text)
    values = evaluate_statement(statement)
    inside = (low <= values) & (values <= high)
    lower, upper = map(float, array_stats.hdi(values.ravel(), prob=level))
    within = (lower <= values) & (values <= upper)
    decision = "undecided"
    if low <= lower and upper <= high:
        decision = "accept"
    elif upper < low or high < lower:
        decision = "reject"
    return Rope(
        text=statement.shown,
        low=float(low),
        high=float(high),
        level=level,
        share=count_draws(inside, text=f"{low:g} <= {statement.shown} <= {high:g}"),
        share_of_hdi=float(inside[within].mean()),
        hdi=(lower, upper),
        decision=decision,
    )


def read_parameters(fit: "Posterior", text: str) -> Statement:
    """Return a text about the parameters of a fit as read.

    cov(b,a|g) and corr(b,a|g) may stand for the tables' (a,b|g).

    Raises:
        ArgumentError: text that cannot be read, or an unknown name.
    """
    draws = fit.draws
    aliases = {
        f"{kind}({two},{one}|{part.group})": f"{kind}({one},{two}|{part.group})"
        for part in fit.structure.parts
        for kind in ("cov", "corr")
        for one in part.names
        for two in part.names
        if f"{kind}({one},{two}|{part.group})" in draws
    }
    return read_statement(text, collect_words(draws, aliases=aliases))


def count_draws(holds: Array, *, text: str) -> Probability:
    """Return the share of true among `holds` (chain, draw), with its Monte Carlo error."""
    share = float(holds.mean())
    if share in (0.0, 1.0):
        return Probability(share, 1.0 / holds.size, text, holds.size)
    ess = float(measure_mean(holds[None])[0])
    return Probability(share, float(np.sqrt(share * (1.0 - share) / ess)), text, holds.size)
