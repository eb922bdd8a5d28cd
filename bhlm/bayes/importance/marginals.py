"""Smooth marginal densities and modes of parameters from weighted draws.

Of a fixed effect the density is a mixture of the normals that it is given the rest. Of the other
parameters the log density is fitted by a polynomial in a coordinate that runs over the whole line
(log x, atanh x, asinh of standardised x): a Poisson regression on weighted counts, whose errors
are those of a few coefficients and not those of a kernel. Of an SD or a variance whose density is
known to rise from zero as a power of x, that power is taken out, and what is left is fitted by a
polynomial in log(1 + x / c), which is smooth at zero: in log x the few draws there would decide
whether the mode is zero.

Source: Efron & Tibshirani (1996), Ann. Statist. 24, 2431-2461, for the fit (Lindsey's method).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

from bhlm.bayes.importance.kernels import Kernels
from bhlm.likelihood.parameters import Parameter

Array = np.ndarray
Support = Literal["line", "positive", "correlation"]
Way = Literal["line", "positive", "correlation", "from zero"]  # by which coordinate

BINS = 60
DEGREE = 6
EDGE = 5e-4  # posterior probability beyond either end of the fit
GRID = 2001
REPLICATES = 24  # of the counts, for the error of the mode
STEPS = 30  # of Newton's rule
# A mode so near the end of the fitted range, in shares of it, is at the end of the support.
NEAR_END = 0.01


@dataclass(frozen=True, slots=True)
class Marginal:
    """A parameter's marginal density, and its mode with its standard error."""

    x: Array  # (GRID,) increasing
    density: Array  # (GRID,)
    mode: float
    mode_se: float


def find_support(parameter: Parameter) -> Support:
    """Return where a parameter lives."""
    if parameter.is_correlation:
        return "correlation"
    return "positive" if parameter.is_sd or parameter.is_variance else "line"


def fit_marginal(
    kernels: Kernels,
    weight: Array,
    support: Support,
    *,
    power: float | None = None,
    seed: int = 0,
) -> Marginal:
    """Return the marginal density of a parameter.

    A mode at the end of the support, where the density still rises at the lowest values that were
    drawn, is 0 for a positive parameter and -1 or 1 for a correlation.

    Args:
        kernels: the parameter at each draw.
        weight: of the draws, summing to 1.
        support: where the parameter lives.
        power: with which the density of a positive parameter rises from zero; None if unknown.
        seed: of the replicates.
    """
    if np.any(kernels.width > 0.0):
        return _mix(kernels, weight)
    x, centre, scale = kernels.centre, 0.0, 1.0
    if support == "line":
        centre = float(weight @ x)
        scale = math.sqrt(float(weight @ (x - centre) ** 2))
    way: Way = support
    if support == "positive" and power is not None:
        way, scale = "from zero", float(np.median(x))
    z = _map(x, way, centre, scale)
    order = np.argsort(z)
    low, high = np.interp([EDGE, 1.0 - EDGE], np.cumsum(weight[order]), z[order])
    edges = np.linspace(low, high, BINS + 1)
    counts = np.histogram(z, edges, weights=weight)[0]
    noise = np.sqrt(np.histogram(z, edges, weights=weight**2)[0])
    ess = 1.0 / float(np.sum(weight**2))
    middle = np.linspace(-1.0 + 1.0 / BINS, 1.0 - 1.0 / BINS, BINS)
    basis = np.polynomial.chebyshev.chebvander(middle, DEGREE)
    grid = np.linspace(-1.0, 1.0, GRID)
    fine = np.polynomial.chebyshev.chebvander(grid, DEGREE)
    at = 0.5 * (low + high) + 0.5 * (high - low) * grid
    places = _unmap(at, way, centre, scale)
    # The polynomial is that of the log density by z, or of what its known power leaves of it by x.
    added, known = -_log_jacobian(at, way), np.zeros(BINS)
    if way == "from zero":
        assert power is not None
        bins = 0.5 * (edges[1:] + edges[:-1])
        known = power * np.log(_unmap(bins, way, centre, scale)) + _log_jacobian(bins, way)
        known -= known.max()
        added = power * np.log(places)
    coefficients = _regress(basis, ess * counts, known)
    height = fine @ coefficients + added
    rng = np.random.default_rng(seed)
    modes = []
    for _ in range(REPLICATES):
        again = np.maximum(counts + noise * rng.standard_normal(BINS), 0.0)
        fitted = fine @ _regress(basis, ess * again, known, start=coefficients)
        modes.append(_peak(fitted + added, places, support))
    density = np.exp(height - height.max())
    density /= np.trapezoid(density, places)
    return Marginal(places, density, _peak(height, places, support), float(np.std(modes)))


