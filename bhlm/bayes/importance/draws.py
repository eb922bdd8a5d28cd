"""Weighted draws of a density from proposals that adapt to it.

Sources: Kloek & van Dijk (1978), Econometrica 46, 1-19; Cornuet, Marin, Mira & Robert (2012),
Scand. J. Stat. 39, 798-812, for weights against the mixture of all proposals; Vehtari, Simpson,
Gelman, Yao & Gabry (2024), JMLR 25(72), for Pareto smoothing and k.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logsumexp

from bhlm.bayes.importance.mixtures import (
    DF,
    Mixture,
    blend,
    defend,
    draw_mixture,
    fit_mixture,
    log_mixture,
    scatter,
)
from bhlm.bayes.importance.modes import LogDensity, Modes
from bhlm.bayes.pareto import smooth_tails

Array = np.ndarray

# Above it the mean of the weights converges too slowly for any error to be believed: Vehtari et
# al. (2024), section 3.2.4.
KHAT = 0.7
# What adaptation aims at: a k below it and so many effective draws per draw.
GOOD_KHAT = 0.5
GOOD_SHARE = 0.5
FAIR_KHAT = 0.65
FAIR_SHARE = 0.25
PATIENT = 4  # rounds after which less is good enough
MOST_COMPONENTS = 6
FITTED = 3000  # draws that a mixture is fitted to
EDGE = 0.04  # share of each t along the way to zero of an SD
FEWEST = 100  # finite weights, below which there is no tail to smooth


@dataclass(frozen=True, slots=True)
class WeightedDraws:
    """Draws from a proposal, and their weights for a target.

    Errors that are computed as if they were independent are upper bounds.
    """

    y: Array  # (N, d)
    log_target: Array  # (N,)
    log_proposal: Array  # (N,)
    weight: Array  # (N,) smoothed, summing to 1
    khat: float
    proposal: Mixture
    evaluations: int  # of the target, the search for modes and the adaptation among them
    rounds: int  # of adaptation

    @property
    def ess(self) -> float:
        """Effective draws, 1 / sum of squared weights."""
        return float(1.0 / np.sum(self.weight**2))

    @property
    def log_integral(self) -> float:
        """The logarithm of the target's integral, by the unsmoothed weights."""
        return float(logsumexp(self.log_target - self.log_proposal) - math.log(len(self.y)))


def smooth_weights(log_ratio: Array) -> tuple[Array, float]:
    """Return Pareto-smoothed weights (N,), summing to 1, and k; k is inf if nothing is finite."""
    finite = np.isfinite(log_ratio)
    if finite.sum() < FEWEST:
        return np.full(len(log_ratio), 1.0 / len(log_ratio)), math.inf
    ratio = np.where(finite, log_ratio, np.min(log_ratio[finite]) - 700.0)
    if np.ptp(ratio) < 1e-12:  # the target is the proposal
        return np.full(len(ratio), 1.0 / len(ratio)), -math.inf
    smoothed, khat = smooth_tails(ratio - ratio.max())
    weight = np.exp(smoothed - logsumexp(smoothed))
    return weight / weight.sum(), float(khat) if np.isfinite(khat) else math.inf


