"""What the figures of a simulation study share: which rows, which series, rows of conditions.

The style is that of Browne & Draper (2006), Bayesian Analysis 1, 473-514: each method's relative
bias and actual coverage, condition by condition, each with its Monte Carlo error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.parameters import Parameter, map_names
from bhlm.plots.choice import check_asked
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Mark, Note, Panel, Points, Rule
from bhlm.plots.style import SERIES, shorten
from bhlm.studies.simulation.result import CONDITION, StudyResult

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

Z = 1.959963984540054  # 95 % of a normal distribution lie within so many SDs
MOST = 40  # conditions that a figure draws
SPREAD = 0.76  # of a condition's row, taken by its series
FACTORS = dict(
    zip(CONDITION, ("J", "n", "ICC", "slope variance", "correlation"), strict=True)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows of a study's table that a figure draws."""

    rows: "pd.DataFrame"  # with the columns `series` and `place`, the condition's row from the top
    series: tuple[str, ...]
    parameters: tuple[str, ...]
    places: tuple[str, ...]  # text of each condition
    factors: tuple[str, ...]  # columns whose values those texts are
    is_single: bool  # whether there is one condition
    omitted: str  # what is not drawn, or ""

    def role(self, series: str) -> str:
        """Return the role of a series, the same in every panel."""
        return SERIES[self.series.index(series)]


def select_rows(
    result: StudyResult,
    table: "pd.DataFrame",
    *,
    parameters: Sequence[str] | None,
    estimators: Sequence[str] | None,
    is_default: Callable[[str], bool],
) -> Selection:
    """Return the rows of a figure.

    Args:
        result: the study's result.
        table: rows of its table, each with the name of its `series`.
        parameters: that are drawn, in their order; None for those that are no SDs or covariances.
        estimators: series that are drawn; None for those that `is_default` takes.
        is_default: whether a series is drawn when none are named.

    Raises:
        ArgumentError: a parameter or an estimator that the study does not have, or too many.
    """
    known = list(dict.fromkeys(table["parameter"]))
    every = map_names(result.study.truth.parameters)
    chosen = _choose("parameters", parameters, known, lambda name: _is_shown(every[name]))
    rows = table[table["parameter"].isin(chosen)]
    series = list(dict.fromkeys(rows["series"]))
    drawn = _choose("estimators", estimators, series, is_default)
    left: list[str] = []
    if len(drawn) > len(SERIES):
        if estimators is not None:
            raise ArgumentError(
                f"estimators names {len(drawn)} series, and a figure tells {len(SERIES)} apart; "
                "name fewer and draw several figures"
            )
        left = [f"{len(drawn) - len(SERIES)} more estimators ({', '.join(drawn[len(SERIES) :])})"]
        drawn = drawn[: len(SERIES)]
    conditions = sorted(set(table["condition"]))
    if len(conditions) > MOST:
        left.append(f"{len(conditions) - MOST} of the {len(conditions)} conditions")
        conditions = conditions[:MOST]
    rows = rows[rows["series"].isin(drawn) & rows["condition"].isin(conditions)]
    place = {condition: at for at, condition in enumerate(conditions)}
    rows = rows.assign(place=rows["condition"].map(place)).reset_index(drop=True)
    factors = find_factors(rows)
    return Selection(
        rows=rows,
        series=tuple(drawn),
        parameters=tuple(chosen),
        places=name_conditions(rows, factors),
        factors=factors,
        is_single=len(conditions) == 1,
        omitted=f"; not drawn, but in the study's table: {' and '.join(left)}" if left else "",
    )


def _is_shown(parameter: Parameter) -> bool:
    """Whether a parameter is drawn when none are named: no SD, which a variance stands for."""
    return not (parameter.is_sd or parameter.is_covariance)


def _choose(
    what: str, asked: Sequence[str] | None, known: list[str], is_default: Callable[[str], bool]
) -> list[str]:
    if asked is None:
        return [name for name in known if is_default(name)]
    return check_asked(what, asked, known, absent="the study does not")


def find_factors(rows: "pd.DataFrame") -> tuple[str, ...]:
    """Return the columns in which conditions differ; J and n of a single one."""
    return tuple(key for key in CONDITION if rows[key].nunique() > 1) or ("J", "n")


