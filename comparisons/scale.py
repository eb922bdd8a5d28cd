"""Seconds and peak memory from a Parquet file to moments, REML and posterior, by rows and groups.

    .venv/bin/python comparisons/scale.py                        # some 6 minutes
    .venv/bin/python comparisons/scale.py --rows 1000000 10000000 100000000   # 10^8 too: 2 GB
    .venv/bin/python comparisons/scale.py --posterior 1000000    # sample with 10^6 groups too
    .venv/bin/python comparisons/scale.py --rivals none

The model is y ~ x + (x | g); rows of a group are scattered over the file. Every line is a process
of its own that has imported its packages and fitted a small table before the clock starts
(`start s`). It reads the file and reduces it (`read s`; a rival only reads), fits by REML
(`REML s`), and draws 4 x (1000 + 1000) from the posterior; `MB` is the most memory that the
process had held by then, packages included. REML is run in three processes, of which the median
stands here. lme4 sits out more than 10^6 rows, which take it an hour.

At the end stand the costs per row and per group, what was asked of this package, and what the
costs come to for 10^9 rows and 10^7 groups.
"""

import argparse
import csv
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).parent
RIVALS = HERE.parent / ".venv-rivals" / "bin" / "python"
FORMULA = "y ~ x + (x | g)"
ROWS = (100_000, 1_000_000, 10_000_000)
GROUPS = (1_000, 10_000, 100_000, 1_000_000)
FEWEST = 10  # rows per group, on average, below which a size is left out
PER_GROUP = 100  # rows per group of the sizes that rivals are asked for
LIMITS = {"lme4": 1_000_000, "mixedlm-rs": 10_000_000}  # rows
REPEATS = 3
CHUNK = 1 << 20  # rows that are made, and stored as a row group, at a time
# What was asked: seconds and megabytes of REML, seconds of the posterior, growth of time per row.
ASKED = {"rows": 10_000_000, "groups": 100_000}
SECONDS, MEGABYTES, SAMPLED, GROWTH = 2.5, 1000.0, 180.0, 1.3
FAR = {"rows": 1_000_000_000, "groups": 10_000_000}
DRIVER = 1e9  # bytes of results that Spark lets its driver collect unless told otherwise
CORES = 100  # of the cluster that is reckoned with

COLUMNS = {
    "program": "<10", "rows": ">10", "groups": ">8", "start": ">8.2f", "read": ">7.2f",
    "read_mb": ">7.0f", "reml": ">8.2f", "reml_cpu": ">8.2f", "reml_mb": ">7.0f",
    "posterior": ">8.1f", "posterior_mb": ">7.0f", "ess": ">6.0f", "rhat": ">7.4f",
    "loglik": ">16.3f",
}  # fmt: skip
HEADS = {
    "start": "start s", "read": "read s", "read_mb": "MB", "reml": "REML s", "reml_cpu": "CPU s",
    "reml_mb": "MB", "posterior": "sample s", "posterior_mb": "MB", "rhat": "R-hat",
    "loglik": "log-likelihood",
}  # fmt: skip

LME4 = """
suppressMessages(library(lme4))
arguments <- commandArgs(trailingOnly = TRUE)
clock <- function() proc.time()[["elapsed"]]
begin <- clock()
small <- data.frame(g = factor(rep(1:50, 40)), x = rnorm(2000), y = rnorm(2000))
invisible(suppressMessages(lmer(y ~ x + (x | g), small)))
start <- clock() - begin
begin <- clock()
table <- read.csv(arguments[1], colClasses = c("integer", "numeric", "numeric"))
table$g <- factor(table$g)
read <- clock() - begin
used <- proc.time()
fit <- lmer(y ~ x + (x | g), table, REML = TRUE)
rows <- coef(summary(fit))
spent <- proc.time() - used
cat(jsonlite::toJSON(list(
  start = start, read = read, reml = spent[["elapsed"]],
  reml_cpu = spent[["user.self"]] + spent[["sys.self"]], loglik = as.numeric(logLik(fit)),
  version = as.character(packageVersion("lme4"))
), auto_unbox = TRUE, digits = 17))
"""


# ---------------------------------------------------------------- what runs in other processes


