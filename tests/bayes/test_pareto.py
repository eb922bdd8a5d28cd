"""Smoothed weights of draws that may have no tail."""

import numpy as np
import pytest

from bhlm.bayes.pareto import smooth_tails


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
