"""Comparison of fits: LR tests, information criteria, variance explained."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError, check_arguments, show_value
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.parameters import RESIDUAL, Parameter
from bhlm.likelihood.variance_shares import (
    correlate_within,
    explain_variance,
    spread_fixed,
    spread_rows,
)
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import Moments, pool
from bhlm.reml.family.compare import check_families
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.group_algebra import expect_one
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum, Part, require_plain

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


type Comparable = Maximum | FamilyMaximum  # what has a likelihood to compare


def count_parameters(fit: Comparable) -> int:
    """Return fixed effects + free elements of G, + 1 of a residual variance, as lme4 and Stata."""
    return len(fit.beta) + fit.n_components + isinstance(fit, Maximum)


@check_arguments
def compare_fits(*fits: Comparable) -> "pd.DataFrame":
    """Return one row per fit: `formula, method, parameters, loglik, deviance, aic, bic`.

    AIC = deviance + 2 k and BIC = deviance + k log n with the k of `count_parameters` and n
    rows, as lme4. Fits by REML are comparable in them only if they have the same fixed effects, and
    those of zeros and ones, proportions or counts only if they are of one family and link; where
    their likelihood is an approximation, `method` says which.

    Raises:
        ArgumentError: no fits, fits to different rows, REML and ML mixed, REML fits with different
            fixed effects, families or links mixed, or exact likelihoods and approximate ones.
    """
    import pandas as pd

    if not fits:
        raise ArgumentError("there is nothing to compare; give at least one fit")
    for fit in fits:
        if not isinstance(fit, Maximum | FamilyMaximum):
            raise ArgumentError(
                f"{show_value(fit)} is not a REML or ML fit; give what model.reml() returns"
            )
        _require_likelihood(fit)
    for fit in fits[1:]:
        check_comparable(fits[0], fit)
    rows = []
    for fit in fits:
        k, deviance = count_parameters(fit), -2.0 * fit.loglik
        rows.append(
            {
                "formula": fit.moments.formula,
                "method": name_method(fit),
                "parameters": k,
                "loglik": fit.loglik,
                "deviance": deviance,
                "aic": deviance + 2.0 * k,
                "bic": deviance + k * np.log(fit.moments.n_rows),
            }
        )
    return pd.DataFrame(rows)


def name_method(fit: Comparable) -> str:
    """Return "reml" or "ml", and by what a likelihood of a family is approximated."""
    label = fit.label if isinstance(fit, FamilyMaximum) else ""
    return f"{fit.method}, {label}" if label else fit.method


def _require_likelihood(fit: Comparable) -> None:
    if isinstance(fit, Maximum):
        require_plain(fit, "a comparison of likelihoods")


def check_comparable(one: Comparable, two: Comparable) -> None:
    """Raise `ArgumentError` unless the likelihoods of two fits can be compared."""
    if isinstance(one, FamilyMaximum) or isinstance(two, FamilyMaximum):
        check_families(one, two)
        return
    a, b = one.moments, two.moments
    check_same_data(a, b)
    if a.weights != b.weights:
        raise ArgumentError(
            f"'{a.formula}' was fitted with {a.weights or 'no weights'} and '{b.formula}' with "
            f"{b.weights or 'none'}; fit both with one weights="
        )
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


def check_same_data(a: Moments | CellMoments, b: Moments | CellMoments) -> None:
    """Raise `ArgumentError` unless two models have the same response, rows and shared columns."""
    if a.response != b.response:
        raise ArgumentError(
            f"'{a.formula}' explains '{a.response}' and '{b.formula}' '{b.response}'; compare "
            "models of one response"
        )
    if not _has_same_rows(a, b):
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


def _has_same_rows(a: Moments | CellMoments, b: Moments | CellMoments) -> bool:
    """Return whether two models have the same rows, as far as their moments tell.

    Group by group where both have one factor, the same; else by the totals over all rows.
    """
    if a.n_rows != b.n_rows or not _is_same_column(a, b, a.response):
        return False
    if isinstance(a, CellMoments) or isinstance(b, CellMoments):
        return True
    alike = a.group == b.group and np.array_equal(a.groups, b.groups)
    return alike and np.array_equal(a.n, b.n)


def _is_same_column(a: Moments | CellMoments, b: Moments | CellMoments, name: str) -> bool:
    """Return whether a column has the same mean and variation in every group of both.

    Over all rows where one of them has several factors.
    """
    i, k = a.columns.index(name), b.columns.index(name)
    n, _, total = pool(a)
    sd = np.sqrt(total[i, i] / n)
    if isinstance(a, CellMoments) or isinstance(b, CellMoments):
        (_, one, squares), (_, two, others) = pool(a), pool(b)
        near = abs(one[i] - two[k]) <= SAME * sd + DIGITS * abs(one[i])
        return bool(near and abs(squares[i, i] - others[k, k]) <= SAME * n * sd**2)
    if len(a.n) != len(b.n):
        return False
    same_mean = np.abs(a.mean[:, i] - b.mean[:, k]) <= SAME * sd + DIGITS * np.abs(a.mean[:, i])
    same_squares = np.abs(a.cross[:, i, i] - b.cross[:, k, k]) <= SAME * a.mass * sd**2
    return bool(np.all(same_mean & same_squares))


@check_arguments
def compare_nested(small: Comparable, large: Comparable) -> LrTest:
    """Return the LR test of a model within a larger one.

    The fixed and random columns of the smaller one are among the larger one's, by name, and its
    covariance structure is a special case of the larger one's.

    Raises:
        ArgumentError: fits that cannot be compared, or are not nested.
    """
    _require_likelihood(large)
    check_comparable(small, large)
    a, b = small.moments, large.moments
    df = count_parameters(large) - count_parameters(small)
    wider = {part.structure.group: part.structure for part in large.parts}
    held = all(
        part.structure.group in wider
        and _holds_structure(wider[part.structure.group], part.structure)
        for part in small.parts
    )
    if not set(a.fixed) <= set(b.fixed) or df <= 0 or not held:
        raise ArgumentError(
            f"'{a.formula}' ({_name_kinds(small)}) is not a special case of '{b.formula}' "
            f"({_name_kinds(large)}); give the smaller model first, or compare by AIC"
        )
    chi2 = max(2.0 * (large.loglik - small.loglik), 0.0)
    fewer = sum(part.structure.q for part in small.parts) < sum(
        part.structure.q for part in large.parts
    )
    return LrTest(chi2, df, float(chi_square_tail(chi2, df)), fewer)


def _name_kinds(fit: Comparable) -> str:
    """Return the structures' kinds, each once."""
    return ", ".join(dict.fromkeys(part.structure.kind for part in fit.parts))


