"""Pareto-smoothed weights of draws that may have no tail to smooth.

Chains that do not move leave weights that are equal, or so few different ones that no tail can be
fitted: the weights are then as they are, and k-hat is infinite.
"""

import warnings

import numpy as np

Array = np.ndarray


def smooth_tails(logs: Array, *, reff: float = 1.0) -> tuple[Array, Array]:
    """Return smoothed log weights (..., N), each summing to 1, and k-hat (...).

    Args:
        logs: logarithms of importance ratios (..., N).
        reff: effective draws per draw.
    """
    from arviz_stats.base import array_stats

    logs = np.ascontiguousarray(logs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of tail draws cannot be less than")
        try:
            smoothed, khat = array_stats.psislw(-logs, r_eff=reff, axis=-1)
        except ValueError:
            if logs.ndim > 1:
                rows = [smooth_tails(row, reff=reff) for row in logs]
                return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])
            return logs - _log_sum(logs), np.asarray(np.inf)
    return np.asarray(smoothed), np.asarray(khat)


def _log_sum(logs: Array) -> float:
    largest = logs.max()
    return float(largest + np.log(np.exp(logs - largest).sum()))
