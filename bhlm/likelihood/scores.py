"""The scores of groups and the Hessian of a (pseudo-)log-likelihood, by all parameters.

It is a sum over J groups of W_j l_j, of which every parameter has a score s_j (J, p + m + 1) and
the whole a Hessian H, not profiled. Source: Binder (1983), Int. Stat. Rev. 51, 279-292.
"""

from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panels import (
    LANES,
    STRETCH,
    add_product,
    add_scaled,
    factor_panel,
    set_scaled,
    subtract_product,
    sum_stretches,
    turn_panel,
)
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.moments import Moments

Array = np.ndarray


class Sandwich(NamedTuple):
    """Scores and Hessian by the whitened parameters, and the way back to those as given.

    Those of several responses have one more axis, the first.
    """

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
    scores = np.empty((len(white.blocks), white.p + m + 1))
    hessian = fill_groups(
        white.blocks,
        np.asarray(size, np.float64),
        np.ones(len(scores)) if white.groups is None else white.groups,
        beta,
        np.ascontiguousarray(lam),
        directions,
        v,
        scores,
        has_fixed=phi is not None,
    )
    if phi is not None:
        hessian[: len(phi), : len(phi)] = np.linalg.inv(phi) / v
    reflect_lower(hessian)
    fixed, variances = lead_back(white, structure)
    return Sandwich(scores, hessian, white.scale * fixed, white.scale**2 * variances)


