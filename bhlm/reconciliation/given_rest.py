"""The distribution of each fixed effect given all other parameters, the other effects among them.

Given (G, sigma) the likelihood is normal in the fixed effects, and so are their normal and flat
priors. Priors stand on b = C beta (`bhlm.bayes.priors.frame`), one by one, so that with Q the
precision of that normal and mu its mean, the density of b_i given all else is

    N(b_i; b_i - (Q (b - mu))_i / Q_ii, 1 / Q_ii) * prior(b_i)

where a normal or flat prior is in Q already. Its distribution function at the draw is uniform and
independent of all that is given, whatever the prior.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from bhlm.bayes.density import evaluate_prior
from bhlm.bayes.draws import Posterior, flatten_draws
from bhlm.bayes.importance.posterior import ImportancePosterior
from bhlm.bayes.importance.target import Conditional, Target, build_target, condition_fixed
from bhlm.bayes.priors.families import Flat, Prior, PyMCPrior
from bhlm.bayes.priors.frame import stand_at_means
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.patterns import WhitenedPatterns

Array = np.ndarray

COLLINEAR = 1e-10  # of a conditional variance by the marginal one: rounding leaves five digits
REACH = 9.0  # SDs on either side of the normal part that a grid covers
CELLS = 160  # of a grid about the normal part, about the prior, and from one to the other
STEEP = 0.1  # mass of a cell beyond which a grid is too coarse to tell
ROWS = 500  # draws that are integrated at a time


class Complete(NamedTuple):
    """The fixed effects b of draws, each in the distribution that it has given all else."""

    names: tuple[str, ...]  # of those that could be placed
    u: Array  # (N, m) distribution functions at the draws of those
    b: Array  # (N, p) all of them


class Normals(NamedTuple):
    """The normal part of the density of each fixed effect given all else."""

    mean: Array  # (N, p)
    sd: Array  # (N, p)
    left: Array  # (p,) the smallest conditional variance by the marginal one


def place_draws(post: Posterior) -> Complete | None:
    """Return where each fixed effect lies in its distribution given all else; None of families."""
    if isinstance(post.white, WhitenedPatterns | WhitenedNest):
        return None
    target = build_target(post.white, post.priors, post.structure)
    beta, root, sigma = flatten_draws(post)
    first = sigma if sigma.ndim == 1 else sigma[:, 0]
    lam = np.linalg.solve(post.white.basis, root) / first[:, None, None]
    given = condition_fixed(target, lam, sigma)
    frame = post.priors.frame
    if target.exact:  # where no prior is integrated over, any coordinates do
        frame = stand_at_means(post.moments, post.structure)
    b = frame.turn_fixed(beta)
    normals = _condition_normal(target, given, frame.fixed, b)
    chosen, columns = [], []
    for i, name in enumerate(post.moments.fixed):
        prior = post.priors.fixed[i]
        u = None
        if normals.left[i] >= COLLINEAR and not isinstance(prior, PyMCPrior):
            z = (b[:, i] - normals.mean[:, i]) / normals.sd[:, i]
            own = target.normal[i] or isinstance(prior, Flat)
            u = ndtr(z) if own else _integrate(prior, b[:, i], normals.mean[:, i], normals.sd[:, i])
        if u is not None:
            chosen.append(name)
            columns.append(u)
    u = np.column_stack(columns) if columns else np.empty((len(b), 0))
    return Complete(tuple(chosen), u, b)


def list_unplaced(exact: ImportancePosterior) -> list[str]:
    """Return the fixed effects whose distribution given all else cannot be computed.

    Their prior is PyMC's, or stands where rounding leaves nothing of them given the others.
    """
    target, priors = exact.target, exact.target.priors
    names = exact.moments.fixed
    lost = [isinstance(prior, PyMCPrior) for prior in priors.fixed]
    if not target.exact:
        b = np.broadcast_to(target.offset, exact.given.mean.shape)
        left = _condition_normal(target, exact.given, priors.frame.fixed, b).left
        lost = [each or left[i] < COLLINEAR for i, each in enumerate(lost)]
    return [name for name, each in zip(names, lost, strict=True) if each]


def _condition_normal(target: Target, given: Conditional, combine: Array, b: Array) -> Normals:
    """Return the normal part of each b_i (N, p) given the others, b = C beta."""
    half = combine @ target.back @ np.swapaxes(np.linalg.inv(given.root), 1, 2)
    middle = combine @ target.ols + given.mean @ (combine @ target.back).T
    cov = half @ np.swapaxes(half, 1, 2)
    sd = np.sqrt(np.einsum("nii->ni", cov))
    corr = cov / (sd[:, :, None] * sd[:, None, :])
    p = corr.shape[-1]
    least = np.linalg.eigvalsh(corr)[:, 0]
    known = least > 0.0
    inverse = np.linalg.inv(np.where(known[:, None, None], corr, np.eye(p)))
    left = 1.0 / np.einsum("nii->ni", inverse)
    z = (b - middle) / sd
    shift = np.einsum("nij,nj->ni", inverse, z) * left
    smallest = np.where(known.all(), left.min(axis=0), 0.0)
    return Normals(b - sd * shift, sd * np.sqrt(left), smallest)


def _integrate(prior: Prior, x: Array, mean: Array, sd: Array) -> Array | None:
    """Return the distribution function of N(mean, sd^2) * prior at x (N,); None if too steep.

    By the midpoint rule between nodes that are dense where either factor is, and at the ends of
    the prior.
    """
    steps = np.linspace(-REACH, REACH, CELLS + 1)
    own = prior.quantile(np.concatenate([[0.0], ndtr(np.linspace(-5.0, 5.0, CELLS + 1)), [1.0]]))
    own = own[np.isfinite(own)]
    centre = float(prior.quantile(np.array([0.5]))[0])
    out = np.empty(len(x))
    for start in range(0, len(x), ROWS):
        at = slice(start, start + ROWS)
        mu, tau = mean[at, None], sd[at, None]
        between = centre + (mu - centre) * np.linspace(0.0, 1.0, CELLS + 1)
        fixed = np.broadcast_to(own, (len(mu), len(own)))
        nodes = np.sort(np.concatenate([mu + tau * steps, between, fixed], axis=1), axis=1)
        middle, width = 0.5 * (nodes[:, 1:] + nodes[:, :-1]), np.diff(nodes, axis=1)
        height = -0.5 * ((middle - mu) / tau) ** 2
        height = height + evaluate_prior(prior, middle.ravel()).reshape(middle.shape)
        top = height.max(axis=1, keepdims=True)
        if not np.all(np.isfinite(top)):
            return None
        mass = np.exp(height - top) * width
        mass /= mass.sum(axis=1, keepdims=True)
        if np.max(mass) > STEEP:
            return None
        cdf = np.concatenate([np.zeros((len(mu), 1)), np.cumsum(mass, axis=1)], axis=1)
        out[at] = [
            np.interp(each, grid, value)
            for each, grid, value in zip(x[at], nodes, cdf, strict=True)
        ]
    return np.clip(out, 0.0, 1.0)
