"""Parquet files -> moments, a batch of rows at a time, whatever their size.

What is held is the batch and what is known of each group. Moments of a formula with plain columns
take one pass over the files; levels of factors, and every depth at which gm() or cwc() stand,
take one before that. The next batch is decoded while one is reduced.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, cast

import narwhals as nw
import numba
import numpy as np

from bhlm.design.design import (
    Design,
    assemble_design,
    check_roles,
    distinct_columns,
    find_factors,
)
from bhlm.design.formula.coding import Level
from bhlm.design.formula.expressions import Apply, Expression, walk
from bhlm.design.formula.terms import Formula, list_factors
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
from bhlm.design.transforms import GROUP
from bhlm.moments.memory import Rows, accumulate_rows, make_states, read_rows, unpack_state
from bhlm.sources.parquet import ParquetScan

Array = np.ndarray
Reduced = tuple[Array, Array, Array, Array]
Means = dict[Expression, tuple[Array, Array]]  # as `inmemory.Rows` has them
# Integers per group or row up to which a window over all of them is held, 4 bytes each.
SPARSE = 8
START = 1 << 10  # groups that there is room for at first
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio (Knuth, vol. 3, section 6.4)


def _no_codes() -> Array:
    return np.empty(0, dtype=np.int32)


@dataclass(slots=True)
class Coder:
    """Group labels -> codes in the order of their first row, grown batch by batch."""

    labels: Array  # (capacity,) int64 labels by code, where they are integers
    window: Array = field(default_factory=_no_codes)  # code of each integer from `low` on, or -1
    slots: Array = field(default_factory=_no_codes)  # hash table: code of what hashes here, or -1
    texts: dict[str, int] = field(default_factory=dict)
    low: int = 0
    size: int = 0
    is_dense: bool = True  # whether the window serves, which costs a third of the hash table

    def encode(self, labels: Any) -> Array:
        """Return the codes (n,) of a pyarrow array of labels, integers or text, none missing."""
        if is_text(labels.type):
            encoded = labels.combine_chunks().dictionary_encode()
            known = [
                self.texts.setdefault(text, len(self.texts))
                for text in encoded.dictionary.to_pylist()
            ]
            self.size = len(self.texts)
            return np.array(known, dtype=np.int64)[encoded.indices.to_numpy()]
        # Unsigned labels beyond 2^63 are other integers of the same 64 bits, until `sort`.
        numbers = labels.to_numpy().astype(np.int64, copy=False)
        codes = np.empty(len(numbers), dtype=np.int64)
        if len(numbers) == 0:
            return codes
        self.labels = grow(self.labels, self.size + len(numbers))
        if self.is_dense and self._widen(int(numbers.min()), int(numbers.max()), len(numbers)):
            self.size = code_dense(numbers, codes, self.labels, self.window, self.low, self.size)
            return codes
        if len(self.slots) < 2 * len(self.labels):
            width = 1 << int(2 * len(self.labels) - 1).bit_length()
            self.slots = np.full(width, -1, dtype=np.int32)
            enter_labels(self.labels, self.slots, self.size)
        self.size = code_sparse(numbers, codes, self.labels, self.slots, self.size)
        return codes

    def _widen(self, low: int, high: int, n: int) -> bool:
        """Have the window hold labels from low to high; return False if they lie too far apart.

        From then on labels are hashed.
        """
        if len(self.window):
            low, high = min(low, self.low), max(high, self.low + len(self.window) - 1)
        if high - low >= SPARSE * max(n, self.size):
            self.is_dense, self.window = False, self.window[:0]
            return False
        if high - low >= len(self.window):
            wider = np.full(high - low + 1, -1, dtype=np.int32)
            start = self.low - low if len(self.window) else 0
            wider[start : start + len(self.window)] = self.window
            self.low, self.window = low, wider
        return True

    def sort(self, dtype: Any) -> tuple[Array, Array]:
        """Return the labels (J,), which are of a pyarrow type, sorted, and their codes (J,)."""
        if is_text(dtype):
            labels = np.array(list(self.texts), dtype=object)
        else:
            labels = self.labels[: self.size].astype(dtype.to_pandas_dtype())
        order = np.argsort(labels, kind="stable")
        return labels[order], order


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
        tables = self.scan.batches(formula_columns(self.formula))
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(next, tables, None)
            while (table := coming.result()) is not None:
                coming = pool.submit(next, tables, None)
                frame = nw.from_native(table, eager_only=True)
                prepared, _ = prepare_rows(frame, self.formula, self.schema, factors=self.factors)
                rows = cast("nw.DataFrame[Any]", prepared)
                tally = tally_rows(rows, self.layout)
                if tally.complete < tally.total:
                    rows = rows.filter(is_complete(self.layout))
                yield rows, tally, self.coder.encode(rows[GROUP].to_native())


def can_stream(formula: Formula, scan: ParquetScan) -> bool:
    """Return whether the moments of a formula can be had batch by batch.

    All columns must be there and plain, the group's labels integers or text, and no constant
    must be needed from the whole table first, as cgm() and orthogonal poly() need one.
    """
    from pyarrow import types

    columns = formula_columns(formula)
    if not all(name in scan.schema.names for name in columns) or not scan.is_plain(columns):
        return False
    label = scan.schema.field(formula.group).type
    return (types.is_integer(label) or is_text(label)) and not any(
        isinstance(node, Apply)
        and (node.function == "cgm" or (node.function == "poly" and not node.option("raw")))
        for part in (*list_factors(formula), formula.response)
        for node in walk(part)
    )


def is_text(dtype: Any) -> bool:
    """Return whether a pyarrow type is one of text."""
    from pyarrow import types

    return bool(types.is_string(dtype) or types.is_large_string(dtype))


def reduce_scan(formula: Formula, scan: ParquetScan) -> tuple[Design, Reduced]:
    """Return the design of a formula on Parquet files, and the moments of their complete rows.

    The moments are the group labels (J,), n (J,), means (J, k) and cross-products about them
    (J, k, k). The formula must be one that `can_stream`.

    Raises:
        FormulaError: the formula is at fault.
        DataError: the table cannot serve the formula.
    """
    check_roles(formula)
    reading = _prepare_reading(formula, scan)
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
        design = assemble_design(formula, levels, {}, n=0, dropped=0)
        state, tally = _accumulate(reading, design, means)
    check_tally(tally, reading.layout)
    labels, order = reading.coder.sort(scan.schema.field(formula.group).type)
    design = replace(design, n_rows=tally.complete, dropped=tally.total - tally.complete)
    return design, (labels, *unpack_state(state, order, len(design.columns)))


def _prepare_reading(formula: Formula, scan: ParquetScan) -> Reading:
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


def _accumulate(reading: Reading, design: Design, means: Means) -> tuple[Array, Tally]:
    """Return the groups' states by code, see `inmemory.add_rows`, and the count of rows."""
    columns = tuple(distinct_columns(design.formula, design.levels).values())
    k = len(columns) + 1
    state = make_states(START, k)
    total: Tally | None = None
    for frame, tally, codes in reading.batches():
        total = tally if total is None else total + tally
        if reading.coder.size > len(state):
            more = make_states(max(reading.coder.size, 2 * len(state)), k)
            more[: len(state)] = state
            state = more
        rows = replace(
            read_rows(design, frame, reading.layout, codes, reading.coder.size), means=means
        )
        accumulate_rows(rows, columns, design.formula.response, state)
    return state, total or Tally(0, 0, ())


