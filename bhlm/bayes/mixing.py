"""How far chains agree, and how many independent draws theirs are worth: ArviZ's numbers.

Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16, 667-718,
sections 3 and 4.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

Array = np.ndarray

TAIL = (0.05, 0.95)  # the quantiles of which the tail ESS is the smaller one
_AXES = {"chain_axis": 1, "draw_axis": 2}


class Measured(NamedTuple):
    """How far chains agree, and how many independent draws theirs are worth."""

    rhat: Array  # (m,) rank-normalised split R-hat
    ess_bulk: Array  # (m,)
    ess_tail: Array  # (m,) of the 5 % and 95 % quantiles, the smaller


def measure(stack: Array) -> Measured:
    """Return R-hat and ESS of m parameters' draws (m, chain, draw).

    R-hat of one that is constant, or of a single chain, is nan; so is all of one with a nan, and
    of fewer than four draws per chain.
    """
    from arviz_stats.base import array_stats

    with np.errstate(invalid="ignore", divide="ignore"):
        return Measured(
            np.atleast_1d(array_stats.rhat(stack, **_AXES)),
            np.atleast_1d(array_stats.ess(stack, method="bulk", **_AXES)),
            np.atleast_1d(array_stats.ess(stack, method="tail", prob=TAIL, **_AXES)),
        )


def measure_bulk(values: Array) -> Array:
    """Return the bulk ESS (m,) of one chain's draws (m, n), as ArviZ does.

    The normal scores of all quantities are computed at once: for each alone they take ArviZ
    longer than all the rest.
    """
    from arviz_stats.base import array_stats
    from scipy.stats import rankdata

    half = values.shape[1] // 2
    split = np.hstack([values[:, :half], values[:, values.shape[1] - half :]])
    scores = ndtri((rankdata(split, axis=1) - 0.375) / (split.shape[1] + 0.25))
    return np.atleast_1d(array_stats.ess(scores[:, None], method="mean", **_AXES))


def measure_mean(stack: Array) -> Array:
    """Return the ESS (m,) of the means of m parameters' draws (m, chain, draw)."""
    from arviz_stats.base import array_stats

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_1d(array_stats.ess(stack, method="mean", **_AXES))
