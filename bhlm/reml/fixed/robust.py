"""Cluster-robust standard errors of the fixed effects, one cluster per group: CR0 and CR2.

CR0 is C (sum_j b_j b_j') C with b_j = X_j'V_j^-1 e_j, e_j = y_j - X_j beta. CR2 puts A_j e_j
for e_j, with A_j chosen so that the estimate is unbiased if the model is right:
A_j = D_j' (D_j (V_j - X_j C X_j') D_j')^-1/2 D_j, D_j'D_j = V_j, the same for every such D_j.

V_j and X_j C X_j' map the column space of [Z_j X_j] into itself, and A_j is the identity
outside of it. So with Q_j an orthonormal basis of that space, everything is written in
Q_j-coordinates, at most q + p of them, and Q_j'e_j follows from [Z_j X_j]'e_j.

With several factors the clusters are the levels of the one that all others are nested in, and
Z_j has the columns of all effects of the cluster; see `bhlm.reml.level_clusters`.
Source: Liang & Zeger (1986), Biometrika 73, 13-22; Pustejovsky & Tipton (2018), J. Bus. Econ.
Stat. 36, 672-683, eq. 8-12; Raudenbush & Bryk (2002), chapter 9, for HLM's use of CR0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.layout import list_names
from bhlm.likelihood.laws import f_tail
from bhlm.reml.fixed.algebra import reduce_fixed
from bhlm.reml.fixed.method import FixedInference, Method
from bhlm.reml.fixed.wald import JointTest, check_contrasts, decorrelate, wald_test
from bhlm.reml.group_algebra import reduce_groups
from bhlm.reml.level_clusters import list_clusters
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum

Array = np.ndarray
KINDS = ("cr0", "cr2")

# A direction of [Z X] or of A^-2 below this share of the largest is rounding: eigenvalues of a
# Gram matrix carry errors of about 1e-15 of the largest. What is left out of [Z X] by mistake
# would weigh at most a millionth of what its columns weigh elsewhere.
RANK = 1e-12


@dataclass(frozen=True, slots=True)
class Robust:
    """A cluster-robust covariance of the fixed effects, and what its df are made of.

    For CR2, under the model, the estimate of l'beta's variance is a quadratic form in normal
    variables; `own` and `shared` hold its matrix: for rows r and s of L, P_rs (J, J) has
    own_rs on the diagonal less shared_r shared_s'.
    """

    kind: str
    inner: Array  # (p, p) of beta~, of which beta is b + loadings beta~
    loadings: Array  # (p, p)
    own: Array | None = None  # (J, p, p) of beta~, CR2 only
    shared: Array | None = None  # (J, p, p) of beta~, CR2 only

    @property
    def cov(self) -> Array:
        """The covariance (p, p) of the fixed effects."""
        return np.asarray(self.loadings @ self.inner @ self.loadings.T)


def robust_covariance(fit: Maximum, *, kind: str = "cr2") -> Robust:
    """Return the cluster-robust covariance of the fixed effects.

    Raises:
        ArgumentError: a kind that is not known; factors of which none holds all others; scores
            that cancel, so that an error would be rounding.
    """
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    algebra = reduce_fixed(fit)
    found = [
        _reduce_cr0(cluster, algebra.phi)
        if kind == "cr0"
        else _adjust_groups(cluster, v=algebra.v, phi=algebra.phi)
        for cluster in _list_stacks(fit)
    ]
    scores, own, shared = (np.concatenate(each) for each in zip(*found, strict=True))
    inner, load = scores.T @ scores, algebra.loadings
    robust = Robust(kind, inner, load, *(() if kind == "cr0" else (own, shared)))
    terms = np.diag(np.abs(load) @ np.abs(inner) @ np.abs(load).T)
    lost = np.diag(robust.cov) <= RANK * terms
    if lost.any():
        names = [name for name, each in zip(fit.moments.fixed, lost, strict=True) if each]
        raise ArgumentError(
            f"the {len(scores)} groups' residuals cancel in the cluster-robust variance of "
            f"{list_names(names)}, of which only rounding is left; take another method"
        )
    return robust


class _Stack(NamedTuple):
    """Cross-products of [Z X e] of clusters with equally many columns."""

    plain: Array  # (J, k, k)
    lam: Array  # (q, q) relative covariance factor of all effects of a cluster
    size: Array  # (q + p,) root mean squares of the columns over all rows


def _list_stacks(fit: Maximum) -> list[_Stack]:
    """Return the clusters of a fit, in whitened columns."""
    if isinstance(fit, LevelsEstimate):
        return [_Stack(each.plain[None], each.lam, each.size) for each in list_clusters(fit)]
    algebra = reduce_groups(fit)
    # Columns of unit mean square over all rows, so that the rank does not depend on their
    # scale. (Of unit length in each group, a column that is zero there would be all rounding.)
    squares = np.einsum("jaa->a", algebra.plain[:, :-1, :-1]) / algebra.n.sum()
    return [_Stack(algebra.plain, algebra.lam, np.sqrt(squares))]


def _reduce_cr0(stack: _Stack, phi: Array) -> tuple[Array, Array, Array]:
    """Return phi X'H^-1 e (J, p), and nothing."""
    q, lam, plain = len(stack.lam), stack.lam, stack.plain
    inner = np.eye(q) + lam.T @ plain[:, :q, :q] @ lam
    shrink = lam @ np.linalg.solve(inner, lam.T @ plain[:, :q, -1:])
    scores = plain[:, q:-1, -1:] - plain[:, q:-1, :q] @ shrink
    none = np.empty((0, len(phi), len(phi)))
    return scores[:, :, 0] @ phi, none, none


