"""Conditional effects as linear combinations of the fixed effects, over a grid of moderators.

The columns of X are products of parts (`bhlm.design.formula.coding`). Moving one part and holding
the others gives the row of a contrast: the coefficient of the part, plus those of its interactions
times what they hold. A part is a column of its own, so cwc(x) moves within groups while gm(x), the
other part of x, stays where it is. Parts that are not given are held at their means over the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.design.formula.coding import Column, Level, Part, expand_terms
from bhlm.design.formula.expressions import Apply, Expression, Name, walk
from bhlm.errors import ArgumentError, is_finite, show_value
from bhlm.layout import format_g, print_label
from bhlm.likelihood.johnson_neyman import JohnsonNeyman, Region
from bhlm.likelihood.linear import Hypotheses, find_name, suggest_name
from bhlm.likelihood.whitening import ROUNDING
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import Moments, pool, pool_blocks
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
type Value = float | Level
type By = str | Sequence[str] | Mapping[str, Any] | None
type Known = Moments | CellMoments | Patterns | LevelPatterns

MOST = 1000  # points of a grid
MOST_PAIRS = 1000
FEW = 5  # distinct values of a moderator that are all shown
POINTS = 25  # along a line
NEAR = 1e-3  # SDs: a derivative by central differences is wrong by the square of it
SAME = 1e-12  # of the largest value: values that differ by less do so by rounding
BINARY = 1e-9  # of a row: sums of x and of x^2 that differ by less are those of 0 and 1


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the values of a column lie, as far as moments know."""

    mean: float  # over the rows
    centre: float  # the mean over groups where the column is constant in them, else over rows
    sd: float  # about the centre, likewise
    low: float  # the smallest value; centre - 2 sd where the column varies within groups
    high: float
    values: tuple[float, ...]  # all distinct values, where they are known and few
    is_range: bool  # whether low and high are the ends of the data


@dataclass(frozen=True, slots=True)
class Grid:
    """m linear combinations of p fixed effects, each at one combination of moderators' values."""

    column: str  # whose slope, or along which
    moderators: tuple[str, ...]  # (r,)
    points: tuple[tuple[Value, ...], ...]  # (m,) of r values each
    contrasts: Array  # (m, p)
    held: Mapping[str, float]  # parts that stand at one value throughout

    @property
    def labels(self) -> tuple[str, ...]:
        """Each point in words, `sector = 1, gm(ses) = 0`."""
        return tuple(
            ", ".join(
                f"{name} = {print_value(value)}"
                for name, value in zip(self.moderators, point, strict=True)
            )
            or "at the means"
            for point in self.points
        )

    @property
    def hypotheses(self) -> Hypotheses:
        """That each combination is zero."""
        return Hypotheses(self.labels, self.contrasts, np.zeros(len(self.contrasts)))


@dataclass(frozen=True, slots=True)
class Along:
    """A slope along a continuous moderator m = centre + z unit: rows[0] + z rows[1]."""

    column: str
    moderator: str
    rows: Array  # (2, p)
    centre: float
    unit: float
    spread: Spread  # of the moderator

    def scale(self, value: float) -> float:
        """Return z of a value of the moderator."""
        return (value - self.centre) / self.unit

    def tell(
        self,
        bounds: Sequence[float],
        regions: Sequence[Region],
        *,
        level: float,
        method: str,
    ) -> JohnsonNeyman:
        """Return bounds and regions that were found in z, in the moderator's own units."""

        def put(z: float) -> float:
            return self.centre + self.unit * z

        return JohnsonNeyman(
            column=self.column,
            moderator=self.moderator,
            level=level,
            method=method,
            bounds=tuple(map(put, bounds)),
            regions=tuple(Region(put(r.start), put(r.end), r.sign) for r in regions),
            low=self.spread.low,
            high=self.spread.high,
            is_range=self.spread.is_range,
        )


@dataclass(frozen=True, slots=True)
class _Factors:
    """The fixed part of a model as products of parts."""

    columns: tuple[Column, ...]  # (p,)
    levels: Mapping[str, tuple[Level, ...]]  # by categorical factor

    @classmethod
    def of(cls, moments: Known) -> "_Factors":
        design = moments.design
        return cls(tuple(expand_terms(design.formula.fixed, design.levels)), design.levels)

    @property
    def parts(self) -> dict[str, Part]:
        """Every part by its name, in the order of the columns."""
        return {part.name: part for column in self.columns for part in column.parts}

    @property
    def names(self) -> tuple[str, ...]:
        """What may be given a value: numeric parts, and categorical factors as one."""
        return tuple(dict.fromkeys(map(name_part, self.parts.values())))


