"""Imputations: each fit's estimates beside the pooled ones, and what the imputations cost."""

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import count, format_digits, format_percent
from bhlm.plots.choice import list_parameters, say, title
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Bars, Mark, Panel, Points, Rule, Segments
from bhlm.plots.style import shorten
from bhlm.studies.imputations.pooled import Pooled

if TYPE_CHECKING:
    import pandas as pd

MOST = 24  # parameters of either figure
COLUMNS = 3  # panels side by side
ROW, FRAME = 15, 105  # pixels of a fit, and of a panel's axis and title
BAR, AXIS = 30, 100  # pixels of a bar, and of axis and legend
NAMED = 12  # fits up to which each has its name on the axis
LONGEST = 34  # characters of a parameter's name
LEVEL = 0.95  # of the intervals of each fit
# Widths of the estimates with their shortest interval that an axis reaches beyond them: one fit
# that knows nothing of a parameter would squash all others.
BEYOND = 3.0


@check_arguments
def plot_imputations(pooled: Pooled) -> Figure:
    """Return a panel for each parameter: the estimate of every fit, and the pooled one below.

    Each fit has its own 95 % interval, which knows nothing of the other imputations or plausible
    values; the pooled interval is at the level of `pool`. What moves from line to line is the
    variance between imputations.

    The figure's table has `parameter`, `fit` (the plausible value, or its number; "pooled"),
    `value`, `lower` and `upper`.

    Args:
        pooled: what `bhlm.pool` or `bhlm.fit_imputations` returned.

    Raises:
        ArgumentError: something else.
    """
    import pandas as pd

    _check(pooled, "plot_imputations")
    names = _list_names(pooled)
    labels = name_fits(pooled)
    rows = []
    for label, fit in zip(labels, pooled.fits, strict=True):
        own = fit.estimates.loc[names]
        rows += [[name, label, *own.loc[name, ["estimate", "lower", "upper"]]] for name in names]
    table = pooled.estimates.loc[names]
    rows += [[name, "pooled", *table.loc[name, ["estimate", "lower", "upper"]]] for name in names]
    drawn = pd.DataFrame(rows, columns=["parameter", "fit", "value", "lower", "upper"])
    panels = tuple(_draw_panel(name, drawn[drawn["parameter"] == name], labels) for name in names)
    most = _find_largest(pooled, names)
    reading = f"{count(len(labels), 'fit')} a panel, and the pooled estimate below them"
    if most:
        own = drawn[(drawn["parameter"] == most) & (drawn["fit"] != "pooled")]["value"]
        reading = (
            f"Over {count(len(labels), 'fit')} {say(most)} runs from "
            f"{format_digits(float(own.min()), 3)} to {format_digits(float(own.max()), 3)}; pooled "
            f"it is {format_digits(float(table.loc[most, 'estimate']), 3)}, and no other parameter "
            "owes as much of its variance to the imputations"
        )
    cut = [name for name in names if _cuts(drawn[drawn["parameter"] == name])]
    if cut:
        reading += f"; intervals of {list_parameters(cut)} go on beyond the axis"
    height = (ROW * (len(labels) + 2) + FRAME) * ceil(len(names) / COLUMNS) + 30
    return Figure(
        name="imputations",
        title="Each fit beside the pooled estimate",
        reading=reading + ".",
        table=drawn,
        panels=panels,
        columns=min(COLUMNS, len(names)),
        height=height,
    )


@check_arguments
def plot_missing_information(pooled: Pooled) -> Figure:
    """Return a bar for each parameter: its fraction of missing information.

    The share of what complete data would tell of a parameter that is lost since the imputations, or
    plausible values, differ. Parameters that were pooled without a standard error have none.

    The figure's table has `parameter` and `fmi`.

    Args:
        pooled: what `bhlm.pool` or `bhlm.fit_imputations` returned.

    Raises:
        ArgumentError: something else, or parameters of which none has a fraction.
    """
    _check(pooled, "plot_missing_information")
    table = pooled.estimates.loc[_list_names(pooled), ["fmi"]].dropna()
    if not len(table):
        raise ArgumentError(
            "no parameter was pooled with a standard error, so that none has a fraction of missing "
            "information; look at pooled.notes"
        )
    fmi, at = table["fmi"].to_numpy(), np.arange(len(table), dtype=float)
    labels = tuple(shorten(name, LONGEST) for name in table.index)
    hover = tuple(f"{name}\n{value:.3f}" for name, value in zip(labels, fmi, strict=True))
    bars = Bars(at, fmi, np.zeros(len(fmi)), "reml", "", hover, horizontal=True, width=0.6)
    top = float(fmi.max())
    return Figure(
        name="missing_information",
        title="Fraction of missing information",
        reading=(
            f"It is largest for {say(str(table['fmi'].idxmax()))}, {format_percent(top)}, and "
            f"smallest for {say(str(table['fmi'].idxmin()))}, {format_percent(float(fmi.min()))}."
        ),
        table=table.reset_index(),
        panels=(
            Panel(
                Axis("Fraction of missing information", range=(0.0, min(1.0, 1.15 * top) or 1.0)),
                Axis(
                    "",
                    ticks=(tuple(at.tolist()), labels),
                    range=(len(fmi) - 0.4, -0.6),
                ),
                (bars,),
            ),
        ),
        height=max(220, BAR * len(fmi) + AXIS),
    )


