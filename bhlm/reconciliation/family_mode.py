"""The joint mode of a family's posterior under priors flat on (beta, G), by the sampler's density.

Under them the posterior density of (beta, G) is the marginal likelihood, so that its mode is the
maximum-likelihood estimate. Here the likelihood is maximised by another search than that of
maximum likelihood, through the integrals as the sampler calls them, and that the sampler's density
is the likelihood times the Jacobian, but for a constant, is verified around the mode.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from bhlm.bayes.density import Density
from bhlm.bayes.family.density import build_family, locate_family, log_family, start_at_mean
from bhlm.bayes.family.level_density import locate_nest
from bhlm.bayes.importance.target import refuse_shared
from bhlm.bayes.level_density import build_levels, log_levels
from bhlm.bayes.priors.frame import stand_at_means
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, resolve_priors
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.level_pattern import pack_nodes
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest
from bhlm.likelihood.nested_sums import family_marginal
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.reconciliation.flat_mode import (
    PROBES,
    FlatMode,
    locate,
    locate_shared,
    log_jacobian,
    log_shared,
    span_blocks,
)

Array = np.ndarray

ACCURATE = 1e-9  # of the log-likelihood, all groups together
GAIN = 1e-8  # in log-likelihood: a start that ends higher by less has found the same mode
LOST = 1e-4  # a singular value of lam below which its rank is lost


class Stated(NamedTuple):
    """The sampler's density under flat priors, without a residual SD."""

    base: Density  # priors and maps
    log: Callable[[Array], float]  # of a position x (d,)
    # The log-likelihood there, by the kernels of maximum likelihood.
    loglik: Callable[[Array], float]


def find_family_mode(
    patterns: AnyPatterns,
    white: WhitenedPatterns | WhitenedNest,
    structure: Structure,
    *,
    start: tuple[Array, Array],
    seed: int = 0,
) -> FlatMode:
    """Return the mode of the flat-prior posterior of (beta, G).

    Args:
        patterns: the reduced table, of a single factor or of nested ones.
        white: its whitened form.
        structure: of the random coefficients.
        start: beta (p,) and a root of G (q, q) to start from, those of maximum likelihood; the
            search starts from points of its own too.
        seed: of the probes around the mode.

    Raises:
        ArgumentError: several factors of which one has coefficients that share an SD.
    """
    refuse_shared(structure)
    p, q = white.p, white.q
    shared = structure.shares_variance
    factors = structure.factors if shared else span_blocks(structure.sizes, q)
    priors = resolve_priors(Priors.flat(), patterns, structure=structure)
    priors = replace(priors, frame=stand_at_means(patterns, structure))
    stated = _state_density(white, priors, structure)
    given_beta = np.linalg.solve(white.fixed, start[0])
    inner = np.linalg.solve(white.basis, start[1])
    squares = np.einsum("cij,cij->c", factors, factors)

    def place(values: Array) -> Array:
        return np.ascontiguousarray(np.tensordot(values, factors, axes=1))

    def read(lam: Array) -> Array:
        return np.asarray(np.einsum("cij,ij->c", factors, lam) / squares)

    root = np.linalg.qr(inner.T)[1].T if not shared else inner
    begin = np.concatenate([given_beta, read(_project(structure, inner) if shared else root)])
    evaluate = _open_integrals(white, begin[:p].copy(), place(begin[p:]))

    def fall(point: Array) -> tuple[float, Array]:
        value, dlam, dbeta = evaluate(point[:p].copy(), place(point[p:]))
        if not np.isfinite(value):
            return 1e300, np.zeros(len(point))
        return -value, -np.concatenate([dbeta, np.einsum("cij,ij->c", factors, dlam)])

    own = start_at_mean(stated.base, white)[:p]
    starts = [begin, *(np.concatenate([own, size * read(np.eye(q))]) for size in (0.3, 1.0))]
    start_loglik = -fall(begin)[0]
    heights, best = [], begin
    for each in starts:
        found = minimize(fall, each, jac=True, method="BFGS", options={"gtol": 1e-6})
        heights.append(-float(found.fun))
        if heights[-1] > max(heights[:-1], default=-np.inf) + GAIN:
            best = found.x
    value, gradient = fall(best)
    beta, lam = best[:p], place(best[p:])
    at = white.basis @ lam
    turned = priors.frame.random @ at  # in the priors' frame
    flatness = _check_flatness(stated, white, turned, beta, shared=shared, seed=seed)
    return FlatMode(
        beta=white.fixed @ beta,
        g=at @ at.T,
        root=at,
        sigma2=1.0,
        loglik=-value,
        start_loglik=start_loglik,
        own_loglik=max(heights[1:]),
        gradient=float(np.abs(gradient).max()),
        singular=bool(np.linalg.svd(lam, compute_uv=False)[-1] < LOST),
        flatness=flatness,
    )


