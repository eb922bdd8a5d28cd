"""Rubin's rules: m estimates with their squared standard errors -> one, and its reference law."""

from typing import NamedTuple

import numpy as np
from scipy import special

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
    m = len(estimates)
    # About the first, equal estimates have the variance 0 to the bit.
    gaps = estimates - estimates[0]
    gap = gaps.mean(axis=0)
    estimate = estimates[0] + gap
    within = squared_errors.mean(axis=0)
    gaps = gaps - gap
    between = np.einsum("mc,mc->c", gaps, gaps) / (m - 1.0)
    extra = (1.0 + 1.0 / m) * between
    total = within + extra
    nu = np.broadcast_to(np.asarray(complete_df, dtype=np.float64), estimate.shape)
    df = combine_df(extra / total, m - 1.0, complete_df=nu)
    fmi = np.where(between > 0.0, 1.0 - within / total * _kappa(df) / _kappa(nu), 0.0)
    return Combined(estimate, within, between, total, df, extra / within, fmi)


def combine_df(lam: Array, old_df: Array | float, *, complete_df: Array) -> Array:
    """Return Barnard & Rubin's df (c,) of shares lam (c,) of the total variance.

    Args:
        lam: the share that is due to the variance between data sets.
        old_df: what Rubin's df would be at lam = 1.
        complete_df: (c,) without missing values.
    """
    with np.errstate(divide="ignore"):
        old = old_df / np.square(lam)
        observed = _kappa(complete_df) * complete_df * (1.0 - lam)
        df = 1.0 / (1.0 / old + 1.0 / observed)
    return np.asarray(np.where(lam > 0.0, df, complete_df))


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


def _kappa(nu: Array) -> Array:
    """Return (nu + 1) / (nu + 3), which is 1 for infinite nu."""
    return np.asarray(1.0 - 2.0 / (nu + 3.0))
