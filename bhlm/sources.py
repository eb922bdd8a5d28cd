"""Tables from files: one reader per suffix, each with its own way to fail clearly."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import narwhals as nw

from bhlm.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


def open_table(data: Any) -> Any:
    """The table behind data: a dataframe as it is, or the content of the file at a path.

    A dataframe is anything that narwhals accepts, eager or lazy. A str or Path names a file
    whose suffix tells its format: .csv, .parquet, .feather, .dta (Stata), .sav (SPSS); it is
    read into a pandas DataFrame. Labelled values of Stata and SPSS files come as the numbers
    that those programs compute with, not as their labels.

    Raises DataError if data is neither, the suffix is not known, the file does not exist,
    has no rows or cannot be read, or the package that reads it is not installed.
    """
    if isinstance(data, str | os.PathLike):
        return _read_file(Path(data))
    try:
        nw.from_native(data)
    except TypeError as error:
        raise DataError(
            f"a {type(data).__name__} is not a table; give a dataframe (pandas, polars, pyarrow, "
            f"DuckDB, Spark, Ibis) or the path of a {_known_suffixes()} file"
        ) from error
    return data


def _read_file(path: Path) -> "pd.DataFrame":
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise DataError(
            f"'{path}' has the suffix '{path.suffix}', which has no reader; "
            f"give a {_known_suffixes()} file"
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"'{path}' {what}; give the path of a {suffix} file")
    if path.stat().st_size == 0:
        raise DataError(f"'{path}' is empty; give a {suffix} file with a header and rows")
    try:
        table = _READERS[suffix](path)
    except ImportError as error:
        if suffix not in _OPTIONAL:
            raise
        package, extra = _OPTIONAL[suffix]
        raise DataError(
            f"'{path}' needs the package {package}; install it with: pip install 'bhlm[{extra}]'"
        ) from error
    except _BROKEN_FILE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"'{path}' cannot be read as {suffix} ({reason}); check that its suffix is right "
            "and that the file is whole"
        ) from error
    if len(table) == 0:
        raise DataError(f"'{path}' has no rows; give a {suffix} file with at least one")
    return table


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


def _known_suffixes() -> str:
    *others, last = _READERS
    return f"{', '.join(others)} or {last}"


_READERS: "dict[str, Callable[[Path], pd.DataFrame]]" = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".feather": _read_feather,
    ".dta": _read_stata,
    ".sav": _read_spss,
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
}
