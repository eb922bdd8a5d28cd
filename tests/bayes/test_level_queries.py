"""What is asked of posteriors of several grouping factors: files, shares, slopes, sensitivity."""

import numpy as np
import pytest
from level_designs import FORMULAS, make_table
from level_posteriors import CHAINS, DRAWS, draw_fit

from bhlm.bayes.checks.sensitivity import sum_prior_terms, total_loglik
from bhlm.bayes.level_draws import iterate_lams
from bhlm.bayes.storage.description import describe_fit, hash_moments, rebuild_fit
from bhlm.fits.level_bayes_fit import LevelBayesFit
from bhlm.fits.model import Model
from bhlm.fits.saved import load
from bhlm.likelihood.levels import score_parameters
from bhlm.moments.moments import pool


@pytest.mark.parametrize("kind", ["two nested", "crossed"])
def test_a_description_gives_the_fit_back(kind):
    fit = draw_fit(kind)
    back = LevelBayesFit.of(rebuild_fit(*describe_fit(fit)))
    assert back.data.identical(fit.data)
    assert back.priors == fit.priors
    assert ("LKJ(4)" in str(back.priors.corrs[1])) == (kind == "two nested")
    assert back.diagnostics == fit.diagnostics
    assert hash_moments(back.moments) == hash_moments(fit.moments)
    assert back.summary() == fit.summary()
    for name in fit.factors:
        assert back.group_effects(name).equals(fit.group_effects(name))
    for one, other in zip(back.flat, fit.flat, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(back.white.blocks, fit.white.blocks)


@pytest.mark.parametrize("ending", ["zarr", pytest.param("nc", marks=pytest.mark.slow)])
def test_saved_and_loaded(tmp_path, ending):
    fit = draw_fit("two nested")
    path = tmp_path / f"fit.{ending}"
    fit.save(path)
    back = load(path)
    assert isinstance(back, LevelBayesFit)
    assert back.data.identical(fit.data)
    assert back.estimates.equals(fit.estimates)
    assert back.effect_draws("school:klass").equals(fit.effect_draws("school:klass"))


@pytest.mark.parametrize("kind", ["two nested", "crossed"])
def test_the_whole_likelihood_is_that_of_the_parameters(kind):
    fit = draw_fit(kind)
    found = total_loglik(fit)
    assert found.shape == (CHAINS, DRAWS)
    levels, n = fit.white.levels, fit.white.n
    own = [
        score_parameters(levels, *at, n=n).loglik
        for at in iterate_lams(fit.white, fit.structure, fit.flat)
    ]
    gap = found.ravel() - own
    np.testing.assert_allclose(gap, gap[0], atol=1e-8)


def test_sensitivity_has_the_correlations_of_each_factor():
    fit = draw_fit("two nested")
    terms = sum_prior_terms(fit)
    assert list(terms) == ["beta", "sd", "lkj|school:klass", "sigma"]
    found = fit.sensitivity()
    assert list(found.table.columns) == ["prior", "likelihood", *terms, "diagnosis"]
    assert "sd(Intercept|school)" in found.table.index
    assert (found.table["likelihood"] > found.threshold).any()
    assert found.summary()
    # A term is told by its factor.
    table = found.table.assign(diagnosis="ok")
    table.loc["x", ["lkj|school:klass", "diagnosis"]] = [1.0, "strong prior"]
    (told,) = type(found)(table=table, threshold=found.threshold).findings
    assert "of the correlations by school:klass" in told


@pytest.mark.parametrize("kind", ["two nested", "crossed"])
def test_shares_of_the_variance_by_draw(kind):
    fit = draw_fit(kind)
    _, grand, _ = pool(fit.moments)
    x = grand[fit.moments.columns.index("x")]
    slope, other = ("school:klass", "school") if kind == "two nested" else ("rater", "item")
    draws = fit.draws
    r = draws[f"corr(Intercept,x|{slope})"]
    a, b = draws[f"sd(Intercept|{slope})"], draws[f"sd(x|{slope})"]
    own = a**2 + 2.0 * r * a * b * x + (b * x) ** 2
    outer, rest = draws[f"var(Intercept|{other})"], draws["var(Residual)"]
    total = own + outer + rest
    found = fit.icc().draws
    np.testing.assert_allclose(found[f"share({slope})"], own / total, rtol=1e-9)
    np.testing.assert_allclose(found["share(Residual)"], rest / total, rtol=1e-9)
    np.testing.assert_allclose(found[f"icc({other})"], outer / total, rtol=1e-9)
    shared = own + outer if kind == "two nested" else own  # rows of one class are of one school
    np.testing.assert_allclose(found[f"icc({slope})"], shared / total, rtol=1e-9)
    assert "share(Residual)" in repr(fit.icc())


def test_explained_variance_is_that_of_the_rows():
    fit = draw_fit("two nested")
    columns = {name: at for at, name in enumerate(fit.moments.columns)}
    n, grand, total = pool(fit.moments)
    x = columns["x"]
    square = total[x, x] / n + grand[x] ** 2
    g = fit.data["posterior"]["cov|school:klass"].values
    own = g[..., 0, 0] + 2.0 * g[..., 0, 1] * grand[x] + g[..., 1, 1] * square
    random = own + fit.draws["var(Intercept|school)"]
    rest = fit.draws["var(Residual)"]
    found = fit.r_squared().draws
    marginal, conditional = found["marginal"], found["conditional"]
    fixed = marginal / (1.0 - marginal) * (random + rest)
    np.testing.assert_allclose(conditional, (fixed + random) / (fixed + random + rest), rtol=1e-9)
    beta = fit.data["posterior"]["beta"].values[..., 1:]
    at = [columns["x"], columns["w"]]
    spread = np.einsum("cdi,ij,cdj->cd", beta, total[np.ix_(at, at)], beta) / (n - 1.0)
    np.testing.assert_allclose(fixed, spread, rtol=1e-9)


def test_slopes_are_those_of_the_draws():
    fit = draw_fit("crossed")
    (row,) = fit.effects("x").itertuples()
    drawn = fit.draws["x"]
    assert row.mean == pytest.approx(drawn.mean())
    assert row.lower == pytest.approx(np.quantile(drawn, 0.025))
    lines = fit.effect_lines("x", values=[0.0, 1.0])
    assert lines["mean"].diff().iloc[1] == pytest.approx(drawn.mean())


@pytest.mark.slow
def test_the_samplers_density_gives_the_likelihood(tmp_path):
    """Of crossed factors: what lp has beyond the prior is the likelihood, but for a constant."""
    model = Model(FORMULAS["crossed"], make_table("crossed"))
    fit = model.sample(seed=1, draws=60, tune=100, chains=2)
    assert "x" in fit.data["unconstrained_posterior"].dataset
    levels, n = fit.white.levels, fit.white.n
    own = [
        score_parameters(levels, *at, n=n).loglik
        for at in iterate_lams(fit.white, fit.structure, fit.flat)
    ]
    gap = total_loglik(fit).ravel() - own
    np.testing.assert_allclose(gap, gap[0], atol=1e-7)
    fit.save(tmp_path / "fit.zarr")
    assert load(tmp_path / "fit.zarr").data.identical(fit.data)
