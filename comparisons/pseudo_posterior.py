"""Coverage of 95 % intervals of the pseudo-posterior under informative two-stage designs.

    python comparisons/pseudo_posterior.py [--design schools] [--replicates 1000] [--seed 771604918]
        [--keep samples.jsonl] [--json comparisons/results/pseudo_posterior.json]

The seed and the samples of each design stand in `SEED` and `PLANNED`: they were written down before
the committed run, which nobody looked at before its end. The designs had been found with other
seeds.

Three answers from one sample: without weights, by REML; the pseudo-posterior as it is; and adjusted
to the sandwich covariance (Williams & Savitsky 2021), which `model.sample()` gives. True values are
those of the population. Two designs:

- schools: some 600 groups of some 30 rows, as a survey of schools has. Chances of groups grow with
  their random effect and vary by a factor of 7 besides; those of rows grow with their residual and
  vary by a factor of 2 besides. The pseudo-likelihood is nearly without bias here.
- strong: some 170 groups of some 27 rows, whose chances fall with the size of the residual, from
  0.6 to 0.1. Weighted means of such groups are themselves biased, and so the residual SD, and that
  of the groups, are estimated with a bias of the order 1 / n_j (Rabe-Hesketh & Skrondal 2006,
  section 4) that does not fall with the number of groups: no interval about such an estimate
  covers. `bias` tells it, in SDs of the estimates over samples, and `ratio` the mean posterior SD
  over that SD, which is 1 where the spread is right.
"""

import argparse
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import bhlm
from bhlm.bayes.draws import Settings
from bhlm.bayes.sampling import sample_moments

TRUE = {
    "Intercept": 1.0,
    "x": 0.5,
    "z": 0.3,
    "sd(Intercept|g)": 0.6,
    "sd(Residual)": 1.0,
}
ROWS = 60  # of each group of the population
SETTINGS = Settings(draws=400, tune=200, chains=1, target_accept=0.8)
SEED = 771604918
PLANNED = {"schools": 1000, "strong": 500}
FORMULA = "y ~ x + z + (1 | g)"
Array = np.ndarray


def choose_schools(u: Array, rng: np.random.Generator) -> Array:
    """Return the chances of groups with random effects u, in SDs."""
    return 0.2 * np.exp(0.4 * np.tanh(u) + rng.uniform(-1.0, 1.0, len(u)))


def choose_pupils(e: Array, rng: np.random.Generator) -> Array:
    """Return the chances of rows with residuals e, in SDs, given their group."""
    informs = 0.02 * np.tanh(1.0 - np.abs(e)) + 0.2 * np.tanh(e)
    return 0.48 * np.exp(informs + 0.35 * rng.uniform(-1.0, 1.0, len(e)))


def choose_strong_groups(u: Array, _rng: np.random.Generator) -> Array:
    """Return the chances of groups with random effects u, in SDs."""
    return 0.06 + 0.3 / (1.0 + np.exp(-2.0 * u))


def choose_strong_rows(e: Array, _rng: np.random.Generator) -> Array:
    """Return the chances of rows with residuals e, in SDs, given their group."""
    return 0.1 + 0.6 / (1.0 + np.exp(2.0 * np.abs(e) - 2.0))


type Choose = Callable[[Array, np.random.Generator], Array]
# Groups of the population, the scaling of the rows' weights, and the chances of groups and rows.
DESIGNS: dict[str, tuple[int, str, Choose, Choose]] = {
    "schools": (2500, "effective", choose_schools, choose_pupils),
    "strong": (800, "size", choose_strong_groups, choose_strong_rows),
}


def draw_sample(rng: np.random.Generator, design: str = "schools") -> pd.DataFrame:
    """Return the rows of one two-stage sample of one population, with both weights."""
    groups, _, choose_groups, choose_rows = DESIGNS[design]
    effects, z = rng.normal(size=groups), rng.normal(size=groups)
    chance = choose_groups(effects, rng)
    drawn = np.flatnonzero(rng.random(groups) < chance)
    group = np.repeat(drawn, ROWS)
    x = rng.normal(size=len(group)) + 0.5 * z[group]
    residual = rng.normal(size=len(group))
    mean = TRUE["Intercept"] + TRUE["x"] * x + TRUE["z"] * z[group]
    noise = TRUE["sd(Intercept|g)"] * effects[group] + TRUE["sd(Residual)"] * residual
    row_chance = choose_rows(residual, rng)
    kept = rng.random(len(group)) < row_chance
    weights = {"w_group": 1.0 / chance[group], "w_row": 1.0 / row_chance}
    return pd.DataFrame({"g": group, "x": x, "z": z[group], "y": mean + noise} | weights)[kept]


