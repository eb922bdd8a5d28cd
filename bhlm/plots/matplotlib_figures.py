"""Panels -> matplotlib.figure.Figure; the one file that knows matplotlib."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from textwrap import wrap
from typing import Any

from bhlm.errors import ArgumentError
from bhlm.layout import count
from bhlm.plots.marks import Axis, Band, Bars, Line, Mark, Note, Panel, Points, Rule, Segments
from bhlm.plots.style import DASHES, FONTS, PAGES, ROLES, SYMBOLS, cut_middle, shorten

PIXELS = 100.0  # per inch
WIDTH = 7.0  # inches, of one column; further columns add to it
SCREEN = 10.0  # points of the type on a screen
INCHES = {"column": 3.5, "page": 7.0}  # of a paper
CHARACTERS = {"column": 46, "page": 100}  # of a line of the legend in these widths
SMALL = {"column": 0.62, "page": 0.75}  # of a row's height on a screen
# inches: a row on a screen, a figure, a tick's text, a name over symbols
TALLEST, LOWEST, LINE, NOTED = 4.4, 2.0, 0.17, 0.27
ROW, LEGEND = 0.8, 0.6  # inches: the least that a row of ArviZ's panels, and what is below, need
TICKED = {"column": 22, "page": 34}  # characters of a label at a tick
BAND_OPACITY = 0.18
OWN_FONT = "DejaVu Sans"
INSIDE = 0.94  # of a figure's width or height, that its texts may take


def draw_matplotlib(
    panels: Sequence[Panel],
    *,
    columns: int = 1,
    height: int,
    width: str | None = None,
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
    ax: Any = None,
) -> Any:
    """Return panels drawn by matplotlib, apart from pyplot: no window, nothing to close.

    Args:
        panels: in the order of reading.
        columns: panels side by side.
        height: pixels, of all panels together.
        width: "column" or "page" of a paper, in the type of one; None is that of a screen.
        labels: texts by the text that they stand for, a column's or a parameter's name.
        title: above the figure.
        ax: axes of a figure that exists, or a list of them, one for each panel.

    Raises:
        ArgumentError: not as many axes as panels.
    """
    from matplotlib.figure import Figure

    with use_style(width):
        if ax is not None:
            places = _list_axes(ax, len(panels))
            for place, panel in zip(places, panels, strict=True):
                _draw_panel(place, panel, width, labels)
                entries = _list_entries([place])
                if entries:
                    place.legend(entries.values(), entries.keys(), frameon=False)
            if title is not None:
                places[0].set_title(write(title))
            return places[0].get_figure(root=True)
        own = min(columns, len(panels))
        by_row = height / PIXELS / math.ceil(len(panels) / own)
        columns = 1 if width == "column" else own
        rows = math.ceil(len(panels) / columns)
        drawn = Figure(
            figsize=_find_size(width, columns, rows, panels, by_row), layout="constrained"
        )
        axes = drawn.subplots(rows, columns, squeeze=False)
        for at, place in enumerate(axes.ravel()):
            if at >= len(panels):
                place.set_axis_off()
                continue
            _draw_panel(place, panels[at], width, labels)
            _fit_title(drawn, place)
            _fit_label(drawn, place)
        if title is not None:
            drawn.suptitle(_fold(title, width, 6))
        entries = _list_entries(axes.ravel())
        if entries:
            _place_legend(drawn, list(entries.values()), list(entries))
    return drawn


def style_text(width: str | None) -> dict[str, Any]:
    """Return matplotlib's settings for the type of a figure: that of a paper where it has a width.

    Embedded fonts are TrueType, which journals take.
    """
    size = {None: SCREEN, "page": 9.0, "column": 8.0}[width]
    return {
        "font.family": find_families(),
        "font.size": size, "axes.titlesize": size, "axes.labelsize": size,
        "xtick.labelsize": size - 1, "ytick.labelsize": size - 1, "legend.fontsize": size - 0.5,
        "figure.titlesize": size + 1, "pdf.fonttype": 42, "svg.fonttype": "path",
        "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    }  # fmt: skip


@cache
def find_families() -> list[str]:
    """Return the families of FONTS that this machine has, and last the one that matplotlib brings.

    Only TrueType files count, which PDF embeds as they are; a glyph that the first lacks is taken
    from the next.
    """
    from matplotlib import font_manager

    known = {
        font.name for font in font_manager.fontManager.ttflist if font.fname.lower().endswith("ttf")
    }
    wanted = [name.strip(' "') for name in FONTS.split(",")]
    return [*(name for name in wanted if name in known), OWN_FONT]


def use_style(width: str | None) -> Any:
    """Return the context in which pyplot draws in the type of `style_text`."""
    from matplotlib import rc_context

    return rc_context(style_text(width))


def dress_axes(place: Any) -> None:
    """Give axes the house's frame and grid."""
    place.spines[["top", "right"]].set_visible(False)
    place.grid(color=PAGES["light"]["grid"], linewidth=0.6)
    place.set_axisbelow(True)


