"""The bootstrap: its seeds, processes and intervals."""

from dataclasses import replace

import numpy as np
import pytest
from lme4_cases import fit_case
from simulate import simulate_table
from small_groups import draw_groups

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reml.bootstrap import (
    Bootstrap,
    bootstrap,
    plan_refits,
)


@pytest.mark.slow
def test_draws_are_near_the_fit_and_its_standard_errors():
    fit = Model("y ~ x + w + (x | g)", simulate_table(2, n_groups=60, largest=20)).reml()
    table = bootstrap(fit, replicates=600, seed=3).intervals()
    assert not fit.singular
    expected = fit.estimates
    assert list(table.index) == list(expected.index)
    assert table["estimate"].to_numpy() == pytest.approx(expected["estimate"].to_numpy(), rel=1e-9)
    # A SD of 600 draws has an error of 3 %; REML's own is an approximation.
    assert table["se"].to_numpy() == pytest.approx(expected["se"].to_numpy(), rel=0.25)
    assert np.all(np.abs(table["bias"]) < 0.2 * table["se"])
    assert np.all((table["lower"] < table["estimate"]) & (table["estimate"] < table["upper"]))


@pytest.mark.slow
def test_the_seed_alone_decides():
    fit = Model("y ~ x + w + (x | g)", simulate_table(2, n_groups=12)).reml()
    calls: list[tuple[int, int]] = []
    serial = bootstrap(fit, replicates=30, seed=4, progress=lambda *now: calls.append(now))
    spread = bootstrap(fit, replicates=30, seed=4, processes=2)
    other = bootstrap(fit, replicates=30, seed=5)
    np.testing.assert_array_equal(serial.draws, spread.draws)
    np.testing.assert_array_equal(serial.converged, spread.converged)
    assert not np.array_equal(serial.draws, other.draws)
    assert len({tuple(row) for row in serial.draws}) == 30
    assert calls[-1] == (30, 30)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    # A longer run starts with the shorter one.
    longer = bootstrap(fit, replicates=40, seed=4)
    np.testing.assert_array_equal(longer.draws[:30], serial.draws)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_replicates_are_fitted_by_the_method_of_the_fit(method):
    fit = Model("y ~ x + w + (x | g)", simulate_table(2, n_groups=12)).reml(method=method)
    plan, seed = plan_refits(fit), np.random.SeedSequence(1)
    assert plan.restricted == (method == "reml")
    other = replace(plan, restricted=not plan.restricted).replicate(seed)
    assert (plan.replicate(seed).gs[0][0, 0] > other.gs[0][0, 0]) == (method == "reml")


def test_a_singular_fit_can_be_resampled():
    fit = fit_case("dyestuff2", "reml")
    result = bootstrap(fit, replicates=200, seed=1)
    assert fit.singular
    assert result.converged.all()
    # With a true variance of zero, somewhat more than half of the estimates are zero.
    assert 0.45 < result.singular.mean() < 0.8
    assert np.all((result.draws[:, 1] == 0.0) == result.singular)
    assert result.intervals().loc["var(Intercept|Batch)", "lower"] == 0.0


def test_intervals_are_quantiles_and_their_reflection():
    draws = np.array([[1.0, np.nan], [2.0, 0.5], [3.0, np.nan], [6.0, 0.7]])
    flags = np.ones(4, dtype=bool)
    anywhere = np.array([[-np.inf, np.inf]] * 2)
    result = Bootstrap(("a", "b"), np.array([2.0, 0.6]), draws, flags, ~flags, 1, anywhere)
    percentile = result.intervals(level=0.5).loc["a"]
    basic = result.intervals(level=0.5, kind="basic").loc["a"]
    assert (percentile["lower"], percentile["upper"]) == (1.75, 3.75)
    assert (basic["lower"], basic["upper"]) == (0.25, 2.25)
    assert percentile["bias"] == 1.0
    assert percentile["se"] == pytest.approx(np.std([1, 2, 3, 6], ddof=1))
    assert result.intervals().loc["b", "bias"] == pytest.approx(0.0)
    with pytest.raises(ArgumentError, match="kind='bca' is not known; choose one of percentile"):
        result.intervals(kind="bca")
    with pytest.raises(ArgumentError, match=r"level=0(\.0)? is not between"):
        result.intervals(level=0)


@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_basic_intervals_stay_where_parameters_can_be(sd):
    table = draw_groups(8, 6, sd=(sd, sd), seed=2)
    result = bootstrap(Model("y ~ x + (x | g)", table).reml(), replicates=60, seed=1)
    basic, percentile = (result.intervals(kind=kind) for kind in ("basic", "percentile"))
    scales = basic.index.str.startswith(("var(", "sd("))
    assert (basic.loc[scales, "lower"] >= 0.0).all()
    correlation = basic.loc["corr(Intercept,x|g)"]
    assert correlation["lower"] >= -1.0
    assert correlation["upper"] <= 1.0
    replaced = basic["kind"] == "percentile"
    assert replaced[["var(Intercept|g)", "corr(Intercept,x|g)"]].all()
    assert not replaced[["Intercept", "x", "cov(Intercept,x|g)"]].any()
    assert basic[replaced].equals(percentile[replaced])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replicates": 1}, "replicates=1 is too small; give at least 2"),
        ({"seed": -1}, "seed=-1 is too small; give at least 0"),
        ({"processes": -1}, "processes=-1 is too small"),
        ({"replicates": 2.5}, "replicates=2.5 is not a whole number; give one such as 2"),
        ({"seed": None}, "seed=None is not a whole number"),
        ({"processes": "2"}, "processes='2' is not a whole number"),
    ],
)
def test_impossible_runs_are_refused(arguments, message):
    fit = Model("y ~ x + w + (1 | g)", simulate_table(2)).reml()
    with pytest.raises(ArgumentError, match=message):
        bootstrap(fit, **arguments)
