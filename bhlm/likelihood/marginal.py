"""The marginal log-likelihood of beta, lam and sigma with its gradient, in one pass.

Unlike the profiled criterion of `likelihood`, the fixed effects and sigma stand as given, as a
sampler needs them. With r = y - X beta and H from lam,

    value = -1/2 (n log(2 pi sigma^2) + sum_j log|H_j| + r' H^-1 r / sigma^2)
"""

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.panels import (
    LANES,
    STRETCH,
    add_determinants,
    add_scaled,
    build_panels,
    factor_panel,
    pack_panels,
    plan_logarithms,
    set_scaled,
    solve_backward,
    solve_forward,
    subtract_product,
    take_lanes,
    take_logarithms,
)
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.profiled import factor_group
from bhlm.likelihood.whitening import Whitened, whiten_parameters
from bhlm.moments.sums import sum_blocks
from bhlm.processes import share_out

Array = np.ndarray
ABREAST = 16  # lanes of which a panel is used all or none, and which vectors hold side by side
LOG_2PI = float(np.log(2.0 * np.pi))


@kernel
def fill_marginal(
    values: Array,
    reach: float,
    first: int,
    last: int,
    lam: Array,
    beta: Array,
    precision: float,
    out: Array,
) -> None:
    """Write what the stretches from `first` to before `last` add to `marginal_panels`.

    With v = lam'Z'r, r = y - X beta, and w = K^-1 v: a row of `out` (stretches, 2 + p + q q)
    holds the sums over groups of log |K|, v'w, X'Z lam w and, row by row,
    precision Z'H^-1 r w' - Z'H^-1 Z lam. There Z'H^-1 r = Z'r - Z'Z lam w and
    Z'H^-1 Z lam = Z'Z lam K^-1.
    """
    _, q, k, _ = values.shape
    if q == 2:
        fill_two(values, reach, first, last, lam, beta, precision, out)
        return
    p = k - q - 1
    turned = np.empty((q, q, LANES))
    low = np.empty((q, q, LANES))
    raw = np.empty((q, q, LANES))
    gap = np.empty((q, LANES))
    pivot = np.empty((q, LANES))
    inverse = np.empty((q, LANES))
    w = np.empty((q, LANES))
    spread = np.empty((q, LANES))
    back = np.empty((q, LANES))
    product = np.ones(LANES)
    lanes = np.zeros((2 + p + q * q, LANES))
    every = plan_logarithms(lam, reach)
    for s in range(first, last):
        for t in range(s * STRETCH, min((s + 1) * STRETCH, values.shape[0])):
            panel = values[t]
            take_residual(panel, beta, LANES, gap)
            factor_panel(panel, lam, turned, low, raw, pivot, inverse)
            add_determinants(pivot, every, t, product, lanes[0])
            for a in range(q):
                set_scaled(lam[0, a], gap[0], w[a])
                for m in range(1, q):
                    add_scaled(lam[m, a], gap[m], w[a])
            solve_forward(low, w)
            for a in range(q):
                for g in range(LANES):
                    lanes[1, g] += w[a, g] * w[a, g] * inverse[a, g]
            solve_backward(low, inverse, w)
            for i in range(q):
                set_scaled(lam[i, 0], w[0], spread[i])
                for a in range(1, q):
                    add_scaled(lam[i, a], w[a], spread[i])
            add_fixed(panel, spread, LANES, lanes[2:])
            for i in range(q):
                for a in range(q):
                    subtract_product(panel[i, a], spread[a], gap[i])
            for i in range(q):
                for a in range(q):
                    set_scaled(1.0, turned[i, a], back[a])
                solve_forward(low, back)
                solve_backward(low, inverse, back)
                for a in range(q):
                    at = 2 + p + i * q + a
                    for g in range(LANES):
                        lanes[at, g] += precision * gap[i, g] * w[a, g] - back[a, g]
        take_logarithms(product, lanes[0])
        take_lanes(lanes, out[s])


