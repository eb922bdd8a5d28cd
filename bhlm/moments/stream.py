"""Parquet files -> moments, a batch of rows at a time, whatever their size.

What is held is the batch and what is known of each group. Moments of a formula with plain columns
take one pass over the files; levels of factors, and every depth at which gm() or cwc() stand,
take one before that. The next batch is decoded while one is reduced.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import narwhals as nw
import numpy as np

from bhlm.design.constants import constant_nodes
from bhlm.design.design import Design, check_roles, distinct_columns, find_factors
from bhlm.design.evaluate import Rows, read_rows
from bhlm.design.formula.coding import Level
from bhlm.design.formula.expressions import Apply, Expression
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.frames import GROUP
from bhlm.design.levels import arrange_levels
from bhlm.design.rows import (
    Layout,
    Tally,
    check_schema,
    check_tally,
    formula_columns,
    is_complete,
    prepare_rows,
    tally_rows,
)
from bhlm.moments.coder import START, Coder, grow, is_text
from bhlm.moments.memory import (
    LeftOut,
    Reduced,
    accumulate_rows,
    make_states,
    unpack_state,
    unpack_weighted,
)
from bhlm.moments.size import check_size
from bhlm.moments.weighting import Weighed, make_weighed
from bhlm.sources.parquet import ParquetScan

Array = np.ndarray
Means = dict[Expression, tuple[Array, Array]]  # as `evaluate.Rows` has them


@dataclass(slots=True)
class Reading:
    """How batches of files become complete rows, the same in every pass over them."""

    formula: Formula
    scan: ParquetScan
    schema: nw.Schema
    factors: list[Expression]
    layout: Layout
    coder: Coder

    def batches(self) -> Iterator[tuple[nw.DataFrame[Any], Tally, Array]]:
        """Yield complete rows, how many there were of which kind, and group codes."""
        for rows, tally in self.read():
            yield rows, tally, self.coder.encode(rows[GROUP].to_native())

    def read(self) -> Iterator[tuple[nw.DataFrame[Any], Tally]]:
        """Yield complete rows, and how many there were of which kind."""
        tables = self.scan.batches(formula_columns(self.formula))
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, tables, None)
            while (table := coming.result()) is not None:
                coming = pool.submit(next, tables, None)
                rows = self.prepare(table)
                tally = tally_rows(rows, self.layout)
                if tally.complete < tally.total:
                    rows = rows.filter(is_complete(self.layout))
                yield rows, tally

    def prepare(self, table: Any) -> nw.DataFrame[Any]:
        """Return a batch, a pyarrow Table, with the columns of `prepare_rows`."""
        layout = self.layout
        numbers = (self.schema[name] for name in layout.columns)
        if not layout.categories and all(dtype == nw.Float64 for dtype in numbers):
            # Columns as they are, under other names: expressions would take a tenth of the time.
            named = table.select(list(layout.names.values())).rename_columns(list(layout.names))
            return nw.from_native(named, eager_only=True)
        frame = nw.from_native(table, eager_only=True)
        prepared, _ = prepare_rows(frame, self.formula, self.schema, factors=self.factors)
        return cast("nw.DataFrame[Any]", prepared)


def can_stream(formula: Formula, scan: ParquetScan) -> bool:
    """Return whether the moments of a formula can be had batch by batch.

    All columns must be there and plain, the groups' labels integers or text, and no constant
    must be needed from the whole table first, as cgm() and orthogonal poly() need one.
    """
    from pyarrow import types

    columns = formula_columns(formula)
    if not all(name in scan.schema.names for name in columns) or not scan.is_plain(columns):
        return False
    labels = [scan.schema.field(name).type for name in formula.group_columns]
    readable = all(types.is_integer(label) or is_text(label) for label in labels)
    return readable and not constant_nodes((*list_factors(formula), formula.response))


def reduce_scan(formula: Formula, scan: ParquetScan) -> tuple[Design, Reduced, LeftOut]:
    """Return the design of a formula on Parquet files, the moments of their complete rows, and
    the rows that are not complete.

    The formula must be one that `can_stream`.

    Raises:
        FormulaError: the formula is at fault.
        DataError: the table cannot serve the formula.
    """
    check_roles(formula)
    reading = prepare_reading(formula, scan)
    factors = {str(factor) for factor in reading.factors}
    values = [e for e in (*list_factors(formula), formula.response) if str(e) not in factors]
    depths = sort_means(values)
    means: Means = {}
    levels: dict[str, tuple[Level, ...]] = {}
    with np.errstate(all="ignore"):
        if factors or depths:
            levels = _survey(reading, depths[0] if depths else [], means)
        for wanted in depths[1:]:
            means |= _find_means(reading, wanted, means)
        design = Design.assemble(formula, levels, {})
        state, weights, tally = _accumulate(reading, design, means)
    check_tally(tally, reading.layout)
    labels, order = reading.coder.sort(scan.schema.field(formula.group).type)
    k = len(design.columns)
    if formula.weights is None:
        reduced = Reduced(labels, *unpack_state(state, order, k))
    else:
        reduced = unpack_weighted(labels, state, weights, order, k, formula=formula)
    missing = tally.name_missing(reading.layout)
    return design, reduced, LeftOut(tally.total - tally.complete, missing)


def prepare_reading(formula: Formula, scan: ParquetScan) -> Reading:
    """Return how batches of files are read for a formula; no row is read yet.

    Raises:
        FormulaError, DataError: the columns' types cannot serve the formula.
    """
    empty = nw.from_native(scan.schema.empty_table(), eager_only=True)
    schema = check_schema(empty, formula)
    factors = find_factors(formula, schema)
    _, layout = prepare_rows(empty, formula, schema, factors=factors)
    coder = Coder(np.zeros(START, dtype=np.int64))
    return Reading(formula, scan, schema, factors, layout, coder)


def sort_means(expressions: Sequence[Expression]) -> list[list[Expression]]:
    """Return the arguments of gm() and cwc() by depth.

    The first list needs no other mean, the second only means of the first, and so on.
    """
    depth: dict[Expression, int] = {}

    def measure(expression: Expression) -> int:
        if not isinstance(expression, Apply):
            return 0
        inside = max((measure(argument) for argument in expression.arguments), default=0)
        if expression.function not in ("gm", "cwc"):
            return inside
        depth[expression.arguments[0]] = inside
        return inside + 1

    for expression in expressions:
        measure(expression)
    return [
        [argument for argument, at in depth.items() if at == level]
        for level in range(max(depth.values(), default=-1) + 1)
    ]


def _survey(
    reading: Reading, wanted: Sequence[Expression], means: Means
) -> dict[str, tuple[Level, ...]]:
    """Return the levels of the factors, and add the group means of some expressions to `means`."""
    found: dict[str, set[Level]] = {str(factor): set() for factor in reading.factors}
    total: Tally | None = None

    def look(rows: nw.DataFrame[Any], tally: Tally) -> None:
        nonlocal total
        total = tally if total is None else total + tally
        for factor, known in found.items():
            safe = reading.layout.categories[factor]
            known.update(rows.select(safe).unique()[safe].to_list())

    sums = {argument: (np.zeros(START), np.zeros(START), np.zeros(START)) for argument in wanted}
    for rows, tally, codes in reading.batches():
        look(rows, tally)
        _add_means(reading, rows, codes, {}, sums)
    if total is not None:
        check_tally(total, reading.layout)
    means |= {argument: (first, rest) for argument, (_, first, rest) in sums.items()}
    return {
        str(factor): arrange_levels(factor, sorted(found[str(factor)]))
        for factor in reading.factors
    }


def _find_means(reading: Reading, wanted: Sequence[Expression], known: Means) -> Means:
    """Return the group means of some expressions, which read the means that are known."""
    size = reading.coder.size
    sums = {argument: (np.zeros(size), np.zeros(size), np.zeros(size)) for argument in wanted}
    for rows, _, codes in reading.batches():
        _add_means(reading, rows, codes, known, sums)
    return {argument: (first, rest) for argument, (_, first, rest) in sums.items()}


def _add_means(
    reading: Reading,
    frame: nw.DataFrame[Any],
    codes: Array,
    known: Means,
    sums: dict[Expression, tuple[Array, Array, Array]],
) -> None:
    """Update the counts, first values and mean deviations of some expressions with a batch."""
    columns = {name: frame[safe].to_numpy() for name, safe in reading.layout.columns.items()}
    rows = Rows(columns, {}, codes, reading.coder.size, {}, known)
    for argument, held in sums.items():
        count, first, rest = (grow(part, reading.coder.size) for part in held)
        rows.accumulate_means(argument, count, first, rest)
        sums[argument] = count, first, rest


def _accumulate(reading: Reading, design: Design, means: Means) -> tuple[Array, Weighed, Tally]:
    """Return the groups' states by code, see `memory.accumulate_rows`, and the count of rows."""
    columns = tuple(distinct_columns(design.formula, design.levels).values())
    k = len(columns) + 1
    state = make_states(0, k)
    weigh = design.formula.weights
    weights = make_weighed(0)
    total: Tally | None = None
    for frame, tally, codes in reading.batches():
        total = tally if total is None else total + tally
        if reading.coder.size > len(state):
            check_size(reading.coder.size, k)
            more = make_states(max(reading.coder.size, 2 * len(state)), k)
            more[: len(state)] = state
            state = more
            if weigh is not None:
                weights = weights.grow(len(state))
        rows = replace(
            read_rows(design, frame, reading.layout, codes, reading.coder.size), means=means
        )
        response = design.formula.response
        accumulate_rows(rows, columns, response, state, weigh=weigh, weights=weights)
    return state, weights, total or Tally(0, 0, (), ())
