"""Inference about fits of several factors against dense n x n algebra."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from level_designs import FORMULAS, fit_design, make_table, spell_out
from scipy import stats
from scipy.optimize import minimize

import bhlm
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import Based
from bhlm.likelihood.slopes import measure_spread
from bhlm.reml.bootstrap import plan_refits
from bhlm.reml.fixed.kenward_roger import kenward_roger
from bhlm.reml.fixed.robust import robust_covariance
from bhlm.reml.level_variance_tests import _reduce
from bhlm.reml.profile.held_levels import HeldLevels

EXACT = 1e-8
# What the optimiser leaves of the estimates enters products of them.
DF = 1e-7

kinds = pytest.mark.parametrize("kind", FORMULAS)


def _information(dense, y):
    """Return the Hessian of minus twice the restricted log-likelihood by all components."""
    turned = dense.p @ dense.tangents
    seen = dense.tangents @ dense.p @ y
    return -np.einsum("aij,bji->ab", turned, turned) + 2.0 * seen @ dense.p @ seen.T


@kinds
def test_standard_errors_are_the_dense_observed_information(kind):
    fit, dense = fit_design(kind), spell_out(kind)
    expected = np.linalg.inv(0.5 * _information(dense, dense.y))
    np.testing.assert_allclose(fit.variance_cov, expected, rtol=DF, atol=DF * expected.max())
    np.testing.assert_allclose(fit.beta_cov, dense.c, rtol=EXACT, atol=EXACT * dense.c.max())


@kinds
def test_satterthwaite_is_the_dense_one(kind):
    fit, dense = fit_design(kind), spell_out(kind)
    cov = 2.0 * np.linalg.inv(_information(dense, dense.y))
    carried = dense.c @ dense.x.T @ dense.inverse
    for row, found in zip(np.eye(3), fit.fixed_effects()["df"], strict=True):
        slope = np.einsum("i,aij,j->a", row @ carried, dense.tangents, row @ carried)
        expected = 2.0 * (row @ dense.c @ row) ** 2 / (slope @ cov @ slope)
        assert found == pytest.approx(expected, rel=DF)
    joint = fit.test("x = 0", "w = 0")
    assert joint.ddf > 0.0
    assert fit.contrast("x + w = 0").loc["x + w = 0", "estimate"] == pytest.approx(
        fit.beta[1] + fit.beta[2]
    )


@kinds
def test_kenward_roger_is_the_dense_one(kind):
    fit, dense = fit_design(kind), spell_out(kind)
    turned = dense.inverse @ dense.tangents
    loaded = dense.inverse @ dense.x
    first = -np.einsum("ip,aij,jq->apq", loaded, dense.tangents, loaded, optimize=True)
    second = np.einsum("ip,aij,bjk,kq->abpq", loaded, dense.tangents, turned, loaded, optimize=True)
    traces = np.einsum("aij,bji->ab", turned, turned)
    phi = dense.c
    information = traces - 2.0 * np.einsum("pq,abqp->ab", phi, second)
    information += np.einsum("pq,aqr,rs,bsp->ab", phi, first, phi, first, optimize=True)
    weights = 2.0 * np.linalg.inv(information)
    middle = np.einsum("ab,abpq->pq", weights, second)
    middle -= np.einsum("ab,apq,qr,brs->ps", weights, first, phi, first, optimize=True)
    expected = phi + 2.0 * phi @ middle @ phi
    found = kenward_roger(fit)
    np.testing.assert_allclose(found.cov, expected, rtol=EXACT, atol=EXACT * expected.max())
    for row, df in zip(np.eye(3), fit.fixed_effects(method="kenward-roger")["df"], strict=True):
        # Of one contrast, the F's first two moments leave (Kenward & Roger 1997, section 4)
        # 2 / (w'W w), w = l'Phi P Phi l / l'Phi l.
        share = np.array([row @ phi @ each @ phi @ row for each in first]) / (row @ phi @ row)
        assert df == pytest.approx(2.0 / (share @ weights @ share), rel=EXACT)


@kinds
def test_cluster_robust_errors_are_the_dense_ones(kind):
    fit, dense = fit_design(kind), spell_out(kind)
    if kind == "crossed":
        for method in ("cr0", "cr2"):
            with pytest.raises(ArgumentError, match="no factor of rater and item holds all others"):
                fit.fixed_effects(method=method)
        return
    school = make_table(kind)["school"].to_numpy()
    residual = dense.y - dense.x @ fit.beta
    plain = np.zeros((3, 3))
    reduced = np.zeros((3, 3))
    whole = dense.v - dense.x @ dense.c @ dense.x.T
    rows = []
    for label in np.unique(school):
        at = np.flatnonzero(school == label)
        x, v = dense.x[at], dense.v[np.ix_(at, at)]
        solved = np.linalg.solve(v, x).T
        score = solved @ residual[at]
        plain += np.outer(score, score)
        d = np.linalg.cholesky(v).T
        values, vectors = np.linalg.eigh(d @ whole[np.ix_(at, at)] @ d.T)
        kept = values > 1e-10 * values[-1]
        power = (vectors * np.where(kept, np.abs(values) ** -0.5, 0.0)) @ vectors.T
        a = d.T @ power @ d
        score = solved @ a @ residual[at]
        reduced += np.outer(score, score)
        row = np.zeros((3, len(school)))
        row[:, at] = dense.c @ solved @ a
        rows.append(row)
    for method, middle in (("cr0", plain), ("cr2", reduced)):
        expected = dense.c @ middle @ dense.c
        found = robust_covariance(fit, kind=method).cov
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7 * expected.max())
    # Satterthwaite's df of CR2: (tr B)^2 / tr(B^2), B_ij = g_i'(V - X C X')g_j.
    table = fit.fixed_effects(method="cr2")
    for i, df in enumerate(table["df"]):
        g = np.array([row[i] for row in rows])
        b = g @ whole @ g.T
        assert df == pytest.approx(np.trace(b) ** 2 / np.sum(b * b), rel=1e-6)


def test_what_has_no_definition_for_several_factors_says_so():
    fit = fit_design("two nested")
    with pytest.raises(ArgumentError, match=r"'hlm'.*is defined for a single factor.*has 2"):
        fit.fixed_effects(method="hlm")
    with pytest.raises(ArgumentError, match="Kenward-Roger is defined for REML"):
        fit_design("two nested", "ml").fixed_effects(method="kenward-roger")


def test_slopes_and_their_bounds_are_told_as_of_one_factor():
    table = make_table("two nested")
    fit = Model("y ~ x * w + (1 | school) + (x | school:klass)", table).reml()
    found = fit.effects("x", by={"w": [-1.0, 1.0]})
    row = np.array([0.0, 1.0, 0.0, -1.0])
    row[[fit.moments.fixed.index("x"), fit.moments.fixed.index("x:w")]] = 1.0, -1.0
    assert found["slope"].iloc[0] == pytest.approx(
        fit.beta[fit.moments.fixed.index("x")] - fit.beta[fit.moments.fixed.index("x:w")]
    )
    # A moderator that is constant in schools has the spread of schools, not of cells or rows.
    by_school = table.groupby("school")["w"].first()
    spread = measure_spread(fit.moments, "w")
    assert spread.sd == pytest.approx(by_school.std())
    assert spread.centre == pytest.approx(by_school.mean())
    assert len(fit.compare_effects("x", by={"w": [-1.0, 1.0]})) == 1
    assert "x" in str(fit.johnson_neyman("x", by="w"))


@kinds
def test_r_squared_adds_up_what_every_factor_explains(kind):
    fit, dense = fit_design(kind), spell_out(kind)
    n = len(dense.y)
    random = 0.0
    for wide, g in zip(dense.z, fit.gs, strict=True):
        random += np.trace(wide @ np.kron(np.eye(wide.shape[1] // len(g)), g) @ wide.T) / n
    fixed = np.var(dense.x @ fit.beta, ddof=1)
    whole = fixed + random + fit.sigma2
    found = fit.r_squared()
    assert found["marginal"] == pytest.approx(fixed / whole, rel=EXACT)
    assert found["conditional"] == pytest.approx((fixed + random) / whole, rel=EXACT)


@pytest.mark.parametrize("kind", ["two nested", "three nested"])
def test_reliability_compares_units_with_the_error_of_their_own_coefficients(kind):
    fit, table = fit_design(kind), make_table(kind)
    dense = spell_out(kind)
    order = np.argsort([-count for count in fit.moments.groups.values()])
    finer = fit.sigma2 * np.eye(len(table))
    for factor in order:
        name = list(fit.moments.groups)[factor]
        g, wide = fit.gs[factor], dense.z[factor]
        q = len(g)
        inverse = np.linalg.inv(finer)
        shares = []
        for j in range(wide.shape[1] // q):
            own = wide[:, j * q : (j + 1) * q]
            information = own.T @ inverse @ own
            if np.linalg.matrix_rank(information, tol=1e-9) == q:
                sampling = np.diag(np.linalg.inv(information))
                shares.append(np.diag(g) / (np.diag(g) + sampling))
        expected = np.mean(shares, axis=0)
        found = list(fit.reliability[name].values())
        np.testing.assert_allclose(found, expected, rtol=EXACT)
        finer = finer + wide @ np.kron(np.eye(wide.shape[1] // q), g) @ wide.T
    with pytest.raises(ArgumentError, match="crossed factors have means that depend"):
        _ = fit_design("crossed").reliability


def test_fits_are_compared_whatever_their_factors():
    table = make_table("three nested")
    small = Model("y ~ x + w + (1 | school) + (1 | klass) + (1 | pupil)", table).reml()
    large, one = fit_design("three nested"), Model("y ~ x + w + (1 | school)", table).reml()
    found = bhlm.compare_fits(one, small, large)
    assert found["parameters"].tolist() == [5, 7, 9]
    assert found["aic"].iloc[2] == pytest.approx(-2.0 * large.loglik + 18.0)
    assert found["bic"].iloc[1] == pytest.approx(-2.0 * small.loglik + 7.0 * np.log(160))
    test = bhlm.compare_nested(small, large)
    assert (test.df, test.boundary) == (2, True)
    assert test.chi2 == pytest.approx(2.0 * (large.loglik - small.loglik))
    assert bhlm.compare_nested(one, small).df == 2
    with pytest.raises(ArgumentError, match="is not a special case of"):
        bhlm.compare_nested(large, small)
    with pytest.raises(ArgumentError, match="fitted to different rows"):
        bhlm.compare_fits(large, Model("y ~ x + (1 | school)", table.iloc[1:]).reml())
    shares = bhlm.variance_explained(large, small)
    assert shares["var(Intercept|klass)"] == pytest.approx(
        1.0 - large.gs[1][0, 0] / small.gs[1][0, 0]
    )
    assert not hasattr(large, "test_homogeneity")


@kinds
def test_distances_of_units_are_the_dense_ones(kind):
    fit, dense = fit_design(kind), spell_out(kind)
    for at, (name, z, g) in enumerate(zip(fit.moments.groups, dense.z, fit.gs, strict=True)):
        found = fit.group_residuals(name)
        count, q = len(found), len(g)
        whole = np.kron(np.eye(count), g)
        gain = whole @ z.T @ dense.p
        u = (gain @ dense.y).reshape(count, q)
        names = list(fit.structures[at].names)
        np.testing.assert_allclose(found[names], u, rtol=EXACT, atol=EXACT)
        spread = gain @ z @ whole
        for j in range(count):
            own = spread[j * q : (j + 1) * q, j * q : (j + 1) * q]
            values, vectors = np.linalg.eigh(own)
            kept = values > 1e-10 * np.max(np.diag(g))
            expected = np.sum((vectors.T @ u[j])[kept] ** 2 / values[kept])
            assert found["mahalanobis"][j] == pytest.approx(expected, rel=1e-5, abs=1e-7)
            assert found["df"][j] == kept.sum()
            assert found["p"][j] == pytest.approx(stats.chi2.sf(expected, kept.sum()), rel=1e-5)
    fewest = min(fit.moments.groups, key=fit.moments.groups.__getitem__)
    pd.testing.assert_frame_equal(fit.group_residuals(), fit.group_residuals(fewest))
    with pytest.raises(ArgumentError, match="'none' is not a grouping factor"):
        fit.group_residuals("none")


def test_distances_do_not_change_when_a_covariate_is_shifted():
    table, formula = make_table("two nested"), FORMULAS["two nested"]
    fit = fit_design("two nested")
    far = Model(formula, table.assign(x=table["x"] + 1e6)).reml()
    for name in fit.moments.groups:
        np.testing.assert_allclose(
            far.group_residuals(name)["mahalanobis"],
            fit.group_residuals(name)["mahalanobis"],
            rtol=1e-4,
        )


@kinds
def test_design_effects_are_kishs_of_each_factor(kind):
    fit = fit_design(kind)
    for name, count in fit.moments.groups.items():
        expected = 1.0 + (160 / count - 1.0) * fit.icc().loc[name, "icc"]
        assert fit.design_effect(name) == pytest.approx(expected, rel=1e-12)
    one = Model("y ~ x + (1 | school)", make_table(kind)).reml()
    assert one.design_effect() == pytest.approx(1.0 + (160 / 7 - 1.0) * one.icc(), rel=1e-12)


@pytest.mark.slow
def test_no_start_ends_below_lme4_and_nlme(tmp_path):
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    path = Path(__file__).parents[2] / "comparisons" / "levels.py"
    spec = importlib.util.spec_from_file_location("compared_levels", path)
    levels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(levels)
    names = ("pastes", "penicillin", "oats", "wafer", "television", "flat nested", "flat crossed")
    try:
        cases = levels.fit_in_r(tmp_path, *names)
    except SystemExit as error:
        if "no package" in str(error):
            pytest.skip(f"R lacks a package: {error}")
        raise
    found = list(levels.search_all(cases, starts=8))
    assert [each.name for each in found] == [name for name in names for _ in range(2)]
    assert all(each.gap > -levels.BELOW for each in found)
    assert all(each.converged == 9 for each in found)
    assert {each.name for each in found if each.singular} >= {"television", "flat crossed"}


def _dense_deviance(kind, gs, sigma2, beta=None):
    """Return minus twice the log-likelihood, restricted without beta, by n x n algebra."""
    dense = spell_out(kind)
    n, p = dense.x.shape
    v = sigma2 * np.eye(n)
    for wide, g in zip(dense.z, gs, strict=True):
        v += wide @ np.kron(np.eye(wide.shape[1] // len(g)), g) @ wide.T
    inverse, weight = np.linalg.inv(v), None
    value = np.linalg.slogdet(v)[1]
    if beta is None:
        weight = dense.x.T @ inverse @ dense.x
        beta = np.linalg.solve(weight, dense.x.T @ inverse @ dense.y)
        value += np.linalg.slogdet(weight)[1]
    r = dense.y - dense.x @ beta
    dof = n - p if weight is not None else n
    return float(value + r @ inverse @ r + dof * np.log(2.0 * np.pi))


PROFILED = {
    "two nested": ("sd(Intercept|school)", "sd(x|school:klass)", "sd(Residual)"),
    "crossed": ("corr(Intercept,x|rater)", "sd(Intercept|item)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROFILED)
def test_profile_limits_are_where_the_dense_likelihood_has_fallen(kind):
    fit = fit_design(kind)
    found = fit.profile(parameters=PROFILED[kind], level=0.9)
    quantile = stats.chi2.ppf(0.9, 1)
    for name in PROFILED[kind]:
        held = _minimize_with(kind, name, found.loc[name, "upper"])
        assert held + 2.0 * fit.loglik == pytest.approx(quantile, abs=1e-4), name


@kinds
@pytest.mark.parametrize("held", [None, 0.7])
def test_held_likelihoods_bend_as_they_differ(kind, held):
    fit = fit_design(kind)
    white = fit.white
    based = Based(white.bases[0], white.scale)
    families = [structure.family() for structure in fit.structures]
    families[0] = fit.structures[0].family_with_sd(based, 0, sd=1.1)
    likelihood = HeldLevels(white, tuple(families), True, held)
    gs = [fit.sigma2 / white.scale**2 * lam @ lam.T for lam in fit.lams]
    point = likelihood.start(gs, 0.8) + 0.05
    value, gradient = likelihood.value_and_gradient(point)
    hessian = likelihood.hessian(point)
    step = 1e-5
    for i, e in enumerate(step * np.eye(len(point))):
        (up, rise), (down, fall) = (likelihood.value_and_gradient(point + s * e) for s in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / (2.0 * step), rel=1e-6, abs=1e-5)
        np.testing.assert_allclose(hessian[i], (rise - fall) / (2.0 * step), rtol=1e-6, atol=1e-5)
    # The held SD is what it is held at, and the value the dense one's.
    loadings = [
        white.scale * basis @ family.at(x)[0]
        for basis, family, x in zip(white.bases, families, likelihood._split(point), strict=True)
    ]
    assert np.linalg.norm(loadings[0][0]) == pytest.approx(1.1)
    v = held if held is not None else np.exp(point[-1])
    dense = _dense_deviance(kind, [each @ each.T for each in loadings], v * white.scale**2)
    n, p = spell_out(kind).x.shape
    shift = 2.0 * (n - p) * np.log(white.scale) - 2.0 * white.logdet_fixed
    assert value + shift == pytest.approx(dense, rel=EXACT)


def _minimize_with(kind, name, value):
    """Return the least dense deviance at which an SD or correlation has a value."""
    fit = fit_design(kind)
    sigma = np.sqrt(fit.sigma2)
    roots = [np.linalg.cholesky(g) for g in fit.gs]
    at = [np.tril_indices(len(root)) for root in roots]
    begin = np.concatenate([root[i] for root, i in zip(roots, at, strict=True)] + [[sigma]])

    def build(point):
        gs, start = [], 0
        for root, i in zip(roots, at, strict=True):
            own = np.zeros_like(root)
            own[i] = point[start : start + len(i[0])]
            start += len(i[0])
            gs.append(own @ own.T)
        return gs, point[-1] ** 2

    def deviance(point):
        gs, sigma2 = build(point)
        if name == "sd(Residual)":
            sigma2 = value**2
        for structure, g in zip(fit.structures, gs, strict=True):
            for each, (i, j) in zip(structure.scaled, structure.labels, strict=True):
                if str(each) == name and i == j:
                    g *= np.outer(
                        *2 * [np.where(np.arange(len(g)) == i, value / g[i, i] ** 0.5, 1.0)]
                    )
                elif str(each) == name:
                    g[i, j] = g[j, i] = value * np.sqrt(g[i, i] * g[j, j])
        return _dense_deviance(kind, gs, sigma2)

    return minimize(deviance, begin, method="BFGS", options={"gtol": 1e-5}).fun


@pytest.mark.slow
def test_profile_of_a_fixed_effect_is_that_of_the_full_likelihood():
    fit = fit_design("crossed within nested")
    found = fit.profile(parameters=["x"])
    full = fit_design("crossed within nested", "ml")
    assert found.loc["x", "likelihood"] == "ml"
    limit = found.loc["x", "lower"]
    table = make_table("crossed within nested")
    moved = table.assign(y=table["y"] - limit * table["x"])
    formula = FORMULAS["crossed within nested"].replace("x + w", "w")
    held = Model(formula, moved).reml(method="ml")
    assert 2.0 * (full.loglik - held.loglik) == pytest.approx(stats.chi2.ppf(0.95, 1), abs=1e-6)


def test_bootstrap_draws_from_the_fitted_model():
    fit = fit_design("crossed")
    found = fit.bootstrap(replicates=6, seed=1)
    assert found.converged.all()
    assert found.names == tuple(map(str, fit.parameters))
    assert found.intervals().index.tolist() == fit.estimates.index.tolist()
    np.testing.assert_array_equal(found.draws[:3], fit.bootstrap(replicates=3, seed=1).draws)


@pytest.mark.slow
@kinds
def test_replicates_spread_as_standard_errors_say(kind):
    fit = fit_design(kind)
    found = fit.bootstrap(replicates=200, seed=2)
    spread = found.draws[:, :3].std(axis=0, ddof=1) / fit.estimates["se"].iloc[:3].to_numpy()
    assert np.all((spread > 0.8) & (spread < 1.25))


@kinds
def test_simulated_responses_have_the_dense_covariance(kind):
    fit, dense = fit_design(kind), spell_out(kind)
    plan = plan_refits(fit)
    white = fit.white
    # X'y of simulated data, whitened: its mean is X'X beta and its covariance X'VX.
    rng = np.random.default_rng(5)
    drawn = np.array([plan.simulator.draw(rng)[:, -4:-1, -1].sum(axis=0) for _ in range(400)])
    x = dense.x @ white.fixed
    expected = x.T @ dense.v @ x / white.scale**2
    beta = np.linalg.solve(white.fixed, fit.beta - white.ols) / white.scale
    error = np.sqrt(np.diag(expected) / 400)
    assert np.all(np.abs(drawn.mean(axis=0) - x.T @ x @ beta) < 4.0 * error)
    np.testing.assert_allclose(np.var(drawn, axis=0) / np.diag(expected), 1.0, atol=0.35)


@kinds
def test_influence_is_that_of_rows_without_the_unit(kind):
    fit, table = fit_design(kind), make_table(kind)
    factor = next(iter(fit.moments.groups))
    found = fit.influence(factor)
    assert found["level"].tolist() == sorted(table[factor].unique())
    label = found["level"].iloc[2]
    rest = Model(FORMULAS[kind], table[table[factor] != label]).reml()
    row = found.iloc[2]
    names = [str(each) for each in fit.parameters[: 3 + fit.n_components + 1]]
    change = rest.estimates["estimate"] - fit.estimates["estimate"]
    np.testing.assert_allclose(row[names].to_numpy(float), change[names], rtol=1e-5, atol=1e-7)
    step = rest.beta - fit.beta
    assert row["cook"] == pytest.approx(step @ np.linalg.solve(fit.beta_cov, step) / 3, rel=1e-5)
    ratio = np.linalg.det(rest.beta_cov) / np.linalg.det(fit.beta_cov)
    assert row["covratio"] == pytest.approx(ratio, rel=1e-5)
    fall = _dense_deviance(kind, rest.gs, rest.sigma2) + 2.0 * fit.loglik
    assert row["displacement"] == pytest.approx(fall, rel=1e-4, abs=1e-7)
    with pytest.raises(ArgumentError, match="factor='nothing' is not a grouping factor"):
        fit.influence("nothing")


def test_variances_of_one_factor_are_tested_with_the_others_kept():
    fit, table = fit_design("three nested"), make_table("three nested")
    found = fit.test_variances("x", null="mixture")
    less = Model("y ~ x + w + (1 | school) + (1 | klass) + (1 | pupil)", table).reml()
    assert found.chi2 == pytest.approx(2.0 * (fit.loglik - less.loglik), abs=1e-6)
    assert found.df == (1, 2)
    whole = fit.test_variances(factor="pupil", null="mixture")
    two = Model("y ~ x + w + (1 | school) + (x | klass)", table).reml()
    assert whole.chi2 == pytest.approx(2.0 * (fit.loglik - two.loglik), abs=1e-6)
    assert (whole.dropped, whole.df) == (("Intercept",), (0, 1))
    with pytest.raises(ArgumentError, match="'Intercept' varies over school and klass and pupil"):
        fit.test_variances("Intercept")
    with pytest.raises(ArgumentError, match="'w' is not random in any one factor"):
        fit.test_variances("w")
    with pytest.raises(ArgumentError, match="null='exact' is not known for several factors"):
        fit.test_variances("x", null="exact")


@pytest.mark.parametrize(
    ("formula", "factor", "dropped"),
    [
        ("y ~ x + (x | rater) + (1 | item)", "rater", ["x"]),
        ("y ~ x + (x | rater) + (1 | item)", "rater", ["Intercept", "x"]),
        ("y ~ x + (x || rater) + (1 | item)", "rater", ["Intercept"]),
    ],
)
def test_replicates_of_a_null_are_drawn_from_the_model_without_the_coefficients(
    formula, factor, dropped
):
    table = make_table("crossed")
    fit = Model(formula, table.assign(item=table["pupil"] % 11)).reml()
    at = fit.find_factor(factor)
    rivals, _ = _reduce(fit, at, dropped)
    simulator = rivals.simulator
    # Of the factor's unit-wise covariance only the kept coefficients' block is not 0.
    root = fit.white.bases[at] @ simulator.effects[at]
    out = [fit.structures[at].names.index(name) for name in dropped]
    np.testing.assert_allclose(root[out], 0.0, atol=1e-12 * max(1.0, np.abs(root).max()))
    # E y'y = beta'X'X beta + tr(Z'Z G) + n sigma2, the errors of the mean being of the draws.
    rng = np.random.Generator(np.random.PCG64(1))
    total = np.array([simulator.draw(rng)[:, -1, -1].sum() for _ in range(400)])
    gram = simulator.cells.blocks[:, :-1, :-1].sum(axis=0)
    sizes = np.concatenate([[0], np.cumsum(simulator.cells.sizes)])
    expected = simulator.beta @ gram[sizes[-1] :, sizes[-1] :] @ simulator.beta
    expected += simulator.cells.n.sum() * simulator.sigma**2
    for i, effects in enumerate(simulator.effects):
        own = slice(sizes[i], sizes[i + 1])
        expected += np.trace(gram[own, own] @ effects @ effects.T)
    assert abs(total.mean() - expected) < 4.5 * total.std() / np.sqrt(len(total))


@pytest.mark.slow
def test_bootstrapped_null_of_a_variance_that_is_zero():
    table = make_table("crossed")
    fit = Model("y ~ x + (1 | rater) + (1 | item)", table.assign(item=table["pupil"] % 11)).reml()
    found = fit.test_variances(factor="item", replicates=200, seed=3)
    assert found.null == "bootstrap"
    assert found.failures == 0
    # Half of the draws are zero, or somewhat more.
    assert 0.4 < found.zero < 0.85
    assert found.p > 0.01


def _predict_densely(kind, row):
    """Return the mean and error variance of a row of the design by n x n algebra, and its G."""
    fit, dense = fit_design(kind), spell_out(kind)
    g = sum(
        wide[row] @ np.kron(np.eye(wide.shape[1] // len(own)), own) @ wide.T
        for wide, own in zip(dense.z, fit.gs, strict=True)
    )
    mean = dense.x[row] @ fit.beta + g @ dense.inverse @ (dense.y - dense.x @ fit.beta)
    lever = dense.x[row] - g @ dense.inverse @ dense.x
    prior = g[row]
    return mean, prior - g @ dense.inverse @ g + lever @ dense.c @ lever, prior


@kinds
def test_predictions_of_known_units_are_the_dense_ones(kind):
    fit, table = fit_design(kind), make_table(kind)
    model = Model(FORMULAS[kind], table)
    found, again = model.predict(fit), model.predict(fit, table.drop(columns="y"))
    np.testing.assert_allclose(found, again)
    for row in range(0, len(table), 37):
        mean, variance, _ = _predict_densely(kind, row)
        assert found["estimate"].iloc[row] == pytest.approx(mean, rel=EXACT)
        assert found["se"].iloc[row] == pytest.approx(np.sqrt(variance), rel=EXACT)
        new = found["upper_new"].iloc[row] - mean
        assert new == pytest.approx(1.959963984540054 * np.sqrt(variance + fit.sigma2), rel=1e-7)
    residuals = model.residuals(fit)
    np.testing.assert_allclose(residuals["fitted"], found["estimate"], rtol=EXACT)
    np.testing.assert_allclose(residuals["marginal"], table["y"] - spell_out(kind).x @ fit.beta)
    assert list(residuals.columns[:2]) == list(fit.moments.groups)[:2]


def test_predictions_of_new_units_at_any_level():
    kind = "three nested"
    fit, table, dense = fit_design(kind), make_table(kind), spell_out(kind)
    model = Model(FORMULAS[kind], table)
    new = table.iloc[[5]].assign(pupil=999)
    with pytest.raises(DataError, match="row 0 has a 'pupil' that the fit does not know"):
        model.predict(fit, new)
    found = model.predict(fit, new, new_groups="population").iloc[0]
    # The pupil is new; the school and the class are known.
    wide = [dense.z[0], dense.z[1]]
    g = sum(
        z[5] @ np.kron(np.eye(z.shape[1] // len(own)), own) @ z.T
        for z, own in zip(wide, fit.gs, strict=False)
    )
    mean = dense.x[5] @ fit.beta + g @ dense.inverse @ (dense.y - dense.x @ fit.beta)
    lever = dense.x[5] - g @ dense.inverse @ dense.x
    variance = g[5] - g @ dense.inverse @ g + lever @ dense.c @ lever + fit.gs[2][0, 0]
    assert found["estimate"] == pytest.approx(mean, rel=EXACT)
    assert found["se"] == pytest.approx(np.sqrt(variance), rel=EXACT)
    population = model.predict(fit, new, kind="population").iloc[0]
    assert population["estimate"] == pytest.approx(dense.x[5] @ fit.beta, rel=EXACT)
    error = np.sqrt(dense.x[5] @ dense.c @ dense.x[5])
    assert population["se"] == pytest.approx(error, rel=EXACT)
    spread = error**2 + _predict_densely(kind, 5)[2] + fit.sigma2
    upper = population["estimate"] + 1.959963984540054 * np.sqrt(spread)
    assert population["upper_new"] == pytest.approx(upper, rel=EXACT)


def test_new_rows_take_the_means_of_the_units_that_the_model_knows():
    table = make_table("three nested")
    formula = "y ~ cwc(x, school:klass) + gm(x, school) + (1 | school/klass)"
    model = Model(formula, table)
    fit = model.reml()
    own = model.predict(fit)
    some = table.iloc[[3, 40, 77]].drop(columns="y")
    pd.testing.assert_frame_equal(model.predict(fit, some), own.iloc[[3, 40, 77]])
    # A new class in a known school: its mean is what one gives, or that of its new rows.
    new = some.iloc[:2].assign(klass=99, school=some["school"].iloc[0])
    asked = {"kind": "population"}
    with pytest.raises(DataError, match=r"give the mean, as in at=\{'gm\(x, school:klass\)': 0.0"):
        model.predict(fit, new, **asked)
    given = model.predict(fit, new, at={"gm(x,school:klass)": 0.25}, **asked)
    gm = table.loc[table["school"] == new["school"].iloc[0], "x"].mean()
    lines = np.column_stack([np.ones(2), new["x"] - 0.25, np.full(2, gm)])
    np.testing.assert_allclose(given["estimate"], lines @ fit.beta, rtol=1e-12)
    whole = model.predict(fit, new, at="new rows", **asked)
    lines[:, 1] = new["x"] - new["x"].mean()
    np.testing.assert_allclose(whole["estimate"], lines @ fit.beta, rtol=1e-12)
    # Population predictions need no unit at all, where all means are given.
    bare = new[["x"]]
    means = {"gm(x, school:klass)": new["x"].mean(), "gm(x, school)": gm}
    again = model.predict(fit, bare, at=means, **asked)
    np.testing.assert_allclose(again["estimate"], whole["estimate"], rtol=1e-12)
    with pytest.raises(
        ArgumentError, match=r"at has 'gm\(x\)', but the columns rest on gm\(x, sch"
    ):
        model.predict(fit, bare, at={"gm(x)": 0.0}, **asked)


def test_a_search_starts_from_another_fit():
    table = make_table("two nested")
    model = Model(FORMULAS["two nested"], table)
    fit = model.reml()
    again = model.reml(start=fit)
    assert again.loglik == pytest.approx(fit.loglik, abs=1e-9)
    assert len(again.steps) < len(fit.steps)
    part = Model(FORMULAS["two nested"], table.iloc[: len(table) // 2]).reml()
    assert model.reml(start=part).loglik == pytest.approx(fit.loglik, abs=1e-8)
    with pytest.raises(ArgumentError, match=r"start is a fit of .* of the same model"):
        model.reml(start=Model("y ~ 1 + (1 | school/klass)", table).reml())
    single = Model("y ~ x + (1 | school)", table)
    with pytest.raises(ArgumentError, match="no fit of several grouping factors"):
        model.reml(start=single.reml())


def test_a_test_of_variances_names_its_factor_and_prints_small_p_as_bounds():
    fit = fit_design("crossed")
    told = str(fit.test_variances("x", factor="rater", null="mixture"))
    assert "H0: x does not vary over 'rater' (REML)" in told
    found = fit.test_variances(factor="rater", null="mixture")
    sure = str(replace(found, chi2=90.0, p_bounds=(1e-20, 1e-19), p=1e-19))
    assert "p < 0.0001" in sure
    assert "0.0000" not in sure
    assert "p between 0.0000 and 0.0300" in str(replace(found, p_bounds=(0.0, 0.03)))
