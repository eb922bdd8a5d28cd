"""Predictions and residuals against dense algebra."""

import numpy as np
import pytest
from scipy import stats
from simulate import dense_covariance, simulate_rows

from bhlm.errors import ArgumentError, DataError
from bhlm.model import Model
from bhlm.predictions import predict_rows
from bhlm.residuals import group_residuals, homogeneity_test, log_dispersion, row_residuals


@pytest.fixture(scope="module")
def rows():
    return simulate_rows(5, "x", n_groups=15, largest=12)


@pytest.fixture(scope="module")
def fit(rows):
    return rows.model.reml()


def test_conditional_predictions_are_the_best_linear_unbiased(rows, fit):
    """E[m | y] and var(m_hat - m) of m = X beta + Z u, from n x n matrices."""
    v = dense_covariance(rows, fit.g, fit.sigma2)
    inverse = np.linalg.inv(v)
    same = rows.labels[:, None] == rows.labels[None, :]
    b = np.where(same, rows.z @ fit.g @ rows.z.T, 0.0)  # the covariance of Zu
    p = inverse - inverse @ rows.x @ fit.beta_cov @ rows.x.T @ inverse
    expected = rows.x @ fit.beta + b @ p @ rows.y
    lever = rows.x - b @ inverse @ rows.x
    variance = np.diag(b - b @ inverse @ b + lever @ fit.beta_cov @ lever.T)
    table = predict_rows(fit, rows.labels, rows.x, rows.z)
    np.testing.assert_allclose(table["estimate"], expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(table["se"] ** 2, variance, rtol=1e-7)
    half = stats.norm.ppf(0.975) * np.sqrt(variance + fit.sigma2)
    np.testing.assert_allclose(table["upper_new"], expected + half, rtol=1e-7)


def test_population_predictions(rows, fit):
    table = predict_rows(fit, rows.labels, rows.x, rows.z, kind="population")
    np.testing.assert_allclose(table["estimate"], rows.x @ fit.beta, rtol=1e-12)
    variance = np.diag(rows.x @ fit.beta_cov @ rows.x.T)
    np.testing.assert_allclose(table["se"] ** 2, variance, rtol=1e-10)


def test_new_groups(rows, fit):
    labels = np.full(3, 999)
    with pytest.raises(DataError, match=r"999.* is not a g of the fit; ask for kind='population'"):
        predict_rows(fit, labels, rows.x[:3], rows.z[:3])
    table = predict_rows(fit, labels, rows.x[:3], rows.z[:3], new_groups="population")
    np.testing.assert_allclose(table["estimate"], rows.x[:3] @ fit.beta)
    for argument in ({"kind": "bayes"}, {"new_groups": "skip"}, {"level": 95}):
        with pytest.raises(ArgumentError, match=next(iter(argument))):
            predict_rows(fit, labels, rows.x[:3], rows.z[:3], **argument)


def test_model_predicts_new_rows(hsb):
    model = Model("mathach ~ ses + (ses | school)", hsb)
    fit = model.reml()
    new = hsb.head(50).drop(columns="mathach")
    table = model.predict(fit, new)
    everything = model.predict(fit)
    np.testing.assert_allclose(table["estimate"], everything["estimate"].head(50), rtol=1e-12)
    with pytest.raises(DataError, match="1 of the 50 new rows miss a value"):
        model.predict(fit, new.assign(ses=new["ses"].where(new.index != 3)))


def test_new_rows_are_centred_on_the_training_means(hsb):
    model = Model("mathach ~ cwc(ses) + gm(ses) + sector + (cwc(ses) | school)", hsb)
    fit = model.reml()
    everything = model.predict(fit)
    # A few rows of each school have other means; the predictions must not notice.
    some = hsb.groupby("school").head(2).drop(columns="mathach")
    table = model.predict(fit, some)
    np.testing.assert_allclose(
        table["estimate"], everything["estimate"].iloc[some.index], rtol=1e-10
    )
    stranger = some.head(2).assign(school=1)
    mean = stranger["ses"].mean()
    beta = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    expected = (
        beta["Intercept"]
        + beta["cwc(ses)"] * (stranger["ses"] - mean)
        + beta["gm(ses)"] * mean
        + beta["sector"] * stranger["sector"]
    )
    found = model.predict(fit, stranger, new_groups="population")
    np.testing.assert_allclose(found["estimate"], expected, rtol=1e-10)


def test_row_residuals(rows, fit):
    table = row_residuals(fit, rows.labels, rows.x, rows.z, rows.y)
    predicted = predict_rows(fit, rows.labels, rows.x, rows.z)["estimate"]
    np.testing.assert_allclose(table["fitted"], predicted, rtol=1e-10)
    np.testing.assert_allclose(table["conditional"], rows.y - predicted, atol=1e-9)
    np.testing.assert_allclose(table["marginal"], rows.y - rows.x @ fit.beta, atol=1e-12)


def test_group_residuals(rows, fit):
    table = group_residuals(fit)
    assert list(table.columns) == ["g", "Intercept", "x", "mahalanobis", "expected", "log_sd"]
    assert (table["mahalanobis"] > 0).all()
    order = table["mahalanobis"].argsort()
    assert table["expected"].iloc[order].is_monotonic_increasing
    log_sd, df = log_dispersion(fit)
    for j, label in enumerate(fit.moments.groups):
        here = rows.labels == label
        if df[j] <= 0:
            assert np.isnan(log_sd[j])
            continue
        rest = rows.y[here] - rows.x[here] @ fit.beta
        z = rows.z[here]
        left = rest - z @ np.linalg.lstsq(z, rest, rcond=None)[0]
        assert log_sd[j] == pytest.approx(0.5 * np.log(left @ left / df[j]), rel=1e-7)


def test_homogeneity_of_the_residual_variance(hsb):
    """R&B (2002, p. 264) print 244.08 on 159 df for the random-coefficient model; here by the
    same formula from the log variances of the rows."""
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    found = homogeneity_test(fit)
    values, weights = [], []
    for _, school in hsb.groupby("school"):
        x = np.column_stack([np.ones(len(school)), school["ses"] - school["ses"].mean()])
        rest = school["mathach"] - x @ np.linalg.lstsq(x, school["mathach"], rcond=None)[0]
        weights.append(len(school) - 2)
        values.append(np.log(float(rest @ rest) / (len(school) - 2)))
    values, weights = np.array(values), np.array(weights)
    pooled = weights @ values / weights.sum()
    assert found["df"] == 159
    assert found["chi2"] == pytest.approx(float(((values - pooled) ** 2 * weights / 2).sum()))
    assert found["p"] < 0.001
