"""Effects: the expected response along a column, a line and band per value of the moderators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.bayes.slopes import describe_lines, describe_slopes
from bhlm.errors import ArgumentError, DataError, check_arguments
from bhlm.layout import format_digits, list_names
from bhlm.likelihood.slopes import measure_spread
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import Moments
from bhlm.plots.family_effects import draw_effects
from bhlm.plots.family_groups import is_any_family
from bhlm.plots.figure import Figure
from bhlm.plots.groups import choose_shown, draw_lines, find_column, join_effects, mean_beta
from bhlm.plots.marks import Axis, Band, Line, Mark, Panel, Points, Segments
from bhlm.plots.style import SERIES, shorten
from bhlm.reconciliation.comparison import Comparison
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.slopes import estimate_lines, estimate_slopes
from bhlm.reml.maximum import Maximum

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.family.draws import FamilyDraws
    from bhlm.bayes.family.level_draws import FamilyLevelDraws
    from bhlm.fits.model import Model
    from bhlm.reml.family.maximum import FamilyMaximum

Array = np.ndarray

ROWS = 1000  # rows that are drawn
LINES = 100  # groups whose lines are drawn
FAINT = 0.22  # opacity of rows and of groups' lines


@dataclass(frozen=True, slots=True)
class _Lines:
    """What one fit says: the slopes and the lines, one after the other, and their columns."""

    slopes: "pd.DataFrame"
    table: "pd.DataFrame"
    slope: str
    value: str


@check_arguments
def plot_effects(
    fit: "Maximum | Draws | FamilyMaximum | FamilyDraws | FamilyLevelDraws | Comparison",
    column: str,
    *,
    by: str | Sequence[str] | Mapping[str, Any] | None = None,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
    model: "Model | None" = None,
    rows: bool = False,
    groups: bool = False,
    scale: str | None = None,
    kind: str | None = None,
) -> Figure:
    """Return the expected response along a column, one line with its band per moderators' values.

    The random effects are zero, and what is not named stands at its mean or where `at` has it;
    see `bhlm.likelihood.slopes.state_lines`. The figure's table is that of `fit.effect_lines`; of
    a reconciliation it has both, told apart by `source`, the bands are REML's, and the posterior
    mean is a line of its own. Of zeros and ones, proportions and counts it is the probability or
    the rate, of a group whose effects are zero and averaged over all groups there may be, and
    `column` may be a categorical factor, whose levels are then drawn.

    Args:
        fit: by REML or ML, a posterior, or a reconciliation of both.
        column: along x, such as "cwc(ses)"; gm(ses) stays where it is.
        by: moderators that interact with the column, or their values by name; at most six lines.
        at: values of others.
        level: of the bands.
        model: what was fitted, which has the rows; None takes `fit.model`.
        rows: whether to draw up to 1,000 of the rows, in the colour of the nearest line.
        groups: whether to draw up to 100 groups' own lines, by empirical Bayes or the posterior
            mean, likewise.
        scale: of a family "response" (the default) or "link".
        kind: of a family "unit-specific" or "population-averaged"; None draws both where there are
            no moderators, and else the second.

    Raises:
        ArgumentError: a column or moderator that is not in the model or does not interact with the
            column, more than six lines, or groups' lines along a column that has none.
        DataError: rows that are asked for and not at hand.
    """
    import pandas as pd

    if is_any_family(fit):
        if rows or groups or model is not None:
            raise ArgumentError(
                "rows, groups' lines and a model are not drawn of a family; leave rows=, groups= "
                "and model= out, bhlm.plots.plot_caterpillar draws the groups"
            )
        return draw_effects(
            fit, column, by=by, at=at, scale=scale or "response", kind=kind, level=level
        )
    if scale is not None or kind is not None:
        name, given_by = ("scale", scale) if scale is not None else ("kind", kind)
        raise ArgumentError(
            f"{name}={given_by!r} is for families of zeros and ones, proportions and counts; leave "
            "it out"
        )

    reml, post = _split(fit)
    found: dict[str, _Lines] = {}
    if reml is not None:
        found["REML"] = _Lines(
            estimate_slopes(reml, column, by=by, at=at, level=level),
            estimate_lines(reml, column, by=by, at=at, level=level),
            "slope",
            "estimate",
        )
    if post is not None:
        found["posterior"] = _Lines(
            describe_slopes(post, column, by=by, at=at, level=level),
            describe_lines(post, column, by=by, at=at, level=level),
            "mean",
            "mean",
        )
    main = next(iter(found.values()))
    moderators = list(main.slopes.columns[: main.slopes.columns.get_loc(main.slope)])
    points = main.slopes[moderators].to_dict("records")
    if len(points) > len(SERIES):
        raise ArgumentError(
            f"{len(points)} lines are more than one panel tells apart; give by= at most "
            f"{len(SERIES)} values in all, such as by={{'{moderators[0]}': [0, 1]}}"
        )
    name = str(main.table.attrs["column"])
    given = reml if reml is not None else post
    assert given is not None
    behind: list[Mark] = []
    own = model if model is not None else getattr(fit, "model", None)
    if groups:
        behind += _draw_groups(reml, post, name, moderators, points)
    if rows:
        behind += _draw_rows(own, given.moments, name, moderators, points)
    labels = [", ".join(f"{key} = {_show(value)}" for key, value in p.items()) for p in points]
    marks: list[Mark] = []
    told = []
    for k, (row, label) in enumerate(zip(main.slopes.to_dict("records"), labels, strict=True)):
        marks += _draw(main, k, len(points), SERIES[k], shorten(label or "Expected"))
        ends = f"{format_digits(row['lower'], 3)} to {format_digits(row['upper'], 3)}"
        told.append(
            f"{format_digits(row[main.slope], 3)} ({ends}){f' at {label}' if label else ''}"
        )
    reading = (
        f"The slope of {shorten(name)}, with its {100 * level:g} % interval, is "
        f"{list_names(told, most=len(SERIES))}"
    )
    table = main.table
    if len(found) > 1:
        other = found["posterior"]
        for k in range(len(points)):
            part = _take(other.table, k, len(points))
            marks.append(
                Line(
                    part.iloc[:, 0].to_numpy(),
                    part["mean"].to_numpy(),
                    "prior",
                    "Posterior mean",
                )
            )
        gap = (other.slopes["mean"] - main.slopes["slope"]).abs() / other.slopes["sd"]
        reading += f" by REML; the posterior means are within {format_digits(gap.max(), 2)} SDs"
        renamed = other.table.rename(columns={"mean": "estimate", "sd": "se"})
        parts = [main.table.assign(source="REML"), renamed.assign(source="posterior")]
        attributes = table.attrs
        for part in parts:
            part.attrs = {}
        table = pd.concat(parts, ignore_index=True)
        table.attrs = attributes
    return Figure(
        name="effects",
        title=f"Effect of {shorten(name)}",
        reading=reading + ".",
        table=table,
        panels=(Panel(Axis(name), Axis(f"Expected {given.moments.response}"), (*behind, *marks)),),
        height=440,
    )


def _split(fit: object) -> tuple[Maximum | None, Draws | None]:
    if isinstance(fit, Comparison):
        return fit.split_pair("a figure of effects")
    if isinstance(fit, Maximum):
        return fit, None
    if isinstance(fit, Draws):
        return None, fit
    raise ArgumentError(
        f"a {type(fit).__name__} has no effects to draw; give a fit, or what bhlm.reconcile() "
        "returned"
    )


def _take(table: "pd.DataFrame", k: int, lines: int) -> "pd.DataFrame":
    points = len(table) // lines  # a line's rows follow each other
    return table.iloc[k * points : (k + 1) * points]


def _draw(lines: _Lines, k: int, number: int, role: str, name: str) -> list[Mark]:
    part = _take(lines.table, k, number)
    x, y = part.iloc[:, 0].to_numpy(), part[lines.value].to_numpy()
    low, high = part["lower"].to_numpy(), part["upper"].to_numpy()
    return [Band(x, low, high, role, name), Line(x, y, role, name)]


def _draw_groups(
    reml: Maximum | None,
    post: Draws | None,
    column: str,
    moderators: Sequence[str],
    points: Sequence[Mapping[str, Any]],
) -> list[Mark]:
    """Return the lines of some groups, over two SDs of their own to either side of their means."""
    fit = reml if reml is not None else post
    assert fit is not None
    moments = fit.moments
    if (
        not isinstance(moments, Moments)
        or (reml is not None and not isinstance(reml, Estimate))
        or find_column(moments) != column
    ):
        raise ArgumentError(
            f"groups=True draws the lines of one factor's groups along the column in which they "
            f"differ, and '{column}' is not that; leave groups= out"
        )
    own = reml if isinstance(reml, Estimate) else None
    beta = {"posterior": mean_beta(post)} if own is None and post is not None else {}
    if own is not None:
        beta = {"reml": own.beta}
    lines = draw_lines(
        moments, join_effects(own, None if own is not None else post), beta, origin=0.0
    )
    kind = "eb" if own is not None else "posterior"
    i = moments.columns.index(column)
    sd = np.sqrt(np.maximum(moments.cross[:, i, i], 0.0) / np.maximum(moments.n - 1.0, 1.0))
    start, end = moments.mean[:, i] - 2.0 * sd, moments.mean[:, i] + 2.0 * sd
    shown = choose_shown(moments.n_groups, most=LINES, ends=0)
    values = {name: moments.mean[:, moments.columns.index(name)] for name in moments.columns}
    at = _find_nearest(moments, moderators, points, values)
    marks: list[Mark] = []
    for k in range(len(points)):
        mine = shown[at[shown] == k]
        y0, y1 = (lines.at[kind][mine] + lines.slope[kind][mine] * x[mine] for x in (start, end))
        marks.append(Segments(start[mine], y0, end[mine], y1, SERIES[k], opacity=FAINT))
    return marks


def _draw_rows(
    model: "Model | None",
    moments: Moments | CellMoments,
    column: str,
    moderators: Sequence[str],
    points: Sequence[Mapping[str, Any]],
) -> list[Mark]:
    if model is None or not model.has_rows or not isinstance(moments, Moments):
        raise DataError(
            f"rows=True draws single rows of a single factor, and the model of "
            f"'{moments.formula}' has none at hand; leave rows= out, or give model="
        )
    _, fixed, _, y = model.rows()
    values = {name: fixed[:, i] for i, name in enumerate(moments.fixed)}
    if column not in values:
        raise DataError(
            f"the rows' values of '{column}' are in the model in products only; leave rows= out"
        )
    step = max(1, -(-len(y) // ROWS))
    at = _find_nearest(moments, moderators, points, values)
    drawn = np.arange(0, len(y), step)
    return [
        Points(
            values[column][drawn[at[drawn] == k]], y[drawn[at[drawn] == k]], SERIES[k],
            size=3.5, opacity=FAINT,
        )
        for k in range(len(points))
    ]  # fmt: skip


def _find_nearest(
    moments: Moments | CellMoments,
    moderators: Sequence[str],
    points: Sequence[Mapping[str, Any]],
    values: Mapping[str, Array],
) -> Array:
    """Return which of the points (n,) is nearest in the moderators, each measured by its SD.

    Of a factor only its own level counts; moderators whose values are not known say nothing.
    """
    n = len(next(iter(values.values())))
    away = np.zeros((len(points), n))
    for name in moderators:
        levels = [f"{name}[{_print(point[name])}]" for point in points]
        if name in values:
            unit = measure_spread(moments, name).sd or 1.0
            for k, point in enumerate(points):
                away[k] += ((values[name] - point[name]) / unit) ** 2
        elif any(level in values for level in levels):
            own = {level: values[level] for level in levels if level in values}
            rest = 1.0 - np.sum(list(own.values()), axis=0)
            for k, level in enumerate(levels):
                away[k] += 1e6 * (1.0 - own.get(level, rest)) ** 2
    return np.asarray(away.argmin(axis=0))


def _print(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _show(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return format_digits(value, 3).removesuffix(".00") if is_number else shorten(value)
