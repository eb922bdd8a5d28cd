"""What the likelihood sums over groups with weights and strata, at many roots of G at once.

With M_j = sum_s c_s [Z X y]_js'[Z X y]_js, c_s = sigma_1^2 / sigma_s^2, and H_j, [X y]'H_j^-1 [X y]
of M_j as `positions` has them, the sums are those of W_j log|H_j| and W_j [X y]'H_j^-1 [X y]. One
stratum is the model with a weight per group.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.weighted_marginal import spread_strata
from bhlm.likelihood.whitening import Whitened
from bhlm.processes import count_cores

Array = np.ndarray
CHUNK = 64  # positions that a thread takes at a time


class Strata(NamedTuple):
    """Whitened cross-products of strata and groups, and what each counts by."""

    blocks: Array  # (S, J, k, k)
    groups: Array  # (J,) what each group's log-likelihood is multiplied by
    totals: Array  # (S, r, r) cross-products of [X y], weighted by the groups
    rows: Array  # (S,) that count: their sum is that of the whitened data


def spread_positions(white: Whitened) -> Strata:
    """Return what `sum_weighted` reads of whitened moments."""
    blocks, sizes, groups = spread_strata(white)
    q = white.q
    totals = np.einsum("j,sjab->sab", groups, blocks[:, :, q:, q:])
    return Strata(blocks, np.ascontiguousarray(groups), totals, sizes @ groups)


def sum_weighted(data: Strata, lam: Array, counts: Array) -> tuple[Array, Array]:
    """Return the sums of W_j log|H_j| (N,) and W_j [X y]'H_j^-1 [X y] (N, r, r).

    Args:
        data: cross-products.
        lam: relative roots (N, q, q).
        counts: c_s of every stratum (N, S).
    """
    n, r = len(lam), data.totals.shape[-1]
    logdet, e = np.empty(n), np.empty((n, r, r))
    lam, counts = np.ascontiguousarray(lam), np.ascontiguousarray(counts)

    def fill(first: int) -> None:
        part = slice(first, first + CHUNK)
        _sum_weighted(
            data.blocks, data.groups, data.totals, lam[part], counts[part], logdet[part], e[part]
        )

    firsts = range(0, n, CHUNK)
    if len(firsts) < 2:
        fill(0)
        return logdet, e
    with ThreadPoolExecutor(min(count_cores(), len(firsts))) as pool:
        list(pool.map(fill, firsts))
    return logdet, e


@kernel
def _sum_weighted(
    blocks: Array, groups: Array, totals: Array, lam: Array, counts: Array, logdet: Array, e: Array
) -> None:
    """Write what `sum_weighted` returns: with lam'Z'[Z X y] = [A B], L L' = I + A lam,

    log|H| is twice that of L's diagonal, and [X y]'H^-1 [X y] is less by (L^-1 B)'(L^-1 B).
    """
    n_strata, n_groups, k, _ = blocks.shape
    q = lam.shape[1]
    r = k - q
    z = np.empty((q, k))
    lean = np.empty((q, k))
    low = np.empty((q, q))
    for i in range(lam.shape[0]):
        for c in range(r):
            for d in range(r):
                e[i, c, d] = 0.0
                for s in range(n_strata):
                    e[i, c, d] += counts[i, s] * totals[s, c, d]
        logdet[i] = 0.0
        for j in range(n_groups):
            for a in range(q):
                for b in range(k):
                    z[a, b] = 0.0
                    for s in range(n_strata):
                        z[a, b] += counts[i, s] * blocks[s, j, a, b]
            for a in range(q):
                for b in range(k):
                    lean[a, b] = 0.0
                    for c in range(q):
                        lean[a, b] += lam[i, c, a] * z[c, b]
            determinant = 0.0
            for a in range(q):
                for b in range(a + 1):
                    entry = 1.0 if a == b else 0.0
                    for c in range(q):
                        entry += lean[a, c] * lam[i, c, b]
                    for c in range(b):
                        entry -= low[a, c] * low[b, c]
                    low[a, b] = np.sqrt(entry) if a == b else entry / low[b, b]
                determinant += 2.0 * np.log(low[a, a])
                for b in range(q, k):
                    entry = lean[a, b]
                    for c in range(a):
                        entry -= low[a, c] * lean[c, b]
                    lean[a, b] = entry / low[a, a]
            logdet[i] += groups[j] * determinant
            for a in range(q):
                for c in range(r):
                    own = groups[j] * lean[a, q + c]
                    for d in range(c + 1):
                        e[i, c, d] -= own * lean[a, q + d]
        for c in range(r):
            for d in range(c):
                e[i, d, c] = e[i, c, d]
