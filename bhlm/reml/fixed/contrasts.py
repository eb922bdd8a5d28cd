"""Linear combinations of the fixed effects and joint tests of them, by any method."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError
from bhlm.likelihood.linear import Hypotheses, read_hypotheses
from bhlm.likelihood.parameters import check_level
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.hlm_df import hlm_df
from bhlm.reml.fixed.kenward_roger import kenward_roger, kenward_roger_df, kenward_roger_test
from bhlm.reml.fixed.robust import robust_covariance, robust_df, robust_test
from bhlm.reml.fixed.satterthwaite import satterthwaite_df, satterthwaite_test
from bhlm.reml.fixed.wald import JointTest, check_contrasts, decorrelate, wald_test
from bhlm.reml.group_algebra import reduce_groups

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
METHODS = ("z", "satterthwaite", "kenward-roger", "hlm", "cr0", "cr2")


@dataclass(frozen=True, slots=True)
class FixedInference:
    """The covariance of the fixed effects by one method, and the df of its t statistics."""

    inner: Array  # (p, p) of beta~, of which beta is b + loadings beta~
    loadings: Array  # (p, p)
    df: Array  # (c,) of each contrast; infinite where the reference is the normal

    @property
    def cov(self) -> Array:
        """The covariance (p, p) of the fixed effects."""
        return np.asarray(self.loadings @ self.inner @ self.loadings.T)

    def standard_errors(self, contrasts: Array) -> Array:
        """Return the standard error of each row of `contrasts` (c, p).

        By way of beta~, since the covariance as given cancels in contrasts such as the fitted
        value at a covariate far from zero.
        """
        rows = contrasts @ self.loadings
        return np.asarray(np.sqrt(np.einsum("ci,ij,cj->c", rows, self.inner, rows)))


def infer_fixed(fit: Estimate, contrasts: Array, *, method: str = "z") -> FixedInference:
    """Return the covariance of the fixed effects and the df (c,) of `contrasts` (c, p).

    Args:
        fit: the fit.
        contrasts: one linear combination per row.
        method: "z" (normal), "satterthwaite", "kenward-roger" (adjusted covariance), "hlm"
            (J - S - 1), "cr0" (cluster-robust, normal) or "cr2" (bias-reduced, its own df).

    Raises:
        ArgumentError: an unknown method, one that the fit does not allow, or contrasts that do
            not fit.
    """
    matrix = check_contrasts(contrasts, len(fit.beta))
    inner, load = _whiten_covariance(fit)
    match method:
        case "z":
            return FixedInference(inner, load, np.full(len(matrix), np.inf))
        case "satterthwaite":
            return FixedInference(inner, load, satterthwaite_df(fit, matrix))
        case "kenward-roger":
            adjusted = kenward_roger(fit)
            return FixedInference(adjusted.inner, load, kenward_roger_df(adjusted, matrix))
        case "hlm":
            return FixedInference(inner, load, hlm_df(fit, matrix))
        case "cr0" | "cr2":
            robust = robust_covariance(fit, kind=method)
            return FixedInference(robust.inner, load, robust_df(robust, matrix))
    raise _refuse_method(method)


def estimate_contrasts(
    fit: Estimate,
    hypotheses: str | Sequence[str] | Hypotheses,
    *,
    method: str = "z",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return each linear combination with its standard error, interval and test.

    Rows are the hypotheses; columns `estimate, se, lower, upper, statistic, df, p, value`, the
    estimate being that of the left side less the right side's fixed effects, and `value` the
    number it is tested against.

    Raises:
        ArgumentError: a hypothesis that cannot be read, an unknown method, or a level outside
            (0, 1).
    """
    import pandas as pd

    check_level(level)
    stated = _state(hypotheses, fit)
    inference = infer_fixed(fit, stated.contrasts, method=method)
    estimate = stated.contrasts @ fit.beta
    se = inference.standard_errors(stated.contrasts)
    half = stats.t.ppf(0.5 + level / 2.0, inference.df) * se
    statistic = (estimate - stated.values) / se
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "lower": estimate - half,
            "upper": estimate + half,
            "statistic": statistic,
            "df": inference.df,
            "p": 2.0 * stats.t.sf(np.abs(statistic), inference.df),
            "value": stated.values,
        },
        index=pd.Index(stated.labels, name="hypothesis"),
    )


def judge_hypotheses(
    fit: Estimate, hypotheses: str | Sequence[str] | Hypotheses, *, method: str = "z"
) -> JointTest:
    """Return the test that all hypotheses hold at once.

    "z" and "cr0" give a chi-square; "satterthwaite", "kenward-roger" and "cr2" an F with its
    denominator df; "hlm" the F with the smallest J - S - 1 among the fixed effects involved.

    Raises:
        ArgumentError: a hypothesis that cannot be read, hypotheses that contradict each other,
            an unknown method, or one that the fit does not allow.
    """
    stated = _state(hypotheses, fit)
    matrix, values = stated.contrasts, stated.values
    inner, load = _whiten_covariance(fit)
    match method:
        case "z":
            return wald_test(fit.beta, inner, contrasts=matrix, values=values, loadings=load)
        case "satterthwaite":
            return satterthwaite_test(fit, matrix, values=values)
        case "kenward-roger":
            return kenward_roger_test(fit, matrix, values=values)
        case "hlm":
            _, scores, variances = decorrelate(fit.beta, inner, matrix, values, loadings=load)
            statistic, ddf = float((scores**2 / variances).mean()), float(hlm_df(fit, matrix).min())
            p = float(stats.f.sf(statistic, len(scores), ddf))
            return JointTest(statistic, len(scores), ddf, p, method)
        case "cr0" | "cr2":
            return robust_test(fit, matrix, values=values, kind=method)
    raise _refuse_method(method)


def _state(hypotheses: str | Sequence[str] | Hypotheses, fit: Estimate) -> Hypotheses:
    if isinstance(hypotheses, Hypotheses):
        return hypotheses
    return read_hypotheses(hypotheses, fit.moments.fixed)


def _whiten_covariance(fit: Estimate) -> tuple[Array, Array]:
    """Return the covariance (p, p) of beta~, and the loadings (p, p): beta = b + loadings beta~."""
    algebra = reduce_groups(fit)
    return algebra.v * algebra.phi, algebra.loadings


def _refuse_method(method: str) -> ArgumentError:
    return ArgumentError(f"method={method!r} is not known; choose one of {', '.join(METHODS)}")
