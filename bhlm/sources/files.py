"""Files -> pandas tables, each format with its own reader and its own way to fail clearly."""

import glob
import gzip
import mmap
import os
import re
import struct
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bhlm.errors import DataError, miss_package
from bhlm.layout import print_label, show_name
from bhlm.progress import VOICE
from bhlm.secrets import ADVICE, hide_password, is_address
from bhlm.sources.arrow import EXACT, to_pandas
from bhlm.sources.databases import refuse_file
from bhlm.sources.kinds import settle_pandas
from bhlm.sources.labels import PADDED, WIDE, holds_integers, merges_spellings
from bhlm.sources.text import check_rows, check_separator

if TYPE_CHECKING:
    import pandas as pd


class Dialect(NamedTuple):
    """How a file of text is written, and what stands for a missing value in any file."""

    separator: str | None = None  # of text files; None is that of the suffix
    missing: tuple[str, ...] = ()  # codes, such as "-99" or "."


TEXT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")  # formats without types
EXCEL = ".xlsx"


def find_suffix(path: str | Path) -> str:
    """Return the suffix of a file, in lower case, with what stands before .gz."""
    parts = [each.lower() for each in Path(path).suffixes[-2:]]
    return "".join(parts) if parts[-1:] == [".gz"] else "".join(parts[-1:])


def find_files(text: str) -> list[Path]:
    """Return the files of a path or a pattern, which exist and have bytes and a known suffix."""
    pattern = Path(text)
    if is_address(text) and not os.path.exists(pattern):
        raise DataError(f"'{hide_password(text)}' is no file, but reads like an address; {ADVICE}")
    suffix = find_suffix(pattern)
    if suffix not in _READERS:
        raise DataError(
            f"'{text}' has the suffix '{suffix}', which has no reader; "
            f"give a {known_suffixes()} file"
        )
    if os.path.exists(pattern) or not glob.has_magic(text):
        paths = [pattern]
    elif not (paths := [Path(found) for found in sorted(glob.glob(text, recursive=True))]):
        raise DataError(f"no file matches '{text}'; check the folder and the pattern")
    for path in paths:
        if not os.path.isfile(path):
            what = "is a folder" if os.path.isdir(path) else "does not exist"
            raise DataError(f"'{path}' {what}; give the path of a {suffix} file")
        if not os.access(path, os.R_OK):
            raise DataError(f"'{path}' cannot be read (no permission); ask for it, or for a copy")
        if path.stat().st_size == 0:
            raise DataError(f"'{path}' is empty; give a {suffix} file with a header and rows")
    return paths


def read_file(
    path: Path,
    suffix: str,
    *,
    text: Collection[str] = (),
    named: Collection[str] = (),
    dialect: Dialect = Dialect(),  # noqa: B008
) -> "pd.DataFrame":
    """Return the table of a file of a known suffix.

    Of a CSV file, which has no types, and of a sheet the columns in `text` come as they are
    spelled. Of Stata and SPSS files, the columns in `named` come as the names of their values,
    where each value that occurs has one of its own, and as numbers otherwise.

    Raises `DataError` where it cannot be read or has no rows, and `MissingPackageError` where the
    package that reads it is not installed.
    """
    try:
        with _tell_once(path):
            if suffix in TEXT and (text or dialect != Dialect()):
                table = _read_text(path, text, dialect)
            elif suffix == EXCEL:
                table = mask_missing(_read_excel(path, text), dialect.missing)
            else:
                table = mask_missing(_READERS[suffix](path), dialect.missing)
            table = settle_pandas(table)
            if suffix in _VALUE_NAMES and named:
                table = _name_values(table, _VALUE_NAMES[suffix](path), named)
    except DataError:
        raise
    except ImportError as error:
        if suffix not in _OPTIONAL:
            raise
        raise miss_package(f"'{path}'", *_OPTIONAL[suffix]) from error
    except _BROKEN_FILE as error:
        raise refuse_file(path, suffix, error) from error
    if len(table) == 0:
        raise DataError(f"'{path}' has no rows; give a {suffix} file with at least one")
    return table


