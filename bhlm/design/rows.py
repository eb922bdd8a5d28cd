"""Table -> its complete rows: the columns that a formula reads, under names of our own."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import narwhals as nw
import numpy as np
from narwhals.dependencies import is_pandas_dataframe, is_pyarrow_table

from bhlm.design.formula.expressions import Apply, Expression, Name, column_names, walk
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.frames import GROUP, Frame, count_true, take_row
from bhlm.design.steps import name_within
from bhlm.errors import DataError, show_value
from bhlm.sources.kinds import settle_arrow, settle_pandas, tell_lost_categories
from bhlm.sources.open import find_parquet, scan_table
from bhlm.sources.parquet import ParquetScan

SHOWN_COLUMNS = 12
SEPARATORS = (";", "\t", "|")  # of CSV files, beside the comma
LABELS = (nw.String, nw.Categorical, nw.Enum)
WIDE = (nw.Int64, nw.UInt64)  # integers of which a double does not hold each
PANDAS = "pandas."  # how Arrow's names of the types that pandas adds begin


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the columns that a formula reads stand in the prepared frame."""

    columns: dict[str, str]  # table column -> Float64 column
    categories: dict[str, str]  # categorical factor -> column of its levels
    floats: tuple[str, ...]  # prepared columns that can hold NaN or infinity
    names: dict[str, str]  # every prepared column -> table column
    # Within which prepared columns cwc() and gm() take their means, by `steps.name_within`; of
    # one grouping column it is called GROUP itself.
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows there are, and in how many a column is missing or infinite."""

    total: int
    complete: int
    missing: tuple[int, ...]  # rows by column of `Layout.names`
    infinite: tuple[int, ...]  # complete rows by column of `watched_columns`

    def __add__(self, other: "Tally") -> "Tally":
        """Return the tally of both sets of rows."""
        return Tally(
            self.total + other.total,
            self.complete + other.complete,
            tuple(map(sum, zip(self.missing, other.missing, strict=True))),
            tuple(map(sum, zip(self.infinite, other.infinite, strict=True))),
        )

    def name_missing(self, layout: Layout) -> dict[str, int]:
        """Return the rows in which each table column is missing, where there are any."""
        counts = zip(layout.names.values(), self.missing, strict=True)
        return {name: count for name, count in counts if count}


def open_rows(
    formula: Formula,
    data: Any,
    *,
    memory_limit: str | None = None,
    text: Collection[str] = (),
    separator: str | None = None,
    missing: Sequence[str] = (),
    labels: Collection[str] = (),
) -> Any:
    """Return the table behind data, in which no labels that a formula reads have merged.

    Args:
        formula: its groups and C() read labels.
        data: a dataframe, path or URL, see `bhlm.sources.open.open_table`.
        memory_limit: what DuckDB may use.
        text: columns of which the labels are text, as those of an earlier table were.
        separator: between the columns of a text file.
        missing: what stands for a missing value in a file.
        labels: columns beyond those of the formula that are read as labels, such as strata.

    Raises `DataError` as `open_table` does.
    """
    labels = list(dict.fromkeys([*label_columns(formula), *labels]))
    plain = [factor.name for factor in list_factors(formula) if isinstance(factor, Name)]
    counted = _counted(formula)
    named = [name for name in (*labels, *plain) if name not in counted]
    table = scan_table(
        data, memory_limit=memory_limit, labels=labels, text=text, named=named,
        separator=separator, missing=missing,
    )  # fmt: skip
    if (paths := find_parquet(data)) is not None:
        read = [name for factor in list_factors(formula) for name in column_names(factor)]
        tell_lost_categories(paths[0], str(data), list(dict.fromkeys(read)))
    return table


def _counted(formula: Formula) -> set[str]:
    """Return the columns that a formula computes with."""
    whole = [*list_factors(formula), *formula.outcome]
    inside = [
        each
        for each in whole
        if (isinstance(each, Apply) and each.function != "C") or each in formula.outcome
    ]
    return {name for each in inside for name in column_names(each)}


def label_columns(formula: Formula) -> list[str]:
    """Return the columns whose values a formula reads as labels: the groups', and those in C()."""
    factors = list_factors(formula)
    within = [each for each in factors if isinstance(each, Apply) and each.function == "C"]
    counted = {name for each in factors if each not in within for name in column_names(each)}
    named = [name for each in within for name in column_names(each) if name not in counted]
    return list(dict.fromkeys([*formula.group_columns, *named]))


