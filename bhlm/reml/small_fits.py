"""Many maxima of small (restricted) likelihoods, in machine code: what a bootstrap refits.

`bhlm.reml.optimize.maximize` spends most of a small fit between calls of NumPy. Here the whole
search is one compiled function: Newton with the exact Hessian in theta, its eigenvalues taken by
magnitude so that every step descends, halved while the criterion rises, and led off saddles along
their negative curvature. The criterion and its derivatives are those of
`bhlm.likelihood.profiled` (see there), for lam = sum_c theta_c N_c and E_c = N_c lam' + lam N_c'.

Loops stand where NumPy has expressions: numba takes a quarter of the time to compile them.
"""

from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.profiled import factor_group, profile_products, project_group

Array = np.ndarray

ITERATIONS = 60
GRADIENT = 1e-6  # of minus twice the log-likelihood: it leaves about the square of this
CURVED = 1e-7  # negative curvature below this share of the largest is rounding
HALVINGS = 30
NUDGE = 0.1  # off a saddle
# A criterion that moves by less than this near a vanishing variance, where curvature vanishes too,
# has arrived for a likelihood ratio.
ARRIVED = 1e-9


class Maximum(NamedTuple):
    """The end of a search."""

    value: float  # minus twice the profiled log-likelihood
    theta: Array  # (c,)
    converged: bool


@kernel
def _build_lam(theta, factors):  # type: ignore[no-untyped-def]
    _, q, _ = factors.shape
    lam = np.zeros((q, q))
    for c in range(len(theta)):
        for a in range(q):
            for b in range(q):
                lam[a, b] += theta[c] * factors[c, a, b]
    return lam


@kernel
def _multiply(one, other, out):  # type: ignore[no-untyped-def]
    """Set out (a, b) to the product of one (a, k) and other (k, b)."""
    for a in range(out.shape[0]):
        for b in range(out.shape[1]):
            total = 0.0
            for k in range(one.shape[1]):
                total += one[a, k] * other[k, b]
            out[a, b] = total


@kernel
def value_at(blocks, q, n, restricted, factors, theta):  # type: ignore[no-untyped-def]
    """Return the profiled criterion at theta."""
    lam = _build_lam(theta, factors)
    k = blocks.shape[1]
    root, half = np.empty((q, q)), np.empty((q, k))
    e = np.zeros((k - q, k - q))
    logdet = 0.0
    for j in range(len(blocks)):
        logdet += factor_group(blocks[j], q, lam, root, half)
        for a in range(k - q):
            for b in range(k - q):
                taken = blocks[j, q + a, q + b]
                for i in range(q):
                    taken -= half[i, q + a] * half[i, q + b]
                e[a, b] += taken
    return profile_products(logdet, e, n, restricted)[0]


@kernel
def derivatives_at(blocks, q, n, restricted, factors, theta):  # type: ignore[no-untyped-def]
    """Return the criterion, its gradient (c,) and its Hessian (c, c) at theta."""
    lam = _build_lam(theta, factors)
    n_groups, k, _ = blocks.shape
    p, m = k - q - 1, len(theta)
    root, half = np.empty((q, q)), np.empty((q, k))
    fu = np.empty((n_groups, q, k))
    e = np.zeros((p + 1, p + 1))
    logdet = 0.0
    for j in range(n_groups):
        logdet += factor_group(blocks[j], q, lam, root, half)
        project_group(blocks[j], q, half, fu[j])
        for a in range(p + 1):
            for b in range(p + 1):
                taken = blocks[j, q + a, q + b]
                for i in range(q):
                    taken -= half[i, q + a] * half[i, q + b]
                e[a, b] += taken
    value, beta, phi, rss = profile_products(logdet, e, n, restricted)
    dof = n - p if restricted else n
    lean_e = np.empty((m, q, q))  # E_c
    for c in range(m):
        for a in range(q):
            for b in range(q):
                total = 0.0
                for h in range(q):
                    total += factors[c, a, h] * lam[b, h] + factors[c, b, h] * lam[a, h]
                lean_e[c, a, b] = total
    score = np.zeros((q, q))
    hess_log, hess_rss = np.zeros((m, m)), np.zeros((m, m))
    slope_rss, lean = np.zeros(m), np.zeros((m, p))
    slope_fixed = np.zeros((m, p, p))
    t, spread = np.empty(q), np.empty((q, p))
    c_mat = np.zeros((q, q))
    ef, ec, et = np.empty((m, q, q)), np.empty((m, q, q)), np.empty((m, q))
    for j in range(n_groups):
        f = fu[j]
        for a in range(q):
            t[a] = f[a, k - 1]
            for i in range(p):
                t[a] -= f[a, q + i] * beta[i]
        if restricted:
            for a in range(q):
                for i in range(p):
                    spread[a, i] = 0.0
                    for h in range(p):
                        spread[a, i] += f[a, q + h] * phi[h, i]
            for a in range(q):
                for b in range(q):
                    c_mat[a, b] = 0.0
                    for i in range(p):
                        c_mat[a, b] += spread[a, i] * f[b, q + i]
        for a in range(q):
            for b in range(q):
                score[a, b] += f[a, b] - c_mat[a, b] - dof / rss * t[a] * t[b]
        for c in range(m):
            for a in range(q):
                et[c, a] = 0.0
                for b in range(q):
                    ef[c, a, b] = ec[c, a, b] = 0.0
                    et[c, a] += lean_e[c, a, b] * t[b]
                    for h in range(q):
                        ef[c, a, b] += lean_e[c, a, h] * f[h, b]
                        ec[c, a, b] += lean_e[c, a, h] * c_mat[h, b]
                slope_rss[c] -= t[a] * et[c, a]
                for i in range(p):
                    lean[c, i] += f[a, q + i] * et[c, a]
            if restricted:
                for i in range(p):
                    for a in range(q):
                        turn = 0.0
                        for b in range(q):
                            turn += lean_e[c, a, b] * f[b, q + i]
                        for h in range(p):
                            slope_fixed[c, h, i] -= f[a, q + h] * turn
        for c in range(m):
            for d in range(c + 1):
                log_part = rss_part = 0.0
                for a in range(q):
                    for b in range(q):
                        log_part -= ef[c, a, b] * ef[d, b, a]
                        if restricted:
                            log_part += ef[c, a, b] * ec[d, b, a] + ef[d, a, b] * ec[c, b, a]
                        rss_part += 2.0 * et[c, a] * f[a, b] * et[d, b]
                hess_log[c, d] += log_part
                hess_rss[c, d] += rss_part
    turned_fixed, turned_lean = np.empty((m, p, p)), np.zeros((m, p))
    for c in range(m):
        _multiply(phi, slope_fixed[c], turned_fixed[c])
        for i in range(p):
            for h in range(p):
                turned_lean[c, i] += phi[i, h] * lean[c, h]
    gradient, hessian = np.zeros(m), np.zeros((m, m))
    sl, sf = np.empty((q, q)), np.empty((q, q))
    _multiply(score, lam, sl)
    for d in range(m):
        _multiply(score, factors[d], sf)
        for a in range(q):
            for b in range(q):
                gradient[d] += 2.0 * factors[d, a, b] * sl[a, b]
        for c in range(d, m):
            entry = hess_log[c, d]
            bend = hess_rss[c, d]
            for i in range(p):
                bend -= 2.0 * lean[c, i] * turned_lean[d, i]
                if restricted:
                    for h in range(p):
                        entry -= turned_fixed[c, i, h] * turned_fixed[d, h, i]
            entry += dof * (bend / rss - slope_rss[c] * slope_rss[d] / rss**2)
            for a in range(q):
                for b in range(q):
                    entry += 2.0 * factors[c, a, b] * sf[a, b]
            hessian[c, d] = hessian[d, c] = entry
    return value, gradient, hessian


