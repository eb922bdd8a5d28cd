"""How long fits with sampling weights take: PISA 2012, and a million rows from Parquet.

    python comparisons/weights_speed.py [pisa2012.csv] [--rows 1000000] [--repeats 30]

Printed are the least and the median wall-clock and processor times with warm caches of two pairs of
calls, each pair in turn, and their ratios: one response and five plausible values of PISA 2012
(where the file is given, see comparisons/weights.py), both from the DataFrame to the estimates; and
the reading and fitting of a Parquet file without weights and with weights at both levels.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from weights import RESPONSES, RIGHT, WEIGHTS

import bhlm


class Times(NamedTuple):
    """The least and the median of some times, in seconds."""

    least: float
    median: float


def measure_pair(
    one: Callable[[], Any], other: Callable[[], Any], repeats: int
) -> tuple[Times, Times, Times, Times]:
    """Return wall-clock times of two calls, and their processor times.

    They are called in turn, after calls that are not timed, so that both meet the same machine.
    """
    asked = (one, other)
    for ask in asked:
        ask()
    wall: tuple[list[float], list[float]] = ([], [])
    processor: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for at, ask in enumerate(asked):
            start, begun = time.perf_counter(), time.process_time()
            ask()
            wall[at].append(time.perf_counter() - start)
            processor[at].append(time.process_time() - begun)
    first, second, third, fourth = (
        Times(min(each), statistics.median(each)) for each in (*wall, *processor)
    )
    return first, second, third, fourth


def tell_pair(what: tuple[str, str], times: tuple[Times, Times, Times, Times]) -> None:
    """Print two lines, and the ratios of the second call to the first one."""
    for at, name in enumerate(what):
        wall, processor = times[at], times[at + 2]
        print(
            f"{name:40} {1e3 * wall.least:7.2f} ms ({1e3 * wall.median:.2f}), processor "
            f"{1e3 * processor.least:.2f} ({1e3 * processor.median:.2f})"
        )
    first, second, third, fourth = times
    print(
        f"{'  ratio':40} {second.least / first.least:7.2f}    "
        f"({second.median / first.median:.2f}), processor {fourth.least / third.least:.2f} "
        f"({fourth.median / third.median:.2f})"
    )


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
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args()
    if given.pisa:
        table = pd.read_csv(given.pisa, dtype={"schoolid": str})
        pair = measure_pair(
            lambda: (
                bhlm.Model(f"pv1math {RIGHT}", table, weights=WEIGHTS).reml(method="ml").estimates
            ),
            lambda: (
                bhlm.fit_imputations(
                    RIGHT, table, responses=RESPONSES, weights=WEIGHTS, method="ml"
                ).estimates
            ),
            given.repeats,
        )
        tell_pair(("PISA 2012, one response", "PISA 2012, five plausible values"), pair)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        make_file(path, given.rows)
        weights = bhlm.SamplingWeights(rows="w_row", groups="w_group")
        formula = "y ~ x + (1 | g)"
        pair = measure_pair(
            lambda: bhlm.Model(formula, path).reml(method="ml"),
            lambda: bhlm.Model(formula, path, weights=weights).reml(method="ml"),
            given.repeats,
        )
        plain = f"{given.rows:,} rows of Parquet"
        tell_pair((plain, "the same with weights at both levels"), pair)


if __name__ == "__main__":
    main()
