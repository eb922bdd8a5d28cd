"""Effects of a family: the expected response along a column, of a typical group and of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.family.slopes import expect_draws
from bhlm.errors import ArgumentError
from bhlm.layout import format_digits, list_names
from bhlm.likelihood.expected import KINDS, POPULATION, UNIT, check_kind, find_places
from bhlm.likelihood.slopes import (
    By,
    Grid,
    Value,
    measure_spread,
    print_value,
    state_lines,
    state_points,
)
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.plots.family_groups import AnyFamilyFits, AnyPair, name_response, split_any
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Band, Line, Mark, Panel, Points, Segments
from bhlm.plots.style import SERIES, shorten
from bhlm.reml.family.slopes import expect_places

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

WORDS = {UNIT: "group without an effect", POPULATION: "mean over all groups"}
APART = 0.12  # levels by which points of several series are moved apart
BESIDE = 0.03  # levels by which a posterior mean stands beside its series


@dataclass(frozen=True, slots=True)
class _Series:
    """One line of the figure, or one row of points."""

    name: str
    kind: str
    source: str  # "ML" or "posterior"
    rows: "pd.DataFrame"  # the column's values first, then `estimate`, `lower`, `upper`


def draw_effects(
    fit: AnyFamilyFits,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    scale: str = "response",
    kind: str | None = None,
    level: float = 0.95,
) -> Figure:
    """Return the expected response of a family along a column, or at its levels.

    Args:
        fit: by maximum likelihood, a posterior, or the reconciliation of both, whose intervals are
            those of maximum likelihood.
        column: along x: a column, or a categorical factor such as "C(livch)".
        by: moderators, or their values by name; at most six lines.
        at: values of others, which else stand at their means.
        scale: "response" or "link".
        kind: "unit-specific" or "population-averaged"; None draws both on the response scale
            where there are no moderators, and else the second.
        level: of the intervals.

    Raises:
        ArgumentError: as `bhlm.likelihood.slopes.state_lines`; a scale or kind that is not known;
            more than six lines.
    """
    import pandas as pd

    pair = split_any(fit)
    patterns = pair.given.moments
    both = scale == "response" and kind is None and not by
    kinds = KINDS if both else (check_kind(scale, kind),)
    grid, is_line = _state(patterns, column, by, at)
    series = _measure(pair, grid, kinds, scale=scale, level=level)
    drawn = [each for each in series if each.source == series[0].source]
    if len(drawn) > len(SERIES):
        raise ArgumentError(
            f"{len(drawn)} lines are more than one panel tells apart; give by= at most "
            f"{len(SERIES)} values in all"
        )
    ticks: tuple[Value, ...] = tuple(dict.fromkeys(point[0] for point in grid.points))
    marks: list[Mark] = []
    for k, each in enumerate(drawn):
        role, name = SERIES[k], shorten(each.name)
        low, high = each.rows["lower"].to_numpy(), each.rows["upper"].to_numpy()
        y = each.rows["estimate"].to_numpy()
        if is_line:
            x = each.rows.iloc[:, 0].to_numpy(dtype=float)
            marks += [Band(x, low, high, role, name), Line(x, y, role, name)]
            continue
        x = _place_levels(len(ticks), k, len(drawn))
        hover = tuple(
            f"{shorten(column)} = {print_value(tick)}\n{name}: {format_digits(value, 3)}, "
            f"{format_digits(a, 3)} to {format_digits(b, 3)}"
            for tick, value, a, b in zip(ticks, y, low, high, strict=True)
        )
        marks += [
            Segments(x, low, x, high, role, width=2.0),
            Points(x, y, role, name, hover=hover, size=9),
        ]
    marks += _draw_others(series[len(drawn) :], len(ticks), is_line=is_line)
    places = tuple(map(float, range(len(ticks))))
    texts = tuple(shorten(print_value(tick)) for tick in ticks)
    along = Axis(column) if is_line else Axis(
        column, ticks=(places, texts), range=(-0.5, len(ticks) - 0.5)
    )  # fmt: skip
    what = name_response(pair.given)
    axis = f"expected {what}" if scale == "response" else f"{pair.given.family.link} of the {what}"
    tables = [each.rows.assign(kind=each.kind, source=each.source) for each in series]
    return Figure(
        name="effects",
        title=f"Effect of {shorten(column)}",
        reading=_read(column, what if scale == "response" else axis, drawn, ticks),
        table=pd.concat(tables, ignore_index=True),
        panels=(Panel(along, Axis(axis), tuple(marks)),),
        height=400,
    )


def _state(
    patterns: AnyPatterns, column: str, by: By, at: Mapping[str, Any] | None
) -> tuple[Grid, bool]:
    """Return where responses are expected, the column first, and whether along a line."""
    is_factor = column in patterns.design.levels
    if not is_factor and not (
        column in patterns.columns and measure_spread(patterns, column).values == (0.0, 1.0)
    ):
        return state_lines(patterns, column, by=by, at=at), True
    own = (
        by if isinstance(by, Mapping) else dict.fromkeys([by] if isinstance(by, str) else by or ())
    )
    if column in own:
        raise ArgumentError(f"'{column}' is the column and a moderator; leave it out of by=")
    grid = state_points(patterns, {**own, column: None if is_factor else [0.0, 1.0]}, at=at)
    points = tuple((point[-1], *point[:-1]) for point in grid.points)
    names = (grid.moderators[-1], *grid.moderators[:-1])
    return Grid(column, names, points, grid.contrasts, grid.held), False


def _measure(
    pair: AnyPair, grid: Grid, kinds: Sequence[str], *, scale: str, level: float
) -> list[_Series]:
    """Return the lines of each fit and kind, those of maximum likelihood first."""
    import pandas as pd

    places = find_places(pair.given.moments, grid.contrasts)
    found: list[tuple[str, str, pd.DataFrame]] = []
    for kind in kinds if pair.ml is not None else ():
        assert pair.ml is not None
        table = expect_places(pair.ml, places, scale=scale, kind=kind, method="z", level=level)
        found.append(("ML", kind, table))
    for kind in kinds if pair.post is not None else ():
        assert pair.post is not None
        table = expect_draws(pair.post, places, scale=scale, kind=kind, level=level)
        found.append(("posterior", kind, table.rename(columns={"mean": "estimate", "sd": "se"})))
    rest = [point[1:] for point in grid.points]
    series = []
    for source, kind, table in found:
        before = pd.DataFrame(
            {name: [point[i] for point in grid.points] for i, name in enumerate(grid.moderators)}
        )
        whole = pd.concat([before, table[["estimate", "lower", "upper"]]], axis=1)
        for point in dict.fromkeys(rest):
            label = ", ".join(
                f"{name} = {print_value(value)}"
                for name, value in zip(grid.moderators[1:], point, strict=True)
            )
            words = WORDS[kind] if len(kinds) > 1 or not label else ""
            own = whole[[each == point for each in rest]].reset_index(drop=True)
            series.append(_Series(", ".join(filter(None, (label, words))), kind, source, own))
    return series


def _place_levels(levels: int, k: int, n: int) -> Array:
    """Return where the points (levels,) of the k-th of n series stand."""
    return np.arange(levels) + APART * (k - 0.5 * (n - 1))


def _draw_others(others: Sequence[_Series], levels: int, *, is_line: bool) -> list[Mark]:
    """Return the posterior means, each beside its series by maximum likelihood."""
    marks: list[Mark] = []
    for k, each in enumerate(others):
        y = each.rows["estimate"].to_numpy()
        if is_line:
            x = each.rows.iloc[:, 0].to_numpy(dtype=float)
            marks.append(Line(x, y, "prior", "posterior mean"))
        else:
            x = _place_levels(levels, k, len(others)) + BESIDE
            marks.append(Points(x, y, "prior", "posterior mean", size=6))
    return marks


def _read(column: str, what: str, drawn: Sequence[_Series], ticks: Sequence[Value]) -> str:
    """Return from where to where each line goes."""
    first, last = (
        format_digits(value, 3)
        if isinstance(value := ticks[at], float) and not value.is_integer()
        else print_value(value)
        for at in (0, -1)
    )
    told = []
    for each in drawn:
        ends = each.rows["estimate"].iloc[[0, -1]]
        told.append(
            f"from {format_digits(ends.iloc[0], 3)} to {format_digits(ends.iloc[1], 3)} "
            f"({each.name})"
        )
    return (
        f"Where {shorten(column)} goes from {first} to {last}, the {what} goes "
        f"{list_names(told, most=len(SERIES))}."
    )
