"""Standard errors from the scores of groups and the Hessian, by the conventions of programs.

The log-likelihood, or pseudo-log-likelihood, is a sum over J groups of W_j l_j, of which every
parameter has a score s_j (J, p + m + 1) and the whole a Hessian H, not profiled. With
B = sum W_j^2 s_j s_j', what programs print for the same estimates is

    full          H^-1 B H^-1 J / (J - 1)             GLLAMM
    uncorrected   H^-1 B H^-1                         SAS, Mplus
    block         fixed effects by their own block of H and B, variances by H profiled over the
                  fixed effects and their own block of B, times J / (J - 1)   Stata's mixed
    separate      both by their own blocks of H and B, times J / (J - 1)      WeMix

All four agree where H has no entries between fixed effects and variances, as its expectation has
none without weights, but for J / (J - 1). Source: Binder (1983), Int. Stat. Rev. 51, 279-292;
Rabe-Hesketh & Skrondal (2006), J. R. Stat. Soc. A 169, section 3.
"""

from typing import NamedTuple

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.scores import Sandwich

Array = np.ndarray


class Convention(NamedTuple):
    """One way from scores and Hessian to standard errors."""

    programs: str
    sentence: str  # how it is computed, and why it differs from the first


CONVENTIONS = {
    "full": Convention(
        "GLLAMM",
        "the sandwich over all parameters at once, times J / (J - 1) for the groups' own mean",
    ),
    "uncorrected": Convention(
        "SAS, Mplus",
        "the same sandwich without J / (J - 1), so that all standard errors are smaller by "
        "sqrt((J - 1) / J)",
    ),
    "block": Convention(
        "Stata mixed",
        "fixed effects by their own block of Hessian and scores, as if the variances were known; "
        "variances by the Hessian profiled over the fixed effects, but with raw scores, which hold "
        "what the fixed effects share with them; times J / (J - 1)",
    ),
    "separate": Convention(
        "WeMix",
        "fixed effects and variances each by their own blocks alone, as if the others were known; "
        "times J / (J - 1)",
    ),
}
DEFAULT = "full"


def tell_errors(errors: str) -> str:
    """Return what standard errors are by, in words: a convention's scores, or replicate weights."""
    if errors not in CONVENTIONS:
        return errors
    return f"the groups' scores ({errors}, as {CONVENTIONS[errors].programs})"


def check_sandwich(method: str, convention: str) -> None:
    """Refuse conventions that are not known, and a sandwich of REML.

    Raises:
        ArgumentError: either of these.
    """
    if not isinstance(convention, str) or convention not in CONVENTIONS:
        raise ArgumentError(
            f"errors={convention!r} is not known; choose one of model, {', '.join(CONVENTIONS)}"
        )
    if method == "reml":
        raise ArgumentError(
            "the restricted likelihood is no sum over groups, so it has no scores to make a "
            "sandwich of; fit with method='ml', or take fixed_effects(method='cr2')"
        )


def settle_errors(method: str, errors: str | None, *, is_sampling: bool) -> str:
    """Return how standard errors are computed, None being `DEFAULT` of sampling weights only.

    Raises:
        ArgumentError: an unknown method or convention; REML of sampling weights or of a sandwich.
    """
    if method not in ("reml", "ml"):
        raise ArgumentError(f"method={method!r} is not known; choose 'reml' or 'ml'")
    if is_sampling and method == "reml":
        raise ArgumentError(
            "REML integrates the fixed effects out of a likelihood, and with sampling weights what "
            "is maximised is a pseudo-likelihood, of which no rows have that distribution; ask for "
            "method='ml'"
        )
    errors = errors or (DEFAULT if is_sampling else "model")
    if errors != "model":
        check_sandwich(method, errors)
    return errors


class Errors(NamedTuple):
    """Covariances by one convention; of several responses with one more axis, the first."""

    fixed: Array  # (p, p)
    variances: Array  # (m + 1, m + 1) of g's free elements and sigma^2


def apply_convention(sandwich: Sandwich, convention: str, *, lost: Array) -> Errors:
    """Return the covariances of the fixed effects and of the variances by one of `CONVENTIONS`.

    Elements of g that `lost` (m + 1,) marks are on the boundary: they have no standard error, and
    the others are taken as if they were known. Of several responses none is lost.
    """
    p, n_groups = sandwich.fixed.shape[-1], sandwich.scores.shape[-2]
    scores, hessian = sandwich.scores, sandwich.hessian
    if lost.any():
        kept = np.concatenate([np.ones(p, dtype=bool), ~lost])
        scores, hessian = scores[:, kept], hessian[np.ix_(kept, kept)]
    meat = scores.mT @ scores
    factor = 1.0 if convention == "uncorrected" else n_groups / (n_groups - 1.0)
    fixed, free = slice(0, p), slice(p, None)
    if convention in ("full", "uncorrected"):
        bread = np.linalg.inv(hessian)
        whole = bread @ meat @ bread
        beta, variances = whole[..., fixed, fixed], whole[..., free, free]
    else:
        bread = np.linalg.inv(hessian[..., fixed, fixed])
        beta = bread @ meat[..., fixed, fixed] @ bread
        left = hessian[..., free, free]
        if convention == "block":
            left = left - hessian[..., free, fixed] @ bread @ hessian[..., fixed, free]
        other = np.linalg.inv(left)
        variances = other @ meat[..., free, free] @ other
    m = len(lost)
    beta = factor * sandwich.fixed @ beta @ sandwich.fixed.mT
    if not lost.any():
        return Errors(beta, sandwich.variances @ (factor * variances) @ sandwich.variances.mT)
    filled = np.zeros((m, m))
    filled[np.ix_(~lost, ~lost)] = factor * variances
    covariance = sandwich.variances @ filled @ sandwich.variances.T
    without = np.abs(sandwich.variances[:, lost]).sum(axis=1) > 0.0
    covariance[without, :] = covariance[:, without] = np.nan
    return Errors(beta, covariance)
