"""What the machine could do, and what bhlm's steps take of it, on one core.

    python comparisons/limits.py

First the machine: the bytes per second of a copy that no cache holds, and the floating-point
operations per second of a large matrix product. Then the steps of y ~ x + (x | g): reading rows
that lie in memory, one evaluation of the likelihood at one position after the other and at many at
once, and one gradient of the posterior density, each with the bytes that it reads and the
operations that it takes, and so with its distance from either limit. Last, where the time of a
whole small fit goes: High School and Beyond, from a pandas frame to Satterthwaite's degrees of
freedom, its compiled part by itself.
"""

import os
import statistics
import time
from collections.abc import Callable

# Before NumPy: its BLAS would start a thread for every core.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import numpy as np
import pandas as pd
from speed_posteriors import simulate
from speed_reml import load_hsb

import bhlm
from bhlm.likelihood.marginal import marginal_panels
from bhlm.likelihood.panels import build_panels
from bhlm.likelihood.positions import pair_columns, sum_positions
from bhlm.reml.optimize import NEWTON_STEPS, Problem

POSITIONS = 64
# Of one group with q = 2 random coefficients and r = 3 columns of [X y], see
# `panel_sums.fill_products`: lam'Z'Z lam, its factor, lam'Z'[X y], its solution, and the products.
K, SOLVE, PRODUCTS = 8 + 4 + 6 + 3 + 2 + 5, 18 + 6, 6 + 24 + 2
OPERATIONS = K + SOLVE + PRODUCTS
# Of the same group with p = 2 fixed effects, see `marginal.solve_two`: Z'r, what stands there, the
# determinant and X'Z lam w.
GRADIENT = 8 + 88 + 1 + 8
# Of the same group with products of pairs of columns, see `positions`: |K|, then six sums.
PAIRS, PAIR_BYTES = 10 + 9 * 6, 8 * (4 + 4 * 6)
BYTES = 8 * 2 * 5  # of Z'[Z X y]


def clock(work: Callable[[], object], *, runs: int = 7) -> float:
    """Return the median of the seconds that calls take, after one that warms up."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def measure_machine() -> tuple[float, float]:
    """Return the bytes and the operations per second that one core reaches."""
    source = np.ones(25_000_000)
    target = np.empty_like(source)
    copied = 2 * source.nbytes / clock(lambda: np.copyto(target, source))
    matrix = np.random.default_rng(1).normal(size=(1200, 1200))
    product = 2.0 * len(matrix) ** 3 / clock(lambda: matrix @ matrix)
    return copied, product


def show_step(name: str, seconds: float, *, read: float, operations: float) -> None:
    """Print what one group, or row, takes, and the two rates that this comes to."""
    print(
        f"{name:44} {1e9 * seconds:8.2f} {read:6.0f} {1e-9 * read / seconds:7.2f} "
        f"{operations:6.0f} {1e-9 * operations / seconds:8.2f}",
        flush=True,
    )


def show_evaluations(groups: int) -> None:
    """Print the costs of an evaluation of the likelihood of so many groups."""
    fit = bhlm.Model("y ~ x + (x | g)", simulate(groups)).reml()
    panels = build_panels(fit.white.blocks, fit.white.q)
    pairs = pair_columns(panels)
    lam = np.tile(fit.white.basis @ fit.root, (POSITIONS, 1, 1))
    label = f"likelihood, {groups:,} groups"
    each = clock(lambda: sum_positions(panels, lam[:1])) / groups
    show_step(label, each, read=BYTES, operations=OPERATIONS)
    each = clock(lambda: sum_positions(panels, lam, pairs=pairs)) / (POSITIONS * groups)
    show_step(f"{label}, {POSITIONS} positions", each, read=PAIR_BYTES, operations=PAIRS)
    beta, sigma = np.zeros(fit.white.p), 1.0
    each = clock(
        lambda: marginal_panels(
            panels.values, panels.total, panels.reach, fit.white.n, lam[0], beta, sigma
        )
    )
    label = f"gradient, {groups:,} groups"
    show_step(label, each / groups, read=BYTES, operations=GRADIENT)


def show_reading() -> None:
    """Print the cost of reducing rows in memory, groups side by side and scattered."""
    table = simulate(100_000)
    for name, given in (
        ("sorted", table),
        ("scattered", table.sample(frac=1.0, random_state=1).reset_index(drop=True)),
    ):
        seconds = clock(lambda given=given: bhlm.Model("y ~ x + (x | g)", given), runs=5)
        # A count, two means and three products, each updated.
        show_step(f"rows, {len(given):,} {name}", seconds / len(given), read=3 * 8, operations=17.0)


def show_fit(table: pd.DataFrame) -> None:
    """Print where the time of a small fit goes."""
    fit = bhlm.Model("y ~ x + (x | g)", table).reml()
    problem = Problem(fit.white, fit.structure, restricted=True)
    stages: dict[str, list[float]] = {}
    for _ in range(400):
        marks = [time.perf_counter()]
        model = bhlm.Model("y ~ x + (x | g)", table)
        marks.append(time.perf_counter())
        found = model.reml()
        marks.append(time.perf_counter())
        _ = found.estimates
        marks.append(time.perf_counter())
        found.fixed_effects(method="satterthwaite")
        marks.append(time.perf_counter())
        names = ("the frame to moments", "REML", "estimates", "degrees of freedom")
        for name, start, stop in zip(names, marks, marks[1:], strict=False):
            stages.setdefault(name, []).append(stop - start)
    start_theta = 1.2 * fit.theta
    search = clock(
        lambda: problem._run(start_theta, NEWTON_STEPS, restricted=True, held=np.nan), runs=400
    )
    print("\nHigh School and Beyond, microseconds")
    for name, seconds in stages.items():
        print(f"{name:44} {1e6 * statistics.median(seconds):8.0f}")
    print(f"{'all of it':44} {1e6 * sum(map(statistics.median, stages.values())):8.0f}")
    print(f"{'of that, a search by compiled steps alone':44} {1e6 * search:8.0f}")


def main() -> None:
    copied, product = measure_machine()
    print(f"{'one core':44} {'ns':>8} {'bytes':>6} {'GB/s':>7} {'flops':>6} {'GFlop/s':>8}")
    print(f"{'copy':44} {'':8} {'':6} {1e-9 * copied:7.2f}")
    print(f"{'matrix product':44} {'':8} {'':6} {'':7} {'':6} {1e-9 * product:8.2f}")
    show_reading()
    for groups in (5_000, 1_000_000):
        show_evaluations(groups)
    show_fit(load_hsb())


if __name__ == "__main__":
    main()
