"""REML and ML against 40-digit values, the printed table, and hard data."""

import numpy as np
import pandas as pd
import pytest
from simulate import Rows, dense_restricted, simulate_rows, simulate_table

from bhlm.errors import ArgumentError, IdentifiabilityError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import STRUCTURES, combine
from bhlm.likelihood.parameters import scale_covariance
from bhlm.likelihood.whitening import whiten
from bhlm.reml import optimize
from bhlm.reml.optimize import maximize
from bhlm.reml.standard_errors import scale_errors
from bhlm.sources.gallery import find_model
from tests.fuzz.tables import random_table

ESTIMATES = 1e-9  # relative; the issue of the reference asks for 1e-7
ERRORS = 1e-8
LOGLIK = 1e-9

CASES = [
    (name, method)
    for name in ("hsb_anova", "hsb_means_as_outcomes", "hsb_random_coefficient")
    for method in ("reml", "ml")
] + [("hsb_intercepts_and_slopes", "reml")]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_agrees_with_forty_digits(name, method, reference, hsb):
    expected = reference[name][method]
    assert find_model(name).formula == reference[name]["formula"]
    fit = Model(reference[name]["formula"], hsb).reml(method=method)
    assert fit.converged
    assert not fit.singular
    assert fit.loglik == pytest.approx(float(expected["loglik"]), abs=LOGLIK)
    assert fit.linear_loglik == pytest.approx(float(expected["linear_model_loglik"]), abs=LOGLIK)
    assert fit.lr_test["chi2"] == pytest.approx(float(expected["lr_chi2"]), abs=1e-8)
    for parameter, values in expected["estimates"].items():
        for key, value in values.items():
            tolerance = ERRORS if key == "se" else ESTIMATES
            ours = float(fit.estimates.loc[parameter, key])
            assert ours == pytest.approx(float(value), rel=tolerance), (parameter, key)
    for coefficient, value in expected["reliability"].items():
        assert fit.reliability[coefficient] == pytest.approx(float(value), rel=1e-10)
    if "wald" in expected:
        assert fit.wald["chi2"] == pytest.approx(float(expected["wald"]["chi2"]), rel=1e-10)
        assert fit.wald["df"] == expected["wald"]["df"]
    for parameter in expected:
        if parameter.startswith("corr("):
            for key, value in expected[parameter].items():
                ours = float(fit.estimates.loc[parameter, key])
                assert ours == pytest.approx(float(value), rel=ERRORS)


@pytest.mark.parametrize("random", ["1", "x", "x + t", "(1 | g) + (0 + x | g)"])
def test_estimate_is_the_dense_maximum(random):
    rows = simulate_rows(11, random, n_groups=40)
    fit = rows.model.reml()
    best = dense_restricted(rows, fit.g, fit.sigma2)
    assert fit.loglik == pytest.approx(best, rel=1e-10)
    rng = np.random.default_rng(1)
    for _ in range(20):
        g = sum(
            fit.g[i, j] * (1 + 0.02 * rng.normal()) * direction
            for (i, j), direction in zip(
                fit.structure.labels, fit.structure.directions, strict=True
            )
        )
        if np.all(np.linalg.eigvalsh(g) > 0):
            assert dense_restricted(rows, g, fit.sigma2 * (1 + 0.02 * rng.normal())) < best


@pytest.mark.parametrize("covariance", ["unstructured", "independent", "exchangeable", "identity"])
def test_standard_errors_are_those_of_the_dense_information(covariance):
    rows = simulate_rows(13, "x", n_groups=25)
    fit = rows.model.reml(covariance=covariance)
    assert not fit.singular
    directions = fit.structure.directions
    at = np.array([*(fit.g[i, j] for i, j in fit.structure.labels), fit.sigma2])

    def value(v):
        return dense_restricted(rows, np.tensordot(v[:-1], directions, axes=1), v[-1])

    step = 1e-3 * np.abs(at).max()
    basis = step * np.eye(len(at))
    hessian = np.array(
        [
            [value(at + a + b) - value(at + a - b) - value(at - a + b) + value(at - a - b)
             for b in basis]
            for a in basis
        ]
    ) / (4 * step**2)  # fmt: skip
    # Second differences of a value near 1e3 with this step are good to about four digits.
    np.testing.assert_allclose(fit.variance_cov, np.linalg.inv(-hessian), rtol=5e-3, atol=1e-6)


