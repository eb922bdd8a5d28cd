"""Rows that were left out, and the columns that cost them, wherever a fit is shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import bhlm
from bhlm.moments.moments import merge_moments, reduce_like
from bhlm.reports.json import describe_model
from tests.simulate import simulate_table

FORMULA = "y ~ x + f + (1 | g)"


def leave_gaps() -> pd.DataFrame:
    """Return a table of which the first rows miss values, one row several of them."""
    table = simulate_table(3, n_groups=12).assign(f=lambda rows: np.where(rows["w"] > 0, "a", "b"))
    table = table.astype({"g": "Float64", "f": object})
    table.loc[:6, "x"] = np.nan
    table.loc[5:8, "y"] = np.nan
    table.loc[7:7, "f"] = None
    table.loc[9:9, "g"] = pd.NA
    return table


TABLE = leave_gaps()
PLAIN = TABLE.astype({"g": "float64"})
PHRASE = (
    f"{len(TABLE) - 10} of {len(TABLE)} rows used, 10 dropped for missing values "
    "(x 7, y 4, g 1, f 1)"
)


def write(table: pd.DataFrame, path: Path) -> str:
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return str(path)


ROUTES: dict[str, Callable[[Path], Any]] = {
    "pandas": lambda _: PLAIN,
    "pandas, nullable": lambda _: TABLE.convert_dtypes(),
    "polars": lambda _: pl.from_pandas(PLAIN),
    "polars with NaN": lambda _: pl.from_pandas(PLAIN, nan_to_null=False),
    "polars, lazy": lambda _: pl.from_pandas(PLAIN).lazy(),
    "pyarrow": lambda _: pa.Table.from_pandas(PLAIN),
    "DuckDB": lambda _: duckdb.connect().from_df(PLAIN),
    "csv": lambda folder: write(PLAIN, folder / "t.csv"),
    "parquet": lambda folder: write(TABLE.astype({"g": "Int64"}), folder / "t.parquet"),
}


@pytest.mark.parametrize("route", ROUTES)
def test_every_engine_counts_them_alike(route: str, tmp_path: Path) -> None:
    moments = bhlm.Model(FORMULA, ROUTES[route](tmp_path)).moments
    assert dict(moments.missing) == {"g": 1, "x": 7, "f": 1, "y": 4}
    assert moments.rows_used == PHRASE


def test_every_view_of_a_fit_tells_them() -> None:
    model = bhlm.Model(FORMULA, PLAIN)
    fit = model.reml()
    shown = [fit.summary(style=style) for style in ("stata", "hlm", "lme4")]
    shown += [repr(fit), repr(model), fit._repr_html_()]
    for text in shown:
        assert PHRASE in " ".join(text.split())
    content = describe_model(fit.moments)
    assert (content["dropped_rows"], content["missing"]["x"]) == (10, 7)


def test_nothing_is_said_where_nothing_is_dropped() -> None:
    model = bhlm.Model(FORMULA, PLAIN.dropna())
    assert "dropped" not in model.reml().summary()
    assert model.moments.rows_used == f"{len(TABLE) - 10} rows"


def test_files_and_parts_keep_the_columns(tmp_path: Path) -> None:
    moments = bhlm.Model(FORMULA, PLAIN).moments
    moments.save(tmp_path / "t.moments")
    assert bhlm.Model.from_moments(tmp_path / "t.moments").moments.rows_used == PHRASE
    other = reduce_like(moments, PLAIN.assign(g=PLAIN["g"] + 100))
    both = merge_moments([moments, other])
    assert both.dropped == 20
    assert dict(both.missing) == {"g": 2, "x": 14, "f": 2, "y": 8}
