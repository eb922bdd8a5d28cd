"""Moments of one grouping column or of several, and patterns: what takes each, by its kind."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from bhlm.design.design import build_design
from bhlm.design.formula.terms import parse_formula
from bhlm.design.formula.weights import Weights, settle_factors
from bhlm.design.rows import open_rows
from bhlm.errors import ArgumentError, DataError, check_arguments
from bhlm.moments import moments as one_factor
from bhlm.moments.cells import (
    CellMoments,
    check_unit_weights,
    compute_cells,
    merge_cell_moments,
    open_cells,
    open_cells_alike,
    suppress_small_cells,
)
from bhlm.moments.file import read_blocks
from bhlm.moments.level_pattern_parts import merge_level_patterns
from bhlm.moments.level_patterns import (
    LevelPatterns,
    check_small_units,
    reduce_level_patterns,
)
from bhlm.moments.moments import Moments, compute_moments, open_blocks
from bhlm.moments.pattern_parts import merge_patterns, suppress_small_patterns
from bhlm.moments.patterns import Patterns, reduce_patterns
from bhlm.sources.watch import unchanged

type AnyMoments = Moments | CellMoments
type Reduced = Moments | CellMoments | Patterns | LevelPatterns
type Saved = Reduced  # what files hold


def load_moments(path: str | Path) -> AnyMoments:
    """Return the moments of a file that `save` wrote, equal to the last bit.

    Those of several grouping factors are a `CellMoments`; `bhlm.load_moments` reads patterns too.

    Raises:
        DataError: no such file; not a moments file; cut off, changed or corrupted; written in a
            newer schema; or its content contradicts itself.
    """
    header, blocks = read_blocks(path)
    if "groupings" in header:
        return open_cells(header, blocks, f"'{path}'")
    return open_blocks(header, blocks, f"'{path}'")


@check_arguments
def save_moments(moments: Saved, path: str | Path, *, min_group_size: int | None = None) -> None:
    """Write moments to one file, which `load_moments` gives back to the last bit.

    See `bhlm.moments.moments.save_moments`, of several grouping factors
    `bhlm.moments.cells.save_cells`, and of a family `bhlm.moments.patterns.save_patterns`.
    """
    moments.save(path, min_group_size=min_group_size)


@check_arguments
def merge_moments(parts: Sequence[Saved], *, names: Sequence[str] | None = None) -> Saved:
    """Return the moments of the union of disjoint sets of rows.

    See `bhlm.moments.moments.merge_moments`, of several grouping factors
    `bhlm.moments.cells.merge_cell_moments`, and of patterns
    `bhlm.moments.pattern_parts.merge_patterns`.

    Raises:
        DataError: no parts, parts of two kinds, or parts that do not merge.
    """
    for kind, refusal, merge in _MERGES:
        if any(isinstance(part, kind) for part in parts):
            for at, part in enumerate(parts):
                if not isinstance(part, kind):
                    shown = names[at] if names else f"part {at + 1}"
                    raise DataError(refusal.format(part=shown, formula=part.formula))
            return merge(parts, names=names)
    return one_factor.merge_moments(cast("Sequence[Moments]", parts), names=names)


# What parts of a kind are merged by, and what is said of another kind beside them.
_MERGES: tuple[tuple[type, str, Callable[..., Saved]], ...] = (
    (
        LevelPatterns,
        "{part} ('{formula}') has no patterns of several factors, and others have; reduce all with "
        "one family and one formula",
        merge_level_patterns,
    ),
    (
        Patterns,
        "{part} has moments ('{formula}') and others have patterns of a family; reduce all with "
        "one family",
        merge_patterns,
    ),
    (
        CellMoments,
        "{part} has moments of a single factor ('{formula}') and others of several; reduce all for "
        "one formula",
        merge_cell_moments,
    ),
)


def reduce_part(formula: str, table: Any, *, weights: Weights | None = None) -> AnyMoments:
    """Return the moments of a table that may be one part of many; see `bhlm.reduce_part`."""
    asked = parse_formula(formula)
    meant = settle_factors(weights, tuple(asked.groupings), asked.find_grouping)
    asked = replace(asked, weights=meant)
    if asked.has_levels:
        check_unit_weights(asked)
    opened = open_rows(asked, table)
    design = build_design(asked, opened, check=False)
    return compute_cells(design, opened) if asked.has_levels else compute_moments(design, opened)


def reduce_alike(reference: Saved, table: Any) -> Saved:
    """Return the moments of a table under the constants and levels of others.

    See `bhlm.reduce_like`.
    """
    opened = open_alike(reference, table)
    if isinstance(reference, Patterns):
        design, family = reference.design, reference.family
        with unchanged(opened):
            return reduce_patterns(
                design.formula, opened, family=family, design=design, is_part=True
            )
    if isinstance(reference, LevelPatterns):
        return reduce_level_patterns(
            reference.design.formula, opened, family=reference.family, design=reference.design,
            is_part=True,
        )  # fmt: skip
    if isinstance(reference, CellMoments):
        return compute_cells(reference.design, opened)
    return compute_moments(reference.design, opened)


def open_alike(moments: Saved, data: Any, **how: Any) -> Any:
    """Return the table behind data, with labels of the types that those of some moments have.

    `how` are the memory_limit, separator and missing of `bhlm.sources.open.open_table`, whose
    `DataError` is raised.
    """
    if isinstance(moments, CellMoments | LevelPatterns):
        return open_cells_alike(moments, data, **how)
    return one_factor.open_alike(moments, data, **how)


@check_arguments
def suppress_small_groups(moments: Saved, k: int, *, action: str = "refuse") -> tuple[Saved, str]:
    """Return moments without groups or cells of fewer than k rows, and a sentence on what was done.

    See `bhlm.moments.moments.suppress_small_groups` for what this guarantees and what not,
    `bhlm.moments.cells.suppress_small_cells` for several grouping factors, and
    `bhlm.moments.pattern_parts.suppress_small_patterns` for a family.

    Raises:
        ArgumentError: k is not a whole number above 0, or the action is not known.
        DataError: there are groups below k to refuse, or none would be left.
    """
    if isinstance(moments, LevelPatterns):
        if action == "drop":
            raise ArgumentError(
                "units of several factors are not dropped after: those of one factor lie across "
                "those of others; leave their rows out of the table, and reduce it again"
            )
        sentence = check_small_units(moments, k)
        return replace(moments, min_group_size=int(k)), sentence
    if isinstance(moments, Patterns):
        return suppress_small_patterns(moments, k, action=action)
    if isinstance(moments, CellMoments):
        return suppress_small_cells(moments, k, action=action)
    return one_factor.suppress_small_groups(moments, k, action=action)
