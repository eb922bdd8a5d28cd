"""One group: its rows, its own least-squares line, what REML and the posterior make of it."""

from collections.abc import Hashable
from dataclasses import dataclass
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Draws, stream_effects
from bhlm.errors import DataError, check_arguments, show_value
from bhlm.layout import count, format_digits, print_label
from bhlm.moments.groups import locate_groups
from bhlm.moments.moments import INTERCEPT, Moments, select_groups
from bhlm.plots.figure import Figure
from bhlm.plots.groups import (
    Fit,
    GroupLines,
    draw_lines,
    find_column,
    find_held,
    join_effects,
    list_columns,
    mean_beta,
    name_group,
    place_slopes,
    split_fit,
)
from bhlm.plots.marks import Axis, Band, Line, Mark, Panel, Points
from bhlm.plots.style import shorten

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.fits.model import Model

Array = np.ndarray

# The key of a line, its role in `style.ROLES`, its name: in the order in which they are drawn.
LINES = (
    ("population", "population", "Fixed effects"),
    ("ols", "ols", "Least squares (OLS)"),
    ("eb", "reml", "Empirical Bayes (EB)"),
    ("posterior", "posterior", "Posterior, 95 % band"),
)
# Pixels: empirical Bayes lies below the posterior mean and is often all but the same.
WIDTHS = {"population": 2.0, "ols": 2.5, "eb": 5.0, "posterior": 2.0}
GRID = 25  # points of the posterior's band
TOGETHER = 250  # groups whose draws of a line are in memory at a time
ROWS = 1000  # rows that are drawn
HEIGHT = 440  # pixels


@dataclass(frozen=True, slots=True)
class GroupRows:
    """The rows of all groups along the column that groups are drawn along."""

    at: Array  # (n,) where each row's group stands
    x: Array  # (n,) the column, or the row's number within its group
    y: Array  # (n,)


@check_arguments
def plot_group(fit: Fit, group: Any, *, model: "Model | None" = None) -> Figure:
    """Return one group's rows and lines along the first column that varies within groups.

    The lines: the fixed effects alone, the group's own least squares, empirical Bayes, and the
    posterior mean with its 95 % band, as far as the fit gives them; other columns are held at
    their means in the group. Where no column varies within groups, rows stand in their order and
    the lines are level.

    Args:
        fit: a RemlFit, a BayesFit or a Reconciliation.
        group: the label of the group, or its text.
        model: what was fitted, if rows are to be drawn.

    Raises:
        DataError: a label that is no group of the fit.
    """
    reml, post = split_fit(fit)
    given = reml if reml is not None else post
    assert given is not None
    moments = given.moments
    j = _find_group(moments, group)
    column = find_column(moments)
    effects = join_effects(reml, post)
    beta = {}
    if reml is not None:
        beta["reml"] = reml.beta
    if post is not None:
        beta["posterior"] = mean_beta(post)
    lines = draw_lines(moments, effects, beta, origin=_mean_along(moments, column, j))
    rows = take_rows(model, moments, column)
    mine = None if rows is None else (rows.x[rows.at == j], rows.y[rows.at == j])
    x = np.linspace(*_find_ends(moments, column, j, mine), GRID)
    table = _tabulate(lines, post, j, x)
    marks = _draw(moments, table, mine)
    along = column if column is not None else f"row within {moments.group}"
    return Figure(
        name="group",
        title=f"{moments.group} {moments.groups[j]}",
        reading=_read(moments, effects, lines, j, mine is not None),
        table=table if mine is None else _join_rows(table, mine),
        panels=(Panel(Axis(along), Axis(moments.response), marks),),
        height=HEIGHT,
    )


def take_rows(model: "Model | None", moments: Moments, column: str | None) -> GroupRows | None:
    """Return the rows along a column, or by their number in the group; None if there are none."""
    if model is None or not model.has_rows:
        return None
    labels, fixed, random, y = model.rows()
    at = locate_groups(moments, labels)
    if column is None:
        order = np.argsort(at, kind="stable")
        x = np.empty(len(at))
        x[order] = np.arange(len(at)) - np.searchsorted(at[order], at[order]) + 1.0
    elif column in moments.random:
        x = random[:, moments.random.index(column)]
    else:
        x = fixed[:, moments.fixed.index(column)]
    return GroupRows(at=at, x=x, y=y)


def _find_group(moments: Moments, group: Any) -> int:
    labels = moments.groups.tolist()
    exact = [j for j, label in enumerate(labels) if isinstance(group, Hashable) and label == group]
    text = print_label(group) if isinstance(group, str | Number) else None
    same = exact or [j for j, label in enumerate(labels) if print_label(label) == text]
    if not same:
        raise DataError(
            f"{show_value(group)} is not a {moments.group} of the fit; the labels are in "
            "fit.moments.groups"
        )
    return same[0]


def _mean_along(moments: Moments, column: str | None, j: int) -> float:
    return 0.0 if column is None else float(moments.mean[j, moments.columns.index(column)])


