"""The marginal log-likelihood with weights of groups and residual variances by stratum.

Group j has the rows of S strata, whose residual variances are sigma_s^2. With
M_j = sum_s [Z X y]_js'[Z X y]_js / sigma_s^2, root root' = G, K_j = I + root' Z'Z root of M_j and
r = y - X beta,

    value = -1/2 sum_j W_j (sum_s n_js log(2 pi sigma_s^2) + log|K_j| + r'V_j^-1 r)

where everything is in whitened columns. One stratum is the model with a weight W_j per group, and
with sigma held it is that of known variances.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.marginal import LOG_2PI, group_logliks
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.profiled import factor_group, invert_group
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.moments import Moments

Array = np.ndarray


@kernel
def weighted_marginal(
    blocks: Array, sizes: Array, groups: Array, root: Array, beta: Array, sigma: Array
) -> tuple[float, Array, Array, Array]:
    """Return the value and its gradients by root (q, q), beta (p,) and log sigma (S,).

    With T = root K^-1 root', u = T Z'r and e = r - Z u (weighted cross-products), for each group

        d/d root        = -(Z'H^-1 Z - g g') root,    g = Z'r - Z'Z u
        d/d beta        = X'r - X'Z u
        d/d log sigma_s = (tr(T Z'Z_s) + e_s'e_s) / sigma_s^2 - n_s

    Args:
        blocks: whitened cross-products (S, J, k, k) of each stratum, Z first.
        sizes: rows (S, J).
        groups: what each group's log-likelihood is multiplied by (J,).
        root: a root of G (q, q), whitened.
        beta: fixed effects (p,), whitened.
        sigma: residual SDs (S,), whitened.
    """
    n_strata, n_groups, k, _ = blocks.shape
    q = root.shape[0]
    p = k - q - 1
    value = 0.0
    droot = np.zeros((q, q))
    dbeta = np.zeros(p)
    dlog = np.zeros(n_strata)
    whole = np.empty((k, k))
    low = np.empty((q, q))
    half = np.empty((q, k))
    spare = np.empty((q, q))
    t = np.empty((q, q))
    score = np.zeros((q, q))
    along = np.empty(k)  # [-u, -beta, 1]: of [Z X y] it makes e
    z = np.empty(q)
    g = np.empty(q)
    along[k - 1] = 1.0
    for i in range(p):
        along[q + i] = -beta[i]
    for j in range(n_groups):
        weight = groups[j]
        for a in range(k):
            for b in range(k):
                entry = 0.0
                for s in range(n_strata):
                    entry += blocks[s, j, a, b] / (sigma[s] * sigma[s])
                whole[a, b] = entry
        logdet = factor_group(whole, q, root, low, half)
        invert_group(root, low, spare, t)
        for a in range(q):
            z[a] = whole[a, k - 1]
            for i in range(p):
                z[a] -= whole[a, q + i] * beta[i]
        for a in range(q):
            along[a] = 0.0
            for b in range(q):
                along[a] -= t[a, b] * z[b]
        squares = 0.0
        for a in range(q, k):
            for b in range(q, k):
                squares += along[a] * whole[a, b] * along[b]
        for a in range(q):
            squares += z[a] * along[a]
            g[a] = z[a]
            for b in range(q):
                g[a] += whole[a, b] * along[b]
        for i in range(p):
            slope = 0.0
            for b in range(k):
                slope += whole[q + i, b] * along[b]
            dbeta[i] += weight * slope
        # F = Z'H^-1 Z = Z'Z - Z'Z T Z'Z
        for a in range(q):
            for b in range(q):
                spread = 0.0
                for c in range(q):
                    inner = 0.0
                    for d in range(q):
                        inner += t[c, d] * whole[d, b]
                    spread += whole[a, c] * inner
                score[a, b] += weight * (g[a] * g[b] - whole[a, b] + spread)
        constant = 0.0
        for s in range(n_strata):
            n = sizes[s, j]
            constant += n * (LOG_2PI + 2.0 * np.log(sigma[s]))
            own = 0.0
            for a in range(q):
                for b in range(q):
                    own += t[a, b] * blocks[s, j, a, b]
            for a in range(k):
                for b in range(k):
                    own += along[a] * blocks[s, j, a, b] * along[b]
            dlog[s] += weight * (own / (sigma[s] * sigma[s]) - n)
        value -= 0.5 * weight * (constant + logdet + squares)
    for a in range(q):
        for b in range(q):
            for c in range(q):
                droot[a, b] += score[a, c] * root[c, b]
    return value, droot, dbeta, dlog


def spread_strata(white: Whitened) -> tuple[Array, Array, Array]:
    """Return the blocks (S, J, k, k), the rows (S, J) and the weights (J,) of whitened moments."""
    blocks = white.blocks[None] if white.parts is None else white.parts
    assert white.sizes is not None
    groups = np.ones(blocks.shape[1]) if white.groups is None else white.groups
    return np.ascontiguousarray(blocks), np.ascontiguousarray(white.sizes), groups


def map_draws(
    white: Whitened, parameters: Parameters, function: Callable[[Whitened, Parameters], Array]
) -> Array:
    """Return what a function of one residual SD finds, draw by draw, of several (N, ...).

    Args:
        white: with the blocks of every stratum.
        parameters: sigma is (N, S), or (N,) of one stratum.
        function: of whitened moments whose residual SD is one, and of parameters in one draw.
    """
    if white.parts is None:
        return function(white, parameters)
    found = []
    for d in range(len(parameters.beta)):
        sigma = parameters.sigma[d]
        weight = (sigma[0] / sigma) ** 2
        whole = replace(white, blocks=np.tensordot(weight, white.parts, axes=1), parts=None)
        one = Parameters(parameters.beta[d : d + 1], parameters.root[d : d + 1], sigma[:1])
        found.append(function(whole, one))
    return np.concatenate(found)


def weigh_logliks(moments: Moments, white: Whitened, parameters: Parameters) -> Array:
    """Return each group's marginal log-likelihood at each draw (N, J), as its rows are weighed.

    With precision weights and known variances half the sum of log w is added to it.
    """
    found = map_draws(white, parameters, lambda data, each: group_logliks(data, moments.n, each))
    if white.parts is not None and white.sizes is not None:
        found = found - np.log(parameters.sigma / parameters.sigma[:, :1]) @ white.sizes
    weights, weighting = moments.weights, moments.weighting
    if weights is None or weighting is None or weights.counts_rows:
        return found
    return found + 0.5 * weighting.logs
