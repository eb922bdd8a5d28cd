"""What a column is taken for: told before the fit where it can hardly be meant."""

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

import bhlm
from bhlm.errors import DataError
from tests.simulate import simulate_table

TABLE = simulate_table(4, n_groups=12)
N = len(TABLE)
DAYS = pd.date_range("2024-01-01", periods=N).strftime("%Y-%m-%d")


def design_of(table: Any, formula: str = "y ~ x + (1 | g)") -> tuple[str, ...]:
    return bhlm.Model(formula, table).design.fixed


@pytest.mark.parametrize("make", [pd.DataFrame, pl.from_pandas])
def test_numbers_with_a_dot_for_missing_are_told(make: Any) -> None:
    text = TABLE["x"].map("{:.3f}".format).where(np.arange(N) != 5, ".")
    with pytest.raises(DataError, match=r"is text, and \d+ of .* look like numbers, but for '\.'"):
        design_of(make(TABLE.assign(x=text)))


@pytest.mark.parametrize("path", ["t.csv", "t.parquet"])
def test_files_are_told_alike(path: str, tmp_path: Path) -> None:
    table = TABLE.assign(x=TABLE["x"].map("{:.3f}".format).where(np.arange(N) != 5, "n.v."))
    if path == "t.csv":
        table.to_csv(tmp_path / path, index=False)
    else:
        table.to_parquet(tmp_path / path)
    with pytest.raises(DataError, match=r"look like numbers, but for 'n\.v\.'; make it .* C\(x\)"):
        design_of(str(tmp_path / path))


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (DAYS, "dates, such as '2024-01-01'"),
        (["3,5", "4,25", "k.A."] * N, "numbers, but for 'k.A.'"),
        ([f"{i:05d}" for i in range(N)], "numbers"),
    ],
)
def test_text_that_is_something_else_is_told(texts: Any, what: str) -> None:
    with pytest.raises(DataError, match=f"look like {what}"):
        design_of(TABLE.assign(x=list(texts)[:N]))


@pytest.mark.parametrize(
    "texts", [["0", "1"], ["1", "2", "3"], ["a", "b", "1"], ["2020-01-01", "2021-01-01"]]
)
def test_few_codes_are_categories(texts: list[str]) -> None:
    assert len(design_of(TABLE.assign(x=(texts * N)[:N]))) == len(texts)


def test_what_is_called_categorical_is_taken_so() -> None:
    many = [f"{i % 20}" for i in range(N)]
    assert len(design_of(TABLE.assign(x=many), "y ~ C(x) + (1 | g)")) == 20
    assert len(design_of(TABLE.assign(x=pd.Categorical(many)))) == 20


def test_booleans_with_gaps_work_from_pandas() -> None:
    flags = [None, *[i % 3 == 0 for i in range(1, N)]]
    rows = TABLE.assign(x=pd.Series(flags, dtype=object))
    model = bhlm.Model("y ~ x + (1 | g)", rows)
    assert model.design.fixed == ("Intercept", "x[True]")
    assert dict(model.moments.missing) == {"x": 1}
    # as a number, as the group, and in new rows
    assert bhlm.Model("y ~ I(x * 2) + (1 | g)", rows).design.fixed == ("Intercept", "I(x * 2)")
    assert bhlm.Model("y ~ 1 + (1 | x)", rows).moments.n_groups == 2
    assert len(model.predict(model.reml(), rows.iloc[1:6].astype({"x": object}))) == 5


@pytest.mark.parametrize("suffix", [".dta", ".sav"])
def test_names_of_values_survive_the_path(suffix: str, tmp_path: Path) -> None:
    sector = np.arange(N) % 2
    rows = TABLE.assign(sector=sector, likert=1 + np.arange(N) % 5, part=np.arange(N) % 3)
    rows["part"] = rows["part"].astype(float)
    labels = {
        "sector": {0: "Public", 1: "Catholic"},
        "likert": {i: f"level {i}" for i in range(1, 6)},
        "part": {0: "none"},
        "g": {i: f"school {i}" for i in range(12)},
    }
    path = tmp_path / f"t{suffix}"
    if suffix == ".dta":
        rows.to_stata(path, value_labels=labels, write_index=False)
    else:
        pytest.importorskip("pyreadstat").write_sav(rows, path, variable_value_labels=labels)
    model = bhlm.Model("y ~ sector + part + (1 | g)", str(path))
    assert model.design.fixed == ("Intercept", "sector[Catholic]", "part")
    assert model.moments.groups[0] == "school 0"
    # What is computed with are the numbers, the response above all.
    assert design_of(str(path), "likert ~ cwc(sector) + (1 | g)") == ("Intercept", "cwc(sector)")


@pytest.mark.parametrize(
    ("name", "values", "what"),
    [
        ("pupil", np.random.default_rng(1).permutation(N) + 1001, "numbers the rows one by one"),
        ("pupil_id", np.arange(N) % 7, "is called like an identifier"),
        ("studentID", np.arange(N) % 7, "is called like an identifier"),
    ],
)
def test_an_identifier_as_a_predictor_is_told(
    name: str, values: Any, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    design_of(TABLE.assign(**{name: values}), f"y ~ x + {name} + (1 | g)")
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the predictor '{name}' {what}")


def test_columns_that_are_meant_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    table = TABLE.assign(day=np.arange(N) % 9, paid=TABLE["w"], year=2000 + np.arange(N) // 4)
    design_of(table, "y ~ x + day + paid + year + (1 | g)")
    assert not caplog.records


def test_duckdb_s_name_of_a_second_spelling_is_told() -> None:
    table = duckdb.connect().from_df(TABLE.assign(G=1.0))
    with pytest.raises(DataError, match="names differ in case only, and calls it 'G_1'"):
        design_of(table, "y ~ G + (1 | g)")


KINDS = {
    "several": ("y ~ {} + (1 | g) + (1 | h)", {}),
    "counts": ("h ~ {} + (1 | g)", {"family": "poisson"}),
    "strata": ("y ~ {} + (1 | g)", {"residual": "s"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_doubts_identifiers(kind, caplog):
    rng = np.random.default_rng(2)
    place = np.arange(40)
    table = pd.DataFrame(
        {"g": place // 5, "h": place % 5, "s": place % 2, "y": rng.normal(size=40), "row": place,
         "pupil_id": rng.permutation(40) * 7}
    )  # fmt: skip
    formula, given = KINDS[kind]
    for name, what in {
        "row": "numbers the rows one by",
        "pupil_id": "is called like",
        "g": "is a",
    }.items():
        caplog.clear()
        bhlm.Model(formula.format(name), table, **given)
        assert f"the predictor '{name}' {what}" in caplog.text


def test_doubts_are_about_columns_however_they_are_called(caplog):
    """An intercept is no predictor of a group column that has its name."""
    table = TABLE.rename(columns={"g": "Intercept", "x": "pupil id"})
    bhlm.Model("y ~ w + (1 | Intercept)", table)
    assert "group column" not in caplog.text
    bhlm.Model("y ~ `pupil id` + (1 | Intercept)", table)
    assert "the predictor '`pupil id`' is called like an identifier" in caplog.text
