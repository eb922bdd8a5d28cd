"""Fits side by side: every parameter of several fits on one axis."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import count, format_digits
from bhlm.plots.choice import say
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Mark, Panel, Points, Rule, Segments
from bhlm.plots.style import SERIES, shorten
from bhlm.reml.maximum import Maximum

MOST = 30  # parameters of the figure
ROW, FRAME, FEWEST = 44, 120, 300  # pixels of a parameter, of axis and legend, of the figure
LONGEST = 34  # characters of a parameter's name
APART = 0.16  # rows between two fits


@check_arguments
def plot_fits(fits: Mapping[str, Any]) -> Figure:
    """Return every parameter of several fits with its 95 % interval, on one axis.

    A parameter stands in units of the SD (or standard error) that the first fit which has it gives
    it, from that fit's estimate, so that parameters of different units compare. The figure's table
    has `parameter`, `fit`, `value`, `lower`, `upper` in the parameter's own units, and `position`,
    `from`, `to` as drawn.

    Args:
        fits: two to six fits by REML, ML or Bayes, by name.

    Raises:
        ArgumentError: fewer or more, or something that is no fit.
    """
    import pandas as pd

    if not 2 <= len(fits) <= len(SERIES):
        raise ArgumentError(f"fits= has {len(fits)} fits; give 2 to {len(SERIES)}, by name")
    tables = {str(name): read_estimates(fit) for name, fit in fits.items()}
    names = list(dict.fromkeys(name for table in tables.values() for name in table.index))[:MOST]
    rows = []
    for parameter in names:
        own = [(fit, table.loc[parameter]) for fit, table in tables.items()
               if parameter in table.index]  # fmt: skip
        centre, unit = float(own[0][1]["value"]), float(own[0][1]["spread"])
        unit = unit if unit > 0.0 else np.nan
        for fit, row in own:
            ends = [(float(row[key]) - centre) / unit for key in ("value", "lower", "upper")]
            rows.append([parameter, fit, row["value"], row["lower"], row["upper"], *ends])
    columns = ["parameter", "fit", "value", "lower", "upper", "position", "from", "to"]
    table = pd.DataFrame(rows, columns=columns)
    marks: list[Mark] = [Rule(0.0, "x", "reference")]
    for k, fit in enumerate(tables):
        part = table[(table["fit"] == fit) & np.isfinite(table["position"])]
        y = np.array([names.index(name) for name in part["parameter"]], dtype=float)
        y += APART * (k - (len(tables) - 1) / 2.0)
        known = np.isfinite(part[["from", "to"]]).all(axis=1).to_numpy()
        left, right = part["from"].to_numpy()[known], part["to"].to_numpy()[known]
        marks.append(Segments(left, y[known], right, y[known], SERIES[k], width=2.0))
        hover = tuple(
            f"{say(row.parameter)}\n{fit} {row.value:.6g}, {row.lower:.5g} to {row.upper:.5g}"
            for row in part.itertuples()
        )
        marks.append(
            Points(part["position"].to_numpy(), y, SERIES[k], shorten(fit), hover, size=8.0)
        )
    gaps = table[np.isfinite(table["position"])]
    furthest = gaps.loc[gaps["position"].abs().idxmax()] if len(gaps) else None
    reading = (
        "No parameter has a spread to compare by"
        if furthest is None
        else f"Of {count(len(names), 'parameter')} the estimates lie at most "
        f"{format_digits(abs(furthest['position']), 2)} SDs from those of the first fit "
        f"({say(str(furthest['parameter']))}, {shorten(str(furthest['fit']))})"
    )
    places = tuple(map(float, range(len(names))))
    labels = tuple(shorten(name, LONGEST) for name in names)
    return Figure(
        name="fits",
        title="Every parameter of every fit",
        reading=reading + ".",
        table=table,
        panels=(
            Panel(
                Axis("SDs from the first fit"),
                Axis("", ticks=(places, labels), range=(len(names) - 0.4, -0.6)),
                tuple(marks),
            ),
        ),
        height=max(FEWEST, ROW * len(names) + FRAME),
    )


def read_estimates(fit: Any) -> Any:
    """Return `value, spread, lower, upper` of fixed effects, SDs and correlations of a fit.

    Raises:
        ArgumentError: something that is no fit.
    """
    if isinstance(fit, Maximum):
        names = {"estimate": "value", "se": "spread"}
    elif isinstance(fit, Draws):
        names = {"mean": "value", "sd": "spread"}
    else:
        raise ArgumentError(
            f"a {type(fit).__name__} is no fit by REML, ML or Bayes of one factor; give fits"
        )
    kept = [str(each) for each in fit.parameters if not each.is_squared]
    table = fit.estimates.loc[kept].rename(columns=names)
    return table[["value", "spread", "lower", "upper"]]
