"""Predictions of a family with several factors for rows: of known units, and of the population."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from bhlm.likelihood.averages import average_mean, spread_effects
from bhlm.likelihood.crossed_families import Approximation, WhitenedCross
from bhlm.likelihood.expected import check_scale, find_middle
from bhlm.likelihood.nested import is_nested
from bhlm.likelihood.parameters import check_level
from bhlm.moments.groups import check_units
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.nested_predictions import average_known, place_units, spread_known
from bhlm.reml.standard_errors import Z95

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
    check_units(list(fit.patterns.groups), codes, kind=kind, new_groups=new_groups)
    codes = codes if kind == "conditional" else np.full_like(codes, -1)
    units = place_units(fit, codes) if fit.marginal is not None else None
    linear, own, effects = locate_rows(fit, codes, x, z, offset, units=units)
    for code, own_z, g in zip(codes, z, fit.gs, strict=True):
        new = code < 0
        effects[new] += spread_effects(own_z[new], g) ** 2
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


class Located(NamedTuple):
    """Rows on the link scale, by the effects of the units that the fit has seen."""

    linear: Array  # (n,)
    fixed: Array  # (n,) the variance of the fixed effects' part
    effects: Array  # (n,) that of the units' effects, given the parameters


def locate_rows(
    fit: FamilyLevelsEstimate,
    codes: Array,
    x: Array,
    z: Sequence[Array],
    offset: Array,
    *,
    units: Array | None,
) -> Located:
    """Return the linear predictor of rows and its variances; units not seen have no effect.

    Arguments as of `predict_rows`; `units` is what `place_units` has of integrated effects.
    """
    linear = offset + x @ fit.beta
    own = np.einsum("ni,ij,nj->n", x, fit.beta_cov, x)
    effects = _spread_known(fit, z, codes) if units is None else spread_known(fit, z, units)
    for code, own_z, mean in zip(codes, z, fit.means, strict=True):
        seen = code >= 0
        linear[seen] += np.einsum("nq,nq->n", own_z[seen], mean[code[seen]])
    return Located(linear, own, effects)


def expect_units(fit: FamilyLevelsEstimate, factor: str) -> "pd.DataFrame":
    """Return the expected response of each unit of a factor where every column has its mean.

    That of a trial or a unit of exposure at the effects of the unit and of those that it lies in,
    those of other factors being zero: `estimate`, and `lower`, `upper` at 1.96 standard errors on
    the link scale, which count the error of the fixed effects as if it were apart from that of the
    effects; and `n` rows, and `observed`, the unit's own proportion or rate.

    Raises:
        ArgumentError: it is not a factor of the model.
    """
    import pandas as pd

    at, patterns, middle = fit.find_factor(factor), fit.patterns, find_middle(fit.patterns)
    own, count = patterns.codes[at], patterns.labels[at].n_levels
    first = np.unique(own, return_index=True)[1]
    codes = np.full((len(patterns.codes), count), -1)
    for place, each in enumerate(patterns.codes):
        if place == at or is_nested(own, each):
            codes[place] = each[first]
    ends = np.cumsum([0, *(structure.q for structure in fit.structures)])
    z = [np.repeat(middle.z[:, a:b], count, axis=0) for a, b in pairwise(ends)]
    units = place_units(fit, codes) if fit.marginal is not None else None
    found = locate_rows(
        fit, codes, np.repeat(middle.x, count, axis=0), z, np.full(count, middle.offset),
        units=units,
    )  # fmt: skip
    half = Z95 * np.sqrt(found.fixed + found.effects)
    mean = fit.family.mean
    return pd.DataFrame(
        {
            "n": np.bincount(own, weights=patterns.rows).astype(int),
            "observed": np.bincount(own, weights=patterns.y) / np.bincount(own, weights=patterns.n),
            "estimate": mean(found.linear),
            "lower": mean(found.linear - half),
            "upper": mean(found.linear + half),
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
