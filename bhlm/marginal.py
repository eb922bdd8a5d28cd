"""The marginal log-likelihood of beta, lam and sigma with its gradient, in one pass.

Unlike the profiled criterion of `likelihood`, the fixed effects and sigma stand as given, as a
sampler needs them. With r = y - X beta and H from lam,

    value = -1/2 (n log(2 pi sigma^2) + sum_j log|H_j| + r' H^-1 r / sigma^2)
"""

import numba
import numpy as np

from bhlm.likelihood import factor_group
from bhlm.whitening import Whitened, whiten_parameters

Array = np.ndarray
LOG_2PI = float(np.log(2.0 * np.pi))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def marginal_loglik(
    blocks: Array, total: Array, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return the value and its gradients by lam (q, q), beta (p,) and log sigma, lam held.

    All arguments are whitened. `total` (p + 1, p + 1) is the sum over groups of [X y]'[X y].
    With s = half_y - half_X beta and w = root^-T s (so that lam'Z'H^-1 r = w),

        d/d lam  = sum_j -Z'H^-1 Z lam + Z'H^-1 r w' / sigma^2
        d/d beta = sum_j X'H^-1 r / sigma^2
    """
    n_groups, k, _ = blocks.shape
    q = lam.shape[0]
    p = beta.shape[0]
    root = np.empty((q, q))
    half = np.empty((q, k))
    s = np.empty(q)
    w = np.empty(q)
    back = np.empty((q, q))
    dlam = np.zeros((q, q))
    dbeta = np.empty(p)
    precision = 1.0 / (sigma * sigma)
    logdet = 0.0
    for i in range(p):
        value = total[i, p]
        for m in range(p):
            value -= total[i, m] * beta[m]
        dbeta[i] = value
    rss = total[p, p]
    for i in range(p):
        rss -= beta[i] * (total[i, p] + dbeta[i])
    for j in range(n_groups):
        block = blocks[j]
        logdet += factor_group(block, q, lam, root, half)
        for a in range(q):
            value = half[a, k - 1]
            for i in range(p):
                value -= half[a, q + i] * beta[i]
            s[a] = value
            rss -= value * value
            for i in range(p):
                dbeta[i] -= half[a, q + i] * value
        for a in range(q - 1, -1, -1):
            value = s[a]
            for b in range(a + 1, q):
                value -= root[b, a] * w[b]
            w[a] = value / root[a, a]
            for i in range(q):
                value = half[a, i]
                for b in range(a + 1, q):
                    value -= root[b, a] * back[i, b]
                back[i, a] = value / root[a, a]
        for i in range(q):
            t = block[i, k - 1]
            for m in range(p):
                t -= block[i, q + m] * beta[m]
            for a in range(q):
                t -= half[a, i] * s[a]
            t *= precision
            for a in range(q):
                dlam[i, a] += t * w[a] - back[i, a]
    for i in range(p):
        dbeta[i] *= precision
    loglik = -0.5 * (n * (LOG_2PI + 2.0 * np.log(sigma)) + logdet + rss * precision)
    return loglik, dlam, dbeta, float(rss * precision - n)


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


def group_logliks(white: Whitened, n: Array, beta: Array, root: Array, sigma: Array) -> Array:
    """Return each group's marginal log-likelihood at each draw of the parameters (draws, J).

    Args:
        white: whitened cross-products of the J groups.
        n: rows per group (J,).
        beta: fixed effects (draws, p), in the columns as given.
        root: lower square roots (draws, q, q) of G.
        sigma: residual SDs (draws,).
    """
    whitened_beta, lam, whitened_sigma = whiten_parameters(white, beta, root, sigma)
    out = np.empty((len(sigma), len(n)))
    _fill_logliks(
        white.blocks,
        n,
        np.ascontiguousarray(lam),
        np.ascontiguousarray(whitened_beta),
        np.ascontiguousarray(whitened_sigma),
        out,
    )
    return out - n * np.log(white.scale)


def total_products(white: Whitened) -> Array:
    """Return the sum over groups of [X y]'[X y] (p + 1, p + 1), whitened."""
    q = white.q
    return np.ascontiguousarray(white.blocks[:, q:, q:].sum(axis=0))


def evaluate_marginal(
    white: Whitened, total: Array, beta: Array, root: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return the log-likelihood and its gradients by beta (p,), root (q, q) and sigma.

    Arguments and gradients are those of the columns as given; root is any square root of G.
    """
    whitened_beta, lam, whitened_sigma = whiten_parameters(white, beta, root, sigma)
    value, dlam, dbeta, dlog = marginal_loglik(
        white.blocks,
        total,
        white.n,
        np.ascontiguousarray(lam),
        np.ascontiguousarray(whitened_beta),
        float(whitened_sigma),
    )
    gradient_beta = np.linalg.solve(white.fixed.T, dbeta) / white.scale
    gradient_root = np.linalg.solve(white.basis.T, dlam) / sigma
    gradient_sigma = (dlog - float(np.sum(dlam * lam))) / sigma
    return (
        float(value) - white.n * float(np.log(white.scale)),
        gradient_beta,
        gradient_root,
        gradient_sigma,
    )
