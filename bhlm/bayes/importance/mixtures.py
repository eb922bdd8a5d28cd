"""Mixtures of multivariate t's: drawn from, evaluated, and fitted to weighted draws.

Sources: Cappe, Douc, Guillin, Marin & Robert (2008), Stat. Comput. 18, 447-459, for the fit by
weighted EM; Geweke (1989), Econometrica 57, 1317-1339, for half-axes that differ to either side;
Hesterberg (1995), Technometrics 37, 185-194, for the wide component that every proposal keeps;
Owen (1997), Ann. Stat. 25, 1541-1562, for scrambled nets.
"""

import math
from dataclasses import astuple, dataclass

import numpy as np
from scipy.special import gammaincinv, gammaln, logsumexp, ndtri

Array = np.ndarray

DF = 5.0  # of the t's: the variance of the weights is finite where the target's tails are lighter
DEFENSIVE = 0.1  # share of the wide component of every proposal
WIDE_DF = 3.0
WIDE = 2.0  # its variances, in those of the target
BITS = 30  # of the coordinates of a net


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture of K multivariate t's; half-axes may differ to either side."""

    weight: Array  # (K,)
    mean: Array  # (K, d)
    axes: Array  # (K, d, d) columns span the t's: y = mean + axes (stretch * eps)
    ahead: Array  # (K, d) stretch where eps > 0
    behind: Array  # (K, d) stretch where eps < 0
    df: Array  # (K,)


def draw_mixture(
    mixture: Mixture, count: int, rng: np.random.Generator, *, net: bool = True
) -> Array:
    """Return `count` draws (count, d), the points of a scrambled Sobol net, or independent ones.

    Each point of the net has the mixture's density and together they fill it evenly, so that of a
    mean over them the error is below that of independent draws, a third of it in a few dimensions;
    best where count is a power of 2.
    """
    d = mixture.mean.shape[1]
    if net:
        from scipy.stats import qmc  # half a second to load, and draws of NUTS do without

        points = qmc.Sobol(d + 2, bits=BITS, rng=rng)
        u = points.random_base2(math.ceil(math.log2(max(count, 2))))[:count]
    else:
        u = np.floor(rng.random((count, d + 2)) * 2.0**BITS) / 2.0**BITS
    # In the middle of the net's cells no quantile is infinite.
    u = u + 0.5 ** (BITS + 1)
    label = np.searchsorted(np.cumsum(mixture.weight)[:-1], u[:, 0], side="right")
    df = mixture.df[label]
    eps = ndtri(u[:, 2:]) / np.sqrt(2.0 * gammaincinv(0.5 * df, u[:, 1]) / df)[:, None]
    stretch = np.where(eps > 0.0, mixture.ahead[label], mixture.behind[label])
    return mixture.mean[label] + np.einsum("nij,nj->ni", mixture.axes[label], stretch * eps)


def log_components(mixture: Mixture, y: Array) -> Array:
    """Return log(weight x density) of every component at y (N, d), as (N, K)."""
    d = y.shape[1]
    out = np.empty((len(y), len(mixture.weight)))
    for k in range(len(mixture.weight)):
        df = mixture.df[k]
        eps = (y - mixture.mean[k]) @ np.linalg.inv(mixture.axes[k]).T
        stretch = np.where(eps > 0.0, mixture.ahead[k], mixture.behind[k])
        distance = np.sum((eps / stretch) ** 2, axis=1)
        out[:, k] = (
            math.log(mixture.weight[k])
            + gammaln(0.5 * (df + d))
            - gammaln(0.5 * df)
            - 0.5 * d * math.log(df * math.pi)
            - np.linalg.slogdet(mixture.axes[k])[1]
            - np.log(stretch).sum(axis=1)
            - 0.5 * (df + d) * np.log1p(distance / df)
        )
    return out


def log_mixture(mixture: Mixture, y: Array) -> Array:
    """Return the log density (N,) of the mixture at y (N, d)."""
    return np.asarray(logsumexp(log_components(mixture, y), axis=1))


