"""What the profiled likelihood sums over groups, at many roots of G at once.

With R = Z'[X y] and K = I + lam'Z'Z lam of a group, E = [X y]'[X y] - sum_j R'lam K^-1 lam'R. Of
two coefficients, with Psi = lam lam',

    |K| = 1 + tr(Psi Z'Z) + |Psi| |Z'Z|,    R'lam K^-1 lam'R = R'(Psi + |Psi| adj Z'Z) R / |K|,

in which next to nothing cancels, and what Psi and |Psi| weigh is the same wherever lam is: of each
pair of columns of R three products and R'adj(Z'Z) R. So of one or two coefficients, and few
columns, these are kept, and a position costs a group a division and some 10 + 9 r (r + 1) / 2
operations, r = p + 1.
"""

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.panel_sums import fill_products
from bhlm.likelihood.panels import (
    LANES,
    PARTS,
    STRETCH,
    Panels,
    plan_logarithms,
    sum_stretches,
    take_lanes,
    take_logarithms,
    take_parts,
)
from bhlm.processes import count_cores

Array = np.ndarray
TOGETHER = 16  # positions that a stretch of panels is read for at once
LANES_PER_THREAD = 20_000  # panels x positions below which a second thread is not worth its start
FEW = 4  # columns of [X y] up to which products of pairs are kept: 44 rows then, for 12 of a panel
BLOCK = 8  # panels of products that are read for several positions at once: 115 kB of three columns
# A determinant below this share of its first term is what rounding leaves of zero.
LOST = 1e-15


def pair_columns(panels: Panels) -> Array | None:
    """Return Z'Z and the products of pairs of columns of Z'[X y] by group, as `sum_positions` asks.

    (T, m, LANES); None of three coefficients, or of many columns.
    """
    q, r = panels.values.shape[1], len(panels.total)
    return fill_pairs(panels.values) if q <= 2 and r <= FEW else None