def read_table(table: Any, formula: Formula, *, more: Collection[str] = ()) -> Any:
    """Return a table whose rows can be had: of Parquet files, the columns of the formula and more.

    Where one of these is missing there are no rows, but all columns, for `check_schema` to see.
    """
    names = list(dict.fromkeys([*formula_columns(formula), *more]))
    if isinstance(table, nw.DataFrame):
        table = table.to_native()
    if is_pandas_dataframe(table):
        return settle_pandas(table, names) if table.columns.is_unique else table
    if is_pyarrow_table(table):
        return settle_arrow(table, names)
    if not isinstance(table, ParquetScan):
        return table
    there = all(name in table.schema.names for name in names)
    if not there:
        return table.schema.empty_table()
    rows = table.read(names)
    return settle_pandas(rows, names) if is_pandas_dataframe(rows) else rows


def formula_columns(formula: Formula) -> list[str]:
    """Return the columns of a table that a formula reads, each once."""
    groups = map(Name, formula.group_columns)
    parts = (*formula.outcome, *list_factors(formula), *groups)
    return list(dict.fromkeys(name for part in parts for name in column_names(part)))


def read_frame(table: Any) -> Frame:
    """Return a table as a narwhals frame; raise `DataError` if it is not one."""
    if isinstance(table, ParquetScan):
        table = table.read()
    try:
        frame: Frame = nw.from_native(table)
        frame.collect_schema()
        if isinstance(frame, nw.LazyFrame):
            frame.head(0)  # of a relation whose schema is known, the query is planned anew
    except (TypeError, ValueError, nw.exceptions.NarwhalsError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(
            f"a table of type {type(table).__name__} cannot be read ({reason}); pass a pandas, "
            "polars, pyarrow, DuckDB, Ibis or Spark table with distinct column names"
        ) from None
    except Exception as error:  # one of the many of engines, whose file or connection is gone
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(
            f"a table of type {type(table).__name__} cannot be read ({reason}); check that the "
            "file, the table or the connection behind it is there"
        ) from error
    return frame


def check_schema(frame: Frame, formula: Formula) -> nw.Schema:
    """Return the column types; raise `DataError` where a column of the formula is not there."""
    schema = frame.collect_schema()
    for name in formula_columns(formula):
        if name in schema:
            _check_case(frame, name, list(schema))
            continue
        names = [str(column) for column in schema]
        raise DataError(f"the table has no column '{name}'; {advise_column(name, names)}")
    for group in formula.group_columns:
        check_labels(frame, group, f"the group column '{group}'")
    return schema


def _check_case(frame: Frame, name: str, names: Sequence[str]) -> None:
    """Raise `DataError` where an engine behind Ibis would read a column for another.

    Most databases do not tell upper and lower case apart in names, and take one of two columns for
    both. PostgreSQL does where names stand in quotes, as Ibis writes them.
    """
    twins = [each for each in names if each != name and each.casefold() == name.casefold()]
    if not twins or not frame.implementation.is_ibis():
        return
    native: Any = nw.to_native(frame)
    engine = native.get_backend().name
    if engine != "postgres":
        raise DataError(
            f"the table has columns '{name}' and '{twins[0]}', of which {engine}, behind Ibis, may "
            "read one for the other; rename one"
        )


def check_labels(frame: Frame, name: str, what: str) -> None:
    """Raise `DataError` where a column, called `what`, holds what cannot be labels."""
    dtype = frame.collect_schema()[name]
    if _has_no_order(frame, name, dtype):
        raise DataError(
            f"{what} has type {_print_type(frame, name, dtype)}; choose a column of numbers, "
            "strings, booleans or categories, or convert it first, such as to text"
        )


def _has_no_order(frame: Frame, name: str, dtype: nw.dtypes.DType) -> bool:
    """Return whether a column holds what cannot be labels in every engine.

    DuckDB has months, days and microseconds for durations, each by itself; of pandas' periods and
    intervals other engines see the numbers behind them, or nothing.
    """
    if dtype.is_nested() or dtype == nw.Duration:
        return True
    kind: Any = _find_type(frame, name) if dtype == nw.Unknown else None
    if frame.implementation.is_polars() and hasattr(kind, "ext_storage"):
        return kind.ext_name().startswith(PANDAS) or kind.ext_storage().is_nested()
    if frame.implementation.is_pyarrow():
        return getattr(kind, "extension_name", "").startswith(PANDAS)
    return str(kind).startswith(("period[", "interval["))


def _find_type(frame: Frame, name: str) -> Any:
    """Return the type of a column as the engine of a table in memory, or of polars, has it."""
    table: Any = nw.to_native(frame)
    if frame.implementation.is_polars():
        return table.collect_schema()[name]
    if frame.implementation.is_pyarrow():
        return table.schema.field(name).type
    return table[name].dtype if is_pandas_dataframe(table) else None


def _print_type(frame: Frame, name: str, dtype: nw.dtypes.DType) -> str:
    """Return the type of a column for a sentence: the engine's own where narwhals knows none."""
    found = _find_type(frame, name) if dtype == nw.Unknown else None
    return str(dtype if found is None else found)


def advise_column(name: str, names: Sequence[str]) -> str:
    """Return what to do about a column that is not among the names of a table."""
    only = names[0] if len(names) == 1 else ""
    mark = next((mark for mark in SEPARATORS if mark in only), None)
    if mark:
        return (
            f"it has one column, called {only[:60]!r}, so its separator is {mark!r}: read it "
            f"by pandas.read_csv(path, sep={mark!r}), or save it with commas"
        )
    twins = [each for each in names if re.fullmatch(re.escape(name) + r"_\d+", each)]
    if twins and name.casefold() in [each.casefold() for each in names]:
        return (
            f"DuckDB knows no two columns whose names differ in case only, and calls it "
            f"'{twins[0]}'; rename it, or read the file without a memory limit"
        )
    kind, _, bare = name.partition(".") if name[:2] in ("i.", "c.") else ("", "", name)
    folded = {each.casefold(): each for each in reversed(names)}
    close = [folded[bare.casefold()]] if bare.casefold() in folded else []
    close = close or get_close_matches(bare, names, n=1)
    wanted = f"C({close[0]})" if close and kind == "i" else f"'{close[0]}'" if close else ""
    hint = f"did you mean {wanted}? " if wanted else ""
    shown = ", ".join(names[:SHOWN_COLUMNS])
    more = f" and {len(names) - SHOWN_COLUMNS} more" if len(names) > SHOWN_COLUMNS else ""
    return f"{hint}it has: {shown}{more}"


def _append_doubles(frame: Frame, name: str) -> tuple[Frame, str]:
    """Return a frame with a column of wide integers as doubles, and what that is called.

    Arrow makes doubles of integers beyond 2^53 only where it is told that it may round. A frame of
    an engine that does by itself is returned as it is.
    """
    native: Any = nw.to_native(frame)
    alias = f"{name} as doubles"
    while alias in frame.collect_schema():
        alias += "_"
    if frame.implementation.is_pyarrow():
        doubles = native.column(name).cast("float64", safe=False)
        return nw.from_native(native.append_column(alias, doubles)), alias
    if frame.implementation.is_pandas() and str(native[name].dtype).endswith("[pyarrow]"):
        doubles = native[name].array.__arrow_array__().cast("float64", safe=False)
        values = type(native[name].array)(doubles)
        return nw.from_native(native.assign(**{alias: values})), alias
    return frame, name


def prepare_rows(
    frame: Frame, formula: Formula, schema: nw.Schema, *, factors: list[Expression]
) -> tuple[Frame, Layout]:
    """Return the columns that the formula reads under names of our own, and where they stand.

    Several grouping columns are called as `name_groups` says.
    """
    names = name_groups(formula)
    prepared = {safe: nw.col(group) for safe, group in names.items()}
    floats = [safe for safe, group in names.items() if schema[group].is_float()]
    columns: dict[str, str] = {}
    categories: dict[str, str] = {}
    for part in dict.fromkeys((*list_factors(formula), *formula.outcome)):
        if part in factors:
            name = column_names(part)[0]
            safe = categories[str(part)] = f"k{len(categories)}"
            names[safe] = name
            dtype = schema[name]
            _check_dtype(frame, name, dtype, allowed=(*LABELS, nw.Boolean), use=f"in '{part}'")
            # A decimal compares with its levels as a float.
            decimal = isinstance(dtype, nw.Decimal)
            prepared[safe] = nw.col(name).cast(nw.Float64) if decimal else nw.col(name)
            floats += [safe] if dtype.is_float() else []
            continue
        for name in column_names(part):
            dtype = schema[name]
            if name in columns:
                continue
            use = f"as a number in '{part}'"
            _check_dtype(frame, name, dtype, allowed=(nw.Boolean,), use=use)
            safe = columns[name] = f"c{len(columns)}"
            names[safe] = name
            number = _as_number(name) if dtype == nw.Boolean else nw.col(name)
            if dtype in WIDE:
                frame, name = _append_doubles(frame, name)
                number = nw.col(name)
            prepared[safe] = number if dtype == nw.Float64 else number.cast(nw.Float64)
            floats += [safe] if dtype.is_float() else []
    layout = Layout(columns, categories, tuple(floats), names, _find_keys(formula))
    return frame.select(**prepared), layout


def _find_keys(formula: Formula) -> dict[str, tuple[str, ...]]:
    """Return the prepared columns within whose values means are taken; see `Layout.keys`."""
    if not formula.has_levels:
        return {}
    safe = {name: at for at, name in name_groups(formula).items()}
    keys = {GROUP: tuple(safe.values())}
    for written in list_within(formula):
        columns = formula.groupings[str(formula.find_grouping(written))]
        keys[name_within(written)] = tuple(safe[column] for column in columns)
    return keys


def list_within(formula: Formula) -> list[str]:
    """Return the factors that cwc() and gm() name, as they write them."""
    calls = (node for factor in list_factors(formula) for node in walk(factor))
    return sorted(
        {
            str(node.option("group"))
            for node in calls
            if isinstance(node, Apply) and node.option("group") is not None
        }
    )


def name_groups(formula: Formula) -> dict[str, str]:
    """Return the grouping columns by their names in the prepared frame: one is GROUP."""
    if not formula.has_levels:
        return {GROUP: formula.group_columns[0]}
    return {f"g{i}": name for i, name in enumerate(formula.group_columns)}


def _as_number(name: str) -> nw.Expr:
    """Return a boolean column as 1, 0 or null."""
    # PostgreSQL makes no other number of a boolean than one of 32 bits, and Dask none of a gap.
    value = nw.col(name)
    return nw.when(~value.is_null()).then(value.fill_null(False).cast(nw.Int32))


def _check_dtype(
    frame: Frame, name: str, dtype: nw.dtypes.DType, *, allowed: tuple[Any, ...], use: str
) -> None:
    if dtype.is_numeric() or isinstance(dtype, allowed):
        return
    labels = ", string and categorical" if nw.String in allowed else ""
    kinds = f"numeric, boolean{labels}" if labels else "numeric and boolean"
    how = ", in pandas with astype('boolean') or astype(float)" if dtype == nw.Object else ""
    held = f", such as {show_value(_find_text(frame, name))}," if dtype == nw.String else ""
    raise DataError(
        f"column '{name}' has type {_print_type(frame, name, dtype)}{held} and cannot be used "
        f"{use}; {kinds} columns can, so convert it first{how}"
    )


def _find_text(frame: Frame, name: str) -> str:
    """Return a text of a column, which a message shows; "" where it has none."""
    found = frame.lazy().select(nw.col(name)).filter(~nw.col(name).is_null()).head(1).collect()
    return str(found[name][0]) if len(found) else ""


def is_complete(layout: Layout) -> nw.Expr:
    """Return whether a row of the prepared frame has every value that the formula reads."""
    present = [~nw.col(name).is_null() for name in layout.names]
    present += [~nw.col(name).is_nan() for name in layout.floats]
    return nw.all_horizontal(*present, ignore_nulls=False)


def count_rows(rows: Frame, layout: Layout) -> Tally:
    """Return the number of rows, of complete rows and of missing values, in one pass.

    Raises `DataError` where no row is complete, or a complete row has an infinite value.
    """
    tally = tally_rows(rows, layout)
    check_tally(tally, layout)
    return tally


def tally_rows(rows: Frame, layout: Layout) -> Tally:
    """Return the number of rows, complete rows, missing and infinite values, in one pass."""
    watched = _watched_columns(layout)
    if isinstance(rows, nw.DataFrame) and _is_full(rows, layout):
        return Tally(len(rows), len(rows), (0,) * len(layout.names), (0,) * len(watched))
    complete = is_complete(layout)
    missing = [
        count_true(
            nw.col(safe).is_null() | (nw.col(safe).is_nan() & ~nw.col(safe).is_null())
            if safe in layout.floats
            else nw.col(safe).is_null()
        )
        for safe in layout.names
    ]
    infinite = [
        count_true(((nw.col(safe) == np.inf) | (nw.col(safe) == -np.inf)) & complete)
        for safe in watched
    ]
    answers = take_row(rows, [nw.len(), count_true(complete), *missing, *infinite])
    total, n, *counts = (int(answer or 0) for answer in answers)
    return Tally(total, n, tuple(counts[: len(missing)]), tuple(counts[len(missing) :]))


def check_tally(tally: Tally, layout: Layout) -> None:
    """Raise `DataError` where no row is complete, or a complete row has an infinite value."""
    if tally.complete == 0:
        raise DataError(
            f"none of the {tally.total} rows of the table has a value in every column of the "
            f"formula ({', '.join([*layout.columns, *layout.categories])} and the group); check "
            "the file, or drop the column that is missing throughout"
        )
    factors = {safe: factor for factor, safe in layout.categories.items()}
    for safe, count in zip(_watched_columns(layout), tally.infinite, strict=True):
        if count:
            named = factors.get(safe, layout.names[safe])
            raise DataError(
                f"column '{named}' has {count} infinite values in the "
                f"{tally.complete} complete rows; make them missing or drop those rows"
            )


def _watched_columns(layout: Layout) -> list[str]:
    """Return the prepared columns that can hold an infinity which matters."""
    counted = {*layout.columns.values(), *layout.categories.values()}
    return [safe for safe in layout.floats if safe in counted]


def _is_finite(values: np.ndarray) -> bool:
    """Return whether all values (n,) are finite."""
    # No sum of what is not finite is finite, and a sum needs no room for answers by row.
    with np.errstate(all="ignore"):
        if values.dtype.kind == "f" and math.isfinite(float(values.sum())):
            return True
    return bool(np.isfinite(values).all())


def _is_full(rows: nw.DataFrame[Any], layout: Layout) -> bool:
    """Return whether a table in memory has rows, and no null, NaN or infinity in any of them.

    That is the usual case, and quick to see.
    """
    if not len(rows):
        return False
    # Among doubles a null is a NaN.
    doubles = list(dict.fromkeys((*layout.floats, *layout.columns.values())))
    if not all(_is_finite(rows[name].to_numpy()) for name in doubles):
        return False
    return not any(rows[name].null_count() for name in layout.names if name not in doubles)
