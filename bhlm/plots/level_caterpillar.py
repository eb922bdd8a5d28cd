"""The caterpillar of one of several grouping factors: its units' effects, in order of size."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import ArgumentError, check_arguments, show_value
from bhlm.plots.caterpillar import draw_caterpillar
from bhlm.plots.figure import Figure
from bhlm.plots.groups import Units
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.standard_errors import Z95

if TYPE_CHECKING:
    import pandas as pd


@check_arguments
def plot_factor(
    fit: LevelsEstimate,
    factor: str,
    *,
    coefficient: str | None = None,
    within: Mapping[str, Any] | None = None,
) -> Figure:
    """Return the effects of one factor's units with 95 % intervals, a panel per coefficient.

    As `bhlm.plots.plot_caterpillar`: empirical Bayes and its standard error of prediction.

    Args:
        fit: a fit of several grouping factors.
        factor: the factor, such as "school:class".
        coefficient: the random coefficient to draw; None draws all.
        within: the units of one outer unit alone, such as {"school": 1224}: of its grouping
            columns the labels.

    Raises:
        ArgumentError: a factor, coefficient or column that the fit does not have, or a label that
            no unit has.
    """
    effects = tabulate_factor(fit, factor)
    names = tuple(dict.fromkeys(effects["coefficient"]))
    if coefficient is not None:
        if coefficient not in names:
            raise ArgumentError(
                f"coefficient={coefficient!r} does not vary over '{factor}'; choose one of "
                f"{', '.join(names)}"
            )
        names = (coefficient,)
    for column, label in (within or {}).items():
        effects = _select(effects, fit, factor, column, label)
    labels = effects.loc[effects["coefficient"] == names[0], "group"].to_numpy(dtype=object)
    return draw_caterpillar(Units(factor, labels), effects, names, posterior=False)


def tabulate_factor(fit: LevelsEstimate, factor: str) -> "pd.DataFrame":
    """Return one row per unit and coefficient of a factor, under column names of its own.

    Columns: `group`, the label, of several columns joined by ":"; `coefficient`, `n`; `u`, its
    standard error of prediction `u_se` and 95 % interval `u_low`, `u_high`; `mean`, `low` and
    `high` of a posterior, nan; and `label 0`, `label 1`, ..., the factor's columns.

    Raises:
        ArgumentError: it is not a factor of the fit.
    """
    import pandas as pd

    names = list(fit.moments.groups)
    if factor not in names:
        raise ArgumentError(
            f"factor={factor!r} is not a grouping factor; choose one of {', '.join(names)}"
        )
    table = fit.group_effects(factor)
    at = names.index(factor)
    labels, q = fit.moments.labels[at], fit.structures[at].q
    rows = np.bincount(labels.codes, weights=fit.moments.n).astype(int)
    columns = {f"label {i}": np.repeat(each, q) for i, each in enumerate(labels.columns)}
    shown = [":".join(map(str, each)) for each in zip(*labels.columns, strict=True)]
    u, se = table["estimate"].to_numpy(), np.sqrt(table["pev"].to_numpy())
    unknown = np.full(len(u), np.nan)
    return pd.DataFrame(
        {
            "group": np.repeat(np.array(shown, dtype=object), q),
            "coefficient": table["coefficient"].to_numpy(),
            "n": np.repeat(rows, q),
            "u": u,
            "u_se": se,
            "u_low": u - Z95 * se,
            "u_high": u + Z95 * se,
            "mean": unknown,
            "low": unknown,
            "high": unknown,
            **columns,
        }
    )


def _select(
    effects: "pd.DataFrame", fit: LevelsEstimate, factor: str, column: str, label: Any
) -> "pd.DataFrame":
    """Return the rows of the units that have a label in one grouping column.

    Of a factor that has not the column itself, those that occur with the label.
    """
    names = list(fit.moments.groups)
    own = fit.moments.factors[names.index(factor)].columns
    known = fit.moments.cell_labels
    if column not in known:
        raise ArgumentError(
            f"within={{{column!r}: ...}} names no grouping column; choose one of {', '.join(known)}"
        )
    if column in own:
        kept = effects[effects[f"label {own.index(column)}"] == label]
    else:
        codes = np.unique(fit.moments.codes[names.index(factor)][known[column] == label])
        q = fit.structures[names.index(factor)].q
        kept = effects[np.isin(np.arange(len(effects)) // q, codes)]
    if not len(kept):
        raise ArgumentError(f"{show_value(label)} is not a label of '{column}' in these rows")
    return kept.reset_index(drop=True)
