"""Moments files: the same moments to the last bit, or a refusal with its reason."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from datetime import date

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulate import simulate_table

from bhlm.design.design import build_design
from bhlm.errors import ArgumentError, DataError
from bhlm.files import replace_file
from bhlm.fits.model import Model
from bhlm.fits.reduced import merge_files
from bhlm.moments.disclosure import find_large_groups
from bhlm.moments.file import is_moments_path, write_blocks
from bhlm.moments.moments import (
    check_moments,
    compute_moments,
    describe_moments,
    load_moments,
    merge_moments,
    reduce_like,
    reduce_part,
    save_moments,
    select_groups,
    suppress_small_groups,
    update_moments,
)

# Rounding of a few thousand additions, relative to the spread of the columns.
EXACT = 1e-12
HSB = "mathach ~ cgm(ses) * sector + (ses | school)"
HSB_CENTRED = "mathach ~ cwc(ses) * gm(ses) + (cwc(ses) | school)"
RANDOM = "y ~ x + w + (x | g)"
WITHOUT_ROWS = ("columns", "fixed", "random", "blocks", "group")


def assert_identical(a, b):
    """Equal to the last bit, the type of the labels included."""
    for field in fields(a):
        one, two = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype, field.name
            if one.dtype.kind == "O":
                assert [(type(v), v) for v in one] == [(type(v), v) for v in two]
            else:
                assert one.tobytes() == two.tobytes(), field.name
        elif field.name == "design":
            assert one == two
            assert repr(one.levels) == repr(two.levels)  # 1 is not True
        else:
            assert repr(one) == repr(two), field.name


def assert_same(a, b):
    """Equal but for the rounding of sums that were taken in another order."""
    for name in WITHOUT_ROWS:
        assert getattr(a, name) == getattr(b, name)
    assert (a.design.constants, a.design.levels) == (b.design.constants, b.design.levels)
    np.testing.assert_array_equal(a.groups, b.groups)
    np.testing.assert_array_equal(a.n, b.n)
    assert (a.dropped, a.suppressed) == (b.dropped, b.suppressed)
    total = np.sqrt(np.einsum("jaa->a", b.cross) + 1.0)
    assert (np.abs(a.mean - b.mean) / (np.abs(b.mean) + 1.0)).max() < EXACT
    assert (np.abs(a.cross - b.cross) / (total[:, None] * total)).max() < EXACT
    # A group's own sums of squares, relative to themselves.
    np.testing.assert_allclose(
        np.einsum("jaa->ja", a.cross), np.einsum("jaa->ja", b.cross), rtol=EXACT, atol=EXACT
    )


def digest(text, table):
    """Return the checksum of the layout: of the description, the labels, then 64-bit numbers."""
    found = hashlib.sha256(text.encode())
    labels = table["group"].to_pylist()
    if isinstance(labels[0], str | date):
        found.update(json.dumps([str(label) for label in labels]).encode())
    else:
        found.update(table["group"].to_numpy().tobytes())
    found.update(table["n"].to_numpy().astype("<f8").tobytes())
    for name in ("mean", "cross"):
        flat = table[name].combine_chunks().flatten()
        found.update(flat.to_numpy().astype("<f8").tobytes())
    return found.hexdigest()


def rewrite(source, target, change=lambda table: table, **header):
    """Write a moments file again with other content under a digest that fits it."""
    table = change(pq.read_table(source))
    description = json.loads(table.schema.metadata[b"bhlm.moments"]) | header
    text = json.dumps(description)
    metadata = {b"bhlm.moments": text.encode(), b"bhlm.sha256": digest(text, table).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), target)
    return target


def set_value(column, value):
    """Return a change of a table that puts a value into the first place of a column."""

    def change(table):
        kind = table.schema.field(column).type
        values = table[column].to_pylist()
        if isinstance(values[0], list):
            values[0][0] = value
        else:
            values[0] = value
        return table.set_column(table.column_names.index(column), column, [pa.array(values, kind)])

    return change


@pytest.fixture(scope="module")
def moments():
    return Model(RANDOM, simulate_table(1, n_groups=12)).moments


@pytest.fixture
def saved(moments, tmp_path):
    path = tmp_path / "whole.moments"
    save_moments(moments, path)
    return path


LABELS = {
    "int64": np.arange(12) - 2**62,
    "int32": np.arange(12, dtype=np.int32),
    "uint64": np.arange(12, dtype=np.uint64) + np.uint64(2**62),
    "float": np.arange(12) / 3.0 - 1.0,
    "bool": None,
    "text": ["", "1", "01", "a b", "é", "日本", "Ω\n\t", "🙂", "e\u0301", "'\"", "NaN", "x" * 300],
    "times": pd.date_range("1960-02-28", periods=12, freq="37h", unit="us"),
    "dates": [date(2020, 1, day) for day in range(1, 13)],
}


@pytest.mark.parametrize(
    "engine", [lambda t: t, pl.from_pandas, lambda t: pl.from_pandas(t).lazy()]
)
@pytest.mark.parametrize("kind", LABELS)
def test_labels_come_back_with_their_type(kind, engine, tmp_path):
    table = simulate_table(2, n_groups=12)
    codes = table["g"].to_numpy()
    labels = codes % 2 == 0 if kind == "bool" else pd.Series(LABELS[kind])[codes].to_numpy()
    moments = Model(RANDOM, engine(table.assign(g=labels))).moments
    assert moments.n_groups == (2 if kind == "bool" else 12)
    save_moments(moments, tmp_path / "a.moments")
    assert_identical(load_moments(tmp_path / "a.moments"), moments)


@pytest.mark.parametrize(
    "formula",
    [
        "y ~ cwc(x) + gm(x) + cgm(t) + (cwc(x) | g)",
        "y ~ poly(x, 3) + poly(t, 2, raw=True) + (x || g)",
        "log(exp(y) + 1) ~ k * cwc(x) + b + C(h) + C(r) + (k | g)",
        "y ~ 0 + `odd name, (here)`:k + C(h, Treatment(2)) + (1 | g)",
    ],
)
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_every_kind_of_column_comes_back(formula, offset, tmp_path):
    rng = np.random.default_rng(8)
    table = simulate_table(8, n_groups=15)
    table["k"] = rng.choice(["a], k[b", 'c"', "ü"], len(table))
    table["b"] = rng.random(len(table)) < 0.5
    table["h"] = rng.integers(0, 3, len(table))
    table["r"] = rng.integers(0, 3, len(table)) / 2.0
    table["odd name, (here)"] = rng.normal(size=len(table))
    table["x"] += offset
    table.loc[[4, 9], "t"] = np.nan
    model = Model(formula, table)
    model.moments.save(tmp_path / "a.moments")
    found = load_moments(tmp_path / "a.moments")
    assert_identical(found, model.moments)


def test_the_last_bit_of_large_labels_and_the_sign_of_zero_come_back(moments, tmp_path):
    mean = moments.mean.copy()
    mean[0, 0], mean[1, 0] = 0.0, -0.0
    changed = replace(
        moments, mean=mean, groups=moments.groups.astype(np.uint64) + np.uint64(2**63 + 1)
    )
    assert changed.groups.dtype == np.uint64
    save_moments(changed, tmp_path / "a.moments")
    assert_identical(load_moments(tmp_path / "a.moments"), changed)


@pytest.mark.slow
def test_another_process_finds_the_same_fit_and_writes_the_same_file(hsb, tmp_path):
    model = Model(HSB_CENTRED, hsb)
    save_moments(model.moments, tmp_path / "here.moments")
    code = """if True:
        import sys
        from bhlm.fits.model import Model
        from bhlm.moments.moments import load_moments, save_moments
        moments = load_moments(sys.argv[1])
        save_moments(moments, sys.argv[2])
        fit = Model(moments.formula, moments).reml()
        print(fit.loglik.hex(), fit.beta.tobytes().hex(), fit.g.tobytes().hex(), fit.sigma2.hex())
    """
    paths = [str(tmp_path / "here.moments"), str(tmp_path / "there.moments")]
    there = subprocess.run(
        [sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True
    )
    fit = model.reml()
    here = [fit.loglik.hex(), fit.beta.tobytes().hex(), fit.g.tobytes().hex(), fit.sigma2.hex()]
    assert there.stdout.split() == here
    one, two = ((tmp_path / f"{name}.moments").read_bytes() for name in ("here", "there"))
    assert one == two


def test_other_tools_can_list_a_file(moments, saved):
    rows, columns = np.tril_indices(3)
    expected = [
        (g, int(n), mean.tolist(), cross[rows, columns].tolist())
        for g, n, mean, cross in zip(
            moments.groups.tolist(), moments.n, moments.mean, moments.cross, strict=True
        )
    ]
    found = duckdb.sql(f"select * from read_parquet('{saved}')").fetchall()
    assert [(g, n, list(mean), list(cross)) for g, n, mean, cross in found] == expected
    frame = pl.read_parquet(saved)
    assert frame["n"].to_list() == moments.n.tolist()
    assert frame["cross"].to_list() == [cross for *_, cross in expected]
    header = json.loads(pq.read_schema(saved).metadata[b"bhlm.moments"])
    assert header["columns"] == ["x", "w", "y"]
    assert (header["rows"], header["groups"]) == (moments.n_rows, 12)
    assert header["schema"] == 1
    assert header["min_group_size"] is None


def test_a_changed_byte_is_refused_or_without_effect(moments, saved, tmp_path):
    whole = saved.read_bytes()
    rng = random.Random(1)
    refused = 0
    for position in rng.sample(range(len(whole)), 200):
        content = bytearray(whole)
        content[position] ^= rng.randrange(1, 256)
        path = tmp_path / "changed.moments"
        path.write_bytes(bytes(content))
        try:
            found = load_moments(path)
        except DataError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert_identical(found, moments)
    # What may change without effect: Parquet's statistics and its second copy of the metadata.
    assert refused > 100


def test_a_file_that_is_cut_off_is_refused(saved, tmp_path):
    whole = saved.read_bytes()
    path = tmp_path / "cut.moments"
    for size in [*range(12), *range(12, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut off|not a moments file|corrupted"):
            load_moments(path)


def test_what_is_no_moments_file_is_refused(saved, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        load_moments(tmp_path / "none.moments")
    with pytest.raises(DataError, match="name too long"):
        load_moments("a" * 300)
    with pytest.raises(DataError, match="is a folder"):
        load_moments(tmp_path)
    other = tmp_path / "other.moments"
    other.write_text("g,x,y\n1,2,3\n", encoding="utf-8")
    with pytest.raises(DataError, match="not a moments file"):
        load_moments(other)
    simulate_table(1).to_parquet(other)
    with pytest.raises(DataError, match="Parquet file without moments"):
        load_moments(other)
    pl.read_parquet(saved).write_parquet(other)
    with pytest.raises(DataError, match="Parquet file without moments"):
        load_moments(other)


def test_a_newer_layout_is_refused(saved, tmp_path):
    path = rewrite(saved, tmp_path / "new.moments", schema=3, bhlm="9.0")
    with pytest.raises(DataError, match=r"version 3 of .* by bhlm 9\.0, .*upgrade"):
        load_moments(path)


@pytest.mark.parametrize("schema", [0, -1, "1", None, 1.5, [1]])
def test_an_unknown_layout_is_refused(saved, tmp_path, schema):
    with pytest.raises(DataError, match="corrupted"):
        load_moments(rewrite(saved, tmp_path / "new.moments", schema=schema))


def test_a_number_that_was_changed_is_refused(moments, saved, tmp_path):
    table = set_value("mean", float(np.nextafter(moments.mean[0, 0], np.inf)))(pq.read_table(saved))
    pq.write_table(table, tmp_path / "changed.moments")
    with pytest.raises(DataError, match="SHA-256"):
        load_moments(tmp_path / "changed.moments")
    metadata = table.schema.metadata
    text = metadata[b"bhlm.moments"].replace(b'"dropped": 0', b'"dropped": 1')
    assert text != metadata[b"bhlm.moments"]
    table = pq.read_table(saved).replace_schema_metadata(metadata | {b"bhlm.moments": text})
    pq.write_table(table, tmp_path / "changed.moments")
    with pytest.raises(DataError, match="SHA-256"):
        load_moments(tmp_path / "changed.moments")


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("n", 0, "n that is not a whole number above 0"),
        ("n", -3, "n that is not a whole number above 0"),
        ("mean", float("nan"), "a mean that is not finite"),
        ("cross", float("inf"), "a cross-product that is not finite"),
        ("cross", 1.0, "one row, and a cross-product that is not 0"),
        ("group", 5, "two blocks"),
    ],
)
def test_content_that_contradicts_itself_is_refused(saved, tmp_path, column, value, reason):
    rows = json.loads(pq.read_schema(saved).metadata[b"bhlm.moments"])["rows"]
    shift = value - 1 if column == "n" else 0
    path = rewrite(saved, tmp_path / "bad.moments", set_value(column, value), rows=rows + shift)
    with pytest.raises(DataError, match=reason):
        load_moments(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"columns": ["x", "z", "y"]}, "the columns .* are not those of"),
        ({"fixed": ["Intercept", "x"]}, "the fixed .* are not those of"),
        ({"blocks": [["Intercept"], ["x"]]}, "the blocks .* are not those of"),
        ({"group": "h"}, "the group h are not those of"),
        ({"formula": "y ~ x + (1 | g"}, "formula"),
        ({"formula": 3}, "formula"),
        ({"formula": "y ~ cgm(x) + w + (x | g)"}, "are not those of"),
        ({"constants": [["cgm(x)", [1.0, 0.0]]]}, "the constants .* are not those of"),
        ({"constants": 3}, "corrupted"),
        ({"levels": [["x", 3]]}, "corrupted"),
        ({"levels": {"x": 3}}, "corrupted"),
        ({"rows": 3}, "corrupted"),
        ({"groups": 11}, "corrupted"),
        ({"dropped": -1}, "corrupted"),
        ({"suppressed": "1"}, "corrupted"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved, tmp_path, header, reason):
    path = rewrite(saved, tmp_path / "bad.moments", **header)
    with pytest.raises(DataError, match=reason):
        load_moments(path)


def test_moments_that_contradict_themselves_are_not_written(moments, tmp_path):
    large = int(np.argmax(moments.n))
    indefinite, skew, half = moments.cross.copy(), moments.cross.copy(), moments.n.copy()
    scale = np.sqrt(indefinite[large, 0, 0] * indefinite[large, 2, 2])
    indefinite[large, 0, 2] = indefinite[large, 2, 0] = 1.00001 * scale
    skew[large, 0, 2] = np.nextafter(skew[large, 0, 2], np.inf)
    half[large] += 0.5
    swapped = replace(moments.design, columns=("x", "y", "w"))
    for changed, reason in (
        (replace(moments, cross=indefinite), "not positive semi-definite"),
        (replace(moments, cross=skew), "not symmetric"),
        (replace(moments, n=half), "not a whole number"),
        (replace(moments, mean=moments.mean[1:]), "arrays of the shapes"),
        (select_groups(moments, moments.n > 99), "there is no group of 'g'"),
        (replace(moments, design=swapped), "are not those of"),
        (replace(moments, groups=np.array([None] * 12, dtype=object)), "NoneType"),
    ):
        with pytest.raises(DataError, match=reason):
            save_moments(changed, tmp_path / "a.moments")
    assert list(tmp_path.iterdir()) == []


def test_labels_without_a_place_in_a_file_are_refused(moments, tmp_path):
    groups = np.array([f"a{i}" for i in range(11)] + ["\ud800"], dtype=object)
    with pytest.raises(DataError, match=r"labels of 'g' .* cannot be written"):
        save_moments(replace(moments, groups=groups), tmp_path / "a.moments")
    spans = moments.groups.astype("m8[D]")
    with pytest.raises(DataError, match="make them integers or strings"):
        save_moments(replace(moments, groups=spans), tmp_path / "a.moments")


@pytest.mark.parametrize("offset", [0.0, 1e8, 1e12])
def test_rounding_is_not_taken_for_a_contradiction(offset):
    """Columns that depend on each other, far from zero, in units that differ by 1e200."""
    rng = np.random.default_rng(3)
    table = simulate_table(3, n_groups=40, largest=30)
    table["x"] = rng.integers(0, 9, len(table)) + offset
    table["t"] = (table["x"] - offset) * 1e-100
    table["w"] = table["x"] * 3.0 + rng.normal(size=len(table)) * 1e-7
    table["y"] *= 1e100
    for source in (table, pl.from_pandas(table).lazy()):
        check_moments(Model("y ~ x + t + w + (1 | g)", source).moments, "the moments")


KILLED = """if True:
    import sys
    from bhlm.moments.moments import load_moments, save_moments
    one, two = load_moments(sys.argv[1]), load_moments(sys.argv[2])
    save_moments(one, sys.argv[3])
    print("ready", flush=True)
    while True:
        save_moments(two, sys.argv[3])
        save_moments(one, sys.argv[3])
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_content_or_the_new(tmp_path):
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"g": np.arange(40_000) // 2, "x": rng.normal(size=40_000)})
    table["y"] = rng.normal(size=40_000)
    one = Model("y ~ x + (1 | g)", table).moments
    two = replace(one, mean=one.mean + 1.0)
    save_moments(one, tmp_path / "one.moments")
    save_moments(two, tmp_path / "two.moments")
    target = tmp_path / "target.moments"
    command = [
        sys.executable,
        "-c",
        KILLED,
        *(str(tmp_path / f"{n}.moments") for n in ("one", "two")),
    ]
    seen, unfinished = [], 0
    stop = time.monotonic() + 120.0  # a busy machine may take long to start one
    while len(seen) < 4 or (not unfinished and time.monotonic() < stop):
        with subprocess.Popen([*command, str(target)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.2))
            os.kill(writer.pid, signal.SIGKILL)
        found = load_moments(target)
        seen.append(np.array_equal(found.mean, two.mean))
        assert_identical(found, two if seen[-1] else one)
        for left in tmp_path.glob(".target.moments.*"):
            unfinished += 1
            left.unlink()
    # Otherwise no writer was stopped in the middle, and nothing was put to the test.
    assert unfinished > 0


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")

    def fail(error):
        with replace_file(path) as stream:
            stream.write(b"new")
            raise error

    with pytest.raises(KeyError):
        fail(KeyError())
    with pytest.raises(DataError, match=r"cannot write .*No space"):
        fail(OSError(28, "No space left on device"))
    assert path.read_bytes() == b"old"
    with replace_file(path) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(DataError, match="cannot write"), replace_file(tmp_path / "no" / "a.txt"):
        raise AssertionError
    with pytest.raises(DataError, match="cannot write"), replace_file(tmp_path) as stream:
        stream.write(b"new")


