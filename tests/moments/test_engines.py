"""One formula, every engine and every place: real ones, and the same moments from all of them."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyreadstat
import pytest
from nasty_table import (
    CELLS_FORMULA,
    DEEP_FORMULA,
    FORMULA,
    HSB_FORMULA,
    NASTY,
    NASTY_FORMULA,
    as_pandas,
    assert_same_cells,
    assert_same_moments,
)
from postgres_server import load_postgres, needs

from bhlm.design.design import apply_design, build_design
from bhlm.design.formula.terms import parse_formula
from bhlm.design.rows import open_rows
from bhlm.errors import DataError, MissingPackageError
from bhlm.fits.model import Model
from bhlm.moments import reduce
from bhlm.sources import databases
from bhlm.sources import open as sources
from bhlm.sources.open import open_table, scan_table
from bhlm.sources.parquet import ParquetScan

pytestmark = [
    # What engines say about their own future.
    pytest.mark.filterwarnings("ignore:fetch_arrow_table:DeprecationWarning"),  # Ibis, of DuckDB
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Dask support is moving out of Narwhals:FutureWarning"),
]


@pytest.fixture(scope="module")
def tables(hsb: pd.DataFrame) -> dict[str, tuple[str, pa.Table]]:
    """Formula and table by name."""
    columns = ["school", "mathach", "ses", "sector"]
    return {
        "hsb": (HSB_FORMULA, pa.Table.from_pandas(hsb[columns], preserve_index=False)),
        "nasty": (NASTY_FORMULA, NASTY),
    }


# ---------------------------------------------------------------- the engines


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A Spark session on this machine."""
    needs("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Java is not installed")
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .appName("bhlm")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.memory", "1g")
        .config("spark.sql.shuffle.partitions", "3")
        .config("spark.log.level", "ERROR")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.fixture(scope="session")
def dask_client() -> Iterator[Any]:
    """A Dask cluster of two worker processes."""
    needs("dask", "distributed", "dask.dataframe")
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


Opener = Callable[[pa.Table, pytest.FixtureRequest], Any]


def open_duckdb(table: pa.Table, request: pytest.FixtureRequest) -> Any:
    return duckdb.connect().from_arrow(table)


def open_ibis_duckdb(table: pa.Table, request: pytest.FixtureRequest) -> Any:
    needs("ibis")
    import ibis

    backend = ibis.duckdb.connect()
    backend.con.register("rows", table)
    backend.con.execute("create table t as select * from rows")
    return backend.table("t")


def open_ibis_postgres(table: pa.Table, request: pytest.FixtureRequest) -> Any:
    url = request.getfixturevalue("postgres")
    import ibis
    import psycopg

    load_postgres(url, "tests.t", table)
    connection = psycopg.connect(url)
    request.addfinalizer(connection.close)
    return ibis.postgres.from_connection(connection).table("t", database="tests")


def open_spark(table: pa.Table, request: pytest.FixtureRequest) -> Any:
    frame = request.getfixturevalue("spark").createDataFrame(table)
    return frame.repartition(4)


def open_dask(table: pa.Table, request: pytest.FixtureRequest) -> Any:
    request.getfixturevalue("dask_client")
    import dask.dataframe as dd

    return dd.from_pandas(as_pandas(table), npartitions=4)


SLOW = [pytest.mark.slow]
ENGINES: dict[str, Opener] = {
    "polars": lambda table, request: pl.from_arrow(table),
    "polars lazy": lambda table, request: pl.from_arrow(table).lazy(),
    "pyarrow": lambda table, request: table,
    "duckdb": open_duckdb,
    "ibis duckdb": open_ibis_duckdb,
    "ibis postgres": open_ibis_postgres,
    "spark": open_spark,
    "dask": open_dask,
}
SLOW_ENGINES = ("ibis duckdb", "ibis postgres", "spark", "dask")


