"""Effects of a column, and lines along it, of a family by maximum likelihood, on either scale."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from bhlm.likelihood.expected import UNIT, Places, check_kind, find_places, state_steps
from bhlm.likelihood.parameters import check_level
from bhlm.likelihood.slopes import By, name_points, state_lines, state_slopes
from bhlm.reml.family.inference import find_covariance, find_joint_covariance
from bhlm.reml.family.maximum import FamilyMaximum, assemble_covariance
from bhlm.reml.family.population import spread_by_delta

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def estimate_slopes(
    fit: FamilyMaximum,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    scale: str = "response",
    kind: str | None = None,
    method: str = "z",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the effect of a column at each combination of moderators' values.

    One column per moderator, then `slope, se, lower, upper, statistic, p`. On the response scale it
    is the difference that a level or a column of zeros and ones makes, else the derivative at the
    column's mean, with standard errors by the delta method; on the link scale the slope.

    Args:
        fit: the fit.
        column: as in `bhlm.likelihood.slopes.state_slopes`.
        by: moderators, which on the response scale need not interact with the column.
        at: values of other columns, which otherwise stand at their means.
        scale: "response" or "link".
        kind: "population-averaged" (the default) or "unit-specific", of the response.
        method: "z", "cr0" or "cr1".
        level: of the intervals.

    Raises:
        ArgumentError: as `bhlm.likelihood.slopes.state_slopes`; a scale, a kind or a method that
            is not known.
    """
    import pandas as pd

    check_level(level)
    kind = check_kind(scale, kind)
    if scale == "link":
        grid = state_slopes(fit.moments, column, by=by, at=at)
        rows = grid.contrasts
        slope = rows @ fit.beta
        variance = np.einsum("mi,ij,mj->m", rows, find_covariance(fit, method), rows)
    else:
        steps = state_steps(fit.moments, column, by=by, at=at)
        grid = steps.grid

        def measure(values: Array) -> Array:
            beta, g = _split(fit, values)
            return steps.measure(fit.moments, fit.family, beta, g, kind=kind)[0]

        values = _join(fit)
        slope = measure(values)
        variance = np.diag(spread_by_delta(measure, values, find_joint_covariance(fit, method)))
    se = np.sqrt(np.maximum(variance, 0.0))
    z, half = slope / se, special.ndtri(0.5 + 0.5 * level) * se
    table = pd.DataFrame(
        {
            "slope": slope,
            "se": se,
            "lower": slope - half,
            "upper": slope + half,
            "statistic": z,
            "p": 2.0 * special.ndtr(-np.abs(z)),
        }
    )
    return name_points(grid, table, level=level, scale=scale, kind=kind)


def estimate_lines(
    fit: FamilyMaximum,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    values: Sequence[float] | None = None,
    scale: str = "response",
    kind: str | None = None,
    method: str = "z",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the expected response along a column; see `bhlm.likelihood.slopes.state_lines`.

    One column for the column and each moderator, then `estimate, se, lower, upper`: the response of
    one trial or unit of exposure, of a group whose effects are zero or of the population. Intervals
    are symmetric on the link scale.

    Raises:
        ArgumentError: as `estimate_slopes`.
    """
    check_level(level)
    kind = check_kind(scale, kind)
    grid = state_lines(fit.moments, column, by=by, at=at, values=values)
    table = expect_places(
        fit, find_places(fit.moments, grid.contrasts),
        scale=scale, kind=kind, method=method, level=level,
    )  # fmt: skip
    return name_points(grid, table, level=level, scale=scale, kind=kind)


def expect_places(
    fit: FamilyMaximum, places: Places, *, scale: str, kind: str, method: str, level: float
) -> "pd.DataFrame":
    """Return `estimate, se, lower, upper` at places; arguments as of `estimate_lines`."""
    import pandas as pd

    family = fit.family
    half = special.ndtri(0.5 + 0.5 * level)
    if kind == UNIT:
        middle = places.add_effects(fit.beta)
        cov = find_covariance(fit, method)
        error = np.sqrt(np.einsum("mi,ij,mj->m", places.x, cov, places.x))
        estimate, slope = family.mean(middle), family.slope(middle)
    else:

        def expect(values: Array) -> Array:
            return places.expect(family, *_split(fit, values), kind=kind)[0]

        values = _join(fit)
        estimate = expect(values)
        middle = family.apply_link(estimate)
        slope = family.slope(middle)
        spread = np.diag(spread_by_delta(expect, values, find_joint_covariance(fit, method)))
        error = np.sqrt(np.maximum(spread, 0.0)) / slope
    if scale == "link":
        ends = {"lower": middle - half * error, "upper": middle + half * error}
        return pd.DataFrame({"estimate": middle, "se": error} | ends)
    low, high = family.mean(middle - half * error), family.mean(middle + half * error)
    return pd.DataFrame({"estimate": estimate, "se": slope * error, "lower": low, "upper": high})


def _join(fit: FamilyMaximum) -> Array:
    """Return beta and the free elements of G of all factors (p + m,)."""
    return np.append(fit.beta, fit.components)


def _split(fit: FamilyMaximum, values: Array) -> tuple[Array, Array]:
    """Return beta (1, p) and G (1, Q, Q) of what `_join` returns."""
    p = len(fit.beta)
    return values[None, :p], assemble_covariance(fit, values[p:])[None]
