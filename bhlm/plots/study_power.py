"""How often a simulation study's intervals of fixed effects leave out zero: power, or size."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import ArgumentError, check_arguments
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Rule
from bhlm.plots.study import (
    Measure,
    Selection,
    draw_study,
    head_hover,
    name_ends,
    select_rows,
    share_interval,
)
from bhlm.studies.simulation.result import StudyResult

if TYPE_CHECKING:
    import pandas as pd

SIZE = 5.0  # percent of true hypotheses that a test at this level rejects


@check_arguments
def plot_power(
    result: StudyResult,
    *,
    parameters: str | Sequence[str] | None = None,
    estimators: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of the share of 95 % intervals without 0: power, size where true is 0.

    Args:
        result: of `run_study`.
        parameters: fixed effects that are drawn; default: all.
        estimators: that are drawn: "reml" with a df method, or "bayes" and the set of priors.

    Raises:
        ArgumentError: a parameter or an estimator that the study does not test.
    """
    selection = select_rows(
        result, _measure(result.table), parameters=parameters, estimators=estimators,
        is_default=lambda _: True,
    )  # fmt: skip
    return draw_study(
        result, selection, POWER, name="study_power", title="Power", reading=_read(selection)
    )


def _measure(table: "pd.DataFrame") -> "pd.DataFrame":
    """Return the tested rows with what is drawn: one row per condition, series, parameter."""
    tested = table.loc[table["parameter"].isin(table.loc[table["reject"].notna(), "parameter"])]
    if not len(tested):
        raise ArgumentError(
            "no fixed effect of the study has an interval, so that there is no power to draw; see "
            "first_error in its fits"
        )
    tested = tested.assign(series=tested["estimator"])
    tested = tested.drop_duplicates(["condition", "series", "parameter"])
    share = tested["reject"].to_numpy(float)
    low, high = share_interval(share, tested["intervals"].to_numpy(float))
    return tested.assign(drawn=100.0 * share, drawn_low=100.0 * low, drawn_high=100.0 * high)


def _hover(row: dict[str, Any]) -> str:
    return (
        f"{head_hover(row)}leaves out 0 in {row['drawn']:.1f} % ({row['drawn_low']:.1f} to "
        f"{row['drawn_high']:.1f})\nof {row['intervals']} intervals, true value "
        f"{row['true']:.4g}"
    )


def _describe_axis(rows: "pd.DataFrame") -> Axis:
    if (rows["true"] == 0.0).all():
        widest = float(np.nanmax([2.0 * SIZE, *(rows["drawn_high"] + 1.0)]))
        return Axis("size of the test, %", range=(0.0, widest))
    return Axis("power, %", range=(0.0, 101.0))


POWER = Measure(
    hover=_hover,
    absent=lambda _: "no intervals",
    axis=_describe_axis,
    rule=Rule(SIZE, "x", "reference", "nominal size 5 %"),
    title=lambda parameter, rows: f"{parameter}, truly {rows['true'].iloc[0]:g}",
)


def _read(selection: Selection) -> str:
    rows = selection.rows[np.isfinite(selection.rows["drawn"])]
    parts = []
    for sized, what in ((False, "power"), (True, "size")):
        part = rows[(rows["true"] == 0.0) == sized]
        if not len(part):
            continue
        least, most = name_ends(selection, part)
        span = f"between {least} and {most}"
        if part["drawn"].nunique() == 1:
            span = f"{part['drawn'].iloc[0]:.1f} % throughout" if len(part) > 1 else least
        parts.append(f"the {what} of the tests is {span}")
        if sized:
            off = int(((part["drawn_low"] > SIZE) | (part["drawn_high"] < SIZE)).sum())
            parts.append(
                f"{off} of the {len(part)} sizes {'differs' if off == 1 else 'differ'} from 5 % "
                "by more than Monte Carlo error explains"
            )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}"
