"""What the profiled likelihood sums over groups, by panels."""

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.panels import (
    LANES,
    PARTS,
    STRETCH,
    add_determinants,
    add_product,
    add_products,
    add_scaled,
    factor_panel,
    plan_logarithms,
    set_scaled,
    solve_forward,
    subtract_product,
    take_lanes,
    take_logarithms,
    take_parts,
    turn_panel,
)

Array = np.ndarray


@kernel
def fill_products(
    values: Array, reach: float, first: int, last: int, lam: Array, out: Array
) -> None:
    """Write what the stretches from `first` to before `last` take off the products of [X y].

    A row of `out` (stretches, 1 + r (r + 1) / 2), r = p + 1, holds the sum of log |K_j| and the
    lower triangle of the sum of R'lam K^-1 lam'R with R = Z'[X y], so that E is the total
    less these.
    """
    _, q, k, _ = values.shape
    r = k - q
    turned = np.empty((q, q, LANES))
    low = np.empty((q, q, LANES))
    raw = np.empty((q, q, LANES))
    pivot = np.empty((q, LANES))
    inverse = np.empty((q, LANES))
    half = np.empty((r, q, LANES))
    shares = np.empty((r, q, LANES))  # D^-1 times it
    product = np.ones(LANES)
    logdet = np.zeros((1, LANES))
    parts = np.zeros((out.shape[1], PARTS))
    every = plan_logarithms(lam, reach)
    for s in range(first, last):
        for t in range(s * STRETCH, min((s + 1) * STRETCH, values.shape[0])):
            panel = values[t]
            factor_panel(panel, lam, turned, low, raw, pivot, inverse)
            add_determinants(pivot, every, t, product, logdet[0])
            at = 1
            for c in range(r):
                for a in range(q):
                    set_scaled(lam[0, a], panel[0, q + c], half[c, a])
                    for m in range(1, q):
                        add_scaled(lam[m, a], panel[m, q + c], half[c, a])
                solve_forward(low, half[c])
                for a in range(q):
                    for g in range(LANES):
                        shares[c, a, g] = half[c, a, g] * inverse[a, g]
                for d in range(c + 1):
                    for a in range(q):
                        add_products(shares[c, a], half[d, a], parts[at])
                    at += 1
        take_logarithms(product, logdet[0])
        take_parts(parts, out[s])
        take_lanes(logdet, out[s, :1])


@kernel
def fill_scores(
    values: Array, first: int, last: int, lam: Array, weight: Array, out: Array
) -> None:
    """Write what the stretches from `first` to before `last` add to `sum_scores`.

    With R = Z'[X y] and T = I - Z'Z lam K^-1 lam', F = T Z'Z and U = T R. A row of `out`
    (stretches, q q) holds the sum of T (Z'Z - R weight R' T'), row by row.
    """
    _, q, k, _ = values.shape
    r = k - q
    turned = np.empty((q, q, LANES))
    low = np.empty((q, q, LANES))
    raw = np.empty((q, q, LANES))
    pivot = np.empty((q, LANES))
    inverse = np.empty((q, LANES))
    back = np.empty((q, LANES))
    turn = np.empty((q, q, LANES))
    score = np.empty((r, LANES))
    row = np.empty(LANES)
    middle = np.empty((q, q, LANES))
    lanes = np.zeros((q * q, LANES))
    for s in range(first, last):
        for t in range(s * STRETCH, min((s + 1) * STRETCH, values.shape[0])):
            panel = values[t]
            factor_panel(panel, lam, turned, low, raw, pivot, inverse)
            turn_panel(lam, turned, low, inverse, back, turn)
            # score = U, then middle = Z'Z - R weight U'.
            for i in range(q):
                for m in range(q):
                    set_scaled(1.0, panel[i, m], middle[i, m])
            for m in range(q):
                for c in range(r):
                    set_scaled(0.0, panel[0, q + c], score[c])
                    for i in range(q):
                        add_product(turn[m, i], panel[i, q + c], score[c])
                for d in range(r):
                    set_scaled(weight[d, 0], score[0], row)
                    for c in range(1, r):
                        add_scaled(weight[d, c], score[c], row)
                    for i in range(q):
                        subtract_product(panel[i, q + d], row, middle[i, m])
            for i in range(q):
                for m in range(q):
                    for a in range(q):
                        add_product(turn[i, a], middle[a, m], lanes[i * q + m])
        take_lanes(lanes, out[s])
