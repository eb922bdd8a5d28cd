"""Independent draws: their law against NUTS and theory, what they are worth, and who is refused."""

import logging
import math
from dataclasses import replace
from html import unescape

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats

import bhlm
from bhlm.bayes.draws import Settings
from bhlm.bayes.importance.target import build_target
from bhlm.bayes.independent import (
    LARGE,
    ROUTE,
    choose_method,
    count_effective,
    plan_ratio,
    resample,
    resample_target,
)
from bhlm.bayes.priors.families import StudentT
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.bayes.sampling import sample_moments
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.likelihood import crossed
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.whitening import whiten
from bhlm.plots import plot_energy, plot_pairs
from bhlm.reports.json import describe_posterior

# Monte Carlo standard errors that two means may be apart: of some 50, one in a million.
ERRORS = 5.5


@pytest.fixture(scope="module")
def drawn(hsb_model):
    return hsb_model.sample(seed=3, draws=500, method="independent")


def test_draws_are_taken_as_often_as_their_weight_says():
    rng = np.random.default_rng(1)
    weight = rng.exponential(size=(3, 50))
    mean = 20 * weight / weight.sum(axis=1, keepdims=True)
    total = np.zeros_like(mean)
    for _ in range(500):
        chosen = resample(weight, 20, rng)
        assert np.all(np.diff(chosen, axis=1) >= 0)  # copies adjoin
        times = np.stack([np.bincount(row, minlength=50) for row in chosen])
        assert np.all((times == np.floor(mean)) | (times == np.ceil(mean)))
        total += times
    # A share of 500 has a standard error of at most sqrt(1/4 / 500).
    assert np.abs(total / 500 - mean).max() < ERRORS * math.sqrt(0.25 / 500)


def test_autocorrelations_of_copies_tell_the_variance_of_means():
    """Draws of N(0, 1) from N(0, 2^2), whose weights leave many copies."""
    rng = np.random.default_rng(2)
    means, effective, ess = [], [], []
    for _ in range(400):
        x = 2.0 * rng.standard_normal((1, 300))
        weight = np.exp(-0.5 * x**2 * (1.0 - 0.25))
        chosen = resample(weight, 300, rng)
        values = np.take_along_axis(x, chosen, axis=1)
        means.append(values.mean())
        effective.append(count_effective(chosen))
        ess.append(float(array_stats.ess(values, chain_axis=0, draw_axis=1, method="mean")))
    # The SD of an SD of 400 is 3.5 %; systematic resampling is a little better than it says.
    # What is drawn too rarely lies far out, so that a mean is worth more than the bare number.
    worth = 1.0 / np.var(means)
    assert 0.8 < worth / np.mean(ess) < 1.4
    assert 170 < np.mean(effective) < np.mean(ess) < 300


def test_more_proposals_are_planned_where_weights_are_uneven():
    even = np.full(1000, 1e-3)
    assert plan_ratio(even) == 1.0
    uneven = np.random.default_rng(1).exponential(size=1000)
    assert 1.0 < plan_ratio(uneven / uneven.sum()) <= 4.0


def test_agrees_with_nuts_in_means_sds_and_tails(drawn, hsb_post):
    for name, own in drawn.draws.items():
        other = hsb_post.draws[name]
        for what in (lambda x: x, lambda x: (x - x.mean()) ** 2, *map(_below, _tails(other))):
            one, two = what(own), what(other)
            error = math.hypot(_mcse(one), _mcse(two))
            assert abs(one.mean() - two.mean()) < ERRORS * error, name


def _tails(x):
    return np.quantile(x, [0.05, 0.95])


def _below(point):
    return lambda x: (x < point).astype(float)


def _mcse(x):
    return float(array_stats.mcse(x, method="mean", chain_axis=0, draw_axis=1))


def test_effects_are_drawn_given_each_draw(drawn, hsb_post):
    own, other = drawn.group_effects(), hsb_post.group_effects()
    assert own["mean"].to_numpy() == pytest.approx(other["mean"].to_numpy(), abs=0.25)
    assert own["sd"].to_numpy() == pytest.approx(other["sd"].to_numpy(), rel=0.25)
    u = drawn.data["posterior"]["u"].values
    assert len(np.unique(u[..., 0, 0])) == u[..., 0, 0].size  # also of copies


