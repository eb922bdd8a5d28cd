"""Predictions of a family with several factors for rows: of known units, and of the population."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError, DataError
from bhlm.likelihood.averages import average_mean, spread_effects
from bhlm.likelihood.crossed_families import Approximation, WhitenedCross
from bhlm.likelihood.expected import check_scale
from bhlm.likelihood.parameters import check_level
from bhlm.moments.groups import KINDS
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.nested_predictions import average_known, place_units, spread_known

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def predict_rows(
    fit: FamilyLevelsEstimate,
    codes: Array,
    x: Array,
    z: Sequence[Array],
    offset: Array,
    *,
    kind: str = "conditional",
    scale: str = "response",
    new_groups: str = "error",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return predictions with intervals, one row per row: `estimate, se, lower, upper`.

    On the link scale "conditional" is x beta + sum_f z_f u_f at the effects' joint mode, with the
    error of beta and the curvature there, and for units that the fit has not seen the variance of
    their effects; "population" is x beta, of units whose effects are zero. On the response scale
    "conditional" is the mean of the expected response over the normal distribution that Laplace's
    approximation has for the effects, and "population" its mean over all units there may be;
    intervals are those of the link scale. Of nested units whose effects were integrated, posterior
    means and SDs stand in the place of mode and curvature, and the mean of the expected response
    over the posterior is exact.

    Args:
        fit: the fit.
        codes: the unit (F, n) of every factor, -1 for units that the fit has not seen.
        x: fixed columns (n, p).
        z: random columns (n, q_f) by factor.
        offset: (n,).
        kind: "conditional" or "population".
        scale: "response" or "link".
        new_groups: for units that the fit has not seen, "error" or "population".
        level: of the intervals.

    Raises:
        ArgumentError: an unknown kind, scale or choice for new units, a level outside (0, 1).
        DataError: a unit that the fit has not seen, if that is an error.
    """
    import pandas as pd

    check_level(level)
    check_scale(scale)
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    if new_groups not in ("error", "population"):
        raise ArgumentError(
            f"new_groups={new_groups!r} is not known; choose 'error' or 'population'"
        )
    codes = codes if kind == "conditional" else np.full_like(codes, -1)
    if kind == "conditional" and new_groups == "error" and (codes < 0).any():
        name = list(fit.patterns.groups)[int(np.flatnonzero((codes < 0).any(axis=1))[0])]
        raise DataError(
            f"some rows have a level of '{name}' that the fit has not seen; ask for "
            "new_groups='population', or kind='population'"
        )
    linear = offset + x @ fit.beta
    own = np.einsum("ni,ij,nj->n", x, fit.beta_cov, x)
    units = place_units(fit, codes) if fit.marginal is not None else None
    effects = _spread_known(fit, z, codes) if units is None else spread_known(fit, z, units)
    for code, own_z, mean, g in zip(codes, z, fit.means, fit.gs, strict=True):
        seen = code >= 0
        linear[seen] += np.einsum("nq,nq->n", own_z[seen], mean[code[seen]])
        effects[~seen] += spread_effects(own_z[~seen], g) ** 2
    half = special.ndtri(0.5 + level / 2.0)
    se = np.sqrt(own + (effects if kind == "conditional" else 0.0))
    if scale == "link":
        return pd.DataFrame(
            {"estimate": linear, "se": se, "lower": linear - half * se, "upper": linear + half * se}
        )
    family = fit.family
    estimate = average_mean(family, linear, np.sqrt(effects))
    if units is not None and (known := units[0] >= 0).any():
        parts = [each[known] for each in z]
        estimate[known] = average_known(fit, x[known], parts, offset[known], units[:, known])
    middle = linear if kind == "conditional" else family.apply_link(estimate)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": family.slope(middle) * se,
            "lower": family.mean(middle - half * se),
            "upper": family.mean(middle + half * se),
        }
    )


def _spread_known(fit: FamilyLevelsEstimate, z: Sequence[Array], codes: Array) -> Array:
    """Return the variances (n,) of sum_f z_f u_f over the units that the fit has seen."""
    white = fit.white
    assert isinstance(white, WhitenedCross)
    units = codes[list(white.order)]
    parts = []
    for level, factor in enumerate(white.order):
        own = z[factor] @ fit.roots[factor]
        own[units[level] < 0] = 0.0
        parts.append(own)
    p = len(fit.beta)
    return Approximation(white).spread(
        fit.point[:p], fit.lams, np.column_stack(parts), np.maximum(units, 0)
    )
