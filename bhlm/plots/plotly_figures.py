"""Panels -> plotly.graph_objects.Figure; the one file that knows Plotly."""

import base64
import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from bhlm.plots.marks import Axis, Band, Bars, Line, Mark, Note, Panel, Points, Rule, Segments
from bhlm.plots.style import FONTS, PAGES, ROLES, shorten

Array = np.ndarray

# Where a trace keeps its role, so that a page can recolour it when it turns dark.
ROLE = "role"
BAND_OPACITY = 0.18
LETTER, NARROWEST = 7, 770  # pixels: of a letter, and of figures with panels side by side
NUMBER, TURNED = 5, 4  # letters: of a number on an axis, and that a turned label is wide
BETWEEN, BELOW = 110.0, 75.0  # pixels between panels, and between the lowest and the legend


def draw_plotly(
    panels: Sequence[Panel], *, columns: int = 1, height: int, page: str = "light"
) -> Any:
    """Return panels drawn by Plotly, in the colours of a "light" or a "dark" page.

    Every label and hover text is shown as the text that it is: Plotly reads a little HTML in
    them, so they are escaped here. Each trace names its role in its `meta`.

    Args:
        panels: in the order of reading.
        columns: panels side by side.
        height: pixels, of all panels together.
        page: "light" or "dark".
    """
    import plotly.graph_objects as go

    content = describe_panels(panels, columns=columns, height=height, page=page)
    template = content["layout"].pop("template")
    return go.Figure(content).update_layout(template=template)


def describe_panels(
    panels: Sequence[Panel], *, columns: int = 1, height: int, page: str = "light"
) -> dict[str, Any]:
    """Return traces (`data`) and `layout` of panels as plain values and arrays.

    They are what `draw_plotly` draws. Plotly's own objects look at each value of each trace, which
    takes a page of twenty figures longer than anything else.

    Args:
        panels: in the order of reading.
        columns: panels side by side.
        height: pixels, of all panels together.
        page: "light" or "dark".
    """
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    below = _find_below(panels)
    # The panels' height alone, which counts where turned labels need the pixels.
    inside = height if below == BELOW else max(height - below - 60, below)
    # Of a tall figure, no more than the labels between two panels need.
    between = min(0.4 / rows if below == BELOW else 0.55 / rows, max(BETWEEN, below) / inside)
    beside = _find_spacing(panels, columns)
    layout = theme(page)
    titles: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    data: list[dict[str, Any]] = []
    named: set[str] = set()
    for at, panel in enumerate(panels):
        number = str(at + 1) if at else ""
        place = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
        row, column = divmod(at, columns)
        left, right = _share(column, columns, beside)
        low, top = (1.0 - end for end in reversed(_share(row, rows, between)))
        layout[f"xaxis{number}"] = {
            "anchor": f"y{number}", "domain": [left, right], **_describe_axis(panel.x)
        }  # fmt: skip
        layout[f"yaxis{number}"] = {
            "anchor": f"x{number}", "domain": [low, top], **_describe_axis(panel.y)
        }  # fmt: skip
        if panel.title:
            titles.append(_draw_title(panel.title, 0.5 * (left + right), top))
        entries = [each for mark in panel.marks for each in _draw_mark(mark, page, named)]
        for mark in panel.marks:
            if isinstance(mark, Note):
                notes.append(_draw_note(mark, number))
            elif isinstance(mark, Rule):
                shapes.append(_draw_rule(mark, number, page))
                entries += _enter_rule(mark, page, named)
        data += [each | place for each in entries]
    layout |= {
        "height": height,
        "barmode": "overlay",  # bars say themselves where they stand
        "showlegend": bool(named),
        "legend": layout["legend"] | {"y": -below / inside},
        "margin": {"l": 10, "r": 10, "t": 36 if titles else 14, "b": 10},
    }
    layout |= {name: of for name, of in (("annotations", titles + notes), ("shapes", shapes)) if of}
    return {"data": data, "layout": layout}


def write_panels(panels: Sequence[Panel], *, columns: int = 1, height: int) -> str:
    """Return the JSON of panels on a light page, as that of `draw_plotly`'s figure, but sooner."""
    from plotly.utils import PlotlyJSONEncoder

    content = describe_panels(panels, columns=columns, height=height)
    return json.dumps(_pack(content), cls=PlotlyJSONEncoder)


def _pack(value: Any) -> Any:
    """Return nested values, their arrays of numbers as Plotly's own figures write them."""
    if isinstance(value, dict):
        return {key: _pack(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item) for item in value]
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or not value.size:
        return value
    kind = "f4" if value.dtype == np.float32 else "f8"
    if value.dtype.kind != "f":
        fits = (np.iinfo(each) for each in ("i1", "i2", "i4"))
        low, high = value.min(), value.max()
        kind = next(
            (f"i{each.bits // 8}" for each in fits if each.min <= low and high <= each.max), kind
        )
    packed = base64.b64encode(np.ascontiguousarray(value, dtype=f"<{kind}")).decode("ascii")
    return {"dtype": kind, "bdata": packed}