def test_summary_and_json_say_how_the_draws_were_made(drawn):
    found = drawn.diagnostics
    assert found.ok
    assert found.certificate.khat < 0.7
    assert found.certificate.distinct <= 2000
    assert found.certificate.effective == pytest.approx(found.min_ess_bulk, rel=0.2)
    text = drawn.summary()
    assert ROUTE in text
    assert found.certificate.sentence in " ".join(text.split())
    assert "divergences" not in text
    told = describe_posterior(drawn)["diagnostics"]
    assert told["divergences"] is None
    assert told["min_bfmi"] is None
    assert told["khat"] == found.certificate.khat
    assert drawn.settings.method == "independent"


def test_figures_of_a_sampler_that_moves_are_refused(drawn):
    with pytest.raises(ArgumentError, match="independent draws have no energies"):
        plot_energy(drawn)
    figure = plot_pairs(drawn)
    assert figure.table["correlation"].notna().all()
    assert "diverged" not in figure.reading


def test_saved_draws_come_back(drawn, tmp_path):
    drawn.save(tmp_path / "fit.nc")
    again = bhlm.load(tmp_path / "fit.nc")
    assert again.diagnostics.to_dict() == drawn.diagnostics.to_dict()
    assert again.diagnostics.certificate.distinct == drawn.diagnostics.certificate.distinct
    assert again.summary() == drawn.summary()


def test_same_seed_same_draws_and_chains_share_nothing():
    moments = _simulate(20, 6)
    settings = Settings(draws=100, chains=2, method="independent")
    one, two, other = (
        sample_moments(moments, seed=seed, settings=settings).draws for seed in (1, 1, 2)
    )
    for name in one:
        assert np.array_equal(one[name], two[name])
        assert not np.array_equal(one[name], other[name])
    sd = one["sd(Intercept|g)"]
    assert not set(sd[0]) & set(sd[1])


def _simulate(n_groups, size):
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(n_groups), size)
    y = 1.0 + rng.standard_normal(n_groups)[group] + rng.standard_normal(n_groups * size)
    return Model("y ~ 1 + (1 | g)", pd.DataFrame({"y": y, "g": group})).moments


@pytest.mark.slow
def test_priors_of_fixed_effects_that_are_no_normals_are_weighed_in():
    """A t about a far value moves the mean as NUTS has it."""
    moments = _simulate(20, 6)
    priors = Priors(fixed={"Intercept": StudentT(3.0, 3.0, 0.2)})
    fits = [
        sample_moments(
            moments, seed=1, priors=priors, settings=Settings(method=method, draws=1000, tune=500)
        )
        for method in ("independent", "nuts")
    ]
    own, other = (fit.draws["Intercept"] for fit in fits)
    assert abs(own.mean() - other.mean()) < ERRORS * math.hypot(_mcse(own), _mcse(other))
    assert own.std() == pytest.approx(other.std(), rel=0.1)


def test_weights_beyond_the_limit_are_refused_with_the_number():
    moments = _simulate(20, 6)
    structure = arrange(moments)
    target = build_target(
        whiten(moments, structure), resolve_priors(None, moments, structure=structure), structure
    )
    reason = resample_target(target, chains=2, draws=100, seed=1, limit=-5.0)
    assert reason.startswith("Pareto's k of the importance weights is ")
    assert reason.endswith(", above -5")


def test_an_improper_posterior_is_refused_with_the_way_out():
    moments = _simulate(2, 6)
    settings = Settings(method="independent")
    with pytest.raises(ArgumentError, match=r"improper; take method='nuts'"):
        sample_moments(moments, seed=1, settings=settings, priors=Priors.flat())


def test_many_groups_are_drawn_independently_where_nothing_speaks_against_it():
    priors = resolve_priors(None, _simulate(20, 6))
    settings = Settings()
    assert choose_method(settings, LARGE - 1, priors) == "nuts"
    assert choose_method(settings, LARGE, priors) == "independent"
    assert choose_method(replace(settings, method="nuts"), LARGE, priors) == "nuts"
    assert choose_method(replace(settings, method="independent"), 5, priors) == "independent"
    assert choose_method(replace(settings, prior_only=True), LARGE, priors) == "nuts"
    assert choose_method(replace(settings, sampler="density"), LARGE, priors) == "nuts"
    assert choose_method(settings, LARGE, priors, is_plain=False) == "nuts"
    assert choose_method(settings, LARGE, priors, is_watched=True) == "nuts"
    assert choose_method(settings, 5, priors, is_dear=True) == "independent"
    assert choose_method(settings, 5, priors, is_dear=True, is_watched=True) == "nuts"


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ("prior_only=True", {"prior_only": True}),
        ("sampler='density'", {"sampler": "density"}),
    ],
)
def test_what_only_nuts_draws_is_refused(asked, options):
    settings = Settings(method="independent", **options)
    with pytest.raises(ArgumentError, match=asked):
        sample_moments(_simulate(20, 6), seed=1, settings=settings)


