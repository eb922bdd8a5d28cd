"""The joint mode of a family's posterior under priors flat on (beta, G), by the sampler's density.

Under them the posterior density of (beta, G) is the marginal likelihood, so that its mode is the
maximum-likelihood estimate. Here the likelihood is maximised by another search than that of
maximum likelihood, through the integrals as the sampler calls them, and that the sampler's density
is the likelihood times the Jacobian, but for a constant, is verified around the mode.
"""

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize

from bhlm.bayes.family.density import (
    FamilyDensity,
    build_family,
    locate_family,
    log_family,
    start_search,
)
from bhlm.bayes.priors.frame import stand_at_means
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns
from bhlm.moments.patterns import Patterns
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


def find_family_mode(
    patterns: Patterns,
    white: WhitenedPatterns,
    structure: Structure,
    *,
    start: tuple[Array, Array],
    seed: int = 0,
) -> FlatMode:
    """Return the mode of the flat-prior posterior of (beta, G).

    Args:
        patterns: the reduced table.
        white: its whitened form.
        structure: of the random coefficients.
        start: beta (p,) and a root of G (q, q) to start from, those of maximum likelihood; the
            search starts from points of its own too.
        seed: of the probes around the mode.
    """
    p, q = white.p, white.q
    shared = structure.shares_variance
    factors = structure.factors if shared else span_blocks(structure.sizes, q)
    priors = resolve_priors(Priors.flat(), patterns, structure=structure)
    priors = replace(priors, frame=stand_at_means(patterns, structure))
    density = build_family(white, priors, structure)
    nodes = Integrator(white)
    given_beta = np.linalg.solve(white.fixed, start[0])
    inner = np.linalg.solve(white.basis, start[1])
    squares = np.einsum("cij,cij->c", factors, factors)

    def place(values: Array) -> Array:
        return np.ascontiguousarray(np.tensordot(values, factors, axes=1))

    def read(lam: Array) -> Array:
        return np.asarray(np.einsum("cij,ij->c", factors, lam) / squares)

    def fall(point: Array) -> tuple[float, Array]:
        found = nodes.evaluate(point[:p].copy(), place(point[p:]), information=False)
        if not np.isfinite(found.loglik):
            return 1e300, np.zeros(len(point))
        score = found.score.sum(axis=0)
        slope = np.einsum("cij,ij->c", factors, score[p:].reshape(q, q))
        return -found.loglik, -np.concatenate([score[:p], slope])

    root = np.linalg.qr(inner.T)[1].T if not shared else inner
    begin = np.concatenate([given_beta, read(_project(structure, inner) if shared else root)])
    own = start_search(density)[:p]
    starts = [begin, *(np.concatenate([own, size * read(np.eye(q))]) for size in (0.3, 1.0))]
    nodes.refine(begin[:p].copy(), place(begin[p:]), tolerance=ACCURATE / white.n_groups)
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
    flatness = _check_flatness(density, white, turned, beta, shared=shared, seed=seed)
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


def _check_flatness(
    density: FamilyDensity,
    white: WhitenedPatterns,
    root: Array,
    beta: Array,
    *,
    shared: bool,
    seed: int,
) -> float:
    """Return the range of log_density(x) - loglik - log |d(beta, G)/dx| around a point."""
    find, measure = (locate_shared, log_shared) if shared else (locate, log_jacobian)
    base = density.base
    rng = np.random.default_rng(seed)
    first = find(base, white, root, 1.0, beta)
    remainders = []
    for probe in range(PROBES):
        x = first if probe == 0 else first + 0.3 * rng.normal(size=len(first)) * (first != 0.0)
        x[-1] = 0.0  # sigma is one
        value, _ = log_family(x[:-1], density)
        found = density.nodes.copy().evaluate(*locate_family(density, x[:-1]), information=False)
        remainders.append(value - found.loglik - measure(base, white.p, x))
    spread = float(np.ptp(remainders))
    return spread if np.isfinite(spread) else np.inf
