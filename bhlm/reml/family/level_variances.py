"""Likelihood-ratio tests that random coefficients of one of several factors do not vary."""

from collections.abc import Sequence
from dataclasses import replace

from bhlm.layout import show_name
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.reml.family.levels import FamilyLevelsEstimate, fit_level_patterns
from bhlm.reml.level_variance_tests import find_tested
from bhlm.reml.variance_tests import VarianceTest, check_named, count_out, mix_chi_squares


def judge_level_variances(
    fit: FamilyLevelsEstimate,
    coefficients: str | Sequence[str] | None = None,
    *,
    factor: str | None = None,
) -> VarianceTest:
    """Return the LR test that the named random coefficients of a factor do not vary.

    Both log-likelihoods are by Laplace's approximation. p is by the mixture of chi-squares of a
    variance on its boundary, which holds for many units; of several coefficients the larger of its
    bounds. Source: Self & Liang (1987), J. Am. Stat. Assoc. 82, 605-610.

    Raises:
        ArgumentError: a coefficient that is not random, or that several factors have; a factor
            that is none.
    """
    at = find_tested(fit, coefficients, factor)
    structure = fit.structures[at]
    asked = structure.names if coefficients is None else coefficients
    dropped = check_named(structure, asked, fit.patterns.formula)
    smaller = keep_coefficients(fit.patterns, at, dropped)
    below = fit_level_patterns(smaller, covariance=structure.name_override).loglik
    chi2 = max(2.0 * (fit.loglik - below), 0.0)
    found = mix_chi_squares(chi2, count_out(structure, dropped), dropped=dropped, method="ml")
    return replace(found, over=f"'{show_name(structure.group)}'")


def keep_coefficients(patterns: LevelPatterns, at: int, dropped: Sequence[str]) -> LevelPatterns:
    """Return the patterns of a model without some random coefficients of a factor."""
    factors, labels = list(patterns.factors), list(patterns.labels)
    blocks = (tuple(n for n in block if n not in dropped) for block in factors[at].blocks)
    left = tuple(block for block in blocks if block)
    if left:
        factors[at] = replace(factors[at], blocks=left)
    else:
        del factors[at], labels[at]
    design = replace(patterns.design, factors=tuple(factors))
    return replace(patterns, design=design, labels=tuple(labels))