@pytest.mark.parametrize("which", [pytest.param("hsb", marks=pytest.mark.slow), "nasty"])
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW_ENGINES else ())
        for name in ENGINES
    ],
)
def test_every_engine_gives_the_same_moments(
    engine: str,
    which: str,
    tables: dict[str, tuple[str, pa.Table]],
    request: pytest.FixtureRequest,
) -> None:
    formula, table = tables[which]
    found = Model(formula, ENGINES[engine](table, request)).moments
    expected = Model(formula, as_pandas(table)).moments
    assert expected.dropped == (0 if which == "hsb" else 21)
    assert_same_moments(found, expected)


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param(name, marks=[] if name in ("polars lazy", "pyarrow", "duckdb") else SLOW)
        for name in ENGINES
    ],
)
def test_every_engine_gives_the_same_cells(engine: str, request: pytest.FixtureRequest) -> None:
    # Each mean within a factor is a shuffle of all rows, which takes Spark and Dask seconds.
    distributed = engine in ("spark", "dask")
    formula = "y ~ cwc(x, g) + f + (1 | g/h) + (1 | k)" if distributed else CELLS_FORMULA
    found = Model(formula, ENGINES[engine](NASTY, request)).cells
    expected = Model(formula, as_pandas(NASTY)).cells
    assert expected is not None
    assert expected.n_cells > 250
    assert_same_cells(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["polars lazy", "duckdb"])
def test_means_of_means_within_other_factors(engine: str, request: pytest.FixtureRequest) -> None:
    found = Model(DEEP_FORMULA, ENGINES[engine](NASTY, request)).cells
    assert_same_cells(found, Model(DEEP_FORMULA, as_pandas(NASTY)).cells)


@pytest.mark.parametrize("limit", [None, pytest.param("100MB", marks=SLOW)])
def test_files_give_the_same_cells(limit: str | None, tmp_path: Path) -> None:
    expected = Model(CELLS_FORMULA, as_pandas(NASTY)).cells
    for suffix in (".parquet", ".csv"):
        path = tmp_path / f"t{suffix}"
        WRITERS[suffix](NASTY, path)
        table = open_rows(parse_formula(CELLS_FORMULA), path, memory_limit=limit)
        assert_same_cells(Model(CELLS_FORMULA, table).cells, expected)


