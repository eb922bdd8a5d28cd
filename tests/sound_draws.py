"""Draws that are the posterior's by construction, and the same draws made wrong."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bhlm.bayes.draws import Draws, Settings, build_fit
from bhlm.bayes.importance import ImportancePosterior, integrate_importance
from bhlm.bayes.importance.posterior import correct_fixed
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.likelihood.covariance import arrange, lower_roots
from bhlm.likelihood.whitening import whiten
from bhlm.moments.moments import Moments

Array = np.ndarray

CANDIDATES = 100  # of fixed effects given the rest, among which priors choose


@dataclass(frozen=True, slots=True)
class Sample:
    """Independent draws of beta, G and sigma, chain by chain."""

    beta: Array  # (chain, draw, p)
    g: Array  # (chain, draw, q, q)
    sigma: Array  # (chain, draw)
    # Roots (chain, draw, q, q) of the G drawn: what G itself rounds off where zero lies far from
    # the values of a covariate. Of a G that was changed they say nothing.
    drawn: tuple[Array, Array] | None = None

    @property
    def root(self) -> Array:
        """Square roots of G."""
        if self.drawn is not None and np.array_equal(self.drawn[0], self.g):
            return self.drawn[1]
        return lower_roots(self.g)


def integrate(
    moments: Moments, priors: Priors | None = None, **options: Any
) -> ImportancePosterior:
    """Return the posterior of moments by importance sampling."""
    structure = arrange(moments)
    resolved = resolve_priors(priors, moments, structure=structure)
    return integrate_importance(moments, structure, resolved, **({"seed": 1} | options))


def resample(
    exact: ImportancePosterior, *, seed: int, extra: Array | float = 0.0, draws: int = 1000
) -> Sample:
    """Return draws (4, draws) of the parameters by their weights.

    Args:
        exact: weighted draws, many more than are wanted.
        seed: of the choice.
        extra: added to the log weights (N,), which makes the draws those of another density.
        draws: per chain.
    """
    rng = np.random.default_rng(seed)
    weight = exact.draws.weight * np.exp(extra - np.max(extra))
    rows = rng.choice(len(weight), size=(4, draws), p=weight / weight.sum())
    target, given = exact.target, exact.given
    noise = rng.standard_normal((*rows.shape, len(target.ols)))
    inverse = np.linalg.inv(given.root)[rows]
    drawn = given.mean[rows] + np.einsum("cdji,cdj->cdi", inverse, noise)
    if not target.exact:  # the weights are right on average over fixed effects given the rest
        drawn = choose_fixed(exact, rows, inverse, rng)
    g, sigma = exact.at.g[rows], exact.at.sigma[rows]
    root = target.basis @ exact.at.lam[rows] * sigma[..., None, None]
    return Sample(target.ols + drawn @ target.back.T, g, sigma, (g.copy(), root))


def choose_fixed(
    exact: ImportancePosterior, rows: Array, inverse: Array, rng: np.random.Generator
) -> Array:
    """Return fixed effects beta~ given the rest, each of many from the normal, by their priors."""
    noise = rng.standard_normal((CANDIDATES, *rows.shape, inverse.shape[-1]))
    drawn = exact.given.mean[rows] + np.einsum("cdji,kcdj->kcdi", inverse, noise)
    flat = drawn.reshape(-1, drawn.shape[-1])
    height = correct_fixed(exact.target, flat).reshape(drawn.shape[:-1])
    best = np.argmax(height + rng.gumbel(size=height.shape), axis=0)
    return np.take_along_axis(drawn, best[None, ..., None], axis=0)[0]


def make_fit(exact: ImportancePosterior, sample: Sample, *, seed: int = 1) -> Draws:
    """Return draws as a fit of the moments and priors that the posterior has."""
    moments = exact.moments
    structure = arrange(moments)
    shape = sample.sigma.shape
    rng = np.random.default_rng(seed)
    never = np.zeros(shape, dtype=bool)
    stats = {
        "energy": rng.standard_normal(shape), "diverging": never, "reached_max_treedepth": never
    }  # fmt: skip
    return build_fit(
        moments, structure, exact.target.priors, whiten(moments, structure),
        sample.beta, sample.root, sample.sigma, stats,
        settings=Settings(draws=shape[1]), seed=seed, start=time.perf_counter(), sampler="weights",
    )  # fmt: skip


def spread(factor: float) -> Callable[[Array], Array]:
    """Return what stretches draws about their mean."""
    return lambda x: x.mean(axis=(0, 1)) + factor * (x - x.mean(axis=(0, 1)))


def shift(sds: float) -> Callable[[Array], Array]:
    """Return what moves draws by posterior SDs."""
    return lambda x: x + sds * x.std(axis=(0, 1))


def change_sds(g: Array, change: Callable[[Array], Array]) -> Array:
    """Return covariances whose SDs are changed, on the log scale, and whose correlations are not.

    On the log scale they stay positive.
    """
    sd = np.sqrt(np.einsum("cdii->cdi", g))
    ratio = np.exp(change(np.log(sd))) / sd
    return g * ratio[..., :, None] * ratio[..., None, :]


def change_correlations(g: Array, change: Callable[[Array], Array]) -> Array:
    """Return covariances whose canonical correlations are changed, and whose SDs are not."""
    root = lower_roots(g)
    sd = np.sqrt(np.einsum("cdii->cdi", g))
    out = np.zeros_like(root)
    q = g.shape[-1]
    for i in range(q):
        rest, left = np.ones(g.shape[:2]), np.ones(g.shape[:2])
        for j in range(i):
            z = np.clip(root[..., i, j] / (sd[..., i] * rest), -1.0 + 1e-12, 1.0 - 1e-12)
            rest = rest * np.sqrt(1.0 - z**2)
            z = np.tanh(change(np.arctanh(z)[..., None])[..., 0])
            out[..., i, j] = z * left
            left = left * np.sqrt(1.0 - z**2)
        out[..., i, i] = left
    out *= sd[..., :, None]
    return out @ out.swapaxes(-1, -2)