def test_merge_of_any_split_of_rows_is_the_whole(hsb, tmp_path):
    hsb = pl.from_pandas(hsb)
    design = build_design(HSB, hsb)
    whole = compute_moments(design, hsb)
    rng = np.random.default_rng(11)
    for i in range(10):
        part = rng.integers(0, rng.integers(2, 6), len(hsb))
        pieces = [compute_moments(design, hsb.filter(part == j)) for j in np.unique(part)]
        assert_same(merge_moments(pieces), whole)
        if i < 3:
            paths = [tmp_path / f"{j}.moments" for j in range(len(pieces))]
            for piece, path in zip(pieces, paths, strict=True):
                save_moments(piece, path)
            assert_identical(merge_files(paths), merge_moments(pieces))
    merged = merge_moments(pieces)
    save_moments(merged, tmp_path / "merged.moments")
    assert_identical(load_moments(tmp_path / "merged.moments"), merged)


def test_merge_of_any_split_of_groups_is_the_whole_where_groups_are_centred(hsb):
    hsb = pl.from_pandas(hsb)
    design = build_design(HSB_CENTRED, hsb)
    whole = compute_moments(design, hsb)
    schools, school = np.unique(hsb["school"].to_numpy(), return_inverse=True)
    rng = np.random.default_rng(12)
    for _ in range(10):
        part = rng.integers(0, rng.integers(2, 6), len(schools))[school]
        pieces = [compute_moments(design, hsb.filter(part == j)) for j in np.unique(part)]
        assert_same(merge_moments(pieces), whole)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, 3),
            st.floats(-1e6, 1e6).map(lambda x: round(x, 3)),
            st.floats(-1e3, 1e3).map(lambda x: round(x, 3)),
        ),
        min_size=2,
        max_size=40,
    )
)
def test_any_split_of_any_rows_merges_to_the_whole(rows, tmp_path):
    table = pl.DataFrame(rows, schema=["g", "part", "x", "y"], orient="row")
    design = build_design("y ~ x + (1 | g)", table, check=False)
    whole = compute_moments(design, table)
    pieces, path = [], tmp_path / "piece.moments"
    for part in table["part"].unique():
        save_moments(compute_moments(design, table.filter(pl.col("part") == part)), path)
        pieces.append(load_moments(path))
    merged = merge_moments(pieces)
    np.testing.assert_array_equal(merged.groups, whole.groups)
    np.testing.assert_array_equal(merged.n, whole.n)
    # Rounding is relative to the largest values that were added up.
    scale = np.abs(table[["x", "y"]].to_numpy()).max(axis=0) + 1e-9
    assert (np.abs(merged.mean - whole.mean) / scale).max() < EXACT
    difference = np.abs(merged.cross - whole.cross) / (scale[:, None] * scale * len(table))
    assert difference.max() < EXACT
    check_moments(merged, "the merged moments")


