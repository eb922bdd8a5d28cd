"""The profiled criterion at one Psi with its derivatives, by one compiled call each.

What `bhlm.likelihood.profiled` has in steps, so that threads share the sums of many groups; of few
groups the steps in Python would take longer than the sums.
"""

from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import inlined_kernel, light_kernel
from bhlm.likelihood.covariance import bound_eigenvalues
from bhlm.likelihood.panel_bends import (
    add_stretches,
    add_weights,
    count_bends,
    fill_bends,
    join_score,
    join_sums,
)
from bhlm.likelihood.panel_sums import fill_products
from bhlm.likelihood.panels import STRETCH
from bhlm.likelihood.profiled import Criterion, profile_products
from bhlm.likelihood.weighted import fill_inner
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

GRADIENT = 1e-6  # the end of a search, in units of minus twice the log-likelihood per theta
POLISHED = 1e-9  # a gradient below this has no digits left to gain
# A criterion that rises by no more than this is the same criterion, rounded.
SAME = 1e-9
ALIKE = 1e-2  # which rounding may come to where variances are very large
SHORTER = 0.1  # by which a Newton step near the minimum shortens the gradient, and more
CONVEX = 1e-6  # what a bowl's Hessian has of a diagonal element, given those before, at least


class Visit(NamedTuple):
    """The criterion of `profiled.evaluate`, and its derivatives by Psi."""

    value: float
    logdet: float
    beta: Array  # (p,)
    phi: Array  # (p, p)
    rss: float
    score: Array  # (q, q)
    bends: Array  # as by `profiled.sum_bends`