def _find_ends(
    moments: Moments, column: str | None, j: int, mine: tuple[Array, Array] | None
) -> tuple[float, float]:
    """Return the smallest and largest x of the group; without rows, two SDs about its mean."""
    if mine is not None:
        low, high = float(mine[0].min()), float(mine[0].max())
    elif column is None:
        low, high = 1.0, float(moments.n[j])
    else:
        i = moments.columns.index(column)
        sd = float(np.sqrt(max(moments.cross[j, i, i], 0.0) / max(moments.n[j] - 1.0, 1.0)))
        low, high = moments.mean[j, i] - 2.0 * sd, moments.mean[j, i] + 2.0 * sd
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _tabulate(lines: GroupLines, post: Draws | None, j: int, x: Array) -> "pd.DataFrame":
    """Return the lines of group j at x, one row per line and point."""
    import pandas as pd

    parts = []
    for key, _, _ in LINES:
        if key not in lines.at:
            continue
        y = lines.at[key][j] + lines.slope[key][j] * (x - lines.origin)
        part = pd.DataFrame({"kind": key, "x": x, "y": y, "lower": np.nan, "upper": np.nan})
        if key == "posterior":
            assert post is not None
            part["lower"], part["upper"] = find_band(post, j, lines, x)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def find_band(post: Draws, j: int, lines: GroupLines, x: Array) -> tuple[Array, Array]:
    """Return the 95 % interval (m,) of group j's line at x (m,), pointwise."""
    low, high = find_bands(post, np.array([j]), lines.column, x)
    return low[0], high[0]


def find_bands(post: Draws, groups: Array, column: str | None, x: Array) -> tuple[Array, Array]:
    """Return the 95 % intervals (L, m) of the lines of some groups (L,) at x (m,), pointwise."""
    moments = select_groups(post.moments, groups)
    beta = post.contents.read("posterior", "beta")
    beta = beta.reshape(-1, beta.shape[-1])
    ones = np.ones(len(groups))
    means = dict(zip(moments.columns, moments.mean.T, strict=True)) | {INTERCEPT: ones}
    mean_x = np.stack([means[name] for name in moments.fixed])
    mean_z = np.stack([means[name] for name in moments.random])
    turn = np.zeros(mean_x.shape) if column is None else place_slopes(moments, column).T
    offset = np.zeros(len(groups)) if column is None else means[column]
    low, high = np.empty((2, len(groups), len(x)))
    for found, effects in stream_effects(post, groups):
        for start in range(0, len(found), TOGETHER):
            members, u = found[start : start + TOGETHER], effects[:, start : start + TOGETHER]
            level = beta @ mean_x[:, members] + np.einsum("nlq,ql->nl", u, mean_z[:, members])
            slope = beta @ turn[:, members]
            if column in moments.random:
                slope = slope + u[:, :, moments.random.index(column)]
            for at, value in enumerate(x):
                drawn = level + slope * (value - offset[members])
                low[members, at], high[members, at] = np.quantile(drawn, [0.025, 0.975], axis=0)
    return low, high


def _draw(
    moments: Moments, table: "pd.DataFrame", mine: tuple[Array, Array] | None
) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    if mine is not None:
        x, y = mine
        along = np.argsort(x, kind="stable")
        if len(x) > ROWS:
            along = along[np.linspace(0, len(x) - 1, ROWS).round().astype(int)]
        marks.append(Points(x[along], y[along], "data", "Rows", opacity=0.7))
    for key, role, name in LINES:
        part = table[table["kind"] == key]
        if part["y"].isna().all():
            continue
        x = part["x"].to_numpy()
        if part["lower"].notna().any():
            low, high = part["lower"].to_numpy(), part["upper"].to_numpy()
            marks.append(Band(x, low, high, role, name))
        marks.append(Line(x[[0, -1]], part["y"].to_numpy()[[0, -1]], role, name, width=WIDTHS[key]))
    return tuple(marks)


def _join_rows(table: "pd.DataFrame", mine: tuple[Array, Array]) -> "pd.DataFrame":
    import pandas as pd

    rows = pd.DataFrame({"kind": "row", "x": mine[0], "y": mine[1]})
    return pd.concat([rows, table], ignore_index=True)


def _read(moments: Moments, effects: "pd.DataFrame", lines: GroupLines, j: int, drawn: bool) -> str:
    """Return how far the group's coefficient is from the population's, by each estimate."""
    q = len(moments.random)
    column = lines.column
    of_slope = column is not None and column in moments.random
    values = lines.slope if of_slope else lines.at
    what = (
        f"slope of {shorten(column)}"
        if of_slope
        else f"expected {shorten(moments.response)}"
        + (f" at {shorten(column)} = {format_digits(lines.origin, 3)}" if column else "")
    )
    kinds = (
        ("ols", "its own least squares"),
        ("eb", "empirical Bayes"),
        ("posterior", "the posterior mean"),
        ("population", "the fixed effects alone"),
    )
    parts = [
        f"{format_digits(values[key][j], 3)} by {name}"
        for key, name in kinds
        if key in values and np.isfinite(values[key][j])
    ]
    k = moments.random.index(column) if of_slope and column is not None else 0
    reliability = effects["reliability"].to_numpy().reshape(-1, q)[j, k]
    text = (
        f"In {name_group(moments, j)} ({count(int(moments.n[j]), 'row')}), the {what} is "
        f"{', '.join(parts[:-1])}{' and ' if len(parts) > 1 else ''}{parts[-1]}"
    )
    if np.isfinite(reliability):
        text += f"; least squares has a reliability of {reliability:.2f} there"
    elif "ols" in values:
        text += "; it has no least squares of its own"
    held = find_held(moments, column)
    if held:
        text += (
            f"; {list_columns(held)} {'is' if len(held) == 1 else 'are'} held at the group's mean"
        )
    if drawn and moments.n[j] > ROWS:
        text += f"; {ROWS:,} of its rows are drawn"
    return text + "."
