"""Seconds and peak memory of a REML fit: bhlm, lme4, nlme, and six packages of PyPI.

Each program fits y ~ x + (x | g), from a dataframe in memory and a formula to estimates with
standard errors, in a process of its own; `fit MB` is what the process grows by during the fit
over its size with packages and table loaded: High School and Beyond (mathach on group-centred ses)
first, then simulated tables. Programs that would take minutes sit out the larger sizes, which
the table says.

    python comparisons/speed_reml.py            # up to 1 million rows
    python comparisons/speed_reml.py --large    # and 10 million
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bhlm

HERE = Path(__file__).parent
RIVALS = HERE.parent / ".venv-rivals" / "bin" / "python"
# rows, groups, counted runs
RUNS = 201  # of what takes milliseconds
SIZES = {"1e5 rows": (100_000, 1_000, 5), "1e6 rows": (1_000_000, 10_000, 3)}
LARGE = {"1e7 rows": (10_000_000, 100_000, 3)}
# Beyond these rows a program takes minutes, and is not asked.
LIMITS = {"statsmodels": 100_000, "kamino-lme": 100_000, "nlme": 1_000_000, "lme4": 1_000_000}
PROGRAMS = (
    *("bhlm", "glmm", "lme-python", "mixedlm-rs", "mixedlm", "kamino-lme"),
    *("lme4", "nlme", "statsmodels"),
)


def simulate(rows: int, groups: int) -> pd.DataFrame:
    """Return a table with random intercepts and slopes; rows of a group are scattered."""
    rng = np.random.default_rng(rows)
    g = rng.integers(0, groups, rows)
    x = rng.normal(size=rows)
    u = rng.normal(size=(groups, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    y = 1.0 + 0.5 * x + u[g, 0] + u[g, 1] * x + rng.normal(scale=2.0, size=rows)
    return pd.DataFrame({"g": g, "x": x, "y": y})


def load_hsb() -> pd.DataFrame:
    """Return the data of Table 4.4 under the names of the workers' model."""
    hsb = bhlm.load_hsb()
    x = bhlm.center_within(hsb, "ses", group="school")
    return pd.DataFrame({"g": hsb["school"], "x": x, "y": hsb["mathach"]})


def run(program: str, folder: Path, runs: int, *, frame: str | None = None) -> dict[str, Any] | str:
    """Return the worker's numbers, or why there are none.

    With a `frame`, "pandas" or "polars", also Satterthwaite's degrees of freedom from one.
    """
    if program in ("lme4", "nlme"):
        if shutil.which("Rscript") is None:
            return "not installed"
        command = [
            "Rscript",
            str(HERE / "workers.R"),
            program,
            str(folder / "table.csv"),
            str(runs),
        ]
    else:
        python = sys.executable if program == "bhlm" else str(RIVALS)
        if not Path(python).exists():
            return "not installed"
        command = [
            python, str(HERE / "workers.py"), program, str(folder / "table.parquet"), str(runs),
        ]  # fmt: skip
        command += [frame] if frame else []
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        text = " ".join(result.stderr.split())
        return "failed: " + text[max(text.rfind("Error"), 0) :][:90]
    return json.loads(result.stdout.strip().splitlines()[-1])


def compare(name: str, table: pd.DataFrame, runs: int) -> list[dict[str, Any]]:
    """Return one row per program."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        table.to_parquet(Path(folder) / "table.parquet")
        if len(table) <= LIMITS["lme4"]:
            table.to_csv(Path(folder) / "table.csv", index=False)
        for program in PROGRAMS:
            row: dict[str, Any] = {"data": name, "rows": len(table), "program": program}
            if len(table) > LIMITS.get(program, len(table)):
                row["note"] = "not asked: minutes"
            else:
                slow = program in LIMITS and len(table) >= 1_000_000
                found = run(program, Path(folder), 1 if slow else runs)
                if isinstance(found, str):
                    row["note"] = found
                else:
                    row |= {
                        "version": found["version"],
                        "seconds": float(np.median(found["seconds"])),
                        "peak_mb": found["peak_mb"],
                        "fit_mb": found["peak_mb"] - found["before_mb"],
                        "loglik": found["loglik"],
                        "slope": found["beta"][1],
                        "slope_se": found["se"][1],
                    }
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    return rows


def compare_tests(table: pd.DataFrame, runs: int) -> str:
    """Return what estimates with Satterthwaite's degrees of freedom take from two kinds of frame.

    The programs take turns, and each has the median of its runs' medians.
    """
    lines = [f"{'frame':<9} {'program':<12} {'seconds':>9} {'df':>20}"]
    with tempfile.TemporaryDirectory() as folder:
        table.to_parquet(Path(folder) / "table.parquet")
        for frame in ("pandas", "polars"):
            medians: dict[str, list[float]] = {"bhlm": [], "glmm": []}
            told = dict.fromkeys(medians, "")
            for _ in range(3):
                for program in medians:
                    found = run(program, Path(folder), runs, frame=frame)
                    if isinstance(found, str):
                        told[program] = found
                        continue
                    medians[program].append(float(np.median(found["seconds"])))
                    told[program] = ", ".join(f"{each:.4f}" for each in found["df"])
            for program, seconds in medians.items():
                shown = f"{np.median(seconds):>9.5f}" if seconds else f"{'':>9}"
                lines.append(f"{frame:<9} {program:<12} {shown} {told[program]:>20}")
    return "\n".join(lines)


def render(table: pd.DataFrame) -> str:
    """Return the table with each program's time and memory relative to bhlm."""
    lines = [
        f"{'data':<9} {'program':<12} {'version':<8} {'seconds':>9} {'x bhlm':>7} {'fit MB':>8} "
        f"{'x bhlm':>7} {'peak MB':>8} {'log-likelihood':>17} {'below bhlm':>11}"
    ]
    for _, group in table.groupby("data", sort=False):
        ours = group.iloc[0]
        for _, row in group.iterrows():
            head = f"{row['data']:<9} {row['program']:<12} "
            if pd.isna(row["seconds"]):
                lines.append(head + str(row["note"]))
                continue
            lines.append(
                head + f"{row['version']:<8} {row['seconds']:>9.4f} "
                f"{row['seconds'] / ours['seconds']:>7.1f} {row['fit_mb']:>8.1f} "
                f"{row['fit_mb'] / max(ours['fit_mb'], 0.1):>7.1f} {row['peak_mb']:>8.0f} "
                f"{row['loglik']:>17.6f} {ours['loglik'] - row['loglik']:>11.6f}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="also 10 million rows")
    parser.add_argument("--csv", type=Path, help="write the table here")
    options = parser.parse_args()
    rows = compare("HSB", load_hsb(), RUNS)
    for name, (n, groups, runs) in (SIZES | (LARGE if options.large else {})).items():
        rows += compare(name, simulate(n, groups), runs)
    table = pd.DataFrame(rows)
    table["machine"] = (
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}"
    )
    print(render(table))
    print("\nHSB, to estimates with Satterthwaite's degrees of freedom:")
    print(compare_tests(load_hsb(), 101))
    if options.csv:
        table.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
