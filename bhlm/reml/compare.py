"""Comparison of fits: LR tests, information criteria, variance explained."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError, check_arguments
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import RESIDUAL, Parameter
from bhlm.likelihood.variance_shares import correlate_within, explain_variance
from bhlm.moments.moments import Moments, pool
from bhlm.reml.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Two engines sum the same rows in another order; a column of the same rows agrees to this share
# of its SD. In a column far from zero only this share of its size is left to compare.
SAME = 1e-8
DIGITS = 1e-13


@dataclass(frozen=True, slots=True)
class LrTest:
    """A likelihood-ratio test of nested fits, by the chi-square of `df`.

    Where the smaller model sets variances to zero they lie on the boundary, and p is
    conservative: `boundary` says so, and `note` what to do.
    """

    chi2: float
    df: int
    p: float
    boundary: bool

    @property
    def note(self) -> str:
        """What to know about p; empty if it holds as it stands."""
        if not self.boundary:
            return ""
        return (
            "the smaller model sets a variance to zero, on the boundary, so p is too large; "
            "fit.test_variances(coefficients) takes the distribution that holds there"
        )


def count_parameters(fit: Estimate) -> int:
    """Return fixed effects + free elements of G + 1, as lme4 and Stata count."""
    return len(fit.beta) + len(fit.structure.labels) + 1


@check_arguments
def compare_fits(*fits: Estimate) -> "pd.DataFrame":
    """Return one row per fit: `formula, method, parameters, loglik, deviance, aic, bic`.

    AIC = deviance + 2 k and BIC = deviance + k log n with the k of `count_parameters` and n
    rows, as lme4. Fits by REML are comparable in them only if they have the same fixed effects.

    Raises:
        ArgumentError: no fits, fits to different rows, REML and ML mixed, or REML fits with
            different fixed effects.
    """
    import pandas as pd

    if not fits:
        raise ArgumentError("there is nothing to compare; give at least one fit")
    for fit in fits:
        if not isinstance(fit, Estimate):
            raise ArgumentError(f"{fit!r} is not a REML or ML fit; give what model.reml() returns")
    for fit in fits[1:]:
        check_comparable(fits[0], fit)
    rows = []
    for fit in fits:
        k, deviance = count_parameters(fit), -2.0 * fit.loglik
        rows.append(
            {
                "formula": fit.moments.formula,
                "method": fit.method,
                "parameters": k,
                "loglik": fit.loglik,
                "deviance": deviance,
                "aic": deviance + 2.0 * k,
                "bic": deviance + k * np.log(fit.moments.n_rows),
            }
        )
    return pd.DataFrame(rows)


def check_comparable(one: Estimate, two: Estimate) -> None:
    """Raise `ArgumentError` unless the likelihoods of two fits can be compared."""
    a, b = one.moments, two.moments
    check_same_data(a, b)
    if one.method != two.method:
        raise ArgumentError(
            f"'{a.formula}' was fitted by {one.method} and '{b.formula}' by {two.method}; fit both "
            "by one method"
        )
    if one.method == "reml" and set(a.fixed) != set(b.fixed):
        raise ArgumentError(
            f"'{a.formula}' and '{b.formula}' differ in fixed effects, and their restricted "
            "likelihoods are of different contrasts of the data; fit both with method='ml'"
        )


def check_same_data(a: Moments, b: Moments) -> None:
    """Raise `ArgumentError` unless two models have the same response, rows and shared columns."""
    if a.response != b.response:
        raise ArgumentError(
            f"'{a.formula}' explains '{a.response}' and '{b.formula}' '{b.response}'; compare "
            "models of one response"
        )
    if (
        a.group != b.group
        or not np.array_equal(a.groups, b.groups)
        or not np.array_equal(a.n, b.n)
        or not _is_same_column(a, b, a.response)
    ):
        raise ArgumentError(
            f"'{a.formula}' and '{b.formula}' were fitted to different rows ({a.n_rows} and "
            f"{b.n_rows}); fit both to the same complete rows"
        )
    for name in a.columns:
        if name in b.columns and not _is_same_column(a, b, name):
            raise ArgumentError(
                f"'{name}' has other values in '{b.formula}' than in '{a.formula}'; fit both to "
                "the same table"
            )


def _is_same_column(a: Moments, b: Moments, name: str) -> bool:
    """Return whether a column has the same mean and variation in every group of both."""
    i, k = a.columns.index(name), b.columns.index(name)
    n, _, total = pool(a)
    sd = np.sqrt(total[i, i] / n)
    same_mean = np.abs(a.mean[:, i] - b.mean[:, k]) <= SAME * sd + DIGITS * np.abs(a.mean[:, i])
    same_squares = np.abs(a.cross[:, i, i] - b.cross[:, k, k]) <= SAME * a.n * sd**2
    return bool(np.all(same_mean & same_squares))


@check_arguments
def compare_nested(small: Estimate, large: Estimate) -> LrTest:
    """Return the LR test of a model within a larger one.

    The fixed and random columns of the smaller one are among the larger one's, by name, and its
    covariance structure is a special case of the larger one's.

    Raises:
        ArgumentError: fits that cannot be compared, or are not nested.
    """
    check_comparable(small, large)
    a, b = small.moments, large.moments
    df = count_parameters(large) - count_parameters(small)
    named = set(a.fixed) <= set(b.fixed) and set(a.random) <= set(b.random)
    if not named or df <= 0 or not _holds_structure(large.structure, b, small.structure, a):
        raise ArgumentError(
            f"'{a.formula}' ({small.structure.kind}) is not a special case of '{b.formula}' "
            f"({large.structure.kind}); give the smaller model first, or compare by AIC"
        )
    chi2 = max(2.0 * (large.loglik - small.loglik), 0.0)
    return LrTest(chi2, df, float(stats.chi2.sf(chi2, df)), set(a.random) != set(b.random))


def _holds_structure(large: Structure, b: Moments, small: Structure, a: Moments) -> bool:
    """Return whether every G of the smaller structure is one of the larger; zero elsewhere."""
    q = len(b.random)
    at = [b.random.index(name) for name in a.random]
    placed = np.zeros((len(small.directions), q, q))
    placed[np.ix_(range(len(placed)), at, at)] = small.directions
    span, wanted = large.directions.reshape(-1, q * q).T, placed.reshape(-1, q * q).T
    left = wanted - span @ np.linalg.lstsq(span, wanted, rcond=None)[0]
    return bool(np.max(np.abs(left)) < SAME)


@check_arguments
def intraclass_correlation(fit: Estimate) -> float:
    """Return the share of the variance that lies between groups, at the means of Z.

    With z the grand means of the random columns: z'Gz / (z'Gz + sigma^2); without slopes it is
    tau / (tau + sigma^2). Of a model without predictors it is the unconditional ICC. Source:
    Raudenbush & Bryk (2002), p. 71.
    """
    return float(correlate_within(fit.moments, fit.white, fit.as_draw())[0])


@check_arguments
def design_effect(fit: Estimate) -> float:
    """Return 1 + (mean group size - 1) x ICC (Kish 1965)."""
    return 1.0 + (fit.moments.n_rows / fit.moments.n_groups - 1.0) * intraclass_correlation(fit)


@check_arguments
def r_squared(fit: Estimate) -> dict[str, float]:
    """Return the marginal and conditional R2 of Nakagawa, Johnson & Schielzeth.

    With var_f the variance of X beta over the rows and var_r the mean over the rows of z'Gz:
    marginal var_f / (var_f + var_r + sigma^2), conditional (var_f + var_r) / the same. Source:
    Johnson (2014), Methods in Ecology and Evolution 5, 944-946, for random slopes.
    """
    marginal, conditional = explain_variance(fit.moments, fit.white, fit.as_draw())
    return {"marginal": float(marginal[0]), "conditional": float(conditional[0])}


@check_arguments
def variance_explained(fit: Estimate, base: Estimate) -> dict[str, float]:
    """Return R&B's proportional reduction of each variance component against a base model.

    (base - fit) / base for the residual variance and for each random coefficient that both
    have; negative values occur and mean that nothing was explained. Source: Raudenbush & Bryk
    (2002), pp. 74 and 79.

    Raises:
        ArgumentError: fits to different data.
    """
    check_same_data(base.moments, fit.moments)
    shares = {str(RESIDUAL): 1.0 - fit.sigma2 / base.sigma2}
    for k, name in enumerate(fit.moments.random):
        if name in base.moments.random:
            i = base.moments.random.index(name)
            before = base.g[i, i]
            share = float(1.0 - fit.g[k, k] / before) if before else np.nan
            shares[str(Parameter("var", name, group=fit.moments.group))] = share
    return shares
