"""The mode of the integrand, from which the first grid is laid out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.quadrature.axes import (
    REACH,
    Axis,
    locate,
    log_sech,
    log_stretch,
    map_nodes,
    place_window,
)
from bhlm.bayes.quadrature.grid import Integrand, height_at, place_base

Array = np.ndarray
Axes = tuple[Axis, ...]  # t1, t2, r, log sigma

# The first step of an axis, in SDs of the density along it with the others held: with every
# second node left out the trapezoidal rule errs by 1e-8 on a normal density.
FIRST_STEP = 0.5
# How far the first window reaches from the mode, in SDs.
FIRST_REACH = 6.0
# Points of the scan whose log density is this close to the mode's belong to the first window.
NEAR = 20.0


@dataclass(frozen=True, slots=True)
class Centre:
    """The point that deviations are taken from, so that no digits cancel."""

    sigma: float
    components: Array  # (8,) variances, covariance, var(Residual), SDs, correlation, sd(Residual)
    beta: Array  # (p,) whitened fixed effects
    reference: float  # log density that stands for one
    given: Array  # (2, 2) of the integrand


def place_components(t1: float, t2: float, r: float, sigma: float, given: Array) -> Array:
    """Return the eight components at one point."""
    base = np.empty(8)
    place_base(t1, t2, r, given, base)
    return np.asarray(base * sigma ** np.array([2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 0.0, 1.0]))


def evaluate_height(integrand: Integrand, axes: Axes, y: Array) -> tuple[float, float, Array]:
    """Return the log density by y (4,), the sigma that fits there, and beta~'s mean (p,).

    Beyond the reach of the axes the density counts as zero.
    """
    for axis, at in zip(axes, y, strict=True):
        first, last = REACH[axis.kind]
        if not first <= at <= last:
            return -math.inf, math.nan, np.full(len(integrand.back), math.nan)
    t1, t2, r, sigma = (float(map_nodes(axis, at)) for axis, at in zip(axes, y, strict=True))
    rest = math.exp(float(log_sech(np.sinh(y[2]))))
    height, fitting, beta = height_at(t1, t2, r, rest, sigma, integrand.terms)
    stretch = sum(float(log_stretch(axis, at)) for axis, at in zip(axes, y, strict=True))
    value = height + stretch
    return (value if math.isfinite(value) else -math.inf), fitting, beta


def find_start(
    integrand: Integrand, priors: ResolvedPriors, sizes: Sequence[int]
) -> tuple[Axes, Centre]:
    """Return open axes with their first windows and steps, and the mode as a centre."""
    unit = integrand.unit
    q = len(unit)
    absent = Axis("absent", 1.0)
    axes: Axes = (
        Axis("open", float(unit[0])),
        Axis("open", float(unit[1])) if q == 2 else absent,
        Axis("corr", 1.0, eta=priors.corr.eta) if len(sizes) < q else absent,
        Axis("log", integrand.scale),
    )
    points, heights = _scan(integrand, axes)
    mode = _climb(integrand, axes, points[int(np.argmax(heights))])
    # Once more with the axes' scales at the mode, so that they bend where the posterior lies.
    scaled = tuple(
        replace(axis, scale=float(map_nodes(axis, at))) if axis.kind == "open" else axis
        for axis, at in zip(axes, mode, strict=True)
    )

    def carry(y: Array) -> Array:
        return np.array(
            [
                float(locate(new, map_nodes(old, at))) if old.kind == "open" else at
                for old, new, at in zip(axes, scaled, y, strict=True)
            ]
        )

    mode = _climb(integrand, scaled, carry(mode))
    top, _, beta = evaluate_height(integrand, scaled, mode)
    held, free = _measure(integrand, scaled, mode)
    near = np.array([carry(y) for y in points[heights > top - NEAR]]).reshape(-1, 4)
    placed = tuple(
        place_window(
            axis,
            min([at - FIRST_REACH * reach, *near[:, i]]),
            max([at + FIRST_REACH * reach, *near[:, i]]),
            FIRST_STEP * step,
        )
        if axis.is_present
        else axis
        for i, (axis, at, reach, step) in enumerate(zip(scaled, mode, free, held, strict=True))
    )
    t1, t2, r, sigma = (float(map_nodes(axis, at)) for axis, at in zip(scaled, mode, strict=True))
    return placed, Centre(
        sigma, place_components(t1, t2, r, sigma, integrand.given), beta, top, integrand.given
    )


def _scan(integrand: Integrand, axes: Axes) -> tuple[Array, Array]:
    """Return points (m, 4) all over the space, sigma fitted to each, and their heights (m,)."""

    def choose(axis: Axis) -> Array:
        if axis.kind == "absent":
            return np.zeros(1)
        if axis.kind == "corr":
            return np.linspace(-1.5, 1.5, 7)
        return np.asarray(locate(axis, axis.scale * 2.0 ** np.arange(-8.0, 8.0)))

    grid = np.meshgrid(*(choose(axis) for axis in axes[:3]), indexing="ij")
    points = np.stack([*(g.ravel() for g in grid), np.zeros(grid[0].size)], axis=1)
    heights = np.empty(len(points))
    for row, y in enumerate(points):
        _, fitting, _ = evaluate_height(integrand, axes, y)
        y[3] = float(locate(axes[3], np.asarray(fitting)))
        heights[row] = evaluate_height(integrand, axes, y)[0]
    return points, heights


def _climb(integrand: Integrand, axes: Axes, start: Array) -> Array:
    """Return the y (4,) of the highest density near the start."""
    active = np.flatnonzero([axis.is_present for axis in axes])
    at = start.copy()
    origin = evaluate_height(integrand, axes, at)[0]

    def negative(values: Array) -> float:
        y = at.copy()
        y[active] = values
        return origin - evaluate_height(integrand, axes, y)[0]

    found = start[active]
    # A simplex may collapse early: begin again, smaller, from where it stopped.
    for size in (0.3, 0.05, 0.01):
        simplex = np.vstack([found, found + size * np.eye(len(active))])
        options = {"initial_simplex": simplex, "xatol": 1e-5, "fatol": 1e-7, "maxiter": 2000}
        found = minimize(negative, found, method="Nelder-Mead", options=options).x
    at[active] = found
    return at


def _measure(integrand: Integrand, axes: Axes, mode: Array) -> tuple[Array, Array]:
    """Return the SDs (4,) of y with the rest held and with the rest free, from the curvature.

    Differences are taken over about one SD, so that they tell of the whole hill and not of its
    top.
    """
    top = evaluate_height(integrand, axes, mode)[0]
    active = np.flatnonzero([axis.is_present for axis in axes])

    def height(step: Array) -> float:
        return max(evaluate_height(integrand, axes, mode + step)[0] - top, -1e6)

    unit = np.eye(4)
    delta = np.zeros(4)
    held = np.zeros(4)
    for i in active:
        step = 0.1
        for _ in range(60):
            drop = -0.5 * (height(step * unit[i]) + height(-step * unit[i]))
            if 0.2 <= drop <= 1.0 or step > 2.0:
                break
            step *= 2.0 if drop < 0.02 else 0.25 if drop > 10.0 else math.sqrt(0.5 / drop)
        delta[i] = step
        held[i] = min(step / math.sqrt(max(2.0 * drop, 1e-3)), 2.0)
    curvature = np.eye(4)
    curvature[active, active] = held[active] ** -2.0
    for i in active:
        for j in active[active < i]:
            a, b = delta[i] * unit[i], delta[j] * unit[j]
            twist = height(a + b) - height(a - b) - height(b - a) + height(-a - b)
            curvature[i, j] = curvature[j, i] = -twist / (4.0 * delta[i] * delta[j])
    free = held.copy()
    if np.linalg.eigvalsh(curvature / np.outer(held + (held == 0), held + (held == 0)))[0] > 0.0:
        free = np.sqrt(np.diag(np.linalg.inv(curvature)))
    return held, np.clip(free, held, 10.0 * held)
