"""Means that do not exist stand in no table of draws."""

import math

import numpy as np
import pandas as pd
import pytest
from simulate import simulate_table
from small_studies import small_model

from bhlm.bayes.existence import index_tails
from bhlm.bayes.priors.families import Flat, HalfCauchy, HalfNormal, HalfStudentT, Normal
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.whitening import whiten
from bhlm.reports.json import describe_posterior


def index(model: Model, priors: Priors | None, *, covariance: str | None = None, **options):
    moments = model.moments
    structure = arrange(moments, covariance)
    resolved = resolve_priors(priors, moments, structure=structure)
    return index_tails(moments, structure, resolved, whiten(moments, structure), **options)


@pytest.fixture(scope="module")
def nine_groups() -> Model:
    """Three coefficients and nine groups: the flat integrand falls as 1 / lambda."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(9), 15)
    x, z, y = rng.normal(size=(3, 135))
    return Model("y ~ x + z + (x + z | g)", pd.DataFrame({"g": g, "x": x, "z": z, "y": y}))


def test_flat_variances_have_no_mean_where_the_groups_are_few(nine_groups):
    flat = index(nine_groups, Priors.flat())
    assert flat["var(x|g)"] <= 1.0 < flat["sd(x|g)"] <= 2.0
    assert flat["corr(x,z|g)"] == math.inf
    assert min(index(nine_groups, None).values()) > 1.0


def test_draws_of_the_prior_have_the_moments_of_the_prior():
    model = small_model()
    half_t = index(model, Priors(sd=HalfStudentT(3, 1)), prior_only=True)
    assert half_t["sd(Intercept|g)"] == 3.0
    assert half_t["var(Intercept|g)"] == 1.5
    assert index(model, Priors(sd=HalfNormal(1)), prior_only=True)["sd(Intercept|g)"] == math.inf


def test_where_priors_stand_decides_which_draws_have_a_mean():
    """An Intercept at zero is that at the means less a slope: the slope's tail is its own."""
    table = simulate_table(3).assign(x=lambda t: t["x"] + 5.0)
    model = Model("y ~ x + w + (x | g)", table)
    priors = Priors(sd={"x": HalfCauchy(1), "Intercept": HalfNormal(1)}, fixed=Normal(0, 1))
    given = Priors(sd=priors.sd, fixed=priors.fixed, at="zero")
    assert index(model, priors, prior_only=True)["sd(Intercept|g)"] == 1.0
    assert index(model, given, prior_only=True)["sd(Intercept|g)"] == math.inf


@pytest.mark.parametrize(
    ("covariance", "priors", "expected"),
    [
        # sd^-N with N = 2 J - p; flat on the variance is a power of 1 of the SD.
        ("identity", Priors(fixed=Flat(), sd=Flat()), 2 * 5 - 2 - 1),
        ("identity", Priors.flat(), 2 * 5 - 2 - 2),
        # One eigenvalue v alone grows: flat on it, and J less the fixed effect along it.
        ("exchangeable", Priors.flat(), 5 - 1 - 2),
    ],
)
def test_coefficients_that_share_an_sd(covariance, priors, expected):
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(5), 8)
    x, y = rng.normal(size=(2, 40))
    model = Model("y ~ x + (x | g)", pd.DataFrame({"g": g, "x": x, "y": y}))
    found = index(model, priors, covariance=covariance)
    assert found["sd(Intercept|g)"] == expected


def test_tables_of_draws_withhold_what_does_not_exist():
    model = small_model()
    fit = model.sample(
        seed=1, draws=50, tune=50, chains=2, prior_only=True, priors=Priors(sd=HalfCauchy(1.0))
    )
    name = "sd(Intercept|g)"
    row = fit.estimates.loc[name]
    assert np.isnan(row[["mean", "sd", "mcse_mean"]].astype(float)).all()
    assert np.isfinite(row[["median", "lower", "upper"]].astype(float)).all()
    assert "has no mean" in fit.withheld[name]
    assert "has no mean" in fit.summary()
    assert fit.group_effects()["mean"].isna().all()
    sound = fit.estimates.loc["sd(Residual)"]  # half-t with 3 degrees of freedom
    assert np.isfinite(sound[["mean", "sd"]].astype(float)).all()
    assert describe_posterior(fit)["withheld"] == fit.withheld
