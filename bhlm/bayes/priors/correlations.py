"""Priors of correlation matrices: density, draws and marginals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bhlm.errors import PriorError

Array = np.ndarray
LOG_2 = math.log(2.0)


@dataclass(frozen=True, slots=True)
class LKJ:
    """The LKJ distribution of a correlation matrix; eta = 1 is uniform.

    Source: Lewandowski, Kurowicka & Joe (2009), J. Multivariate Anal. 100, 1989-2001.
    """

    eta: float = 2.0

    def __post_init__(self) -> None:
        """Refuse an eta that is not positive."""
        if not (np.isfinite(self.eta) and self.eta > 0):
            raise PriorError(f"LKJ(eta={self.eta!r}) is not a distribution; give a positive eta")

    def __str__(self) -> str:
        """Return `LKJ(2)`."""
        return f"LKJ({self.eta:g})"

    def draw(self, sizes: tuple[int, ...], rng: np.random.Generator, size: int) -> Array:
        """Return lower Cholesky factors (size, q, q) of block-diagonal correlations.

        In a block of b, the partial correlation of row i and column j < i given the columns before
        j is 2 Beta(alpha_j, alpha_j) - 1 with alpha_j = eta + (b - 2 - j) / 2, independently of the
        others. Source: Lewandowski, Kurowicka & Joe (2009), section 2 (vines).

        Args:
            sizes: of the blocks, summing to q.
            rng: the source of the random numbers.
            size: how many draws.
        """
        q = sum(sizes)
        root = np.zeros((size, q, q))
        start = 0
        for b in sizes:
            for i in range(b):
                rest = np.ones(size)
                for j in range(i):
                    alpha = self.eta + 0.5 * (b - 2 - j)
                    z = 2.0 * rng.beta(alpha, alpha, size) - 1.0
                    root[:, start + i, start + j] = z * rest
                    rest *= np.sqrt(1.0 - z * z)
                root[:, start + i, start + i] = rest
            start += b
        return root

    def log_density(self, sizes: tuple[int, ...], root: Array, sd: Array) -> Array:
        """Return log p(R) summed over the blocks (draws,).

        For b coefficients the density is det(R)^(eta - 1) / c, and c is the product over
        k = 1..b-1 of (2^(2 alpha_k - 1) B(alpha_k, alpha_k))^k with alpha_k = eta + (k - 1) / 2.
        Source: Lewandowski, Kurowicka & Joe (2009), eq. 16.

        Args:
            sizes: of the blocks, summing to q.
            root: lower square roots (draws, q, q) of G.
            sd: the SDs in G (draws, q).
        """
        pivot = np.abs(np.einsum("dii->di", root)) / sd
        total = np.zeros(len(root))
        start = 0
        for size in sizes:
            with np.errstate(divide="ignore", invalid="ignore"):
                logdet = 2.0 * np.log(pivot[:, start : start + size]).sum(axis=1)
            total += (self.eta - 1.0) * logdet if self.eta != 1.0 else 0.0
            total += self._log_constant(size)
            start += size
        return total

    def log_constant(self, sizes: Sequence[int]) -> float:
        """Return minus the log of what det(R)^(eta - 1) integrates to, over all blocks."""
        return sum(map(self._log_constant, sizes))

    def _log_constant(self, size: int) -> float:
        total = 0.0
        for k in range(1, size):
            alpha = self.eta + 0.5 * (k - 1)
            constant = 2.0 * math.lgamma(alpha) - math.lgamma(2.0 * alpha)
            total -= k * ((2.0 * alpha - 1.0) * LOG_2 + constant)
        return total

    def marginal(self, size: int) -> Any:
        """Return the distribution of one correlation in a block, as SciPy's frozen one.

        (1 + r) / 2 ~ Beta(shape, shape) with shape = eta - 1 + size / 2. Source: Lewandowski,
        Kurowicka & Joe (2009), section 2.
        """
        from scipy import stats

        shape = self.eta - 1.0 + 0.5 * size
        return stats.beta(shape, shape, loc=-1.0, scale=2.0)
