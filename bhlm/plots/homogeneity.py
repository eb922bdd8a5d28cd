"""Homogeneity: each group's residual SD beside the range that one common SD allows."""

import numpy as np
from scipy import stats

from bhlm.errors import check_arguments
from bhlm.layout import count, format_digits
from bhlm.plots.figure import Figure
from bhlm.plots.groups import choose_shown, name_group, name_groups
from bhlm.plots.marks import Axis, Band, Mark, Panel, Points, Rule
from bhlm.plots.style import shorten
from bhlm.reml.estimate import Estimate
from bhlm.reml.residuals import judge_homogeneity, log_dispersion

Array = np.ndarray

GRID = 60  # points of the range
MOST = 2000  # groups that are drawn


@check_arguments
def plot_homogeneity(reml: Estimate, *, least_df: int = 10) -> Figure:
    """Return the residual SD within each group over its residual df, and what chance allows.

    The SD is that of the group's own least squares. If all groups had the pooled SD, 95 % of those
    with df f would lie within it times sqrt(chi2 / f). Groups of fewer df than `least_df`, of which
    the test is not made, are drawn too. The figure's table has `group`, `df`, `sd`, `low`, `high`,
    and `outside`.

    Source: Raudenbush & Bryk (2002), p. 264, for the test.

    Args:
        reml: the fit.
        least_df: residual df of the groups of the test.

    Raises:
        ArgumentError: as `fit.test_homogeneity`.
    """
    import pandas as pd

    found = judge_homogeneity(reml, least_df=least_df)
    log_sd, df = log_dispersion(reml)
    there = (df > 0) & np.isfinite(log_sd)
    use = there & (df >= max(least_df, 1))
    pooled = float(np.exp((df[use] @ log_sd[use]) / df[use].sum()))
    sd, f = np.exp(log_sd[there]), df[there]
    low, high = _find_range(pooled, f)
    table = pd.DataFrame(
        {
            "group": reml.moments.groups[there],
            "df": f,
            "sd": sd,
            "low": low,
            "high": high,
            "outside": (sd < low) | (sd > high),
        }
    )
    grid = np.linspace(float(f.min()), float(f.max()), GRID) if f.max() > f.min() else f[[0, 0]]
    band = Band(grid, *_find_range(pooled, grid), "reference", "95 % of groups of one SD")
    marks: list[Mark] = [band, Rule(pooled, "y", "reference", "Pooled SD")]
    shown = table.iloc[choose_shown(len(table), most=MOST)]
    for role, name, flag in (
        ("reml", "Within", False),
        ("warning", "Outside", True),
    ):
        part = shown[shown["outside"] == flag]
        if len(part):
            hover = tuple(
                f"{reml.moments.group} {label}\nSD {format_digits(s, 3)}, df {int(d)}"
                for label, s, d in zip(
                    name_groups(part["group"]), part["sd"], part["df"], strict=True
                )
            )
            marks.append(
                Points(part["df"].to_numpy(float), part["sd"].to_numpy(), role, name, hover=hover)
            )
    outside = int(table["outside"].sum())
    furthest = int(np.argmax(np.abs(np.log(sd / pooled)) * np.sqrt(f)))
    at = int(np.flatnonzero(there)[furthest])
    return Figure(
        name="homogeneity",
        title=f"Residual SD within each {shorten(reml.moments.group)}",
        reading=(
            f"The residual SD is outside of what one SD allows in {outside or 'none'} of "
            f"{count(len(table), 'group')}, where {format_digits(0.05 * len(table), 2)} would be "
            f"by chance; furthest is {format_digits(sd[furthest], 3)} in "
            f"{name_group(reml.moments, at)}, beside {format_digits(pooled, 3)}; the test of "
            f"homogeneity has chi2({int(found['df'])}) = {format_digits(found['chi2'], 4)}, "
            f"p = {format_digits(found['p'], 2)}."
        ),
        table=table,
        panels=(Panel(Axis("Residual df of the group"), Axis("Residual SD"), tuple(marks)),),
        height=440,
    )


def _find_range(pooled: float, df: Array) -> tuple[Array, Array]:
    low, high = (pooled * np.sqrt(stats.chi2.ppf(share, df) / df) for share in (0.025, 0.975))
    return np.asarray(low), np.asarray(high)
