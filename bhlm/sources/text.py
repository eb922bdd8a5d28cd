"""What the header of a text file names, and which of its rows cannot be read under it."""

import csv
import gzip
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any

from bhlm.errors import DataError
from bhlm.layout import count

SEPARATORS = (";", "\t", "|")


def open_text(path: Path) -> IO[str]:
    """Return the text of a file, which may be packed; its newlines are as they stand."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def read_header(path: Path, separator: str) -> list[str]:
    """Return the names of the columns of a file, as pandas has them: each once, none empty."""
    import pandas as pd

    return [str(name) for name in pd.read_csv(path, sep=separator, nrows=0, index_col=False)]


def check_headers(paths: Sequence[Path], headers: Sequence[Collection[Any]]) -> None:
    """Raise `DataError` where files of one pattern have different columns."""
    for path, names in zip(paths, headers, strict=True):
        if list(names) != list(headers[0]):
            raise DataError(
                f"'{path}' has the columns {', '.join(map(str, names))}, but '{paths[0]}' has "
                f"{', '.join(map(str, headers[0]))}; files of one pattern need the same"
            )


def check_separator(path: Path, names: Sequence[Any]) -> None:
    """Raise `DataError` where a header seems to be separated by something else."""
    name = str(names[0]) if len(names) == 1 else ""
    others = [mark for mark in SEPARATORS if mark in name]
    if others:
        raise DataError(
            f"'{path}' has one column, '{name[:60]}'; it seems to be separated by "
            f"{others[0]!r}, so give separator={others[0]!r} (--separator on the command line)"
        )


def check_rows(path: Path, separator: str, *, most: int | None = None) -> None:
    """Raise `DataError` for the first row of a file that does not fit its header.

    A row may lack fields at its end, which are missing. It may have empty ones behind, but not the
    first: then it may as well begin with the name of the row.

    Args:
        path: the file.
        separator: between its fields.
        most: rows that are looked at; None is all.

    Raises `UnicodeDecodeError` where it is no text in UTF-8.
    """
    with open_text(path) as stream:
        reader = csv.reader(stream, delimiter=separator, strict=True)
        line = 1
        try:
            names = next(reader, [])
            check_separator(path, names)
            line = reader.line_num + 1
            for number, row in enumerate(filter(None, reader)):
                line = reader.line_num + 1
                if number == most:
                    return
                if any(row[len(names) :]) or (number == 0 and len(row) > len(names)):
                    raise _refuse_row(path, reader.line_num, len(row), len(names))
        except csv.Error as error:
            raise DataError(
                f"'{path}' has a quotation mark from line {line} on that does not end a field as "
                f"it should ({error}); close it, or write it twice where it belongs to a text"
            ) from error


def _refuse_row(path: Path, line: int, fields: int, names: int) -> DataError:
    return DataError(
        f"'{path}' has {count(fields, 'field')} in line {line} and {count(names, 'name')} in its "
        "header, so that it is not known which column is which; give every column a name, put "
        "quotation marks around what holds a separator, or remove a separator at the ends of rows"
    )
