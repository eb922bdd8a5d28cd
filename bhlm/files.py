"""Files and folders that take their place whole or not at all, and values that JSON can hold.

A file can be replaced in one step, a folder that is not empty cannot. Here a new folder is
written beside the old one, the old one is renamed to `.NAME.previous`, the new one is renamed to
NAME, and `.NAME.previous` is deleted. Wherever the writer is killed, NAME is whole, old or new,
or it is missing and `recover_folder` puts the old one back.
"""

import io
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from bhlm.errors import DataError
from bhlm.secrets import hide_password

UNFINISHED = ".saving"  # how the names of new folders end until they take their place


@contextmanager
def replace_file(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes take the place of the file at `path` when the block ends.

    The bytes go to a temporary file in the same folder, reach the disk, and are renamed in one
    step: whenever the writer is stopped, `path` holds the old content or the new one. If the
    block raises, the temporary file is removed and `path` stays as it was. A file that is there
    keeps its mode, and a link its target. What is no file, such as a device or a pipe, is written
    to when the block ends.

    Raises:
        DataError: the folder does not exist, cannot be written to, or is full.
    """
    refuse_address(path)
    if _is_special(path):
        with _write_special(path) as stream:
            yield stream
        return
    target = Path(os.path.realpath(path))
    _refuse_protected(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"cannot write '{path}' ({reason}); choose a folder that exists and is writable"
        ) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        _copy_mode(target, name)
        os.replace(name, target)
        _sync(target.parent)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        reason = error.strerror or str(error)
        raise DataError(f"cannot write '{path}' ({reason}); choose another place") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def refuse_address(path: str | Path) -> None:
    """Refuse to write to what was meant for an address: of that, no part may show in a message.

    Raises:
        DataError: it reads like an address, and there is no folder of that name.
    """
    text = os.fspath(path)
    if hide_password(text) != text and not os.path.isdir(os.path.dirname(text) or "."):
        raise DataError(
            f"'{hide_password(text)}' reads like an address, and only files are written; give "
            "the path of a file in a folder that exists"
        )


def _refuse_protected(path: str | Path) -> None:
    """Refuse to put another file in the place of one that may not be written to."""
    if os.path.isfile(path) and not os.access(path, os.W_OK):
        raise DataError(
            f"cannot write '{path}', which is protected against writing; choose another name"
        )


def _is_special(path: str | Path) -> bool:
    """Return whether a path leads to what cannot be replaced: a device, a pipe, an open file."""
    # What is called /dev/stdout may be a file, which whoever opened it goes on writing to.
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _write_special(path: str | Path) -> Iterator[BinaryIO]:
    """Yield a stream whose bytes are written to a device or a pipe when the block ends."""
    stream = io.BytesIO()
    yield stream
    try:
        with open(path, "ab", buffering=0) as special:
            rest = memoryview(stream.getvalue())
            while rest:
                rest = rest[special.write(rest) or 0 :]
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot write '{path}' ({reason}); choose another place") from error


def _copy_mode(target: Path, name: str) -> None:
    """Give a new file the mode and owner of the one it replaces, or what a new file gets."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        return
    if hasattr(os, "chown"):
        with suppress(OSError):  # only the superuser gives files away
            os.chown(name, old.st_uid, old.st_gid)
    os.chmod(name, stat.S_IMODE(old.st_mode))


def check_output(path: str | Path, *, is_folder: bool = False) -> None:
    """Refuse a path that cannot be written to, before the work whose result it is to hold.

    Args:
        path: of a file; what is there now may be replaced, and stays as it is.
        is_folder: whether what is written is a folder.

    Raises:
        DataError: the folder around it does not exist, cannot be written to or takes no such
            name; or a folder stands where a file is to be.
    """
    refuse_address(path)
    if _is_special(path):
        if not os.access(path, os.W_OK):
            raise DataError(f"cannot write '{path}' (no permission); choose another place")
        return
    target = Path(os.path.realpath(path))
    if os.path.isdir(target) and not is_folder:
        raise DataError(f"cannot write '{path}', which is a folder; choose another name")
    _refuse_protected(path)
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"cannot write '{path}' ({reason}); choose a folder that exists and is writable"
        ) from error
    os.close(handle)
    os.unlink(name)


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


@contextmanager
def lock_folder(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Keep every other process that locks the folder waiting until the block ends.

    A process that is killed loses its lock. Without locks, on Windows and on some network
    drives, nobody waits, and of two that save to one path at once one may fail.

    Args:
        folder: the folder, which gets no new file by this.
        shared: let others in that also ask for a shared lock.
    """
    handle = None
    try:
        if sys.platform != "win32":
            import fcntl

            with suppress(OSError):
                handle = os.open(folder, os.O_RDONLY)
                fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of the one at `target` when the block ends.

    Its files reach the disk before it is renamed. If the block raises, it is removed and
    `target` stays as it was. The caller holds the lock of the folder around `target`.

    Raises:
        DataError: the folder around `target` does not exist, cannot be written to, or is full.
    """
    refuse_address(target)
    previous = name_previous(target)
    try:
        recover_folder(target)
        shutil.rmtree(previous, ignore_errors=True)
        remove_unfinished(target)
        fresh = Path(
            tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=UNFINISHED)
        )
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"cannot write '{target}' ({reason}); choose a folder that exists and is writable"
        ) from error
    try:
        yield fresh
        _sync_tree(fresh)
        umask = os.umask(0)
        os.umask(umask)
        is_old = os.path.exists(target)
        os.chmod(fresh, stat.S_IMODE(target.stat().st_mode) if is_old else 0o777 & ~umask)
        if is_old:
            os.rename(target, previous)
        try:
            os.rename(fresh, target)
        except OSError:
            recover_folder(target)
            raise
        _sync(target.parent)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        reason = error.strerror or str(error)
        raise DataError(f"cannot write '{target}' ({reason}); choose another place") from error
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Put the folder from before back, if a killed writer had moved it and not come further.

    Raises:
        OSError: it cannot be renamed.
    """
    previous = name_previous(target)
    if os.path.isdir(previous) and not os.path.exists(target):
        os.rename(previous, target)


def remove_unfinished(target: Path) -> None:
    """Remove the new folders that killed writers of `target` left beside it."""
    # What mkdtemp puts between has no dot, so another path's leftovers do not match.
    pattern = re.compile(re.escape(f".{target.name}.") + r"\w+" + re.escape(UNFINISHED))
    for entry in target.parent.iterdir():
        if pattern.fullmatch(entry.name) and entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def name_previous(target: Path) -> Path:
    """Return where the old folder stands while the new one takes its place."""
    return target.with_name(f".{target.name}.previous")


def _sync_tree(folder: Path) -> None:
    """Make the disk hold every file of a folder."""
    for where, _, files in os.walk(folder):
        for name in files:
            _sync(Path(where, name))
        _sync(Path(where))


def _sync(path: Path) -> None:
    """Make the disk hold a file, or the names in a folder."""
    if path.is_dir() and os.name != "posix":
        return
    # Windows only syncs what is open for writing.
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
