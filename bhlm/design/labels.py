"""Group labels in memory: their kind, and their codes in the order of the labels."""

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.errors import DataError
from bhlm.layout import show_name

Array = np.ndarray


def kind_of_labels(labels: Array) -> str:
    """Return what group labels are: "integers", "floats", "booleans", "text", "times", ..."""
    if labels.dtype.kind == "O":
        found = sorted({type(label).__name__ for label in labels})
        return "text" if found in (["str"], []) else " and ".join(found)
    kinds = {"i": "integers", "u": "integers", "f": "floats", "b": "booleans", "U": "text"}
    return kinds.get(labels.dtype.kind, "times" if labels.dtype.kind == "M" else "others")


def widen_labels(labels: Array) -> Array:
    """Return labels in a type that pandas can look up, which half precision is not."""
    return labels.astype(np.float64) if labels.dtype == np.float16 else labels


def code_groups(labels: Array, *, column: str | None = None) -> tuple[Array, Array]:
    """Return the sorted distinct labels (J,) and each row's code (n,) among them.

    `column` is what a refusal calls them, where there are several.

    Raises:
        DataError: labels of types that have no order among each other, such as 1 and "1", or that
            are lists or records.
    """
    called = "the group column" if column is None else f"the group column '{show_name(column)}'"
    labels = widen_labels(labels)
    if labels.ndim != 1:
        raise _refuse_labels(called, "records of several values")
    if labels.dtype.kind in "iu" and len(labels):
        low, high = int(labels.min()), int(labels.max())
        # Beyond 2^63 unsigned labels leave what the compiled pass counts in.
        if high < 2**63 and high - low < max(4 * len(labels), 1 << 16):
            seen = np.zeros(high - low + 1, dtype=np.bool_)
            _mark(labels, low, seen)
            found = np.flatnonzero(seen)
            rank = np.empty(high - low + 1, dtype=np.int64)
            rank[found] = np.arange(len(found))
            return (found + low).astype(labels.dtype), _look_up(labels, low, rank)
    try:
        groups, codes = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError):  # the latter of arrays
        kinds = sorted({type(label).__name__ for label in labels})
        if len(kinds) == 1:
            raise _refuse_labels(
                called, f"labels of the type {kinds[0]}, which have no order"
            ) from None
        raise DataError(
            f"{called} holds labels of several types ({', '.join(kinds)}), which have no "
            "order; give it one type"
        ) from None
    if groups.dtype.kind == "O":
        try:
            set(groups.tolist())
        except TypeError:  # lists have an order, but cannot be looked up
            kind = type(groups[0]).__name__
            raise _refuse_labels(called, f"labels of the type {kind}") from None
    return groups, codes.astype(np.int64)


def _refuse_labels(called: str, what: str) -> DataError:
    return DataError(
        f"{called} holds {what}; choose a column of numbers, strings, booleans or categories"
    )


@kernel
def _mark(labels: Array, low: int, seen: Array) -> None:
    for i in range(len(labels)):
        seen[labels[i] - low] = True


@kernel
def _look_up(labels: Array, low: int, rank: Array) -> Array:
    codes = np.empty(len(labels), dtype=np.int64)
    for i in range(len(labels)):
        codes[i] = rank[labels[i] - low]
    return codes
