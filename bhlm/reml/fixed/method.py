"""A way to judge fixed effects: what each file of this folder offers under its name."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.algebra import reduce_fixed, sum_squared
from bhlm.reml.fixed.wald import JointTest, check_contrasts, wald_test
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class FixedInference:
    """The covariance of the fixed effects by one method, and the df of its t statistics."""

    inner: Array  # (p, p) of beta~, of which beta is b + loadings beta~
    loadings: Array  # (p, p)
    df: Array  # (c,) of each contrast; infinite where the reference is the normal

    @property
    def cov(self) -> Array:
        """The covariance (p, p) of the fixed effects."""
        return np.asarray(self.loadings @ self.inner @ self.loadings.T)

    def standard_errors(self, contrasts: Array) -> Array:
        """Return the standard error of each row of `contrasts` (c, p).

        By way of beta~, since the covariance as given cancels in contrasts such as the fitted
        value at a covariate far from zero.
        """
        return np.sqrt(sum_squared(contrasts @ self.loadings, self.inner))


@dataclass(frozen=True, slots=True)
class Method:
    """One method: the covariance and df that it gives contrasts, and its joint test.

    Both take the fit and contrasts (c, p), the test also the hypothesised values (c,).
    """

    name: str
    infer: Callable[[Maximum, Array], FixedInference]
    test: Callable[[Maximum, Array, Array], JointTest]


def infer_plainly(fit: Maximum, df: Array) -> FixedInference:
    """Return the fit's own covariance of the fixed effects with df (c,) by whatever rule."""
    if fit.judged_by_z and isinstance(fit, Estimate | LevelsEstimate):
        loadings = fit.white.scale * fit.white.fixed
        back = np.linalg.inv(loadings)
        return FixedInference(back @ fit.beta_cov @ back.T, loadings, df)
    algebra = reduce_fixed(fit)
    return FixedInference(algebra.v * algebra.phi, algebra.loadings, df)


def _infer(fit: Maximum, contrasts: Array) -> FixedInference:
    return infer_plainly(fit, np.full(len(check_contrasts(contrasts, len(fit.beta))), np.inf))


def _test(fit: Maximum, contrasts: Array, values: Array) -> JointTest:
    plain = _infer(fit, contrasts)
    return wald_test(
        fit.beta, plain.inner, contrasts=contrasts, values=values, loadings=plain.loadings
    )


NORMAL = Method("z", _infer, _test)
