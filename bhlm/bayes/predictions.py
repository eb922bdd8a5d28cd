"""Posterior predictions for rows: population, conditional on known groups, and for new groups."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from bhlm.bayes.draws import Draws, flatten_draws, stream_effects
from bhlm.design.kernels import kernel
from bhlm.likelihood.parameters import check_level
from bhlm.moments.groups import place_new_rows

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Numbers that are held for one piece of the rows: 32 MB for each of a few arrays.
HELD = 2**22
# A quantile is found when its probability is right to this, a thousandth of what 10^4 draws
# leave uncertain, or when the bracket is this narrow, where the distribution has a step.
CLOSE = 1e-6
NARROW = 1e-15
STEPS = 200
DENSITY_AT_ZERO = 1.0 / math.sqrt(2.0 * math.pi)


def predict_posterior(
    fit: Draws,
    labels: Array,
    x: Array,
    z: Array,
    *,
    kind: str = "conditional",
    new_groups: str = "error",
    level: float = 0.95,
    held: int = HELD,
) -> "pd.DataFrame":
    """Return posterior predictions with intervals, one row per row of x.

    The columns are those of `bhlm.reml.predictions.predict_rows`: `estimate`, the posterior mean,
    and `se`, the posterior SD, of the row's mean; `lower` and `upper`, its equal-tailed
    interval; `lower_new` and `upper_new`, that of one new observation. The row's mean is X beta
    for "population", and X beta + Z u with the group's draws of u for "conditional". A new
    observation adds noise of SD sigma, and for "population" of an unknown group. Nothing counts
    as known, so that the intervals hold the uncertainty of the variance parameters too.

    Noise is not drawn: the ends of an interval with noise are quantiles of the mixture of the
    draws' normal distributions. The only Monte Carlo error is that of the fit's own draws, and
    the prediction of a row does not depend on which other rows are asked for.

    Args:
        fit: the draws.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        kind: "conditional" or "population".
        new_groups: for groups that the fit has not seen, "error", or "population": u ~ N(0, G).
        level: of the intervals.
        held: numbers that are worked on at a time.

    Raises:
        ArgumentError: an unknown kind, a level outside (0, 1).
        DataError: a group that the fit has not seen, if that is an error.
    """
    import pandas as pd

    check_level(level)
    at = place_new_rows(fit.moments, labels, kind=kind, new_groups=new_groups)
    beta, root, sigma = flatten_draws(fit)
    tails = np.array([0.5 - level / 2.0, 0.5 + level / 2.0])
    table = np.empty((len(x), 6))

    def fill(rows: Array, mean: Array, unknown: Array | None, noise: Array) -> None:
        """Write rows: draws of the mean (m, N), variance of its unknown part and of a new y."""
        table[rows, 0] = mean.mean(axis=1)
        variance = mean.var(axis=1, ddof=1)
        if unknown is None:
            table[rows, 2:4] = np.quantile(mean, tails, axis=1).T
        else:
            variance += unknown.mean(axis=1)
            table[rows, 2:4] = find_quantiles(mean, np.sqrt(unknown), tails)
        table[rows, 1] = np.sqrt(variance)
        table[rows, 4:6] = find_quantiles(mean, np.sqrt(noise), tails)

    everyone = np.arange(len(x))
    for rows in _cut(everyone if kind == "population" else everyone[at < 0], held // len(sigma)):
        spread = _spread(z[rows], root)
        unknown = None if kind == "population" else spread
        fill(rows, x[rows] @ beta.T, unknown, spread + sigma**2)
    if kind == "conditional":
        for rows, u in _stream_rows(fit, at, held):
            mean = x[rows] @ beta.T + np.einsum("mi,nmi->mn", z[rows], u)
            fill(rows, mean, None, np.broadcast_to(sigma**2, mean.shape))
    columns = ["estimate", "se", "lower", "upper", "lower_new", "upper_new"]
    return pd.DataFrame(table, columns=columns)


def find_quantiles(mean: Array, sd: Array, tails: Array) -> Array:
    """Return quantiles (m, c) of m mixtures of N normal distributions of equal weight.

    Args:
        mean: of the normals (m, N).
        sd: theirs (m, N), zero for a point.
        tails: probabilities (c,).
    """
    arrays = map(np.ascontiguousarray, (mean, sd, tails, ndtri(tails)))
    return np.asarray(_find_quantiles(*arrays))


@kernel
def _find_quantiles(mean: Array, sd: Array, tails: Array, scores: Array) -> Array:
    """Return the quantiles by Newton's method on the distribution function.

    It starts at those of the normal of the mixture's mean and variance, and bisects the bracket
    where a step leaves it. The normal distribution function is that of Abramowitz & Stegun
    (1964), 26.2.17, with an error below 7.5e-8.
    """
    n_rows, n_draws = mean.shape
    out = np.empty((n_rows, len(tails)))
    for row in range(n_rows):
        centre = mean[row].mean()
        total = np.sqrt(np.mean((mean[row] - centre) ** 2 + sd[row] ** 2))
        for column in range(len(tails)):
            p = tails[column]
            score = scores[column]
            low, high = np.inf, -np.inf
            for d in range(n_draws):
                end = mean[row, d] + score * sd[row, d]
                low, high = min(low, end), max(high, end)
            at = min(max(centre + score * total, low), high)
            for _ in range(STEPS):
                below, density = 0.0, 0.0
                for d in range(n_draws):
                    if sd[row, d] > 0.0:
                        z = (at - mean[row, d]) / sd[row, d]
                        e = DENSITY_AT_ZERO * math.exp(-0.5 * z * z)
                        k = 1.0 / (1.0 + 0.2316419 * abs(z))
                        tail = 1.330274429 * k - 1.821255978
                        tail = ((tail * k + 1.781477937) * k - 0.356563782) * k + 0.319381530
                        tail *= e * k
                        below += 1.0 - tail if z > 0.0 else tail
                        density += e / sd[row, d]
                    elif at >= mean[row, d]:
                        below += 1.0
                gap = below / n_draws - p
                if gap > 0.0:
                    high = at
                else:
                    low = at
                step = at - gap * n_draws / density if density > 0.0 else np.inf
                if abs(gap) < CLOSE or not high - low > NARROW * max(abs(low), abs(high)):
                    break
                at = step if low < step < high else 0.5 * (low + high)
            out[row, column] = at
    return out


def _spread(z: Array, root: Array) -> Array:
    """Return z'Gz (m, N) of rows z (m, q) for every draw of G's root (N, q, q)."""
    total = np.zeros((len(z), len(root)))
    for column in range(root.shape[2]):
        total += (z @ root[:, :, column].T) ** 2
    return total


def _cut(rows: Array, size: int) -> Iterator[Array]:
    """Yield the rows in pieces of `size`, and of one where that is none."""
    size = max(1, size)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _stream_rows(fit: Draws, at: Array, held: int) -> Iterator[tuple[Array, Array]]:
    """Yield pieces of the rows of known groups with the draws of their u (N, m, q)."""
    groups = np.unique(at[at >= 0])
    order = np.argsort(at, kind="stable")
    placed = at[order]
    for members, u in stream_effects(fit, groups) if len(groups) else ():
        first, last = groups[members[0]], groups[members[-1]]
        start, end = np.searchsorted(placed, [first, last + 1])
        for rows in _cut(order[start:end], held // len(u)):
            yield rows, u[:, np.searchsorted(groups[members], at[rows])]
