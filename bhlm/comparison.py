"""Comparison of fits: LR tests, information criteria, variance explained."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError
from bhlm.moments import INTERCEPT, Moments
from bhlm.reml import RemlFit

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class LrTest:
    """A likelihood-ratio test of nested fits, by the chi-square of `df`.

    Where the smaller model sets variances to zero they lie on the boundary, and p is
    conservative: `boundary` says so.
    """

    chi2: float
    df: int
    p: float
    boundary: bool


def count_parameters(fit: RemlFit) -> int:
    """Return fixed effects + free elements of G + 1, as lme4 and Stata count."""
    return len(fit.beta) + len(fit.structure.labels) + 1


def compare_fits(*fits: RemlFit) -> "pd.DataFrame":
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


def check_comparable(one: RemlFit, two: RemlFit) -> None:
    """Raise `ArgumentError` unless the likelihoods of two fits can be compared."""
    a, b = one.moments, two.moments
    same_rows = (
        a.response == b.response
        and np.array_equal(a.groups, b.groups)
        and np.array_equal(a.n, b.n)
        and np.allclose(a.mean[:, -1], b.mean[:, -1], rtol=1e-12, atol=0.0)
    )
    if not same_rows:
        raise ArgumentError(
            f"'{a.formula}' and '{b.formula}' were fitted to different rows ({a.n_rows} and "
            f"{b.n_rows}); fit both to the same complete rows"
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


def compare_nested(small: RemlFit, large: RemlFit) -> LrTest:
    """Return the LR test of a model within a larger one.

    Raises:
        ArgumentError: fits that cannot be compared, or are not nested.
    """
    check_comparable(small, large)
    a, b = small.moments, large.moments
    df = count_parameters(large) - count_parameters(small)
    nested = set(a.fixed) <= set(b.fixed) and set(a.random) <= set(b.random)
    if not nested or df <= 0:
        raise ArgumentError(
            f"'{a.formula}' is not a special case of '{b.formula}'; give the smaller model first, "
            "or compare by AIC"
        )
    chi2 = max(2.0 * (large.loglik - small.loglik), 0.0)
    boundary = len(large.structure.labels) > len(small.structure.labels)
    return LrTest(chi2, df, float(stats.chi2.sf(chi2, df)), boundary)


def intraclass_correlation(fit: RemlFit) -> float:
    """Return the share of the variance that lies between groups, at the means of Z.

    With z the grand means of the random columns: z'Gz / (z'Gz + sigma^2); without slopes it is
    tau / (tau + sigma^2).
    """
    z = _random_means(fit.moments)
    between = float(z @ fit.g @ z)
    return between / (between + fit.sigma2)


def design_effect(fit: RemlFit) -> float:
    """Return 1 + (mean group size - 1) x ICC (Kish 1965)."""
    return 1.0 + (fit.moments.n_rows / fit.moments.n_groups - 1.0) * intraclass_correlation(fit)


def r_squared(fit: RemlFit) -> dict[str, float]:
    """Return the marginal and conditional R2 of Nakagawa, Johnson & Schielzeth.

    With var_f the variance of X beta over the rows and var_r the mean over the rows of z'Gz:
    marginal var_f / (var_f + var_r + sigma^2), conditional (var_f + var_r) / the same. Source:
    Johnson (2014), Methods in Ecology and Evolution 5, 944-946, for random slopes.
    """
    moments = fit.moments
    n = moments.n.sum()
    grand = moments.n @ moments.mean / n
    between = moments.mean - grand
    total = moments.cross.sum(axis=0) + (moments.n[:, None] * between).T @ between
    place = {name: i for i, name in enumerate(moments.columns)}
    weights = np.zeros(len(moments.columns))
    for name, b in zip(moments.fixed, fit.beta, strict=True):
        if name != INTERCEPT:
            weights[place[name]] += b
    fixed = float(weights @ total @ weights) / (n - 1.0)
    z = _random_means(moments)
    square = np.outer(z, z)
    at = [(k, place[name]) for k, name in enumerate(moments.random) if name != INTERCEPT]
    for k, i in at:
        for m, j in at:
            square[k, m] += total[i, j] / n
    random = float(np.sum(fit.g * square))
    whole = fixed + random + fit.sigma2
    return {"marginal": fixed / whole, "conditional": (fixed + random) / whole}


def variance_explained(fit: RemlFit, base: RemlFit) -> dict[str, float]:
    """Return R&B's proportional reduction of each variance component against a base model.

    (base - fit) / base for the residual variance and for each random coefficient that both
    have; negative values occur and mean that nothing was explained. Source: Raudenbush & Bryk
    (2002), pp. 74 and 79.

    Raises:
        ArgumentError: fits to different rows.
    """
    if fit.moments.n_rows != base.moments.n_rows or fit.moments.n_groups != base.moments.n_groups:
        raise ArgumentError(
            f"the base model has {base.moments.n_rows} rows and this one {fit.moments.n_rows}; fit "
            "both to the same complete rows"
        )
    group = fit.moments.group
    shares = {"var(Residual)": 1.0 - fit.sigma2 / base.sigma2}
    for k, name in enumerate(fit.moments.random):
        if name in base.moments.random:
            before = base.g[base.moments.random.index(name), base.moments.random.index(name)]
            shares[f"var({name}|{group})"] = float(1.0 - fit.g[k, k] / before) if before else np.nan
    return shares


def _random_means(moments: Moments) -> Array:
    grand = moments.n @ moments.mean / moments.n.sum()
    mean = {INTERCEPT: 1.0} | dict(zip(moments.columns, grand.tolist(), strict=True))
    return np.array([mean[name] for name in moments.random])
