"""Where compiled code is kept: beside the package, else in the home or a temporary folder.

numba and PyTensor keep what they compile on disk. Where the places that they would choose are
read-only or full they end in an error, so that bhlm names another one before they are imported.

numba knows what it keeps by the kernel's own file. It would run an old copy of a function of
another file that was compiled into the kernel, so that all is compiled anew when any file changes.

Every `import bhlm` runs this, so that paths are text here: pathlib alone would double its time.
"""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress

NUMBA = "NUMBA_CACHE_DIR"
PYTENSOR = "PYTENSOR_FLAGS"
MATPLOTLIB = "MPLCONFIGDIR"
ROOM = 1 << 26  # bytes that must be free: the machine code of all kernels takes less
PACKAGE = os.path.dirname(os.path.dirname(__file__))
STAMP = "bhlm-sources"  # the name of the file that holds the state which the kernels were made of


def choose_caches(*, package: "os.PathLike[str] | str" = PACKAGE, room: int = ROOM) -> None:
    """Name a usable place for compiled code to numba and PyTensor, where theirs is not usable.

    A place that the user named, by NUMBA_CACHE_DIR or PYTENSOR_FLAGS, stays if it can be used.
    """
    own = os.path.abspath(package)
    if not _is_usable(os.environ.get(NUMBA) or os.path.join(own, "__pycache__"), room):
        place = _find_place("numba", room)
        if place is not None:
            os.environ[NUMBA] = place
            if "numba" in sys.modules:
                sys.modules["numba"].config.CACHE_DIR = place
    _drop_stale_kernels(own)
    flags = os.environ.get(PYTENSOR, "")
    home = os.path.join(os.path.expanduser("~"), ".pytensor")
    if "compiledir" not in flags and not _is_usable(home, room):
        place = _find_place("pytensor", room)
        if place is not None:
            os.environ[PYTENSOR] = ",".join(filter(None, (flags, f"base_compiledir={place}")))
    _choose_matplotlib()


def _choose_matplotlib() -> None:
    """Name a place for what matplotlib keeps, which it would choose itself, and say so."""
    home, named = os.path.expanduser("~"), os.environ.get(MATPLOTLIB)
    wanted = [named] if named else [os.path.join(home, ".matplotlib")]
    if not named and sys.platform.startswith(("linux", "freebsd")):
        wanted = [
            os.path.join(os.environ.get(base) or os.path.join(home, ours), "matplotlib")
            for base, ours in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache"))
        ]
    if sys.platform != "win32" and not all(_is_usable(each, 0) for each in wanted):
        place = _find_place("matplotlib", 0)
        if place is not None:
            os.environ[MATPLOTLIB] = place


def _drop_stale_kernels(package: str) -> None:
    """Remove numba's indexes of this package's kernels, if a source file is not what it was."""
    sources, state = _find_sources(package)
    if not sources:
        return
    named = os.environ.get(NUMBA)
    if named:
        # As numba.core.caching names the folder of a source file's folder.
        import hashlib

        names = [hashlib.sha1(folder.encode()).hexdigest() for folder in sources]
        folders = [
            os.path.join(named, f"{os.path.basename(folder)}_{name}")
            for folder, name in zip(sources, names, strict=True)
        ]
        kept, stamp = named, os.path.join(named, f"{STAMP}-{names[0][:16]}")
    else:
        folders = [os.path.join(folder, "__pycache__") for folder in sources]
        kept, stamp = folders[0], os.path.join(folders[0], STAMP)
    try:
        if os.path.exists(stamp):
            with open(stamp, encoding="utf-8", errors="surrogateescape") as stream:
                if stream.read() == state:
                    return
        for folder in filter(os.path.isdir, folders):
            for name in os.listdir(folder):
                if name.endswith(".nbi"):
                    with suppress(FileNotFoundError):  # another process was quicker
                        os.unlink(os.path.join(folder, name))
        os.makedirs(kept, exist_ok=True)
        with open(stamp, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(state)
    except OSError:  # nothing can be kept there, so that nothing stale will be
        return


def _find_sources(package: str) -> tuple[list[str], str]:
    """Return the folders of a package, itself first, and the state of its files as text."""
    folders, state = [], []
    for folder, below, names in os.walk(package):
        below[:] = sorted(name for name in below if name != "__pycache__")
        folders.append(folder)
        for name in sorted(names):
            if name.endswith(".py"):
                found = os.stat(os.path.join(folder, name))
                state.append(f"{folder}/{name} {found.st_mtime_ns} {found.st_size}\n")
    return folders, "".join(state)


def _find_place(name: str, room: int) -> str | None:
    """Return a folder of ours that can be written to; None where there is none."""
    for place in _list_places():
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with suppress(FileExistsError):
                os.mkdir(place, mode=0o700)
            found = os.lstat(place)
        except OSError:
            continue
        # What is loaded from there is run: nobody else may have put it there.
        is_ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        is_safe = stat.S_ISDIR(found.st_mode) and is_ours and not found.st_mode & 0o022
        if is_safe and _is_usable(place, room):
            return os.path.join(place, name)
    return None


def _list_places() -> Iterator[str]:
    yield os.path.join(os.path.expanduser("~"), ".cache", "bhlm")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    import tempfile

    for folder in (tempfile.gettempdir(), "/dev/shm"):
        yield os.path.join(folder, f"bhlm-{user}")


def _is_usable(place: str, room: int) -> bool:
    """Return whether a folder, or the first one above it that exists, can be written to."""
    if not os.path.isabs(place):  # "~" of a user without a home
        return False
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        return False
    if not hasattr(os, "statvfs"):
        return True
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize >= room
