"""Seconds and effective draws per second of a posterior: bhlm, PyMC, Bambi, rstanarm.

Each program samples y ~ x + (x | g) on High School and Beyond (mathach on group-centred ses),
4 chains of 1000 + 1000 on its default priors, in a process of its own. `first s` is the whole
process to the summary, imports and compilation included; `second s` a second call in the same
process. ESS is the smallest over fixed effects, SDs, correlation and residual SD. The
conditional model is bhlm's own `model.pymc(form="conditional")`, non-centred, by nutpie; Bambi
has no correlation between intercept and slope and samples the smaller model without it.

The second table is about bhlm alone: 10,000 groups and ever more rows.

    python comparisons/speed_bayes.py              # High School and Beyond
    python comparisons/speed_bayes.py --groups     # and 10,000 groups
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from arviz_stats.base import array_stats
from checkouts import describe_machine
from speed_reml import load_hsb, simulate

import bhlm

HERE = Path(__file__).parent
ROOT = HERE.parent
BAMBI = ROOT / ".venv-bambi" / "bin" / "python"
PROGRAMS = ("bhlm", "conditional", "Bambi", "rstanarm")
LABELS = {"conditional": "PyMC conditional", "Bambi": "Bambi, uncorrelated"}
GROUPS = 10_000
ROWS = (100_000, 1_000_000, 10_000_000)


def run(program: str, folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]] | str:
    """Return the worker's numbers and draws, or why there are none."""
    if program == "rstanarm":
        if shutil.which("Rscript") is None:
            return "not installed"
        target = folder / "rstanarm.csv"
        command = ["Rscript", str(HERE / "bayes_workers.R"), str(folder / "t.csv"), str(target)]
    else:
        python = BAMBI if program == "Bambi" else Path(sys.executable)
        if not python.exists():
            return "not installed; run make rivals"
        target = folder / f"{program}.npz"
        worker = str(HERE / "bayes_workers.py")
        command = [str(python), worker, program, str(folder / "t.parquet"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return f"failed: {lines[-1] if lines else 'no message'}"
    numbers = json.loads(done.stdout.splitlines()[-1])
    if program == "rstanarm":
        return numbers, read_stan(target)
    with np.load(target) as saved:
        return numbers, {name: saved[name] for name in saved.files}


def read_stan(path: Path) -> dict[str, np.ndarray]:
    """Return rstanarm's draws (chain, draw) under bhlm's names."""
    table = pd.read_csv(path)
    chains = table.pop("chain").nunique()
    intercept, x, v0, cov, v1, sigma = table.to_numpy().T.reshape(6, chains, -1)
    return {
        "Intercept": intercept,
        "x": x,
        "sd(Intercept|g)": np.sqrt(v0),
        "sd(x|g)": np.sqrt(v1),
        "corr(Intercept,x|g)": cov / np.sqrt(v0 * v1),
        "sd(Residual)": sigma,
    }


def smallest_ess(draws: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return the smallest bulk and the smallest tail ESS over the parameters."""
    stack = np.stack(list(draws.values()))
    axes = {"chain_axis": 1, "draw_axis": 2}
    bulk = array_stats.ess(stack, method="bulk", **axes)
    tail = array_stats.ess(stack, method="tail", prob=(0.05, 0.95), **axes)
    return float(np.min(bulk)), float(np.min(tail))


def compare_programs(folder: Path) -> None:
    table = load_hsb()
    table.to_parquet(folder / "t.parquet")
    table.to_csv(folder / "t.csv", index=False)
    head = ("program", "version", "first s", "second s", "bulk ESS", "tail ESS", "ESS/s", "bhlm x")
    print("{:20} {:9} {:>8} {:>9} {:>9} {:>9} {:>8} {:>8}".format(*head))
    ours = None
    means = {}
    for program in PROGRAMS:
        label = LABELS.get(program, program)
        result = run(program, folder)
        if isinstance(result, str):
            print(f"{label:20} {result[:100]}", flush=True)
            continue
        numbers, draws = result
        means[label] = {name: values.mean() for name, values in draws.items()}
        bulk, tail = smallest_ess(draws)
        second = numbers.get("second")
        rate = min(bulk, tail) / (second or numbers["first"])
        ours = ours or rate
        print(
            f"{label:20} {numbers['version']:9} {numbers['first']:8.2f} "
            f"{f'{second:9.2f}' if second else '':>9} {bulk:9.0f} {tail:9.0f} {rate:8.1f} "
            f"{ours / rate:8.1f}",
            flush=True,
        )
    print("\nposterior means, which differ by priors and Monte Carlo error")
    print(pd.DataFrame(means).T.round(3).to_string())


def compare_rows() -> None:
    print(f"\nbhlm, {GROUPS} groups: 4 chains of 1000 + 1000")
    print(f"{'rows':>10} {'moments s':>10} {'sample s':>9} {'bulk ESS':>9} {'R-hat':>7}")
    for rows in ROWS:
        table = simulate(rows, GROUPS)
        start = time.perf_counter()
        model = bhlm.Model("y ~ x + (x | g)", table)
        moments = time.perf_counter() - start
        del table
        start = time.perf_counter()
        post = model.sample(seed=1)
        seconds = time.perf_counter() - start
        verdict = post.diagnostics
        print(
            f"{rows:10d} {moments:10.2f} {seconds:9.1f} {verdict.min_ess_bulk:9.0f} "
            f"{verdict.max_rhat:7.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", action="store_true", help="add the table of 10,000 groups")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as name:
        compare_programs(Path(name))
    if arguments.groups:
        compare_rows()


if __name__ == "__main__":
    main()
