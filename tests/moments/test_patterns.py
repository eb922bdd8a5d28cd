"""Rows that have equal columns make one pattern, on every engine."""

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

from bhlm.design.formula.terms import parse_formula
from bhlm.errors import BhlmError
from bhlm.likelihood.families import find_family
from bhlm.moments.patterns import Patterns, reduce_patterns


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    n = 400
    return pd.DataFrame(
        {
            "g": rng.integers(0, 12, n),
            "x": rng.integers(0, 3, n) * 0.5,
            "f": rng.choice(["a", "b"], n),
            "y": rng.integers(0, 2, n),
            "size": rng.integers(1, 6, n),
            "t": rng.choice([1.0, 2.0, 4.0], n),
        }
    ).assign(s=lambda t: np.minimum(t["size"], 2) * t["y"], c=rng.poisson(2.0, n))


def reduce(formula: str, data: object, name: str = "bernoulli") -> Patterns:
    return reduce_patterns(parse_formula(formula), data, family=find_family(name))


def sort_patterns(found: Patterns) -> pd.DataFrame:
    frame = pd.DataFrame(found.values).assign(
        g=found.groups[found.codes], o=found.offset, n=found.n, y=found.y
    )
    return frame.sort_values([*frame.columns[:-2]], ignore_index=True)


def test_patterns_are_a_group_by(table: pd.DataFrame) -> None:
    found = reduce("y ~ x * f + (1 | g)", table)
    wanted = table.groupby(["g", "x", "f"])["y"].agg(["size", "sum"]).reset_index()
    assert found.n_patterns == len(wanted) < len(table)
    got = pd.DataFrame(
        {
            "g": found.groups[found.codes],
            "x": found.take(("x",))[:, 0],
            "f": np.where(found.take(("f[b]",))[:, 0] == 1.0, "b", "a"),
            "size": found.n.astype(int),
            "sum": found.y.astype(int),
        }
    ).sort_values(["g", "x", "f"], ignore_index=True)
    pd.testing.assert_frame_equal(got, wanted, check_dtype=False)
    assert found.n_rows == 400
    assert found.group_size["max"] == table["g"].value_counts().max()


def make_duckdb(table: pd.DataFrame):
    connection = duckdb.connect()
    connection.register("rows", table)
    return connection.table("rows")


@pytest.mark.parametrize("means", ["", " + cwc(x)"])
@pytest.mark.parametrize(
    "engine", [pl.from_pandas, lambda t: pl.from_pandas(t).lazy(), make_duckdb]
)
def test_engines_agree(table: pd.DataFrame, engine, means: str) -> None:
    formula = f"s / size ~ x + f{means} + offset(log(t)) + (x | g)"
    one, other = (reduce(formula, each, "binomial") for each in (table, engine(table)))
    pd.testing.assert_frame_equal(sort_patterns(one), sort_patterns(other))
    assert one.constant == pytest.approx(other.constant, abs=1e-10)
    assert one.n_rows == other.n_rows == 400
    np.testing.assert_array_equal(one.rows, other.rows)


def test_exposure_joins_rows_that_differ_in_it_alone(table: pd.DataFrame) -> None:
    found = reduce("c ~ x + offset(log(t)) + (1 | g)", table, "poisson")
    assert found.n_patterns == table.groupby(["g", "x"]).ngroups
    assert found.n.sum() == pytest.approx(table["t"].sum())
    # The rows' log-likelihood at one rate is that of the patterns.
    from scipy import stats

    rate = 0.7
    rows = stats.poisson.logpmf(table["c"], rate * table["t"]).sum()
    patterns = float(found.y.sum() * np.log(rate) - found.n.sum() * rate + found.constant)
    assert patterns == pytest.approx(rows, abs=1e-9)


def test_missing_values_are_dropped_and_told(table: pd.DataFrame) -> None:
    table = table.assign(x=table["x"].where(table.index > 4))
    found = reduce("y ~ x + (1 | g)", table)
    assert (found.dropped, found.missing) == (5, (("x", 5),))
    assert "395 of 400 rows used" in found.rows_used


@pytest.mark.parametrize(
    ("formula", "name", "change", "message"),
    [
        ("c ~ x + (1 | g)", "bernoulli", {}, "counts have family='poisson'"),
        ("y ~ x + (1 | g)", "bernoulli", {"y": 1.0}, "recode 1 to 0 and 2 to 1"),
        ("t ~ x + (1 | g)", "poisson", {"t": 0.5}, "is a whole number of 0 or more"),
        ("c / size ~ x + (1 | g)", "binomial", {"c": 9}, "from 0 to the trials"),
        ("s / size ~ x + (1 | g)", "binomial", {"size": -9}, "trials are whole numbers from 1"),
        ("s / size ~ x + (1 | g)", "bernoulli", {}, "give family='binomial'"),
        (
            "c ~ offset(log(t)) + (1 | g)",
            "poisson",
            {"t": -1.0},
            "is not finite in .* rows .an exposure of 0 or less",
        ),
        # A value that not all of the rows have stands for its like.
        ("c ~ x + (1 | g)", "poisson", {"c": 0.5}, r"is [\d.]+ or the like in 400 rows.*exposure$"),
        (
            "s / size ~ x + (1 | g)",
            "binomial",
            {"size": 0.5},
            r"'size' are [\d.]+ or the like in 400 rows.*; give their numbers$",
        ),
    ],
)
def test_bad_responses_are_told_in_one_line(
    table: pd.DataFrame, formula: str, name: str, change: dict[str, float], message: str
) -> None:
    changed = table.assign(**{column: table[column] + by for column, by in change.items()})
    with pytest.raises(BhlmError, match=message) as caught:
        reduce(formula, changed, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("digits", [3, 12])
def test_proportions_with_their_trials_are_told_how_to_be_successes(
    table: pd.DataFrame, digits: int
) -> None:
    """As glmer's users give them, whose `weights` are the trials."""
    shares = table.assign(p=(table["s"] / table["size"]).round(digits))
    with pytest.raises(BhlmError, match=r"'p' is 0\.\d+ of .*; give the successes, p \* size$"):
        reduce("p / size ~ x + (1 | g)", shares, "binomial")
