"""The reconciliation as text: the table, the printed values, the verdict."""

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from bhlm.reml.fixed.few_groups import list_notes

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
    "monte_carlo": "MC",
    "unexplained": "unexpl.",
    "monte_carlo_se": "+-MC",
}
LEGEND = (
    "posterior: its mean. gap/SD: posterior mean less REML, in posterior SDs. The gap is shape "
    "(skewness, and integrating over the variance components where REML plugs them in) + prior "
    "(the chosen priors against flat ones) + MC (Monte Carlo noise of the draws, whose standard "
    "error is +-MC) + unexplained (the flat-prior posterior's mode less REML, zero in theory, and "
    "what the draws miss beyond their noise)."
)


def render_reconciliation(both: "Comparison") -> str:
    """Return where the posterior and REML differ, by how much and why, ending in the verdict."""
    table = both.table
    name_width = max(len(str(name)) for name in table.index)
    head = f"{'':<{name_width}}" + "".join(f"{HEADS[key]:>{w}}" for key, w in COLUMNS.items())
    rule = "-" * (len(head) + 13)
    lines = ["Reconciliation of REML and the posterior", rule, f"{head}  verdict", rule]
    for name, row in table.iterrows():
        cells = "".join(_cell(key, row[key], width) for key, width in COLUMNS.items())
        lines.append(f"{name!s:<{name_width}}{cells}  {row['verdict']}")
    lines += [rule, fill(f"{LEGEND} {both.route}", WIDTH), ""]
    lines += ["In words", *(_bullet(both.words[name]) for name in both.words), ""]
    if both.printed_note:
        lines += [fill(f"Printed values: {both.printed_note}", WIDTH), ""]
    for title, points in {"Points": both.reasons, "Advice": both.advice}.items():
        if points:
            lines += [title, *map(_bullet, points), ""]
    if notes := list_notes(both.reml):
        lines += ["About the REML fit", *map(_bullet, notes), ""]
    lines.append(fill(f"Verdict: {both.verdict}. {both.conclusion}", WIDTH))
    return "\n".join(lines)


def _bullet(text: str) -> str:
    return fill(f"* {text}", WIDTH, subsequent_indent="  ")


def _cell(key: str, value: object, width: int) -> str:
    if key == "published":
        return f"{value if isinstance(value, str) else '':>{width}}"
    assert isinstance(value, float)
    if np.isnan(value):
        return f"{'.':>{width}}"
    if key == "gap_sd":
        return f"{value:>+{width}.2f}"
    if key in ("reml", "posterior"):
        return f"{value:>{width}.7g}"
    if abs(value) < 5e-6:
        return f"{'0':>{width}}"
    return f"{value:>{width}.2g}"
