"""Patterns of several factors hold what the rows of each cell hold."""

import numpy as np
import pandas as pd
import pytest

from bhlm.design.formula.terms import add_counts, parse_formula
from bhlm.errors import DataError
from bhlm.likelihood.families import find_family
from bhlm.moments.level_patterns import LevelPatterns, reduce_level_patterns

FORMULA = "y / t ~ x + gm(x, s) + (1 | s/c)"


def draw(n: int = 400) -> pd.DataFrame:
    """Return rows of trials in classes of schools, one of them incomplete."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame({"s": rng.integers(0, 7, n), "c": rng.integers(0, 4, n)})
    table["x"] = rng.integers(0, 3, n).astype(float)
    table["t"] = rng.integers(1, 5, n)
    table["y"] = rng.binomial(table["t"], 0.4)
    table.loc[3, "x"] = np.nan
    return table


def reduce(table: pd.DataFrame, formula: str = FORMULA, **counts: str) -> LevelPatterns:
    """Return the patterns of a table; counts name the trials or the exposure."""
    asked = add_counts(parse_formula(formula), **{"trials": None, "exposure": None} | counts)
    name = "poisson" if "exposure" in counts else "binomial"
    return reduce_level_patterns(asked, table, family=find_family(name))


def test_a_pattern_adds_up_the_rows_of_a_cell_with_equal_columns() -> None:
    table = draw()
    found = reduce(table)
    kept = table.dropna()
    means = kept.groupby("s")["x"].mean()
    wanted = kept.groupby(["s", "c", "x"], as_index=False).agg(
        n=("t", "sum"), y=("y", "sum"), rows=("t", "size")
    )
    schools, cells = found.labels
    got = pd.DataFrame(
        {
            "s": schools.columns[0][schools.codes],
            "c": cells.columns[1][cells.codes],
            "x": found.take(("x",))[:, 0],
            "n": found.n, "y": found.y, "rows": found.rows,
        }
    )  # fmt: skip
    got = got.sort_values(["s", "c", "x"], ignore_index=True)
    pd.testing.assert_frame_equal(got, wanted.astype(got.dtypes.to_dict()))
    np.testing.assert_allclose(
        found.take(("gm(x, s)",))[:, 0], means.loc[schools.columns[0][schools.codes]], rtol=1e-14
    )
    assert (found.n_rows, found.dropped, found.groups) == (399, 1, {"s": 7, "s:c": 28})
    assert found.group_size["s"]["max"] == kept.groupby("s").size().max()


def test_rows_that_differ_in_their_exposure_alone_make_one_pattern() -> None:
    table = draw().dropna()
    found = reduce(table, "y ~ x + (1 | s) + (1 | c)", exposure="t")
    assert found.n_patterns == len(table.groupby(["s", "c", "x"]))
    assert found.n.sum() == pytest.approx(table["t"].sum())


def test_responses_outside_the_family_are_named() -> None:
    table = draw()
    table.loc[7, "y"] = 9
    with pytest.raises(DataError, match=r"'y' is 9 of \d trials in 1 row"):
        reduce(table)
