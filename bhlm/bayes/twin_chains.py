"""Chains that are one chain: what R-hat cannot see, since copies agree.

Two tests, both on draws that independent chains would make with probability zero or nearly so:

- copies: states (all parameters at once) that occur in two chains, at whatever place, or in one
  chain at two places that do not adjoin. Continuous parameters never meet again; a sampler that
  rejects repeats a state only at once.
- shadows: chains that move together, such as copies with noise added or chains that were started
  from one random state and have coupled. The rank correlation of two independent chains is about
  N(0, 1/m), m the effective draws per chain; shadows have one near 1 in most parameters.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

Array = np.ndarray

COPIED = 0.01  # share of states in common from which on it is no accident of rounding
TOGETHER = 0.8  # median rank correlation of chains that move together
DRAWS = 20  # with fewer draws per chain correlations say nothing


class Twins(NamedTuple):
    """Two chains that are not independent."""

    first: int
    second: int  # the same as `first` for a chain that repeats itself
    copied: float  # share of the second's states that the first has too
    correlation: float  # median over parameters


def find_twins(draws: Mapping[str, Array]) -> list[Twins]:
    """Return the pairs of chains that are copies or shadows; draws by parameter (chain, draw).

    Integers are left out: their states do meet again.
    """
    continuous = [values for values in draws.values() if np.asarray(values).dtype.kind == "f"]
    if not continuous:
        return []
    stack = np.stack([np.asarray(values, dtype=float) for values in continuous], axis=-1)
    varies = np.isfinite(stack).all(axis=(0, 1)) & (np.ptp(stack, axis=(0, 1)) > 0.0)
    stack = stack[:, :, varies]
    n_chains, n_draws, m = stack.shape
    if n_draws < DRAWS or not m:
        return []
    states = np.ascontiguousarray(stack).view(np.dtype((np.void, 8 * m)))[:, :, 0]
    ranks = stats.rankdata(stack, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    size = np.sqrt((ranks**2).sum(axis=1))
    found = []
    for i in range(n_chains):
        again = _count_returns(states[i])
        if again >= COPIED:
            found.append(Twins(i, i, again, np.nan))
        for j in range(i + 1, n_chains):
            copied = float(np.isin(states[j], states[i]).mean())
            with np.errstate(invalid="ignore", divide="ignore"):
                together = (ranks[i] * ranks[j]).sum(axis=0) / (size[i] * size[j])
            correlation = float(np.median(np.nan_to_num(together)))
            if copied >= COPIED or correlation >= TOGETHER:
                found.append(Twins(i, j, copied, correlation))
    return found


def describe_twins(twins: list[Twins]) -> list[str]:
    """Return a failure of the convergence verdict, one sentence for all twins; [] without any."""
    if not twins:
        return []
    worst = max(twins, key=lambda pair: (pair.copied, pair.correlation))
    pairs = sorted({pair.second + 1 for pair in twins})
    if worst.first == worst.second:
        what = f"chain {worst.first + 1} runs through {worst.copied:.0%} of its states twice"
    elif worst.copied >= COPIED:
        what = (
            f"chain {worst.second + 1} has {worst.copied:.0%} of its states from chain "
            f"{worst.first + 1}"
        )
    else:
        what = (
            f"chains {worst.first + 1} and {worst.second + 1} move together (rank correlation "
            f"{worst.correlation:.2f})"
        )
    more = f" ({len(pairs)} chains are concerned)" if len(pairs) > 1 else ""
    return [
        f"{what}{more}, so that R-hat and ESS count the same draws again; sample every chain from "
        "its own seed"
    ]


def _count_returns(states: Array) -> float:
    """Return the share of a chain's draws whose state was left and came again."""
    # Runs of one state, as rejections leave, count once.
    starts = np.append(True, states[1:] != states[:-1])
    runs = states[starts]
    return 1.0 - len(np.unique(runs)) / len(runs)
