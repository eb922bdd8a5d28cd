"""Residuals against fitted values: is the mean near zero and the spread even along them?"""

from typing import TYPE_CHECKING

import numpy as np
from scipy import stats

from bhlm.errors import DataError, check_arguments
from bhlm.layout import count, format_digits
from bhlm.plots.figure import Figure
from bhlm.plots.marks import Axis, Mark, Panel, Points, Rule
from bhlm.reml.estimate import Estimate
from bhlm.reml.residuals import row_residuals

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.fits.model import Model

Array = np.ndarray

ROWS = 1000  # rows that are drawn
BINS = 20
FEWEST = 5  # rows of a bin


@check_arguments
def plot_residual_fitted(
    reml: Estimate, *, model: "Model | None" = None, single_rows: bool = True
) -> Figure:
    """Return the conditional residuals over their fitted values, with their mean and SD by bin.

    The rows are cut into up to 20 bins of equal size by their fitted values X beta + Z u. Above,
    the mean residual of each bin with its 95 % interval, over up to 1,000 single rows; below, the
    bin's SD. A mean that bends says that the fixed part misses a curve, an SD that rises that the
    residual variance is not one. Fitted values hold the groups' effects, which shrinkage ties to
    the residuals a little: the means rise with the fitted values where groups are small.

    The figure's table has a row per bin: `fitted`, `n`, `mean`, `lower`, `upper`, `sd`, `sd_lower`,
    `sd_upper`.

    Args:
        reml: the fit.
        model: what was fitted, which has the rows; None takes `reml.model`.
        single_rows: whether to draw single rows.

    Raises:
        DataError: no rows at hand.
    """
    own = model if model is not None else getattr(reml, "model", None)
    if own is None or not own.has_rows:
        raise DataError(
            f"residuals are of rows, and the model of '{reml.moments.formula}' has none at hand; "
            "give model="
        )
    rows = row_residuals(reml, *own.rows())
    fitted, residual = rows["fitted"].to_numpy(), rows["conditional"].to_numpy()
    table = _cut(fitted, residual)
    marks: list[Mark] = []
    if single_rows:
        drawn = np.argsort(fitted, kind="stable")[:: max(1, -(-len(fitted) // ROWS))]
        marks.append(Points(fitted[drawn], residual[drawn], "data", "Rows", size=3.5, opacity=0.35))
    x = table["fitted"].to_numpy()
    marks += [
        Rule(0.0, "y", "reference"),
        Points(
            x, table["mean"].to_numpy(), "reml", "Mean of a bin, 95 % interval",
            y_low=table["lower"].to_numpy(), y_high=table["upper"].to_numpy(),
        ),
    ]  # fmt: skip
    sigma = float(np.sqrt(reml.sigma2))
    below: tuple[Mark, ...] = (
        Rule(sigma, "y", "reference", "sd(Residual)"),
        Points(
            x, table["sd"].to_numpy(), "posterior", "SD of a bin, 95 % interval",
            y_low=table["sd_lower"].to_numpy(), y_high=table["sd_upper"].to_numpy(),
        ),
    )  # fmt: skip
    off = int(((table["lower"] > 0.0) | (table["upper"] < 0.0)).sum())
    uneven = int(((table["sd_lower"] > sigma) | (table["sd_upper"] < sigma)).sum())
    return Figure(
        name="residual_fitted",
        title="Residuals over fitted values",
        reading=(
            f"Of {count(len(table), 'bin')} of fitted values, the mean residual is clear of 0 in "
            f"{off or 'none'}, and the SD is clear of {format_digits(sigma, 3)} in "
            f"{uneven or 'none'}; of independent rows one in twenty would be by chance."
        ),
        table=table,
        panels=(
            Panel(Axis(""), Axis("Residual"), tuple(marks)),
            Panel(Axis(f"Fitted {reml.moments.response}"), Axis("SD of residuals"), below),
        ),
        height=560,
    )


def _cut(fitted: Array, residual: Array) -> "pd.DataFrame":
    """Return mean and SD of the residuals by bin, with normal-theory 95 % intervals."""
    import pandas as pd

    order = np.argsort(fitted, kind="stable")
    rows = []
    for part in np.array_split(order, max(1, min(BINS, len(order) // FEWEST))):
        n, values = len(part), residual[part]
        mean, sd = float(values.mean()), float(values.std(ddof=1)) if n > 1 else float("nan")
        half = float(stats.t.ppf(0.975, max(n - 1, 1))) * sd / np.sqrt(n)
        ends = np.sqrt((n - 1) / stats.chi2.ppf([0.975, 0.025], max(n - 1, 1)))
        rows.append(
            [float(fitted[part].mean()), n, mean, mean - half, mean + half, sd, *(sd * ends)]
        )
    columns = ["fitted", "n", "mean", "lower", "upper", "sd", "sd_lower", "sd_upper"]
    return pd.DataFrame(rows, columns=columns)
