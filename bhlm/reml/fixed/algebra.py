"""The covariance of the fixed effects, and how it moves, of one factor and of several alike."""

from typing import NamedTuple

import numpy as np

from bhlm.likelihood.profiled import differentiate, score_psi
from bhlm.reml.group_algebra import expect_one, reduce_groups
from bhlm.reml.level_algebra import reduce_levels, theta_hessian
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum
from bhlm.reml.optimize import Problem

Array = np.ndarray


class Plain(NamedTuple):
    """The model-based covariance of the fixed effects."""

    v: float  # residual variance
    phi: Array  # (p, p); v phi is the covariance of beta~
    loadings: Array  # (p, p): beta = b + loadings beta~


def reduce_fixed(fit: Maximum) -> Plain:
    """Return the covariance of the fixed effects in whitened columns."""
    algebra = reduce_levels(fit) if isinstance(fit, LevelsEstimate) else reduce_groups(fit)
    return Plain(algebra.v, algebra.phi, algebra.loadings)


def slope_variances(fit: Maximum, rows: Array) -> Array:
    """Return the derivatives (r, c) by theta of the variance of each of `rows` (r, p) of beta~."""
    if isinstance(fit, LevelsEstimate):
        several = reduce_levels(fit)
        leaning = rows @ several.phi
        slopes = several.e[:, :-1, :-1]
        return np.asarray(-several.v * np.einsum("rp,cpq,rq->rc", leaning, slopes, leaning))
    fit = expect_one(fit)
    algebra = reduce_groups(fit)
    spread = np.einsum("jap,rp->jra", algebra.u, rows @ algebra.phi)
    pairs = np.einsum("jra,jrb->rab", spread, spread)
    problem = Problem(fit.white, fit.structure, fit.method == "reml")
    tangents = _tangents(fit.structure.factors, problem.factor(fit.theta))
    return np.asarray(np.einsum("cab,rab->rc", tangents, pairs) * algebra.v)


def bend_theta(fit: Maximum) -> Array:
    """Return the Hessian (c + 1, c + 1) of minus twice the log-likelihood by (theta, log v)."""
    if isinstance(fit, LevelsEstimate):
        return theta_hessian(fit)
    fit = expect_one(fit)
    problem = Problem(fit.white, fit.structure, fit.method == "reml")
    blocks, q, factors = fit.white.blocks, fit.white.q, fit.structure.factors
    lam, at = problem.factor(fit.theta), problem.at(fit.theta)
    curve = differentiate(blocks, q, lam, at, _tangents(factors, lam))
    score = score_psi(blocks, q, lam, at)
    c = len(factors)
    hessian = np.empty((c + 1, c + 1))
    hessian[:c, :c] = curve.logdet + curve.rss / at.sigma2
    hessian[:c, :c] += 2.0 * np.einsum("cij,ik,dkj->cd", factors, score, factors)
    hessian[:c, c] = hessian[c, :c] = -curve.rss_slope / at.sigma2
    hessian[c, c] = at.dof
    return hessian


def _tangents(factors: Array, lam: Array) -> Array:
    """Return d Psi / d theta_c = N_c lam' + lam N_c' (c, q, q)."""
    turned = factors @ lam.T
    return np.asarray(turned + turned.transpose(0, 2, 1))
