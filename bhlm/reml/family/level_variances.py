"""Likelihood-ratio tests that random coefficients of one of several factors do not vary."""

from collections.abc import Sequence
from dataclasses import replace

from bhlm.layout import show_name
from bhlm.likelihood.covariance import combine
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.reml.family.levels import FamilyLevelsEstimate, fit_level_patterns
from bhlm.reml.family.nested import maximize_without
from bhlm.reml.level_variance_tests import find_tested
from bhlm.reml.variance_tests import VarianceTest, check_named, count_out, mix_chi_squares


def judge_level_variances(
    fit: FamilyLevelsEstimate,
    coefficients: str | Sequence[str] | None = None,
    *,
    factor: str | None = None,
) -> VarianceTest:
    """Return the LR test that the named random coefficients of a factor do not vary.

    Both log-likelihoods are by Laplace's approximation where the fit's is. p is by the mixture of
    chi-squares of a variance on its boundary, which holds for many units; of several coefficients
    the larger of its bounds. Source: Self & Liang (1987), J. Am. Stat. Assoc. 82, 605-610.

    Raises:
        ArgumentError: a coefficient that is not random, or that several factors have; a factor
            that is none.
    """
    at = find_tested(fit, coefficients, factor)
    structure = fit.structures[at]
    asked = structure.names if coefficients is None else coefficients
    dropped = check_named(structure, asked, fit.patterns.formula)
    kind = structure.name_override
    if fit.marginal is None:
        smaller = keep_coefficients(fit.patterns, at, dropped)
        below = fit_level_patterns(smaller, covariance=kind).loglik
    else:
        terms = tuple(tuple(n for n in term if n not in dropped) for term in structure.terms)
        left = tuple(term for term in terms if term)
        less = combine(left, group=structure.group, covariance=kind) if left else None
        others = (less if i == at else each for i, each in enumerate(fit.structures))
        below = maximize_without(fit, tuple(others))
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
