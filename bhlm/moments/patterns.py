"""Patterns: all that a model of counts needs from a table, and where they come from.

A pattern is what rows of one group have in common whose columns are equal: their trials (or
exposure) and successes (or events) add up, and the rows need not be kept. A table of two discrete
covariates has a handful of patterns per group, one of a continuous covariate nearly one per row.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import narwhals as nw
import numpy as np

from bhlm.design.design import (
    Design,
    Prepared,
    build_prepared,
    check_design,
    check_levels,
    check_values,
    distinct_columns,
    ignore_floating_errors,
    prepare_design,
    tally_table,
)
from bhlm.design.evaluate import Rows, read_rows
from bhlm.design.formula.expressions import Apply, Expression, walk
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.frames import GROUP, collect_frame
from bhlm.design.kernels import kernel
from bhlm.design.labels import code_groups
from bhlm.design.rows import count_rows, read_table
from bhlm.errors import DataError, FormulaError, check_arguments
from bhlm.layout import count, show_name
from bhlm.moments.disclosure import find_large_groups
from bhlm.moments.moments import describe_design, freeze, rebuild_design, tell_rows_used
from bhlm.moments.pattern_file import (
    FARTHEST,
    check_patterns,
    list_pattern_disclosures,
    write_patterns,
)
from bhlm.sources.arrow import EXACT

Array = np.ndarray

LOGGER = logging.getLogger("bhlm")
TIMES = "times"  # the column that counts equal rows
SHARE = 1e-3  # what a proportion that was rounded is off by at most


class Outcome(Protocol):
    """What a family says of its responses; `bhlm.likelihood.families` has the families."""

    @property
    def name(self) -> str:
        """Such as "binomial"."""

    @property
    def link(self) -> str:
        """Such as "logit"."""

    @property
    def has_trials(self) -> bool:
        """Whether responses are successes of trials."""

    @property
    def has_exposure(self) -> bool:
        """Whether rows that differ in their offsets alone make one pattern."""

    @property
    def support(self) -> str:
        """What a response may be, in words."""

    def find_outside(self, y: Array, n: Array, /) -> Array:
        """Return which responses are outside the family."""

    @property
    def latent_variance(self) -> float:
        """The variance of the latent residual that the link stands for; nan where there is none."""

    def apply_link(self, mean: Array, /) -> Array:
        """Return the linear predictor of an expected response."""

    def constant(self, y: Array, n: Array, rows: Array, /) -> tuple[float, float]:
        """Return what so many rows (n,) of each kind add to the log-likelihood beside patterns.

        And what the double leaves of it.
        """


class CountedRows:
    """What patterns of one factor and of several tell of their rows alike."""

    __slots__ = ()

    n: Array
    y: Array
    values: Array
    rows: Array
    family: Outcome
    design: Design

    @property
    def fixed(self) -> tuple[str, ...]:
        """The p fixed effects, in order."""
        return self.design.fixed

    @property
    def columns(self) -> tuple[str, ...]:
        """The k column names, response last."""
        return self.design.columns

    @property
    def formula(self) -> str:
        """The formula, as the user wrote it."""
        return self.design.formula.text

    @property
    def response(self) -> str:
        """The response, and its trials if it has any."""
        trials = self.design.formula.trials
        return self.design.response if trials is None else f"{self.design.response} / {trials}"

    @property
    def n_rows(self) -> int:
        """The number of rows behind the patterns."""
        return int(self.rows.sum())

    @property
    def n_patterns(self) -> int:
        """The number of patterns I."""
        return len(self.n)

    @property
    def weights(self) -> None:
        """Rows have none."""
        return None

    @property
    def mass(self) -> Array:
        """What each pattern (I,) counts for by its trials or exposure, in rows."""
        return np.asarray(self.n * (self.n_rows / self.n.sum()))

    @property
    def mean(self) -> Array:
        """The design's columns (I, k) and, last, the response of a trial or a unit of exposure."""
        return np.column_stack([self.values, self.y / self.n])

    @property
    def cross(self) -> Array:
        """The cross-products (I, k, k) about the means within patterns: none."""
        return np.broadcast_to(0.0, (self.n_patterns, len(self.columns), len(self.columns)))


