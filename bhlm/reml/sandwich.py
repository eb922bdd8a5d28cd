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

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.weighted import factor_groups
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.moments import Moments

if TYPE_CHECKING:
    pass

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


def check_sandwich(method: str, convention: str) -> None:
    """Refuse conventions that are not known, and a sandwich of REML.

    Raises:
        ArgumentError: either of these.
    """
    if convention not in CONVENTIONS:
        raise ArgumentError(
            f"errors={convention!r} is not known; choose one of model, {', '.join(CONVENTIONS)}"
        )
    if method == "reml":
        raise ArgumentError(
            "the restricted likelihood is no sum over groups, so it has no scores to make a "
            "sandwich of; fit with method='ml', or take fixed_effects(method='cr2')"
        )


class Sandwich(NamedTuple):
    """Scores and Hessian by the whitened parameters, and the way back to those as given."""

    scores: Array  # (J, p + m + 1) W_j s_j
    hessian: Array  # (p + m + 1, p + m + 1) of sum W_j l_j, negated
    fixed: Array  # (p, p) d beta / d beta~
    variances: Array  # (m + 1, m + 1) d (g, sigma^2) / d (g~, v)


def find_scores(
    moments: Moments,
    white: Whitened,
    structure: Structure,
    *,
    beta: Array,
    psi: Array,
    v: float,
) -> Sandwich:
    """Return the scores and the Hessian at whitened parameters.

    With e = y~ - X~ beta~, F = Z'H^-1 Z, U = Z'H^-1 X, t = Z'H^-1 e and D_c the structure's
    directions, by beta~, the elements of G~ = v Psi and v:

        s_beta = X'H^-1 e / v      s_c = (t'D_c t / v^2 - tr(F D_c) / v) / 2
        s_v = (e'H^-2 e / v^2 - tr(H^-1) / v) / 2

    Args:
        moments: with the rows, or the sums of weights, of each group.
        white: their whitened cross-products.
        structure: of the random effects.
        beta: (p,) whitened fixed effects.
        psi: (q, q) G / sigma^2, whitened.
        v: the residual variance, whitened.
    """
    q, p = white.q, white.p
    directions = structure.directions
    m = len(directions)
    applied = moments.applied
    size = moments.n if applied is None else applied.size
    values, vectors = np.linalg.eigh(psi)
    lam = vectors * np.sqrt(np.maximum(values, 0.0))
    turn = np.eye(q + p + 1)
    turn[q:-1, -1] = -beta
    plain = turn.T @ white.blocks @ turn
    inverse = factor_groups(plain, q, lam).inverse
    inner = np.eye(q) + lam.T @ plain[:, :q, :q] @ lam
    shrink = lam @ np.linalg.solve(inner, lam.T @ plain[:, :q])
    twice = inverse - inverse[:, :, :q] @ shrink
    thrice = twice[:, -1, -1] - np.einsum("ja,ja->j", twice[:, -1, :q], shrink[:, :, -1])
    own = shrink[:, :, :q]
    trace = np.einsum("jaa->j", own)
    traces = size - trace, size - 2.0 * trace + np.einsum("jab,jba->j", own, own)
    f, u, t = inverse[:, :q, :q], inverse[:, :q, q:-1], inverse[:, :q, -1]
    fd = np.einsum("jab,cbd->jcad", f, directions)
    td = np.einsum("ja,cab->jcb", t, directions)
    scores = np.concatenate(
        [
            inverse[:, q:-1, -1] / v,
            0.5 * (np.einsum("jcb,jb->jc", td, t) / v**2 - np.einsum("jcaa->jc", fd) / v),
            0.5 * (twice[:, -1, -1] / v**2 - traces[0] / v)[:, None],
        ],
        axis=1,
    )
    weights = np.ones(len(size)) if white.groups is None else white.groups
    fixed, free, last = slice(0, p), slice(p, p + m), p + m
    hessian = np.zeros((p + m + 1, p + m + 1))
    hessian[fixed, fixed] = np.tensordot(weights, inverse[:, q:-1, q:-1], axes=1) / v
    hessian[free, fixed] = np.einsum("j,jcb,jbi->ci", weights, td, u) / v**2
    hessian[last, fixed] = weights @ twice[:, q:-1, -1] / v**2
    pairs = np.einsum("j,jcab,jdba->cd", weights, fd, fd)
    bent = np.einsum("j,jca,jab,jdb->cd", weights, td, f, td, optimize=True)
    hessian[free, free] = bent / v**3 - 0.5 * pairs / v**2
    hessian[last, free] = (
        np.einsum("j,jcb,jb->c", weights, td, twice[:, :q, -1]) / v**3
        - 0.5 * np.einsum("j,jab,cba->c", weights, twice[:, :q, :q], directions) / v**2
    )
    hessian[last, last] = weights @ (thrice / v**3 - 0.5 * traces[1] / v**2)
    hessian = np.tril(hessian) + np.tril(hessian, -1).T
    turned = white.basis @ directions @ white.basis.T
    variances = np.zeros((m + 1, m + 1))
    variances[:m, :m] = [turned[:, i, j] for i, j in structure.labels]
    variances[m, m] = 1.0
    return Sandwich(
        weights[:, None] * scores,
        hessian,
        white.scale * white.fixed,
        white.scale**2 * variances,
    )


class Errors(NamedTuple):
    """Covariances by one convention."""

    fixed: Array  # (p, p)
    variances: Array  # (m + 1, m + 1) of g's free elements and sigma^2


def apply_convention(sandwich: Sandwich, convention: str, *, lost: Array) -> Errors:
    """Return the covariances of the fixed effects and of the variances by one of `CONVENTIONS`.

    Elements of g that `lost` (m + 1,) marks are on the boundary: they have no standard error, and
    the others are taken as if they were known.

    """
    p, n_groups = len(sandwich.fixed), len(sandwich.scores)
    kept = np.concatenate([np.ones(p, dtype=bool), ~lost])
    scores = sandwich.scores[:, kept]
    hessian = sandwich.hessian[np.ix_(kept, kept)]
    meat = scores.T @ scores
    factor = 1.0 if convention == "uncorrected" else n_groups / (n_groups - 1.0)
    fixed, free = slice(0, p), slice(p, None)
    if convention in ("full", "uncorrected"):
        bread = np.linalg.inv(hessian)
        whole = bread @ meat @ bread
        beta, variances = whole[fixed, fixed], whole[free, free]
    else:
        bread = np.linalg.inv(hessian[fixed, fixed])
        beta = bread @ meat[fixed, fixed] @ bread
        left = hessian[free, free]
        if convention == "block":
            left = left - hessian[free, fixed] @ bread @ hessian[fixed, free]
        other = np.linalg.inv(left)
        variances = other @ meat[free, free] @ other
    m = len(lost)
    filled = np.zeros((m, m))
    filled[np.ix_(~lost, ~lost)] = factor * variances
    covariance = sandwich.variances @ filled @ sandwich.variances.T
    without = np.abs(sandwich.variances[:, lost]).sum(axis=1) > 0.0
    covariance[without, :] = covariance[:, without] = np.nan
    return Errors(factor * sandwich.fixed @ beta @ sandwich.fixed.T, covariance)