@inlined_kernel
def visit_panels(
    panels: Array,
    reach: float,
    total: Array,
    more: Array | None,
    lam: Array,
    n: float,
    restricted: bool,
    held: float,
) -> Visit:
    """Return the criterion of `profiled.evaluate`, its `score_psi` and its `sum_bends`.

    `panels`, `reach` and `total` as in `Panels`; `more` is `spread_weights` of groups that have
    weights, and None without; `held` is a residual variance that is known, and else nan.
    """
    q, r = len(lam), len(total)
    p, m = r - 1, q * (q + 1) // 2
    stretches = (len(panels) + STRETCH - 1) // STRETCH
    sums = np.empty((stretches, 1 + r * (r + 1) // 2))
    zero = np.int64(0)  # a literal one would compile the kernels again
    fill_products(panels, reach, zero, stretches, lam, sums)
    products = add_stretches(sums)
    logdet = products[0]
    e = total.copy()
    at = 1
    for c in range(r):
        for d in range(c + 1):
            e[c, d] -= products[at]
            e[d, c] = e[c, d]
            at += 1
    inner = np.empty((stretches, 1 + m + m * (m + 1) // 2))
    if more is not None:
        fill_inner(panels, more, 0, stretches, lam, inner)
        logdet += add_stretches(inner)[0]
    found = profile_products(logdet, e, n, restricted)
    beta, phi, rss = found[1:]
    value, size = hold_variance(found, p, n, restricted, held)
    every = np.empty((stretches, count_bends(q, p)))
    fill_bends(panels, zero, stretches, lam, phi, beta, restricted, every)
    bends = add_stretches(every)
    if more is not None:
        add_weights(bends, inner[0], q)
    score = join_score(bends, q, p, phi, size, restricted)
    return Visit(value, logdet, beta, phi, rss, score, bends)


@light_kernel
def hold_variance(
    found: tuple[float, Array, Array, float], p: int, n: float, restricted: bool, held: float
) -> tuple[float, float]:
    """Return the criterion and one over the residual variance: profiled, or held unless nan."""
    value, rss = found[0], found[3]
    dof = n - p if restricted else n
    if np.isnan(held):
        return value, dof / rss
    return value + dof * np.log(held * dof / rss) + rss / held - dof, 1.0 / held


@light_kernel
def join_factors(factors: Array, theta: Array) -> Array:
    """Return lam (q, q) = sum theta_c N_c."""
    lam = np.zeros((factors.shape[1], factors.shape[2]))
    for c in range(len(theta)):
        lam += theta[c] * factors[c]
    return lam


@light_kernel
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


@light_kernel
def bend_theta(
    score: Array,
    logdet: Array,
    rss_slope: Array,
    rss_bend: Array,
    rss: float,
    dof: float,
    held: float,
    factors: Array,
) -> Array:
    """Return the Hessian (c, c) of the profiled criterion by theta.

    From its score (q, q) by Psi and its curvature along d Psi / d theta; `held` is nan where the
    residual variance is profiled.
    """
    count, q, _ = factors.shape
    bend = np.empty((count, count))
    turned = np.zeros((q, q))
    for c in range(count):
        turned[:] = 0.0  # score N_c
        for a in range(q):
            for i in range(q):
                for b in range(q):
                    turned[a, b] += score[a, i] * factors[c, i, b]
        for d in range(count):
            if np.isnan(held):
                value = dof * (rss_bend[c, d] / rss - rss_slope[c] / rss * (rss_slope[d] / rss))
            else:
                value = rss_bend[c, d] / held
            value += logdet[c, d]
            for a in range(q):
                for b in range(q):
                    value += 2.0 * factors[d, a, b] * turned[a, b]
            bend[c, d] = value
    for c in range(count):
        for d in range(c):
            bend[c, d] = bend[d, c] = 0.5 * (bend[c, d] + bend[d, c])
    return bend


@light_kernel
def find_tangents(factors: Array, lam: Array) -> Array:
    """Return d Psi / d theta (c, q, q) at lam (q, q)."""
    count, q, _ = factors.shape
    found = np.zeros((count, q, q))
    for c in range(count):
        for a in range(q):
            for b in range(q):
                for i in range(q):
                    found[c, a, b] += factors[c, a, i] * lam[b, i]
                    found[c, a, b] += factors[c, b, i] * lam[a, i]
    return found


@light_kernel
def find_largest(x: Array) -> float:
    """Return the largest absolute value (n,); nan where there is one."""
    largest = 0.0
    for each in x:
        if not abs(each) <= largest:
            largest = abs(each)
    return largest


@light_kernel
def sum_squares(x: Array) -> float:
    """Return x'x (n,)."""
    value = 0.0
    for each in x:
        value += each * each
    return value


@light_kernel
def solve_convex(hessian: Array, gradient: Array) -> tuple[Array, bool]:
    """Return Newton's step (c,), H^-1 gradient, and whether H (c, c) is far from singular.

    By Cholesky's factors, without LAPACK.
    """
    count = len(gradient)
    root = np.zeros((count, count))
    step = np.empty(count)
    for a in range(count):
        for b in range(a + 1):
            value = hessian[a, b]
            for i in range(b):
                value -= root[a, i] * root[b, i]
            if a > b:
                root[a, b] = value / root[b, b]
            elif value > CONVEX * hessian[a, a] and hessian[a, a] > 0.0:
                root[a, a] = np.sqrt(value)
            else:
                return step, False
        step[a] = gradient[a]
        for i in range(a):
            step[a] -= root[a, i] * step[i]
        step[a] /= root[a, a]
    for a in range(count - 1, -1, -1):
        for i in range(a + 1, count):
            step[a] -= root[i, a] * step[i]
        step[a] /= root[a, a]
    return step, True


@light_kernel
def bound_least(lam: Array) -> float:
    """Return what the least singular value of lam (q, q) is at least."""
    q = len(lam)
    psi = np.zeros((q, q))
    for a in range(q):
        for b in range(q):
            for i in range(q):
                psi[a, b] += lam[a, i] * lam[b, i]
    return np.sqrt(bound_eigenvalues(psi))


class Descent(NamedTuple):
    """Where Newton's steps lead to, and what was computed there."""

    theta: Array  # (c,)
    lam: Array  # (q, q)
    value: float
    logdet: float
    beta: Array  # (p,)
    phi: Array  # (p, p)
    rss: float
    score: Array  # (q, q) by Psi
    gradient: Array  # (c,)
    hessian: Array  # (c, c)
    bends: Array  # as by `profiled.sum_bends`
    values: Array  # (1 + steps,) of the criterion: at first, and by steps not for last digits alone
    is_convex: bool  # whether the Hessian is that of a bowl, and far from singular
    least: float  # what no singular value of lam is below


@light_kernel
def descend_panels(
    panels: Array,
    reach: float,
    total: Array,
    more: Array | None,
    factors: Array,
    theta: Array,
    n: float,
    restricted: bool,
    held: float,
    most: int,
) -> Descent:
    """Take Newton's steps from theta (c,), as long as each is one down a convex slope.

    At most `most`, none of which is a mere visit; they end too where the gradient has no digits
    left. Other arguments are those of `visit_panels`.
    """
    p = len(total) - 1
    dof = n - p if restricted else n
    values = np.empty(1 + most)
    count = steps = 0
    # One place visits, so that it is compiled once.
    point, share, is_first = theta, 1.0, True
    value, steepest, is_far = np.inf, np.inf, True
    step, gradient = np.zeros(len(theta)), np.zeros(len(theta))
    while True:
        lam_there = join_factors(factors, point)
        to = visit_panels(panels, reach, total, more, lam_there, n, restricted, held)
        gradient_there = slope_theta(factors, lam_there, to.score)
        # Where the value has no digits left to gain, the gradient still has.
        closer = find_largest(gradient_there) < SHORTER * steepest
        if is_first:
            accepted = True
        elif is_far:
            accepted = to.value < value or (closer and to.value <= value + SAME)
        else:
            shorter = sum_squares(gradient_there) < sum_squares(gradient)
            accepted = shorter and to.value <= value + (ALIKE if closer else SAME)
        if not accepted:
            if share < 1.0 or not is_far:
                break
            share = 0.5
            point = theta - share * step
            continue
        theta, lam, gradient, at, value = point, lam_there, gradient_there, to, to.value
        if not is_first:
            steps += 1
        if is_first or is_far:
            values[count] = value
            count += 1
        is_first = False
        tangents = find_tangents(factors, lam)
        logdet, rss_slope, rss_bend, _ = join_sums(at.bends, len(lam), at.phi, restricted, tangents)
        hessian = bend_theta(at.score, logdet, rss_slope, rss_bend, at.rss, dof, held, factors)
        steepest = find_largest(gradient)
        step, is_convex = solve_convex(hessian, gradient)
        if steps == most or not steepest >= POLISHED or not is_convex:
            break
        is_far, share = steepest >= GRADIENT, 1.0
        point = theta - step
    return Descent(
        theta,
        lam,
        at.value,
        at.logdet,
        at.beta,
        at.phi,
        at.rss,
        at.score,
        gradient,
        hessian,
        at.bends,
        values[:count].copy(),
        is_convex,
        bound_least(lam),
    )


def take_criterion(found: "Visit | Descent", white: Whitened, restricted: bool) -> Criterion:
    """Return the criterion that a compiled visit has computed the parts of."""
    dof = white.n - white.p if restricted else white.n
    return Criterion(
        found.value,
        found.logdet,
        found.beta,
        found.phi,
        found.rss,
        dof,
        restricted,
        white.held,
    )
