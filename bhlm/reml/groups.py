"""Each group's coefficients: least squares, empirical Bayes, their errors and reliabilities."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.likelihood.effects import regress_groups, tabulate_effects
from bhlm.likelihood.linear import spell_names
from bhlm.likelihood.whitening import ROUNDING, group_ranks
from bhlm.moments.moments import INTERCEPT, Moments
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.hlm_df import assign_equations
from bhlm.reml.group_algebra import reduce_groups
from bhlm.reml.maximum import require_plain

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# A column whose share of within-group variation outside Z_j is below this lies in Z_j's span.
IN_SPAN = 1e-9
# A factor that its products give and its own column agree to this.
SAME_FACTOR = 1e-6


@dataclass(frozen=True, slots=True)
class GroupSolution:
    """The random effects of J groups in the whitened basis, in which covariate offsets cancel.

    u = B mean and beta = A b. The error of u_hat is that given beta, less loadings times the
    error of b; the two are independent.
    """

    mean: Array  # (J, q) empirical Bayes (BLUP)
    cov: Array  # (J, q, q) of u given the parameters and y
    loadings: Array  # (J, q, p) Psi Z_j'H_j^-1 X_j: by how much u_hat falls when b rises
    fixed_cov: Array  # (p, p) of b
    prior: Array  # (q, q) of u
    basis: Array  # (q, q) B
    fixed: Array  # (p, p) A

    @property
    def pev(self) -> Array:
        """The prediction error variance (J, q, q), var(u_hat - u) (Henderson's C22)."""
        carried = self.loadings @ self.fixed_cov @ self.loadings.transpose(0, 2, 1)
        return np.asarray(self.cov + carried)


def solve_groups(fit: Estimate) -> GroupSolution:
    """Return the empirical-Bayes effects of every group, with what their errors are made of.

    With M_j = lam (I + lam'Z_j'Z_j lam)^-1 lam': u_hat = M_j Z_j'(y_j - X_j beta_hat), and
    sigma^2 M_j is its conditional covariance. Source: Raudenbush & Bryk (2002), eq. 3.56-3.59;
    Henderson (1975), Biometrics 31, 423-447.
    """
    algebra = reduce_groups(fit)
    q, lam = algebra.q, algebra.lam
    inner = np.eye(q) + lam.T @ algebra.plain[:, :q, :q] @ lam
    return GroupSolution(
        mean=fit.white.scale * algebra.shrink[:, :, -1],
        cov=fit.sigma2 * (lam @ np.linalg.inv(inner) @ lam.T),
        loadings=algebra.shrink[:, :, q:-1],
        fixed_cov=fit.sigma2 * algebra.phi,
        prior=fit.sigma2 * lam @ lam.T,
        basis=fit.white.basis,
        fixed=fit.white.fixed,
    )


def describe_groups(fit: Estimate) -> "pd.DataFrame":
    """Return one row per group and random coefficient, with the numbers of `measure_groups`.

    Raises:
        ArgumentError: the group is called as one of the columns is.
    """
    require_plain(fit, "coefficients()")
    return tabulate_effects(fit.moments, measure_groups(fit))


def measure_groups(fit: Estimate) -> dict[str, Array]:
    """Return what is known of each group's random coefficients, (J, q) each.

    `n`; `fixed`, the group's fixed part gamma'W_j of the coefficient; `ols`, its own
    least-squares value, with `ols_se`, and `u_ols` = ols - fixed; `eb` = fixed + u, empirical
    Bayes; `u`; `sd`, the conditional SD of u given the parameters (lme4's condVar); `pev`, the
    prediction error variance var(u_hat - u), which adds the uncertainty of the fixed effects
    (Henderson's C22); `reliability` tau / (tau + ols_se^2); `shrinkage`, 1 - u / u_ols, which
    several coefficients that borrow from each other may take out of [0, 1].

    The fixed part is that of `place_fixed`. Level-1 effects outside of it are taken off at their
    estimates before y is regressed on Z_j. Groups whose Z_j has not full rank have no least
    squares and nothing that is made of it (nan). Source: Raudenbush & Bryk (2002), chapter 3.
    """
    moments, white, q = fit.moments, fit.white, fit.white.q
    solution = solve_groups(fit)
    turn = white.basis
    u = solution.mean @ turn.T
    fixed = np.einsum("jip,p->ji", place_fixed(moments), fit.beta)
    full = group_ranks(moments) == q
    n_groups = moments.n_groups
    deviation, se, reliability = (np.full((n_groups, q), np.nan) for _ in range(3))
    deviation[full], sampling = regress_groups(white, full, beta=fit.beta, sigma2=fit.sigma2)
    se[full] = np.sqrt(sampling)
    tau = np.diag(fit.g)
    reliability[full] = tau / (tau + sampling)
    with np.errstate(invalid="ignore", divide="ignore"):
        shrinkage = 1.0 - u / deviation
    return {
        "n": np.broadcast_to(moments.n.astype(int)[:, None], (n_groups, q)),
        "fixed": fixed,
        "ols": fixed + deviation,
        "ols_se": se,
        "u_ols": deviation,
        "eb": fixed + u,
        "u": u,
        "sd": np.sqrt(_variances(turn, solution.cov)),
        "pev": _variances(turn, solution.pev),
        "reliability": reliability,
        "shrinkage": shrinkage,
    }


def place_fixed(moments: Moments) -> Array:
    """Return T_j (J, q, p): the fixed part of group j's random coefficients is T_j beta.

    A column that is a random coefficient's own, times something constant in each group (a
    level-2 predictor, a cross-level interaction), counts there with that constant. A column that
    several random columns make up together counts by its least-squares regression on Z_j, which
    is then exact, but nan where Z_j has not full rank. A level-1 effect that does not vary over
    groups is part of none and counts nowhere. A multiple of a column that is zero throughout a
    group, as cwc(x) is in a group of one row, is known there if the model has a column for the
    other factor, and nan if not: from w:cwc(x) alone w cannot be told.
    """
    place = {name: i for i, name in enumerate(moments.columns)}
    t = np.zeros((moments.n_groups, len(moments.random), len(moments.fixed)))
    for f, (name, i) in enumerate(zip(moments.fixed, assign_equations(moments), strict=True)):
        if i is None:
            t[:, :, f] = _regress_column(moments, name)
        elif name == moments.random[i]:
            t[:, i, f] = 1.0
        elif moments.random[i] == INTERCEPT:
            t[:, i, f] = moments.mean[:, place[name]]
        else:
            t[:, i, f] = _find_multiple(moments, name, moments.random[i])
    return t


def _variances(turn: Array, cov: Array) -> Array:
    """Return the diagonals (J, q) of turn cov turn'; rounding may leave less than zero of zero."""
    return np.asarray(np.maximum(np.einsum("ia,jab,ib->ji", turn, cov, turn), 0.0))


def _products(moments: Moments, one: str, two: str) -> Array:
    """Return sums of products (J,), about the group's means if there is a random intercept."""
    if INTERCEPT in moments.random:
        return _centred(moments, one, two)
    both = _means(moments, one) * _means(moments, two)
    return np.asarray(_centred(moments, one, two) + moments.mass * both)


def _centred(moments: Moments, one: str, two: str) -> Array:
    if INTERCEPT in (one, two):
        return np.zeros(moments.n_groups)
    place: dict[str, Any] = {name: i for i, name in enumerate(moments.columns)}
    return np.asarray(moments.cross[:, place[one], place[two]])


def _means(moments: Moments, name: str) -> Array:
    if name == INTERCEPT:
        return np.ones(moments.n_groups)
    return np.asarray(moments.mean[:, moments.columns.index(name)])


def _find_multiple(moments: Moments, x: str, z: str) -> Array:
    """Return w_j (J,) with x_ij = w_j z_ij; where z is zero, the mean of a column named w, or nan.

    x is then named w:z, in any order of the factors.
    """
    within, mean = _centred(moments, z, z), _means(moments, z)
    varies = within > ROUNDING * moments.mass * mean**2
    with np.errstate(invalid="ignore", divide="ignore"):
        w = np.where(
            varies, _centred(moments, x, z) / within, np.where(mean, _means(moments, x), 0.0) / mean
        )
    unknown = np.isnan(w)
    if unknown.any():
        orders = spell_names([x])
        for name in moments.columns[:-1]:
            value = _means(moments, name)
            if "".join(f"{name}:{z}".split()) in orders and np.allclose(
                w[~unknown], value[~unknown], rtol=SAME_FACTOR
            ):
                return np.where(unknown, value, w)
    return np.asarray(w)


def _regress_column(moments: Moments, name: str) -> Array:
    """Return the regression (J, q) of a fixed column on Z_j; zeros if Z_j does not hold it."""
    q = len(moments.random)
    slopes = [i for i, z in enumerate(moments.random) if z != INTERCEPT]
    if not slopes:
        return np.zeros((moments.n_groups, q))
    full = group_ranks(moments) == q
    result = np.full((moments.n_groups, q), np.nan)
    names = [moments.random[i] for i in slopes]
    gram = np.array([[_products(moments, a, b)[full] for b in names] for a in names])
    gram = gram.transpose(2, 0, 1)
    right = np.array([_products(moments, z, name)[full] for z in names]).T
    size = np.sqrt(np.einsum("jaa->ja", gram))
    unit = gram / size[:, :, None] / size[:, None, :]
    weights = np.linalg.solve(unit, (right / size)[:, :, None])[:, :, 0] / size
    whole = _products(moments, name, name)[full]
    noise = ROUNDING * moments.mass[full] * _means(moments, name)[full] ** 2
    if np.any(whole - np.einsum("ja,ja->j", weights, right) > IN_SPAN * whole + noise):
        return np.zeros((moments.n_groups, q))
    values = np.zeros((int(full.sum()), q))
    values[:, slopes] = weights
    if INTERCEPT in moments.random:
        means = np.array([_means(moments, z)[full] for z in names]).T
        offset = _means(moments, name)[full] - np.einsum("ja,ja->j", weights, means)
        values[:, moments.random.index(INTERCEPT)] = offset
    result[full] = values
    return result