def sum_positions(panels: Panels, lam: Array, *, pairs: Array | None = None) -> tuple[Array, Array]:
    """Return sum_j log|H_j| (N,) and E = sum_j [X y]'H_j^-1 [X y] (N, r, r) at each lam (N, q, q).

    Several threads share the positions where that pays; the sums do not depend on how many.

    Args:
        panels: whitened cross-products.
        lam: relative roots.
        pairs: `pair_columns` of the panels, where there are any.
    """
    count, r = len(lam), len(panels.total)
    logdet, e = np.empty(count), np.empty((count, r, r))

    def fill(first: int, last: int) -> None:
        part = slice(first, last)
        own = lam[part], logdet[part], e[part]
        if pairs is None:
            _sum_positions(panels.values, panels.total, panels.reach, *own)
        else:
            _sum_pairs(pairs, panels.total, panels.reach, *own)

    threads = max(1, count * len(panels.values) // LANES_PER_THREAD)
    sum_stretches(fill, count, threads=min(count_cores(), threads))
    if pairs is not None and not (is_told := np.isfinite(logdet)).all():
        # A determinant was no double: without pairs it is taken pivot by pivot.
        logdet[~is_told], e[~is_told] = sum_positions(panels, lam[~is_told])
    return logdet, e


@kernel
def fill_pairs(values: Array) -> Array:
    """Return `pair_columns` of panels (T, q, k, LANES), q being one or two.

    Of one coefficient the rows are Z'Z and, of each pair of columns, their product; of two z00,
    2 z01, z11 and |Z'Z|, and of each pair what psi00, psi01, psi11 and |Psi| weigh.
    """
    n_panels, q, k, _ = values.shape
    r = k - q
    head, width = (1, 1) if q == 1 else (4, 4)
    out = np.empty((n_panels, head + width * (r * (r + 1) // 2), LANES))
    rest = np.zeros(k)
    for t in range(n_panels):
        panel, own = values[t], out[t]
        for g in range(LANES):
            own[0, g] = panel[0, 0, g]
            # The larger of both coefficients goes first, and `rest` is what it leaves of the other.
            a = 0 if q == 1 or panel[0, 0, g] >= panel[1, 1, g] else 1
            size = 0.0
            if q == 2:
                z00, z01, z11 = panel[0, 0, g], panel[0, 1, g], panel[1, 1, g]
                size = z00 * z11 - z01 * z01
                size = size if size > LOST * z00 * z11 else 0.0
                own[1, g], own[2, g], own[3, g] = 2.0 * z01, z11, size
                share = z01 / panel[a, a, g] if panel[a, a, g] > 0.0 else 0.0
                for c in range(q, k):
                    rest[c] = panel[1 - a, c, g] - share * panel[a, c, g]
            at = head
            for c in range(q, k):
                for d in range(q, c + 1):
                    own[at, g] = panel[0, c, g] * panel[0, d, g]
                    if q == 2:
                        own[at + 1, g] = panel[0, c, g] * panel[1, d, g]
                        own[at + 1, g] += panel[1, c, g] * panel[0, d, g]
                        own[at + 2, g] = panel[1, c, g] * panel[1, d, g]
                        own[at + 3, g] = panel[a, a, g] * rest[c] * rest[d]
                        if size > 0.0:
                            first = panel[a, c, g] * panel[a, d, g]
                            own[at + 3, g] += size / panel[a, a, g] * first
                    at += width
    return out


@kernel
def _sum_pairs(
    pairs: Array, total: Array, reach: float, lam: Array, logdet: Array, e: Array
) -> None:
    """Write what `sum_positions` returns, from the products of `pair_columns`."""
    q, r = lam.shape[1], total.shape[0]
    n_panels, m = pairs.shape[0], r * (r + 1) // 2
    head, width = (1, 1) if q == 1 else (4, 4)
    share, product = np.empty(LANES), np.empty((TOGETHER, LANES))
    logs, parts = np.empty((TOGETHER, 1, LANES)), np.empty((TOGETHER, m, PARTS))
    own, one, taken = np.empty(m), np.empty(1), np.empty((TOGETHER, m))
    every, weights = np.empty(TOGETHER, dtype=np.int64), np.empty((TOGETHER, 4))
    for first in range(0, lam.shape[0], TOGETHER):
        count = min(TOGETHER, lam.shape[0] - first)
        product[:] = 1.0
        logs[:] = 0.0
        parts[:] = 0.0
        taken[:] = 0.0
        for i in range(count):
            every[i] = max(1, plan_logarithms(lam[first + i], reach))
            weigh_psi(lam[first + i], weights[i])
            logdet[first + i] = 0.0
        for start in range(0, n_panels, BLOCK):
            stop = min(start + BLOCK, n_panels)
            for i in range(count):
                for t in range(start, stop):
                    panel = pairs[t].ravel()
                    weigh_lanes(panel, weights[i], q, product[i], share)
                    if (t + 1) % every[i] == 0:
                        take_logarithms(product[i], logs[i, 0])
                    for at in range(m):
                        columns = panel[(head + width * at) * LANES :]
                        add_weighed(share, columns, weights[i], q, parts[i, at])
                if stop % STRETCH == 0 or stop == n_panels:
                    take_logarithms(product[i], logs[i, 0])
                    take_lanes(logs[i], one)
                    take_parts(parts[i], own)
                    logdet[first + i] += one[0]
                    for at in range(m):
                        taken[i, at] += own[at]
        for i in range(count):
            at = 0
            for c in range(r):
                for d in range(c + 1):
                    e[first + i, c, d] = total[c, d] - taken[i, at]
                    e[first + i, d, c] = e[first + i, c, d]
                    at += 1


@kernel
def weigh_psi(lam: Array, out: Array) -> None:
    """Write psi00, psi01, psi11 and |Psi| of lam (q, q) to `out` (4,); of one coefficient psi."""
    out[0] = lam[0, 0] * lam[0, 0]
    if lam.shape[0] == 2:
        out[0] += lam[0, 1] * lam[0, 1]
        out[1] = lam[0, 0] * lam[1, 0] + lam[0, 1] * lam[1, 1]
        out[2] = lam[1, 0] * lam[1, 0] + lam[1, 1] * lam[1, 1]
        out[3] = (lam[0, 0] * lam[1, 1] - lam[0, 1] * lam[1, 0]) ** 2


@kernel
def weigh_lanes(panel: Array, weights: Array, q: int, product: Array, share: Array) -> None:
    """Multiply `product` (LANES,) by |K| of a panel's groups, and write 1 / |K| to `share`.

    `panel` are the numbers of a panel of `pair_columns`, `weights` (4,) those of `weigh_psi`.
    """
    psi00, psi01, psi11, size = weights[0], weights[1], weights[2], weights[3]
    for g in range(LANES):
        if q == 1:
            rise = psi00 * panel[g]
        else:
            rise = psi00 * panel[g] + psi01 * panel[LANES + g]
            rise += psi11 * panel[2 * LANES + g] + size * panel[3 * LANES + g]
        # No determinant of I + (something positive) is below 1 but by rounding.
        det = 1.0 if rise < 0.0 else 1.0 + rise
        product[g] *= det
        share[g] = 1.0 / det


@kernel
def add_weighed(share: Array, columns: Array, weights: Array, q: int, out: Array) -> None:
    """Add the sum over lanes of a pair of columns, weighed, to `out` (PARTS,).

    In the order of `panels.add_products`; `columns` are the pair's rows of `pair_columns`.
    """
    psi00, psi01, psi11, size = weights[0], weights[1], weights[2], weights[3]
    for g in range(PARTS):
        one = two = 0.0
        for part in range(4):
            at = part * PARTS + g
            value = psi00 * columns[at]
            if q == 2:
                value += psi01 * columns[LANES + at] + psi11 * columns[2 * LANES + at]
                value += size * columns[3 * LANES + at]
            if part < 2:
                one += share[at] * value
            else:
                two += share[at] * value
        out[g] += one + two


@kernel
def _sum_positions(
    values: Array, total: Array, reach: float, lam: Array, logdet: Array, e: Array
) -> None:
    """Write what `sum_positions` returns, from panels of any number of coefficients.

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
