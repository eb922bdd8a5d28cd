"""Moments of several factors with weights: any engine, any split, any file gives the same."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import bhlm
from bhlm.errors import ArgumentError, BhlmError, DataError

SAME = 1e-10  # relative, of sums in another order
RIGHT = "x + (x | school) + (1 | school:room)"
UNITS = bhlm.SamplingWeights("w / V", {"room": "V", "school": "W_school"}, scaling="effective")
KINDS = {
    "precision": {"weights": "w"},
    "frequency": {"weights": bhlm.FrequencyWeights("f")},
    "known": {"known_variance": "w"},
    "rows": {"weights": bhlm.SamplingWeights("w", scaling="size")},
    "schools": {"weights": bhlm.SamplingWeights(groups={"school": "W_school"})},
    "all": {"weights": UNITS},
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    n = 240
    school = rng.integers(0, 12, n)
    room = rng.integers(0, 3, n)
    found = pd.DataFrame({"school": [f"s{each:02d}" for each in school], "room": room})
    found["x"] = 1e3 + rng.normal(size=n)
    found["y"] = found["x"] + rng.normal(size=12)[school] + rng.normal(size=(12, 3))[school, room]
    found["y"] += rng.normal(size=n)
    found["w"], found["f"] = rng.uniform(0.5, 3, n), rng.integers(1, 4, n)
    found["W_school"] = rng.uniform(1, 30, 12)[school]
    found["V"] = rng.uniform(1, 3, (12, 3))[school, room]
    found.loc[rng.random(n) < 0.05, "w"] = np.nan
    return found


def alike(found, expected) -> None:
    assert found.design.formula.weights == expected.design.formula.weights
    for name in ("n", "mean", "cross"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(one, other, SAME, SAME * np.abs(other).max(), err_msg=name)
    for name in ("sums", "squares", "logs", "groups", "rows"):
        one, other = (getattr(each.weighting, name) for each in (found, expected))
        np.testing.assert_allclose(one, other, SAME, 1e-12, err_msg=name)
    for one, other in zip(found.level_weights, expected.level_weights, strict=True):
        np.testing.assert_allclose(one, other, SAME)
    for one, other in zip(found.labels, expected.labels, strict=True):
        for mine, yours in zip(one.columns, other.columns, strict=True):
            np.testing.assert_array_equal(mine, yours)
        np.testing.assert_array_equal(one.codes, other.codes)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_the_table(kind, table, tmp_path):
    model = bhlm.Model(f"y ~ {RIGHT}", table, **KINDS[kind])
    path = tmp_path / "cells.moments"
    model.cells.save(path)
    again = bhlm.load_moments(path)
    alike(again, model.cells)
    assert again.dropped == model.cells.dropped
    method = "ml" if model.formula.weights.is_sampling else "reml"
    one, two = model.reml(method=method), bhlm.Model.from_moments(path).reml(method=method)
    assert one.loglik == pytest.approx(two.loglik, rel=1e-14)
    pd.testing.assert_frame_equal(one.estimates, two.estimates)
    with pytest.raises(ArgumentError, match="not with"):
        bhlm.Model(f"y ~ {RIGHT}", path, weights=bhlm.PrecisionWeights("other"))


@pytest.mark.parametrize("engine", ["pandas", "polars", "lazy", "arrow", "duckdb"])
@pytest.mark.parametrize("kind", ["all", "frequency"])
def test_parts_merge_to_the_whole_whatever_reads_them(kind, engine, table):
    import duckdb

    given = KINDS[kind]
    whole = bhlm.Model(f"y ~ {RIGHT}", table, **given).cells
    # Rooms, and their schools, have rows in several parts.
    parts = [table[table.index % 3 == at].reset_index(drop=True) for at in range(3)]
    make = {
        "pandas": lambda rows: rows,
        "polars": pl.from_pandas,
        "lazy": lambda rows: pl.from_pandas(rows).lazy(),
        "arrow": pa.Table.from_pandas,
        "duckdb": lambda rows: duckdb.from_df(rows),
    }[engine]
    first = bhlm.reduce_part(f"y ~ {RIGHT}", make(parts[0]), **given)
    others = [bhlm.reduce_like(first, make(each)) for each in parts[1:]]
    merged = bhlm.merge_moments([first, *others])
    alike(merged, whole)
    assert merged.dropped == whole.dropped
    alike(first.update(make(parts[1])).update(make(parts[2])), whole)


def test_small_cells_leave_the_weights_of_the_others(table):
    cells = bhlm.Model(f"y ~ {RIGHT}", table, weights=UNITS).cells
    kept, _ = bhlm.suppress_small_groups(cells, 6, action="drop")
    sizes = table.dropna().groupby(["school", "room"])["x"].transform("size")
    rest = table.dropna()[sizes >= 6]
    alike(kept, bhlm.Model(f"y ~ {RIGHT}", rest, weights=UNITS).cells)


def test_units_with_two_weights_and_other_mistakes_are_told(table):
    formula = f"y ~ {RIGHT}"
    half = [table[table.index % 2 == at] for at in (0, 1)]
    first = bhlm.reduce_part(formula, half[0], weights=UNITS)
    other = half[1].assign(W_school=2.0 * half[1]["W_school"])
    with pytest.raises(DataError, match="the weight of 'school' differs"):
        bhlm.merge_moments([first, bhlm.reduce_like(first, other)])
    one = half[1].reset_index(drop=True)
    for column, at, value, match in (
        ("V", 0, 9.0, "the weight of 'school:room' differs"),
        ("w", 3, 0.0, "is 0 in 1 row"),
        ("W_school", slice(None), -1.0, "the weight of 'school' is -1"),
    ):
        broken = one.copy()
        broken.loc[at, column] = value
        with pytest.raises(DataError, match=match) as error:
            bhlm.reduce_like(first, broken)
        assert "\n" not in str(error.value)
    for weights, match in (
        (bhlm.SamplingWeights("w", "W_school"), "does not say of which"),
        (bhlm.SamplingWeights("w", {"item": "W_school"}), "no factor of the formula"),
        (bhlm.SamplingWeights("w", {"school": "W_school"}, scaling="gk"), "scaling='gk'"),
    ):
        with pytest.raises(ArgumentError, match=match):
            bhlm.reduce_part(formula, table, weights=weights)
    plain = bhlm.reduce_part(formula, half[1])
    with pytest.raises(BhlmError, match="weights"):
        bhlm.merge_moments([first, plain])
