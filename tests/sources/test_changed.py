"""A table that changes after the model was made from it, on every route."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pytest

import bhlm
from bhlm.errors import DataError
from bhlm.sources.open import scan_table

FORMULA = "y ~ x + cwc(w) + (x | g)"


def make_table(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(10), 12)
    x, w = rng.normal(size=(2, 120))
    y = 1e6 + x + w + rng.normal(size=10)[g] + rng.normal(size=120)
    return pd.DataFrame({"g": g, "x": x, "w": w, "y": y})


def replace(path: Path, table: pd.DataFrame) -> None:
    """Put a file of as many bytes and the same time in the place of another."""
    times = os.stat(path) if path.exists() else None
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False, float_format="%.12f")
    else:
        with duckdb.connect(str(path)) as connection:
            connection.execute("create or replace table t as select * from table")
    if times is not None:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


ROUTES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "parquet stream": (".parquet", lambda path: path),
    "parquet out of core": (".parquet", lambda path: bhlm.open_table(path, memory_limit="1GB")),
    "csv out of core": (".csv", lambda path: bhlm.open_table(path, memory_limit="1GB")),
    "polars scan of parquet": (".parquet", pl.scan_parquet),
    "polars scan of csv": (".csv", pl.scan_csv),
}


@pytest.mark.parametrize("route", ROUTES)
def test_a_file_that_is_replaced_after_the_fit_is_refused(route: str, tmp_path: Path) -> None:
    suffix, open_it = ROUTES[route]
    path = tmp_path / f"t{suffix}"
    replace(path, make_table(1))
    model = bhlm.Model(FORMULA, open_it(path))
    fit = model.reml()
    assert len(model.residuals(fit)) == 120
    replace(path, make_table(2))
    with pytest.raises(DataError, match=r"changed.*make the model again") as caught:
        model.residuals(fit)
    assert "\n" not in str(caught.value)


def change_values(table: pd.DataFrame) -> None:
    table.loc[3, "x"] += 0.01


def swap_responses(table: pd.DataFrame) -> None:
    table.loc[[0, 1], "y"] = table.loc[[1, 0], "y"].to_numpy()


def change_labels(table: pd.DataFrame) -> None:
    table.loc[0, "g"] = 1


@pytest.mark.parametrize("change", [change_values, swap_responses, change_labels])
def test_a_table_in_memory_that_is_written_to_is_refused(
    change: Callable[[pd.DataFrame], None],
) -> None:
    table = make_table(1)
    model = bhlm.Model(FORMULA, table)
    fit = model.reml()
    change(table)
    with pytest.raises(DataError, match="the table has changed"):
        model.residuals(fit)


def test_the_same_rows_in_another_order_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    replace(path, make_table(1))
    model = bhlm.Model(FORMULA, bhlm.open_table(path, memory_limit="1GB"))
    fit = model.reml()
    replace(path, make_table(1).sample(frac=1.0, random_state=1))
    assert len(model.residuals(fit)) == 120


def test_a_file_that_is_replaced_between_two_passes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    replace(path, make_table(1))
    scan = scan_table(path)
    make_table(2).to_parquet(tmp_path / "new.parquet")
    batches = scan.batches(["y", "x", "w", "g"])
    next(batches)
    os.replace(tmp_path / "new.parquet", path)
    with pytest.raises(DataError, match=r"t\.parquet' was changed or replaced"):
        list(batches)
    with pytest.raises(DataError, match=r"t\.parquet' was changed or replaced"):
        bhlm.Model(FORMULA, scan)


def take_view(path: Path) -> duckdb.DuckDBPyRelation:
    """Return a table of DuckDB that does not say what files it reads."""
    connection = duckdb.connect()
    connection.execute(f"create view v as from '{path}'")
    return connection.table("v")


LAZY: dict[str, tuple[str, Callable[[Path], Any]]] = {
    **{name: route for name, route in ROUTES.items() if name != "parquet stream"},
    "polars scan of many": (".parquet", lambda path: pl.scan_parquet(path.parent / "*.parquet")),
    "a query of polars": (".csv", lambda path: pl.scan_csv(path).filter(pl.col("x") < 9)),
    "a relation on parquet": (".parquet", lambda path: duckdb.connect().read_parquet(str(path))),
    "a relation on csv": (
        ".csv",
        lambda path: duckdb.connect().sql(f"from '{path}'").filter("x<9"),
    ),
}


@pytest.fixture
def after_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Return what does something after so many passes over a lazy table."""
    collect = nw.LazyFrame.collect

    def plan(count: int, action: Callable[[], object]) -> None:
        passes = iter(range(1, 100))

        def collect_and_act(frame: Any, *args: Any, **kwargs: Any) -> Any:
            found = collect(frame, *args, **kwargs)
            if next(passes) == count:
                action()
            return found

        monkeypatch.setattr(nw.LazyFrame, "collect", collect_and_act)

    return plan


