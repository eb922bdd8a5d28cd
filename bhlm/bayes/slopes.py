"""Simple slopes, lines and Johnson-Neyman bounds of a posterior, by its draws."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.errors import ArgumentError
from bhlm.likelihood.johnson_neyman import JohnsonNeyman, find_regions, scan_bounds
from bhlm.likelihood.parameters import check_level
from bhlm.likelihood.slopes import (
    By,
    name_points,
    pair_points,
    state_along,
    state_averages,
    state_lines,
    state_slopes,
)
from bhlm.moments.cells import AnyMoments
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def describe_slopes(
    fit: Posterior,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the slope of a column at each combination of moderators; see `state_slopes`.

    One column per moderator, then `mean, sd, lower, upper` of the draws, with equal-tailed
    intervals. `attrs` tell the `column`, the `level` and what is `held`.

    Raises:
        ArgumentError: as `state_slopes`, or a level outside (0, 1).
    """
    grid = state_slopes(_read_moments(fit), column, by=by, at=at)
    drawn = _draw(fit, grid.contrasts)
    return name_points(grid, describe_draws(drawn, level=level), level=level)


def average_draws(
    fit: Posterior, column: str, *, by: str | None = None, level: float = 0.95
) -> "pd.DataFrame":
    """Return the slope of a column averaged over the rows; see `state_averages`.

    Columns as of `describe_slopes`.

    Raises:
        ArgumentError: as `state_averages`, or a level outside (0, 1).
    """
    grid = state_averages(_read_moments(fit), column, by=by)
    drawn = _draw(fit, grid.contrasts)
    return name_points(grid, describe_draws(drawn, level=level), level=level)


def contrast_slopes(
    fit: Posterior,
    column: str,
    *,
    by: By,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the difference of each pair of simple slopes, the later less the earlier.

    Columns `mean, sd, lower, upper`, and `probability`, that the difference is above zero.

    Raises:
        ArgumentError: as `describe_slopes`, or fewer than two slopes.
    """
    pairs = pair_points(state_slopes(_read_moments(fit), column, by=by, at=at))
    drawn = _draw(fit, pairs.contrasts)
    table = describe_draws(drawn, level=level)
    table["probability"] = (drawn > 0.0).mean(axis=0)
    return table.set_axis(list(pairs.labels)).rename_axis("difference")


def describe_lines(
    fit: Posterior,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    values: Sequence[float] | None = None,
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the expected response along a column, by moderators; see `state_lines`.

    One column for the column and each moderator, then `mean, sd, lower, upper`: of the mean where
    the random effects are zero.

    Raises:
        ArgumentError: as `state_lines`, or a level outside (0, 1).
    """
    grid = state_lines(_read_moments(fit), column, by=by, at=at, values=values)
    drawn = _draw(fit, grid.contrasts)
    return name_points(grid, describe_draws(drawn, level=level), level=level)


def locate_bounds(
    fit: Posterior,
    column: str,
    *,
    by: str,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
) -> JohnsonNeyman:
    """Return for which values of a moderator the equal-tailed interval of a slope excludes zero.

    They are searched among the values of the data only: from the lowest to the highest, or two
    SDs to either side of the mean where the moderator varies within groups.

    Raises:
        ArgumentError: as `describe_slopes`; a moderator that is categorical or constant.
    """
    check_level(level)
    line = state_along(_read_moments(fit), column, by=by, at=at)
    base, change = _draw(fit, line.rows).T

    def measure(z: Array) -> tuple[Array, Array]:
        ends = [0.5 - level / 2.0, 0.5 + level / 2.0]
        found = [np.quantile(base + each * change, ends) for each in z]
        lower, upper = np.array(found).T
        return lower, upper

    def exceed(z: Array) -> Array:
        lower, upper = measure(z)
        return np.maximum(lower, -upper)

    def judge(z: float) -> int:
        lower, upper = measure(np.array([z]))
        return int(lower.item() > 0.0) - int(upper.item() < 0.0)

    low, high = line.scale(line.spread.low), line.scale(line.spread.high)
    bounds = scan_bounds(exceed, low, high)
    regions = find_regions(bounds, (low, high), judge)
    return line.tell(bounds, regions, level=level, method="posterior")


def _draw(fit: Posterior, contrasts: Array) -> Array:
    """Return the draws (s, m) of m linear combinations (m, p) of the fixed effects."""
    beta = fit.contents.read("posterior", "beta")
    return np.asarray(beta.reshape(-1, beta.shape[-1]) @ contrasts.T)


def describe_draws(drawn: Array, *, level: float) -> "pd.DataFrame":
    """Return the summary of the draws (s, m), one row for each column."""
    import pandas as pd

    check_level(level)
    lower, upper = np.quantile(drawn, [0.5 - level / 2.0, 0.5 + level / 2.0], axis=0)
    return pd.DataFrame(
        {
            "mean": drawn.mean(axis=0),
            "sd": drawn.std(axis=0, ddof=1),
            "lower": lower,
            "upper": upper,
        }
    )


def _read_moments(fit: Posterior) -> AnyMoments:
    """Return the moments of a fit; of patterns these summaries are not there yet."""
    if isinstance(fit.moments, Patterns | LevelPatterns):
        raise ArgumentError(
            f"this is not there yet for family='{fit.moments.family.name}'; fit.effects() has "
            "effects at values of moderators on both scales, fit.hypothesis() compares"
        )
    return fit.moments