def _project(structure: Structure, inner: Array) -> Array:
    theta = structure.project(inner @ inner.T)
    return np.asarray(np.tensordot(theta, structure.factors, axes=1))


def _open_integrals(
    white: WhitenedPatterns | WhitenedNest, beta: Array, lam: Array
) -> Callable[[Array, Array], tuple[float, Array, Array]]:
    """Return the log-likelihood and its gradients by lam and beta~ as a function of beta~ and lam.

    Through the integrals as the sampler calls them, with nodes as dense as is needed at a point.
    """
    if isinstance(white, WhitenedNest):
        nest, lams = NestIntegrator(white), white.split(lam)
        nest.refine(beta, lams, tolerance=ACCURATE / len(nest.steps))
        nest.evaluate(beta, lams, derivatives=False)
        data = pack_nodes(nest).data

        def evaluate_nest(beta: Array, lam: Array) -> tuple[float, Array, Array]:
            value, dlam, dbeta, _ = family_marginal(data, 0.0, lam, beta, 1.0)
            return value, dlam, dbeta

        return evaluate_nest
    nodes = Integrator(white)
    nodes.refine(beta, lam, tolerance=ACCURATE / white.n_groups)

    def evaluate(beta: Array, lam: Array) -> tuple[float, Array, Array]:
        found = nodes.evaluate(beta, lam, information=False)
        score = found.score.sum(axis=0)
        return found.loglik, score[len(beta) :].reshape(lam.shape), score[: len(beta)]

    return evaluate


def _state_density(
    white: WhitenedPatterns | WhitenedNest, priors: ResolvedPriors, structure: Structure
) -> Stated:
    """Return the sampler's density, and the likelihood beside it by the same nodes."""
    if isinstance(white, WhitenedNest):
        levels = build_levels(white, priors, structure)

        def weigh(x: Array) -> float:
            # Searches for modes begin at zero, as those of the density.
            found = NestIntegrator(white).evaluate(*locate_nest(levels, white, x))
            return found.loglik

        return Stated(levels.base, lambda x: log_levels(x, levels)[0], weigh)
    density = build_family(white, priors, structure)
    return Stated(
        density.base,
        lambda x: log_family(x, density)[0],
        lambda x: (
            density.nodes.copy().evaluate(*locate_family(density, x), information=False).loglik
        ),
    )


def _check_flatness(
    stated: Stated,
    white: WhitenedPatterns | WhitenedNest,
    root: Array,
    beta: Array,
    *,
    shared: bool,
    seed: int,
) -> float:
    """Return the range of log_density(x) - loglik - log |d(beta, G)/dx| around a point."""
    find, measure = (locate_shared, log_shared) if shared else (locate, log_jacobian)
    base = stated.base
    rng = np.random.default_rng(seed)
    first = find(base, white, root, 1.0, beta)
    remainders = []
    for probe in range(PROBES):
        x = first if probe == 0 else first + 0.3 * rng.normal(size=len(first)) * (first != 0.0)
        x[-1] = 0.0  # sigma is one
        own = np.ascontiguousarray(x[:-1])
        remainders.append(stated.log(own) - stated.loglik(own) - measure(base, white.p, x))
    spread = float(np.ptp(remainders))
    return spread if np.isfinite(spread) else np.inf
