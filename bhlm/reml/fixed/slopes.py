"""Simple slopes, lines and Johnson-Neyman bounds of a REML fit, by any method of its contrasts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError
from bhlm.likelihood.johnson_neyman import JohnsonNeyman, find_regions, solve_bounds
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
from bhlm.reml.fixed.contrasts import estimate_contrasts, infer_fixed
from bhlm.reml.maximum import Maximum

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

ROUNDS = 100  # of bound -> df -> bound
SETTLED = 1e-12  # relative change of a bound


def estimate_slopes(
    fit: Maximum,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    method: str = "satterthwaite",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the slope of a column at each combination of moderators; see `state_slopes`.

    One column per moderator, then `slope, se, lower, upper, statistic, df, p`. `attrs` tell the
    `column`, the method (`df`), the `level` and what is `held`.

    Raises:
        ArgumentError: as `state_slopes`, an unknown method, or a level outside (0, 1).
    """
    grid = state_slopes(fit.moments, column, by=by, at=at)
    table = estimate_contrasts(fit, grid.hypotheses, method=method, level=level)
    table = table.drop(columns="value").rename(columns={"estimate": "slope"})
    return name_points(grid, table, df=method, level=level)


def average_slopes(
    fit: Maximum,
    column: str,
    *,
    by: str | None = None,
    method: str = "satterthwaite",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the slope of a column averaged over the rows; see `state_averages`.

    Columns as of `estimate_slopes`.

    Raises:
        ArgumentError: as `state_averages`, an unknown method, or a level outside (0, 1).
    """
    grid = state_averages(fit.moments, column, by=by)
    table = estimate_contrasts(fit, grid.hypotheses, method=method, level=level)
    table = table.drop(columns="value").rename(columns={"estimate": "slope"})
    return name_points(grid, table, df=method, level=level)


def compare_slopes(
    fit: Maximum,
    column: str,
    *,
    by: By,
    at: Mapping[str, Any] | None = None,
    method: str = "satterthwaite",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the difference of each pair of simple slopes, with its interval and test.

    Rows are pairs, the later less the earlier; columns `estimate, se, lower, upper, statistic, df,
    p`, which are not adjusted for their number.

    Raises:
        ArgumentError: as `estimate_slopes`, or fewer than two slopes.
    """
    pairs = pair_points(state_slopes(fit.moments, column, by=by, at=at))
    table = estimate_contrasts(fit, pairs, method=method, level=level)
    return table.drop(columns="value").rename_axis("difference")


def estimate_lines(
    fit: Maximum,
    column: str,
    *,
    by: By = None,
    at: Mapping[str, Any] | None = None,
    values: Sequence[float] | None = None,
    method: str = "satterthwaite",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return the expected response along a column, by moderators; see `state_lines`.

    One column for the column and each moderator, then `estimate, se, lower, upper, df`: of the mean
    where the random effects are zero.

    Raises:
        ArgumentError: as `state_lines`, an unknown method, or a level outside (0, 1).
    """
    grid = state_lines(fit.moments, column, by=by, at=at, values=values)
    table = estimate_contrasts(fit, grid.hypotheses, method=method, level=level)
    table = table[["estimate", "se", "lower", "upper", "df"]]
    return name_points(grid, table, df=method, level=level)


def find_bounds(
    fit: Maximum,
    column: str,
    *,
    by: str,
    at: Mapping[str, Any] | None = None,
    method: str = "satterthwaite",
    level: float = 0.95,
) -> JohnsonNeyman:
    """Return for which values of a moderator the interval of a slope excludes zero.

    The slope is b1 + b3 m, and the bounds are the roots of (b1 + b3 m)^2 = t^2 (v11 + 2 m v13 + m^2
    v33), t being that of the method's df at the bound itself: there the interval of
    `estimate_slopes` ends at zero.

    Raises:
        ArgumentError: as `estimate_slopes`; a moderator that is categorical or constant; bounds
            that their own df move away, without end.
    """
    check_level(level)
    line = state_along(fit.moments, column, by=by, at=at)
    inference = infer_fixed(fit, line.rows, method=method)
    # In SDs about the centre of the moderator, where nothing cancels.
    loaded = line.rows @ inference.loadings
    cov = loaded @ inference.inner @ loaded.T
    b1, b3 = line.rows @ fit.beta

    def find_critical(z: float) -> float:
        df = infer_fixed(fit, line.rows[0] + z * line.rows[1], method=method).df
        return float(special.stdtrit(df.item(), 0.5 + level / 2.0))

    def judge(z: float) -> int:
        slope, weights = b1 + b3 * z, np.array([1.0, z])
        half = find_critical(z) * np.sqrt(weights @ cov @ weights)
        return int(np.sign(slope)) if abs(slope) > half else 0

    def settle(k: int, roots: tuple[float, ...]) -> float:
        for _ in range(ROUNDS):
            before = roots[k]
            found = solve_bounds(b1, b3, cov, critical=find_critical(before))
            if len(found) != len(roots):
                break
            roots = found
            if abs(roots[k] - before) <= SETTLED * max(1.0, abs(before)):
                return roots[k]
        raise ArgumentError(
            f"the bounds of '{line.moderator}' do not settle by method={method!r}, whose df change "
            "with it; ask for method='z'"
        )

    first = solve_bounds(b1, b3, cov, critical=find_critical(0.0))
    bounds = tuple(sorted(settle(k, first) for k in range(len(first))))
    regions = find_regions(bounds, (-np.inf, np.inf), judge)
    return line.tell(bounds, regions, level=level, method=method)
