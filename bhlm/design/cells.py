"""Formula with several grouping columns + table -> design and complete rows, by cell.

A cell is a combination of labels that occurs. The columns that the formula reads are held in
memory, whatever the engine.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from bhlm.design.constants import fit_constants
from bhlm.design.design import (
    Design,
    check_levels,
    check_roles,
    check_values,
    find_factors,
    ignore_floating_errors,
    prepare_design,
    tally_table,
)
from bhlm.design.evaluate import Rows, read_rows
from bhlm.design.formula.terms import Formula, list_factors
from bhlm.design.frames import collect_frame
from bhlm.design.labels import code_groups
from bhlm.design.levels import check_exact, find_levels
from bhlm.design.rows import (
    Layout,
    check_schema,
    count_rows,
    formula_columns,
    is_complete,
    list_within,
    name_groups,
    prepare_rows,
    read_frame,
    read_table,
)
from bhlm.errors import DataError

Array = np.ndarray


class Labels(NamedTuple):
    """The labels of one factor, by its columns, and the code of each row or cell."""

    columns: tuple[Array, ...]  # (J,) each
    codes: Array  # (n,) or (C,), from 0, in the order of the labels

    @property
    def n_levels(self) -> int:
        """The number J of levels."""
        return len(self.columns[0])


class PreparedCells(NamedTuple):
    """A design with the complete rows of the table that it was built from."""

    design: Design
    frame: nw.DataFrame[Any]
    layout: Layout
    labels: tuple[Labels, ...]  # by factor, with the codes of the rows
    cells: Array  # (n,) the cell of each row, from 0
    codes: Array  # (F, C) the level of every factor that each cell belongs to
    dropped: int
    missing: Mapping[str, int]

    def rows(self) -> Rows:
        """Return the rows with what the design reads of them."""
        named = _name_levels(self.design.formula, self.labels)
        n_cells = self.codes.shape[1]
        return read_rows(self.design, self.frame, self.layout, self.cells, n_cells, levels=named)

    def check(self) -> None:
        """Raise `DataError` if a term is not finite in some row."""
        with ignore_floating_errors():
            check_values(self.design, self.frame, self.layout, n=len(self.frame))


def prepare_cells(
    formula: Formula, table: Any, *, counted: bool = False, least: int = 2
) -> PreparedCells:
    """Return the design of a formula with several grouping columns, and its complete rows.

    `counted` takes trials and offsets, which only families have; `least` is how many levels a
    factor must have.

    Raises:
        FormulaError: the formula is at fault.
        DataError: the table cannot serve the formula.
    """
    check_roles(formula, counted=counted)
    frame = read_frame(read_table(table, formula))
    schema = check_schema(frame, formula)
    if isinstance(frame, nw.LazyFrame):
        frame = collect_frame(frame.select(formula_columns(formula)))
    with ignore_floating_errors():
        factors = find_factors(formula, schema)
        rows, layout = prepare_rows(frame, formula, schema, factors=factors)
        tally = count_rows(rows, layout)
        if tally.complete < tally.total:
            rows = rows.filter(is_complete(layout))
        kept = collect_frame(rows) if isinstance(rows, nw.LazyFrame) else rows
        columns = {name: kept[at].to_numpy() for at, name in name_groups(formula).items()}
        labels = read_labels(formula, columns, n=tally.complete, least=least)
        cells, codes = code_cells([each.codes for each in labels])
        levels = {str(factor): find_levels(factor, kept, layout) for factor in factors}
        values = [e for e in (*list_factors(formula), formula.response) if str(e) not in levels]
        constants = fit_constants(kept, values, layout=layout, n=tally.complete)
        design = Design.assemble(formula, levels, constants)
    missing = tally.name_missing(layout)
    dropped = tally.total - tally.complete
    return PreparedCells(design, kept, layout, labels, cells, codes, dropped, missing)


def prepare_cells_alike(design: Design, table: Any) -> PreparedCells:
    """Return the complete rows of a table that has the constants and levels of a design.

    It may be one part of many, in which a factor has a single level.

    Raises:
        DataError: the table has values or levels that the design cannot serve.
    """
    formula = design.formula
    table = read_table(table, formula)
    with ignore_floating_errors():
        rows, layout = prepare_design(design, table)
        total, missing = tally_table(design, table)
        kept = collect_frame(rows) if isinstance(rows, nw.LazyFrame) else rows
        check_levels(design, kept, layout)
        check_values(design, kept, layout, n=len(kept))
        columns = {name: kept[at].to_numpy() for at, name in name_groups(formula).items()}
        labels = read_labels(formula, columns, n=len(kept), least=1)
        cells, codes = code_cells([each.codes for each in labels])
    dropped = total - len(kept)
    return PreparedCells(design, kept, layout, labels, cells, codes, dropped, missing)


def code_cells(codes: Sequence[Array]) -> tuple[Array, Array]:
    """Return the cell (n,) of each row, and the level (F, C) of every factor by cell."""
    cells = np.zeros(len(codes[0]), dtype=np.int64)
    for each in codes:
        _, cells = np.unique(cells * (int(each.max()) + 1) + each, return_inverse=True)
    first = np.zeros(int(cells.max()) + 1, dtype=np.int64)
    first[cells] = np.arange(len(cells))
    return cells, np.array([each[first] for each in codes])


def read_labels(
    formula: Formula, columns: Mapping[str, Array], *, n: int, least: int = 2
) -> tuple[Labels, ...]:
    """Return the labels of every factor, in the order of the random terms.

    Args:
        formula: has the factors.
        columns: the grouping columns, of rows or of cells.
        n: the complete rows, for an error.
        least: levels that a factor must have; one of many parts may have a single one.

    Raises:
        DataError: a factor has fewer levels.
    """
    single = {name: code_groups(labels, column=name) for name, labels in columns.items()}
    for name, (distinct, _) in single.items():
        check_exact(distinct, f"the group column '{name}'")
    found = []
    for name, own in formula.groupings.items():
        codes, by_column = code_cells([single[column][1] for column in own])
        labels = tuple(single[column][0][at] for column, at in zip(own, by_column, strict=True))
        if len(labels[0]) < least:
            raise DataError(
                f"the grouping factor '{name}' has 1 level in the {n} complete rows; random "
                "effects need at least 2, so leave its random terms out"
            )
        found.append(Labels(labels, codes))
    return tuple(found)


def _name_levels(formula: Formula, labels: Sequence[Labels]) -> dict[str, tuple[Array, int]]:
    """Return codes and counts of the factors that cwc() and gm() name, as they write them."""
    by_name = dict(zip(formula.groupings, labels, strict=True))
    found = {}
    for each in list_within(formula):
        own = by_name[str(formula.find_grouping(each))]
        found[each] = own.codes, own.n_levels
    return found
