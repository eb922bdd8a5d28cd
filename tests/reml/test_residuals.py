"""Residuals at both levels against dense algebra and regressions of the rows."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulate import dense_covariance, simulate_rows, simulate_table

from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.reml.predictions import predict_rows
from bhlm.reml.residuals import group_residuals, judge_homogeneity, log_dispersion, row_residuals


@pytest.fixture(scope="module")
def rows():
    return simulate_rows(5, "x", n_groups=15, largest=12)


@pytest.fixture(scope="module")
def fit(rows):
    return rows.model.reml()


def regress(table, columns, response):
    """Return the residual sum of squares and df of least squares on a constant and columns."""
    x = np.column_stack([np.ones(len(table)), *(table[name] for name in columns)])
    beta, _, rank, _ = np.linalg.lstsq(x, table[response], rcond=None)
    left = table[response] - x @ beta
    return float(left @ left), len(table) - int(rank)


def test_row_residuals(rows, fit):
    table = row_residuals(fit, rows.labels, rows.x, rows.z, rows.y)
    predicted = predict_rows(fit, rows.labels, rows.x, rows.z)["estimate"]
    np.testing.assert_allclose(table["fitted"], predicted, rtol=1e-10)
    np.testing.assert_allclose(table["conditional"], rows.y - predicted, atol=1e-9)
    np.testing.assert_allclose(table["marginal"], rows.y - rows.x @ fit.beta, atol=1e-12)
    standardized = table["conditional"] / np.sqrt(fit.sigma2)
    np.testing.assert_allclose(table["standardized"], standardized, rtol=1e-12)


def test_rows_of_another_table_are_refused(rows, fit):
    with pytest.raises(DataError, match=r"77 is not a g of the fit; give the rows that the model"):
        row_residuals(fit, np.array([0, 77]), rows.x[:2], rows.z[:2], rows.y[:2])


def test_distances_are_those_of_the_dense_covariance(rows, fit):
    """d = u_hat' var(u_hat)^-1 u_hat with var(u_hat) = G Z'P Z G."""
    inverse = np.linalg.inv(dense_covariance(rows, fit.g, fit.sigma2))
    p = inverse - inverse @ rows.x @ fit.beta_cov @ rows.x.T @ inverse
    table = group_residuals(fit)
    singles = 0
    for j, label in enumerate(fit.moments.groups):
        z = np.where((rows.labels == label)[:, None], rows.z, 0.0)
        u = fit.g @ z.T @ p @ rows.y
        np.testing.assert_allclose(table.loc[j, ["Intercept", "x"]].astype(float), u, rtol=1e-7)
        spread = fit.g @ z.T @ p @ z @ fit.g
        distance = u @ np.linalg.pinv(spread, rcond=1e-9, hermitian=True) @ u
        assert table.loc[j, "mahalanobis"] == pytest.approx(distance, rel=1e-6)
        assert table.loc[j, "df"] == min(fit.moments.n[j], 2)
        singles += fit.moments.n[j] == 1
        upper = stats.chi2.sf(distance, table.loc[j, "df"])
        assert table.loc[j, "p"] == pytest.approx(upper, rel=1e-6)
    assert singles
    ranks = stats.rankdata(table["mahalanobis"])
    quantiles = stats.chi2.ppf((ranks - 0.5) / 15, 2)
    np.testing.assert_allclose(table["expected"], quantiles, rtol=1e-12)


def test_distances_of_a_singular_fit_have_its_rank():
    rng = np.random.default_rng(1)
    group, x = np.repeat(np.arange(30), 6), np.tile(np.arange(6.0), 30)
    u = rng.normal(size=30)[group]
    table = pd.DataFrame({"g": group, "x": x, "y": 1 + x + 0.5 * u + 0.1 * u * x})
    table["y"] += rng.normal(size=180)
    fit = Model("y ~ x + (x | g)", table).reml()
    assert fit.singular
    found = group_residuals(fit)
    assert (found["df"] == 1).all()
    ranks = stats.rankdata(found["mahalanobis"])
    quantiles = stats.chi2.ppf((ranks - 0.5) / 30, 1)
    np.testing.assert_allclose(found["expected"], quantiles, rtol=1e-12)
    # Balanced groups: the distance is that of either coefficient alone.
    ratio = found["mahalanobis"] / found["x"] ** 2
    np.testing.assert_allclose(ratio, ratio.iloc[0], rtol=1e-6)
    far = group_residuals(Model("y ~ x + (x | g)", table.assign(x=table["x"] + 1e7)).reml())
    np.testing.assert_allclose(far["mahalanobis"], found["mahalanobis"], rtol=1e-5)
    level = table.assign(y=table["y"] - table.groupby("g")["y"].transform("mean"))
    none = group_residuals(Model("y ~ 1 + (1 | g)", level).reml())
    assert (none[["Intercept", "mahalanobis", "df", "expected"]] == 0).all(axis=None)
    assert none["p"].isna().all()


@pytest.mark.parametrize("formula", ["y ~ x + w + v + (x | g)", "y ~ 0 + x + t + (0 + x | g)"])
def test_dispersion_is_that_of_each_groups_regression(formula):
    """On all columns, random or not; far from zero and nearly collinear too."""
    table = simulate_table(7, n_groups=15, largest=12)
    table["v"] = table["x"] + 1e-2 * table["t"]
    table["x"] += 1e3 * table["g"]
    log_sd, df = log_dispersion(Model(formula, table).reml())
    for j, (_, rows) in enumerate(table.groupby("g")):
        rows = rows.assign(one=1.0)
        if "0 +" in formula:
            x = rows[["x", "t"]].to_numpy()
            beta, _, rank, _ = np.linalg.lstsq(x, rows["y"], rcond=None)
            rss, expected = float(((rows["y"] - x @ beta) ** 2).sum()), len(rows) - int(rank)
        else:
            rss, expected = regress(rows, ["x", "t"], "y")
        assert df[j] == expected
        if expected > 0:
            assert log_sd[j] == pytest.approx(0.5 * np.log(rss / expected), rel=1e-5, abs=1e-7)
        else:
            assert np.isnan(log_sd[j])


def test_homogeneity_of_the_residual_variance(hsb):
    """Snijders & Bosker (2012), eq. 10.5, from the log variances of the rows."""
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    squares, f = np.array(
        [regress(rows, ["ses"], "mathach") for _, rows in hsb.groupby("school")]
    ).T
    for least in (10, 30):
        found = judge_homogeneity(fit, least_df=least)
        use = f >= least
        values, weights = np.log(squares[use] / f[use]), f[use]
        gap = values - weights @ values / weights.sum()
        assert found["df"] == use.sum() - 1
        assert found["chi2"] == pytest.approx(float(gap**2 @ weights / 2), rel=1e-9)
        assert found["p"] == pytest.approx(stats.chi2.sf(found["chi2"], found["df"]))
    assert found["df"] < 159


def test_homogeneity_is_found_where_it_holds():
    """Under the null hypothesis H is near its df, and a group with more noise raises it."""
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(60), 40)
    noise = rng.normal(size=2400)
    table = pd.DataFrame({"g": group, "y": rng.normal(size=60)[group] + noise})
    fit = Model("y ~ 1 + (1 | g)", table).reml()
    even = fit.test_homogeneity()
    assert even == judge_homogeneity(fit)
    assert even["p"] > 0.01
    table["y"] += 2.0 * noise * (group < 5)
    assert judge_homogeneity(Model("y ~ 1 + (1 | g)", table).reml())["p"] < 1e-6


def test_homogeneity_that_cannot_be_tested_is_refused(hsb):
    model = Model("mathach ~ 1 + (1 | school)", hsb)
    with pytest.raises(ArgumentError, match=r"least_df=500 leaves 0 'school' to compare .* is 66"):
        judge_homogeneity(model.reml(), least_df=500)
    flat = hsb.assign(mathach=hsb["mathach"].where(hsb["school"] != 1288, 12.0))
    fit = Model("mathach ~ 1 + (1 | school)", flat).reml()
    assert np.isneginf(log_dispersion(fit)[0][1])
    with pytest.raises(ArgumentError, match="'school' 1288 has no residual variance at all"):
        judge_homogeneity(fit)