@dataclass(frozen=True, slots=True)
class Patterns(CountedRows):
    """All that the likelihood of a family needs from a table with a single factor.

    The log-likelihood given the random effects is `constant` and what `bhlm.likelihood.families`
    says of each (n, y) at its linear predictor.
    """

    groups: Array  # (J,) group labels, sorted
    starts: Array  # (J + 1,) int64: the patterns of group j are starts[j] to starts[j + 1]
    n: Array  # (I,) trials, or exposure
    y: Array  # (I,) successes, or events
    offset: Array  # (I,)
    values: Array  # (I, k - 1) the design's columns
    rows: Array  # (J,) rows per group, float64 that holds integers
    constant: float
    family: Outcome
    design: Design
    dropped: int  # rows left out because a used column was missing
    missing: tuple[tuple[str, int], ...] = ()  # columns, and rows dropped in which each is missing
    suppressed: int = 0  # rows of groups that were too small to disclose
    min_group_size: int | None = None  # rows that every group is promised to have, by who wrote it
    rest: float = 0.0  # what the double leaves of the constant

    def __repr__(self) -> str:
        """Return the formula, the family and the size of the data."""
        size = f"{self.n_rows} rows in {self.n_groups} groups of {self.group!r}"
        return f"Patterns({self.formula!r}, {self.family.name}: {size}, {self.n_patterns} patterns)"

    @property
    def random(self) -> tuple[str, ...]:
        """The q random coefficients, in order."""
        return self.design.random

    @property
    def blocks(self) -> tuple[tuple[str, ...], ...]:
        """The random coefficients of each random term."""
        return self.design.blocks

    @property
    def group(self) -> str:
        """The name of the grouping column."""
        return self.design.group

    @property
    def n_groups(self) -> int:
        """The number of groups J."""
        return len(self.groups)

    @property
    def codes(self) -> Array:
        """The group (I,) of each pattern."""
        return np.repeat(np.arange(self.n_groups), np.diff(self.starts))

    @property
    def group_size(self) -> dict[str, float]:
        """The smallest, the mean and the largest number of rows in a group."""
        return {
            "min": int(self.rows.min()),
            "mean": float(self.rows.mean()),
            "max": int(self.rows.max()),
        }

    @property
    def rows_used(self) -> str:
        """How many rows were used, and how often which column was missing in the others."""
        return tell_rows_used(
            self.n_rows, dropped=self.dropped, missing=self.missing, suppressed=self.suppressed
        )

    def save(self, path: str | Path, *, min_group_size: int | None = None) -> None:
        """Write the patterns to a file; see `bhlm.moments.patterns.save_patterns`."""
        save_patterns(self, path, min_group_size=min_group_size)

    def disclosures(self, *, min_group_size: int | None = None) -> tuple[str, ...]:
        """Return what is given away of single rows, a sentence each.

        See `bhlm.moments.pattern_file.list_pattern_disclosures`.
        """
        return list_pattern_disclosures(self, min_group_size=min_group_size)

    def take(self, names: tuple[str, ...]) -> Array:
        """Return some columns (I, len(names)) by name, the intercept included."""
        place = {name: at for at, name in enumerate(self.columns)}
        ones = np.ones(self.n_patterns)
        columns = [self.values[:, place[name]] if name in place else ones for name in names]
        return np.ascontiguousarray(np.column_stack(columns))


def reduce_patterns(
    formula: Formula,
    table: Any,
    *,
    family: Outcome,
    design: Design | None = None,
    is_part: bool = False,
) -> Patterns:
    """Return the patterns of the rows of a table that a formula uses.

    A lazy table gives out its distinct rows, by a GROUP BY where the rows are; where cwc() and gm()
    need every row, it gives all of them.

    Args:
        formula: with a single factor; its response may be successes / trials.
        table: any dataframe that narwhals accepts, eager or lazy.
        family: of the responses.
        design: of other patterns by that formula, whose constants and levels are taken; None takes
            those of the table.
        is_part: whether the table may be one part of many, even a single group.

    Raises:
        FormulaError: the formula cannot serve the family.
        DataError: the table cannot serve the formula, or has responses outside the family.
    """
    check_trials(formula, family)
    table = read_table(table, formula)
    prepared = (
        build_prepared(formula, table, counted=True)
        if design is None
        else _prepare_alike(design, table)
    )
    design, frame, layout, _, dropped, missing = prepared
    with ignore_floating_errors():
        held, times = _take_rows(frame, formula)
        groups, codes = code_groups(held[GROUP].to_numpy())
        if len(groups) < 2 and not (is_part and len(groups)):
            check_design(design, table)
        rows = read_rows(design, held, layout, codes, len(groups))
    found = read_counts(
        design, rows, times, family=family, check=lambda: check_design(design, table)
    )
    values, y, trials, offset, (constant, rest) = found
    keys = np.column_stack([values, offset]) if np.any(offset != 0.0) else values
    own, starts, first = find_patterns(codes, np.ascontiguousarray(keys), len(groups))
    return Patterns(
        groups=groups,
        starts=starts,
        n=np.bincount(own, weights=times * trials, minlength=len(first)),
        y=np.bincount(own, weights=times * y, minlength=len(first)),
        offset=offset[first],
        values=np.ascontiguousarray(values[first]),
        rows=np.bincount(codes, weights=times, minlength=len(groups)),
        constant=constant,
        family=family,
        design=design,
        dropped=dropped,
        missing=tuple(missing.items()),
        rest=rest,
    )


