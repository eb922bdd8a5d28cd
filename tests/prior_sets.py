"""Sets of priors that hold every built-in family, and one prior of each."""

from dataclasses import fields

from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import (
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    Normal,
    Prior,
    StudentT,
)
from bhlm.bayes.priors.resolve import Priors

SETS = {
    "default": None,
    "flat": Priors.flat(),
    "heavy": Priors(StudentT(4, 1, 2), HalfCauchy(1.5), LKJ(1.0), HalfCauchy(2)),
    "light": Priors(Cauchy(0, 3), HalfNormal(2), LKJ(5.0), HalfNormal(3)),
    "away": Priors(Normal(0, 5), Gamma(2, 0.5), LKJ(0.7), Gamma(3, 1)),
    "mixed": Priors(
        {"x": StudentT(3, 0, 1)}, {"Intercept": Gamma(2, 0.1)}, LKJ(2), Exponential(0.3)
    ),
    "exponential": Priors(Flat(), Exponential(0.4), LKJ(2), Exponential(0.3)),
}  # fmt: skip


def proper_examples():
    """Return a prior of each proper family, without a round number among its parameters."""
    numbers = (2.3, 0.7, 1.9)
    return [family(*numbers[: len(fields(family))]) for family in Prior.families() if family.proper]
