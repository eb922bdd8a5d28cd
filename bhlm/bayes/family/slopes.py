"""Effects of a column, and lines along it, of the posterior of a family, on either scale."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.family.level_draws import AnyFamilyDraws
from bhlm.bayes.slopes import describe_draws
from bhlm.likelihood.expected import Places, check_kind, find_places, state_steps
from bhlm.likelihood.parameters import check_level
from bhlm.likelihood.slopes import By, name_points, state_lines, state_slopes

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Draws of which a response is averaged over the population: its Monte Carlo error is then at
# most a thirtieth of its SD.
DRAWS = 1000


def describe_slopes(
    fit: AnyFamilyDraws,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    scale: str = "response",
    kind: str | None = None,
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the effect of a column at each combination of moderators' values, by the draws.

    One column per moderator, then `mean, sd, lower, upper`; the arguments are those of
    `bhlm.reml.family.slopes.estimate_slopes`, what is said there of the two scales too.

    Raises:
        ArgumentError: as `bhlm.likelihood.slopes.state_slopes`; an unknown scale or kind.
    """
    check_level(level)
    kind = check_kind(scale, kind)
    if scale == "link":
        grid = state_slopes(fit.moments, column, by=by, at=at)
        drawn = fit.flat.beta @ grid.contrasts.T
    else:
        steps = state_steps(fit.moments, column, by=by, at=at)
        grid = steps.grid
        drawn = steps.measure(fit.moments, fit.family, *thin_draws(fit), kind=kind)
    table = describe_draws(drawn, level=level)
    return name_points(grid, table, level=level, scale=scale, kind=kind)


def describe_lines(
    fit: AnyFamilyDraws,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    values: Sequence[float] | None = None,
    scale: str = "response",
    kind: str | None = None,
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the expected response along a column, by the draws.

    One column for the column and each moderator, then `mean, sd, lower, upper`; see
    `bhlm.reml.family.slopes.estimate_lines`.

    Raises:
        ArgumentError: as `describe_slopes`.
    """
    check_level(level)
    kind = check_kind(scale, kind)
    grid = state_lines(fit.moments, column, by=by, at=at, values=values)
    places = find_places(fit.moments, grid.contrasts)
    table = expect_draws(fit, places, scale=scale, kind=kind, level=level)
    return name_points(grid, table, level=level, scale=scale, kind=kind)


def expect_draws(
    fit: AnyFamilyDraws, places: Places, *, scale: str, kind: str, level: float
) -> "pd.DataFrame":
    """Return `mean, sd, lower, upper` at places; arguments as of `describe_lines`."""
    if scale == "link":
        return describe_draws(places.add_effects(fit.flat.beta), level=level)
    beta, g = thin_draws(fit)
    return describe_draws(places.expect(fit.family, beta, g, kind=kind), level=level)


def thin_draws(fit: AnyFamilyDraws) -> tuple[Array, Array]:
    """Return beta (N, p) and G (N, q, q) of about `DRAWS` draws."""
    flat = fit.flat
    step = max(1, len(flat.beta) // DRAWS)
    return flat.beta[::step], flat.g[::step]