def make_mixture(weight: Array, mean: Array, root: Array, df: Array) -> Mixture:
    """Return the mixture of symmetric t's with lower roots (K, d, d) of their scale matrices."""
    ones = np.ones(mean.shape)
    return Mixture(weight / weight.sum(), mean, root, ones, ones, df)


def fit_mixture(
    y: Array, weight: Array, n_components: int, rng: np.random.Generator, *, rounds: int = 12
) -> Mixture:
    """Return the mixture of t's that is nearest to weighted draws, by weighted EM.

    It minimises the Kullback-Leibler divergence from what the draws represent, in the t's own
    augmentation (weights (df + d) / (df + distance) in the moments). Scale matrices lean on that
    of all draws by d + 1 effective draws, so that none collapses.
    Source: Cappe et al. (2008), section 4.2.

    Args:
        y: draws (N, d).
        weight: their weights (N,), summing to 1.
        n_components: K.
        rng: picks the components' first places.
        rounds: of EM.
    """
    d = y.shape[1]
    mean = weight @ y
    pooled = scatter(y - mean, weight)
    ess = 1.0 / np.sum(weight**2)
    k = n_components
    first = rng.choice(len(y), size=k, replace=False, p=weight) if k > 1 else None
    means = mean[None].copy() if first is None else 0.5 * (y[first] + mean)
    scales = np.repeat(pooled[None] * (DF - 2.0) / DF, k, axis=0) * (1.0 if k == 1 else 0.6)
    shares = np.full(k, 1.0 / k)
    df = np.full(k, DF)
    for _ in range(rounds):
        current = make_mixture(shares, means, _roots(scales), df)
        parts = log_components(current, y)
        part = np.exp(parts - logsumexp(parts, axis=1, keepdims=True)) * weight[:, None]
        shares = np.maximum(part.sum(axis=0), 1e-3)
        for c in range(k):
            eps = (y - means[c]) @ np.linalg.inv(current.axes[c]).T
            pull = part[:, c] * (DF + d) / (DF + np.sum(eps**2, axis=1))
            means[c] = pull @ y / pull.sum()
            held = (d + 1.0) / (ess * shares[c] + d + 1.0)
            own = scatter(y - means[c], pull) / shares[c]
            scales[c] = (1.0 - held) * own + held * pooled * (DF - 2.0) / DF
        shares /= shares.sum()
    return make_mixture(shares, means, _roots(scales), df)


def defend(mixture: Mixture, mean: Array, covariance: Array) -> Mixture:
    """Return the mixture with a wide component, so that no weight grows without bound."""
    root = _roots(covariance[None] * WIDE * (WIDE_DF - 2.0) / WIDE_DF * 2.0)
    ones = np.ones((1, len(mean)))
    return Mixture(
        weight=np.append((1.0 - DEFENSIVE) * mixture.weight, DEFENSIVE),
        mean=np.concatenate([mixture.mean, mean[None]]),
        axes=np.concatenate([mixture.axes, root]),
        ahead=np.concatenate([mixture.ahead, ones]),
        behind=np.concatenate([mixture.behind, ones]),
        df=np.append(mixture.df, WIDE_DF),
    )


def blend(one: Mixture, other: Mixture | None, share: float) -> Mixture:
    """Return a mixture with this share of another, which may be none."""
    if other is None:
        return one
    return Mixture(
        np.concatenate([(1.0 - share) * one.weight, share * other.weight]),
        *(np.concatenate(pair) for pair in zip(astuple(one)[1:], astuple(other)[1:], strict=True)),
    )


def scatter(gap: Array, weight: Array) -> Array:
    """Return the weighted cross-products (d, d) of gaps (N, d)."""
    return np.asarray((gap * weight[:, None]).T @ gap)


def _roots(scales: Array) -> Array:
    """Return lower roots of scale matrices (K, d, d), with a floor under their eigenvalues."""
    values, vectors = np.linalg.eigh(scales)
    values = np.maximum(values, 1e-10 * values[:, -1:])
    return np.linalg.cholesky(np.einsum("kij,kj,klj->kil", vectors, values, vectors))
