"""Smoothed weights and tails of draws that may have none."""

import numpy as np
import pytest

from bhlm.bayes.pareto import measure_tails, smooth_tails


def test_a_tail_is_smoothed_as_arviz_does():
    from arviz_stats.base import array_stats

    logs = np.random.default_rng(1).standard_t(4, size=(3, 1000))
    weights, khat = smooth_tails(logs, reff=0.7)
    theirs, shape = array_stats.psislw(-logs, r_eff=0.7, axis=-1)
    np.testing.assert_array_equal(weights, theirs)
    np.testing.assert_array_equal(khat, shape)


def test_equal_weights_are_kept_and_said_to_have_no_shape():
    logs = np.stack([np.repeat([0.0, 1.0], 60), np.random.default_rng(1).normal(size=120)])
    weights, khat = smooth_tails(logs)
    assert np.exp(weights).sum(axis=1) == pytest.approx([1.0, 1.0])
    assert np.isinf(khat[0])
    assert np.isfinite(khat[1])
    assert np.ptp(weights[0][:60]) == 0.0


def test_tails_are_measured_as_arviz_does():
    from arviz_stats.base import array_stats

    draws = np.random.default_rng(1).standard_t(4, size=(4, 500))
    assert measure_tails(draws) == float(array_stats.pareto_khat(draws, chain_axis=0, draw_axis=1))


@pytest.mark.parametrize("kind", ["constant", "at a bound", "chains that stand still", "few"])
def test_where_no_tail_can_be_fitted_it_is_the_heaviest(kind):
    """Without a warning: a correlation whose draws stand at 1, chains that do not move."""
    draws = np.random.default_rng(1).normal(size=(4, 500))
    if kind == "constant":
        draws[:] = 1.0
    elif kind == "at a bound":
        draws = np.minimum(draws, 0.0)
    elif kind == "chains that stand still":
        draws[:] = np.arange(4.0)[:, None]
    else:
        draws = draws[:, :5]
    assert measure_tails(draws) == np.inf
