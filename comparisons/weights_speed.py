"""How long fits with sampling weights take: PISA 2012, and a million rows from Parquet.

    python comparisons/weights_speed.py [pisa2012.csv] [--rows 1000000] [--repeats 5]

Printed are the least wall-clock and processor times of several runs with warm caches: one response
and five plausible values of PISA 2012 (where the file is given, see comparisons/weights.py), and
the reading and fitting of a Parquet file without weights and with weights at both levels.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from weights import RESPONSES, RIGHT, WEIGHTS

import bhlm


def measure(ask: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the least wall-clock and processor time of some calls, after one that is not timed."""
    ask()
    wall, processor = [], []
    for _ in range(repeats):
        start, begun = time.perf_counter(), time.process_time()
        ask()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - begun)
    return min(wall), min(processor)


def tell(what: str, times: tuple[float, float], base: tuple[float, float] | None = None) -> None:
    """Print one line, with the ratio to another measurement."""
    ratio = "" if base is None else f"  {times[0] / base[0]:.2f} x ({times[1] / base[1]:.2f} x)"
    print(f"{what:44} {times[0]:.3f} s wall, {times[1]:.3f} s processor{ratio}")


def make_file(path: Path, rows: int) -> None:
    """Write a two-level table of that many rows with both weights."""
    rng = np.random.default_rng(1)
    group = np.sort(rng.integers(rows // 50, size=rows))
    u = rng.normal(size=rows // 50)
    x = rng.normal(size=rows)
    table = pd.DataFrame(
        {
            "g": group,
            "x": x,
            "y": 1.0 + 0.5 * x + u[group] + rng.normal(size=rows),
            "w_row": rng.uniform(0.5, 3.0, size=rows),
            "w_group": rng.uniform(1.0, 5.0, size=rows // 50)[group],
        }
    )
    table.to_parquet(path, index=False)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pisa", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    if given.pisa:
        table = pd.read_csv(given.pisa, dtype={"schoolid": str})
        one = measure(
            lambda: (
                bhlm.Model(f"pv1math {RIGHT}", table, weights=WEIGHTS).reml(method="ml").estimates
            ),
            given.repeats,
        )
        five = measure(
            lambda: (
                bhlm.fit_imputations(
                    RIGHT, table, responses=RESPONSES, weights=WEIGHTS, method="ml"
                ).estimates
            ),
            given.repeats,
        )
        tell("PISA 2012, one response", one)
        tell("PISA 2012, five plausible values", five, one)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        make_file(path, given.rows)
        weights = bhlm.SamplingWeights(rows="w_row", groups="w_group")
        formula = "y ~ x + (1 | g)"
        plain = measure(lambda: bhlm.Model(formula, path).reml(method="ml"), given.repeats)
        weighted = measure(
            lambda: bhlm.Model(formula, path, weights=weights).reml(method="ml"), given.repeats
        )
        tell(f"{given.rows:,} rows of Parquet", plain)
        tell("the same with weights at both levels", weighted, plain)


if __name__ == "__main__":
    main()
