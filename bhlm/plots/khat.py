"""Pareto k-hat of each group: whether leaving it out could be done by importance weights."""

from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.checks.loo import Loo, leave_out_groups
from bhlm.bayes.draws import Draws
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.errors import check_arguments
from bhlm.layout import count, format_digits, name_unit
from bhlm.plots.arviz_figures import find_writer
from bhlm.plots.figure import Figure
from bhlm.plots.groups import name_groups
from bhlm.plots.style import ROLES, cut_middle, shorten

if TYPE_CHECKING:
    import xarray as xr

MOST = 1000  # groups that are drawn
LARGEST = 100  # of these, how many with the largest k-hat
NAMED = 5  # groups above the threshold that are named in the figure
SIZES = {"plotly": 36, "matplotlib": 12}  # of points, in the backend's units
HEIGHT = 380  # pixels
LABEL = 16  # characters of a group's name in the figure
TICKED = 8  # groups whose names stand along the axis, where a number would say nothing
EDGE = 0.12  # share of the groups left free at either end, for the name of one that stands there


@check_arguments
def plot_khat(post: Draws) -> Figure:
    """Return the k-hat of each group's leave-one-out weights, beside the threshold.

    Drawn by ArviZ's `plot_khat`. Above min(0.7, 1 - 1 / log10(draws)) the weights are not trusted,
    and `post.loo()` samples the posterior without the group anew. Nothing is sampled here. Of more
    than 1,000 groups the 100 with the largest k-hat and every k-th of the others are drawn.
    Source: Vehtari, Simpson, Gelman, Yao & Gabry (2024), JMLR 25(72).

    Args:
        post: the posterior.

    Raises:
        ArgumentError: draws from the prior alone, or fewer than two groups.
    """
    return draw_khat(post, leave_out_groups(post, refit=False))


def draw_khat(
    post: Draws | FamilyDraws, loo: Loo, *, most: int = MOST, largest: int = LARGEST
) -> Figure:
    """Return the figure of a leave-one-group-out that has been made already.

    Of more than `most` groups those with the `largest` k-hat are drawn, and some of the others.
    """
    import pandas as pd
    import xarray as xr

    moments = post.moments
    khat = loo.table["khat"].to_numpy()
    shown = np.arange(len(khat))
    if len(khat) > most:
        order = np.argsort(-khat, kind="stable")
        inner = np.linspace(largest, len(khat) - 1, most - largest).round().astype(int)
        shown = np.sort(order[np.concatenate([np.arange(largest), inner])])
    labels = name_groups(moments.groups[shown])
    values = xr.DataArray(khat[shown], dims=("group",), coords={"group": labels}, name="khat")

    def draw(backend: str) -> Any:
        return _draw_points(loo, values, backend, f"{moments.group}, in the order of the data")

    return Figure(
        name="khat",
        title=f"Leaving out each {shorten(moments.group)}: Pareto k-hat",
        reading=_read(moments.group, loo, len(shown)),
        table=pd.DataFrame(
            {
                "group": moments.groups[shown],
                "khat": khat[shown],
                "elpd": loo.table["elpd"].to_numpy()[shown],
                "refitted": loo.table["refitted"].to_numpy()[shown],
            }
        ),
        draw=draw,
        height=HEIGHT,
    )


def _draw_points(loo: Loo, values: "xr.DataArray", backend: str, along: str) -> Any:
    from arviz_base.labels import NoVarLabeller
    from arviz_plots import plot_khat as plot_points

    write = find_writer(backend)
    shown = values.assign_coords(
        group=[write(cut_middle(label, LABEL)) for label in values["group"].values]
    )
    above = int(np.sum(values.values > loo.good_k))
    measured = copy(loo)
    measured.pareto_k = shown
    collection = plot_points(
        measured,
        threshold=loo.good_k if above <= NAMED else None,
        hline_values=[loo.good_k],
        backend=backend,
        labeller=NoVarLabeller(),
        visuals={
            "khat": {"color": ROLES["posterior"].light, "alpha": 0.8, "size": SIZES[backend]},
            "hlines": {"color": ROLES["warning"].light} if backend == "matplotlib" else False,
            "xlabel": {"text": write(along)},
            "ylabel": {"text": "k-hat"},
        },
    )
    # ArviZ adds the rule before the points, and Plotly leaves it out of a panel that is empty. The
    # threshold is to be seen, however far the points are below it.
    finite = values.values[np.isfinite(values.values)]
    low, high = min(0.0, *finite), max(loo.good_k, *finite)
    room = 0.06 * (high - low)
    drawn = collection.viz["figure"].item()
    told = f"threshold {loo.good_k:.2f}"
    if backend == "plotly":
        ink = ROLES["warning"].light
        drawn.add_hline(
            loo.good_k, line={"color": ink, "width": 1.5}, name="warning",
            annotation_text=told, annotation_position="top right",
        )  # fmt: skip
        drawn.update_yaxes(range=[low - room, high + room])
        _fit_axis(drawn, shown["group"].values)
    else:
        drawn.axes[0].set_ylim(low - room, high + room)
        drawn.axes[0].annotate(
            told, (1.0, loo.good_k), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize="small",
        )  # fmt: skip
    return collection


def _fit_axis(drawn: Any, labels: np.ndarray) -> None:
    """Give names room at the ends of the horizontal axis by Plotly, and few groups their names."""
    edge = 0.5 + EDGE * len(labels)
    drawn.update_xaxes(range=[-edge, len(labels) - 1 + edge])
    if len(labels) <= TICKED:
        drawn.update_xaxes(
            tickmode="array", tickvals=list(range(len(labels))), ticktext=labels.tolist()
        )


def _read(group: str, loo: Loo, shown: int) -> str:
    khat = loo.table["khat"].to_numpy()
    bad = int(np.sum(~(khat <= loo.good_k)))
    refitted = int(loo.table["refitted"].sum())
    worst = name_groups(loo.labels[[int(np.argmax(khat))]])[0]
    text = (
        f"The largest k-hat is {format_digits(float(np.max(khat)), 2)} "
        f"({name_unit(shorten(group, 30), cut_middle(worst, 30))})"
    )
    if not bad:
        text += (
            f", below the threshold of {loo.good_k:.2f} for all {count(len(khat), 'group')}, so "
            "importance weights can leave out each of them"
        )
    else:
        text += (
            f"; it is above the threshold of {loo.good_k:.2f} for {bad:,} of "
            f"{count(len(khat), 'group')}"
        )
        if refitted:
            text += (
                f"; {count(refitted, 'group')} {'was' if refitted == 1 else 'were'} left out by "
            )
            text += "sampling anew"
        else:
            text += ", for which leaving one out needs the posterior sampled without "
            text += f"{'it' if bad == 1 else 'each of them'} anew"
    if shown < len(khat):
        text += f"; {shown:,} of {len(khat):,} are drawn, the largest among them"
    return text + "."
