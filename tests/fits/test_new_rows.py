"""Predictions of new rows: what they need, and what cwc() and gm() mean in a group that is new."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import bhlm
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.reml_fit import RemlFit
from tests.simulate import simulate_table

TABLE = simulate_table(7, n_groups=20)
FORMULA = "y ~ gm(x) + cwc(x) + (cwc(x) | g)"
CLOSE = 1e-12
# Three new groups of one row each.
NEW = pd.DataFrame({"g": [101, 102, 103], "x": [-1.0, 0.0, 1.0]}, index=["a", "b", "c"])

type Fitted = tuple[bhlm.Model, RemlFit]


@pytest.fixture(scope="module")
def centred() -> Fitted:
    model = bhlm.Model(FORMULA, TABLE)
    return model, model.reml()


@pytest.fixture(scope="module")
def plain() -> Fitted:
    model = bhlm.Model("y ~ x + (x | g)", TABLE)
    return model, model.reml()


def test_the_slope_within_new_groups_is_that_within_groups(centred: Fitted) -> None:
    model, fit = centred
    found = model.predict(fit, NEW, kind="population", at={"gm(x)": 0.0})
    steps = np.diff(found["estimate"])
    within = fit.estimates.loc["cwc(x)", "estimate"]
    np.testing.assert_allclose(steps, [within, within], rtol=CLOSE)
    assert found.index.tolist() == ["a", "b", "c"]


def test_a_new_group_without_a_mean_is_refused_with_the_ways_out(centred: Fitted) -> None:
    model, fit = centred
    with pytest.raises(DataError, match=r"g 101 is new and has no gm\(x\) .* at=\{'gm\(x\)': 0.0"):
        model.predict(fit, NEW, kind="population")
    with pytest.raises(DataError, match="101 is not a g of the fit"):
        model.predict(fit, NEW)


def test_means_may_differ_by_row(centred: Fitted) -> None:
    model, fit = centred
    each = [
        model.predict(fit, NEW.iloc[[i]], kind="population", at={"gm(x)": mean})["estimate"].item()
        for i, mean in enumerate((0.5, 0.0, -2.0))
    ]
    together = model.predict(fit, NEW, kind="population", at={"gm( x )": [0.5, 0.0, -2.0]})
    np.testing.assert_allclose(together["estimate"], each, rtol=CLOSE)


def test_whole_new_groups_may_be_centred_on_themselves(centred: Fitted) -> None:
    model, fit = centred
    whole = TABLE.assign(g=TABLE["g"] + 500)
    found = model.predict(fit, whole, kind="population", at="new rows")
    own = model.predict(fit, kind="population")
    np.testing.assert_allclose(found["estimate"], own["estimate"], rtol=CLOSE)


def test_known_groups_keep_their_means(centred: Fitted) -> None:
    model, fit = centred
    rows = pd.concat([TABLE.iloc[[5]], NEW])
    found = model.predict(fit, rows, kind="population", at={"gm(x)": 9.0})
    assert found["estimate"].iloc[0] == pytest.approx(
        model.predict(fit, kind="population")["estimate"].iloc[5], rel=CLOSE
    )


@pytest.mark.parametrize("columns", [["x"], ["x", "g"], ["x", "y", "g"]])
@pytest.mark.parametrize("make", [pd.DataFrame, pl.from_pandas])
def test_population_predictions_need_neither_group_nor_response(
    columns: list[str], make: Any, plain: Fitted
) -> None:
    model, fit = plain
    rows = TABLE[columns].assign(**({"g": [None] * len(TABLE)} if len(columns) == 2 else {}))
    found = model.predict(fit, make(rows), kind="population")
    expected = model.predict(fit, kind="population")
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))


def test_a_mean_may_be_given_without_a_group(centred: Fitted) -> None:
    model, fit = centred
    found = model.predict(fit, NEW[["x"]], kind="population", at={"gm(x)": 0.0})
    expected = model.predict(fit, NEW, kind="population", at={"gm(x)": 0.0})
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(DataError, match=r"have no 'g' and so no gm\(x\)"):
        model.predict(fit, NEW[["x"]], kind="population")
    with pytest.raises(DataError, match="no column 'g'; give it, or ask for kind='population'"):
        model.predict(fit, NEW[["x"]])


def test_every_nested_mean_must_be_given() -> None:
    model = bhlm.Model("y ~ cwc(I(x - gm(t))) + (1 | g)", TABLE)
    fit = model.reml()
    new = NEW.assign(t=0.0)
    with pytest.raises(DataError, match=r"no gm\(t\) and no gm\(I\(x - gm\(t\)\)\)"):
        model.predict(fit, new, kind="population")
    at = {"gm(t)": 2.0, "gm(I(x - gm(t)))": -2.0}
    found = model.predict(fit, new, kind="population", at=at)["estimate"]
    slope = fit.estimates["estimate"].iloc[1]
    np.testing.assert_allclose(found - fit.estimates["estimate"].iloc[0], slope * NEW["x"])


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"gm(z)": 0.0}, r"at has 'gm\(z\)', but the columns rest on gm\(x\)"),
        ("mean", "at='mean' is not known"),
        ({"gm(x)": "much"}, "at holds 'much'; give a finite number"),
        ({"gm(x)": [1.0, 2.0]}, "one for each of the 3 new rows"),
        ({"gm(x)": np.nan}, "give a finite number"),
        (3, "at=3 is not known"),
    ],
)
def test_what_is_no_mean_is_refused(at: Any, message: str, centred: Fitted) -> None:
    model, fit = centred
    with pytest.raises(ArgumentError, match=message):
        model.predict(fit, NEW, kind="population", at=at)


def test_means_of_another_index_are_refused(centred: Fitted) -> None:
    """By their places they would be the means of other rows."""
    model, fit = centred
    means = pd.Series([0.5, 0.0, -2.0], index=NEW.index)
    expected = model.predict(fit, NEW, kind="population", at={"gm(x)": means.tolist()})
    found = model.predict(fit, NEW, kind="population", at={"gm(x)": means})
    pd.testing.assert_frame_equal(found, expected)
    by_group = means.set_axis(NEW["g"])
    for other in (means[::-1], by_group):
        with pytest.raises(ArgumentError, match="Series with another index than the new rows"):
            model.predict(fit, NEW, kind="population", at={"gm(x)": other})
