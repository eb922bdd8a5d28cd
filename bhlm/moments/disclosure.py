"""Disclosure control: which groups may leave the place where the rows are, and what they tell."""

from collections.abc import Iterable, Mapping

import numpy as np

from bhlm.design.design import Design
from bhlm.errors import ArgumentError, DataError, show_value
from bhlm.layout import agree, count
from bhlm.moments.memory import Reduced

Array = np.ndarray

# A group of at most so many rows more than there are columns has moments that fix its rows, or all
# but one number of them; see `bhlm.moments.moments.suppress_small_groups`.
SPARE = 2
TWO_VALUED = 1e-9  # share of n by which a cross-product of a 0/1 column may be off by rounding


def find_large_groups(n: Array, k: int, *, of: str, action: str) -> tuple[Array, str]:
    """Return which groups (J,) have k rows or more, and a sentence on what becomes of the others.

    Args:
        n: (J,) rows per group.
        k: the fewest rows that a group may have, at least 1.
        of: what the groups are, such as "groups of 'school'".
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
    few, rows = int(small.sum()), int(n[small].sum())
    found, have = f"{few} of the {len(small)} {of}", agree(few, "has", "have")
    least = count(k, "row")
    if not few:
        return ~small, f"all {len(small)} {of} have at least {least}"
    if action == "refuse":
        which = agree(few, "it", "them")
        raise DataError(
            f"{found} {have} fewer than {least}; drop {which} from what is released, merge "
            f"{which} in the table, or lower the minimum"
        )
    if few == len(small):
        raise DataError(
            f"{found} {have} fewer than {least}, and none would be left; lower the minimum"
        )
    return ~small, (
        f"{found}, with {count(rows, 'row')}, {have} fewer than {least} and "
        f"{agree(few, 'was', 'were')} dropped"
    )


def list_disclosures(
    design: Design, reduced: Reduced, *, of: str, k: int | None, suppressed: int = 0
) -> tuple[str, ...]:
    """Return what moments give away of single rows although they hold none, a sentence each.

    Args:
        design: what the columns are.
        reduced: the moments to be released.
        of: what their groups are, such as "groups of 'school'".
        k: the fewest rows that a group may have; None has the least that guards a group's rows,
            the number of columns and 2 more.
        suppressed: rows of groups that were left out.
    """
    least = len(design.columns) + SPARE
    floor = least if k is None else k
    labels, n, cross = reduced.groups, reduced.n, reduced.cross
    told = []
    if (single := n == 1).any():
        told.append(
            f"{_count_groups(of, single)} {_have(single)} one row, such as "
            f"{_show_labels(labels[single])}: its moments are that row"
        )
    small = (n > 1) & (n < least)
    if k is not None and k < least:
        told.append(
            f"the minimum of {count(k, 'row')} is below {least}, the {len(design.columns)} columns "
            "and 2 more: of smaller groups the rows follow from the moments, or all but a number"
        )
    elif k is None and small.any():
        told.append(
            f"{_count_groups(of, small)} {_have(small)} fewer than {least} rows, the "
            f"{len(design.columns)} columns and 2 more, such as {_show_labels(labels[small])}: "
            "their rows follow from the moments, or all but a number"
        )
    for at, name in enumerate(design.columns):
        rare = _count_rare(n, cross[:, at, at])
        if rare is None:
            continue
        few = (rare > 0) & (rare < floor)
        if few.any():
            told.append(
                f"'{name}' has two values, one of which fewer than {floor} rows have in "
                f"{_count_groups(of, few)}, such as {int(rare[few][0])} in "
                f"{_show_labels(labels[few])}: what is summed with it is summed over them alone"
            )
    if suppressed and design.constants and suppressed < max(floor, least):
        told.append(tell_constants(design, suppressed))
    return tuple(told)


def tell_constants(design: Design, suppressed: int) -> str:
    """Return what the constants of a design tell of the rows that were left out, so many."""
    return (
        f"{_name_calls(design.constants)} came with the moments: where they are of this table, "
        f"what is left of them after the groups released is of the {count(suppressed, 'row')} "
        "left out; take them from another table (--like, reduce_like)"
    )


def _count_rare(n: Array, squares: Array) -> Array | None:
    """Return how many rows (J,) have the rarer of a column's two values, which are 1 apart.

    None where the column has more values than two, or one. Of m rows out of n the sum of squares
    about the mean is m (n - m) / n, whatever the column was centred at.
    """
    gap = n * n - 4.0 * n * squares
    rare = np.round(0.5 * (n - np.sqrt(np.maximum(gap, 0.0))))
    fits = np.abs(rare * (n - rare) / n - squares) <= TWO_VALUED * n
    return rare if fits.all() and rare.any() else None


def _count_groups(of: str, which: Array) -> str:
    return f"{int(which.sum()):,} of the {len(which):,} {of}"


def _have(which: Array) -> str:
    return agree(int(which.sum()), "has", "have")


def _show_labels(labels: Array) -> str:
    return show_value(labels[:1].tolist()[0])


def _name_calls(constants: Mapping[str, object] | Iterable[str]) -> str:
    names = sorted(constants)
    return f"constants of {', '.join(names)}"


def join_promises(promises: Iterable[int | None]) -> int | None:
    """Return the fewest rows per group that all parts of a merge promise; None if one has none."""
    found = list(promises)
    return None if None in found or not found else min(k for k in found if k is not None)
