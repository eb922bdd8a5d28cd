"""Satterthwaite degrees of freedom of linear combinations of the fixed effects.

df = 2 (l'C l)^2 / (g' A g), with C the covariance of beta, g the gradient of l'C l by the
variance parameters and A their covariance, twice the inverse Hessian of minus twice the
(restricted) log-likelihood. Any parametrisation gives the same df. Taken here is
(theta, log v), G = v B lam lam' B', lam = sum theta_c N_c, because in it a singular fit is an
ordinary point: a factor that has vanished changes neither C nor, to first order, the
likelihood, and the pseudo-inverse leaves it out. That is what lmerTest does.
Source: Kuznetsova, Brockhoff & Christensen (2017), J. Stat. Softw. 82(13), section 2 and
appendix; Giesbrecht & Burns (1985), Biometrics 41, 477-486.
"""

import math

import numpy as np

from bhlm.likelihood.identify import invert_told
from bhlm.likelihood.laws import f_tail
from bhlm.reml.fixed.algebra import bend_theta, reduce_fixed, slope_variances, sum_squared
from bhlm.reml.fixed.method import Method, infer_plainly
from bhlm.reml.fixed.wald import JointTest, check_contrasts, decorrelate
from bhlm.reml.maximum import Maximum

Array = np.ndarray

# Curvature below this share of the largest belongs to a factor that has vanished.
FLAT = 1e-10
# lmerTest counts degrees of freedom that differ by less as equal.
EQUAL_DF = 1e-8


def satterthwaite_df(fit: Maximum, contrasts: Array) -> Array:
    """Return the degrees of freedom (c,) of the t statistic of each row of `contrasts` (c, p).

    Raises:
        ArgumentError: the contrasts do not fit the fixed effects.
    """
    matrix = check_contrasts(contrasts, len(fit.beta))
    return _degrees(fit, matrix, theta_covariance(fit))


def satterthwaite_test(fit: Maximum, contrasts: Array, *, values: Array | None = None) -> JointTest:
    """Return the F test that contrasts beta = values, by lmerTest's rule for several df.

    The hypotheses are turned into uncorrelated ones, the principal axes of L C L'; each has
    its t and its df nu_m. The sum of the r squared t has the mean E = sum nu_m / (nu_m - 2),
    which an r F(r, ddf) shares for ddf = 2 E / (E - r), or 2 where a nu_m does not exceed 2.
    The axes, and so ddf, depend on the scale of the rows of L: those of lmerTest are as given.

    Raises:
        ArgumentError: the contrasts contradict each other or do not fit the fixed effects.
    """
    matrix = check_contrasts(contrasts, len(fit.beta))
    algebra = reduce_fixed(fit)
    load, inner = algebra.loadings, algebra.v * algebra.phi
    _, scores, variances = decorrelate(fit.beta, inner, matrix, values, loadings=load)
    statistic, df = float((scores**2 / variances).mean()), len(scores)
    loaded = matrix @ load
    _, axes = np.linalg.eigh(loaded @ inner @ loaded.T)
    rows = axes[:, -df:].T @ matrix
    nu = _degrees(fit, rows, theta_covariance(fit))
    ddf = _pool_df(nu)
    return JointTest(statistic, df, ddf, float(f_tail(statistic, df, ddf)), "satterthwaite")


def theta_covariance(fit: Maximum) -> Array:
    """Return the covariance (c + 1, c + 1) of (theta, log v), with vanished factors left out."""
    hessian = bend_theta(fit)
    # A theta of 30 (an ICC of .999) must not make its own curvature look flat.
    size = np.full(len(hessian), max(1.0, math.hypot(*fit.theta.tolist())))
    size[-1] = 1.0
    both = size[:, None] * size
    return np.asarray(2.0 * invert_told(hessian * both, FLAT) * both)


def _degrees(fit: Maximum, matrix: Array, cov: Array) -> Array:
    algebra = reduce_fixed(fit)
    rows = matrix @ algebra.loadings
    variances = algebra.v * sum_squared(rows, algebra.phi)
    gradient = np.concatenate([slope_variances(fit, rows), variances[:, None]], axis=1)
    return np.asarray(2.0 * variances**2 / sum_squared(gradient, cov))


def _pool_df(nu: Array) -> float:
    if len(nu) == 1 or np.all(np.abs(np.diff(nu)) < EQUAL_DF):
        return float(nu.mean())
    if np.any(nu <= 2.0):
        return 2.0
    expected = float((nu / (nu - 2.0)).sum())
    return 2.0 * expected / (expected - len(nu))


SATTERTHWAITE = Method(
    "satterthwaite",
    infer=lambda fit, contrasts: infer_plainly(
        fit, _degrees(fit, contrasts, theta_covariance(fit))
    ),
    test=lambda fit, contrasts, values: satterthwaite_test(fit, contrasts, values=values),
)