def relabel(text: str, labels: Mapping[str, str] | None) -> str:
    """Return a text with the names in it that `labels` has by what they stand for.

    A name within another, as ses in cwc(ses), is not replaced; the longest is replaced first.
    """
    if not labels or not text:
        return text
    if text in labels:
        return labels[text]
    names = sorted(labels, key=len, reverse=True)
    pattern = "|".join(rf"(?<![\w(.]){re.escape(name)}(?![\w).(])" for name in names)
    return re.sub(pattern, lambda found: labels[found.group()], text)


def _list_axes(ax: Any, wanted: int) -> list[Any]:
    places = list(getattr(ax, "flat", ax)) if hasattr(ax, "__len__") else [ax]
    if len(places) != wanted or not all(hasattr(place, "errorbar") for place in places):
        given = f"{len(places)} axes" if wanted != len(places) else f"a {type(places[0]).__name__}"
        raise ArgumentError(
            f"ax= has {given}, and the figure has {count(wanted, 'panel')}; give matplotlib axes, "
            "one for each panel"
        )
    return places


def _find_size(
    width: str | None, columns: int, rows: int, panels: Sequence[Panel], by_row: float
) -> tuple[float, float]:
    """Return width and height in inches; `by_row` is the height of a row on a screen."""
    if width is None:
        return WIDTH * (1.0 if columns == 1 else 0.65 * columns), rows * by_row
    # As the type is, smaller than on a screen; ticks with texts keep a line each, and names over
    # their symbols a little more.
    ticked = max(len(panel.y.ticks[0]) if panel.y.ticks else 0 for panel in panels)
    noted = max(len({mark.y for mark in panel.marks if isinstance(mark, Note)}) for panel in panels)
    own = max(SMALL[width] * min(by_row, TALLEST), LINE * ticked + 0.5, NOTED * noted + 0.5)
    return INCHES[width], rows * own + 0.4


def _draw_panel(
    place: Any, panel: Panel, width: str | None, labels: Mapping[str, str] | None
) -> None:
    for mark in panel.marks:
        _draw_mark(place, _rename_mark(mark, width, labels))
    place.set_title(_fold(relabel(panel.title, labels), width, 0))
    _set_axis(place, panel.x, "x", width, labels)
    _set_axis(place, panel.y, "y", width, labels)
    dress_axes(place)


def _rename_mark(mark: Mark, width: str | None, labels: Mapping[str, str] | None) -> Mark:
    """Return a mark with the legend's entry as `labels` has it, folded to the width."""
    if isinstance(mark, Note):
        return replace(mark, text=relabel(mark.text, labels))
    if not mark.name:
        return mark
    return replace(mark, name=relabel(mark.name, labels))


def _fold(text: str, width: str | None, less: int) -> str:
    """Return a text in lines that fit the width of a paper, if it has one."""
    if width is None or not text:
        return write(text)
    longest = CHARACTERS[width] - less
    return "\n".join(map(write, wrap(shorten(text, 2 * longest), longest))) or ""