def list_moved(moments: Known) -> tuple[str, ...]:
    """Return the columns and categorical factors whose values decide the expected response."""
    return _Factors.of(moments).names


def list_levels(moments: Known, name: str) -> tuple[str, ...]:
    """Return the parts whose effects a column or factor has: itself, or its levels but the first.

    The first level is the reference that the others are compared with.
    """
    levels = _Factors.of(moments).levels.get(name, ())
    return tuple(f"{name}[{print_label(level)}]" for level in levels[1:]) or (name,)


def state_slopes(
    moments: Known,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
) -> Grid:
    """Return the simple slope of a column at each combination of the moderators' values.

    Args:
        moments: of the model.
        column: a numeric part of the fixed effects, such as "cwc(ses)", or a level of a categorical
            factor, such as "sex[F]", whose slope is its difference from the reference.
        by: moderators: one name, several, or values by name. Without values: all levels of a
            categorical factor; all values of a column that is constant in groups and has at most 5,
            or is 0 and 1; otherwise its mean and one SD to either side, over groups where it is
            constant in them, else over rows.
        at: values of other parts, which otherwise stand at their means over the rows.

    Raises:
        ArgumentError: a column or a moderator that is not in the model or has no interaction with
            the column, values that are no numbers or levels, too many points, or a part that would
            move along with another that is moved.
    """
    factors = _Factors.of(moments)
    moved = _find_column(factors, column)
    used = [each for each in factors.columns if any(_is_moved(p, moved) for p in each.parts)]
    others = tuple(
        dict.fromkeys(name_part(p) for c in used for p in c.parts if not _is_moved(p, moved))
    )
    names, choices = _choose_values(factors, moments, by)
    for name in names:
        if name not in others:
            there = f"it interacts with {', '.join(others)}" if others else "it has no interaction"
            raise ArgumentError(
                f"the slope of '{moved.name}' does not depend on '{name}' in this model; {there}"
            )
    held = _hold(factors, moments, used, at, free={*names, name_part(moved)})
    _refuse_companions(factors.columns, [moved])
    _refuse_companions(used, [p for p in factors.parts.values() if name_part(p) in names])
    points = _cross(choices)
    rows = np.zeros((len(points), len(factors.columns)))
    high = _set_part(factors, moved, on=True)
    low = _set_part(factors, moved, on=False)
    for row, point in zip(rows, points, strict=True):
        values = held | _set_values(factors, names, point)
        for i, each in enumerate(factors.columns):
            if each in used:
                row[i] = _multiply(each, values | high) - _multiply(each, values | low)
    return Grid(moved.name, names, points, rows, _tell_held(factors, held))


def state_averages(moments: Known, column: str, *, by: str | None = None) -> Grid:
    """Return the slope of a column averaged over the rows, all or those of each value of `by`.

    The average of b1 + b3 w + b5 w v over rows is b1 + b3 mean(w) + b5 mean(w v), and moments know
    the mean of a product of two columns. A slope that depends on nothing is its own average.

    Args:
        moments: of the model.
        column: as in `state_slopes`.
        by: a column of the fixed effects that is constant in groups and has at most 5 values, or a
            categorical factor that is.

    Raises:
        ArgumentError: as `state_slopes`; a `by` that varies within groups or has more values; a
            product of more than two columns, or of one that the model has in products only.
    """
    factors = _Factors.of(moments)
    moved = _find_column(factors, column)
    used = [each for each in factors.columns if any(_is_moved(p, moved) for p in each.parts)]
    _refuse_companions(factors.columns, [moved])
    parts: list[tuple[tuple[Value, ...], Array]] = [((), np.ones(len(moments.mass), dtype=bool))]
    names: tuple[str, ...] = ()
    if by is not None:
        names = (_find_moderator(factors, by),)
        parts = _split_blocks(factors, moments, names[0])
    high = _set_part(factors, moved, on=True)
    low = _set_part(factors, moved, on=False)
    rows = np.zeros((len(parts), len(factors.columns)))
    for row, (_, chosen) in zip(rows, parts, strict=True):
        for i, each in enumerate(factors.columns):
            if each in used:
                others = [p for p in each.parts if not _is_moved(p, moved)]
                own = Column(each.name, tuple(p for p in each.parts if _is_moved(p, moved)))
                change = _multiply(own, high) - _multiply(own, low)
                row[i] = change * _average_product(factors, moments, others, chosen)
    return Grid(moved.name, names, tuple(point for point, _ in parts), rows, {})


