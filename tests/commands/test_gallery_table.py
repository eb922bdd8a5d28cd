"""The gallery in one table."""

from typing import Any

import pandas as pd
import pytest

from bhlm.commands.gallery import COLUMNS, compare_gallery, render_gallery
from bhlm.errors import ArgumentError, GalleryError
from bhlm.sources.gallery import find_model

NAMES = ("rail", "hsb_means_as_outcomes")
# lme4 and Stata print the log-likelihood with this many digits or more.
LOGLIK = 0.005


@pytest.fixture(scope="module")
def calls() -> list[tuple[int, int]]:
    return []


@pytest.fixture(scope="module")
def table(calls: list[tuple[int, int]]) -> pd.DataFrame:
    return compare_gallery(NAMES, seed=1, progress=lambda done, total: calls.append((done, total)))


@pytest.mark.wide
def test_one_row_for_each_model(table: pd.DataFrame, calls: list[tuple[int, int]]) -> None:
    assert tuple(table.index) == NAMES
    assert tuple(table.columns) == COLUMNS
    assert list(table["n"]) == [18, 7185]
    assert list(table["groups"]) == [6, 160]
    assert calls == [(0, 2), (1, 2), (2, 2)]
    assert (table["seconds"] > 0).all()


@pytest.mark.wide
def test_loglik_is_the_printed_one(table: pd.DataFrame) -> None:
    published = find_model("rail").published
    assert published is not None
    assert published.loglik is not None
    assert abs(table.loc["rail", "loglik"] - float(published.loglik)) < LOGLIK


@pytest.mark.wide
def test_gap_and_verdict_are_those_of_the_reconciliation(
    table: pd.DataFrame, reconcile_gallery: Any
) -> None:
    both = reconcile_gallery("rail")
    row = table.loc["rail"]
    assert row["gap_sd"] == both.table.loc[row["gap_parameter"], "gap_sd"]
    assert abs(row["gap_sd"]) == both.table["gap_sd"].abs().max()
    assert row["verdict"] == both.verdict


@pytest.mark.wide
def test_prints_are_counted(table: pd.DataFrame) -> None:
    assert table.loc["rail", "reproduced"] == table.loc["rail", "printed"] > 0
    assert bool(table.loc["rail", "comparable"])
    other = table.loc["hsb_means_as_outcomes"]
    assert not other["comparable"]
    assert other["reproduced"] < other["printed"]


@pytest.mark.wide
def test_text_holds_every_row_and_counts_the_verdicts(table: pd.DataFrame) -> None:
    changed = table.copy()
    changed["verdict"] = ["explained", "not_converged"]
    changed["gap_sd"] = [0.5, -0.25]
    lines = render_gallery(changed).splitlines()
    assert "verdict" in lines[0]
    assert lines[1].startswith("rail ")
    assert "+0.50" in lines[1]
    assert lines[2].startswith("hsb_means_as_outcomes ")
    assert "-0.25" in lines[2]
    assert "*" in lines[2]
    assert "*" not in lines[1]
    assert "2 models: 1 explained, 1 not_converged." in lines
    assert lines[-1].startswith("* printed for other columns")
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.wide
def test_no_star_without_other_columns(table: pd.DataFrame) -> None:
    assert "*" not in render_gallery(table.loc[["rail"]])


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(GalleryError, match="'rial' is neither"):
        compare_gallery(["rial"])
    with pytest.raises(ArgumentError, match="no models to compare"):
        compare_gallery([])