@pytest.mark.parametrize("call", ["cwc(x)", "gm(x)", "cgm(gm(x))", "cwc(x):w"])
def test_a_group_in_two_parts_is_refused_where_its_mean_is_used(call):
    table = simulate_table(13, n_groups=9)
    formula = f"y ~ {call} + (1 | g)"
    design = build_design(formula, table)
    half = np.arange(len(table)) % 2 == 0
    parts = [compute_moments(design, table[half]), compute_moments(design, table[~half])]
    inner = "gm" if "gm(x)" in call else "cwc"
    with pytest.raises(DataError, match=rf"\d of the groups of 'g' .* {inner}\(x\) would rest"):
        merge_moments(parts)
    first = table["g"] < 4
    parts = [compute_moments(design, table[first]), compute_moments(design, table[~first])]
    assert_same(merge_moments(parts), compute_moments(design, table))


def test_a_part_that_holds_a_group_twice_is_refused(moments):
    twice = replace(moments, groups=np.concatenate([moments.groups[:-1], moments.groups[:1]]))
    with pytest.raises(DataError, match="occurs twice in part 2"):
        merge_moments([moments, twice])


def test_labels_of_different_types_are_refused(moments):
    for groups, reason in (
        (moments.groups.astype(str), r"text \(<U21\) such as \['0'\] in part 2 and integers"),
        (moments.groups.astype(str).astype(object), r"text \(object\)"),
        (moments.groups.astype(float), "floats"),
        (moments.groups.astype("M8[D]"), "times"),
        (moments.groups.astype(np.uint64), "uint64"),
    ):
        with pytest.raises(DataError, match=reason):
            merge_moments([moments, replace(moments, groups=groups)])
    small, wide = moments.groups.astype(np.uint32), moments.groups.astype(np.uint64)
    parts = [replace(moments, groups=groups) for groups in (small, moments.groups, wide)]
    with pytest.raises(DataError, match="uint64"):
        merge_moments(parts)
    narrow = replace(moments, groups=moments.groups.astype(np.int32) + 12)
    assert merge_moments([moments, narrow]).groups.tolist() == list(range(24))
    far = np.array(["3000-01-01"], "M8[s]") + np.arange(12)
    fine = np.array(["2000-01-01"], "M8[ns]") + np.arange(12)
    parts = [replace(moments, groups=groups) for groups in (far, fine)]
    with pytest.raises(DataError, match="one unit"):
        merge_moments(parts)


