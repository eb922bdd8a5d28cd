"""R-hat and effective draws, against ArviZ's."""

import numpy as np
import pytest
from arviz_stats.base import array_stats

from bhlm.bayes import mixing
from bhlm.bayes.mixing import measure, measure_bulk, measure_mean

ROUNDING = 1e-9  # autocovariances by transforms of another length
AXES = {"chain_axis": 1, "draw_axis": 2}


def draw_chains(shape, *, correlation=0.0, seed=1):
    """Return autoregressive draws (m, chain, draw)."""
    x = np.random.default_rng(seed).normal(size=shape)
    for t in range(1, shape[2]):
        x[:, :, t] += correlation * x[:, :, t - 1]
    return x


def assert_as_arviz(stack):
    """R-hat and each ESS of a stack are ArviZ's."""
    with np.errstate(all="ignore"):
        expected = (
            array_stats.rhat(stack, **AXES),
            array_stats.ess(stack, method="bulk", **AXES),
            array_stats.ess(stack, method="tail", prob=(0.05, 0.95), **AXES),
        )
        mean = array_stats.ess(stack, method="mean", **AXES)
    found = measure(stack)
    np.testing.assert_allclose(found, np.reshape(expected, (3, -1)), rtol=ROUNDING)
    np.testing.assert_allclose(measure_mean(stack), np.atleast_1d(mean), rtol=ROUNDING)
    np.testing.assert_array_equal(measure_bulk(stack), found.ess_bulk)


@pytest.mark.parametrize("draws", [3, 4, 5, 6, 7, 8, 9, 10, 11, 40, 99, 495])
@pytest.mark.parametrize("chains", [1, 2, 4])
def test_any_number_of_chains_and_draws(chains, draws):
    for correlation in (-0.95, -0.6, 0.0, 0.5, 0.95, 1.0):
        assert_as_arviz(draw_chains((3, chains, draws), correlation=correlation, seed=draws))


@pytest.mark.parametrize("draws", [4, 7, 10, 101, 400])
def test_draws_that_tie_do_not_move_or_are_no_numbers(draws):
    rng = np.random.default_rng(draws)
    shape = (3, 4, draws)
    odd = draw_chains((4, 4, draws))
    odd[0], odd[1, 0, 0], odd[2, -1, -1] = 2.0, np.nan, np.inf
    for stack in (
        odd,
        rng.integers(0, 3, size=shape).astype(float),
        (rng.random(shape) < 0.02).astype(float),
        np.cumsum(np.ones(shape), axis=2),
        np.broadcast_to((-1.0) ** np.arange(draws), shape),
        draw_chains(shape) + 9.0 * np.arange(4)[:, None],
    ):
        assert_as_arviz(stack)


def test_what_is_taken_in_turns_is_the_same(monkeypatch):
    stack = draw_chains((7, 2, 60), correlation=0.4)
    whole = measure(stack)
    monkeypatch.setattr(mixing, "AT_ONCE", 250)
    np.testing.assert_array_equal(measure(stack), whole)