@kernel
def fill_two(
    values: Array,
    reach: float,
    first: int,
    last: int,
    lam: Array,
    beta: Array,
    precision: float,
    out: Array,
) -> None:
    """Do for two coefficients what `fill_marginal` does of any number of them, to the bit.

    Lanes behind a panel's last group are left out, which is half of the work for thirty groups.
    """
    k = values.shape[2]
    p = k - 3
    # Z'r, the diagonal of D and lam w, two rows each; then what `out` has the sums of, with the
    # gradient by lam, four rows, before the rest.
    room = np.empty((13 + p, LANES))
    gap, pivot, spread, slope, lanes = room[:2], room[2:4], room[4:6], room[6:10], room[10:-1]
    logdet, fixed = lanes[0], lanes[2:]
    room[6:] = 0.0
    product = room[-1]
    product[:] = 1.0
    every = plan_logarithms(lam, reach)
    flat, held = values.ravel(), room.ravel()
    for s in range(first, last):
        for t in range(s * STRETCH, min((s + 1) * STRETCH, values.shape[0])):
            panel = values[t]
            used = count_lanes(panel)
            take_residual(panel, beta, used, gap)
            for g in range(0, used, ABREAST):
                solve_two(flat, 2 * t * k * LANES + g, k * LANES, lam, precision, held, g)
            if used < LANES:
                pivot[:, used:] = 1.0
            add_determinants(pivot, every, t, product, logdet)
            add_fixed(panel, spread, used, fixed)
        take_logarithms(product, logdet)
        take_lanes(lanes, out[s, : 2 + p])
        take_lanes(slope, out[s, 2 + p :])


@kernel
def count_lanes(panel: Array) -> int:
    """Return how many lanes of a panel (q, k, LANES) have groups, a multiple of ABREAST.

    What fills a panel has Z'Z = 0, and adds zeros.
    """
    for used in range(LANES, ABREAST, -ABREAST):
        for a in range(panel.shape[0]):
            for g in range(used - ABREAST, used):
                if panel[a, a, g] != 0.0:
                    return used
    return ABREAST


@kernel
def take_residual(panel: Array, beta: Array, used: int, gap: Array) -> None:
    """Write Z'r = Z'y - Z'X beta of the used lanes of a panel (q, k, LANES) to `gap` (q, LANES)."""
    q, k, _ = panel.shape
    for a in range(q):
        for g in range(used):
            gap[a, g] = panel[a, k - 1, g]
        for i in range(len(beta)):
            share = beta[i]
            for g in range(used):
                gap[a, g] -= share * panel[a, q + i, g]


@kernel
def add_fixed(panel: Array, spread: Array, used: int, lanes: Array) -> None:
    """Add X'Z lam w of the used lanes of a panel (q, k, LANES) to the first rows of `lanes`."""
    q, k, _ = panel.shape
    for i in range(k - q - 1):
        for a in range(q):
            for g in range(used):
                lanes[i, g] += panel[a, q + i, g] * spread[a, g]


