"""New responses of a design with several factors, from its cells' cross-products alone.

As in `bhlm.likelihood.simulate`, a cell being a group of which the effects come from every factor:
W'y* = W'W c + W'e with c = (u_1, ..., u_F, beta) of the levels that the cell belongs to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bhlm.likelihood.arrange import arrange_levels
from bhlm.likelihood.cells import CellBlocks
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.nested import Nested
from bhlm.likelihood.simulate import factor_gram

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class CellSimulator:
    """What a data set needs: the design's cross-products by cell and the parameters, whitened."""

    cells: CellBlocks
    root: Array  # (C, k, k) R', R'R = W'W, k = q + p
    free: Array  # (C,) the dimensions outside the columns of W
    beta: Array  # (p,)
    effects: tuple[Array, ...]  # by factor, a root (q_f, r) of G_f, r its rank or more
    sigma: float

    def draw(self, rng: np.random.Generator) -> Array:
        """Return cross-products (C, k + 1, k + 1) of the same design and a new response."""
        blocks = self.cells.blocks
        gram = blocks[:, :-1, :-1]
        n_cells, k, _ = gram.shape
        known = np.empty((n_cells, k))
        start = 0
        for codes, root in zip(self.cells.codes, self.effects, strict=True):
            drawn = rng.standard_normal((int(codes.max()) + 1, root.shape[1])) @ root.T
            known[:, start : start + len(root)] = drawn[codes]
            start += len(root)
        known[:, start:] = self.beta
        inside = rng.standard_normal((n_cells, k))
        # Directions that W'W lacks have a zero column in the root; their noise belongs to no row.
        inside[~self.root.any(axis=1)] = 0.0
        outside = 2.0 * rng.standard_gamma(0.5 * self.free)
        noise = self.sigma * np.einsum("cab,cb->ca", self.root, inside)
        fitted = np.einsum("cab,cb->ca", gram, known)
        squares = np.einsum("ca,ca->c", known, fitted + 2.0 * noise)
        squares += self.sigma**2 * (np.einsum("ca,ca->c", inside, inside) + outside)
        drawn = blocks.copy()
        drawn[:, :-1, -1] = drawn[:, -1, :-1] = fitted + noise
        drawn[:, -1, -1] = squares
        return drawn

    def simulate(self, rng: np.random.Generator) -> Nested | Crossed:
        """Return the factors of the same design with a new response."""
        return arrange_levels(
            self.draw(rng), self.cells.codes, self.cells.sizes, names=self.cells.names
        )


def build_cell_simulator(
    cells: CellBlocks, *, beta: Array, effects: Sequence[Array], sigma: float
) -> CellSimulator:
    """Return what is needed to draw data of a design at whitened parameters.

    Args:
        cells: the design.
        beta: fixed effects (p,).
        effects: by factor, a root (q_f, r) of G_f = root root', r its rank or more.
        sigma: the residual SD.
    """
    root, free = factor_gram(cells.blocks[:, :-1, :-1], cells.n)
    return CellSimulator(cells, root, free, beta=beta, effects=tuple(effects), sigma=sigma)
