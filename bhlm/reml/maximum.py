"""What fits by REML and ML have in common, of a single factor and of several."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from bhlm.design.formula.weights import Weights, refuse_weights
from bhlm.errors import ArgumentError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.parameters import Parameter, list_parameters
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import Moments
from bhlm.reml.rows import Row, list_fixed, list_variances, tabulate_rows, wald_test

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Twice a difference of log-likelihoods below this is zero, rounded.
NOTHING = 1e-8


class Part(NamedTuple):
    """The random part of a single factor."""

    structure: Structure
    g: Array  # (q, q) covariance of its random coefficients


class Maximum(ABC):
    """A maximum of the restricted or full likelihood, and what is read straight off it."""

    __slots__ = ()

    moments: Moments | CellMoments
    method: Literal["reml", "ml"]
    beta: Array  # (p,) fixed effects
    beta_cov: Array  # (p, p)
    sigma2: float
    variance_cov: Array  # (m + 1, m + 1) of all free elements of G and sigma2; nan where undefined
    loglik: float
    linear_loglik: float  # of the model without random effects
    converged: bool
    singular: bool
    theta: Array  # (c,)
    white: Whitened | WhitenedCells
    _kept: dict[str, Any]

    @property
    def weights(self) -> Weights | None:
        """What the weights of rows and groups mean; None of a fit without."""
        return self.moments.design.formula.weights

    @property
    def errors(self) -> str:
        """How standard errors were computed: "model", or one of `sandwich.CONVENTIONS`."""
        return "model"

    @property
    def judged_by_z(self) -> bool:
        """Whether fixed effects are tested by z alone: by scores, under a survey's weights, or with
        sigma held.
        """
        weights = self.weights
        apart = weights is not None and (weights.holds_sigma or weights.is_sampling)
        return apart or self.errors != "model"

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The random part of every grouping factor."""

    @property
    @abstractmethod
    def advice(self) -> str:
        """What to do about a fit that is singular or did not converge; empty if neither."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in the order of the tables."""
        return list_parameters(self.moments.fixed, *(part.structure for part in self.parts))

    @property
    def n_components(self) -> int:
        """The free elements of G of all factors, without the residual variance."""
        return sum(len(part.structure.labels) for part in self.parts)

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `estimate, se, lower, upper`, for fixed effects `statistic, df, p`.

        Intervals are 95 %: normal for fixed effects and covariances, on the log scale for
        variances and SDs, on Fisher's z scale for correlations, as Stata's `mixed`. Tests
        of fixed effects are by z, whose df are infinite; `fixed_effects()` has t tests, which
        matter where groups are few.
        """
        return tabulate_rows(self.parameter_rows)

    @property
    def parameter_rows(self) -> dict[str, Row]:
        """The rows of `estimates` by their parameters' names."""
        if "rows" not in self._kept:
            structures, gs = zip(*self.parts, strict=True)
            rows = [
                *list_fixed(self.beta, self.beta_cov),
                *list_variances(structures, gs, self.sigma2, self.variance_cov),
            ]
            self._kept["rows"] = dict(zip(map(str, self.parameters), rows, strict=True))
        found: dict[str, Row] = self._kept["rows"]
        return found

    @property
    def wald(self) -> dict[str, float]:
        """The Wald test that every fixed effect but the intercept is zero: chi2, df, p."""
        return wald_test(self.moments.fixed, self.beta, self.beta_cov)

    @property
    def lr_test(self) -> dict[str, float]:
        """The test against linear regression: chi2, df, p, with p from the naive chi-square.

        The variances lie on the boundary under the null hypothesis, so that p is conservative. A
        ratio of pseudo-likelihoods has no such distribution, and nan stands in its place.
        """
        df = self.n_components
        if self.weights is not None and self.weights.is_sampling:
            return {"chi2": np.nan, "df": df, "p": np.nan}
        chi2 = double_rise(self.loglik, self.linear_loglik)
        return {"chi2": chi2, "df": df, "p": float(chi_square_tail(chi2, df))}


def double_rise(loglik: float, below: float) -> float:
    """Return twice what a log-likelihood is above that of a smaller model, without rounding."""
    chi2 = 2.0 * (loglik - below)
    return chi2 if chi2 > NOTHING else 0.0


def require_plain(fit: Maximum, what: str) -> None:
    """Raise `ArgumentError` where what is asked for needs a likelihood with an unknown sigma.

    The pseudo-likelihood of sampling weights is none, and with known variances sigma is held.
    """
    weights = fit.weights
    if weights is not None and (weights.is_sampling or weights.holds_sigma):
        raise refuse_weights(weights, what)


def require_likelihood(fit: Maximum, what: str) -> None:
    """Raise `ArgumentError` where what is asked for needs a likelihood of the rows."""
    if fit.weights is not None and fit.weights.is_sampling:
        raise refuse_weights(fit.weights, what)


def require_unweighted(fit: Maximum, what: str) -> None:
    """Raise `ArgumentError` where what is asked for knows no weights of several factors."""
    if fit.weights is not None:
        raise ArgumentError(
            f"{what} of several grouping factors is not there yet with {fit.weights.sentence}; "
            "there are estimates, summary() and fixed_effects(method='z')"
        )


def check_converged(fit: Maximum, what: str) -> None:
    """Raise `ArgumentError`, with the fit's own advice, where what is asked for needs a maximum."""
    if not fit.converged:
        raise ArgumentError(f"{what} needs a maximum, and the fit has none: {fit.advice}")
