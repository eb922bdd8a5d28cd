"""What second derivatives of the profiled likelihood sum over groups, by panels.

They are sums of products of two numbers of a group: of F = Z'H^-1 Z, of C = U phi U' with
U = Z'H^-1 X, of t t' with t = Z'H^-1 (y - X beta), and of U and t themselves. Each pair of rows is
one inner product over the groups of a panel. Of symmetric matrices only the lower triangles are
kept, and of a row's products with its own kind only one of two.
"""

import numba
import numpy as np

from bhlm.likelihood.panels import (
    LANES,
    STRETCH,
    add_product,
    add_scaled,
    factor_panel,
    set_scaled,
    turn_panel,
)

Array = np.ndarray


@numba.njit(cache=True, nogil=True, error_model="numpy")
def count_bends(q: int, p: int) -> int:
    """Return the length of a row of `fill_bends`."""
    m, u = q * (q + 1) // 2, q * p
    return m * (m + 1) // 2 + 2 * m * m + u * (u + 1) // 2 + u * q + m


@numba.njit(cache=True, nogil=True, error_model="numpy")
def multiply_lanes(x: Array, y: Array) -> float:
    """Return x'y over the lanes, by eight sums whose order no processor's vectors change."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = 0.0
    for g in range(0, LANES, 8):
        a0 += x[g] * y[g]
        a1 += x[g + 1] * y[g + 1]
        a2 += x[g + 2] * y[g + 2]
        a3 += x[g + 3] * y[g + 3]
        a4 += x[g + 4] * y[g + 4]
        a5 += x[g + 5] * y[g + 5]
        a6 += x[g + 6] * y[g + 6]
        a7 += x[g + 7] * y[g + 7]
    return ((a0 + a4) + (a1 + a5)) + ((a2 + a6) + (a3 + a7))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def fill_bends(
    values: Array, first: int, last: int, lam: Array, phi: Array, beta: Array, out: Array
) -> None:
    """Write what the stretches from `first` to before `last` add to the sums of `spread_bends`.

    A row of `out` (stretches, `count_bends`) holds the products of the triangles (m,) of F, C and
    t t', and of U (q p,) and t (q,): F with F, F with C, F with t t', U with U, U with t, and the
    triangle of t t'.
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
    for s in range(first, last):
        sums = out[s]
        sums[:] = 0.0
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
                for n in range(p):
                    set_scaled(phi[0, n], slope[a * p], row[n])
                    for i in range(1, p):
                        add_scaled(phi[i, n], slope[a * p + i], row[n])
                for b in range(a + 1):
                    set_scaled(0.0, rest[a], c[at])
                    for n in range(p):
                        add_product(row[n], slope[b * p + n], c[at])
                    set_scaled(0.0, rest[a], squares[at])
                    add_product(rest[a], rest[b], squares[at])
                    at += 1
            at = 0
            for i in range(m):
                for n in range(i + 1):
                    sums[at] += multiply_lanes(f[i], f[n])
                    at += 1
            for i in range(m):
                for n in range(m):
                    sums[at] += multiply_lanes(f[i], c[n])
                    sums[at + m * m] += multiply_lanes(f[i], squares[n])
                    at += 1
            at += m * m
            for i in range(u):
                for n in range(i + 1):
                    sums[at] += multiply_lanes(slope[i], slope[n])
                    at += 1
            for i in range(u):
                for n in range(q):
                    sums[at] += multiply_lanes(slope[i], rest[n])
                    at += 1
            for i in range(m):
                sums[at] += multiply_lanes(squares[i], ones)
                at += 1


@numba.njit(cache=True, nogil=True, error_model="numpy")
def place_lower(i: int, n: int) -> int:
    """Return where the entry (i, n) of a symmetric matrix stands in its lower triangle."""
    return i * (i + 1) // 2 + n if i >= n else n * (n + 1) // 2 + i


@numba.njit(cache=True, nogil=True, error_model="numpy")
def spread_bends(sums: Array, q: int, p: int) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Return the sums over groups that second derivatives by Psi are made of.

    With U = Z'H^-1 X, t = Z'H^-1 (y - X beta) and C = U phi U', phi (p, p):
    F (x) F, F (x) C, F (x) tt', each (q, q, q, q); U (x) U (q, p, q, p); U (x) t (q, p, q);
    tt' (q, q). `sums` is a row of `fill_bends`.
    """
    m, u = q * (q + 1) // 2, q * p
    ff = np.empty((q, q, q, q))
    fc = np.empty((q, q, q, q))
    ft = np.empty((q, q, q, q))
    uu = np.empty((q, p, q, p))
    ut = np.empty((q, p, q))
    tt = np.empty((q, q))
    to_fc = m * (m + 1) // 2
    to_ft = to_fc + m * m
    to_uu = to_ft + m * m
    to_ut = to_uu + u * (u + 1) // 2
    to_tt = to_ut + u * q
    for a in range(q):
        for b in range(q):
            own = place_lower(a, b)
            tt[a, b] = sums[to_tt + own]
            for d in range(q):
                for e in range(q):
                    other = place_lower(d, e)
                    ff[a, b, d, e] = sums[place_lower(own, other)]
                    fc[a, b, d, e] = sums[to_fc + own * m + other]
                    ft[a, b, d, e] = sums[to_ft + own * m + other]
            for i in range(p):
                ut[a, i, b] = sums[to_ut + (a * p + i) * q + b]
                for n in range(p):
                    uu[a, i, b, n] = sums[to_uu + place_lower(a * p + i, b * p + n)]
    return ff, fc, ft, uu, ut, tt