@pytest.mark.parametrize("wide", [True, False])
def test_cells_of_parquet_files_are_streamed(
    wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 37 rows, labels of text and of integers, and no column read whole."""
    pq.write_table(NASTY, tmp_path / "t.parquet")
    formula = DEEP_FORMULA.replace("cgm(far) + ", "")
    formula = formula if wide else "y ~ x + (1 | h) + (1 | k)"
    scan = replace(scan_table(tmp_path / "t.parquet"), batch=37)
    monkeypatch.setattr(ParquetScan, "read", lambda *args: pytest.fail("read whole"))
    found = Model(formula, scan).cells
    assert_same_cells(found, Model(formula, as_pandas(NASTY)).cells)


def test_many_columns_of_cells_come_from_duckdb_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "WIDE", 3)
    monkeypatch.setattr(reduce, "HELD", 2000)
    found = Model(CELLS_FORMULA, duckdb.connect().from_arrow(NASTY)).cells
    assert_same_cells(found, Model(CELLS_FORMULA, as_pandas(NASTY)).cells)


def test_a_bad_value_of_a_cell_is_named_by_every_route(tmp_path: Path) -> None:
    pq.write_table(NASTY, tmp_path / "t.parquet")
    formula = "y ~ log(k) + (1 | g) + (1 | h)"
    for table in (scan_table(tmp_path / "t.parquet"), duckdb.connect().from_arrow(NASTY)):
        with pytest.raises(DataError, match=r"'log\(k\)' is not finite|stopped while it read"):
            Model(formula, table)


def test_a_database_reads_the_rows_once_per_mean_and_sorts_none(tmp_path: Path) -> None:
    """What keeps DuckDB within its memory: a window would hold every row, on disk if need be."""
    pq.write_table(NASTY, tmp_path / "t.parquet")
    relation = open_table(tmp_path / "t.parquet", memory_limit="100MB")
    formula = "y ~ cwc(gm(x) * k) + (1 | g)"
    frame = apply_design(build_design(formula, relation), relation, check=False, means=True)
    plan = frame.to_native().explain().upper()
    assert "WINDOW" not in plan
    # Means of x, of what is left of it, the same of the product, and of both columns; the rows.
    assert len(re.findall("PARQUET_SCAN|READ_PARQUET", plan)) == 6


@pytest.mark.slow
def test_a_file_larger_than_the_limit_is_fitted(tmp_path: Path) -> None:
    """As comparisons/out_of_core.py does with 2.5 GB and 500 MB."""
    place = Path(__file__).parents[2] / "comparisons" / "out_of_core.py"
    spec = importlib.util.spec_from_file_location("out_of_core", place)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    path = tmp_path / "t.parquet"
    script.write_file(path, rows=4_000_000, groups=20_000)
    assert path.stat().st_size > 130_000_000
    found = script.fit_file(path, "100MB")
    assert found["rows"] == 4_000_000
    for name, truth in script.TRUTH.items():
        estimate, se = found["estimates"][name]
        assert abs(estimate - truth) < 5 * se, name


# ---------------------------------------------------------------- paths and places

# Formats of statistical programs have no booleans, and no gaps in text.
PLAIN_FORMULA = FORMULA.replace("+ I(k**2)", "+ I(k**2) + C(h)")


def make_plain() -> pa.Table:
    frame = as_pandas(NASTY).dropna(subset=["g", "f"])
    return pa.Table.from_pandas(frame.drop(columns="flag"), preserve_index=False)


def write_sas(table: pa.Table, path: Path) -> None:
    """By R's haven: no Python package writes this format."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    feather = path.with_suffix(".csv")
    pd.DataFrame(table.to_pandas()).map(
        lambda value: repr(value) if isinstance(value, float) else value
    ).replace("nan", None).to_csv(feather, index=False)
    code = (
        "if (!requireNamespace('haven', quietly = TRUE)) quit(status = 3);"
        f"suppressWarnings(haven::write_sas(read.csv('{feather}', encoding = 'UTF-8'), '{path}'))"
    )
    command = ["Rscript", "--vanilla", "-e", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    if done.returncode == 3:
        pytest.skip("R's haven is not installed")
    assert done.returncode == 0, done.stderr


WRITERS: dict[str, Callable[[pa.Table, Path], Any]] = {
    ".csv": lambda table, path: as_pandas(table).to_csv(path, index=False),
    ".parquet": pq.write_table,
    ".feather": lambda table, path: as_pandas(table).to_feather(path),
    ".dta": lambda table, path: table.to_pandas().to_stata(path, write_index=False, version=118),
    ".sav": lambda table, path: pyreadstat.write_sav(table.to_pandas(), path),
    ".sas7bdat": write_sas,
}


BOOLEAN = (".csv", ".parquet", ".feather")  # the formats that have booleans, which NASTY has
FORMATS = [
    pytest.param(suffix, which, marks=[] if which == hardest else pytest.mark.slow)
    for suffix in WRITERS
    for hardest in ["nasty" if suffix in BOOLEAN else "plain"]
    for which in ("hsb", "plain", *(["nasty"] if suffix in BOOLEAN else []))
]


@pytest.mark.parametrize(("suffix", "which"), FORMATS)
def test_every_format_gives_the_same_moments(
    suffix: str, which: str, tables: dict[str, tuple[str, pa.Table]], tmp_path: Path
) -> None:
    formula, table = tables[which] if which != "plain" else (PLAIN_FORMULA, make_plain())
    path = tmp_path / f"t{suffix}"
    WRITERS[suffix](table, path)
    expected = Model(formula, as_pandas(table)).moments
    assert_same_moments(Model(formula, path).moments, expected)
    if suffix in sources.STREAMED:
        streamed = open_table(path, memory_limit="100MB")
        assert isinstance(streamed, duckdb.DuckDBPyRelation)
        assert_same_moments(Model(formula, streamed).moments, expected)


def split(table: pa.Table, folder: Path, suffix: str) -> None:
    """Write a table as files of 100 rows, whose names sort in the order of the rows."""
    folder.mkdir()
    for i, start in enumerate(range(0, len(table), 100)):
        WRITERS[suffix](table.slice(start, 100), folder / f"part{i:03d}{suffix}")


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("limit", [None, pytest.param("100MB", marks=pytest.mark.slow)])
def test_files_of_one_pattern_are_one_table(suffix: str, limit: str | None, tmp_path: Path) -> None:
    split(NASTY, tmp_path / "data", suffix)
    (tmp_path / "data" / "notes.txt").write_text("not a part")
    found = open_table(f"{tmp_path}/data/*{suffix}", memory_limit=limit)
    expected = Model(NASTY_FORMULA, as_pandas(NASTY)).moments
    assert_same_moments(Model(NASTY_FORMULA, found).moments, expected)


def test_files_of_one_pattern_need_the_same_columns(tmp_path: Path) -> None:
    pq.write_table(NASTY, tmp_path / "a.parquet")
    pq.write_table(NASTY.drop_columns("x"), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet' has the columns g, far"):
        open_table(tmp_path / "*.parquet")


def test_a_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    pq.write_table(NASTY, tmp_path / "wave[1].parquet")
    assert len(open_table(tmp_path / "wave[1].parquet")) == len(NASTY)


def test_large_files_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(NASTY, path)
    assert isinstance(open_table(path), pd.DataFrame)
    size = path.stat().st_size
    assert isinstance(open_table(path, streamed_size=size + 1), pd.DataFrame)
    assert isinstance(open_table(path, streamed_size=size), duckdb.DuckDBPyRelation)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert isinstance(open_table(path, streamed_size=size), pd.DataFrame)
    with pytest.raises(MissingPackageError, match=r"needs the package duckdb; .*'bhlm\[duckdb\]'"):
        open_table(path, memory_limit="1GB")


@pytest.fixture
def duckdb_file(tmp_path: Path) -> Path:
    path = tmp_path / "file.db"
    with duckdb.connect(str(path)) as connection:
        connection.register("nasty", NASTY)
        connection.execute("create table pupils as select * from nasty")
        connection.execute('create schema s; create table s."odd name" as select * from nasty')
    return path


@pytest.mark.parametrize(
    "name",
    ['s."odd name"', *(pytest.param(n, marks=pytest.mark.slow) for n in ("pupils", "s.odd name"))],
)
def test_a_table_of_a_duckdb_file(
    name: str, duckdb_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(duckdb_file.parent)
    expected = Model(NASTY_FORMULA, as_pandas(NASTY)).moments
    for url in (f"duckdb:///file.db#{name}", f"duckdb:///{duckdb_file}#{name}"):
        assert_same_moments(Model(NASTY_FORMULA, url).moments, expected)


def test_a_duckdb_url_opens_tables_of_that_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = pl.DataFrame({"x": [1]})
    for path in ("t.csv", "u.csv"):
        rows.write_csv(path)
    with duckdb.connect("a.db") as a, duckdb.connect("b.db") as b:
        a.execute('create table "t.csv" as select 7 as inside')
        a.execute("create table T as select 1 as big")
        a.execute(
            "create view v as select big + 1 as more from T; create macro m() as table select 1"
        )
        b.execute("create table other as select 1 as x")
    with duckdb.connect("a.db", read_only=True):
        # The same file twice at once, with limits of their own.
        tables = [
            open_table(f"duckdb:///a.db#{name}", memory_limit=limit)
            for name, limit in (("t.csv", None), ("t", "100MB"), ("v", "1GB"), ('main."T"', None))
        ]
    assert [(each.columns, each.fetchall()) for each in tables] == [
        (["inside"], [(7,)]), (["big"], [(1,)]), (["more"], [(2,)]), (["big"], [(1,)]),
    ]  # fmt: skip
    elsewhere = (
        "u.csv", "main.u.csv", str(tmp_path / "u.csv"), "'u.csv'", "read_csv('u.csv')", "rows",
        "m", "m()", "b.other", "other", "information_schema.tables", "duckdb_tables()",
        "t; drop table t", 't" union select 1 --',
    )  # fmt: skip
    for name in elsewhere:
        with pytest.raises(DataError, match="has no table"):
            open_table(f"duckdb:///a.db#{name}")


def test_what_a_duckdb_url_can_lack(duckdb_file: Path) -> None:
    with pytest.raises(DataError, match="has no table 'pupil'; did you mean 'pupils'") as caught:
        open_table(f"duckdb:///{duckdb_file}#pupil")
    assert "it has: pupils, s.odd name" in str(caught.value)
    with pytest.raises(DataError, match=r"names no table; write it after a #"):
        open_table(f"duckdb:///{duckdb_file}")
    with pytest.raises(DataError, match=r"'absent\.db' of .* does not exist; three slashes"):
        open_table("duckdb:///absent.db#pupils")
    (duckdb_file.parent / "other.db").write_text("not a database" * 400)
    with pytest.raises(DataError, match="cannot be opened"):
        open_table(f"duckdb:///{duckdb_file.parent}/other.db#pupils")
    with duckdb.connect(str(duckdb_file)), pytest.raises(DataError, match="that you have open"):
        open_table(f"duckdb:///{duckdb_file}#pupils")


@pytest.mark.wide
def test_a_table_of_a_postgres_database(postgres: str) -> None:
    load_postgres(postgres, "public.pupils", NASTY)
    load_postgres(postgres, "school.pupils", NASTY.slice(0, 5))
    expected = Model(NASTY_FORMULA, as_pandas(NASTY)).moments
    for name in ("pupils", "public.pupils"):
        assert_same_moments(Model(NASTY_FORMULA, f"{postgres}#{name}").moments, expected)
    with pytest.raises(DataError, match=r"no table 'pupil'; .*it has: .*pupils.*school\.pupils"):
        open_table(f"{postgres}#pupil")
    with pytest.raises(DataError, match="names no table"):
        open_table(postgres)
    with pytest.raises(DataError, match="whose server has its own"):
        open_table(f"{postgres}#pupils", memory_limit="1GB")


def test_what_postgres_cannot_compute_is_one_clear_line(postgres: str) -> None:
    load_postgres(postgres, "public.pupils", NASTY)
    with pytest.raises(DataError, match=r"stopped while it read the table \(.*zero") as caught:
        Model("y ~ I(x / (k - k)) + (1 | g)", f"{postgres}#pupils")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there() -> None:
    needs("ibis", "psycopg")
    with pytest.raises(DataError, match="cannot be opened") as caught:
        open_table("postgresql://me:secret@127.0.0.1:1/db#t")
    assert "secret" not in str(caught.value)
    assert "me:***@127.0.0.1:1/db#t" in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://bucket/t.parquet#t", "starts with 's3://', which has no reader"),
        ("mysql://u:secret@h/db#t", r"'mysql://u:\*\*\*@h/db#t' starts with 'mysql://'"),
        ("spark://host:7077#t", r"reached by a Spark session; .* spark\.table\('t'\)"),
        ("spark://host:7077", r"such as spark\.table\('name'\)"),
        ("postgresql://h/db", "names no table"),
        ("postgresql://h/db?user=u&password=secret", r"user=u&password=\*\*\*' names no table"),
    ],
)
def test_urls_without_a_reader(url: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_table(url)


def test_a_pattern_without_a_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches '.*\*\.parquet'; check the folder"):
        open_table(tmp_path / "*.parquet")


@pytest.mark.parametrize("limit", ["lots", "-3GB", ""])
def test_a_limit_that_is_none(limit: str, tmp_path: Path) -> None:
    pq.write_table(NASTY, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=f"the memory limit '{limit}' is not one"):
        open_table(tmp_path / "t.parquet", memory_limit=limit)


def test_a_limit_where_nothing_keeps_it(tmp_path: Path) -> None:
    NASTY.to_pandas().to_feather(tmp_path / "t.feather")
    with pytest.raises(DataError, match=r"DuckDB reads \.csv and \.parquet files only"):
        open_table(tmp_path / "t.feather", memory_limit="1GB")
    with pytest.raises(DataError, match="cannot be set for a DataFrame"):
        open_table(NASTY.to_pandas(), memory_limit="1GB")


def test_the_limit_is_kept_and_what_it_spilt_goes_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pq.write_table(NASTY, tmp_path / "t.parquet")
    relation = open_table(tmp_path / "t.parquet", memory_limit="123MiB")
    setting = "select current_setting('memory_limit'), current_setting('temp_directory')"
    ((limit, spill),) = relation.query("t", setting).fetchall()
    assert limit == "123.0 MiB"
    private = Path(spill).parent
    assert private.parent == tmp_path
    assert private.stat().st_mode & 0o777 == 0o700  # and is removed when the process ends
    del relation
    assert not Path(spill).exists()


@pytest.mark.parametrize(
    ("module", "url", "extra"),
    [("psycopg", "postgresql://h/db#t", "postgres"), ("duckdb", "duckdb:///{}#t", "duckdb")],
)
def test_a_missing_package_names_its_extra(
    module: str, url: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.db").touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingPackageError, match=rf"install it with: pip install 'bhlm\[{extra}\]'"
    ):
        open_table(url.format(tmp_path / "t.db"))


CSV = "\n".join(
    [
        'id,code,answer,truth,when,score,mark,"the ""name""",none',
        "1,007,yes,True,2020-01-01,NA,t,x y,",
        "2,008,no,False,2020-01-02,3.5,f,NaN,",
        '3,010,yes,,,1e3,t,"é,',
        '",',
    ]
)


@pytest.mark.parametrize("rows", [CSV, CSV.replace("True", "TRUE"), CSV.replace("NA", "inf")])
def test_a_streamed_csv_has_the_types_of_pandas(rows: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(rows, encoding="utf-8")
    read, streamed = open_table(path), open_table(path, memory_limit="100MB").df()
    assert list(read.columns) == list(streamed.columns)
    for name in read.columns:
        ours, theirs = streamed[name].dropna().tolist(), read[name].dropna().tolist()
        assert ours == theirs, name
        assert [type(value) for value in ours] == [type(value) for value in theirs], name


def test_a_type_rests_on_every_row_of_a_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,2\n" * 100_000 + "1.5,x\n", encoding="utf-8")
    relation = open_table(path, memory_limit="100MB")
    assert [str(dtype) for dtype in relation.types] == ["DOUBLE", "VARCHAR"]


def test_missing_marks_are_those_of_pandas() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    assert set(databases.CSV_MISSING) == set(STR_NA_VALUES)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_streamed_file_that_is_broken(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(DataError, match=rf"t\{suffix}' cannot be read as \{suffix} \(") as caught:
        open_table(path, memory_limit="100MB")
    assert "\n" not in str(caught.value)


def test_a_streamed_file_without_rows(tmp_path: Path) -> None:
    pq.write_table(NASTY.slice(0, 0), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="has no rows"):
        open_table(tmp_path / "t.parquet", memory_limit="100MB")


def test_a_file_that_breaks_further_in_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(NASTY, path, row_group_size=300)
    # The rows at the start and the index at the end stay whole, so either step may notice.
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    message = r"duckdb stopped while it read the table \(|cannot be read as \.parquet \("
    with pytest.raises(DataError, match=message) as caught:
        Model(NASTY_FORMULA, open_table(path, memory_limit="100MB"))
    assert "\n" not in str(caught.value)


def test_booleans_with_gaps_are_booleans(tmp_path: Path) -> None:
    gappy = pa.table({"b": [True, None, False], "s": ["x", None, "y"]})
    pq.write_table(gappy, tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    assert table["b"].dtype == "boolean"
    assert table["b"].isna().tolist() == [False, True, False]


def test_duckdb_adds_up_many_columns_alike() -> None:
    """A factor of 40 levels: DuckDB takes long to plan the sums of all products."""
    rng = np.random.default_rng(1)
    n = 400
    table = pd.DataFrame({"k": rng.integers(0, 40, n), "x": rng.normal(size=n)})
    table["g"] = np.array(["b", "a", "\u00e9"])[rng.integers(0, 3, n)]
    table["y"] = 1e6 + rng.normal(size=n)
    formula = "y ~ C(k) + cwc(x) + (x | g)"
    found = Model(formula, duckdb.connect().from_df(table)).moments
    assert_same_moments(found, Model(formula, table).moments)
