"""LOO-PIT: where each response lies among what is predicted of it from all the others.

If predictions are as wide as what they predict is spread, these probabilities of a smaller
response are uniform. Source: Tesso et al. (2026), arXiv:2603.02928, for a test of it that allows
for dependent values.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from bhlm.bayes.checks.importance import score_units
from bhlm.bayes.checks.loo import check_likelihood, relative_efficiency
from bhlm.bayes.checks.predictive import OUTSIDE, PredictiveCheck, check_groups, thin_draws
from bhlm.bayes.checks.rows import stream_rows
from bhlm.bayes.draws import Draws, Posterior
from bhlm.layout import count
from bhlm.moments.groups import place_own_rows

Array = np.ndarray
type Rows = tuple[Array, Array, Array, Array]  # labels (n,), X (n, p), Z (n, q), y (n,)

ROWS = 1000  # for which the PIT is computed, by default
DRAWS = 1000  # over which it is averaged
CHOICE = 6  # separates this seed from the fit's other streams
INSIDE = 1e-12  # the test of uniformity takes logarithms of the PIT and of 1 - PIT
# Share of the draws that must be effective for weights to be left as they are, unsmoothed.
EFFECTIVE = 0.5


@dataclass(frozen=True, slots=True)
class LooPit:
    """The PIT of rows, or of the groups' means, and whether it is uniform."""

    pit: Array  # (m,)
    of_rows: bool  # whether of rows, each given all others; else of the groups' means
    total: int  # rows or groups that there are, of which m were taken
    p: float  # of uniformity

    @property
    def whose(self) -> str:
        """What the PIT is of, to begin a sentence with."""
        if not self.of_rows:
            return f"Of the means of {count(len(self.pit), 'group')}"
        if len(self.pit) < self.total:
            return f"Of a random {count(len(self.pit), 'row')} out of {self.total:,}"
        return f"Of all {count(len(self.pit), 'row')}"

    @property
    def reading(self) -> str:
        """How the PIT is spread and whether that is as the model says, in a sentence."""
        inner = float(np.mean((self.pit > 0.25) & (self.pit < 0.75)))
        tails = float(np.mean((self.pit < 0.025) | (self.pit > 0.975)))
        verdict = (
            f"which is as uniform as the model says (p = {self.p:.2f})"
            if self.ok
            else f"so their distribution is not as the model says (p = {self.p:.2g})"
        )
        return (
            f"{self.whose}, {100 * inner:.1f} % lie in the middle half of their predictions and "
            f"{100 * tails:.1f} % in the outer 5 %, {verdict}"
        )

    @property
    def ok(self) -> bool:
        """Whether the PIT is as uniform as sound models' are, but for one in a hundred."""
        return self.p >= OUTSIDE


def check_pit(post: Draws, rows: Callable[[], Rows] | None = None, *, most: int = ROWS) -> LooPit:
    """Return the PIT of the rows; without rows, that of the groups' means.

    The PIT of a row is the probability of a smaller response than it has, given all other rows,
    over up to 1,000 draws (`bhlm.bayes.checks.rows`). Of more rows than `most` a random choice is
    taken, the same for every call. Without rows it is that of each group's mean among replicates
    with new group effects, which have seen that group; so it is a little too narrow.

    Args:
        post: the posterior.
        rows: returns labels (n,), X (n, p), Z (n, q) and y (n,).
        most: how many rows the PIT is computed for.

    Raises:
        ArgumentError: draws from the prior alone.
        DataError: rows that are not those of the fit.
    """
    check_likelihood(post)
    if rows is None:
        return read_means(check_groups(post, kind="new groups"))
    labels, x, z, y = rows()
    at = place_own_rows(post.moments, labels, y)
    picked = choose_rows(post, len(y), most=most)
    pit = predict_rows_left_out(post, at[picked], x[picked], z[picked], y[picked])
    return LooPit(pit, of_rows=True, total=len(y), p=measure_uniformity(pit))


def read_means(check: PredictiveCheck) -> LooPit:
    """Return the PIT of the groups' means among the replicates of a check."""
    table = check.groups
    pit = 1.0 - table.loc[table["statistic"] == "mean", "p"].to_numpy()
    return LooPit(pit, of_rows=False, total=len(pit), p=measure_uniformity(pit))


def choose_rows(post: Posterior, n: int, *, most: int = ROWS) -> Array:
    """Return the rows (m,) of n that the PIT is computed for, the same for every call."""
    if n <= most:
        return np.arange(n)
    # At random, since every k-th row may be the same occasion in each group.
    rng = np.random.default_rng([post.seed, CHOICE])
    return np.sort(rng.choice(n, most, replace=False))


def predict_rows_left_out(post: Draws, at: Array, x: Array, z: Array, y: Array) -> Array:
    """Return the PIT (m,) of some rows, each given all other rows of the fit.

    Args:
        post: the posterior.
        at: where each row's group stands (m,).
        x: fixed columns (m, p).
        z: random columns (m, q).
        y: the response (m,).
    """
    draws, _ = thin_draws(post, DRAWS)
    return average_pit(post, stream_rows(post, at, x, z, y, picked=draws), len(y))


def average_pit(post: Posterior, parts: Iterable[tuple[Array, Array, Array]], m: int) -> Array:
    """Return the PIT (m,) of rows over draws of the posterior without each.

    Weights are proportional to 1 / density of the row given the others of its group; they are
    smoothed by Pareto's tail only where few draws carry them.

    Args:
        post: the posterior.
        parts: some rows, at each draw the gap of the response in SDs, and the log SD.
        m: rows in all.
    """
    reff = relative_efficiency(post)
    pit = np.empty(m)
    for rows, gap, log_sd in parts:
        loglik = -0.5 * gap**2 - log_sd
        weight = np.exp(loglik.min(axis=1, keepdims=True) - loglik)
        weight /= weight.sum(axis=1, keepdims=True)
        few = np.sum(weight**2, axis=1) * weight.shape[1] * EFFECTIVE > 1.0
        if few.any():
            weight[few] = np.exp(score_units(loglik[few], reff)[3])
        pit[rows] = np.sum(weight * ndtr(gap), axis=1)
    return np.clip(pit, 0.0, 1.0)


def bound_pit(pit: Array) -> Array:
    """Return the PIT (m,) inside (0, 1), where its logarithms are finite."""
    return np.asarray(np.clip(pit, INSIDE, 1.0 - INSIDE))


def measure_uniformity(pit: Array) -> float:
    """Return the p-value of the test that the PIT (m,) is uniform."""
    from arviz_stats.base import array_stats

    return float(array_stats.uniformity_test(bound_pit(pit), axis=-1, method="pot_c")[0])
