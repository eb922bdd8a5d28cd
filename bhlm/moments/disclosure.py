"""Disclosure control: which groups may leave the place where the rows are."""

import numpy as np

from bhlm.errors import ArgumentError, DataError

Array = np.ndarray


def find_large_groups(n: Array, k: int, *, group: str, action: str) -> tuple[Array, str]:
    """Return which groups (J,) have k rows or more, and a sentence on what becomes of the others.

    Args:
        n: (J,) rows per group.
        k: the fewest rows that a group may have, at least 1.
        group: the name of the grouping column.
        action: "refuse" raises if there is a smaller group; "drop" leaves those groups out.

    Raises:
        ArgumentError: k is not a whole number above 0, or the action is not known.
        DataError: there are groups below k to refuse, or no group would be left.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ArgumentError(f"min_group_size={k!r} is not a whole number above 0; give one, say 10")
    if action not in ("refuse", "drop"):
        raise ArgumentError(f"action={action!r} is not known; choose 'refuse' or 'drop'")
    small = n < k
    count, rows = int(small.sum()), int(n[small].sum())
    have = f"{count} of the {len(small)} groups of '{group}'"
    if not count:
        return ~small, f"all {len(small)} groups of '{group}' have at least {k} rows"
    if action == "refuse":
        raise DataError(
            f"{have} have fewer than {k} rows; drop them from what is released, merge them in the "
            "table, or lower the minimum"
        )
    if count == len(small):
        raise DataError(
            f"{have} have fewer than {k} rows, and none would be left; lower the minimum"
        )
    return ~small, f"{have}, with {rows} rows, have fewer than {k} rows and were dropped"
