"""An append-only file of finished replicates, from which a study can be resumed.

The first line is the study's identity, every other line one replicate, all of them JSON. A
process that is killed leaves at most one line unfinished, the last, and that one is dropped.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bhlm.errors import DataError


def open_replicates(path: Path, identity: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Return the finished replicates of a study by number; make the file if there is none.

    What a kill left unfinished is cut off, so that lines can be appended. Of two lines with one
    number, which two processes at work on one file may write, the first counts.

    Args:
        path: the file.
        identity: what makes a study this one; keys and values are JSON's.

    Raises:
        DataError: a file that cannot be read or written, that is of another study, or that
            holds something else.
    """
    header = encode_line(identity)
    try:
        content = path.read_bytes() if os.path.exists(path) else b""
        if header.startswith(content):  # nothing, or a header that a kill cut short
            path.write_bytes(header)
            return {}
        whole = content[: content.rfind(b"\n") + 1]
        first, *lines = whole.splitlines() or [content]
        _check_identity(path, first, identity)
        if len(whole) < len(content):
            with path.open("r+b") as file:
                file.truncate(len(whole))
    except OSError as error:
        raise DataError(
            f"'{path}' cannot hold replicates ({error.strerror}); give a file in a folder that "
            "exists and can be written to"
        ) from error
    found: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, start=2):
        try:
            record = json.loads(line)
            found.setdefault(int(record["replicate"]), record)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"line {number} of '{path}' is not a replicate; delete that line, or the file"
            ) from error
    return found


def append_replicate(path: Path, record: Mapping[str, Any]) -> None:
    """Write one finished replicate, numbered by `record["replicate"]`, at the file's end.

    Raises:
        DataError: the line cannot be written as a whole, because the disk is full, say.
    """
    line = encode_line(record)
    try:
        # Unbuffered, the line is one write: it is there as a whole or cut short, never mixed.
        with path.open("ab", buffering=0) as file:
            written = file.write(line)
    except OSError as error:
        raise DataError(_explain_write(path, error.strerror)) from error
    if written < len(line):
        raise DataError(_explain_write(path, "the disk took a part of a line only"))


def _explain_write(path: Path, reason: str | None) -> str:
    return (
        f"'{path}' cannot take more replicates ({reason}); make room and run the study again, "
        "which goes on from those that it holds"
    )


def encode_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as the bytes of its line."""
    return json.dumps(record, allow_nan=False).encode("ascii") + b"\n"


def _check_identity(path: Path, first: bytes, identity: Mapping[str, Any]) -> None:
    try:
        there = json.loads(first)
    except ValueError:
        there = None
    if not isinstance(there, dict) or there.get("study") != identity["study"]:
        raise DataError(
            f"'{path}' is not a file of {identity['study']} replicates, so it is left alone; "
            "give the name of another file"
        )
    wanted = json.loads(encode_line(identity))
    for key in (*wanted, *there):
        ours, theirs = wanted.get(key), there.get(key)
        if ours != theirs:
            raise DataError(
                f"'{path}' holds another study: its {key} is {theirs!r}, here it is {ours!r}; "
                "give the name of another file"
            )
