"""Patterns with several factors -> the fit: nested effects are integrated, crossed approximated."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.arrange import is_chain
from bhlm.likelihood.covariance import Structure, combine
from bhlm.likelihood.nested_families import NestIntegrator, NestMarginal, WhitenedNest, whiten_nest
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.reml.family.levels import (
    FamilyLevelsEstimate,
    carry_level_errors,
    check_factors,
    check_size,
    fit_level_patterns,
    invert_information,
)
from bhlm.reml.family.nested_search import NestOptimum, maximize_nest, widen_levels
from bhlm.reml.family.search import fit_linear, maximize_patterns
from bhlm.reml.family.separation import check_given_levels, check_level_separation

Array = np.ndarray

MOST = 3  # random coefficients of a factor
MOST_TOGETHER = 4  # of all factors: nodes grow with their power


def fit_factors(
    patterns: LevelPatterns, *, covariance: str | None = None, nagq: int | None = None
) -> FamilyLevelsEstimate:
    """Return the maximum-likelihood fit of a family with several factors.

    The effects of nested factors are integrated until the log-likelihood is known to 1e-8; the
    likelihood of crossed ones is Laplace's approximation, and of nested ones where `nagq` is 1.

    Args:
        patterns: the reduced table.
        covariance: "unstructured", "independent", "exchangeable" or "identity", for every factor;
            None keeps what the formula says.
        nagq: 1 for Laplace's approximation; None for the best that there is.

    Raises:
        ArgumentError: several nodes, or more random coefficients than can be integrated.
        IdentifiabilityError: the patterns cannot identify the model.
        DataError: fewer rows than parameters, or factors that are too large for the memory.
    """
    is_nested = is_chain(patterns.codes)
    if is_nested and nagq not in (None, 1) and len(patterns.factors) == 1:
        name = patterns.factors[0].name
        raise ArgumentError(
            f"nagq={nagq} is not there for '{name}', a factor of several columns; make one column "
            "of them, or leave nagq out for as many nodes as each unit needs"
        )
    if is_nested and nagq not in (None, 1):
        raise ArgumentError(
            f"nagq={nagq} is not there for several grouping factors; give 1 (Laplace's "
            "approximation), or None for as many nodes as each unit of nested ones needs"
        )
    if nagq is not None or not is_nested:
        return fit_level_patterns(patterns, covariance=covariance, nagq=nagq)
    structures = tuple(
        combine(factor.blocks, group=factor.name, covariance=covariance)
        for factor in patterns.factors
    )
    together = sum(structure.q for structure in structures)
    if together > MOST_TOGETHER or max(structure.q for structure in structures) > MOST:
        raise ArgumentError(
            f"'{patterns.formula}' has {together} random coefficients, and of family="
            f"'{patterns.family.name}' up to {MOST} of a factor and {MOST_TOGETHER} of all are "
            "integrated; drop some, or take nagq=1, Laplace's approximation"
        )
    check_size(patterns, structures)
    check_factors(patterns, structures)
    white = whiten_nest(patterns, structures)
    linear = fit_linear(white)
    check_level_separation(patterns, white, linear)
    optimum = maximize_nest(white, [structures[at] for at in white.order], linear=linear)
    check_given_levels(patterns, white, optimum)
    return _unwhiten(patterns, structures, white, optimum, linear.loglik)


def _unwhiten(
    patterns: LevelPatterns,
    structures: tuple[Structure, ...],
    white: WhitenedNest,
    optimum: NestOptimum,
    linear_loglik: float,
) -> FamilyLevelsEstimate:
    """Return the fit in the columns as given, factors in the order of the formula."""
    back = [white.order.index(at) for at in range(len(structures))]
    lams = tuple(optimum.lams[level] for level in back)
    roots = tuple(basis @ lam for basis, lam in zip(white.bases, lams, strict=True))
    means, covs = [], []
    for root, level in zip(roots, back, strict=True):
        place = np.argsort(white.levels[level])
        means.append(optimum.at.means[level][place] @ root.T)
        covs.append(root @ optimum.at.covs[level][place] @ root.T)
    return FamilyLevelsEstimate(
        patterns=patterns,
        structures=structures,
        beta=white.fixed @ optimum.beta,
        gs=tuple(root @ root.T for root in roots),
        roots=roots,
        joint_cov=_carry(
            structures,
            white,
            optimum.lams,
            invert_information(optimum.information, singular=optimum.singular),
            singular=optimum.singular,
        ),
        loglik=optimum.at.loglik,
        error=optimum.error,
        nagq=None,
        linear_loglik=linear_loglik,
        converged=optimum.converged,
        singular=optimum.singular,
        gradient=optimum.gradient,
        point=np.concatenate([optimum.beta, optimum.theta]),
        lams=lams,
        information=optimum.information,
        means=tuple(means),
        covs=tuple(covs),
        steps=optimum.steps,
        white=white,
        marginal=optimum.at,
    )


def _carry(
    structures: Sequence[Structure],
    white: WhitenedNest,
    lams: Sequence[Array],
    cov: Array,
    *,
    singular: bool,
) -> Array:
    """Return the covariance (p + m, p + m) of beta and the gs' free elements.

    `structures` and the result have the factors in the order of the formula, `lams` and `cov`, that
    of the point, level by level.
    """
    by_level = [structures[at] for at in white.order]
    found = carry_level_errors(
        by_level, white.fixed, white.level_bases, lams, cov, singular=singular
    )
    starts = white.p + np.cumsum([0, *(len(each.labels) for each in by_level)])
    spans = [np.arange(start, stop) for start, stop in pairwise(starts)]
    place = np.concatenate([np.arange(white.p), *(spans[at] for at in np.argsort(white.order))])
    return found[np.ix_(place, place)]


def robust_covariance(fit: FamilyLevelsEstimate, *, small: bool = False) -> Array:
    """Return the covariance (p + m, p + m) of the estimates, robust over the coarsest units.

    By their scores s_j about the inverse information, I^-1 (sum s_j s_j') I^-1, and with `small`
    times J / (J - 1), J the coarsest units. Source: as of
    `bhlm.reml.family.inference.find_covariance`.
    """
    white, marginal = locate_nest(fit)
    by_level = [fit.structures[at] for at in white.order]
    scores = marginal.score @ widen_levels(by_level, white.p)
    inverse = invert_information(fit.information, singular=fit.singular)
    groups = len(scores)
    meat = scores.T @ scores * (groups / (groups - 1.0) if small else 1.0)
    lams = [fit.lams[at] for at in white.order]
    return _carry(fit.structures, white, lams, inverse @ meat @ inverse, singular=fit.singular)


def locate_nest(fit: FamilyLevelsEstimate) -> tuple[WhitenedNest, NestMarginal]:
    """Return the whitened patterns and the integrals of a fit whose effects were integrated.

    Raises:
        ArgumentError: a fit by Laplace's approximation.
    """
    if not isinstance(fit.white, WhitenedNest) or fit.marginal is None:
        raise ArgumentError(
            "the fit is by Laplace's approximation, whose effects were not integrated; fit nested "
            "factors without nagq"
        )
    return fit.white, fit.marginal


def build_integrator(fit: FamilyLevelsEstimate, *, tolerance: float) -> NestIntegrator:
    """Return an integrator that knows each unit's log-integral at the estimates so well."""
    white, _ = locate_nest(fit)
    made = NestIntegrator(white)
    lams = [fit.lams[at] for at in white.order]
    made.refine(fit.point[: white.p], lams, tolerance=tolerance)
    return made


def maximize_without(fit: FamilyLevelsEstimate, structures: Sequence[Structure | None]) -> float:
    """Return the largest log-likelihood with other structures; None leaves a factor out.

    Raises:
        ArgumentError: as `locate_nest`.
    """
    locate_nest(fit)
    kept = [at for at, structure in enumerate(structures) if structure is not None]
    own = [new or old for new, old in zip(structures, fit.structures, strict=True)]
    again = whiten_nest(fit.patterns, own)
    levels = [level for level, at in enumerate(again.order) if at in kept]
    by_level = [own[again.order[level]] for level in levels]
    if not levels:
        return fit.linear_loglik
    if len(levels) == 1:
        return maximize_patterns(again.keep_one(levels[0]), by_level[0]).at.loglik
    return maximize_nest(again.keep(levels), by_level).at.loglik
