"""The scores of groups and the Hessian of a (pseudo-)log-likelihood, by all parameters.

It is a sum over J groups of W_j l_j, of which every parameter has a score s_j (J, p + m + 1) and
the whole a Hessian H, not profiled. Source: Binder (1983), Int. Stat. Rev. 51, 279-292.
"""

from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.weighted import factor_groups
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.moments import Moments

Array = np.ndarray


class Sandwich(NamedTuple):
    """Scores and Hessian by the whitened parameters, and the way back to those as given."""

    scores: Array  # (J, p + m + 1) W_j s_j
    hessian: Array  # (p + m + 1, p + m + 1) of sum W_j l_j, negated
    fixed: Array  # (p, p) d beta / d beta~
    variances: Array  # (m + 1, m + 1) d (g, sigma^2) / d (g~, v)


def find_scores(
    moments: Moments,
    white: Whitened,
    structure: Structure,
    *,
    beta: Array,
    psi: Array,
    v: float,
) -> Sandwich:
    """Return the scores and the Hessian at whitened parameters.

    With e = y~ - X~ beta~, F = Z'H^-1 Z, U = Z'H^-1 X, t = Z'H^-1 e and D_c the structure's
    directions, by beta~, the elements of G~ = v Psi and v:

        s_beta = X'H^-1 e / v      s_c = (t'D_c t / v^2 - tr(F D_c) / v) / 2
        s_v = (e'H^-2 e / v^2 - tr(H^-1) / v) / 2

    Args:
        moments: with the rows, or the sums of weights, of each group.
        white: their whitened cross-products.
        structure: of the random effects.
        beta: (p,) whitened fixed effects.
        psi: (q, q) G / sigma^2, whitened.
        v: the residual variance, whitened.
    """
    q, p = white.q, white.p
    directions = structure.directions
    m = len(directions)
    applied = moments.applied
    size = moments.n if applied is None else applied.size
    values, vectors = np.linalg.eigh(psi)
    lam = vectors * np.sqrt(np.maximum(values, 0.0))
    plain = _leave_residuals(white.blocks, q, beta)
    inverse = factor_groups(plain, q, lam).inverse
    lean = lam.T @ plain[:, :q]
    inner = np.eye(q) + lean[:, :, :q] @ lam
    shrink = lam @ (lean / inner if q == 1 else np.linalg.solve(inner, lean))
    twice = inverse - inverse[:, :, :q] @ shrink
    thrice = twice[:, -1, -1] - np.einsum("ja,ja->j", twice[:, -1, :q], shrink[:, :, -1])
    own = shrink[:, :, :q]
    trace = np.einsum("jaa->j", own)
    traces = size - trace, size - 2.0 * trace + np.einsum("jab,jba->j", own, own)
    f, u, t = inverse[:, :q, :q], inverse[:, :q, q:-1], inverse[:, :q, -1]
    fd = f[:, None] @ directions
    td = np.tensordot(t, directions, axes=([1], [1]))
    scores = np.concatenate(
        [
            inverse[:, q:-1, -1] / v,
            0.5 * (np.einsum("jcb,jb->jc", td, t) / v**2 - np.einsum("jcaa->jc", fd) / v),
            0.5 * (twice[:, -1, -1] / v**2 - traces[0] / v)[:, None],
        ],
        axis=1,
    )
    weights = np.ones(len(size)) if white.groups is None else white.groups
    fixed, free, last = slice(0, p), slice(p, p + m), p + m
    hessian = np.zeros((p + m + 1, p + m + 1))
    hessian[fixed, fixed] = np.tensordot(weights, inverse[:, q:-1, q:-1], axes=1) / v
    weighed = weights[:, None, None] * td
    hessian[free, fixed] = np.tensordot(weighed, u, axes=([0, 2], [0, 1])) / v**2
    hessian[last, fixed] = weights @ twice[:, q:-1, -1] / v**2
    turned = weights[:, None, None, None] * fd
    pairs = np.tensordot(turned, fd, axes=([0, 2, 3], [0, 3, 2]))
    bent = np.tensordot(weighed @ f, td, axes=([0, 2], [0, 2]))
    hessian[free, free] = bent / v**3 - 0.5 * pairs / v**2
    bent = np.tensordot(weighed, twice[:, :q, -1], axes=([0, 2], [0, 1]))
    middle = np.tensordot(weights, twice[:, :q, :q], axes=1)
    hessian[last, free] = bent / v**3 - 0.5 * np.tensordot(directions, middle.T) / v**2
    hessian[last, last] = weights @ (thrice / v**3 - 0.5 * traces[1] / v**2)
    hessian = np.tril(hessian) + np.tril(hessian, -1).T
    given = white.basis @ directions @ white.basis.T
    variances = np.zeros((m + 1, m + 1))
    variances[:m, :m] = [given[:, i, j] for i, j in structure.labels]
    variances[m, m] = 1.0
    return Sandwich(
        weights[:, None] * scores,
        hessian,
        white.scale * white.fixed,
        white.scale**2 * variances,
    )


def _leave_residuals(blocks: Array, q: int, beta: Array) -> Array:
    """Return the cross-products (J, k, k) of [Z X e] from those of [Z X y], e = y - X beta."""
    turn = np.concatenate([np.zeros(q), -beta, [1.0]])
    column = blocks.reshape(-1, len(turn)) @ turn
    plain = blocks.copy()
    plain[:, :, -1] = plain[:, -1, :] = column.reshape(blocks.shape[:2])
    plain[:, -1, -1] = plain[:, -1] @ turn
    return plain