def name_fits(pooled: Pooled) -> list[str]:
    """Return what tables and figures call each fit: its plausible value, or its number."""
    if len(pooled.responses) == pooled.m:
        return [shorten(name, LONGEST) for name in pooled.responses]
    return [f"table {at}" for at in range(1, pooled.m + 1)]


def _check(pooled: object, name: str) -> None:
    if not isinstance(pooled, Pooled):
        raise ArgumentError(
            f"{name} takes pooled fits and got a {type(pooled).__name__}; give what bhlm.pool() or "
            "bhlm.fit_imputations() returned"
        )


def _list_names(pooled: Pooled) -> list[str]:
    return [str(each) for each in pooled.parameters if not each.is_squared][:MOST]


def _find_largest(pooled: Pooled, names: list[str]) -> str:
    """Return the parameter of the largest fraction of missing information, "" if none has one."""
    fmi = pooled.estimates.loc[names, "fmi"].dropna()
    return str(fmi.idxmax()) if len(fmi) and fmi.max() > 0.0 else ""


def _draw_panel(name: str, rows: "pd.DataFrame", labels: list[str]) -> Panel:
    value, low, high = (rows[key].to_numpy() for key in ("value", "lower", "upper"))
    m = len(labels)
    y = np.append(np.arange(m, dtype=float), m + 0.5)
    has_ends = np.isfinite(low) & np.isfinite(high)
    hover = tuple(
        f"{row.fit}\n{row.value:.5g}"
        + (f", {row.lower:.5g} to {row.upper:.5g}" if np.isfinite(row.lower) else "")
        for row in rows.itertuples()
    )
    own = has_ends[:m]
    marks: list[Mark] = [
        Rule(float(value[m]), "x", "reference"),
        Segments(low[:m][own], y[:m][own], high[:m][own], y[:m][own], "data", width=1.2),
        Points(value[:m], y[:m], "data", "Each fit, 95 % interval", hover[:m], size=6.0),
    ]
    if has_ends[m]:
        marks.append(Segments(low[m:], y[m:], high[m:], y[m:], "reml", width=3.0))
    marks.append(Points(value[m:], y[m:], "reml", "Pooled", hover[m:], size=9.0))
    reach = find_reach(rows)
    room = 0.06 * (reach[1] - reach[0]) or 0.5
    texts = (*(labels if m <= NAMED else [""] * m), "pooled")
    return Panel(
        Axis("", range=(reach[0] - room, reach[1] + room)),
        Axis("", ticks=(tuple(y.tolist()), texts), range=(m + 1.2, -0.7)),
        tuple(marks),
        title=title(name),
    )


def find_reach(rows: "pd.DataFrame") -> tuple[float, float]:
    """Return the lowest and the highest number that a panel shows: a very long interval is cut."""
    value, low, high = (rows[key].to_numpy() for key in ("value", "lower", "upper"))
    has_ends = np.isfinite(low) & np.isfinite(high)
    if not has_ends.any():
        return float(value.min()), float(value.max())
    shortest = int(np.argmin(np.where(has_ends, high - low, np.inf)))
    core = np.append(value, [low[shortest], high[shortest]])
    if has_ends[-1]:  # the pooled one
        core = np.append(core, [low[-1], high[-1]])
    most = BEYOND * float(np.ptp(core))
    ends = np.concatenate([core, low[has_ends], high[has_ends]])
    return max(float(ends.min()), core.min() - most), min(float(ends.max()), core.max() + most)


def _cuts(rows: "pd.DataFrame") -> bool:
    low, high = find_reach(rows)
    return bool((rows["lower"] < low).any() or (rows["upper"] > high).any())
