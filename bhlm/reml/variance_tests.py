"""Tests of variance components: likelihood ratios on the boundary, and HLM's chi-square."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError
from bhlm.likelihood.effects import regress_groups
from bhlm.likelihood.whitening import group_ranks
from bhlm.reml.estimate import Estimate, fit_moments
from bhlm.reml.fixed.hlm_df import assign_equations

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Twice a difference of log-likelihoods below this is zero, rounded.
NOTHING = 1e-8


@dataclass(frozen=True, slots=True)
class MixtureTest:
    """A likelihood-ratio test whose reference is a mixture of chi-squares."""

    chi2: float
    df: tuple[int, ...]  # of the chi-squares that are mixed; 0 is a point at zero
    weights: tuple[float, ...]
    p: float
    naive_p: float  # by the chi-square of the largest df, which is conservative
    dropped: tuple[str, ...]  # the random coefficients that the null hypothesis leaves out


def lr_test_coefficient(fit: Estimate, coefficient: str) -> MixtureTest:
    """Return the test that one random coefficient has no variance, hence no covariances.

    The model is refitted without it, by the method of `fit`. The variance lies on its boundary
    and the r covariances that go with it do not, so that twice the difference of the
    log-likelihoods is a mixture, in halves, of chi-squares with r and r + 1 degrees of freedom.
    Source: Stram & Lee (1994), Biometrics 50, 1171-1177, case 3; Self & Liang (1987), JASA 82,
    605-610.

    Raises:
        ArgumentError: not one of the random coefficients, or the structure shares its variance
            among several.
    """
    random = fit.moments.random
    if coefficient not in random:
        raise ArgumentError(
            f"'{coefficient}' is not a random coefficient of '{fit.moments.formula}'; choose one "
            f"of {', '.join(random)}"
        )
    if fit.structure.shares_variance:
        raise ArgumentError(
            f"the {fit.structure.kind} structure shares one variance among {', '.join(random)}, so "
            f"'{coefficient}' has none of its own to test; fit it as unstructured or independent"
        )
    at = random.index(coefficient)
    covariances = sum(i != j and at in (i, j) for i, j in fit.structure.labels)
    null = _loglik_without(fit, coefficient)
    return mix_chi_squares(
        2.0 * (fit.loglik - null),
        (covariances, covariances + 1),
        weights=(0.5, 0.5),
        dropped=(coefficient,),
    )


def mix_chi_squares(
    chi2: float, df: tuple[int, ...], *, weights: tuple[float, ...], dropped: tuple[str, ...]
) -> MixtureTest:
    """Return the test of `chi2` against the mixture of chi-squares with `df` and `weights`.

    Two fits of the same maximum differ by rounding; what that leaves of `chi2` is zero.
    """
    chi2 = chi2 if chi2 > NOTHING else 0.0
    p = sum(
        weight * (stats.chi2.sf(chi2, count) if count else float(chi2 <= 0.0))
        for weight, count in zip(weights, df, strict=True)
    )
    return MixtureTest(chi2, df, weights, float(p), float(stats.chi2.sf(chi2, max(df))), dropped)


def hlm_chi_square(fit: Estimate) -> "pd.DataFrame":
    """Return HLM's chi-square test of each random coefficient's variance.

    Rows are the random coefficients; columns `chi2, df, p, groups`. With u_j the least-squares
    coefficients of group j on Z_j, of what the fixed effects leave, and v_qqj their sampling
    variance, chi2 = sum_j u_qj^2 / v_qqj over the groups whose Z_j has full rank, `groups` of
    them; df = groups - S_q - 1, with S_q the predictors in the coefficient's equation (see
    `bhlm.reml.fixed.hlm_df`). Source: Raudenbush & Bryk (2002), eq. 3.103.

    Raises:
        ArgumentError: no group has a Z_j of full rank, or too few have.
    """
    import pandas as pd

    q = fit.white.q
    full = group_ranks(fit.moments) == q
    groups = int(full.sum())
    equations = assign_equations(fit.moments)
    df = np.array([groups - equations.count(i) for i in range(q)])
    if df.min() < 1:
        raise ArgumentError(
            f"only {groups} of {len(full)} '{fit.moments.group}' have as many independent rows as "
            f"the {q} random coefficients, too few for HLM's chi-square; use the "
            "likelihood-ratio test"
        )
    u, v = regress_groups(fit.white, full, beta=fit.beta, sigma2=fit.sigma2)
    chi2 = (u**2 / v).sum(axis=0)
    return pd.DataFrame(
        {"chi2": chi2, "df": df, "p": stats.chi2.sf(chi2, df), "groups": groups},
        index=pd.Index(fit.moments.random, name="coefficient"),
    )


def _loglik_without(fit: Estimate, coefficient: str) -> float:
    """Return the log-likelihood of the model without one random coefficient."""
    moments = fit.moments
    kept = tuple(name for name in moments.random if name != coefficient)
    if not kept:
        return fit.linear_loglik
    blocks = tuple(
        left for block in moments.blocks if (left := tuple(n for n in block if n != coefficient))
    )
    reduced = replace(moments, random=kept, blocks=blocks)
    covariance = fit.structure.name_override
    return fit_moments(reduced, method=fit.method, covariance=covariance).loglik
