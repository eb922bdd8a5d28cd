"""Residuals at both levels, and the group-level distances that HLM writes to its residual file."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError, DataError
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.parameters import name_apart
from bhlm.likelihood.whitening import ROUNDING
from bhlm.moments.groups import locate_groups
from bhlm.moments.moments import INTERCEPT, Moments
from bhlm.reml.estimate import Estimate
from bhlm.reml.groups import solve_groups
from bhlm.reml.maximum import require_likelihood, require_plain

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# A direction whose share of the largest variance is below this has none: var(u_hat) loses rank
# where G has lost it, and in groups with fewer rows than random coefficients.
VANISHED = 1e-10
# Residual sums of squares below this share of the group's own variation are rounding.
PERFECT = 1e-12
ROW_COLUMNS = ("fitted", "marginal", "conditional", "standardized")
DISTANCE_COLUMNS = ("mahalanobis", "df", "p", "expected")
GROUP_COLUMNS = (*DISTANCE_COLUMNS, "log_sd")


def row_residuals(
    fit: Estimate, labels: Array, x: Array, z: Array, y: Array, *, weights: Array | None = None
) -> "pd.DataFrame":
    """Return level-1 residuals, one row per row.

    Columns: the group; `fitted` X beta + Z u_hat; `marginal` y - X beta; `conditional` y -
    fitted; `standardized`, the conditional residual over the row's own SD, sigma / sqrt(w) with
    weights w, and the root of a variance that is known.

    Args:
        fit: the fit.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        y: the response (n,).
        weights: (n,) that the rows' precisions are multiplied by; None is 1.

    Raises:
        ArgumentError: a fit by pseudo-likelihood.
        DataError: a row of a group that the fit has not seen.
    """
    require_likelihood(fit, "residuals()")
    import pandas as pd

    (group,) = name_apart([fit.moments.group], table=ROW_COLUMNS)
    at = locate_groups(fit.moments, labels)
    if np.any(at < 0):
        raise DataError(
            f"{np.asarray(labels)[at < 0].tolist()[0]!r} is not a {fit.moments.group} of the fit; "
            "give the rows that the model was fitted to"
        )
    solution = solve_groups(fit)
    marginal = y - x @ fit.beta
    conditional = marginal - np.einsum("ni,ni->n", z @ solution.basis, solution.mean[at])
    return pd.DataFrame(
        {
            group: labels,
            "fitted": y - conditional,
            "marginal": marginal,
            "conditional": conditional,
            "standardized": conditional
            * np.sqrt((1.0 if weights is None else weights) / fit.sigma2),
        }
    )


def group_residuals(fit: Estimate) -> "pd.DataFrame":
    """Return level-2 residuals, one row per group.

    Columns: the group; each coefficient's empirical-Bayes residual; `mahalanobis`, the squared
    distance u' var(u_hat)^-1 u with var(u_hat) = G - PEV, a chi-square with `df` (the rank of
    var(u_hat)) if the model holds, and its upper tail `p`; `expected`, the chi-square quantile
    (df of the rank of G) of the distance's rank, for a Q-Q plot; `log_sd`, the log of the group's
    own residual SD, of `log_dispersion`. Source: Raudenbush & Bryk (2002), chapter 9.
    """
    require_plain(fit, "group_residuals()")
    import pandas as pd

    moments = fit.moments
    *random, group = name_apart([*moments.random, moments.group], table=GROUP_COLUMNS)
    solution = solve_groups(fit)
    u = solution.mean @ solution.basis.T
    table = pd.DataFrame({group: moments.groups})
    for k, name in enumerate(random):
        table[name] = u[:, k]
    distances = rank_distances(solution.mean, solution.prior - solution.pev, solution.prior)
    for name, column in distances.items():
        table[name] = column
    table["log_sd"] = log_dispersion(fit)[0]
    return table


def rank_distances(u: Array, spread: Array, prior: Array) -> dict[str, Array]:
    """Return the columns `DISTANCE_COLUMNS` (J,) of effects u (J, q) about zero.

    Args:
        u: empirical-Bayes effects, in any basis.
        spread: var(u_hat) (J, q, q), the prior's covariance less the prediction error's.
        prior: the covariance (q, q) of the effects themselves.
    """
    distance, df = _measure_distances(u, spread, prior)
    kept = int(np.sum(_keep(np.linalg.eigvalsh(prior), prior)))
    rank = stats.rankdata(distance)
    return {
        "mahalanobis": distance,
        "df": df,
        "p": np.where(df > 0, chi_square_tail(distance, np.maximum(df, 1)), np.nan),
        "expected": stats.chi2.ppf((rank - 0.5) / len(rank), kept) if kept else 0.0 * distance,
    }


def log_dispersion(fit: Estimate) -> tuple[Array, Array]:
    """Return each group's log residual SD (J,) about its own regression, and its df (J,).

    The regression is by least squares on every column of the model that varies in the group,
    random or not, so that df = n_j - rank; nan without df, -inf where it fits without error.
    """
    rss, df = _group_squares(fit.moments)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(df > 0, 0.5 * np.log(rss / df), np.nan), df


def judge_homogeneity(fit: Estimate, *, least_df: int = 10) -> dict[str, float]:
    """Return HLM's test that the residual variance is the same in every group: chi2, df, p.

    H = sum d_j^2 with d_j = (log S_j^2 - pooled) / sqrt(2 / f_j), pooled the mean of log S_j^2
    weighted by f_j, over groups with at least `least_df` residual df f_j. Source: Raudenbush &
    Bryk (2002), p. 264; Snijders & Bosker (2012), eq. 10.5.

    Raises:
        ArgumentError: fewer than two groups with that many df, or one without any residual.
    """
    require_plain(fit, "test_homogeneity()")
    log_sd, df = log_dispersion(fit)
    use = df >= max(least_df, 1)
    if use.sum() < 2:
        raise ArgumentError(
            f"least_df={least_df!r} leaves {int(use.sum())} '{fit.moments.group}' to compare (the "
            f"most residual df of one is {int(df.max())}); give a smaller least_df"
        )
    value, f = 2.0 * log_sd[use], df[use]
    if np.isneginf(value).any():
        label = fit.moments.groups[use][np.isneginf(value)].tolist()[0]
        raise ArgumentError(
            f"'{fit.moments.group}' {label!r} has no residual variance at all, so its logarithm "
            "does not exist; leave that group out of the model"
        )
    pooled = float(f @ value / f.sum())
    chi2 = float(np.sum((value - pooled) ** 2 * f / 2.0))
    count = int(use.sum()) - 1
    return {"chi2": chi2, "df": count, "p": float(chi_square_tail(chi2, count))}


def _keep(values: Array, prior: Array) -> Array:
    """Return which variances (..., q) have not vanished beside the largest prior variance."""
    return np.asarray(values > VANISHED * max(float(np.max(np.diag(prior))), 0.0))


def _measure_distances(u: Array, spread: Array, prior: Array) -> tuple[Array, Array]:
    """Return u' spread^+ u (J,) and the rank (J,) of each group's spread (J, q, q)."""
    values, vectors = np.linalg.eigh(spread)
    kept = _keep(values, prior)
    turned = np.einsum("jab,ja->jb", vectors, u)
    distance = np.sum(np.where(kept, turned**2 / np.where(kept, values, 1.0), 0.0), axis=1)
    return distance, kept.sum(axis=1)


def _group_squares(moments: Moments) -> tuple[Array, Array]:
    """Return the residual sum of squares (J,) of each group's own regression, and its df (J,)."""
    names = {*moments.fixed, *moments.random}
    at = [i for i, name in enumerate(moments.columns[:-1]) if name in names]
    cross, mean = moments.cross, moments.mean
    centred = INTERCEPT in names
    if not centred:
        cross = cross + moments.mass[:, None, None] * mean[:, :, None] * mean[:, None, :]
    inner = cross[:, at][:, :, at]
    size = np.sqrt(np.maximum(np.einsum("jaa->ja", inner), 0.0))
    varies = size > np.sqrt(ROUNDING * moments.mass[:, None] * mean[:, at] ** 2)
    scale = np.where(varies, 1.0 / np.where(varies, size, 1.0), 0.0)
    values, vectors = np.linalg.eigh(inner * scale[:, :, None] * scale[:, None, :])
    kept = values > VANISHED
    along = np.einsum("jab,ja->jb", vectors, cross[:, at, -1] * scale)
    whole = cross[:, -1, -1]
    fitted = np.sum(np.where(kept, along**2 / np.where(kept, values, 1.0), 0.0), axis=1)
    rss = np.maximum(whole - fitted, 0.0)
    floor = PERFECT * whole + ROUNDING * moments.mass * mean[:, -1] ** 2
    return np.where(rss > floor, rss, 0.0), moments.n - kept.sum(axis=1) - int(centred)
