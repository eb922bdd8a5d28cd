"""Standard errors from replicate weights: by hand, and by deleting groups."""

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm.errors import ArgumentError, DataError
from bhlm.studies.replicate_weights import combine_replicates, plan_replicates

FORMULA = "y ~ x + (1 | g)"
GROUPS = 6
JK = [f"jk{r}" for r in range(GROUPS)]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(GROUPS), 8)
    x = rng.normal(size=len(g))
    y = 1.0 + x + rng.normal(size=GROUPS)[g] + rng.normal(size=len(g))
    jk = {name: np.where(g == r, 0.0, GROUPS / (GROUPS - 1.0)) for r, name in enumerate(JK)}
    return pd.DataFrame({"g": g, "x": x, "y": y, "w": 1.0} | jk)


@pytest.fixture(scope="module")
def model(table) -> bhlm.Model:
    return bhlm.Model(FORMULA, table, weights=bhlm.SamplingWeights(groups="w"))


def test_jackknife_weights_leave_each_group_out(table, model):
    fit = model.ml()
    found = model.replicate_errors(fit, groups=JK, method="JK1")
    without = np.array(
        [bhlm.Model(FORMULA, table[table.g != r]).ml().estimates["estimate"] for r in range(GROUPS)]
    )
    gaps = without - fit.estimates["estimate"].to_numpy()
    by_hand = np.sqrt((GROUPS - 1.0) / GROUPS * (gaps**2).sum(axis=0))
    np.testing.assert_allclose(found["se"], by_hand, rtol=1e-6)
    assert found.loc["x", "upper"] == pytest.approx(fit.beta[1] + 1.959964 * found.loc["x", "se"])
    about_mean = model.replicate_errors(fit, groups=JK, method="JK1", mse=False)
    centred = without - without.mean(axis=0)
    np.testing.assert_allclose(
        about_mean["se"], np.sqrt((GROUPS - 1.0) / GROUPS * (centred**2).sum(axis=0)), rtol=1e-6
    )


def test_the_factors_are_those_of_the_methods():
    full, replicates = np.array([1.0]), np.array([[0.0], [1.0], [2.0], [4.0]])
    squares = 1.0 + 0.0 + 1.0 + 9.0
    for method, more, expected in (
        ("BRR", {}, squares / 4.0),
        ("Fay", {"rho": 0.5}, squares / (4.0 * 0.25)),
        ("JK1", {}, 0.75 * squares),
        ("JK2", {}, squares),
        ("JKn", {"rscales": [0.5, 0.5, 0.5, 1.0]}, 0.5 * 2.0 + 9.0),
        ("bootstrap", {}, squares / 3.0),
    ):
        scheme = plan_replicates(method, 4, **more)
        assert combine_replicates(full, replicates, scheme)[0, 0] == pytest.approx(expected)


def test_what_replicates_cannot_be_is_refused(table, model):
    fit = model.ml()
    for more, told in (
        ({"groups": JK, "method": "SDR"}, "method='SDR' is not known"),
        ({"groups": JK, "method": "Fay"}, "which is 0.5 in PISA"),
        ({"groups": JK, "method": "JKn"}, "without rscales"),
        ({"groups": JK, "rows": JK[:2]}, "2 and 6 replicates"),
        ({"groups": JK[:1]}, "has no variance"),
        ({"rows": "jk0"}, "is not a list of text"),
        ({}, "no replicates"),
    ):
        with pytest.raises(ArgumentError, match=told):
            model.replicate_errors(fit, **more)
    plain = bhlm.Model(FORMULA, table)
    with pytest.raises(ArgumentError, match="none of"):
        plain.replicate_errors(plain.ml(), groups=JK)
    reduced = bhlm.Model.from_moments(model.moments)
    with pytest.raises(DataError, match="no replicate weights"):
        reduced.replicate_errors(fit, groups=JK)