def test_an_unknown_method_is_refused():
    with pytest.raises(ArgumentError, match="method='gibbs' is not known; choose 'nuts' or"):
        Settings(method="gibbs")


@pytest.mark.slow
def test_they_are_reconciled_with_reml(hsb_reml, drawn, tmp_path):
    both = bhlm.reconcile(hsb_reml, drawn)
    assert both.verdict == "explained"
    both.dashboard(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert drawn.diagnostics.certificate.sentence in page
    assert "method='independent'" in unescape(page)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["several", "family"])
def test_several_factors_and_families_have_them_where_asked(kind):
    """The means of NUTS, with as many draws."""
    rng = np.random.default_rng(5)
    g, h = np.repeat(np.arange(30), 8), np.tile(np.arange(8), 30)
    eta = 0.3 + rng.standard_normal(30)[g]
    y = eta + rng.standard_normal(240) + 0.5 * rng.standard_normal(8)[h]
    if kind == "family":
        table = pd.DataFrame({"y": (y > 0.0).astype(int), "g": g})
        model = Model("y ~ 1 + (1 | g)", table, family="bernoulli")
    else:
        model = Model("y ~ 1 + (1 | g) + (1 | h)", pd.DataFrame({"y": y, "g": g, "h": h}))
    own, other = (
        model.sample(seed=1, draws=400, tune=400, method=method)
        for method in ("independent", "nuts")
    )
    assert own.diagnostics.certificate.khat < 0.7
    for name, x in own.draws.items():
        if not name.startswith("var"):
            error = math.hypot(_mcse(x), _mcse(other.draws[name]))
            assert abs(x.mean() - other.draws[name].mean()) < ERRORS * error, name
    assert "resampled by their weights" in own.summary()


@pytest.mark.slow
def test_a_wide_rest_of_crossed_factors_takes_independent_draws_by_default(caplog, monkeypatch):
    """Which columns are many is lowered, so that the model is small."""
    rng = np.random.default_rng(6)
    g, h = rng.integers(0, 40, 400), rng.integers(0, 20, 400)
    y = 1.0 + rng.standard_normal(40)[g] + rng.standard_normal(20)[h] + rng.standard_normal(400)
    model = Model("y ~ 1 + (1 | g) + (1 | h)", pd.DataFrame({"y": y, "g": g, "h": h}))
    assert model.sample(seed=1, draws=100, tune=200).settings.method == "nuts"
    monkeypatch.setattr(crossed, "WIDE", 19)
    with caplog.at_level(logging.INFO, logger="bhlm"):
        fit = model.sample(seed=1, draws=100)
    assert fit.settings.method == "independent"
    assert "method='nuts' takes NUTS" in caplog.text
    assert model.sample(seed=1, draws=100, tune=200, method="nuts").settings.method == "nuts"


@pytest.mark.slow
def test_thousands_of_groups_take_independent_draws_by_default(caplog):
    moments = _simulate(LARGE, 3)
    with caplog.at_level(logging.INFO, logger="bhlm"):
        fit = sample_moments(moments, seed=1, settings=Settings(draws=200))
    assert fit.settings.method == "independent"
    assert "method='nuts' takes NUTS" in caplog.text
    assert fit.diagnostics.certificate.effective > 600


@pytest.mark.slow
def test_ranks_of_true_values_are_uniform():
    """Simulation-based calibration of a random intercept in 12 groups."""
    found = bhlm.calibrate(
        _simulate(12, 6), seed=1, replicates=60, n_draws=49, thin=4, method="independent",
        processes=1,
    )  # fmt: skip
    assert found.ok, found.summary()
    assert found.independent >= 55
    assert "drawn independently in" in found.summary()
