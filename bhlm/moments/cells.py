"""Moments of several grouping factors: a block for each combination of labels that occurs."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from bhlm.design.cells import Labels, code_cells, prepare_cells, read_labels
from bhlm.design.design import (
    Design,
    GroupingFactor,
    apply_design,
    build_prepared,
    check_design,
    distinct_columns,
)
from bhlm.design.formula.terms import Formula
from bhlm.design.rows import name_groups, read_frame, read_table
from bhlm.errors import ArgumentError
from bhlm.layout import count, list_names, show_name
from bhlm.moments.cell_stream import reduce_cell_scan
from bhlm.moments.memory import LeftOut, accumulate_moments
from bhlm.moments.moments import INTERCEPT, Moments, tell_rows_used
from bhlm.moments.reduce import Blocks, check_still, reduce_frame
from bhlm.moments.stream import can_stream
from bhlm.sources.parquet import ParquetScan
from bhlm.sources.watch import unchanged

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class CellMoments:
    """All that the Gaussian likelihood needs from a table with F grouping factors, by cell.

    A cell is a combination of labels that occurs: of nested factors a unit of the finest. Its
    block is what a group's is in `Moments`: n_c, the column means and the cross-product about them.
    """

    n: Array  # (C,) rows per cell, float64 that holds integers
    mean: Array  # (C, k) column means
    cross: Array  # (C, k, k) cross-products about the cell's mean
    labels: tuple[Labels, ...]  # F, with the levels (C,) that the cells belong to
    design: Design  # what the k columns are, and the factors
    dropped: int  # rows left out because a used column was missing
    missing: tuple[tuple[str, int], ...] = ()  # columns, and rows dropped in which each is missing

    def __repr__(self) -> str:
        """Return the formula and the size of the data."""
        return f"CellMoments({self.formula!r}: {self.size}, {len(self.columns)} columns)"

    @property
    def size(self) -> str:
        """The rows and the levels of every factor, in words."""
        levels = [f"{number} of {name!r}" for name, number in self.groups.items()]
        return f"{self.n_rows} rows in {list_names(levels, most=len(levels))}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The k column names, response last."""
        return self.design.columns

    @property
    def fixed(self) -> tuple[str, ...]:
        """The p fixed effects, in order."""
        return self.design.fixed

    @property
    def factors(self) -> tuple[GroupingFactor, ...]:
        """The F grouping factors."""
        return self.design.factors

    @property
    def formula(self) -> str:
        """The formula, as the user wrote it."""
        return self.design.formula.text

    @property
    def response(self) -> str:
        """The name of the response column."""
        return self.columns[-1]

    @property
    def n_rows(self) -> int:
        """The number of rows behind the moments."""
        return int(self.n.sum())

    @property
    def n_cells(self) -> int:
        """The number of cells C."""
        return len(self.n)

    @property
    def codes(self) -> Array:
        """The level (F, C) of every factor that each cell belongs to."""
        return np.array([each.codes for each in self.labels])

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
            rows = np.bincount(labels.codes, weights=self.n)
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
        return " ".join(_list_implicit(self))


type AnyMoments = Moments | CellMoments


def reduce_cells(formula: Formula, table: Any) -> CellMoments:
    """Return the moments of the rows of a table that a formula with several factors uses.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
    """
    with unchanged(table):
        if isinstance(table, ParquetScan) and can_stream(formula, table):
            design, blocks, left_out = reduce_cell_scan(formula, table)
            if not _is_finite(blocks):
                check_design(design, table)
            return _arrange(design, blocks, left_out)
        table = read_table(table, formula)
        if isinstance(read_frame(table), nw.LazyFrame):
            return _reduce_lazy(formula, table)
        return _reduce_memory(formula, table)


def _reduce_memory(formula: Formula, table: Any) -> CellMoments:
    """Return the moments of a table in memory, by compiled passes."""
    prepared = prepare_cells(formula, table)
    design = prepared.design
    columns = tuple(distinct_columns(formula, design.levels).values())
    n, mean, cross = accumulate_moments(prepared.rows(), columns, formula.response)
    # A bad value spoils the moments, and only then is it worth looking for it.
    if not (np.isfinite(mean).all() and np.isfinite(cross).all()):
        prepared.check()
    labels = zip(prepared.labels, prepared.codes, strict=True)
    return CellMoments(
        n,
        mean,
        cross,
        labels=tuple(each._replace(codes=codes) for each, codes in labels),
        design=design,
        dropped=prepared.dropped,
        missing=tuple(prepared.missing.items()),
    )


def _reduce_lazy(formula: Formula, table: Any) -> CellMoments:
    """Return the moments of a lazy table, by a GROUP BY of its engine."""
    prepared = build_prepared(formula, table)
    frame = apply_design(prepared.design, table, check=False, means=True)
    blocks = reduce_frame(frame, tuple(name_groups(formula)))
    check_still(formula, table, prepared, n=int(blocks.n.sum()))
    if not _is_finite(blocks):
        check_design(prepared.design, table)
    return _arrange(prepared.design, blocks, LeftOut(prepared.dropped, prepared.missing))


