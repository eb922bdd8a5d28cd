"""Columns of odd types: the same answer on every route, or a refusal of one line."""

import contextlib
import datetime
import itertools
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from bhlm.commands.main import main
from bhlm.errors import BhlmError, DataError
from bhlm.fits.model import Model
from bhlm.sources.open import open_table
from tests.fuzz.outcome import judge

N = 60
BASE = np.tile(np.arange(5), 12)
SPANS = pd.IntervalIndex.from_breaks([-1.0, 0.5, 1.5, 2.5, 3.5, 4.5])


def make_arrow(values: Any, kind: Any = None) -> Any:
    """Return a pandas column of one of Arrow's types."""
    return pd.arrays.ArrowExtensionArray(pa.array(values, kind))


def name_categories(values: Any, *, ordered: bool = False) -> Any:
    """Return a pandas column of categories, some of each."""
    return pd.Categorical.from_codes(BASE, categories=pd.Index(values), ordered=ordered)


ODD: dict[str, Callable[[], Any]] = {
    "intervals": lambda: pd.arrays.IntervalArray(SPANS.take(BASE)),
    "categories of intervals": lambda: name_categories(SPANS),
    "categories of periods": lambda: name_categories(pd.period_range("2020", periods=5, freq="M")),
    "categories of times": lambda: name_categories(pd.date_range("2020", periods=5)),
    "categories of integers": lambda: name_categories([10, 2, 30, 4, 5]),
    "categories of decimals": lambda: name_categories([Decimal(k) for k in range(5)]),
    "categories of lists": lambda: name_categories(
        pd.Index([(k, 1) for k in range(5)], tupleize_cols=False)
    ),
    "ordered categories": lambda: name_categories(list("edcba"), ordered=True),
    "categories out of order": lambda: name_categories(list("edcba")),
    "periods": lambda: pd.period_range("2020", periods=5, freq="M").take(BASE),
    "objects that are periods": lambda: (
        pd.Series(pd.period_range("2020", periods=5, freq="M").take(BASE)).astype(object).to_numpy()
    ),
    "objects that are intervals": lambda: np.array([*SPANS.take(BASE)], dtype=object),
    "objects that are durations": lambda: np.array([pd.Timedelta(k, "D") for k in BASE], object),
    "durations": lambda: pd.to_timedelta(BASE, unit="D"),
    "times of day": lambda: np.array([datetime.time(k) for k in BASE], dtype=object),
    "halves": lambda: BASE.astype(np.float16),
    "complex numbers": lambda: BASE + 1j,
    "sparse numbers": lambda: pd.arrays.SparseArray(BASE * 1.0),
    "decimals": lambda: np.array([Decimal(int(k)) for k in BASE], dtype=object),
    "wide decimals": lambda: make_arrow([Decimal(int(k)) for k in BASE], pa.decimal128(38, 2)),
    "objects that are integers": lambda: BASE.astype(object),
    "objects that are numbers": lambda: np.array([[1, 2.5, 3, None, 4][k] for k in BASE], object),
    "integers beyond all": lambda: np.array([2**70 + int(k) for k in BASE], dtype=object),
    "fractions": lambda: np.array([Fraction(int(k)) for k in BASE], dtype=object),
    "sets": lambda: pd.Series([{k} for k in BASE]).to_numpy(),
    "lists of Arrow's": lambda: make_arrow([[int(k)] for k in BASE]),
    "records of Arrow's": lambda: make_arrow([{"a": int(k)} for k in BASE]),
    "maps of Arrow's": lambda: make_arrow(
        [[("a", int(k))] for k in BASE], pa.map_(pa.string(), pa.int64())
    ),
    "dictionaries of Arrow's": lambda: make_arrow(
        pa.array([f"s{k}" for k in BASE]).dictionary_encode()
    ),
    "views of Arrow's": lambda: make_arrow([f"s{k}" for k in BASE], pa.string_view()),
    "bytes of Arrow's": lambda: make_arrow([b"s%d" % k for k in BASE], pa.binary(2)),
    "durations of Arrow's": lambda: make_arrow(pd.to_timedelta(BASE, unit="D")),
}
FORMULAS = (
    "y ~ v + (1 | g)", "y ~ C(v) + (1 | g)", "y ~ x + (1 | v)", "v ~ x + (1 | g)",
    "y ~ cwc(v) + (1 | g)", "y ~ x + (1 | g/v)",
)  # fmt: skip


