"""Whether ranks are uniform: simultaneous tests and bands for their empirical distribution.

Ranks among L draws take the values 0..L. With z_i = i / (L + 1), i = 1..L, the number c_i of
the N ranks below i is Binomial(N, z_i) when ranks are uniform, and c_1, c_2, ... is a Markov
chain with binomial steps. The test statistic is the smallest tail probability of any c_i; its
distribution comes exactly from that chain, without simulation.
Source: Saeilynoja, Buerkner & Vehtari (2022), Statistics and Computing 32:32, section 2.
"""

import numpy as np
from scipy.special import bdtrik, betainc, betaincc, gammaln, xlog1py, xlogy

Array = np.ndarray

# Two tail probabilities that differ by less than this share are one, computed twice.
SAME = 1e-9
# A p-value with a smaller bound is not worth its computation: the bound is returned.
NEGLIGIBLE = 1e-6


def count_below(ranks: Array, n_draws: int) -> Array:
    """Return c_i (n_draws,), how many ranks lie below i = 1..n_draws."""
    return np.cumsum(np.bincount(ranks, minlength=n_draws + 1))[:-1]


def uniformity_p(ranks: Array, n_draws: int, *, negligible: float = NEGLIGIBLE) -> float:
    """Return the probability that uniform ranks would deviate as much somewhere.

    Below `negligible` it is the sum of tail probabilities, which is an upper bound.

    Args:
        ranks: integers (N,) in 0..n_draws.
        n_draws: how many draws each value was ranked among.
        negligible: a p-value that is not worth its computation.
    """
    n = len(ranks)
    z = grid_points(n_draws)
    below = count_below(ranks, n_draws)
    tails = np.minimum(_share_up_to(below, n, z), _share_from(below, n, z))
    smallest = float(tails.min())
    bound = 2.0 * n_draws * smallest
    if bound < negligible:
        return bound
    return _tail_probability(n, z, smallest)


def simultaneous_band(n: int, n_draws: int, level: float) -> tuple[Array, Array]:
    """Return the smallest and largest counts (n_draws,) that the band of this level holds.

    Counts of n uniform ranks stay inside at all grid points with a probability of at least
    `level`; some count is outside exactly if `uniformity_p` is at most 1 - level.
    """
    z = grid_points(n_draws)
    # The band is another only behind a tail probability that some count has. Bonferroni's is wide
    # enough, and that of a single grid point is not.
    wide, narrow = (1.0 - level) / (2.0 * n_draws), 1.0 - level
    steps = _list_tails(n, z, wide, narrow)
    between = np.sqrt(np.append(wide, steps) * np.append(steps, narrow))
    first, last = 0, len(between)
    while last - first > 1:
        middle = (first + last) // 2
        if _tail_probability(n, z, float(between[middle])) <= 1.0 - level:
            first = middle
        else:
            last = middle
    return _find_edges(n, z, float(between[first]))


def _list_tails(n: int, z: Array, least: float, most: float) -> Array:
    """Return the tail probabilities of counts between two bounds, in order, each of them once."""
    found = []
    for share in (z, 1.0 - z):
        low, high = (_find_quantile(tail, n, share) for tail in (least, most))
        counts = low + np.arange(int((high - low).max()) + 1)[:, None]
        found.append(_share_up_to(np.minimum(counts, n), n, share).ravel())
    tails = np.sort(np.concatenate(found))
    tails = tails[(tails > least * (1.0 + SAME)) & (tails < most * (1.0 - SAME))]
    return tails[np.append(True, tails[1:] > tails[:-1] * (1.0 + SAME))[: len(tails)]]


def grid_points(n_draws: int) -> Array:
    """Return z_i (n_draws,), the shares of uniform ranks expected below i."""
    return np.arange(1, n_draws + 1) / (n_draws + 1.0)


def _find_edges(n: int, z: Array, tail: float) -> tuple[Array, Array]:
    """Return the smallest and the largest counts whose tail probabilities pass `tail`."""
    passed = min(tail * (1.0 + SAME), 1.0)
    return _find_quantile(passed, n, z), n - _find_quantile(passed, n, 1.0 - z)


def _find_quantile(tail: float, n: int, z: Array) -> Array:
    """Return the smallest counts of Binomial(n, z) whose distribution functions reach `tail`."""
    count = np.ceil(bdtrik(tail, n, z))
    count = np.where(_share_up_to(count, n, z) < tail, np.minimum(count + 1.0, n), count)
    below = np.maximum(count - 1.0, 0.0)  # which rounding may have passed over
    return np.where(_share_up_to(below, n, z) >= tail, below, count).astype(np.int64)


def _share_up_to(count: Array, n: int, z: Array) -> Array:
    """Return the probability that Binomial(n, z) is `count` or less."""
    return np.where(count < n, betaincc(count + 1.0, np.maximum(n - count, 1.0), z), 1.0)


def _share_from(count: Array, n: int, z: Array) -> Array:
    """Return the probability that Binomial(n, z) is `count` or more."""
    return np.where(count > 0, betainc(np.maximum(count, 1.0), n - count + 1.0, z), 1.0)


def _tail_probability(n: int, z: Array, tail: float) -> float:
    """Return the probability that some count's tail probability is `tail` or less."""
    low, high = _find_edges(n, z, tail)
    if np.any(low > high):
        return 1.0
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    first = np.arange(low[0], high[0] + 1)
    mass = np.exp(
        log_factorial[n] - log_factorial[first] - log_factorial[n - first]
        + xlogy(first, z[0]) + xlog1py(n - first, -z[0])
    )  # fmt: skip
    for i in range(1, len(z)):
        share = (z[i] - z[i - 1]) / (1.0 - z[i - 1])
        before = np.arange(low[i - 1], high[i - 1] + 1)[:, None]
        after = np.arange(low[i], high[i] + 1)
        gain, left = after - before, n - before
        possible = (gain >= 0) & (gain <= left)
        gain = np.where(possible, gain, 0)
        log_pmf = log_factorial[left] - log_factorial[gain] - log_factorial[left - gain]
        log_pmf += gain * np.log(share) + (left - gain) * np.log1p(-share)
        mass = mass @ np.where(possible, np.exp(log_pmf), 0.0)
    return float(max(1.0 - mass.sum(), 0.0))
