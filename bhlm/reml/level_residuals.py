"""The residuals of a factor's units in a fit of several, with the distances of HLM's files."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.likelihood.parameters import name_apart
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import require_plain
from bhlm.reml.residuals import DISTANCE_COLUMNS, rank_distances

if TYPE_CHECKING:
    import pandas as pd


def unit_residuals(fit: LevelsEstimate, factor: str | None = None) -> "pd.DataFrame":
    """Return the residuals of a factor's units, one row per unit.

    Columns: the unit's labels; each coefficient's empirical-Bayes residual; and `mahalanobis`,
    `df`, `p` and `expected`, as `bhlm.reml.residuals.group_residuals` has them.

    Args:
        fit: the fit.
        factor: whose units; None is the factor with the fewest.

    Raises:
        ArgumentError: it is not a factor of the model; a fit with weights or known variances.
    """
    import pandas as pd

    require_plain(fit, "group_residuals()")
    counts = list(fit.moments.groups.values())
    at = int(np.argmin(counts)) if factor is None else fit.find_factor(factor)
    part, columns = fit.moments.factors[at], fit.moments.labels[at].columns
    mean, _, pev = fit.solve_effects()[at]
    prior = fit.sigma2 * fit.lams[at] @ fit.lams[at].T
    names = name_apart([*fit.structures[at].names, *part.columns], table=DISTANCE_COLUMNS)
    labels = dict(zip(names[mean.shape[1] :], columns, strict=True))
    effects = dict(zip(names, (mean @ fit.white.bases[at].T).T, strict=False))
    return pd.DataFrame(labels | effects | rank_distances(mean, prior - pev, prior))
