"""HLM's chi-square test of each variance component."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.effects import regress_groups
from bhlm.likelihood.laws import chi_square_tail
from bhlm.likelihood.whitening import group_ranks
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.hlm_df import assign_equations
from bhlm.reml.maximum import require_plain

if TYPE_CHECKING:
    import pandas as pd


def hlm_chi_square(fit: Estimate) -> "pd.DataFrame":
    """Return HLM's chi-square test of each random coefficient's variance.

    Rows are the random coefficients; columns `chi2, df, p, groups`. With u_j the least-squares
    coefficients of group j on Z_j, of what the fixed effects leave, and v_qqj their sampling
    variance, chi2 = sum_j u_qj^2 / v_qqj over the groups whose Z_j has full rank, `groups` of
    them; df = groups - S_q - 1, with S_q the predictors in the coefficient's equation (see
    `bhlm.reml.fixed.hlm_df`). Source: Raudenbush & Bryk (2002), eq. 3.103.

    Raises:
        ArgumentError: no group has a Z_j of full rank, or too few have.
    """
    require_plain(fit, "a test of variances")
    import pandas as pd

    q = fit.white.q
    full = group_ranks(fit.moments) == q
    groups = int(full.sum())
    equations = assign_equations(fit.moments)
    df = np.array([groups - equations.count(i) for i in range(q)])
    if df.min() < 1:
        raise ArgumentError(
            f"only {groups} of {len(full)} '{fit.moments.group}' have as many independent rows as "
            f"the {q} random coefficients, too few for HLM's chi-square; use the "
            "likelihood-ratio test"
        )
    u, v = regress_groups(fit.white, full, beta=fit.beta, sigma2=fit.sigma2)
    chi2 = (u**2 / v).sum(axis=0)
    return pd.DataFrame(
        {"chi2": chi2, "df": df, "p": chi_square_tail(chi2, df), "groups": groups},
        index=pd.Index(fit.moments.random, name="coefficient"),
    )
