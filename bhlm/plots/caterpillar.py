"""The caterpillar: every group's effects with their intervals, in order of size."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import count, format_digits
from bhlm.moments.moments import Moments
from bhlm.plots.figure import Figure
from bhlm.plots.groups import (
    ENDS,
    SHOWN,
    Fit,
    Units,
    choose_shown,
    join_effects,
    name_group,
    name_groups,
    split_fit,
)
from bhlm.plots.marks import Axis, Mark, Panel, Points, Rule, Segments
from bhlm.plots.style import shorten

if TYPE_CHECKING:
    import pandas as pd

PANEL = 300  # pixels
SIZES = {"reml": 6.5, "posterior": 4.5}  # pixels: the one below shows around the other
DENSE = 60  # groups from which on intervals are drawn thin
ASIDE = 0.17  # ranks by which the two kinds of estimate are moved apart
TICKED = 90  # characters of labels that an axis has room for side by side
UPRIGHT, LONGEST = 24, 14  # labels that stand upright, and their characters
COLUMNS = ("group", "coefficient", "rank", "n", "u", "u_low", "u_high", "mean", "low", "high")


@check_arguments
def plot_caterpillar(fit: Fit, *, coefficient: str | None = None) -> Figure:
    """Return each group's effects with 95 % intervals, one panel per coefficient, in order.

    An effect is the deviation u of a group's coefficient from what the fixed effects expect. REML
    gives empirical Bayes and its standard error of prediction, which knows that the fixed effects
    are estimated, but takes the variances as known; the posterior its mean and equal-tailed
    interval; a reconciliation both. Of more than 200 groups the 20 lowest, the 20 highest and
    every k-th of the others are drawn, each at its rank among all.

    Source: Henderson (1975), Biometrics 31, 423-447.

    Args:
        fit: a RemlFit, a BayesFit or a Reconciliation.
        coefficient: the random coefficient to draw; None draws all.

    Raises:
        ArgumentError: a coefficient that is not random in the model.
    """
    reml, post = split_fit(fit)
    given = reml if reml is not None else post
    assert given is not None
    names = given.moments.random
    if coefficient is not None:
        if coefficient not in names:
            raise ArgumentError(
                f"coefficient={coefficient!r} does not vary over '{given.moments.group}'; choose "
                f"one of {', '.join(names)}"
            )
        names = (coefficient,)
    effects = join_effects(reml, post)
    return draw_caterpillar(given.moments, effects, names, posterior=post is not None)


def draw_caterpillar(
    moments: Moments | Units, effects: "pd.DataFrame", names: tuple[str, ...], *, posterior: bool
) -> Figure:
    """Return the caterpillar of effects that are known already.

    Args:
        moments: of the fit, or the units of one of several factors.
        effects: what `join_effects` returns.
        names: of the coefficients to draw.
        posterior: whether groups are ordered and judged by the posterior.
    """
    import pandas as pd

    parts, panels, found = [], [], []
    for name in names:
        rows = effects[effects["coefficient"] == name].reset_index(drop=True)
        order = np.argsort(rows["mean" if posterior else "u"].to_numpy(), kind="stable")
        ranked = rows.loc[order]
        found.append(_read(moments, ranked, name, posterior=posterior))
        shown = ranked.iloc[choose_shown(len(ranked))].copy()
        shown["rank"] = choose_shown(len(ranked)) + 1
        parts.append(shown)
        panels.append(_draw_panel(moments, shown, name))
    # Panels stand one below the other: the lowest says for all what their axis is.
    panels = [*(replace(each, x=replace(each.x, label="")) for each in panels[:-1]), panels[-1]]
    table = pd.concat(parts, ignore_index=True)[list(COLUMNS)].dropna(axis=1, how="all")
    reading = "; ".join(found)
    if moments.n_groups > SHOWN:
        reading += (
            f" (drawn are the {ENDS} lowest, the {ENDS} highest and {SHOWN - 2 * ENDS} evenly "
            f"spaced of the other {moments.n_groups - 2 * ENDS:,} groups)"
        )
    return Figure(
        name="caterpillar",
        title=f"Effects of each {shorten(moments.group)}, in order",
        reading=reading + ".",
        table=table,
        panels=tuple(panels),
        height=PANEL * len(panels) + 60,
    )


def _draw_panel(moments: Moments | Units, shown: "pd.DataFrame", name: str) -> Panel:
    rank = shown["rank"].to_numpy().astype(float)
    labels = name_groups(shown["group"])
    both = shown["u"].notna().all() and shown["mean"].notna().all()
    below: list[Mark] = [Rule(0.0, "y", "reference")]
    above: list[Mark] = []
    for role, title, columns, side in (
        ("reml", "Empirical Bayes, ± 1.96 SE", ("u", "u_low", "u_high"), -ASIDE),
        ("posterior", "Posterior mean, 95 % interval", ("mean", "low", "high"), ASIDE),
    ):
        middle, low, high = (shown[column].to_numpy() for column in columns)
        if np.isnan(middle).all():
            continue
        hover = tuple(
            f"{moments.group} {label}\nrank {at}, n = {n}\n{title.split(',')[0]} "
            f"{format_digits(m, 3)}, {format_digits(a, 3)} to {format_digits(b, 3)}"
            for label, at, n, m, a, b in zip(
                labels, shown["rank"], shown["n"], middle, low, high, strict=True
            )
        )
        at = rank + (side if both else 0.0)
        # Intervals of 160 groups fill a phone's screen; what lies below them shows through.
        dense = len(rank) > DENSE
        below.append(
            Segments(at, low, at, high, role, width=1.0 if dense else 2.0,
                     opacity=0.55 if dense else 1.0)
        )  # fmt: skip
        above.append(Points(at, middle, role, title, hover=hover, size=SIZES[role]))
    marks = below + above
    every = sum(len(label) + 2 for label in labels) <= TICKED
    ticked = np.arange(len(labels))
    if len(labels) > UPRIGHT:  # both ends, and as many between them as there is room for
        ticked = np.linspace(0, len(labels) - 1, UPRIGHT).round().astype(int)
    texts = tuple(shorten(labels[k], LONGEST) for k in ticked)
    room = 0.5 + 0.01 * moments.n_groups
    along = Axis(
        f"{moments.group}, by rank",
        ticks=(tuple(rank[ticked].tolist()), texts),
        turned=not every,
        range=(1.0 - room, moments.n_groups + room),
    )
    return Panel(along, Axis("deviation"), tuple(marks), title=name)


def _read(moments: Moments | Units, ranked: "pd.DataFrame", name: str, *, posterior: bool) -> str:
    """Return what the panel of one coefficient shows, without a stop."""
    middle, low, high = ("mean", "low", "high") if posterior else ("u", "u_low", "u_high")
    name = shorten(name)
    if not np.any(ranked[middle]):
        return f"{name}: REML finds no variance over groups, so that every effect is 0"
    clear = int(np.sum((ranked[low] > 0.0) | (ranked[high] < 0.0)))
    kind = "posterior" if posterior else "empirical-Bayes"
    ends = []
    for at in (0, -1):
        row = ranked.iloc[at]
        ends.append(f"{format_digits(row[middle], 3)} ({name_group(moments, ranked.index[at])})")
    text = (
        f"{name}: the 95 % {kind} interval is clear of 0 in {clear or 'none'} of "
        f"{count(len(ranked), 'group')}, and effects run from {ends[0]} to {ends[1]}"
    )
    width = ranked["u_high"] - ranked["u_low"]
    if posterior and np.all(width > 0.0):
        ratio = float(np.median((ranked["high"] - ranked["low"]) / width))
        text += (
            f", with intervals {format_digits(ratio, 3)} times as wide as those of empirical Bayes"
        )
    elif posterior and not ranked["u"].isna().any() and not np.any(ranked["u"]):
        text += ", while every empirical-Bayes effect is 0"
    return text
