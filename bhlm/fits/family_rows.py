"""Predictions of a family for the rows of a table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.family.draws import FamilyDraws
from bhlm.design.new_rows import read_new_rows
from bhlm.design.rows import formula_columns, open_rows, read_frame, read_table
from bhlm.errors import ArgumentError, DataError
from bhlm.moments.groups import place_new_rows
from bhlm.reml.family.predictions import predict_rows

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.design.new_rows import At
    from bhlm.moments.patterns import Patterns
    from bhlm.reml.family.estimate import FamilyEstimate


def predict_family(
    patterns: "Patterns",
    own: Any,
    fit: "FamilyEstimate | FamilyDraws",
    data: Any,
    *,
    kind: str,
    scale: str,
    new_groups: str,
    level: float,
    at: "At | None",
) -> "pd.DataFrame":
    """Return predictions for the rows of a table; None is the model's own, complete ones.

    Args:
        patterns: of the model.
        own: the table that they were reduced from.
        fit: of the model.
        data: the new rows.
        kind: "conditional" or "population".
        scale: "response" or "link"; see `bhlm.reml.family.predictions.predict_rows`.
        new_groups: "error" or "population".
        level: of the intervals.
        at: as in `bhlm.design.new_rows.read_new_rows`.

    Raises:
        ArgumentError: a fit of another model, or a choice that is not known.
        DataError: see `bhlm.design.new_rows.read_new_rows`.
    """
    import pandas as pd

    made = getattr(fit, "patterns", None)
    if made is None or made.formula != patterns.formula or made.family != patterns.family:
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

    def check(found: np.ndarray) -> None:
        place_new_rows(patterns, found, kind=kind, new_groups=new_groups)

    labels, x, z, index, offset = read_new_rows(
        patterns.design, own, new, needs_group=kind != "population", at=at, check=check
    )
    choice: dict[str, Any] = {
        "kind": kind, "scale": scale, "new_groups": new_groups, "level": level,
    }  # fmt: skip
    if isinstance(fit, FamilyDraws):
        from bhlm.bayes.family.quantities import predict_rows as predict_draws

        table = predict_draws(fit, labels, x, z, offset, **choice)
    else:
        table = predict_rows(fit, labels, x, z, offset, **choice)
    return table.set_axis(pd.Index(labels, name=patterns.group) if index is None else index)
