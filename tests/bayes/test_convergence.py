"""The verdict fails when it must, and says which parameter and what to do."""

import numpy as np
import pytest
import xarray as xr
from simulate import simulate_table

from bhlm.bayes.convergence import _failing, diagnose, diagnose_data, summarize
from bhlm.errors import DataError
from bhlm.fits.model import Model


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
    row = summarize({"a": draws})["a"]._asdict()
    assert row["mean"] == pytest.approx(draws.mean())
    assert row["sd"] == pytest.approx(draws.std(ddof=1))
    assert row["lower"] == pytest.approx(np.quantile(draws, 0.025))
    assert row["upper"] == pytest.approx(np.quantile(draws, 0.975))
    # A density near its peak is flat: the mode of 4000 draws is good to a third of an SD.
    assert row["mode"] == pytest.approx(5.0, abs=0.8)
    assert row["mcse_mean"] == pytest.approx(2.0 / np.sqrt(row["ess_bulk"]), rel=0.1)


def test_divergences_are_located():
    """The sentence names the parameter that the divergent draws are furthest off in."""
    draws = {"a": good(1), "sd(x|g)": np.abs(good(2))}
    low = draws["sd(x|g)"] < 0.05
    verdict = judge(draws, diverging=low)
    assert any("diverged, mostly where sd(x|g) is small" in text for text in verdict.failures)
    verdict = judge(draws, treedepth=draws["a"] > 2.0)
    assert any("limit, mostly where a is large; raise" in text for text in verdict.failures)


@pytest.fixture(scope="module")
def funnel():
    """A centred model whose groups say nothing about their spread: Neal's funnel."""
    import pymc as pm

    with pm.Model(coords={"group": range(9)}):
        log_tau = pm.Normal("log_tau", 0.0, 3.0)
        pm.Normal("u", 0.0, pm.math.exp(log_tau), dims="group")
        return pm.sample(draws=500, tune=500, chains=4, random_seed=1, progressbar=False)


@pytest.mark.slow
def test_a_centred_funnel_fails_and_says_where(funnel):
    verdict = diagnose_data(funnel)
    assert not verdict.ok
    text = " ".join(verdict.failures)
    assert "log_tau" in text
    assert "transitions diverged" in text
    assert "raise target_accept" in text
    assert not diagnose_data(funnel, var_names=["log_tau"]).ok


def test_a_good_posterior_of_another_model_passes():
    from arviz_base import from_dict

    shape = (4, 1000)
    rng = np.random.default_rng(3)
    stats = {
        "energy": rng.normal(size=shape),
        "diverging": np.zeros(shape, dtype=bool),
        "maxdepth_reached": np.zeros(shape, dtype=bool),
    }
    corr = np.broadcast_to(np.eye(2), (*shape, 2, 2)).copy()
    corr[..., 0, 1] = corr[..., 1, 0] = rng.uniform(-1, 1, shape)
    data = from_dict({"posterior": {"a": good(1), "corr": corr}, "sample_stats": stats})
    assert diagnose_data(data).ok  # the constant diagonal is no failure
    stats["maxdepth_reached"][0, :7] = True
    data = from_dict({"posterior": {"a": good(1)}, "sample_stats": stats})
    assert diagnose_data(data).max_treedepth == 7


@pytest.mark.parametrize(
    ("content", "var_names", "expected"),
    [
        ({"posterior": {"a": 1}}, None, "has no group 'sample_stats'"),
        ({"posterior": {"a": 1}, "sample_stats": {"energy": 1}}, None, "has no 'diverging'"),
        ({"posterior": {"a": 1}, "sample_stats": {"energy": 1}}, ["b"], "'b' is no variable"),
    ],
)
def test_data_without_what_the_verdict_rests_on_is_refused(content, var_names, expected):
    from arviz_base import from_dict

    filled = {name: dict.fromkeys(group, good(1)) for name, group in content.items()}
    with pytest.raises(DataError) as error:
        diagnose_data(from_dict(filled), var_names=var_names)
    assert expected in str(error.value)


def test_the_verdict_and_the_table_have_the_same_measures():
    draws = {"a": good(9), "b": good(10) + 0.1 * np.arange(4)[:, None]}
    found, rows = judge(draws), summarize(draws).values()
    assert found.max_rhat == max(row.rhat for row in rows)
    assert found.min_ess_bulk == min(row.ess_bulk for row in rows)
    assert found.min_ess_tail == min(row.ess_tail for row in rows)


def test_estimates_are_computed_once_and_belong_to_their_draws():
    model = Model("y ~ x + (1 | g)", simulate_table(3))
    fit = model.sample(seed=1, draws=30, tune=100, chains=2)
    table = fit.estimates
    assert fit.draws["x"] is fit.draws["x"]
    table.loc["x", "mean"] = 0.0
    fit.draws.clear()
    assert fit.estimates.loc["x", "mean"] == pytest.approx(fit.draws["x"].mean())
    moved = fit.data["posterior"].to_dataset()
    moved["beta"] = moved["beta"] + 1.0
    other = fit.with_data(xr.DataTree.from_dict({"posterior": moved}))
    assert other.estimates.loc["x", "mean"] == pytest.approx(fit.estimates.loc["x", "mean"] + 1.0)


@pytest.mark.parametrize(
    ("value", "shown"), [(1.0100001, "1.0100001"), (1.0104, "1.0104"), (1.052, "1.052")]
)
def test_what_fails_is_not_printed_as_its_limit(value, shown):
    values = np.array([1.0, value])
    (sentence,) = _failing(["a", "b"], "R-hat", values, values - 1.01, "above 1.01", "run longer")
    assert sentence == f"R-hat of b is {shown}, above 1.01; run longer"