def test_text_labels_of_two_engines_merge():
    table = simulate_table(14).assign(g=lambda t: t["g"].map("s{}".format))
    design = build_design(RANDOM, table)
    first = table["x"] < 0
    parts = [
        compute_moments(design, table[first]),
        compute_moments(design, pl.from_pandas(table[~first])),
    ]
    assert_same(merge_moments(parts), compute_moments(design, table))


def test_spaces_in_the_formula_do_not_matter():
    table = simulate_table(15)
    one = Model("y~x+w+(x|g)", table[table["g"] < 4]).moments
    two = Model("y ~ x + w + (x | g)", table[table["g"] >= 4]).moments
    assert merge_moments([one, two]).n_rows == len(table)


def test_parts_of_different_models_are_refused_by_name(tmp_path):
    table = simulate_table(16, n_groups=10)
    first, second = table[table["g"] < 5], table[table["g"] >= 5]
    Model("y ~ cgm(x) + (1 | g)", first).moments.save(tmp_path / "a.moments")
    paths = [tmp_path / "a.moments", tmp_path / "b.moments"]
    Model("y ~ cgm(x) + (1 | g)", second).moments.save(paths[1])
    with pytest.raises(DataError, match=r"constants of 'cgm\(x\)'.*b.moments.*by reduce_like"):
        merge_files(paths)
    Model("y ~ cgm(t) + (1 | g)", second).moments.save(paths[1])
    with pytest.raises(DataError, match=r"differ in columns: .*b.moments.*one formula"):
        merge_files(paths)
    with pytest.raises(DataError, match="hold the same moments"):
        merge_files([paths[0], paths[0]])
    with pytest.raises(DataError, match="no moments to merge"):
        merge_files([])


