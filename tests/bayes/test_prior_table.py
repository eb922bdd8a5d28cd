"""The table of priors: densities that integrate, quantiles that hold, draws beside them."""

import numpy as np
import pytest
from prior_sets import proper_examples
from scipy import integrate
from simulate import simulate_table

from bhlm.bayes.prior_table import evaluate_density, tabulate_priors
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import (
    Flat,
    Gamma,
    HalfNormal,
    Normal,
)
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError, PriorError
from bhlm.fits.model import Model

AREA = 1e-6  # of adaptive quadrature
# Quantiles of 8000 draws of a chain on the prior, by the prior's distribution function.
SHARE = 0.02


@pytest.fixture(scope="module")
def model():
    table = simulate_table(3, n_groups=12)
    return Model("y ~ x + w + (x + t | g)", table.assign(x=table["x"] + 5.0))


@pytest.mark.parametrize("prior", [*proper_examples(), Gamma(2.0, 0.1), Gamma(0.5, 1.0)], ids=str)
def test_density_between_quantiles_is_their_probability(prior):
    p = np.array([0.01, 0.025, 0.5, 0.8, 0.99])
    ends = prior.quantile(p)
    assert np.all(np.diff(ends) > 0)
    for i in range(len(p) - 1):
        area, _ = integrate.quad(
            lambda x: evaluate_density(prior, np.array([x]))[0], ends[i], ends[i + 1], limit=200
        )
        assert area == pytest.approx(p[i + 1] - p[i], abs=AREA)
    if prior.positive:
        area, _ = integrate.quad(
            lambda x: 2 * x * evaluate_density(prior, np.array([x * x]))[0], 0, ends[0] ** 0.5
        )
        assert area == pytest.approx(p[0], abs=AREA)


def test_one_grid_per_parameter(model):
    table = tabulate_priors(model.moments)
    names = list(dict.fromkeys(table["parameter"]))
    assert names == [
        *("Intercept", "x", "w"),
        *("sd(Intercept|g)", "sd(x|g)", "sd(t|g)"),
        "sd(Residual)",
        *("corr(Intercept,x|g)", "corr(Intercept,t|g)", "corr(x,t|g)"),
    ]
    assert (table.groupby("parameter").size() == 200).all()
    assert np.isfinite(table.drop(columns=["parameter", "prior"])).all(axis=None)
    rows = table.groupby("parameter").first()
    assert rows.loc["Intercept", "prior"].endswith("at the predictors' means")
    assert rows.loc["corr(x,t|g)", "prior"] == "LKJ(2)"
    # The grid leaves out the outer tails, and the first step from zero of what is positive.
    for _, grid in table.groupby("parameter"):
        assert (np.diff(grid["x"]) > 0).all()
        assert np.trapezoid(grid["density"], grid["x"]) == pytest.approx(1.0, abs=0.05)


def test_uniform_correlation_of_two_and_its_marginal_of_three(model):
    two = Model("y ~ x + (x | g)", simulate_table(3)).moments
    table = tabulate_priors(two, Priors(corr=LKJ(1.0)))
    grid = table[table["parameter"] == "corr(Intercept,x|g)"]
    np.testing.assert_allclose(grid["density"], 0.5)
    np.testing.assert_allclose(grid["prior_upper"], 0.95)
    # Of three uniformly distributed: density proportional to sqrt(1 - r^2), R a 3 x 3 matrix.
    table = tabulate_priors(model.moments, Priors(corr=LKJ(1.0)))
    grid = table[table["parameter"] == "corr(x,t|g)"]
    expected = np.sqrt(1.0 - grid["x"] ** 2) * 2 / np.pi
    np.testing.assert_allclose(grid["density"], expected)
    separate = tabulate_priors(model.moments, covariance="independent")
    assert not separate["parameter"].str.startswith("corr").any()


