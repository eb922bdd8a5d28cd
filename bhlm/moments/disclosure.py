"""Disclosure control: what moments may leave the place where the rows are."""

from dataclasses import replace

import numpy as np

from bhlm.errors import ArgumentError, DataError
from bhlm.moments.moments import Moments, select_groups


def suppress_small_groups(
    moments: Moments, k: int, *, action: str = "refuse"
) -> tuple[Moments, str]:
    """Return moments without groups of fewer than k rows, and a sentence on what was done.

    What this guarantees: no block of the result comes from fewer than k rows. Why it is needed:
    a group's moments fix its rows up to order and (n - 1)(n - 2)/2 free numbers where n - 1 is at
    most the number of columns. One row is given away exactly, two are given away exactly, three
    but for one number, which a 0/1 column may settle. So k should exceed the number of columns
    by 2 at least, and 10 is a customary floor.

    What this does not guarantee: a 0/1 column that is 1 in a single row of a large group gives
    away that row, since its cross-products are sums over that row alone; a column that is constant
    in a group (any covariate of the group, any gm()) is given away by its mean; labels and the
    names of all levels are written as they are; the difference of two releases, with other rows
    or another k, has the moments of the rows between them; the constants of cgm() and poly() come
    from all rows, suppressed ones included. It is a threshold, not differential privacy.

    Args:
        moments: the moments to be released.
        k: the fewest rows that a group may have, at least 1.
        action: "refuse" raises if there is a smaller group; "drop" leaves those groups out and
            adds their rows to `moments.suppressed`. A fit to what remains is a fit to the large
            groups only.

    Raises:
        ArgumentError: k is not a whole number above 0, or the action is not known.
        DataError: there are groups below k to refuse, or no group would be left.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ArgumentError(f"min_group_size={k!r} is not a whole number above 0; give one, say 10")
    if action not in ("refuse", "drop"):
        raise ArgumentError(f"action={action!r} is not known; choose 'refuse' or 'drop'")
    small = moments.n < k
    count, rows = int(small.sum()), int(moments.n[small].sum())
    have = f"{count} of the {len(small)} groups of '{moments.group}'"
    if not count:
        return moments, f"all {len(small)} groups of '{moments.group}' have at least {k} rows"
    if action == "refuse":
        raise DataError(
            f"{have} have fewer than {k} rows; drop them from what is released, merge them in the "
            "table, or lower the minimum"
        )
    if count == len(small):
        raise DataError(
            f"{have} have fewer than {k} rows, and none would be left; lower the minimum"
        )
    kept = select_groups(moments, ~small)
    kept = replace(kept, suppressed=moments.suppressed + rows)
    return kept, f"{have}, with {rows} rows, have fewer than {k} rows and were dropped"
