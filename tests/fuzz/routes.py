"""The ways by which a table may come, and what a model of it gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa

import bhlm
from tests.fuzz.outcome import judge
from tests.simulate import simulate_table

LONGEST = 5.0  # seconds of a processor
# Log-likelihoods of one table by different sums.
SAME = 1e-6


def write_routes(table: pd.DataFrame, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return the ways by which a table may come."""
    table.to_parquet(folder / "t.parquet")
    table.to_csv(folder / "t.csv", index=False)
    return {
        "pandas": lambda: table,
        "polars": lambda: pl.from_pandas(table),
        "pyarrow": lambda: pa.Table.from_pandas(table),
        "DuckDB": lambda: duckdb.connect().from_arrow(pa.Table.from_pandas(table)),
        "Parquet": lambda: str(folder / "t.parquet"),
        "Parquet, limit": lambda: bhlm.open_table(folder / "t.parquet", memory_limit="100MB"),
        "CSV": lambda: str(folder / "t.csv"),
        "CSV, limit": lambda: bhlm.open_table(
            folder / "t.csv", memory_limit="100MB", labels=["g", "k", "f"]
        ),
    }


def compile_fits() -> None:
    """Compile what the first fits would have to, so that none counts as slow for it."""
    table = simulate_table(1)
    for formula in ("y ~ x + (x | g)", "y ~ cwc(x) + (1 | g)"):
        for source in (table, duckdb.connect().from_arrow(pa.Table.from_pandas(table))):
            bhlm.Model(formula, source).reml()


def fit_route(formula: str, source: Callable[[], Any]) -> tuple[float | str, str]:
    """Return the log-likelihood, "no maximum" or "refused", and what is wrong with the answer."""

    def fit() -> float | str:
        found = bhlm.Model(formula, source()).reml()
        return found.loglik if found.converged else "no maximum"

    found, wrong = judge(fit, longest=LONGEST, strict=True)
    return "refused" if found is None else found, wrong


def is_same(one: float | str, other: float | str) -> bool:
    """Return whether two answers are one."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return abs(one - other) <= SAME * (1.0 + abs(one))
