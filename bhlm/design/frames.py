"""What is asked of a frame of any engine: counts and sums in one pass, rows in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import narwhals as nw

from bhlm.errors import DataError

type Frame = nw.DataFrame[Any] | nw.LazyFrame[Any]

GROUP = "group"  # the grouping column in every prepared frame
MAX_REASON = 300  # characters of an engine's own error, some of which repeat the whole query


def collect_frame(frame: nw.LazyFrame[Any]) -> nw.DataFrame[Any]:
    """Return a lazy frame as a table in memory.

    Raises `DataError` with the engine's own words where it gives up: memory, a lost connection,
    a number that it has no value for.
    """
    with _explain_stop(frame):
        return frame.collect()


def read_batches(frame: nw.LazyFrame[Any], size: int) -> Iterator[nw.DataFrame[Any]]:
    """Yield the rows of a lazy frame of DuckDB, in no order, `size` of them at a time.

    Raises `DataError` as `collect_frame` does.
    """
    import pyarrow as pa

    with _explain_stop(frame):
        relation = frame.to_native()
        # DuckDB before 1.4 has it under another name.
        read = getattr(relation, "to_arrow_reader", None) or relation.fetch_record_batch
        for batch in read(size):
            yield nw.from_native(pa.Table.from_batches([batch]), eager_only=True)


@contextmanager
def _explain_stop(frame: nw.LazyFrame[Any]) -> Iterator[None]:
    """Raise `DataError` with an engine's own words, or for Ctrl-C KeyboardInterrupt."""
    try:
        yield
    except Exception as error:
        if _is_interrupt(error):
            raise KeyboardInterrupt from error
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise DataError(
            f"{frame.implementation.name.lower()} stopped while it read the table ({reason}); "
            "check the table and the engine's limits"
        ) from error


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether an engine stopped because of Ctrl-C, for which each has its own error."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "InterruptException":
            return True
        if "interrupted" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


def take_row(frame: Frame, aggregates: list[nw.Expr]) -> list[Any]:
    """Return the values of some aggregates, computed in one pass over the frame."""
    if not aggregates:
        return []
    found = frame.select(*(value.alias(f"a{i}") for i, value in enumerate(aggregates)))
    return list((collect_frame(found) if isinstance(found, nw.LazyFrame) else found).row(0))


def count_true(condition: nw.Expr) -> nw.Expr:
    """Return the aggregate that counts the rows where a condition holds."""
    # By way of 32 bits, which is the only number that PostgreSQL makes of a boolean.
    return condition.cast(nw.Int32).cast(nw.Int64).sum()


def count_finite(value: nw.Expr) -> nw.Expr:
    """Return the aggregate that counts the rows where a value is finite (null is not)."""
    return count_true(value.is_finite())


def count_distinct(frame: Frame, value: nw.Expr) -> int:
    """Return the number of distinct values of an expression."""
    if isinstance(frame, nw.DataFrame):
        return int(frame.select(value.n_unique()).item())
    # Not n_unique(): for PostgreSQL it would cast a boolean, which that refuses.
    found = frame.select(v=value).group_by("v").agg(nw.len().alias("n"))
    return int(take_row(found, [nw.len()])[0])
