"""Standard errors from replicate weights: a refit for each column of weights a survey comes with.

With theta the estimates by the full weights and theta_r those by replicate r,

    Cov = scale sum_r rscales_r (theta_r - theta) (theta_r - theta)'

or about the mean of the theta_r where `mse` is False. What a survey's documentation calls its
method fixes the factors, which have the names of R's survey package:

    BRR        1 / R
    Fay        1 / (R (1 - rho)^2)
    JK1        (R - 1) / R
    JK2        1
    JKn        rscales, (n_h - 1) / n_h of the stratum of each replicate
    bootstrap  1 / (R - 1)

Sources: Wolter (2007), Introduction to Variance Estimation, chapters 3 and 4; Judkins (1990), J.
Official Stat. 6, 223-239, for Fay's; OECD (2014), PISA 2012 Technical Report, chapter 8.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError, check_fields
from bhlm.likelihood.parameters import Parameter
from bhlm.reml.estimate import Estimate
from bhlm.reml.standard_errors import Z95, log_interval

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

TYPES = ("BRR", "Fay", "JK1", "JK2", "JKn", "bootstrap")


@check_fields
@dataclass(frozen=True, slots=True)
class ReplicateWeights:
    """The replicate weights that a survey comes with, and how they add up to a variance.

    `model.reml(method="ml", errors=ReplicateWeights(...))` takes its standard errors from them.

    Args:
        rows: R columns in the place of the rows' sampling weights, or expressions such as
            "w_fstr1 / w_fschwt"; None keeps the model's.
        groups: R columns in the place of the groups' weights; None keeps the model's.
        method: "BRR", "Fay", "JK1", "JK2", "JKn" or "bootstrap", as the survey says.
        rho: of Fay's method, 0.5 in PISA.
        rscales: of JKn, one for each replicate.
        mse: whether deviations are from the full estimates, not from the replicates' mean.
    """

    rows: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    method: str = "BRR"
    rho: float | None = None
    rscales: Sequence[float] | None = None
    mse: bool = True

    @property
    def count(self) -> int:
        """The number R of replicates.

        Raises:
            ArgumentError: no replicates, or lists of different lengths.
        """
        sizes = {len(each) for each in (self.rows, self.groups) if each is not None}
        if len(sizes) != 1:
            found = " and ".join(map(str, sorted(sizes))) or "no"
            raise ArgumentError(
                f"rows= and groups= have {found} replicates; give as many of both, or of one of "
                "them"
            )
        return sizes.pop()

    def plan(self) -> "Scheme":
        """Return how the replicates add up; raises as `plan_replicates` does."""
        return plan_replicates(
            self.method, self.count, rho=self.rho, rscales=self.rscales, mse=self.mse
        )

    @property
    def sentence(self) -> str:
        """What they are, which is what a fit calls its errors."""
        rho = "" if self.rho is None else f", rho {self.rho:g}"
        return f"{self.count} replicate weights ({self.method}{rho})"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How replicates add up to a variance."""

    kind: str
    factors: Array  # (R,) by which the squared deviation of each counts
    mse: bool  # whether deviations are from the full estimate, not from the replicates' mean


def plan_replicates(
    kind: str,
    count: int,
    *,
    rho: float | None = None,
    rscales: Sequence[float] | None = None,
    mse: bool = True,
) -> Scheme:
    """Return how `count` replicates of a kind add up.

    Raises:
        ArgumentError: a kind that is not known, Fay's without rho, JKn without rscales, or either
            of these where they mean nothing.
    """
    if kind not in TYPES:
        raise ArgumentError(f"method={kind!r} is not known; choose one of {', '.join(TYPES)}")
    if count < 2:
        raise ArgumentError(
            f"{count} replicate has no variance; give the columns of all replicates"
        )
    if (kind == "Fay") != (rho is not None):
        raise ArgumentError(
            f"method={kind!r} with rho={rho!r}: Fay's replicates, and they alone, have a rho, "
            "which is 0.5 in PISA"
        )
    if rho is not None and not 0.0 <= rho < 1.0:
        raise ArgumentError(f"rho={rho!r} must lie from 0 to below 1")
    if (kind == "JKn") != (rscales is not None):
        raise ArgumentError(
            f"method={kind!r} {'without' if rscales is None else 'with'} rscales: JKn's "
            "replicates, and they alone, have one each, (n_h - 1) / n_h"
        )
    given = np.ones(count) if rscales is None else np.asarray(rscales, dtype=np.float64)
    if given.shape != (count,) or not (given > 0.0).all():
        raise ArgumentError(
            f"rscales has {given.size} numbers for {count} replicates; give a positive one for each"
        )
    scale = {
        "BRR": 1.0 / count,
        "Fay": 1.0 / (count * (1.0 - (rho or 0.0)) ** 2),
        "JK1": (count - 1.0) / count,
        "bootstrap": 1.0 / (count - 1.0),
    }.get(kind, 1.0)
    return Scheme(kind, scale * given, mse)