def test_columns_of_one_name_against_different_references_do_not_merge():
    """Site 1 has the levels a, b, c and site 2 has a2, b, c: k[b] and k[c] at both."""
    table = simulate_table(17, n_groups=10)
    levels = np.array(["a", "b", "c"])[np.arange(len(table)) % 3]
    one = Model("y ~ k + (1 | g)", table.assign(k=levels)[table["g"] < 5]).moments
    other = table.assign(k=np.where(levels == "a", "a2", levels))[table["g"] >= 5]
    two = Model("y ~ k + (1 | g)", other).moments
    assert one.columns == two.columns
    with pytest.raises(DataError, match=r"differ in levels of 'k'.*a2.*reduce_like"):
        merge_moments([one, two])


def test_sites_reduce_like_the_first(tmp_path):
    table = simulate_table(18, n_groups=10, largest=20)
    table["k"] = np.array(["a", "b", "c"])[np.arange(len(table)) % 3]
    table.loc[[3, 40], "t"] = np.nan
    formula = "y ~ cgm(x) + poly(t, 2) + k + (1 | g)"
    order = table["g"] < 5
    first, second = table[order], table[~order & (table["k"] != "c")]
    reduce_part(formula, first).save(tmp_path / "a.moments")
    second.to_csv(tmp_path / "b.csv", index=False)
    reduce_like(tmp_path / "a.moments", tmp_path / "b.csv").save(tmp_path / "b.moments")
    merged = merge_files([tmp_path / "a.moments", tmp_path / "b.moments"])
    together = pd.concat([first, second])
    assert_same(merged, compute_moments(build_design(formula, first), together))
    fit, whole = Model(formula, merged).reml(), Model(formula, together).reml()
    # The columns differ by a shift and a rotation of poly(), so the slopes of cgm() and k agree.
    for name in ("cgm(x)", "k[b]", "k[c]", "var(Intercept|g)", "var(Residual)"):
        found = fit.estimates.loc[name, "estimate"]
        # Newton stops at a gradient of 1e-9 in units of the log-likelihood.
        assert found == pytest.approx(whole.estimates.loc[name, "estimate"], rel=1e-6)
    with pytest.raises(DataError, match="'k' has the level 'd'"):
        reduce_like(tmp_path / "a.moments", second.assign(k="d"))


