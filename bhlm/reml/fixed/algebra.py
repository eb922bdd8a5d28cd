"""The covariance of the fixed effects, and how it moves, of one factor and of several alike."""

from typing import NamedTuple

import numpy as np

from bhlm.reml.group_algebra import expect_one
from bhlm.reml.level_algebra import reduce_levels, theta_hessian
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum

Array = np.ndarray


class Plain(NamedTuple):
    """The model-based covariance of the fixed effects."""

    v: float  # residual variance
    phi: Array  # (p, p); v phi is the covariance of beta~
    loadings: Array  # (p, p): beta = b + loadings beta~


def reduce_fixed(fit: Maximum) -> Plain:
    """Return the covariance of the fixed effects in whitened columns."""
    if isinstance(fit, LevelsEstimate):
        algebra = reduce_levels(fit)
        return Plain(algebra.v, algebra.phi, algebra.loadings)
    fit = expect_one(fit)
    at = fit.bent.at
    return Plain(at.sigma2, at.phi, fit.white.scale * fit.white.fixed)


def slope_variances(fit: Maximum, rows: Array) -> Array:
    """Return the derivatives (r, c) by theta of the variance of each of `rows` (r, p) of beta~."""
    if isinstance(fit, LevelsEstimate):
        several = reduce_levels(fit)
        v, phi, slopes = several.v, several.phi, several.e[:, :-1, :-1]
    else:
        bent = expect_one(fit).bent
        v, phi, slopes = bent.at.sigma2, bent.at.phi, bent.curve.fixed_slope
    leaning = rows @ phi
    turned = leaning @ slopes  # (c, r, p)
    return np.asarray(-v * (turned * leaning).sum(axis=2).T)


def sum_squared(rows: Array, inner: Array) -> Array:
    """Return l'C l (r,) of each of `rows` (r, k), C the symmetric `inner` (k, k)."""
    found: Array = ((rows @ inner) * rows).sum(axis=1)
    return found


def bend_theta(fit: Maximum) -> Array:
    """Return the Hessian (c + 1, c + 1) of minus twice the log-likelihood by (theta, log v)."""
    if isinstance(fit, LevelsEstimate):
        return theta_hessian(fit)
    fit = expect_one(fit)
    at, score, curve = fit.bent
    factors = fit.structure.factors
    c = len(factors)
    hessian = np.empty((c + 1, c + 1))
    hessian[:c, :c] = curve.logdet + curve.rss / at.sigma2
    turned = (score @ factors).reshape(c, -1)
    hessian[:c, :c] += 2.0 * (factors.reshape(c, -1) @ turned.T)
    hessian[:c, c] = hessian[c, :c] = -curve.rss_slope / at.sigma2
    hessian[c, c] = at.dof
    return hessian
