"""The marginal algebra where each group's log-likelihood is multiplied by a weight.

With weights W_j the sums of `profiled` become sums of W_j times the group's own.
"""

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.panel_bends import add_stretches
from bhlm.likelihood.panels import (
    LANES,
    PARTS,
    STRETCH,
    Panels,
    add_product,
    add_products,
    factor_panel,
    set_scaled,
    sum_stretches,
    take_parts,
    turn_panel,
)

Array = np.ndarray


def spread_weights(groups: Array) -> Array:
    """Return W_j - 1 (T, LANES) by panels of groups; those that fill the last one have zero."""
    more = np.zeros((-(-len(groups) // LANES), LANES))
    more.ravel()[: len(groups)] = groups - 1.0
    return more


def weigh_panels(groups: Array | None) -> Array | None:
    """Return `spread_weights`; None where groups have none."""
    return None if groups is None else spread_weights(groups)


@kernel
def fill_inner(values: Array, more: Array, first: int, last: int, lam: Array, out: Array) -> None:
    """Write what weights W_j add to sums over groups of what rests on Z_j alone.

    Weighted panels leave that without weights. A row of `out`, one for each stretch from `first` to
    before `last`, holds the sums of (W_j - 1) times log |H_j|, the lower triangle (m,) of
    F_j = Z_j'H_j^-1 Z_j, and the lower triangle of its products (m, m).
    """
    _, q, _, _ = values.shape
    m = q * (q + 1) // 2
    turned = np.empty((q, q, LANES))
    low = np.empty((q, q, LANES))
    raw = np.empty((q, q, LANES))
    pivot = np.empty((q, LANES))
    inverse = np.empty((q, LANES))
    back = np.empty((q, LANES))
    turn = np.empty((q, q, LANES))
    f = np.empty((m, LANES))
    weighted = np.empty((m, LANES))
    logs = np.empty(LANES)
    parts = np.zeros((out.shape[1], PARTS))
    for s in range(first, last):
        for t in range(s * STRETCH, min((s + 1) * STRETCH, values.shape[0])):
            panel = values[t]
            factor_panel(panel, lam, turned, low, raw, pivot, inverse)
            turn_panel(lam, turned, low, inverse, back, turn)
            for a in range(q):
                for g in range(LANES):
                    logs[g] = np.log(pivot[a, g])
                add_products(more[t], logs, parts[0])
            at = 0
            for a in range(q):
                for b in range(a + 1):
                    set_scaled(0.0, logs, f[at])
                    for i in range(q):
                        add_product(turn[a, i], panel[i, b], f[at])
                    for g in range(LANES):
                        weighted[at, g] = more[t, g] * f[at, g]
                    add_products(more[t], f[at], parts[1 + at])
                    at += 1
            at = 1 + m
            for i in range(m):
                for n in range(i + 1):
                    add_products(weighted[i], f[n], parts[at])
                    at += 1
        take_parts(parts, out[s])


def sum_inner(panels: Panels, more: Array, lam: Array) -> Array:
    """Return the row of `fill_inner` summed over all groups, more = `spread_weights`."""
    q = len(lam)
    m = q * (q + 1) // 2
    sums = np.empty((panels.n_stretches, 1 + m + m * (m + 1) // 2))

    def fill(first: int, last: int) -> None:
        fill_inner(panels.values, more, first, last, lam, sums)

    sum_stretches(fill, panels.n_stretches)
    found: Array = add_stretches(sums)
    return found


def spread_lower(inner: Array, q: int) -> Array:
    """Return what a row of `fill_inner` adds to the sum (q, q) of F_j."""
    f = np.empty((q, q))
    rows, columns = np.tril_indices(q)
    f[rows, columns] = f[columns, rows] = inner[1 : 1 + len(rows)]
    return f
