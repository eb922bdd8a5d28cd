"""Formula + table -> design and blocks, by the engine that suits the table."""

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.cells import code_cells
from bhlm.design.design import (
    Design,
    Prepared,
    apply_design,
    build_prepared,
    check_design,
    tally_table,
)
from bhlm.design.formula.terms import Formula
from bhlm.design.frames import GROUP, Frame, collect_frame, read_batches
from bhlm.design.labels import code_groups
from bhlm.design.levels import check_exact
from bhlm.design.plain import read_plain
from bhlm.design.rows import read_table
from bhlm.errors import DataError
from bhlm.moments.memory import (
    Blocks,
    LeftOut,
    Reduced,
    add_rows,
    add_weighed,
    count_complete,
    make_states,
    reduce_plain,
    reduce_rows,
    unpack_state,
    unpack_weighted,
)
from bhlm.moments.size import check_size
from bhlm.moments.stream import can_stream, reduce_scan
from bhlm.moments.weighting import (
    SUMMED,
    WEIGHTS,
    Weighed,
    list_weight_columns,
    list_weight_sums,
    make_weighed,
    read_weight_sums,
    refuse_differing,
    settle_weights,
)
from bhlm.sources.parquet import ParquetScan
from bhlm.sources.watch import find_watch, unchanged

Array = np.ndarray
WIDE = 16  # columns up to which the table's engine sums the products itself
HELD = 1 << 22  # values of a batch
SAME = 1e-9  # relative difference of constants of the same rows, added up in another order


def reduce_formula(formula: Formula, table: Any) -> tuple[Design, Reduced, LeftOut]:
    """Return the design of a formula on a table, its moments, and the rows left out.

    Lazy tables are reduced where they are, by one GROUP BY of narwhals expressions that is the
    same for every engine; tables in memory by compiled passes, and Parquet files that are not
    read yet by the same passes, batch by batch.

    Raises:
        FormulaError: the formula is at fault.
        DataError: the table cannot serve the formula.
    """
    with unchanged(table):
        if isinstance(table, ParquetScan) and can_stream(formula, table):
            design, reduced, left_out = reduce_scan(formula, table)
        else:
            design, reduced, left_out = _reduce_table(formula, table)
        # A bad value spoils the moments, and only then is it worth looking for it.
        is_finite = np.isfinite(reduced.mean).all() and np.isfinite(reduced.cross).all()
        if len(reduced.groups) < 2 or not is_finite:
            check_design(design, read_table(table, formula))
    check_exact(reduced.groups, f"the group column '{design.group}'")
    return design, reduced, left_out


def _reduce_table(formula: Formula, table: Any) -> tuple[Design, Reduced, LeftOut]:
    if (plain := read_plain(formula, table)) is not None:
        return plain.design, reduce_plain(plain), LeftOut(0, {})
    table = read_table(table, formula)
    prepared = build_prepared(formula, table)
    design, rows, layout = prepared.design, prepared.rows, prepared.layout
    left_out = LeftOut(prepared.dropped, prepared.missing)
    if isinstance(rows, nw.DataFrame):
        return design, reduce_rows(design, rows, layout), left_out
    frame = apply_design(design, table, check=False, means=True)
    reduced = reduce_frame(frame, formula).sort()
    check_still(formula, table, prepared, n=count_complete(reduced))
    return design, reduced, left_out


def check_still(formula: Formula, table: Any, prepared: Prepared, *, n: int) -> None:
    """Raise `DataError` where a lazy table is not what it was when its design was built.

    `n` are the complete rows that were found since.
    """
    # Levels and constants came from passes before. Files say whether they are the same still; what
    # says nothing of its files, such as a database, is asked once more.
    design = prepared.design
    again = bool(design.levels or design.constants) and not find_watch(table).paths
    if n != prepared.n or (again and not _is_same(build_prepared(formula, table), prepared)):
        raise DataError(
            f"the table has changed while '{formula.text}' was reduced ({prepared.n} complete rows "
            f"at first, then {n}, or other levels and means); make the model again when nobody "
            "writes to it"
        )


def _is_same(found: Prepared, before: Prepared) -> bool:
    """Return whether a table still has the levels, constants and rows that it had."""
    return (
        (found.n, found.dropped, found.design.levels)
        == (before.n, before.dropped, before.design.levels)
        and found.design.constants.keys() == before.design.constants.keys()
        and all(
            # Engines add in an order of their own.
            np.allclose(found.design.constants[name], values, rtol=SAME, atol=0.0, equal_nan=True)
            for name, values in before.design.constants.items()
        )
    )


