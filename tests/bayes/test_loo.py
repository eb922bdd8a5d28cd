"""Leave-one-group-out: importance sampling against exact refits, and models compared by it."""

import warnings
from dataclasses import replace

import arviz as az
import numpy as np
import pandas as pd
import pytest

from bhlm.bayes.checks.importance import score_units
from bhlm.bayes.checks.loo import (
    choose_refits,
    compare_posteriors,
    khat_threshold,
    leave_out_groups,
    relative_efficiency,
)
from bhlm.bayes.priors.families import HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model

# Standard errors of the gap between two estimates of one elpd. Over five seeds the 60 gaps had an
# SD of one of them and a largest of 2.2.
ERRORS = 4.0


def simulate(seed, *, n_groups=12, rows=6, far=0.0):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), rows)
    # x differs so much between groups that its mean moves when one is left out.
    x = rng.normal(size=len(g)) + 3.0 * rng.normal(size=n_groups)[g]
    z = rng.normal(size=len(g))
    u = rng.normal(size=n_groups)
    u[0] += far
    y = 1.0 + 2.0 * x + 0.8 * z + u[g] + rng.normal(size=len(g))
    return pd.DataFrame({"g": g, "x": x, "z": z, "y": y})


@pytest.fixture(scope="module")
def table():
    return simulate(1)


@pytest.fixture(scope="module")
def post(table):
    """A fit whose prior of the Intercept is narrow where the columns stand at their means."""
    priors = Priors(fixed={"Intercept": Normal(0.0, 0.3)}, sd=HalfNormal(1.0), sigma=HalfNormal(1))
    return Model("y ~ x + z + (1 | g)", table).sample(seed=1, priors=priors)


@pytest.fixture(scope="module")
def smoothed(post):
    return leave_out_groups(post, refit=False)


def test_elpd_is_that_of_arviz(post, smoothed):
    theirs = az.loo(post.data, pointwise=True, reff=relative_efficiency(post))
    np.testing.assert_allclose(smoothed.elpd_i, theirs.elpd_i, rtol=1e-10)
    np.testing.assert_allclose(smoothed.table["khat"], theirs.pareto_k, rtol=1e-8)
    np.testing.assert_allclose(smoothed.se, theirs.se)
    np.testing.assert_allclose(smoothed.p, theirs.p, rtol=1e-8)
    assert smoothed.good_k == theirs.good_k
    assert smoothed.elpd_i.dims == ("g",)


@pytest.mark.slow
def test_smoothed_weights_agree_with_exact_refits(post, smoothed):
    """Under the same priors: the mean of x, where the Intercept's stands, moves with the groups."""
    good = smoothed.table["khat"] < 0.7
    assert good.sum() >= 8
    told = []
    short = replace(post, settings=replace(post.settings, draws=500, tune=300))
    exact = leave_out_groups(short, threshold=-np.inf, progress=lambda *at: told.append(at))
    assert exact.table["refitted"].all()
    assert told == [(i, 12) for i in range(1, 13)]
    gap = exact.table["elpd"] - smoothed.table["elpd"]
    error = np.hypot(exact.table["mcse"], smoothed.table["mcse"])
    assert error[good].max() < 0.5
    assert error[good].median() < 0.1
    assert (gap / error)[good].abs().max() < ERRORS
    pd.testing.assert_series_equal(exact.table["khat"], smoothed.table["khat"])
    assert (exact.pareto_k == 0.0).all()
    np.testing.assert_allclose(exact.elpd, exact.table["elpd"].sum())


@pytest.mark.slow
def test_an_outlying_group_is_refitted():
    fit = Model("y ~ x + (1 | g)", simulate(3, far=10.0)).sample(seed=1, draws=500)
    smoothed, exact = fit.loo(refit=False), fit.loo()
    assert smoothed.table.loc[0, "khat"] > 0.7
    assert not smoothed.trusted
    assert "k-hat is above 0.70 for g 0, so" in smoothed.summary()
    # 12 groups are cheap: those above .5 are refitted too.
    assert exact.table["refitted"].tolist() == (smoothed.table["khat"] > 0.5).tolist()
    assert not exact.warning
    refits = int(exact.table["refitted"].sum())
    assert f"1 above 0.70; {refits} with an exact refit" in exact.summary()
    # The group is far worse predicted by those who have not seen it than the weights can tell.
    assert exact.table.loc[0, "elpd"] < smoothed.table.loc[0, "elpd"] - 1.0
    assert 0.0 < exact.table.loc[0, "mcse"] < 0.5
    kept = ~exact.table["refitted"]
    np.testing.assert_array_equal(exact.table["elpd"][kept], smoothed.table["elpd"][kept])


def test_a_refit_that_does_not_converge_is_told(table):
    fit = Model("y ~ x + (1 | g)", table.assign(y=table["y"] + 40.0 * (table["g"] == 0))).sample(
        seed=1
    )
    rushed = replace(fit, settings=replace(fit.settings, draws=40, tune=5))
    loo = leave_out_groups(rushed)
    assert any("leaving out g 0: the posterior did not converge" in t for t in loo.failures)


