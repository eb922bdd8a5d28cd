"""Coverage of 95 % intervals of the pseudo-posterior under an informative two-stage design.

    python comparisons/pseudo_posterior.py [--replicates 500] [--seed 1] [--json results.json]

Groups are drawn with probabilities that grow with their random effect, rows with probabilities
that fall with the size of their residual, so that both weights inform about the response. Three
answers from one sample: without weights, the pseudo-posterior as it is, and adjusted to the
sandwich covariance (Williams & Savitsky 2021), which `model.sample()` gives. True values are those
of the population. The SDs are shown too, of which the pseudo-likelihood is biased in groups of
some 25 rows (Rabe-Hesketh & Skrondal 2006, section 4), whatever the intervals.
"""

import argparse
import json
import logging
import sys
from pathlib import Path

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
GROUPS, ROWS = 800, 60  # of the population
SETTINGS = Settings(draws=300, tune=300, chains=2, target_accept=0.9)
FORMULA = "y ~ x + z + (1 | g)"


def draw_sample(rng: np.random.Generator) -> pd.DataFrame:
    """Return the rows of one two-stage sample of one population, with both weights."""
    u = TRUE["sd(Intercept|g)"] * rng.normal(size=GROUPS)
    z = rng.normal(size=GROUPS)
    chance = 0.06 + 0.3 / (1.0 + np.exp(-2.0 * u / TRUE["sd(Intercept|g)"]))
    drawn = np.flatnonzero(rng.random(GROUPS) < chance)
    group = np.repeat(drawn, ROWS)
    x = rng.normal(size=len(group)) + 0.5 * z[group]
    noise = TRUE["sd(Residual)"] * rng.normal(size=len(group))
    y = TRUE["Intercept"] + TRUE["x"] * x + TRUE["z"] * z[group] + u[group] + noise
    kept_chance = 0.1 + 0.6 / (1.0 + np.exp(2.0 * np.abs(noise) - 2.0))
    kept = rng.random(len(group)) < kept_chance
    table = pd.DataFrame(
        {
            "g": group,
            "x": x,
            "z": z[group],
            "y": y,
            "w_group": 1.0 / chance[group],
            "w_row": 1.0 / kept_chance,
        }
    )
    return table[kept]


def cover(fit: "bhlm.BayesFit") -> dict[str, bool]:
    """Return whether each true value is inside its interval."""
    table = fit.estimates
    return {
        name: bool(table.loc[name, "lower"] <= true <= table.loc[name, "upper"])
        for name, true in TRUE.items()
    }


def run(replicates: int, seed: int) -> pd.DataFrame:
    """Return the coverage of each parameter's interval in per cent, by answer."""
    weights = bhlm.SamplingWeights(rows="w_row", groups="w_group")
    rows = []
    for number in range(replicates):
        rng = np.random.default_rng([seed, number])
        table = draw_sample(rng)
        plain = sample_moments(bhlm.Model(FORMULA, table).moments, seed=number, settings=SETTINGS)
        fit = sample_moments(
            bhlm.Model(FORMULA, table, weights=weights).moments, seed=number, settings=SETTINGS
        )
        answers = {"no weights": plain, "unadjusted": fit.sampled, "adjusted": fit}
        rows += [{"answer": name} | cover(each) for name, each in answers.items()]
        if sys.stderr.isatty():
            print(f"\r{number + 1} of {replicates}", end="", file=sys.stderr)
    return 100.0 * pd.DataFrame(rows).groupby("answer", sort=False).mean()


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    found = run(given.replicates, given.seed)
    error = 100.0 * np.sqrt(0.95 * 0.05 / given.replicates)
    print(found.T.round(1).to_string())
    print(f"{given.replicates} samples; the standard error of 95 % is {error:.1f} points")
    if given.json:
        given.json.write_text(json.dumps(found.T.to_dict(), indent=2) + "\n")


if __name__ == "__main__":
    main()
