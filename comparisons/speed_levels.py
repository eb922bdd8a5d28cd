"""Seconds of REML fits of nested and crossed models: bhlm, lme4 and the packages of PyPI.

From a dataframe in memory (the million rows: from Parquet, which bhlm reads itself) to estimates
with standard errors, each program in a process of its own, the least of some runs after one that
warms up; beside it the log-likelihood that it stops at. egsingle, growth of pupils in schools
(mlmRev); InstEval with three crossed factors (lme4); 10^6 simulated rows of 10^5 units in 10^4
groups. The rivals live in environments of their own:

    python -m venv .venv-rivals && .venv-rivals/bin/pip install pandas pyarrow interlace-lme ...
    python comparisons/speed_levels.py [--programs bhlm lme4 ...] [--minutes 5]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from level_workers import MODELS

HERE = Path(__file__).parent
RIVALS = HERE.parent / ".venv-rivals" / "bin" / "python"
PROGRAMS = ("bhlm", "lme4", "mixedlm", "glmm", "lme-python", "interlace-lme")
RUNS = {"egsingle": 10, "insteval": 3, "million": 2}
TABLES = """
suppressMessages(library(lme4))
folder <- commandArgs(TRUE)[1]
data("egsingle", package = "mlmRev")
write.csv(egsingle, file.path(folder, "egsingle.csv"), row.names = FALSE)
write.csv(InstEval, file.path(folder, "insteval.csv"), row.names = FALSE)
"""
LME4 = """
suppressMessages(library(lme4))
args <- commandArgs(TRUE)
table <- read.csv(args[1])
for (name in intersect(c("s", "d", "dept"), names(table))) table[[name]] <- factor(table[[name]])
seconds <- system.time({
  fit <- lmer(as.formula(args[2]), table)
  invisible(summary(fit))
})[["elapsed"]]
cat(sprintf('{"seconds": %.6g, "loglik": %.12g}\\n', seconds, as.numeric(logLik(fit))))
"""


def simulate(path: Path) -> None:
    """Write 10^6 rows of 10^5 units in 10^4 groups, ten of each in the one above."""
    rng = np.random.default_rng(1)
    unit = np.repeat(np.arange(100_000), 10)
    group = unit // 10
    x = rng.normal(size=len(unit))
    y = 1.0 + 0.5 * x + rng.normal(size=10_000)[group] + rng.normal(size=100_000)[unit]
    table = pd.DataFrame({"g": group, "u": unit, "x": x, "y": y + rng.normal(size=len(unit))})
    table.to_parquet(path)


def run(program: str, path: Path, model: str, *, minutes: float) -> dict[str, Any] | str:
    """Return a program's numbers, or why there are none."""
    if program == "lme4":
        if path.suffix == ".parquet":
            return "not asked"
        script = path.with_name("fit.R")
        script.write_text(LME4, encoding="utf-8")
        command = ["Rscript", str(script), str(path), MODELS[model]]
    else:
        python = sys.executable if program == "bhlm" else str(RIVALS)
        if not Path(python).exists():
            return "not installed"
        worker = str(HERE / "level_workers.py")
        command = [python, worker, program, str(path), model, str(RUNS[model])]
    return ask(command, minutes=minutes)


def ask(command: Sequence[str], *, minutes: float) -> dict[str, Any] | str:
    """Return the numbers that a worker prints last, as JSON, or why there are none."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60.0 * minutes
        )
    except subprocess.TimeoutExpired:
        return f"over {minutes:g} minutes"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no word"]
        return lines[-1][:60]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Print a row for each model and program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--programs", nargs="*", default=PROGRAMS, choices=PROGRAMS)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the start")
    print(f"{'model':10}{'program':16}{'seconds':>10}{'log-likelihood':>20}")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "tables.R").write_text(TABLES, encoding="utf-8")
        subprocess.run(["Rscript", str(folder / "tables.R"), str(folder)], check=True)
        simulate(folder / "million.parquet")
        for model in options.models:
            path = folder / f"{model}.{'parquet' if model == 'million' else 'csv'}"
            for program in options.programs:
                found = run(program, path, model, minutes=options.minutes)
                if isinstance(found, str):
                    print(f"{model:10}{program:16}{found}", flush=True)
                else:
                    seconds, loglik = found["seconds"], found["loglik"]
                    print(f"{model:10}{program:16}{seconds:10.4f}{loglik:20.6f}", flush=True)


if __name__ == "__main__":
    main()
