"""Cook's distance of each group: how far the fixed effects move without it."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import check_arguments
from bhlm.layout import count, format_digits
from bhlm.moments.moments import Moments
from bhlm.plots.figure import Figure
from bhlm.plots.groups import SHOWN, choose_shown, name_group, name_groups, rename_columns
from bhlm.plots.marks import Axis, Mark, Note, Panel, Points, Rule, Segments
from bhlm.plots.style import cut_middle, shorten
from bhlm.reml.estimate import Estimate
from bhlm.reml.influence import DISTANCES, FLAGS, measure_influence

if TYPE_CHECKING:
    import pandas as pd

LABELLED = 3  # groups that are named in the figure
NAME = 14  # characters of a name beside its point
APART = (0.35, 0.08)  # share of the axes that two names need between them on a narrow screen
HEIGHT = 380  # pixels


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
    cook = influence["cook"].to_numpy()
    known = np.flatnonzero(np.isfinite(cook))
    order = known[np.argsort(-cook[known], kind="stable")]
    shown = np.sort(order[choose_shown(len(order))])
    labels = name_groups(moments.groups[shown])
    cut = 4.0 / moments.n_groups
    marks: list[Mark] = []
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
        if cut <= 2.0 * float(height.max()):
            marks.append(Rule(cut, "y", "warning", "4 / number of groups"))
        marks += _name_largest(moments, cook, order[:LABELLED])
    table = pd.DataFrame({"group": moments.groups[shown]})
    for column in (*DISTANCES, *FLAGS):
        table[column] = influence[column].to_numpy()[shown]
    # Names stand to the right of their points, the last of which needs room.
    along = Axis(
        f"{moments.group}, in the order of the data",
        range=(1.0 - 0.03 * moments.n_groups - 0.2, 1.16 * moments.n_groups + 0.5),
    )
    return Figure(
        name="influence",
        title=f"Influence of each {shorten(moments.group)} on the fixed effects",
        reading=_read(reml, influence, order, cut),
        table=table,
        panels=(Panel(along, Axis("Cook's distance"), tuple(marks)),),
        height=HEIGHT,
    )


def _name_largest(moments: Moments, cook: np.ndarray, largest: np.ndarray) -> list[Note]:
    """Return the names of the largest, without those that would lie on another."""
    notes: list[Note] = []
    for j in largest.tolist():
        at, height = j + 1.0, float(cook[j])
        if all(
            abs(at - other.x) > APART[0] * moments.n_groups
            or abs(height - other.y) > APART[1] * float(cook[largest[0]])
            for other in notes
        ):
            notes.append(Note(at, height, cut_middle(name_groups(moments.groups[[j]])[0], NAME)))
    return notes


def _read(reml: Estimate, influence: "pd.DataFrame", order: np.ndarray, cut: float) -> str:
    moments, se = reml.moments, np.sqrt(np.diag(reml.beta_cov))
    lost = moments.n_groups - len(order)
    if not len(order):
        return (
            f"Without any one of the {moments.n_groups} groups the model cannot be estimated, so "
            "no distance exists."
        )
    cook = influence["cook"].to_numpy()
    first = int(order[0])
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
