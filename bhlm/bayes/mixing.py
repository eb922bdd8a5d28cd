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


class Known(NamedTuple):
    """What was measured of draws, and the draws that it was measured of."""

    stack: Array  # (m, chain, draw)
    measured: Measured


def measure(stack: Array, known: Known | None = None) -> Measured:
    """Return R-hat and ESS of m parameters' draws (m, chain, draw).

    R-hat of one that is constant, or of a single chain, is nan; so is all of one with a nan, and
    of fewer than four draws per chain. What is known already of these very draws is not measured
    again.
    """
    if known is not None and np.array_equal(stack, known.stack):
        return known.measured
    from arviz_stats.base import array_stats

    split = _join_halves(stack)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores = _score(split)
        folded = _score(np.abs(split - np.median(split, axis=(1, 2), keepdims=True)))
        centre, spread = (
            np.atleast_1d(array_stats.rhat(each, method="split", **_AXES))
            for each in (scores, folded)
        )
        return Measured(
            np.where(spread > centre, spread, centre),
            np.atleast_1d(array_stats.ess(scores, method="mean", **_AXES)),
            np.atleast_1d(array_stats.ess(stack, method="tail", prob=TAIL, **_AXES)),
        )


def measure_bulk(values: Array) -> Array:
    """Return the bulk ESS (m,) of one chain's draws (m, n), as ArviZ does."""
    from arviz_stats.base import array_stats

    scores = _score(_join_halves(values[:, None]))
    return np.atleast_1d(array_stats.ess(scores, method="mean", **_AXES))


def _join_halves(stack: Array) -> Array:
    """Return the halves that chains (m, chain, draw) are split into, without what is between."""
    n = stack.shape[2]
    return np.concatenate([stack[..., : n // 2], stack[..., n - n // 2 :]], axis=2)


def _score(stack: Array) -> Array:
    """Return the normal scores of m parameters' draws (m, chain, draw), of all chains together.

    Of all parameters at once: for each alone they take ArviZ longer than all the rest, and it
    computes those of the bulk once for R-hat and once for ESS.
    """
    from scipy.stats import rankdata

    flat = stack.reshape(len(stack), -1)
    ranks = rankdata(flat, axis=1).reshape(stack.shape)
    return np.asarray(ndtri((ranks - 0.375) / (flat.shape[1] + 0.25)))


def measure_mean(stack: Array) -> Array:
    """Return the ESS (m,) of the means of m parameters' draws (m, chain, draw)."""
    from arviz_stats.base import array_stats

    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_1d(array_stats.ess(stack, method="mean", **_AXES))