def _split_blocks(
    factors: _Factors, moments: Known, name: str
) -> list[tuple[tuple[Value, ...], Array]]:
    """Return each value of a column that is constant in blocks, and which blocks (J,) have it."""
    if name in factors.levels:
        shown = [f"{name}[{print_label(level)}]" for level in factors.levels[name]]
        known = [each for each in shown if each in moments.columns]
        means = {each: moments.mean[:, moments.columns.index(each)] for each in known}
        rest = 1.0 - np.sum(list(means.values()), axis=0)
        shares = [np.asarray(means.get(each, rest)) for each in shown]
        is_told = len(known) >= len(shown) - 1 > 0
        if is_told and all((np.minimum(abs(x), abs(1.0 - x)) <= SAME).all() for x in shares):
            return [
                ((level,), share > 0.5)
                for level, share in zip(factors.levels[name], shares, strict=True)
            ]
    else:
        spread = measure_spread(moments, name)
        i = moments.columns.index(name)
        mean, cross = moments.mean[:, i], moments.cross[:, i, i]
        if (cross <= ROUNDING * moments.mass * mean**2).all() and spread.values:
            width = SAME * max(map(abs, spread.values))
            return [((value,), np.abs(mean - value) <= width) for value in spread.values]
    raise ArgumentError(
        f"the rows cannot be told apart by '{name}', which varies within groups or has more than "
        f"{FEW} values; ask fit.effects for the slope at values of it, by={{'{name}': [...]}}"
    )


def _average_product(
    factors: _Factors, moments: Known, parts: Sequence[Part], chosen: Array
) -> float:
    """Return the mean of a product of parts over the rows of the chosen blocks (J,)."""
    if not parts:
        return 1.0
    n, mean, total = pool_blocks(moments.mass[chosen], moments.mean[chosen], moments.cross[chosen])
    place = {name: i for i, name in enumerate(moments.columns)}
    whole = ":".join(part.name for part in parts)
    if whole in place:
        return float(mean[place[whole]])
    terms = [_express(factors, place, part) for part in parts]
    if len(terms) > 2 or None in terms:
        raise ArgumentError(
            f"the average of {whole} over the rows is not known from moments; ask fit.effects for "
            "the slope at values of these columns, by= and at="
        )
    found = 0.0
    for a, x in terms[0] or ():
        for b, y in terms[-1] if len(terms) == 2 and terms[-1] else ((None, 1.0),):
            found += x * y * _mean_of_two(mean, total / n, a, b)
    return found


def _mean_of_two(mean: Array, cov: Array, a: int | None, b: int | None) -> float:
    """Return the mean of the product of two columns, None being the intercept."""
    if a is None or b is None:
        one = b if a is None else a
        return 1.0 if one is None else float(mean[one])
    return float(mean[a] * mean[b] + cov[a, b])


def _express(
    factors: _Factors, place: Mapping[str, int], part: Part
) -> tuple[tuple[int | None, float], ...] | None:
    """Return a part as a sum of columns with coefficients; None where they are not known."""
    if part.name in place:
        return ((place[part.name], 1.0),)
    if part.level is None:
        return None
    name = str(part.factor)
    others = [f"{name}[{print_label(level)}]" for level in factors.levels[name]]
    others.remove(part.name)
    if not all(each in place for each in others):
        return None
    return ((None, 1.0), *((place[each], -1.0) for each in others))


