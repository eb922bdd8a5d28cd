"""Figure -> what Plotly's script draws on the page, for a wide and for a narrow screen."""

import base64
import copy
import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bhlm.plots.arviz_figures import draw_arviz
from bhlm.plots.figure import Figure
from bhlm.plots.plotly_figures import BAND_OPACITY, theme, write_panels
from bhlm.plots.style import PAGES, ROLES

FLOAT32 = np.finfo(np.float32)
PIXEL = 1e-4  # of a figure's extent, less than which nobody sees
PANEL_HEIGHT = 300  # pixels of one panel, where a narrow screen stacks them
BETWEEN = 0.36  # of a stacked panel's height, between it and the next one
NEAR = 1e-6  # shares of a figure, within which a title stands over its panel
PANEL_WIDTH = 260  # pixels that a panel needs, where the panels cannot be stacked


def describe_figure(figure: Figure) -> dict[str, Any]:
    """Return traces and layout of a figure, without the theme that all figures share.

    `narrow` is the layout with the panels one below the other, None where there is one column
    anyway; `least` is the width in pixels that the figure needs, 0 if it fits any screen.
    Panels of ArviZ's, which are drawn once, are moved.
    """
    drawn = _render(_share_labels(figure))
    layout = drawn["layout"]
    found = {"data": drawn["data"], "layout": layout, "narrow": None, "least": 0}
    if figure.draw is not None:
        ends = {tuple(axis["domain"]) for axis in _axes(layout, "xaxis") if "domain" in axis}
        if len(ends) > 1:
            found["narrow"] = _stack(layout)
            found["least"] = 0 if found["narrow"] else PANEL_WIDTH * len(ends)
    elif min(figure.columns, len(figure.panels)) > 1:
        count = len(figure.panels)
        row = figure.height / math.ceil(count / figure.columns)
        height = int(max(row, PANEL_HEIGHT) * count)
        found["narrow"] = _render(replace(figure, columns=1, height=height))["layout"]
    return found


def _share_labels(figure: Figure) -> Figure:
    """Return a figure whose rows of panels have what their vertical axes share once, at the left.

    Panels that stand one below the other each need them, so a narrow screen keeps them.
    """
    if figure.columns == 1 or not figure.panels:
        return figure
    axes = {(panel.y.ticks, panel.y.range) for panel in figure.panels}
    first = figure.panels[0].y
    changes: dict[str, Any] = {}
    if len({panel.y.label for panel in figure.panels}) == 1:
        changes["label"] = ""
    if len(axes) == 1 and first.ticks is not None:
        changes["ticks"] = (first.ticks[0], ("",) * len(first.ticks[0]))
    panels = tuple(
        replace(panel, y=replace(panel.y, **changes)) if at % figure.columns else panel
        for at, panel in enumerate(figure.panels)
    )
    return replace(figure, panels=panels)


def _render(figure: Figure) -> dict[str, Any]:
    """Return traces and layout of a figure as plain values, arrays packed, without its template."""
    if figure.draw is not None:
        text = draw_arviz(figure.draw, "plotly", height=figure.height, template=False).to_json()
    else:
        text = write_panels(figure.panels, columns=figure.columns, height=figure.height)
    content: dict[str, Any] = json.loads(text)
    content["layout"].pop("template", None)
    content["data"] = _halve(content["data"])
    return content


def _halve(value: Any) -> Any:
    """Return nested values, their arrays in half the bytes where no pixel moves by it."""
    if isinstance(value, list):
        return [_halve(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("dtype") != "f8":
        return {key: _halve(item) for key, item in value.items()}
    array = np.frombuffer(base64.b64decode(value["bdata"]), dtype="<f8")
    size = np.abs(array[np.isfinite(array) & (array != 0.0)])
    if not len(size) or size.max() > FLOAT32.max or size.min() < FLOAT32.tiny:
        return value
    if size.max() * FLOAT32.eps > PIXEL * np.ptp(array[np.isfinite(array)]):
        return value
    packed = base64.b64encode(array.astype("<f4").tobytes()).decode()
    return value | {"dtype": "f4", "bdata": packed}


def _stack(layout: dict[str, Any]) -> dict[str, Any] | None:
    """Return the layout of a grid of panels with these one below the other, in reading order.

    None where two panels share an axis, or a text belongs to no panel.
    """
    stacked = copy.deepcopy(layout)
    panels = [
        (axis, stacked.get("yaxis" + str(axis.get("anchor", ""))[1:], {}))
        for axis in _axes(stacked, "xaxis")
    ]
    places = [(tuple(x.get("domain", ())), tuple(y.get("domain", ()))) for x, y in panels]
    if not all(map(all, places)) or len(set(places)) < len(panels):
        return None
    order = sorted(range(len(panels)), key=lambda at: (-places[at][1][1], places[at][0][0]))
    share = 1.0 / (len(panels) - BETWEEN)  # the last one reaches the bottom
    notes = [note for note in stacked.get("annotations", ()) if note.get("xref") == "paper"]
    moved = []
    for row, at in enumerate(order):
        (x, y), ((left, right), (_, top)) = panels[at], places[at]
        low, high = 1.0 - share * (row + 1.0 - BETWEEN), 1.0 - share * row
        x["domain"], y["domain"] = [0.0, 1.0], [low, high]
        for note in notes:
            if abs(note["x"] - (left + right) / 2) < NEAR and abs(note["y"] - top) < NEAR:
                moved.append((note, high))
    if len(moved) != len(notes):
        return None
    for note, high in moved:
        note["x"], note["y"] = 0.5, high
    height = PANEL_HEIGHT * len(panels)
    if "y" in stacked.get("legend", {}):  # in shares of the height, which is another
        stacked["legend"]["y"] *= layout["height"] / height
    return stacked | {"height": height}


def _axes(layout: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [axis for name, axis in layout.items() if name.startswith(kind)]


def describe_style() -> dict[str, Any]:
    """Return what all figures share: the roles' colours and the two themes."""
    roles = {name: {"light": look.light, "dark": look.dark} for name, look in ROLES.items()}
    return {
        "roles": roles,
        "looks": {name: asdict(look) for name, look in ROLES.items()},
        "themes": {page: theme(page) for page in PAGES},
        "pages": PAGES,
        "band": BAND_OPACITY,
    }
