"""The verdict fails when it must, and says which parameter and what to do."""

import numpy as np
import pytest

from bhlm.convergence import SUMMARY_COLUMNS, diagnose, summarize


def good(seed=0, chains=4, draws=1000):
    return np.random.default_rng(seed).normal(size=(chains, draws))


def judge(draws, **changes):
    shape = next(iter(draws.values())).shape
    statistics = {
        "energy": np.random.default_rng(9).normal(size=shape),
        "diverging": np.zeros(shape, dtype=bool),
        "treedepth": np.zeros(shape, dtype=bool),
    }
    return diagnose(draws, **(statistics | changes))


def test_good_draws_pass():
    verdict = judge({"a": good(1), "b": good(2)})
    assert verdict.ok
    assert verdict.failures == ()
    assert verdict.max_rhat < 1.01
    assert verdict.min_ess_bulk > 3000


def test_chains_that_disagree_fail_by_name():
    shifted = good(3)
    shifted[0] += 1.0
    verdict = judge({"a": good(1), "var(x|g)": shifted})
    assert not verdict.ok
    assert any("R-hat of var(x|g) is" in failure for failure in verdict.failures)


def test_sticky_chains_fail_on_effective_size():
    rng = np.random.default_rng(4)
    sticky = np.cumsum(rng.normal(size=(4, 1000)), axis=1)
    verdict = judge({"a": sticky})
    assert any(
        "bulk ESS of a" in failure and "more draws" in failure for failure in verdict.failures
    )


def test_a_constant_parameter_fails():
    assert not judge({"a": np.zeros((4, 1000))}).ok


def test_nan_fails():
    broken = good(5)
    broken[0, 0] = np.nan
    assert not judge({"a": broken}).ok


def test_sampler_flags_fail():
    draws = {"a": good(6)}
    flag = np.zeros((4, 1000), dtype=bool)
    flag[2, 7] = True
    assert "1 of 4000 transitions diverged" in judge(draws, diverging=flag).failures[0]
    assert (
        "1 of 4000 transitions hit the tree-depth limit" in judge(draws, treedepth=flag).failures[0]
    )
    energy = np.cumsum(np.random.default_rng(7).normal(size=(4, 1000)), axis=1)
    assert "E-BFMI" in judge(draws, energy=energy).failures[0]


def test_summary_columns():
    draws = good(8) * 2.0 + 5.0
    row = dict(zip(SUMMARY_COLUMNS, summarize({"a": draws})["a"], strict=True))
    assert row["mean"] == pytest.approx(draws.mean())
    assert row["sd"] == pytest.approx(draws.std(ddof=1))
    assert row["lower"] == pytest.approx(np.quantile(draws, 0.025))
    assert row["upper"] == pytest.approx(np.quantile(draws, 0.975))
    # A density near its peak is flat: the mode of 4000 draws is good to a third of an SD.
    assert row["mode"] == pytest.approx(5.0, abs=0.8)
    assert row["mcse_mean"] == pytest.approx(2.0 / np.sqrt(row["ess_bulk"]), rel=0.1)
