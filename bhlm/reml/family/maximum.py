"""What fits of a family have in common, of a single factor and of several."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.linalg import block_diag

from bhlm.likelihood.crossed_families import WhitenedCross
from bhlm.likelihood.families import Family
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import Parameter, list_parameters
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns
from bhlm.reml.maximum import Part, double_rise
from bhlm.reml.rows import Row, list_fixed, list_variances, tabulate_rows, wald_test

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

LABEL = "Laplace approximation"


class FamilyMaximum(ABC):
    """A maximum of the likelihood of zeros and ones, proportions or counts, and what it says."""

    __slots__ = ()

    beta: Array  # (p,) fixed effects, on the link scale
    joint_cov: Array  # (p + m, p + m) of beta and the gs' free elements; nan where undefined
    loglik: float
    error: float | None  # of the log-likelihood; None where nobody knows it
    nagq: int | None
    linear_loglik: float  # of the model without random effects
    converged: bool
    singular: bool
    gradient: Array  # (p + c,) of the log-likelihood, whitened
    point: Array  # (p + c,) whitened fixed effects, and the whitened factors' coefficients
    information: Array  # (p + c, p + c) observed, by `point`
    white: WhitenedPatterns | WhitenedCross | WhitenedNest
    method: Literal["ml"]
    _kept: dict[str, Any]

    @property
    @abstractmethod
    def moments(self) -> Patterns | LevelPatterns:
        """The patterns, under the name that all fits have for what they were made from."""

    @property
    @abstractmethod
    def family(self) -> Family:
        """The family, with its link."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Part, ...]:
        """The random part of every grouping factor."""

    @property
    @abstractmethod
    def label(self) -> str:
        """What the likelihood is an approximation by; empty where its error is known."""

    @abstractmethod
    def predict_link(self) -> Array:
        """Return the linear predictor (I,) of every pattern at the effects of its units."""

    @abstractmethod
    def tell_singular(self) -> str:
        """Return which covariances have lost rank, and what to do, in one clause."""

    @property
    def beta_cov(self) -> Array:
        """The covariance (p, p) of the fixed effects."""
        p = len(self.beta)
        return np.asarray(self.joint_cov[:p, :p])

    @property
    def variance_cov(self) -> Array:
        """The covariance (m, m) of the free elements of all G; nan where undefined."""
        p = len(self.beta)
        return np.asarray(self.joint_cov[p:, p:])

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in the order of the tables."""
        structures = (part.structure for part in self.parts)
        return list_parameters(self.moments.fixed, *structures, residual=False)

    @property
    def n_components(self) -> int:
        """The free elements of G of all factors."""
        return sum(len(part.structure.labels) for part in self.parts)

    @property
    def components(self) -> Array:
        """The free elements (m,) of G of all factors, as `joint_cov` has them after beta."""
        return np.concatenate([part.structure.read(part.g) for part in self.parts])

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter on the link scale: `estimate, se, lower, upper`, and `statistic, df, p`.

        Standard errors are from the observed information, of the approximation where the fit is
        one; intervals are 95 % and tests by z, as of a Gaussian fit.
        """
        return tabulate_rows(self.parameter_rows)

    @property
    def parameter_rows(self) -> dict[str, Row]:
        """The rows of `estimates` by their parameters' names."""
        structures, gs = zip(*self.parts, strict=True)
        rows = [
            *list_fixed(self.beta, self.beta_cov),
            *list_variances(structures, gs, None, self.variance_cov),
        ]
        return dict(zip(map(str, self.parameters), rows, strict=True))

    @property
    def wald(self) -> dict[str, float]:
        """The Wald test that every fixed effect but the intercept is zero: chi2, df, p."""
        return wald_test(self.moments.fixed, self.beta, self.beta_cov)

    @property
    def lr_test(self) -> dict[str, float]:
        """The test against the model without random effects: chi2, df, p.

        One variance lies on its boundary under the null hypothesis, and p is by the even mixture of
        chi2(0) and chi2(1). Of several parameters the mixture is not known, and p by chi2(df) is
        conservative.
        """
        chi2, df = double_rise(self.loglik, self.linear_loglik), self.n_components
        p = float(chi_square_tail(chi2, df))
        if df == 1:
            p = 0.5 * p if chi2 > 0.0 else 1.0
        return {"chi2": chi2, "df": df, "p": p}

    @property
    def advice(self) -> str:
        """What to do about a fit that is singular or did not converge; empty if neither."""
        if not self.converged:
            gradient = np.max(np.abs(self.gradient))
            if np.isnan(gradient):
                return (
                    "the optimiser went to where means under- or overflow, as it does where the "
                    "data are separated; do not report these estimates, drop predictors or random "
                    "terms"
                )
            return (
                f"the optimiser did not reach a stationary point (gradient {gradient:.2g}); do "
                "not report these estimates, drop random terms or rare levels"
            )
        return self.tell_singular() if self.singular else ""


def assemble_covariance(fit: FamilyMaximum, components: Array) -> Array:
    """Return the covariance (Q, Q) of the random coefficients of all factors of a fit.

    Block by block, in the order of `moments.random`.

    Args:
        fit: of which the factors are.
        components: (m,) as its `components` has them.
    """
    blocks, start = [], 0
    for structure in (part.structure for part in fit.parts):
        stop = start + len(structure.labels)
        blocks.append(structure.assemble(components[start:stop]))
        start = stop
    return block_diag(*blocks)