def _share(at: int, count: int, between: float) -> tuple[float, float]:
    """Return where the panel of that place begins and ends in a row of panels, as shares of it."""
    size = (1.0 - between * (count - 1)) / count
    begin = at * (size + between)
    return begin, min(begin + size, 1.0)


def _draw_title(title: str, middle: float, top: float) -> dict[str, Any]:
    """Return the text above a panel, whose middle and top are shares of the figure."""
    return {
        "text": write(title), "font": {"size": 14},  # so that a parameter's name has room
        "showarrow": False, "x": middle, "y": top, "xref": "paper", "yref": "paper",
        "xanchor": "center", "yanchor": "bottom",
    }  # fmt: skip


def _find_spacing(panels: Sequence[Panel], columns: int) -> float:
    """Return the share of the width between panels, whose axes may have texts."""
    inner = [panel.y for at, panel in enumerate(panels) if at % columns]
    texts = [text for axis in inner if axis.ticks for text in axis.ticks[1]]
    longest = max(map(len, texts), default=0)
    if any(axis.label for axis in inner):  # a label stands beside the numbers
        longest = max(longest, NUMBER) + TURNED
    if not longest:
        return 0.2 / columns
    # What stands at the left of the figure leaves the panels less.
    first = [panel.y for at, panel in enumerate(panels) if at % columns == 0]
    left = max((len(text) for axis in first if axis.ticks for text in axis.ticks[1]), default=0)
    inside = max(NARROWEST - LETTER * left, 0.5 * NARROWEST)
    return max(0.2 / columns, min((LETTER * longest + 20) / inside, 0.5 / (columns - 1)))


def _find_below(panels: Sequence[Panel]) -> float:
    """Return the pixels between the lowest panels and the legend: turned labels need more."""
    turned = [panel.x.ticks[1] for panel in panels if panel.x.turned and panel.x.ticks]
    longest = max((len(text) for texts in turned for text in texts), default=0)
    return max(BELOW, LETTER * longest + 55.0)


