"""Contrasts and joint tests of the fixed effects of pooled fits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.laws import chi_square_tail, f_tail
from bhlm.likelihood.linear import Hypotheses, read_hypotheses
from bhlm.likelihood.parameters import check_level
from bhlm.reml.fixed.contrasts import infer_fixed, judge_hypotheses
from bhlm.reml.fixed.wald import JointTest, decorrelate
from bhlm.studies.imputations.components import PooledRow
from bhlm.studies.imputations.pooled import Pooled, infer_all, tabulate
from bhlm.studies.imputations.rubin import combine, combine_df, mean_df

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def pool_contrasts(
    pooled: Pooled, hypotheses: str | Sequence[str], *, level: float = 0.95
) -> "pd.DataFrame":
    """Return linear combinations of the fixed effects, pooled: the columns of `estimates`, `value`.

    Raises:
        ArgumentError: a hypothesis that cannot be read, or a level outside (0, 1).
    """
    import pandas as pd

    check_level(level)
    stated = read_hypotheses(hypotheses, pooled.fits[0].moments.fixed)
    values, covs, df = infer_all(pooled.fits, stated.contrasts, df=pooled.df)
    df = np.where(np.isnan(df), np.inf, df)
    combined = combine(values, np.einsum("fcc->fc", covs), complete_df=df)
    half = combined.reach(level)
    rows = tabulate(combined, half, values=stated.values)
    index = pd.Index(stated.labels, name="hypothesis")
    table = pd.DataFrame(np.array(rows), index, list(PooledRow._fields))
    return table.assign(value=stated.values)


def judge_pooled(pooled: Pooled, hypotheses: str | Sequence[str], *, rule: str = "D1") -> JointTest:
    """Return the test that all hypotheses about fixed effects hold at once.

    "D1" pools estimates and covariances, "D2" the fits' own test statistics, as programs do that
    print nothing else: it has less power and a rougher p. D1 of one hypothesis is the square of its
    t. By "kenward-roger" D1 takes the adjusted covariances, without the scale of F.

    Raises:
        ArgumentError: an unknown rule, or hypotheses that cannot be read or contradict each other.
    """
    stated = read_hypotheses(hypotheses, pooled.fits[0].moments.fixed)
    if rule == "D1":
        return _test_estimates(pooled, stated)
    if rule == "D2":
        return _test_statistics(pooled, stated)
    raise ArgumentError(f"rule={rule!r} is not known; choose 'D1' or 'D2'")


def pool_wald(estimates: Array, covs: Array, *, complete_df: float = np.inf) -> tuple[float, float]:
    """Return D1 of r estimates (m, r) with covariances (m, r, r), and its denominator df.

    With W the mean covariance, B the one between, x = (1 + 1/m) tr(B W^-1) / r, t = r (m - 1):

        D1 = q' W^-1 q / (r (1 + x)),  df = 4 + (t - 4) (1 + (1 - 2/t) / x)^2

    and t (1 + 1/r) (1 + 1/x)^2 / 2 where t <= 4. For finite complete-data df nu it is Reiter's
    expansion, and where that does not exist (t <= 4, or nu (nu + 1) / (nu + 3) <= 4 (1 + a), a =
    x t / (t - 2)) the combination of Barnard & Rubin at the share x / (1 + x).

    Sources: Li, Raghunathan & Rubin (1991), JASA 86, 1065-1073; Reiter (2007), Biometrika 94,
    502-508, eq. 1-2.
    """
    m, r = estimates.shape
    gaps = estimates - estimates[0]
    q, between = estimates[0] + gaps.mean(axis=0), np.atleast_2d(np.cov(gaps, rowvar=False))
    within = covs.mean(axis=0)
    x = (1.0 + 1.0 / m) * float(np.trace(np.linalg.solve(within, between))) / r
    statistic = float(q @ np.linalg.solve(within, q)) / (r * (1.0 + x))
    if not x > 0.0:
        return statistic, complete_df
    t = r * (m - 1.0)
    if t > 4.0:
        old = 4.0 + (t - 4.0) * (1.0 + (1.0 - 2.0 / t) / x) ** 2
    else:
        old = t * (1.0 + 1.0 / r) * (1.0 + 1.0 / x) ** 2 / 2.0
    if not np.isfinite(complete_df):
        return statistic, old
    reiter = _expand_df(x, t, complete_df)
    if reiter is not None:
        return statistic, reiter
    lam = x / (1.0 + x)
    return statistic, combine_df(lam, old * lam**2, complete_df)


def pool_chi_squares(
    statistics: Array, r: int, *, complete_df: float = np.inf
) -> tuple[float, float]:
    """Return D2 of m chi-squares (m,) on r degrees of freedom, and its denominator df.

    With x = (1 + 1/m) times the variance of their square roots and d their mean:

        D2 = (d / r - (m + 1) / (m - 1) x) / (1 + x),  df = r^(-3/m) (m - 1) (1 + 1/x)^2

    and at most the complete-data df.

    Source: Li, Meng, Raghunathan & Rubin (1991), Statistica Sinica 1, 65-92.
    """
    m = len(statistics)
    roots = np.sqrt(statistics)
    x = (1.0 + 1.0 / m) * float(np.var(roots - roots[0], ddof=1))
    statistic = (float(statistics.mean()) / r - (m + 1.0) / (m - 1.0) * x) / (1.0 + x)
    if not x > 0.0:
        return statistic, complete_df
    return statistic, min(r ** (-3.0 / m) * (m - 1.0) * (1.0 + 1.0 / x) ** 2, complete_df)


def _test_estimates(pooled: Pooled, stated: Hypotheses) -> JointTest:
    first = infer_fixed(pooled.fits[0], stated.contrasts, method=pooled.df)
    beta = pooled.fits[0].beta
    # The same independent combinations in every fit: those that are uncorrelated in the first.
    turned, scores, _ = decorrelate(
        beta, first.inner, stated.contrasts, stated.values, loadings=first.loadings
    )
    values, covs, df = infer_all(pooled.fits, turned, df=pooled.df)
    values = values - (turned @ beta - scores)
    if len(turned) == 1:
        df = np.where(np.isnan(df), np.inf, df)
        combined = combine(values, covs[:, 0], complete_df=df)
        statistic = float(combined.estimate[0] ** 2 / combined.total[0])
        return _assemble(statistic, 1, float(combined.df[0]), "D1")
    statistic, ddf = pool_wald(values, covs, complete_df=_complete_df(pooled, stated))
    return _assemble(statistic, len(turned), ddf, "D1")


def _test_statistics(pooled: Pooled, stated: Hypotheses) -> JointTest:
    tests = [judge_hypotheses(fit, stated, method=pooled.df) for fit in pooled.fits]
    chi_squares = [t.statistic * (t.df if np.isfinite(t.ddf) else 1.0) for t in tests]
    r = tests[0].df
    statistic, ddf = pool_chi_squares(
        np.array(chi_squares), r, complete_df=_complete_df(pooled, stated)
    )
    return _assemble(statistic, r, ddf, "D2")


def _complete_df(pooled: Pooled, stated: Hypotheses) -> float:
    """Return the harmonic mean of the denominator df of the fits' own joint tests."""
    ddf = [judge_hypotheses(fit, stated, method=pooled.df).ddf for fit in pooled.fits]
    return float(mean_df(np.array(ddf)))