@pytest.mark.parametrize("random", ["1", "x", "x + t"])
def test_sixteen_starts_find_one_optimum(random):
    moments = simulate_rows(13, random, n_groups=25).model.moments
    fit = Model("y ~ x + w + " + moments.formula.split("+ w + ")[1], moments).reml()
    white = whiten(moments, fit.structure)
    rng = np.random.default_rng(2)
    for _ in range(16):
        start = rng.normal(scale=2.0, size=len(fit.structure.factors))
        other = maximize(white, fit.structure, restricted=True, start=start)
        assert other.criterion.value == pytest.approx(
            -2 * fit.loglik - 2 * (white.n - white.p) * np.log(white.scale)
            + 2 * white.logdet_fixed,
            abs=1e-8,
        )  # fmt: skip


class TestBoundary:
    def test_zero_variance(self):
        rng = np.random.default_rng(3)
        table = pd.DataFrame({"g": np.repeat(np.arange(20), 5), "y": rng.normal(size=100)})
        # Group means made equal: the between-group variance is estimated as zero.
        table["y"] -= table.groupby("g")["y"].transform("mean")
        fit = Model("y ~ 1 + (1 | g)", table).reml()
        assert fit.converged
        assert fit.singular
        assert fit.g[0, 0] == 0.0
        assert fit.loglik == pytest.approx(fit.linear_loglik, abs=1e-9)
        assert fit.lr_test["chi2"] == pytest.approx(0.0, abs=1e-8)
        row = fit.estimates.loc["var(Intercept|g)"]
        assert row[["se", "lower", "upper"]].isna().all()
        assert float(fit.estimates.loc["var(Residual)", "se"]) == pytest.approx(
            fit.sigma2 * np.sqrt(2 / 99), rel=1e-9
        )
        assert "var(Intercept|g) = 0" in fit.advice
        assert ("use independent" in fit.advice) == (fit.structure.q > 1)

    def test_correlation_of_one(self):
        rng = np.random.default_rng(1)
        group = np.repeat(np.arange(30), 6)
        x = np.tile(np.arange(6.0), 30)
        u = rng.normal(size=30)[group]
        table = pd.DataFrame({"g": group, "x": x, "y": 1 + x + 0.5 * u + 0.1 * u * x})
        table["y"] += rng.normal(size=180)
        fit = Model("y ~ x + (x | g)", table).reml()
        assert fit.converged
        assert fit.singular
        correlation = float(fit.estimates.loc["corr(Intercept,x|g)", "estimate"])
        assert correlation == pytest.approx(1.0, abs=1e-9)
        assert "corr(Intercept,x|g) = +1" in fit.advice
        assert "use independent coefficients" in fit.advice

    def test_nearly_all_variance_between_groups(self):
        rng = np.random.default_rng(5)
        group = np.repeat(np.arange(50), 4)
        y = 100.0 * rng.normal(size=50)[group] + 1.0 * rng.normal(size=200)
        fit = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": group, "y": y})).reml()
        # Balanced one-way analysis of variance has a closed form.
        means = pd.Series(y).groupby(group).mean()
        within = float(((y - means.to_numpy()[group]) ** 2).sum()) / 150
        between = float(means.var()) - within / 4
        assert fit.sigma2 == pytest.approx(within, rel=1e-9)
        assert fit.g[0, 0] == pytest.approx(between, rel=1e-8)
        assert fit.converged

    def test_fewer_rows_than_random_effects(self):
        rng = np.random.default_rng(8)
        group = np.concatenate([np.arange(40), np.arange(20), np.arange(10)])
        x = rng.normal(size=70)
        u = rng.normal(size=(40, 2))[group]
        table = pd.DataFrame({"g": group, "x": x, "y": u[:, 0] + u[:, 1] * x})
        table["y"] += 0.5 * rng.normal(size=70)
        model = Model("y ~ x + (x | g)", table)
        fit = model.reml()
        assert fit.converged
        rows = Rows(model, *model.rows())
        assert fit.loglik == pytest.approx(dense_restricted(rows, fit.g, fit.sigma2), rel=1e-10)

    def test_two_groups(self):
        table = simulate_table(9, n_groups=2, largest=12)
        table = pd.concat([table, table.assign(y=table["y"] + 0.3, x=-table["x"])])
        fit = Model("y ~ x + (1 | g)", table).reml()
        assert fit.converged
        assert np.isfinite(fit.loglik)


def test_group_effects_shrink_the_group_means(hsb):
    fit = Model("mathach ~ 1 + (1 | school)", hsb).reml()
    effects = fit.group_effects()
    by_school = hsb.groupby("school")["mathach"].agg(["mean", "size"])
    reliability = fit.g[0, 0] / (fit.g[0, 0] + fit.sigma2 / by_school["size"])
    expected = reliability * (by_school["mean"] - fit.beta[0])
    np.testing.assert_allclose(effects["estimate"], expected, rtol=1e-10)
    np.testing.assert_allclose(effects["sd"] ** 2, fit.g[0, 0] * (1 - reliability), rtol=1e-10)


