"""Seconds that a person waits for whole commands: here, and in another checkout beside it.

    python comparisons/speed_commands.py                      # this checkout
    python comparisons/speed_commands.py --before ../earlier  # and another one, in turns

Every line is the median of whole processes of the command line on High School and Beyond, from
start to exit. `first` are runs with an empty cache of compiled code, less those with a warm one;
`page` is what `--dashboard` adds to `bhlm reconcile`. Both checkouts run in this environment, to
which PYTHONPATH may add what an earlier one needs.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from checkouts import add_before, build_environment, describe_machine, list_checkouts

MODEL = "hsb_random_coefficient"
COMMANDS = {
    "import bhlm": None,
    "bhlm reml": ["reml", MODEL],
    "bhlm reconcile": ["reconcile", MODEL],
    "bhlm reconcile --dashboard": ["reconcile", MODEL, "--dashboard"],
}


def list_command(checkout: Path, name: str, *, page: Path) -> list[str]:
    """Return the command of a line, by the entry point that the checkout's package states."""
    arguments = COMMANDS[name]
    if arguments is None:
        return [sys.executable, "-c", "import bhlm"]
    if arguments[-1] == "--dashboard":
        arguments = [*arguments, str(page)]
    stated = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]["bhlm"]
    module, function = stated.split(":")
    start = (
        f"import sys; sys.argv[0] = 'bhlm'; from {module} import {function}; sys.exit({function}())"
    )
    return [sys.executable, "-c", start, *arguments]


def measure(checkout: Path, name: str, *, cache: Path) -> float:
    """Return the seconds of a whole process, which may use and write a cache of compiled code."""
    environment = build_environment(checkout, NUMBA_CACHE_DIR=str(cache))
    with tempfile.TemporaryDirectory() as folder:
        command = list_command(checkout, name, page=Path(folder) / "page.html")
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - start
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise SystemExit(f"'{name}' of {checkout} failed: {lines[-1]}")
    return seconds


def compare(checkouts: dict[str, Path], *, runs: int, firsts: int) -> None:
    """Print a line for every command, with a column for every checkout."""
    with tempfile.TemporaryDirectory() as root:
        first: dict[str, list[float]] = {label: [] for label in checkouts}
        for turn in range(firsts):
            for label, checkout in checkouts.items():
                cache = Path(root) / f"{label}{turn}"
                first[label].append(measure(checkout, "bhlm reml", cache=cache))
        caches = {label: Path(root) / f"{label}0" for label in checkouts}
        print(f"{'seconds':30}" + "".join(f"{label:>10}" for label in checkouts))
        found: dict[str, dict[str, float]] = {}
        for name in COMMANDS:
            for label, checkout in checkouts.items():  # what it compiles, and the disk's cache
                measure(checkout, name, cache=caches[label])
            turns: dict[str, list[float]] = {label: [] for label in checkouts}
            for _ in range(runs):
                for label, checkout in checkouts.items():
                    turns[label].append(measure(checkout, name, cache=caches[label]))
            found[name] = {label: statistics.median(each) for label, each in turns.items()}
            show(name, found[name])
        whole, with_page = found["bhlm reconcile"], found["bhlm reconcile --dashboard"]
        show("page", {label: with_page[label] - whole[label] for label in checkouts})
        warm = found["bhlm reml"]
        show("first", {label: statistics.median(first[label]) - warm[label] for label in checkouts})


def show(name: str, seconds: dict[str, float]) -> None:
    print(f"{name:30}" + "".join(f"{each:10.2f}" for each in seconds.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_before(parser)
    parser.add_argument("--runs", type=int, default=5, help="with a warm cache, per line")
    parser.add_argument("--firsts", type=int, default=2, help="with an empty cache")
    options = parser.parse_args()
    print(describe_machine())
    compare(list_checkouts(options.before), runs=options.runs, firsts=options.firsts)


if __name__ == "__main__":
    main()
