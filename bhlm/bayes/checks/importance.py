"""Pareto-smoothed importance sampling of leave-one-out densities, with its errors.

Source: Vehtari, Gelman & Gabry (2017), Statistics and Computing 27, 1413-1432; Vehtari, Simpson,
Gelman, Yao & Gabry (2024), JMLR 25(72), for k-hat and the Monte Carlo error; Smith (1987), Ann.
Stat. 15, 1174-1207, for the error of k-hat.
"""

import numpy as np

from bhlm.bayes.mixing import measure_mean
from bhlm.bayes.pareto import smooth_tails

Array = np.ndarray
LARGEST = 0.95  # shape beyond which a tail's mean hardly exists
FAR = 40.0  # log densities above their mean from which on the mean is nothing beside them


def log_mean(logs: Array) -> Array:
    """Return the log of the mean of exp(logs) over the last axis."""
    return _log_sum(logs) - np.log(logs.shape[-1])


def score_units(loglik: Array, reff: float) -> tuple[Array, Array, Array, Array]:
    """Return elpd (m,), its error (m,), k-hat (m,) and log weights (m, N).

    The log densities (m, N) of m units at N draws give each unit's without it by weights
    w proportional to 1 / density, smoothed: elpd = log E with E = sum w density, and error^2 =
    sum w^2 (density - E)^2 / (reff E^2) + bias^2. The first term has no limit for k >= 1/2, and
    weights that end at the largest one drawn make elpd err upward, most where k-hat by luck is
    low: `measure_bias`.

    Args:
        loglik: log densities (m, N).
        reff: effective draws per draw.
    """
    log_weights, khat = smooth_tails(-loglik, reff=reff)
    elpd = _log_sum(log_weights + loglik)
    gap = loglik - elpd[..., None]
    spread = np.exp(log_weights) * np.expm1(np.minimum(gap, FAR))
    # Of draws that are nowhere near the unit, whose densities overflow where their weights vanish.
    spread = np.where(gap > FAR, np.exp(np.minimum(log_weights + gap, 0.0)), spread)
    mcse = np.sqrt(np.sum(spread**2, axis=-1) / reff)
    khat = np.atleast_1d(khat)
    return elpd, np.hypot(mcse, measure_bias(log_weights, khat, reff)), khat, log_weights


def measure_bias(log_weights: Array, khat: Array, reff: float) -> Array:
    """Return what elpd (m,) would lose if k were one standard error above k-hat (m,).

    The M largest weights (m, N) are the tail. With m their median excess over the next one and
    error (1 + k-hat) / sqrt(M reff), the tail's mean excess is s / (1 - k), s = k m / (2^k - 1),
    at k = k-hat + error; what this exceeds the mean in use by is missing from a sum of 1.
    """
    N = log_weights.shape[-1]
    M = int(min(np.ceil(min(0.2 * N, 3.0 * np.sqrt(N / reff))), N - 1))
    top = np.exp(np.partition(log_weights, N - M - 1, axis=-1)[..., N - M - 1 :])
    excess = np.sort(top - top.min(axis=-1, keepdims=True), axis=-1)[..., 1:]
    error = (1.0 + np.maximum(khat, 0.0)) / np.sqrt(max(M * reff, 1.0))
    k = np.clip(np.where(np.isfinite(khat), khat + error, LARGEST), 0.01, LARGEST)
    mean = k * np.median(excess, axis=-1) / (2.0**k - 1.0) / (1.0 - k)
    missing = np.log1p(np.maximum(M * (mean - excess.mean(axis=-1)), 0.0))
    return np.asarray(np.where(np.isfinite(khat), missing, np.inf))


def score_ratio(logs: Array) -> tuple[float, float, float]:
    """Return the log mean of exp(logs) (chain, draw), its Monte Carlo error, and its k-hat.

    k-hat is the shape of the tail of exp(logs), from which on the mean rests on few draws.
    """
    value = float(log_mean(logs.ravel()))
    ratio = np.exp(logs - value)
    ess = float(measure_mean(ratio[None])[0])
    khat = smooth_tails(logs.ravel()).khat
    return value, float(ratio.std(ddof=1) / np.sqrt(ess)), float(khat)


def _log_sum(logs: Array) -> Array:
    """Return log sum exp over the last axis; SciPy's takes ten passes, this three."""
    largest = logs.max(axis=-1)
    return np.asarray(largest + np.log(np.exp(logs - largest[..., None]).sum(axis=-1)))
