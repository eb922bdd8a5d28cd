"""A fit of several factors -> the derivatives that inference about its fixed effects is made of.

With E(Psi) = [X y]'V^-1 [X y] and L(Psi) = log |V|, whose derivatives `Levels.bend` knows, the
covariance v (I + sum_f Z_f Psi_f Z_f') of all rows enters through v alone and Psi = G / v.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np

from bhlm.likelihood.levels import LevelsCriterion, bend_levels, evaluate_levels, tangents_of
from bhlm.reml.levels import LevelsEstimate

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class LevelAlgebra:
    """The fixed effects of a fit in whitened columns, as `GroupAlgebra` has them."""

    v: float  # residual variance
    phi: Array  # (p, p) inverse of X'V^-1 X; the covariance of beta is v phi
    loadings: Array  # (p, p) s A: beta = b + loadings beta~
    e: Array  # (c, p + 1, p + 1) derivatives of E by theta
    hessian: Array  # (c, c) of the profiled criterion by theta
    dof: float


def reduce_levels(fit: LevelsEstimate) -> LevelAlgebra:
    """Return what inference about the fixed effects of a fit takes."""
    if "algebra" not in fit._kept:
        criterion = evaluate_fit(fit)
        at, white = criterion.at, fit.white
        factors = [structure.factors for structure in fit.structures]
        tangents = tangents_of(fit.lams, factors)
        none = np.zeros((1, *criterion.found.e.shape))
        bend = white.levels.bend(fit.lams, criterion.found, none, tangents, share=0.0)
        hessian = bend_levels(white.levels, fit.lams, criterion, factors)
        fit._kept["algebra"] = LevelAlgebra(
            v=at.sigma2,
            phi=at.phi,
            loadings=white.scale * white.fixed,
            e=bend.e,
            hessian=hessian,
            dof=at.dof,
        )
    algebra: LevelAlgebra = fit._kept["algebra"]
    return algebra


def evaluate_fit(fit: LevelsEstimate) -> LevelsCriterion:
    """Return the criterion at the estimates."""
    return evaluate_levels(
        fit.white.levels, fit.lams, n=fit.white.n, restricted=fit.method == "reml"
    )


def theta_hessian(fit: LevelsEstimate) -> Array:
    """Return the Hessian (c + 1, c + 1) of minus twice the log-likelihood by (theta, log v)."""
    algebra, at = reduce_levels(fit), evaluate_fit(fit).at
    left = np.append(-at.beta, 1.0)
    cross = -(algebra.e @ left @ left) / at.sigma2
    c = len(cross)
    hessian = np.empty((c + 1, c + 1))
    hessian[:c, :c] = algebra.hessian + np.outer(cross, cross) / at.dof
    hessian[:c, c] = hessian[c, :c] = cross
    hessian[c, c] = at.dof
    return hessian


def sum_level_products(fit: LevelsEstimate) -> tuple[Array, Array, Array]:
    """Return P (m + 1, p, p), Q (m + 1, m + 1, p, p) and T (m + 1, m + 1) of Kenward and Roger.

    See `bhlm.reml.fixed.kenward_roger`; by the free elements of every G and sigma^2, which is
    last. Q_ij is the mean of Q_ij and Q_ji, whose sums alone count.
    """
    criterion, levels = evaluate_fit(fit), fit.white.levels
    found, v = criterion.found, criterion.at.sigma2
    directions = [structure.directions for structure in fit.structures]
    p = len(criterion.at.beta)
    psi = np.concatenate(
        [
            structure.read(lam @ lam.T)
            for structure, lam in zip(fit.structures, fit.lams, strict=True)
        ]
    )
    pairs = list(combinations_with_replacement(range(p), 2))
    weights = np.zeros((len(pairs), p + 1, p + 1))
    for weight, (a, b) in zip(weights, pairs, strict=True):
        weight[a, b] += 0.5
        weight[b, a] += 0.5
    bend = levels.bend(fit.lams, found, weights, directions, share=0.0)
    plain = levels.bend(fit.lams, found, np.zeros((1, p + 1, p + 1)), directions)
    m = len(psi)
    bent = np.empty((m, m, p, p))
    for second, (a, b) in zip(bend.second, pairs, strict=True):
        bent[:, :, a, b] = bent[:, :, b, a] = second
    e, slopes = found.e[:p, :p], bend.e[:, :p, :p]
    logdet, single = (
        plain.second[0],
        np.concatenate(
            [
                np.einsum("cab,ab->c", own, scores[0])
                for own, scores in zip(directions, plain.scores, strict=True)
            ]
        ),
    )
    along = np.tensordot(psi, slopes, axes=1)
    leaning = np.tensordot(psi, bent, axes=1)
    p_matrices = np.concatenate([slopes, -(e + along)[None]]) / v**2
    q_matrices = np.empty((m + 1, m + 1, p, p))
    q_matrices[:m, :m] = bent
    q_matrices[:m, m] = q_matrices[m, :m] = -2.0 * slopes - leaning
    q_matrices[m, m] = 2.0 * e + 4.0 * along + np.tensordot(psi, leaning, axes=1)
    traces = np.empty((m + 1, m + 1))
    traces[:m, :m] = -logdet
    traces[:m, m] = traces[m, :m] = single + logdet @ psi
    traces[m, m] = fit.white.n - 2.0 * psi @ single - psi @ logdet @ psi
    return p_matrices, 0.5 * q_matrices / v**3, traces / v**2