def test_unknown_arguments_are_refused(hsb):
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    with pytest.raises(ArgumentError, match="method='mle' is not known; choose 'reml' or 'ml'"):
        model.reml(method="mle")
    with pytest.raises(ArgumentError, match="covariance='ar1' is not known; choose one of"):
        model.reml(covariance="ar1")


def test_a_refit_starts_from_the_old_optimum(hsb):
    """New rows move the optimum a little, and the steps to the new one are few."""
    old = Model("mathach ~ ses + (ses | school)", hsb.iloc[:6500])
    fit = old.reml()
    new = Model("mathach ~ ses + (ses | school)", old.moments.update(hsb.iloc[6500:]))
    again, whole = new.reml(start=fit), new.reml()
    assert again.loglik == pytest.approx(whole.loglik, abs=1e-9)
    np.testing.assert_allclose(again.beta, whole.beta, rtol=1e-9)
    assert len(again.steps) < len(whole.steps)
    with pytest.raises(ArgumentError, match="start is a fit of"):
        Model("mathach ~ ses + (1 | school)", hsb).reml(start=fit)


@pytest.mark.parametrize(
    ("formula", "covariance", "message"),
    [
        ("y ~ w + (1 | g)", None, r"does not depend on var\(Intercept\|g\); drop"),
        ("y ~ x + (1 | g) + (0 + x | g) + (0 + v | g)", None, r"not tell var\(x\|g\) and var\(v\|"),
        ("y ~ x + (x + v | g)", "independent", r"does not tell var\(x\|g\) and var\(v\|g\) apart"),
    ],
)
def test_variances_without_information_are_refused(formula, covariance, message):
    """Two groups with a mean of their own each; a slope that repeats another."""
    table = simulate_table(4, n_groups=2 if "w" in formula else 12, largest=12)
    table = pd.concat([table, table.assign(x=-table["x"])]) if "w" in formula else table
    model = Model(formula, table.assign(v=2.0 * table["x"]))
    with pytest.raises(IdentifiabilityError, match=message):
        model.reml(covariance=covariance)


@pytest.mark.parametrize("column", ["x", "y"])
@pytest.mark.parametrize("unit", [1e90, 1e160, 1e200, 1e-100, 1e-160, 1e-200])
def test_sizes_whose_squares_are_no_doubles_are_refused(column, unit):
    table = simulate_table(4)
    table[column] *= unit
    with pytest.raises(IdentifiabilityError, match=f"no double; give '{column}' in other units"):
        Model("y ~ x + (x | g)", table).reml()


def test_a_start_that_leads_nowhere_is_left():
    """A residual SD of 1e-9 beside the groups': the criterion is flat all about there."""
    table = simulate_table(6, n_groups=12)
    rng = np.random.default_rng(2)
    u, v = rng.normal(size=(2, 12))
    steep = table.assign(y=1e9 * (u[table["g"]] + table["x"] * v[table["g"]]) + table["t"])
    far = Model("y ~ x + (x | g)", steep).reml()
    assert not far.converged
    assert "fit 'y' all but without error" in far.advice
    model = Model("y ~ x + (x | g)", table)
    again, whole = model.reml(start=far), model.reml()
    assert again.converged
    assert again.loglik == pytest.approx(whole.loglik, abs=1e-8)
    with pytest.raises(ArgumentError, match="start is a Moments and no fit; give what model"):
        model.reml(start=model.moments)


def test_the_vanished_direction_does_not_depend_on_units():
    """Where no pair of coefficients correlates by +-1 the advice names a combination."""
    seen = 0
    for seed in range(12):
        table = simulate_table(seed, n_groups=7)
        small = table.assign(x=table["x"] * 1e6 + 1e9, t=table["t"] * 1e-4)
        fits = [Model("y ~ x + t + (x + t | g)", data).reml() for data in (table, small)]
        if not fits[0].singular or "the variance of" not in fits[0].advice:
            continue
        seen += 1
        for fit in fits:
            words = fit.advice.split("the variance of ")[1].split(" is 0")[0].split()
            weights = np.array([float(word) for word in words[::2]])
            assert words[1::2] == ["Intercept", "x", "t"]
            sd = np.sqrt(np.diag(fit.g))
            # Printed to two digits, of terms that weigh up to one SD each.
            share = np.sum((weights @ fit.root) ** 2) / np.max(np.abs(weights) * sd) ** 2
            assert share < 0.15**2
    assert seen


