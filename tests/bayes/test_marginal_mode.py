"""Modes of marginal densities, inside and at a bound."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from bhlm.bayes.marginal_mode import find_mode

SEEDS = 20


@pytest.mark.parametrize("law", [stats.halfnorm(), stats.expon(), stats.foldnorm(0.8)])
def test_mode_at_the_bound_is_the_bound_for_every_seed(law):
    for seed in range(SEEDS):
        draws = law.rvs(4000, random_state=np.random.default_rng(seed))
        assert find_mode(draws, lower=0.0, ess=1000.0) == 0.0


@pytest.mark.parametrize(
    ("law", "mode"),
    [
        (stats.norm(3, 1), 3.0),
        (stats.gamma(4), 3.0),
        (stats.lognorm(0.5), np.exp(-0.25)),
    ],
)
def test_mode_inside_is_found(law, mode):
    found = [
        find_mode(law.rvs(4000, random_state=np.random.default_rng(seed)), lower=0.0)
        for seed in range(SEEDS)
    ]
    assert np.mean(found) == pytest.approx(mode, abs=0.1 * law.std())
    assert np.std(found) < 0.12 * law.std()
    half_sample = [
        float(array_stats.mode(law.rvs(4000, random_state=np.random.default_rng(seed))))
        for seed in range(SEEDS)
    ]
    assert np.std(found) < 0.7 * np.std(half_sample)


def test_correlation_has_two_bounds():
    rng = np.random.default_rng(0)
    near = np.minimum(1.0, 1.0 - np.abs(rng.standard_normal(4000)) * 0.2)
    assert find_mode(near, lower=-1.0, upper=1.0) == 1.0
    assert find_mode(-near, lower=-1.0, upper=1.0) == -1.0


def test_far_draws_and_constants_do_no_harm():
    draws = np.abs(np.random.default_rng(0).standard_cauchy(4000))
    assert find_mode(draws, lower=0.0) == 0.0
    assert find_mode(np.full(100, 2.0), lower=0.0) == 2.0
    assert np.isnan(find_mode(np.full(3, np.nan)))
