"""Odd formulas, tables, settings and files are answered, or refused in one line.

A sample; `python -m tests.fuzz KIND 0 600` tries many.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.damage import try_files, try_here, write_files
from tests.fuzz.degenerate import try_degenerate
from tests.fuzz.formulas import try_formulas
from tests.fuzz.settings import try_settings
from tests.fuzz.tables import try_tables


def test_formulas_are_answered_or_refused() -> None:
    assert list(try_formulas(range(8))) == []


def test_tables_are_answered_alike_on_every_route() -> None:
    assert list(try_tables(range(2))) == []


def test_settings_are_taken_or_refused() -> None:
    assert list(try_settings(range(40))) == []


def test_every_method_of_a_degenerate_fit_answers_or_refuses() -> None:
    assert list(try_degenerate(range(3, 6), long=False)) == []


@pytest.mark.slow
@pytest.mark.parametrize("table", range(10))
def test_every_method_of_every_degenerate_fit(table: int) -> None:
    assert list(try_degenerate(range(10 * table, 10 * table + 10))) == []


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("right")
    write_files(folder)
    return folder


def test_damaged_files_are_refused(right: Path, tmp_path: Path) -> None:
    assert list(try_here(range(20), right, tmp_path, without=("t.feather",))) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attempt", "count"),
    [(try_formulas, 300), (try_tables, 20), (try_settings, 600), (try_files, 60)],
)
def test_many_are_answered_or_refused(attempt, count: int) -> None:
    assert list(attempt(range(1000, 1000 + count))) == []
