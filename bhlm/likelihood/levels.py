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


class LevelsCriterion(NamedTuple):
    """The profiled criterion at one set of lam_f, and the way back from there."""

    at: Criterion
    found: Eliminated


def evaluate_levels(
    levels: Levels, lams: Sequence[Array], *, n: float, restricted: bool
) -> LevelsCriterion:
    """Return minus twice the (restricted) log-likelihood, profiled over beta and sigma^2.

    log|V| + [log|X'V^-1 X|] + dof (1 + log(2 pi rss / dof)), the bracket for REML only.
    """
    found = levels.eliminate(lams)
    value, beta, phi, rss = profile_products(found.logdet, found.e, n, restricted)
    dof = n - len(beta) if restricted else n
    return LevelsCriterion(Criterion(value, found.logdet, beta, phi, rss, dof, restricted), found)


def score_levels(
    levels: Levels, lams: Sequence[Array], criterion: LevelsCriterion
) -> tuple[Array, ...]:
    """Return the derivatives (q_f, q_f) by lam_f of the profiled criterion."""
    return levels.slopes(lams, criterion.found, weigh_products(criterion.at))


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
