"""How far chains agree, and how many independent draws theirs are worth.

The numbers are ArviZ's, for all quantities at once: ArviZ takes them one by one, ten times as long
where there are few draws, and loads for a second, in every process of a study.
Source: Vehtari, Gelman, Simpson, Carpenter & Buerkner (2021), Bayesian Analysis 16, 667-718,
sections 3 and 4; Geyer (1992), Statistical Science 7, 473-483, section 3.3, for the lag up to which
autocorrelations are summed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

Array = np.ndarray

TAIL = (0.05, 0.95)  # the quantiles of which the tail ESS is the smaller one
FEWEST = 4  # draws of a chain below which nothing is said
CONSTANT = np.finfo(float).resolution  # values that are no further apart do not vary
AT_ONCE = 1_000_000  # draws that are worked on at once, which bounds the memory


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
    return Measured(*_take(_measure, stack, answers=3))


def measure_bulk(stack: Array) -> Array:
    """Return the bulk ESS (m,) of m parameters' draws (m, chain, draw), as in `measure`."""
    return _take(lambda draws: (_count_effective(score_ranks(split_chains(draws))),), stack)[0]


def measure_mean(stack: Array) -> Array:
    """Return the ESS (m,) of the means of m parameters' draws (m, chain, draw)."""
    return _take(lambda draws: (_count_effective(split_chains(draws)),), stack)[0]


def _take(
    work: Callable[[Array], tuple[Array, ...]], stack: Array, *, answers: int = 1
) -> list[Array]:
    """Return what `work` says of a stack (m, chain, draw), some parameters at a time."""
    m, n_chains, n_draws = stack.shape
    if n_draws < FEWEST:
        return [np.full(m, np.nan)] * answers
    step = max(1, AT_ONCE // (n_chains * n_draws))
    stack = np.asarray(stack, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [work(stack[first : first + step]) for first in range(0, m, step)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _measure(stack: Array) -> tuple[Array, Array, Array]:
    halves = split_chains(stack)
    scores = score_ranks(halves)
    middle = np.median(halves, axis=(1, 2), keepdims=True)
    bulk, folded = _compare(scores), _compare(score_ranks(np.abs(halves - middle)))
    rhat = np.where(folded > bulk, folded, bulk) if stack.shape[1] > 1 else bulk * np.nan
    below = [
        _count_effective(split_chains((stack <= at[:, None, None]).astype(float)))
        for at in np.quantile(stack, TAIL, axis=(1, 2))
    ]
    tail = np.where(np.isnan(middle.ravel()), np.nan, np.minimum(*below))
    return rhat, _count_effective(scores), tail


def split_chains(stack: Array) -> Array:
    """Return the halves of chains as chains (m, 2 chain, draw // 2); a middle draw is left out."""
    half = stack.shape[2] // 2
    return np.concatenate([stack[:, :, :half], stack[:, :, stack.shape[2] - half :]], axis=1)


def score_ranks(stack: Array) -> Array:
    """Return the normal scores of draws (m, chain, draw) by their ranks among all chains'."""
    flat = stack.reshape(len(stack), -1)
    scores = ndtri((rank_draws(flat) - 0.375) / (flat.shape[1] + 0.25)).reshape(stack.shape)
    return np.where(np.isnan(stack), np.nan, scores)


def rank_draws(values: Array) -> Array:
    """Return the ranks from 1 to n along the rows of values (m, n); those that tie share theirs."""
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    place = np.arange(1.0, values.shape[1] + 1.0)
    edge = np.ones((len(values), 1), dtype=bool)
    starts = np.hstack([edge, ordered[:, 1:] != ordered[:, :-1]])
    ends = np.hstack([starts[:, 1:], edge])
    first = np.maximum.accumulate(np.where(starts, place, 0.0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, np.inf)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, 0.5 * (first + last), axis=1)
    return ranks


def _compare(chains: Array) -> Array:
    """Return the R-hat (m,) of chains (m, c, n) as they are."""
    n = chains.shape[2]
    between = n * chains.mean(axis=2).var(axis=1, ddof=1)
    within = chains.var(axis=2, ddof=1).mean(axis=1)
    return np.asarray(np.sqrt((between / within + n - 1.0) / n))


def _count_effective(chains: Array) -> Array:
    """Return the effective draws (m,) of the means of chains (m, c, n); c n of what is constant.

    n c / (1 + 2 sum of the autocorrelations), of which pairs are summed that are positive, and no
    more than the least one before.
    """
    m, c, n = chains.shape
    length = 1 << (2 * n - 1).bit_length()  # twice as long: no draw meets one of the other end
    means = chains.mean(axis=2)
    waves = np.fft.rfft(chains - means[:, :, None], length, axis=2)
    power = (waves.real**2 + waves.imag**2).mean(axis=1)
    covariance = np.fft.irfft(power, length, axis=1)[:, :n] / n  # (m, lag), mean over chains
    within = covariance[:, :1] * n / (n - 1.0)
    whole = covariance[:, :1] + (means.var(axis=1, ddof=1)[:, None] if c > 1 else 0.0)
    correlation = 1.0 - (within - covariance) / whole
    correlation[:, 0] = 1.0
    last = max((n - 3) // 2, 0)  # the last pair there is
    even, odd = correlation[:, : 2 * last + 1 : 2], correlation[:, 1 : 2 * last + 2 : 2]
    pairs = even + odd
    spent = ~(pairs > 0.0)
    end = np.where(spent.any(axis=1), spent.argmax(axis=1), last)
    counted = np.arange(last + 1) < end[:, None]
    total = np.where(counted, np.minimum.accumulate(pairs, axis=1), 0.0).sum(axis=1)
    rows = np.arange(m)
    own, sign = even[rows, end], pairs[rows, end]
    half = np.where((own > 0.0) | (sign >= 0.0), own, 0.0)
    spread = np.maximum(2.0 * total + half - 1.0, 1.0 / np.log10(c * n))
    found = np.where(np.isnan(correlation[:, 1]), np.nan, c * n / spread)
    return np.where(np.ptp(chains, axis=(1, 2)) < CONSTANT, c * n, found)