def make_table(values: Any) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(12), 5)
    y = BASE * 0.5 + rng.normal(size=12)[group] + rng.normal(size=N)
    return pd.DataFrame({"y": y, "x": BASE * 1.0, "g": group}).assign(v=values)


def list_routes(table: pd.DataFrame, folder: Path) -> dict[str, Any]:
    """Return the table by every route that takes it."""
    ways: dict[str, Callable[[], Any]] = {
        "pyarrow": lambda: pa.Table.from_pandas(table),
        "DuckDB": lambda: duckdb.connect().from_arrow(pa.Table.from_pandas(table)),
        "polars": lambda: pl.from_arrow(pa.Table.from_pandas(table)),
        "polars, lazy": lambda: pl.DataFrame(pa.Table.from_pandas(table)).lazy(),
        "Feather": lambda: (table.to_feather(folder / "t.feather"), folder / "t.feather")[1],
        "Parquet": lambda: (table.to_parquet(folder / "t.parquet"), folder / "t.parquet")[1],
        "Parquet, limit": lambda: open_table(folder / "t.parquet", memory_limit="100MB"),
    }
    found: dict[str, Any] = {"pandas": table}
    for route, make in ways.items():
        try:
            found[route] = make()
        except (*(pa.ArrowException, pl.exceptions.PolarsError, duckdb.Error, BhlmError), TypeError,
                ArithmeticError,
                ValueError, NotImplementedError):  # fmt: skip
            continue  # not every engine has the type
    return found


def fit(formula: str, source: Any) -> float:
    return Model(formula, source).reml().loglik


QUICK = ("categories of intervals", "categories of lists", "lists of Arrow's", "durations")


@pytest.mark.parametrize(
    "kind", [each if each in QUICK else pytest.param(each, marks=pytest.mark.slow) for each in ODD]
)
def test_odd_types_end_in_an_answer_or_one_line(kind: str, tmp_path: Path) -> None:
    routes = list_routes(make_table(ODD[kind]()), tmp_path)
    for formula in FORMULAS:
        for route, source in routes.items():
            _, wrong = judge(partial(fit, formula, source), strict=True)
            assert not wrong, (formula, route, wrong)


@pytest.mark.parametrize(
    ("kind", "routes"),
    [
        ("categories of intervals", ["pyarrow"]),
        ("categories of integers", ["pyarrow"]),
        ("categories of times", ["pyarrow"]),
        ("ordered categories", ["pyarrow", "Feather", "Parquet", "Parquet, limit"]),
        ("decimals", ["pyarrow", "polars", "DuckDB", "Feather", "Parquet", "Parquet, limit"]),
        ("wide decimals", ["pyarrow", "polars", "DuckDB", "Feather", "Parquet", "Parquet, limit"]),
        ("objects that are integers", ["pyarrow", "polars", "DuckDB", "Parquet, limit"]),
        ("halves", ["pyarrow", "polars", "Parquet", "Parquet, limit"]),
        ("dictionaries of Arrow's", ["pyarrow", "polars", "DuckDB", "Parquet, limit"]),
        ("views of Arrow's", ["pyarrow", "polars", "DuckDB", "Parquet, limit"]),
    ],
)
def test_odd_types_have_the_same_columns_on_every_route(
    kind: str, routes: list[str], tmp_path: Path
) -> None:
    found = list_routes(make_table(ODD[kind]()), tmp_path)
    for formula in FORMULAS[:2]:
        expected = Model(formula, found["pandas"]).reml()
        for route in routes:
            other = Model(formula, found[route]).reml()
            assert list(other.estimates.index) == list(expected.estimates.index), (formula, route)
            np.testing.assert_allclose(other.loglik, expected.loglik, rtol=1e-8)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_are_no_numbers_of_a_file_with_a_memory_limit(unit: str, tmp_path: Path) -> None:
    table = make_table(pd.to_timedelta(BASE, unit="D").astype(f"timedelta64[{unit}]"))
    table.to_parquet(tmp_path / "t.parquet")
    for source in (tmp_path / "t.parquet", list_routes(table, tmp_path)["Parquet, limit"]):
        with pytest.raises(BhlmError, match="'v' has type Duration"):
            Model("y ~ v + (1 | g)", source)


