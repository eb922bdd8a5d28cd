"""Predictions of a family with several factors for the rows of a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.design.rows import formula_columns, open_rows, read_frame, read_table
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.level_rows import read_new_columns
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.reml.family.level_predictions import predict_rows
from bhlm.reml.family.levels import FamilyLevelsEstimate

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.design.new_rows import At


def predict_family_levels(
    patterns: LevelPatterns,
    own: Any,
    fit: Any,
    data: Any,
    *,
    kind: str,
    scale: str,
    new_groups: str,
    level: float,
    at: "At | None",
) -> "pd.DataFrame":
    """Return predictions for the rows of a table; None is the model's own, complete ones.

    Arguments as of `bhlm.fits.family_rows.predict_family`; see
    `bhlm.reml.family.level_predictions.predict_rows` for the columns.

    Raises:
        ArgumentError: a fit of another model, or a choice that is not known.
        DataError: new rows that the model cannot read, or of units that it has not seen.
    """
    is_own = (
        isinstance(fit, FamilyLevelsEstimate | FamilyLevelDraws)
        and fit.patterns.formula == patterns.formula
        and fit.patterns.family == patterns.family
    )
    if not is_own:
        raise ArgumentError(
            f"the fit is not of '{patterns.formula}' by family='{patterns.family.name}'; predict "
            "by the model that was fitted"
        )
    formula = patterns.design.formula
    if own is None:
        raise DataError(
            "this model was made from patterns, which hold no single rows, and cannot read new "
            "ones; make it from the table"
        )
    if data is None:
        names = formula_columns(formula)
        new: Any = read_frame(read_table(own, formula)).drop_nulls(subset=names).to_native()
    else:
        new = open_rows(formula, data) if isinstance(data, str | Path) else data
    rows = read_new_columns(patterns, own, new, needs_group=kind != "population", at=at)
    choice: dict[str, Any] = {
        "kind": kind, "scale": scale, "new_groups": new_groups, "level": level,
    }  # fmt: skip
    if isinstance(fit, FamilyLevelDraws):
        from bhlm.bayes.family.quantities import predict_placed

        found = predict_placed(fit, rows.codes, rows.x, rows.z, rows.offset, **choice)
    else:
        found = predict_rows(fit, rows.codes, rows.x, rows.z, rows.offset, **choice)
    return found if rows.index is None else found.set_axis(rows.index)
