"""Rows of a model with several factors -> predictions and residuals of a fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import narwhals as nw
import numpy as np

from bhlm.bayes.level_draws import LevelDraws
from bhlm.design.cells import prepare_cells
from bhlm.design.design import Design, check_levels, distinct_columns, index_rows, prepare_design
from bhlm.design.evaluate import read_rows
from bhlm.design.formula.expressions import column_names
from bhlm.design.formula.terms import list_factors
from bhlm.design.formula.weights import refuse_weights
from bhlm.design.new_rows import (
    NO_GROUP,
    OWN_ROWS,
    At,
    carry_means,
    check_at,
    list_named_means,
    read_offsets,
)
from bhlm.design.rows import list_within, name_groups, read_frame
from bhlm.errors import ArgumentError, DataError
from bhlm.layout import agree
from bhlm.moments.cells import (
    CellMoments,
    CellRows,
    open_cells_alike,
    read_cell_rows,
    refuse_factors,
)
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import INTERCEPT
from bhlm.reml.level_rows import list_residuals, locate_levels, predict_level_rows
from bhlm.reml.levels import LevelsEstimate
from bhlm.sources.watch import unchanged

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def predict_levels(
    cells: CellMoments,
    table: Any,
    fit: Any,
    data: Any = None,
    *,
    kind: str = "conditional",
    new_groups: str = "error",
    level: float = 0.95,
    at: At | None = None,
) -> "pd.DataFrame":
    """Return predictions for the rows of `data`; None is `table`, the model's own.

    Raises:
        ArgumentError: a posterior, a fit of another model, or a choice that is not known.
        DataError: no rows at hand; new rows that the model cannot read, or that need a group mean
            that nothing gives.
    """
    fit = _check_fit(cells, fit)
    if table is None:
        raise DataError("this model was made from moments and has no rows; make it from the table")
    if data is None:
        rows, index = read_cell_rows(cells.design.formula, table), index_rows(cells.design, table)
    else:
        new = open_cells_alike(cells, data) if isinstance(data, str | Path) else data
        with unchanged(table, new, since_opened=False):
            rows, index = read_new_level_rows(
                cells, table, new, needs_group=kind != "population", at=at
            )
    found = predict_level_rows(fit, rows, kind=kind, new_groups=new_groups, level=level)
    return found if index is None else found.set_axis(index)


def list_level_residuals(cells: CellMoments, table: Any, fit: Any) -> "pd.DataFrame":
    """Return the level-1 residuals of the model's own rows.

    Raises:
        ArgumentError: a posterior, or a fit of another model.
        DataError: no rows at hand.
    """
    fit = _check_fit(cells, fit)
    if table is None:
        raise DataError("this model was made from moments and has no rows; make it from the table")
    found = list_residuals(fit, read_cell_rows(cells.design.formula, table))
    index = index_rows(cells.design, table)
    return found if index is None else found.set_axis(index)


def read_own_level_rows(
    cells: CellMoments, table: Any, fit: Any
) -> tuple[LevelDraws, CellRows, "pd.Index | None"]:
    """Return a posterior, the rows that it was fitted to, and what the table calls them.

    Raises:
        ArgumentError: no posterior, or one of another model; a model with weights.
        DataError: no rows at hand.
    """
    if not isinstance(fit, LevelDraws):
        raise ArgumentError(
            f"rows are checked against a posterior, and {type(fit).__name__} is none; take "
            "model.sample()"
        )
    _check_formula(cells, fit)
    if cells.weights is not None:
        raise refuse_weights(cells.weights, "a check of single rows")
    if table is None:
        raise DataError("this model was made from moments and has no rows; make it from the table")
    return fit, read_cell_rows(cells.design.formula, table), index_rows(cells.design, table)


def read_new_level_rows(
    cells: CellMoments, own: Any, new: Any, *, needs_group: bool = True, at: At | None = None
) -> tuple[CellRows, Any]:
    """Return new rows, with y of nan, and what the table calls them; see `read_new_columns`."""
    codes, x, z, index, _ = read_new_columns(cells, own, new, needs_group=needs_group, at=at)
    return CellRows(codes, x, z, np.full(len(x), np.nan)), index


class NewLevelRows(NamedTuple):
    """The columns of a design for new rows."""

    codes: Array  # (F, n) the level of every factor, -1 for new ones
    x: Array  # (n, p)
    z: tuple[Array, ...]  # F, (n, q_f)
    index: Any  # what the table calls the rows
    offset: Array  # (n,) of the linear predictor; zero without one


def read_new_columns(
    cells: CellMoments | LevelPatterns,
    own: Any,
    new: Any,
    *,
    needs_group: bool = True,
    at: At | None = None,
) -> NewLevelRows:
    """Return the columns of a design for new rows, and what the table calls them.

    gm() and cwc() take the means of the rows that the model was made from, as in
    `bhlm.design.new_rows.read_new_rows`.

    Args:
        cells: the moments of the model, or its patterns.
        own: the table that it was made from.
        new: any dataframe that narwhals accepts.
        needs_group: whether the rows must have all grouping columns.
        at: for groups that are not among those of `own`, each gm() that the columns rest on, such
            as {"gm(ses, school)": 0.0}; or "new rows".

    Raises:
        ArgumentError: `at` is neither, or has a key that is no gm() of the columns.
        DataError: a row misses a value or holds a level that the design does not know; a group
            mean that nothing gives.
    """
    design: Design = cells.design
    at = check_at(at, [str(call) for call in list_named_means(design)], new=new)
    table, formula = read_frame(new), design.formula
    needed = (*list_factors(formula), *formula.offsets)
    read = {name for part in needed for name in column_names(part)}
    outcome = {name for part in formula.outcome for name in column_names(part)}
    blank = {name: nw.lit(1.0) for name in outcome if name not in read}
    safe = name_groups(formula)
    schema = table.collect_schema()
    for column in safe.values():
        if column not in schema:
            if needs_group:
                raise DataError(
                    f"the new rows have no column '{column}'; give it, or ask for kind='population'"
                )
            blank[column] = nw.lit(NO_GROUP)
    filled = table.with_columns(**blank).to_native()
    prepared, layout = prepare_design(design, filled)
    held = prepared.lazy().collect()
    check_levels(design, held, layout)
    total = table.lazy().select(nw.len()).collect().item()
    if len(held) < total:
        short = total - len(held)
        raise DataError(
            f"{short} of the {total} new rows {agree(short, 'misses', 'miss')} a value that the "
            "formula reads; drop or fill them first"
        )
    n = len(held)
    labels = {column: np.asarray(held[at].to_numpy()) for at, column in safe.items()}
    codes = locate_levels(
        cells, [[labels[column] for column in factor.columns] for factor in cells.factors]
    )
    known, levels = _place_groups(cells, codes, labels, by_row=at != OWN_ROWS)
    rows = read_rows(design, held, layout, np.zeros(n, dtype=np.int64), 1, levels=levels)
    if levels:
        with np.errstate(all="ignore"):
            counted = isinstance(cells, LevelPatterns)
            whole = prepare_cells(formula, own, counted=counted).rows()
            carry_means(design, whole, rows, known=known, at=at)
    columns = distinct_columns(formula, design.levels)
    values = {INTERCEPT: np.ones(n)}
    for name, stated in columns.items():
        values[name] = np.broadcast_to(
            np.asarray(rows.column(stated, slice(0, n)), dtype=np.float64), (n,)
        )
    x = np.column_stack([values[name] for name in design.fixed])
    z = tuple(
        np.column_stack([values[name] for term in factor.blocks for name in term])
        for factor in cells.factors
    )
    if not all(np.isfinite(each).all() for each in (x, *z)):
        raise DataError(
            "a column of the formula is not finite in some new row; check the new table"
        )
    offset = read_offsets(design, held, layout)
    return NewLevelRows(codes, x, z, index_rows(design, filled), offset)


def _place_groups(
    cells: CellMoments | LevelPatterns,
    codes: Array,
    labels: Mapping[str, Array],
    *,
    by_row: bool,
) -> tuple[dict[str, int], dict[str, tuple[Array, int]]]:
    """Return how many groups are known, and `Rows.levels` of new rows, of what cwc() and gm() name.

    A row of a new group is a group of its own, or one with the rows that have its label.
    """
    names = list(cells.design.formula.groupings)
    known, levels = {}, {}
    for written in list_within(cells.design.formula):
        place = names.index(str(cells.design.formula.find_grouping(written)))
        count = known[written] = cells.labels[place].n_levels
        placed = codes[place].copy()
        is_new = placed < 0
        columns = [labels[column][is_new] for column in cells.factors[place].columns]
        fresh = np.arange(is_new.sum()) if by_row or not is_new.any() else _code_rows(columns)
        placed[is_new] = count + fresh
        levels[written] = placed, count + (int(fresh.max()) + 1 if len(fresh) else 0)
    return known, levels


def _code_rows(columns: list[Array]) -> Array:
    """Return a code (n,) for each distinct combination of labels."""
    import pandas as pd

    joined = pd.MultiIndex.from_arrays(columns) if len(columns) > 1 else columns[0]
    return np.asarray(pd.factorize(joined)[0])


def _check_fit(cells: CellMoments, fit: Any) -> LevelsEstimate:
    if not isinstance(fit, LevelsEstimate):
        raise refuse_factors(cells.design.formula, "predict() of a posterior")
    _check_formula(cells, fit)
    return fit


def _check_formula(cells: CellMoments, fit: LevelsEstimate | LevelDraws) -> None:
    if fit.moments.formula != cells.formula:
        raise ArgumentError(
            f"the fit is of '{fit.moments.formula}' and this model is '{cells.formula}'; take the "
            "model that was fitted"
        )