ROLES = {
    "response": "v ~ x + (1 | g)", "number": "y ~ cwc(v) + (1 | g)", "predictor": "y ~ v + (1 | g)",
    "factor": "y ~ C(v) + (1 | g)", "group": "y ~ x + (1 | v)",
    "crossed": "y ~ x + (1 | g) + (1 | v)",
}  # fmt: skip
# Where an engine or a format has another type than pandas: DuckDB sees the texts or integers behind
# Arrow's tables, polars gives categories the order of their texts, and Parquet keeps those of text.
TYPELESS = {
    **dict.fromkeys(
        ("ordered categories", "categories out of order"), ("DuckDB", "polars", "polars, lazy")
    ),
    **dict.fromkeys(
        ("categories of integers", "categories of decimals"),
        ("DuckDB", "polars", "polars, lazy", "Parquet", "Parquet, limit"),
    ),
    **dict.fromkeys(("periods", "objects that are periods"), ("DuckDB",)),
    "categories of periods": ("DuckDB",),
}
# What pandas alone can hold as categories, and others refuse.
PANDAS_ALONE = (
    "categories of intervals", "categories of periods", "categories of times",
    "categories of lists", "categories of decimals",
)  # fmt: skip
QUICK_ROLES = {
    ("ordered categories", "predictor"), ("periods", "predictor"), ("periods", "group"),
    ("intervals", "group"), ("durations", "crossed"), ("objects that are durations", "group"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        each if each in QUICK_ROLES else pytest.param(*each, marks=pytest.mark.slow)
        for each in itertools.product(ODD, ROLES)
    ],
)
def test_routes_agree_or_all_refuse(kind: str, role: str, tmp_path: Path) -> None:
    found, refused = {}, {}
    for route, source in list_routes(make_table(ODD[kind]()), tmp_path).items():
        if route in TYPELESS.get(kind, ()):
            continue
        try:
            found[route] = Model(ROLES[role], source).reml().estimates["estimate"]
        except BhlmError as error:
            refused[route] = str(error)
    assert not found or not refused or kind in PANDAS_ALONE, (list(found), refused)
    for route, estimates in found.items():
        first = next(iter(found.values()))
        assert list(estimates.index) == list(first.index), route
        np.testing.assert_allclose(estimates, first, rtol=1e-6, atol=1e-8, err_msg=route)


def write_halves(folder: Path, first: Any, second: Any) -> str:
    """Write two Parquet files, each with its own values of a column; return their pattern."""
    table = make_table(BASE)
    for name, values, rows in (("a", first, slice(0, 30)), ("b", second, slice(30, 60))):
        table[rows].assign(v=values).to_parquet(folder / f"{name}.parquet")
    return str(folder / "[ab].parquet")


def name_columns(source: Any) -> list[str]:
    fit = Model("y ~ v + (1 | g)", source).reml()
    return [name for name in fit.estimates.index if name.startswith("v[")]


def test_categories_of_several_files_follow_on_each_other(tmp_path: Path) -> None:
    texts = np.array(list("abcda"))[BASE[:30]]
    for ordered in (False, True):
        halves = [pd.Categorical(texts, list(each), ordered=ordered) for each in ("dbca", "xacbd")]
        pattern = write_halves(tmp_path, *halves)
        for source in (pattern, open_table(pattern), open_table(pattern, memory_limit="100MB")):
            assert name_columns(source) == ["v[b]", "v[c]", "v[a]"]


def test_a_dictionary_that_a_file_leaves_half_way_keeps_its_order(tmp_path: Path) -> None:
    labels = [f"{k:09d}" for k in range(40_000, 0, -1)]
    table = pd.concat([make_table(BASE)] * 1000, ignore_index=True)
    table["v"] = pd.Categorical(np.tile(["000000001", "000000003", "000000002"], 20_000), labels)
    table.to_parquet(tmp_path / "t.parquet", dictionary_pagesize_limit=1000)
    limited = open_table(tmp_path / "t.parquet", memory_limit="200MB")
    assert name_columns(limited) == name_columns(table) == ["v[000000002]", "v[000000001]"]


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(list("ebdca"))])
def test_categories_of_polars_in_files_have_the_order_of_polars(kind: Any, tmp_path: Path) -> None:
    table = pl.DataFrame(make_table(np.array(list("edabc"))[BASE])).with_columns(
        pl.col("v").cast(kind)
    )
    table.write_parquet(tmp_path / "t.parquet", row_group_size=20)
    table.write_ipc(tmp_path / "t.feather")
    expected = name_columns(table)
    path = tmp_path / "t.parquet"
    for source in (
        *(path, open_table(path), open_table(path, memory_limit="100MB"), pl.scan_parquet(path)),
        *(tmp_path / "t.feather", table.to_arrow(), table.lazy()),
    ):
        assert name_columns(source) == expected


