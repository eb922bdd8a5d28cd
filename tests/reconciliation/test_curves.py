"""Profile, prior and posterior over one grid: each integrates, peaks and scales as it should."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from simulate import simulate_table

from bhlm.bayes.importance.kernels import Kernels
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Gamma, HalfNormal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.likelihood.parameters import map_names
from bhlm.reconciliation.curves import _collect_priors, find_density, tabulate_curves

pytestmark = pytest.mark.wide

# Trapezoids over 61 points leave this much, and the grid leaves a thousandth of the draws out.
AREA = 0.01


@pytest.fixture(scope="module")
def both():
    model = Model("y ~ x + (x | g)", simulate_table(1, n_groups=40, largest=12))
    priors = Priors(sd=HalfNormal(2), corr=LKJ(3), at="zero")
    return reconcile(model.reml(), model.sample(seed=1, priors=priors))


@pytest.fixture(scope="module")
def curves(both):
    return both.curves().set_index("parameter")


@pytest.mark.slow
def test_every_scale_has_its_curves(curves):
    assert curves.index.unique().tolist() == [
        "sd(Intercept|g)", "var(Intercept|g)", "sd(x|g)", "var(x|g)", "corr(Intercept,x|g)",
        "sd(Residual)", "var(Residual)",
    ]  # fmt: skip


def test_the_posterior_integrates_to_one_and_has_the_mean_of_the_draws(both, curves):
    for name, rows in curves.groupby(level=0):
        rows = rows.dropna()
        area = np.trapezoid(rows["posterior"], rows["x"])
        assert area == pytest.approx(1.0, abs=AREA), name
        mean = np.trapezoid(rows["posterior"] * rows["x"], rows["x"]) / area
        row = both.table.loc[name]
        assert abs(mean - row["posterior"]) < 0.03 * row["sd"] + 4 * row["monte_carlo_se"], name


def test_the_profile_peaks_at_reml_and_reaches_the_limits(both, curves):
    limits = both.reml.profile()
    for name, rows in curves.groupby(level=0):
        at = rows["x"].to_numpy()[rows["profile"].argmax()]
        step = np.diff(rows["x"]).max()
        assert abs(at - both.table.loc[name, "reml"]) <= step, name
        assert rows["profile"].max() <= 1.0 + 1e-9
        # At the ends of the 95 % interval -2 log L has risen by 3.84.
        for side in ("lower", "upper"):
            value = np.interp(limits.loc[name, side], rows["x"], rows["profile"])
            if rows["x"].iloc[0] < limits.loc[name, side] < rows["x"].iloc[-1]:
                assert value == pytest.approx(np.exp(-0.5 * stats.chi2.ppf(0.95, 1)), abs=0.02)


def test_priors_are_those_of_each_scale(curves):
    sd = curves.loc["sd(x|g)"]
    np.testing.assert_allclose(sd["prior"], stats.halfnorm(0, 2).pdf(sd["x"]), rtol=1e-12)
    variance = curves.loc["var(x|g)"]
    np.testing.assert_allclose(
        variance["prior"], stats.gamma(0.5, scale=8).pdf(variance["x"]), rtol=1e-9
    )
    corr = curves.loc["corr(Intercept,x|g)"]
    expected = stats.beta(3, 3, loc=-1, scale=2).pdf(corr["x"])
    np.testing.assert_allclose(corr["prior"], expected, rtol=1e-12)


@pytest.mark.slow
def test_without_certification_the_density_is_that_of_the_draws(both):
    drawn = tabulate_curves(both.reml, both.post, None, points=41)
    exact = tabulate_curves(both.reml, both.post, both.evidence.exact, points=41)
    for name in ("sd(x|g)", "corr(Intercept,x|g)"):
        one, two = (t[t["parameter"] == name].dropna()["posterior"] for t in (drawn, exact))
        common = one.index.intersection(two.index)
        assert np.abs(one[common] - two[common]).max() < 0.12 * two.max()
    with pytest.raises(ArgumentError, match="points=1 does not make a grid"):
        both.curves(points=1)


def test_each_block_of_correlations_has_its_own_prior():
    rng = np.random.default_rng(4)
    table = simulate_table(2, n_groups=40, largest=12)
    table[["v", "w", "z"]] = rng.normal(size=(len(table), 3))
    model = Model("y ~ x + v + w + z + (1 + x | g) + (0 + v + w + z | g)", table)
    priors = Priors(at="zero")  # where the correlations are those of the columns as given
    post = model.sample(seed=1, draws=20, tune=20, chains=1, prior_only=True, priors=priors)
    found = tabulate_curves(model.reml(), post, None, points=2).set_index("parameter")
    # In a matrix of two a correlation under LKJ(2) is 2 Beta(2, 2) - 1, in one of three
    # 2 Beta(5/2, 5/2) - 1 (Lewandowski, Kurowicka & Joe 2009, section 3).
    for name, shape in (("corr(Intercept,x|g)", 2.0), ("corr(v,z|g)", 2.5)):
        rows = found.loc[name]
        np.testing.assert_allclose(
            rows["prior"], stats.beta(shape, shape).pdf((rows["x"] + 1) / 2) / 2, rtol=1e-9
        )
    drawn = {name for name in post.draws if name.startswith(("sd(", "corr("))}
    assert {name for name in found.index if not name.startswith("var(")} == drawn


@pytest.fixture(scope="module", params=["level", "rising"])
def beside_zero(request):
    """Prior draws whose SDs reach zero, and the law of one: its density level there or not."""
    prior, law = {
        "level": (HalfNormal(2), stats.halfnorm(0, 2)),
        "rising": (Gamma(2, 1), stats.gamma(2)),
    }[request.param]
    model = Model("y ~ x + (x | g)", simulate_table(1, n_groups=20, largest=8))
    priors = Priors(sd=prior, at="zero")
    post = model.sample(seed=1, draws=500, tune=10, chains=2, prior_only=True, priors=priors)
    return post, law


@pytest.mark.parametrize("seed", range(6))
def test_few_draws_next_to_zero_raise_no_peak_there(beside_zero, seed):
    post, law = beside_zero
    parameter = map_names(post.parameters)["sd(x|g)"]
    draws = law.rvs(4000, random_state=seed)
    exact = SimpleNamespace(
        kernels={"sd(x|g)": Kernels(draws, np.zeros(4000))},
        draws=SimpleNamespace(weight=np.full(4000, 1 / 4000)),
    )
    x, density = find_density(parameter, post, exact)
    peak = law.pdf(np.linspace(0.0, 5.0, 501)).max()
    assert density.max() < 1.3 * peak
    if law.dist.name == "halfnorm":
        near = x < 0.1
        assert np.abs(density[near] / law.pdf(x[near]) - 1.0).max() < 0.35


def test_the_prior_of_a_moved_correlation_reaches_both_ends():
    table = simulate_table(3, n_groups=20, largest=8)
    table["x"] += 0.5  # so that priors at the columns' means move the correlation at zero
    post = Model("y ~ x + (x | g)", table).sample(
        seed=1, draws=50, tune=10, chains=1, prior_only=True
    )
    corr = map_names(post.parameters)["corr(Intercept,x|g)"]
    prior = _collect_priors(post)[corr](np.array([-0.9, 0.9]))
    assert np.all(prior > 0.0)  # and so it is known there
