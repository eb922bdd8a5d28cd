"""The reconciliation of pooled fits as text: the table, the words, the verdict."""

from textwrap import fill
from typing import TYPE_CHECKING

from bhlm.layout import format_digits, show_name
from bhlm.reconciliation.words import speak_of

if TYPE_CHECKING:
    from bhlm.studies.imputations.reconciled import PooledComparison

WIDTH = 100
HEADS = {
    "pooled": "pooled",
    "se": "se",
    "posterior": "mixture",
    "sd": "sd",
    "comparable_se": "se*",
    "gap_sd": "gap/SD",
    "pooling": "pooling",
    "shape": "shape",
    "prior": "prior",
    "adjustment": "adjust",
    "monte_carlo": "MC",
    "unexplained": "unexpl.",
}
LEGEND = (
    "mixture: the mean of the draws given all imputations, sd theirs. se*: Rubin's standard error "
    "without his allowance for few imputations, as the draws have none. The gap, mixture less "
    "pooled, is pooling (variance components are pooled by logarithms, correlations by Fisher's z) "
    "and the mean over imputations of what each reconciliation splits its gap into."
)


def render_pooled(both: "PooledComparison") -> str:
    """Return where the mixture and the pooled estimates differ, by how much and why."""
    heads = {key: text for key, text in HEADS.items() if key in both.table}
    width = max(len(str(name)) for name in both.table.index)
    head = f"{'':<{width}}" + "".join(f"{text:>10}" for text in heads.values())
    rule = "-" * len(head)
    lines = [f"Reconciliation of {len(both.each)} pooled fits and the mixture of posteriors"]
    lines += [rule, head, rule]
    for name, row in both.table.iterrows():
        cells = "".join(f"{_show(key, float(row[key])):>10}" for key in heads)
        lines.append(f"{show_name(name):<{width}}{cells}")
    lines += [rule, fill(LEGEND, WIDTH), ""]
    lines += ["In words", *(_bullet(text) for text in both.words.values()), ""]
    if both.reasons:
        lines += ["Points", *map(_bullet, both.reasons), ""]
    verdicts = [one.verdict for one in both.each]
    lines.append(fill(f"Given each imputation: {', '.join(verdicts)}.", WIDTH))
    lines.append(fill(f"Verdict: {both.verdict}. {both.conclusion}", WIDTH))
    return speak_of(both.each[0].reml, "\n".join(lines))


def _show(key: str, value: float) -> str:
    if key == "gap_sd":
        return f"{value:+.2f}" if value == value else "."
    return format_digits(value, 5 if key in ("pooled", "posterior") else 3)


def _bullet(text: str) -> str:
    return fill(f"* {text}", WIDTH, subsequent_indent="  ")
