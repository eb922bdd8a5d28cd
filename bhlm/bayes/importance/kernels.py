"""What weighted draws say of one parameter: mean, SD, quantiles, distribution function."""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

Array = np.ndarray
TAIL = 0.025


class Kernels(NamedTuple):
    """A parameter at each weighted draw: a normal about `centre`, or a point where width is 0."""

    centre: Array  # (N,)
    width: Array  # (N,) SDs


class Located(NamedTuple):
    """Where a parameter's posterior lies, each with the standard error of its estimate."""

    mean: float
    sd: float
    lower: float  # 2.5 % point
    upper: float  # 97.5 % point
    mean_se: float
    sd_se: float
    lower_se: float
    upper_se: float


def locate(kernels: Kernels, weight: Array) -> Located:
    """Return mean, SD and both points of weighted kernels, with delta-method standard errors.

    Of a mean m = sum w f the variance is sum w^2 (f - m)^2, of a quantile that of the weighted
    indicator over the density there. Source: Geweke (1989), theorem 2; Owen (2013), Monte Carlo
    theory, methods and examples, section 9.2; Glynn (1996), for quantiles.
    """
    centre, width = kernels
    mean = float(weight @ centre)
    square = (centre - mean) ** 2 + width**2
    variance = float(weight @ square)
    sd = math.sqrt(variance)
    low, low_se = find_quantile(kernels, weight, TAIL)
    high, high_se = find_quantile(kernels, weight, 1.0 - TAIL)
    return Located(
        mean=mean,
        sd=sd,
        lower=low,
        upper=high,
        mean_se=float(np.linalg.norm(weight * (centre - mean))),
        sd_se=float(np.linalg.norm(weight * (square - variance))) / (2.0 * sd) if sd else 0.0,
        lower_se=low_se,
        upper_se=high_se,
    )


def find_quantile(kernels: Kernels, weight: Array, p: float) -> tuple[float, float]:
    """Return a quantile of weighted kernels, and its standard error."""
    centre, width = kernels
    if np.any(width > 0.0):
        low, high = float(np.min(centre - 9.0 * width)), float(np.max(centre + 9.0 * width))
        for _ in range(60):
            middle = 0.5 * (low + high)
            if float(weight @ ndtr((middle - centre) / width)) < p:
                low = middle
            else:
                high = middle
        z = (middle - centre) / width
        density = float(weight @ (np.exp(-0.5 * z**2) / width)) / math.sqrt(2.0 * math.pi)
        return middle, float(np.linalg.norm(weight * (ndtr(z) - p))) / density
    order = np.argsort(centre)
    x = centre[order]
    share = np.cumsum(weight[order]) - 0.5 * weight[order]
    value = float(np.interp(p, share, x))
    error = float(np.linalg.norm(weight * ((centre <= value) - p)))
    around = np.interp([p - error, p + error], share, x)
    return value, float(around[1] - around[0]) / 2.0


def tabulate_cdf(kernels: Kernels, weight: Array, *, points: int = 200) -> tuple[Array, Array]:
    """Return points (m,) and the distribution function (m,) of weighted kernels, for np.interp."""
    centre, width = kernels
    if np.any(width > 0.0):
        x = np.linspace(np.min(centre - 5.0 * width), np.max(centre + 5.0 * width), points)
        mean = float(weight @ centre)
        sd = math.sqrt(float(weight @ ((centre - mean) ** 2 + width**2)))
        x = np.sort(np.concatenate([x, mean + sd * np.linspace(-5.0, 5.0, points)]))
        return x, np.array([float(weight @ ndtr((each - centre) / width)) for each in x])
    order = np.argsort(centre)
    return centre[order], np.cumsum(weight[order]) - 0.5 * weight[order]
