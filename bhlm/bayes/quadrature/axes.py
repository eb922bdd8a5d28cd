"""The axes of the quadrature grid: changes of variable, nodes, weights and windows.

Each parameter is a smooth function of y. By kind of axis:

    open    t = c exp(y - exp(-y))    a relative SD whose posterior vanishes well before 0
    edge    t = c sinh(y), y >= 0     a relative SD whose posterior reaches 0
    corr    r = tanh(sinh(y))         a correlation
    log     sigma = c exp(y)          the residual SD

On an edge axis the integrand is analytic up to and including 0 but does not vanish there, and
the rule is that of Clenshaw and Curtis on [0, Y]. On the others it decays at both ends, and the
rule is the trapezoidal one at y = h k for whole k. Either keeps its nodes when they are doubled
and converges exponentially.
Source: Trefethen & Weideman (2014), SIAM Review 56, 385-458, sections 5 and 11; Trefethen
(2008), SIAM Review 50, 67-87, for Clenshaw & Curtis; Takahasi & Mori (1974), Publ. RIMS 9,
721-741, for double-exponential changes of variable.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.special import betaln, wrightomega

Array = np.ndarray
Kind = Literal["open", "edge", "corr", "log", "absent"]
# How far y may reach, either way: at the ends t is of the order of 1e-156 and 1e+17 times c, and
# 1 - |r| and the density by y are zero in doubles. Further out no moment is worth integrating.
REACH: dict[Kind, tuple[float, float]] = {
    "open": (-5.8, 40.0),
    "edge": (0.0, 40.0),
    "corr": (-4.5, 4.5),
    "log": (-40.0, 40.0),
    "absent": (0.0, 0.0),
}
# Stands for t = 0 on an edge axis, where the log of a prior may be infinite.
ALMOST_ZERO = 1e-150


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of the grid, with nodes k from `low` to `high`.

    They lie at y = step k; on an edge axis, where low is 0 and high a multiple of 4, at
    y = step high (1 - cos(pi k / high)) / 2.
    """

    kind: Kind
    scale: float  # c
    step: float = 1.0  # h
    low: int = 0
    high: int = 0
    eta: float = 1.0  # of the LKJ prior, for a correlation

    @property
    def y(self) -> Array:
        """The nodes (n,)."""
        k = np.arange(self.low, self.high + 1)
        if self.kind == "edge":
            # sin^2 keeps the digits of the nodes next to zero.
            return self.step * self.high * np.sin(0.5 * np.pi * k / self.high) ** 2
        return self.step * k

    @property
    def size(self) -> int:
        """The number of nodes."""
        return self.high - self.low + 1

    @property
    def is_present(self) -> bool:
        """Whether the model has this dimension."""
        return self.kind != "absent"


def map_nodes(axis: Axis, y: Array) -> Array:
    """Return the parameter at y."""
    if axis.kind == "open":
        return axis.scale * np.exp(y - np.exp(-y))
    if axis.kind == "edge":
        return axis.scale * np.maximum(np.sinh(y), ALMOST_ZERO)
    if axis.kind == "corr":
        return np.tanh(np.sinh(y))
    if axis.kind == "log":
        return axis.scale * np.exp(y)
    return np.zeros_like(y)


def locate(axis: Axis, value: Array) -> Array:
    """Return the y at which `map_nodes` gives the value."""
    if axis.kind == "open":
        v = np.log(value / axis.scale)
        return np.asarray(v + np.real(wrightomega(-v)))
    if axis.kind == "edge":
        return np.arcsinh(value / axis.scale)
    if axis.kind == "corr":
        return np.arcsinh(np.arctanh(value))
    if axis.kind == "log":
        return np.log(value / axis.scale)
    return np.zeros_like(value)


