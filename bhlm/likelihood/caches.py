"""Where compiled code is kept: beside the package, else in the home or a temporary folder.

numba and PyTensor keep what they compile on disk. Where the places that they would choose are
read-only or full they end in an error, so that bhlm names another one before they are imported.

numba knows what it keeps by the kernel's own file. It would run an old copy of a function of
another file that was compiled into the kernel, so that all is compiled anew when any file changes.
"""

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

NUMBA = "NUMBA_CACHE_DIR"
PYTENSOR = "PYTENSOR_FLAGS"
MATPLOTLIB = "MPLCONFIGDIR"
ROOM = 1 << 26  # bytes that must be free: the machine code of all kernels takes less
STAMP = "bhlm-sources"  # the name of the file that holds the state which the kernels were made of


def choose_caches(*, package: Path = Path(__file__).parents[1], room: int = ROOM) -> None:
    """Name a usable place for compiled code to numba and PyTensor, where theirs is not usable.

    A place that the user named, by NUMBA_CACHE_DIR or PYTENSOR_FLAGS, stays if it can be used.
    """
    named = os.environ.get(NUMBA)
    beside = package / "__pycache__"
    if not _is_usable(Path(named) if named else beside, room):
        place = _find_place("numba", room)
        if place is not None:
            os.environ[NUMBA] = str(place)
            if "numba" in sys.modules:
                sys.modules["numba"].config.CACHE_DIR = str(place)
    _drop_stale_kernels(package)
    flags = os.environ.get(PYTENSOR, "")
    home = Path(os.path.expanduser("~"), ".pytensor")
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
    if sys.platform != "win32" and not all(_is_usable(Path(each), 0) for each in wanted):
        place = _find_place("matplotlib", 0)
        if place is not None:
            os.environ[MATPLOTLIB] = str(place)


def _drop_stale_kernels(package: Path) -> None:
    """Remove numba's indexes of this package's kernels, if a source file is not what it was."""
    sources, state = _find_sources(package)
    if not sources:
        return
    named = os.environ.get(NUMBA)
    if named:
        # As numba.core.caching names the folder of a source file's folder.
        import hashlib

        names = [hashlib.sha1(str(folder).encode()).hexdigest() for folder in sources]
        folders = [
            Path(named, f"{folder.name}_{name}")
            for folder, name in zip(sources, names, strict=True)
        ]
        stamp = Path(named, f"{STAMP}-{names[0][:16]}")
    else:
        folders = [folder / "__pycache__" for folder in sources]
        stamp = package / "__pycache__" / STAMP
    try:
        if stamp.exists() and stamp.read_text() == state:
            return
        for folder in folders:
            for index in folder.glob("*.nbi"):
                index.unlink(missing_ok=True)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(state)
    except OSError:  # nothing can be kept there, so that nothing stale will be
        return


def _find_sources(package: Path) -> tuple[list[Path], str]:
    """Return the folders of a package, itself first, and a digest of the state of its files."""
    import hashlib

    folders, state = [], hashlib.sha256()
    for folder, below, names in os.walk(package.absolute()):
        below[:] = sorted(name for name in below if name != "__pycache__")
        folders.append(Path(folder))
        for name in sorted(names):
            if name.endswith(".py"):
                found = os.stat(os.path.join(folder, name))
                state.update(f"{folder}/{name} {found.st_mtime_ns} {found.st_size}\n".encode())
    return folders, state.hexdigest()


def _find_place(name: str, room: int) -> Path | None:
    """Return a folder of ours that can be written to; None where there is none."""
    for place in _list_places():
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = place.lstat()
        except OSError:
            continue
        # What is loaded from there is run: nobody else may have put it there.
        is_ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        is_safe = stat.S_ISDIR(found.st_mode) and is_ours and not found.st_mode & 0o022
        if is_safe and _is_usable(place, room):
            return place / name
    return None


def _list_places() -> Iterator[Path]:
    yield Path(os.path.expanduser("~"), ".cache", "bhlm")
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    import tempfile

    for folder in (tempfile.gettempdir(), "/dev/shm"):
        yield Path(folder, f"bhlm-{user}")


def _is_usable(place: Path, room: int) -> bool:
    """Return whether a folder, or the first one above it that exists, can be written to."""
    if not place.is_absolute():  # "~" of a user without a home
        return False
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        return False
    if not hasattr(os, "statvfs"):
        return True
    disk = os.statvfs(place)
    return disk.f_bavail * disk.f_frsize >= room