def check_trials(formula: Formula, family: Outcome) -> None:
    """Raise `FormulaError` for trials of a family that has none."""
    if formula.trials is not None and not family.has_trials:
        raise FormulaError(
            f"'{formula.response} / {formula.trials}' is successes of trials, and family="
            f"'{family.name}' has none; give family='binomial'"
        )


class Counts(NamedTuple):
    """What a family needs of rows, one after the other."""

    values: Array  # (n, k - 1) the design's columns
    y: Array  # (n,) successes, or events
    trials: Array  # (n,) trials, or exposure
    offset: Array  # (n,)
    # What the rows add to the log-likelihood beside patterns, and what the double leaves of it.
    constant: tuple[float, float]


def read_counts(
    design: Design, rows: Rows, times: Array, *, family: Outcome, check: Callable[[], None]
) -> Counts:
    """Return the columns, responses, trials and offsets of complete rows in memory.

    Args:
        design: of the columns.
        rows: whose group means may still have to be found.
        times: how many rows (n,) of the table each stands for.
        family: of the responses.
        check: raises the error of a term that is not finite in some row.

    Raises:
        DataError: what is not finite, or a response outside the family.
    """
    formula, n_rows = design.formula, len(rows.codes)
    with ignore_floating_errors():
        columns = tuple(distinct_columns(formula, design.levels).values())
        rows.find_means([part.factor for column in columns for part in column.parts])
        values = np.empty((n_rows, len(columns)))
        for span in rows.blocks():
            for at, column in enumerate(columns):
                values[span, at] = rows.column(column, span)
        whole = slice(0, n_rows)

        def read(expression: Expression) -> Array:
            found = np.asarray(rows.evaluate(expression, whole), dtype=np.float64)
            return np.array(np.broadcast_to(found, (n_rows,)))

        y = read(formula.response)
        trials = np.ones(n_rows) if formula.trials is None else read(formula.trials)
        offset = sum((read(each) for each in formula.offsets), np.zeros(n_rows))
    if not all(np.isfinite(each).all() for each in (values, y, trials)):
        check()
    if not np.isfinite(offset).all():
        bad = int(times[~np.isfinite(offset)].sum())
        shown = " + ".join(f"offset({each})" for each in formula.offsets)
        raise DataError(
            f"{shown} is not finite in {count(bad, 'row')} (an exposure of 0 or less?); drop those "
            "rows"
        )
    if (far := np.abs(offset) > FARTHEST).any():
        bad = int(times[far].sum())
        shown = " + ".join(f"offset({each})" for each in formula.offsets)
        raise DataError(
            f"{shown} is {offset[far][0]:g} in {count(bad, 'row')}, and e to that is no size that "
            f"doubles compute with; give it, or the exposure, in other units (at most {FARTHEST:g})"
        )
    _check_responses(formula, family, y, trials, times)
    if family.has_exposure:
        # y (eta + o) - e^(eta + o): with the exposure e^o in the place of n, y o is a constant.
        trials, offset = trials * np.exp(offset), np.zeros(n_rows)
    return Counts(values, y, trials, offset, family.constant(y, trials, times))


