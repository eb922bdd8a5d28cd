"""The marginal algebra where each group's log-likelihood is multiplied by a weight.

With weights W_j the sums of `profiled` become sums of W_j times the group's own.
"""

from typing import NamedTuple

import numba
import numpy as np

Array = np.ndarray


def scale_blocks(blocks: Array, q: int, groups: Array) -> Array:
    """Return the cross-products with X_j and y_j times sqrt(W_j), W_j in `groups` (J,).

    Since K_j rests on Z_j alone, sums over groups of what is linear or quadratic in [X_j y_j] are
    then those with weights, by the kernels that know of none.
    """
    return _scale_blocks(blocks, q, np.sqrt(groups))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _scale_blocks(blocks: Array, q: int, root: Array) -> Array:
    n_groups, k, _ = blocks.shape
    scaled = np.empty((n_groups, k, k))
    for j in range(n_groups):
        once, twice = root[j], root[j] * root[j]
        for a in range(k):
            for b in range(k):
                share = 1.0
                if a >= q and b >= q:
                    share = twice
                elif a >= q or b >= q:
                    share = once
                scaled[j, a, b] = share * blocks[j, a, b]
    return scaled


class Inner(NamedTuple):
    """What the sums read of Z_j alone, which scaled blocks leave without weights."""

    logdet: Array  # (J,) log |H_j|
    f: Array  # (J, q, q) Z_j'H_j^-1 Z_j


def factor_inner(blocks: Array, q: int, lam: Array) -> Inner:
    """Return log |H_j| and Z_j'H_j^-1 Z_j of cross-products (J, k, k), Z first."""
    gram = blocks[:, :q, :q]
    if q == 1:
        own = np.ascontiguousarray(gram[:, 0, 0])
        inner = 1.0 + lam[0, 0] ** 2 * own
        return Inner(np.log(inner), (own / inner)[:, None, None])
    lean = lam.T @ gram
    inner = np.eye(q) + lean @ lam
    root = np.linalg.cholesky(inner)
    half = np.linalg.solve(root, lean)
    logdet = 2.0 * np.log(np.einsum("jaa->ja", root)).sum(axis=1)
    return Inner(logdet, gram - half.transpose(0, 2, 1) @ half)
