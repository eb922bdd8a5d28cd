"""Values of rows in their order, averaged so that a figure holds none of a single row."""

import numpy as np

Array = np.ndarray

FEWEST = 10  # rows that share a point; fewer only where there are no more rows
MEANS = f"each point is the mean of {FEWEST} neighbouring rows or more"


def average_ranks(ordered: Array, *, fewest: int = FEWEST) -> Array:
    """Return the means (m,) of neighbours among values (n,) in their order.

    Args:
        ordered: the values, the smallest first.
        fewest: how many values each mean is of, at least, if there are as many.
    """
    parts = np.array_split(ordered, max(1, len(ordered) // fewest))
    return np.array([part.mean() for part in parts])


def smooth_ranks(ordered: Array, *, fewest: int = FEWEST) -> Array:
    """Return as many values (n,) as are given, all on lines between means of neighbours.

    Args:
        ordered: the values, the smallest first.
        fewest: how many values each mean is of, at least, if there are as many.
    """
    at = np.arange(len(ordered), dtype=float)
    means = average_ranks(ordered, fewest=fewest)
    return np.interp(at, average_ranks(at, fewest=fewest), means)
