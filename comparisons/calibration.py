"""Simulation-based calibration of a random slope in 30 groups: prints the study and its verdict.

Parameters are drawn from the default priors, a response from the model over 30 groups of ten
rows, and its posterior is sampled; the ranks of the true values must be uniform. An interrupted
run goes on where it stopped if it is given a file.

    python comparisons/calibration.py                    # 1000 replicates, all processors
    python comparisons/calibration.py --replicates 200 --file replicates.jsonl
    python comparisons/calibration.py --method independent   # draws by importance resampling
"""

import argparse
import os
import platform
import resource
import sys
from importlib.metadata import version

import numpy as np
import pandas as pd

from bhlm.fits.model import Model
from bhlm.progress import show_progress
from bhlm.studies.calibration.run import calibrate

GROUPS, ROWS = 30, 10
SEED = 20_260_101


def simulate_design() -> pd.DataFrame:
    """Return the table whose covariate is the design, and whose response scales the priors."""
    rng = np.random.default_rng(SEED)
    group = np.repeat(np.arange(GROUPS), ROWS)
    x = rng.normal(size=GROUPS * ROWS)
    u = rng.normal(size=(GROUPS, 2)) * [1.0, 0.5]
    noise = rng.normal(scale=2.0, size=GROUPS * ROWS)
    return pd.DataFrame(
        {"school": group, "x": x, "y": 10.0 + x + u[group, 0] + u[group, 1] * x + noise}
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=None, help="processes; all processors")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", default=None, help="keeps finished replicates")
    parser.add_argument("--method", default="nuts", choices=["nuts", "independent"])
    options = parser.parse_args()
    model = Model("y ~ x + (x | school)", simulate_design())
    with show_progress("calibration") as progress:
        study = calibrate(
            model,
            seed=options.seed,
            replicates=options.replicates,
            processes=options.processes,
            file=options.file,
            progress=progress,
            method=options.method,
        )
    processes = options.processes or os.cpu_count()
    packages = ", ".join(f"{name} {version(name)}" for name in ("bhlm", "nutpie", "numba", "numpy"))
    print(study.summary())
    print()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(
        f"{study.seconds:.0f} seconds by {processes} processes on {os.cpu_count()} processors, "
        f"{seconds:.0f} seconds of processor time"
    )
    print(f"Python {platform.python_version()}, {packages}, {platform.machine()}")
    return 0 if study.ok else 1


if __name__ == "__main__":
    sys.exit(main())