def name_conditions(rows: "pd.DataFrame", factors: Sequence[str]) -> tuple[str, ...]:
    """Return the values of the factors of each condition, from the top."""
    first = rows.drop_duplicates("condition").sort_values("place")
    return tuple(
        ", ".join(shorten(row[key], 10) if key == "n" else f"{row[key]:g}" for key in factors)
        for row in first.to_dict("records")
    )


def condition_axis(selection: Selection, *, labelled: bool = True) -> Axis:
    """Return the vertical axis: a row for each condition, the first on top."""
    C = len(selection.places)
    texts = selection.places if labelled else ("",) * C
    return Axis(
        ", ".join(FACTORS[key] for key in selection.factors) if labelled else "",
        ticks=(tuple(float(at) for at in range(C)), texts),
        range=(C - 0.5, -0.5),
    )


def panel_height(selection: Selection) -> int:
    """Return the pixels of a panel, labels included."""
    C, S = len(selection.places), len(selection.series)
    return round(C * max(18.0, min(11.0 * S + 8.0, 480.0 / C))) + 100


@dataclass(frozen=True, slots=True)
class Measure:
    """What one panel per parameter shows of a study: a column of the rows, with its interval.

    The rows have the column `value` and the ends of its interval, named after it as in "drawn_low"
    and "drawn_high". Functions of rows get those of one parameter.
    """

    hover: Callable[[dict[str, Any]], str]  # a row's text
    absent: Callable[[dict[str, Any]], str]  # what is said of a row without a value
    axis: Callable[["pd.DataFrame"], Axis]
    value: str = "drawn"
    rule: Rule | None = None
    title: Callable[[str, "pd.DataFrame"], str] = lambda parameter, _: parameter
    absent_at: Callable[["pd.DataFrame"], float] = lambda _: 0.0  # where it is said
    edge: Callable[["pd.DataFrame"], float] = lambda _: np.inf  # beyond, values are written
    is_labelled: bool = True  # whether the conditions are named


def draw_study(
    result: StudyResult,
    selection: Selection,
    *measures: Measure,
    name: str,
    title: str,
    reading: str,
) -> Figure:
    """Return the figure of a study: a row of panels per parameter, a panel per measure.

    Args:
        result: the study's result.
        selection: of `select_rows`.
        measures: from left to right.
        name: the figure's, such as "study_bias".
        title: what stands before the study's title.
        reading: the sentence on the rows; failures and what is not drawn are added to it.
    """
    return Figure(
        name=name,
        title=f"{title}: {result.study.title}",
        reading=f"{reading}{describe_failures(result)}{selection.omitted}.",
        table=selection.rows,
        panels=tuple(
            draw_measure(selection, measure, parameter=parameter)
            for parameter in selection.parameters
            for measure in measures
        ),
        columns=len(measures),
        height=len(selection.parameters) * panel_height(selection) + 60,
    )


def draw_measure(selection: Selection, measure: Measure, *, parameter: str) -> Panel:
    """Return the panel of one parameter: points with intervals, series beside each other.

    Of a row without a value it is said why, once where that holds for every series. Values beyond
    the edge are drawn at it, with their number beside them.
    """
    rows = selection.rows[selection.rows["parameter"] == parameter]
    edge, absent_at = measure.edge(rows), measure.absent_at(rows)
    series = [name for name in selection.series if (rows["series"] == name).any()]
    marks: list[Mark] = [] if measure.rule is None else [measure.rule]
    missing: dict[int, list[tuple[float, str, str]]] = {}
    for k, name in enumerate(series):
        part = rows[rows["series"] == name]
        at = part["place"].to_numpy(float) + SPREAD * ((k + 0.5) / len(series) - 0.5)
        records = part.to_dict("records")
        x, low, high = (
            part[f"{measure.value}{end}"].to_numpy(float) for end in ("", "_low", "_high")
        )
        inside = np.abs(x) <= edge if np.isfinite(edge) else np.isfinite(x)
        marks.append(
            Points(
                x[inside],
                at[inside],
                selection.role(name),
                name,
                tuple(
                    measure.hover(row) for row, shown in zip(records, inside, strict=True) if shown
                ),
                x_low=_fill(low, x, -edge)[inside],
                x_high=_fill(high, x, edge)[inside],
            )
        )
        for row, height in zip(records, at, strict=True):
            size = row[measure.value]
            if not np.isfinite(size):
                missing.setdefault(row["place"], []).append((height, name, measure.absent(row)))
            elif abs(size) > edge:
                end = float(np.copysign(edge, size))
                marks.append(_warn(end, height, measure.hover(row)))
                marks.append(Note(min(end, 0.0), height, f"{name}: {size:+.3g} %"))
    for place, found in missing.items():
        reasons = {reason for _, _, reason in found}
        if len(found) == len(series) and len(reasons) == 1:
            marks.append(Note(absent_at, float(place), reasons.pop()))
            continue
        for height, name, reason in found:
            marks.append(_warn(absent_at, height, f"{name}: {reason}"))
            marks.append(Note(absent_at, height, f"{name}: {reason}"))
    return Panel(
        x=measure.axis(rows),
        y=condition_axis(selection, labelled=measure.is_labelled),
        marks=tuple(marks),
        title=measure.title(parameter, rows),
    )


