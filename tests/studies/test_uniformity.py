"""The test of uniform ranks, against enumeration, simulation and ArviZ."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binom

from bhlm.studies.uniformity import (
    NEGLIGIBLE,
    _find_quantile,
    _share_from,
    _share_up_to,
    count_below,
    grid_points,
    simultaneous_band,
    uniformity_p,
)

RELATIVE = 1e-10  # of one tail probability, as far out as doubles reach
ROUNDING = 1e-12  # sums of some hundred probabilities of double precision


def smallest_tail(ranks, n_draws):
    """The statistic, spelled out."""
    n = len(ranks)
    tails = []
    for i in range(1, n_draws + 1):
        below = int(np.sum(ranks < i))
        z = i / (n_draws + 1)
        tails += [binom.cdf(below, n, z), binom.sf(below - 1, n, z)]
    return min(tails)


def test_counts_below_each_point():
    assert count_below(np.array([0, 0, 2, 3]), 3).tolist() == [2, 2, 3]
    assert grid_points(3).tolist() == [0.25, 0.5, 0.75]


@pytest.mark.parametrize("n", [1, 2, 7, 40, 300, 20_000])
@pytest.mark.parametrize("n_draws", [1, 3, 9, 99])
def test_binomial_tails_and_quantiles_are_those_of_scipy(n, n_draws):
    z = grid_points(n_draws)
    for count in {0, 1, n // 2, n - 1, n}:
        counts = np.full(n_draws, count)
        np.testing.assert_allclose(_share_up_to(counts, n, z), binom.cdf(count, n, z), RELATIVE)
        np.testing.assert_allclose(_share_from(counts, n, z), binom.sf(count - 1, n, z), RELATIVE)
    for tail in (1e-30, 1e-9, 1e-4, 0.003, 0.02, 0.1234, 0.49, 0.9, 0.999):
        assert _find_quantile(tail, n, z).tolist() == binom.ppf(tail, n, z).tolist()


@pytest.mark.parametrize(("n", "n_draws"), [(3, 2), (4, 3), (3, 4), (2, 1)])
def test_p_is_that_of_all_outcomes(n, n_draws):
    outcomes = [np.array(o) for o in product(range(n_draws + 1), repeat=n)]
    tails = np.array([smallest_tail(o, n_draws) for o in outcomes])
    for outcome, tail in list(zip(outcomes, tails, strict=True))[::5]:
        expected = np.mean(tails <= tail * (1.0 + 1e-9))
        assert uniformity_p(outcome, n_draws) == pytest.approx(expected, abs=ROUNDING)


@pytest.mark.slow
def test_p_of_larger_studies_is_uniform():
    """At most as many p-values below a as a, and nearly as many: the steps are small."""
    rng = np.random.default_rng(1)
    p = np.array([uniformity_p(rng.integers(0, 20, 100), 19) for _ in range(800)])
    for level in (0.01, 0.05, 0.2, 0.5):
        error = 4.0 * np.sqrt(level * (1.0 - level) / len(p))
        assert level * 0.8 - error < np.mean(p <= level) < level + error


def test_the_band_is_that_of_arviz():
    """ArviZ simulates; where n = L + 1 its grid is this one."""
    from arviz_stats.ecdf_utils import get_pointwise_confidence_band, simulate_confidence_bands

    n = 60
    z = grid_points(n - 1)
    gamma = simulate_confidence_bands(n, 1, z, 0.95, 6_000, np.random.default_rng(2))
    theirs = np.round(np.array(get_pointwise_confidence_band(gamma, n, z)) * n)
    ours = np.array(simultaneous_band(n, n - 1, 0.95))
    # The simulated level is off by some tenths of a percent, which may move an edge by one.
    assert np.abs(ours - theirs).max() <= 1
    assert np.mean(ours == theirs) > 0.8


def test_the_band_holds_what_the_p_value_passes():
    rng = np.random.default_rng(3)
    n, n_draws, level = 60, 19, 0.9
    low, high = simultaneous_band(n, n_draws, level)
    verdicts = []
    for _ in range(400):
        ranks = np.minimum(rng.integers(0, 21, n), n_draws)  # not quite uniform
        below = count_below(ranks, n_draws)
        inside = bool(np.all((low <= below) & (below <= high)))
        assert inside == (uniformity_p(ranks, n_draws) > 1.0 - level)
        verdicts.append(inside)
    assert 0.1 < np.mean(verdicts) < 0.99


def test_extreme_ranks_have_a_negligible_p():
    for ranks in (np.zeros(1000, dtype=int), np.full(1000, 99), np.full(1000, 50)):
        assert uniformity_p(ranks, 99) < NEGLIGIBLE
    assert uniformity_p(np.tile(np.arange(100), 10), 99) == 1.0


def test_a_negligible_p_is_an_upper_bound():
    ranks = np.random.default_rng(4).binomial(19, 0.62, 40)
    bound = uniformity_p(ranks, 19)
    assert 0.0 < bound < NEGLIGIBLE
    assert uniformity_p(ranks, 19, negligible=0.0) <= bound
