"""What second derivatives of the profiled likelihood sum over groups, by panels.

They are sums of products of two numbers of a group: of F = Z'H^-1 Z, of C = U phi U' with
U = Z'H^-1 X, of t t' with t = Z'H^-1 (y - X beta), and of U and t themselves. Each pair of rows is
one inner product over the groups of a panel. Of symmetric matrices only the lower triangles are
kept, and of a row's products with its own kind only one of two.
"""

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.panels import (
    LANES,
    PARTS,
    STRETCH,
    add_product,
    add_products,
    add_scaled,
    factor_panel,
    set_scaled,
    take_parts,
    turn_panel,
)

Array = np.ndarray


@kernel
def count_bends(q: int, p: int) -> int:
    """Return the length of a row of `fill_bends`."""
    m, u = q * (q + 1) // 2, q * p
    return m * (m + 1) // 2 + 2 * m * m + u * (u + 1) // 2 + u * q + 2 * m


@kernel
def fill_bends(
    values: Array,
    first: int,
    last: int,
    lam: Array,
    phi: Array,
    beta: Array,
    restricted: bool,
    out: Array,
) -> None:
    """Write what the stretches from `first` to before `last` add to the sums of `join_sums`.

    What holds C is zero unless the likelihood is restricted, which alone reads it.

    A row of `out` (stretches, `count_bends`) holds the products of the triangles (m,) of F, C and
    t t', and of U (q p,) and t (q,): F with F, F with C, F with t t', U with U, U with t, and the
    triangles of t t' and F.
    """
    _, q, k, _ = values.shape
    p = k - q - 1
    m, u = q * (q + 1) // 2, q * p
    turned = np.empty((q, q, LANES))
    low = np.empty((q, q, LANES))
    raw = np.empty((q, q, LANES))
    pivot = np.empty((q, LANES))
    inverse = np.empty((q, LANES))
    back = np.empty((q, LANES))
    turn = np.empty((q, q, LANES))
    f = np.empty((m, LANES))
    c = np.empty((m, LANES))
    squares = np.empty((m, LANES))
    slope = np.empty((u, LANES))
    rest = np.empty((q, LANES))
    row = np.empty((p, LANES))
    ones = np.ones(LANES)
    parts = np.zeros((out.shape[1], PARTS))
    for s in range(first, last):
        for t in range(s * STRETCH, min((s + 1) * STRETCH, values.shape[0])):
            panel = values[t]
            factor_panel(panel, lam, turned, low, raw, pivot, inverse)
            turn_panel(lam, turned, low, inverse, back, turn)
            at = 0
            for a in range(q):
                for b in range(a + 1):
                    set_scaled(0.0, panel[0, b], f[at])
                    for i in range(q):
                        add_product(turn[a, i], panel[i, b], f[at])
                    at += 1
                set_scaled(0.0, panel[0, q], rest[a])
                for i in range(q):
                    add_product(turn[a, i], panel[i, k - 1], rest[a])
                for n in range(p):
                    own = slope[a * p + n]
                    set_scaled(0.0, panel[0, q], own)
                    for i in range(q):
                        add_product(turn[a, i], panel[i, q + n], own)
                    add_scaled(-beta[n], own, rest[a])
            at = 0
            for a in range(q):
                if restricted:
                    for n in range(p):
                        set_scaled(phi[0, n], slope[a * p], row[n])
                        for i in range(1, p):
                            add_scaled(phi[i, n], slope[a * p + i], row[n])
                for b in range(a + 1):
                    set_scaled(0.0, rest[a], c[at])
                    if restricted:
                        for n in range(p):
                            add_product(row[n], slope[b * p + n], c[at])
                    set_scaled(0.0, rest[a], squares[at])
                    add_product(rest[a], rest[b], squares[at])
                    at += 1
            at = 0
            for i in range(m):
                for n in range(i + 1):
                    add_products(f[i], f[n], parts[at])
                    at += 1
            for i in range(m):
                for n in range(m):
                    add_products(f[i], c[n], parts[at])
                    add_products(f[i], squares[n], parts[at + m * m])
                    at += 1
            at += m * m
            for i in range(u):
                for n in range(i + 1):
                    add_products(slope[i], slope[n], parts[at])
                    at += 1
            for i in range(u):
                for n in range(q):
                    add_products(slope[i], rest[n], parts[at])
                    at += 1
            for i in range(m):
                add_products(squares[i], ones, parts[at])
                add_products(f[i], ones, parts[at + m])
                at += 1
        take_parts(parts, out[s])


@kernel
def place_lower(i: int, n: int) -> int:
    """Return where the entry (i, n) of a symmetric matrix stands in its lower triangle."""
    return i * (i + 1) // 2 + n if i >= n else n * (n + 1) // 2 + i


