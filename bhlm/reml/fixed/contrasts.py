"""Linear combinations of the fixed effects and joint tests of them, by any method."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError
from bhlm.likelihood.linear import Hypotheses, read_hypotheses
from bhlm.likelihood.parameters import check_level
from bhlm.reml.fixed.hlm_df import HLM
from bhlm.reml.fixed.kenward_roger import KENWARD_ROGER
from bhlm.reml.fixed.method import NORMAL, FixedInference, Method
from bhlm.reml.fixed.robust import CR0, CR2
from bhlm.reml.fixed.satterthwaite import SATTERTHWAITE
from bhlm.reml.fixed.wald import JointTest, check_contrasts
from bhlm.reml.maximum import Maximum, require_plain
from bhlm.reml.rows import lay_out

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
METHODS = {method.name: method for method in (NORMAL, SATTERTHWAITE, KENWARD_ROGER, HLM, CR0, CR2)}


def infer_fixed(fit: Maximum, contrasts: Array, *, method: str = "z") -> FixedInference:
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
    return _find(method, fit).infer(fit, check_contrasts(contrasts, len(fit.beta)))


def estimate_contrasts(
    fit: Maximum,
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

    stated = _state(hypotheses, fit)
    columns = _estimate(fit, stated, method=method, level=level) | {"value": stated.values}
    return pd.DataFrame(columns, index=pd.Index(stated.labels, name="hypothesis"))


def _estimate(fit: Maximum, stated: Hypotheses, *, method: str, level: float) -> dict[str, Array]:
    """Return the columns (c,) of the table of contrasts."""
    check_level(level)
    inference = infer_fixed(fit, stated.contrasts, method=method)
    estimate = stated.contrasts @ fit.beta
    se = inference.standard_errors(stated.contrasts)
    half = special.stdtrit(inference.df, 0.5 + level / 2.0) * se
    statistic = (estimate - stated.values) / se
    return {
        "estimate": estimate,
        "se": se,
        "lower": estimate - half,
        "upper": estimate + half,
        "statistic": statistic,
        "df": inference.df,
        "p": 2.0 * special.stdtr(inference.df, -np.abs(statistic)),
    }


def tabulate_fixed(fit: Maximum, *, method: str, level: float = 0.95) -> "pd.DataFrame":
    """Return the fixed effects in the columns of `estimate_contrasts` but `value`.

    `attrs["df"]` names the method.

    Raises:
        ArgumentError: an unknown method, or a level outside (0, 1).
    """
    p = len(fit.beta)
    every = Hypotheses(tuple(fit.moments.fixed), np.eye(p), np.zeros(p))
    columns = _estimate(fit, every, method=method, level=level)
    table = lay_out(np.array(list(columns.values())).T, every.labels, tuple(columns))
    table.attrs["df"] = method
    return table


def judge_hypotheses(
    fit: Maximum, hypotheses: str | Sequence[str] | Hypotheses, *, method: str = "z"
) -> JointTest:
    """Return the test that all hypotheses hold at once.

    "z" and "cr0" give a chi-square; "satterthwaite", "kenward-roger" and "cr2" an F with its
    denominator df; "hlm" the F with the smallest J - S - 1 among the fixed effects involved.

    Raises:
        ArgumentError: a hypothesis that cannot be read, hypotheses that contradict each other,
            an unknown method, or one that the fit does not allow.
    """
    stated = _state(hypotheses, fit)
    return _find(method, fit).test(fit, stated.contrasts, stated.values)


def _state(hypotheses: str | Sequence[str] | Hypotheses, fit: Maximum) -> Hypotheses:
    if isinstance(hypotheses, Hypotheses):
        return hypotheses
    return read_hypotheses(hypotheses, fit.moments.fixed)


def _find(method: str, fit: Maximum) -> Method:
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} is not known; choose one of {', '.join(METHODS)}")
    if method != NORMAL.name and fit.judged_by_z:
        if fit.weights is not None:
            require_plain(fit, f"method={method!r}")
        raise ArgumentError(
            f"method={method!r} has standard errors of its own, and this fit has those by the "
            f"groups' scores (errors={fit.errors!r}); take method='z'"
        )
    return METHODS[method]
