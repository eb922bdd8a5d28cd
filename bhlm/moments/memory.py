"""Eager tables -> moments by compiled passes over NumPy columns.

The same columns as the narwhals path of `moments`, for tables that are in memory anyway: the
formula is evaluated on blocks of rows that fit the cache, so that no column of the design ever
exists in full, and each block updates its groups' moments in one pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numba
import numpy as np

from bhlm.design.design import Design, distinct_columns, read_labels
from bhlm.design.formula.coding import Column, Level
from bhlm.design.formula.expressions import Apply, Expression, Name, Number
from bhlm.design.rows import Layout
from bhlm.errors import DataError

Array = np.ndarray
LINE = 8  # doubles in a cache line
AHEAD = 64  # rows whose groups' states are asked for together
BLOCK = 1 << 15  # rows that are evaluated at a time: a few columns of them fit the cache


@dataclass(slots=True)
class Rows:
    """Complete rows in memory: raw columns, group codes, and group means as they are found."""

    columns: Mapping[str, Array]  # table column -> (n,)
    indicators: Mapping[tuple[str, Level], Array]  # categorical factor and level -> (n,) bool
    codes: Array  # (n,) int64 codes of the groups, in the order of their labels
    n_groups: int
    constants: Mapping[str, tuple[float, ...]]
    # Argument of gm() or cwc() -> each group's first value (J,) and mean deviation from it (J,):
    # far from zero the two together have digits that the mean alone has not.
    means: dict[Expression, tuple[Array, Array]] = field(default_factory=dict)

    def evaluate(self, expression: Expression, span: slice) -> Array | float:
        """Return an expression on a block of rows."""
        match expression:
            case Name(name):
                return np.asarray(self.columns[name][span], dtype=np.float64)
            case Number(number):
                return float(number)
            case Apply("I", (argument,)):
                return self.evaluate(argument, span)
            case Apply("gm", (argument,)):
                first, rest = self.means[argument]
                return (first + rest)[self.codes[span]]
            case Apply("cwc", (argument,)):
                first, rest = self.means[argument]
                codes = self.codes[span]
                return (self.evaluate(argument, span) - first[codes]) - rest[codes]
            case Apply("cgm", (argument,)):
                mean, remainder = self.constants[str(expression)]
                return (self.evaluate(argument, span) - mean) - remainder
            case Apply(function, arguments):
                return FUNCTIONS[function](*(self.evaluate(a, span) for a in arguments))

    def column(self, column: Column, span: slice) -> Array | float:
        """Return one column of the design on a block of rows."""
        product: Array | float = 1.0
        for part in column.parts:
            if part.level is not None:
                seen = self.indicators[str(part.factor), part.level][span]
                value: Array | float = seen.astype(np.float64)
            elif part.degree and isinstance(part.factor, Apply):
                value = self._power(part.factor, part.degree, span)
            else:
                value = self.evaluate(part.factor, span)
            product = value if isinstance(product, float) and product == 1.0 else product * value
        return product

    def _power(self, node: Apply, degree: int, span: slice) -> Array | float:
        """Return one column of poly(), by the recurrence of `transforms.Steps`."""
        value = self.evaluate(node.arguments[0], span)
        if node.option("raw"):
            return value**degree
        constants = self.constants[str(node)]
        z = value - constants[0]
        before: Array | float = 1.0
        here = z - constants[2]
        for k in range(2, degree + 1):
            ratio = constants[2 * k - 1] / constants[2 * k - 3]
            before, here = here, (z - constants[2 * k]) * here - ratio * before
        return here / np.sqrt(constants[2 * degree + 1])

    def find_means(self, expressions: Sequence[Expression]) -> None:
        """Find the group means that gm() and cwc() in the expressions need, inner ones first."""
        for expression in expressions:
            if not isinstance(expression, Apply):
                continue
            self.find_means(expression.arguments)
            if expression.function in ("gm", "cwc") and expression.arguments[0] not in self.means:
                argument = expression.arguments[0]
                count, first, rest = np.zeros((3, self.n_groups))
                self.accumulate_means(argument, count, first, rest)
                self.means[argument] = first, rest

    def accumulate_means(
        self, argument: Expression, count: Array, first: Array, rest: Array
    ) -> None:
        """Update counts, first values and mean deviations from them (J,) of an expression."""
        for span in self.blocks():
            value = self.evaluate(argument, span)
            block = np.broadcast_to(np.asarray(value, np.float64), self.codes[span].shape)
            add_means(self.codes[span], np.ascontiguousarray(block), count, first, rest)

    def blocks(self) -> list[slice]:
        """Return the blocks of rows."""
        n = len(self.codes)
        return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


FUNCTIONS: dict[str, Any] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: np.divide(a, b),
    "**": lambda a, b: np.power(a, b),
    "neg": lambda a: -a,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "log1p": np.log1p,
    "log2": np.log2,
    "sqrt": np.sqrt,
}


def reduce_rows(
    design: Design, frame: nw.DataFrame[Any], layout: Layout
) -> tuple[Array, Array, Array, Array]:
    """Return group labels (J,), n (J,), means (J, k) and cross-products about them (J, k, k).

    `frame` holds the complete rows that the design was built from, in memory.
    """
    columns = tuple(distinct_columns(design.formula, design.levels).values())
    groups, codes = code_groups(frame["group"].to_numpy())
    rows = read_rows(design, frame, layout, codes, len(groups))
    return groups, *accumulate_moments(rows, columns, design.formula.response)


def evaluate_new(
    design: Design,
    training: tuple[nw.DataFrame[Any], Layout],
    new: tuple[nw.DataFrame[Any], Layout],
) -> tuple[Array, dict[str, Array]]:
    """Return the group labels (n,) and the columns of a design, by name, for new rows.

    gm() and cwc() take the group means of the rows that the design was built from; a group
    that is not among them is centred on its own new rows.
    """
    import pandas as pd

    columns = distinct_columns(design.formula, design.levels)
    factors = [part.factor for column in columns.values() for part in column.parts]
    old_labels = np.asarray(training[0]["group"].to_numpy())
    labels = np.asarray(new[0]["group"].to_numpy())
    # Labels of another type are other groups, and do not sort or join with those known.
    groups, old_codes = code_groups(old_labels)
    codes = np.asarray(pd.Index(groups).get_indexer(pd.Index(labels)))
    fresh, others = pd.factorize(labels[codes < 0])
    codes[codes < 0] = len(groups) + fresh
    known = np.arange(len(groups) + len(others)) < len(groups)
    old = read_rows(design, *training, old_codes, len(known))
    rows = read_rows(design, *new, codes, len(known))
    with np.errstate(all="ignore"):
        old.find_means(factors)
        rows.find_means(factors)
        for argument, (first, rest) in old.means.items():
            own_first, own_rest = rows.means[argument]
            rows.means[argument] = (
                np.where(known, first, own_first),
                np.where(known, rest, own_rest),
            )
        whole = slice(0, len(labels))
        values = {
            name: np.broadcast_to(np.asarray(rows.column(column, whole), np.float64), labels.shape)
            for name, column in columns.items()
        }
    return labels, values


def read_rows(
    design: Design, frame: nw.DataFrame[Any], layout: Layout, codes: Array, n_groups: int
) -> Rows:
    """Return complete rows in memory with what a design reads of them, no group means yet.

    `codes` (n,) are those of the rows' groups, `n_groups` of them.
    """
    columns = distinct_columns(design.formula, design.levels).values()
    wanted = {(str(part.factor), part.level) for column in columns for part in column.parts}
    indicators = {
        (factor, level): frame.select(read_labels(layout, factor, level) == nw.lit(level))
        .to_numpy()
        .ravel()
        for factor, level in wanted
        if level is not None
    }
    raw = {name: frame[safe].to_numpy() for name, safe in layout.columns.items()}
    return Rows(raw, indicators, codes.astype(np.int64, copy=False), n_groups, design.constants)


def accumulate_moments(
    rows: Rows, columns: Sequence[Column], response: Expression
) -> tuple[Array, Array, Array]:
    """Return n (J,), means (J, k) and cross-products about them (J, k, k).

    The columns of the design come first, the response last.
    """
    factors = [part.factor for column in columns for part in column.parts]
    rows.find_means([*factors, response])
    k = len(columns) + 1
    state = make_states(rows.n_groups, k)
    accumulate_rows(rows, columns, response, state)
    return unpack_state(state, np.arange(rows.n_groups), k)


def accumulate_rows(
    rows: Rows, columns: Sequence[Column], response: Expression, state: Array
) -> None:
    """Update the state of every group, see `add_rows`, with rows whose means are known."""
    k = len(columns) + 1
    buffer = np.empty((min(BLOCK, len(rows.codes)), k))
    with np.errstate(all="ignore"):
        for span in rows.blocks():
            size = span.stop - span.start
            for i, column in enumerate(columns):
                buffer[:size, i] = rows.column(column, span)
            buffer[:size, k - 1] = rows.evaluate(response, span)
            add_rows(rows.codes[span], buffer[:size], state)


def reduce_columns(codes: Array, values: Array, n_groups: int) -> tuple[Array, Array, Array]:
    """Return n (J,), means (J, k) and cross-products about them (J, k, k) of rows (n, k)."""
    k = values.shape[1]
    state = make_states(n_groups, k)
    add_rows(codes, values, state)
    return unpack_state(state, np.arange(n_groups), k)


def make_states(n_groups: int, k: int) -> Array:
    """Return empty states (J, width) of groups for k columns, each in cache lines of its own."""
    width = -(-(1 + 2 * k + k * (k + 1) // 2) // LINE) * LINE
    room = np.zeros((n_groups + 1) * width)
    start = -room.ctypes.data // room.itemsize % LINE
    return room[start : start + n_groups * width].reshape(n_groups, width)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_means(codes: Array, values: Array, count: Array, first: Array, rest: Array) -> None:
    """Update group counts, first values and mean deviations from them (J,) with rows (n,)."""
    for i in range(len(codes)):
        j = codes[i]
        if count[j] == 0.0:
            first[j] = values[i]
        count[j] += 1.0
        rest[j] += ((values[i] - first[j]) - rest[j]) / count[j]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_rows(codes: Array, values: Array, state: Array) -> float:
    """Update the states of groups (J, width) with rows (n, k).

    A group's state is its count, first row, mean deviation from that and lower cross-product,
    side by side: rows of a group come from anywhere, and fetching its state is what they cost.
    Adding a row at a time is the pairwise update with n_2 = 1 (Welford 1962). Deviations from
    the group's first row are exact where the values lie far from zero. What is returned has no
    meaning but that the compiler must read the states ahead.
    """
    n, k = values.shape
    step = np.empty(k)
    touched = 0.0
    for i in range(n):
        if i % AHEAD == 0:
            # Asked for together, states come from memory at the same time.
            for m in range(i, min(i + AHEAD, n)):
                touched += state[codes[m], 0]
        own = state[codes[i]]
        before = own[0]
        if before == 0.0:
            for a in range(k):
                own[1 + a] = values[i, a]
        own[0] = before + 1.0
        share = 1.0 / (before + 1.0)
        weight = before * share
        at = 1 + 2 * k
        for a in range(k):
            step[a] = (values[i, a] - own[1 + a]) - own[1 + k + a]
            own[1 + k + a] += step[a] * share
            scaled = weight * step[a]
            for b in range(a + 1):
                own[at] += scaled * step[b]
                at += 1
    return touched


@numba.njit(cache=True, nogil=True)
def unpack_state(state: Array, order: Array, k: int) -> tuple[Array, Array, Array]:
    """Return n (J,), means (J, k) and cross-products (J, k, k) of states, in that order."""
    n_groups = len(order)
    count = np.empty(n_groups)
    mean = np.empty((n_groups, k))
    cross = np.empty((n_groups, k, k))
    for j in range(n_groups):
        own = state[order[j]]
        count[j] = own[0]
        at = 1 + 2 * k
        for a in range(k):
            mean[j, a] = own[1 + a] + own[1 + k + a]
            for b in range(a + 1):
                cross[j, a, b] = cross[j, b, a] = own[at]
                at += 1
    return count, mean, cross


def code_groups(labels: Array) -> tuple[Array, Array]:
    """Return the sorted distinct labels (J,) and each row's code (n,) among them.

    Raises:
        DataError: labels of types that have no order among each other, such as 1 and "1".
    """
    if labels.dtype.kind in "iu" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        # Beyond 2^63 unsigned labels leave what the compiled pass counts in.
        if high < 2**63 and high - low < max(4 * len(labels), 1 << 16):
            seen = np.zeros(high - low + 1, dtype=np.bool_)
            _mark(labels, low, seen)
            found = np.flatnonzero(seen)
            rank = np.empty(high - low + 1, dtype=np.int64)
            rank[found] = np.arange(len(found))
            return (found + low).astype(labels.dtype), _look_up(labels, low, rank)
    try:
        groups, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels})
        raise DataError(
            f"the group column holds labels of several types ({', '.join(kinds)}), which have no "
            "order; give it one type"
        ) from None
    return groups, codes.astype(np.int64)


@numba.njit(cache=True, nogil=True)
def _mark(labels: Array, low: int, seen: Array) -> None:
    for i in range(len(labels)):
        seen[labels[i] - low] = True


@numba.njit(cache=True, nogil=True)
def _look_up(labels: Array, low: int, rank: Array) -> Array:
    codes = np.empty(len(labels), dtype=np.int64)
    for i in range(len(labels)):
        codes[i] = rank[labels[i] - low]
    return codes