def combine_replicates(full: Array, replicates: Array, scheme: Scheme) -> Array:
    """Return the covariance (c, c) of estimates (c,) from those of R replicates (R, c)."""
    centre = full if scheme.mse else replicates.mean(axis=0)
    gaps = replicates - centre
    return np.asarray(gaps.T @ (scheme.factors[:, None] * gaps))


def tabulate_replicates(
    fit: Estimate,
    refit: Callable[[int], Estimate],
    scheme: Scheme,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """Return the estimates with standard errors by replicates, one row per parameter.

    Columns `estimate, se, lower, upper`, 95 % intervals as of other fits: normal for fixed effects
    and covariances, by logarithms for variances and SDs, by Fisher's z for correlations.
    `attrs["replicates"]` has the estimates of each replicate, `attrs["covariance"]` that of all.

    Args:
        fit: by the full weights.
        refit: returns the fit by replicate r, counted from 0.
        scheme: how replicates add up.
        progress: called with (done, replicates).

    Raises:
        ArgumentError: a replicate whose fit has not converged.
    """
    import pandas as pd

    count = len(scheme.factors)
    names = fit.estimates.index
    found = np.empty((count, len(names)))
    for r in range(count):
        again = refit(r)
        if not again.converged:
            raise ArgumentError(
                f"the fit by replicate {r + 1} of {count} has not converged ({again.advice}); look "
                "at its weights"
            )
        found[r] = again.estimates["estimate"].to_numpy()
        if progress is not None:
            progress(r + 1, count)
    full = fit.estimates["estimate"].to_numpy()
    covariance = combine_replicates(full, found, scheme)
    errors = np.sqrt(np.diag(covariance))
    rows = [
        (value, se, *_bound(parameter, value, se))
        for parameter, value, se in zip(fit.parameters, full.tolist(), errors.tolist(), strict=True)
    ]
    table = pd.DataFrame(rows, names, ["estimate", "se", "lower", "upper"])
    table.attrs["method"] = scheme.kind
    table.attrs["replicates"] = pd.DataFrame(found, columns=names)
    table.attrs["covariance"] = pd.DataFrame(covariance, names, names)
    return table


def correct_errors(fit: Estimate, table: "pd.DataFrame", sentence: str) -> Estimate:
    """Return a fit with the standard errors of `tabulate_replicates`, called by a sentence."""
    covariance = table.attrs["covariance"]
    parts = []
    for names in (fit.moments.fixed, [str(each) for each in fit.variances]):
        parts.append(covariance.loc[list(names), list(names)].to_numpy())
    return replace(fit, beta_cov=parts[0], variance_cov=parts[1], errors=sentence)


def _bound(parameter: Parameter, value: float, se: float) -> tuple[float, float]:
    """Return the 95 % interval on the scale that the parameter's intervals have."""
    if parameter.is_positive:
        lower, upper = log_interval(value, se)
        return lower, upper
    if parameter.is_correlation and abs(value) < 1.0:
        half = Z95 * se / (1.0 - value**2)
        return float(np.tanh(np.arctanh(value) - half)), float(np.tanh(np.arctanh(value) + half))
    if parameter.is_correlation:
        return np.nan, np.nan
    return value - Z95 * se, value + Z95 * se
