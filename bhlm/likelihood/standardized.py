"""Standardised coefficients: in SDs of all rows, and in SDs of the level at which a column varies.

A coefficient b of x becomes b SD(x) / SD(y): how many SDs y changes where x does by one. With
groups there is more than one SD to take, and each answers another question.

- `total`: SDs over all rows, as in single-level regression. Source: Hox, Moerbeek & van de Schoot
  (2018), Multilevel Analysis, 3rd ed., section 2.4.2.
- `by_level`: SDs of one level. Of a column that varies within groups alone, such as cwc(x), the SD
  of x about its group's mean and that of y about its own, so the share of a pupil's standing in
  class; of one that is constant in groups, such as gm(x), SDs between groups: that of x over the
  groups, and of y that of the groups' true means. A column with both, such as an x that is not
  centred, has no SD of one level: split it into cwc(x) and gm(x). Source: Snijders & Bosker (2012),
  Multilevel Analysis, 2nd ed., section 3.3, for the variances within and between.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.whitening import ROUNDING
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import INTERCEPT, Moments, pool

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

WITHIN, BETWEEN, BOTH = "within", "between", "both"


@dataclass(frozen=True, slots=True)
class Scales:
    """By what the coefficients of p columns are multiplied."""

    names: tuple[str, ...]  # (p,) without the intercept
    level: tuple[str, ...]  # (p,) "within", "between" or "both"
    total: Array  # (p,) SD of the column over SD of the response, over all rows
    by_level: Array  # (p,) the same at the column's level; nan of both


def measure_scales(moments: Moments | CellMoments) -> Scales:
    """Return by what the fixed effects are multiplied to be standardised.

    Within groups, SDs are over n - J: sqrt(sum of squares about the groups' means / (n - J)).
    Between, that of x is over J - 1, and of y the ANOVA estimate of the variance of the groups'
    means, (S^2_between - S^2_within) / n0, which is nan where it is not positive.

    Raises:
        ArgumentError: several grouping factors, which have more levels than two.
    """
    if isinstance(moments, CellMoments):
        raise ArgumentError(
            "standardized() knows two levels, and this model has several grouping factors; "
            "standardise the columns by scale() in the formula"
        )
    n, grand, total = pool(moments)
    groups = moments.n_groups
    y = moments.columns.index(moments.response) if moments.response in moments.columns else -1
    names = tuple(name for name in moments.fixed if name != INTERCEPT)
    inner = moments.cross.sum(axis=0)
    rows = moments.mass
    spread_y = np.sqrt(total[y, y] / (n - 1.0))
    within_y = inner[y, y] / max(n - groups, 1.0)
    size = (n - float(rows @ rows) / n) / max(groups - 1.0, 1.0)
    about = moments.mean[:, y] - grand[y]
    between_y = (float(rows @ about**2) / max(groups - 1.0, 1.0) - within_y) / size
    levels, whole, own = [], [], []
    for name in names:
        i = moments.columns.index(name)
        means = moments.mean[:, i]
        is_constant = bool((moments.cross[:, i, i] <= ROUNDING * rows * means**2).all())
        away = means - grand[i]
        between = float(rows @ away**2)
        is_centred = between <= ROUNDING * max(total[i, i], 0.0)
        levels.append(BETWEEN if is_constant else WITHIN if is_centred else BOTH)
        whole.append(np.sqrt(total[i, i] / (n - 1.0)) / spread_y)
        if is_constant:
            sd = float(means.std(ddof=1))
            own.append(sd / np.sqrt(between_y) if between_y > 0.0 else np.nan)
        elif is_centred:
            own.append(np.sqrt(inner[i, i] / max(n - groups, 1.0) / within_y))
        else:
            own.append(np.nan)
    return Scales(names, tuple(levels), np.array(whole), np.array(own))


def standardize(table: "pd.DataFrame", scales: Scales, *, value: str) -> "pd.DataFrame":
    """Return the fixed effects of a table, standardised.

    Columns `level`, `estimate` as it is, then `total` and `by_level`, each with `_lower` and
    `_upper`: the ends of its interval, with the SDs as known.

    Args:
        table: fixed effects by name, with `value`, `lower` and `upper`.
        scales: of the model.
        value: the column of the estimates.
    """
    import pandas as pd

    chosen = table.loc[list(scales.names)]
    found = {"level": list(scales.level), "estimate": chosen[value].to_numpy()}
    for name, scale in (("total", scales.total), ("by_level", scales.by_level)):
        found[name] = chosen[value].to_numpy() * scale
        found[f"{name}_lower"] = chosen["lower"].to_numpy() * scale
        found[f"{name}_upper"] = chosen["upper"].to_numpy() * scale
    return pd.DataFrame(found, index=pd.Index(scales.names, name="parameter"))
