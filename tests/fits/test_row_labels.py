"""Row-level results are called as the table calls its rows, however that is held."""

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
from bhlm.fits.reml_fit import RemlFit
from tests.simulate import simulate_table

# Sums of a few numbers of size 1.
ROUNDING = 1e-12


def read_rows() -> pd.DataFrame:
    """Return 60 rows in no order, some of which miss a value."""
    table = simulate_table(4, n_groups=12).sample(frac=1.0, random_state=1)
    table.iloc[[3, 17], table.columns.get_loc("y")] = np.nan
    table.iloc[40, table.columns.get_loc("x")] = np.nan
    return table


def write(table: pd.DataFrame, path: Path) -> str:
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path)
    return str(path)


TABLE = read_rows()
ROUTES: dict[str, Callable[[Path], Any]] = {
    "polars": lambda _: pl.from_pandas(TABLE),
    "polars, lazy": lambda _: pl.from_pandas(TABLE).lazy(),
    "pyarrow": lambda _: pa.Table.from_pandas(TABLE, preserve_index=False),
    "csv": lambda folder: write(TABLE, folder / "t.csv"),
    "parquet": lambda folder: write(TABLE.reset_index(drop=True), folder / "t.parquet"),
}


@pytest.fixture(scope="module")
def plain() -> tuple[bhlm.Model, RemlFit]:
    model = bhlm.Model("y ~ x + (x | g)", TABLE)
    return model, model.reml()


def test_residuals_stand_beside_their_rows(plain: tuple[bhlm.Model, RemlFit]) -> None:
    model, fit = plain
    found = model.residuals(fit)
    assert found.index.equals(TABLE.index[TABLE[["x", "y"]].notna().all(axis=1)])
    beside = TABLE.assign(fitted=found["fitted"], left=found["conditional"])
    gap = beside["y"] - beside["fitted"] - beside["left"]
    assert gap.isna().sum() == 3
    assert gap.abs().max() < ROUNDING
    assert model.predict(fit).index.equals(found.index)


def test_predictions_of_new_rows_are_called_as_these(plain: tuple[bhlm.Model, RemlFit]) -> None:
    model, fit = plain
    new = TABLE.dropna().set_index(["g"], drop=False).rename_axis("who")
    found = model.predict(fit, new)
    assert found.index.equals(new.index)
    assert found.index.name == "who"
    np.testing.assert_array_equal(found["estimate"], model.predict(fit)["estimate"])


@pytest.mark.parametrize("route", ROUTES)
def test_tables_without_labels_number_their_rows(
    route: str, plain: tuple[bhlm.Model, RemlFit], tmp_path: Path
) -> None:
    model = bhlm.Model("y ~ x + (x | g)", ROUTES[route](tmp_path))
    found = model.residuals(model.reml())
    expected = plain[0].residuals(plain[1])
    positions = np.flatnonzero(TABLE[["x", "y"]].notna().all(axis=1))
    assert found.index.tolist() == positions.tolist()
    np.testing.assert_allclose(found["conditional"], expected["conditional"], atol=1e-6)


def test_rows_of_a_database_are_called_by_their_group() -> None:
    model = bhlm.Model("y ~ x + (x | g)", duckdb.connect().from_df(TABLE))
    fit = model.reml()
    for found in (model.residuals(fit), model.predict(fit)):
        assert found.index.name == "g"
        assert sorted(found.index) == sorted(TABLE.loc[TABLE[["x", "y"]].notna().all(axis=1), "g"])
