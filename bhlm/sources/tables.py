"""Paths and URLs -> tables, each kind with its own reader and its own way to fail clearly."""

import glob
import os
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narwhals as nw

from bhlm.errors import DataError
from bhlm.sources.databases import (
    has_duckdb,
    miss_package,
    open_duckdb,
    open_postgres,
    refuse_file,
    stream_files,
)
from bhlm.sources.parquet import ParquetScan, scan_files

if TYPE_CHECKING:
    import pandas as pd

# Bytes on disk from which DuckDB streams a file instead of pandas reading all of it: a file of
# half a gigabyte may fill several gigabytes of memory.
STREAMED_SIZE = 1 << 29
STREAMED = (".csv", ".parquet")


def open_table(data: Any, *, memory_limit: str | None = None) -> Any:
    """The table behind data: a dataframe as it is, or what stands at a path or URL.

    A dataframe is anything that narwhals accepts, eager or lazy. A str or Path names

    - a file whose suffix tells its format: .csv, .parquet, .feather, .dta (Stata), .sav (SPSS),
      .sas7bdat (SAS). Labelled values of Stata, SPSS and SAS files come as the numbers that
      those programs compute with, not as their labels;
    - files of one format by a pattern such as data/*.parquet, in the order of their names;
    - a table of a DuckDB file, duckdb:///file.db#table (four slashes start an absolute path),
      or of a PostgreSQL database, postgresql://user@host:port/database#schema.table, with all
      that libpq allows in its URLs. Either way the rows stay there.

    Files come as a pandas DataFrame. CSV and Parquet files of 512 MB or more, or of any size if
    there is a memory limit, come as a DuckDB relation, which reads them in pieces; without
    DuckDB and without a limit, pandas reads them too.

    Args:
        data: the dataframe, path or URL.
        memory_limit: what DuckDB may use, such as "500MB"; it writes to the temporary folder
            of the system beyond that. None leaves DuckDB at its default, 80 % of the memory.

    Raises:
        DataError: data is none of these; the suffix or the kind of URL is not known; a file or
            table does not exist, has no rows or cannot be read; the package that reads it is
            not installed; the limit is not one or cannot be kept.
    """
    if isinstance(data, str | os.PathLike):
        text = os.fspath(data)
        if "://" in text:
            return _open_url(text, memory_limit)
        return _open_files(text, memory_limit)
    if isinstance(data, ParquetScan):
        return data
    try:
        nw.from_native(data)
    except TypeError as error:
        raise DataError(
            f"a {type(data).__name__} is not a table; give a dataframe (pandas, polars, pyarrow, "
            f"DuckDB, Spark, Ibis, Dask) or the path of a {_known_suffixes()} file"
        ) from error
    if memory_limit is not None:
        raise DataError(
            f"the memory limit {memory_limit!r} cannot be set for a {type(data).__name__}, which "
            "is open already; set it where that was opened, or give the path of a file"
        )
    return data


def scan_table(data: Any, *, memory_limit: str | None = None) -> Any:
    """The table behind data as `open_table` has it, but for Parquet files, which stay unread.

    Without a memory limit they come as a `ParquetScan`. A model takes that for a table, reads
    only the columns of its formula and, as a rule, never all rows at once.

    Raises `DataError` as `open_table` does.
    """
    if isinstance(data, str | os.PathLike) and memory_limit is None:
        text = os.fspath(data)
        if "://" not in text and Path(text).suffix.lower() == ".parquet":
            paths = _find_files(text)
            return scan_files(paths, text, is_large=_is_streamed(paths))
    return open_table(data, memory_limit=memory_limit)


def _find_files(text: str) -> list[Path]:
    """Return the files of a path or a pattern, which exist and have bytes and a known suffix."""
    pattern = Path(text)
    suffix = pattern.suffix.lower()
    if suffix not in _READERS:
        raise DataError(
            f"'{text}' has the suffix '{pattern.suffix}', which has no reader; "
            f"give a {_known_suffixes()} file"
        )
    if pattern.exists() or not glob.has_magic(text):
        paths = [pattern]
    elif not (paths := [Path(found) for found in sorted(glob.glob(text, recursive=True))]):
        raise DataError(f"no file matches '{text}'; check the folder and the pattern")
    for path in paths:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise DataError(f"'{path}' {what}; give the path of a {suffix} file")
        if path.stat().st_size == 0:
            raise DataError(f"'{path}' is empty; give a {suffix} file with a header and rows")
    return paths


