"""What the profiled likelihood sums over groups, at many roots of G at once."""

import numpy as np

from bhlm.design.kernels import light_kernel
from bhlm.likelihood.panel_sums import fill_products
from bhlm.likelihood.panels import STRETCH, sum_stretches
from bhlm.processes import count_cores

Array = np.ndarray
TOGETHER = 16  # positions that a stretch of panels is read for at once
LANES_PER_THREAD = 20_000  # panels x positions below which a second thread is not worth its start


def sum_positions(values: Array, total: Array, reach: float, lam: Array) -> tuple[Array, Array]:
    """Return sum_j log|H_j| (N,) and E = sum_j [X y]'H_j^-1 [X y] (N, r, r) at each lam (N, q, q).

    Several threads share the positions where that pays; the sums do not depend on how many.

    Args:
        values: panels of whitened cross-products, see `bhlm.likelihood.panels`.
        total: cross-products of [X y] over all rows (r, r).
        reach: the largest trace of a group's Z'Z.
        lam: relative roots.
    """
    count, r = len(lam), len(total)
    logdet, e = np.empty(count), np.empty((count, r, r))

    def fill(first: int, last: int) -> None:
        part = slice(first, last)
        _sum_positions(values, total, reach, lam[part], logdet[part], e[part])

    threads = max(1, count * len(values) // LANES_PER_THREAD)
    sum_stretches(fill, count, threads=min(count_cores(), threads))
    return logdet, e


@light_kernel
def _sum_positions(
    values: Array, total: Array, reach: float, lam: Array, logdet: Array, e: Array
) -> None:
    """Write what `sum_positions` returns.

    A stretch of panels stays in the second cache while all of a few positions read it, so that a
    table that does not fit there is read once for those and not once for each.
    """
    r = total.shape[0]
    n_stretches = (values.shape[0] + STRETCH - 1) // STRETCH
    sums = np.empty((TOGETHER, n_stretches, 1 + r * (r + 1) // 2))
    for first in range(0, lam.shape[0], TOGETHER):
        last = min(first + TOGETHER, lam.shape[0])
        for s in range(n_stretches):
            for i in range(first, last):
                fill_products(values, reach, s, s + 1, lam[i], sums[i - first])
        for i in range(first, last):
            own = sums[i - first]
            logdet[i] = 0.0
            for s in range(n_stretches):
                logdet[i] += own[s, 0]
            at = 1
            for c in range(r):
                for d in range(c + 1):
                    taken = 0.0
                    for s in range(n_stretches):
                        taken += own[s, at]
                    at += 1
                    e[i, c, d] = total[c, d] - taken
                    e[i, d, c] = e[i, c, d]
