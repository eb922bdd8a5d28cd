"""Likelihood-ratio tests that random coefficients of a family do not vary over the groups."""

from collections.abc import Sequence
from dataclasses import replace

from bhlm.moments.patterns import Patterns
from bhlm.reml.family.estimate import FamilyEstimate, fit_patterns
from bhlm.reml.variance_tests import VarianceTest, check_coefficients, count_fixed, mix_chi_squares


def judge_variances(fit: FamilyEstimate, coefficients: str | Sequence[str]) -> VarianceTest:
    """Return the LR test that the named random coefficients do not vary.

    p is by the mixture of chi-squares of a variance on its boundary, which holds for many groups;
    of several coefficients the larger of its bounds. Source: Self & Liang (1987), J. Am. Stat.
    Assoc. 82, 605-610.

    Raises:
        ArgumentError: a coefficient that is not random.
    """
    dropped = check_coefficients(fit, coefficients)
    kept = tuple(name for name in fit.patterns.random if name not in dropped)
    below = fit.linear_loglik
    if kept:
        smaller = keep_coefficients(fit.patterns, kept)
        below = fit_patterns(smaller, covariance=fit.structure.name_override, nagq=fit.nagq).loglik
    chi2 = max(2.0 * (fit.loglik - below), 0.0)
    return mix_chi_squares(chi2, count_fixed(fit, dropped), dropped=dropped, method="ml")


def keep_coefficients(patterns: Patterns, kept: Sequence[str]) -> Patterns:
    """Return the patterns of a model with fewer random coefficients."""
    blocks = (tuple(name for name in block if name in kept) for block in patterns.blocks)
    left = tuple(block for block in blocks if block)
    design = replace(patterns.design, random=tuple(kept), blocks=left)
    return replace(patterns, design=design)
