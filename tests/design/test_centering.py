"""Group means and centring: the same numbers on every engine, missing values kept out."""

import math
from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from bhlm.design.centering import center_grand, center_within, group_mean
from bhlm.errors import DataError

# Means of at most 67 numbers of size 1: a few roundings of 1e-16 each.
ROUNDING = 1e-13

ROWS: dict[str, list[Any]] = {
    "school": ["b", "a", "b", "a", "c", None],
    "ses": [1.0, 4.0, 3.0, None, None, 7.0],
}
GROUP_MEANS = [2.0, 4.0, 2.0, 4.0, None, None]
WITHIN = [-1.0, 0.0, 1.0, None, None, None]
GRAND = [-2.75, 0.25, -0.75, None, None, 3.25]

Engine = Callable[[dict[str, list[Any]]], Any]
ENGINES = pytest.mark.parametrize("engine", [pd.DataFrame, pl.DataFrame, pa.table])


def to_list(series: Any) -> list[float | None]:
    values = series.to_pylist() if isinstance(series, pa.ChunkedArray) else series.to_list()
    return [None if each is None or math.isnan(each) else each for each in values]


@ENGINES
def test_values_on_every_engine(engine: Engine) -> None:
    table = engine(ROWS)
    assert to_list(group_mean(table, "ses", group="school")) == GROUP_MEANS
    assert to_list(center_within(table, "ses", group="school")) == WITHIN
    assert to_list(center_grand(table, "ses")) == GRAND


def test_polars_nan_counts_as_missing() -> None:
    rows = ROWS | {"ses": [math.nan if each is None else each for each in ROWS["ses"]]}
    table = pl.DataFrame(rows)
    assert to_list(group_mean(table, "ses", group="school")) == GROUP_MEANS
    assert to_list(center_grand(table, "ses")) == GRAND


def test_pandas_in_pandas_out_with_its_index() -> None:
    table = pd.DataFrame(ROWS, index=[10, 3, 3, 7, 1, 0])
    for series in (group_mean(table, "ses", group="school"), center_grand(table, "ses")):
        assert isinstance(series, pd.Series)
        assert series.index.tolist() == [10, 3, 3, 7, 1, 0]
    assert center_within(table, "ses", group="school").name == "cwc(ses)"


def test_polars_in_polars_out() -> None:
    series = group_mean(pl.DataFrame(ROWS), "ses", group="school")
    assert isinstance(series, pl.Series)
    assert series.name == "gm(ses)"


def test_integers_and_flags_have_means() -> None:
    table = pd.DataFrame({"g": [1, 1, 2], "n": [1, 2, 5], "flag": [True, False, True]})
    assert to_list(group_mean(table, "n", group="g")) == [1.5, 1.5, 5.0]
    assert to_list(center_within(table, "flag", group="g")) == [0.5, -0.5, 0.0]


def test_table_is_left_as_it_was() -> None:
    table = pd.DataFrame(ROWS)
    before = table.copy()
    center_within(table, "ses", group="school")
    pd.testing.assert_frame_equal(table, before)


def test_hsb_against_pandas_by_hand(hsb: pd.DataFrame) -> None:
    means = hsb.groupby("school")["ses"].mean().loc[hsb["school"]].to_numpy()
    ses = hsb["ses"].to_numpy()
    np.testing.assert_allclose(group_mean(hsb, "ses", group="school"), means, atol=ROUNDING)
    within = center_within(pl.from_pandas(hsb), "ses", group="school").to_numpy()
    np.testing.assert_allclose(within, ses - means, atol=ROUNDING)
    np.testing.assert_allclose(center_grand(hsb, "ses"), ses - ses.mean(), atol=ROUNDING)


@ENGINES
def test_unknown_column_suggests_the_nearest(engine: Engine) -> None:
    with pytest.raises(DataError, match="no column 'sse'; did you mean 'ses'"):
        center_grand(engine(ROWS), "sse")
    with pytest.raises(DataError, match="no column 'scool'; did you mean 'school'"):
        group_mean(engine(ROWS), "ses", group="scool")
    with pytest.raises(DataError, match="no column 'zzz'; it has: school, ses"):
        center_within(engine(ROWS), "zzz", group="school")


@ENGINES
def test_text_has_no_mean(engine: Engine) -> None:
    with pytest.raises(DataError, match="column 'school' holds String, which has no mean"):
        center_grand(engine(ROWS), "school")


@pytest.mark.parametrize("table", [pl.LazyFrame(ROWS), duckdb.sql("select 1 as ses"), [1, 2]])
def test_only_eager_dataframes(table: Any) -> None:
    with pytest.raises(DataError, match="is not an eager dataframe; give a pandas, polars"):
        center_grand(table, "ses")
