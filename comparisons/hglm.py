"""Each program's distance from the exact maximum of logistic models, with seconds beside it.

Contraception, toenail and cbpp, from a dataframe to estimates with standard errors, each program in
a process of its own, warm. The exact log-likelihoods and estimates are those of
tests/reference/glmm.toml, by dense quadrature. A program that prints an approximation to the
likelihood is shown at its own number: it may lie above the exact maximum.

Verb_agg and grouseticks have crossed factors, whose likelihood nobody integrates: distances are
from the maximum of Laplace's approximation that tests/reference/families has of lme4, and the SD is
that of the factor with the most levels.

    python comparisons/hglm.py                             # bhlm, lme4 and glmmTMB
    python comparisons/hglm.py --python .venv-hglm/bin/python   # and the others
    python comparisons/hglm.py --programs bhlm glmm        # some programs

glmmTMB has Laplace's approximation alone.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bhlm

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "tests" / "reference" / "glmm.toml"
FAMILIES = HERE.parent / "tests" / "reference" / "families"
DATA = ("contraception", "toenail", "cbpp", "verb_agg", "grouseticks")
CROSSED = {"verb_agg": ("verbs", "verb_agg.csv.gz"), "grouseticks": ("ticks", "grouseticks.csv")}
# program and nodes: 0 takes as many as are needed, 1 is Laplace's approximation.
RUNS = (
    *(("bhlm", 0), ("bhlm", 1), ("bhlm", 15)),
    *(("lme4", 1), ("lme4", 7), ("lme4", 15), ("lme4", 25), ("lme4", 50)),
    *(("glmm", 1), ("glmm", 15), ("glmm", 25)),
    *(("mixedlm", 1), ("mixedlm", 15), ("interlace", 1), ("interlace", 15)),
    *(("glmmTMB", 1), ("statsmodels", 0)),
)
APPROXIMATE = (("bhlm", 1), ("lme4", 1), ("glmmTMB", 1))  # where factors are crossed


def load_table(name: str) -> pd.DataFrame:
    """Return the rows of a data set."""
    return pd.read_csv(FAMILIES / CROSSED[name][1]) if name in CROSSED else bhlm.load_dataset(name)


def load_exact(name: str, table: pd.DataFrame) -> tuple[float, float]:
    """Return the exact log-likelihood and intercept, of crossed factors those by Laplace."""
    if name in CROSSED:
        text = (FAMILIES / "laplace_lme4.json").read_text(encoding="utf-8")
        laplace = json.loads(text)[CROSSED[name][0]]
        return laplace["loglik"], laplace["beta"][0]
    found = tomllib.loads(REFERENCE.read_text(encoding="utf-8"))["computed"]
    if name != "cbpp":
        return found[name]["loglik"], found[name]["Intercept"]
    from scipy.special import gammaln

    n, y = table["size"], table["incidence"]
    constant = float((gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)).sum())
    return found["cbpp_exact"]["bernoulli_loglik"] + constant, found["cbpp_exact"]["Intercept"]


def run(
    program: str, nodes: int, name: str, path: Path, *, python: str | None, runs: int
) -> dict[str, Any] | str:
    """Return the worker's numbers, or why there are none."""
    given = [name, str(path), str(nodes), str(runs)]
    if program in ("lme4", "glmmTMB"):
        if shutil.which("Rscript") is None:
            return "not installed"
        command = ["Rscript", str(HERE / "hglm_workers.R"), program, *given]
    else:
        chosen = sys.executable if program == "bhlm" else python
        if chosen is None:
            return "not asked: give --python"
        command = [chosen, str(HERE / "hglm_workers.py"), program, *given]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no message"]
        return f"failed: {lines[-1][:90]}"
    return json.loads(result.stdout.strip().splitlines()[-1])


def compare(
    names: list[str], *, python: str | None, runs: int, programs: list[str] | None = None
) -> pd.DataFrame:
    """Return one row per data set and way of fitting, of all programs or of some."""
    rows = []
    for name in names:
        table = load_table(name)
        loglik, intercept = load_exact(name, table)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            table.to_csv(path, index=False)
            for program, nodes in APPROXIMATE if name in CROSSED else RUNS:
                if programs is not None and program not in programs:
                    continue
                row: dict[str, Any] = {"data": name, "program": program, "nodes": nodes}
                found = run(program, nodes, name, path, python=python, runs=runs)
                if isinstance(found, str):
                    row["note"] = found
                else:
                    own = found["loglik"]
                    row |= {
                        "version": found["version"],
                        "seconds": float(np.median(found["seconds"])),
                        "loglik_off": float("nan") if own is None else own - loglik,
                        "intercept_off": found["beta"][0] - intercept,
                        "sd": found["sd"],
                    }
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def render(table: pd.DataFrame) -> str:
    """Return the table as text."""
    lines = [
        f"{'data':<14} {'program':<12} {'version':<9} {'nodes':>8} {'seconds':>9} "
        f"{'log-likelihood off':>19} {'intercept off':>14} {'SD':>8}"
    ]
    for _, row in table.iterrows():
        way = {0: "enough", 1: "Laplace"}.get(row["nodes"], str(row["nodes"]))
        way = "VB" if row["program"] == "statsmodels" else way
        head = f"{row['data']:<14} {row['program']:<12} "
        if pd.isna(row.get("seconds")):
            lines.append(f"{head}{'':<9} {way:>8} {row['note']}")
            continue
        lines.append(
            f"{head}{row['version']:<9} {way:>8} {row['seconds']:>9.4f} "
            f"{row['loglik_off']:>+19.2e} {row['intercept_off']:>+14.2e} {row['sd']:>8.4f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", help="of an environment with the others")
    parser.add_argument("--data", nargs="*", default=list(DATA))
    parser.add_argument("--programs", nargs="*", help="of all that are known")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    found = compare(
        options.data, python=options.python, runs=options.runs, programs=options.programs
    )
    print(render(found))


if __name__ == "__main__":
    main()
