"""The rows of a table of estimates: standard errors, intervals and z tests."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special, stats

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameter, scale_covariance
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.standard_errors import (
    Z95,
    log_interval,
    scale_slopes,
    scaled_errors,
    standard_errors,
)

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


class Row(NamedTuple):
    """One parameter's row of `estimates`; nan is what it does not have."""

    estimate: float
    se: float
    lower: float
    upper: float
    statistic: float = np.nan
    df: float = np.nan
    p: float = np.nan


def tabulate_rows(parameters: Sequence[Parameter], rows: Sequence[Row]) -> "pd.DataFrame":
    """Return rows as the table of estimates, indexed by parameter."""
    import pandas as pd

    index = pd.Index(list(map(str, parameters)), name="parameter")
    return pd.DataFrame(np.array(rows), index, list(Row._fields))


def wald_test(fixed: Sequence[str], beta: Array, cov: Array) -> dict[str, float]:
    """Return the Wald test that every fixed effect but the intercept is zero: chi2, df, p."""
    at = [i for i, name in enumerate(fixed) if name != INTERCEPT]
    if not at:
        return {"chi2": float("nan"), "df": 0, "p": float("nan")}
    beta, cov = beta[at], cov[np.ix_(at, at)]
    chi2 = float(beta @ np.linalg.solve(cov, beta))
    return {"chi2": chi2, "df": len(at), "p": float(stats.chi2.sf(chi2, len(at)))}


def list_fixed(beta: Array, cov: Array) -> list[Row]:
    """Return the rows of fixed effects (p,) with covariance (p, p)."""
    se = np.sqrt(np.diag(cov))
    rows = []
    for b, s in zip(beta, se, strict=True):
        z = b / s
        p = 2.0 * special.ndtr(-abs(z))
        rows.append(Row(b, s, b - Z95 * s, b + Z95 * s, z, np.inf, p))
    return rows


def list_variances(
    structures: Sequence[Structure], gs: Sequence[Array], sigma2: float | None, cov: Array
) -> list[Row]:
    """Return the rows of all variance components, and then those of SDs and correlations.

    Args:
        structures: F, one for each factor.
        gs: their covariance matrices (q_f, q_f).
        sigma2: the residual variance; None where rows have none.
        cov: the covariance (m + 1, m + 1) of the structures' free elements, in order, and sigma2;
            (m, m) without it.
    """
    errors = standard_errors(cov)
    variances: list[Row] = []
    scaled: list[Row] = []
    start = 0
    for structure, g in zip(structures, gs, strict=True):
        span = slice(start, start + len(structure.labels))
        start = span.stop
        variances += _list_free(structure, g, errors[span])
        scaled += _list_scaled(structure, g, cov[span, span])
    if sigma2 is None:
        return [*variances, *scaled]
    variances.append(Row(sigma2, errors[-1], *log_interval(sigma2, errors[-1])))
    sd = np.sqrt(sigma2)
    error = errors[-1] / (2.0 * sd)
    return [*variances, *scaled, Row(sd, error, *log_interval(sd, error))]


def _list_free(structure: Structure, g: Array, errors: Array) -> list[Row]:
    values = (g[i, j] for i, j in structure.labels)
    rows = []
    for parameter, value, se in zip(structure.variances, values, errors, strict=True):
        if parameter.is_covariance:
            bounds = [value - Z95 * se, value + Z95 * se]
        else:
            bounds = log_interval(value, se)
        rows.append(Row(value, se, *bounds))
    return rows


def _list_scaled(structure: Structure, g: Array, cov: Array) -> list[Row]:
    labels = structure.labels
    values = scale_covariance(g, labels)
    se = scaled_errors(scale_slopes(g, labels), cov)
    rows = []
    for parameter, value, error in zip(structure.scaled, values, se, strict=True):
        if parameter.is_sd:
            rows.append(Row(value, error, *log_interval(value, error)))
        elif abs(value) < 1.0:
            z, half = np.arctanh(value), Z95 * error / (1.0 - value**2)
            rows.append(Row(value, error, np.tanh(z - half), np.tanh(z + half)))
        else:
            rows.append(Row(value, np.nan, np.nan, np.nan))
    return rows