@light_kernel
def search(blocks, q, n, restricted, factors, start):  # type: ignore[no-untyped-def]
    """Return the (value, theta, converged) that a search from `start` (c,) ends with."""
    m = len(start)
    theta, step, trial = start.copy(), np.empty(m), np.empty(m)
    last = np.inf
    for _ in range(ITERATIONS):
        value, gradient, hessian = derivatives_at(blocks, q, n, restricted, factors, theta)
        values, vectors = np.linalg.eigh(hessian)
        steep = longest = largest = 0.0
        for c in range(m):
            steep = max(steep, abs(gradient[c]))
            largest = max(largest, abs(values[c]))
            longest = max(longest, abs(theta[c]))
        saddle = values[0] < -CURVED * max(1.0, values[-1])
        if not saddle and (steep < GRADIENT or last - value < ARRIVED):
            return value, theta, True
        if saddle and steep < 1e-3:
            rise = 0.0
            for c in range(m):
                rise += vectors[c, 0] * gradient[c]
            for c in range(m):
                step[c] = (-NUDGE if rise > 0.0 else NUDGE) * vectors[c, 0]
            last = np.inf
        else:
            floor = 1e-6 * max(1.0, largest)
            step[:] = 0.0
            for d in range(m):
                along = 0.0
                for c in range(m):
                    along += vectors[c, d] * gradient[c]
                along /= max(abs(values[d]), floor)
                for c in range(m):
                    step[c] -= vectors[c, d] * along
            last = value
            # A relative SD that more than doubles is a leap in the dark.
            leap = 1e-300
            for c in range(m):
                leap = max(leap, abs(step[c]))
            for c in range(m):
                step[c] *= min(1.0, (1.0 + 2.0 * longest) / leap)
        moved = False
        for _ in range(HALVINGS):
            for c in range(m):
                trial[c] = theta[c] + step[c]
            if value_at(blocks, q, n, restricted, factors, trial) < value:
                for d in range(m):
                    theta[d] = trial[d]
                moved = True
                break
            for c in range(m):
                step[c] *= 0.5
        if not moved:
            return value, theta, steep < 1e-3
    value = value_at(blocks, q, n, restricted, factors, theta)
    return value, theta, last - value < 1e-6


def find_maximum(
    blocks: Array, q: int, *, n: float, restricted: bool, factors: Array, starts: Array
) -> Maximum:
    """Return the best of the searches from each of `starts` (s, c), for factors (c, q, q)."""
    found = [
        search(blocks, q, float(n), restricted, np.ascontiguousarray(factors), start)
        for start in np.ascontiguousarray(starts)
    ]
    value, theta, _ = min(found, key=lambda each: each[0])
    # One that gave up above the other's end does no harm.
    return Maximum(value, theta, any(c for v, _, c in found if v <= value + 1e-7))