@kernel
def solve_two(
    values: Array, at: int, second: int, lam: Array, precision: float, room: Array, lane: int
) -> None:
    """Do for some lanes of two coefficients what `fill_marginal` does of any number of them.

    One pass over the lanes, whose numbers stay in registers; each is computed as there, to the bit.
    All that is written has one address, and the number of lanes is known, so that the compiler sees
    that nothing overlaps. No index is a sum with an argument: it might be negative, for all that
    the compiler sees, and then lanes are gathered one by one, which takes twice as long.

    Args:
        values: the numbers of all panels (T, 2, k, LANES), in one row.
        at: where those of a panel begin for the first coefficient, from the first of these lanes.
        second: k LANES, from there to those for the second coefficient.
        lam: (2, 2).
        precision: one over sigma^2.
        room: the numbers of (13 + p, LANES), in one row: Z'r in two rows. The diagonal of D and
            lam w are written to the next four, what the gradient by lam is made of is added to the
            next four, and v'w to the second one behind them.
        lane: the first of these lanes.
    """
    l00, l01, l10, l11 = lam[0, 0], lam[0, 1], lam[1, 0], lam[1, 1]
    there, other, held = values[at:], values[at + second :], room[lane:]
    for g in range(ABREAST):
        z00, z01 = there[g], there[LANES + g]
        z10, z11 = other[g], other[LANES + g]
        gap0, gap1 = held[g], held[LANES + g]
        # Z'Z lam, and K = lam'Z'Z lam + I by its pivots
        t00, t01 = l00 * z00 + l10 * z01, l01 * z00 + l11 * z01
        t10, t11 = l00 * z10 + l10 * z11, l01 * z10 + l11 * z11
        pivot0 = l00 * t00 + l10 * t10
        pivot0 = 1.0 if pivot0 < 0.0 else 1.0 + pivot0
        inverse0 = 1.0 / pivot0
        raw = l01 * t00 + l11 * t10
        low = raw * inverse0
        pivot1 = l01 * t01 + l11 * t11 - raw * low
        pivot1 = 1.0 if pivot1 < 0.0 else 1.0 + pivot1
        inverse1 = 1.0 / pivot1
        w0, w1 = l00 * gap0 + l10 * gap1, l01 * gap0 + l11 * gap1
        w1 -= low * w0
        held[11 * LANES + g] = held[11 * LANES + g] + w0 * w0 * inverse0 + w1 * w1 * inverse1
        w1 *= inverse1
        w0 = w0 * inverse0 - low * w1
        spread0, spread1 = l00 * w0 + l01 * w1, l10 * w0 + l11 * w1
        gap0 = gap0 - z00 * spread0 - z01 * spread1
        gap1 = gap1 - z10 * spread0 - z11 * spread1
        back1 = (t01 - low * t00) * inverse1
        back0 = t00 * inverse0 - low * back1
        held[6 * LANES + g] += precision * gap0 * w0 - back0
        held[7 * LANES + g] += precision * gap0 * w1 - back1
        back1 = (t11 - low * t10) * inverse1
        back0 = t10 * inverse0 - low * back1
        held[8 * LANES + g] += precision * gap1 * w0 - back0
        held[9 * LANES + g] += precision * gap1 * w1 - back1
        held[2 * LANES + g], held[3 * LANES + g] = pivot0, pivot1
        held[4 * LANES + g], held[5 * LANES + g] = spread0, spread1


