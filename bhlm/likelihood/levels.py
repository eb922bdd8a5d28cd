"""The marginal Gaussian likelihood of several grouping factors, whatever their pattern.

Rows have the covariance sigma^2 V, V = I + sum_f Z_f Psi_f Z_f' with Psi_f = lam_f lam_f' for each
level of factor f. As with one factor, everything follows from log |V| and E = [X y]'V^-1 [X y].
With F_fj = Z_fj'V^-1 Z_fj and U_fj = Z_fj'V^-1 [X y] for level j of factor f,

    d (log |V| + tr(weight E)) = sum_f tr((sum_j F_fj - U_fj weight U_fj') dPsi_f)

A pattern of factors (nested, crossed) is one class that knows how log |V|, E and these sums
come from whitened cross-products. Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Softw.
67(1), section 3, for the criterion.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import block_diag

from bhlm.likelihood.profiled import Criterion, profile_products, weigh_products

Array = np.ndarray


class Eliminated(NamedTuple):
    """What is left once every random effect is integrated out."""

    logdet: float  # log |V|
    e: Array  # (p + 1, p + 1) E
    kept: Any  # what the pattern needs on the way back


class Effects(NamedTuple):
    """Random effects of one factor given y, in whitened units: u~ / s and its covariances."""

    mean: Array  # (J, q)
    cov: Array  # (J, q, q) over sigma^2


class Bend(NamedTuple):
    """Derivatives of E and of share log |V| + tr(weight E) along directions of the Psi_f.

    The m directions are those of one factor after the other.
    """

    e: Array  # (m, p + 1, p + 1) of E
    second: Array  # (w, m, m) second derivatives, Psi being linear along the directions
    scores: tuple[Array, ...]  # by factor, (w, q_f, q_f) first derivatives by Psi_f


class Levels(Protocol):
    """Whitened cross-products of [Z_1 ... Z_F X y] under one pattern of F factors."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """The random coefficients q_f of each factor."""

    @property
    def counts(self) -> tuple[int, ...]:
        """The levels J_f of each factor."""

    def eliminate(self, lams: Sequence[Array]) -> Eliminated:
        """Return log |V| and E at relative covariance factors lam_f (q_f, q_f)."""

    def slopes(self, lams: Sequence[Array], found: Eliminated, weight: Array) -> tuple[Array, ...]:
        """Return the derivatives (q_f, q_f) by lam_f of log |V| + tr(weight E).

        `weight` (p + 1, p + 1) is symmetric and held fixed; `found` is what `eliminate` returned.
        """

    def bend(
        self,
        lams: Sequence[Array],
        found: Eliminated,
        weights: Array,
        directions: Sequence[Array],
        *,
        share: float = 1.0,
    ) -> Bend:
        """Return first and second derivatives of share log |V| + tr(weight E), for each weight.

        Args:
            lams: relative covariance factors.
            found: what `eliminate` returned for them.
            weights: symmetric matrices (w, p + 1, p + 1), held fixed.
            directions: by factor, symmetric matrices (c_f, q_f, q_f) that Psi_f moves along.
            share: of log |V|, 1 or 0.
        """

    @property
    def bends_dearly(self) -> bool:
        """Whether `bend` costs much more than `slopes`."""

    def precisions(self, lams: Sequence[Array], found: Eliminated) -> tuple[Array, ...]:
        """Return every factor's F_jj = Z_fj'V^-1 Z_fj (J_f, q_f, q_f), one factor given the others.

        Of nested factors those given the effects of the coarser ones.
        """

    def effects(
        self, lams: Sequence[Array], found: Eliminated, beta: Array, spread: Array
    ) -> tuple[Effects, ...]:
        """Return the conditional means and covariances of every factor's effects.

        Args:
            lams: relative covariance factors.
            found: what `eliminate` returned for them.
            beta: fixed effects (p,), whitened.
            spread: the covariance (p, p) of the fixed effects over sigma^2, which the effects
                inherit: zeros for their law given all parameters, (X'V^-1 X)^-1 for the prediction
                error (Henderson's C22).
        """

    def joint(self, lams: Sequence[Array], found: Eliminated, spread: Array, codes: Array) -> Array:
        """Return the joint covariance (m, Q + p, Q + p) over sigma^2 of effects and beta.

        Of the levels `codes` (F, m) of every factor, Q = sum q_f, -1 for one that is not known,
        which is independent of all and has Psi_f. `spread` (p, p) is the covariance of beta: with
        (X'V^-1 X)^-1 it is that of the errors u_hat - u and beta_hat - beta.
        """


def join_priors(lams: Sequence[Array], known: Array, spread: Array, blocks: Array) -> Array:
    """Return joint covariances `blocks` (m, Q + p, Q + p) with Psi_f of the levels not known.

    Args:
        lams: relative covariance factors.
        known: whether (F, m) the level of each factor is.
        spread: the covariance (p, p) of the fixed effects.
        blocks: the covariances as far as the levels are known; overwritten.
    """
    start = 0
    for lam, seen in zip(lams, known, strict=True):
        span = slice(start, start + len(lam))
        start = span.stop
        blocks[~seen, span] = 0.0
        blocks[~seen, :, span] = 0.0
        blocks[~seen, span, span] = lam @ lam.T
    blocks[:, start:, start:] = spread
    return blocks


class LevelsCriterion(NamedTuple):
    """The profiled criterion at one set of lam_f, and the way back from there."""

    at: Criterion
    found: Eliminated


def evaluate_levels(
    levels: Levels,
    lams: Sequence[Array],
    *,
    n: float,
    restricted: bool,
    held: float | None = None,
) -> LevelsCriterion:
    """Return minus twice the (restricted) log-likelihood, profiled over beta and sigma^2.

    log|V| + [log|X'V^-1 X|] + dof (1 + log(2 pi rss / dof)), the bracket for REML only. With a
    residual variance v that is `held`, dof log(2 pi v) + rss / v take the place of the last.
    """
    found = levels.eliminate(lams)
    value, beta, phi, rss = profile_products(found.logdet, found.e, n, restricted)
    dof = n - len(beta) if restricted else n
    at = Criterion(value, found.logdet, beta, phi, rss, dof, restricted)
    return LevelsCriterion(at if held is None else at.hold(held), found)


def score_levels(
    levels: Levels, lams: Sequence[Array], criterion: LevelsCriterion
) -> tuple[Array, ...]:
    """Return the derivatives (q_f, q_f) by lam_f of the profiled criterion."""
    return levels.slopes(lams, criterion.found, weigh_products(criterion.at))


def tangents_of(lams: Sequence[Array], factors: Sequence[Array]) -> list[Array]:
    """Return d Psi_f / d theta_c = N_c lam' + lam N_c' (c_f, q_f, q_f) by factor."""
    turned = (own @ lam.T for lam, own in zip(lams, factors, strict=True))
    return [each + each.transpose(0, 2, 1) for each in turned]


def bend_levels(
    levels: Levels, lams: Sequence[Array], criterion: LevelsCriterion, factors: Sequence[Array]
) -> Array:
    """Return the Hessian (c, c) of the profiled criterion by theta, lam_f = sum theta_c N_c.

    With the weight of the gradient, tr(weight E) bends as the criterion does, but for what E moves
    the weight by: through phi and through rss.

    Args:
        levels: the cross-products.
        lams: relative covariance factors.
        criterion: what `evaluate_levels` returned for them.
        factors: by factor, N_c (c_f, q_f, q_f).
    """
    at = criterion.at
    tangents = tangents_of(lams, factors)
    bend = levels.bend(lams, criterion.found, weigh_products(at)[None], tangents)
    hessian = bend.second[0]
    lean = bend.e @ np.append(-at.beta, 1.0)
    slope = lean @ np.append(-at.beta, 1.0) / at.rss
    lean = lean[:, :-1]
    hessian -= 2.0 / at.sigma2 * lean @ at.phi @ lean.T
    if at.held is None:
        hessian -= at.dof * np.outer(slope, slope)
    if at.restricted:
        turned = at.phi @ bend.e[:, :-1, :-1]
        hessian -= np.einsum("aij,bji->ab", turned, turned)
    start = 0
    for own, scores in zip(factors, bend.scores, strict=True):
        span = slice(start, start + len(own))
        hessian[span, span] += 2.0 * np.einsum("cij,ik,dkj->cd", own, scores[0], own)
        start = span.stop
    return np.asarray(0.5 * (hessian + hessian.T))


def guess_bend(
    levels: Levels, lams: Sequence[Array], criterion: LevelsCriterion, factors: Sequence[Array]
) -> Array:
    """Return about the Hessian (c, c) of the profiled criterion by theta near its minimum.

    The expected information of each factor's levels on their own, sum_j tr(F_j dPsi F_j dPsi), less
    what the residual variance takes with it.
    """
    squares, singles = [], []
    precisions = levels.precisions(lams, criterion.found)
    for tangents, f in zip(tangents_of(lams, factors), precisions, strict=True):
        product = np.einsum("cab,jbd->cjad", tangents, f)
        squares.append(np.einsum("cjab,djba->cd", product, product, optimize=True))
        singles.append(np.einsum("cjaa->c", product))
    slope = np.concatenate(singles)
    bend = np.asarray(block_diag(*squares))
    if criterion.at.held is not None:
        return bend
    return bend - np.outer(slope, slope) / criterion.at.dof


def expect_squares(levels: Levels, directions: Sequence[Array], *, n: float) -> tuple[Array, Array]:
    """Return the equations (m + 1, m + 1) and (m + 1,) of MIVQUE(0) for Psi sigma^2 and sigma^2.

    With Q = I - X (X'X)^-1 X', sum_b tr(Q V_a Q V_b) g_b + tr(Q V_a) v = y'Q V_a Q y along the
    directions V_a = Z D_a Z', and as much for the residual with I in place of V_a. Source:
    Rao (1971), J. Multivariate Anal. 1, 445-456; Searle, Casella & McCulloch (1992), section 11.3.
    """
    none = [np.zeros((q, q)) for q in levels.sizes]
    criterion = evaluate_levels(levels, none, n=n, restricted=True)
    at = criterion.at
    weight = np.zeros_like(criterion.found.e)
    weight[:-1, :-1] = at.phi
    bend = levels.bend(none, criterion.found, weight[None], directions)
    turned = at.phi @ bend.e[:, :-1, :-1]
    left = np.append(-at.beta, 1.0)
    m = len(bend.e)
    equations, squares = np.empty((m + 1, m + 1)), np.empty(m + 1)
    equations[:m, :m] = np.einsum("aij,bji->ab", turned, turned) - bend.second[0]
    equations[:m, m] = equations[m, :m] = np.concatenate(
        [
            np.einsum("cab,ab->c", own, scores[0])
            for own, scores in zip(directions, bend.scores, strict=True)
        ]
    )
    equations[m, m] = at.dof
    squares[:m] = -(bend.e @ left @ left)
    squares[m] = at.rss
    return equations, squares


def slope_rss(
    levels: Levels, lams: Sequence[Array], criterion: LevelsCriterion
) -> tuple[Array, ...]:
    """Return the derivatives (q_f, q_f) by lam_f of rss, beta being least squares."""
    left = np.append(-criterion.at.beta, 1.0)
    both = levels.slopes(lams, criterion.found, np.outer(left, left))
    alone = levels.slopes(lams, criterion.found, np.zeros((len(left), len(left))))
    return tuple(one - other for one, other in zip(both, alone, strict=True))


class Slopes(NamedTuple):
    """The log-likelihood at given parameters, and its derivatives, in whitened units."""

    loglik: float
    beta: Array  # (p,)
    lams: tuple[Array, ...]  # (q_f, q_f)
    sigma: float


def score_parameters(
    levels: Levels, beta: Array, lams: Sequence[Array], sigma: float, *, n: float
) -> Slopes:
    """Return the marginal log-likelihood of (beta, lam_1, ..., lam_F, sigma) with its gradient.

    -(n log(2 pi sigma^2) + log |V| + r'V^-1 r / sigma^2) / 2 with r = y - X beta.
    """
    found = levels.eliminate(lams)
    left = np.append(-beta, 1.0)
    product = found.e @ left
    square = float(left @ product)
    by_lam = levels.slopes(lams, found, np.outer(left, left) / sigma**2)
    return Slopes(
        loglik=-0.5 * (n * np.log(2.0 * np.pi * sigma**2) + found.logdet + square / sigma**2),
        beta=product[:-1] / sigma**2,
        lams=tuple(-0.5 * slope for slope in by_lam),
        sigma=float(square / sigma**3 - n / sigma),
    )
