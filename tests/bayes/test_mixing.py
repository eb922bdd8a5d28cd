"""R-hat and effective draws, which are ArviZ's."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from bhlm.bayes.mixing import measure, measure_bulk, measure_mean

AXES = {"chain_axis": 1, "draw_axis": 2}


@pytest.mark.parametrize("n", [40, 99, 495])
def test_bulk_ess_of_one_chain_is_that_of_arviz(n):
    rng = np.random.default_rng(n)
    values = np.vstack(
        [rng.normal(size=(3, n)), rng.normal(size=(2, n)).cumsum(axis=1), np.ones(n)]
    )
    values[1] = np.round(values[1], 1)  # ties
    expected = array_stats.ess(values[:, None], method="bulk", **AXES)
    np.testing.assert_array_equal(measure_bulk(values), expected)
    np.testing.assert_array_equal(measure(values[:, None]).ess_bulk, expected)


def test_what_does_not_vary_or_is_no_number_says_so_without_a_warning():
    stack = np.random.default_rng(1).normal(size=(3, 4, 100))
    stack[0], stack[1, 0, 0] = 2.0, np.nan
    found = measure(stack)
    assert np.isnan(found.rhat).tolist() == [True, True, False]
    assert np.isnan(found.ess_bulk).tolist() == [False, True, False]
    assert np.isnan(measure_mean(stack)).tolist() == [False, True, False]
    assert np.isnan(measure(stack[:, :, :3]).ess_bulk).all()
