"""R-hat and effective draws, which are ArviZ's."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from bhlm.bayes.mixing import Known, measure, measure_bulk, measure_mean

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


@pytest.mark.parametrize(("chains", "n"), [(4, 100), (2, 37), (3, 4), (2, 5), (1, 60)])
def test_rhat_and_ess_of_all_parameters_are_those_of_arviz_of_each(chains, n):
    """To the bit: bulk and tail, odd numbers of draws, ties, chains that are apart or spread."""
    rng = np.random.default_rng(n)
    stack = rng.normal(size=(6, chains, n))
    stack[1] = np.round(stack[1], 1)
    stack[2, 0] += 3.0
    stack[3, 0] *= 5.0
    stack[4] = rng.standard_cauchy((chains, n)).cumsum(axis=1)
    stack[5] = np.exp(30.0 * stack[5])
    found = measure(stack)
    expected = [array_stats.rhat(each, chain_axis=0, draw_axis=1) for each in stack]
    np.testing.assert_array_equal(found.rhat, expected)
    for values, each in (
        (found.ess_bulk, {"method": "bulk"}),
        (found.ess_tail, {"method": "tail", "prob": (0.05, 0.95)}),
    ):
        expected = [array_stats.ess(x, chain_axis=0, draw_axis=1, **each) for x in stack]
        np.testing.assert_array_equal(values, expected)


def test_what_does_not_vary_or_is_no_number_says_so_without_a_warning():
    stack = np.random.default_rng(1).normal(size=(3, 4, 100))
    stack[0], stack[1, 0, 0] = 2.0, np.nan
    found = measure(stack)
    assert np.isnan(measure(np.full((1, 4, 100), np.inf)).rhat).all()
    assert np.isnan(found.rhat).tolist() == [True, True, False]
    assert np.isnan(found.ess_bulk).tolist() == [False, True, False]
    assert np.isnan(measure_mean(stack)).tolist() == [False, True, False]
    assert np.isnan(measure(stack[:, :, :3]).ess_bulk).all()


def test_what_is_known_is_taken_of_the_very_draws_alone():
    stack = np.random.default_rng(3).normal(size=(2, 4, 50))
    known = Known(stack.copy(), measure(stack))
    assert measure(stack, known) is known.measured
    stack[1, 0, :10] = 0.0
    found = measure(stack, known)
    assert found.rhat[0] == known.measured.rhat[0]
    assert found.ess_bulk[1] == measure(stack).ess_bulk[1] != known.measured.ess_bulk[1]
