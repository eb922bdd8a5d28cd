"""Random tables: the same answer by every route on which they may come."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.fuzz.routes import compile_fits, fit_route, is_same, write_routes

FORMULAS = (
    "y ~ x + (1 | g)", "y ~ x + f + (x | g)", "y ~ cwc(x) + gm(x) + (cwc(x) | g)",
    "y ~ x * f + (1 | g)", "y ~ b + C(k) + (x || g)", "y ~ poly(x, 2) + z + (1 | f)",
)  # fmt: skip


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


def try_tables(numbers: range) -> Iterator[str]:
    """Yield what is wrong with random tables, or differs between their routes."""
    compile_fits()
    for number in numbers:
        rng = np.random.default_rng([2, number])
        table = random_table(rng)
        formula = str(rng.choice(FORMULAS))
        with tempfile.TemporaryDirectory() as folder:
            routes = write_routes(table, Path(folder))
            answers = {route: fit_route(formula, source) for route, source in routes.items()}
        expected = answers["pandas"][0]
        for route, (found, wrong) in answers.items():
            if not wrong and not is_same(expected, found):
                wrong = f"{found}, pandas {expected}"
            if wrong:
                yield f"table {number}, {formula!r}, {route}: {wrong}"
