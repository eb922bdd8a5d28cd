"""The reconciliation in words: per parameter, overall, and what to do about it."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.reconciliation.split import NEGLIGIBLE

if TYPE_CHECKING:
    import pandas as pd

# A share below this many posterior SDs is not worth a clause.
MENTIONED = 0.02
# Shares beyond this many posterior SDs call for advice.
LARGE = 0.5
NOISY = 0.05  # Monte Carlo errors, in posterior SDs
FEW = 30  # groups


def explain_gaps(table: "pd.DataFrame", post: Draws) -> dict[str, str]:
    """Return one sentence per parameter: how far the answers differ, and why."""
    priors = _name_priors(post)
    fixed = set(post.moments.fixed)
    return {
        str(name): _explain(str(name), row, prior=priors[str(name)], is_fixed=name in fixed)
        for name, row in table.iterrows()
    }


def _explain(name: str, row: "pd.Series[float]", *, prior: str, is_fixed: bool) -> str:
    sd = float(row["sd"])
    gap = float(row["gap"])
    if abs(gap) < MENTIONED * sd:
        text = f"The posterior mean of {name} is within {MENTIONED} posterior SDs of REML"
    else:
        text = (
            f"The posterior mean of {name} is {abs(gap):.2g} {_side(gap)} REML, "
            f"{abs(gap) / sd:.2g} posterior SDs"
        )
    if np.isnan(row["shape"]):
        clauses = ["how much of it is shape and how much prior cannot be told"]
    else:
        shape = (
            "because the variance components are integrated over where REML plugs them in"
            if is_fixed
            else "because the posterior is skewed"
        )
        causes = {
            "shape": shape,
            "prior": f"from {prior}",
            "monte_carlo": "from Monte Carlo noise",
        }
        clauses = [
            f"{abs(row[key]):.2g} {'up' if row[key] > 0 else 'down'} {cause}"
            for key, cause in causes.items()
            if abs(row[key]) >= MENTIONED * sd
        ]
    left = f"{row['unexplained']:+.2g}" if row["verdict"] == "unexplained" else "nothing"
    return f"{text}{': ' if clauses else ''}{', '.join(clauses)}; {left} unexplained."


def _side(gap: float) -> str:
    return "above" if gap > 0 else "below"


def _name_priors(post: Draws) -> dict[str, str]:
    """Return for each parameter the prior that acts on it, as a noun."""
    texts = post.priors.describe(post.moments, structure=post.structure)
    named = {}
    for parameter in post.parameters:
        if parameter.is_covariance or parameter.is_correlation:
            words = f"{texts[str(post.structure.correlations)]} on the correlation"
        elif parameter.is_fixed:
            words = texts[str(parameter)]
        else:
            what = "the residual SD" if parameter.is_residual else "its SD"
            words = f"{texts[str(parameter.scaled)]} on {what}"
        named[str(parameter)] = f"the prior {words}"
    return named


def advise(table: "pd.DataFrame", post: Draws) -> list[str]:
    """Return what would make the two answers meet, or the posterior firmer."""
    advice = []
    n_groups = post.moments.n_groups
    told = [str(each) for each in post.parameters if each.is_sd or each.is_fixed]
    scaled = table[table.index.isin(told)]
    strong = scaled.index[scaled["prior"].abs() > LARGE * scaled["sd"]]
    if len(strong):
        advice.append(
            f"The priors move {' and '.join(strong)} by more than {LARGE} posterior SDs: report "
            "that choice, or weaken the prior."
        )
    skewed = scaled.index[scaled["shape"].abs() > LARGE * scaled["sd"]]
    if len(skewed) and n_groups < FEW:
        advice.append(
            f"With {n_groups} groups the posterior of {' and '.join(skewed)} is so skewed that "
            "its mean and its mode are different summaries: report its interval; more groups "
            "would bring the answers together."
        )
    noisy = table.index[table["monte_carlo_se"] > NOISY * table["sd"]]
    if len(noisy):
        advice.append(
            f"Monte Carlo error is above {NOISY} posterior SDs in {noisy[0]}"
            f"{f' and {len(noisy) - 1} more' if len(noisy) > 1 else ''}: take more draws."
        )
    return advice


def describe_verdict(table: "pd.DataFrame", verdict: str, words: dict[str, str]) -> str:
    """Return the overall verdict in a sentence or two, with the numbers that carry it."""
    if verdict == "not_converged":
        return "A fit failed its own diagnostics, so the two answers must not be compared yet."
    far = str(table["gap_sd"].abs().idxmax())
    gap = f"The largest gap is {table.loc[far, 'gap_sd']:+.2f} posterior SDs, in {far}"
    if verdict == "agree":
        return f"{gap}, below the {NEGLIGIBLE} that a reader of the posterior would notice."
    if verdict == "unexplained":
        return f"{gap}. Part of what was found cannot be accounted for: see the points above."
    return f"{gap}. {words[far]}"