def mask_missing(table: "pd.DataFrame", missing: Collection[str]) -> "pd.DataFrame":
    """Return the table without the values that stand for a missing one.

    A code is compared with numbers as a number, and with texts as a text.
    """
    import pandas as pd

    for code in missing:
        number = pd.to_numeric(code, errors="coerce")
        for name, dtype in table.dtypes.items():
            is_number = pd.api.types.is_numeric_dtype(dtype)
            is_bool = pd.api.types.is_bool_dtype(dtype)
            if is_number and not is_bool and number == number:
                found = table[name] == number
            elif not is_number:
                found = table[name].astype(object) == code
            else:
                continue
            if found.any():
                table = table.assign(**{str(name): table[name].mask(found)})
    return table


def find_padded(
    paths: Collection[Path],
    table: "pd.DataFrame",
    dialect: Dialect = Dialect(),  # noqa: B008
) -> list[str]:
    """Return the columns of CSV files that hold 7 and 007, or 7 and " 7": codes, not numbers."""
    from pandas.api.types import is_numeric_dtype

    if not any(_holds(path, PADDED) for path in paths):
        return []
    names = [
        name
        for name, dtype in table.dtypes.items()
        if isinstance(name, str) and is_numeric_dtype(dtype)
    ]
    raw = _read_texts(paths, names, dialect)
    return [name for name in names if merges_spellings(raw[name])]


def find_wide(
    paths: Collection[Path],
    table: "pd.DataFrame",
    dialect: Dialect = Dialect(),  # noqa: B008
) -> list[str]:
    """Return the columns of integers of CSV files that pandas made doubles or text of.

    It does where some are missing; then a double does not tell those beyond 2^53 apart, and of text
    what is missing is a text too.
    """
    import pandas as pd

    if not any(_holds(path, WIDE) for path in paths):
        return []
    names = [
        name
        for name, dtype in table.dtypes.items()
        if isinstance(name, str)
        and (
            table[name].abs().max() > EXACT
            if pd.api.types.is_float_dtype(dtype)
            else not pd.api.types.is_numeric_dtype(dtype)
        )
    ]
    raw = _read_texts(paths, names, dialect)
    return [name for name in names if holds_integers(raw[name])]


def _read_texts(paths: Collection[Path], names: list[str], dialect: Dialect) -> "pd.DataFrame":
    """Return some columns of CSV files as they are spelled."""
    import pandas as pd

    if not names:
        return pd.DataFrame()
    return pd.concat([_read_text(path, names, dialect)[names] for path in paths])