def grow(array: Array, size: int) -> Array:
    """Return the array with at least so many rows, new ones zero, twice as many if it must grow."""
    if size <= len(array):
        return array
    more = np.zeros((max(size, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    more[: len(array)] = array
    return more


@numba.njit(cache=True, nogil=True)
def find_slot(label: int, labels: Array, slots: Array) -> np.int64:
    """Return the slot that holds the code of a label, or the free one where it would go."""
    shift = np.uint64(64)
    width = len(slots)
    while width > 1:
        shift -= np.uint64(1)
        width >>= 1
    slot = np.int64((np.uint64(label) * GOLDEN) >> shift)
    while slots[slot] >= 0 and labels[slots[slot]] != label:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@numba.njit(cache=True, nogil=True)
def enter_labels(labels: Array, slots: Array, size: int) -> None:
    """Enter the first `size` labels into empty slots."""
    for code in range(size):
        slots[find_slot(labels[code], labels, slots)] = code


@numba.njit(cache=True, nogil=True)
def code_dense(
    numbers: Array, codes: Array, labels: Array, window: Array, low: int, size: int
) -> int:
    """Write the codes (n,) of labels (n,) in a window; return how many labels are known."""
    for i in range(len(numbers)):
        code = window[numbers[i] - low]
        if code < 0:
            code = size
            window[numbers[i] - low] = code
            labels[size] = numbers[i]
            size += 1
        codes[i] = code
    return size


@numba.njit(cache=True, nogil=True)
def code_sparse(numbers: Array, codes: Array, labels: Array, slots: Array, size: int) -> int:
    """Write the codes (n,) of labels (n,) by hashing; return how many labels are known."""
    for i in range(len(numbers)):
        if i > 0 and numbers[i] == numbers[i - 1]:
            codes[i] = codes[i - 1]
            continue
        slot = find_slot(numbers[i], labels, slots)
        if slots[slot] < 0:
            labels[size] = numbers[i]
            slots[slot] = size
            size += 1
        codes[i] = slots[slot]
    return size
