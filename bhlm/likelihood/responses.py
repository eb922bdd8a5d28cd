"""The maxima of several responses over one X, from where that of the first one is.

Plausible values have variances near each other, so that Newton's method with the first one's
Hessian, which each step brings up to date (BFGS), arrives after a few evaluations. All that a
response needs is one compiled pass: scaling, search, curvature and the scores of groups.
"""

from typing import NamedTuple

import numba
import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panels import pack_panels
from bhlm.likelihood.profiled import Criterion, profile_products
from bhlm.likelihood.visit import (
    bend_panels,
    hold_variance,
    join_factors,
    slope_theta,
    visit_panels,
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
    bends = bend_panels(found.panels, found.lam, found.phi, found.beta)
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
    panels: Array


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
    lam = join_factors(factors, theta)
    at = visit_panels(panels, reach, total, blocks, groups, lam, n, restricted, held)
    gradient = slope_theta(factors, lam, at.score)
    values[0] = at.value
    steps = 0
    while steps < most and np.abs(gradient).max() >= ENDED:
        step = -np.linalg.solve(bend, gradient)
        new = theta + step
        new_lam = join_factors(factors, new)
        to = visit_panels(panels, reach, total, blocks, groups, new_lam, n, restricted, held)
        new_gradient = slope_theta(factors, new_lam, to.score)
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
    none = profile_products(0.0, total, n, restricted)
    linear = hold_variance(none, r - 1, n, restricted, held)[0]
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
        linear,
        panels,
    )
