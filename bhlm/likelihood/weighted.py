"""The sums of `profiled` where each group's log-likelihood is multiplied by a weight.

With weights W_j the sums over groups become sums of W_j times the group's own; the products and
logarithms that panels take for several groups at a time do not. All groups go through NumPy at
once.
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
    root = np.linalg.cholesky(np.eye(q) + lean[:, :, :q] @ lam)
    half = np.linalg.solve(root, lean)
    logdet = 2.0 * np.log(np.einsum("jaa->ja", root)).sum(axis=1)
    return Factored(logdet, blocks - half.transpose(0, 2, 1) @ half)


def sum_weighted_products(blocks: Array, q: int, lam: Array, groups: Array) -> tuple[float, Array]:
    """Return sum_j W_j log |H_j| and sum_j W_j E_j (p + 1, p + 1), with W_j in `groups` (J,)."""
    logdet, inverse = factor_groups(blocks, q, lam)
    return float(groups @ logdet), np.tensordot(groups, inverse[:, q:, q:], axes=1)


def sum_weighted_scores(blocks: Array, q: int, lam: Array, weight: Array, groups: Array) -> Array:
    """Return sum_j W_j (F_j - U_j weight U_j') (q, q); see `profiled.sum_scores`."""
    inverse = factor_groups(blocks, q, lam).inverse
    u = inverse[:, :q, q:]
    own = inverse[:, :q, :q] - u @ weight @ u.transpose(0, 2, 1)
    score = np.tensordot(groups, own, axes=1)
    return np.asarray(0.5 * (score + score.T))


def sum_weighted_curvatures(
    blocks: Array, q: int, lam: Array, phi: Array, beta: Array, groups: Array
) -> tuple[Array, ...]:
    """Return the sums of `profiled.sum_curvatures`, each group's times its weight."""
    inverse = factor_groups(blocks, q, lam).inverse
    f, u = inverse[:, :q, :q], inverse[:, :q, q:-1]
    t = inverse[:, :q, -1] - u @ beta
    c = u @ phi @ u.transpose(0, 2, 1)
    w = groups[:, None, None]
    tt = t[:, :, None] * t[:, None, :]
    return (
        _pair(w * f, f),
        _pair(w * f, c),
        _pair(w * f, tt),
        _pair(w * u, u),
        _pair(w * u, t),
        np.tensordot(groups, tt, axes=1),
    )


def _pair(left: Array, right: Array) -> Array:
    """Return the sum over groups of the outer products of two arrays (J, ...)."""
    n_groups = len(left)
    products = left.reshape(n_groups, -1).T @ right.reshape(n_groups, -1)
    return np.asarray(products.reshape(*left.shape[1:], *right.shape[1:]))