def state_lines(
    moments: Known,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    values: Sequence[float] | None = None,
) -> Grid:
    """Return the expected response along a column, at each combination of the moderators' values.

    The random effects are zero. The first moderator of the grid is the column itself. `values`
    along it are 25 from its lowest to its highest, or two SDs to either side of its mean where it
    varies within groups; the other arguments are those of `state_slopes`, except that a
    moderator need not interact.

    Raises:
        ArgumentError: as `state_slopes`.
    """
    factors = _Factors.of(moments)
    moved = _find_column(factors, column)
    if moved.level is not None:
        raise ArgumentError(
            f"'{moved.name}' is a level, along which there is no line; give its factor as by="
        )
    names, choices = _choose_values(factors, moments, by)
    if moved.name in names:
        raise ArgumentError(f"'{moved.name}' is the column and a moderator; leave it out of by=")
    if values is None:
        spread = measure_spread(moments, moved.name)
        values = [float(x) for x in np.linspace(spread.low, spread.high, POINTS)]
    along = _read_numbers(moved.name, values)
    held = _hold(factors, moments, factors.columns, at, free={*names, moved.name})
    free = [p for p in factors.parts.values() if name_part(p) in (*names, moved.name)]
    _refuse_companions(factors.columns, free)
    points = _cross((*choices, along))
    rows = np.empty((len(points), len(factors.columns)))
    for row, point in zip(rows, points, strict=True):
        found = held | _set_values(factors, (*names, moved.name), point)
        row[:] = [_multiply(each, found) for each in factors.columns]
    # The column changes fastest, and is named first.
    points = tuple((point[-1], *point[:-1]) for point in points)
    return Grid(moved.name, (moved.name, *names), points, rows, _tell_held(factors, held))


def state_points(moments: Known, by: By, *, at: Mapping[str, Any] | None = None) -> Grid:
    """Return the expected response at each combination of values, the random effects being zero.

    As `state_lines`, with points in the place of lines: `by` names columns and categorical
    factors, or has their values, and what is not named stands at its mean or where `at` has it.

    Raises:
        ArgumentError: as `state_slopes`.
    """
    factors = _Factors.of(moments)
    names, choices = _choose_values(factors, moments, by)
    held = _hold(factors, moments, factors.columns, at, free=set(names))
    _refuse_companions(
        factors.columns, [p for p in factors.parts.values() if name_part(p) in names]
    )
    points = _cross(choices)
    rows = np.empty((len(points), len(factors.columns)))
    for row, point in zip(rows, points, strict=True):
        found = held | _set_values(factors, names, point)
        row[:] = [_multiply(each, found) for each in factors.columns]
    return Grid("", names, points, rows, _tell_held(factors, held))


def find_step(moments: Known, column: str) -> tuple[str, tuple[Value, Value]]:
    """Return what a column is called as a moderator, and two of its values an effect apart.

    Of a level its factor with the reference and the level, of a column of zeros and ones these, of
    any other a thousandth of an SD to either side of its mean: so close that the difference
    divided by the distance is the derivative.

    Raises:
        ArgumentError: as `state_slopes`.
    """
    factors = _Factors.of(moments)
    moved = _find_column(factors, column)
    if moved.level is not None:
        name = str(moved.factor)
        return name, (factors.levels[name][0], moved.level)
    spread = measure_spread(moments, moved.name)
    if spread.values == (0.0, 1.0):
        return moved.name, (0.0, 1.0)
    step = NEAR * (spread.sd or 1.0)
    return moved.name, (spread.mean - step, spread.mean + step)


def state_along(
    moments: Known, column: str, *, by: str, at: Mapping[str, Any] | None = None
) -> Along:
    """Return the simple slope of a column as a line along one moderator; see `state_slopes`.

    Raises:
        ArgumentError: as `state_slopes`; a moderator that is categorical, or has one value only.
    """
    factors = _Factors.of(moments)
    name = _find_moderator(factors, by)
    if name in factors.levels:
        raise ArgumentError(
            f"'{name}' has levels, between which there is no bound; compare the slopes at them"
        )
    spread = measure_spread(moments, name)
    if not spread.sd > 0.0:
        raise ArgumentError(f"'{name}' has one value only; choose a moderator that varies")
    ends = (spread.centre, spread.centre + spread.sd)
    grid = state_slopes(moments, column, by={name: ends}, at=at)
    rows = np.array([grid.contrasts[0], grid.contrasts[1] - grid.contrasts[0]])
    return Along(grid.column, name, rows, spread.centre, ends[1] - ends[0], spread)


