"""A Parquet file larger than memory is fitted within DuckDB's memory limit.

    .venv/bin/python comparisons/out_of_core.py [--rows 70000000] [--groups 100000]
        [--memory-limit 500MB] [--folder /tmp]

DuckDB writes the file: random doubles, which do not compress, so 70 million rows of four of them
and a group are 2.4 GB. A new process then fits it, and reports its time and its peak memory. The
values that the rows were drawn from are known, and every estimate must lie within five standard
errors of its own; otherwise, or if the file is smaller than 2 GB, the exit status is 1.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from bhlm.fits.model import Model
from bhlm.sources.open import open_table

FORMULA = "y ~ cwc(x) + z + (cwc(x) | g)"
LARGE = 2_000_000_000  # bytes that the file must exceed
# Per fixed effect and variance: what the rows are drawn from.
TRUTH = {
    "Intercept": 10.0,
    "cwc(x)": 0.5,
    "z": -0.3,
    "var(Intercept|g)": 0.25,
    "var(cwc(x)|g)": 0.04,
    "var(Residual)": 4.0,
}
# Normal draws by Box and Muller, from uniform ones on (0, 1].
NORMAL = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())"
# A group's effects are the uniform distribution of variance 1, by a hash of its number.
UNIFORM = "sqrt(12) * ((hash(g * 2 + {}) % 1000003) / 1000003.0 - 0.5)"


def write_file(path: Path, *, rows: int, groups: int) -> None:
    effects = [UNIFORM.format(i) for i in range(2)]
    with duckdb.connect(config={"memory_limit": "2GB"}) as connection:
        connection.execute("set preserve_insertion_order = false; select setseed(0.5)")
        connection.execute(
            f"""
            copy (
                select
                    g, x, z, spare,
                    10 + 0.5 * x - 0.3 * z + 0.5 * {effects[0]} + 0.2 * x * {effects[1]}
                    + 2 * {NORMAL} as y
                from (
                    select
                        (hash(i) % {groups})::integer as g,
                        {NORMAL} as x, random() as z, random() as spare
                    from range({rows}) t(i)
                )
            ) to '{path}' (format parquet)
            """
        )


def fit_file(path: Path, memory_limit: str) -> dict[str, object]:
    start = time.perf_counter()
    model = Model(FORMULA, open_table(path, memory_limit=memory_limit))
    reduced = time.perf_counter()
    fit = model.reml()
    done = time.perf_counter()
    estimates = fit.estimates
    return {
        "rows": model.moments.n_rows,
        "groups": model.moments.n_groups,
        "seconds for moments": round(reduced - start, 2),
        "seconds for REML": round(done - reduced, 2),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "converged": bool(fit.converged),
        "estimates": {
            name: [float(estimates.loc[name, "estimate"]), float(estimates.loc[name, "se"])]
            for name in TRUTH
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=70_000_000)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--memory-limit", default="500MB")
    parser.add_argument("--folder", default=None)
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit is not None:
        print(json.dumps(fit_file(given.fit, given.memory_limit)))
        return 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "large.parquet"
        start = time.perf_counter()
        write_file(path, rows=given.rows, groups=given.groups)
        size = path.stat().st_size
        print(f"{size / 1e9:.2f} GB written in {time.perf_counter() - start:.0f} s", flush=True)
        command = [sys.executable, __file__, "--memory-limit", given.memory_limit, "--fit", path]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(output)
    estimates = found.pop("estimates")
    for name, value in {"memory limit": given.memory_limit, **found}.items():
        print(f"{name:<20} {value}")
    ok = size > LARGE and found["converged"]
    for name, truth in TRUTH.items():
        estimate, se = estimates[name]
        away = abs(estimate - truth) / se
        ok = ok and away < 5
        print(f"{name:<20} {estimate:.5f}  se {se:.5f}  drawn from {truth}  {away:.1f} se away")
    print("ok" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