def log_stretch(axis: Axis, y: Array) -> Array:
    """Return the log of d parameter / d y, times the LKJ density of a correlation.

    With x = sinh(y) a correlation has 1 - r^2 = sech(x)^2, and the LKJ density of a 2 x 2 block
    is (1 - r^2)^(eta - 1) / (2^(2 eta - 1) B(eta, eta)). Log sigma is its own parameter here.
    """
    if axis.kind == "open":
        return math.log(axis.scale) + y - np.exp(-y) + np.log1p(np.exp(-y))
    if axis.kind == "edge":
        return np.log(axis.scale * np.cosh(y))
    if axis.kind == "corr":
        constant = (2.0 * axis.eta - 1.0) * math.log(2.0) + betaln(axis.eta, axis.eta)
        return 2.0 * axis.eta * log_sech(np.sinh(y)) + np.log(np.cosh(y)) - constant
    return np.zeros_like(y)


def log_sech(x: Array) -> Array:
    """Return log(1 / cosh(x)) without overflow."""
    x = np.abs(x)
    return np.asarray(math.log(2.0) - x - np.log1p(np.exp(-2.0 * x)))


def weigh_nodes(axis: Axis) -> Array:
    """Return the weights (n,) of the rule in y."""
    if not axis.is_present:
        return np.ones(1)
    if axis.kind != "edge":
        return np.full(axis.size, axis.step)
    # Clenshaw & Curtis on [-1, 1], each weight as a cosine sum, times half the length.
    n = axis.high
    k = np.arange(n + 1)
    j = np.arange(1, n // 2 + 1)
    share = np.where(j == n // 2, 1.0, 2.0) / (4.0 * j**2 - 1.0)
    weights = (1.0 - np.cos(2.0 * np.pi * np.outer(k, j) / n) @ share) * 2.0 / n
    weights[[0, -1]] *= 0.5
    return np.asarray(0.5 * axis.step * n * weights)


def weigh_half(axis: Axis) -> Array:
    """Return the weights (n,) of the rule with half as many nodes, zero for the others."""
    weights = np.zeros(axis.size)
    if not axis.is_present:
        weights[:] = 1.0
    elif axis.kind == "edge":
        weights[::2] = weigh_nodes(replace(axis, step=2.0 * axis.step, high=axis.high // 2))
    else:
        weights[axis.low % 2 :: 2] = 2.0 * axis.step
    return weights


def place_window(axis: Axis, lower: float, upper: float, step: float) -> Axis:
    """Return the axis with nodes from `lower` to `upper` in y, as far as its reach allows."""
    first, last = REACH[axis.kind]
    lower, upper = min(max(lower, first), last), min(max(upper, first), last)
    if axis.kind == "edge":
        count = 4 * max(math.ceil(0.25 * upper / step), 2)
        return replace(axis, step=upper / count, low=0, high=count)
    # Even ends, so that nodes and half of them have the same window.
    low, high = 2 * math.floor(0.5 * lower / step), 2 * math.ceil(0.5 * upper / step)
    low, high = max(low, math.ceil(first / step)), min(high, math.floor(last / step))
    return replace(axis, step=step, low=low, high=max(high, low + 4))


def halve_step(axis: Axis) -> Axis:
    """Return the axis with twice as many nodes, the old ones among them."""
    if not axis.is_present:
        return axis
    return replace(axis, step=0.5 * axis.step, low=2 * axis.low, high=2 * axis.high)


def refine_step(axis: Axis, factor: float) -> Axis:
    """Return the axis with `factor` times as many nodes, at most twice."""
    if not axis.is_present:
        return axis
    if factor >= 2.0:
        return halve_step(axis)
    y = axis.y
    return place_window(axis, float(y[0]), float(y[-1]), axis.step / factor)


def double_step(axis: Axis) -> Axis:
    """Return the axis with half as many nodes."""
    if not axis.is_present:
        return axis
    y = axis.y
    return place_window(axis, float(y[0]), float(y[-1]), 2.0 * axis.step)


def fit_window(axis: Axis, profile: Array, tail: float) -> tuple[Axis, bool]:
    """Return the axis with a window that leaves out less than `tail`, and whether it grew.

    Args:
        axis: the axis that the profile (n,) was summed over.
        profile: what is integrated, at each node and with its weight; not negative.
        tail: the share of the sum that may lie beyond either end.
    """
    if not axis.is_present:
        return axis, False
    y = axis.y
    first, last = REACH[axis.kind]
    if axis.kind == "edge":
        low, grew_low = 0.0, False
    else:
        low, grew_low = _move_end(-y[::-1], profile[::-1], weigh_nodes(axis), tail)
        low, grew_low = -low, grew_low and y[0] - axis.step > first
    high, grew_high = _move_end(y, profile, weigh_nodes(axis), tail)
    grew_high = grew_high and y[-1] + axis.step < last
    if low == y[0] and high == y[-1]:
        return axis, False
    return place_window(axis, low, high, axis.step), grew_low or grew_high


def measure_tails(axis: Axis, profile: Array) -> float:
    """Return the share of the profile (n,) that lies beyond the ends of the window."""
    if not axis.is_present:
        return 0.0
    weights = weigh_nodes(axis)
    beyond = _extrapolate(axis.y, profile, weights)[0]
    if axis.kind != "edge":
        beyond += _extrapolate(-axis.y[::-1], profile[::-1], weights)[0]
    return beyond


def _extrapolate(y: Array, profile: Array, weights: Array) -> tuple[float, float]:
    """Return the share beyond the last node, and the rate at which it falls with y.

    Beyond the end the integrand is taken to fall exponentially, as between the last nodes.
    """
    total = float(profile.sum())
    if not total > 0.0:
        return 1.0, 0.0
    # Over at least two steps: next to the end of an edge axis the nodes crowd.
    before = min(int(np.searchsorted(y, y[-1] - 0.05 * (y[-1] - y[0]))), len(y) - 3)
    end, earlier = profile[-1] / weights[-1], profile[before] / weights[before]
    if not end > 0.0:
        return 0.0, math.inf
    rate = math.log(earlier / end) / (y[-1] - y[before]) if earlier > 0.0 else 0.0
    return (float(end / rate / total) if rate > 0.0 else 1.0), rate


def _move_end(y: Array, profile: Array, weights: Array, tail: float) -> tuple[float, bool]:
    """Return where the upper end of the window should be, and whether that is further out."""
    length = float(y[-1] - y[0])
    beyond, rate = _extrapolate(y, profile, weights)
    if beyond > tail:
        needed = 1.1 * math.log(beyond / tail) / rate if rate > 0.0 else math.inf
        return float(y[-1]) + min(max(needed, 0.02 * length), 0.5 * length), True
    # Cut what is empty, but keep a margin beyond what counts.
    above = np.cumsum(profile[::-1])[::-1]
    last = min(int(np.sum(above >= 1e-2 * tail * above[0])), len(y) - 1)
    end = float(y[last]) + 0.02 * length
    return (end if end < y[-1] - 0.08 * length else float(y[-1])), False


def interpolate(axis: Axis, values: Array, y: Array) -> Array:
    """Return the function with values (n,) at the nodes at points y (m,), zero outside.

    On a trapezoidal axis it is the cardinal series, on an edge axis the polynomial through the
    Chebyshev points (barycentric formula).
    """
    if axis.kind != "edge":
        k = np.arange(axis.low, axis.high + 1)
        return np.asarray(np.sinc(y[:, None] / axis.step - k) @ values)
    nodes = axis.y
    signs = np.where(np.arange(len(nodes)) % 2 == 0, 1.0, -1.0)
    signs[[0, -1]] *= 0.5
    gap = y[:, None] - nodes
    hit = gap == 0.0
    terms = signs / np.where(hit, 1.0, gap)
    found = (terms @ values) / terms.sum(axis=1)
    found = np.where(hit.any(axis=1), values[hit.argmax(axis=1)], found)
    return np.where(y <= nodes[-1], found, 0.0)
