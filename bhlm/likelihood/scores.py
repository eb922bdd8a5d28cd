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
    turn = np.eye(q + p + 1)
    turn[q:-1, -1] = -beta
    plain = turn.T @ white.blocks @ turn
    inverse = factor_groups(plain, q, lam).inverse
    inner = np.eye(q) + lam.T @ plain[:, :q, :q] @ lam
    shrink = lam @ np.linalg.solve(inner, lam.T @ plain[:, :q])
    twice = inverse - inverse[:, :, :q] @ shrink
    thrice = twice[:, -1, -1] - np.einsum("ja,ja->j", twice[:, -1, :q], shrink[:, :, -1])
    own = shrink[:, :, :q]
    trace = np.einsum("jaa->j", own)
    traces = size - trace, size - 2.0 * trace + np.einsum("jab,jba->j", own, own)
    f, u, t = inverse[:, :q, :q], inverse[:, :q, q:-1], inverse[:, :q, -1]
    fd = np.einsum("jab,cbd->jcad", f, directions)
    td = np.einsum("ja,cab->jcb", t, directions)
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
    hessian[free, fixed] = np.einsum("j,jcb,jbi->ci", weights, td, u) / v**2
    hessian[last, fixed] = weights @ twice[:, q:-1, -1] / v**2
    pairs = np.einsum("j,jcab,jdba->cd", weights, fd, fd)
    bent = np.einsum("j,jca,jab,jdb->cd", weights, td, f, td, optimize=True)
    hessian[free, free] = bent / v**3 - 0.5 * pairs / v**2
    hessian[last, free] = (
        np.einsum("j,jcb,jb->c", weights, td, twice[:, :q, -1]) / v**3
        - 0.5 * np.einsum("j,jab,cba->c", weights, twice[:, :q, :q], directions) / v**2
    )
    hessian[last, last] = weights @ (thrice / v**3 - 0.5 * traces[1] / v**2)
    hessian = np.tril(hessian) + np.tril(hessian, -1).T
    turned = white.basis @ directions @ white.basis.T
    variances = np.zeros((m + 1, m + 1))
    variances[:m, :m] = [turned[:, i, j] for i, j in structure.labels]
    variances[m, m] = 1.0
    return Sandwich(
        weights[:, None] * scores,
        hessian,
        white.scale * white.fixed,
        white.scale**2 * variances,
    )
