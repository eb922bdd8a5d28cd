"""Shrinkage: from each group's own least squares to its empirical-Bayes coefficients."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import check_arguments
from bhlm.layout import count, format_digits
from bhlm.likelihood.whitening import ROUNDING
from bhlm.moments.moments import INTERCEPT, Moments
from bhlm.plots.figure import Figure
from bhlm.plots.groups import SHOWN, choose_shown, join_effects, name_group, name_groups
from bhlm.plots.marks import Axis, Line, Mark, Panel, Points, Segments
from bhlm.plots.style import shorten
from bhlm.reml.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

PANELS = 3  # coefficients beside the first that are drawn
PANEL = 420  # pixels
# Least squares further from the quartiles than this many interquartile ranges are off the axes.
FENCE = 3.0
SAME = 1e-9  # of the size of coefficients: below it, what groups are drawn to is one point
COLUMNS = ("group", "coefficient", "n", "fixed", "ols", "eb", "reliability", "shrinkage")


@check_arguments
def plot_shrinkage(reml: Estimate) -> Figure:
    """Return least squares and empirical Bayes of each group, joined, in the plane of two.

    The plane is that of the first random coefficient and of each further one, up to three; with
    one coefficient, least squares are drawn against empirical Bayes beside the line of equality.
    A group without full rank has no least squares and is counted in the reading. Of more than 200
    groups the 20 that move most, the 20 that move least and every k-th of the others are drawn.
    Least squares beyond Tukey's outer fences (3 interquartile ranges) may lie off the axes.

    Args:
        reml: the fit.
    """
    return draw_shrinkage(reml.moments, join_effects(reml, None))


def draw_shrinkage(moments: Moments, effects: "pd.DataFrame") -> Figure:
    """Return the figure of effects that are known already, from `join_effects`."""
    import pandas as pd

    names, q = moments.random, len(moments.random)
    noise = measure_rounding(moments)
    ols, eb, fixed = (
        np.where(np.abs(values) < noise, 0.0, values)
        for values in (effects[name].to_numpy().reshape(-1, q) for name in ("ols", "eb", "fixed"))
    )
    own = np.flatnonzero(np.isfinite(ols).all(axis=1))
    spread = ols[own].std(axis=0)
    moved = np.sum(((ols - eb)[own] / np.where(spread > 0.0, spread, 1.0)) ** 2, axis=1)
    order = own[np.argsort(-moved, kind="stable")]
    shown = order[choose_shown(len(order))]
    labels = name_groups(moments.groups[shown])
    if q == 1:
        drawn = [_draw_equality(moments, labels, ols[shown, 0], eb[shown, 0])]
    else:
        planes = [[0, k] for k in range(1, min(q, PANELS + 1))]
        drawn = [
            _draw_plane(moments, labels, *(x[shown][:, at] for x in (ols, eb, fixed)), at=at)
            for at in planes
        ]
    panels = tuple(panel for panel, _ in drawn)
    outside = int(np.any([off for _, off in drawn], axis=0).sum())
    rows = (shown[:, None] * q + np.arange(q)).ravel()
    table = pd.DataFrame(effects.iloc[rows][list(COLUMNS)]).reset_index(drop=True)
    return Figure(
        name="shrinkage",
        title="From least squares to empirical Bayes",
        reading=_read(moments, ols, eb, own, order, outside, names),
        table=table,
        panels=panels,
        height=PANEL * len(panels),
    )


def measure_rounding(moments: Moments) -> Array:
    """Return of each random coefficient (q,) the size below which it is rounding alone."""
    size = np.sqrt(
        np.einsum("jkk->k", moments.cross) / moments.n.sum()
        + np.average(moments.mean**2, axis=0, weights=moments.n)
    )
    sizes = dict(zip(moments.columns, size, strict=True)) | {INTERCEPT: 1.0}
    own = np.array([sizes[name] for name in moments.random])
    return np.asarray(np.sqrt(ROUNDING) * size[-1] / np.where(own > 0.0, own, 1.0))


def _draw_equality(
    moments: Moments, labels: list[str], ols: Array, eb: Array
) -> tuple[Panel, Array]:
    name = moments.random[0]
    hover = tuple(
        f"{moments.group} {label}\nleast squares {format_digits(a, 4)}\n"
        f"empirical Bayes {format_digits(b, 4)}"
        for label, a, b in zip(labels, ols, eb, strict=True)
    )
    low, high = _find_limits(ols, eb)
    ends = np.array([low, high])
    marks: tuple[Mark, ...] = (
        Line(ends, ends, "reference", "No shrinkage"),
        Points(ols, eb, "reml", moments.group, hover=hover),
    )
    panel = Panel(
        Axis(f"{shorten(name)}, least squares (OLS)", range=(low, high)),
        Axis(f"{shorten(name)}, empirical Bayes (EB)"),
        marks,
    )
    return panel, (ols < low) | (ols > high)


def _draw_plane(
    moments: Moments, labels: list[str], ols: Array, eb: Array, fixed: Array, *, at: list[int]
) -> tuple[Panel, Array]:
    """Return the panel of two coefficients (m, 2), and which least squares are off its axes."""
    names = [moments.random[k] for k in at]
    texts = {}
    for key, title, values in (("ols", "least squares", ols), ("eb", "empirical Bayes", eb)):
        texts[key] = tuple(
            f"{moments.group} {label}\n{title}\n{names[0]} {format_digits(a, 4)}\n"
            f"{names[1]} {format_digits(b, 4)}"
            for label, (a, b) in zip(labels, values, strict=True)
        )
    marks: list[Mark] = [
        Segments(ols[:, 0], ols[:, 1], eb[:, 0], eb[:, 1], "reference", opacity=0.6),
        Points(ols[:, 0], ols[:, 1], "ols", "Least squares (OLS)", hover=texts["ols"], size=5.0,
               opacity=0.8),
        Points(eb[:, 0], eb[:, 1], "reml", "Empirical Bayes (EB)", hover=texts["eb"], size=5.0),
    ]  # fmt: skip
    if np.all(np.ptp(fixed, axis=0) <= SAME * np.max(np.abs(fixed), axis=0)):
        marks.append(
            Points(fixed[:1, 0], fixed[:1, 1], "population", "Fixed effects", size=11.0,
                   hover=(f"fixed effects\n{names[0]} {format_digits(fixed[0, 0], 4)}\n"
                          f"{names[1]} {format_digits(fixed[0, 1], 4)}",))
        )  # fmt: skip
    ends = [_find_limits(ols[:, k], eb[:, k]) for k in (0, 1)]
    off = np.zeros(len(ols), dtype=bool)
    for k in (0, 1):
        off |= (ols[:, k] < ends[k][0]) | (ols[:, k] > ends[k][1])
    return Panel(Axis(names[0], range=ends[0]), Axis(names[1], range=ends[1]), tuple(marks)), off


def _find_limits(values: Array, always: Array) -> tuple[float, float]:
    """Return the ends of an axis: what lies within the fences, and `always`, with some room."""
    first, third = np.quantile(values, [0.25, 0.75])
    reach = FENCE * (third - first)
    near = values[(values >= first - reach) & (values <= third + reach)]
    low = float(min(near.min(), always.min()))
    high = float(max(near.max(), always.max()))
    room = 0.05 * (high - low) or max(0.05 * abs(high), 0.5)
    return low - room, high + room


def _read(
    moments: Moments,
    ols: Array,
    eb: Array,
    own: Array,
    order: Array,
    outside: int,
    names: tuple[str, ...],
) -> str:
    parts = []
    if len(own) > 1:
        before, after = ols[own].std(axis=0, ddof=1), eb[own].std(axis=0, ddof=1)
        parts = [
            f"of {shorten(name)} from {format_digits(a, 3)} to {format_digits(b, 3)}"
            for name, a, b in zip(names[: PANELS + 1], before, after, strict=False)
        ]
    first = int(order[0])
    most = (
        f"{name_group(moments, first)} moves furthest ("
        + ", ".join(
            f"{shorten(name)} {format_digits(a, 3)} to {format_digits(b, 3)}"
            for name, a, b in zip(names[: PANELS + 1], ols[first], eb[first], strict=False)
        )
        + f", n = {moments.n[first]:.0f})"
    )
    text = f"Over {count(len(own), 'group')}, shrinkage takes the SD {', '.join(parts)}; {most}"
    if len(own) > 1 and np.abs(ols[own] - eb[own]).max() <= SAME * np.abs(ols[own]).max():
        text = f"Nothing is shrunk: least squares and empirical Bayes of {len(own):,} groups agree"
    if not parts:
        text = f"One group alone has least squares of its own: {most}"
    missing = moments.n_groups - len(own)
    if missing:
        text += (
            f"; {count(missing, 'group')} without least squares of "
            f"{'its' if missing == 1 else 'their'} own {'is' if missing == 1 else 'are'} not drawn"
        )
    if len(own) > SHOWN:
        text += f"; drawn are {SHOWN} of the {len(own):,}, the furthest moves among them"
    if outside:
        text += (
            f"; the least squares of {count(outside, 'group')} "
            f"{'lies' if outside == 1 else 'lie'} off the axes"
        )
    return text + "."