def reduce_designed(design: Design, table: Any) -> tuple[Reduced, LeftOut]:
    """Return the moments of a table under a design, and the rows left out.

    Raises:
        DataError: the table has values or levels that the design cannot serve.
    """
    with unchanged(table):
        table = read_table(table, design.formula)
        frame = apply_design(design, table, means=True)
        reduced = reduce_frame(frame, design.formula).sort()
        total, missing = tally_table(design, table)
    return reduced, LeftOut(total - count_complete(reduced), missing)


def reduce_frame(frame: Frame, formula: Formula, groups: Sequence[str] = (GROUP,)) -> Blocks:
    """Return the moments of the columns w0, w1, ... of a frame, those of a formula.

    `frame` has the columns `groups`, w0, ..., and the means m0, ... of these within groups.
    The expressions are narwhals', so that a database computes them where the rows are. Engines
    add in their own order, and a group mean near 1e8 is good to 1e-8 only. So the deviations d
    from it are summed as well, and what they do not sum to zero corrects the cross-products:
    cross -= sum(d) sum(d)' / n, the corrected two-pass algorithm. Source: Chan, Golub & LeVeque
    (1983), The American Statistician 37, 242-247, section 1. Weighted, with w d for d, the
    deviations from the plain mean take the means to the weighted ones as well.

    DuckDB plans k^2 / 2 sums in seconds where k is large, and without an end at 120. There the
    columns themselves come in batches, which are added up here.
    """
    weights = formula.weights
    beside = 0 if weights is None else len(WEIGHTS) + len(weights.factors)
    k = (len(frame.collect_schema().names()) - len(groups) - beside) // 2
    units = [] if weights is None else [f"unit{i}" for i in range(len(weights.factors))]
    if k > WIDE and isinstance(frame, nw.DataFrame) and not units:
        return _reduce_memory(frame, groups, k, formula)
    if k > WIDE and frame.implementation.is_duckdb() and not units:
        return _reduce_batches(frame.lazy(), groups, k, formula)
    weigh = weights is not None and weights.weighs_rows
    pairs = [(i, j) for i in range(k) for j in range(i + 1)]
    centred = frame.with_columns(
        *[(nw.col(f"w{i}") - nw.col(f"m{i}")).alias(f"d{i}") for i in range(k)]
    )
    centred = centred.with_columns(
        *[(nw.col(f"d{i}") * nw.col(f"d{j}")).alias(f"c{i}_{j}") for i, j in pairs]
    )
    if weigh:
        summed = [*(f"d{i}" for i in range(k)), *(f"c{i}_{j}" for i, j in pairs)]
        centred = centred.with_columns(*(nw.col(name) * nw.col("rows") for name in summed))
    if weights is not None:
        centred = centred.with_columns(**list_weight_columns())
    found = centred.group_by(*groups).agg(
        nw.len().alias("n"),
        *([] if weights is None else list_weight_sums()),
        *[nw.col(name).min() for name in units],
        *[nw.col(name).max().alias(f"{name}_most") for name in units],
        *[nw.col(f"m{i}").max() for i in range(k)],
        *[nw.col(f"d{i}").sum() for i in range(k)],
        *[nw.col(f"c{i}_{j}").sum() for i, j in pairs],
    )
    reduced = collect_frame(found) if isinstance(found, nw.LazyFrame) else found
    labels = tuple(np.asarray(reduced[name].to_numpy()) for name in groups)
    n = reduced["n"].to_numpy().astype(np.float64)
    mean, left = (
        np.column_stack([reduced[f"{kind}{i}"].to_numpy() for i in range(k)]).astype(np.float64)
        for kind in "md"
    )
    check_size(len(n), k)
    weighting, mass = None, n
    if weights is not None:
        states = read_weight_sums({name: reduced[name].to_numpy() for name in SUMMED}, n)
        weighting = settle_weights(formula, labels[0], states, group=formula.group)
        mass = weighting.sums if weigh else n
        n = weighting.sums if weights.counts_rows else n
        mean = mean + left / mass[:, None] if weigh else mean
    cross = np.empty((len(n), k, k))
    with np.errstate(over="ignore", invalid="ignore"):  # who checks the moments tells of it
        for i, j in pairs:
            corrected = reduced[f"c{i}_{j}"].to_numpy() - left[:, i] * left[:, j] / mass
            # Rounding must not make a sum of squares negative.
            cross[:, i, j] = cross[:, j, i] = np.maximum(corrected, 0.0) if i == j else corrected
    if weights is None or not units:
        return Blocks(labels, n, mean, cross, weighting)
    least, most = (
        np.column_stack([reduced[f"{name}{end}"].to_numpy() for name in units]).astype(np.float64)
        for end in ("", "_most")
    )
    for (name, _), low, high in zip(weights.factors, least.T, most.T, strict=True):
        refuse_differing(low, high, group=name)
    return Blocks(labels, n, mean, cross, weighting, least)


