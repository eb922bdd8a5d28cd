"""The parametric bootstrap of a family: effects and responses drawn anew from the fitted model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bhlm.errors import ArgumentError, BhlmError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import scale_covariance
from bhlm.reml.bootstrap import Bootstrap
from bhlm.reml.family.crossed import maximize_laplace
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.family.nested_search import maximize_nest
from bhlm.reml.family.search import fit_linear, maximize_patterns

Array = np.ndarray


def bootstrap(
    fit: FamilyMaximum,
    *,
    replicates: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Bootstrap:
    """Return the estimates of `replicates` data sets drawn from the fitted model.

    A pattern's successes are drawn together, which is what its rows' add up to. Every replicate is
    integrated as exactly as the fit; one whose likelihood has no maximum counts as not converged.
    Where the likelihood of several factors is Laplace's approximation, so is that of replicates,
    whose bias then has the error that the approximation makes.

    Raises:
        ArgumentError: fewer than two replicates, or a fit of one factor by a fixed number of nodes.
    """
    if replicates < 2:
        raise ArgumentError(f"replicates={replicates} is too small; give at least 2")
    if seed < 0:
        raise ArgumentError(f"seed={seed} is not a seed; give an integer of 0 or more")
    if isinstance(fit, FamilyEstimate) and fit.nagq is not None:
        raise ArgumentError(
            f"a fit with nagq={fit.nagq} is of an approximation; leave nagq out to bootstrap"
        )
    names = tuple(map(str, fit.parameters))
    draws = np.full((replicates, len(names)), np.nan)
    converged, singular = np.zeros((2, replicates), dtype=bool)
    structures = [part.structure for part in fit.parts]
    for at, child in enumerate(np.random.SeedSequence(seed).spawn(replicates)):
        rng = np.random.Generator(np.random.PCG64(child))
        y = draw_responses(fit, rng=rng)
        if y.sum() > 0.0 and (fit.family.has_exposure or y.sum() < fit.moments.n.sum()):
            try:
                found = _refit(fit, y)
            except (BhlmError, np.linalg.LinAlgError):
                continue
            converged[at], singular[at] = found.converged, found.singular
            draws[at] = _spread(structures, found)
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


def draw_responses(fit: FamilyMaximum, *, rng: np.random.Generator) -> Array:
    """Return successes or events (I,) of every pattern, drawn from the fitted model."""
    patterns = fit.moments
    eta = patterns.offset + patterns.take(patterns.fixed) @ fit.beta
    for names, root, codes in _list_random(fit):
        effects = rng.standard_normal((int(codes.max()) + 1, len(root))) @ root.T
        eta = eta + np.einsum("iq,iq->i", patterns.take(names), effects[codes])
    return fit.family.draw(fit.family.mean(eta), patterns.n, rng=rng)


def _list_random(fit: FamilyMaximum) -> list[tuple[tuple[str, ...], Array, Array]]:
    """Return of each factor its random columns, the root of G, and the unit of each pattern."""
    if isinstance(fit, FamilyEstimate):
        return [(fit.patterns.random, fit.root, fit.patterns.codes)]
    assert isinstance(fit, FamilyLevelsEstimate)
    names = [structure.names for structure in fit.structures]
    return list(zip(names, fit.roots, fit.patterns.codes, strict=True))


class _Refitted(NamedTuple):
    """The estimates of a replicate, in the columns as given."""

    beta: Array  # (p,)
    gs: tuple[Array, ...]  # F
    converged: bool
    singular: bool


def _refit(fit: FamilyMaximum, y: Array) -> _Refitted:
    """Return the maximum with other responses (I,), in the order of the patterns."""
    start = None if fit.singular else fit.point
    if isinstance(fit, FamilyEstimate):
        white = replace(fit.white, y=y)
        one = maximize_patterns(white, fit.structure, start=start)
        roots: Sequence[Array] = [white.basis @ one.lam]
        return _unwhiten(white.fixed @ one.beta, roots, one.converged, one.singular)
    assert isinstance(fit, FamilyLevelsEstimate)
    if isinstance(fit.white, WhitenedNest):
        nest = replace(fit.white, y=y[fit.white.rank])
        by_level = [fit.structures[at] for at in nest.order]
        several = maximize_nest(nest, by_level, start=start)
        lams = [several.lams[level] for level in np.argsort(nest.order)]
        roots = [basis @ lam for basis, lam in zip(nest.bases, lams, strict=True)]
        return _unwhiten(nest.fixed @ several.beta, roots, several.converged, several.singular)
    order = np.argsort(fit.patterns.codes[fit.white.order[0]], kind="stable")
    cross = replace(fit.white, y=y[order])
    found = maximize_laplace(cross, fit.structures, fit_linear(cross))
    roots = [basis @ lam for basis, lam in zip(cross.bases, found.lams, strict=True)]
    return _unwhiten(cross.fixed @ found.beta, roots, found.converged, found.singular)


def _unwhiten(beta: Array, roots: Sequence[Array], converged: bool, singular: bool) -> _Refitted:
    return _Refitted(beta, tuple(root @ root.T for root in roots), converged, singular)


def _spread(structures: Sequence[Structure], found: _Refitted) -> Array:
    """Return every named parameter."""
    pairs = list(zip(structures, found.gs, strict=True))
    variances = [structure.read(g) for structure, g in pairs]
    scaled = [scale_covariance(g, structure.labels) for structure, g in pairs]
    return np.concatenate([found.beta, *variances, *scaled])
