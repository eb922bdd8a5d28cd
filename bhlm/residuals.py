"""Residuals at both levels, and the group-level distances that HLM writes to its residual file."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.effects import predict_effects
from bhlm.group_effects import fixed_loadings
from bhlm.reml import RemlFit
from bhlm.whitening import group_ranks

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def row_residuals(fit: RemlFit, labels: Array, x: Array, z: Array, y: Array) -> "pd.DataFrame":
    """Return level-1 residuals, one row per row: group, `fitted`, `marginal`, `conditional`,

    `standardized`. Marginal is y - X beta, conditional y - X beta - Z u_hat, standardized the
    conditional one over sigma.
    """
    import pandas as pd

    u, _ = predict_effects(fit.white, fit.beta, fit.root, np.sqrt(fit.sigma2))
    at = np.searchsorted(fit.moments.groups, labels)
    marginal = y - x @ fit.beta
    conditional = marginal - np.einsum("ni,ni->n", z, u[at])
    return pd.DataFrame(
        {
            fit.moments.group: labels,
            "fitted": y - conditional,
            "marginal": marginal,
            "conditional": conditional,
            "standardized": conditional / np.sqrt(fit.sigma2),
        }
    )


def group_residuals(fit: RemlFit) -> "pd.DataFrame":
    """Return level-2 residuals, one row per group.

    Columns: the group; each coefficient's empirical-Bayes residual; `mahalanobis`, the squared
    distance u' var(u_hat)^-1 u with var(u_hat) = G - PEV; `expected`, the chi-square quantile
    (q df) of its rank, for a Q-Q plot; `log_sd`, the log of the group's own residual SD about its
    least-squares fit (nan without residual df). Source: Raudenbush & Bryk (2002), p. 274.
    """
    import pandas as pd

    moments = fit.moments
    u, cov = predict_effects(fit.white, fit.beta, fit.root, np.sqrt(fit.sigma2))
    loadings = fixed_loadings(fit)
    spread = fit.g - (cov + loadings @ fit.beta_cov @ loadings.transpose(0, 2, 1))
    distance = np.einsum("ji,jik,jk->j", u, np.linalg.pinv(spread, hermitian=True), u)
    rank = stats.rankdata(distance)
    expected = stats.chi2.ppf((rank - 0.5) / len(rank), u.shape[1])
    table = pd.DataFrame({moments.group: moments.groups})
    for k, name in enumerate(moments.random):
        table[name] = u[:, k]
    table["mahalanobis"] = distance
    table["expected"] = expected
    table["log_sd"] = log_dispersion(fit)[0]
    return table


def log_dispersion(fit: RemlFit) -> tuple[Array, Array]:
    """Return each group's log residual SD (J,) about its own fit, and its df (J,)."""
    q, white = fit.white.q, fit.white
    df = fit.moments.n - group_ranks(fit.moments)
    beta = np.linalg.solve(white.fixed, (fit.beta - white.ols) / white.scale)
    contrast = np.append(-beta, 1.0)
    left = np.einsum("jab,b->ja", white.blocks[:, :q, q:], contrast)
    gram = np.linalg.pinv(white.blocks[:, :q, :q], rcond=1e-10, hermitian=True)
    rss = np.einsum("a,jab,b->j", contrast, white.blocks[:, q:, q:], contrast)
    rss = white.scale**2 * np.maximum(rss - np.einsum("ja,jab,jb->j", left, gram, left), 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(df > 0, 0.5 * np.log(rss / df), np.nan), df


def homogeneity_test(fit: RemlFit, *, least_df: int = 10) -> dict[str, float]:
    """Return HLM's test that the residual variance is the same in every group: chi2, df, p.

    H = sum d_j^2 with d_j = (log S_j^2 - pooled) / sqrt(2 / f_j), over groups with at least
    `least_df` residual df. Source: Raudenbush & Bryk (2002), eq. 9.6-9.8.
    """
    log_sd, df = log_dispersion(fit)
    use = df >= least_df
    value, f = 2.0 * log_sd[use], df[use]
    pooled = float(f @ value / f.sum())
    chi2 = float(np.sum((value - pooled) ** 2 * f / 2.0))
    count = int(use.sum()) - 1
    return {"chi2": chi2, "df": count, "p": float(stats.chi2.sf(chi2, count))}
