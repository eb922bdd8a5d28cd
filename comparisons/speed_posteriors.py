"""Seconds, effective draws and memory of posteriors: here, and in another checkout beside it.

    python comparisons/speed_posteriors.py                      # this checkout
    python comparisons/speed_posteriors.py --before ../earlier  # and another one
    python comparisons/speed_posteriors.py --large              # 10^6 groups too
    python comparisons/speed_posteriors.py --few --before ../earlier  # divergences of few groups

Every line is a process of its own, 4 chains of 1000 draws unless it says otherwise: seconds of a
second call, from reduced data to the table of estimates, the median of the runs; the smallest bulk
and tail ESS over the parameters, and the smaller of both per second; the most memory that the
process has held. Table 4.4 is High School and Beyond; the others are simulated, ten rows in each
group. Of independent draws `effective` is what their weights leave of them. What a checkout does
not offer is left out. `--few` counts, over 40 seeds, the transitions that diverged where there are
few groups, and the runs in which any did. Both run in this environment, to which PYTHONPATH may
add what an earlier one needs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from checkouts import add_before, build_environment, describe_machine, list_checkouts

ROWS = 10  # in each group
# What is asked of `sample()`, by the line: groups (none of Table 4.4), arguments and runs.
LINES: dict[str, tuple[int, dict[str, Any], int]] = {
    "Table 4.4": (0, {}, 9),
    "1e5 groups by NUTS": (100_000, {"method": "nuts"}, 1),
    "1e5 groups, independent": (100_000, {"method": "independent", "draws": 1100}, 3),
}
# Models of the gallery with 6 to 18 groups, and eight groups of two rows whose variance is zero.
FEW = ("rail", "dyestuff", "dyestuff2", "ergo_stool", "sleepstudy", "eight groups")
SEEDS = 40
LARGE: dict[str, tuple[int, dict[str, Any], int]] = {"1e6 groups": (1_000_000, {}, 1)}


def simulate(groups: int) -> pd.DataFrame:
    """Return a table with random intercepts and slopes, of so many groups."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(groups), ROWS)
    x = rng.normal(size=len(g))
    u = rng.normal(size=(groups, 2)) @ np.array([[1.0, 0.3], [0.0, 0.5]])
    y = 1.0 + 0.5 * x + u[g, 0] + u[g, 1] * x + rng.normal(scale=2.0, size=len(g))
    return pd.DataFrame({"g": g, "x": x, "y": y})


def sample(line: str) -> dict[str, Any]:
    """Return what a line shows of the package that this process finds."""
    import bhlm

    groups, arguments, runs = (LINES | LARGE)[line]
    small = bhlm.Model("y ~ x + (x | g)", simulate(100))
    if groups:
        model = bhlm.Model("y ~ x + (x | g)", simulate(groups))
    else:
        entry = bhlm.find_model("hsb_random_coefficient")
        model = bhlm.Model(entry.formula, bhlm.load_dataset(entry.dataset))
    try:
        small.sample(seed=1, **(arguments | {"draws": 100}))  # compiles
    except TypeError:  # an argument that this version does not have
        if "independent" in arguments.values():
            return {"note": "not there"}
        arguments = {}
    seconds, found = [], []
    for seed in range(1, runs + 1):
        start = time.perf_counter()
        post = model.sample(seed=seed, **arguments)
        estimates = post.estimates
        seconds.append(time.perf_counter() - start)
        found.append([float(estimates[name].min()) for name in ("ess_bulk", "ess_tail")])
    bulk, tail = np.median(found, axis=0).tolist()
    effective = None
    if arguments.get("method") == "independent":
        effective = float(post.diagnostics.certificate.effective)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": statistics.median(seconds), "bulk": bulk, "tail": tail, "mb": peak,
        "effective": effective, "failures": list(map(str, post.diagnostics.failures)),
    }  # fmt: skip


def count_divergences(name: str) -> dict[str, Any]:
    """Return how many transitions diverge in the runs of all seeds, and in how many runs any do."""
    import bhlm

    if name in FEW[:-1]:
        entry = bhlm.find_model(name)
        model = bhlm.Model(entry.formula, bhlm.load_dataset(entry.dataset))
    else:
        rng = np.random.default_rng(8)
        table = pd.DataFrame({"g": np.repeat(np.arange(8), 2), "y": rng.normal(size=16)})
        model = bhlm.Model("y ~ 1 + (1 | g)", table)
    runs = [model.sample(seed=seed).diagnostics for seed in range(SEEDS)]
    counts = [each.divergences for each in runs]
    return {"divergent": sum(counts), "runs": sum(each > 0 for each in counts),
            "failed": sum(not each.ok for each in runs)}  # fmt: skip


def compare_few(checkouts: dict[str, Path]) -> None:
    """Print the divergences of models with few groups, by every checkout."""
    print(f"{SEEDS} seeds {'':24} {'divergent':>9} {'runs':>5} {'failed':>6}")
    for name in FEW:
        for label, checkout in checkouts.items():
            found = ask(checkout, name)
            numbers = found.get("note") or (
                f"{found['divergent']:9} {found['runs']:5} {found['failed']:6}"
            )
            print(f"{name:24} {label:7} {numbers}", flush=True)


def ask(checkout: Path, line: str) -> dict[str, Any]:
    """Return what a process of a checkout finds for a line."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--line", line],
        env=build_environment(checkout), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        return {"note": f"failed: {lines[-1]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(checkouts: dict[str, Path], lines: list[str]) -> None:
    """Print the lines of every checkout."""
    print(
        f"{'posterior':24} {'':7} {'seconds':>8} {'bulk ESS':>9} {'tail ESS':>9} {'ESS/s':>8} "
        f"{'effective':>9} {'MB':>6}"
    )
    for line in lines:
        for label, checkout in checkouts.items():
            head = f"{line:24} {label:7} "
            if line in LARGE and label != "now":
                print(head + "not asked")
                continue
            found = ask(checkout, line)
            if "note" in found:
                print(head + found["note"], flush=True)
                continue
            kept = "" if found["effective"] is None else f"{found['effective']:.0f}"
            rate = min(found["bulk"], found["tail"]) / found["seconds"]
            shown = (
                head + f"{found['seconds']:8.2f} {found['bulk']:9.0f} {found['tail']:9.0f} "
                f"{rate:8.0f} {kept:>9} {found['mb']:6.0f} {' '.join(found['failures'])}"
            )
            print(shown.rstrip(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_before(parser)
    parser.add_argument("--large", action="store_true", help="10^6 groups too")
    parser.add_argument("--few", action="store_true", help="divergences of few groups instead")
    parser.add_argument("--line", choices=[*LINES, *LARGE, *FEW], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.line is not None:
        find = count_divergences if options.line in FEW else sample
        print(json.dumps(find(options.line)))
        return
    checkouts = list_checkouts(options.before)
    print(describe_machine())
    if options.few:
        compare_few(checkouts)
        return
    compare(checkouts, [*LINES, *(LARGE if options.large else {})])


if __name__ == "__main__":
    main()
