"""The parametric bootstrap of a family: effects and responses drawn anew from the fitted model."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bhlm.errors import ArgumentError, BhlmError
from bhlm.likelihood.parameters import scale_covariance
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.reml.bootstrap import Bootstrap
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.search import maximize_patterns

Array = np.ndarray


def bootstrap(
    fit: FamilyEstimate,
    *,
    replicates: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Bootstrap:
    """Return the estimates of `replicates` data sets drawn from the fitted model.

    A pattern's successes are drawn together, which is what its rows' add up to. Every replicate is
    integrated as exactly as the fit; one whose likelihood has no maximum counts as not converged.

    Raises:
        ArgumentError: fewer than two replicates, or a fit by a fixed number of nodes.
    """
    if replicates < 2:
        raise ArgumentError(f"replicates={replicates} is too small; give at least 2")
    if seed < 0:
        raise ArgumentError(f"seed={seed} is not a seed; give an integer of 0 or more")
    if fit.nagq is not None:
        raise ArgumentError(
            f"a fit with nagq={fit.nagq} is of an approximation; leave nagq out to bootstrap"
        )
    names = tuple(map(str, fit.parameters))
    draws = np.full((replicates, len(names)), np.nan)
    converged, singular = np.zeros((2, replicates), dtype=bool)
    start = None if fit.singular else fit.point
    for at, child in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        rng = np.random.Generator(np.random.PCG64(child))
        white = replace(fit.white, y=draw_responses(fit, rng=rng))
        if white.y.sum() > 0.0 and (fit.family.has_exposure or white.y.sum() < white.n.sum()):
            try:
                found = maximize_patterns(white, fit.structure, start=start)
            except (BhlmError, np.linalg.LinAlgError):
                continue
            converged[at], singular[at] = found.converged, found.singular
            draws[at] = _spread(fit, white, found.beta, found.lam)
        if progress is not None:
            progress(at + 1, replicates)
    own = fit.estimates["estimate"].to_numpy()
    return Bootstrap(
        names=names,
        estimate=own,
        draws=draws,
        converged=converged,
        singular=singular,
        seed=seed,
        bounds=np.array([each.bounds for each in fit.parameters]),
    )


def draw_responses(fit: FamilyEstimate, *, rng: np.random.Generator) -> Array:
    """Return successes or events (I,) of every pattern, drawn from the fitted model."""
    patterns = fit.patterns
    effects = rng.standard_normal((patterns.n_groups, len(fit.root))) @ fit.root.T
    eta = patterns.offset + patterns.take(patterns.fixed) @ fit.beta
    z = patterns.take(patterns.random)
    eta = eta + np.einsum("iq,iq->i", z, effects[patterns.codes])
    return fit.family.draw(fit.family.mean(eta), patterns.n, rng=rng)


def _spread(fit: FamilyEstimate, white: WhitenedPatterns, beta: Array, lam: Array) -> Array:
    """Return every named parameter."""
    root = white.basis @ lam
    g = root @ root.T
    labels = fit.structure.labels
    variances = [g[i, j] for i, j in labels]
    return np.concatenate([white.fixed @ beta, variances, scale_covariance(g, labels)])
