"""Moments -> RemlFit: estimates by restricted (or full) maximum likelihood, with their errors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import stats

from bhlm.covariance import Structure, combine
from bhlm.effects import predict_effects
from bhlm.errors import ArgumentError
from bhlm.likelihood import Curvature, differentiate, evaluate, score_psi
from bhlm.moments import INTERCEPT, Moments
from bhlm.optimize import Optimum, Step, maximize, unwhiten_loglik
from bhlm.parameters import RESIDUAL, scale_covariance, scaled_names, variance_names
from bhlm.tables import render
from bhlm.whitening import Whitened, group_ranks, whiten

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
Z95 = float(stats.norm.ppf(0.975))


@dataclass(frozen=True, slots=True)
class RemlFit:
    """Estimates of one hierarchical linear model by REML or ML.

    `singular` says that the covariance of the random effects has lost rank: some combination of
    them has an estimated variance of zero, standard errors of the components do not exist, and
    `advice` says which and what to do.
    """

    moments: Moments
    method: Literal["reml", "ml"]
    structure: Structure
    beta: Array  # (p,) fixed effects
    beta_cov: Array  # (p, p) sigma^2 (X' H^-1 X)^-1
    g: Array  # (q, q) covariance of the random coefficients
    root: Array  # (q, q) a square root of g
    sigma2: float
    variance_cov: Array  # (m + 1, m + 1) of g's free elements and sigma2; nan where undefined
    loglik: float
    linear_loglik: float  # of the model without random effects
    converged: bool
    singular: bool
    gradient: Array  # (c,) of minus twice the log-likelihood by theta, at the estimates
    theta: Array  # (c,) the whitened factors' coefficients
    steps: tuple[Step, ...]
    white: Whitened

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `estimate, se, lower, upper`, for fixed effects `statistic, df, p`.

        Intervals are 95 %: normal for fixed effects and covariances, on the log scale for
        variances and SDs, on Fisher's z scale for correlations, as Stata's `mixed`. The df of
        a z test is infinite.
        """
        import pandas as pd

        rows = {**self._fixed_rows(), **self._variance_rows(), **self._scaled_rows()}
        columns = ["estimate", "se", "lower", "upper", "statistic", "df", "p"]
        rows = {name: row + [np.nan] * (len(columns) - len(row)) for name, row in rows.items()}
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)
        table.index.name = "parameter"
        return table

    @property
    def wald(self) -> dict[str, float]:
        """The Wald test that every fixed effect but the intercept is zero: chi2, df, p."""
        at = [i for i, name in enumerate(self.moments.fixed) if name != INTERCEPT]
        if not at:
            return {"chi2": float("nan"), "df": 0, "p": float("nan")}
        beta, cov = self.beta[at], self.beta_cov[np.ix_(at, at)]
        chi2 = float(beta @ np.linalg.solve(cov, beta))
        return {"chi2": chi2, "df": len(at), "p": float(stats.chi2.sf(chi2, len(at)))}

    @property
    def lr_test(self) -> dict[str, float]:
        """The test against linear regression: chi2, df, p, with p from the naive chi-square.

        The variances lie on the boundary under the null hypothesis, so that p is conservative.
        """
        chi2 = max(2.0 * (self.loglik - self.linear_loglik), 0.0)
        df = len(self.structure.labels)
        return {"chi2": chi2, "df": df, "p": float(stats.chi2.sf(chi2, df))}

    @property
    def reliability(self) -> dict[str, float]:
        """The mean over groups of tau_qq / (tau_qq + v_qqj), per random coefficient.

        v_j = sigma^2 (Z_j'Z_j)^-1 is the sampling variance of group j's own least-squares
        coefficients; groups whose Z_j has not full rank have none and are left out, as in HLM.
        Source: Raudenbush & Bryk (2002), eq. 3.53.
        """
        full = group_ranks(self.moments) == self.white.q
        if not full.any():
            return dict.fromkeys(self.moments.random, float("nan"))
        q, basis = self.white.q, self.white.basis
        gram = np.linalg.inv(self.white.blocks[full][:, :q, :q])
        sampling = self.sigma2 * np.einsum("ia,jab,ib->ji", basis, gram, basis)
        tau = np.diag(self.g)
        return dict(
            zip(self.moments.random, (tau / (tau + sampling)).mean(axis=0).tolist(), strict=True)
        )

    @property
    def advice(self) -> str:
        """What to do about a fit that is singular or did not converge; empty if neither."""
        if not self.converged:
            return (
                "the optimiser did not reach a stationary point (gradient "
                f"{np.max(np.abs(self.gradient)):.2g}); do not report these estimates"
            )
        if self.singular:
            return (
                f"{describe_singularity(self)}; the data do not support the full random part: "
                "drop the term, use independent coefficients, or give it a prior (model.sample)"
            )
        return ""

    def group_effects(self) -> "pd.DataFrame":
        """Return empirical-Bayes effects (BLUPs), one row per group and coefficient.

        Columns: the group's label, `coefficient`, `estimate` (the deviation u), and `sd`, its
        conditional standard deviation given the estimated parameters.
        """
        import pandas as pd

        means, covs = predict_effects(self.white, self.beta, self.root, np.sqrt(self.sigma2))
        n_groups, q = means.shape
        return pd.DataFrame(
            {
                self.moments.group: np.repeat(self.moments.groups, q),
                "coefficient": list(self.moments.random) * n_groups,
                "estimate": means.ravel(),
                "sd": np.sqrt(np.maximum(np.einsum("jaa->ja", covs), 0.0)).ravel(),
            }
        )

    def summary(self, *, style: str = "stata") -> str:
        """Return the printed output in the style of "stata", "hlm" or "lme4".

        Raises:
            ArgumentError: a style that is not known.
        """
        return render(self, style=style)

    def _fixed_rows(self) -> dict[str, list[float]]:
        se = np.sqrt(np.diag(self.beta_cov))
        rows = {}
        for name, b, s in zip(self.moments.fixed, self.beta, se, strict=True):
            z = b / s
            p = 2.0 * stats.norm.sf(abs(z))
            rows[name] = [b, s, b - Z95 * s, b + Z95 * s, z, np.inf, p]
        return rows

    def _variance_rows(self) -> dict[str, list[float]]:
        labels = self.structure.labels
        names = [*variance_names(self.moments.random, self.moments.group, labels), RESIDUAL]
        values = [*(self.g[i, j] for i, j in labels), self.sigma2]
        rows = {}
        for name, value, se in zip(names, values, _errors(self.variance_cov), strict=True):
            if name.startswith("cov("):
                bounds = [value - Z95 * se, value + Z95 * se]
            else:
                bounds = _log_interval(value, se)
            rows[name] = [value, se, *bounds]
        return rows

    def _scaled_rows(self) -> dict[str, list[float]]:
        labels = self.structure.labels
        names = scaled_names(self.moments.random, self.moments.group, labels)
        values = scale_covariance(self.g, labels)
        slopes = _scale_slopes(self.g, labels)
        se = _errors(slopes @ self.variance_cov[:-1, :-1] @ slopes.T)
        rows = {}
        for name, value, error in zip(names, values, se, strict=True):
            if name.startswith("sd("):
                rows[name] = [value, error, *_log_interval(value, error)]
            elif abs(value) < 1.0:
                z, half = np.arctanh(value), Z95 * error / (1.0 - value**2)
                rows[name] = [value, error, np.tanh(z - half), np.tanh(z + half)]
            else:
                rows[name] = [value, np.nan, np.nan, np.nan]
        sd = np.sqrt(self.sigma2)
        error = _errors(self.variance_cov)[-1] / (2.0 * sd)
        rows["sd(Residual)"] = [sd, error, *_log_interval(sd, error)]
        return rows


