"""Coordinates that stand at a density's mode, with axes as long as its curvature there says."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from bhlm.design.kernels import kernel

Array = np.ndarray

STEP = 1e-4  # of the differences of the gradient that give the curvature at the mode
WIDEST = 3.0  # the longest axis of what the sampler moves in, per unit of x


class Axes(NamedTuple):
    """x = centre + turn z."""

    centre: Array  # (d,)
    turn: Array  # (d, d)

    def turn_back(self, z: Array) -> Array:
        """Return the positions x (..., d) of positions z (..., d)."""
        return np.asarray(self.centre + z @ self.turn.T)


class Turned(NamedTuple):
    """A density of x that the sampler moves on in z."""

    base: Any  # of x: a Density or a WeightedDensity
    axes: Axes

    @property
    def dimension(self) -> int:
        """The length of z."""
        return len(self.axes.centre)


def evaluate_turned(
    evaluate: Callable[[Array], tuple[float, Array]], axes: Axes, z: Array
) -> tuple[float, Array]:
    """Return the log density of x and its gradient (d,) by z, but for the constant log |turn|.

    Args:
        evaluate: a position x (d,) -> the log density there and its gradient (d,).
        axes: of z.
        z: the position (d,).
    """
    value, gradient = evaluate(locate(z, axes.centre, axes.turn))
    return value, pull_back(gradient, axes.turn)


@kernel
def locate(z: Array, centre: Array, turn: Array) -> Array:
    """Return the position x (d,) of z (d,), summed in an order that no library chooses."""
    x = centre.copy()
    for i in range(len(z)):
        for j in range(len(z)):
            x[i] += turn[i, j] * z[j]
    return x


@kernel
def pull_back(gradient: Array, turn: Array) -> Array:
    """Return the gradient by z (d,) of that by x (d,)."""
    out = np.zeros(len(gradient))
    for i in range(len(gradient)):
        for j in range(len(gradient)):
            out[j] += turn[i, j] * gradient[i]
    return out


def find_axes(evaluate: Callable[[Array], tuple[float, Array]], start: Array) -> Axes:
    """Return axes at the mode that a search finds; where it is none, as short as x's.

    Args:
        evaluate: a position (d,) -> the log density there and its gradient (d,).
        start: where the search begins (d,).
    """

    def fall(x: Array) -> tuple[float, Array]:
        value, gradient = evaluate(x)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return 1e300, np.zeros(len(x))
        return -value, -gradient

    found = minimize(fall, start, jac=True, method="BFGS", options={"gtol": 1e-4, "maxiter": 500})
    mode = found.x if found.fun < 1e299 else start
    d = len(mode)
    curvature = np.empty((d, d))
    for i in range(d):
        step = STEP * np.eye(d)[i]
        curvature[i] = (fall(mode + step)[1] - fall(mode - step)[1]) / (2.0 * STEP)
    curvature = 0.5 * (curvature + curvature.T)
    if not np.isfinite(curvature).all():
        return Axes(mode, np.eye(d))
    values, vectors = np.linalg.eigh(curvature)
    lengths = 1.0 / np.sqrt(np.maximum(values, WIDEST**-2))
    return Axes(mode, np.ascontiguousarray(vectors * lengths))
