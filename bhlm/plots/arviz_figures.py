"""ArviZ's figures, by its Plotly or matplotlib backend, in bhlm's colours."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bhlm.plots import matplotlib_figures, plotly_figures
from bhlm.plots.matplotlib_figures import finish_arviz, name_lines, use_style
from bhlm.plots.plotly_figures import BAND_OPACITY, BELOW, ROLE, colour, theme
from bhlm.plots.style import ROLES

# ArviZ is asked for the colours of a light page, and each colour stands for a role. Roles of one
# colour have one on a dark page too.
UNNAMED = 40.0  # pixels between panels whose axis has no name, and the legend
BESIDE = 130.0  # pixels of a figure's height that are not its panels
BY_COLOUR = {look.light: name for name, look in ROLES.items()}


def draw_arviz(
    draw: Callable[[str], Any],
    backend: str,
    *,
    height: int,
    page: str = "light",
    template: bool = True,
    width: str | None = None,
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Any:
    """Return the native figure that ArviZ draws, by "plotly" or "matplotlib".

    By Plotly each trace and shape names its role, found by the colour of a light page that it was
    drawn in, and all text has the colour of the page's ink.

    Args:
        draw: backend -> ArviZ's PlotCollection.
        backend: "plotly" or "matplotlib".
        height: pixels, by Plotly.
        page: "light" or "dark", by Plotly.
        template: by Plotly, whether the figure has the theme's template, which takes as long as
            all the rest of the theme, and which a page has once for all figures.
        width: "column" or "page" of a paper, by matplotlib; None is that of a screen.
        labels: texts by the names that they stand for, by matplotlib.
        title: above the figure, by matplotlib.
    """
    if backend == "matplotlib":
        with use_style(width):
            drawn = draw(backend).viz["figure"].item()
            finish_arviz(drawn, width=width, labels=labels, title=title)
        return drawn
    drawn = draw(backend).viz["figure"].item()
    assign_roles(drawn)
    _paint(drawn, page)
    above = [note for note in drawn.layout.annotations if note.text.strip()]
    titled = any(note.yref == "paper" or str(note.yref).endswith("domain") for note in above)
    named = any(axis.title.text for axis in drawn.select_xaxes())
    below = BELOW if named else UNNAMED
    drawn.update_layout(
        {name: of for name, of in theme(page).items() if template or name != "template"}
    )
    drawn.update_layout(
        height=height, width=None, autosize=True,
        # A share of the panels' height, which is the figure's less titles, labels and legend.
        legend={"y": -below / max(height - BESIDE, below)},
        margin={"l": 10, "r": 10, "t": 40 if titled else 14, "b": 10},
    )  # fmt: skip
    return drawn


def assign_roles(drawn: Any) -> None:
    """Name the role of every trace and shape of a Plotly figure that was drawn in its colour."""
    for trace in drawn.data:
        role = BY_COLOUR.get(_find_colour(trace))
        if role is not None and not trace.meta:
            trace.meta = {ROLE: role}
        for axis in ("x", "y"):
            values = getattr(trace, axis)
            if values is not None and np.asarray(values).dtype == np.float64:
                # A screen shows no more digits, and a page is half as heavy.
                setattr(trace, axis, np.asarray(values, dtype=np.float32))
    for shape in drawn.layout.shapes:
        role = BY_COLOUR.get(str(shape.line.color).lower())
        if role is not None:
            shape.name = role


def name_roles(
    collection: Any, names: Mapping[str, str], backend: str, *, dashed: bool = False
) -> None:
    """Give what ArviZ drew in the colours of some roles one entry each in the legend.

    Args:
        collection: ArviZ's PlotCollection.
        names: role -> the text of its entry, escaped for the library that draws.
        backend: "plotly" or "matplotlib".
        dashed: whether the lines have the dashes of their roles.
    """
    drawn = collection.viz["figure"].item()
    if backend == "matplotlib":
        name_lines(drawn, names, dashed=dashed)
        return
    assign_roles(drawn)
    named = set()
    for trace in drawn.data:
        role = trace.meta and trace.meta.get(ROLE)
        if role in names:
            shown = role not in named and trace.mode != "none"
            trace.update(name=names[role], legendgroup=role, showlegend=shown)
            named |= {role} if shown else set()


def find_writer(backend: str) -> Any:
    """Return the function that escapes a text for the library that draws."""
    return plotly_figures.write if backend == "plotly" else matplotlib_figures.write


def _find_colour(trace: Any) -> str:
    """Return the colour that a trace was drawn in, as #rrggbb."""
    for part in (trace.line.color, trace.marker.color, trace.fillcolor):
        if isinstance(part, str):
            return _write_hex(part)
    return ""


def _write_hex(text: str) -> str:
    if text.startswith("rgb"):
        red, green, blue = (int(float(x)) for x in text[text.index("(") + 1 : -1].split(",")[:3])
        return f"#{red:02x}{green:02x}{blue:02x}"
    return text.lower()


def _paint(drawn: Any, page: str) -> None:
    """Colour traces and shapes by their roles, and leave the colour of all text to the page."""
    for trace in drawn.data:
        role = trace.meta and trace.meta.get(ROLE)
        if trace.mode == "text":
            trace.textfont.color = None
        if role is None:
            continue
        ink = colour(role, page)
        if trace.fillcolor:
            red, green, blue = (int(ink[at : at + 2], 16) for at in (1, 3, 5))
            trace.fillcolor = f"rgba({red},{green},{blue},{BAND_OPACITY})"
        if trace.mode == "markers":
            trace.marker.update(color=ink, line={"color": ink})
        elif trace.mode == "lines":
            trace.line.color = ink
    for shape in drawn.layout.shapes:
        if shape.name in ROLES:
            shape.line.color = colour(shape.name, page)
    for note in drawn.layout.annotations:
        note.font.color = None
    for axis in (*drawn.select_xaxes(), *drawn.select_yaxes()):
        if axis.showticklabels is False:
            axis.title.text = None  # the panel below shows it
        axis.title.font = {"color": None, "size": None}
        axis.tickfont.color = None
