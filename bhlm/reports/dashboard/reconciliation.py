"""The page of the reconciliation: how far the two answers lie apart, and what accounts for it."""

from typing import TYPE_CHECKING

from bhlm.layout import count
from bhlm.plots.attribution import plot_attribution
from bhlm.plots.choice import say
from bhlm.plots.curves import plot_curves
from bhlm.plots.intervals import plot_intervals
from bhlm.reconciliation.split import NEGLIGIBLE, list_shares
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text, Tone

if TYPE_CHECKING:
    from bhlm.reconciliation.comparison import Comparison

TONES: dict[str, Tone] = {
    "agree": "good",
    "explained": "good",
    "undetermined": "caution",
    "unexplained": "bad",
    "not_converged": "bad",
}
HEADINGS = {
    "agree": "The two answers agree",
    "explained": "Every gap is explained",
    "undetermined": "What accounts for a gap cannot be told",
    "unexplained": "A gap is not explained",
    "not_converged": "Not to be compared yet",
}
COLUMNS = ("published", "reml", "posterior", "sd", "gap", "gap_sd")


def build_reconciliation(subject: Subject) -> Section | None:
    """Return the section on REML against the posterior; None if there are not both."""
    both = subject.both
    if both is None:
        return None
    blocks: list[Block] = [
        Text((both.conclusion,), tone=TONES[both.verdict], heading=HEADINGS[both.verdict]),
        plot_intervals(both),
        plot_attribution(both),
        _tabulate_shares(both),
        Text(_shorten_words(both.words), heading="Each gap in words", listed=True),
    ]
    if _has_profile(subject, both):
        blocks.append(plot_curves(both))
    if both.printed:
        blocks.append(_tabulate_printed(both))
    blocks.append(Text((both.route,), heading="How the means were found"))
    return Section("reconciliation", "Comparison", tuple(blocks))


def _has_profile(subject: Subject, both: "Comparison") -> bool:
    """Whether the profile likelihood is there: of one factor and one residual variance."""
    if subject.has_levels or subject.is_counted or subject.strata is not None:
        return False
    weights = both.reml.moments.weights
    return weights is None or not weights.is_sampling


def _shorten_words(words: dict[str, str]) -> tuple[str, ...]:
    """Return the sentences on the gaps, with names of no more than a line's length."""
    return tuple(text.replace(name, say(name)) for name, text in words.items())


def _tabulate_shares(both: "Comparison") -> Table:
    table = both.table
    shares = [share for share in list_shares(both.post.structure) if share in table]
    errors = [f"{share}_se" for share in shares]
    frame = table[[*COLUMNS, *shares, *errors, "verdict"]].astype({"published": object})
    if table["published"].isna().all():
        frame = frame.drop(columns="published")
    fit = both.reml.method
    frame = frame.rename(columns={"reml": fit})
    known = table["reml"].notna()
    number = table["verdict"][known].value_counts()
    parts = [f"{number.get('agree', 0)} within {NEGLIGIBLE} posterior SDs"]
    if number.get("explained", 0):
        parts.append(f"{number['explained']} larger and accounted for")
    if number.get("undetermined", 0):
        parts.append(f"{number['undetermined']} that cannot be split")
    if number.get("unexplained", 0):
        parts.append(f"{number['unexplained']} with a part that nothing accounts for")
    if both.verdict == "not_converged":
        parts = ["none that can be compared yet"]
    noise = float((table["monte_carlo_se"] / table["sd"]).max())
    label = fit.upper()
    reading = (
        f"Of {count(int(known.sum()), 'gap')} between posterior mean and {label}, "
        f"{', '.join(parts)}; the Monte Carlo error of a mean is at most {noise:.2g} posterior SDs."
    )
    title = "Where each gap comes from"
    return Table(
        "attribution_shares",
        title,
        reading,
        frame,
        first=("published", fit, "posterior", "gap_sd", "verdict"),
        sizes=tuple((2.0 * table["sd"]).tolist()),
        sized=(fit, "posterior", "sd"),
    )


def _tabulate_printed(both: "Comparison") -> Table:
    import pandas as pd

    frame = pd.DataFrame(
        {
            "name": [check.name for check in both.printed],
            "quantity": [check.quantity for check in both.printed],
            "printed": [check.printed for check in both.printed],
            "computed": [check.computed for check in both.printed],
            "reproduced": ["yes" if check.reproduced else "no" for check in both.printed],
            "to its last digit": ["yes" if check.exact else "no" for check in both.printed],
        }
    )
    return Table("printed_values", "Printed values", both.printed_note, frame, digits=5)
