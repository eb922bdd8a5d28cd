"""Predictions against dense algebra."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulate import dense_covariance, simulate_rows, simulate_table

from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.reml.predictions import predict_rows


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
    with pytest.raises(DataError, match="1 of the 50 new rows misses a value"):
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
    found = model.predict(fit, stranger, new_groups="population", at="new rows")
    np.testing.assert_allclose(found["estimate"], expected, rtol=1e-10)


def test_new_groups_have_the_variance_of_an_unknown_effect(rows, fit):
    """Among known ones, whose predictions stay what they are; labels of any type may be asked."""
    labels = np.array([999, *rows.labels[1:4], "west"], dtype=object)
    x, z = rows.x[:5], rows.z[:5]
    table = predict_rows(fit, labels, x, z, new_groups="population")
    known = predict_rows(fit, rows.labels[1:4], x[1:4], z[1:4])
    np.testing.assert_allclose(table.iloc[1:4], known, rtol=1e-12)
    variance = np.diag(x @ fit.beta_cov @ x.T + z @ fit.g @ z.T)[[0, 4]]
    np.testing.assert_allclose(table["se"].iloc[[0, 4]] ** 2, variance, rtol=1e-10)
    new = table["upper_new"] - table["estimate"]
    half = stats.norm.ppf(0.975)
    np.testing.assert_allclose(new.iloc[[0, 4]], half * np.sqrt(variance + fit.sigma2), rtol=1e-9)


def test_population_intervals_of_a_new_observation(rows, fit):
    table = predict_rows(fit, rows.labels, rows.x, rows.z, kind="population", level=0.8)
    half = stats.norm.ppf(0.9)
    mean = np.diag(rows.x @ fit.beta_cov @ rows.x.T)
    new = mean + np.diag(rows.z @ fit.g @ rows.z.T) + fit.sigma2
    middle = rows.x @ fit.beta
    np.testing.assert_allclose(table["lower"], middle - half * np.sqrt(mean), rtol=1e-9)
    np.testing.assert_allclose(table["lower_new"], middle - half * np.sqrt(new), rtol=1e-9)


def test_predictions_keep_their_digits_far_from_zero():
    table = simulate_table(5, n_groups=15)
    far = table.assign(x=table["x"] + 1e7)
    model, other = (Model("y ~ x + w + (x | g)", data) for data in (table, far))
    for kind in ("conditional", "population"):
        near = model.predict(model.reml(), kind=kind)
        # x + 1e7 has lost nine digits of x, which leaves seven.
        np.testing.assert_allclose(other.predict(other.reml(), kind=kind), near, atol=1e-6)


def test_a_change_score_is_predicted_from_what_it_started_from():
    """The response is not known in new rows, but a part of it may be a predictor too."""
    table = simulate_table(2)
    table = table.assign(pre=table["x"], post=table["x"] + table["y"])
    model = Model("I(post - pre) ~ pre + (1 | g)", table)
    fit = model.reml()
    own, new = model.predict(fit), model.predict(fit, table.drop(columns="post"))
    np.testing.assert_allclose(new, own, rtol=1e-12)
    with pytest.raises(DataError, match="the table has no column 'pre'"):
        model.predict(fit, table.drop(columns="pre"))


@pytest.mark.parametrize(
    "labels",
    [["0", "1", "2"], [0, "one", 2], [True, False, True], pd.date_range("2020", periods=3)],
)
def test_labels_of_another_type_are_new_groups(labels):
    table = simulate_table(2)
    model = Model("y ~ cwc(x) + gm(x) + (cwc(x) | g)", table)
    fit = model.reml()
    rows = table.iloc[:3].assign(g=pd.Series(labels, dtype=object).to_numpy())
    with pytest.raises(DataError, match="is not a g of the fit; ask for kind='population'"):
        model.predict(fit, rows)
    found = model.predict(fit, rows, new_groups="population", at={"gm(x)": 0.0})
    assert found.notna().all(axis=None)


def test_labels_beyond_the_digits_of_floats_keep_their_means():
    """Signed and unsigned labels of 64 bits have no common type but floats."""
    table = simulate_table(2)
    table["g"] += 2**53
    model = Model("y ~ cwc(x) + gm(x) + (cwc(x) | g)", table)
    fit = model.reml()
    new = model.predict(fit, table.assign(g=table["g"].astype("uint64")))
    np.testing.assert_allclose(new, model.predict(fit), rtol=1e-12)


def test_new_rows_that_are_no_table_are_refused(rows, fit):
    with pytest.raises(DataError, match="a table of type dict cannot be read"):
        rows.model.predict(fit, {"x": [1.0], "w": [1.0], "g": [0]})