def name_points(grid: Grid, table: "pd.DataFrame", **facts: Any) -> "pd.DataFrame":
    """Return a table of a grid's rows with the moderators' values before its columns.

    A moderator that is called as one of the columns is "... of the data". `attrs` hold the `facts`,
    the grid's `column` and what is `held`.
    """
    import pandas as pd

    taken = set(table.columns)
    before = {
        f"{name} of the data" if name in taken else name: [point[k] for point in grid.points]
        for k, name in enumerate(grid.moderators)
    }
    joined = pd.concat([pd.DataFrame(before, index=table.index), table], axis=1)
    joined = joined.reset_index(drop=True)
    joined.attrs |= {"column": grid.column, "held": dict(grid.held), **facts}
    return joined


def pair_points(grid: Grid) -> Hypotheses:
    """Return that the combinations of a grid are equal, for each pair: the later less the earlier.

    Raises:
        ArgumentError: fewer than two points, or too many pairs.
    """
    pairs = list(combinations(range(len(grid.points)), 2))
    if not 0 < len(pairs) <= MOST_PAIRS:
        raise ArgumentError(
            f"a grid of {len(grid.points)} points has {len(pairs)} pairs to compare; give by= two "
            "or more values, of at most a dozen or two"
        )
    first, second = np.array(pairs).T
    labels = tuple(f"({grid.labels[j]}) - ({grid.labels[i]})" for i, j in pairs)
    return Hypotheses(labels, grid.contrasts[second] - grid.contrasts[first], np.zeros(len(pairs)))


def name_part(part: Part) -> str:
    """Return the name under which a part is given a value: a level goes by its factor's."""
    return part.name if part.level is None else str(part.factor)


def measure_spread(moments: Known, name: str) -> Spread:
    """Return where the values of a column lie.

    Raises:
        ArgumentError: a part that the model has in products only, whose values moments do not know.
    """
    if name not in moments.columns:
        raise ArgumentError(
            f"'{name}' is in the model in products only, so its values are not known; give them, "
            f"such as by={{'{name}': [0, 1]}} or at={{'{name}': 0}}"
        )
    i = moments.columns.index(name)
    n, grand, total = pool(moments)
    mean, cross = moments.mean[:, i], moments.cross[:, i, i]
    if isinstance(moments, Patterns | LevelPatterns):
        distinct = np.unique(mean)
        values = tuple(map(float, distinct)) if len(distinct) <= FEW else ()
        centre, sd = float(grand[i]), float(np.sqrt(total[i, i] / (n - 1.0)))
        return Spread(centre, centre, sd, float(mean.min()), float(mean.max()), values, True)
    constant = bool((cross <= ROUNDING * moments.mass * mean**2).all())
    if isinstance(moments, CellMoments):
        by_level = _mean_by_level(moments, mean)
        constant &= len(by_level) < len(mean)
        mean = by_level if constant else mean
    if constant:  # in groups
        ordered = np.sort(mean)
        apart = np.diff(ordered, prepend=-np.inf) > SAME * np.abs(ordered).max()
        distinct = ordered[apart]
        values = tuple(map(float, distinct)) if len(distinct) <= FEW else ()
        sd = float(mean.std(ddof=1))
        low, high = float(mean.min()), float(mean.max())
        return Spread(float(grand[i]), float(mean.mean()), sd, low, high, values, True)
    centre, sd = float(grand[i]), float(np.sqrt(total[i, i] / (n - 1.0)))
    square = total[i, i] + n * centre**2
    if abs(square - n * centre) <= BINARY * n and (mean >= 0).all() and (mean <= 1).all():
        return Spread(centre, centre, sd, 0.0, 1.0, (0.0, 1.0), True)
    return Spread(centre, centre, sd, centre - 2.0 * sd, centre + 2.0 * sd, (), False)


def _mean_by_level(moments: CellMoments, mean: Array) -> Array:
    """Return the means of a column by level of the factor with the fewest in which it is constant.

    By cell (C,), as given, where it is constant in the levels of none.
    """
    for labels in sorted(moments.labels, key=lambda each: each.n_levels):
        own = np.bincount(labels.codes, weights=moments.n * mean)
        own /= np.bincount(labels.codes, weights=moments.n)
        if np.all(np.abs(mean - own[labels.codes]) <= SAME * np.abs(mean).max()):
            return np.asarray(own)
    return mean