def fit_moments(
    moments: Moments, *, method: str = "reml", covariance: str | None = None
) -> RemlFit:
    """Return the maximum-likelihood fit of the model that `moments` were reduced for.

    Args:
        moments: the reduced table.
        method: "reml" maximises the restricted, "ml" the full likelihood.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps
            what the formula says, one unstructured block per random term.

    Raises:
        ArgumentError: an unknown method or covariance.
        IdentifiabilityError: the moments cannot identify the model.
    """
    if method not in ("reml", "ml"):
        raise ArgumentError(f"method={method!r} is not known; choose 'reml' or 'ml'")
    structure = combine(moments.blocks, covariance=covariance)
    white = whiten(moments, structure)
    optimum = maximize(white, structure, restricted=method == "reml")
    return unwhiten(moments, structure, white, optimum)


def unwhiten(moments: Moments, structure: Structure, white: Whitened, optimum: Optimum) -> RemlFit:
    """Return the fit in the columns as given, with standard errors."""
    at = optimum.criterion
    sigma2 = at.sigma2 * white.scale**2
    root = white.basis @ optimum.lam * np.sqrt(sigma2)
    none = np.zeros((white.q, white.q))
    linear = evaluate(white.blocks, white.q, none, n=white.n, restricted=at.restricted)
    return RemlFit(
        moments=moments,
        method="reml" if at.restricted else "ml",
        structure=structure,
        beta=white.ols + white.scale * white.fixed @ at.beta,
        beta_cov=sigma2 * white.fixed @ at.phi @ white.fixed.T,
        g=root @ root.T,
        root=root,
        sigma2=sigma2,
        variance_cov=_variance_covariance(structure, white, optimum),
        loglik=unwhiten_loglik(at.value, white, at.restricted),
        linear_loglik=unwhiten_loglik(linear.value, white, at.restricted),
        converged=optimum.converged,
        singular=optimum.singular,
        gradient=optimum.gradient,
        theta=optimum.theta,
        steps=optimum.steps,
        white=white,
    )


