"""Patterns of several grouping factors: what rows of one cell with equal columns have in common.

A cell is a combination of labels that occurs, of nested factors a unit of the finest. Within it
patterns are what they are within a group of a single factor.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bhlm.design.cells import (
    Labels,
    code_cells,
    prepare_cells,
    prepare_cells_alike,
    read_labels,
)
from bhlm.design.design import Design, GroupingFactor
from bhlm.design.formula.terms import Formula
from bhlm.layout import list_names
from bhlm.moments.cells import list_implicit, rebuild_level_design, spread_labels
from bhlm.moments.disclosure import find_large_groups
from bhlm.moments.level_pattern_file import list_level_disclosures, write_level_patterns
from bhlm.moments.moments import describe_design, freeze, tell_rows_used
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

LOGGER = logging.getLogger("bhlm")


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
    min_group_size: int | None = None  # rows that every unit is promised to have, by who wrote it

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

    def save(self, path: str | Path, *, min_group_size: int | None = None) -> None:
        """Write the patterns to a file, which `bhlm.load_moments` gives back to the last bit.

        As `bhlm.moments.patterns.save_patterns`; `min_group_size` is of the units of every factor.

        Raises:
            DataError: units below the minimum, labels of a type that has no place in a file, a
                folder that cannot be written to.
        """
        promised = self.min_group_size if min_group_size is None else min_group_size
        if promised is not None:
            check_small_units(self, promised)
        description = describe_level_patterns(self) | {"min_group_size": promised}
        write_level_patterns(path, description, self)
        for sentence in self.disclosures(min_group_size=promised):
            LOGGER.warning("%s: %s", path, sentence)

    def disclosures(self, *, min_group_size: int | None = None) -> tuple[str, ...]:
        """Return what is given away of single rows, a sentence each.

        See `bhlm.moments.level_pattern_file.list_level_disclosures`.
        """
        return list_level_disclosures(self, min_group_size=min_group_size)

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


def rebuild_level_patterns(
    description: Mapping[str, Any],
    labels: Mapping[str, Array],
    lists: Mapping[str, Array],
    *,
    family: Outcome,
) -> LevelPatterns:
    """Return the patterns of which `describe_level_patterns` is a description, read from JSON.

    Args:
        description: all but the arrays.
        labels: those (I,) of each grouping column.
        lists: n, y, offset, values and rows.
        family: the one that is described.

    Raises:
        DataError: its formula cannot be read.
        ValueError, LookupError, TypeError: it is not such a description.
    """  # fmt: skip
    design = rebuild_level_design(description)
    found = read_labels(design.formula, labels, n=int(lists["rows"].sum()), least=1)
    return LevelPatterns(
        labels=found,
        **lists,
        constant=float(description["constant"]),
        family=family,
        design=design,
        dropped=description["dropped"],
        missing=freeze(description["missing"]),
        rest=float(description["rest"]),
        min_group_size=description["min_group_size"],
    )


def check_small_units(patterns: LevelPatterns, k: int) -> str:
    """Return a sentence on units of fewer than k rows, of which there is none.

    Raises:
        ArgumentError: k is not a whole number above 0.
        DataError: there are such units.
    """
    told = []
    for factor, labels in zip(patterns.factors, patterns.labels, strict=True):
        rows = np.bincount(labels.codes, weights=patterns.rows, minlength=labels.n_levels)
        told.append(find_large_groups(rows, k, of=f"units of '{factor.name}'", action="refuse")[1])
    return "; ".join(told)


def reduce_level_patterns(
    formula: Formula,
    table: Any,
    *,
    family: Outcome,
    design: Design | None = None,
    is_part: bool = False,
) -> LevelPatterns:
    """Return the patterns of the rows of a table that a formula with several factors uses.

    Args:
        formula: with several factors; its response may be successes / trials.
        table: any dataframe that narwhals accepts; the columns that are read are held in memory.
        family: of the responses.
        design: of other patterns by that formula, whose constants and levels are taken; None takes
            those of the table.
        is_part: whether the table may be one part of many, in which a factor has one level.

    Raises:
        FormulaError: the formula cannot serve the family.
        DataError: the table cannot serve the formula, or has responses outside the family.
    """
    check_trials(formula, family)
    with unchanged(table):
        prepared = (
            prepare_cells(formula, table, counted=True, least=1 if is_part else 2)
            if design is None
            else prepare_cells_alike(design, table)
        )
        held = prepared.rows()
    ones = np.ones(len(prepared.cells))
    values, y, trials, offset, (constant, rest) = read_counts(
        prepared.design, held, ones, family=family, check=prepared.check
    )
    lists = {"n": trials, "y": y, "offset": offset, "values": values, "rows": ones}
    labels, own = gather_patterns(prepared.labels, lists)
    return LevelPatterns(
        labels=labels,
        **own,
        constant=constant,
        family=family,
        design=prepared.design,
        dropped=prepared.dropped,
        missing=tuple(prepared.missing.items()),
        rest=rest,
    )


def gather_patterns(
    labels: Sequence[Labels], lists: Mapping[str, Array]
) -> tuple[tuple[Labels, ...], dict[str, Any]]:
    """Return the labels and the lists of the distinct patterns of rows, or of other patterns.

    Args:
        labels: F, with the codes (n,) of the rows.
        lists: n, y, offset, values and rows, (n,) or (n, k - 1).
    """
    cells, codes = code_cells([each.codes for each in labels])
    values, offset = lists["values"], lists["offset"]
    keys = np.column_stack([values, offset]) if np.any(offset != 0.0) else values
    own, starts, first = find_patterns(cells, np.ascontiguousarray(keys), codes.shape[1])
    at = np.repeat(np.arange(codes.shape[1]), np.diff(starts))
    found: dict[str, Any] = {
        name: np.bincount(own, weights=lists[name], minlength=len(first))
        for name in ("n", "y", "rows")
    }
    found |= {"offset": offset[first], "values": np.ascontiguousarray(values[first])}
    kept = tuple(each._replace(codes=by[at]) for each, by in zip(labels, codes, strict=True))
    return kept, found