def _holds_structure(large: Structure, small: Structure) -> bool:
    """Return whether every G of the smaller structure is one of the larger; zero elsewhere."""
    q = large.q
    if not set(small.names) <= set(large.names):
        return False
    at = [large.names.index(name) for name in small.names]
    placed = np.zeros((len(small.directions), q, q))
    placed[np.ix_(range(len(placed)), at, at)] = small.directions
    span, wanted = large.directions.reshape(-1, q * q).T, placed.reshape(-1, q * q).T
    left = wanted - span @ np.linalg.lstsq(span, wanted, rcond=None)[0]
    return bool(np.max(np.abs(left)) < SAME)


@check_arguments
def intraclass_correlation(fit: Maximum) -> float:
    """Return the share of the variance that lies between groups, at the means of Z.

    With z the grand means of the random columns: z'Gz / (z'Gz + sigma^2); without slopes it is
    tau / (tau + sigma^2). Of a model without predictors it is the unconditional ICC. Source:
    Raudenbush & Bryk (2002), p. 71.

    Raises:
        ArgumentError: several grouping factors, each of which has one; `fit.icc()` lists them.
    """
    one = expect_one(fit, "one ICC (fit.icc() lists one for each factor)")
    return float(correlate_within(one.moments, one.white, one.as_draw())[0])


@check_arguments
def design_effect(fit: Maximum) -> float:
    """Return 1 + (mean group size - 1) x ICC (Kish 1965)."""
    one = expect_one(fit, "the design effect")
    return 1.0 + (one.moments.n_rows / one.moments.n_groups - 1.0) * intraclass_correlation(one)


