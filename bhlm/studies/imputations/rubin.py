"""Rubin's rules: m estimates with their squared standard errors -> one, and its reference law."""

from typing import NamedTuple

import numpy as np
from scipy import special

from bhlm.design.kernels import kernel

Array = np.ndarray


class Combined(NamedTuple):
    """c scalar quantities pooled over m data sets."""

    estimate: Array  # (c,)
    within: Array  # (c,) W, the mean of the squared standard errors
    between: Array  # (c,) B, the variance of the estimates over the data sets
    total: Array  # (c,) T = W + (1 + 1/m) B
    df: Array  # (c,)
    riv: Array  # (c,) relative increase in variance, (1 + 1/m) B / W
    fmi: Array  # (c,) fraction of missing information

    def reach(self, level: float) -> Array:
        """Return how far intervals at `level` reach to each side (c,)."""
        return np.asarray(t_quantile(0.5 + level / 2.0, self.df) * np.sqrt(self.total))


def combine(estimates: Array, squared_errors: Array, *, complete_df: Array | float) -> Combined:
    """Return scalar quantities pooled by Rubin's rules.

    With lam = (1 + 1/m) B / T and kappa(nu) = (nu + 1) / (nu + 3):

        old = (m - 1) / lam^2,  observed = kappa(nu) nu (1 - lam),  df = 1 / (1/old + 1/observed)
        fmi = 1 - W / T * kappa(df) / kappa(nu)

    for nu complete-data degrees of freedom. Where they are infinite df is Rubin's old one, and fmi
    the (riv + 2 / (df + 3)) / (riv + 1) that programs print; where they are finite, kappa(nu) is
    the share of information that complete data would have too, so that nothing is missing where
    nothing was imputed. Where B is 0 no missing value matters and df is nu itself, which
    `observed` stays below.

    Sources: Rubin (1987), Multiple Imputation for Nonresponse in Surveys, section 3.1; Barnard &
    Rubin (1999), Biometrika 86, 948-955.

    Args:
        estimates: (m, c), one row per data set.
        squared_errors: (m, c).
        complete_df: nu (c,) of the tests if no value were missing; infinite for the normal.
    """
    nu = np.full(estimates.shape[1], complete_df, dtype=np.float64)
    given = (np.ascontiguousarray(each, np.float64) for each in (estimates, squared_errors))
    return Combined(*_combine(*given, nu))


@kernel
def _combine(
    estimates: Array, squared_errors: Array, nu: Array
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Return the fields of `Combined`, one quantity after the other."""
    m, c = estimates.shape
    estimate, within, between, total = np.empty(c), np.empty(c), np.empty(c), np.empty(c)
    df, riv, fmi = np.empty(c), np.empty(c), np.zeros(c)
    for i in range(c):
        # About the first, equal estimates have the variance 0 to the bit.
        first = estimates[0, i]
        gap, mean, square = 0.0, 0.0, 0.0
        for j in range(m):
            gap += estimates[j, i] - first
            mean += squared_errors[j, i]
        gap /= m
        for j in range(m):
            square += (estimates[j, i] - first - gap) ** 2
        estimate[i], within[i], between[i] = first + gap, mean / m, square / (m - 1.0)
        extra = (1.0 + 1.0 / m) * between[i]
        total[i] = within[i] + extra
        df[i], riv[i] = combine_df(extra / total[i], m - 1.0, nu[i]), extra / within[i]
        if between[i] > 0.0:
            fmi[i] = 1.0 - within[i] / total[i] * _kappa(df[i]) / _kappa(nu[i])
    return estimate, within, between, total, df, riv, fmi


@kernel
def combine_df(lam: float, old_df: float, nu: float) -> float:
    """Return Barnard & Rubin's df of a share lam of the total variance.

    Args:
        lam: the share that is due to the variance between data sets.
        old_df: what Rubin's df would be at lam = 1.
        nu: the df without missing values.
    """
    if not lam > 0.0:
        return nu
    old, observed = old_df / lam**2, _kappa(nu) * nu * (1.0 - lam)
    return 1.0 / (1.0 / old + 1.0 / observed)


def mean_df(df: Array) -> Array:
    """Return the harmonic mean over the first axis of degrees of freedom.

    2 / df is the relative variance of a variance, which averages; an infinite df counts as none.
    """
    with np.errstate(divide="ignore"):
        return np.asarray(1.0 / np.mean(1.0 / df, axis=0))


def t_quantile(share: float, df: Array) -> Array:
    """Return Student's quantiles (c,) below which there is that share; df may be infinite."""
    finite = np.isfinite(df)
    known = special.stdtrit(np.where(finite, df, 1.0), share)
    return np.asarray(np.where(finite, known, special.ndtri(share)))


def t_tails(statistic: Array, df: Array) -> Array:
    """Return the two-sided p (c,) of t statistics."""
    size = -np.abs(statistic)
    finite = np.isfinite(df)
    known = special.stdtr(np.where(finite, df, 1.0), size)
    return np.asarray(2.0 * np.where(finite, known, special.ndtr(size)))


@kernel
def _kappa(nu: float) -> float:
    """Return (nu + 1) / (nu + 3), which is 1 for infinite nu."""
    return 1.0 - 2.0 / (nu + 3.0)