@kernel
def add_stretches(sums: Array) -> Array:
    """Return the sum over stretches of rows (s, m), which is left in the first one."""
    for s in range(1, len(sums)):
        for i in range(sums.shape[1]):
            sums[0, i] += sums[s, i]
    return sums[0]


@kernel
def add_weights(sums: Array, inner: Array, q: int) -> None:
    """Add to a row of `fill_bends` what weights of groups add, a row of `weighted.fill_inner`."""
    m = q * (q + 1) // 2
    for i in range(m):
        sums[len(sums) - m + i] += inner[1 + i]
    for i in range(m * (m + 1) // 2):
        sums[i] += inner[1 + m + i]


@light_kernel
def join_score(sums: Array, q: int, p: int, phi: Array, size: float, restricted: bool) -> Array:
    """Return the derivative by Psi (q, q) of the profiled criterion from a row of `fill_bends`.

    That is sum F - t t' / sigma^2, and under REML less sum U phi U'; `size` is one over the
    residual variance.
    """
    m, u = q * (q + 1) // 2, q * p
    to_uu = m * (m + 1) // 2 + 2 * m * m
    to_tt = to_uu + u * (u + 1) // 2 + u * q
    score = np.empty((q, q))
    for a in range(q):
        for b in range(a + 1):
            at = to_tt + place_lower(a, b)
            value = sums[at + m] - size * sums[at]
            if restricted:
                for i in range(p):
                    for n in range(p):
                        value -= phi[i, n] * sums[to_uu + place_lower(a * p + i, b * p + n)]
            score[a, b] = score[b, a] = value
    return score


@light_kernel
def join_sums(
    sums: Array, q: int, phi: Array, restricted: bool, directions: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the fields of `profiled.Curvature` by a row of `fill_bends`.

    Along symmetric `directions` (m, q, q), from the products of F with F, C and t t', of U with U
    and t, and of t with t.
    """
    count, p = len(directions), len(phi)
    m, u = q * (q + 1) // 2, q * p
    to_fc = m * (m + 1) // 2
    to_ft = to_fc + m * m
    to_uu = to_ft + m * m
    to_ut = to_uu + u * (u + 1) // 2
    to_tt = to_ut + u * q
    logdet = np.zeros((count, count))
    rss_slope = np.zeros(count)
    rss = np.zeros((count, count))
    slope = np.zeros((count, p, p))  # of X'H^-1 X
    turned = np.zeros((count, p, p))  # phi times it
    lean = np.zeros((count, p))
    short = np.zeros((count, p))  # times phi
    by_ff, by_fc, by_ft = np.empty((q, q)), np.empty((q, q)), np.empty((q, q))
    for i in range(count):
        for b in range(q):
            for e in range(q):
                by_ff[b, e] = by_fc[b, e] = by_ft[b, e] = 0.0
        # sum_j tr(E_m F_j E_n G_j), first over E_m, for each pair of kinds
        for d in range(q):
            for a in range(q):
                share = directions[i, d, a]
                if share == 0.0:
                    continue
                rss_slope[i] -= share * sums[to_tt + place_lower(d, a)]
                for b in range(q):
                    own = place_lower(a, b)
                    for e in range(q):
                        other = place_lower(d, e)
                        by_ff[b, e] += share * sums[place_lower(own, other)]
                        by_fc[b, e] += share * sums[to_fc + own * m + other]
                        by_ft[b, e] += share * sums[to_ft + own * m + other]
                for b in range(p):
                    lean[i, b] += share * sums[to_ut + (a * p + b) * q + d]
                    for e in range(p):
                        slope[i, b, e] -= share * sums[to_uu + place_lower(d * p + b, a * p + e)]
        for n in range(count):
            for b in range(q):
                for e in range(q):
                    share = directions[n, b, e]
                    logdet[i, n] -= share * by_ff[b, e]
                    if restricted:
                        logdet[i, n] += 2.0 * share * by_fc[b, e]
                    rss[i, n] += 2.0 * share * by_ft[b, e]
        for b in range(p):
            for a in range(p):
                short[i, a] += lean[i, b] * phi[b, a]
                for e in range(p):
                    turned[i, b, e] += phi[b, a] * slope[i, a, e]
    for i in range(count):
        for n in range(count):
            for b in range(p):
                rss[i, n] -= 2.0 * short[i, b] * lean[n, b]
                if restricted:
                    for e in range(p):
                        logdet[i, n] -= turned[i, b, e] * turned[n, e, b]
    for i in range(count):
        for n in range(i):
            logdet[i, n] = logdet[n, i] = 0.5 * (logdet[i, n] + logdet[n, i])
            rss[i, n] = rss[n, i] = 0.5 * (rss[i, n] + rss[n, i])
    return logdet, rss_slope, rss, slope