@pytest.mark.parametrize("turn", [1, -1])
def test_files_of_integers_and_of_decimals_are_not_rounded(turn: int, tmp_path: Path) -> None:
    halves = [BASE[:30], BASE[30:] / 3][::turn]
    pattern = write_halves(tmp_path, *halves)
    expected = Model("y ~ v + (1 | g)", make_table(np.concatenate(halves))).reml().loglik
    for source in (pattern, open_table(pattern), open_table(pattern, memory_limit="100MB")):
        np.testing.assert_allclose(fit("y ~ v + (1 | g)", source), expected, rtol=1e-9)


def test_files_of_numbers_and_of_text_are_refused_alike(tmp_path: Path) -> None:
    pattern = write_halves(tmp_path, BASE[:30], BASE[30:].astype(str))
    for limit in (None, "100MB"):
        with pytest.raises(BhlmError, match="hold different types"):
            open_table(pattern, memory_limit=limit)
    with pytest.raises(BhlmError, match="hold different types"):
        Model("y ~ v + (1 | g)", pattern)


def test_text_that_turns_to_numbers_far_down_is_refused_in_one_line() -> None:
    table = pd.concat([make_table(BASE)] * 3, ignore_index=True)
    values = [*map(str, BASE), *map(str, BASE), *map(int, BASE)]
    table["v"] = pd.Series(values, dtype=object)
    with pytest.raises(BhlmError, match="'v' holds values of several types"):
        Model("y ~ v + (1 | g)", table)


@pytest.mark.parametrize("kind", ["intervals", "periods", "durations", "lists of Arrow's"])
def test_strata_of_what_has_no_order_are_refused_alike(kind: str, tmp_path: Path) -> None:
    for route, source in list_routes(make_table(ODD[kind]()), tmp_path).items():
        if route in TYPELESS.get(kind, ()):
            continue
        with pytest.raises(BhlmError, match=r"the column of residual='v' (has type|holds)"):
            Model("y ~ x + (1 | g)", source, residual="v")


def test_strata_of_booleans_with_gaps_are_the_same_on_every_route(tmp_path: Path) -> None:
    table = make_table(pd.array([None if k == 2 else k > 2 for k in BASE], dtype="boolean"))
    found = {
        route: Model("y ~ x + (1 | g)", source, residual="v").reml()
        for route, source in list_routes(table, tmp_path).items()
    }
    assert len(found) > 5
    for route, other in found.items():
        assert list(other.estimates.index) == list(found["pandas"].estimates.index), route
        np.testing.assert_allclose(other.loglik, found["pandas"].loglik, rtol=1e-8)


def test_strata_of_halves_are_the_same_on_every_route(tmp_path: Path) -> None:
    found = list_routes(make_table(ODD["halves"]()), tmp_path)
    found["polars"] = pl.DataFrame(make_table(BASE)).with_columns(pl.col("v").cast(pl.Float16))
    expected = Model("y ~ x + (1 | g)", make_table(BASE), residual="v").reml()
    assert {"pandas", "pyarrow", "Feather", "Parquet"} <= set(found)
    for route, source in found.items():
        other = Model("y ~ x + (1 | g)", source, residual="v").reml()
        np.testing.assert_allclose(other.loglik, expected.loglik, rtol=1e-8, err_msg=route)


def test_strata_of_one_type_without_order_are_not_called_a_mixture() -> None:
    with pytest.raises(BhlmError, match="values of the type complex, which have no order"):
        Model("y ~ x + (1 | g)", make_table(ODD["complex numbers"]()), residual="v")


