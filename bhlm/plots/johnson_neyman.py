"""Johnson-Neyman: a slope along its moderator, and where its interval leaves out zero."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.bayes.slopes import describe_slopes, locate_bounds
from bhlm.errors import check_arguments
from bhlm.likelihood.johnson_neyman import JohnsonNeyman
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Band, Line, Mark, Panel, Rule
from bhlm.plots.style import shorten
from bhlm.reml.fixed.slopes import estimate_slopes, find_bounds
from bhlm.reml.maximum import Maximum

Array = np.ndarray

POINTS = 61


@check_arguments
def plot_johnson_neyman(
    fit: "Maximum | Draws",
    column: str,
    *,
    by: str,
    at: Mapping[str, Any] | None = None,
    method: str = "satterthwaite",
    level: float = 0.95,
) -> Figure:
    """Return the slope of a column along a moderator with its band, and its Johnson-Neyman bounds.

    The band is coloured where it leaves out zero. It runs over the moderator's values in the
    data; bounds outside of them are told and not drawn. The figure's table is that of
    `fit.effects` at the drawn values.

    Args:
        fit: by REML or ML, or a posterior.
        column: whose slope, such as "cwc(ses)".
        by: a continuous moderator that interacts with it, such as "gm(ses)".
        at: values of other moderators, which otherwise stand at their means.
        method: of the interval, of a fit by REML or ML; see `fit.fixed_effects`.
        level: of the interval.

    Raises:
        ArgumentError: as `fit.johnson_neyman`.
    """
    if isinstance(fit, Maximum):
        found = find_bounds(fit, column, by=by, at=at, method=method, level=level)
        values = _spread(found)
        table = estimate_slopes(
            fit, column, by={by: values.tolist()}, at=at, method=method, level=level
        )
        slope = table["slope"].to_numpy()
    else:
        found = locate_bounds(fit, column, by=by, at=at, level=level)
        values = _spread(found)
        table = describe_slopes(fit, column, by={by: values.tolist()}, at=at, level=level)
        slope = table["mean"].to_numpy()
    low, high = table["lower"].to_numpy(), table["upper"].to_numpy()
    clear = (low > 0.0) | (high < 0.0)
    marks: list[Mark] = [Rule(0.0, "y", "reference")]
    for role, name, own in (
        ("reference", f"{100 * level:g} % interval, includes 0", ~clear),
        ("first", f"{100 * level:g} % interval, leaves 0 out", clear),
    ):
        marks += [Band(values[part], low[part], high[part], role, name) for part in _find_runs(own)]
    marks.append(Line(values, slope, "population", f"Slope of {shorten(found.column)}"))
    for bound in found.bounds:
        if found.low <= bound <= found.high:
            marks.append(Rule(bound, "x", "warning", "Johnson-Neyman bound"))
    return Figure(
        name="johnson_neyman",
        title=f"Slope of {shorten(found.column)} along {shorten(found.moderator)}",
        reading=found.reading,
        table=table,
        panels=(Panel(Axis(found.moderator), Axis(f"Slope of {found.column}"), tuple(marks)),),
        height=420,
    )


def _spread(found: JohnsonNeyman) -> Array:
    """Return the values of the moderator that are drawn, the bounds and their neighbours too."""
    inside = [bound for bound in found.bounds if found.low < bound < found.high]
    near = 1e-9 * (found.high - found.low)
    beside = [bound + side for bound in inside for side in (-near, near)]
    return np.sort(np.concatenate([np.linspace(found.low, found.high, POINTS), beside]))


def _find_runs(flags: Array) -> list[slice]:
    """Return the stretches of neighbours that are True, of two and more."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1]
