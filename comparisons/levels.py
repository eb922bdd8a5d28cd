"""Nested and crossed data sets from random starts, beside lme4 and nlme.

Twenty models of tables in lme4, nlme, mlmRev, plm and lmerTest, by REML and ML, boundary ones
among them. lme4 (the better of two optimisers) and nlme write what log-likelihood they stop at;
bhlm starts from its own start and from eight random ones. Prints a row for each, and ends with
status 1 if bhlm ever stops more than 1e-6 below.

    python comparisons/levels.py [--starts 8]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bhlm.design.formula.terms import parse_formula
from bhlm.likelihood.cells import arrange_factors, whiten_cells
from bhlm.moments.cells import reduce_cells
from bhlm.reml.level_search import maximize_levels
from bhlm.reml.optimize import unwhiten_loglik

BELOW = 1e-6
SCRIPT = Path(__file__).with_name("level_cases.R")


class Reached(NamedTuple):
    """Where the searches of one model end."""

    name: str
    method: str
    own: float  # the log-likelihood from bhlm's own start
    worst: float  # and the lowest from all starts
    theirs: float  # the highest of lme4 and nlme
    singular: bool
    converged: int  # of all starts

    @property
    def gap(self) -> float:
        """How far the worst start ends above the others; negative is below."""
        return self.worst - self.theirs


def fit_in_r(folder: Path, *names: str) -> list[dict[str, Any]]:
    """Return models (all without names), their tables' files and what lme4 and nlme stop at."""
    done = subprocess.run(
        ["Rscript", str(SCRIPT), str(folder), *names], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr.strip()[-400:])
    return read_cases(folder)


def read_cases(folder: Path) -> list[dict[str, Any]]:
    """Return what R wrote."""
    lines = (folder / "cases.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def search_all(cases: list[dict[str, Any]], *, starts: int) -> Iterator[Reached]:
    """Return where bhlm ends from its own and from random starts, model by model.

    A random start multiplies each relative SD by a log-normal factor with an SD of one on the log
    scale, and turns each correlation of the effects.
    """
    for case in cases:
        moments = reduce_cells(parse_formula(case["formula"]), pd.read_csv(case["file"]))
        structures = arrange_factors(moments)
        white = whiten_cells(moments, structures)
        restricted = case["method"] == "reml"
        rng = np.random.default_rng(1)
        size = sum(len(structure.factors) for structure in structures)
        begun = [None, *(rng.normal(size=size) * rng.lognormal(size=size) for _ in range(starts))]
        found = [
            maximize_levels(white, structures, restricted=restricted, start=start)
            for start in begun
        ]
        ends = [unwhiten_loglik(each.criterion.at.value, white, restricted) for each in found]
        yield Reached(
            name=case["name"],
            method=case["method"],
            own=ends[0],
            worst=min(ends),
            theirs=max(case["lme4"], case["nlme"] or -np.inf),
            singular=found[0].singular,
            converged=sum(each.converged for each in found),
        )


def main() -> int:
    """Print the table; return 1 if some search ends too low."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--starts", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="what level_cases.R wrote before")
    options = parser.parse_args()
    low = 0
    with tempfile.TemporaryDirectory() as made:
        cases = read_cases(options.folder) if options.folder else fit_in_r(Path(made))
        print(f"{'model':22}{'':6}{'log-likelihood':>18}{'lme4, nlme':>18}{'worst - theirs':>16}")
        for each in search_all(cases, starts=options.starts):
            notes = " singular" if each.singular else ""
            notes += f" {each.converged} converged" if each.converged <= options.starts else ""
            notes += " BELOW" if each.gap < -BELOW else ""
            low += each.gap < -BELOW
            print(
                f"{each.name:22}{each.method:6}{each.own:18.8f}{each.theirs:18.8f}"
                f"{each.gap:16.2e}{notes}",
                flush=True,
            )
    print(f"{low} below by more than {BELOW:g}")
    return int(low > 0)


if __name__ == "__main__":
    sys.exit(main())