def _holds(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Return whether some field of a file begins as a pattern says."""
    if path.suffix.lower() == ".gz":
        with gzip.open(path) as packed:
            return pattern.search(packed.read()) is not None
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return pattern.search(view) is not None


def _read_text(
    path: Path,
    text: Collection[str] = (),
    dialect: Dialect = Dialect(),  # noqa: B008
) -> "pd.DataFrame":
    import pandas as pd

    separator = dialect.separator or ("\t" if ".tsv" in find_suffix(path) else ",")
    # In one piece, so that a column's type does not depend on where a chunk ends.
    how: dict[str, Any] = {
        "sep": separator, "low_memory": False, "dtype": dict.fromkeys(text, str),
        "na_values": list(dialect.missing) or None,
    }  # fmt: skip
    try:
        table = pd.read_csv(path, **how)
        # pandas takes first fields for names of rows where there are more fields than names.
        is_wider = len(table) > 0 and not isinstance(table.index, pd.RangeIndex)
    except pd.errors.ParserError:
        is_wider = True
    if is_wider:
        check_rows(path, separator)
        # What is left of the rows is empty.
        names = pd.read_csv(path, sep=separator, nrows=0, index_col=False).columns
        table = pd.read_csv(path, **how, index_col=False, usecols=range(len(names)))
    if dialect.separator is None:
        check_separator(path, table.columns)
    return table


WRITTEN = (str, int, float)  # types of cells, of which some may hold a number as a text


def _read_excel(path: Path, text: Collection[str] = ()) -> "pd.DataFrame":
    """Return a sheet whose texts are numbers where no labels merge by that, such as 7 and 007.

    In the columns in `text`, numbers come as the texts that a CSV file would have.
    """
    import pandas as pd

    table = pd.read_excel(path, dtype=object).infer_objects()
    for name, dtype in table.dtypes.items():
        is_text = pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype)
        cells = table[name].dropna()
        if name in text and cells.map(type).isin(WRITTEN).all():
            table[name] = cells.map(print_label).astype("str").reindex(table.index)
            continue
        if not is_text or not cells.map(type).isin(WRITTEN).all():
            continue
        numbers = pd.to_numeric(cells, errors="coerce")
        is_exact = numbers.notna().all() and not (
            len(cells) < len(table) and numbers.abs().max() > EXACT
        )
        if is_exact and not merges_spellings(cells.map(str)):
            table[name] = numbers.reindex(table.index)
    return table


def _read_parquet(path: Path) -> "pd.DataFrame":
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        return to_pandas(file.read())


PANDAS_TYPES = (b"interval", b"period")  # that pandas adds to Arrow's


def _read_feather(path: Path) -> "pd.DataFrame":
    from pyarrow import feather

    # Arrow trusts the lengths and offsets in a file; of a damaged one they lead out of its memory.
    try:
        table = feather.read_table(path, memory_map=False)
    except TypeError as error:
        # pandas' own types within categories come back by way of a function that fails on them.
        kinds = [kind for kind in PANDAS_TYPES if b"pandas." + kind in path.read_bytes()]
        if not kinds:
            raise
        raise DataError(
            f"'{path}' holds categories of pandas' {kinds[0].decode()}s, such as pandas.cut makes, "
            "which Arrow writes but cannot read back; write that column as text, such as "
            "table['age'].astype(str), or give the dataframe itself"
        ) from error
    table.validate(full=True)
    return to_pandas(table)


def _read_stata(path: Path) -> "pd.DataFrame":
    import pandas as pd

    return pd.read_stata(path, convert_categoricals=False)


@contextmanager
def _tell_once(path: Path) -> Iterator[None]:
    """Tell in one line what a reader warns of."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    if any(issubclass(each.category, UnicodeWarning) for each in found):
        VOICE.tell(
            f"'{show_name(path)}' holds text that is not UTF-8, as its format has it; it is read "
            "as Latin-1"
        )


def _name_values(
    table: "pd.DataFrame", names: Mapping[str, Mapping[Any, str]], columns: Collection[str]
) -> "pd.DataFrame":
    """Return the table with the names of values, in their order, where each value has its own."""
    import pandas as pd

    named = {}
    for column in columns:
        if column not in table.columns or not (known := names.get(column)):
            continue
        found = sorted(table[column].dropna().unique().tolist())
        labels = [known.get(value) for value in found]
        if None not in labels and len(set(labels)) == len(labels):
            codes = pd.Index(found).get_indexer(pd.Index(table[column]))
            named[column] = pd.Categorical.from_codes(codes, categories=labels)
    return table.assign(**named)


def _name_stata(path: Path) -> "Mapping[str, Mapping[Any, str]]":
    """Return the names of values by column."""
    import pandas as pd

    with pd.read_stata(path, iterator=True) as reader:
        known = reader.value_labels()
        # pandas keeps which column has which names to itself, but for what it would convert.
        sets = dict(zip(reader.variable_labels(), reader._lbllist, strict=True))
    return {column: known[name] for column, name in sets.items() if name in known}


def _name_spss(path: Path) -> "Mapping[str, Mapping[Any, str]]":
    """Return the names of values by column."""
    from pyreadstat import read_sav

    found: Mapping[str, Mapping[Any, str]] = read_sav(path, metadataonly=True)[
        1
    ].variable_value_labels
    return found


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


def known_suffixes() -> str:
    """Return the suffixes that have a reader, for a sentence."""
    *others, last = _READERS
    return f"{', '.join(others)} or {last}"


_READERS: "dict[str, Callable[[Path], pd.DataFrame]]" = {
    ".csv": _read_text,
    ".tsv": _read_text,
    ".csv.gz": _read_text,
    ".tsv.gz": _read_text,
    EXCEL: _read_excel,
    ".parquet": _read_parquet,
    ".feather": _read_feather,
    ".dta": _read_stata,
    ".sav": _read_spss,
    ".sas7bdat": _read_sas,
}

_VALUE_NAMES = {".dta": _name_stata, ".sav": _name_spss}

SUFFIXES = tuple(_READERS)

# What the readers raised when bytes of good files were changed or cut off at random: parsers a
# ValueError mostly, and whatever a wrong length, offset, type or encoding led to further in.
_BROKEN_FILE = (
    *(ValueError, OSError, LookupError, TypeError, EOFError, RuntimeError, MemoryError),
    *(AttributeError, ArithmeticError, AssertionError, struct.error),
)

# suffix: the package that its reader needs, and the extra that installs it
_OPTIONAL = {
    ".xlsx": ("openpyxl", "excel"),
    ".sav": ("pyreadstat", "spss"),
    ".sas7bdat": ("pyreadstat", "spss"),
}
