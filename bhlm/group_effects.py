"""Each group's coefficients: least squares, empirical Bayes, their errors and reliabilities."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.effects import predict_effects
from bhlm.likelihood import factor_group, project_group
from bhlm.reml import RemlFit
from bhlm.whitening import group_ranks

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def describe_groups(fit: RemlFit) -> "pd.DataFrame":
    """Return one row per group and random coefficient.

    Columns: the group's label, `coefficient`, `n`; `fixed`, the group's fixed part of the
    coefficient; `ols`, its own least-squares value, with `ols_se`; `eb` = fixed + u, empirical
    Bayes; `u`; `sd`, the conditional SD of u given the parameters (lme4's condVar); `pev`, the
    prediction error variance, var(u_hat - u), which adds the uncertainty of the fixed effects
    (Henderson's C22); `reliability` tau / (tau + v_j); `shrinkage`, 1 - u / (ols - fixed).

    The fixed part is the least-squares regression of X_j beta on Z_j: exact where the fixed
    effects of a coefficient are its own and its cross-level interactions. Groups whose Z_j has
    not full rank have no `ols`, `fixed`, `reliability` or `shrinkage` (nan).
    """
    import pandas as pd

    moments, white, q = fit.moments, fit.white, fit.white.q
    u, cov = predict_effects(white, fit.beta, fit.root, np.sqrt(fit.sigma2))
    loadings = fixed_loadings(fit)
    pev = cov + loadings @ fit.beta_cov @ loadings.transpose(0, 2, 1)
    full = group_ranks(moments) == q
    n_groups = len(moments.groups)
    ols, fixed, se, reliability = (np.full((n_groups, q), np.nan) for _ in range(4))
    blocks = white.blocks[full]
    gram = np.linalg.inv(blocks[:, :q, :q])
    # y - X beta = s (y~ - X~ beta~): least squares of y is that of X beta plus that of the rest.
    beta = np.linalg.solve(white.fixed, (fit.beta - white.ols) / white.scale)
    left = blocks[:, :q, -1] - blocks[:, :q, q:-1] @ beta
    deviation = white.scale * np.einsum("ia,jab,jb->ji", white.basis, gram, left)
    raw = np.linalg.solve(white.fixed, fit.beta)
    fixed[full] = np.einsum("ia,jab,jb->ji", white.basis, gram, blocks[:, :q, q:-1] @ raw)
    ols[full] = fixed[full] + deviation
    sampling = fit.sigma2 * np.einsum("ia,jab,ib->ji", white.basis, gram, white.basis)
    se[full] = np.sqrt(sampling)
    tau = np.diag(fit.g)
    reliability[full] = tau / (tau + sampling)
    with np.errstate(invalid="ignore", divide="ignore"):
        shrinkage = 1.0 - u / (ols - fixed)
    return pd.DataFrame(
        {
            moments.group: np.repeat(moments.groups, q),
            "coefficient": list(moments.random) * n_groups,
            "n": np.repeat(moments.n.astype(int), q),
            "fixed": fixed.ravel(),
            "ols": ols.ravel(),
            "ols_se": se.ravel(),
            "eb": (fixed + u).ravel(),
            "u": u.ravel(),
            "sd": np.sqrt(np.maximum(np.einsum("jaa->ja", cov), 0.0)).ravel(),
            "pev": np.einsum("jaa->ja", pev).ravel(),
            "reliability": reliability.ravel(),
            "shrinkage": shrinkage.ravel(),
        }
    )


def fixed_loadings(fit: RemlFit) -> Array:
    """Return D_j = G Z_j'V_j^-1 X_j (J, q, p): by how much u_hat falls when beta_hat rises."""
    white, q = fit.white, fit.white.q
    lam = np.ascontiguousarray(np.linalg.solve(white.basis, fit.root) / np.sqrt(fit.sigma2))
    root, half = np.empty((q, q)), np.empty((q, white.blocks.shape[1]))
    out = np.empty_like(half)
    left = white.basis @ lam @ lam.T
    inverse = np.linalg.inv(white.fixed)
    loadings = np.empty((len(white.blocks), q, white.p))
    for j, block in enumerate(white.blocks):
        factor_group(block, q, lam, root, half)
        project_group(block, q, half, out)
        loadings[j] = left @ out[:, q:-1] @ inverse
    return loadings
