"""A fit -> the cross-products of each group that its inference is made of.

With W_j = [Z_j X_j e_j], e_j = y_j - X_j beta, and H_j = I + Z_j Psi Z_j', Woodbury gives
W'H^-1 W = W'W - W'Z M Z'W, M = lam K^-1 lam', and one more factor H^-1 takes away
(W'H^-d Z) M Z'W. Everything stands in the whitened columns, where the scale is s.
"""

from dataclasses import dataclass

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.whitening import whiten_parameters
from bhlm.reml.estimate import Estimate
from bhlm.reml.maximum import Maximum

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class GroupAlgebra:
    """The whitened cross-products of [Z X e] in each of J groups, at a fit's estimates."""

    n: Array  # (J,) rows
    q: int
    p: int
    lam: Array  # (q, q) relative covariance factor
    v: float  # residual variance
    plain: Array  # (J, k, k) W'W, k = q + p + 1
    inverse: Array  # (J, k, k) W'H^-1 W
    shrink: Array  # (J, q, k) M Z'W
    phi: Array  # (p, p) inverse of sum_j X'H^-1 X; the covariance of beta is v phi
    loadings: Array  # (p, p) s A: beta = b + loadings beta~, so l'beta varies as (l'loadings) beta~

    @property
    def f(self) -> Array:
        """Z'H^-1 Z (J, q, q)."""
        return self.inverse[:, : self.q, : self.q]

    @property
    def u(self) -> Array:
        """Z'H^-1 X (J, q, p)."""
        return self.inverse[:, : self.q, self.q : -1]

    def weigh_again(self, product: Array) -> Array:
        """Return W'H^-(d+1) W (J, k, k) from W'H^-d W."""
        return np.asarray(product - product[:, :, : self.q] @ self.shrink)


def reduce_groups(fit: Maximum) -> GroupAlgebra:
    """Return the cross-products of each group at the estimates of `fit`, of a single factor."""
    fit = expect_one(fit)
    white = fit.white
    q, p = white.q, white.p
    beta, lam, sigma = whiten_parameters(white, fit.beta, fit.root, np.sqrt(fit.sigma2))
    turn = np.eye(q + p + 1)
    turn[q:-1, -1] = -beta
    plain = turn.T @ white.blocks @ turn
    inner = np.eye(q) + lam.T @ plain[:, :q, :q] @ lam
    shrink = lam @ np.linalg.solve(inner, lam.T @ plain[:, :q])
    inverse = plain - plain[:, :, :q] @ shrink
    return GroupAlgebra(
        n=fit.moments.n,
        q=q,
        p=p,
        lam=lam,
        v=float(sigma) ** 2,
        plain=plain,
        inverse=inverse,
        shrink=shrink,
        phi=np.linalg.inv(inverse[:, q:-1, q:-1].sum(axis=0)),
        loadings=white.scale * white.fixed,
    )


def expect_one(fit: Maximum, what: str = "this") -> Estimate:
    """Return a fit of a single factor as such.

    Raises:
        ArgumentError: it has several.
    """
    if not isinstance(fit, Estimate):
        raise ArgumentError(
            f"{what} is defined for a single factor, and '{fit.moments.formula}' has "
            f"{len(fit.parts)}"
        )
    return fit
