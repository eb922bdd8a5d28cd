"""The check of a family: groups' proportions or rates among replicates, and the calibration."""

import numpy as np

from bhlm.layout import count, format_digits
from bhlm.likelihood.replicates import FamilyCheck
from bhlm.plots.figure import Figure
from bhlm.plots.groups import choose_shown, name_groups
from bhlm.plots.marks import Axis, Line, Panel, Points, Segments
from bhlm.plots.style import shorten

DENSE = 60  # groups from which on intervals are drawn thin


def draw_family_check(check: FamilyCheck) -> Figure:
    """Return the figure of a check that has been made already.

    Its table has a row per tenth of what is predicted: the calibration.
    """
    return Figure(
        name="predictive",
        title=f"Observed {check.what}s and replicates of them",
        reading=_read(check),
        table=check.calibration.reset_index(),
        panels=(_draw_calibration(check), _draw_groups(check)),
        columns=2,
        height=400,
    )


def _draw_calibration(check: FamilyCheck) -> Panel:
    table = check.calibration
    x, y = table["predicted"].to_numpy(), table["observed"].to_numpy()
    low, high = table["lower"].to_numpy(), table["upper"].to_numpy()
    ends = np.array([min(x.min(), low.min(), y.min()), max(x.max(), high.max(), y.max())])
    hover = tuple(
        f"tenth {tenth}\nobserved {format_digits(row.observed, 3)}\npredicted "
        f"{format_digits(row.predicted, 3)}, 95 % {format_digits(row.lower, 3)} to "
        f"{format_digits(row.upper, 3)}"
        for tenth, row in zip(table.index, table.itertuples(), strict=True)
    )
    return Panel(
        Axis(f"predicted {check.what}"),
        Axis(f"observed {check.what}"),
        (
            Line(ends, ends, "reference"),
            Segments(x, low, x, high, "posterior", "Replicates, 95 %", width=3.0),
            Points(x, y, "published", "Observed", hover=hover, size=8),
        ),
        title="Calibration, by tenths of what is predicted",
    )


def _draw_groups(check: FamilyCheck) -> Panel:
    order = np.argsort(check.groups["predicted"].to_numpy(), kind="stable")
    shown = choose_shown(len(order))
    table = check.groups.iloc[order].iloc[shown]
    rank = shown + 1.0
    labels = name_groups(table.iloc[:, 0])
    low, high = table["lower"].to_numpy(), table["upper"].to_numpy()
    hover = tuple(
        f"{check.group} {label}\nobserved {format_digits(row.observed, 3)}\npredicted "
        f"{format_digits(row.predicted, 3)}, 95 % {format_digits(row.lower, 3)} to "
        f"{format_digits(row.upper, 3)}"
        for label, row in zip(labels, table.itertuples(), strict=True)
    )
    return Panel(
        Axis(f"{shorten(check.group)}, by what is predicted"),
        Axis(check.what),
        (
            Segments(
                rank, low, rank, high, "posterior", "Replicates, 95 %",
                width=1.0 if len(rank) > DENSE else 2.0,
            ),
            Points(rank, table["observed"].to_numpy(), "published", "Observed", hover=hover,
                   size=5),
        ),
        title=f"Each {shorten(check.group)}",
    )  # fmt: skip


def _read(check: FamilyCheck) -> str:
    groups = check.groups
    beyond = (groups["observed"] < groups["lower"]) | (groups["observed"] > groups["upper"])
    outside = int(beyond.sum())
    tenths = len(check.calibration)
    return (
        f"The observed {check.what} lies within the 95 % interval of {check.draws:,} replicates in "
        f"{tenths - check.count_beyond()} of {tenths} tenths, and in "
        f"{len(groups) - outside:,} of {count(len(groups), 'group')}."
    )
