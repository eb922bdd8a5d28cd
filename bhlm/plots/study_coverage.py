"""How often 95 % intervals hold the true value in a simulation study, and how wide they are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import check_arguments
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

NOMINAL = 95.0  # percent
LOWEST = 85.0  # the coverage axis begins here, or lower where an interval does


@check_arguments
def plot_coverage(
    result: StudyResult,
    *,
    parameters: str | Sequence[str] | None = None,
    estimators: str | Sequence[str] | None = None,
) -> Figure:
    """Return the figure of actual coverage of 95 % intervals, and of their median widths.

    Coverage is a share of the replicates that have an interval; its own interval is Wilson's,
    95 %. A variance that is truly 0 lies outside every interval for it and is not drawn.

    Args:
        result: of `run_study`.
        parameters: that are drawn; default: fixed effects, variances and correlations.
        estimators: that are drawn: "reml" with a df method, "reml" (Wald) or "reml profile" for
            variances, or "bayes" and the set of priors.

    Raises:
        ArgumentError: a parameter or an estimator that the study does not have.

    Source: after the figures of Browne & Draper (2006), Bayesian Analysis 1, 473-514.
    """
    selection = select_rows(
        result, _measure(result), parameters=parameters, estimators=estimators,
        is_default=lambda _: True,
    )  # fmt: skip
    return draw_study(
        result, selection, COVERAGE, WIDTH, name="study_coverage", title="Coverage",
        reading=_read(selection),
    )  # fmt: skip


def _measure(result: StudyResult) -> "pd.DataFrame":
    """Return the study's table with what is drawn: one row per condition, series, parameter."""
    table = result.table.assign(series=result.table["estimator"])
    table = table.drop_duplicates(["condition", "series", "parameter"])
    positive = [
        str(parameter) for parameter in result.study.truth.parameters if parameter.is_positive
    ]
    is_bound = table["parameter"].isin(positive) & (table["true"] == 0.0)
    is_bound &= table["estimator"] != "reml profile"  # which alone can begin at 0
    share = table["coverage"].where(~is_bound).to_numpy(float)
    low, high = share_interval(share, table["intervals"].to_numpy(float))
    width = table["width_median"]
    return table.assign(
        is_bound=is_bound, drawn=100.0 * share, drawn_low=100.0 * low, drawn_high=100.0 * high,
        width_median_low=width, width_median_high=width,
    )  # fmt: skip


def _hover(row: dict[str, Any]) -> str:
    return (
        f"{head_hover(row)}covers {row['drawn']:.1f} % ({row['drawn_low']:.1f} to "
        f"{row['drawn_high']:.1f}), median width {row['width_median']:.3g}\nof "
        f"{row['intervals']} intervals in {row['replicates']} replicates, true value "
        f"{row['true']:.4g}"
    )


def _explain(row: dict[str, Any]) -> str:
    if not np.isfinite(row["true"]):
        return "there is no true value"
    return "the true value is 0" if row["is_bound"] else "no intervals"


def _find_lowest(rows: "pd.DataFrame") -> float:
    return float(np.nanmin([LOWEST, *(rows["drawn_low"] - 1.0)]))


def _describe_axis(rows: "pd.DataFrame") -> Axis:
    lowest = _find_lowest(rows)
    return Axis("coverage, %", range=(lowest - 0.02 * (100.0 - lowest), 100.5))


COVERAGE = Measure(
    hover=_hover,
    absent=_explain,
    axis=_describe_axis,
    rule=Rule(NOMINAL, "x", "reference", "nominal 95 %"),
    absent_at=_find_lowest,
)
WIDTH = Measure(
    hover=_hover,
    absent=lambda _: "no intervals",
    axis=lambda _: Axis("median width"),
    value="width_median",
    title=lambda *_: "",
    is_labelled=False,
)


def _read(selection: Selection) -> str:
    rows = selection.rows[np.isfinite(selection.rows["drawn"])]
    if not len(rows):
        return "No estimator has an interval for a parameter with a true value"
    below = int((rows["drawn_high"] < NOMINAL).sum())
    above = int((rows["drawn_low"] > NOMINAL).sum())
    least, most = name_ends(selection, rows)
    span = f"from {least} to {most}"
    if rows["drawn"].nunique() == 1:
        span = f"of {rows['drawn'].iloc[0]:.1f} % throughout" if len(rows) > 1 else f"of {least}"
    return (
        f"95 % intervals have an actual coverage {span}; {below} of the {len(rows)} coverages "
        f"{'lies' if below == 1 else 'lie'} below 95 % and {above} above by more than Monte Carlo "
        "error explains"
    )
