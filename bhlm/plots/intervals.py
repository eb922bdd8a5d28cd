"""Intervals: REML, the posterior and the printed value of each parameter, one strip each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import check_arguments
from bhlm.layout import count
from bhlm.plots.choice import choose_parameters, list_parameters, merge_names, say, title
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Panel, Points
from bhlm.reconciliation.comparison import Comparison

if TYPE_CHECKING:
    import pandas as pd

MOST = 24  # strips of the default figure
STRIP = 150  # pixels of a strip with its ticks and title
ROLES = {"REML": "reml", "ML": "reml", "posterior": "posterior", "published": "published"}
WORDS = {
    "REML": "REML estimate and 95 % interval",
    "ML": "ML estimate and 95 % interval",
    "posterior": "posterior mean and 95 % interval",
    "published": "published value",
}


@check_arguments
def plot_intervals(
    both: Comparison,
    *,
    names: str | Sequence[str] | None = None,
    var_names: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of each parameter's REML interval, posterior interval and printed value.

    Each parameter has a strip with an axis of its own. Intervals are the 95 % ones of the tables:
    REML's as Stata's `mixed` computes them, the posterior's between quantiles about its mean. On
    the boundary REML has no interval, which the strip says. A printed interval is drawn where
    both of its limits were printed.

    The figure's table has one row per parameter and source: `parameter`, `source` ("REML"
    or "ML", "posterior", "published"), `value`, `lower`, `upper`.

    Args:
        both: the reconciliation.
        names: parameters to draw; None for all, up to 24, those of the largest gaps.
        var_names: the same by ArviZ's name, which takes "beta" and "sd|school" too.

    Raises:
        ArgumentError: a name that is no parameter.
    """
    names = merge_names(names, var_names, both.post.parameters)
    known = [str(name) for name in both.table.index]
    weight = both.table["gap_sd"].abs().fillna(0.0)
    chosen, omitted = choose_parameters(known, names, default=known, weight=weight, most=MOST)
    table = tabulate_intervals(both, chosen)
    panels = tuple(_draw_strip(name, table[table["parameter"] == name]) for name in chosen)
    return Figure(
        name="intervals",
        title=f"{both.reml.method.upper()}, posterior and published values"
        if (table["source"] == "published").any()
        else f"{both.reml.method.upper()} and posterior",
        reading=_read(table, chosen, is_singular=both.reml.singular) + omitted + ".",
        table=table,
        panels=panels,
        height=len(panels) * STRIP + 40,
    )


def tabulate_intervals(both: Comparison, names: Sequence[str]) -> "pd.DataFrame":
    """Return value and 95 % interval by parameter and source; nan where there is none."""
    import pandas as pd

    reml, posterior = both.reml.estimates, both.post.estimates
    printed = {
        (check.name, check.quantity): float(check.printed)
        for check in both.printed
        if check.quantity in ("estimate", "lower", "upper")
    }
    rows, label = [], both.reml.method.upper()
    for name in names:
        left, right = reml.loc[name], posterior.loc[name]
        rows.append([name, label, left["estimate"], left["lower"], left["upper"]])
        rows.append([name, "posterior", right["mean"], right["lower"], right["upper"]])
        if (name, "estimate") in printed:
            shown = (printed.get((name, key), np.nan) for key in ("estimate", "lower", "upper"))
            rows.append([name, "published", *shown])
    return pd.DataFrame(rows, columns=["parameter", "source", "value", "lower", "upper"])


def _draw_strip(name: str, rows: "pd.DataFrame") -> Panel:
    marks = []
    labels = {}
    for at, row in enumerate(rows.itertuples()):
        has_interval = np.isfinite(row.lower) and np.isfinite(row.upper)
        labels[row.source] = row.source
        if not np.isfinite(row.value):
            labels[row.source] += ": undefined"
            continue
        if row.source in ("REML", "ML") and not has_interval:
            labels[row.source] += ": no interval"
        ends = f", {row.lower:.5g} to {row.upper:.5g}" if has_interval else ""
        marks.append(
            Points(
                np.array([row.value]),
                np.array([float(at)]),
                ROLES[row.source],
                hover=(f"{say(name)}\n{WORDS[row.source]}: {row.value:.6g}{ends}",),
                x_low=np.array([row.lower]) if has_interval else None,
                x_high=np.array([row.upper]) if has_interval else None,
                size=9.0,
            )
        )
    places = tuple(float(at) for at in range(len(labels)))
    last = len(labels) - 0.4
    return Panel(
        Axis(""),
        Axis("", ticks=(places, tuple(labels.values())), range=(last, -0.6)),
        tuple(marks),
        title=title(name),
    )


def _read(table: "pd.DataFrame", names: Sequence[str], *, is_singular: bool) -> str:
    """Return what the intervals say, without the full stop."""
    sides = {source: rows.set_index("parameter") for source, rows in table.groupby("source")}
    label = "ML" if "ML" in sides else "REML"
    reml, posterior = sides[label], sides["posterior"]
    clauses = [_read_widths(reml, posterior, label)]
    bare = [name for name in names if not np.isfinite(reml.loc[name, "lower"])]
    if bare:
        why = "a variance or correlation of that fit stands on its boundary"
        clauses.append(
            f"{label} gives no interval for {list_parameters(bare)}, because "
            f"{why if is_singular else 'its information there has no inverse'}"
        )
    if "published" in sides:
        printed = sides["published"]
        own = posterior.loc[printed.index]
        is_inside = (own["lower"] <= printed["value"]) & (printed["value"] <= own["upper"])
        outside = list(printed.index[~is_inside])
        clauses.append(
            f"the published {'value lies' if len(outside) == 1 else 'values lie'} outside the "
            f"posterior's interval in {list_parameters(outside)}"
            if outside
            else f"{_all_published(len(printed))} within the posterior's interval"
        )
    return "; ".join(clauses)


def _all_published(number: int) -> str:
    if number == 1:
        return "the one published value lies"
    return f"all {number} published values lie"


def _read_widths(reml: "pd.DataFrame", posterior: "pd.DataFrame", label: str) -> str:
    width = (reml["upper"] - reml["lower"]).dropna()
    width = width[width > 0.0]
    if not len(width):
        return f"{label} has no interval to compare with the posterior's"
    ratio = (posterior["upper"] - posterior["lower"]).loc[width.index] / width
    widest, narrowest = str(ratio.idxmax()), str(ratio.idxmin())
    if len(ratio) == 1:
        return (
            f"The posterior's 95 % interval of {say(widest)} is {ratio[widest]:.3g} times "
            f"as wide as {label}'s"
        )
    return (
        f"Over {count(len(ratio), 'parameter')} the posterior's 95 % interval is from "
        f"{ratio[narrowest]:.3g} ({say(narrowest)}) to {ratio[widest]:.3g} times "
        f"({say(widest)}) as wide as {label}'s"
    )
