"""The reconciliation as text: the table, the printed values, the verdict."""

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bhlm.reconcile import Reconciliation

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
}
HEADS = {
    "published": "published",
    "reml": "REML",
    "posterior": "posterior",
    "gap_sd": "gap/SD",
    "shape": "shape",
    "prior": "prior",
    "monte_carlo": "+-MC",
    "unexplained": "unexpl.",
}
LEGEND = (
    "posterior: its mean. gap/SD: posterior mean less REML, in posterior SDs. The gap is shape "
    "(skewness, and integrating over the variance components where REML plugs them in) + prior "
    "(the chosen priors against flat ones) + unexplained (the flat-prior posterior's mode less "
    "REML: zero in theory). +-MC: standard error that Monte Carlo noise leaves in shape and prior."
)


def render_reconciliation(both: "Reconciliation") -> str:
    """Return where the posterior and REML differ, by how much and why, ending in the verdict."""
    table = both.table
    name_width = max(len(str(name)) for name in table.index)
    head = f"{'':<{name_width}}" + "".join(f"{HEADS[key]:>{w}}" for key, w in COLUMNS.items())
    rule = "-" * (len(head) + 13)
    lines = ["Reconciliation of REML and the posterior", rule, f"{head}  verdict", rule]
    for name, row in table.iterrows():
        cells = "".join(_cell(key, row[key], width) for key, width in COLUMNS.items())
        lines.append(f"{name!s:<{name_width}}{cells}  {row['verdict']}")
    lines += [rule, fill(LEGEND, WIDTH), ""]
    if both.printed_note:
        lines += [fill(f"Printed values: {both.printed_note}", WIDTH), ""]
    lines += [fill(f"* {reason}", WIDTH, subsequent_indent="  ") for reason in both.reasons]
    if both.reasons:
        lines.append("")
    lines.append(fill(f"Verdict: {both.verdict}. {describe_verdict(both)}", WIDTH))
    return "\n".join(lines)


def describe_verdict(both: "Reconciliation") -> str:
    """Return the overall verdict in a sentence, with the numbers that carry it."""
    table = both.table
    if both.verdict == "not_converged":
        return "A fit failed its own diagnostics, so the two answers must not be compared yet."
    far = table["gap_sd"].abs().idxmax()
    gap = f"The largest gap is {table.loc[far, 'gap_sd']:+.2f} posterior SDs, in {far}"
    if both.verdict == "agree":
        return f"{gap}: no reader of the posterior would notice it."
    if both.verdict == "unexplained":
        return f"{gap}. Part of what was found cannot be accounted for: see the points above."
    shape, prior = table.loc[far, "shape"], table.loc[far, "prior"]
    if np.isnan(shape):
        return f"{gap}, by the shape of the posterior and the prior together."
    return (
        f"{gap}: {shape:+.3g} from its shape and {prior:+.3g} from the prior; nothing is left over."
    )


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
