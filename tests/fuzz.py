"""Random formulas and tables: each gives an answer or a BhlmError of one line, on every route.

`python -m tests.fuzz 2000 500` tries 2,000 formulas and 500 tables, and prints what is wrong.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

import bhlm
from bhlm.errors import BhlmError

LONGEST = 5.0  # seconds of a processor, whatever else the machine does
# Log-likelihoods of one table by different sums.
SAME = 1e-6

COLUMNS = ("y", "x", "z", "f", "b", "k", "g", "my col", "G", "sigma", "Intercept")
PIECES = (
    *("cwc({})", "gm({})", "cgm({})", "log({})", "sqrt({})", "exp({})", "I({}**2)", "I({} - {})"),
    *("C({})", "poly({}, 2)", "poly({}, 2, raw=True)", "scale({})", "{}:{}", "{}*{}", "{}/{}"),
    *(
        "({} + {})**2",
        "0 + {}",
        "{} - 1",
        "-{}",
        "2",
        "{} | g",
        "C({}, Treatment('a'))",
        "np.log({})",
    ),
    *(
        "cwc(gm({}))",
        "gm(I({} * {}))",
        "open('{}')",
        "{}.real",
        "`{}`",
        "{}[0]",
        "'{}'",
        "{} {}",
        "1",
    ),
)
NOISE = (*"()+-*/:|~^,.`'\"%&=<>[]{}#@!? \t\n\\0", "||", "**", "é", "\u200b", "∞", "1e999")


def random_formula(rng: np.random.Generator) -> str:
    """Return a formula, of which a third is damaged."""

    def column() -> str:
        name = str(rng.choice(COLUMNS))
        return f"`{name}`" if " " in name else name

    def piece() -> str:
        if rng.random() < 0.4:
            return column()
        text = str(rng.choice(PIECES))
        return text.format(*(column() for _ in range(text.count("{}"))))

    fixed = " + ".join(piece() for _ in range(rng.integers(1, 4)))
    inner = " + ".join(piece() for _ in range(rng.integers(1, 3)))
    bar, group = rng.choice(["|", "||"], p=[0.7, 0.3]), column() if rng.random() < 0.2 else "g"
    random = f"({inner if rng.random() < 0.5 else 1} {bar} {group})"
    text = f"{'y' if rng.random() < 0.8 else piece()} ~ {fixed} + {random}"
    while rng.random() < 0.3:
        at = int(rng.integers(0, len(text) + 1))
        text = text[:at] + str(rng.choice(NOISE)) + text[at + int(rng.integers(0, 3)) :]
    return text


def random_table(rng: np.random.Generator) -> pd.DataFrame:
    """Return a table of up to 60 rows with odd types, labels, gaps, sizes and values."""
    n = int(rng.choice([1, 2, 3, 10, 40, 60]))
    group = rng.integers(0, max(1, int(n / rng.choice([1, 2, 5]))), n)
    effect = rng.normal(size=n)[group % n] if rng.random() < 0.8 else np.zeros(n)

    def number() -> Any:
        values = rng.normal(size=n)
        kind = rng.integers(0, 9)
        values = [
            values, np.round(values), np.full(n, 3.0), values * 1e150, values * 1e-150,
            values + 1e9, (values > 0).astype(np.int64), values.astype(np.float32), group * 1.0,
        ][kind]  # fmt: skip
        return values

    def label() -> Any:
        texts = np.array(
            ["a", "b", "c", " a", "A", "é", "01", "1", "x/y", "{{", "NaN "], dtype=object
        )
        return texts[rng.integers(0, rng.integers(1, len(texts) + 1), n)]

    x = number()
    table = pd.DataFrame(
        {
            "y": effect
            + np.nan_to_num(np.asarray(x, float))
            + (rng.random() < 0.9) * rng.normal(size=n),
            "x": x,
            "z": number(),
            "f": label(),
            "b": rng.random(n) < 0.5,
            "k": rng.integers(-(2**62), 2**62, n) if rng.random() < 0.2 else rng.integers(0, 4, n),
            "g": label() if rng.random() < 0.3 else group + int(rng.choice([0, 2**53])),
        }
    )
    for name in ("y", "x", "z", "f"):
        if rng.random() < 0.2:
            table.loc[rng.random(n) < rng.choice([0.1, 0.5, 1.0]), name] = None
    if rng.random() < 0.1:
        table["x"] = table["x"].astype(float)
        table.loc[0, "x"] = rng.choice([np.inf, -np.inf])
    return table


FORMULAS = (
    "y ~ x + (1 | g)", "y ~ x + f + (x | g)", "y ~ cwc(x) + gm(x) + (cwc(x) | g)",
    "y ~ x * f + (1 | g)", "y ~ b + C(k) + (x || g)", "y ~ poly(x, 2) + z + (1 | f)",
)  # fmt: skip


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


def judge(formula: str, source: Callable[[], Any]) -> tuple[float | str, str]:
    """Return the log-likelihood or "refused", and what is wrong with the answer, or ""."""
    start = time.process_time()
    found: float | str = "refused"
    wrong = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fit = bhlm.Model(formula, source()).reml()
            found = fit.loglik if fit.converged else "no maximum"
    except BhlmError as error:
        if "\n" in str(error) or len(str(error)) > 900:
            wrong = f"not one line: {str(error)[:200]!r}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:150]}"
    seconds = time.process_time() - start
    return found, wrong or (f"{seconds:.1f} s" if seconds > LONGEST else "")


def try_formulas(count: int, seed: int) -> Iterator[str]:
    """Yield what is wrong with random formulas over one table."""
    rng = np.random.default_rng(seed)
    n = 60
    table = pd.DataFrame({name: rng.normal(size=n) for name in COLUMNS}).assign(
        g=np.arange(n) % 10, f=np.array(["a", "b", "c"])[np.arange(n) % 3], b=rng.random(n) < 0.5,
        k=np.arange(n) % 4,
    )  # fmt: skip
    for _ in range(count):
        formula = random_formula(rng)
        if wrong := judge(formula, lambda: table)[1]:
            yield f"{formula!r}: {wrong}"


def try_tables(count: int, seed: int) -> Iterator[str]:
    """Yield what is wrong with random tables, or differs between their routes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        table = random_table(rng)
        formula = str(rng.choice(FORMULAS))
        with tempfile.TemporaryDirectory() as folder:
            routes = write_routes(table, Path(folder))
            answers = {route: judge(formula, source) for route, source in routes.items()}
        for route, (_, wrong) in answers.items():
            if wrong:
                yield f"table {number} of seed {seed}, {formula!r}, {route}: {wrong}"
        first = answers["pandas"][0]
        for route, (found, wrong) in answers.items():
            if not wrong and not is_same(first, found):
                yield f"table {number} of seed {seed}, {formula!r}: {route} {found}, pandas {first}"


def is_same(one: float | str, other: float | str) -> bool:
    """Return whether two answers are one."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return abs(one - other) <= SAME * (1.0 + abs(one))


if __name__ == "__main__":
    formulas, tables = (int(argument) for argument in sys.argv[1:3])
    for line in (*try_formulas(formulas, 1), *try_tables(tables, 2)):
        print(line, flush=True)
