"""PISA 2012, USA, with weights at both levels: what six programs print, and what bhlm computes.

Usage: python comparisons/weights.py pisa2012.csv

The file is that of the R package MLMusingR (`data(pisa2012)`, written as CSV), public data of the
US National Center for Education Statistics (NCES 2014028). The printed values stand in
comparisons/pisa2012.toml, with their source. Exit status 1 where one is not reproduced.
"""

import sys
import time
import tomllib
from pathlib import Path

import pandas as pd

import bhlm

REFERENCES = {"st29q03": "Strongly agree", "sc14q02": "Not at all", "st04q01": "Female"}
FIXED = " + ".join(f"C({name}, Treatment('{level}'))" for name, level in REFERENCES.items())
RIGHT = f"~ {FIXED} + escs + (1 | schoolid)"
WEIGHTS = bhlm.SamplingWeights(rows="w_fstuwt / w_fschwt", groups="w_fschwt")
RESPONSES = [f"pv{i}math" for i in range(1, 6)]
# HLM normalises the weights and fits another model; its column is not comparable.
PROGRAMS = {
    "WeMix": "separate",
    "Stata_mixed": "block",
    "GLLAMM": "full",
    "SAS": "uncorrected",
    "Mplus": "uncorrected",
}
# How far programs stop from the optimum, and print: Mplus's and GLLAMM's estimates differ from the
# others' in the sixth digit, Stata's variance of schools in the fifth.
STOPPED = 1e-4


def agree(value: float, printed: str) -> tuple[bool, bool]:
    """Return whether a value rounds to what was printed, and whether it is within `STOPPED`."""
    digits = len(printed.partition(".")[2])
    gap = abs(value - float(printed))
    unit = 1.0000001 * 10.0**-digits
    return gap <= 0.5 * unit, gap <= max(unit, STOPPED * abs(float(printed)))


def spell(name: str) -> str:
    """Return bhlm's name of a parameter of the printed table."""
    column, bracket, level = name.partition("[")
    if not bracket:
        return name
    return f'C({column}, Treatment("{REFERENCES[column]}"))[{level}'


def main(path: str) -> int:
    """Print every comparison that fails to the last digit, counts and times."""
    table = pd.read_csv(path, dtype={"schoolid": str})
    printed = tomllib.loads((Path(__file__).parent / "pisa2012.toml").read_text())["published"]
    for _ in range(2):  # the second time with warm caches
        start = time.perf_counter()
        fit = bhlm.Model(f"pv1math {RIGHT}", table, weights=WEIGHTS).reml(method="ml")
        one = time.perf_counter() - start
        start = time.perf_counter()
        pooled = bhlm.fit_imputations(
            RIGHT, table, responses=RESPONSES, weights=WEIGHTS, method="ml"
        )
        five = time.perf_counter() - start
    conventions = fit.compare_conventions()
    exact = near = total = 0
    for program, convention in PROGRAMS.items():
        checks = [("loglik", fit.loglik, printed["loglik"][program])]
        for kind, column in (("estimates", "estimate"), ("se", convention)):
            for name, values in printed[kind].items():
                value = float(conventions.loc[spell(name), column])
                checks.append((f"{kind} {name}", value, values[program]))
        for what, value, text in checks:
            to_digit, close = agree(value, text)
            exact, near, total = exact + to_digit, near + close, total + 1
            if not to_digit:
                mark = "near" if close else "OFF"
                print(f"{mark:4} {program:12} {what:36} printed {text:>10}, bhlm {value:.5f}")
    print(f"{exact} of {total} printed numbers to their last digit, {near} within {STOPPED:g}")
    print(f"one response {one:.3f} s, five pooled {five:.3f} s")
    print(pooled.summary())
    return 0 if near == total else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