@pytest.mark.parametrize("route", LAZY)
def test_a_file_that_is_replaced_between_passes_over_it_is_refused(
    route: str, tmp_path: Path, after_pass: Callable[..., None]
) -> None:
    suffix, open_it = LAZY[route]
    path = tmp_path / f"t{suffix}"
    replace(path, make_table(1))
    table = open_it(path)
    after_pass(1, lambda: replace(path, make_table(2)))
    with pytest.raises(DataError, match=r"was changed or replaced since it was first read"):
        bhlm.Model(FORMULA, table)


def test_a_file_that_is_only_touched_is_the_same(
    tmp_path: Path, after_pass: Callable[..., None]
) -> None:
    path = tmp_path / "t.csv"
    replace(path, make_table(1))
    after_pass(1, lambda: [path.touch(), path.chmod(0o600)])
    assert bhlm.Model(FORMULA, pl.scan_csv(path)).moments.n_rows == 120


@pytest.mark.parametrize("change", ["rows", "levels", "means"])
def test_a_view_that_changes_between_passes_is_refused(
    change: str, tmp_path: Path, after_pass: Callable[..., None]
) -> None:
    path = tmp_path / "t.parquet"
    table = make_table(1).assign(f=["a", "b"] * 60)
    replace(path, table)
    changed = {
        "rows": table[1:],
        "levels": table.assign(f=["a", "c"] * 60),
        "means": table.assign(w=table["w"] + 1.0),
    }[change]
    after_pass(3, lambda: replace(path, changed))
    with pytest.raises(DataError, match="has changed while 'y ~ x"):
        bhlm.Model("y ~ x + f + cgm(w) + (1 | g)", take_view(path))


def test_group_means_of_new_rows_are_those_of_the_model() -> None:
    table = make_table(1)
    model = bhlm.Model(FORMULA, table)
    fit, new = model.reml(), make_table(2)[:12]
    expected = model.predict(fit, new)
    table.loc[3, "w"] += 0.5
    with pytest.raises(DataError, match="the table has changed"):
        model.predict(fit, new)
    table["w"] = make_table(1)["w"]
    pd.testing.assert_frame_equal(model.predict(fit, new), expected)


def leave(kind: str, folder: Path) -> tuple[Any, Callable[[], Any]]:
    """Return a lazy table, and what takes away the file, table or connection behind it."""
    path, table = folder / "t.parquet", make_table(1)
    table.to_parquet(path)
    if kind == "a polars scan":
        return pl.scan_parquet(path), path.unlink
    if kind == "a file of DuckDB":
        return duckdb.connect().read_parquet(str(path)), path.unlink
    if kind == "a file read in pieces":
        return bhlm.open_table(path, memory_limit="1GB"), path.unlink
    connection = duckdb.connect()
    connection.register("rows_of_t", table)
    connection.execute("create table t as select * from rows_of_t")
    found = connection.table("t")
    if kind == "a dropped table":
        return found, lambda: connection.execute("drop table t")
    return found, connection.close


GONE = [
    *("a polars scan", "a file of DuckDB", "a file read in pieces", "a dropped table"),
    "a closed connection",
]


@pytest.mark.parametrize("kind", GONE)
def test_a_lazy_table_whose_source_is_gone_is_refused_in_one_line(
    kind: str, tmp_path: Path
) -> None:
    source, take_away = leave(kind, tmp_path)
    model = bhlm.Model(FORMULA, source)
    fit, moments = model.reml(), model.moments
    take_away()
    asked: list[Callable[[], Any]] = [
        lambda: model.residuals(fit), lambda: model.predict(fit), model.rows,
        lambda: bhlm.Model(FORMULA, source),
        lambda: bhlm.Model("y ~ x + (1 | g) + (1 | w)", source),
        lambda: bhlm.Model("y ~ x + (1 | g)", source, residual="w"),
        lambda: bhlm.Model("y ~ x + (1 | g)", source, family="poisson"),
        lambda: model.predict(fit, source), lambda: moments.update(source),
        lambda: bhlm.reduce_part(FORMULA, source), lambda: bhlm.reduce_like(moments, source),
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(DataError) as refused:
            ask()
        assert "\n" not in str(refused.value)