def _reduce_memory(
    frame: nw.DataFrame[Any], groups: Sequence[str], k: int, formula: Formula
) -> Blocks:
    """Return what `reduce_frame` does, without a column for each product."""
    labels, codes = _code_cells(frame, groups)
    check_size(len(labels[0]), k)
    n_groups = len(labels[0])
    state, weights = make_states(n_groups, k), make_weighed(n_groups)
    _add_values(frame, codes, k, state, formula=formula, weights=weights)
    return _unpack(labels, state, weights, k, formula)


def _add_values(
    frame: nw.DataFrame[Any],
    codes: Array,
    k: int,
    state: Array,
    *,
    formula: Formula,
    weights: Weighed,
) -> None:
    """Update the states of groups, and of their weights, with rows of k columns of a frame."""
    values = np.column_stack([frame[f"w{i}"].to_numpy() for i in range(k)])
    values = np.ascontiguousarray(values, dtype=np.float64)
    with np.errstate(all="ignore"):
        if formula.weights is None:
            add_rows(codes, values, state)
            return
        own, group = (
            np.ascontiguousarray(frame[name].to_numpy(), dtype=np.float64) for name in WEIGHTS
        )
        add_weighed(codes, values, own, group, formula.weights.weighs_rows, state, *weights)


def _unpack(
    labels: tuple[Array, ...], state: Array, weights: Weighed, k: int, formula: Formula
) -> Blocks:
    order = np.arange(len(labels[0]))
    if formula.weights is None:
        return Blocks(labels, *unpack_state(state, order, k))
    found = unpack_weighted(labels[0], state, weights, order, k, formula=formula)
    return Blocks(labels, *found[1:])


def _code_cells(frame: nw.DataFrame[Any], groups: Sequence[str]) -> tuple[tuple[Array, ...], Array]:
    """Return the distinct combinations of some columns, by column, and the code of each row."""
    single = [code_groups(frame[name].to_numpy()) for name in groups]
    if len(single) == 1:
        return (single[0][0],), single[0][1]
    cells, places = code_cells([codes for _, codes in single])
    return tuple(labels[at] for (labels, _), at in zip(single, places, strict=True)), cells


def _reduce_batches(
    frame: nw.LazyFrame[Any], groups: Sequence[str], k: int, formula: Formula
) -> Blocks:
    """Return what `reduce_frame` does, of batches of rows that an engine gives out."""
    columns = [f"w{i}" for i in range(k)]
    known: dict[Any, int] = {}
    found: list[tuple[Array, ...]] = []
    state, weights = make_states(0, k), make_weighed(0)
    beside = () if formula.weights is None else WEIGHTS
    for batch in read_batches(frame.select(*groups, *columns, *beside), max(HELD // k, 1)):
        labels, inverse = _code_cells(batch, groups)
        cells = list(zip(*(each.tolist() for each in labels), strict=True))
        is_new = np.array([cell not in known for cell in cells], dtype=bool)
        found.append(tuple(each[is_new] for each in labels))
        codes = np.array([known.setdefault(cell, len(known)) for cell in cells], dtype=np.int64)
        if len(known) > len(state):
            check_size(len(known), k)
            more = make_states(max(len(known), 2 * len(state)), k)
            more[: len(state)] = state
            state = more
            weights = weights.grow(len(state)) if beside else weights
        _add_values(batch, codes[inverse], k, state, formula=formula, weights=weights)
    whole = tuple(map(np.concatenate, zip(*found, strict=True))) if found else ()
    whole = whole or (np.empty(0),) * len(groups)
    return _unpack(whole, state, weights, k, formula)
