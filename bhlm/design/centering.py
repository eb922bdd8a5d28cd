"""Group means and centring of a column, on any eager dataframe.

The functions of a formula with the same meaning are `gm(x)` (group_mean), `cwc(x)`
(center_within) and `cgm(x)` (center_grand); those are computed on the rows that a model
uses, these on every row of the table that they are given.
"""

from typing import Any

import narwhals as nw
from narwhals.typing import IntoDataFrame

from bhlm.design.rows import advise_column
from bhlm.errors import DataError, check_arguments


@check_arguments
def group_mean(table: IntoDataFrame, column: str, *, group: str) -> Any:
    """The mean of column in each row's group, as a native Series named gm(column).

    One value per row of the table, in its order (and with its index, for pandas). A missing
    value (null or NaN) does not enter the mean; a row without a group, or in a group without
    any value, gets a missing mean.

    Raises DataError if table is not an eager dataframe, a column is not there, or column is
    not numeric.
    """
    frame = _check_table(table, column, group=group)
    return _take_series(frame, _group_mean(column, group=group), name=f"gm({column})")


@check_arguments
def center_within(table: IntoDataFrame, column: str, *, group: str) -> Any:
    """The column minus the mean of its group, as a native Series named cwc(column).

    Missing values stay missing and do not enter the means. Raises as group_mean does.
    """
    frame = _check_table(table, column, group=group)
    centered = _values(column) - _group_mean(column, group=group)
    return _take_series(frame, centered, name=f"cwc({column})")


@check_arguments
def center_grand(table: IntoDataFrame, column: str) -> Any:
    """The column minus its mean over all rows, as a native Series named cgm(column).

    Missing values stay missing and do not enter the mean. Raises as group_mean does.
    """
    frame = _check_table(table, column)
    centered = _values(column) - _values(column).mean()
    return _take_series(frame, centered, name=f"cgm({column})")


def _check_table(
    table: IntoDataFrame, column: str, *, group: str | None = None
) -> nw.DataFrame[Any]:
    try:
        frame = nw.from_native(table, eager_only=True)
    except TypeError as error:
        raise DataError(
            f"a {type(table).__name__} is not an eager dataframe; give a pandas, polars or "
            "pyarrow table (collect a lazy one first)"
        ) from error
    for name in (column, group):
        if name is not None and name not in frame.columns:
            advice = advise_column(name, frame.columns)
            raise DataError(f"the table has no column '{name}'; {advice}")
    dtype = frame.schema[column]
    if not (dtype.is_numeric() or dtype == nw.Boolean):
        raise DataError(
            f"column '{column}' holds {dtype}, which has no mean; give a numeric column"
        )
    return frame


def _values(column: str) -> nw.Expr:
    # polars tells NaN from null, and a NaN would turn every mean of its group into NaN.
    values = nw.col(column).cast(nw.Float64)
    return nw.when(~values.is_nan()).then(values)


def _group_mean(column: str, *, group: str) -> nw.Expr:
    # Engines differ on whether missing labels form a group; here they never do.
    return nw.when(~nw.col(group).is_null()).then(_values(column).mean().over(group))


def _take_series(frame: nw.DataFrame[Any], expression: nw.Expr, *, name: str) -> Any:
    return frame.select(expression.alias(name)).get_column(name).to_native()