def answer(number: int, *, seed: int, design: str) -> list[dict[str, Any]]:
    """Return a row for each parameter and answer of one sample."""
    table = draw_sample(np.random.default_rng([seed, number]), design)
    plain = bhlm.Model(FORMULA, table).reml().estimates
    plain = plain.rename(columns={"estimate": "mean", "se": "sd"})
    weights = bhlm.SamplingWeights(rows="w_row", groups="w_group", scaling=DESIGNS[design][1])
    fit = sample_moments(
        bhlm.Model(FORMULA, table, weights=weights).moments, seed=number, settings=SETTINGS
    )
    size = {"groups": int(table["g"].nunique()), "rows": len(table)}
    rows: list[dict[str, Any]] = []
    unadjusted, adjusted = fit.sampled.estimates, fit.estimates
    answers = {"no weights": plain, "unadjusted": unadjusted, "adjusted": adjusted}
    for name, each in answers.items():
        for parameter, true in TRUE.items():
            own = each.loc[parameter]
            found = {
                "covered": bool(own["lower"] <= true <= own["upper"]),
                "gap": float(own["mean"]) - true,
                "sd": float(own["sd"]),
            }
            rows.append({"answer": name, "parameter": parameter} | found | size)
    return rows


def run(design: str, replicates: int, seed: int, keep: Path | None = None) -> pd.DataFrame:
    """Return `coverage` (per cent), `bias` and `ratio` of each answer and parameter.

    What is kept of samples in a file is not computed again.
    """
    lines = keep.read_text().splitlines() if keep is not None and keep.exists() else []
    done = {(each["design"], each["number"]): each["rows"] for each in map(json.loads, lines)}
    rows: list[dict[str, Any]] = []
    for number in range(replicates):
        found = done.get((design, number))
        if found is None:
            found = answer(number, seed=seed, design=design)
            if keep is not None:
                line = json.dumps({"design": design, "number": number, "rows": found})
                with keep.open("a") as file:
                    file.write(f"{line}\n")
        rows += found
        if sys.stderr.isatty():
            print(f"\r{design}: {number + 1} of {replicates}", end="", file=sys.stderr)
    frame = pd.DataFrame(rows)
    by = frame.groupby(["answer", "parameter"], sort=False)
    spread = by["gap"].std()
    table = pd.DataFrame(
        {
            "coverage": 100.0 * by["covered"].mean(),
            "bias": by["gap"].mean() / spread,
            "ratio": by["sd"].mean() / spread,
        }
    )
    table.attrs["groups"] = frame["groups"].mean()
    table.attrs["rows"] = frame["rows"].mean()
    return table


def main() -> None:
    """Run the study and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--design", choices=list(DESIGNS), action="append", help="default: all")
    parser.add_argument("--replicates", type=int, help="of each design; default: as planned")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--keep", type=Path, help="a file of finished samples, of one seed")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    there = given.json is not None and given.json.exists()
    kept = json.loads(given.json.read_text()) if there else {}
    for design in given.design or DESIGNS:
        replicates = given.replicates or PLANNED[design]
        error = 100.0 * np.sqrt(0.95 * 0.05 / replicates)
        found = run(design, replicates, given.seed, given.keep)
        size = {key: round(found.attrs[key], 1) for key in ("groups", "rows")}
        print(f"{design}: {size['groups']} groups, {size['rows']} rows, means of the samples")
        print(found.unstack("answer").round(2).to_string())
        print(f"{replicates} samples; the standard error of 95 % is {error:.2f} points")
        kept[design] = {"replicates": replicates, "seed": given.seed} | size
        kept[design] |= {
            column: found[column].unstack("answer", sort=False).round(4).to_dict()
            for column in found
        }
    if given.json:
        given.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
