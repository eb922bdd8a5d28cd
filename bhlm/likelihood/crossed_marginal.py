"""Crossed factors: the marginal log-likelihood of beta, lam and sigma with its gradient.

The factor with the most columns is eliminated level by level, the dense rest by LAPACK; what is
carried up and back down is that of `bhlm.likelihood.nested_marginal`, with the rest as the parent
of every level and D = Z_r'Z_r - sum C'T C, g = Z_r'r - sum C'T c, T = lam K^-1 lam'. With Lam the
lam_f of the rest, S = I + Lam'D Lam and v = S^-1 Lam'g,

    log |V| = sum log |K| + log |S|,  u_r = Lam v,  M = Lam S^-1 Lam',  t = g - D u_r
    d/d lam_f = sum over its levels of the blocks -(D Lam S^-1)_jj + t_j v_j' / sigma^2
"""

from collections.abc import Sequence

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.marginal import LOG_2PI

Array = np.ndarray

HEAD = 8  # numbers before those of the rest's factors
PER_FACTOR = 4  # levels, q_f, where its columns of the rest begin, where its block of lam does


def pack_crossed(crossed: Crossed, sizes: Sequence[int], total: Array) -> Array:
    """Return all that `crossed_marginal` reads, as one array of doubles.

    Args:
        crossed: the cells under their pattern.
        sizes: the random coefficients of every factor.
        total: cross-products of [X y] over all rows (p + 1, p + 1).
    """
    starts, r = np.cumsum([0, *sizes]), crossed.width
    first = crossed.eliminated
    rest = [factor for factor in range(len(sizes)) if factor != first]
    head = [
        len(total) - 1, starts[-1], sizes[first], len(crossed.starts) - 1, len(crossed.places), r,
        starts[first], len(rest),
    ]  # fmt: skip
    for factor in rest:
        span = crossed.spans[factor]
        head += [crossed.counts[factor], sizes[factor], span.start, starts[factor]]
    dense = np.tril(crossed.dense[:r, :r])
    dense += np.tril(dense, -1).T
    parts = (total, crossed.starts, crossed.places, crossed.values, dense, crossed.dense[r:, :r].T)
    body = [np.asarray(part, dtype=np.float64).ravel() for part in parts]
    return np.concatenate([np.array(head, dtype=np.float64), *body])


@kernel
def _factor_small(block: Array, lam: Array, root: Array, turned: Array) -> float:
    """Write A lam into `turned` and the lower root of K = I + lam'A lam; return log |K|."""
    q = len(lam)
    logdet = 0.0
    for i in range(q):
        for a in range(q):
            value = 0.0
            for m in range(q):
                value += block[i, m] * lam[m, a]
            turned[i, a] = value
    for a in range(q):
        for c in range(a + 1):
            value = 0.0
            for m in range(q):
                value += lam[m, a] * turned[m, c]
            if a == c:
                value = max(value, 0.0) + 1.0
            for i in range(c):
                value -= root[a, i] * root[c, i]
            if a == c:
                root[a, a] = np.sqrt(value)
                logdet += np.log(value)
            else:
                root[a, c] = value / root[c, c]
    return logdet


@kernel
def _solve_lower(root: Array, x: Array) -> None:
    """Overwrite x (q,) by root^-1 x."""
    for a in range(len(x)):
        for i in range(a):
            x[a] -= root[a, i] * x[i]
        x[a] /= root[a, a]


@kernel
def _solve_upper(root: Array, x: Array) -> None:
    """Overwrite x (q,) by root'^-1 x."""
    for a in range(len(x) - 1, -1, -1):
        for i in range(a + 1, len(x)):
            x[a] -= root[i, a] * x[i]
        x[a] /= root[a, a]