def _variance_covariance(structure: Structure, white: Whitened, optimum: Optimum) -> Array:
    """Return the inverse observed information (m + 1, m + 1) of g's elements and sigma^2.

    The information is that of the (restricted) log-likelihood in (psi, v), v = sigma^2,
    psi = g / v, carried to (g, v). At a boundary the elements of g have no standard errors
    (nan); that of sigma^2 comes from the factors that have not vanished.
    """
    at = optimum.criterion
    v = at.sigma2 * white.scale**2
    m = len(structure.directions)
    if optimum.singular:
        cov = np.full((m + 1, m + 1), np.nan)
        cov[m, m] = _residual_variance(structure, white, optimum)
        return cov
    # The whitened elements of g are well scaled wherever the columns' zeros lie; the structure
    # is closed under the change of basis, so that g is linear in them.
    directions = structure.directions
    curve = differentiate(white.blocks, white.q, optimum.lam, at, directions)
    information = _information(curve, at.sigma2, at.dof, white.scale)
    psi = optimum.lam @ optimum.lam.T
    turned = white.basis @ directions @ white.basis.T
    jacobian = np.zeros((m + 1, m + 1))
    jacobian[:m, :m] = v * np.array([turned[:, i, j] for i, j in structure.labels])
    psi = white.basis @ psi @ white.basis.T
    jacobian[:m, m] = [psi[i, j] for i, j in structure.labels]
    jacobian[m, m] = 1.0
    return np.asarray(jacobian @ np.linalg.inv(information) @ jacobian.T)


def _information(curve: Curvature, s2: float, dof: float, scale: float) -> Array:
    """Return half the Hessian of minus twice the log-likelihood by (psi, v), at the optimum.

    With rss = scale^2 rss~ and v = scale^2 s2 = rss / dof there.
    """
    m = len(curve.rss_slope)
    v = scale**2 * s2
    hessian = np.empty((m + 1, m + 1))
    hessian[:m, :m] = curve.logdet + curve.rss / s2
    hessian[:m, m] = hessian[m, :m] = -curve.rss_slope / (s2 * v)
    hessian[m, m] = dof / v**2
    return 0.5 * hessian


def _residual_variance(structure: Structure, white: Whitened, optimum: Optimum) -> float:
    """Return the variance of sigma^2 with the vanished directions held at zero."""
    at, lam = optimum.criterion, optimum.lam
    turned = structure.factors @ lam.T
    directions = turned + turned.transpose(0, 2, 1)
    curve = differentiate(white.blocks, white.q, lam, at, directions)
    information = _information(curve, at.sigma2, at.dof, white.scale)
    score = score_psi(white.blocks, white.q, lam, at)
    factors = structure.factors
    information[:-1, :-1] += np.einsum("cij,ik,dkj->cd", factors, score, factors)
    return float(np.linalg.pinv(information, rcond=1e-10, hermitian=True)[-1, -1])


def describe_singularity(fit: RemlFit) -> str:
    """Return which variance or correlation stands on its boundary, in one clause."""
    names = variance_names(fit.moments.random, fit.moments.group, fit.structure.labels)
    scaled = scaled_names(fit.moments.random, fit.moments.group, fit.structure.labels)
    values = scale_covariance(fit.g, fit.structure.labels)
    size = np.diag(fit.white.basis @ fit.white.basis.T)
    zero = [
        f"{name} = 0"
        for name, (i, j) in zip(names, fit.structure.labels, strict=True)
        if i == j and fit.g[i, i] < 1e-8 * fit.sigma2 * size[i]
    ]
    if zero:
        return " and ".join(zero)
    extreme = [
        f"{name} = {round(value):+d}"
        for name, value in zip(scaled, values, strict=True)
        if name.startswith("corr(") and abs(value) > 1.0 - 1e-6
    ]
    if extreme:
        return " and ".join(extreme)
    _, vectors = np.linalg.eigh(fit.g)
    parts = zip(vectors[:, 0], fit.moments.random, strict=True)
    return "the variance of " + " ".join(f"{w:+.2g} {name}" for w, name in parts) + " is 0"


def _scale_slopes(g: Array, labels: tuple[tuple[int, int], ...]) -> Array:
    """Return the Jacobian (m, m) of SDs and correlations by g's elements at `labels`."""
    place = {label: index for index, label in enumerate(labels)}
    slopes = np.zeros((len(labels), len(labels)))
    with np.errstate(invalid="ignore", divide="ignore"):
        for row, (i, j) in enumerate(labels):
            if i == j:
                slopes[row, row] = 0.5 / np.sqrt(g[i, i])
                continue
            both = np.sqrt(g[i, i] * g[j, j])
            slopes[row, row] = 1.0 / both
            for k in (i, j):
                # The exchangeable structure reports one variance for both coefficients.
                at = place.get((k, k), 0)
                slopes[row, at] -= 0.5 * g[i, j] / (both * g[k, k])
    return slopes


def _log_interval(value: float, se: float) -> list[Any]:
    if not value > 0.0:
        return [np.nan, np.nan]
    factor = np.exp(Z95 * se / value)
    return [value / factor, value * factor]


def _errors(cov: Array) -> Array:
    """Return standard errors; nan where rounding has left a variance below zero.

    That happens to a correlation within rounding of +-1, far from a covariate's zero.
    """
    variances = np.diag(cov)
    return np.sqrt(np.where(variances >= 0.0, variances, np.nan))
