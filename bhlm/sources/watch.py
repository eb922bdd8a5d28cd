"""The files behind a table that is read more than once: whether they are still the same."""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from bhlm.errors import DataError

DIGESTED = 1 << 23  # bytes up to which the content of a file tells it from another
# What polars says of a scan in the plan of a query, and DuckDB of any text in one.
_SCANNED = re.compile(r"\bSCAN \[(.*?)(?:, \.\.\. \d+ other sources)?\]$", re.MULTILINE)
_QUOTED = re.compile(r"'((?:[^']|'')+)'")


class Stamp(NamedTuple):
    """What tells a file from the one that replaces it."""

    number: tuple[int, int]  # of the device, and of the file there
    size: int
    times: tuple[int, int]  # of its content and of its entry, which nobody sets back
    digest: bytes  # of its content; empty for a large file

    def fits(self, path: Path) -> bool:
        """Return whether what stands at a path is still this file."""
        try:
            found = os.stat(path)
        except OSError:
            return False
        if self[:3] == _describe(found):
            return True
        if not self.digest or found.st_size != self.size:
            return False
        return _digest(path) == self.digest


@dataclass(frozen=True, slots=True)
class Watch:
    """Files, and the stamp of each when it was found."""

    paths: tuple[Path, ...] = ()
    stamps: tuple[Stamp | None, ...] = ()  # None for one that could not be read

    def check(self) -> None:
        """Raise `DataError` where a file is not the one that was found any more."""
        for path, stamp in zip(self.paths, self.stamps, strict=True):
            if stamp is None or not stamp.fits(path):
                raise DataError(
                    f"'{path}' was changed or replaced since it was first read; make the model "
                    "again from the file as it is now"
                )


_NO_FILES = Watch()
_OPENED: "WeakKeyDictionary[Any, Watch]" = WeakKeyDictionary()


def watch_files(paths: Iterable[Path]) -> Watch:
    """Return the files with their stamps of now."""
    found = tuple(paths)
    return Watch(found, tuple(map(_stamp, found)))


def remember_files(table: Any, watch: Watch) -> None:
    """Keep what files a table reads for as long as there is the table."""
    _OPENED[table] = watch


def find_watch(table: Any) -> Watch:
    """Return the files that a lazy table of polars or DuckDB says that it reads.

    Without files for tables in memory, for databases and for a view, which does not say.
    """
    kind = type(table)
    if kind.__name__ == "DuckDBPyRelation":
        try:
            if (known := _OPENED.get(table)) is not None:
                return known
            texts = [text.replace("''", "'") for text in _QUOTED.findall(table.sql_query())]
        except Exception:  # one of the many errors of DuckDB: such a relation has no query
            return _NO_FILES
    elif kind.__name__ == "LazyFrame" and kind.__module__.startswith("polars"):
        try:
            plan = table.explain(optimized=False)
        except Exception:  # of a query that cannot be planned, which says so when it is run
            return _NO_FILES
        texts = [text for listed in _SCANNED.findall(plan) for text in listed.split(", ")]
    else:
        # Asked of the class first: a dataframe looks for such a name among its columns.
        own = getattr(table, "watch", None) if hasattr(kind, "watch") else None
        return own if isinstance(own, Watch) else _NO_FILES
    return watch_files(dict.fromkeys(path for text in texts for path in _list_files(text)))


@contextmanager
def unchanged(*tables: Any, since_opened: bool = True) -> Iterator[None]:
    """Raise `DataError` where a file behind a table changes while it is read.

    With `since_opened`, or since `stream_files` opened it; rows that are compared with those of
    before need that not.
    """
    watches = [find_watch(table) for table in tables]
    if not since_opened:
        watches = [watch_files(watch.paths) for watch in watches]
    try:
        yield
    except Exception:  # an engine's own, where a file is gone
        # What a changed file leads to is told as that.
        for watch in watches:
            watch.check()
        raise
    for watch in watches:
        watch.check()


def _list_files(text: str) -> list[Path]:
    try:
        if Path(text).is_file():
            return [Path(text)]
        found = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    except (OSError, ValueError):
        return []
    return [Path(each) for each in found if Path(each).is_file()]


def _describe(found: os.stat_result) -> tuple[tuple[int, int], int, tuple[int, int]]:
    return (
        (found.st_dev, found.st_ino),
        found.st_size,
        (found.st_mtime_ns, found.st_ctime_ns),
    )


def _stamp(path: Path) -> Stamp | None:
    try:
        found = os.stat(path)
        return Stamp(*_describe(found), _digest(path) if found.st_size <= DIGESTED else b"")
    except OSError:
        return None


def _digest(path: Path) -> bytes:
    return blake2b(path.read_bytes(), digest_size=16).digest()