def robust_df(robust: Robust, contrasts: Array) -> Array:
    """Return the degrees of freedom (c,) of the t statistic of each row of `contrasts` (c, p).

    Infinite for CR0. For CR2 Satterthwaite's (tr P)^2 / tr(P^2), with P the matrix of the
    quadratic form; both traces are sums over groups, since P is diagonal but for a term of
    rank p.

    Raises:
        ArgumentError: the contrasts do not fit the fixed effects.
    """
    matrix = check_contrasts(contrasts, len(robust.inner))
    if robust.own is None:
        return np.full(len(matrix), np.inf)
    diagonal, spread = _forms(robust, matrix)
    traces = np.einsum("jrr->r", diagonal) - np.einsum("jri,jri->r", spread, spread)
    return np.array(
        [trace**2 / _inner(diagonal, spread, r, r, r, r) for r, trace in enumerate(traces)]
    )


def robust_test(
    fit: Maximum, contrasts: Array, *, values: Array | None = None, kind: str = "cr2"
) -> JointTest:
    """Return the test that contrasts beta = values with cluster-robust standard errors.

    CR0: the Wald chi-square. CR2: the approximate Hotelling test (HTZ) of clubSandwich, for
    r hypotheses F = (eta - r + 1) / (eta r) d'(L cov L')^-1 d with (r, eta - r + 1) degrees of
    freedom; eta = r (r + 1) / sum of the variances of the standardised covariance's elements.

    Raises:
        ArgumentError: the kind is not known, or the contrasts do not fit.
    """
    robust = robust_covariance(fit, kind=kind)
    matrix = check_contrasts(contrasts, len(fit.beta))
    if kind == "cr0":
        return wald_test(
            fit.beta,
            robust.inner,
            contrasts=matrix,
            values=values,
            method=kind,
            loadings=robust.loadings,
        )
    load = robust.loadings
    turned, scores, _ = decorrelate(fit.beta, np.eye(len(load)), matrix, values, loadings=load)
    r = len(turned)
    eta = _hotelling_df(robust, turned)
    ddf = eta - r + 1.0
    if ddf <= 0.0:
        raise ArgumentError(
            f"{r} hypotheses leave CR2 with {ddf:.2g} degrees of freedom, too few groups for a "
            "joint test; test fewer at once or use method='kenward-roger'"
        )
    rows = turned @ load
    chi2 = float(scores @ np.linalg.solve(rows @ robust.inner @ rows.T, scores))
    statistic = ddf / (eta * r) * chi2
    return JointTest(statistic, r, ddf, float(f_tail(statistic, r, ddf)), kind)


