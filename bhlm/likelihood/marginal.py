"""The marginal log-likelihood of beta, lam and sigma with its gradient, in one pass.

Unlike the profiled criterion of `likelihood`, the fixed effects and sigma stand as given, as a
sampler needs them. With r = y - X beta and H from lam,

    value = -1/2 (n log(2 pi sigma^2) + sum_j log|H_j| + r' H^-1 r / sigma^2)
"""

import numba
import numpy as np

from bhlm.likelihood.panels import (
    LANES,
    STRETCH,
    add_determinants,
    add_product,
    add_scaled,
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
LOG_2PI = float(np.log(2.0 * np.pi))


@numba.njit(cache=True, nogil=True, error_model="numpy")
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
    p = k - q - 1
    turned = np.empty((q, q, LANES))
    low = np.empty((q, q, LANES))
    raw = np.empty((q, q, LANES))
    pivot = np.empty((q, LANES))
    inverse = np.empty((q, LANES))
    gap = np.empty((q, LANES))
    w = np.empty((q, LANES))
    spread = np.empty((q, LANES))
    back = np.empty((q, LANES))
    product = np.ones(LANES)
    lanes = np.zeros((2 + p + q * q, LANES))
    every = plan_logarithms(lam, reach)
    for s in range(first, last):
        for t in range(s * STRETCH, min((s + 1) * STRETCH, values.shape[0])):
            panel = values[t]
            factor_panel(panel, lam, turned, low, raw, pivot, inverse)
            add_determinants(pivot, every, t, product, lanes[0])
            for a in range(q):
                set_scaled(1.0, panel[a, k - 1], gap[a])
                for i in range(p):
                    add_scaled(-beta[i], panel[a, q + i], gap[a])
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
            for i in range(p):
                for a in range(q):
                    add_product(panel[a, q + i], spread[a], lanes[2 + i])
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


@numba.njit(cache=True, nogil=True, error_model="numpy")
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
    dbeta = np.empty(p)
    rss = total[p, p] - whole[1]
    for i in range(p):
        value = total[i, p]
        for m in range(p):
            value -= total[i, m] * beta[m]
        rss -= beta[i] * (total[i, p] + value)
        dbeta[i] = precision * (value - whole[2 + i])
    dlam = whole[2 + p :].copy().reshape((q, q))
    loglik = -0.5 * (n * (LOG_2PI + 2.0 * np.log(sigma)) + whole[0] + rss * precision)
    return loglik, dlam, dbeta, float(rss * precision - n)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def marginal_loglik(
    blocks: Array, total: Array, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return `marginal_panels` of whitened cross-products (J, k, k).

    `total` (p + 1, p + 1) is the sum over groups of [X y]'[X y].
    """
    values, reach = pack_panels(blocks, lam.shape[0])
    return marginal_panels(values, total, reach, n, lam, beta, sigma)


@numba.njit(cache=True, nogil=True, error_model="numpy")
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


def total_products(white: Whitened) -> Array:
    """Return the sum over groups of [X y]'[X y] (p + 1, p + 1), whitened."""
    q = white.q
    return sum_blocks(white.blocks[:, q:, q:])
