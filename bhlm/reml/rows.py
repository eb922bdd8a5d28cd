"""The rows of a table of estimates: standard errors, intervals and z tests."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.laws import chi_square_tail
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.standard_errors import (
    Z95,
    log_interval,
    scale_errors,
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


def tabulate_rows(rows: Mapping[str, Row]) -> "pd.DataFrame":
    """Return rows by their parameters' names as the table of estimates."""
    values = np.fromiter(chain.from_iterable(rows.values()), np.float64)
    return lay_out(values.reshape(-1, len(Row._fields)), tuple(rows), Row._fields)


def lay_out(values: Array, names: tuple[str, ...], columns: tuple[str, ...]) -> "pd.DataFrame":
    """Return numbers (r, c) as a table, its rows called `names` under "parameter"."""
    import pandas as pd

    # Views, so that a table whose index is renamed leaves the next one alone.
    index, header = _make_index(names, "parameter").view(), _make_index(columns, None).view()
    return pd.DataFrame(values, index, header)


@lru_cache(maxsize=64)  # text takes pandas longer than all that a small fit's table holds
def _make_index(names: tuple[str, ...], called: str | None) -> "pd.Index":
    import pandas as pd

    return pd.Index(list(names), name=called)


def wald_test(fixed: Sequence[str], beta: Array, cov: Array) -> dict[str, float]:
    """Return the Wald test that every fixed effect but the intercept is zero: chi2, df, p."""
    at = [i for i, name in enumerate(fixed) if name != INTERCEPT]
    if not at:
        return {"chi2": float("nan"), "df": 0, "p": float("nan")}
    beta, cov = beta[at], cov[np.ix_(at, at)]
    chi2 = float(beta @ np.linalg.solve(cov, beta))
    return {"chi2": chi2, "df": len(at), "p": float(chi_square_tail(chi2, len(at)))}


def list_fixed(beta: Array, cov: Array) -> list[Row]:
    """Return the rows of fixed effects (p,) with covariance (p, p)."""
    rows = []
    for value, variance in zip(beta.tolist(), cov.diagonal().tolist(), strict=True):
        se = math.sqrt(variance) if variance >= 0.0 else math.nan
        z = value / se if se > 0.0 else math.nan
        p = 2.0 * float(special.ndtr(-abs(z)))
        rows.append(Row(value, se, value - Z95 * se, value + Z95 * se, z, math.inf, p))
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
    error = float(errors[-1])
    variances.append(Row(sigma2, error, *log_interval(sigma2, error)))
    sd = math.sqrt(sigma2)
    error /= 2.0 * sd
    return [*variances, *scaled, Row(sd, error, *log_interval(sd, error))]


def _list_free(structure: Structure, g: Array, errors: Array) -> list[Row]:
    values = structure.read(g).tolist()
    rows = []
    for parameter, value, se in zip(structure.variances, values, errors.tolist(), strict=True):
        if parameter.is_covariance:
            bounds = [value - Z95 * se, value + Z95 * se]
        else:
            bounds = log_interval(value, se)
        rows.append(Row(value, se, *bounds))
    return rows


def _list_scaled(structure: Structure, g: Array, cov: Array) -> list[Row]:
    rows = []
    found = scale_errors(g, structure.labels, cov)
    for parameter, (value, error) in zip(structure.scaled, found, strict=True):
        if parameter.is_sd:
            rows.append(Row(value, error, *log_interval(value, error)))
        elif abs(value) < 1.0:
            z, half = math.atanh(value), Z95 * error / (1.0 - value**2)
            rows.append(Row(value, error, math.tanh(z - half), math.tanh(z + half)))
        else:
            rows.append(Row(value, np.nan, np.nan, np.nan))
    return rows
