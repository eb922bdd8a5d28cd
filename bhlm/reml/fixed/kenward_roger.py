"""Kenward and Roger's small-sample covariance of the fixed effects, with its tests.

V = sum_i gamma_i V_i is linear in gamma, the free elements of G and sigma^2, with V_i a
Z_j E_a Z_j' or the identity. Of V^-1 the method needs, with Phi the covariance of beta,

    P_i  = -X' V^-1 V_i V^-1 X
    Q_ij = X' V^-1 V_i V^-1 V_j V^-1 X
    T_ij = tr(V^-1 V_i V^-1 V_j)
    W    = 2 (T - 2 tr(Phi Q) + tr(Phi P Phi P))^-1, the inverse expected information
    Phi_A = Phi + 2 Phi (sum_ij W_ij (Q_ij - P_i Phi P_j)) Phi

and all of it is sums over groups of products of F = Z'H^-1 Z, U = Z'H^-1 X and their like
with H^-2 and H^-3. The result is the same for any linear change of gamma.
Source: Kenward & Roger (1997), Biometrics 53, 983-997, sections 2-4; Halekoh & Hojsgaard
(2014), J. Stat. Softw. 59(9), sections 4-6, for the guards against degenerate cases.
"""

from dataclasses import dataclass

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.laws import f_tail
from bhlm.reml.fixed.algebra import reduce_fixed
from bhlm.reml.fixed.method import FixedInference, Method
from bhlm.reml.fixed.wald import JointTest, check_contrasts, decorrelate
from bhlm.reml.group_algebra import GroupAlgebra, reduce_groups
from bhlm.reml.level_algebra import sum_level_products
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum

Array = np.ndarray

# Information below this share of the largest, each parameter at unit information, is none.
NO_INFORMATION = 1e-12
# Guards of pbkrtest against 0 / 0 where F is exact, as with three balanced groups.
NEAR_TWO = 0.01
NEAR_RATIO = 1e-14


@dataclass(frozen=True, slots=True)
class KenwardRoger:
    """The adjusted covariance of the fixed effects, and what its df are made of."""

    inner: Array  # (p, p) Phi_A of beta~, of which beta is b + loadings beta~
    plain: Array  # (p, p) Phi of beta~
    slopes: Array  # (m + 1, p, p) Phi P_i Phi, minus the derivative of Phi by gamma_i
    weights: Array  # (m + 1, m + 1) W
    loadings: Array  # (p, p)

    @property
    def cov(self) -> Array:
        """The adjusted covariance (p, p) of the fixed effects."""
        return np.asarray(self.loadings @ self.inner @ self.loadings.T)


def kenward_roger(fit: Maximum) -> KenwardRoger:
    """Return the adjusted covariance of the fixed effects of a REML fit.

    Raises:
        ArgumentError: the fit is by ML, for which the method is not defined.
    """
    if fit.method != "reml":
        raise ArgumentError(
            "Kenward-Roger is defined for REML and this fit is by ML; fit with method='reml' or "
            "use method='satterthwaite'"
        )
    algebra = reduce_fixed(fit)
    # The structure is closed under the whitening, so that its own directions span the same G.
    # Those of the columns as given would all but coincide where a column is far from zero.
    p_matrices, q_matrices, traces = (
        sum_level_products(fit)
        if isinstance(fit, LevelsEstimate)
        else _sum_products(reduce_groups(fit), fit.parts[0].structure.directions)
    )
    phi = algebra.v * algebra.phi
    turned = phi @ p_matrices
    information = (
        traces
        - 2.0 * np.einsum("ab,ijba->ij", phi, q_matrices)
        + np.einsum("iab,jba->ij", turned, turned)
    )
    weights = 2.0 * _invert(information)
    middle = np.einsum("ij,ijab->ab", weights, q_matrices) - np.einsum(
        "ij,iac,jcb->ab", weights, p_matrices, turned, optimize=True
    )
    middle = 0.5 * (middle + middle.T)
    return KenwardRoger(
        inner=phi + 2.0 * phi @ middle @ phi,
        plain=phi,
        slopes=turned @ phi,
        weights=weights,
        loadings=algebra.loadings,
    )


def kenward_roger_df(adjusted: KenwardRoger, contrasts: Array) -> Array:
    """Return the degrees of freedom (c,) of the t statistic of each row of `contrasts` (c, p).

    Raises:
        ArgumentError: the contrasts do not fit the fixed effects.
    """
    rows = check_contrasts(contrasts, len(adjusted.plain)) @ adjusted.loadings
    return np.array([_match_f(adjusted, row[None])[0] for row in rows])