def _peak(height: Array, places: Array, support: Support) -> float:
    """Return where the height is largest; the end of the support if it is at the range's."""
    top = int(np.argmax(height))
    margin = int(NEAR_END * len(height))
    if support != "line" and top <= margin:
        return 0.0 if support == "positive" else -1.0
    if support == "correlation" and top >= len(height) - 1 - margin:
        return 1.0
    return float(places[top])


def _mix(kernels: Kernels, weight: Array) -> Marginal:
    """Return the density of a mixture of normals; its mode's error by the delta method."""
    centre, width = kernels
    mean = float(weight @ centre)
    sd = math.sqrt(float(weight @ ((centre - mean) ** 2 + width**2)))
    reach = float(ndtri(1.0 - EDGE))
    x = mean + sd * np.linspace(-1.5 * reach, 1.5 * reach, 201)
    density = np.array([_weigh(weight, centre, width, each)[0] for each in x])
    mode = float(x[int(np.argmax(density))])
    for _ in range(STEPS):
        _, slope, curve, _ = _weigh(weight, centre, width, mode)
        if curve >= 0.0:
            break
        mode -= float(np.clip(slope / curve, -0.05 * sd, 0.05 * sd))
    _, _, curve, slopes = _weigh(weight, centre, width, mode)
    error = float(np.linalg.norm(weight * slopes)) / abs(curve) if curve else math.nan
    return Marginal(x, density, mode, error)


def _weigh(
    weight: Array, centre: Array, width: Array, x: float
) -> tuple[float, float, float, Array]:
    """Return density, first and second derivative at x, and each draw's first derivative (N,)."""
    z = (x - centre) / width
    height = np.exp(-0.5 * z**2) / (width * math.sqrt(2.0 * math.pi))
    slopes = -z / width * height
    curve = float(weight @ ((z**2 - 1.0) / width**2 * height))
    return float(weight @ height), float(weight @ slopes), curve, slopes


def _regress(basis: Array, counts: Array, known: Array, *, start: Array | None = None) -> Array:
    """Return the coefficients (k,) of a Poisson regression of counts (m,) on a basis (m, k).

    `known` (m,) is added to what the basis fits.
    """
    total = float(counts.sum())
    if start is None:
        guess = np.log(np.maximum(counts, 0.5)) - known
        start = np.linalg.lstsq(basis, guess, rcond=None)[0]
    coefficients = np.array(start)
    ridge = 1e-8 * total * np.eye(basis.shape[1])
    for _ in range(STEPS):
        mean = np.exp(np.clip(basis @ coefficients + known, -50.0, 50.0))
        step = np.linalg.solve((basis * mean[:, None]).T @ basis + ridge, basis.T @ (counts - mean))
        longest = float(np.max(np.abs(step)))
        coefficients = coefficients + step * min(1.0, 2.0 / max(longest, 1e-300))
        if longest < 1e-6:
            break
    return coefficients


def _map(x: Array, way: Way, centre: float, scale: float) -> Array:
    if way == "from zero":
        return np.log1p(x / scale)
    if way == "positive":
        return np.log(np.maximum(x, 1e-300))
    if way == "correlation":
        return np.arctanh(np.clip(x, -1.0 + 1e-15, 1.0 - 1e-15))
    return np.arcsinh((x - centre) / scale)


def _unmap(z: Array, way: Way, centre: float, scale: float) -> Array:
    if way == "from zero":
        return scale * np.expm1(z)
    if way == "positive":
        return np.exp(z)
    if way == "correlation":
        return np.tanh(z)
    return centre + scale * np.sinh(z)


def _log_jacobian(z: Array, way: Way) -> Array:
    """Return log dx / dz, but for a constant."""
    if way in ("positive", "from zero"):
        return z
    if way == "correlation":
        return -2.0 * np.log(np.cosh(z))
    return np.log(np.cosh(z))
