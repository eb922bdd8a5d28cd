"""Whitened cross-products in panels of groups, and what a likelihood sums over them.

A panel holds LANES groups side by side, so that the innermost loop of everything runs over groups:
the compiler turns it into vector instructions, and a panel with all that is derived from it stays
in the first cache. With K_j = I + lam' Z_j'Z_j lam = E D E' (E unit lower triangular), no group
needs a square root, and a logarithm serves several groups.

The sums are taken lane by lane, then over the lanes of a stretch of panels, then over stretches in
their order. So they do not depend on how many threads work, nor on the width of the processor's
vectors.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.moments.sums import STRETCH as BLOCKS
from bhlm.moments.sums import sum_blocks
from bhlm.processes import count_cores

Array = np.ndarray

LANES = 64  # groups side by side: few enough for the first cache, enough to hide a loop's cost
PARTS = 16  # sums in which products over lanes are taken
STRETCH = 64  # panels that are summed in one go, 4096 groups
# Stretches below which one thread is as quick as several, which have to be started.
THREADED = 16
LOG_LARGEST = 690.0  # of what a product of determinants may reach: the largest double is e^709


@dataclass(frozen=True, slots=True)
class Panels:
    """The cross-products Z'[Z X y] of the groups, side by side, and the sum of [X y]'[X y]."""

    values: Array  # (T, q, k, LANES) with k = q + p + 1; groups that fill the last panel are zero
    total: Array  # (p + 1, p + 1)
    reach: float  # the largest trace of a group's Z'Z, which bounds its determinant

    @property
    def n_stretches(self) -> int:
        """The number of stretches that the sums are taken by."""
        return -(-len(self.values) // STRETCH)


def build_panels(blocks: Array, q: int, groups: Array | None = None) -> Panels:
    """Return the panels of whitened cross-products (J, k, k), Z first.

    With weights W_j of groups (J,) X_j and y_j count times sqrt(W_j): since K_j rests on Z_j alone,
    sums over groups of what is linear or quadratic in [X_j y_j] are then those with weights, by
    the kernels that know of none.
    """
    if groups is None:
        values, reach = pack_panels(blocks, q)
        return Panels(values, sum_blocks(blocks[:, q:, q:]), reach)
    values, reach, total = pack_weighted(blocks, q, np.sqrt(groups))
    return Panels(values, total, reach)


@kernel
def pack_panels(blocks: Array, q: int) -> tuple[Array, float]:
    """Return the panels (T, q, k, LANES) of cross-products (J, k, k), and the largest tr Z'Z."""
    n_groups, k, _ = blocks.shape
    values = np.zeros(((n_groups + LANES - 1) // LANES, q, k, LANES))
    reach = 0.0
    for j in range(n_groups):
        trace = 0.0
        for i in range(q):
            trace += blocks[j, i, i]
            for c in range(k):
                values[j // LANES, i, c, j % LANES] = blocks[j, i, c]
        reach = max(reach, trace)
    return values, reach


@kernel
def pack_weighted(blocks: Array, q: int, root: Array) -> tuple[Array, float, Array]:
    """Return what `pack_panels` does, and the sum of [X y]'[X y], with X and y times `root` (J,).

    The sum is taken as by `sum_blocks`.
    """
    values, reach = pack_panels(blocks, q)
    n_groups, r = len(blocks), blocks.shape[1] - q
    total, part = np.zeros((r, r)), np.zeros((r, r))
    for j in range(n_groups):
        once, twice = root[j], root[j] ** 2
        for i in range(q):
            for c in range(r):
                values[j // LANES, i, q + c, j % LANES] *= once
        for a in range(r):
            for b in range(r):
                part[a, b] += twice * blocks[j, q + a, q + b]
        if (j + 1) % BLOCKS == 0 or j + 1 == n_groups:
            for a in range(r):
                for b in range(r):
                    total[a, b] += part[a, b]
                    part[a, b] = 0.0
    return values, reach, total


def sum_stretches(
    fill: Callable[[int, int], None], n_stretches: int, *, threads: int | None = None
) -> None:
    """Call `fill` for all stretches, in several threads where that pays.

    Args:
        fill: writes the sums of the stretches from a first to before a last one, each to a place
            of its own, without holding Python's lock.
        n_stretches: how many there are.
        threads: how many work side by side; None takes the cores that this process may use.
    """
    if threads is None:
        threads = count_cores() if n_stretches >= THREADED else 1
    threads = min(threads, n_stretches)
    if threads <= 1:
        fill(0, n_stretches)
        return
    edges = [n_stretches * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, edges[:-1], edges[1:]))


@light_kernel
def add_scaled(factor: float, x: Array, out: Array) -> None:
    """Add factor x to `out`, lane by lane."""
    for g in range(LANES):
        out[g] += factor * x[g]


@light_kernel
def set_scaled(factor: float, x: Array, out: Array) -> None:
    """Write factor x to `out`, lane by lane."""
    for g in range(LANES):
        out[g] = factor * x[g]


@light_kernel
def add_product(x: Array, y: Array, out: Array) -> None:
    """Add x y to `out`, lane by lane."""
    for g in range(LANES):
        out[g] += x[g] * y[g]


@light_kernel
def subtract_product(x: Array, y: Array, out: Array) -> None:
    """Subtract x y from `out`, lane by lane."""
    for g in range(LANES):
        out[g] -= x[g] * y[g]


@light_kernel
def add_products(x: Array, y: Array, out: Array) -> None:
    """Add x'y over the lanes to `out` (PARTS,), in parts that no processor's vectors change."""
    for g in range(PARTS):
        one = x[g] * y[g] + x[g + 16] * y[g + 16]
        out[g] += one + (x[g + 32] * y[g + 32] + x[g + 48] * y[g + 48])


@light_kernel
def take_parts(parts: Array, out: Array) -> None:
    """Write the sums of `parts` (m, PARTS) to `out` (m,), and zero to `parts`."""
    for i in range(parts.shape[0]):
        x = parts[i]
        for g in range(8):
            x[g] += x[g + 8]
        for g in range(4):
            x[g] += x[g + 4]
        out[i] = (x[0] + x[2]) + (x[1] + x[3])
        x[:] = 0.0


@light_kernel
def factor_panel(
    panel: Array, lam: Array, turned: Array, low: Array, raw: Array, pivot: Array, inverse: Array
) -> None:
    """Factor K = E D E' of a panel's groups.

    Writes `turned` = Z'Z lam (q, q, LANES), the lower triangle `low` of E, `raw` = E D,
    the diagonal `pivot` (q, LANES) of D and its inverse.
    """
    q = lam.shape[0]
    for i in range(q):
        for c in range(q):
            set_scaled(lam[0, c], panel[i, 0], turned[i, c])
            for m in range(1, q):
                add_scaled(lam[m, c], panel[i, m], turned[i, c])
    for a in range(q):
        for c in range(a + 1):
            entry = raw[a, c] if c < a else pivot[a]
            set_scaled(lam[0, a], turned[0, c], entry)
            for m in range(1, q):
                add_scaled(lam[m, a], turned[m, c], entry)
            for i in range(c):
                subtract_product(raw[a, i], low[c, i], entry)
            scaled = low[a, c]
            if c < a:
                share = inverse[c]
                for g in range(LANES):
                    scaled[g] = entry[g] * share[g]
            else:
                own = inverse[a]
                for g in range(LANES):
                    # No pivot of I + (something positive) is below 1 but by rounding.
                    entry[g] = 1.0 if entry[g] < 0.0 else 1.0 + entry[g]
                    own[g] = 1.0 / entry[g]


@light_kernel
def solve_forward(low: Array, x: Array) -> None:
    """Overwrite x (q, LANES) by E^-1 x."""
    for a in range(1, x.shape[0]):
        for i in range(a):
            subtract_product(low[a, i], x[i], x[a])


@light_kernel
def solve_backward(low: Array, inverse: Array, x: Array) -> None:
    """Overwrite x (q, LANES) by E'^-1 D^-1 x."""
    q = x.shape[0]
    for a in range(q - 1, -1, -1):
        out, share = x[a], inverse[a]
        for g in range(LANES):
            out[g] *= share[g]
        for i in range(a + 1, q):
            subtract_product(low[i, a], x[i], out)


@light_kernel
def turn_panel(
    lam: Array,
    turned: Array,
    low: Array,
    inverse: Array,
    back: Array,
    turn: Array,
) -> None:
    """Write T = I - Z'Z lam K^-1 lam' of a panel's groups to `turn` (q, q, LANES).

    From what `factor_panel` wrote; F = T Z'Z and Z'H^-1 R = T Z'R. `back` (q, LANES) is
    overwritten. T is the inverse of M = I + Z'Z lam lam', whose determinant is that of K: one or
    two coefficients take their cofactors, which keep the digits that large variances leave of
    a difference.
    """
    q = lam.shape[0]
    if q == 1:
        set_scaled(1.0, inverse[0], turn[0, 0])
        return
    if q == 2:
        for i in range(2):
            own, other = turn[1 - i, 1 - i], turn[i, 1 - i]
            set_scaled(lam[i, 0], turned[i, 0], own)
            add_scaled(lam[i, 1], turned[i, 1], own)
            set_scaled(-lam[1 - i, 0], turned[i, 0], other)
            add_scaled(-lam[1 - i, 1], turned[i, 1], other)
            for g in range(LANES):
                own[g] += 1.0
        for g in range(LANES):
            share = inverse[0, g] * inverse[1, g]
            turn[0, 0, g] *= share
            turn[0, 1, g] *= share
            turn[1, 0, g] *= share
            turn[1, 1, g] *= share
        return
    for i in range(q):
        for a in range(q):
            set_scaled(1.0, turned[i, a], back[a])
        solve_forward(low, back)
        solve_backward(low, inverse, back)
        for m in range(q):
            set_scaled(-lam[m, 0], back[0], turn[i, m])
            for a in range(1, q):
                add_scaled(-lam[m, a], back[a], turn[i, m])
        for g in range(LANES):
            turn[i, i, g] += 1.0


@light_kernel
def plan_logarithms(lam: Array, reach: float) -> int:
    """Return how many panels' determinants may be multiplied before a logarithm is taken.

    det K <= (1 + tr(lam lam') tr Z'Z)^q. Zero: not even one panel's, take it pivot by pivot.
    """
    q = lam.shape[0]
    size = 0.0
    for i in range(q):
        for m in range(q):
            size += lam[i, m] * lam[i, m]
    bound = q * np.log1p(size * reach)
    if not bound < LOG_LARGEST:
        return 0
    return STRETCH if bound * STRETCH < LOG_LARGEST else int(LOG_LARGEST / bound)


@light_kernel
def take_logarithms(product: Array, logdet: Array) -> None:
    """Move the logarithms of `product` (LANES,) to `logdet` (LANES,)."""
    for g in range(LANES):
        if product[g] != 1.0:  # as of lanes without a group
            logdet[g] += np.log(product[g])
            product[g] = 1.0


@light_kernel
def add_determinants(pivot: Array, every: int, t: int, product: Array, logdet: Array) -> None:
    """Add log |K| of the t-th panel to what is in `product` and `logdet` (LANES,) together."""
    for a in range(pivot.shape[0]):
        own = pivot[a]
        for g in range(LANES):
            product[g] *= own[g]
        if every == 0:
            take_logarithms(product, logdet)
    if every > 0 and (t + 1) % every == 0:
        take_logarithms(product, logdet)


@light_kernel
def take_lanes(lanes: Array, out: Array) -> None:
    """Write the sums over lanes of `lanes` (m, LANES) to `out` (m,), and zero to `lanes`.

    Each is taken lane by lane; four rows at a time, since an addition waits for the one before.
    """
    m = lanes.shape[0]
    for i in range(0, m - 3, 4):
        one, two, three, four = 0.0, 0.0, 0.0, 0.0
        for g in range(LANES):
            one += lanes[i, g]
            two += lanes[i + 1, g]
            three += lanes[i + 2, g]
            four += lanes[i + 3, g]
        out[i], out[i + 1], out[i + 2], out[i + 3] = one, two, three, four
    for i in range(m - m % 4, m):
        one = 0.0
        for g in range(LANES):
            one += lanes[i, g]
        out[i] = one
    lanes[:] = 0.0
