"""The mode of a marginal posterior from its draws, at a bound where it stands there.

The half-sample mode, which `arviz_stats` takes, has an error of order S^-1/3 and never returns a
bound: an SD whose density falls from 0 on has a "mode" of .06 to .28 over seeds. Here the density
is a Gaussian kernel estimate, with the draws reflected at the bounds of the parameter (an SD has 0,
a correlation -1 and 1), which removes the kernel's bias there: reflected, f has no kink at a bound.
Its maximum is taken. A density that is flat within its Monte Carlo error has no one maximum; where
the estimate at a bound is within `TOLERANCE` standard errors of the highest, the mode is the bound:

    var f(x) ~ f(x) R(K) / (ess h),  R(K) = 1 / (2 sqrt(pi)),  twice that at a bound (mirror images)

The bandwidth is for the mode, not for the density: S^-1/7 times the spread, in place of S^-1/5.
Source: Silverman (1986), Density Estimation, sections 2.10 and 3.4; Parzen (1962), Ann. Math.
Stat. 33, 1065-1076, for modes; Romano (1988), Ann. Stat. 16, 629-647, for the rate.
"""

import numpy as np

Array = np.ndarray

GRID = 1024
TOLERANCE = 2.0
ROUNDING = 1e-14  # of the draws: a kernel no wider than that sees the doubles one by one
REACH = 4.0  # standard deviations of the kernel that are summed
ROUGHNESS = 1.0 / (2.0 * np.sqrt(np.pi))


def find_mode(
    draws: Array, *, lower: float = -np.inf, upper: float = np.inf, ess: float | None = None
) -> float:
    """Return the mode of draws (S,) of a parameter between `lower` and `upper`.

    Args:
        draws: of any shape; nan is left out.
        lower: the parameter's bound, 0 for an SD or a variance.
        upper: its other bound.
        ess: effective draws; None counts each.
    """
    x = np.sort(np.ravel(draws))
    x = x[np.isfinite(x)]
    if not len(x):
        return float("nan")
    if x[0] == x[-1]:
        return float(x[0])
    ess = float(len(x)) if ess is None or not np.isfinite(ess) else min(ess, float(len(x)))
    width = choose_bandwidth(x, ess)
    if width <= ROUNDING * max(abs(x[0]), abs(x[-1])):
        return float(np.median(x))
    grid, density = estimate_density(x, width, lower=lower, upper=upper)
    at = int(density.argmax())
    error = np.sqrt(density[at] * ROUGHNESS / (ess * width))
    bounds = [
        (bound, 0 if bound == lower else -1) for bound in (lower, upper) if np.isfinite(bound)
    ]
    for bound, end in bounds:
        # The grid ends at a bound only where draws come near it.
        near = abs(grid[end] - bound) < width
        # The error at the bound is sqrt(2) that inside; the difference has sqrt(3).
        if near and density[at] - density[end] <= TOLERANCE * np.sqrt(3.0) * error:
            return float(bound)
    return float(_refine(grid, density, at))


def choose_bandwidth(x: Array, ess: float) -> float:
    """Return the kernel's SD for the mode of sorted draws (S,): .9 min(SD, IQR / 1.34) ess^-1/7.

    The spread is that of the half of the draws that lie closest together, as a normal's SD: a long
    tail, which the density of an SD has, does not widen it.
    """
    half = (len(x) + 1) // 2
    shortest = float(np.min(x[half:] - x[: len(x) - half]))
    spread = min(float(x.std()), shortest / 1.349)
    return 0.9 * (spread if spread > 0.0 else float(x.std())) * ess ** (-1.0 / 7.0)


def estimate_density(x: Array, width: float, *, lower: float, upper: float) -> tuple[Array, Array]:
    """Return a grid (g,) and the density there, reflected at finite bounds that draws come near."""
    reach = REACH * width
    low, high = x[0] - reach, x[-1] + reach
    left, right = low < lower, high > upper
    low, high = max(low, lower), min(high, upper)
    # A draw far out must not make the grid coarser than the kernel.
    many = int(np.clip(np.ceil((high - low) / (0.1 * width)), GRID, 2**18))
    grid = np.linspace(low, high, many)
    step = grid[1] - grid[0]
    place = (x - low) / step
    first = np.clip(place.astype(int), 0, many - 2)
    share = place - first
    counts = np.bincount(first, 1.0 - share, many) + np.bincount(first + 1, share, many)
    span = int(np.ceil(reach / step))
    padded = np.pad(counts, span)
    # Mirror images about the grid's ends; the end point itself stands for half a cell.
    if left:
        padded[: span + 1] += padded[span : 2 * span + 1][::-1]
    if right:
        padded[-span - 1 :] += padded[-2 * span - 1 : -span][::-1]
    kernel = np.exp(-0.5 * (np.arange(-span, span + 1) * step / width) ** 2)
    kernel /= kernel.sum() * step * len(x)
    size = 1 << int(np.ceil(np.log2(len(padded) + len(kernel))))
    smooth = np.fft.irfft(np.fft.rfft(padded, size) * np.fft.rfft(kernel, size), size)
    return grid, np.maximum(smooth[2 * span : 2 * span + many], 0.0)


def _refine(grid: Array, density: Array, at: int) -> float:
    """Return the vertex of the parabola through the highest point and its neighbours."""
    if at in (0, len(grid) - 1):
        return float(grid[at])
    left, middle, right = density[at - 1 : at + 2]
    bend = left - 2.0 * middle + right
    shift = 0.5 * (left - right) / bend if bend < 0.0 else 0.0
    return float(grid[at] + shift * (grid[1] - grid[0]))