def fill_groups(
    blocks: Array,
    size: Array,
    weights: Array,
    beta: Array,
    lam: Array,
    directions: Array,
    v: float,
    scores: Array,
    *,
    has_fixed: bool,
) -> Array:
    """Write the scores of all groups, and return the Hessian's lower triangle.

    Arguments are those of `fill_scores`.
    """
    n_groups, stretch, width = len(blocks), LANES * STRETCH, scores.shape[1]
    sums = np.zeros((max(1, -(-n_groups // stretch)), width, width))

    def fill(first: int, last: int) -> None:
        for s in range(first, last):
            part = slice(s * stretch, (s + 1) * stretch)
            fill_scores(
                *(blocks[part], size[part], weights[part], beta, lam, directions, v),
                *(scores[part], sums[s], has_fixed),
            )

    sum_stretches(fill, len(sums))
    return np.asarray(sums.sum(axis=0) if len(sums) > 1 else sums[0])


def lead_back(white: Whitened, structure: Structure) -> tuple[Array, Array]:
    """Return d beta / d beta~ (p, p) and d (g, sigma^2) / d (g~, v) (m + 1, m + 1).

    Of a response of unit scale: those of one of the scale s are s times the first, and s^2 times
    the second.
    """
    m = len(structure.directions)
    given = white.basis @ structure.directions @ white.basis.T
    variances = np.zeros((m + 1, m + 1))
    variances[:m, :m] = structure.read(given).T
    variances[m, m] = 1.0
    return white.fixed, variances


@kernel
def reflect_lower(matrix: Array) -> None:
    """Write the lower triangle of a matrix over its upper one."""
    for a in range(len(matrix)):
        for b in range(a):
            matrix[b, a] = matrix[a, b]


@kernel
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
    p, width = k - q - 1, len(hessian)
    panel = np.zeros((q, k, LANES))
    inner = np.zeros((p + 1, p + 1, LANES))  # of [X y], and then of [X e] and e alone
    rows = np.zeros(LANES)
    weight = np.zeros(LANES)
    turned = np.empty((q, q, LANES))
    low = np.empty((q, q, LANES))
    raw = np.empty((q, q, LANES))
    pivot = np.empty((q, LANES))
    inverse = np.empty((q, LANES))
    back = np.empty((q, LANES))
    turn = np.empty((q, q, LANES))
    ze = np.empty((q, LANES))  # Z'e
    f = np.empty((q, q, LANES))
    u = np.empty((q, p, LANES))
    t = np.empty((q, LANES))
    shrink = np.empty((q, q, LANES))  # Psi F
    lean = np.empty((q, LANES))  # Psi t
    zz = np.empty((q, q, LANES))  # Z'H^-2 Z
    short = np.empty((q, LANES))  # Z'H^-2 e
    fd = np.empty((m, q, q, LANES))  # F D_c
    dt = np.empty((m, q, LANES))  # D_c t
    own = np.empty((width, LANES))
    entry = np.empty(LANES)
    other = np.empty(LANES)
    lanes = np.zeros((width, width, LANES))
    psi = np.zeros((q, q))
    for a in range(q):
        for b in range(q):
            for i in range(q):
                psi[a, b] += lam[a, i] * lam[b, i]
    for first in range(0, n_groups, LANES):
        load_lanes(blocks, size, weights, first, panel, inner, rows, weight)
        factor_panel(panel, lam, turned, low, raw, pivot, inverse)
        turn_panel(lam, turned, low, inverse, back, turn)
        for h in range(p, -1, -1):  # y'e before X'y is overwritten by X'e
            for i in range(p):
                add_scaled(-beta[i], inner[max(i, h), min(i, h)], inner[p, h])
        for i in range(p):
            add_scaled(-beta[i], inner[p, i], inner[p, p])
        for a in range(q):
            set_scaled(1.0, panel[a, k - 1], ze[a])
            for i in range(p):
                add_scaled(-beta[i], panel[a, q + i], ze[a])
        turn_columns(turn, panel, 0, f)
        turn_columns(turn, panel, q, u)
        for a in range(q):
            set_scaled(0.0, rows, t[a])
            for i in range(q):
                add_product(turn[a, i], ze[i], t[a])
        for a in range(q):
            set_scaled(psi[a, 0], t[0], lean[a])
            for i in range(1, q):
                add_scaled(psi[a, i], t[i], lean[a])
            for b in range(q):
                set_scaled(psi[a, 0], f[0, b], shrink[a, b])
                for i in range(1, q):
                    add_scaled(psi[a, i], f[i, b], shrink[a, b])
        for a in range(q):
            set_scaled(1.0, t[a], short[a])
            for i in range(q):
                subtract_product(f[a, i], lean[i], short[a])
            for b in range(q):
                set_scaled(1.0, f[a, b], zz[a, b])
                for i in range(q):
                    subtract_product(f[a, i], shrink[i, b], zz[a, b])
        for h in range(p):  # X'H^-1 e
            set_scaled(1.0, inner[p, h], own[h])
            for a in range(q):
                subtract_product(panel[a, q + h], lean[a], own[h])
        twice = inner[p, p]  # e'e, e'H^-1 e, e'H^-2 e, and then e'H^-3 e
        for a in range(q):
            subtract_product(ze[a], lean[a], twice)
            subtract_product(t[a], lean[a], twice)
        # tr(H^-1) and tr(H^-2)
        set_scaled(1.0, rows, entry)
        set_scaled(1.0, rows, other)
        for a in range(q):
            add_scaled(-1.0, shrink[a, a], entry)
            add_scaled(-2.0, shrink[a, a], other)
            for b in range(q):
                add_product(shrink[a, b], shrink[b, a], other)
        for g in range(LANES):
            own[p + m, g] = 0.5 * (twice[g] / v**2 - entry[g] / v)
        for a in range(q):
            subtract_product(short[a], lean[a], twice)
        for g in range(LANES):
            lanes[p + m, p + m, g] += weight[g] * (twice[g] / v**3 - 0.5 * other[g] / v**2)
        for i in range(p):
            set_scaled(1.0, own[i], entry)
            for a in range(q):
                subtract_product(u[a, i], lean[a], entry)
            add_weighted(weight, entry, 1.0 / v**2, lanes[p + m, i])
            if has_fixed:
                continue
            for h in range(i + 1):
                set_scaled(1.0, inner[i, h], entry)
                for a in range(q):
                    set_scaled(psi[a, 0], u[0, h], other)
                    for b in range(1, q):
                        add_scaled(psi[a, b], u[b, h], other)
                    subtract_product(panel[a, q + i], other, entry)
                add_weighted(weight, entry, 1.0 / v, lanes[i, h])
        for c in range(m):
            lean_on(directions[c], f, t, fd[c], dt[c])
            set_scaled(0.0, rows, entry)
            set_scaled(0.0, rows, other)
            for a in range(q):
                add_product(t[a], dt[c, a], entry)
                add_scaled(1.0, fd[c, a, a], other)
            for g in range(LANES):
                own[p + c, g] = 0.5 * (entry[g] / v**2 - other[g] / v)
            for i in range(p):
                set_scaled(0.0, rows, entry)
                for a in range(q):
                    add_product(dt[c, a], u[a, i], entry)
                add_weighted(weight, entry, 1.0 / v**2, lanes[p + c, i])
            set_scaled(0.0, rows, entry)
            set_scaled(0.0, rows, other)
            for a in range(q):
                add_product(dt[c, a], short[a], entry)
                for b in range(q):
                    if directions[c, a, b] != 0.0:
                        add_scaled(directions[c, a, b], zz[b, a], other)
            add_weighted(weight, entry, 1.0 / v**3, lanes[p + m, p + c])
            add_weighted(weight, other, -0.5 / v**2, lanes[p + m, p + c])
            for d in range(c + 1):
                set_scaled(0.0, rows, entry)
                set_scaled(0.0, rows, other)
                for a in range(q):
                    set_scaled(0.0, rows, back[a])
                    for b in range(q):
                        add_product(f[a, b], dt[d, b], back[a])
                        add_product(fd[c, a, b], fd[d, b, a], other)
                    add_product(dt[c, a], back[a], entry)
                add_weighted(weight, entry, 1.0 / v**3, lanes[p + c, p + d])
                add_weighted(weight, other, -0.5 / v**2, lanes[p + c, p + d])
        for i in range(p):
            for g in range(LANES):
                own[i, g] /= v
        for g in range(min(LANES, n_groups - first)):
            for i in range(width):
                scores[first + g, i] = weight[g] * own[i, g]
    for i in range(width):
        for h in range(i + 1):
            for g in range(LANES):
                hessian[i, h] += lanes[i, h, g]


@kernel
def load_lanes(
    blocks: Array,
    size: Array,
    weights: Array,
    first: int,
    panel: Array,
    inner: Array,
    rows: Array,
    weight: Array,
) -> None:
    """Write a panel of groups from `first` on: [Z]'[Z X y], the lower triangle of [X y]'[X y].

    And their numbers of rows and weights. Lanes behind the last group are zero.
    """
    n_groups, k, _ = blocks.shape
    q = len(panel)
    count = min(LANES, n_groups - first)
    for g in range(count):
        block = blocks[first + g]
        for a in range(q):
            for b in range(k):
                panel[a, b, g] = block[a, b]
        for a in range(k - q):
            for b in range(a + 1):
                inner[a, b, g] = block[q + a, q + b]
        rows[g], weight[g] = size[first + g], weights[first + g]
    for g in range(count, LANES):
        panel[:, :, g] = 0.0
        inner[:, :, g] = 0.0
        rows[g] = weight[g] = 0.0


@kernel
def turn_columns(turn: Array, panel: Array, start: int, out: Array) -> None:
    """Write T R (q, c, LANES), R the columns of a panel from `start` on."""
    for a in range(out.shape[0]):
        for b in range(out.shape[1]):
            set_scaled(0.0, panel[0, 0], out[a, b])
            for i in range(out.shape[0]):
                add_product(turn[a, i], panel[i, start + b], out[a, b])


@kernel
def lean_on(direction: Array, f: Array, t: Array, fd: Array, dt: Array) -> None:
    """Write F D (q, q, LANES) and D t (q, LANES) for one direction D (q, q)."""
    q = len(direction)
    for a in range(q):
        set_scaled(0.0, t[a], dt[a])
        for b in range(q):
            set_scaled(0.0, t[a], fd[a, b])
    for a in range(q):
        for b in range(q):
            share = direction[a, b]
            if share != 0.0:
                add_scaled(share, t[b], dt[a])
                for i in range(q):
                    add_scaled(share, f[i, a], fd[i, b])


@kernel
def add_weighted(weight: Array, x: Array, factor: float, out: Array) -> None:
    """Add factor weight x to `out`, lane by lane."""
    for g in range(LANES):
        out[g] += factor * (weight[g] * x[g])