def finish_arviz(
    drawn: Any,
    *,
    width: str | None = None,
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> None:
    """Take a figure that ArviZ drew from pyplot, which would keep it and show it a second time.

    Panels share the label of their x axis, below the lowest. The frame, the grid and the type are
    those of the other figures; for the other arguments see `draw_matplotlib`.
    """
    from matplotlib import pyplot

    pyplot.close(drawn)
    drawn.set_layout_engine("constrained")
    if width is not None:
        wide, tall = drawn.get_size_inches()
        rows = max(place.get_subplotspec().get_gridspec().nrows for place in drawn.axes)
        least = max(LOWEST, LEGEND + ROW * rows)
        drawn.set_size_inches(INCHES[width], max(tall * INCHES[width] / wide, least))
    if title is not None:
        drawn.suptitle(write(title))
    for legend in list(drawn.legends):
        texts = [relabel(text.get_text(), labels) for text in legend.get_texts()]
        handles = legend.legend_handles
        legend.remove()
        _place_legend(drawn, handles, texts)
    for place in drawn.axes:
        dress_axes(place)
        for text in (place.title, place.xaxis.label, place.yaxis.label):
            text.set_text(relabel(text.get_text(), labels))
        _fit_title(drawn, place)
        _fit_label(drawn, place)
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
            write(mark.text), (mark.x, mark.y), xytext=(-5 if mark.before else 5, 0),
            textcoords="offset points", ha="right" if mark.before else "left", va="center",
            fontsize="small",
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
    from matplotlib import rcParams

    look = ROLES[mark.role]
    size = 0.7 * mark.size * (rcParams["font.size"] / SCREEN) ** 2
    bars = {}
    for axis, low, high, middle in (
        ("xerr", mark.x_low, mark.x_high, mark.x),
        ("yerr", mark.y_low, mark.y_high, mark.y),
    ):
        if low is not None and high is not None:
            bars[axis] = [middle - low, high - middle]
    place.errorbar(
        mark.x, mark.y, **bars, fmt=SYMBOLS[look.symbol], color=look.light, alpha=mark.opacity,
        markersize=size, elinewidth=1.0, label=_label(mark),
        markerfacecolor="none" if look.symbol.endswith("-open") else look.light,
    )  # fmt: skip


def _set_axis(
    place: Any, axis: Axis, which: str, width: str | None, labels: Mapping[str, str] | None
) -> None:
    from matplotlib.ticker import NullFormatter

    place.set(**{f"{which}label": _fold(relabel(axis.label, labels), width, 6)})
    if axis.log:
        place.set(**{f"{which}scale": "log"})
    if axis.ticks is not None:
        values, texts = axis.ticks
        shown = [_shorten_tick(relabel(text, labels), width) for text in texts]
        turned = {"rotation": 90} if axis.turned else {}
        getattr(place, f"set_{which}ticks")(values, shown, **turned)
        if axis.log:  # matplotlib would name some of the others, as powers of ten
            getattr(place, f"{which}axis").set_minor_formatter(NullFormatter())
    if axis.range is not None:
        place.set(**{f"{which}lim": axis.range})


def _shorten_tick(text: str, width: str | None) -> str:
    """Return the label of a tick; what is left out of a long one is its middle."""
    longest = 40 if width is None else TICKED[width]
    return write(cut_middle(text, longest), 40)


def _list_entries(axes: Any) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for place in axes:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            found = entries.setdefault(label, ())
            if type(handle) not in map(type, found):  # a band and its line, one over the other
                entries[label] = (*found, handle)
    return {label: one[0] if len(one) == 1 else one for label, one in entries.items()}


def _place_legend(drawn: Any, handles: Sequence[Any], texts: Sequence[str]) -> None:
    """Put a legend under a figure, in as many columns as fit its width, at last in more lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(drawn).get_renderer()
    # The legend stands off both sides; at other resolutions letters are a little wider.
    room = INSIDE * drawn.bbox.width
    columns = min(4, len(texts))
    while True:
        legend = drawn.legend(
            handles, texts, loc="outside lower left", ncols=columns, frameon=False
        )
        wide = legend.get_window_extent(renderer).width
        if wide <= room or columns == 1:
            break
        legend.remove()
        columns -= 1
    if wide > room:
        for text in legend.get_texts():
            longest = max(12, int(len(text.get_text()) * room / wide) - 6)
            text.set_text("\n".join(wrap(text.get_text(), longest)))


def _fit_title(drawn: Any, place: Any) -> None:
    """Make the title of a panel that is wider than it smaller, or put it on two lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    renderer = FigureCanvasAgg(drawn).get_renderer()
    room = place.get_subplotspec().get_position(drawn).width * drawn.bbox.width
    wide = place.title.get_window_extent(renderer).width
    if wide > room > 0.0:
        place.title.set_fontsize(max(6.0, place.title.get_fontsize() * room / wide))


def _fit_label(drawn: Any, place: Any) -> None:
    """Put the label of a vertical axis that is longer than its panel on two lines, or smaller."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    label, spec = place.yaxis.label, place.get_subplotspec()
    if spec is None or not label.get_text():
        return
    renderer = FigureCanvasAgg(drawn).get_renderer()
    # Of the panel's share, the numbers and the label of the axis below take some.
    room = INSIDE * spec.get_position(drawn).height * drawn.bbox.height
    tall = label.get_window_extent(renderer).height
    if tall > room > 0.0:
        longest = max(8, int(len(label.get_text()) * room / tall))
        label.set_text("\n".join(wrap(label.get_text(), longest)))
        tall = label.get_window_extent(renderer).height
    if tall > room > 0.0:  # a name, which is not broken
        label.set_fontsize(max(6.0, label.get_fontsize() * room / tall))
