"""Tables in memory whose columns are numbers without gaps: their arrays as they are.

That is the usual table, and a small one is reduced in less time than narwhals takes to plan what
all engines do alike. Whatever is not plain goes that way, and so does every error.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from narwhals.dependencies import (
    is_pandas_dataframe,
    is_polars_dataframe,
    is_pyarrow_table,
)

from bhlm.design.constants import constant_nodes
from bhlm.design.design import Design, check_roles, distinct_columns
from bhlm.design.evaluate import Rows
from bhlm.design.formula.coding import Column
from bhlm.design.formula.expressions import Apply, column_names, walk
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.labels import code_groups
from bhlm.errors import FormulaError

Array = np.ndarray

# Of NumPy's kinds, those that narwhals knows in every engine.
NUMBERS = frozenset(map(np.dtype, ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8")))


class Plain(NamedTuple):
    """The rows of a plain table, all of which are complete."""

    design: Design
    columns: tuple[Column, ...]  # of the design, but for the response
    groups: Array  # (J,) group labels, sorted
    rows: Rows


class _Plan(NamedTuple):
    """What a formula has of any table of numbers."""

    design: Design
    columns: tuple[Column, ...]
    numbers: tuple[str, ...]  # the table's columns that it computes with


def read_plain(formula: Formula, table: Any) -> Plain | None:
    """Return the rows of a table in memory; None where something in it is not plain.

    Plain are columns of integers and floats of NumPy's kinds, no value missing or infinite, and a
    formula that learns no levels and no constants from them.

    Raises:
        FormulaError: the formula is at fault.
        DataError: labels have no order.
    """
    take = choose_reader(table)
    if take is None or (plan := _plan(formula)) is None:
        return None
    values: dict[str, Array] = {}
    for name in plan.numbers:
        found = take(table, name)
        if found is None:
            return None
        values[name] = found
    labels = values.get(formula.group)
    labels = take(table, formula.group) if labels is None else labels
    if labels is None or not len(labels):
        return None
    groups, codes = code_groups(labels)
    rows = Rows(values, {}, codes, len(groups), plan.design.constants)
    return Plain(plan.design, plan.columns, groups, rows)


@lru_cache(maxsize=64)
def _plan(formula: Formula) -> _Plan | None:
    """Return what a formula has of any table of numbers; None where it needs more of it."""
    check_roles(formula)
    factors = [*list_factors(formula), *formula.outcome]
    calls = [node for factor in factors for node in walk(factor) if isinstance(node, Apply)]
    if formula.has_levels or constant_nodes(factors) or any(c.function == "C" for c in calls):
        return None
    try:
        design = Design.assemble(formula, {}, {})
    except FormulaError:  # told once the table is known to have the columns
        return None
    columns = tuple(distinct_columns(formula, {}).values())
    numbers = dict.fromkeys(name for factor in factors for name in column_names(factor))
    return _Plan(design, columns, tuple(numbers))


def choose_reader(table: Any) -> Any:
    """Return what takes a column out of such a table, by its name; None of a table not known.

    What it takes is None unless it is plain.
    """
    if is_pandas_dataframe(table):
        return _take_pandas if table.columns.is_unique else None
    if is_polars_dataframe(table):
        return _take_polars
    return _take_arrow if is_pyarrow_table(table) else None


def _take_pandas(table: Any, name: str) -> Array | None:
    try:
        column = table[name]
    except KeyError:
        return None
    dtype = getattr(column, "dtype", None)
    return _check(column.to_numpy()) if isinstance(dtype, np.dtype) else None


def _take_polars(table: Any, name: str) -> Array | None:
    if name not in table.columns:
        return None
    column = table.get_column(name)
    is_number = column.dtype.is_integer() or column.dtype.is_float()
    return _check(column.to_numpy()) if is_number and not column.null_count() else None


def _take_arrow(table: Any, name: str) -> Array | None:
    import pyarrow as pa
    from pyarrow import types

    if table.column_names.count(name) != 1:
        return None
    column = table.column(name)
    is_number = types.is_integer(column.type) or types.is_floating(column.type)
    if not is_number or column.null_count:
        return None
    whole = column.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # too long for one chunk
        return _check(column.to_numpy())
    return _check(np.from_dlpack(whole))  # as to_numpy, which loads pandas


def _check(values: Array) -> Array | None:
    """Return a column (n,) if it is plain, else None."""
    if values.dtype not in NUMBERS:
        return None
    return values if values.dtype.kind != "f" or np.isfinite(values).all() else None