def test_draws_that_failed_are_told(post):
    bad = replace(post, diagnostics=replace(post.diagnostics, ok=False, failures=("x",)))
    assert "failed the convergence verdict" in leave_out_groups(bad, refit=False).failures[0]


def test_groups_are_streamed(post, smoothed):
    data = post.data.copy()
    del data["log_likelihood"]
    part = leave_out_groups(post.with_data(data), refit=False, held=5 * 4000)
    pd.testing.assert_frame_equal(part.table, smoothed.table)


@pytest.mark.slow
def test_the_model_that_made_the_data_wins(table, post):
    fits = {name: Model(f"y ~ {name} + (1 | g)", table).sample(seed=1) for name in ("x", "z")}
    fits["x + z"] = post
    result = compare_posteriors(fits)
    assert result.index.tolist() == ["x + z", "x", "z"]
    assert result["elpd_diff"].tolist()[0] == 0.0
    assert result.loc["z", "elpd_diff"] < -2 * result.loc["z", "dse"]
    assert result.loc["x + z", "weight"] > 0.5
    given = {name: fit.loo() for name, fit in fits.items()}
    pd.testing.assert_frame_equal(result, compare_posteriors(given))
    pd.testing.assert_frame_equal(result, az.compare(given, round_to="none"))


def quick(table, formula="y ~ x + (1 | g)"):
    return Model(formula, table).sample(seed=1, draws=100, tune=200, chains=2).loo(refit=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(y=t["y"] + 1.0 * (t["g"] == 4)), "different values of 'y' in group 4"),
        (lambda t: t.iloc[1:], "different values of 'y' in group 0"),
        (lambda t: t[t["g"] > 0], r"different groups \(12 and 11\)"),
    ],
)
def test_other_data_are_refused(table, change, words):
    with pytest.raises(DataError, match=words):
        compare_posteriors({"a": quick(table), "b": quick(change(table))})


def test_another_response_is_refused(table):
    squared = quick(table, "I(y**2) ~ x + (1 | g)")
    with pytest.raises(DataError, match=r"different responses, 'y' and 'I\(y"):
        compare_posteriors({"a": quick(table), "b": squared})


def test_wrong_arguments(table, post, smoothed):
    with pytest.raises(ArgumentError, match="by='school' is not known"):
        compare_posteriors({"a": post, "b": post}, by="school")
    with pytest.raises(ArgumentError, match="1 models cannot be compared"):
        compare_posteriors({"a": post})
    with pytest.raises(ArgumentError, match="'a' is BayesFit, which has no elpd by row"):
        compare_posteriors({"a": post, "b": post}, by="row")
    with pytest.raises(ArgumentError, match="'a' is leave-one-group-out"):
        compare_posteriors({"a": smoothed, "b": smoothed}, by="row")
    with pytest.raises(ArgumentError, match="'b' is str"):
        compare_posteriors({"a": smoothed, "b": "x"})
    prior = Model("y ~ x + (1 | g)", table).sample(seed=1, draws=100, prior_only=True)
    with pytest.raises(ArgumentError, match="has not seen the response"):
        prior.loo()


def test_threshold_falls_with_few_draws(post):
    assert khat_threshold(post) == 0.7
    fewer = post.with_data(post.data.isel(chain=slice(0, 1), draw=slice(0, 100)))
    assert khat_threshold(fewer) == 0.5
    assert relative_efficiency(fewer) == 1.0


@pytest.mark.parametrize("k", [0.5, 0.65])
def test_stated_error_is_that_of_known_pareto_weights(k):
    # With densities u^k, u uniform, the weights are Pareto and elpd is log(1 - k) exactly. By the
    # spread of the weights alone, .11 to .23 of the truths lie beyond 2 errors.
    beyond = 0
    for seed in range(60):
        loglik = k * np.log(np.random.default_rng(seed).random((1, 4000)))
        elpd, error, _, _ = score_units(loglik, 1.0)
        beyond += abs(elpd[0] - np.log(1.0 - k)) > 2.0 * error[0]
    assert beyond <= 9


def test_refits_go_to_the_worst_first_as_far_as_they_are_cheap():
    khat = np.array([0.1, 0.55, 0.9, 0.65, np.nan])
    assert choose_refits(khat, threshold=0.7, affordable=9).tolist() == [4, 2, 3, 1]
    assert choose_refits(khat, threshold=0.7, affordable=3).tolist() == [4, 2, 3]
    assert choose_refits(khat, threshold=0.7, affordable=0).tolist() == [4, 2]


def test_densities_far_apart_give_no_warning() -> None:
    """Draws that were moved lie thousands of log units from some rows."""
    loglik = np.random.default_rng(1).normal(size=(3, 400))
    loglik[1] *= 1000.0
    loglik[2, 0] = -5000.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elpd, error, _, _ = score_units(loglik, 1.0)
    assert np.isfinite(elpd).all()
    assert np.isfinite(error[0])
    assert np.isinf(error[1:]).all()
