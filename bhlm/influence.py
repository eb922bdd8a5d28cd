"""Influence of each group by exact deletion: dropping a group is dropping its block."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bhlm.optimize import maximize
from bhlm.parameters import RESIDUAL, variance_names
from bhlm.reml import RemlFit

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def measure_influence(fit: RemlFit) -> "pd.DataFrame":
    """Return what deleting each group changes, one row per group.

    The model is refitted without each group in turn, from the full fit's optimum. Columns: the
    group's label; `cook`, Cook's distance (b - b_j)' V^-1 (b - b_j) / p of the fixed effects;
    `covratio`, |V_j| / |V|; `converged` and `singular` of the refit; then for each fixed effect
    and variance component its change, without the group less with it. Cost O(J^2), from moments
    alone. Source: Cook (1977), Technometrics 19, 15-18; Demidenko & Stukel (2005), Statistics
    in Medicine 24, 893-909.
    """
    import pandas as pd

    moments, white = fit.moments, fit.white
    labels = fit.structure.labels
    names = [
        *moments.fixed,
        *variance_names(moments.random, moments.group, labels),
        RESIDUAL,
    ]
    own = np.array([*fit.beta, *(fit.g[i, j] for i, j in labels), fit.sigma2])
    precision = np.linalg.inv(fit.beta_cov)
    logdet = np.linalg.slogdet(fit.beta_cov)[1]
    keep = np.ones(len(moments.groups), dtype=bool)
    rows = []
    for j, label in enumerate(moments.groups):
        keep[j] = False
        rest = replace(
            white, blocks=np.ascontiguousarray(white.blocks[keep]), n=white.n - moments.n[j]
        )
        keep[j] = True
        found = maximize(rest, fit.structure, restricted=fit.method == "reml", start=fit.theta)
        at = found.criterion
        sigma2 = at.sigma2 * white.scale**2
        root = white.basis @ found.lam * np.sqrt(sigma2)
        g = root @ root.T
        beta = white.ols + white.scale * white.fixed @ at.beta
        cov = sigma2 * white.fixed @ at.phi @ white.fixed.T
        step = beta - fit.beta
        changes = np.array([*beta, *(g[a, b] for a, b in labels), sigma2]) - own
        rows.append(
            {
                moments.group: label,
                "cook": float(step @ precision @ step) / len(beta),
                "covratio": float(np.exp(np.linalg.slogdet(cov)[1] - logdet)),
                "converged": found.converged,
                "singular": found.singular,
                **dict(zip(names, changes.tolist(), strict=True)),
            }
        )
    return pd.DataFrame(rows)
