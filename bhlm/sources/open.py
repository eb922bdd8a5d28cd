"""Paths, patterns and URLs -> tables: which of the readers opens what."""

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import narwhals as nw

from bhlm.errors import DataError, check_arguments
from bhlm.secrets import ADVICE, hide_password, is_readable, split_table
from bhlm.sources.databases import has_duckdb, open_duckdb, open_postgres, stream_files
from bhlm.sources.files import (
    EXCEL,
    TEXT,
    Dialect,
    find_files,
    find_padded,
    find_suffix,
    find_wide,
    known_suffixes,
    read_file,
)
from bhlm.sources.kinds import tell_lost_categories, unite_categories
from bhlm.sources.labels import settle_integers, settle_labels
from bhlm.sources.parquet import ParquetScan, scan_files
from bhlm.sources.text import check_headers
from bhlm.sources.watch import watch_files

if TYPE_CHECKING:
    import pandas as pd

# Bytes on disk from which DuckDB streams a file instead of pandas reading all of it: a file of
# half a gigabyte may fill several gigabytes of memory.
STREAMED_SIZE = 1 << 29
STREAMED = (".csv", ".parquet")


@check_arguments
def open_table(
    data: Any,
    *,
    memory_limit: str | None = None,
    streamed_size: int = STREAMED_SIZE,
    labels: Collection[str] | None = None,
    text: Collection[str] = (),
    named: Collection[str] = (),
    separator: str | None = None,
    missing: Sequence[str] = (),
) -> Any:
    """The table behind data: a dataframe as it is, or what stands at a path or URL.

    A dataframe is anything that narwhals accepts, eager or lazy. A str or Path names

    - a file whose suffix tells its format: .csv, .tsv, both also as .gz, .xlsx (Excel, its first
      sheet), .parquet, .feather, .dta (Stata), .sav (SPSS), .sas7bdat (SAS). Labelled values of
      Stata, SPSS and SAS files come as the numbers that those programs compute with, not as their
      labels, but for `named` columns;
    - files of one format by a pattern such as data/*.parquet, in the order of their names;
    - a table of a DuckDB file, duckdb:///file.db#table (four slashes start an absolute path),
      or of a PostgreSQL database, postgresql://user@host:port/database#schema.table, with all
      that libpq allows in its URLs. Either way the rows stay there.

    Files come as a pandas DataFrame. CSV and Parquet files of 512 MB or more, or of any size if
    there is a memory limit, come as a DuckDB relation, which reads them in pieces; without
    DuckDB and without a limit, pandas reads them too.

    A CSV file has no types. In its columns of `labels` no two spellings merge: they are read as
    numbers only where each number is spelled in the one way in which it is printed, so that 0007
    keeps its zeros and is not 7. Elsewhere what looks like numbers is read as numbers.

    Args:
        data: the dataframe, path or URL.
        memory_limit: what DuckDB may use, such as "500MB"; it writes to the temporary folder
            of the system beyond that. None leaves DuckDB at its default, 80 % of the memory.
        streamed_size: bytes of files from which DuckDB reads them in pieces.
        labels: columns that hold labels, such as the groups'; None takes for such the columns
            that spell one number in two ways, one of them with zeros or blanks.
        text: columns that hold labels and come as text in any case.
        named: columns of Stata and SPSS files that come as the names of their values, where each
            value that occurs has one of its own.
        separator: between the columns of a .csv or .tsv file, such as ";".
        missing: what stands for a missing value in a file, such as ["-99", "."], as text or as the
            number that it reads as.

    Raises:
        DataError: data is none of these; the suffix or the kind of URL is not known; a file or
            table does not exist, has no rows or cannot be read; the limit is not one or cannot be
            kept.
        MissingPackageError: the package that reads it is not installed.
    """
    if isinstance(data, str | os.PathLike):
        place = os.fspath(data)
        dialect = Dialect(separator, tuple(map(str, missing)))
        if "://" in place:
            _refuse_dialect(place, dialect)
            return _open_url(place, memory_limit)
        roles = Roles(labels, text, named, dialect)
        return _open_files(place, memory_limit, streamed_size, roles)
    if isinstance(data, ParquetScan):
        return data
    try:
        nw.from_native(data)
    except TypeError as error:
        raise DataError(
            f"a {type(data).__name__} is not a table; give a dataframe (pandas, polars, pyarrow, "
            f"DuckDB, Spark, Ibis, Dask) or the path of a {known_suffixes()} file"
        ) from error
    if memory_limit is not None:
        raise DataError(
            f"the memory limit {memory_limit!r} cannot be set for a {type(data).__name__}, which "
            "is open already; set it where that was opened, or give the path of a file"
        )
    return data


def scan_table(
    data: Any,
    *,
    memory_limit: str | None = None,
    labels: Collection[str] | None = None,
    text: Collection[str] = (),
    named: Collection[str] = (),
    separator: str | None = None,
    missing: Sequence[str] = (),
) -> Any:
    """The table behind data as `open_table` has it, but for Parquet files, which stay unread.

    Without a memory limit they come as a `ParquetScan`. A model takes that for a table, reads
    only the columns of its formula and, as a rule, never all rows at once.

    Raises `DataError` as `open_table` does.
    """
    if memory_limit is None and not missing and (paths := find_parquet(data)) is not None:
        return scan_files(paths, os.fspath(data), is_large=_is_streamed(paths, STREAMED_SIZE))
    return open_table(
        data, memory_limit=memory_limit, labels=labels, text=text, named=named,
        separator=separator, missing=missing,
    )  # fmt: skip


