"""The sums over groups that the quadrature needs at each relative covariance of the effects.

With Z_j'Z_j = Q diag(1/d) Q', the least squares coefficients b_j = diag(d) Q'Z_j'[X_j y_j] of
group j, the cross-products W that the random effects' columns leave unexplained, lam a root of
Psi = G / sigma^2 and m_j = Q'lam,

    E = [X y]'H^-1 [X y] = W + sum_j b_j' (diag(d) + m_j m_j')^-1 b_j
    log|H| = sum_j log|diag(d) + m_j m_j'| - sum log d

For two coefficients, with rows m_1 and m_2 of m_j, the determinant is the sum of squares
d_1 d_2 + d_1 |m_2|^2 + d_2 |m_1|^2 + |m_j|^2 and the quadratic form, times it, another. In
these no digits cancel however large or small the effects are, as they do in
K_j = I + lam'Z_j'Z_j lam far out in the tails. Nothing here is shared with `likelihood`.
Source: Lindley & Smith (1972), JRSS B 34, 1-41, section 3, for the form by least squares.
"""

import math

import numpy as np

from bhlm.design.kernels import kernel

Array = np.ndarray
# A direction with less than this share of its columns' variation has none: what is left of zero
# in cross-products of doubles.
EMPTY = 1e-13


def decompose_groups(blocks: Array, q: int) -> tuple[Array, Array, Array, Array, float]:
    """Return d (J, 2), Q (J, 2, 2), b (J, 2, p + 1), W (p + 1, p + 1) and -sum log d.

    A direction in which a group's Z does not vary has d = 1 and nothing in Q and b.
    """
    n_groups, k, _ = blocks.shape
    values = np.ones((n_groups, 2))
    vectors = np.zeros((n_groups, 2, 2))
    values[:, :q], vectors[:, :q, :q] = np.linalg.eigh(blocks[:, :q, :q])
    varies = values > EMPTY * np.trace(blocks[:, :q, :q], axis1=1, axis2=2)[:, None]
    varies[:, q:] = False
    values = np.where(varies, values, 1.0)
    vectors = np.where(varies[:, None, :], vectors, 0.0)
    projected = np.swapaxes(vectors[:, :q], 1, 2) @ blocks[:, :q, q:]
    fitted = projected / values[:, :, None]
    within = np.sum(blocks[:, q:, q:] - np.swapaxes(projected, 1, 2) @ fitted, axis=0)
    # Columns of X that Z reproduces leave nothing but rounding, which a large t would blow up.
    share, axes = np.linalg.eigh(0.5 * (within[:-1, :-1] + within[:-1, :-1].T))
    kept = axes[:, share > EMPTY]
    inside = np.eye(k - q)
    inside[:-1, :-1] = kept @ kept.T
    within = inside @ within @ inside
    return (
        1.0 / values, vectors, np.ascontiguousarray(fitted), 0.5 * (within + within.T),
        float(np.sum(np.log(values))),
    )  # fmt: skip


@kernel
def sum_effects(
    t1: float, t2: float, r: float, rest: float, d: Array, turn: Array, fitted: Array, within: Array
) -> tuple[float, Array]:
    """Return sum_j log|diag(d) + m m'| and E (p + 1, p + 1)."""
    size = within.shape[0]
    e = within.copy()
    one = np.empty(size)
    two = np.empty(size)
    logdet = 0.0
    product = 1.0
    for j in range(len(d)):
        d1, d2 = d[j, 0], d[j, 1]
        m11 = turn[j, 0, 0] * t1 + turn[j, 0, 1] * t2 * r
        m21 = turn[j, 1, 0] * t1 + turn[j, 1, 1] * t2 * r
        m12 = turn[j, 0, 1] * t2 * rest
        m22 = turn[j, 1, 1] * t2 * rest
        area = turn[j, 0, 0] * turn[j, 1, 1] - turn[j, 0, 1] * turn[j, 1, 0]
        area *= t1 * t2 * rest
        det = d1 * d2 + d1 * (m21 * m21 + m22 * m22) + d2 * (m11 * m11 + m12 * m12) + area * area
        product *= det
        if not 1e-100 < product < 1e100:
            logdet += math.log(product)
            product = 1.0
        shrink = 1.0 / det
        for c in range(size):
            b1, b2 = fitted[j, 0, c], fitted[j, 1, c]
            one[c] = b1 * m21 - b2 * m11
            two[c] = b1 * m22 - b2 * m12
            left, right = d2 * b1, d1 * b2
            for a in range(c + 1):
                e[c, a] += shrink * (
                    left * fitted[j, 0, a]
                    + right * fitted[j, 1, a]
                    + one[c] * one[a]
                    + two[c] * two[a]
                )
    for c in range(size):
        for a in range(c):
            e[a, c] = e[c, a]
    return logdet + math.log(product), e