def _is_finite(blocks: Blocks) -> bool:
    """Return whether no bad value spoilt the moments; only if one did it is worth a search."""
    return bool(np.isfinite(blocks.mean).all() and np.isfinite(blocks.cross).all())


def _arrange(design: Design, blocks: Blocks, left_out: LeftOut) -> CellMoments:
    """Return moments whose cells have the order of their factors' labels.

    Raises:
        DataError: a factor has one level.
    """
    formula = design.formula
    by_column = dict(zip(formula.group_columns, blocks.labels, strict=True))
    labels = read_labels(formula, by_column, n=int(blocks.n.sum()))
    order, codes = code_cells([each.codes for each in labels])
    order = np.argsort(order, kind="stable")
    return CellMoments(
        blocks.n[order],
        blocks.mean[order],
        blocks.cross[order],
        labels=tuple(each._replace(codes=at) for each, at in zip(labels, codes, strict=True)),
        design=design,
        dropped=left_out.dropped,
        missing=tuple(left_out.missing.items()),
    )


class CellRows(NamedTuple):
    """The complete rows of a table that a formula with several factors uses."""

    codes: Array  # (F, n) the level of every factor, as in the labels of the moments
    x: Array  # (n, p)
    z: tuple[Array, ...]  # F, (n, q_f)
    y: Array  # (n,)


def read_cell_rows(formula: Formula, table: Any) -> CellRows:
    """Return the rows of a table that a formula with several factors uses, in their order.

    Raises:
        DataError: the table cannot serve the formula.
    """
    prepared = prepare_cells(formula, table)
    design, rows = prepared.design, prepared.rows()
    columns = tuple(distinct_columns(formula, design.levels).values())
    factors = [part.factor for column in columns for part in column.parts]
    rows.find_means([*factors, formula.response])
    n = len(prepared.cells)
    every = slice(0, n)
    values = {INTERCEPT: np.ones(n)}
    for name, column in zip(design.columns[:-1], columns, strict=True):
        values[name] = np.array(rows.column(column, every), dtype=np.float64)
    y = np.array(rows.evaluate(formula.response, every), dtype=np.float64)
    x = np.column_stack([values[name] for name in design.fixed])
    z = tuple(
        np.column_stack([values[name] for term in factor.blocks for name in term])
        for factor in design.factors
    )
    return CellRows(np.array([each.codes for each in prepared.labels]), x, z, y)


def refuse_factors(formula: Formula, what: str) -> ArgumentError:
    """Return the error for what is not there yet for several grouping factors.

    Whoever cannot serve a model of several factors says so by this one sentence.
    """
    names = list_names(list(formula.groupings), most=9)
    return ArgumentError(
        f"{what} is not there yet for several grouping factors ({names}); model.reml() and "
        "model.sample() fit them, with estimates, group_effects() and summary(), and all else "
        "takes one column of groups"
    )


def _list_implicit(moments: CellMoments) -> list[str]:
    """Return a sentence for each factor whose labels count anew from the same within another.

    Class 1, 2, ... (or a, b, ...) in every school may be one class that crosses all schools, or as
    many. With one row for each combination they cannot be as many: nothing would tell them from the
    residual.
    """
    sentences = []
    pairs = zip(moments.factors, moments.labels, strict=True)
    single = [(factor, labels) for factor, labels in pairs if len(factor.columns) == 1]
    for outer, outside in single:
        for inner, inside in single:
            if inner is outer or not _is_count(inside.columns[0]):
                continue
            held, first = np.unique(
                outside.codes * inside.n_levels + inside.codes, return_index=True
            )
            schools, classes = outside.codes[first], inside.codes[first]
            many = np.bincount(schools, minlength=outside.n_levels)
            last = np.zeros(outside.n_levels, dtype=np.int64)
            np.maximum.at(last, schools, classes)
            spread = int(np.bincount(classes).max())
            numbered = bool((last + 1 == many).all()) and inside.n_levels < outside.n_levels
            if numbered and spread > 1 and len(held) < moments.n_rows:
                label = show_name(inside.columns[0][0])
                sentences.append(
                    f"'{inner.name}' {label} occurs in {count(spread, repr(outer.name))} and is "
                    f"taken as one and the same, so that the two are crossed; if each "
                    f"'{outer.name}' has a '{inner.name}' {label} of its own, write "
                    f"(... | {outer.name}/{inner.name})."
                )
    return sentences


def _is_count(labels: Array) -> bool:
    """Return whether sorted labels count: from 0 or 1, or from a or A."""
    texts = [str(label).removesuffix(".0") for label in labels.tolist()]
    if all(text.isdecimal() for text in texts):
        numbers = sorted(map(int, texts))
        return numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
    first = texts[0]
    return first in ("a", "A") and texts == [chr(ord(first) + i) for i in range(len(texts))]