def _find_column(factors: _Factors, column: str) -> Part:
    """Return the part that a name stands for."""
    parts = factors.parts
    at = find_name(column, tuple(parts))
    if at is None:
        if column in factors.levels:
            shown = [part.name for part in parts.values() if str(part.factor) == column]
            raise ArgumentError(
                f"'{column}' has several levels; give one of {', '.join(shown)}, which is its "
                "difference from the reference"
            )
        hint = suggest_name(column, tuple(parts), kind="columns") if parts else "it has no column"
        raise ArgumentError(
            f"{show_value(column)} is no column of the model's fixed effects; {hint}"
        )
    part = parts[tuple(parts)[at]]
    if part.level is not None and part.level == factors.levels[str(part.factor)][0]:
        raise ArgumentError(
            f"'{part.name}' is the reference level; give another level of {part.factor}"
        )
    return part


def _find_moderator(factors: _Factors, name: str) -> str:
    at = find_name(name, factors.names)
    if at is None:
        hint = suggest_name(name, factors.names, kind="columns") if factors.names else "it has none"
        raise ArgumentError(f"{show_value(name)} is no column of the model's fixed effects; {hint}")
    return factors.names[at]


def _choose_values(
    factors: _Factors, moments: Known, by: By
) -> tuple[tuple[str, ...], tuple[tuple[Value, ...], ...]]:
    """Return the moderators and the values of each."""
    given: dict[str, Any] = {}
    if isinstance(by, Mapping):
        given = dict(by)
    elif by is not None:
        given = dict.fromkeys([by] if isinstance(by, str) else by)
    names, choices = [], []
    for asked, values in given.items():
        name = _find_moderator(factors, _check_name(asked))
        if name in names:
            raise ArgumentError(f"the moderator '{name}' is given twice; give it once")
        names.append(name)
        if name in factors.levels:
            choices.append(_read_levels(factors, name, values))
        elif values is None:
            choices.append(_spread_out(measure_spread(moments, name)))
        else:
            choices.append(_read_numbers(name, values))
    return tuple(names), tuple(choices)


def _spread_out(spread: Spread) -> tuple[float, ...]:
    if spread.values:
        return spread.values
    return (spread.centre - spread.sd, spread.centre, spread.centre + spread.sd)


def _check_name(name: Any) -> str:
    if not isinstance(name, str):
        raise ArgumentError(f"{show_value(name)} is no name of a column; give text")
    return name