@pytest.mark.parametrize("kind", ["categories of integers", "categories of times"])
def test_categories_that_parquet_cannot_keep_are_told(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.parquet"
    make_table(ODD[kind]()).to_parquet(path)

    def count_told(read: Callable[[], Any]) -> int:
        caplog.clear()
        with contextlib.suppress(BhlmError):  # times are no numbers
            read()
        return sum("'v' of" in record.getMessage() for record in caplog.records)

    assert count_told(lambda: Model("y ~ v + (1 | g)", path)) == 1
    assert count_told(lambda: Model("y ~ C(v) + (1 | g)", str(path))) == 1
    assert count_told(lambda: Model("y ~ x + (1 | v)", path)) == 0  # labels are the same
    assert count_told(lambda: open_table(path)) == 1
    assert count_told(lambda: open_table(path, memory_limit="100MB")) == 1
    make_table(ODD["categories out of order"]()).to_parquet(path)
    assert count_told(lambda: Model("y ~ v + (1 | g)", path)) == 0


def test_a_command_tells_of_categories_that_parquet_cannot_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.parquet"
    make_table(ODD["categories of integers"]()).to_parquet(path)
    command = ["reml", "--data", str(path), "--formula", "y ~ v + (1 | g)"]
    for more, n_notes in ([], 1), (["--memory-limit", "100MB"], 1), (["--quiet"], 0):
        with pytest.raises(SystemExit) as ended:
            main([*command, *more])
        assert ended.value.code == 0
        assert capsys.readouterr().err.count("bhlm: note: 'v' of") == n_notes


def test_feather_with_categories_of_intervals_says_what_to_do(tmp_path: Path) -> None:
    make_table(ODD["categories of intervals"]()).to_feather(tmp_path / "t.feather")
    with pytest.raises(BhlmError, match=r"pandas' intervals.*write that column as text"):
        Model("y ~ v + (1 | g)", tmp_path / "t.feather")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["True", "False"], ["1", "0"]), (["1", "0"], ["True", "False"]), (["1", "0"], ["a", "b"]),
        (["True", "False"], ["yes", "no"]), (["True", "False"], ["1.5", "2"]),
        (["True", ""], ["1", "0"]),
    ],
)  # fmt: skip
def test_csv_files_of_different_kinds_are_text_on_every_route(
    first: list[str], second: list[str], tmp_path: Path
) -> None:
    table = make_table(BASE)
    for name, values, rows in (("a", first, slice(0, 30)), ("b", second, slice(30, 60))):
        table[rows].assign(v=values * 15).to_csv(tmp_path / f"{name}.csv", index=False)
    table.assign(v=[*first * 15, *second * 15]).to_csv(tmp_path / "whole.csv", index=False)
    pattern = str(tmp_path / "[ab].csv")

    def try_fit(formula: str, source: Any) -> Any:
        try:
            return round(Model(formula, source).reml().loglik, 8)
        except BhlmError as error:
            return str(error)

    for formula in ("y ~ v + (1 | g)", "y ~ C(v) + (1 | g)", "y ~ x + (1 | v)"):
        answers = [
            try_fit(formula, source)
            for source in (
                pattern, open_table(pattern, memory_limit="100MB"),
                open_table(pattern, labels=[]), str(tmp_path / "whole.csv"),
            )
        ]  # fmt: skip
        assert len(set(answers)) == 1, answers


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
@pytest.mark.parametrize("formula", ["y ~ v + (1 | g)", "v ~ 1 + (1 | g)", "y ~ cwc(v) + (1 | g)"])
def test_integers_beyond_2_53_are_numbers_on_every_route(
    formula: str, dtype: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    wide = (10**18 * rng.random(N)).astype(dtype)  # such as times in nanoseconds
    table = pd.DataFrame({"y": rng.normal(size=N), "g": BASE, "v": wide})
    arrow = pa.Table.from_pandas(table)
    table.to_parquet(tmp_path / "t.parquet")
    table.to_csv(tmp_path / "t.csv", index=False)
    sources = (
        table, arrow, arrow.to_pandas(types_mapper=pd.ArrowDtype), pl.from_arrow(arrow),
        duckdb.sql("from arrow"), str(tmp_path / "t.parquet"), str(tmp_path / "t.csv"),
        open_table(tmp_path / "t.parquet", memory_limit="100MB"),
        open_table(tmp_path / "t.csv", memory_limit="100MB"),
    )  # fmt: skip
    found = [Model(formula, source).reml().loglik for source in sources]
    assert found == pytest.approx([found[0]] * len(found), rel=1e-9)


@pytest.mark.filterwarnings("ignore:The 'future.infer_string'")  # which Ibis asks pandas for
def test_a_database_behind_ibis_does_not_take_one_column_for_another() -> None:
    import ibis

    rng = np.random.default_rng(5)
    table = pd.DataFrame({"Y": rng.normal(size=N), "g": BASE, "x": rng.normal(size=N)})
    table["y"] = 2.0 * table["Y"] + rng.normal(size=N)
    kept = Model("x ~ 1 + (1 | g)", ibis.memtable(table)).reml().loglik
    assert kept == pytest.approx(Model("x ~ 1 + (1 | g)", table).reml().loglik)
    with pytest.raises(DataError, match="has columns 'y' and 'Y', of which duckdb, behind Ibis"):
        Model("y ~ x + (1 | g)", ibis.memtable(table))
