"""Patterns of several grouping factors: what rows of one cell with equal columns have in common.

A cell is a combination of labels that occurs, of nested factors a unit of the finest. Within it
patterns are what they are within a group of a single factor.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bhlm.design.cells import Labels, prepare_cells
from bhlm.design.design import Design, GroupingFactor
from bhlm.design.formula.terms import Formula
from bhlm.layout import list_names
from bhlm.moments.cells import list_implicit, spread_labels
from bhlm.moments.moments import describe_design, tell_rows_used
from bhlm.moments.patterns import (
    CountedRows,
    Outcome,
    Patterns,
    check_trials,
    find_patterns,
    read_counts,
)
from bhlm.sources.watch import unchanged

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class LevelPatterns(CountedRows):
    """All that the likelihood of a family needs from a table with F grouping factors.

    Patterns go by cell, and the log-likelihood given the random effects is as of
    `bhlm.moments.patterns.Patterns`.
    """

    labels: tuple[Labels, ...]  # F, with the levels (I,) that the patterns belong to
    n: Array  # (I,) trials, or exposure
    y: Array  # (I,) successes, or events
    offset: Array  # (I,)
    values: Array  # (I, k - 1) the design's columns
    rows: Array  # (I,) rows per pattern, float64 that holds integers
    constant: float
    family: Outcome
    design: Design
    dropped: int  # rows left out because a used column was missing
    missing: tuple[tuple[str, int], ...] = ()  # columns, and rows dropped in which each is missing
    rest: float = 0.0  # what the double leaves of the constant

    def __repr__(self) -> str:
        """Return the formula, the family and the size of the data."""
        return (
            f"LevelPatterns({self.formula!r}, {self.family.name}: {self.size}, "
            f"{self.n_patterns} patterns)"
        )

    @property
    def size(self) -> str:
        """The rows and the levels of every factor, in words."""
        levels = [f"{number} of {name!r}" for name, number in self.groups.items()]
        return f"{self.n_rows} rows in {list_names(levels, most=len(levels))}"

    @property
    def factors(self) -> tuple[GroupingFactor, ...]:
        """The F grouping factors."""
        return self.design.factors

    @property
    def random(self) -> tuple[str, ...]:
        """The random coefficients of all factors, factor after factor."""
        return tuple(name for each in self.factors for block in each.blocks for name in block)

    @property
    def codes(self) -> Array:
        """The level (F, I) of every factor that each pattern belongs to."""
        return np.array([each.codes for each in self.labels])

    @property
    def cell_labels(self) -> dict[str, Array]:
        """The label (I,) of every pattern, by grouping column."""
        return spread_labels(self.design, self.labels)

    @property
    def groups(self) -> dict[str, int]:
        """The number of levels of every factor."""
        names = (factor.name for factor in self.factors)
        return dict(zip(names, (each.n_levels for each in self.labels), strict=True))

    @property
    def group_size(self) -> dict[str, dict[str, float]]:
        """By factor, the smallest, the mean and the largest number of rows of a level."""
        sizes = {}
        for factor, labels in zip(self.factors, self.labels, strict=True):
            rows = np.bincount(labels.codes, weights=self.rows)
            sizes[factor.name] = {
                "min": int(rows.min()),
                "mean": float(rows.mean()),
                "max": int(rows.max()),
            }
        return sizes

    @property
    def rows_used(self) -> str:
        """How many rows were used, and how often which column was missing in the others."""
        return tell_rows_used(self.n_rows, dropped=self.dropped, missing=self.missing)

    @property
    def note(self) -> str:
        """What to know of labels that may be nested implicitly; empty if nothing."""
        return " ".join(list_implicit(self))

    def take(self, names: tuple[str, ...]) -> Array:
        """Return some columns (I, len(names)) by name, the intercept included."""
        place = {name: at for at, name in enumerate(self.columns)}
        ones = np.ones(self.n_patterns)
        columns = [self.values[:, place[name]] if name in place else ones for name in names]
        return np.ascontiguousarray(np.column_stack(columns))


type AnyPatterns = Patterns | LevelPatterns


def describe_level_patterns(patterns: LevelPatterns) -> dict[str, Any]:
    """Return all of some patterns but the arrays, as JSON can hold it."""
    return describe_design(patterns.design) | {
        "groupings": patterns.design.formula.group_columns,
        "factors": [(each.name, each.columns, each.blocks) for each in patterns.factors],
        "dropped": patterns.dropped,
        "missing": patterns.missing,
        "constant": patterns.constant,
        "rest": patterns.rest,
        "family": patterns.family.name,
        "link": patterns.family.link,
    }


def reduce_level_patterns(formula: Formula, table: Any, *, family: Outcome) -> LevelPatterns:
    """Return the patterns of the rows of a table that a formula with several factors uses.

    Args:
        formula: with several factors; its response may be successes / trials.
        table: any dataframe that narwhals accepts; the columns that are read are held in memory.
        family: of the responses.

    Raises:
        FormulaError: the formula cannot serve the family.
        DataError: the table cannot serve the formula, or has responses outside the family.
    """
    check_trials(formula, family)
    with unchanged(table):
        prepared = prepare_cells(formula, table, counted=True)
        held = prepared.rows()
    ones = np.ones(len(prepared.cells))
    values, y, trials, offset, (constant, rest) = read_counts(
        prepared.design, held, ones, family=family, check=prepared.check
    )
    keys = np.column_stack([values, offset]) if np.any(offset != 0.0) else values
    n_cells = prepared.codes.shape[1]
    own, starts, first = find_patterns(prepared.cells, np.ascontiguousarray(keys), n_cells)
    cells = np.repeat(np.arange(n_cells), np.diff(starts))
    labels = zip(prepared.labels, prepared.codes, strict=True)
    return LevelPatterns(
        labels=tuple(each._replace(codes=codes[cells]) for each, codes in labels),
        n=np.bincount(own, weights=trials, minlength=len(first)),
        y=np.bincount(own, weights=y, minlength=len(first)),
        offset=offset[first],
        values=np.ascontiguousarray(values[first]),
        rows=np.bincount(own, weights=ones, minlength=len(first)),
        constant=constant,
        family=family,
        design=prepared.design,
        dropped=prepared.dropped,
        missing=tuple(prepared.missing.items()),
        rest=rest,
    )