def _list_values(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__len__"):
        values = [values]
    found = list(values)
    if not 0 < len(found) <= MOST:
        raise ArgumentError(f"'{name}' has {len(found)} values; give 1 to {MOST:,}")
    return found


def _read_numbers(name: str, values: Any) -> tuple[float, ...]:
    found = _list_values(name, values)
    for value in found:
        if isinstance(value, bool | str) or not is_finite(value) or isinstance(value, complex):
            raise ArgumentError(
                f"{show_value(value)} is no value of '{name}'; give finite numbers, such as [0, 1]"
            )
    return tuple(float(value) for value in found)


def _read_levels(factors: _Factors, name: str, values: Any) -> tuple[Value, ...]:
    levels = factors.levels[name]
    if values is None:
        return levels
    shown = {print_label(level): level for level in levels}
    found = []
    for value in _list_values(name, values):
        same = [level for level in levels if type(level) is type(value) and level == value]
        text = str(value) if isinstance(value, str | bool | int | float | np.generic) else None
        if not same and text not in shown:
            raise ArgumentError(
                f"{show_value(value)} is no level of '{name}'; the levels are {', '.join(shown)}"
            )
        found.append(same[0] if same else shown[text or ""])
    return tuple(found)


def _cross(choices: Sequence[Sequence[Value]]) -> tuple[tuple[Value, ...], ...]:
    size = int(np.prod([len(values) for values in choices], dtype=float))
    if size > MOST * POINTS:
        raise ArgumentError(f"the grid has {size:,} points; give fewer values (at most 25,000)")
    return tuple(product(*choices))


def _is_moved(part: Part, moved: Part) -> bool:
    same = part.factor == moved.factor
    return same and (part.level is not None or part.degree == moved.degree)


def _set_part(factors: _Factors, moved: Part, *, on: bool) -> dict[str, float]:
    """Return the values of a part, of its factor's levels all, at 1 or at 0."""
    if moved.level is None:
        return {moved.name: float(on)}
    levels = factors.levels[str(moved.factor)]
    return _set_values(factors, (str(moved.factor),), (moved.level if on else levels[0],))


def _set_values(
    factors: _Factors, names: Sequence[str], point: Sequence[Value]
) -> dict[str, float]:
    """Return the value of every part that the moderators' values decide."""
    found: dict[str, float] = {}
    for name, value in zip(names, point, strict=True):
        if name not in factors.levels:
            found[name] = float(value)
            continue
        for level in factors.levels[name]:
            found[f"{name}[{print_label(level)}]"] = float(level == value)
    return found


def _hold(
    factors: _Factors,
    moments: Known,
    used: Sequence[Column],
    at: Mapping[str, Any] | None,
    *,
    free: set[str],
) -> dict[str, float]:
    """Return the values of the parts of `used` that are not free: those given, or means."""
    held: dict[str, float] = {}
    for asked, value in (at or {}).items():
        name = _find_moderator(factors, _check_name(asked))
        if name in free:
            raise ArgumentError(f"'{name}' is held by at= and moved as well; leave it out of one")
        read = _read_levels if name in factors.levels else None
        values = read(factors, name, value) if read else _read_numbers(name, value)
        if len(values) != 1:
            raise ArgumentError(f"at= holds '{name}' at one value; give several by by=")
        held |= _set_values(factors, (name,), values)
    for column in used:
        for part in column.parts:
            if name_part(part) not in free and part.name not in held:
                held |= _average(factors, moments, part)
    return held


def _average(factors: _Factors, moments: Known, part: Part) -> dict[str, float]:
    """Return the mean over the rows of a part, or of all levels of its factor: their shares."""
    if part.level is None:
        return {part.name: float(measure_spread(moments, part.name).mean)}
    name = str(part.factor)
    columns = [f"{name}[{print_label(level)}]" for level in factors.levels[name]]
    unknown = [each for each in columns if each not in moments.columns]
    if len(unknown) > 1:
        raise ArgumentError(
            f"the shares of the levels of '{name}' are not known; give one, such as "
            f"at={{'{name}': {factors.levels[name][0]!r}}}, or all of them by by='{name}'"
        )
    shares = {
        each: float(measure_spread(moments, each).mean)
        for each in columns
        if each in moments.columns
    }
    return shares | {each: 1.0 - sum(shares.values()) for each in unknown}


def _tell_held(factors: _Factors, held: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in held.items() if name in factors.parts}


def _multiply(column: Column, values: Mapping[str, float]) -> float:
    return float(np.prod([values[part.name] for part in column.parts])) if column.parts else 1.0


def _refuse_companions(used: Sequence[Column], moved: Sequence[Part]) -> None:
    """Raise `ArgumentError` where a part that is held would move with one that is moved.

    gm(x) stays where cwc(x) or x moves, and they where gm(x) does: a group's mean and where a row
    stands in it are moved apart.
    """
    free = {part.name for part in moved}
    for column in used:
        for part in column.parts:
            for other in moved:
                if part.name not in free and _moves_along(part, other):
                    raise ArgumentError(
                        f"'{part.name}' moves with '{other.name}', so it cannot be held; ask for "
                        "their combination by fit.contrast or fit.hypothesis"
                    )


def _moves_along(part: Part, moved: Part) -> bool:
    if part.factor == moved.factor:
        return part.level is None  # all levels of a factor are set at once
    return bool(_coordinates(part.factor) & _coordinates(moved.factor))


def _coordinates(factor: Expression) -> set[str]:
    """Return what an expression depends on: columns of the table, or their groups' means."""
    if isinstance(factor, Name):
        return {factor.name}
    if isinstance(factor, Apply):
        if factor.function == "gm":
            group = factor.option("group")
            return {f"gm({each}, {group})" for each in walk(factor) if isinstance(each, Name)}
        return set().union(*map(_coordinates, factor.arguments))
    return set()


def print_value(value: Value) -> str:
    """Return a value of a column or a level, for a sentence."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return format_g(float(value)).strip() if is_number else print_label(value)
