"""Plain tables: the same moments as by the way that all engines share, and nothing else taken."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from bhlm.design.formula.terms import parse_formula
from bhlm.design.plain import read_plain
from bhlm.moments.moments import Moments, reduce_table

ROWS = 60
FORMULAS = (
    "y ~ x + (x | g)",
    "log(y) ~ cwc(x) * gm(k) + I(x**2) + (cwc(x) | g)",
    "y ~ k + (1 | k)",
)
RIGHT = ("C(k) + (1 | g)", "cgm(x) + (1 | g)", "x + (1 | g/k)", "z + (1 | g)")


def make_pieces(table: pd.DataFrame) -> pa.Table:
    """Return a table of Arrow in three chunks, which do not begin where their buffers do."""
    rows = pa.Table.from_pandas(pd.concat([table[:7], table]))
    return pa.concat_tables([rows.slice(7, 11), rows.slice(18, 1), rows.slice(19)])


MAKERS = {
    "pandas": pd.DataFrame,
    "polars": pl.from_pandas,
    "pyarrow": pa.Table.from_pandas,
    "pieces": make_pieces,
}


def make_table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "g": rng.integers(-4, 5, ROWS).astype(np.int16),
            "x": rng.normal(size=ROWS).astype(np.float32),
            "k": rng.integers(0, 3, ROWS).astype(np.uint8),
            "y": rng.gamma(3.0, size=ROWS),
        },
        index=rng.permutation(ROWS),
    )


def describe(moments: Moments) -> tuple[object, ...]:
    """Return all that there is of moments, as what compares to the last bit."""
    arrays = (moments.groups, moments.n, moments.mean, moments.cross)
    design = moments.design
    texts = (design.fixed, design.random, design.blocks, design.columns, design.levels)
    return *((a.dtype.kind, a.tolist()) for a in arrays), *texts, moments.dropped, moments.missing


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("engine", MAKERS)
def test_plain_tables_have_the_moments_of_the_shared_way(engine: str, formula: str) -> None:
    table = make_table()
    masked = table.astype({"y": "Float64"})  # which no engine but pandas has, and is not plain
    assert read_plain(parse_formula(formula), masked) is None
    native = MAKERS[engine](table)
    assert read_plain(parse_formula(formula), native) is not None
    assert describe(reduce_table(formula, native)) == describe(reduce_table(formula, masked))


@pytest.mark.parametrize("engine", MAKERS)
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("y", [np.nan, 1.0]),
        ("y", [np.inf, 1.0]),
        ("g", [np.nan, 1.0]),
        ("x", ["a", "b"]),
        ("x", [True, False]),
        ("g", ["a", "b"]),
    ],
)
def test_what_is_not_plain_is_left_to_the_shared_way(
    engine: str, name: str, values: list[object]
) -> None:
    table = make_table().assign(**{name: np.resize(values, ROWS)})
    assert read_plain(parse_formula("y ~ x + (x | g)"), MAKERS[engine](table)) is None


@pytest.mark.parametrize("right", RIGHT)
def test_formulas_that_learn_from_the_table_are_left_to_the_shared_way(right: str) -> None:
    for make in MAKERS.values():
        assert read_plain(parse_formula(f"y ~ {right}"), make(make_table())) is None


def test_two_columns_of_one_name_are_left_to_the_shared_way() -> None:
    table = make_table()
    twice = pd.concat([table, table[["x"]]], axis=1)
    assert read_plain(parse_formula("y ~ x + (x | g)"), twice) is None
    assert read_plain(parse_formula("y ~ x + (x | g)"), twice[["g", "y"]]) is None
    columns = [*(pa.array(table[name].to_numpy()) for name in table), pa.array(table["x"])]
    same = pa.Table.from_arrays(columns, names=[*table.columns, "x"])
    assert read_plain(parse_formula("y ~ x + (x | g)"), same) is None
