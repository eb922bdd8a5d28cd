"""The maxima of several responses over one X, from where that of the first one is.

Plausible values have variances near each other, so that Newton's method with the first one's
Hessian, which each step brings up to date (BFGS), arrives after a few evaluations. All that a
response needs is one compiled pass: scaling, search, curvature and the scores of groups.
"""

from typing import NamedTuple

import numba
import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panel_sums import fill_products, fill_scores
from bhlm.likelihood.panels import STRETCH, pack_panels
from bhlm.likelihood.profiled import (
    Criterion,
    factor_group,
    profile_products,
    project_group,
    sum_curvatures,
)
from bhlm.likelihood.weighted import scale_blocks
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

STEPS = 30
ENDED = 1e-12  # a gradient below this has no digits left to gain, nor one that grows again
# What rounding may leave of it, in units of 10,000 rows: beyond, the search has not arrived.
ARRIVED = 1e-7
SAME = 1e-9  # a criterion that rises by no more than this is the same, rounded


class Arrival(NamedTuple):
    """A stationary point that a search came to."""

    theta: Array  # (c,)
    lam: Array  # (q, q)
    criterion: Criterion
    gradient: Array  # (c,)
    score: Array  # (q, q) by Psi
    bends: tuple[Array, ...]  # as by `profiled.sum_bends`
    values: Array  # (steps + 1,) of the criterion on the way
    linear: float  # the criterion without random effects


def search_beside(
    white: Whitened, structure: Structure, *, restricted: bool, theta: Array, hessian: Array
) -> Arrival | None:
    """Return where a search from theta (c,) arrives; None where it does not within a few steps.

    Args:
        white: the whitened cross-products.
        structure: of the random effects.
        restricted: True for REML, False for ML.
        theta: where to start.
        hessian: (c, c) near there, positive definite.
    """
    groups = np.empty(0) if white.groups is None else white.groups
    scaled = white.blocks if white.groups is None else scale_blocks(white.blocks, white.q, groups)
    factors = np.ascontiguousarray(structure.factors)
    held = np.nan if white.held is None else white.held
    found = _search(
        scaled, groups, white.q, factors, theta, hessian, white.n, restricted, held, STEPS
    )
    if not found.arrived:
        return None
    dof = white.n - white.p if restricted else white.n
    criterion = Criterion(
        found.values[-1],
        found.logdet,
        found.beta,
        found.phi,
        found.rss,
        dof,
        restricted,
        white.held,
    )
    bends = sum_curvatures(scaled, white.q, found.lam, found.phi, found.beta)
    bends = (bends[0] + found.squares, *bends[1:])
    return Arrival(
        found.theta,
        found.lam,
        criterion,
        found.gradient,
        found.score,
        bends,
        found.values,
        found.linear,
    )


class _Visit(NamedTuple):
    value: float
    logdet: float
    beta: Array  # (p,)
    phi: Array  # (p, p)
    rss: float
    score: Array  # (q, q)
    squares: Array  # (q, q, q, q) what weights of groups add to the sum of F (x) F


class _Found(NamedTuple):
    arrived: bool
    theta: Array
    lam: Array
    gradient: Array
    values: Array
    logdet: float
    beta: Array
    phi: Array
    rss: float
    score: Array
    squares: Array
    linear: float


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _visit(
    panels: Array,
    reach: float,
    total: Array,
    blocks: Array,
    groups: Array,
    lam: Array,
    n: float,
    restricted: bool,
    held: float,
) -> _Visit:
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
    value, size = _hold(found, r - 1, n, restricted, held)
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
    return _Visit(value, logdet, beta, phi, rss, score, squares)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _hold(
    found: tuple[float, Array, Array, float], p: int, n: float, restricted: bool, held: float
) -> tuple[float, float]:
    """Return the criterion and one over the residual variance: profiled, or held unless nan."""
    value, rss = found[0], found[3]
    dof = n - p if restricted else n
    if np.isnan(held):
        return value, dof / rss
    return value + dof * np.log(held * dof / rss) + rss / held - dof, 1.0 / held


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _join(factors: Array, theta: Array) -> Array:
    """Return lam (q, q) = sum theta_c N_c."""
    lam = np.zeros((factors.shape[1], factors.shape[2]))
    for c in range(len(theta)):
        lam += theta[c] * factors[c]
    return lam


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _slope(factors: Array, lam: Array, score: Array) -> Array:
    """Return the gradient (c,), 2 tr(score N_c lam')."""
    turned = score @ lam
    gradient = np.empty(len(factors))
    for c in range(len(factors)):
        gradient[c] = 2.0 * (factors[c] * turned).sum()
    return gradient


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _search(
    blocks: Array,
    groups: Array,
    q: int,
    factors: Array,
    theta: Array,
    hessian: Array,
    n: float,
    restricted: bool,
    held: float,
    most: int,
) -> _Found:
    panels, reach = pack_panels(blocks, q)
    r = blocks.shape[1] - q
    total = np.zeros((r, r))
    for j in range(len(blocks)):
        for c in range(r):
            for d in range(r):
                total[c, d] += blocks[j, q + c, q + d]
    bend = hessian.copy()
    values = np.empty(most + 1)
    lam = _join(factors, theta)
    at = _visit(panels, reach, total, blocks, groups, lam, n, restricted, held)
    gradient = _slope(factors, lam, at.score)
    values[0] = at.value
    steps = 0
    while steps < most and np.abs(gradient).max() >= ENDED:
        step = -np.linalg.solve(bend, gradient)
        new = theta + step
        new_lam = _join(factors, new)
        to = _visit(panels, reach, total, blocks, groups, new_lam, n, restricted, held)
        new_gradient = _slope(factors, new_lam, to.score)
        if not to.value <= at.value + SAME:
            break
        if np.abs(new_gradient).max() >= np.abs(gradient).max() and (
            to.value > at.value or np.abs(gradient).max() < ARRIVED
        ):
            break
        change = new_gradient - gradient
        along = (change * step).sum()
        if along > 0.0:
            turned = bend @ step
            bend += np.outer(change, change) / along
            bend -= np.outer(turned, turned) / (step * turned).sum()
        theta, lam, gradient, at = new, new_lam, new_gradient, to
        steps += 1
        values[steps] = at.value
    arrived = np.abs(gradient).max() < ARRIVED * max(1.0, n / 1e4)
    return _Found(
        arrived,
        theta,
        lam,
        gradient,
        values[: steps + 1].copy(),
        at.logdet,
        at.beta,
        at.phi,
        at.rss,
        at.score,
        at.squares,
        _hold(profile_products(0.0, total, n, restricted), r - 1, n, restricted, held)[0],
    )
