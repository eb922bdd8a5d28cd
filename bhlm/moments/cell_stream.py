"""Parquet files -> moments by cell, a batch of rows at a time, whatever their size.

As `bhlm.moments.stream` for one grouping column: what is held is the batch, what is known of each
cell, and the labels of each factor.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, check_roles, distinct_columns
from bhlm.design.evaluate import Rows, read_rows
from bhlm.design.formula.coding import Level
from bhlm.design.formula.expressions import Apply, Expression
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.levels import arrange_levels
from bhlm.design.rows import Tally, check_tally, list_within, name_groups
from bhlm.moments.coder import START, Coder, grow
from bhlm.moments.memory import Blocks, LeftOut, accumulate_rows, make_states, unpack_state
from bhlm.moments.size import check_size
from bhlm.moments.stream import Reading, prepare_reading
from bhlm.sources.parquet import ParquetScan

Array = np.ndarray
HALF = np.int64(32)  # bits of a pair of codes that the second has
SECOND = np.int64((1 << 32) - 1)

Means = dict[Expression, tuple[Array, Array]]  # as `evaluate.Rows` has them, by named gm()


def _new_coder() -> Coder:
    return Coder(np.zeros(START, dtype=np.int64))


@dataclass(slots=True)
class CellCoder:
    """Labels of several columns -> codes of their combinations, grown batch by batch.

    A combination of two columns or more is the pair of the codes of all but the last and of the
    last, as one integer.
    """

    single: dict[str, Coder] = field(default_factory=dict)  # by column
    joined: dict[tuple[str, ...], Coder] = field(default_factory=dict)

    def encode(self, rows: nw.DataFrame[Any], wanted: Sequence[tuple[str, ...]]) -> list[Array]:
        """Return the codes (n,) of rows by each wanted combination of columns."""
        found: dict[tuple[str, ...], Array] = {}

        def find(columns: tuple[str, ...]) -> Array:
            if columns not in found:
                if len(columns) == 1:
                    coder = self.single.setdefault(columns[0], _new_coder())
                    found[columns] = coder.encode(rows[columns[0]].to_native())
                else:
                    pairs = (find(columns[:-1]) << HALF) | find(columns[-1:])
                    coder = self.joined.setdefault(columns, _new_coder())
                    found[columns] = coder.encode_numbers(pairs)
            return found[columns]

        return [find(columns) for columns in wanted]

    def count(self, columns: tuple[str, ...]) -> int:
        """Return how many combinations of some columns there are so far."""
        if len(columns) == 1:
            return self.single[columns[0]].size if columns[0] in self.single else 0
        return self.joined[columns].size if columns in self.joined else 0

    def find_codes(self, columns: tuple[str, ...]) -> list[Array]:
        """Return the codes of each column, of every combination in the order of its code."""
        if len(columns) == 1:
            return [np.arange(self.count(columns))]
        pairs = self.joined[columns].labels[: self.count(columns)]
        before = self.find_codes(columns[:-1])
        return [*(codes[pairs >> HALF] for codes in before), pairs & SECOND]


class Batch(NamedTuple):
    """Complete rows, and where they belong."""

    rows: nw.DataFrame[Any]
    tally: Tally
    cells: Array  # (n,) codes
    levels: dict[str, tuple[Array, int]]  # as `evaluate.Rows.levels`


@dataclass(slots=True)
class CellReading:
    """How batches of files become complete rows by cell, the same in every pass over them."""

    reading: Reading
    coder: CellCoder = field(default_factory=CellCoder)

    @property
    def columns(self) -> tuple[str, ...]:
        """The prepared columns whose values together are a cell."""
        return tuple(name_groups(self.reading.formula))

    def batches(self) -> Iterator[Batch]:
        """Yield complete rows with their codes."""
        formula = self.reading.formula
        safe = {name: at for at, name in name_groups(formula).items()}
        within = {
            written: tuple(
                safe[name] for name in formula.groupings[str(formula.find_grouping(written))]
            )
            for written in list_within(formula)
        }
        for rows, tally in self.reading.read():
            cells, *codes = self.coder.encode(rows, [self.columns, *within.values()])
            levels = {
                written: (each, self.coder.count(columns))
                for (written, columns), each in zip(within.items(), codes, strict=True)
            }
            yield Batch(rows, tally, cells, levels)


def reduce_cell_scan(formula: Formula, scan: ParquetScan) -> tuple[Design, Blocks, LeftOut]:
    """Return the design of a formula on Parquet files, the moments of their complete rows by cell,
    and the rows that are not complete.

    The formula must be one that `bhlm.moments.stream.can_stream`.

    Raises:
        FormulaError: the formula is at fault.
        DataError: the table cannot serve the formula.
    """
    check_roles(formula)
    own = CellReading(prepare_reading(formula, scan))
    factors = {str(factor) for factor in own.reading.factors}
    values = [e for e in (*list_factors(formula), formula.response) if str(e) not in factors]
    depths = _sort_means(values)
    means: Means = {}
    levels: dict[str, tuple[Level, ...]] = {}
    with np.errstate(all="ignore"):
        if factors or depths:
            levels, means = _survey(own, depths[0] if depths else [])
        for wanted in depths[1:]:
            means |= _find_means(own, wanted, means)
        design = Design.assemble(formula, levels, {})
        state, tally = _accumulate(own, design, means)
    layout = own.reading.layout
    check_tally(tally, layout)
    size = own.coder.count(own.columns)
    codes = own.coder.find_codes(own.columns)
    labels = tuple(
        own.coder.single[safe].list_labels(scan.schema.field(name).type)[at]
        for (safe, name), at in zip(name_groups(formula).items(), codes, strict=True)
    )
    blocks = Blocks(labels, *unpack_state(state, np.arange(size), len(design.columns)))
    left_out = LeftOut(tally.total - tally.complete, tally.name_missing(layout))
    return design, blocks, left_out


def _sort_means(expressions: Sequence[Expression]) -> list[list[Apply]]:
    """Return the named gm() that the expressions need, those of cwc() too, by depth.

    The first list needs no other mean, the second only means of the first, and so on.
    """
    depth: dict[Apply, int] = {}

    def measure(expression: Expression) -> int:
        if not isinstance(expression, Apply):
            return 0
        inside = max((measure(argument) for argument in expression.arguments), default=0)
        if expression.function not in ("gm", "cwc"):
            return inside
        depth[Apply("gm", expression.arguments, expression.options)] = inside
        return inside + 1

    for expression in expressions:
        measure(expression)
    return [
        [node for node, at in depth.items() if at == level]
        for level in range(max(depth.values(), default=-1) + 1)
    ]


def _survey(
    own: CellReading, wanted: Sequence[Apply]
) -> tuple[dict[str, tuple[Level, ...]], Means]:
    """Return the levels of the categorical columns, and the means of some named gm()."""
    reading = own.reading
    found: dict[str, set[Level]] = {str(factor): set() for factor in reading.factors}
    total: Tally | None = None
    sums = _start_sums(wanted)
    for batch in own.batches():
        total = batch.tally if total is None else total + batch.tally
        for factor, known in found.items():
            safe = reading.layout.categories[factor]
            known.update(batch.rows.select(safe).unique()[safe].to_list())
        _add_means(reading, batch, {}, sums)
    if total is not None:
        check_tally(total, reading.layout)
    levels = {
        str(factor): arrange_levels(factor, sorted(found[str(factor)]))
        for factor in reading.factors
    }
    return levels, _close_sums(sums)


def _find_means(own: CellReading, wanted: Sequence[Apply], known: Means) -> Means:
    """Return the means of some named gm(), which read the means that are known."""
    sums = _start_sums(wanted)
    for batch in own.batches():
        _add_means(own.reading, batch, known, sums)
    return _close_sums(sums)


type Sums = dict[Apply, tuple[Array, Array, Array]]  # count, first value, mean deviation from it


def _start_sums(wanted: Sequence[Apply]) -> Sums:
    return {node: (np.zeros(START), np.zeros(START), np.zeros(START)) for node in wanted}


def _close_sums(sums: Sums) -> Means:
    return {node: (first, rest) for node, (_, first, rest) in sums.items()}


def _add_means(reading: Reading, batch: Batch, known: Means, sums: Sums) -> None:
    """Update the counts, first values and mean deviations of some named gm() with a batch."""
    columns = {name: batch.rows[safe].to_numpy() for name, safe in reading.layout.columns.items()}
    rows = Rows(columns, {}, batch.cells, 0, {}, known, batch.levels)
    for node, held in sums.items():
        codes, size = batch.levels[str(node.option("group"))]
        count, first, rest = (grow(part, size) for part in held)
        rows.accumulate_means(node.arguments[0], count, first, rest, codes=codes)
        sums[node] = count, first, rest


def _accumulate(own: CellReading, design: Design, means: Means) -> tuple[Array, Tally]:
    """Return the cells' states by code, see `memory.add_rows`, and the count of rows."""
    columns = tuple(distinct_columns(design.formula, design.levels).values())
    k = len(columns) + 1
    state = make_states(0, k)
    total: Tally | None = None
    for batch in own.batches():
        total = batch.tally if total is None else total + batch.tally
        size = own.coder.count(own.columns)
        if size > len(state):
            check_size(size, k)
            more = make_states(max(size, 2 * len(state)), k)
            more[: len(state)] = state
            state = more
        layout = own.reading.layout
        rows = read_rows(design, batch.rows, layout, batch.cells, size, levels=batch.levels)
        accumulate_rows(replace(rows, means=means), columns, design.formula.response, state)
    return state, total or Tally(0, 0, (), ())