def test_draws_of_the_prior_lie_where_the_table_says(model):
    """A fit without the likelihood has the prior as its posterior, in every row."""
    fit = model.sample(seed=1, draws=2000, prior_only=True)
    table = fit.prior_table().groupby("parameter", sort=False).first()
    assert len(table) == 10
    draws = {name: values.ravel() for name, values in fit.draws.items()}
    moments = model.moments
    mean = dict(zip(moments.columns, moments.n @ moments.mean / moments.n_rows, strict=True))
    draws["Intercept"] = draws["Intercept"] + mean["x"] * draws["x"] + mean["w"] * draws["w"]
    # Intercept + mean x + mean t, over the groups: its variance and covariances.
    own = {name: draws[f"var({name}|g)"] for name in ("Intercept", "x", "t")}
    pair = {name: draws[f"cov(Intercept,{name}|g)"] for name in ("x", "t")}
    at_x = pair["x"] + mean["x"] * own["x"] + mean["t"] * draws["cov(x,t|g)"]
    at_t = pair["t"] + mean["t"] * own["t"] + mean["x"] * draws["cov(x,t|g)"]
    variance = own["Intercept"] + mean["x"] * (pair["x"] + at_x) + mean["t"] * (pair["t"] + at_t)
    draws["sd(Intercept|g)"] = np.sqrt(variance)
    draws["corr(Intercept,x|g)"] = at_x / np.sqrt(variance * own["x"])
    draws["corr(Intercept,t|g)"] = at_t / np.sqrt(variance * own["t"])
    for name, row in table.iterrows():
        for side, p in (("lower", 0.025), ("median", 0.5), ("upper", 0.975)):
            share = np.mean(draws[name] <= row[f"prior_{side}"])
            assert share == pytest.approx(p, abs=SHARE), (name, side)
            assert row[f"posterior_{side}"] == pytest.approx(np.quantile(draws[name], p))


def test_the_grid_reaches_over_the_posterior(model):
    priors = Priors(fixed={"x": Normal(-50.0, 1.0)}, sigma=HalfNormal(0.001))
    fit = model.sample(seed=1, draws=200, tune=300, priors=priors)
    table = fit.prior_table()
    for name in ("x", "sd(Residual)"):
        x = table.loc[table["parameter"] == name, "x"]
        draws = fit.draws[name]
        assert x.min() <= np.quantile(draws, 0.005)
        assert x.max() >= np.quantile(draws, 0.995)


def test_improper_priors_have_no_quantiles(model):
    table = tabulate_priors(model.moments, Priors.flat())
    for name in ("x", "sd(x|g)", "sd(Residual)"):
        grid = table[table["parameter"] == name]
        assert grid[["prior_lower", "prior_median", "prior_upper"]].isna().all(axis=None)
        assert np.trapezoid(grid["density"], grid["x"]) == pytest.approx(1.0)
    grid = table[table["parameter"] == "sd(x|g)"]  # flat on G of three: sd^3
    ratio = grid["density"] / grid["x"] ** 3
    np.testing.assert_allclose(ratio, ratio.iloc[0], rtol=1e-9)


@pytest.mark.slow
def test_a_pymc_distribution_has_its_density(model):
    pm = pytest.importorskip("pymc")
    table = tabulate_priors(model.moments, Priors(sigma=pm.Exponential.dist(2.0)))
    grid = table[table["parameter"] == "sd(Residual)"]
    np.testing.assert_allclose(grid["density"], 2 * np.exp(-2 * grid["x"]), rtol=1e-7)
    assert grid["prior_median"].isna().all()


def test_what_makes_no_table_is_refused(model):
    for points in (1, 2.5):
        with pytest.raises(ArgumentError, match=f"points={points!r} does not make a grid; give"):
            tabulate_priors(model.moments, points=points)
    with pytest.raises(PriorError, match="fixed prior for 'v', which is no coefficient"):
        tabulate_priors(model.moments, Priors(fixed={"v": Flat()}))