@check_arguments
def level_design_effect(fit: LevelsEstimate, factor: str | None = None) -> float:
    """Return 1 + (mean size of a factor's units - 1) x the correlation of two rows of a unit.

    The correlation is that of `LevelsEstimate.icc`. None is the factor with the fewest units.
    Source: Kish (1965).

    Raises:
        ArgumentError: it is not a factor of the model; a fit with weights.
    """
    counts = fit.moments.groups
    name = min(counts, key=counts.__getitem__) if factor is None else factor
    fit.find_factor(name)
    size = fit.moments.n_rows / counts[name]
    return 1.0 + (size - 1.0) * float(fit.icc().loc[name, "icc"])


@check_arguments
def r_squared(fit: Maximum) -> dict[str, float]:
    """Return the marginal and conditional R2 of Nakagawa, Johnson & Schielzeth.

    With var_f the variance of X beta over the rows and var_r the mean over the rows of z'Gz:
    marginal var_f / (var_f + var_r + sigma^2), conditional (var_f + var_r) / the same. Source:
    Johnson (2014), Methods in Ecology and Evolution 5, 944-946, for random slopes.
    """
    if isinstance(fit, LevelsEstimate):
        return _share_levels(fit)
    one = expect_one(fit)
    marginal, conditional = explain_variance(one.moments, one.white, one.as_draw())
    return {"marginal": float(marginal[0]), "conditional": float(conditional[0])}


@check_arguments
def variance_explained(fit: Maximum, base: Maximum) -> dict[str, float]:
    """Return R&B's proportional reduction of each variance component against a base model.

    (base - fit) / base for the residual variance and for each random coefficient that both
    have; negative values occur and mean that nothing was explained. Source: Raudenbush & Bryk
    (2002), pp. 74 and 79.

    Raises:
        ArgumentError: fits to different data.
    """
    check_same_data(base.moments, fit.moments)
    shares = {str(RESIDUAL): 1.0 - fit.sigma2 / base.sigma2}
    before = {part.structure.group: part for part in base.parts}
    for part in fit.parts:
        other = before.get(part.structure.group)
        if other is not None:
            shares |= _reduce_variances(part, other)
    return shares


def _reduce_variances(part: Part, base: Part) -> dict[str, float]:
    """Return 1 - variance / base of each random coefficient of one factor that both have."""
    shares = {}
    for k, name in enumerate(part.structure.names):
        if name in base.structure.names:
            i = base.structure.names.index(name)
            before = base.g[i, i]
            share = float(1.0 - part.g[k, k] / before) if before else np.nan
            shares[str(Parameter("var", name, group=part.structure.group))] = share
    return shares


def share_variance(fit: Maximum) -> dict[str, float]:
    """Return the shares of the variance: of the fixed effects, each factor, the residual.

    As `r_squared` counts them: the variance of X beta over the rows, the mean over the rows of
    z'Gz of each factor, and sigma^2, over their sum.
    """
    if isinstance(fit, LevelsEstimate):
        fixed, random = _measure_levels(fit)
        names = [part.structure.group for part in fit.parts]
        whole = fixed + sum(random) + fit.sigma2
        parts = dict(zip(names, random, strict=True))
        found = {"Fixed effects": fixed, **parts, "Residual": fit.sigma2}
        return {name: value / whole for name, value in found.items()}
    shares = r_squared(fit)
    return {
        "Fixed effects": shares["marginal"],
        str(fit.parts[0].structure.group): shares["conditional"] - shares["marginal"],
        "Residual": 1.0 - shares["conditional"],
    }


def _measure_levels(fit: LevelsEstimate) -> tuple[float, list[float]]:
    """Return the variance of X beta over the rows, and of each factor the mean of z'Gz."""
    sigma2, random = np.array([fit.sigma2]), []
    for k in range(len(fit.lams)):
        alone = [(lam if i == k else np.zeros_like(lam))[None] for i, lam in enumerate(fit.lams)]
        random.append(float(spread_rows(fit.white, alone, sigma2)[0]))
    return float(spread_fixed(fit.moments, fit.beta[None])[0]), random


def _share_levels(fit: LevelsEstimate) -> dict[str, float]:
    """Return the R2 of several factors: the mean over rows of z'Gz is added up over them."""
    lams = [lam[None] for lam in fit.lams]
    random = float(spread_rows(fit.white, lams, np.array([fit.sigma2]))[0])
    fixed = float(spread_fixed(fit.moments, fit.beta[None])[0])
    whole = fixed + random + fit.sigma2
    return {"marginal": fixed / whole, "conditional": (fixed + random) / whole}
