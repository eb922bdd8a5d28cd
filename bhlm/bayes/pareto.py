"""Pareto-smoothed weights, and tails, of draws that may have no tail to fit.

Chains that do not move leave weights that are equal, or so few different ones that no tail can be
fitted: the weights are then as they are, and k-hat is infinite.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

Array = np.ndarray


class Smoothed(NamedTuple):
    """Weights whose largest were smoothed."""

    log_weights: Array  # (..., N), each summing to 1
    khat: Array  # (...)


def smooth_tails(logs: Array, *, reff: float = 1.0) -> Smoothed:
    """Return smoothed log weights (..., N), each summing to 1, and k-hat (...).

    Args:
        logs: logarithms of importance ratios (..., N).
        reff: effective draws per draw.
    """
    from arviz_stats.base import array_stats

    logs = np.ascontiguousarray(logs)
    with _accept_few():
        try:
            smoothed, khat = array_stats.psislw(-logs, r_eff=reff, axis=-1)
        except ValueError:
            if logs.ndim > 1:
                rows = [smooth_tails(row, reff=reff) for row in logs]
                return Smoothed(
                    np.stack([row.log_weights for row in rows]),
                    np.stack([row.khat for row in rows]),
                )
            return Smoothed(logs - _log_sum(logs), np.asarray(np.inf))
    return Smoothed(np.asarray(smoothed), np.asarray(khat))


def measure_tails(draws: Array) -> float:
    """Return Pareto's k of the heavier tail of draws (chain, draw); inf where none can be fitted.

    Moments of an order below 1 / k exist.
    """
    from arviz_stats.base import array_stats

    with _accept_few(), np.errstate(all="ignore"):
        try:
            khat = float(array_stats.pareto_khat(draws, chain_axis=0, draw_axis=1))
        except ValueError:
            return np.inf
    return khat if np.isfinite(khat) else np.inf


@contextmanager
def _accept_few() -> Iterator[None]:
    """Let tails be of fewer draws than ArviZ wants, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Number of tail draws cannot be")
        yield


def _log_sum(logs: Array) -> float:
    largest = logs.max()
    return float(largest + np.log(np.exp(logs - largest).sum()))