def test_sites_of_one_group_each_merge(tmp_path):
    table = simulate_table(19, n_groups=6, largest=9)
    formula = "y ~ cgm(x) + cwc(t) + (1 | g)"
    parts = [reduce_part(formula, table[table["g"] == 1])]
    parts += [reduce_like(parts[0], table[table["g"] == g]) for g in (0, 2, 3, 4, 5)]
    whole = compute_moments(parts[0].design, table)
    assert_same(merge_moments(parts), whole)


@pytest.mark.parametrize(("k", "verbs"), [(3, ("has", "it", "was")), (4, ("have", "them", "were"))])
def test_a_number_of_small_groups_takes_its_verb(k, verbs):
    n = np.array([2, 3, 8, 9])
    has, it, was = verbs
    with pytest.raises(DataError, match=rf"'g' {has} fewer than {k} rows; drop {it} from"):
        find_large_groups(n, k, of="groups of 'g'", action="refuse")
    assert find_large_groups(n, k, of="groups of 'g'", action="drop")[1].endswith(
        f"{has} fewer than {k} rows and {was} dropped"
    )


def test_small_groups_are_refused_or_dropped(moments, tmp_path):
    small = moments.n < 4
    assert 0 < small.sum() < 12
    count, rows = int(small.sum()), int(moments.n[small].sum())
    with pytest.raises(DataError, match=f"{count} of the 12 groups of 'g' have fewer than 4 rows"):
        suppress_small_groups(moments, 4)
    with pytest.raises(DataError, match=f"{count} of the 12 groups"):
        moments.save(tmp_path / "a.moments", min_group_size=4)
    assert list(tmp_path.iterdir()) == []
    kept, message = suppress_small_groups(moments, 4, action="drop")
    have = f"{count} of the 12 groups of 'g', with {rows} rows, have fewer than 4 rows"
    assert message == f"{have} and were dropped"
    assert kept.groups.tolist() == moments.groups[~small].tolist()
    assert (kept.suppressed, kept.dropped) == (rows, 0)
    assert kept.n.min() >= 4
    kept.save(tmp_path / "a.moments", min_group_size=4)
    assert_identical(load_moments(tmp_path / "a.moments"), kept)
    header = json.loads(pq.read_schema(tmp_path / "a.moments").metadata[b"bhlm.moments"])
    assert (header["min_group_size"], header["suppressed"]) == (4, rows)
    again, message = suppress_small_groups(kept, 4)
    assert again is kept
    assert message == f"all {12 - count} groups of 'g' have at least 4 rows"
    more = replace(kept, groups=kept.groups + 100)
    assert merge_moments([kept, more]).suppressed == 2 * rows
    with pytest.raises(DataError, match="none would be left"):
        suppress_small_groups(moments, 1000, action="drop")
    for k in (0, -1, 2.5, True, "5"):
        with pytest.raises(
            ArgumentError, match=r"not a whole number above 0|k=True is not an inte"
        ):
            suppress_small_groups(moments, k)
    with pytest.raises(ArgumentError, match="'hide' is not known"):
        suppress_small_groups(moments, 4, action="hide")


