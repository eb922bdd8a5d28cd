"""Rows in memory -> moments by compiled passes over NumPy columns.

The same columns as the narwhals path of `reduce`, for tables that are in memory anyway: the
formula is evaluated on blocks of rows, and each block updates its groups' moments in one pass.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, distinct_columns
from bhlm.design.evaluate import BLOCK, Rows, read_rows
from bhlm.design.formula.coding import Column
from bhlm.design.formula.expressions import Expression
from bhlm.design.formula.terms import Formula
from bhlm.design.formula.weights import Weights
from bhlm.design.kernels import kernel
from bhlm.design.labels import code_groups
from bhlm.design.plain import Plain
from bhlm.design.rows import Layout
from bhlm.moments.size import check_size
from bhlm.moments.weighting import (
    BETWEEN,
    FAR,
    HIGH,
    LOGS,
    LOW,
    PRODUCT,
    SQUARES,
    SUM,
    N,
    Weighed,
    Weighting,
    make_weighed,
    note_fault,
    settle_weights,
)

Array = np.ndarray
LINE = 8  # doubles in a cache line
AHEAD = 64  # rows whose groups' states are asked for together
TOGETHER = 64  # rows of a group whose weights are looked at together


class Reduced(NamedTuple):
    """What rows are reduced to: a block per group, of k columns.

    With weights, means and cross-products are weighted, and of frequencies n is their sum.
    """

    groups: Array  # (J,) group labels, sorted
    n: Array  # (J,) rows per group, float64 that holds integers
    mean: Array  # (J, k) column means
    cross: Array  # (J, k, k) cross-products about the group mean
    weighting: Weighting | None = None

    @property
    def blocks(self) -> "Blocks":
        """The same blocks, with their labels as those of one column."""
        return Blocks((self.groups,), *self[1:])


class Blocks(NamedTuple):
    """Blocks of groups in any order, and the labels that tell a group from the others."""

    labels: tuple[Array, ...]  # (J,) each: one, or several of a cell
    n: Array  # (J,) rows per group, float64 that holds integers
    mean: Array  # (J, k) column means
    cross: Array  # (J, k, k) cross-products about the group mean
    weighting: Weighting | None = None
    units: Array | None = None  # (J, U) of cells, the weights of the units that they lie in

    def sort(self) -> Reduced:
        """Return the blocks of one grouping column by its labels."""
        order = np.argsort(self.labels[0], kind="stable")
        weighting = None if self.weighting is None else self.weighting.select(order)
        arrays = self.labels[0][order], self.n[order], self.mean[order], self.cross[order]
        return Reduced(*arrays, weighting)


def count_complete(blocks: Reduced | Blocks) -> int:
    """Return how many rows of a table blocks came from."""
    rows = blocks.n if blocks.weighting is None else blocks.weighting.rows
    return int(rows.sum())


class LeftOut(NamedTuple):
    """The rows that are not complete."""

    dropped: int  # how many there are
    missing: Mapping[str, int]  # in how many each column is missing


def reduce_rows(design: Design, frame: nw.DataFrame[Any], layout: Layout) -> Reduced:
    """Return the moments of complete rows in memory, those that the design was built from.

    `frame` holds the rows under the names of `layout`.
    """
    return reduce_plain(gather_rows(design, frame, layout))


def gather_rows(design: Design, frame: nw.DataFrame[Any], layout: Layout) -> Plain:
    """Return the rows that `reduce_rows` reduces."""
    columns = tuple(distinct_columns(design.formula, design.levels).values())
    groups, codes = code_groups(frame["group"].to_numpy())
    rows = read_rows(design, frame, layout, codes, len(groups))
    return Plain(design, columns, groups, rows)


def reduce_plain(plain: Plain) -> Reduced:
    """Return the moments of complete rows in memory, by their groups.

    Raises `DataError` where they do not fit into memory, or weights cannot be taken.
    """
    design, columns, groups, rows = plain
    if design.formula.weights is None:
        return Reduced(groups, *accumulate_moments(rows, columns, design.formula.response))
    return accumulate_weighted(rows, columns, design.formula, groups=groups)


def accumulate_weighted(
    rows: Rows, columns: Sequence[Column], formula: Formula, *, groups: Array
) -> Reduced:
    """Return the weighted moments of rows, by the weights of a formula.

    Raises `DataError` where they do not fit into memory, or weights cannot be taken.
    """
    factors = [part.factor for column in columns for part in column.parts]
    rows.find_means([*factors, formula.response])
    k = len(columns) + 1
    check_size(rows.n_groups, k)
    state, weights = make_states(rows.n_groups, k), make_weighed(rows.n_groups)
    accumulate_rows(rows, columns, formula.response, state, weigh=formula.weights, weights=weights)
    return unpack_weighted(groups, state, weights, np.arange(rows.n_groups), k, formula=formula)


def unpack_weighted(
    groups: Array, state: Array, weights: Weighed, order: Array, k: int, *, formula: Formula
) -> Reduced:
    """Return the weighted moments of states that `accumulate_rows` filled, in that order.

    `groups` (J,) are the labels in that order. Raises `DataError` as `settle_weights` does.
    """
    weighting = settle_weights(formula, groups, weights.select(order), group=formula.group)
    count, mean, cross = unpack_state(state, order, k)
    n = weighting.rows
    if formula.weights is not None and formula.weights.counts_rows:
        n = count
    return Reduced(groups, n, mean, cross, weighting)


def accumulate_moments(
    rows: Rows, columns: Sequence[Column], response: Expression
) -> tuple[Array, Array, Array]:
    """Return n (J,), means (J, k) and cross-products about them (J, k, k).

    The columns of the design come first, the response last.

    Raises `DataError` where they do not fit into memory.
    """
    factors = [part.factor for column in columns for part in column.parts]
    rows.find_means([*factors, response])
    k = len(columns) + 1
    check_size(rows.n_groups, k)
    state = make_states(rows.n_groups, k)
    accumulate_rows(rows, columns, response, state)
    return unpack_state(state, np.arange(rows.n_groups), k)


def accumulate_rows(
    rows: Rows,
    columns: Sequence[Column],
    response: Expression,
    state: Array,
    *,
    weigh: Weights | None = None,
    weights: Weighed | None = None,
) -> None:
    """Update the state of every group, see `add_rows`, with rows whose means are known.

    With `weigh` rows count by their weights, of which `weights` takes note.
    """
    k = len(columns) + 1
    buffer = np.empty((min(BLOCK, len(rows.codes)), k))
    with np.errstate(all="ignore"):
        for span in rows.blocks():
            size = span.stop - span.start
            for i, column in enumerate(columns):
                buffer[:size, i] = rows.column(column, span)
            buffer[:size, k - 1] = rows.evaluate(response, span)
            codes = rows.codes[span]
            if weigh is None or weights is None:
                add_rows(codes, buffer[:size], state)
                continue
            own, group = (
                np.ascontiguousarray(np.broadcast_to(rows.evaluate(each, span), size), np.float64)
                for each in (weigh.row_expression, weigh.group_expression)
            )
            add_weighed(codes, buffer[:size], own, group, weigh.weighs_rows, state, *weights)


def reduce_columns(
    codes: Array, values: Array, n_groups: int, *, weights: Array | None = None
) -> tuple[Array, Array, Array]:
    """Return n (J,), means (J, k) and cross-products about them (J, k, k) of rows (n, k).

    With weights (n,) n is their sum.
    """
    k = values.shape[1]
    state = make_states(n_groups, k)
    add_weighted_rows(codes, values, weights, state)
    return unpack_state(state, np.arange(n_groups), k)


def make_states(n_groups: int, k: int) -> Array:
    """Return empty states (J, width) of groups for k columns, each in cache lines of its own."""
    width = -(-(1 + 2 * k + k * (k + 1) // 2) // LINE) * LINE
    room = np.zeros((n_groups + 1) * width)
    start = -room.__array_interface__["data"][0] // room.itemsize % LINE
    return room[start : start + n_groups * width].reshape(n_groups, width)


@kernel
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


def add_weighted_rows(codes: Array, values: Array, weights: Array | None, state: Array) -> None:
    """Update the states of groups with rows (n, k) that count by weights (n,), or once if None."""
    if weights is None:
        add_rows(codes, values, state)
        return
    _add_weighted(codes, values, weights, state)


@kernel
def _add_weighted(codes: Array, values: Array, weights: Array, state: Array) -> None:
    """Do what `add_rows` does where a row counts by its weight (West 1979).

    The state has the sum of weights where that of rows has their number. Rows whose weights are not
    above 0 are refused later, by what `add_weighed` finds.
    """
    n, k = values.shape
    step = np.empty(k)
    for i in range(n):
        if not weights[i] > 0.0:
            continue
        own = state[codes[i]]
        before = own[0]
        if before == 0.0:
            for a in range(k):
                own[1 + a] = values[i, a]
        own[0] = before + weights[i]
        share = weights[i] / own[0]
        weight = before * share
        at = 1 + 2 * k
        for a in range(k):
            step[a] = (values[i, a] - own[1 + a]) - own[1 + k + a]
            own[1 + k + a] += step[a] * share
            scaled = weight * step[a]
            for b in range(a + 1):
                own[at] += scaled * step[b]
                at += 1


@kernel
def add_weighed(
    codes: Array,
    values: Array,
    rows: Array,
    groups: Array,
    weighs: bool,
    state: Array,
    weights: Array,
    faults: Array,
) -> None:
    """Do what `add_weighted_rows` does, and take note of the weights themselves.

    Both in one pass: what a row adds to a group's products waits for what the row before has
    added, and the weights' sums are taken in the meantime. Rows whose weights are not above 0, or
    not finite, count for nothing, and are refused later by what is noted.

    Args:
        codes: (n,) of groups.
        values: (n, k).
        rows: (n,) weights of the rows.
        groups: (n,) weights of their groups.
        weighs: whether rows count by their weights, or once.
        state: (J, width) as `add_rows` has it.
        weights: (J, WIDTH) as in `Weighed`.
        faults: (5,) likewise.
    """
    n, k = values.shape
    step = np.empty(k)
    i = 0
    while i < n:
        # Rows of a group often follow each other, and what they add up to stays at hand.
        code, end, group = codes[i], i + 1, groups[i]
        while end < min(i + TOGETHER, n) and codes[end] == code:
            end += 1
        is_plain, broken = 0.0 < group < np.inf, 0
        for m in range(i, end):
            w = rows[m]
            is_plain &= (w > 1.0 / FAR) & (w < FAR) & (groups[m] == group)
            broken += w != np.floor(w)
        if not is_plain:  # one by one
            end, w = i + 1, rows[i]
            if not (0.0 < w < np.inf and 0.0 < group < np.inf):
                note_fault(w, group, faults)
                weights[code, N] += 1.0
                i = end
                continue
            broken = int(w != np.floor(w))
        total, squares, product = weights[code, SUM], weights[code, SQUARES], weights[code, PRODUCT]
        count = state[code, 0]
        if count == 0.0:
            for a in range(k):
                state[code, 1 + a] = values[i, a]
        for m in range(i, end):
            w = rows[m]
            total += w
            squares += w * w
            if is_plain or FAR > w > 1.0 / FAR:
                product *= w
                if not FAR > product > 1.0 / FAR:
                    weights[code, LOGS] += np.log(product)
                    product = 1.0
            else:
                weights[code, LOGS] += np.log(w)
            before, counted = count, w if weighs else 1.0
            count = before + counted
            share = counted / count
            weight = before * share
            at = 1 + 2 * k
            for a in range(k):
                step[a] = (values[m, a] - state[code, 1 + a]) - state[code, 1 + k + a]
                state[code, 1 + k + a] += step[a] * share
                scaled = weight * step[a]
                for b in range(a + 1):
                    state[code, at] += scaled * step[b]
                    at += 1
        state[code, 0] = count
        weights[code, SUM], weights[code, SQUARES], weights[code, PRODUCT] = total, squares, product
        faults[BETWEEN] += broken
        weights[code, N] += end - i
        weights[code, LOW] = min(weights[code, LOW], group)
        weights[code, HIGH] = max(weights[code, HIGH], group)
        i = end


@kernel
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