def make_file(path: Path, *, rows: int, groups: int) -> None:
    """Write a table with random intercepts and slopes, from a seed, a chunk at a time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    rng = np.random.default_rng([rows, groups])
    u = rng.normal(size=(groups, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    schema = pa.schema({"g": pa.int64(), "x": pa.float64(), "y": pa.float64()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, CHUNK):
            n = min(CHUNK, rows - start)
            g = rng.integers(0, groups, n)
            x = rng.normal(size=n)
            y = 1.0 + 0.5 * x + u[g, 0] + u[g, 1] * x + rng.normal(scale=2.0, size=n)
            writer.write_table(pa.table({"g": g, "x": x, "y": y}, schema=schema))
    if rows <= LIMITS["lme4"] and rows == PER_GROUP * groups:
        pyarrow.csv.write_csv(pq.read_table(path), path.with_suffix(".csv"))


def spent_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_bhlm(path: Path, *, sample: bool) -> dict[str, Any]:
    begin = time.perf_counter()
    import bhlm
    from bhlm.fits.model import Model
    from bhlm.sources.open import scan_table

    small = path.with_name("small.parquet")
    first = Model(FORMULA, scan_table(small)).reml()
    if sample:
        Model(FORMULA, scan_table(small)).sample(seed=1, draws=10, tune=10)
    found: dict[str, Any] = {"version": bhlm.__version__, "converged": bool(first.converged)}
    found["start"] = time.perf_counter() - begin
    begin, used = time.perf_counter(), spent_cpu()
    model = Model(FORMULA, scan_table(path))
    found |= {"read": time.perf_counter() - begin, "read_mb": peak_mb()}
    begin = time.perf_counter()
    fit = model.reml()
    table = fit.estimates
    found |= {
        "reml": time.perf_counter() - begin, "reml_cpu": spent_cpu() - used, "reml_mb": peak_mb(),
        "loglik": fit.loglik, "converged": bool(fit.converged and table.notna().any(axis=None)),
    }  # fmt: skip
    if sample:
        begin = time.perf_counter()
        verdict = model.sample(seed=1).diagnostics
        found |= {
            "posterior": time.perf_counter() - begin, "posterior_mb": peak_mb(),
            "ess": min(verdict.min_ess_bulk, verdict.min_ess_tail), "rhat": verdict.max_rhat,
        }  # fmt: skip
    return found


def measure_mixedlm(path: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    from importlib.metadata import version

    import mixedlm_rs
    import pandas as pd

    small = pd.read_parquet(path.with_name("small.parquet"))
    mixedlm_rs.mixedlm("y ~ x", small, groups="g", re_formula="~x").fit(reml=True)
    found: dict[str, Any] = {"version": version("mixedlm-rs")}
    found["start"] = time.perf_counter() - begin
    begin, used = time.perf_counter(), spent_cpu()
    table = pd.read_parquet(path)
    found |= {"read": time.perf_counter() - begin, "read_mb": peak_mb()}
    begin = time.perf_counter()
    fit = mixedlm_rs.mixedlm("y ~ x", table, groups="g", re_formula="~x").fit(reml=True)
    list(fit.bse_fe)
    return found | {
        "reml": time.perf_counter() - begin, "reml_cpu": spent_cpu() - used, "reml_mb": peak_mb(),
        "loglik": float(fit.llf),
    }  # fmt: skip


# ---------------------------------------------------------------- the table


def run(command: Sequence[str | Path]) -> dict[str, Any]:
    """Return what a process printed as JSON and the most memory it held, or why it failed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err)
        # This process is small, so that what its child inherits of it does not count.
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if child.returncode:
            text = " ".join(err.read().split())
            return {"note": "failed: " + text[max(text.rfind("Error"), 0) :][:90]}
        lines = out.read().strip().splitlines()
    return (json.loads(lines[-1]) if lines else {}) | {"peak": usage.ru_maxrss / 1024}


def measure(program: str, path: Path, *, sample: bool) -> dict[str, Any]:
    """Return the medians over processes of one program on one file."""
    if program == "bhlm":
        commands = [[sys.executable, __file__, "--measure", program, path] for _ in range(REPEATS)]
    elif program == "mixedlm-rs":
        if not RIVALS.exists():
            return {"note": "not installed; run make rivals"}
        commands = [[RIVALS, __file__, "--measure", program, path] for _ in range(REPEATS)]
    else:
        if shutil.which("Rscript") is None:
            return {"note": "not installed"}
        commands = [["Rscript", "-e", LME4, path.with_suffix(".csv")]]
    found = [run(command) for command in commands]
    for one in found:
        if "note" in one:
            return one
    joined = dict(found[-1])
    if sample and program == "bhlm":
        # In a process of its own, since the sampler's packages take memory.
        drawn = run([*commands[0], "--sample"])
        if "note" in drawn:
            return drawn
        names = ("posterior", "posterior_mb", "ess", "rhat")
        joined |= {name: drawn[name] for name in names}
    for name in ("start", "read", "reml", "reml_cpu"):
        joined[name] = statistics.median(one[name] for one in found)
    for name in ("read_mb", "reml_mb"):
        if name in joined:
            joined[name] = max(one[name] for one in found)
    joined.setdefault("reml_mb", joined["peak"])
    return joined


