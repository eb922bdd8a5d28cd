"""Panels -> plotly.graph_objects.Figure; the one file that knows Plotly."""

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
    from plotly.subplots import make_subplots

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    titles = [write(panel.title) for panel in panels]
    below = _find_below(panels)
    # The panels' height alone, which counts where turned labels need the pixels.
    inside = height if below == BELOW else max(height - below - 60, below)
    drawn = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles if any(titles) else None,
        horizontal_spacing=_find_spacing(panels, columns),
        # Of a tall figure, no more than the labels between two panels need.
        vertical_spacing=min(
            0.4 / rows if below == BELOW else 0.55 / rows, max(BETWEEN, below) / inside
        ),
    )  # fmt: skip
    drawn.update_annotations(font={"size": 14})  # the titles, so that a parameter's name has room
    named: set[str] = set()
    for at, panel in enumerate(panels):
        row, column = at // columns + 1, at % columns + 1
        traces = [trace for mark in panel.marks for trace in _draw_mark(mark, page, named)]
        if traces:
            drawn.add_traces(traces, rows=row, cols=column)
        for mark in panel.marks:
            _draw_extra(drawn, mark, page, named, row=row, column=column)
        drawn.update_xaxes(_describe_axis(panel.x), row=row, col=column)
        drawn.update_yaxes(_describe_axis(panel.y), row=row, col=column)
    drawn.update_layout(theme(page))
    drawn.update_layout(
        height=height,
        barmode="overlay",  # bars say themselves where they stand
        showlegend=bool(named),
        legend={"y": -below / inside},
        margin={"l": 10, "r": 10, "t": 36 if any(titles) else 14, "b": 10},
    )
    return drawn


def _find_spacing(panels: Sequence[Panel], columns: int) -> float | None:
    """Return the share of the width between panels whose axes have texts; None is Plotly's own."""
    inner = [panel.y for at, panel in enumerate(panels) if at % columns]
    texts = [text for axis in inner if axis.ticks for text in axis.ticks[1]]
    longest = max(map(len, texts), default=0)
    if any(axis.label for axis in inner):  # a label stands beside the numbers
        longest = max(longest, NUMBER) + TURNED
    if not longest:
        return None
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


def _draw_mark(mark: Mark, page: str, named: set[str]) -> list[Any]:
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
    return {
        "name": label,
        "legendgroup": label or None,
        "showlegend": shown,
        "meta": {ROLE: mark.role},
    }


def _hover(mark: Any) -> dict[str, Any]:
    if len(mark.hover):
        return {"hovertext": hover(mark.hover), "hoverinfo": "text"}
    return {"hoverinfo": "x+y+name" if mark.name else "x+y"}


def _error(low: Array | None, high: Array | None, middle: Array) -> dict[str, Any] | None:
    if low is None or high is None:
        return None
    return {
        "type": "data",
        "symmetric": False,
        "array": high - middle,
        "arrayminus": middle - low,
        "thickness": 1.5,
        "width": 0,
    }


def _draw_points(mark: Points, page: str, named: set[str]) -> Any:
    import plotly.graph_objects as go

    ink = colour(mark.role, page)
    # WebGL is not there in every browser that opens an archived page; SVG is.
    return go.Scatter(
        x=mark.x, y=mark.y, mode="markers",
        marker={
            "color": ink, "symbol": ROLES[mark.role].symbol, "size": mark.size,
            "opacity": mark.opacity, "line": {"color": ink, "width": 1.5},
        },
        error_x=_error(mark.x_low, mark.x_high, mark.x),
        error_y=_error(mark.y_low, mark.y_high, mark.y),
        **_hover(mark), **_entry(mark, named),
    )  # fmt: skip


def _draw_line(mark: Line, page: str, named: set[str]) -> Any:
    import plotly.graph_objects as go

    return go.Scatter(
        x=mark.x, y=mark.y, mode="lines", opacity=mark.opacity,
        line={
            "color": colour(mark.role, page), "dash": ROLES[mark.role].dash, "width": mark.width,
            "shape": "hv" if mark.steps else "linear",
            "simplify": False,  # which would make polygons of smooth curves
        },
        **_hover(mark), **_entry(mark, named),
    )  # fmt: skip


def _draw_segments(mark: Segments, page: str, named: set[str]) -> Any:
    import plotly.graph_objects as go

    gap = np.full(len(mark.x0), np.nan)
    return go.Scatter(
        x=np.column_stack([mark.x0, mark.x1, gap]).ravel(),
        y=np.column_stack([mark.y0, mark.y1, gap]).ravel(),
        mode="lines", opacity=mark.opacity, hoverinfo="skip",
        line={"color": colour(mark.role, page), "width": mark.width},
        **_entry(mark, named),
    )  # fmt: skip


def _draw_band(mark: Band, page: str, named: set[str]) -> list[Any]:
    import plotly.graph_objects as go

    ink = colour(mark.role, page)
    entry = _entry(mark, named)
    lower = entry | {"showlegend": False}
    red, green, blue = (int(ink[k : k + 2], 16) for k in (1, 3, 5))
    fill = f"rgba({red},{green},{blue},{BAND_OPACITY})"
    edge = {"color": ink, "width": 0}
    shared: dict[str, Any] = {"x": mark.x, "mode": "lines", "line": edge, "hoverinfo": "skip"}
    return [
        go.Scatter(y=mark.low, **shared, **lower),
        go.Scatter(y=mark.high, fill="tonexty", fillcolor=fill, **shared, **entry),
    ]


def _draw_bars(mark: Bars, page: str, named: set[str]) -> Any:
    import plotly.graph_objects as go

    at, length = ("y", "x") if mark.horizontal else ("x", "y")
    return go.Bar(
        {at: mark.at, length: mark.length},
        base=mark.base, width=mark.width, orientation="h" if mark.horizontal else "v",
        marker={"color": colour(mark.role, page)}, **_hover(mark), **_entry(mark, named),
    )  # fmt: skip


def _draw_extra(
    drawn: Any, mark: Mark, page: str, named: set[str], *, row: int, column: int
) -> None:
    """Draw what Plotly keeps in the layout, and the legend entry of a rule."""
    import plotly.graph_objects as go

    if isinstance(mark, Note):
        drawn.add_annotation(
            x=mark.x, y=mark.y, text=write(mark.text), showarrow=False,
            xanchor="right" if mark.before else "left", xshift=-6 if mark.before else 6,
            row=row, col=column,
        )  # fmt: skip
    if isinstance(mark, Rule):
        line = {"color": colour(mark.role, page), "dash": ROLES[mark.role].dash, "width": 1.5}
        place = {
            "row": row, "col": column, "line": line, "name": mark.role,
            "exclude_empty_subplots": False,
        }  # fmt: skip
        if mark.axis == "x":
            drawn.add_vline(x=mark.value, **place)
        else:
            drawn.add_hline(y=mark.value, **place)
        if mark.name and write(mark.name) not in named:
            drawn.add_trace(
                go.Scatter(x=[None], y=[None], mode="lines", line=line, **_entry(mark, named)),
                row=row,
                col=column,
            )


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