def theme(page: str) -> dict[str, Any]:
    """Return the layout that makes a Plotly figure belong to a "light" or a "dark" page."""
    look = PAGES[page]
    axis = {
        "gridcolor": look["grid"],
        "linecolor": look["ink"],
        "zeroline": False,
        "automargin": True,
        # Unseen, they keep a text apart from what is drawn at the edge.
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": look["paper"],
        "title": {"font": {"size": 13}},
    }
    return {
        "template": {"layout": {"xaxis": axis, "yaxis": axis}},
        "paper_bgcolor": look["paper"],
        "plot_bgcolor": look["paper"],
        "font": {"color": look["ink"], "family": FONTS, "size": 13},
        "hoverlabel": {"align": "left", "namelength": -1},
        "legend": {"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0.0},
        "dragmode": False,
    }


def write(text: object, longest: int | None = None) -> str:
    """Return a text for Plotly that shows every character as itself, shortened."""
    line = shorten(text) if longest is None else shorten(text, longest)
    # Text between two dollars would be handed to MathJax, which a page does not have.
    return escape(line, quote=False).replace("$", "&#36;")


def hover(texts: Sequence[str]) -> list[str]:
    """Return hover texts for Plotly, their lines kept."""
    return ["<br>".join(write(line, 120) for line in text.splitlines()) for text in texts]


def colour(role: str, page: str) -> str:
    """Return the colour of a role on a page."""
    return str(getattr(ROLES[role], page))


def _draw_mark(mark: Mark, page: str, named: set[str]) -> list[dict[str, Any]]:
    match mark:
        case Points():
            return [_draw_points(mark, page, named)]
        case Line():
            return [_draw_line(mark, page, named)]
        case Segments():
            return [_draw_segments(mark, page, named)]
        case Band():
            return _draw_band(mark, page, named)
        case Bars():
            return [_draw_bars(mark, page, named)]
    return []


def _entry(mark: Any, named: set[str]) -> dict[str, Any]:
    """Return what names a trace and puts the first of that name in the legend."""
    label = write(mark.name) if mark.name else ""
    shown = bool(label) and label not in named
    if shown:
        named.add(label)
    group = {"legendgroup": label} if label else {}
    return {"name": label, **group, "showlegend": shown, "meta": {ROLE: mark.role}}


def _hover(mark: Any) -> dict[str, Any]:
    if len(mark.hover):
        return {"hovertext": hover(mark.hover), "hoverinfo": "text"}
    return {"hoverinfo": "x+y+name" if mark.name else "x+y"}


def _find_errors(mark: Points) -> dict[str, Any]:
    """Return the bars of points that have intervals."""
    found = {}
    for name, low, high, middle in (
        ("error_x", mark.x_low, mark.x_high, mark.x),
        ("error_y", mark.y_low, mark.y_high, mark.y),
    ):
        if low is not None and high is not None:
            found[name] = {
                "type": "data", "symmetric": False, "array": high - middle,
                "arrayminus": middle - low, "thickness": 1.5, "width": 0,
            }  # fmt: skip
    return found


def _draw_points(mark: Points, page: str, named: set[str]) -> dict[str, Any]:
    ink = colour(mark.role, page)
    # WebGL is not there in every browser that opens an archived page; SVG is.
    return {
        "type": "scatter", "x": mark.x, "y": mark.y, "mode": "markers",
        "marker": {
            "color": ink, "symbol": ROLES[mark.role].symbol, "size": mark.size,
            "opacity": mark.opacity, "line": {"color": ink, "width": 1.5},
        },
        **_find_errors(mark), **_hover(mark), **_entry(mark, named),
    }  # fmt: skip


def _draw_line(mark: Line, page: str, named: set[str]) -> dict[str, Any]:
    return {
        "type": "scatter", "x": mark.x, "y": mark.y, "mode": "lines", "opacity": mark.opacity,
        "line": {
            "color": colour(mark.role, page), "dash": ROLES[mark.role].dash, "width": mark.width,
            "shape": "hv" if mark.steps else "linear",
            "simplify": False,  # which would make polygons of smooth curves
        },
        **_hover(mark), **_entry(mark, named),
    }  # fmt: skip


def _draw_segments(mark: Segments, page: str, named: set[str]) -> dict[str, Any]:
    gap = np.full(len(mark.x0), np.nan)
    return {
        "type": "scatter", "mode": "lines", "opacity": mark.opacity, "hoverinfo": "skip",
        "x": np.column_stack([mark.x0, mark.x1, gap]).ravel(),
        "y": np.column_stack([mark.y0, mark.y1, gap]).ravel(),
        "line": {"color": colour(mark.role, page), "width": mark.width},
        **_entry(mark, named),
    }  # fmt: skip


def _draw_band(mark: Band, page: str, named: set[str]) -> list[dict[str, Any]]:
    ink = colour(mark.role, page)
    entry = _entry(mark, named)
    red, green, blue = (int(ink[k : k + 2], 16) for k in (1, 3, 5))
    fill = f"rgba({red},{green},{blue},{BAND_OPACITY})"
    shared: dict[str, Any] = {
        "type": "scatter", "x": mark.x, "mode": "lines", "hoverinfo": "skip",
        "line": {"color": ink, "width": 0}, **entry,
    }  # fmt: skip
    return [
        shared | {"y": mark.low, "showlegend": False},
        shared | {"y": mark.high, "fill": "tonexty", "fillcolor": fill},
    ]


def _draw_bars(mark: Bars, page: str, named: set[str]) -> dict[str, Any]:
    at, length = ("y", "x") if mark.horizontal else ("x", "y")
    return {
        "type": "bar", at: mark.at, length: mark.length,
        "base": mark.base.tolist(), "width": mark.width,
        "orientation": "h" if mark.horizontal else "v",
        "marker": {"color": colour(mark.role, page)},
        **_hover(mark), **_entry(mark, named),
    }  # fmt: skip


def _draw_note(mark: Note, number: str) -> dict[str, Any]:
    """Return the text of a panel of that number."""
    return {
        "x": mark.x, "y": mark.y, "text": write(mark.text), "showarrow": False,
        "xanchor": "right" if mark.before else "left", "xshift": -6 if mark.before else 6,
        "xref": f"x{number}", "yref": f"y{number}",
    }  # fmt: skip


def _stroke(mark: Rule, page: str) -> dict[str, Any]:
    return {"color": colour(mark.role, page), "dash": ROLES[mark.role].dash, "width": 1.5}


def _draw_rule(mark: Rule, number: str, page: str) -> dict[str, Any]:
    """Return the line across a panel of that number."""
    across, along = ("x", "y") if mark.axis == "x" else ("y", "x")
    return {
        "type": "line", "line": _stroke(mark, page), "name": mark.role,
        f"{across}ref": f"{across}{number}", f"{along}ref": f"{along}{number} domain",
        f"{across}0": mark.value, f"{across}1": mark.value, f"{along}0": 0, f"{along}1": 1,
    }  # fmt: skip


def _enter_rule(mark: Rule, page: str, named: set[str]) -> list[dict[str, Any]]:
    """Return the trace that is a rule's entry in the legend, if it needs one."""
    if not mark.name or write(mark.name) in named:
        return []
    stroke = _stroke(mark, page)
    return [
        {"type": "scatter", "x": [None], "y": [None], "mode": "lines", "line": stroke}
        | _entry(mark, named)
    ]


def _describe_axis(axis: Axis) -> dict[str, Any]:
    found: dict[str, Any] = {"title": {"text": write(axis.label), "standoff": 8}}
    if axis.ticks is not None:
        values, texts = axis.ticks
        found |= {"tickvals": list(values), "ticktext": [write(text) for text in texts]}
    if axis.turned:
        found |= {"tickangle": -90}
    if axis.log:
        found |= {"type": "log"}
    if axis.range is not None:
        ends = [math.log10(end) for end in axis.range] if axis.log else list(axis.range)
        found |= {"range": ends}
    return found
