"""Tail probabilities of test statistics, by scipy.special alone.

scipy.stats gives the same numbers, to the bit, and takes a third of a second to load.
"""

import numpy as np
from scipy import special

Array = np.ndarray


def chi_square_tail(statistic: Array | float, df: Array | float) -> Array:
    """Return P(chi-square > statistic), elementwise; nan without degrees of freedom."""
    tail = special.chdtrc(df, np.maximum(statistic, 0.0))
    return np.asarray(np.where(np.asarray(df) > 0.0, tail, np.nan))


def f_tail(statistic: Array | float, df: Array | float, ddf: Array | float) -> Array:
    """Return P(F > statistic) of df and ddf degrees of freedom, elementwise; 1 up to zero."""
    positive = np.asarray(statistic) > 0.0
    tail = special.fdtrc(df, ddf, np.where(positive, statistic, 1.0))
    some = (np.asarray(df) > 0.0) & (np.asarray(ddf) > 0.0) & ~np.isnan(statistic)
    return np.asarray(np.where(some, np.where(positive, tail, 1.0), np.nan))


def student_tail(statistic: Array | float, df: Array | float) -> Array:
    """Return P(t > statistic) of df degrees of freedom, elementwise."""
    return np.asarray(special.stdtr(df, np.negative(statistic)))
