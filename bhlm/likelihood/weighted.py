"""The marginal algebra where each group's log-likelihood is multiplied by a weight.

With weights W_j the sums of `profiled` become sums of W_j times the group's own.
"""

from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Factored(NamedTuple):
    """What H_j = I + Z_j Psi Z_j' leaves of each group's cross-products of W_j = [Z_j X_j y_j]."""

    logdet: Array  # (J,) log |H_j|
    inverse: Array  # (J, k, k) W_j'H_j^-1 W_j


def factor_groups(blocks: Array, q: int, lam: Array) -> Factored:
    """Return log |H_j| and W_j'H_j^-1 W_j of cross-products (J, k, k), Z first."""
    lean = lam.T @ blocks[:, :q]
    if q == 1:
        inner = 1.0 + lam[0, 0] * lean[:, :, :1]
        return Factored(np.log(inner[:, 0, 0]), blocks - lean.transpose(0, 2, 1) * (lean / inner))
    root = np.linalg.cholesky(np.eye(q) + lean[:, :, :q] @ lam)
    half = np.linalg.solve(root, lean)
    logdet = 2.0 * np.log(np.einsum("jaa->ja", root)).sum(axis=1)
    return Factored(logdet, blocks - half.transpose(0, 2, 1) @ half)


def scale_blocks(blocks: Array, q: int, groups: Array) -> Array:
    """Return the cross-products with X_j and y_j times sqrt(W_j), W_j in `groups` (J,).

    Since K_j rests on Z_j alone, sums over groups of what is linear or quadratic in [X_j y_j] are
    then those with weights, by the kernels that know of none.
    """
    root = np.sqrt(groups)[:, None, None]
    scaled = np.array(blocks)
    scaled[:, q:] *= root
    scaled[:, :, q:] *= root
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
