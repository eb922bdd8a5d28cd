"""The relative bias of every estimator in a simulation study, condition by condition."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import check_arguments
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Rule
from bhlm.plots.study import (
    Measure,
    Selection,
    Z,
    draw_study,
    head_hover,
    name_place,
    select_rows,
)
from bhlm.studies.simulation.result import StudyResult

if TYPE_CHECKING:
    import pandas as pd

EDGE = 300.0  # percent: a bias beyond is written, not drawn to scale


@check_arguments
def plot_bias(
    result: StudyResult,
    *,
    parameters: str | Sequence[str] | None = None,
    estimators: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of relative bias against the condition, with Monte Carlo intervals.

    bias = mean(estimate) - true, in percent of the absolute true value; as it is where that is 0
    in every condition. The intervals are bias +- 1.96 Monte Carlo standard errors. REML has one
    series, for its df methods share their estimates; a posterior has one for its mean and, of
    variances and correlations, one for its mode.

    Args:
        result: of `run_study`.
        parameters: that are drawn; default: fixed effects, variances and correlations.
        estimators: that are drawn: "reml", or "bayes", the set of priors and "mean", "median" or
            "mode".

    Raises:
        ArgumentError: a parameter or an estimator that the study does not have.

    Source: after the figures of Browne & Draper (2006), Bayesian Analysis 1, 473-514.
    """
    selection = select_rows(
        result, _measure(result.table), parameters=parameters, estimators=estimators,
        is_default=lambda name: not name.endswith(" median"),
    )  # fmt: skip
    if estimators is None:
        selection = _leave_fixed_modes(selection, result.study.truth.names)
    return draw_study(
        result, selection, BIAS, name="study_bias", title="Bias", reading=_read(selection)
    )


def _measure(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the study's table with what is drawn: one row per condition, series, parameter."""
    is_reml = table["point"] == "estimate"
    series = np.where(is_reml, "reml", table["estimator"] + " " + table["point"])
    table = table.assign(series=series)
    table = table.drop_duplicates(["condition", "series", "parameter"])
    # In units of the true value, unless that is nowhere different from 0.
    has_size = table.groupby("parameter")["true"].transform(lambda true: (true != 0.0).any())
    true = table["true"].abs().replace(0.0, np.nan)
    size = np.where(has_size, true / 100.0, 1.0)
    error = Z * table["bias_mcse"]
    return table.assign(
        is_relative=has_size,
        drawn=table["bias"] / size,
        drawn_low=(table["bias"] - error) / size,
        drawn_high=(table["bias"] + error) / size,
    )


def _leave_fixed_modes(selection: Selection, fixed: Sequence[str]) -> Selection:
    """Return the selection without modes of fixed effects, which are symmetric: means tell all."""
    rows = selection.rows
    left = rows["parameter"].isin(fixed) & (rows["point"] == "mode")
    return replace(selection, rows=rows[~left].reset_index(drop=True))


def _has_size(rows: "pd.DataFrame") -> bool:
    return bool(rows["is_relative"].all())


def _hover(row: dict[str, Any]) -> str:
    unit = " %" if row["is_relative"] else ""
    return (
        f"{head_hover(row)}bias {row['drawn']:+.3g}{unit} ({row['drawn_low']:+.3g} to "
        f"{row['drawn_high']:+.3g})\ntrue value {row['true']:.4g}, mean estimate "
        f"{row['mean']:.4g}, {row['used']} of {row['replicates']} replicates"
    )


def _explain(row: dict[str, Any]) -> str:
    if not np.isfinite(row["true"]):
        return "there is no true value"
    return "no estimates" if not row["used"] else "the true value is 0"


def _describe_axis(rows: "pd.DataFrame") -> Axis:
    if not _has_size(rows):
        return Axis("bias (the true value is 0)")
    beyond = bool((rows[["drawn", "drawn_low", "drawn_high"]].abs() > EDGE).any(axis=None))
    return Axis("relative bias, %", range=(-1.05 * EDGE, 1.05 * EDGE) if beyond else None)


BIAS = Measure(
    hover=_hover,
    absent=_explain,
    axis=_describe_axis,
    rule=Rule(0.0, "x", "reference", "no bias"),
    edge=lambda rows: EDGE if _has_size(rows) else np.inf,
)


def _read(selection: Selection) -> str:
    rows = selection.rows
    sized = rows[rows["is_relative"] & np.isfinite(rows["drawn"])]
    ends = rows[np.isfinite(rows["bias_mcse"]) & np.isfinite(rows["drawn"])]
    clear = int(((ends["drawn_low"] > 0.0) | (ends["drawn_high"] < 0.0)).sum())
    count = int(rows["replicates"].max())
    if len(sized):
        row = sized.loc[sized["drawn"].abs().idxmax()].to_dict()
        worst = (
            f"the largest relative bias is {row['drawn']:+.3g} % (Monte Carlo interval "
            f"{row['drawn_low']:+.3g} to {row['drawn_high']:+.3g}), of {row['parameter']} by "
            f"{row['series']}{name_place(selection, row)}"
        )
    else:
        worst = "no parameter has a true value that a bias could be relative to"
    some = f"{clear} of the {len(ends)} biases {'is' if clear == 1 else 'are'}"
    return (
        f"Over {count} data sets a condition, {worst}; {some} further from 0 than Monte Carlo "
        "error explains"
    )
