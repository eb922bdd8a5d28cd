"""Cook's distance of each group: how far the fixed effects move without it."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import check_arguments
from bhlm.layout import count, format_digits
from bhlm.plots.figure import Figure
from bhlm.plots.groups import (
    SHOWN,
    choose_shown,
    name_group,
    name_groups,
    note_groups,
    order_axis,
    rename_columns,
)
from bhlm.plots.marks import Axis, Mark, Panel, Points, Rule, Segments
from bhlm.plots.style import shorten
from bhlm.reml.estimate import Estimate
from bhlm.reml.influence import DISTANCES, FLAGS, measure_influence

if TYPE_CHECKING:
    import pandas as pd

LABELLED = 3  # groups that are named in the figure
HEIGHT = 380  # pixels
ROOM = 0.06  # of the axis, above and below what is drawn
ROUNDING = 1e-20  # a distance, the square of a change in standard errors, that is none


@check_arguments
def plot_influence(reml: Estimate) -> Figure:
    """Return each group's Cook's distance, from a refit without it, the largest ones named.

    The rule at 4 / J marks what is usually looked at more closely. Of more than 200 groups those
    with the largest and the smallest distances and every k-th of the others are drawn. The cost
    grows with the square of the number of groups: seconds for 1,000.
    Source: Cook (1977), Technometrics 19, 15-18; Van der Meer, Te Grotenhuis & Pelzer (2010),
    American Sociological Review 75, 173-178, for 4 / J.

    Args:
        reml: the fit.

    Raises:
        ArgumentError: fewer than three groups.
    """
    return draw_influence(reml, measure_influence(rename_columns(reml, (*DISTANCES, *FLAGS))))


def draw_influence(reml: Estimate, influence: "pd.DataFrame") -> Figure:
    """Return the figure of what `measure_influence` returned of a fit by `rename_columns`."""
    import pandas as pd

    moments = reml.moments
    cook = clear_rounding(influence["cook"].to_numpy())
    known = np.flatnonzero(np.isfinite(cook))
    order = known[np.argsort(-cook[known], kind="stable")]
    shown = np.sort(order[choose_shown(len(order))])
    labels = name_groups(moments.groups[shown])
    cut = 4.0 / moments.n_groups
    marks: list[Mark] = []
    top = float(np.max(cook[shown], initial=0.0))
    if len(shown):
        at, height = shown + 1.0, cook[shown]
        hover = tuple(
            f"{moments.group} {label}\nCook's distance {format_digits(value, 3)}\nn = {n:.0f}"
            for label, value, n in zip(labels, height, moments.n[shown], strict=True)
        )
        marks += [
            Segments(at, np.zeros(len(at)), at, height, "reml", opacity=0.5),
            Points(at, height, "reml", f"Without one {moments.group}", hover=hover, size=6.0),
        ]
        if cut <= 2.0 * top:
            marks.append(Rule(cut, "y", "warning", "4 / number of groups"))
            top = max(top, cut)
        marks += note_groups(moments, cook, order[:LABELLED].tolist())
    top = top or 1.0
    table = pd.DataFrame({"group": moments.groups[shown]})
    for column in (*DISTANCES, *FLAGS):
        table[column] = influence[column].to_numpy()[shown]
    return Figure(
        name="influence",
        title=f"Influence of each {shorten(moments.group)} on the fixed effects",
        reading=_read(reml, influence, order, cut),
        table=table,
        panels=(
            Panel(
                order_axis(moments),
                Axis("Cook's distance", range=(-ROOM * top, (1.0 + ROOM) * top)),
                tuple(marks),
            ),
        ),
        height=HEIGHT,
    )


def clear_rounding(cook: np.ndarray) -> np.ndarray:
    """Return distances of which those that rounding makes are 0."""
    return np.where(cook < ROUNDING, 0.0, cook)


def _read(reml: Estimate, influence: "pd.DataFrame", order: np.ndarray, cut: float) -> str:
    moments, se = reml.moments, np.sqrt(np.diag(reml.beta_cov))
    lost = moments.n_groups - len(order)
    if not len(order):
        return (
            f"Without any one of the {moments.n_groups} groups the model cannot be estimated, so "
            "no distance exists."
        )
    cook = clear_rounding(influence["cook"].to_numpy())
    first = int(order[0])
    if not cook[first]:
        return (
            f"Leaving out any one of the {count(moments.n_groups, 'group')} leaves the fixed "
            "effects where they are."
        )
    above = int(np.sum(cook[order] > cut))
    # The changes of the fixed effects come after the group and the distances.
    start = influence.columns.get_loc("singular") + 1
    changes = influence.iloc[first, start : start + len(moments.fixed)].to_numpy(dtype=float)
    k = int(np.argmax(np.abs(changes) / se))
    text = (
        f"Leaving out {name_group(moments, first)} moves the fixed effects most (Cook's distance "
        f"{format_digits(cook[first], 2)}; {shorten(moments.fixed[k])} by "
        f"{format_digits(changes[k] / se[k], 2)} standard errors), and {above or 'none'} of "
        f"{count(moments.n_groups, 'group')} {'is' if above == 1 else 'are'} above 4 / J = "
        f"{format_digits(cut, 2)}"
    )
    singular = int(influence["singular"].sum())
    if 0 < singular < moments.n_groups:
        text += f"; {count(singular, 'refit')} {'is' if singular == 1 else 'are'} singular"
    if lost:
        text += f"; without {count(lost, 'group')} the model cannot be estimated"
    if len(order) > SHOWN:
        text += f"; {SHOWN} of them are drawn, the largest among them"
    return text + "."