def _expand_df(x: float, t: float, complete_df: float) -> float | None:
    """Return Reiter's (2007) denominator df; None where his expansion does not exist."""
    if t <= 4.0:
        return None
    a = x * t / (t - 2.0)
    one = 1.0 + a
    nu = complete_df * (complete_df + 1.0) / (complete_df + 3.0)
    c1, c2 = nu - 2.0 * one, nu - 4.0 * one
    if c2 <= 0.0:
        return None
    sums = (
        a**2 * c1 / (one**2 * c2)
        + 8.0 * a**2 * c1 / (one * c2**2)
        + 4.0 * a**2 / (one * c2)
        + 4.0 * a**2 / (c2 * c1)
        + 16.0 * a**2 * c1 / c2**3
        + 8.0 * a**2 / c2**2
    )
    return 4.0 + 1.0 / (1.0 / c2 + sums / (t - 4.0))


def _assemble(statistic: float, df: int, ddf: float, method: str) -> JointTest:
    """Return the test, by F, or where the denominator df are infinite by chi-square."""
    if np.isfinite(ddf):
        return JointTest(statistic, df, ddf, float(f_tail(statistic, df, ddf)), method)
    chi2 = df * statistic
    return JointTest(chi2, df, np.inf, float(chi_square_tail(chi2, df)), method)
