"""Nested factors: the marginal log-likelihood of beta, lam and sigma with its gradient.

As `bhlm.likelihood.marginal` has it for one factor, with parameters as a sampler needs them. Units
stand side by side in panels, finest level first, and hold A = Z'Z, C = Z'Z_+ with the columns Z_+
of all their parents, and c = Z'r, r = y - X beta. With K = I + lam'A lam = E D E' and
h = E^-1 lam'[C c], a unit leaves -h'D^-1 h to its parent, so that with every unit eliminated

    log |V| = sum log |K|,    r'V^-1 r = r'r - sum h_c'D^-1 h_c

Back down, with w and M the mean and the covariance (over sigma^2) of the parents' effects given y,

    v = K^-1 lam'(c - C w),  u = lam v,  B = K^-1 lam'C,  U = C - A lam B,  t = c - C w - A u
    d/d lam = sum -A lam K^-1 + U M B' + t v' / sigma^2

and the effects u of the unit have the mean u and, with those of its parents, the covariance
[lam (K^-1 + B M B') lam', -lam B M; ., M]. Nothing here is shared with the criterion of REML, which
carries [X y]'V^-1 [X y] up and its weight down (`bhlm.likelihood.nested`).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.marginal import LOG_2PI
from bhlm.likelihood.panels import (
    LANES,
    add_determinants,
    add_product,
    add_scaled,
    factor_panel,
    plan_logarithms,
    set_scaled,
    solve_backward,
    solve_forward,
    subtract_product,
    take_logarithms,
)
from bhlm.moments.sums import sum_blocks

Array = np.ndarray

HEAD = 3  # numbers before those of the levels
PER_LEVEL = 5  # q, m, J, where its block of lam begins, the largest trace of a unit's Z'Z


class Chain(NamedTuple):
    """The finest units of nested factors, and how they stand to each other."""

    order: tuple[int, ...]  # the factor of each level, finest first
    counts: tuple[int, ...]  # J_l by level
    parents: tuple[Array, ...]  # (J_l,) by level, the place of each unit's parent; zeros at last


def chain_factors(codes: Array) -> Chain:
    """Return how nested factors (F, C) by cell stand to each other; the finest has C levels."""
    found = [int(code.max()) + 1 for code in codes]
    order = tuple(sorted(range(len(found)), key=lambda factor: -found[factor]))
    parents = []
    for lower, upper in pairwise(order):
        own = np.zeros(found[lower], dtype=np.int64)
        own[codes[lower]] = codes[upper]
        parents.append(own)
    parents.append(np.zeros(found[order[-1]], dtype=np.int64))
    return Chain(order, tuple(found[factor] for factor in order), tuple(parents))


def pack_nested(blocks: Array, codes: Array, sizes: Sequence[int]) -> Array:
    """Return all that `nested_marginal` reads, as one array of doubles.

    Args:
        blocks: whitened cross-products (C, k, k) of [Z_1 ... Z_F X y], one block for each level of
            the finest factor.
        codes: the level (F, C) of every factor that each block belongs to, from 0.
        sizes: the random coefficients of every factor.
    """
    chain = chain_factors(codes)
    starts = np.cumsum([0, *sizes])
    q_all, extra = int(starts[-1]), blocks.shape[1] - int(starts[-1])
    columns = [np.arange(starts[factor], starts[factor + 1]) for factor in chain.order]
    head, body = [], []
    for level, factor in enumerate(chain.order):
        own = columns[level]
        q, count = len(own), chain.counts[level]
        others = np.concatenate([*columns[level:], np.arange(q_all, q_all + extra)])
        sums = np.zeros((count, q, len(others)))
        np.add.at(sums, codes[factor], blocks[:, own[:, None], others])
        reach = float(np.einsum("jii->j", sums[:, :, :q]).max())
        n_panels = -(-count // LANES)
        padded = np.zeros((n_panels * LANES, q, len(others)))
        padded[:count] = sums
        parents = np.zeros(n_panels * LANES)
        parents[:count] = chain.parents[level]
        head += [q, len(others) - extra, count, starts[factor], reach]
        panels = padded.reshape(n_panels, LANES, q, len(others)).transpose(0, 2, 3, 1)
        body += [parents, panels.ravel()]
    total = sum_blocks(blocks[:, q_all:, q_all:]).ravel()
    first = [len(chain.order), extra - 1, q_all]
    return np.concatenate([np.array([*first, *head], dtype=np.float64), total, *body])


@kernel
def nested_marginal(
    data: Array, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return the value and its gradients by lam (q, q), beta (p,) and log sigma, lam held.

    `data` is what `pack_nested` returns; all other arguments are whitened, and `lam` is
    block-diagonal, with a block for each factor.
    """
    n_levels, p, q_all = int(data[0]), int(data[1]), int(data[2])
    precision = 1.0 / (sigma * sigma)
    # Where each level's parents, panels, kept numbers, sums from below and effects begin.
    at_parents = np.empty(n_levels, dtype=np.int64)
    at_raw = np.empty(n_levels, dtype=np.int64)
    at_kept = np.empty(n_levels + 1, dtype=np.int64)
    at_below = np.empty(n_levels + 1, dtype=np.int64)
    at = HEAD + PER_LEVEL * n_levels
    total = data[at : at + (p + 1) * (p + 1)].reshape((p + 1, p + 1))
    at += (p + 1) * (p + 1)
    at_kept[0] = 0
    at_below[0] = 0
    at_below[1] = 0
    for level in range(n_levels):
        row = HEAD + PER_LEVEL * level
        q, m, count = int(data[row]), int(data[row + 1]), int(data[row + 2])
        n_panels = (count + LANES - 1) // LANES
        at_parents[level] = at
        at += n_panels * LANES
        at_raw[level] = at
        at += n_panels * q * (m + p + 1) * LANES
        # work (q, m + 1), turned and low (q, q), inverse (q,), h (m - q + 1, q)
        rows = q * (m + 1) + 2 * q * q + q + (m - q + 1) * q
        at_kept[level + 1] = at_kept[level] + n_panels * rows * LANES
        if level > 0:
            at_below[level + 1] = at_below[level] + count * m * (m + 1)
    kept = np.empty(at_kept[n_levels])
    below = np.zeros(at_below[n_levels])
    logdet, taken = 0.0, 0.0
    for level in range(n_levels):
        row = HEAD + PER_LEVEL * level
        q, m, count = int(data[row]), int(data[row + 1]), int(data[row + 2])
        start, reach = int(data[row + 3]), data[row + 4]
        s = m - q
        n_panels = (count + LANES - 1) // LANES
        own_lam = np.ascontiguousarray(lam[start : start + q, start : start + q])
        parents = data[at_parents[level] : at_parents[level] + n_panels * LANES]
        size = n_panels * q * (m + p + 1) * LANES
        raw = data[at_raw[level] : at_raw[level] + size].reshape((n_panels, q, m + p + 1, LANES))
        n_kept = (at_kept[level + 1] - at_kept[level]) // (n_panels * LANES)
        store = kept[at_kept[level] : at_kept[level + 1]].reshape((n_panels, n_kept, LANES))
        sums = below[at_below[level] : at_below[level + 1]].reshape((-1, m, m + 1))
        last = min(level + 2, n_levels)
        up = below[at_below[level + 1] : at_below[last]].reshape((-1, max(s, 1), s + 1))
        every = plan_logarithms(own_lam, reach)
        product = np.ones(LANES)
        logs, squares = np.zeros(LANES), np.zeros(LANES)
        sides = np.empty((q, q, LANES))
        pivot = np.empty((q, LANES))
        found = np.empty(LANES)
        for t in range(n_panels):
            first = t * LANES
            many = min(LANES, count - first)
            one = q * (m + 1)
            work = store[t, :one].reshape((q, m + 1, LANES))
            turned = store[t, one : one + q * q].reshape((q, q, LANES))
            low = store[t, one + q * q : one + 2 * q * q].reshape((q, q, LANES))
            inverse = store[t, one + 2 * q * q : one + 2 * q * q + q]
            h = store[t, one + 2 * q * q + q :].reshape((s + 1, q, LANES))
            for i in range(q):
                for c in range(m):
                    set_scaled(1.0, raw[t, i, c], work[i, c])
                set_scaled(1.0, raw[t, i, m + p], work[i, m])
                for k in range(p):
                    add_scaled(-beta[k], raw[t, i, m + k], work[i, m])
            if level > 0:
                for g in range(many):
                    for i in range(q):
                        for c in range(m + 1):
                            entry = sums[first + g, i, c] if c >= i else sums[first + g, c, i]
                            work[i, c, g] += entry
                    parent = int(parents[first + g])
                    for c in range(s):
                        for d in range(c, s + 1):
                            up[parent, c, d] += sums[first + g, q + c, q + d]
            factor_panel(work, own_lam, turned, low, sides, pivot, inverse)
            add_determinants(pivot, every, t, product, logs)
            for c in range(s + 1):
                for a in range(q):
                    set_scaled(own_lam[0, a], work[0, q + c], h[c, a])
                    for i in range(1, q):
                        add_scaled(own_lam[i, a], work[i, q + c], h[c, a])
                solve_forward(low, h[c])
            for c in range(s):
                for d in range(c, s + 1):
                    for g in range(LANES):
                        found[g] = h[c, 0, g] * h[d, 0, g] * inverse[0, g]
                    for a in range(1, q):
                        for g in range(LANES):
                            found[g] += h[c, a, g] * h[d, a, g] * inverse[a, g]
                    for g in range(many):
                        up[int(parents[first + g]), c, d] -= found[g]
            for a in range(q):
                for g in range(LANES):
                    squares[g] += h[s, a, g] * h[s, a, g] * inverse[a, g]
        take_logarithms(product, logs)
        for g in range(LANES):
            logdet += logs[g]
            taken += squares[g]
    dlam = np.zeros((q_all, q_all))
    pull = np.zeros(p)  # X'Z u, of all units
    means, covs = np.empty((0, 1)), np.empty((0, 1, 1))
    for back in range(n_levels):
        level = n_levels - 1 - back
        row = HEAD + PER_LEVEL * level
        q, m, count, start = (
            int(data[row]), int(data[row + 1]), int(data[row + 2]), int(data[row + 3]),
        )  # fmt: skip
        s = m - q
        n_panels = (count + LANES - 1) // LANES
        own_lam = np.ascontiguousarray(lam[start : start + q, start : start + q])
        parents = data[at_parents[level] : at_parents[level] + n_panels * LANES]
        size = n_panels * q * (m + p + 1) * LANES
        raw = data[at_raw[level] : at_raw[level] + size].reshape((n_panels, q, m + p + 1, LANES))
        n_kept = (at_kept[level + 1] - at_kept[level]) // (n_panels * LANES)
        store = kept[at_kept[level] : at_kept[level + 1]].reshape((n_panels, n_kept, LANES))
        some = count if level > 0 else 0
        own_means, own_covs = np.empty((some, m)), np.empty((some, m, m))
        w, cov = np.zeros((s, LANES)), np.zeros((s, s, LANES))
        v, u, gap = np.empty((q, LANES)), np.empty((q, LANES)), np.empty((q, LANES))
        b = np.empty((s, q, LANES))
        spread = np.empty((s, LANES))
        x = np.empty((q, LANES))
        middle = np.empty((q, q, LANES))
        lanes = np.zeros((p + q * q, LANES))
        for t in range(n_panels):
            first = t * LANES
            many = min(LANES, count - first)
            one = q * (m + 1)
            work = store[t, :one].reshape((q, m + 1, LANES))
            turned = store[t, one : one + q * q].reshape((q, q, LANES))
            low = store[t, one + q * q : one + 2 * q * q].reshape((q, q, LANES))
            inverse = store[t, one + 2 * q * q : one + 2 * q * q + q]
            h = store[t, one + 2 * q * q + q :].reshape((s + 1, q, LANES))
            if s > 0:
                for g in range(many):
                    parent = int(parents[first + g])
                    for c in range(s):
                        w[c, g] = means[parent, c]
                        for d in range(s):
                            cov[c, d, g] = covs[parent, c, d]
            for a in range(q):
                set_scaled(1.0, h[s, a], v[a])
                for c in range(s):
                    subtract_product(h[c, a], w[c], v[a])
            solve_backward(low, inverse, v)
            for i in range(q):
                set_scaled(own_lam[i, 0], v[0], u[i])
                for a in range(1, q):
                    add_scaled(own_lam[i, a], v[a], u[i])
            for c in range(s):
                for a in range(q):
                    set_scaled(1.0, h[c, a], b[c, a])
                solve_backward(low, inverse, b[c])
            for i in range(q):
                set_scaled(1.0, work[i, m], gap[i])
                for c in range(s):
                    subtract_product(work[i, q + c], w[c], gap[i])
                for a in range(q):
                    subtract_product(work[i, a], u[a], gap[i])
                for k in range(p):
                    add_product(raw[t, i, m + k], u[i], lanes[k])
                for a in range(q):
                    set_scaled(1.0, turned[i, a], x[a])
                solve_forward(low, x)
                solve_backward(low, inverse, x)
                for a in range(q):
                    out = lanes[p + i * q + a]
                    for g in range(LANES):
                        out[g] += precision * gap[i, g] * v[a, g] - x[a, g]
                # U M, and then U M B'.
                for d in range(s):
                    _clear(spread[d])
                for c in range(s):
                    set_scaled(1.0, work[i, q + c], x[0])
                    for a in range(q):
                        subtract_product(turned[i, a], b[c, a], x[0])
                    for d in range(s):
                        add_product(x[0], cov[c, d], spread[d])
                for d in range(s):
                    for a in range(q):
                        add_product(spread[d], b[d, a], lanes[p + i * q + a])
            if level == 0:
                continue
            # N = K^-1 + B M B', column by column; then the effects of this unit and its parents.
            for e in range(q):
                for a in range(q):
                    _clear(x[a])
                for g in range(LANES):
                    x[e, g] = 1.0
                solve_forward(low, x)
                solve_backward(low, inverse, x)
                for a in range(q):
                    set_scaled(1.0, x[a], middle[a, e])
            for c in range(s):
                for a in range(q):
                    _clear(x[a])
                    for d in range(s):
                        add_product(cov[c, d], b[d, a], x[a])
                for a in range(q):
                    for e in range(q):
                        add_product(b[c, a], x[e], middle[a, e])
                # x is (M B')_c, so that -lam x is the covariance with the parents' c-th effect.
                for g in range(many):
                    for i in range(q):
                        value = 0.0
                        for a in range(q):
                            value -= own_lam[i, a] * x[a, g]
                        own_covs[first + g, i, q + c] = value
                        own_covs[first + g, q + c, i] = value
            for g in range(many):
                for i in range(q):
                    own_means[first + g, i] = u[i, g]
                    for e in range(q):
                        value = 0.0
                        for a in range(q):
                            for f in range(q):
                                value += own_lam[i, a] * middle[a, f, g] * own_lam[e, f]
                        own_covs[first + g, i, e] = value
                for c in range(s):
                    own_means[first + g, q + c] = w[c, g]
                    for d in range(s):
                        own_covs[first + g, q + c, q + d] = cov[c, d, g]
        means, covs = own_means, own_covs
        for k in range(p):
            for g in range(LANES):
                pull[k] += lanes[k, g]
        for i in range(q):
            for a in range(q):
                for g in range(LANES):
                    dlam[start + i, start + a] += lanes[p + i * q + a, g]
    dbeta = np.empty(p)
    rss = total[p, p] - taken
    for i in range(p):
        value = total[i, p]
        for k in range(p):
            value -= total[i, k] * beta[k]
        rss -= beta[i] * (total[i, p] + value)
        dbeta[i] = precision * (value - pull[i])
    loglik = -0.5 * (n * (LOG_2PI + 2.0 * np.log(sigma)) + logdet + rss * precision)
    return loglik, dlam, dbeta, rss * precision - n


@kernel
def _clear(out: Array) -> None:
    """Write zeros; 0 times what memory held before would be nan where that is."""
    for g in range(LANES):
        out[g] = 0.0
