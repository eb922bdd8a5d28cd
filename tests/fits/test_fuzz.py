"""Random formulas and tables are answered, or refused in one line, alike on every route.

A sample; `python -m tests.fuzz 2000 500` tries many.
"""

import pytest

from bhlm.fits.model import Model
from tests.fuzz import try_formulas, try_tables
from tests.simulate import simulate_table


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Compile what the first fit would have to, so that no try counts as slow for it."""
    for formula in ("y ~ x + (x | g)", "y ~ cwc(x) + (1 | g)"):
        Model(formula, simulate_table(1)).reml()


@pytest.mark.parametrize(
    ("count", "seed"), [(8, 11), pytest.param(400, 12, marks=pytest.mark.slow)]
)
def test_formulas_are_answered_or_refused(count: int, seed: int) -> None:
    assert list(try_formulas(count, seed)) == []


@pytest.mark.parametrize(("count", "seed"), [(1, 13), pytest.param(20, 14, marks=pytest.mark.slow)])
def test_tables_are_answered_alike_on_every_route(count: int, seed: int) -> None:
    assert list(try_tables(count, seed)) == []
