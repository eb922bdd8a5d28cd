"""A simulation study of REML and Bayes: runs it, prints the table, and the seconds it took.

Few and many groups, weak and strong clustering, 2000 data sets; each fitted by REML with three
df methods and by Bayes under two sets of priors. An interrupted run goes on where it stopped if
it is given a file.

    python comparisons/study.py                                    # all processors
    python comparisons/study.py --study mine.toml --file mine.jsonl
    python comparisons/study.py --address tcp://10.0.0.1:8786      # on a Dask cluster
"""

import argparse
import os
import platform
import resource
import sys
from importlib.metadata import version
from pathlib import Path

from bhlm.progress import show_progress
from bhlm.studies.simulation.run import run_study

STUDY = Path(__file__).parent / "studies" / "small_groups.toml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default=STUDY, help="a study's TOML")
    parser.add_argument("--processes", type=int, default=None, help="processes; all processors")
    parser.add_argument("--address", default=None, help="of a Dask scheduler")
    parser.add_argument("--file", default=None, help="keeps finished replicates")
    options = parser.parse_args()
    with show_progress("simulation") as progress:
        found = run_study(
            options.study,
            file=options.file,
            processes=options.processes,
            address=options.address,
            progress=progress,
        )
    print(found.summary())
    print()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
    place = (
        f"the cluster at {options.address}"
        if options.address
        else f"{options.processes or os.cpu_count()} processes on {os.cpu_count()} processors"
    )
    print(
        f"{found.ran} of {found.study.total} data sets in {found.seconds:.0f} seconds by {place}, "
        f"{seconds:.0f} seconds of processor time here"
    )
    packages = ", ".join(f"{name} {version(name)}" for name in ("bhlm", "nutpie", "numba", "numpy"))
    print(f"Python {platform.python_version()}, {packages}, {platform.machine()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
