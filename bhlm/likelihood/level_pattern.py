"""Whitened cells -> what the kernels of the marginal likelihood read, told apart by type.

A kernel that reads them is compiled for nested factors or for crossed ones, never for both: a
model of nested factors does not wait for code that it never runs.
"""

from typing import NamedTuple

import numpy as np
from numba.extending import overload

from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.crossed_marginal import crossed_marginal, pack_crossed
from bhlm.likelihood.nested_marginal import nested_marginal, pack_nested
from bhlm.moments.sums import sum_blocks

Array = np.ndarray


class NestedPattern(NamedTuple):
    """What `nested_marginal` reads."""

    data: Array  # of `pack_nested`


class CrossedPattern(NamedTuple):
    """What `crossed_marginal` reads."""

    data: Array  # of `pack_crossed`


type Pattern = NestedPattern | CrossedPattern


def pack_cells(white: WhitenedCells) -> Pattern:
    """Return what `marginal_cells` reads of whitened cells."""
    sizes = [len(basis) for basis in white.bases]
    if isinstance(white.levels, Crossed):
        total = sum_blocks(white.blocks[:, white.q :, white.q :])
        return CrossedPattern(pack_crossed(white.levels, sizes, total))
    return NestedPattern(pack_nested(white.blocks, white.codes, sizes))


def marginal_cells(
    pattern: Pattern, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return what `nested_marginal` or `crossed_marginal` does; compiled code may call it."""
    kernel = nested_marginal if isinstance(pattern, NestedPattern) else crossed_marginal
    found: tuple[float, Array, Array, float] = kernel(pattern.data, n, lam, beta, sigma)
    return found


@overload(marginal_cells)
def _choose(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
    def choose_nested(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
        return nested_marginal(pattern.data, n, lam, beta, sigma)

    def choose_crossed(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
        return crossed_marginal(pattern.data, n, lam, beta, sigma)

    return choose_nested if pattern.instance_class is NestedPattern else choose_crossed
