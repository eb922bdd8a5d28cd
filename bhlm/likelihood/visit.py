"""The profiled criterion at one Psi with its derivatives, by one compiled call each.

What `bhlm.likelihood.profiled` has in steps, so that threads share the sums of many groups; of few
groups the steps in Python would take longer than the sums.
"""

from typing import NamedTuple

import numba
import numpy as np

from bhlm.likelihood.panel_bends import count_bends, fill_bends, spread_bends
from bhlm.likelihood.panel_sums import fill_products, fill_scores
from bhlm.likelihood.panels import STRETCH
from bhlm.likelihood.profiled import factor_group, profile_products, project_group

Array = np.ndarray


class Visit(NamedTuple):
    """The criterion of `profiled.evaluate`, and its derivative by Psi."""

    value: float
    logdet: float
    beta: Array  # (p,)
    phi: Array  # (p, p)
    rss: float
    score: Array  # (q, q)
    squares: Array  # (q, q, q, q) what weights of groups add to the sum of F (x) F


@numba.njit(cache=True, nogil=True, error_model="numpy")
def visit_panels(
    panels: Array,
    reach: float,
    total: Array,
    blocks: Array,
    groups: Array,
    lam: Array,
    n: float,
    restricted: bool,
    held: float,
) -> Visit:
    """Return the criterion of `profiled.evaluate` and its derivative by Psi, as `score_psi`."""
    q, r = len(lam), len(total)
    stretches = (len(panels) + STRETCH - 1) // STRETCH
    sums = np.empty((stretches, 1 + r * (r + 1) // 2))
    fill_products(panels, reach, 0, stretches, lam, sums)
    logdet = sums[:, 0].sum()
    e = total.copy()
    at = 1
    for c in range(r):
        for d in range(c + 1):
            e[c, d] -= sums[:, at].sum()
            e[d, c] = e[c, d]
            at += 1
    own = np.zeros((q, q))
    squares = np.zeros((q, q, q, q))
    root, half, f = np.empty((q, q)), np.empty((q, q)), np.empty((q, q))
    for j in range(len(groups)):  # of Z alone, which the scaling leaves as it is
        more = groups[j] - 1.0
        gram = blocks[j, :q, :q]
        logdet += more * factor_group(gram, q, lam, root, half)
        project_group(gram, q, half, f)
        for a in range(q):
            for b in range(q):
                own[a, b] += more * f[a, b]
                for c in range(q):
                    for d in range(q):
                        squares[a, b, c, d] += more * f[a, b] * f[c, d]
    found = profile_products(logdet, e, n, restricted)
    beta, phi, rss = found[1:]
    value, size = hold_variance(found, r - 1, n, restricted, held)
    weight = np.empty((r, r))
    for c in range(r):
        for d in range(r):
            weight[c, d] = size * (1.0 if c == r - 1 else -beta[c])
            weight[c, d] *= 1.0 if d == r - 1 else -beta[d]
            if restricted and c < r - 1 and d < r - 1:
                weight[c, d] += phi[c, d]
    scores = np.empty((stretches, q * q))
    fill_scores(panels, 0, stretches, lam, weight, scores)
    score = np.empty((q, q))
    for a in range(q):
        for b in range(q):
            score[a, b] = scores[:, a * q + b].sum() + own[a, b]
    score = 0.5 * (score + score.T)
    return Visit(value, logdet, beta, phi, rss, score, squares)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def hold_variance(
    found: tuple[float, Array, Array, float], p: int, n: float, restricted: bool, held: float
) -> tuple[float, float]:
    """Return the criterion and one over the residual variance: profiled, or held unless nan."""
    value, rss = found[0], found[3]
    dof = n - p if restricted else n
    if np.isnan(held):
        return value, dof / rss
    return value + dof * np.log(held * dof / rss) + rss / held - dof, 1.0 / held


@numba.njit(cache=True, nogil=True, error_model="numpy")
def join_factors(factors: Array, theta: Array) -> Array:
    """Return lam (q, q) = sum theta_c N_c."""
    lam = np.zeros((factors.shape[1], factors.shape[2]))
    for c in range(len(theta)):
        lam += theta[c] * factors[c]
    return lam


@numba.njit(cache=True, nogil=True, error_model="numpy")
def slope_theta(factors: Array, lam: Array, score: Array) -> Array:
    """Return the gradient (c,), 2 tr(score N_c lam')."""
    count, q, _ = factors.shape
    turned = np.zeros((q, q))
    for a in range(q):
        for i in range(q):
            for b in range(q):
                turned[a, b] += score[a, i] * lam[i, b]
    gradient = np.zeros(count)
    for c in range(count):
        for a in range(q):
            for b in range(q):
                gradient[c] += 2.0 * factors[c, a, b] * turned[a, b]
    return gradient


@numba.njit(cache=True, nogil=True, error_model="numpy")
def bend_panels(
    panels: Array, lam: Array, phi: Array, beta: Array
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Return the sums of `spread_bends` over groups, as `profiled.sum_bends`."""
    _, q, k, _ = panels.shape
    stretches = (len(panels) + STRETCH - 1) // STRETCH
    sums = np.empty((stretches, count_bends(q, k - q - 1)))
    fill_bends(panels, 0, stretches, lam, phi, beta, sums)
    for s in range(1, stretches):
        for i in range(sums.shape[1]):
            sums[0, i] += sums[s, i]
    return spread_bends(sums[0], q, k - q - 1)
