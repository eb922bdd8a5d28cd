"""A posterior as text: what was sampled, the parameters, the priors, the verdict."""

from textwrap import fill
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from bhlm.sampling import BayesFit

WIDTH = 100
COLUMNS = {
    "mean": ("mean", 10, ".5g"),
    "sd": ("sd", 10, ".4g"),
    "lower": ("2.5 %", 10, ".5g"),
    "median": ("50 %", 10, ".5g"),
    "upper": ("97.5 %", 10, ".5g"),
    "ess_bulk": ("bulk ESS", 10, ".0f"),
    "ess_tail": ("tail ESS", 10, ".0f"),
    "rhat": ("R-hat", 8, ".3f"),
    "mcse_mean": ("MCSE", 9, ".2g"),
}


def render_posterior(fit: "BayesFit") -> str:
    """Return the posterior table, the priors and the convergence verdict.

    A failed verdict leads.
    """
    table = fit.estimates
    width = max(len(str(name)) for name in table.index)
    head = f"{'':<{width}}" + "".join(f"{h:>{w}}" for h, w, _ in COLUMNS.values())
    rule = "-" * len(head)
    verdict = describe_diagnostics(fit)
    lines = [] if fit.converged else [verdict, ""]
    lines += [_header(fit), rule, head, rule]
    previous = ""
    for name, row in table.iterrows():
        kind = classify(str(name))
        if previous and kind != previous:
            lines.append("")
        previous = kind
        lines.append(f"{name!s:<{width}}" + _cells(row))
    lines += [rule, "", "Priors (autoscaled to the data where none was given)"]
    priors = fit.priors.describe(fit.moments)
    wide = max(map(len, priors))
    lines += [f"  {name:<{wide}}  {text}" for name, text in priors.items()]
    return "\n".join([*lines, "", *([verdict] if fit.converged else [])]).rstrip()


def describe_diagnostics(fit: "BayesFit") -> str:
    """Return the convergence verdict in words, each failure with its next step."""
    seen = fit.diagnostics
    numbers = (
        f"largest R-hat {seen.max_rhat:.4f}, smallest bulk ESS {seen.min_ess_bulk:.0f}, smallest "
        f"tail ESS {seen.min_ess_tail:.0f}, smallest E-BFMI {seen.min_bfmi:.2f}, "
        f"{seen.divergences} divergences, {seen.max_treedepth} at the tree-depth limit"
    )
    if seen.ok:
        return fill(f"Convergence: ok ({numbers}).", WIDTH)
    points = [fill(f"* {failure}", WIDTH, subsequent_indent="  ") for failure in seen.failures]
    return "\n".join([fill(f"Convergence: FAILED ({numbers}).", WIDTH), *points])


def classify(name: str) -> str:
    """Return "fixed", "variance" or "scaled": the part of the table a parameter belongs to."""
    if name.startswith(("sd(", "corr(")):
        return "scaled"
    return "variance" if name.startswith(("var(", "cov(")) and name.endswith(")") else "fixed"


def _header(fit: "BayesFit") -> str:
    chains, draws = fit.data["posterior"]["sigma"].shape
    moments = fit.moments
    return (
        f"Posterior of {moments.formula}\n"
        f"{moments.n_rows} rows in {moments.n_groups} groups of '{moments.group}'; {chains} chains "
        f"x {draws} draws, seed {fit.seed}, {fit.seconds:.1f} s ({fit.sampler})"
    )


def _cells(row: "pd.Series") -> str:
    return "".join(f"{row[key]:>{w}{f}}" for key, (_, w, f) in COLUMNS.items())
