"""What caterpillars are drawn from: effects with their intervals, in order of size."""

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.layout import count, format_digits
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import Patterns
from bhlm.plots.figure import Figure
from bhlm.plots.groups import (
    ENDS,
    LABEL,
    SHOWN,
    Units,
    choose_shown,
    name_group,
    name_groups,
)
from bhlm.plots.marks import Axis, Mark, Panel, Points, Rule, Segments
from bhlm.plots.style import cut_middle, shorten

if TYPE_CHECKING:
    import pandas as pd

PANEL = 300  # pixels
SIZES = {"reml": 6.5, "posterior": 4.5}  # pixels: the one below shows around the other
DENSE = 60  # groups from which on intervals are drawn thin
ASIDE = 0.17  # ranks by which the two kinds of estimate are moved apart, at most
SHARE = 0.012  # and of the axis: few groups have much room, and their two estimates belong together
TICKED = 90  # characters of labels that an axis has room for side by side
UPRIGHT, LONGEST = 24, LABEL  # labels that stand upright, and their characters
LETTER, SHORT = 7, 6  # pixels of a letter, and letters of a label that a panel has room for
COLUMNS = ("group", "coefficient", "rank", "n", "u", "u_low", "u_high", "mean", "low", "high")


class Level(NamedTuple):
    """What the vertical axis of a caterpillar has, and what intervals are compared with."""

    axis: str
    reference: float
    name: str  # of the reference, in a sentence


DEVIATION = Level("deviation", 0.0, "0")


def draw_caterpillar(
    moments: Moments | Units | Patterns,
    effects: "pd.DataFrame",
    names: tuple[str, ...],
    *,
    posterior: bool,
    level: Level = DEVIATION,
) -> Figure:
    """Return the caterpillar of effects that are known already.

    Args:
        moments: of the fit, or the units of one of several factors.
        effects: what `join_effects` returns.
        names: of the coefficients to draw.
        posterior: whether groups are ordered and judged by the posterior.
        level: what they are measured by, if not by deviations.
    """
    import pandas as pd

    parts, panels, found = [], [], []
    for name in names:
        rows = effects[effects["coefficient"] == name].reset_index(drop=True)
        order = np.argsort(rows["mean" if posterior else "u"].to_numpy(), kind="stable")
        ranked = rows.loc[order]
        found.append(_read(moments, ranked, name, posterior=posterior, level=level))
        shown = ranked.iloc[choose_shown(len(ranked))].copy()
        shown["rank"] = choose_shown(len(ranked)) + 1
        parts.append(shown)
        panels.append(_draw_panel(moments, shown, name, level))
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
        height=(PANEL + _measure_labels(panels)) * len(panels) + 60,
    )


def _measure_labels(panels: list[Panel]) -> int:
    """Return the pixels that upright labels need below a panel, beyond those of short ones."""
    texts = [
        text for panel in panels if panel.x.turned and panel.x.ticks for text in panel.x.ticks[1]
    ]
    return LETTER * max(max(map(len, texts), default=0) - SHORT, 0)


def _draw_panel(
    moments: Moments | Units | Patterns, shown: "pd.DataFrame", name: str, level: Level
) -> Panel:
    rank = shown["rank"].to_numpy().astype(float)
    labels = name_groups(shown["group"])
    both = shown["u"].notna().all() and shown["mean"].notna().all()
    below: list[Mark] = [Rule(level.reference, "y", "reference")]
    above: list[Mark] = []
    for role, title, columns, side in (
        ("reml", "Empirical Bayes, ± 1.96 SE", ("u", "u_low", "u_high"), -1.0),
        ("posterior", "Posterior mean, 95 % interval", ("mean", "low", "high"), 1.0),
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
        at = rank + (side * min(ASIDE, SHARE * moments.n_groups) if both else 0.0)
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
    if len(labels) > UPRIGHT:  # both ends, and every k-th between them
        last, step = len(labels) - 1, -(-(len(labels) - 1) // (UPRIGHT - 1))
        ticked = np.append(np.arange(0, last - step // 2, step), last)
    texts = tuple(cut_middle(labels[k], LONGEST) for k in ticked)
    room = 0.5 + 0.01 * moments.n_groups
    along = Axis(
        f"{moments.group}, by rank",
        ticks=(tuple(rank[ticked].tolist()), texts),
        turned=not every,
        range=(1.0 - room, moments.n_groups + room),
    )
    return Panel(along, Axis(level.axis), tuple(marks), title=name)


def _read(
    moments: Moments | Units | Patterns,
    ranked: "pd.DataFrame",
    name: str,
    *,
    posterior: bool,
    level: Level,
) -> str:
    """Return what the panel of one coefficient shows, without a stop."""
    middle, low, high = ("mean", "low", "high") if posterior else ("u", "u_low", "u_high")
    name = shorten(name)
    if not np.any(ranked[middle]):
        return f"{name}: the fit finds no variance over groups, so that every effect is 0"
    at = level.reference
    clear = int(np.sum((ranked[low] > at) | (ranked[high] < at)))
    kind = "posterior" if posterior else "empirical-Bayes"
    ends = []
    for end in (0, -1):
        row = ranked.iloc[end]
        ends.append(f"{format_digits(row[middle], 3)} ({name_group(moments, ranked.index[end])})")
    what = "effects" if level.reference == 0.0 else "groups"
    text = (
        f"{name}: the 95 % {kind} interval is clear of {level.name} in "
        f"{f'{clear:,}' if clear else 'none'} of {count(len(ranked), 'group')}, and {what} run "
        f"from {ends[0]} to {ends[1]}"
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
