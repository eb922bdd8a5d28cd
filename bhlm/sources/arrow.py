"""Arrow tables -> pandas tables, in which no two integers merge."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

EXACT = 2**53  # up to which every integer is a double


def is_lexical(field: Any) -> bool:
    """Return whether a pyarrow field's categories have the order of their texts.

    That is the meaning of a Categorical of polars, which says so beside it; its dictionary is in
    the order in which the program that wrote it first met them.
    """
    return any(key.startswith(b"_PL_CATEGORICAL") for key in field.metadata or ())


def to_pandas(table: Any, *, named_booleans: bool = False) -> "pd.DataFrame":
    """Return a pyarrow Table as pandas', which makes doubles of integers where some are missing.

    Those of integers that a double cannot tell apart come in pandas' own type of integers with
    gaps; with `named_booleans`, so do booleans. Types of Arrow's that pandas cannot read back by
    the names that it wrote beside them come in its own.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    booleans = {pa.bool_(): pd.BooleanDtype()} if named_booleans else {}
    for at, field in enumerate(table.schema):
        if types.is_string_view(field.type):
            table = table.set_column(at, field.name, table.column(at).cast(pa.string()))
    try:
        frame = table.to_pandas(types_mapper=booleans.get)
    except (NotImplementedError, TypeError):
        frame = table.to_pandas(types_mapper=booleans.get, ignore_metadata=True)
    for field in table.schema:
        if is_lexical(field) and isinstance(frame.get(field.name), pd.Series):
            values = frame[field.name]
            if isinstance(values.dtype, pd.CategoricalDtype):
                ordered = values.cat.reorder_categories(sorted(values.cat.categories))
                frame = frame.assign(**{field.name: ordered})
    gappy = {
        pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype(),
    }  # fmt: skip
    wide = {}
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if column.type in gappy and 0 < column.null_count < len(column):
            least, most = pc.min_max(column).as_py().values()
            if (least < -EXACT or most > EXACT) and table.schema.names.count(name) == 1:
                wide[name] = column.to_pandas(types_mapper=gappy.get).array
    return frame.assign(**{name: values for name, values in wide.items() if name in frame.columns})
