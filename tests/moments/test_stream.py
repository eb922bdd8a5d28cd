"""Parquet files reduced batch by batch give what the same table in memory gives."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nasty_table import FORMULA, HSB_FORMULA, NASTY, NASTY_FORMULA, as_pandas, assert_same_moments

from bhlm.design.formula.terms import parse_formula
from bhlm.errors import DataError, FormulaError
from bhlm.fits.model import Model
from bhlm.moments.coder import Coder, enter_labels, find_slot, grow
from bhlm.moments.memory import make_states
from bhlm.moments.moments import compute_moments, reduce_like, reduce_part
from bhlm.moments.stream import can_stream, sort_means
from bhlm.sources.open import open_table, scan_table
from bhlm.sources.parquet import ParquetScan

# pyarrow, which gives the rows, adds up group means in another order than pandas.
MEANS = 1e-12

# The nasty formula without what needs a constant from the whole table.
STREAMED = (
    "y ~ cwc(far) + gm(x) + f + f:cwc(x) + I(k**2) + flag + flag:cwc(far) + cwc(flag) + C(h)"
    " + (1 + cwc(far) | g)"
)
DEEP = "y ~ cwc(gm(k) * x) + gm(I(cwc(x)**2)) + log(abs(k) + 1) + (cwc(x) | g)"
PLAIN = "y ~ x + k + (x | g)"


def write(table: pa.Table, path: Path, *, rows: int = 37) -> Path:
    """Write a table in row groups that cut through groups and levels."""
    pq.write_table(table, path, row_group_size=rows)
    return path


def scan_batches(path: Path, *, rows: int = 23) -> ParquetScan:
    """A file that is read by so few rows at a time that every group has rows in several."""
    return replace(scan_table(path), batch=rows)


def with_numbers(table: pa.Table) -> pa.Table:
    """The table with integers for labels, in no order, one of them far away."""
    names = [None if name is None else hash_name(name) for name in table["g"].to_pylist()]
    return table.set_column(table.schema.get_field_index("g"), "g", pa.array(names, pa.int64()))


def hash_name(name: str) -> int:
    return 2**62 if name == "a" else sum(map(ord, name)) * (-1) ** len(name)


@pytest.mark.parametrize(
    "formula",
    [STREAMED, *(pytest.param(each, marks=pytest.mark.slow) for each in (DEEP, PLAIN))],
)
@pytest.mark.parametrize("numbers", [False, True])
def test_batches_give_the_moments_of_the_whole(formula: str, numbers: bool, tmp_path: Path) -> None:
    table = with_numbers(NASTY) if numbers else NASTY
    scan = scan_batches(write(table, tmp_path / "t.parquet"))
    assert can_stream(parse_formula(formula), scan)
    model = Model(formula, scan)
    expected = Model(formula, as_pandas(table))
    assert_same_moments(model.moments, expected.moments)
    assert model.moments.groups.tolist() == expected.moments.groups.tolist()
    assert model.moments.n_rows == expected.moments.n_rows
    assert model.moments.dropped == expected.moments.dropped > 0
    labels, *arrays = model.rows()
    others, *expected_arrays = expected.rows()
    assert labels.tolist() == others.tolist()
    for found, other in zip(arrays, expected_arrays, strict=True):
        np.testing.assert_allclose(found, other, rtol=0, atol=MEANS * np.abs(other).max())


@pytest.mark.parametrize("formula", [FORMULA, NASTY_FORMULA])
def test_what_needs_constants_is_read_at_once(formula: str, tmp_path: Path) -> None:
    scan = scan_table(write(NASTY, tmp_path / "t.parquet"))
    assert not can_stream(parse_formula(formula), scan)
    assert_same_moments(Model(formula, scan).moments, Model(formula, as_pandas(NASTY)).moments)


def test_high_school_and_beyond(hsb: pd.DataFrame, tmp_path: Path) -> None:
    hsb.to_parquet(tmp_path / "hsb.parquet")
    formula = HSB_FORMULA.replace("cgm(ses)", "ses")
    found = Model(formula, scan_batches(tmp_path / "hsb.parquet")).moments
    assert_same_moments(found, Model(formula, hsb).moments)


@pytest.mark.slow
def test_a_batch_size_changes_no_bit(tmp_path: Path) -> None:
    """Rows are added one by one in their order, wherever a batch ends."""
    path = write(NASTY, tmp_path / "t.parquet")
    whole = Model(STREAMED, scan_table(path)).moments
    parts = Model(STREAMED, scan_batches(path, rows=5)).moments
    for name in ("n", "mean", "cross"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """What Arrow holds is a batch and a row group or two, of 12 MB that random numbers fill."""
    rng = np.random.default_rng(0)
    table = pa.table({name: rng.normal(size=500_000) for name in ("x", "y", "z")})
    path = write(table, tmp_path / "t.parquet", rows=20_000)
    size = path.stat().st_size
    del table
    before = pa.total_allocated_bytes()
    scan = scan_batches(path, rows=20_000)
    held = [pa.total_allocated_bytes() - before for _ in watch_batches(scan)]
    assert sum(held) > 0
    assert max(held) < size / 3


def watch_batches(scan: ParquetScan) -> Any:
    """Batches of one row group, given away at once."""
    for batch in scan.batches(["x", "y", "z"]):
        assert len(batch) <= scan.batch
        yield None


def test_only_the_columns_of_the_formula_are_read(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    class Watched(ParquetScan):
        def batches(self, columns: Any) -> Any:
            asked.append(tuple(columns))
            return super().batches(columns)

    plain = scan_table(write(NASTY, tmp_path / "t.parquet"))
    scan = Watched(*(getattr(plain, field.name) for field in fields(plain)))
    model = Model("y ~ x + (x | g)", scan)
    assert asked == [("y", "x", "g")]
    model.rows()
    Model("y ~ cwc(x) + (x | g)", scan)
    Model("y ~ cgm(x) + (x | g)", scan)
    # The rows; means and moments; all rows at once.
    assert asked[1:] == [("y", "x", "g")] * 4


def test_files_of_one_pattern_with_types_that_differ(tmp_path: Path) -> None:
    first, second = NASTY.slice(0, 200), NASTY.slice(200)
    at = second.schema.get_field_index("k")
    second = second.set_column(at, "k", second["k"].cast(pa.float64()))
    write(first, tmp_path / "a.parquet")
    write(second, tmp_path / "b.parquet")
    scan = scan_table(f"{tmp_path}/*.parquet")
    assert {batch.schema.field("k").type for batch in scan.batches(["x", "k"])} == {pa.float64()}
    for formula in (STREAMED, NASTY_FORMULA):
        found = Model(formula, scan).moments
        assert_same_moments(found, Model(formula, as_pandas(NASTY)).moments)
    write(second.drop_columns("x"), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"c\.parquet' has the columns g, far"):
        scan_table(f"{tmp_path}/*.parquet")
    (tmp_path / "c.parquet").unlink()
    write(second.set_column(at, "k", pa.array(["k"] * len(second))), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="hold different types"):
        scan_table(f"{tmp_path}/*.parquet")


def test_categories_keep_the_order_that_pandas_wrote(tmp_path: Path) -> None:
    frame = NASTY.to_pandas()[["g", "x", "y", "f"]]
    frame["f"] = pd.Categorical(frame["f"], categories=["日本", "ä", "o'clock", "β lang"])
    frame.to_parquet(tmp_path / "t.parquet")
    formula = "y ~ x + f + (x | g)"
    found = Model(formula, scan_table(tmp_path / "t.parquet"))
    assert found.design.levels["f"][0] == "日本"
    assert_same_moments(found.moments, Model(formula, frame).moments)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ x + z + (x | g)", "no column 'z'"),
        ("y ~ log(k) + (1 | g)", r"'log\(k\)' is not finite in"),
        ("y ~ inf + (1 | g)", "column 'inf' has 1 infinite values in the"),
        ("y ~ cwc(inf) + (1 | g)", "column 'inf' has 1 infinite values in the"),
        ("y ~ void + (1 | g)", "none of the 600 rows"),
        ("y ~ cwc(void) + (1 | g)", "none of the 600 rows"),
        ("y ~ one + (1 | g)", "'one' has one level only"),
        ("y ~ x + (1 | same)", "'same' has 1 level"),
        ("y ~ y + (1 | g)", "the response 'y' is used again"),
        ("y ~ g2 + (1 | g)", "more than 500 look like an identifier"),
    ],
)
def test_what_a_table_lacks_is_one_clear_line(formula: str, message: str, tmp_path: Path) -> None:
    n = 600
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "y": rng.normal(size=n), "x": rng.normal(size=n), "k": rng.integers(0, 5, n),
            "g": rng.integers(0, 9, n), "inf": np.where(np.arange(n) == 400, np.inf, 1.0),
            "void": np.full(n, np.nan), "one": ["a"] * n, "same": np.ones(n, int),
            "g2": [f"p{i}" for i in range(n)],
        }
    )  # fmt: skip
    with pytest.raises((DataError, FormulaError), match=message):
        Model(formula, scan_batches(write(table, tmp_path / "t.parquet")))


def test_a_file_that_breaks_off_while_it_is_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"g": rng.integers(0, 9, 4000), "x": rng.normal(size=4000)})
    table = table.append_column("y", pa.array(rng.normal(size=4000)))
    path = write(table, tmp_path / "t.parquet", rows=500)
    content = bytearray(path.read_bytes())
    content[20_000:30_000] = bytes(10_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"t\.parquet' cannot be read as \.parquet"):
        Model("y ~ x + (x | g)", scan_table(path))


def test_a_scan_is_the_same_table_everywhere(tmp_path: Path) -> None:
    path = write(NASTY, tmp_path / "t.parquet")
    scan = scan_table(path)
    assert open_table(scan) is scan
    expected = reduce_part(STREAMED, as_pandas(NASTY))
    assert_same_moments(reduce_part(STREAMED, scan), expected)
    assert_same_moments(reduce_like(expected, scan), expected)
    model = Model(STREAMED, scan)
    assert_same_moments(compute_moments(model.design, scan), expected)


def test_other_tables_are_opened_as_ever(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0]})
    assert scan_table(frame) is frame
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert isinstance(scan_table(tmp_path / "t.csv"), pd.DataFrame)
    write(NASTY, tmp_path / "t.parquet")
    assert not isinstance(scan_table(tmp_path / "t.parquet", memory_limit="1GB"), ParquetScan)
    with pytest.raises(DataError, match="does not exist"):
        scan_table(tmp_path / "absent.parquet")
    write(pa.Table.from_arrays([NASTY["x"], NASTY["y"]], ["x", "x"]), tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="has two columns 'x'"):
        scan_table(tmp_path / "twice.parquet")
    write(NASTY.slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="has no rows"):
        scan_table(tmp_path / "none.parquet")


def test_large_files_that_cannot_be_streamed_go_to_duckdb(tmp_path: Path) -> None:
    path = write(NASTY, tmp_path / "t.parquet")
    scan = replace(scan_table(path), is_large=True)
    assert type(scan.read(["x"])).__name__ == "DuckDBPyRelation"
    expected = Model(NASTY_FORMULA, as_pandas(NASTY)).moments
    assert_same_moments(Model(NASTY_FORMULA, scan).moments, expected)


@pytest.mark.parametrize("dtype", [pa.int8(), pa.int64(), pa.uint64(), pa.string()])
def test_a_coder_knows_labels_again(dtype: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    if dtype == pa.string():
        pool = np.array([f"ä{i}" for i in range(5000)])
    elif dtype == pa.uint64():
        pool = np.array([2**64 - 1 - i * 7919 for i in range(5000)], dtype=np.uint64)
    else:
        pool = np.arange(-100, 100) if dtype == pa.int8() else rng.integers(-(2**62), 2**62, 5000)
    coder = Coder(np.zeros(4, dtype=np.int64))
    labels = [rng.choice(pool, 700) for _ in range(9)]
    codes = [coder.encode(pa.chunked_array([pa.array(part.tolist(), dtype)])) for part in labels]
    found, order = coder.sort(dtype)
    distinct, expected = np.unique(np.concatenate(labels), return_inverse=True)
    assert found.tolist() == distinct.tolist()
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order))
    np.testing.assert_array_equal(rank[np.concatenate(codes)], expected)
    if dtype != pa.string():
        assert found.dtype == dtype.to_pandas_dtype()


def test_a_window_grows_both_ways_until_labels_lie_too_far_apart() -> None:
    coder = Coder(np.zeros(4, dtype=np.int64))
    parts = [[5, 6, 5], [2, 9, 5], [], [6, 2, 20], [10**6, 5], [-(2**62), 2**62, 20, 9]]
    codes = [coder.encode(pa.chunked_array([pa.array(part, pa.int64())])) for part in parts]
    assert [part.tolist() for part in codes] == [
        [0, 1, 0], [2, 3, 0], [], [1, 2, 4], [5, 0], [6, 7, 4, 3],
    ]  # fmt: skip
    assert coder.is_dense is False
    assert coder.sort(pa.int64())[0].tolist() == [-(2**62), 2, 5, 6, 9, 20, 10**6, 2**62]
    dense = Coder(np.zeros(4, dtype=np.int64))
    for part in parts[:4]:
        dense.encode(pa.chunked_array([pa.array(part, pa.int64())]))
    assert dense.is_dense is True


def test_labels_that_hash_alike_are_told_apart() -> None:
    labels = np.zeros(8, dtype=np.int64)
    slots = np.full(8, -1, dtype=np.int32)
    first = find_slot(0, labels, slots)
    twins = [n for n in range(1000) if find_slot(n, labels, slots) == first][:4]
    labels[:4] = twins
    enter_labels(labels, slots, 4)
    assert sorted(slots[slots >= 0]) == [0, 1, 2, 3]
    assert [slots[find_slot(label, labels, slots)] for label in twins] == [0, 1, 2, 3]


def test_means_come_in_the_order_in_which_they_are_needed() -> None:
    formula = parse_formula("y ~ cwc(gm(x) * k) + gm(k) + (1 | g)")
    factors = [factor for term in formula.fixed for factor in term.factors]
    depths = sort_means(factors)
    assert [[str(argument) for argument in depth] for depth in depths] == [
        ["x", "k"],
        ["gm(x) * k"],
    ]
    assert sort_means([]) == []


def test_growing_keeps_what_is_there() -> None:
    start = np.arange(6.0).reshape(3, 2)
    assert grow(start, 3) is start
    more = grow(start, 4)
    assert more.shape == (6, 2)
    np.testing.assert_array_equal(more[:3], start)
    assert not more[3:].any()
    assert grow(start, 100).shape == (100, 2)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_states_have_cache_lines_of_their_own(k: int) -> None:
    states = make_states(5, k)
    assert len(states) == 5
    assert states.shape[1] >= 1 + 2 * k + k * (k + 1) // 2
    assert states.flags.c_contiguous
    assert not states.any()
    assert all(row.ctypes.data % 64 == 0 for row in states)


def test_polars_writes_files_that_are_streamed(tmp_path: Path) -> None:
    """Its text is of another type than pandas' or pyarrow's."""
    pl.from_arrow(NASTY).write_parquet(tmp_path / "t.parquet")
    scan = scan_table(tmp_path / "t.parquet")
    assert can_stream(parse_formula(STREAMED), scan)
    assert_same_moments(Model(STREAMED, scan).moments, Model(STREAMED, as_pandas(NASTY)).moments)