def draw_weighted(
    log_density: LogDensity,
    modes: Modes,
    *,
    seed: int,
    draws: int = 4096,
    budget: int = 30_000,
    edges: Mixture | None = None,
) -> WeightedDraws:
    """Return weighted draws of a density whose modes are known.

    A quarter of the draws come from the t's at the modes. While k is above 0.5 or less than half
    of the draws are effective, a mixture of t's is fitted to all draws so far, each weighted
    against the mixture of all proposals in proportion to their draws, and draws are taken from
    that; there are as many components as there are effective draws to place them by, and weights
    are tempered while these are few. What is returned is one set of `draws` draws from one
    proposal, which was fitted to earlier draws only: the first that is good, or the best within
    the budget.

    Args:
        log_density: vectorised over positions.
        modes: where to start.
        seed: makes the draws repeatable.
        draws: how many are returned.
        budget: the most evaluations of the density, modes not counted.
        edges: t's that every proposal holds, beside the wide one.
    """
    rng = np.random.default_rng(seed)
    d = modes.y.shape[1]
    share_edges = 0.0 if edges is None else EDGE * len(edges.weight)
    current = blend(_widen_modes(modes), edges, share_edges)
    pool: list[tuple[Array, Array, Mixture]] = []
    best: WeightedDraws | None = None
    count, spent, rounds = draws // 4, 0, 0
    while best is None or spent + count <= budget:
        y = draw_mixture(current, count, rng)
        height, proposed = log_density(y), log_mixture(current, y)
        spent += count
        rounds += 1
        weight, khat = smooth_weights(height - proposed)
        share = _judge_share(weight, khat)
        good = khat < GOOD_KHAT and share >= GOOD_SHARE
        if rounds >= PATIENT:
            good = khat < FAIR_KHAT and share >= FAIR_SHARE
        if count == draws and (best is None or share > _judge_share(best.weight, best.khat)):
            best = WeightedDraws(
                y, height, proposed, weight, khat, current, modes.evaluations + spent, rounds
            )
        if good and count == draws:
            break
        pool.append((y, height, current))
        if not good:
            current = blend(_refit(pool, rng, d), edges, share_edges)
        if good or rounds >= 2:
            count = draws
    assert best is not None
    return replace(best, evaluations=modes.evaluations + spent, rounds=rounds)


def _refit(
    pool: Sequence[tuple[Array, Array, Mixture]], rng: np.random.Generator, d: int
) -> Mixture:
    """Return the mixture of t's that is nearest to all draws so far, with its wide component."""
    every = np.concatenate([y for y, _, _ in pool])
    height = np.concatenate([height for _, height, _ in pool])
    sizes = np.array([len(y) for y, _, _ in pool])
    mixed = logsumexp(
        [log_mixture(each, every) for _, _, each in pool],
        axis=0,
        b=(sizes / sizes.sum())[:, None],
    )
    weight = _temper(height - mixed, at_least=20.0 * d)
    ess = 1.0 / np.sum(weight**2)
    n_components = int(np.clip(ess // (20 * d), 1, MOST_COMPONENTS))
    mean = weight @ every
    # EM goes over the draws some dozen times: over as many of them as there are grains of weight.
    edges = (np.arange(FITTED) + rng.random()) / FITTED
    kept, times = np.unique(
        np.searchsorted(np.cumsum(weight)[:-1], edges, side="right"), return_counts=True
    )
    fitted = fit_mixture(every[kept], times / FITTED, n_components, rng)
    return defend(fitted, mean, scatter(every - mean, weight))


def _widen_modes(modes: Modes) -> Mixture:
    """Return the t's at the modes with a wide one over the highest."""
    top = modes.mixture
    axes = top.axes[0] * (0.5 * (top.ahead[0] + top.behind[0]))
    return defend(top, modes.y[0], axes @ axes.T * DF / (DF - 2.0))


def _judge_share(weight: Array, khat: float) -> float:
    """Return the share of effective draws, which a k above the limit makes worthless."""
    share = 1.0 / np.sum(weight**2) / len(weight)
    return float(share if khat < KHAT else share * math.exp(-5.0 * min(khat - KHAT, 20.0)))


def _temper(log_ratio: Array, *, at_least: float) -> Array:
    """Return weights, raised to the largest power up to 1 that leaves enough effective draws."""
    ratio = np.where(np.isfinite(log_ratio), log_ratio, -np.inf)

    def raise_to(power: float) -> Array:
        weight = np.exp(power * ratio - logsumexp(power * ratio))
        return weight / weight.sum()

    for power in (1.0, 0.85, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1, 0.05):
        weight = raise_to(power)
        if 1.0 / np.sum(weight**2) >= at_least:
            break
    return weight