def test_merges_keep_the_smallest_promise(tmp_path, caplog):
    table = simulate_table(19, n_groups=12, largest=30)
    table = table[table.groupby("g")["y"].transform("size") >= 5]
    for name, half, k in (("a", 0, 5), ("b", 1, 4), ("c", 1, None)):
        part = reduce_part("y ~ x + (1 | g)", table[table["g"] % 2 == half])
        part.save(tmp_path / f"{name}.moments", min_group_size=k)
    assert load_moments(tmp_path / "a.moments").min_group_size == 5
    both = merge_files([tmp_path / "a.moments", tmp_path / "b.moments"])
    assert both.min_group_size == 4
    both.save(tmp_path / "all.moments")  # promises what its parts do
    assert load_moments(tmp_path / "all.moments").min_group_size == 4
    assert merge_files([tmp_path / "a.moments", tmp_path / "c.moments"]).min_group_size is None
    kept, _ = suppress_small_groups(both, 6, action="drop")
    assert kept.min_group_size == 6
    lowered = replace(kept, n=np.where(np.arange(kept.n_groups) == 0, 2.0, kept.n))
    with pytest.raises(DataError, match="has fewer than 6 rows"):
        lowered.save(tmp_path / "b.moments")


def test_a_promise_that_is_not_kept_is_refused(moments, tmp_path):
    description = describe_moments(moments)
    for promised in (int(moments.n.min()) + 1, 0, "4", True):
        write_blocks(
            tmp_path / "a.moments",
            description | {"min_group_size": promised},
            moments.reduced.blocks,
        )
        with pytest.raises(DataError, match="is promised, and not kept"):
            load_moments(tmp_path / "a.moments")


def tell(table, formula, k=None, **more):
    moments = replace(reduce_part(formula, table), **more)
    return moments.disclosures(min_group_size=k)


def make_groups(sizes, seed=3):
    rng = np.random.default_rng(seed)
    g = np.repeat([f"s{at}" for at in range(len(sizes))], sizes)
    x, y = rng.normal(size=(2, len(g)))
    return pd.DataFrame({"g": g, "x": x, "y": y})


