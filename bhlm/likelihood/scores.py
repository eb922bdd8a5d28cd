"""The scores of groups and the Hessian of a (pseudo-)log-likelihood, by all parameters.

It is a sum over J groups of W_j l_j, of which every parameter has a score s_j (J, p + m + 1) and
the whole a Hessian H, not profiled. Source: Binder (1983), Int. Stat. Rev. 51, 279-292.
"""

from typing import NamedTuple

import numba
import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panels import LANES, STRETCH, sum_stretches
from bhlm.likelihood.profiled import factor_group, project_group
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
    lam: Array,
    v: float,
    phi: Array | None = None,
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
        lam: (q, q) a square root of Psi = G / sigma^2, whitened.
        v: the residual variance, whitened.
        phi: (p, p) the inverse of X'H^-1 X, for who has it.
    """
    directions = np.ascontiguousarray(structure.directions)
    m = len(directions)
    applied = moments.applied
    size = moments.n if applied is None else applied.size
    lam = np.ascontiguousarray(lam)
    n_groups, stretch = len(white.blocks), LANES * STRETCH
    width = white.p + m + 1
    weights = np.ones(n_groups) if white.groups is None else white.groups
    scores = np.empty((n_groups, width))
    sums = np.zeros((max(1, -(-n_groups // stretch)), width, width))

    def fill(first: int, last: int) -> None:
        for s in range(first, last):
            part = slice(s * stretch, (s + 1) * stretch)
            fill_scores(
                *(white.blocks[part], np.asarray(size[part], np.float64), weights[part]),
                *(beta, lam, directions, v, scores[part], sums[s], phi is not None),
            )

    sum_stretches(fill, len(sums))
    hessian = sums.sum(axis=0) if len(sums) > 1 else sums[0]
    if phi is not None:
        hessian[: len(phi), : len(phi)] = np.linalg.inv(phi) / v
    reflect_lower(hessian)
    given = white.basis @ directions @ white.basis.T
    variances = np.zeros((m + 1, m + 1))
    variances[:m, :m] = [given[:, i, j] for i, j in structure.labels]
    variances[m, m] = 1.0
    return Sandwich(
        scores,
        hessian,
        white.scale * white.fixed,
        white.scale**2 * variances,
    )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def reflect_lower(matrix: Array) -> None:
    """Write the lower triangle of a matrix over its upper one."""
    for a in range(len(matrix)):
        for b in range(a):
            matrix[b, a] = matrix[a, b]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fill_scores(
    blocks: Array,
    size: Array,
    weights: Array,
    beta: Array,
    lam: Array,
    directions: Array,
    v: float,
    scores: Array,
    hessian: Array,
    has_fixed: bool,
) -> None:
    """Write weighted scores (J, p + m + 1) of groups, and add to the Hessian's lower triangle.

    Args:
        blocks: (J, k, k) cross-products of [Z X y].
        size: (J,) rows that count.
        weights: (J,) of the groups.
        beta: (p,).
        lam: (q, q) a square root of Psi.
        directions: (m, q, q).
        v: the residual variance.
        scores: to be written.
        hessian: (p + m + 1, p + m + 1) to be added to.
        has_fixed: whether it has the block of the fixed effects already, X'H^-1 X / v.
    """
    n_groups, k, _ = blocks.shape
    m, q, _ = directions.shape
    p, last = k - q - 1, k - 1
    root = np.empty((q, q))
    half = np.empty((q, k))
    plain = np.empty((q, k))  # Z'[Z X e], e = y - X beta
    fu = np.empty((q, k))  # [F U t] = Z'H^-1 [Z X e]
    xe = np.empty(p + 1)  # [X e]'e, and then [X e]'H^-1 e
    shrink = np.empty((q, q + 1))  # lam K^-1 lam'Z'[Z e]
    zz = np.empty((q, q + 1))  # Z'H^-2 [Z e]
    fd = np.empty((m, q, q))  # F D_c
    dt = np.empty((m, q))  # D_c t
    low = np.empty(q)
    for j in range(n_groups):
        weight = weights[j]
        block = blocks[j]
        for a in range(q):
            value = block[a, last]
            for i in range(p):
                value -= block[a, q + i] * beta[i]
            for b in range(last):
                plain[a, b] = block[a, b]
            plain[a, last] = value
        for h in range(p + 1):
            value = block[last, q + h]
            for i in range(p):
                value -= block[q + i, q + h] * beta[i]
            xe[h] = value
        for i in range(p):
            xe[p] -= beta[i] * xe[i]
        factor_group(plain, q, lam, root, half)
        project_group(plain, q, half, fu)
        for h in range(p + 1):
            for a in range(q):
                xe[h] -= half[a, q + h] * half[a, last]
        for c in range(q + 1):
            b = c if c < q else last
            for a in range(q - 1, -1, -1):  # root'^-1 half, and then lam times it
                value = half[a, b]
                for i in range(a + 1, q):
                    value -= root[i, a] * low[i]
                low[a] = value / root[a, a]
            for i in range(q):
                value = 0.0
                for a in range(q):
                    value += lam[i, a] * low[a]
                shrink[i, c] = value
            for a in range(q):
                value = fu[a, b]
                for i in range(q):
                    value -= fu[a, i] * shrink[i, c]
                zz[a, c] = value
        once, both = size[j], size[j]  # tr(H^-1) and tr(H^-2)
        twice = xe[p]  # e'H^-2 e
        for a in range(q):
            twice -= fu[a, last] * shrink[a, q]
            once -= shrink[a, a]
            both -= 2.0 * shrink[a, a]
            for b in range(q):
                both += shrink[a, b] * shrink[b, a]
        thrice = twice  # e'H^-3 e
        for a in range(q):
            thrice -= zz[a, q] * shrink[a, q]
        for i in range(p):
            scores[j, i] = weight * xe[i] / v
            value = xe[i]
            for a in range(q):
                value -= fu[a, q + i] * shrink[a, q]
            hessian[p + m, i] += weight * value / v**2
            for h in range(0 if has_fixed else i + 1):
                value = block[q + i, q + h]
                for a in range(q):
                    value -= half[a, q + i] * half[a, q + h]
                hessian[i, h] += weight * value / v
        for c in range(m):
            square, trace = 0.0, 0.0
            for a in range(q):
                value = 0.0
                for b in range(q):
                    value += directions[c, a, b] * fu[b, last]
                    entry = 0.0
                    for i in range(q):
                        entry += fu[a, i] * directions[c, i, b]
                    fd[c, a, b] = entry
                dt[c, a] = value
                square += fu[a, last] * value
                trace += fd[c, a, a]
            scores[j, p + c] = weight * 0.5 * (square / v**2 - trace / v)
            for i in range(p):
                value = 0.0
                for a in range(q):
                    value += dt[c, a] * fu[a, q + i]
                hessian[p + c, i] += weight * value / v**2
            bent, middle = 0.0, 0.0
            for a in range(q):
                bent += dt[c, a] * zz[a, q]
                for b in range(q):
                    middle += directions[c, a, b] * zz[b, a]
            hessian[p + m, p + c] += weight * (bent / v**3 - 0.5 * middle / v**2)
            for d in range(c + 1):
                bent, pairs = 0.0, 0.0
                for a in range(q):
                    for b in range(q):
                        bent += dt[c, a] * fu[a, b] * dt[d, b]
                        pairs += fd[c, a, b] * fd[d, b, a]
                hessian[p + c, p + d] += weight * (bent / v**3 - 0.5 * pairs / v**2)
        scores[j, p + m] = weight * 0.5 * (twice / v**2 - once / v)
        hessian[p + m, p + m] += weight * (thrice / v**3 - 0.5 * both / v**2)