def _fill(ends: Array, middle: Array, edge: float) -> Array:
    """Return the ends of intervals, the middle where there is none, cut at the edge."""
    ends = np.where(np.isfinite(ends), ends, middle)
    return np.maximum(ends, edge) if edge < 0.0 else np.minimum(ends, edge)


def _warn(x: float, y: float, text: str) -> Points:
    return Points(np.array([x]), np.array([y]), "warning", hover=(text,))


def share_interval(share: Array, count: Array) -> tuple[Array, Array]:
    """Return the 95 % intervals of shares out of counts, which do not collapse at 0 or 1.

    (c + z^2 / 2R +- z sqrt(c (1 - c) / R + z^2 / 4R^2)) / (1 + z^2 / R), nan where R = 0.
    Source: Wilson (1927), Journal of the American Statistical Association 22, 209-212.
    """
    count = np.where(count > 0, count, np.nan)
    scale = 1.0 + Z**2 / count
    middle = (share + Z**2 / (2.0 * count)) / scale
    half = Z * np.sqrt(share * (1.0 - share) / count + (Z / (2.0 * count)) ** 2) / scale
    return np.minimum(middle - half, share), np.maximum(middle + half, share)


def name_condition(row: dict[str, Any]) -> str:
    """Return a row's condition in words."""
    return ", ".join(f"{FACTORS[key]} = {shorten(row[key], 30)}" for key in CONDITION)


def head_hover(row: dict[str, Any]) -> str:
    """Return the first two lines of a row's text: series, parameter and condition."""
    return f"{row['series']}: {row['parameter']}\n{name_condition(row)}\n"


def name_ends(selection: Selection, rows: "pd.DataFrame") -> tuple[str, str]:
    """Return the least and the largest percentage drawn, with whose it is."""
    least, most = (
        f"{row['drawn']:.1f} % ({row['parameter']} by {row['series']}{name_place(selection, row)})"
        for row in (
            rows.loc[at].to_dict() for at in (rows["drawn"].idxmin(), rows["drawn"].idxmax())
        )
    )
    return least, most


def name_place(selection: Selection, row: dict[str, Any]) -> str:
    """Return a row's condition by the factors that differ; "" where there is one condition."""
    if selection.is_single:
        return ""
    return (
        f" at {', '.join(f'{FACTORS[key]} = {shorten(row[key], 30)}' for key in selection.factors)}"
    )


def describe_failures(result: StudyResult) -> str:
    """Return the clause that says how many fits failed."""
    fits = result.fits
    total = int(fits["replicates"].sum())
    failed = int(fits[["errors", "not_converged"]].sum().sum())
    if not failed:
        return f"; none of the {total} fits failed"
    worst = fits.assign(failed=fits["errors"] + fits["not_converged"])
    most = worst.groupby("fit", sort=False)["failed"].sum()
    return (
        f"; {failed} of the {total} fits {'has' if failed == 1 else 'have'} an error or did not "
        f"converge, {most.max()} of them by {most.idxmax()}"
    )