def _prepare_alike(design: Design, table: Any) -> Prepared:
    """Return the complete rows of a table that has the constants and levels of a design.

    Raises:
        DataError: the table has values or levels that the design cannot serve.
    """
    with ignore_floating_errors():
        rows, layout = prepare_design(design, table)
        total, missing = tally_table(design, table)
        n = count_rows(rows, layout).complete
        check_levels(design, rows, layout)
        check_values(design, rows, layout, n=n)
    return Prepared(design, rows, layout, n, total - n, missing)


@check_arguments
def save_patterns(
    patterns: "Patterns", path: str | Path, *, min_group_size: int | None = None
) -> None:
    """Write patterns to one file, which `bhlm.load_moments` gives back to the last bit.

    The file appears whole or not at all: a writer that is stopped leaves what was there before.
    What it tells of single rows (`Patterns.disclosures`) is logged as warnings of the logger
    "bhlm".

    Args:
        patterns: what to write.
        path: the file; by custom it ends in .moments.
        min_group_size: refuse to write groups with fewer rows than this, and promise so in the
            file. None promises what the patterns themselves do, as those of a file or of a merge.

    Raises:
        DataError: groups below the minimum, labels of a type that has no place in a file, a folder
            that cannot be written to.
    """
    min_group_size = patterns.min_group_size if min_group_size is None else min_group_size
    if min_group_size is not None:
        find_large_groups(
            patterns.rows, min_group_size, of=f"groups of '{patterns.group}'", action="refuse"
        )
        min_group_size = int(min_group_size)
    check_patterns(patterns, "the patterns")
    description = describe_patterns(patterns) | {"min_group_size": min_group_size}
    write_patterns(path, description, patterns)
    for sentence in patterns.disclosures(min_group_size=min_group_size):
        LOGGER.warning("%s: %s", path, sentence)


def describe_patterns(patterns: Patterns) -> dict[str, Any]:
    """Return all of some patterns but the arrays, as JSON can hold it."""
    return describe_design(patterns.design) | {
        "dropped": patterns.dropped,
        "suppressed": patterns.suppressed,
        "missing": patterns.missing,
        "constant": patterns.constant,
        "rest": patterns.rest,
        "family": patterns.family.name,
        "link": patterns.family.link,
    }


def rebuild_patterns(
    description: Mapping[str, Any], arrays: Mapping[str, Array], *, family: Outcome
) -> Patterns:
    """Return the patterns of which `describe_patterns` is a description, perhaps read from JSON.

    Args:
        description: all but the arrays.
        arrays: by the names of the fields.
        family: the one that is described.

    Raises:
        DataError: its formula cannot be read.
        ValueError, LookupError, TypeError: it is not such a description.
    """
    return Patterns(
        **arrays,
        constant=description["constant"],
        rest=description.get("rest", 0.0),
        family=family,
        design=rebuild_design(description),
        dropped=description["dropped"],
        missing=freeze(description["missing"]),
        # Posteriors of earlier versions do not tell.
        suppressed=description.get("suppressed", 0),
        min_group_size=description.get("min_group_size"),
    )


def _take_rows(
    frame: nw.DataFrame[Any] | nw.LazyFrame[Any], formula: Formula
) -> tuple[nw.DataFrame[Any], Array]:
    """Return rows in memory, and how many rows (n,) of the table each stands for."""
    if isinstance(frame, nw.DataFrame):
        return frame, np.ones(len(frame))
    nodes = (node for factor in list_factors(formula) for node in walk(factor))
    if any(isinstance(node, Apply) and node.function in ("cwc", "gm") for node in nodes):
        held = collect_frame(frame)
        return held, np.ones(len(held))
    names = frame.collect_schema().names()
    held = collect_frame(frame.group_by(names).agg(nw.len().alias(TIMES)))
    return held, held[TIMES].to_numpy().astype(np.float64)


