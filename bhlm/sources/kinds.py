"""Columns of types that few engines have -> types that mean the same in every engine's tables.

pandas holds booleans and integers with gaps, and decimals, as objects; Arrow has halves,
dictionaries of anything, and texts of several layouts, of which its own functions take some only.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from bhlm.errors import DataError
from bhlm.sources.arrow import to_pandas

if TYPE_CHECKING:
    import pandas as pd


def settle_pandas(table: "pd.DataFrame", names: Collection[str] | None = None) -> "pd.DataFrame":
    """Return the table with objects that are all booleans, numbers or decimals as such.

    Columns of Arrow's types come as pandas' own where these are categories, or as plain text.
    `names` are the columns to look at, None is all.
    """
    import pandas as pd

    found: dict[Any, Any] = {}
    for name, dtype in zip(table.columns, table.dtypes, strict=True):
        if names is not None and name not in names:
            continue
        if isinstance(dtype, pd.ArrowDtype):
            settled = _settle_arrow(table[name])
        elif pd.api.types.is_object_dtype(dtype):
            settled = _settle_objects(table[name])
        else:
            continue
        if settled is not None:
            found[name] = settled
    return table.assign(**found) if found else table


def _settle_objects(column: "pd.Series") -> "pd.Series | None":
    """Return a column of objects of one kind in its type; None where there is none."""
    import pandas as pd
    import pyarrow as pa

    read: dict[str, Callable[[], pd.Series]] = {
        "boolean": lambda: column.astype("boolean"),
        "integer": lambda: column.astype("Int64"),
        "floating": lambda: column.astype("float64"),
        "mixed-integer-float": lambda: column.astype("float64"),
        "decimal": lambda: pd.Series(
            pd.arrays.ArrowExtensionArray(pa.array(column, from_pandas=True)),
            index=column.index,
            name=column.name,
        ),
    }
    kind = pd.api.types.infer_dtype(column, skipna=True)
    try:
        return read[kind]() if kind in read else None
    except (ArithmeticError, TypeError, ValueError, pa.ArrowException):
        return None  # such as integers beyond 64 bits, which are refused as objects


def _settle_arrow(column: "pd.Series") -> "pd.Series | None":
    """Return a column of Arrow's types in one that Arrow computes with; None if it is that."""
    import pandas as pd
    from pyarrow import types

    kind = column.dtype.pyarrow_dtype
    if not (types.is_dictionary(kind) or types.is_string_view(kind)):
        return None
    import pyarrow as pa

    array = pa.chunked_array(column.array.__arrow_array__())
    if types.is_string_view(kind):
        values: Any = pd.arrays.ArrowExtensionArray(array.cast(pa.string()))
    else:
        values = _read_categories(array, str(column.name))
    return pd.Series(values, index=column.index, name=column.name)


def settle_arrow(table: Any, names: Collection[str]) -> Any:
    """Return a pyarrow Table with halves as floats; pandas' where some column is of categories.

    Categories have an order, and may be of anything, such as intervals; pandas restores both.

    Raises:
        DataError: pandas cannot read the categories.
    """
    import pyarrow as pa
    from pyarrow import types

    wanted = [name for name in dict.fromkeys(names) if table.schema.names.count(name) == 1]
    kinds = {name: table.schema.field(name).type for name in wanted}
    for name in [each for each, kind in kinds.items() if types.is_float16(kind)]:
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table.column(name).cast(pa.float32()))
    categories = {
        name: _read_categories(table.column(name), name)
        for name, kind in kinds.items()
        if types.is_dictionary(kind)
    }
    if not categories:
        return table
    return to_pandas(table.drop_columns([*categories]), named_booleans=True).assign(**categories)


def _read_categories(column: Any, name: str) -> "pd.Categorical":
    """Return a column of dictionaries as pandas' categories.

    Raises `DataError` where they are of what cannot be.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        whole = column.unify_dictionaries().combine_chunks()
        values = pa.chunked_array([whole.dictionary]).to_pandas()
        codes = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        categories = pd.Index(values.array)
        return pd.Categorical.from_codes(codes, categories, ordered=column.type.ordered)
    except (NotImplementedError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"column '{name}' has type {column.type}, of which the categories cannot be read; "
            "convert it first, to text or numbers"
        ) from error
