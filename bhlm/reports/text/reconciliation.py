"""The reconciliation as text: the table, the printed values, the verdict."""

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from bhlm.reconciliation.words import speak_of
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.few_groups import list_level_notes, list_notes
from bhlm.reml.levels import LevelsEstimate

if TYPE_CHECKING:
    from bhlm.reconciliation.comparison import Comparison

WIDTH = 100
COLUMNS = {
    "published": 10,
    "reml": 11,
    "posterior": 11,
    "gap_sd": 8,
    "shape": 9,
    "prior": 9,
    "monte_carlo": 9,
    "unexplained": 9,
    "monte_carlo_se": 9,
}
HEADS = {
    "published": "published",
    "reml": "REML",
    "posterior": "posterior",
    "gap_sd": "gap/SD",
    "shape": "shape",
    "prior": "prior",
    "adjustment": "adjust",
    "monte_carlo": "MC",
    "unexplained": "unexpl.",
    "monte_carlo_se": "+-MC",
}
LEGEND = (
    "posterior: its mean. gap/SD: posterior mean less REML, in posterior SDs. The gap is shape "
    "(flat-prior mean less flat-prior mode) + prior (the chosen priors against flat ones) + MC "
    "(Monte Carlo noise of the draws, whose standard error is +-MC) + unexplained (the flat-prior "
    "mode less REML, zero in theory, and what the draws miss beyond their noise)."
)
ADJUSTED = (
    "adjust is part of the gap too: what moving the draws to the sandwich's covariance does to "
    "their mean."
)
PARTS = {
    "skewness": "skew",
    "integrating": "integr.",
    "prior_scale": "scale",
    "prior_sd": "SDs",
    "prior_corr": "corr",
    "prior_residual": "resid.",
    "prior_fixed": "fixed",
    "prior_interaction": "interact.",
}
PART_WIDTH = 10
PARTS_LEGEND = (
    "shape = skew (mean less mode of the flat-prior marginal) + integr. (that mode less the joint "
    "one: integrating over the other parameters). prior = scale (flat on SDs and correlations is "
    "not flat on covariances) + the priors of SDs, correlations, residual and fixed effects, each "
    "what swapping it for a flat one moves the mean by + interact. (what single swaps leave). "
    "Under each row its standard errors; '.' stands for what cannot be told."
)


def render_reconciliation(both: "Comparison") -> str:
    """Return where the posterior and REML differ, by how much and why, ending in the verdict."""
    table = both.table
    name_width = max(len(str(name)) for name in table.index)
    columns = _choose_columns(both)
    cells = {name: {key: _cell(key, row[key]) for key in columns} for name, row in table.iterrows()}
    for key, width in columns.items():
        columns[key] = max(width, *(len(row[key]) + 1 for row in cells.values()))
    head = f"{'':<{name_width}}" + "".join(f"{HEADS[key]:>{w}}" for key, w in columns.items())
    rule = "-" * (len(head) + 13)
    moments = both.reml.moments
    used = [fill(f"{moments.rows_used}.", WIDTH)] if moments.dropped else []
    lines = ["Reconciliation of REML and the posterior", *used, rule, f"{head}  verdict", rule]
    for name, verdict in table["verdict"].items():
        line = "".join(f"{cells[name][key]:>{width}}" for key, width in columns.items())
        lines.append(f"{name!s:<{name_width}}{line}  {verdict}")
    legend = f"{LEGEND} {ADJUSTED}" if "adjustment" in columns else LEGEND
    lines += [rule, fill(f"{legend} {both.route}", WIDTH), ""]
    lines += [*_render_parts(both, name_width), ""]
    lines += ["In words", *(_bullet(both.words[name]) for name in both.words), ""]
    if both.printed_note:
        lines += [fill(f"Printed values: {both.printed_note}", WIDTH), ""]
    for title, points in {"Points": both.reasons, "Advice": both.advice}.items():
        if points:
            lines += [title, *map(_bullet, points), ""]
    notes = []
    if isinstance(both.reml, Estimate):
        notes = list_notes(both.reml)
    elif isinstance(both.reml, LevelsEstimate):
        notes = list_level_notes(both.reml)
    if notes:
        lines += ["About the REML fit", *map(_bullet, notes), ""]
    lines += [*_render_findings(both), ""]
    lines.append(fill(f"Verdict: {both.verdict}. {both.conclusion}", WIDTH))
    text = "\n".join(lines)
    return speak_of(both.reml, text)


def _choose_columns(both: "Comparison") -> dict[str, int]:
    """Return the columns of the table and their least widths."""
    if "adjustment" not in both.table:
        return dict(COLUMNS)
    found: dict[str, int] = {}
    for key, width in COLUMNS.items():
        found |= {"adjustment": 9, key: width} if key == "monte_carlo" else {key: width}
    return found | {"reml": 12}


def _render_parts(both: "Comparison", name_width: int) -> list[str]:
    """Return the table of what shape and prior are made of, errors below."""
    parts = _name_parts(both)
    width = max(PART_WIDTH, *(len(text) + 1 for text in parts.values()))
    head = f"{'':<{name_width}}" + "".join(f"{text:>{width}}" for text in parts.values())
    rule = "-" * len(head)
    lines = ["What shape and prior are made of", rule, head, rule]
    for name, row in both.table.iterrows():
        cells = "".join(f"{_cell(key, row[key]):>{width}}" for key in parts)
        errors = "".join(_error(row[f"{key}_se"], width) for key in parts)
        lines += [f"{name!s:<{name_width}}{cells}", f"{'':<{name_width}}{errors}"]
    return [*lines, rule, fill(PARTS_LEGEND, WIDTH)]


def _name_parts(both: "Comparison") -> dict[str, str]:
    """Return the heads of the parts' columns; of several factors SDs and correlations by factor."""
    parts = both.post.structure.parts
    held = both.post.priors.held
    shown = {key: text for key, text in PARTS.items() if not (held and key == "prior_residual")}
    if len(parts) == 1:
        return shown
    found: dict[str, str] = {}
    for key, text in shown.items():
        if key == "prior_corr":
            correlated = [part.group for part in parts if part.has_correlations]
            found |= {f"{key}|{group}": f"{text}|{group}" for group in correlated}
        elif key == "prior_sd":
            found |= {f"{key}|{part.group}": f"{text}|{part.group}" for part in parts}
        else:
            found[key] = text
    return found


def _render_findings(both: "Comparison") -> list[str]:
    """Return the four findings, a line each, and what stands against those that do not hold.

    What the convergence and the reconciliation rest on stands among the points above.
    """
    lines = ["Findings"]
    for each in both.findings.told:
        lines.append(f"  {each.topic:<14}  {each.status:<7}  {each.label}")
        if each.topic in ("model checks", "priors") and not each.holds:
            lines += [
                fill(text, WIDTH, initial_indent="    * ", subsequent_indent="      ")
                for text in (each.headline, *each.details)
            ]
    return lines


def _error(value: float, width: int) -> str:
    text = "" if np.isnan(value) or value == 0.0 else f"({value:.1g})"
    return f"{text:>{width}}"


def _bullet(text: str) -> str:
    return fill(f"* {text}", WIDTH, subsequent_indent="  ")


def _cell(key: str, value: object) -> str:
    if key == "published":
        return value if isinstance(value, str) else ""
    assert isinstance(value, float)
    if np.isnan(value):
        return "."
    if key == "gap_sd":
        return f"{value:+.2f}"
    if key in ("reml", "posterior"):
        return f"{value:.7g}"
    return "0" if abs(value) < 5e-6 else f"{value:.2g}"
