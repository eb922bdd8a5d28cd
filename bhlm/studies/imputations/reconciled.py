"""Pooled fits beside the mixture of posteriors: each gap is the mean of the imputations' gaps.

The pooled estimate of a fixed effect is the mean over imputations, as that of the mixture's draws
is, so that every share of the gap is the mean of the shares given each imputation; variances and
SDs are pooled by their logarithms, correlations by Fisher's z, and that is a share of its own:

    mixture's mean - pooled estimate = pooling + shape + prior [+ adjustment] + monte_carlo
                                       + unexplained

The spread of the mixture is compared with Rubin's without his allowance for few imputations, since
draws know of none: W + (m - 1) / m B in place of W + (1 + 1 / m) B.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import ArgumentError, check_fields
from bhlm.layout import list_names
from bhlm.likelihood.parameters import Parameter
from bhlm.reconciliation.comparison import Comparison, Verdict, compare
from bhlm.reconciliation.split import NEGLIGIBLE
from bhlm.reconciliation.words import MENTIONED
from bhlm.studies.imputations.mixture import Mixture
from bhlm.studies.imputations.pooled import Pooled

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# From the gravest; the last two depend on the pooled gaps.
GRAVE: tuple[Verdict, ...] = ("not_converged", "unexplained", "undetermined")


@check_fields
@dataclass(frozen=True, slots=True, repr=False)
class PooledComparison:
    """Pooled estimates and the mixture of posteriors side by side, the split of each gap."""

    pooled: Pooled
    mixture: Mixture
    each: tuple[Comparison, ...]  # m, given one imputation
    table: "pd.DataFrame"  # by parameter
    verdict: Verdict
    reasons: tuple[str, ...]  # sentences behind the verdict
    words: dict[str, str]  # by parameter, a sentence on its gap

    @property
    def conclusion(self) -> str:
        """The verdict in a sentence."""
        grave = [at for at, one in enumerate(self.each, 1) if one.verdict == self.verdict]
        if self.verdict in GRAVE and grave:
            which = ", ".join(map(str, grave))
            return f"Given imputation {which} the verdict is '{self.verdict}': see the points."
        known = self.table["gap_sd"].dropna()
        if not len(known):
            return "No parameter has both a mean and a pooled estimate to compare."
        far = str(known.abs().idxmax())
        return f"The largest gap is {known[far]:+.2f} SDs of the mixture, in {far}. " + (
            "Nobody would notice it." if self.verdict == "agree" else self.words[far]
        )


def compare_pooled(pooled: Pooled, mixture: Mixture) -> PooledComparison:
    """Return the reconciliation of pooled fits and the mixture of posteriors.

    Args:
        pooled: m fits, pooled.
        mixture: of the posteriors given the same imputations, in the same order.

    Raises:
        ArgumentError: they are not of the same imputations, or what `compare` refuses.
    """
    if len(pooled.fits) != len(mixture.fits):
        raise ArgumentError(
            f"{len(pooled.fits)} fits are pooled and {len(mixture.fits)} posteriors mixed; mix "
            "those of the same imputations, pooled.sample()"
        )
    each = tuple(compare(fit, post) for fit, post in zip(pooled.fits, mixture.fits, strict=True))
    table = _split(pooled, mixture, each)
    grave = [one.verdict for one in each if one.verdict in GRAVE]
    verdict: Verdict
    if grave:
        verdict = min(grave, key=GRAVE.index)
    elif not np.isfinite(table[["gap", "shape", "prior"]].to_numpy()).all():
        verdict = "undetermined"
    else:
        verdict = "agree" if (table["gap_sd"].abs() <= NEGLIGIBLE).all() else "explained"
    reasons: dict[str, list[int]] = {}
    for at, one in enumerate(each, 1):
        for reason in one.reasons:
            reasons.setdefault(reason, []).append(at)
    told = tuple(
        reason if len(found) == len(each) else f"Given imputation {_count(found)}: {reason}"
        for reason, found in reasons.items()
    )
    words = {str(name): _explain(name, table.loc[str(name)]) for name in mixture.fits[0].parameters}
    return PooledComparison(pooled, mixture, each, table, verdict, told, words)


def _split(pooled: Pooled, mixture: Mixture, each: tuple[Comparison, ...]) -> "pd.DataFrame":
    """Return the split of every gap.

    Columns `pooled, se, posterior, sd, gap, gap_sd`, `comparable_se` (Rubin's without the
    allowance for few imputations), the shares, and the standard error of each as `<share>_se`.
    """
    import pandas as pd

    m = len(each)
    estimates, drawn = pooled.estimates, mixture.estimates
    tables = [one.table for one in each]
    shares = [name for name in tables[0] if f"{name}_se" in tables[0]]
    rows = {}
    for name in drawn.index:
        own = [table.loc[name] for table in tables]
        given = float(estimates.loc[name, "estimate"]) if name in estimates.index else math.nan
        se = float(estimates.loc[name, "se"]) if name in estimates.index else math.nan
        mean, sd = float(drawn.loc[name, "mean"]), float(drawn.loc[name, "sd"])
        estimate = float(np.mean([row["reml"] for row in own]))
        between = float(np.var([row["reml"] for row in own], ddof=1))
        smaller = se**2 - 2.0 / m * between
        row: dict[str, Any] = {
            "pooled": given,
            "se": se,
            "comparable_se": math.sqrt(smaller) if smaller > 0.0 else math.nan,
            "posterior": mean,
            "sd": sd,
            "gap": mean - given,
            "gap_sd": (mean - given) / sd if sd > 0.0 else math.nan,
            "pooling": estimate - given,
        }
        for share in shares:
            row[share] = float(np.mean([one[share] for one in own]))
            row[f"{share}_se"] = math.hypot(*(one[f"{share}_se"] for one in own)) / m
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("parameter")


def _explain(parameter: Parameter, row: "pd.Series[float]") -> str:
    """Return a sentence on how far mixture and pooled estimate are apart, and why."""
    gap, sd = float(row["gap"]), float(row["sd"])
    if not math.isfinite(gap):
        return f"There is no gap of {parameter}: a mean or a pooled estimate does not exist."
    text = f"The mean of {parameter} over the mixture is {gap / sd:+.2g} SDs from the pooled one"
    causes = {
        "pooling": "from pooling variance components by logarithms and Fisher's z",
        "shape": "from skewness and from integrating where an estimate maximises",
        "prior": "from the priors",
        "adjustment": "from the adjustment of the draws to the sandwich",
        "monte_carlo": "from Monte Carlo noise",
        "unexplained": "from nothing that is known",
    }
    told = [
        f"{float(row[key]) / sd:+.2g} {cause}"
        for key, cause in causes.items()
        if key in row and abs(float(row[key])) >= MENTIONED * sd
    ]
    return f"{text}: {list_names(told, most=len(told))}." if told else f"{text}."


def _count(found: list[int]) -> str:
    return ", ".join(map(str, found))
