"""Moments of one grouping column or of several: what takes both, by what it is given."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bhlm.design.design import build_design
from bhlm.design.formula.terms import parse_formula
from bhlm.design.formula.weights import Weights, settle_factors
from bhlm.design.rows import open_rows
from bhlm.errors import DataError, check_arguments
from bhlm.moments import moments as one_factor
from bhlm.moments.cells import (
    CellMoments,
    compute_cells,
    merge_cell_moments,
    open_cells,
    open_cells_alike,
    refuse_weighted,
    suppress_small_cells,
)
from bhlm.moments.file import read_blocks
from bhlm.moments.moments import Moments, compute_moments, open_blocks
from bhlm.moments.patterns import Patterns

type AnyMoments = Moments | CellMoments
type Reduced = Moments | CellMoments | Patterns


@check_arguments
def load_moments(path: str | Path) -> AnyMoments:
    """Return the moments of a file that `save` wrote, equal to the last bit.

    Those of several grouping factors are a `CellMoments`.

    Raises:
        DataError: no such file; not a moments file; cut off, changed or corrupted; written in a
            newer schema; or its content contradicts itself.
    """
    header, blocks = read_blocks(path)
    if "groupings" in header:
        return open_cells(header, blocks, f"'{path}'")
    return open_blocks(header, blocks, f"'{path}'")


@check_arguments
def save_moments(
    moments: AnyMoments, path: str | Path, *, min_group_size: int | None = None
) -> None:
    """Write moments to one file, which `load_moments` gives back to the last bit.

    See `bhlm.moments.moments.save_moments`, and of several grouping factors
    `bhlm.moments.cells.save_cells`.
    """
    moments.save(path, min_group_size=min_group_size)


@check_arguments
def merge_moments(parts: Sequence[AnyMoments], *, names: Sequence[str] | None = None) -> AnyMoments:
    """Return the moments of the union of disjoint sets of rows.

    See `bhlm.moments.moments.merge_moments`, and of several grouping factors
    `bhlm.moments.cells.merge_cell_moments`.

    Raises:
        DataError: no parts, parts of both kinds, or parts that do not merge.
    """
    if not any(isinstance(part, CellMoments) for part in parts):
        return one_factor.merge_moments(cast("Sequence[Moments]", parts), names=names)
    for at, part in enumerate(parts):
        if not isinstance(part, CellMoments):
            shown = names[at] if names else f"part {at + 1}"
            raise DataError(
                f"{shown} has moments of a single factor ('{part.formula}') and others of "
                "several; reduce all for one formula"
            )
    return merge_cell_moments(cast("Sequence[CellMoments]", parts), names=names)


@check_arguments
def merge_files(paths: Sequence[str | Path]) -> AnyMoments:
    """Return the moments of the union of the rows behind several files.

    The files must hold disjoint rows, as those of different sites do. Every site but the first
    reduces its rows by `reduce_like` with the first one's file, so that all have the constants
    of cgm() and poly() and the levels of factors in common.

    Raises:
        DataError: a file that cannot be loaded, two files with the same content, or parts that
            do not merge; see `merge_moments`.
    """
    parts, names = [load_moments(path) for path in paths], [f"'{path}'" for path in paths]
    return merge_moments(parts, names=names)


@check_arguments
def reduce_part(formula: str, table: Any, *, weights: Weights | None = None) -> AnyMoments:
    """Return the moments of a table that may be one part of many, even a single group.

    The constants of cgm() and poly() and the levels of factors are those of this part; the other
    parts take them over with `reduce_like`. The part that goes first must have every level; where
    no site has all of them, build the design from a made-up table that does
    (`bhlm.design.design.build_design`), and let every site compute its moments under it
    (`bhlm.moments.moments.compute_moments`).

    Args:
        formula: the model.
        table: any dataframe that narwhals accepts, or the path of a file.
        weights: of rows and groups, of a single grouping factor.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
        ArgumentError: weights of several grouping factors, which parts have not yet.
    """
    asked = parse_formula(formula)
    if asked.has_levels:
        refuse_weighted(weights, "a file of moments")
    meant = settle_factors(weights, tuple(asked.groupings), asked.find_grouping)
    asked = replace(asked, weights=meant)
    opened = open_rows(asked, table)
    design = build_design(asked, opened, check=False)
    return compute_cells(design, opened) if asked.has_levels else compute_moments(design, opened)


@check_arguments
def reduce_like(reference: AnyMoments | str | Path, table: Any) -> AnyMoments:
    """Return the moments of a table under the constants and levels of other moments.

    Moments that are computed so merge with those of the reference. Centring on the reference's
    grand means instead of one's own moves the intercept, and changes no fit otherwise.

    Args:
        reference: moments, or the path of a moments file.
        table: any dataframe that narwhals accepts, or the path of a file.

    Raises:
        DataError: the reference cannot be read, or the table has levels or types that it does not
            know.
    """
    known = load_moments(reference) if isinstance(reference, str | Path) else reference
    opened = open_alike(known, table)
    if isinstance(known, CellMoments):
        return compute_cells(known.design, opened)
    return compute_moments(known.design, opened)


def open_alike(moments: AnyMoments, data: Any, **how: Any) -> Any:
    """Return the table behind data, with labels of the types that those of some moments have.

    `how` are the memory_limit, separator and missing of `bhlm.sources.open.open_table`, whose
    `DataError` is raised.
    """
    if isinstance(moments, CellMoments):
        return open_cells_alike(moments, data, **how)
    return one_factor.open_alike(moments, data, **how)


@check_arguments
def suppress_small_groups(
    moments: AnyMoments, k: int, *, action: str = "refuse"
) -> tuple[AnyMoments, str]:
    """Return moments without groups or cells of fewer than k rows, and a sentence on what was done.

    See `bhlm.moments.moments.suppress_small_groups` for what this guarantees and what not, and
    `bhlm.moments.cells.suppress_small_cells` for several grouping factors.

    Raises:
        ArgumentError: k is not a whole number above 0, or the action is not known.
        DataError: there are groups below k to refuse, or none would be left.
    """
    if isinstance(moments, CellMoments):
        return suppress_small_cells(moments, k, action=action)
    return one_factor.suppress_small_groups(moments, k, action=action)