def show(row: dict[str, Any]) -> str:
    """Return one line of the table."""
    cells = []
    for name, form in COLUMNS.items():
        value = row.get(name)
        width = form.split(".")[0]
        cells.append(f"{'':{width.rstrip('f')}}" if value is None else f"{value:{form}}")
    return "  ".join(cells).rstrip() + (f"  {row['note']}" if "note" in row else "")


def find(rows: list[dict[str, Any]], n: int, groups: int, name: str) -> float | None:
    """Return one of our own measurements, if it was taken."""
    for row in rows:
        if (row["program"], row["rows"], row["groups"]) == ("bhlm", n, groups):
            return row.get(name)
    return None


def judge(rows: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """Return lines that hold what was measured against what was asked, and whether all is met."""
    n, groups = ASKED["rows"], ASKED["groups"]
    per_row = []
    for size, of in ((n, groups), (n // 10, groups // 10)):
        parts = [find(rows, size, of, name) for name in ("read", "reml")]
        per_row.append(None if None in parts else sum(map(float, filter(None, parts))) / size)
    here, before = per_row
    questions = [
        ("seconds from the file to REML", None if here is None else here * n, SECONDS),
        ("megabytes until then", find(rows, n, groups, "reml_mb"), MEGABYTES),
        ("seconds of the posterior", find(rows, n, groups, "posterior"), SAMPLED),
        (f"seconds per row over those at {n // 10:,} x {groups // 10:,}",
         None if here is None or before is None else here / before, GROWTH),
    ]  # fmt: skip
    lines = [f"asked at {n:,} rows x {groups:,} groups"]
    met = True
    for name, value, limit in questions:
        if value is not None:
            met = met and value <= limit
            verdict = "met" if value <= limit else "MISSED"
            lines.append(f"  {name:<48} {value:>8.2f}  at most {limit:g}: {verdict}")
    return lines, met


def count_bytes(k: int) -> tuple[int, int]:
    """Return the bytes per group of k columns that a GROUP BY sends, and those of moments.

    Sent are the label, n, means, what deviations do not sum to zero, and products below and on
    the diagonal; kept are the label, n, means and cross-products, all of 8 bytes.
    """
    return 8 * (2 + 2 * k + k * (k + 1) // 2), 8 * (2 + k + k * k)


def reckon(rows: list[dict[str, Any]]) -> list[str]:
    """Return lines with the cost per row and group, and what it comes to far beyond the table."""
    ours = [row for row in rows if row["program"] == "bhlm" and "note" not in row]

    def slope(name: str, along: str, across: str) -> float | None:
        """Return the cost of one more row or group, between the two largest sizes of a line."""
        best = None
        for one in ours:
            for other in ours:
                if one[across] == other[across] and one[along] < other[along]:
                    if None in (one.get(name), other.get(name)):
                        continue
                    step = (other[name] - one[name]) / (other[along] - one[along])
                    size = (other[along], one[along])
                    best = max(best or (size, step), (size, step))
        return None if best is None else best[1]

    costs = {
        "read": slope("read", "rows", "groups"),
        "reml": slope("reml", "groups", "rows"),
        "posterior": slope("posterior", "groups", "rows"),
        "reml_mb": slope("reml_mb", "groups", "rows"),
    }
    if costs["read"] is None or costs["reml"] is None or costs["reml_mb"] is None:
        return ["costs per row and group need two sizes of rows and two of groups"]
    n, groups = FAR["rows"], FAR["groups"]
    sent, kept = count_bytes(2)  # of x and y
    reading, fitting = costs["read"] * n, costs["reml"] * groups
    lines = [
        "cost",
        f"  {1e9 * costs['read']:8.1f} ns per row        from Parquet to moments",
        f"  {1e6 * costs['reml']:8.2f} us per group      REML",
    ]
    if costs["posterior"] is not None:
        lines.append(f"  {1e3 * costs['posterior']:8.3f} ms per group      posterior, 4 x 1000")
    lines += [
        f"  {1e6 * costs['reml_mb']:8.0f} bytes per group   of memory, until REML",
        f"  {kept:8d} bytes per group   of moments, 2 columns",
        f"  {sent:8d} bytes per group   that a GROUP BY elsewhere sends for them",
        *(
            f"  {DRIVER / count_bytes(k)[0]:8.1e} groups           that send {DRIVER / 1e9:g} GB, "
            f"{k} columns"
            for k in (2, 5, 10)
        ),
        "",
        f"EXTRAPOLATED to {n:,} rows x {groups:,} groups, not measured: the costs above, times",
        f"  {reading:8.0f} s     to read the rows, one machine like this",
        f"  {2 * reading / CORES:8.1f} s     to read the rows, {CORES} cores at half its pace each",
        f"  {sent * groups / 1e9:8.2f} GB    that come to the driver",
        f"  {kept * groups / 1e9:8.2f} GB    of moments",
        f"  {costs['reml_mb'] * groups / 1e3:8.1f} GB    of memory until REML, on the driver",
        f"  {fitting:8.0f} s     REML, one machine like this",
    ]
    if costs["posterior"] is not None:
        hours = costs["posterior"] * groups / 3600
        lines.append(f"  {hours:8.2f} h     posterior, one machine like this")
    return lines


def describe_machine() -> list[str]:
    """Return lines about the machine and what runs on it."""
    from importlib.metadata import version

    model = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(": ")[1] for line in lines if "model name" in line), model)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    names = ("bhlm", "numpy", "numba", "scipy", "pyarrow", "narwhals", "nutpie")
    return [
        f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, load {os.getloadavg()[0]:.1f} before",
        f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in names),
    ]


def compare(options: argparse.Namespace, folder: Path, out: TextIO) -> list[dict[str, Any]]:
    """Print the table, a line as soon as it is there, and return its rows."""

    def tell(text: str) -> None:
        print(text, flush=True)
        print(text, file=out, flush=True)

    for line in [FORMULA, *describe_machine(), ""]:
        tell(line)
    heads = (f"{HEADS.get(name, name):{form.split('.')[0]}}" for name, form in COLUMNS.items())
    tell("  ".join(heads))
    make = [sys.executable, __file__, "--make"]
    run([*make, folder / "small.parquet", "2000", "50"])
    rows: list[dict[str, Any]] = []
    for n in options.rows:
        for groups in options.groups:
            if n < FEWEST * groups:
                continue
            path = folder / f"t{n}_{groups}.parquet"
            made = run([*make, path, str(n), str(groups)])
            if "note" in made:
                raise SystemExit(f"no file of {n} rows: {made['note']}")
            programs = ["bhlm"]
            if options.rivals == "all" or (options.rivals == "some" and n == PER_GROUP * groups):
                programs += [name for name, limit in LIMITS.items() if n <= limit]
            for program in programs:
                row = {"program": program, "rows": n, "groups": groups}
                row |= measure(program, path, sample=groups <= options.posterior)
                rows.append(row)
                tell(show(row))
            path.unlink()
            path.with_suffix(".csv").unlink(missing_ok=True)
    versions = {row["program"]: row["version"] for row in rows if "version" in row}
    lines, met = judge(rows)
    options.met = met
    for line in [
        "", "versions: " + ", ".join(f"{name} {text}" for name, text in versions.items()), "",
        *lines, "", *reckon(rows),
    ]:  # fmt: skip
        tell(line)
    return rows


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    names = [*COLUMNS, "version", "note"]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS))
    parser.add_argument(
        "--posterior", type=int, default=100_000, help="sample up to so many groups; 0 for none"
    )
    parser.add_argument("--rivals", choices=["none", "some", "all"], default="some")
    parser.add_argument("--folder", help="where the files go for a while")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "scale")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--sample", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        path, n, groups = options.make
        make_file(Path(path), rows=int(n), groups=int(groups))
        return 0
    if options.measure:
        program, path = options.measure[0], Path(options.measure[1])
        found = (
            measure_bhlm(path, sample=options.sample)
            if program == "bhlm"
            else measure_mixedlm(path)
        )
        print(json.dumps(found))
        return 0
    text = options.output.with_suffix(".txt")
    # The last table stays until this one is whole.
    draft = text.with_suffix(".part")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, draft.open("w") as out:
        rows = compare(options, Path(folder), out)
    draft.replace(text)
    write_csv(rows, options.output.with_suffix(".csv"))
    return 0 if options.met else 1


if __name__ == "__main__":
    sys.exit(main())
