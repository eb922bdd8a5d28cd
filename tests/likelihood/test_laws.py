"""Tail probabilities are scipy.stats's, to the bit, also where an argument is odd."""

import itertools

import numpy as np
import pytest
from scipy import stats

from bhlm.likelihood.laws import chi_square_tail, f_tail, student_tail

STATISTICS = [-np.inf, -1.0, 0.0, 1e-300, 0.3, 1.0, 50.0, 1e5, np.nan]
DF = [0.0, 0.5, 1.0, 2.0, 31.4, 1e6, np.nan]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_tails_are_those_of_scipy_stats():
    x, df = np.array(list(itertools.product(STATISTICS, DF))).T
    np.testing.assert_array_equal(chi_square_tail(x, df), stats.chi2.sf(x, df))
    np.testing.assert_array_equal(student_tail(x, df), stats.t.sf(x, df))
    x, df, ddf = np.array(list(itertools.product(STATISTICS, DF, [*DF, np.inf]))).T
    np.testing.assert_array_equal(f_tail(x, df, ddf), stats.f.sf(x, df, ddf))
