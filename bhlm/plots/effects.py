"""Effects: the expected response along a column, a line and band per value of the moderators."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bhlm.bayes.draws import Draws
from bhlm.bayes.slopes import describe_lines, describe_slopes
from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import format_digits, list_names
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Band, Line, Mark, Panel
from bhlm.plots.style import SERIES, shorten
from bhlm.reml.estimate import Estimate
from bhlm.reml.fixed.slopes import estimate_lines, estimate_slopes

if TYPE_CHECKING:
    import pandas as pd


@check_arguments
def plot_effects(
    fit: Estimate | Draws,
    column: str,
    *,
    by: str | Sequence[str] | Mapping[str, Any] | None = None,
    at: Mapping[str, Any] | None = None,
    level: float = 0.95,
) -> Figure:
    """Return the expected response along a column, one line with its band per moderators' values.

    The random effects are zero, and what is not named stands at its mean or where `at` has it;
    see `bhlm.likelihood.slopes.state_lines`. The figure's table is that of `fit.effect_lines`.

    Args:
        fit: a RemlFit or a BayesFit.
        column: along x, such as "cwc(ses)"; gm(ses) stays where it is.
        by: moderators that interact with the column, or their values by name; at most six lines.
        at: values of others.
        level: of the bands.

    Raises:
        ArgumentError: a column or moderator that is not in the model or does not interact with the
            column, or more than six lines.
    """
    if isinstance(fit, Estimate):
        slopes = estimate_slopes(fit, column, by=by, at=at, level=level)
        table = estimate_lines(fit, column, by=by, at=at, level=level)
        of, value = "slope", "estimate"
    else:
        slopes = describe_slopes(fit, column, by=by, at=at, level=level)
        table = describe_lines(fit, column, by=by, at=at, level=level)
        of, value = "mean", "mean"
    moderators = list(slopes.columns[: slopes.columns.get_loc(of)])
    if len(slopes) > len(SERIES):
        raise ArgumentError(
            f"{len(slopes)} lines are more than one panel tells apart; give by= at most "
            f"{len(SERIES)} values in all, such as by={{'{moderators[0]}': [0, 1]}}"
        )
    points = len(table) // len(slopes)  # a line's rows follow each other
    marks: list[Mark] = []
    told = []
    for k, row in enumerate(slopes.to_dict("records")):
        part = table.iloc[k * points : (k + 1) * points]
        label = ", ".join(f"{name} = {_show(row[name])}" for name in moderators)
        marks += _draw(part, value, SERIES[k], shorten(label or "Expected"))
        ends = f"{format_digits(row['lower'], 3)} to {format_digits(row['upper'], 3)}"
        told.append(f"{format_digits(row[of], 3)} ({ends}){f' at {label}' if label else ''}")
    name = str(table.attrs["column"])
    return Figure(
        name="effects",
        title=f"Effect of {shorten(name)}",
        reading=(
            f"The slope of {shorten(name)}, with its {100 * level:g} % interval, is "
            f"{list_names(told, most=len(SERIES))}."
        ),
        table=table,
        panels=(Panel(Axis(name), Axis(f"Expected {fit.moments.response}"), tuple(marks)),),
        height=440,
    )


def _draw(part: "pd.DataFrame", value: str, role: str, name: str) -> list[Mark]:
    x, y = part.iloc[:, 0].to_numpy(), part[value].to_numpy()
    low, high = part["lower"].to_numpy(), part["upper"].to_numpy()
    return [Band(x, low, high, role, name), Line(x, y, role, name)]


def _show(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return format_digits(value, 3).removesuffix(".00") if is_number else shorten(value)