@kernel
def crossed_marginal(
    data: Array, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return the value and its gradients by lam (q, q), beta (p,) and log sigma, lam held.

    `data` is what `pack_crossed` returns; all other arguments are whitened, and `lam` is
    block-diagonal, with a block for each factor. Where rounding leaves S no Cholesky factor, the
    value is nan.
    """
    p, q_all, q, n_levels, width, r, start, n_rest = (
        int(data[0]), int(data[1]), int(data[2]), int(data[3]), int(data[4]), int(data[5]),
        int(data[6]), int(data[7]),
    )  # fmt: skip
    at = HEAD + PER_FACTOR * n_rest
    total = data[at : at + (p + 1) * (p + 1)].reshape((p + 1, p + 1))
    at += (p + 1) * (p + 1)
    starts = data[at : at + n_levels + 1]
    at += n_levels + 1
    places = data[at : at + width]
    at += width
    values = data[at : at + q * width].reshape((q, width))
    at += q * width
    dense = data[at : at + r * r].reshape((r, r)).copy()
    at += r * r
    right = data[at : at + r * (p + 1)].reshape((r, p + 1))
    precision = 1.0 / (sigma * sigma)
    g = np.empty(r)
    for i in range(r):
        g[i] = right[i, p]
        for k in range(p):
            g[i] -= right[i, k] * beta[k]
    own_lam = np.ascontiguousarray(lam[start : start + q, start : start + q])
    roots, turned = np.empty((n_levels, q, q)), np.empty((n_levels, q, q))
    gaps, halves = np.empty((n_levels, q)), np.empty((n_levels, q))
    half = np.empty((width, q))
    block = np.empty((q, q))
    x = np.empty(q)
    logdet, taken = 0.0, 0.0
    for j in range(n_levels):
        first, last = int(starts[j]), int(starts[j + 1]) - p - 1
        for i in range(q):
            for a in range(q):
                block[i, a] = values[i, first + a]
            gaps[j, i] = values[i, last + p]
            for k in range(p):
                gaps[j, i] -= values[i, last + k] * beta[k]
        logdet += _factor_small(block, own_lam, roots[j], turned[j])
        for a in range(q):
            x[a] = 0.0
            for i in range(q):
                x[a] += own_lam[i, a] * gaps[j, i]
        _solve_lower(roots[j], x)
        for a in range(q):
            halves[j, a] = x[a]
            taken += x[a] * x[a]
        for c in range(first + q, last):
            for a in range(q):
                half[c, a] = 0.0
                for i in range(q):
                    half[c, a] += own_lam[i, a] * values[i, c]
            _solve_lower(roots[j], half[c])
            place = int(places[c])
            for a in range(q):
                g[place] -= half[c, a] * x[a]
                for d in range(first + q, c + 1):
                    dense[place, int(places[d])] -= half[c, a] * half[d, a]
    for i in range(r):
        for k in range(i):
            dense[k, i] = dense[i, k]
    # D Lam, S = I + Lam'D Lam and Lam'g.
    wide, square, below = np.zeros((r, r)), np.zeros((r, r)), np.zeros(r)
    for f in range(n_rest):
        row = HEAD + PER_FACTOR * f
        count, size, place, at = (
            int(data[row]), int(data[row + 1]), int(data[row + 2]), int(data[row + 3]),
        )  # fmt: skip
        for j in range(count):
            one = place + j * size
            for a in range(size):
                for b in range(size):
                    share = lam[at + b, at + a]
                    below[one + a] += share * g[one + b]
                    for i in range(r):
                        wide[i, one + a] += dense[i, one + b] * share
    for f in range(n_rest):
        row = HEAD + PER_FACTOR * f
        count, size, place, at = (
            int(data[row]), int(data[row + 1]), int(data[row + 2]), int(data[row + 3]),
        )  # fmt: skip
        for j in range(count):
            one = place + j * size
            for a in range(size):
                for b in range(size):
                    share = lam[at + b, at + a]
                    for i in range(r):
                        square[one + a, i] += wide[one + b, i] * share
    for i in range(r):
        square[i, i] += 1.0
    dlam, dbeta = np.full((q_all, q_all), np.nan), np.full(p, np.nan)
    if not np.isfinite(square.sum()):
        return np.nan, dlam, dbeta, np.nan
    inverse = np.empty((0, 0))
    try:
        root = np.linalg.cholesky(square)
        inverse = np.linalg.inv(square)
    except Exception:  # numba knows no other
        return np.nan, dlam, dbeta, np.nan
    dlam[:] = 0.0
    for i in range(r):
        logdet += 2.0 * np.log(root[i, i])
    solved = inverse @ below  # v
    for i in range(r):
        taken += solved[i] * below[i]
    means, spread = np.zeros(r), np.zeros((r, r))
    lifted = np.zeros((r, r))
    for f in range(n_rest):
        row = HEAD + PER_FACTOR * f
        count, size, place, at = (
            int(data[row]), int(data[row + 1]), int(data[row + 2]), int(data[row + 3]),
        )  # fmt: skip
        for j in range(count):
            one = place + j * size
            for i in range(size):
                for a in range(size):
                    share = lam[at + i, at + a]
                    means[one + i] += share * solved[one + a]
                    for k in range(r):
                        lifted[one + i, k] += share * inverse[one + a, k]
    for f in range(n_rest):
        row = HEAD + PER_FACTOR * f
        count, size, place, at = (
            int(data[row]), int(data[row + 1]), int(data[row + 2]), int(data[row + 3]),
        )  # fmt: skip
        for j in range(count):
            one = place + j * size
            for i in range(size):
                for a in range(size):
                    share = lam[at + i, at + a]
                    for k in range(r):
                        spread[one + i, k] += share * lifted[k, one + a]
    gap = g - dense @ means
    for f in range(n_rest):
        row = HEAD + PER_FACTOR * f
        count, size, place, at = (
            int(data[row]), int(data[row + 1]), int(data[row + 2]), int(data[row + 3]),
        )  # fmt: skip
        for j in range(count):
            one = place + j * size
            for i in range(size):
                for a in range(size):
                    value = precision * gap[one + i] * solved[one + a]
                    for k in range(r):
                        value -= wide[one + i, k] * inverse[one + a, k]
                    dlam[at + i, at + a] += value
    pull = np.zeros(p)
    for i in range(r):
        for k in range(p):
            pull[k] += right[i, k] * means[i]
    v, u, t = np.empty(q), np.empty(q), np.empty(q)
    for j in range(n_levels):
        first, last = int(starts[j]), int(starts[j + 1]) - p - 1
        for a in range(q):
            v[a] = halves[j, a]
        for i in range(q):
            t[i] = gaps[j, i]
        for c in range(first + q, last):
            w = means[int(places[c])]
            for a in range(q):
                v[a] -= half[c, a] * w
                t[a] -= values[a, c] * w
        _solve_upper(roots[j], v)
        for i in range(q):
            u[i] = 0.0
            for a in range(q):
                u[i] += own_lam[i, a] * v[a]
        for i in range(q):
            for a in range(q):
                t[i] -= values[i, first + a] * u[a]
            for k in range(p):
                pull[k] += values[i, last + k] * u[i]
        for i in range(q):
            for a in range(q):
                x[a] = turned[j, i, a]
            _solve_lower(roots[j], x)
            _solve_upper(roots[j], x)
            for a in range(q):
                dlam[start + i, start + a] += precision * t[i] * v[a] - x[a]
        # B = K^-1 lam'C takes the place of root^-1 lam'C.
        for c in range(first + q, last):
            _solve_upper(roots[j], half[c])
        for c in range(first + q, last):
            for b in range(q):
                x[b] = 0.0
            row_of = spread[int(places[c])]
            for d in range(first + q, last):
                share = row_of[int(places[d])]
                for b in range(q):
                    x[b] += share * half[d, b]
            for i in range(q):
                value = values[i, c]
                for a in range(q):
                    value -= turned[j, i, a] * half[c, a]
                for b in range(q):
                    dlam[start + i, start + b] += value * x[b]
    rss = total[p, p] - taken
    for i in range(p):
        value = total[i, p]
        for k in range(p):
            value -= total[i, k] * beta[k]
        rss -= beta[i] * (total[i, p] + value)
        dbeta[i] = precision * (value - pull[i])
    loglik = -0.5 * (n * (LOG_2PI + 2.0 * np.log(sigma)) + logdet + rss * precision)
    return loglik, dlam, dbeta, rss * precision - n