def _check_responses(
    formula: Formula, family: Outcome, y: Array, trials: Array, times: Array
) -> None:
    """Raise `DataError` for trials and responses that the family does not have."""
    bad = (trials < 1.0) | (trials != np.floor(trials))
    if bad.any():
        advice = "give their numbers" if bad.all() else "drop those rows"
        raise DataError(
            f"the trials '{formula.trials}' are {_show_some(trials[bad])} in "
            f"{count(int(times[bad].sum()), 'row')}, and trials are whole numbers from 1; {advice}"
        )
    if (large := np.maximum(y, trials) > EXACT).any():
        raise DataError(
            f"the counts of '{show_name(str(formula.response))}' go to "
            f"{np.maximum(y, trials)[large][0]:g} in {count(int(times[large].sum()), 'row')}; "
            "beyond 2^53 doubles do not count, so give them in larger units"
        )
    outside = family.find_outside(y, trials)
    if not outside.any():
        return
    shown = _show_some(y[outside], trials[outside] if formula.trials is not None else None)
    advice = "correct or drop them"
    if family.has_trials and formula.trials is None:
        advice = "give the trials, as in successes / trials ~ ..."
    elif formula.trials is not None and _is_proportion(y, trials):
        advice = f"give the successes, {formula.response} * {formula.trials}"
    elif family.has_exposure and outside.all() and (y >= 0.0).all():
        advice = "give counts, and what they are counted over as exposure"
    elif not family.has_trials and not family.has_exposure and (y == np.floor(y)).all():
        low, high = (f"{each:g}" for each in (y.min(), y.max()))
        advice = f"recode {low} to 0 and {high} to 1"
        if len(np.unique(y[:10_000])) > 2 and y.min() >= 0.0:
            advice = "counts have family='poisson', or family='binomial' with successes / trials"
    raise DataError(
        f"the response '{show_name(str(formula.response))}' is {shown} in "
        f"{count(int(times[outside].sum()), 'row')}, and of family='{family.name}' it is "
        f"{family.support}; {advice}"
    )


def _show_some(values: Array, trials: Array | None = None) -> str:
    """Return the first of some values, of its trials if there are any, and whether others are."""
    shown = f"{values[0]:g}" + ("" if trials is None else f" of {trials[0]:g} trials")
    is_same = (values == values[0]).all() and (trials is None or (trials == trials[0]).all())
    return shown if is_same else f"{shown} or the like"


def _is_proportion(y: Array, trials: Array) -> bool:
    """Return whether responses are not successes but their shares of the trials."""
    if (y < 0.0).any() or (y > 1.0).any():
        return False
    successes = y * trials
    return bool((np.abs(successes - np.round(successes)) < SHARE * trials).all())


@kernel
def find_patterns(codes: Array, keys: Array, n_groups: int) -> tuple[Array, Array, Array]:
    """Return the pattern (n,) of each row, where each group's begin (J + 1,), and a row of each.

    `keys` (n, k) are equal, bit by bit but for the sign of zero, in the rows of a pattern. Patterns
    go by group, and within a group in the order of the rows.
    """
    n, k = keys.shape
    ends = np.zeros(n_groups + 1, dtype=np.int64)
    for i in range(n):
        ends[codes[i] + 1] += 1
    widest = 0
    for j in range(n_groups):
        widest = max(widest, ends[j + 1])
        ends[j + 1] += ends[j]
    place = ends[:-1].copy()
    order = np.empty(n, dtype=np.int64)
    for i in range(n):
        order[place[codes[i]]] = i
        place[codes[i]] += 1
    size = 2
    while size < 2 * widest:
        size *= 2
    seats = np.full(size, -1, dtype=np.int64)
    bits = keys.view(np.uint64)
    pattern = np.empty(n, dtype=np.int64)
    starts = np.zeros(n_groups + 1, dtype=np.int64)
    first = np.empty(n, dtype=np.int64)
    found = 0
    for j in range(n_groups):
        mask = 2
        while mask < 2 * (ends[j + 1] - ends[j]):
            mask *= 2
        mask -= 1
        seats[: mask + 1] = -1
        for at in range(ends[j], ends[j + 1]):
            i = order[at]
            code = np.uint64(1469598103934665603)
            for c in range(k):
                own = bits[i, c] if keys[i, c] != 0.0 else np.uint64(0)
                code = (code ^ own) * np.uint64(1099511628211)
                code ^= code >> np.uint64(29)
            seat = np.int64(code & np.uint64(mask))
            while seats[seat] >= 0:
                other = first[seats[seat]]
                same = True
                for c in range(k):
                    if keys[other, c] != keys[i, c]:
                        same = False
                        break
                if same:
                    break
                seat = (seat + 1) & mask
            if seats[seat] < 0:
                seats[seat] = found
                first[found] = i
                found += 1
            pattern[i] = seats[seat]
        starts[j + 1] = found
    return pattern, starts, first[:found].copy()
