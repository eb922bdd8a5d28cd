"""How much memory moments take, asked before it is taken."""

import os

from bhlm.errors import DataError

BYTES = 8  # of a double
UNKNOWN = 8 << 30  # bytes of memory that are taken for there where the system does not tell


def check_size(n_groups: int, k: int, *, most: int | None = None) -> None:
    """Refuse cross-products of so many groups and columns that they do not fit into memory.

    Args:
        n_groups: blocks.
        k: columns of each, the response too.
        most: bytes that are taken at most; None is half of this machine's memory.

    Raises:
        DataError: the blocks take more.
    """
    most = _find_memory() // 2 if most is None else most
    # A block beside the state that it is unpacked from: k^2, its lower triangle, three rows.
    needed = n_groups * (k * k + k * (k + 1) // 2 + 3 * k) * BYTES
    if needed > most:
        raise DataError(
            f"cross-products of {n_groups:,} groups with {k:,} columns each take "
            f"{needed / 2**30:,.1f} GiB, and at most {most / 2**30:,.1f} GiB, half of the memory, "
            "are taken; merge levels, leave interactions out, or group by something with fewer "
            "groups"
        )


def _find_memory() -> int:
    """Return the bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return UNKNOWN
