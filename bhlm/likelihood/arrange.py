"""The pattern of several grouping factors, found from the labels of their cells."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.crossed import Crossed, build_crossed
from bhlm.likelihood.nested import Nested, build_nested, is_nested

Array = np.ndarray


def is_chain(codes: Array) -> bool:
    """Return whether factors (F, C) by cell are nested in each other, in whatever order.

    The finest of them then has one level for each cell.
    """
    counts = [int(code.max()) + 1 for code in codes]
    return all(
        is_nested(codes[one], codes[other])
        if counts[one] >= counts[other]
        else is_nested(codes[other], codes[one])
        for one, other in combinations(range(len(codes)), 2)
    )


def arrange_levels(
    blocks: Array,
    codes: Array,
    sizes: Sequence[int],
    *,
    names: Sequence[str],
    memory: int | None = None,
    weights: Sequence[Array] | None = None,
) -> Nested | Crossed:
    """Return the factors of cells as nested where their labels are, else as crossed.

    The arguments are those of `bhlm.likelihood.crossed.build_crossed`, which says what is raised,
    and of nested factors the weights of `bhlm.likelihood.nested.build_nested`.

    Raises:
        ArgumentError: weights of factors that are crossed.
    """
    if is_chain(codes):
        return build_nested(blocks, codes, sizes, weights=weights)
    if weights is not None:
        raise ArgumentError(
            f"'{names[0]}' and the other factors are crossed, where a pseudo-likelihood with "
            "sampling weights is no product over groups; leave all but nested ones out"
        )
    return build_crossed(blocks, codes, sizes, names=names, memory=memory)