def kenward_roger_test(fit: Maximum, contrasts: Array, *, values: Array | None = None) -> JointTest:
    """Return the scaled F test that contrasts beta = values.

    lambda F, F = d'(L Phi_A L')^-1 d / r, is F(r, ddf), with lambda and ddf from the first two
    moments of F.

    Raises:
        ArgumentError: the fit is by ML, or the contrasts contradict each other or do not fit.
    """
    adjusted = kenward_roger(fit)
    load = adjusted.loadings
    matrix = check_contrasts(contrasts, len(fit.beta))
    turned, scores, variances = decorrelate(fit.beta, adjusted.inner, matrix, values, loadings=load)
    ddf, scaling = _match_f(adjusted, turned @ load)
    statistic, df = scaling * float((scores**2 / variances).mean()), len(turned)
    return JointTest(statistic, df, ddf, float(f_tail(statistic, df, ddf)), "kenward-roger")


def _sum_products(algebra: GroupAlgebra, directions: Array) -> tuple[Array, Array, Array]:
    """Return P (m + 1, p, p), Q (m + 1, m + 1, p, p) and T (m + 1, m + 1); sigma^2 is last."""
    q, p, v, m = algebra.q, algebra.p, algebra.v, len(directions)
    second = algebra.weigh_again(algebra.inverse)
    third = algebra.weigh_again(second)
    x = slice(q, q + p)
    f, u = algebra.f, algebra.u
    p_matrices = np.empty((m + 1, p, p))
    q_matrices = np.empty((m + 1, m + 1, p, p))
    traces = np.empty((m + 1, m + 1))
    turned = [direction @ u for direction in directions]
    loaded = [direction @ f for direction in directions]
    for a in range(m):
        p_matrices[a] = -_sum_pairs(u, turned[a]) / v**2
        for b in range(a, m):
            q_matrices[a, b] = _sum_pairs(turned[a], f @ turned[b]) / v**3
            q_matrices[b, a] = q_matrices[a, b].T
            traces[a, b] = traces[b, a] = np.einsum("jab,jba->", loaded[a], loaded[b]) / v**2
        q_matrices[a, m] = _sum_pairs(turned[a], second[:, :q, x]) / v**3
        q_matrices[m, a] = q_matrices[a, m].T
        traces[a, m] = traces[m, a] = np.sum(directions[a] * second[:, :q, :q].sum(axis=0)) / v**2
    p_matrices[m] = -second[:, x, x].sum(axis=0) / v**2
    q_matrices[m, m] = third[:, x, x].sum(axis=0) / v**3
    # tr(H^-1) = n - tr(S) and tr(H^-2) = n - 2 tr(S) + tr(S S), S = M Z'Z.
    s = algebra.shrink[:, :, :q]
    lost = 2.0 * np.einsum("jaa->", s) - np.einsum("jab,jba->", s, s)
    traces[m, m] = (algebra.n.sum() - lost) / v**2
    return p_matrices, q_matrices, traces


def _sum_pairs(left: Array, right: Array) -> Array:
    """Return sum_j left_j' right_j."""
    return np.asarray(left.reshape(-1, left.shape[-1]).T @ right.reshape(-1, right.shape[-1]))


def _invert(information: Array) -> Array:
    """Return the inverse, with parameters on which there is no information left out."""
    size = np.sqrt(np.diag(information))
    scaled = np.linalg.pinv(
        information / np.outer(size, size), rcond=NO_INFORMATION, hermitian=True
    )
    return np.asarray(scaled / np.outer(size, size))


def _match_f(adjusted: KenwardRoger, matrix: Array) -> tuple[float, float]:
    """Return (ddf, lambda) of the F statistic of independent contrasts (r, p) of beta~."""
    r = len(matrix)
    middle = np.linalg.inv(matrix @ adjusted.plain @ matrix.T)
    shares = middle @ (matrix @ adjusted.slopes @ matrix.T)
    single = np.einsum("irr->i", shares)
    a1 = float(single @ adjusted.weights @ single)
    a2 = float(np.einsum("ij,iab,jba->", adjusted.weights, shares, shares))
    b = (a1 + 6.0 * a2) / (2.0 * r)
    g = ((r + 1) * a1 - (r + 4) * a2) / ((r + 2) * a2)
    base = 3.0 * r + 2.0 * (1.0 - g)
    v0 = 1.0 + g / base * b
    v1 = 1.0 - (r - g) / base * b
    v2 = 1.0 - (r + 2 - g) / base * b
    top = 1.0 - a2 / r
    ratio = 1.0 if abs(top) < NEAR_RATIO and abs(v1) < NEAR_RATIO else top / v1
    rho = ratio**2 * v0 / v2 / r
    ddf = 4.0 + (r + 2.0) / (r * rho - 1.0)
    scaling = 1.0 if abs(ddf - 2.0) < NEAR_TWO else ddf * top / (ddf - 2.0)
    return ddf, scaling


def _infer(fit: Maximum, contrasts: Array) -> FixedInference:
    adjusted = kenward_roger(fit)
    df = kenward_roger_df(adjusted, contrasts)
    return FixedInference(adjusted.inner, adjusted.loadings, df)


KENWARD_ROGER = Method(
    "kenward-roger",
    infer=_infer,
    test=lambda fit, contrasts, values: kenward_roger_test(fit, contrasts, values=values),
)
