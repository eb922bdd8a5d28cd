"""Files that take their place whole or not at all, and values that JSON can hold."""

import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from bhlm.errors import DataError


@contextmanager
def replace_file(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes take the place of the file at `path` when the block ends.

    The bytes go to a temporary file in the same folder, reach the disk, and are renamed in one
    step: whenever the writer is stopped, `path` holds the old content or the new one. If the
    block raises, the temporary file is removed and `path` stays as it was.

    Raises:
        DataError: the folder does not exist, cannot be written to, or is full.
    """
    target = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"cannot write '{target}' ({reason}); choose a folder that exists and is writable"
        ) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
        if os.name == "posix":
            _sync_folder(target.parent)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise DataError(f"cannot write '{target}' ({reason}); choose another place") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(text: str, path: str | Path) -> None:
    """Write text in UTF-8, whole or not at all.

    Raises:
        DataError: the folder does not exist or cannot be written to.
    """
    with replace_file(path) as stream:
        stream.write(text.encode("utf-8"))


def write_json(value: Any, path: str | Path) -> None:
    """Write a value as JSON, whole or not at all; see `make_plain`.

    Raises:
        DataError: the folder does not exist or cannot be written to.
    """
    write_text(json.dumps(make_plain(value), indent=2, allow_nan=False) + "\n", path)


def make_plain(value: Any, *, finite: bool = True) -> Any:
    """Return nested values that JSON can hold: arrays as lists, NumPy's scalars unpacked.

    Args:
        value: a scalar or an array, or dictionaries, lists and tuples of them; what is none of
            these stays as it is.
        finite: whether nan and infinities become None; they stay for a JSON of Python's own.
    """
    if isinstance(value, dict):
        return {str(key): make_plain(item, finite=finite) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(item, finite=finite) for item in value]
    if hasattr(value, "tolist") and not isinstance(value, str):
        return make_plain(value.tolist(), finite=finite)
    if finite and isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _sync_folder(folder: Path) -> None:
    """Make the disk remember a renaming."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
