"""Predictions for rows: population, conditional on known groups, and for new groups."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.likelihood.parameters import check_level
from bhlm.moments.groups import place_new_rows
from bhlm.reml.estimate import Estimate
from bhlm.reml.groups import solve_groups
from bhlm.reml.maximum import require_likelihood

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def predict_rows(
    fit: Estimate,
    labels: Array,
    x: Array,
    z: Array,
    *,
    kind: str = "conditional",
    new_groups: str = "error",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return predictions with intervals, one row per row of x.

    Columns `estimate`, `se` of the mean, `lower` and `upper` for the mean, and
    `lower_new` and `upper_new` for one new observation. "population" is X beta, and a new
    observation adds z'Gz + sigma^2. "conditional" is X beta + Z u_hat with the error
    (x - z D_j)(beta_hat - beta) + z (u_hat - u), whose parts are independent
    (D_j: `GroupSolution.loadings`). The variance parameters count as known. With weights, a new
    observation is one of weight 1; with known variances it is a true effect, without sampling
    error, as that of metafor's predict().

    Args:
        fit: the fit.
        labels: group labels (n,).
        x: fixed columns (n, p).
        z: random columns (n, q).
        kind: "conditional" or "population".
        new_groups: for groups that the fit has not seen, "error", or "population": X beta
            with the error z'Gz of an unknown group.
        level: of the intervals, normal.

    Raises:
        ArgumentError: an unknown kind, a level outside (0, 1), a fit by pseudo-likelihood.
        DataError: a group that the fit has not seen, if that is an error.
    """
    require_likelihood(fit, "predict()")
    import pandas as pd

    check_level(level)
    at = place_new_rows(fit.moments, labels, kind=kind, new_groups=new_groups)
    solution = solve_groups(fit)
    # Quadratic forms of columns far from zero would cancel; in the whitened ones they do not.
    lever, turned = x @ solution.fixed, z @ solution.basis
    estimate = x @ fit.beta
    own = 0.0 if fit.weights is not None and fit.weights.holds_sigma else fit.sigma2
    spread = np.einsum("ni,ij,nj->n", turned, solution.prior, turned)
    if kind == "population":
        variance = np.einsum("ni,ij,nj->n", lever, solution.fixed_cov, lever)
        new = variance + spread + own
    else:
        known = at >= 0
        seen, mine = at[known], turned[known]
        estimate[known] += np.einsum("ni,ni->n", mine, solution.mean[seen])
        lever[known] -= np.einsum("ni,nip->np", mine, solution.loadings[seen])
        spread[known] = np.einsum("ni,nij,nj->n", mine, solution.cov[seen], mine)
        variance = np.einsum("ni,ij,nj->n", lever, solution.fixed_cov, lever) + spread
        new = variance + own
    half = special.ndtri(0.5 + level / 2.0)
    se, se_new = np.sqrt(variance), np.sqrt(new)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "lower": estimate - half * se,
            "upper": estimate + half * se,
            "lower_new": estimate - half * se_new,
            "upper_new": estimate + half * se_new,
        }
    )
