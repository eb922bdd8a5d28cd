"""Panels -> matplotlib.figure.Figure; the one file that knows matplotlib."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bhlm.plots.marks import Axis, Band, Bars, Line, Mark, Note, Panel, Points, Rule, Segments
from bhlm.plots.style import DASHES, PAGES, ROLES, SYMBOLS, shorten

PIXELS = 100.0  # per inch
WIDTH = 7.0  # inches, of one column; further columns add to it
BAND_OPACITY = 0.18


def draw_matplotlib(panels: Sequence[Panel], *, columns: int = 1, height: int) -> Any:
    """Return panels drawn by matplotlib, apart from pyplot: no window, nothing to close.

    Args:
        panels: in the order of reading.
        columns: panels side by side.
        height: pixels, of all panels together.
    """
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = WIDTH * (1.0 if columns == 1 else 0.65 * columns)
    drawn = Figure(figsize=(width, height / PIXELS), layout="constrained")
    axes = drawn.subplots(rows, columns, squeeze=False)
    for at, place in enumerate(axes.ravel()):
        if at >= len(panels):
            place.set_axis_off()
            continue
        panel = panels[at]
        for mark in panel.marks:
            _draw_mark(place, mark)
        place.set_title(write(panel.title))
        _set_axis(place, panel.x, "x")
        _set_axis(place, panel.y, "y")
        place.spines[["top", "right"]].set_visible(False)
        place.grid(color=PAGES["light"]["grid"], linewidth=0.6)
        place.set_axisbelow(True)
    _add_legend(drawn, axes.ravel())
    return drawn


def finish_arviz(drawn: Any) -> None:
    """Take a figure that ArviZ drew from pyplot, which would keep it and show it a second time.

    Panels share the label of their x axis, below the lowest.
    """
    from matplotlib import pyplot

    pyplot.close(drawn)
    drawn.set_layout_engine("constrained")
    for place in drawn.axes:
        has_labels = any(label.get_visible() for label in place.get_xticklabels())
        if not place.get_subplotspec().is_last_row() and not has_labels:
            place.set_xlabel("")


def name_lines(drawn: Any, names: Mapping[str, str], *, dashed: bool = False) -> None:
    """Put one entry per role under a figure.

    Args:
        drawn: by matplotlib.
        names: role -> the text of its entry, escaped.
        dashed: whether the lines have the dashes of their roles.
    """
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [], [], color=ROLES[role].light, label=name,
            linestyle=DASHES[ROLES[role].dash] if dashed else "-",
        )
        for role, name in names.items()
    ]  # fmt: skip
    drawn.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)


def write(text: object, longest: int | None = None) -> str:
    """Return a text for matplotlib that shows every character as itself, shortened."""
    line = shorten(text) if longest is None else shorten(text, longest)
    return line.replace("\\", "\\\\").replace("$", r"\$") if "$" in line else line


def _label(mark: Any) -> str:
    # matplotlib leaves a label that begins with an underscore out of the legend.
    return (" " if mark.name.startswith("_") else "") + write(mark.name) if mark.name else "_"


def _draw_mark(place: Any, mark: Mark) -> None:
    if isinstance(mark, Note):
        place.annotate(
            write(mark.text), (mark.x, mark.y), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize="small",
        )  # fmt: skip
        return
    look = ROLES[mark.role]
    shared: dict[str, Any] = {"color": look.light, "label": _label(mark)}
    match mark:
        case Points():
            _draw_points(place, mark)
        case Line():
            place.plot(
                mark.x, mark.y, linestyle=DASHES[look.dash], linewidth=0.7 * mark.width,
                alpha=mark.opacity, drawstyle="steps-post" if mark.steps else "default", **shared,
            )  # fmt: skip
        case Band():
            place.fill_between(
                mark.x, mark.low, mark.high, alpha=BAND_OPACITY, linewidth=0.0, **shared
            )
        case Segments():
            from matplotlib.collections import LineCollection

            ends = [
                [(x0, y0), (x1, y1)]
                for x0, y0, x1, y1 in zip(mark.x0, mark.y0, mark.x1, mark.y1, strict=True)
            ]
            place.add_collection(
                LineCollection(ends, linewidths=0.7 * mark.width, alpha=mark.opacity, **shared)
            )
            place.autoscale_view()
        case Bars():
            if mark.horizontal:
                place.barh(mark.at, mark.length, left=mark.base, height=mark.width, **shared)
            else:
                place.bar(mark.at, mark.length, bottom=mark.base, width=mark.width, **shared)
        case Rule():
            rule = place.axvline if mark.axis == "x" else place.axhline
            rule(mark.value, linestyle=DASHES[look.dash], linewidth=1.0, **shared)


def _draw_points(place: Any, mark: Points) -> None:
    look = ROLES[mark.role]
    bars = {}
    for axis, low, high, middle in (
        ("xerr", mark.x_low, mark.x_high, mark.x),
        ("yerr", mark.y_low, mark.y_high, mark.y),
    ):
        if low is not None and high is not None:
            bars[axis] = [middle - low, high - middle]
    place.errorbar(
        mark.x, mark.y, **bars, fmt=SYMBOLS[look.symbol], color=look.light, alpha=mark.opacity,
        markersize=0.7 * mark.size, elinewidth=1.0, label=_label(mark),
        markerfacecolor="none" if look.symbol.endswith("-open") else look.light,
    )  # fmt: skip


def _set_axis(place: Any, axis: Axis, which: str) -> None:
    place.set(**{f"{which}label": write(axis.label)})
    if axis.log:
        place.set(**{f"{which}scale": "log"})
    if axis.ticks is not None:
        values, texts = axis.ticks
        getattr(place, f"set_{which}ticks")(values, [write(text, 40) for text in texts])
    if axis.range is not None:
        place.set(**{f"{which}lim": axis.range})


def _add_legend(drawn: Any, axes: Any) -> None:
    """Put one entry per name under the figure."""
    entries: dict[str, Any] = {}
    for place in axes:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        drawn.legend(
            entries.values(), entries.keys(), loc="outside lower left", ncols=min(4, len(entries)),
            frameon=False,
        )  # fmt: skip
