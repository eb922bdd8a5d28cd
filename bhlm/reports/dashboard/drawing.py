"""Figure -> what Plotly's script draws on the page, for a wide and for a narrow screen."""

import base64
import json
import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from bhlm.plots.figure import Figure
from bhlm.plots.plotly_figures import BAND_OPACITY, theme
from bhlm.plots.style import PAGES, ROLES

FLOAT32 = np.finfo(np.float32)
PIXEL = 1e-4  # of a figure's extent, less than which nobody sees
PANEL_HEIGHT = 300  # pixels of one panel, where a narrow screen stacks them
PANEL_WIDTH = 260  # pixels that a panel needs, where the panels cannot be stacked


def describe_figure(figure: Figure) -> dict[str, Any]:
    """Return traces and layout of a figure, without the theme that all figures share.

    `narrow` is the layout with the panels one below the other, None where there is one column
    anyway; `least` is the width in pixels that the figure needs, 0 if it fits any screen.
    """
    drawn = _strip(_share_labels(figure).plotly())
    layout = drawn["layout"]
    found = {"data": drawn["data"], "layout": layout, "narrow": None, "least": 0}
    if figure.draw is not None:
        ends = {tuple(axis["domain"]) for axis in _axes(layout, "xaxis") if "domain" in axis}
        found["least"] = PANEL_WIDTH * len(ends) if len(ends) > 1 else 0
    elif min(figure.columns, len(figure.panels)) > 1:
        count = len(figure.panels)
        row = figure.height / math.ceil(count / figure.columns)
        height = int(max(row, PANEL_HEIGHT) * count)
        found["narrow"] = _strip(replace(figure, columns=1, height=height).plotly())["layout"]
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


def _strip(drawn: Any) -> dict[str, Any]:
    """Return a plotly figure as plain values, arrays packed, without its template."""
    content: dict[str, Any] = json.loads(drawn.to_json())
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