def find_parquet(data: Any) -> list[Path] | None:
    """Return the Parquet files that stand at a path or pattern; None where it names others.

    Raises `DataError` where there are none.
    """
    if not isinstance(data, str | os.PathLike) or "://" in (place := os.fspath(data)):
        return None
    return find_files(place) if find_suffix(place) == ".parquet" else None


class Roles(NamedTuple):
    """What columns of a file are read for, see `open_table`."""

    labels: Collection[str] | None
    text: Collection[str]
    named: Collection[str]
    dialect: Dialect = Dialect()


def _refuse_dialect(place: str, dialect: Dialect) -> None:
    if dialect != Dialect():
        what = "separator=" if dialect.separator is not None else "missing="
        raise DataError(
            f"{what} is for files that are read whole, and '{hide_password(place)}' is not; leave "
            "it out, and mend the table where it stands"
        )


def _open_files(place: str, memory_limit: str | None, streamed_size: int, roles: Roles) -> Any:
    labels, text, named, dialect = roles
    paths = find_files(place)
    suffix = find_suffix(place)
    if dialect.separator is not None and suffix not in TEXT:
        raise DataError(
            f"separator={dialect.separator!r} is for {', '.join(TEXT)} files, and '{place}' is "
            "none of them; leave it out"
        )
    if memory_limit is not None and suffix not in STREAMED:
        raise DataError(
            f"the memory limit {memory_limit!r} cannot be kept for '{place}': DuckDB reads "
            f"{' and '.join(STREAMED)} files only; convert it, or leave the limit out"
        )
    if suffix == ".parquet" and len(paths) > 1:
        scan_files(paths, place, is_large=False)  # which refuses files of different types
    if suffix == ".parquet" and labels is None:  # otherwise a formula says which columns matter
        tell_lost_categories(paths[0], place)
    if suffix in STREAMED and (memory_limit is not None or _is_streamed(paths, streamed_size)):
        _refuse_dialect(place, dialect)
        return stream_files(paths, suffix, memory_limit, place, labels=labels, text=text)
    known = [*(labels or ()), *text]
    watch = watch_files(paths)
    table = _read_files(paths, suffix, known, named, dialect)
    if suffix not in (*TEXT, EXCEL):
        watch.check()
        return table
    wide: list[str] = []
    if labels is None and suffix in TEXT:
        padded = find_padded(paths, table, dialect)
        wide = [name for name in find_wide(paths, table, dialect) if name not in padded]
        if padded or wide:
            table = _read_files(paths, suffix, [*known, *padded, *wide], named, dialect)
    watch.check()
    # Of all files at once: one of them may spell what is no number in another.
    settled = {
        name: settle_labels(table[name])
        for name in labels or ()
        if name in table.columns and name not in text and table[name].dtype == "str"
    }
    settled |= {name: settle_integers(table[name]) for name in wide if name not in text}
    return table.assign(**settled)


def _read_files(
    paths: Sequence[Path],
    suffix: str,
    text: Collection[str],
    named: Collection[str],
    dialect: Dialect,
) -> Any:
    """Return the tables of files as one."""
    # Files of one pattern may name a value differently, and are read as numbers.
    named = named if len(paths) == 1 else ()
    tables = [read_file(path, suffix, text=text, named=named, dialect=dialect) for path in paths]
    if len(tables) == 1:
        return tables[0]
    import pandas as pd

    check_headers(paths, [table.columns for table in tables])
    # A column of numbers in one file and of truth values or text in another is text in all.
    if suffix in TEXT and (mixed := _find_mixed(tables, text)):
        return _read_files(paths, suffix, [*text, *mixed], named, dialect)
    return pd.concat(unite_categories(tables), ignore_index=True)


def _find_mixed(tables: "Sequence[pd.DataFrame]", text: Collection[str]) -> list[str]:
    """Return the columns, beside those of `text`, that are of different kinds in several tables."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    found = []
    for at, name in enumerate(tables[0].columns):
        columns = [table.iloc[:, at] for table in tables]
        kinds = {
            (is_bool_dtype(column.dtype), is_numeric_dtype(column.dtype))
            for column in columns
            if column.notna().any()
        }
        if len(kinds) > 1 and name not in text:
            found.append(name)
    return found


def _is_streamed(paths: Sequence[Path], size: int) -> bool:
    """Return whether files are so large that DuckDB reads them, and DuckDB is there."""
    return sum(path.stat().st_size for path in paths) >= size and has_duckdb()


def _open_url(url: str, memory_limit: str | None) -> Any:
    url = url.strip()
    shown = hide_password(url)
    place, name = split_table(url)
    scheme, rest = place.split("://", 1)
    scheme = scheme.lower()
    if scheme == "spark":
        raise DataError(
            f"'{shown}' is reached by a Spark session; give the DataFrame of one, such as "
            f"spark.table({name or 'name'!r})"
        )
    if scheme not in _DATABASES:
        kind = f"starts with '{scheme}://', which" if scheme.isalnum() else "is an address that"
        raise DataError(
            f"'{shown}' {kind} has no reader; give a path, duckdb:///file.db#table or "
            "postgresql://user@host/database#table"
        )
    if scheme != "duckdb" and not is_readable(url):
        raise DataError(f"the address '{shown}' cannot be read; {ADVICE}")
    if not name:
        raise DataError(f"'{shown}' names no table; write it after a #, as in ...#table")
    return _DATABASES[scheme](f"{scheme}://{rest}", name, shown, memory_limit)


_DATABASES: dict[str, Callable[[str, str, str, str | None], Any]] = {
    "duckdb": open_duckdb,
    "postgresql": open_postgres,
    "postgres": open_postgres,
}
