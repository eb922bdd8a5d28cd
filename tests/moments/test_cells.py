"""Moments by cell: labels, missing values, centring within a named factor, engines."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from bhlm.design.formula.terms import parse_formula
from bhlm.errors import DataError, FormulaError
from bhlm.fits.model import Model
from bhlm.moments.cells import reduce_cells

FORMULA = "y ~ x + cwc(x, class) + gm(x, school) + kind + (x | school/class) + (1 | rater)"
EXACT = 1e-12


def make_table(n=200, *, missing=True):
    """Return rows with classes 1, 2, ... in every school, and raters that cross them."""
    rng = np.random.default_rng(11)
    table = pd.DataFrame(
        {
            "y": rng.normal(size=n),
            "x": 1e3 + rng.normal(size=n),
            "school": rng.choice(list("dbca"), n),
            "class": rng.integers(1, 4, n),
            "rater": rng.integers(0, 6, n).astype(float),
            "kind": rng.choice(["p", "q"], n),
        }
    )
    if missing:
        table.loc[3, "x"] = np.nan
        table.loc[[5, 6], "school"] = None
        table.loc[7, "rater"] = np.nan
    return table


def plain_cells(table):
    """Return the design columns of the complete rows, and their cells, by pandas."""
    rows = table.dropna().copy()
    rows["within"] = rows["x"] - rows.groupby(["school", "class"])["x"].transform("mean")
    rows["between"] = rows.groupby("school")["x"].transform("mean")
    rows["q"] = (rows["kind"] == "q").astype(float)
    return rows.groupby(["school", "class", "rater"])[["x", "within", "between", "q", "y"]]


@pytest.mark.parametrize(
    "engine",
    [
        lambda table: table,
        pl.from_pandas,
        lambda table: pl.from_pandas(table).lazy(),
        pa.Table.from_pandas,
    ],
    ids=["pandas", "polars", "polars lazy", "pyarrow"],
)
def test_blocks_are_those_of_the_complete_rows(engine):
    table = make_table()
    moments = reduce_cells(parse_formula(FORMULA), engine(table))
    cells = plain_cells(table)
    sizes = cells.size()
    labels = [
        tuple(str(each.columns[-1][code]) for each, code in zip(moments.labels, codes, strict=True))
        for codes in moments.codes.T
    ]
    names = [
        (f"{school}", f"{klass}", f"{rater}") for school, klass, rater in sizes.index.to_list()
    ]
    at = {name: i for i, name in enumerate(names)}
    order = [at[label] for label in labels]
    assert moments.columns == ("x", "cwc(x, class)", "gm(x, school)", "kind[q]", "y")
    assert (moments.dropped, dict(moments.missing)) == (4, {"x": 1, "school": 2, "rater": 1})
    np.testing.assert_array_equal(moments.n, sizes.to_numpy()[order])
    means = cells.mean().to_numpy()[order]
    np.testing.assert_allclose(moments.mean, means, rtol=EXACT, atol=1e-9)
    spread = cells.var(ddof=0).to_numpy()[order] * moments.n[:, None]
    np.testing.assert_allclose(np.einsum("caa->ca", moments.cross), spread, rtol=1e-8, atol=1e-9)
    assert moments.groups == {"school": 4, "school:class": 12, "rater": 6}
    assert moments.n_rows == 196
    counted = [size["mean"] * moments.groups[name] for name, size in moments.group_size.items()]
    assert counted == pytest.approx([196.0] * 3)


def test_classes_that_count_anew_in_every_school_are_told():
    table = make_table(missing=False)
    named = table.assign(school="school " + table["school"], rater=table["rater"] + 10.0)
    crossed = Model("y ~ x + (1 | school) + (1 | rater)", named).cells
    assert crossed.note == ""
    table["room"] = np.where(table["school"] == "a", np.minimum(table["class"], 2), table["class"])
    note = Model("y ~ x + (1 | school) + (1 | room)", table).cells.note
    assert "'room' 1 occurs in 4 'school's" in note
    assert "school/room" in note
    assert "\n" not in note
    assert Model("y ~ x + (1 | school/room)", table).cells.note == ""
    # Both readings, in any order of the columns: nobody needs to be told of the second.
    for both in ("(1 | school/room) + (1 | room)", "(1 | room:school) + (1 | school) + (1 | room)"):
        assert Model(f"y ~ x + {both}", table).cells.note == ""


def test_labels_of_a_product_are_its_columns_and_sorted():
    moments = Model("y ~ x + (1 | school/class)", make_table(missing=False)).cells
    outer, inner = moments.labels[1].columns
    assert outer.tolist() == [each for each in "abcd" for _ in range(3)]
    assert inner.tolist() == [1, 2, 3] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.assign(rater=1.0), "'rater' has 1 level in the 200 complete rows"),
        (lambda table: table.assign(x=np.inf), "column 'x' has 200 infinite values"),
        (lambda table: table.drop(columns="school"), "no column 'school'"),
    ],
)
def test_tables_that_cannot_serve_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        reduce_cells(parse_formula(FORMULA), change(make_table(missing=False)))


def test_a_response_that_groups_is_refused():
    with pytest.raises(FormulaError, match="both the response and the group"):
        reduce_cells(parse_formula("y ~ x + (1 | school) + (1 | y)"), make_table())


def test_terms_that_are_not_finite_are_named():
    table = make_table(missing=False)
    table["z"] = np.where(np.arange(len(table)) == 4, 0.0, 1.0)
    with pytest.raises(DataError, match=r"'log\(z\)' is not finite in 1 of the 200"):
        reduce_cells(parse_formula("y ~ log(z) + (1 | school) + (1 | rater)"), table)
