"""Profiles and the bootstrap of families with several factors."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import bhlm
from bhlm.errors import ArgumentError
from bhlm.fits.family_levels_fit import FamilyLevelsFit
from bhlm.reml.family.bootstrap import draw_responses

NESTED, CROSSED = "(1 | school/class)", "(1 | school:class) + (1 | item)"
HALF = stats.chi2.ppf(0.95, 1) / 2.0
FALL = 1e-6  # of the log-likelihood at a limit, which is found to 1e-7 standard errors
# confint of lme4 reads limits off splines.
SPLINE = 1e-4


@cache
def make_table() -> pd.DataFrame:
    rng = np.random.default_rng(6)
    school, group = np.repeat(np.arange(12), 18), np.repeat(np.arange(36), 6)
    item, x = np.tile(np.arange(6), 36), rng.integers(-2, 3, 216) / 2.0
    effects = rng.normal(0.0, 0.7, 12)[school] + rng.normal(0.0, 0.6, 36)[group]
    eta = -0.2 + 0.6 * x + effects + rng.normal(0.0, 0.7, 6)[item]
    return pd.DataFrame(
        {"school": school, "class": group, "item": item, "x": x,
         "hit": rng.binomial(1, special.expit(eta)), "events": rng.poisson(np.exp(0.4 * eta))}
    )  # fmt: skip


@cache
def fit_model(family: str, random: str, held: float | None = None) -> FamilyLevelsFit:
    """Return the fit, or that in which the effect of x is held."""
    response = "events" if family == "poisson" else "hit"
    table = make_table().assign(held=lambda rows: (held or 0.0) * rows["x"])
    fixed = "x" if held is None else "1 + offset(held)"
    fit = bhlm.Model(f"{response} ~ {fixed} + {random}", table, family=family).ml()
    assert isinstance(fit, FamilyLevelsFit)
    return fit


@pytest.mark.parametrize("random", [NESTED, CROSSED])
@pytest.mark.parametrize("family", ["bernoulli", pytest.param("poisson", marks=pytest.mark.wide)])
def test_at_the_limits_of_a_fixed_effect_the_likelihood_has_fallen(family, random):
    """By another model, in which the effect is an offset."""
    fit = fit_model(family, random)
    limits = fit.profile(parameters=["x"]).loc["x", ["lower", "upper"]]
    for value in limits:
        held = fit_model(family, random, value)
        assert fit.loglik - held.loglik == pytest.approx(HALF, abs=FALL)
    assert limits["lower"] < fit.estimates.loc["x", "estimate"] < limits["upper"]


def test_limits_of_crossed_sds_are_lme4s():
    """By confint(glmer(...), method = "profile") with tight tolerances."""
    table = bhlm.load_dataset("cbpp")
    formula = "incidence / size ~ 1 + (1 | period) + (1 | herd)"
    found = bhlm.Model(formula, table, family="binomial").ml().profile()
    wanted = {
        "sd(Intercept|herd)": (0.381294390, 1.16426562),
        "sd(Intercept|period)": (0.248326797, 1.48608239),
        "Intercept": (-3.164448412, -1.48712894),
    }
    for name, ends in wanted.items():
        np.testing.assert_allclose(found.loc[name, ["lower", "upper"]], ends, rtol=SPLINE)
    for factor in ("herd", "period"):
        square = found.loc[f"sd(Intercept|{factor})", ["lower", "upper"]] ** 2
        np.testing.assert_allclose(
            found.loc[f"var(Intercept|{factor})", ["lower", "upper"]], square, rtol=1e-9
        )


@pytest.mark.parametrize("factor", ["school", "school:class"])
def test_an_sd_ends_at_zero_where_its_test_does_not_reject(factor):
    fit = fit_model("bernoulli", NESTED)
    chi2 = fit.test_variances(factor=factor).chi2
    level = float(stats.chi2.cdf(chi2, 1))
    name = f"sd(Intercept|{factor})"
    inside = fit.profile(parameters=[name], level=0.98 * level)
    outside = fit.profile(parameters=[name], level=level + 0.5 * (1.0 - level))
    assert inside.loc[name, "lower"] > 0.0
    assert outside.loc[name, "lower"] == 0.0
    assert outside.loc[name, "upper"] > inside.loc[name, "upper"]


def test_correlated_coefficients_have_no_profile():
    formula = "hit ~ x + (x | school) + (1 | item)"
    fit = bhlm.Model(formula, make_table(), family="bernoulli").ml()
    with pytest.raises(ArgumentError, match="has no profile here; those that have one are"):
        fit.profile(parameters=["sd(x|school)"])
    assert "sd(Intercept|item)" in fit.profile(parameters=["sd(Intercept|item)"]).index


@pytest.mark.parametrize("random", [NESTED, CROSSED])
def test_replicates_are_drawn_from_the_model(random):
    """The mean of each pattern's responses is that over all units there may be."""
    fit = fit_model("poisson", random)
    rng = np.random.default_rng(2)
    drawn = np.array([draw_responses(fit, rng=rng) for _ in range(4000)])
    patterns = fit.patterns
    eta = patterns.take(patterns.fixed) @ fit.beta
    mean = patterns.n * np.exp(eta + sum(float(g[0, 0]) for g in fit.gs) / 2.0)
    error = drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - mean) < 5.0 * error).all()


@pytest.mark.parametrize("random", [CROSSED, pytest.param(NESTED, marks=pytest.mark.wide)])
def test_the_bootstrap_is_repeatable_and_near_the_normal_errors(random):
    fit = fit_model("poisson", random)
    found = fit.bootstrap(replicates=40, seed=3)
    again = fit.bootstrap(replicates=40, seed=3)
    np.testing.assert_array_equal(found.draws, again.draws)
    assert found.converged.all()
    table = found.intervals()
    assert list(table.index) == list(fit.estimates.index)
    np.testing.assert_array_equal(table["estimate"], fit.estimates["estimate"])
    shares = table.loc[list(fit.patterns.fixed), "se"] / np.sqrt(np.diag(fit.beta_cov))
    assert ((shares > 0.6) & (shares < 1.6)).all()
    sds = [str(each) for each in fit.parameters if each.is_sd]
    variances = [name.replace("sd(", "var(") for name in sds]
    for sd, variance in zip(sds, variances, strict=True):
        at, to = found.names.index(sd), found.names.index(variance)
        np.testing.assert_allclose(found.draws[:, at] ** 2, found.draws[:, to], atol=1e-12)
    with pytest.raises(ArgumentError, match="is too small; give at least 2"):
        fit.bootstrap(replicates=1)


def test_a_replicate_is_fitted_as_its_own_table_is():
    fit = fit_model("poisson", NESTED)
    boot = fit.bootstrap(replicates=2, seed=7)
    child = np.random.SeedSequence(7).spawn(2)[0]
    y = draw_responses(fit, rng=np.random.Generator(np.random.PCG64(child)))
    patterns = fit.patterns
    # All events of a pattern in one of its rows, which changes the likelihood by a constant alone.
    rows = np.repeat(np.arange(patterns.n_patterns), patterns.rows.astype(int))
    is_first = np.append(True, rows[1:] != rows[:-1])
    table = pd.DataFrame(
        {"events": np.where(is_first, y[rows], 0.0), "x": patterns.take(("x",))[rows, 0]}
        | {name: each[rows] for name, each in patterns.cell_labels.items()}
    )
    again = bhlm.Model(f"events ~ x + {NESTED}", table, family="poisson").ml()
    np.testing.assert_allclose(boot.draws[0], again.estimates["estimate"], rtol=1e-5, atol=1e-7)