class TestDisclosures:
    def test_large_groups_of_measures_tell_nothing(self):
        assert tell(make_groups([20, 30, 40]), "y ~ x + (x | g)", 10) == ()
        assert tell(make_groups([20, 30, 40]), "y ~ x + (x | g)") == ()

    def test_a_group_of_one(self):
        (told,) = tell(make_groups([20, 1, 30]), "y ~ x + (1 | g)")
        assert (
            told == "1 of the 3 groups of 'g' has one row, such as 's1': its moments are that row"
        )

    def test_a_minimum_that_does_not_guard_the_rows(self):
        table = make_groups([20, 30, 40])
        (told,) = tell(table, "y ~ x + (1 | g)", 3)
        assert told.startswith("the minimum of 3 rows is below 4, the 2 columns and 2 more")
        assert tell(table, "y ~ x + (1 | g)", 4) == ()
        (told,) = tell(make_groups([3, 30, 40]), "y ~ x + (1 | g)")
        assert told.startswith("1 of the 3 groups of 'g' has fewer than 4 rows")
        assert "such as 's0'" in told

    @pytest.mark.parametrize("centred", ["f", "cwc(f)", "cgm(f)"])
    @pytest.mark.parametrize("low", [0, 1])
    def test_a_rare_value(self, centred, low):
        table = make_groups([20, 30, 40])
        table["f"] = low
        table.loc[[0, 1, *range(20, 35), *range(50, 70)], "f"] = 1 - low
        (told,) = tell(table, f"y ~ {centred} + (1 | g)", 10)
        assert told.startswith(f"'{centred}' has two values, one of which fewer than 10 rows have")
        assert "in 1 of the 3 groups of 'g', such as 2 in 's0'" in told
        assert tell(table, f"y ~ {centred} + (1 | g)", 10)
        table.loc[:9, "f"] = 1 - low
        assert tell(table, f"y ~ {centred} + (1 | g)", 10) == ()
        table.loc[:19, "f"] = low  # a value that no row has gives none away
        assert tell(table, f"y ~ {centred} + (1 | g)", 10) == ()

    def test_a_rare_level(self):
        table = make_groups([20, 30, 40])
        table["c"] = np.resize(["a", "b"], 90)
        table.loc[[0, 60], "c"] = "z"
        told = tell(table, "y ~ C(c) + (1 | g)", 10)
        assert ["'C(c)[z]' has two values" in each for each in told] == [True]
        assert "2 of the 3 groups of 'g', such as 1 in 's0'" in told[0]

    def test_constants_of_rows_left_out(self):
        table = make_groups([20, 30, 2])
        kept, _ = suppress_small_groups(
            reduce_part("y ~ cgm(x) + (1 | g)", table), 10, action="drop"
        )
        (told,) = kept.disclosures()
        assert told.startswith("constants of cgm(x) came with the moments")
        assert "is of the 2 rows left out" in told
        (mean, rest) = kept.design.constants["cgm(x)"]
        # What is said is so: their sum follows from the mean and from the groups released.
        released = kept.n @ (kept.mean[:, kept.columns.index("cgm(x)")] + mean + rest)
        left = table.loc[table["g"] == "s2", "x"].sum()
        np.testing.assert_allclose(len(table) * (mean + rest) - released, left, rtol=1e-9)
        plain, _ = suppress_small_groups(reduce_part("y ~ x + (1 | g)", table), 10, action="drop")
        assert plain.disclosures() == ()

    def test_the_command_and_the_log_say_so(self, tmp_path, capsys, caplog):
        make_groups([20, 1, 30]).to_csv(tmp_path / "t.csv", index=False)
        path = tmp_path / "t.moments"
        status, _, err = run(
            capsys, "moments", tmp_path / "t.csv", "--formula", "y ~ x + (1 | g)", "-o", path
        )
        assert status == 0
        assert err == (
            "bhlm: warning: 1 of the 3 groups of 'g' has one row, such as 's1': its moments are "
            "that row\n"
        )
        load_moments(path).save(path)
        assert "has one row, such as 's1'" in caplog.text


def test_new_rows_update_moments(tmp_path):
    table = simulate_table(20, n_groups=9)
    formula = "y ~ cgm(x) + w + (x | g)"
    old = table["t"] < 0.5
    before = Model(formula, table[old]).moments
    whole = compute_moments(before.design, table)
    assert_same(before.update(table[~old]), whole)
    assert_same(before.update(pl.from_pandas(table[~old]).lazy()), whole)
    more = reduce_like(before, table[~old])
    assert_same(update_moments(before, more), whole)
    more.save(tmp_path / "more.moments")
    assert_same(before.update(tmp_path / "more.moments"), whole)
    table[~old].to_csv(tmp_path / "more.csv", index=False)
    assert_same(before.update(str(tmp_path / "more.csv")), whole)
    with pytest.raises(DataError, match=r"constants of 'cgm\(x\)': the new rows has"):
        before.update(Model(formula, table[~old]).moments)
    centred = Model("y ~ cwc(x) + (1 | g)", table[table["g"] < 5]).moments
    later = centred.update(table[table["g"] >= 5])
    assert_same(later, compute_moments(centred.design, table))
    with pytest.raises(DataError, match=r"cwc\(x\) would rest"):
        centred.update(table[table["g"] >= 4])


def test_a_moments_path_is_known_by_its_suffix(tmp_path):
    assert is_moments_path("a.moments")
    assert is_moments_path(tmp_path / "A.MOMENTS")
    assert not is_moments_path("a.parquet")
    assert not is_moments_path(simulate_table(1))


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-9])
def test_columns_that_are_constant_within_groups_are_written(hsb, tmp_path, scale):
    """What is left of their sums of squares is rounding, and no correlation."""
    table = hsb.assign(meanses=hsb["meanses"] * scale)
    moments = reduce_part("mathach ~ meanses + (1 | school)", table)
    moments.save(tmp_path / "hsb.moments")
    assert np.array_equal(load_moments(tmp_path / "hsb.moments").cross, moments.cross)
