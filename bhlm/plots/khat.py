"""Pareto k-hat of each group: whether leaving it out could be done by importance weights."""

import numpy as np

from bhlm.bayes.checks.loo import Loo, leave_out_groups
from bhlm.bayes.draws import Draws
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.errors import check_arguments
from bhlm.layout import count, format_digits, name_unit
from bhlm.plots.figure import Figure
from bhlm.plots.groups import name_groups, note_groups, order_axis
from bhlm.plots.marks import Axis, Mark, Panel, Points, Rule
from bhlm.plots.style import cut_middle, shorten

MOST = 1000  # groups that are drawn
LARGEST = 100  # of these, how many with the largest k-hat
NAMED = 3  # groups above the threshold that are named in the figure
HEIGHT = 380  # pixels
ROOM = 0.06  # of the axis, above and below what is drawn


@check_arguments
def plot_khat(post: Draws) -> Figure:
    """Return the k-hat of each group's leave-one-out weights, beside the threshold.

    Above min(0.7, 1 - 1 / log10(draws)) the weights are not trusted, and `post.loo()` samples the
    posterior without the group anew. Nothing is sampled here. Of more than 1,000 groups the 100
    with the largest k-hat and every k-th of the others are drawn.
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

    moments = post.moments
    khat = loo.table["khat"].to_numpy()
    shown = np.arange(len(khat))
    if len(khat) > most:
        order = np.argsort(-khat, kind="stable")
        inner = np.linspace(largest, len(khat) - 1, most - largest).round().astype(int)
        shown = np.sort(order[np.concatenate([np.arange(largest), inner])])
    known = shown[np.isfinite(khat[shown])]
    hover = tuple(
        f"{moments.group} {label}\nk-hat {format_digits(value, 3)}"
        for label, value in zip(name_groups(moments.groups[known]), khat[known], strict=True)
    )
    above = known[khat[known] > loo.good_k]
    marks: list[Mark] = [
        Points(known + 1.0, khat[known], "posterior", hover=hover, size=6.0, opacity=0.8),
        # The threshold is to be seen, however far the points are below it.
        Rule(loo.good_k, "y", "warning", f"threshold {loo.good_k:.2f}"),
        *note_groups(
            moments, khat, above[np.argsort(-khat[above], kind="stable")][:NAMED].tolist()
        ),
    ]
    low, high = min(0.0, *khat[known]), max(loo.good_k, *khat[known])
    room = ROOM * (high - low)
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
        panels=(
            Panel(
                order_axis(moments), Axis("k-hat", range=(low - room, high + room)), tuple(marks)
            ),
        ),
        height=HEIGHT,
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