def _open_files(text: str, memory_limit: str | None) -> Any:
    paths = _find_files(text)
    suffix = Path(text).suffix.lower()
    if memory_limit is not None and suffix not in STREAMED:
        raise DataError(
            f"the memory limit {memory_limit!r} cannot be kept for '{text}': DuckDB reads "
            f"{' and '.join(STREAMED)} files only; convert it, or leave the limit out"
        )
    if suffix in STREAMED and (memory_limit is not None or _is_streamed(paths)):
        return stream_files(paths, suffix, memory_limit, text)
    tables = [_read_file(path, suffix) for path in paths]
    if len(tables) == 1:
        return tables[0]
    import pandas as pd

    for path, table in zip(paths, tables, strict=True):
        if list(table.columns) != list(tables[0].columns):
            raise DataError(
                f"'{path}' has the columns {', '.join(map(str, table.columns))}, but '{paths[0]}' "
                f"has {', '.join(map(str, tables[0].columns))}; files of one pattern need the same"
            )
    return pd.concat(tables, ignore_index=True)


def _is_streamed(paths: Sequence[Path]) -> bool:
    """Return whether files are so large that DuckDB reads them, and DuckDB is there."""
    return sum(path.stat().st_size for path in paths) >= STREAMED_SIZE and has_duckdb()


def _read_file(path: Path, suffix: str) -> "pd.DataFrame":
    try:
        table = _name_booleans(_READERS[suffix](path))
    except ImportError as error:
        if suffix not in _OPTIONAL:
            raise
        raise miss_package(f"'{path}'", *_OPTIONAL[suffix]) from error
    except _BROKEN_FILE as error:
        raise refuse_file(path, suffix, error) from error
    if len(table) == 0:
        raise DataError(f"'{path}' has no rows; give a {suffix} file with at least one")
    return table


def _name_booleans(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the table with booleans that have gaps as such: pandas reads them as objects."""
    import pandas as pd

    gappy = [
        name
        for name, dtype in table.dtypes.items()
        if pd.api.types.is_object_dtype(dtype)
        and pd.api.types.infer_dtype(table[name], skipna=True) == "boolean"
    ]
    return table.astype(dict.fromkeys(gappy, "boolean")) if gappy else table


def _read_csv(path: Path) -> "pd.DataFrame":
    import pandas as pd

    # In one piece, so that a column's type does not depend on where a chunk ends.
    return pd.read_csv(path, low_memory=False)


def _read_parquet(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_parquet(path)


def _read_feather(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_feather(path)


def _read_stata(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_stata(path, convert_categoricals=False)


def _read_spss(path: Path) -> "pd.DataFrame":
    import pandas as pd
    from pyreadstat import ReadstatError

    try:
        return pd.read_spss(path, convert_categoricals=False)
    except ReadstatError as error:
        raise ValueError(str(error)) from error


def _read_sas(path: Path) -> "pd.DataFrame":
    from pyreadstat import ReadstatError, read_sas7bdat

    try:
        return read_sas7bdat(path)[0]
    except ReadstatError as error:
        raise ValueError(str(error)) from error


def _known_suffixes() -> str:
    *others, last = _READERS
    return f"{', '.join(others)} or {last}"


_READERS: "dict[str, Callable[[Path], pd.DataFrame]]" = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".feather": _read_feather,
    ".dta": _read_stata,
    ".sav": _read_spss,
    ".sas7bdat": _read_sas,
}

# What the readers raised when bytes of good files were changed or cut off at random: parsers a
# ValueError mostly, and whatever a wrong length, offset, type or encoding led to further in.
_BROKEN_FILE = (
    *(ValueError, OSError, LookupError, TypeError, EOFError, RuntimeError, MemoryError),
    struct.error,
)

# suffix: the package that its reader needs, and the extra that installs it
_OPTIONAL = {
    ".parquet": ("pyarrow", "arrow"),
    ".feather": ("pyarrow", "arrow"),
    ".sav": ("pyreadstat", "spss"),
    ".sas7bdat": ("pyreadstat", "spss"),
}


def _open_url(url: str, memory_limit: str | None) -> Any:
    # A password stays out of every message.
    shown = re.sub(r"(://[^/@:]*):[^@]*@", r"\1:***@", url)
    shown = re.sub(r"(password=)[^&#]*", r"\1***", shown)
    place, _, name = url.rpartition("#") if "#" in url else (url, "", "")
    scheme = url.split("://")[0].lower()
    if scheme == "spark":
        raise DataError(
            f"'{shown}' is reached by a Spark session; give the DataFrame of one, such as "
            f"spark.table({name or 'name'!r})"
        )
    if scheme not in _DATABASES:
        raise DataError(
            f"'{shown}' starts with '{scheme}://', which has no reader; give a path, "
            "duckdb:///file.db#table or postgresql://user@host/database#table"
        )
    if not name:
        raise DataError(f"'{shown}' names no table; write it after a #, as in ...#table")
    return _DATABASES[scheme](place, name, shown, memory_limit)


_DATABASES: dict[str, Callable[[str, str, str, str | None], Any]] = {
    "duckdb": open_duckdb,
    "postgresql": open_postgres,
    "postgres": open_postgres,
}