@light_kernel
def marginal_panels(
    values: Array, total: Array, reach: float, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return the value and its gradients by lam (q, q), beta (p,) and log sigma, lam held.

    All arguments are whitened; `values`, `total` and `reach` are those of `Panels`. With
    w = K^-1 lam'Z'r (so that lam'Z'H^-1 r = w),

        d/d lam  = sum_j -Z'H^-1 Z lam + Z'H^-1 r w' / sigma^2
        d/d beta = sum_j X'H^-1 r / sigma^2
    """
    n_panels, q, k, _ = values.shape
    p = k - q - 1
    precision = 1.0 / (sigma * sigma)
    stretches = (n_panels + STRETCH - 1) // STRETCH
    sums = np.empty((stretches, 2 + p + q * q))
    fill_marginal(values, reach, np.int64(0), stretches, lam, beta, precision, sums)
    whole = np.zeros(2 + p + q * q)
    for s in range(stretches):
        for i in range(len(whole)):
            whole[i] += sums[s, i]
    dbeta = whole[2 : 2 + p]
    rss = total[p, p] - whole[1]
    for i in range(p):
        value = total[i, p]
        for m in range(p):
            value -= total[i, m] * beta[m]
        rss -= beta[i] * (total[i, p] + value)
        dbeta[i] = precision * (value - whole[2 + i])
    dlam = np.empty((q, q))
    for i in range(q):
        for a in range(q):
            dlam[i, a] = whole[2 + p + i * q + a]
    loglik = -0.5 * (n * (LOG_2PI + 2.0 * np.log(sigma)) + whole[0] + rss * precision)
    return loglik, dlam, dbeta, float(rss * precision - n)


@kernel
def marginal_loglik(
    blocks: Array, total: Array, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return `marginal_panels` of whitened cross-products (J, k, k).

    `total` (p + 1, p + 1) is the sum over groups of [X y]'[X y].
    """
    values, reach = pack_panels(blocks, lam.shape[0])
    return marginal_panels(values, total, reach, n, lam, beta, sigma)


@kernel
def _fill_logliks(
    blocks: Array, n: Array, lam: Array, beta: Array, sigma: Array, out: Array
) -> None:
    n_groups, k, _ = blocks.shape
    q = lam.shape[1]
    p = beta.shape[1]
    root = np.empty((q, q))
    half = np.empty((q, k))
    for d in range(len(lam)):
        precision = 1.0 / (sigma[d] * sigma[d])
        constant = LOG_2PI + 2.0 * np.log(sigma[d])
        for j in range(n_groups):
            block = blocks[j]
            logdet = factor_group(block, q, lam[d], root, half)
            rss = block[k - 1, k - 1]
            for i in range(p):
                value = 2.0 * block[q + i, k - 1]
                for m in range(p):
                    value -= block[q + i, q + m] * beta[d, m]
                rss -= beta[d, i] * value
            for a in range(q):
                value = half[a, k - 1]
                for i in range(p):
                    value -= half[a, q + i] * beta[d, i]
                rss -= value * value
            out[d, j] = -0.5 * (n[j] * constant + logdet + rss * precision)


def group_logliks(white: Whitened, n: Array, parameters: Parameters) -> Array:
    """Return each group's marginal log-likelihood at each draw of the parameters (draws, J).

    Args:
        white: whitened cross-products of the J groups.
        n: rows per group (J,).
        parameters: in as many draws.
    """
    whitened_beta, lam, whitened_sigma = whiten_parameters(white, *parameters)
    out = np.empty((len(parameters.sigma), len(n)))
    lam = np.ascontiguousarray(lam)
    beta, sigma = np.ascontiguousarray(whitened_beta), np.ascontiguousarray(whitened_sigma)

    def work(d: slice) -> None:
        _fill_logliks(white.blocks, n, lam[d], beta[d], sigma[d], out[d])

    share_out(work, len(lam), each=len(n))
    return out - n * np.log(white.scale)


@kernel
def _fill_totals(
    values: Array, total: Array, reach: float, n: float, lam: Array, beta: Array, sigma: Array,
    out: Array,
) -> None:  # fmt: skip
    for d in range(len(lam)):
        out[d] = marginal_panels(values, total, reach, n, lam[d], beta[d], sigma[d])[0]


def sum_logliks(white: Whitened, n: float, parameters: Parameters) -> Array:
    """Return the marginal log-likelihood of all groups at each draw of the parameters (draws,).

    By panels, which takes a fifth of the time of `group_logliks`.

    Args:
        white: whitened cross-products of the J groups.
        n: rows of all groups.
        parameters: in as many draws.
    """
    beta, lam, sigma = map(np.ascontiguousarray, whiten_parameters(white, *parameters))
    panels = build_panels(white.blocks, white.q)
    out = np.empty(len(lam))

    def work(d: slice) -> None:
        _fill_totals(
            panels.values, panels.total, panels.reach, n, lam[d], beta[d], sigma[d], out[d]
        )

    share_out(work, len(lam), each=len(white.blocks))
    return out - n * np.log(white.scale)


def total_products(white: Whitened) -> Array:
    """Return the sum over groups of [X y]'[X y] (p + 1, p + 1), whitened."""
    q = white.q
    return sum_blocks(white.blocks[:, q:, q:])
