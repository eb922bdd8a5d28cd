"""The mode of the flat-prior posterior, found through the sampler's own density.

Under flat priors on beta, G and sigma^2 the posterior of (G, sigma^2) with beta integrated out
is proportional to the restricted likelihood, so that its mode is the REML estimate. Here the
mode is found without any of the code that REML uses: from the density that the sampler draws
from, less a Jacobian that is differentiated numerically.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from bhlm.bayes.density import Density, constrain, log_density
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray
# Steps of numerical differentiation, for first and for second differences: the values are near
# 1e4 and rounded to about 1e-11, the curvatures are those of J / 2 groups or more.
STEP = 2e-4
CURVE_STEP = 2e-3
LEAN = 1.5  # of a correlation's coordinate: tanh(1.5) is 0.9


@dataclass(frozen=True, slots=True)
class FlatMode:
    """The mode of (G, sigma^2) and the fixed effects' mean there."""

    beta: Array  # (p,)
    g: Array  # (q, q)
    sigma2: float


def find_flat_mode(
    density: Density, white: Whitened, structure: Structure, start: Array
) -> FlatMode:
    """Return the mode of the flat-prior posterior of (G, sigma^2).

    Args:
        density: the posterior under `Priors.flat`.
        white: the whitening behind it.
        structure: of the random coefficients.
        start: an unconstrained position (d,), such as the mean of the flat run's draws.
    """
    p = white.p

    def negative(angles: Array) -> float:
        value, _ = _integrate_fixed(density, p, angles)
        with np.errstate(all="ignore"):
            value -= _log_jacobian(density, white, structure, angles)
        return -value if np.isfinite(value) else np.inf

    angles = np.asarray(start[p:], dtype=np.float64)
    offset = negative(angles)
    runs = [
        minimize(lambda x: negative(x) - offset, position, method="Nelder-Mead")
        for position in _spread_correlations(angles, len(density.unit))
    ]
    found = min(runs, key=lambda run: float(run.fun))
    for _ in range(8):
        step = _newton_step(negative, found.x)
        trial = found.x + step
        if not negative(trial) <= found.fun + offset + 1e-9:
            break
        found.x, found.fun = trial, negative(trial) - offset
        if np.max(np.abs(step)) < 1e-9:
            break
    _, beta = _integrate_fixed(density, p, found.x)
    elements = _elements(density, white, structure, found.x)
    return FlatMode(
        beta=white.ols + white.scale * white.fixed @ beta,
        g=structure.assemble(elements[:-1]),
        sigma2=float(elements[-1]),
    )


def _spread_correlations(angles: Array, s: int) -> list[Array]:
    """Return the position, and two at which every correlation leans to one side.

    From a correlation near zero a search may end where an SD vanishes, which can be a mode of
    its own, lower than one at a correlation of +-1.
    """
    positions = [angles]
    if len(angles) > s + 1:
        for lean in (-LEAN, LEAN):
            other = angles.copy()
            other[s:-1] = lean
            positions.append(other)
    return positions


def condition_fixed(density: Density, p: int, angles: Array) -> tuple[Array, Array]:
    """Return mean (p,) and precision (p, p) of the whitened fixed effects given the rest.

    The density is Gaussian in beta~ under flat or normal priors, so its gradient is linear in
    them: p + 1 gradients give both exactly.
    """
    at = np.concatenate([np.zeros(p), angles])
    _, gradient = log_density(at, density)
    origin = gradient[:p]
    precision = np.empty((p, p))
    for i in range(p):
        at[:p] = 0.0
        at[i] = 1.0
        precision[:, i] = origin - log_density(at, density)[1][:p]
    precision = 0.5 * (precision + precision.T)
    return np.linalg.solve(precision, origin), precision


def _integrate_fixed(density: Density, p: int, angles: Array) -> tuple[float, Array]:
    """Return the log density of the rest with beta~ integrated out, and beta~'s mean (p,)."""
    mean, precision = condition_fixed(density, p, angles)
    value, _ = log_density(np.concatenate([mean, angles]), density)
    return float(value - 0.5 * np.linalg.slogdet(precision)[1]), mean


def _elements(density: Density, white: Whitened, structure: Structure, angles: Array) -> Array:
    """Return G's free elements and sigma^2 (m + 1,) at the unconstrained coordinates."""
    x = np.concatenate([np.zeros(white.p), angles])
    _, root, sigma = constrain(density, white, x[None])
    g = root[0] @ root[0].T
    return np.append(g[tuple(np.transpose(structure.labels))], sigma[0] ** 2)


def _log_jacobian(density: Density, white: Whitened, structure: Structure, angles: Array) -> float:
    """Return log |d(G, sigma^2) / d angles| by central differences."""
    d = len(angles)
    jacobian = np.empty((d, d))
    for i in range(d):
        step = np.zeros(d)
        step[i] = STEP
        up = _elements(density, white, structure, angles + step)
        jacobian[:, i] = (up - _elements(density, white, structure, angles - step)) / (2.0 * STEP)
    return float(np.linalg.slogdet(jacobian)[1])


def _newton_step(function: Callable[[Array], float], at: Array) -> Array:
    """Return the Newton step from numerical first and second differences."""
    d = len(at)
    near = STEP * np.eye(d)
    gradient = np.array([function(at + e) - function(at - e) for e in near]) / (2.0 * STEP)
    step = CURVE_STEP
    basis = step * np.eye(d)
    centre = function(at)
    ahead = np.array([function(at + e) for e in basis])
    behind = np.array([function(at - e) for e in basis])
    hessian = np.diag((ahead - 2.0 * centre + behind) / step**2)
    for i in range(d):
        for j in range(i):
            both = function(at + basis[i] + basis[j]) - ahead[i] - ahead[j] + centre
            hessian[i, j] = hessian[j, i] = both / step**2
    values, vectors = np.linalg.eigh(hessian)
    values = np.maximum(np.abs(values), 1e-6)
    return np.asarray(-vectors @ ((vectors.T @ gradient) / values))