def _adjust_groups(stack: _Stack, *, v: float, phi: Array) -> tuple[Array, Array, Array]:
    """Return phi X'H^-1 A e (J, p), phi X'H^-1 A H A H^-1 X phi and phi X'H^-1 A X phi^1/2.

    Both (J, p, p), in units of sigma^2 = v, times sqrt(v) to fit beta~.
    """
    q, size = len(stack.lam), stack.size
    gram = stack.plain[:, :-1, :-1]
    values, vectors = np.linalg.eigh(gram / np.outer(size, size))
    present = values > RANK * values[:, -1:]
    root = np.where(present, np.sqrt(np.where(present, values, 1.0)), 0.0)
    # Q = W vectors root^-1: Q'W = root vectors', Q'e = root^-1 vectors' W'e.
    columns = root[:, :, None] * vectors.transpose(0, 2, 1) * size
    back = np.where(present, 1.0 / np.where(present, root, 1.0), 0.0)
    errors = back * np.einsum("jba,jb->ja", vectors, stack.plain[:, :-1, -1] / size)
    z = columns[:, :, :q] @ stack.lam
    x = columns[:, :, q:]
    h = np.eye(gram.shape[1]) + z @ z.transpose(0, 2, 1)
    d = np.linalg.cholesky(h).transpose(0, 2, 1)
    middle = d @ (h - x @ phi @ x.transpose(0, 2, 1)) @ d.transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(middle)
    present = values > RANK * values[:, -1:]
    power = np.where(present, 1.0 / np.sqrt(np.where(present, values, 1.0)), 0.0)
    turned = vectors.transpose(0, 2, 1) @ d
    a = turned.transpose(0, 2, 1) @ (power[:, :, None] * turned)
    estimator = phi @ np.linalg.solve(h, x).transpose(0, 2, 1) @ a
    scores = np.einsum("jpa,ja->jp", estimator, errors)
    own = v * estimator @ h @ estimator.transpose(0, 2, 1)
    shared = np.sqrt(v) * estimator @ x @ np.linalg.cholesky(phi)
    return scores, own, shared


def _forms(robust: Robust, matrix: Array) -> tuple[Array, Array]:
    """Return L own L' (J, c, c) and L shared (J, c, p) for contrasts L of beta."""
    rows = matrix @ robust.loadings
    return rows @ robust.own @ rows.T, rows @ robust.shared


def _inner(diagonal: Array, spread: Array, r: int, s: int, t: int, u: int) -> float:
    """Return the sum over groups i, j of P_rs[i, j] P_tu[i, j], P_rs = own_rs - shared_r shared_s'.

    That is sum own_rs own_tu - own_rs (h_t h_u) - own_tu (h_r h_s), over i = j, plus
    tr(sum_i h_r h_t' sum_j h_u h_s').
    """
    hr, hs, ht, hu = (spread[:, index] for index in (r, s, t, u))
    both = np.einsum("ji,ji->j", hr, hs), np.einsum("ji,ji->j", ht, hu)
    first, second = diagonal[:, r, s], diagonal[:, t, u]
    sums = float(first @ second - first @ both[1] - second @ both[0])
    return sums + float(np.sum((hr.T @ ht) * (hs.T @ hu)))


def _hotelling_df(robust: Robust, matrix: Array) -> float:
    """Return eta = r (r + 1) / sum_st Var_st, with P standardised to a unit expectation."""
    diagonal, spread = _forms(robust, matrix)
    expected = diagonal.sum(axis=0) - np.einsum("jri,jsi->rs", spread, spread)
    values, vectors = np.linalg.eigh(expected)
    standard = vectors / np.sqrt(values) @ vectors.T
    diagonal = standard @ diagonal @ standard
    spread = standard @ spread
    r = len(matrix)
    total = 0.0
    for s in range(r):
        for t in range(r):
            # P_ts[i, j] is P_st[j, i], so that the second sum pairs P_st with its transpose.
            total += _inner(diagonal, spread, s, s, t, t) + _cross(diagonal, spread, s, t)
    return r * (r + 1) / total


def _cross(diagonal: Array, spread: Array, s: int, t: int) -> float:
    """Return the sum over groups i, j of P_st[i, j] P_ts[i, j]."""
    return _inner(diagonal, spread, s, t, t, s)


def _name(kind: str) -> Method:
    """Return the method of one kind of cluster-robust covariance."""

    def infer(fit: Maximum, contrasts: Array) -> FixedInference:
        robust = robust_covariance(fit, kind=kind)
        return FixedInference(robust.inner, robust.loadings, robust_df(robust, contrasts))

    def test(fit: Maximum, contrasts: Array, values: Array) -> JointTest:
        return robust_test(fit, contrasts, values=values, kind=kind)

    return Method(kind, infer, test)


CR0, CR2 = map(_name, KINDS)