def test_an_interval_next_to_zero_has_no_upper_limit():
    """One-way analysis of variance with between-group variance a millionth above its null."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(10), 5)
    within = rng.normal(size=50)
    within -= within.reshape(10, 5).mean(axis=1)[group]
    means = rng.normal(size=10)
    means -= means.mean()
    means *= np.sqrt((within @ within / 40) * (1 + 1e-4) / 5 / (means @ means / 9))
    fit = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": group, "y": within + means[group]})).reml()
    assert not fit.singular
    row = fit.estimates.loc["var(Intercept|g)"]
    assert 0.0 < row["estimate"] < 1e-4
    assert (row["lower"], row["upper"]) == (0.0, np.inf)
    assert "." in fit.summary()


def test_a_residual_variance_on_its_way_to_zero_is_no_maximum():
    # With 26 groups of one or two rows the random part takes up all that is left; where a search
    # ends depends on the last digits of the sums.
    table = random_table(np.random.default_rng([2, 77]))
    fit = Model("y ~ x + f + (x | g)", table).reml()
    assert not fit.converged
    assert "has no maximum that can be found" in fit.advice


@pytest.mark.parametrize("ratio", [1e3, 3e4, 1e5, 1e7])
def test_groups_that_differ_far_more_than_their_rows_are_fitted_or_refused(ratio):
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(6), 2)
    y = ratio * rng.normal(size=6)[group] + rng.normal(size=12)
    fit = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": group, "y": y})).reml()
    within = pd.Series(y).groupby(group).var().mean()  # of a balanced table the very estimate
    assert fit.converged == (ratio < 1e5)  # beyond, the intraclass correlation is 1 - 1e-10
    if fit.converged:
        assert fit.sigma2 == pytest.approx(within, rel=1e-4)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_nothing_after_a_final_descent_would_move_it(method, monkeypatch):
    seen = {True: 0, False: 0}
    is_final = optimize.is_final

    def watch(found):
        seen[is_final(found)] += 1
        return is_final(found)

    for seed in range(60):
        model = Model("y ~ x + (x | g)", simulate_table(seed, n_groups=int(6 + seed % 30)))
        monkeypatch.setattr(optimize, "is_final", watch)
        fit = model.reml(method=method)
        monkeypatch.setattr(optimize, "is_final", lambda found: False)
        other = model.reml(method=method)
        for name in ("theta", "beta", "g", "sigma2", "variance_cov", "gradient", "loglik"):
            assert np.array_equal(getattr(fit, name), getattr(other, name), equal_nan=True), seed
        assert (fit.steps, fit.converged, fit.singular) == (
            *(other.steps, other.converged, other.singular),
        )
    assert min(seen.values()) > 5


@pytest.mark.parametrize("kind", [None, *STRUCTURES])
def test_errors_of_sds_and_correlations_are_by_the_slopes_of_these(kind):
    structure = combine((("Intercept", "x"), ("t",)), group="g", covariance=kind)
    rng = np.random.default_rng(3)
    theta, m = rng.normal(size=len(structure.factors)), len(structure.labels)
    lam = np.tensordot(theta, structure.factors, axes=1)
    g, root = lam @ lam.T, rng.normal(size=(m, m))
    cov, free, step = root @ root.T, structure.read(g), 1e-6
    slopes = np.empty((m, m))
    for column, unit in enumerate(step * np.eye(m)):
        ahead, behind = (
            scale_covariance(structure.assemble(free + sign * unit), structure.labels)
            for sign in (1.0, -1.0)
        )
        slopes[:, column] = (ahead - behind) / (2.0 * step)
    values, errors = np.array(scale_errors(g, structure.labels, cov)).T
    np.testing.assert_array_equal(values, scale_covariance(g, structure.labels))
    np.testing.assert_allclose(errors, np.sqrt(np.diag(slopes @ cov @ slopes.T)), rtol=1e-7)


def test_an_sd_without_an_error_leaves_those_of_others_alone():
    labels, cov = ((0, 0), (1, 1), (0, 1)), np.full((3, 3), np.nan)
    cov[0, 0] = 4.0
    (sd, error), gone, correlation = scale_errors(np.diag([9.0, 0.0]), labels, cov)
    assert (sd, error) == (3.0, 2.0 * 0.5 / 3.0)
    np.testing.assert_equal([*gone, *correlation], [0.0, np.nan, np.nan, np.nan])
