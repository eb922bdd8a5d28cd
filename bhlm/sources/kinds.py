"""Columns of types that few engines have -> types that mean the same in every engine's tables.

pandas holds booleans and integers with gaps, and decimals, as objects; Arrow has halves,
dictionaries of anything, and texts of several layouts, of which its own functions take some only.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import DataError
from bhlm.layout import list_names, show_name
from bhlm.progress import VOICE
from bhlm.sources.arrow import is_lexical, to_pandas

if TYPE_CHECKING:
    import pandas as pd

# Bytes of a dictionary from which what writes Parquet files may leave it, and go on without one.
WHOLE = 1 << 16


def settle_pandas(table: "pd.DataFrame", names: Collection[str] | None = None) -> "pd.DataFrame":
    """Return the table with objects that are all booleans, numbers or decimals as such.

    Halves come as floats, in which each of them is a number too. Columns of Arrow's types come as
    pandas' own where these are categories, or as plain text. `names` are the columns to look at,
    None is all.
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
        elif dtype == np.float16:  # which pandas cannot look up
            settled = table[name].astype("float32")
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
        **dict.fromkeys(("interval", "period", "timedelta"), column.infer_objects),
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


# Arrow's types, as pyarrow.types tells them, which it cannot filter, and those that hold the same.
_PLAIN = {"is_float16": "float32", "is_string_view": "string", "is_binary_view": "binary"}


def settle_arrow(table: Any, names: Collection[str]) -> Any:
    """Return a pyarrow Table in types that Arrow computes with; pandas' where it has categories.

    Categories have an order, and may be of anything, such as intervals; pandas restores both.

    Raises:
        DataError: pandas cannot read the categories.
    """
    import pyarrow as pa
    from pyarrow import types

    wanted = [name for name in dict.fromkeys(names) if table.schema.names.count(name) == 1]
    kinds = {name: table.schema.field(name).type for name in wanted}
    for name, kind in kinds.items():
        plain = next((to for is_of, to in _PLAIN.items() if getattr(types, is_of)(kind)), None)
        if plain is not None:
            at = table.schema.get_field_index(name)
            cast = table.column(name).cast(pa.type_for_alias(plain))
            table = table.set_column(at, name, cast)
    categories = {
        name: _read_categories(
            table.column(name), name, lexical=is_lexical(table.schema.field(name))
        )
        for name, kind in kinds.items()
        if types.is_dictionary(kind)
    }
    if not categories:
        return table
    return to_pandas(table.drop_columns([*categories]), named_booleans=True).assign(**categories)


def unite_categories(tables: "Sequence[pd.DataFrame]") -> "list[pd.DataFrame]":
    """Return tables of the same columns with the categories of each column in one order.

    Those of several tables follow on each other; pandas would make objects of them.
    """
    import pandas as pd

    found: dict[Any, pd.CategoricalDtype] = {}
    for at, name in enumerate(tables[0].columns):
        kinds = [table.dtypes.iloc[at] for table in tables]
        if not all(isinstance(kind, pd.CategoricalDtype) for kind in kinds):
            continue
        lists = [list(kind.categories) for kind in kinds]
        if any(each != lists[0] for each in lists) or len({kind.ordered for kind in kinds}) > 1:
            united = dict.fromkeys(each for some in lists for each in some)
            is_ordered = all(kind.ordered for kind in kinds)
            found[name] = pd.CategoricalDtype(list(united), ordered=is_ordered)
    return [table.astype(found) for table in tables] if found else list(tables)


def list_categories(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Return the categories of columns of Parquet files, in the order that they have when read.

    Only columns that are of categories of text in every file; those of several files follow on
    each other. Of a file that Arrow cannot read there are none.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schemas = [parquet.read_schema(path) for path in paths]
        names = [
            name
            for name in schemas[0].names
            if all(_is_text_category(schema, name) for schema in schemas)
        ]
        found: dict[str, dict[str, None]] = {name: {} for name in names}
        for path in paths if names else ():
            # With its buffer ahead, the reader would hold the bytes of the whole file.
            with parquet.ParquetFile(path, pre_buffer=False, buffer_size=WHOLE) as file:
                for group in range(file.num_row_groups):
                    for name in names:
                        found[name] |= dict.fromkeys(_walk_dictionary(file, group, name))
    except (pa.ArrowException, OSError):
        return {}
    return {
        name: sorted(known) if is_lexical(schemas[0].field(name)) else list(known)
        for name, known in found.items()
    }


def find_lost_categories(path: Path, names: Collection[str] | None = None) -> list[str]:
    """Return which of some columns were categories of pandas', and are not in a Parquet file.

    Parquet keeps categories of text alone; of others it holds the values.
    """
    import pyarrow as pa
    from pyarrow import parquet, types

    try:
        schema = parquet.read_schema(path)
        beside = (schema.pandas_metadata or {}).get("columns", [])
        meant = [each["field_name"] for each in beside if each["pandas_type"] == "categorical"]
        held = dict(zip(schema.names, schema.types, strict=True))
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, AttributeError):
        return []  # what is damaged is refused where it is read
    return [
        name
        for name in (meant if names is None else names)
        if name in meant and name in held and not types.is_dictionary(held[name])
    ]


def tell_lost_categories(path: Path, place: str, names: Collection[str] | None = None) -> None:
    """Tell which of some columns of a Parquet file, called `place`, were categories once.

    `names` None is all columns.
    """
    if lost := find_lost_categories(path, names):
        which = list_names([f"'{show_name(name)}'" for name in lost])
        VOICE.tell(
            f"{which} of '{show_name(place)}' held categories of pandas' that are no text, of "
            "which Parquet keeps the values alone: numbers are read as numbers, and C() makes "
            "categories of them in their order"
        )


def _is_text_category(schema: Any, name: str) -> bool:
    from pyarrow import types

    if schema.names.count(name) != 1:
        return False
    kind = schema.field(name).type
    return types.is_dictionary(kind) and (
        types.is_string(kind.value_type) or types.is_large_string(kind.value_type)
    )


def _walk_dictionary(file: Any, group: int, name: str) -> list[str]:
    """Return the categories of a column in one row group of a Parquet file."""
    found: dict[str, None] = {}
    for batch in file.iter_batches(WHOLE, row_groups=[group], columns=[name]):
        values = batch.column(name).dictionary
        found |= dict.fromkeys(values.to_pylist())
        if values.nbytes < WHOLE:  # it is the same to the end of the row group
            break
    return [each for each in found if each is not None]


def _read_categories(column: Any, name: str, *, lexical: bool = False) -> "pd.Categorical":
    """Return a column of dictionaries as pandas' categories, `lexical` in the order of their texts.

    Raises `DataError` where they are of what cannot be.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        whole = column.unify_dictionaries().combine_chunks()
        values = pa.chunked_array([whole.dictionary]).to_pandas()
        # Unsigned ones, such as those of polars, have no -1.
        codes = whole.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        categories = pd.Index(values.array)
        read = pd.Categorical.from_codes(codes, categories, ordered=column.type.ordered)
        return read.reorder_categories(sorted(categories)) if lexical else read
    except (NotImplementedError, TypeError, ValueError, pa.ArrowException) as error:
        raise DataError(
            f"column '{name}' has type {column.type}, of which the categories cannot be read; "
            "convert it first, to text or numbers"
        ) from error
