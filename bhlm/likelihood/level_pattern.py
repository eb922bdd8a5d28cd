"""Whitened cells -> the one array of doubles that the marginal likelihood's kernels read."""

import numpy as np

from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.crossed_marginal import pack_crossed
from bhlm.likelihood.nested_marginal import pack_nested

Array = np.ndarray


def pack_cells(white: WhitenedCells) -> tuple[Array, bool]:
    """Return what `nested_marginal` or `crossed_marginal` reads, and whether it is the former."""
    sizes = [len(basis) for basis in white.bases]
    if isinstance(white.levels, Crossed):
        total = white.blocks[:, white.q :, white.q :].sum(axis=0)
        return pack_crossed(white.levels, sizes, total), False
    return pack_nested(white.blocks, white.codes, sizes), True
