"""Patterns of files and of parts of a table: loaded, merged, and small groups left out."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bhlm.errors import ArgumentError, DataError
from bhlm.moments.disclosure import find_large_groups, join_promises
from bhlm.moments.file import refuse_repeated, report_broken
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.moments.merge import check_alike, check_shared, join_labels, name_parts
from bhlm.moments.pattern_file import (
    LISTS,
    check_pattern_counts,
    check_patterns,
    digest_sorted,
    read_patterns,
)
from bhlm.moments.patterns import CountedRows, Outcome, Patterns, find_patterns, rebuild_patterns

type FindFamily = Callable[[str, str], Outcome]  # by name and link


def load_patterns(path: str | Path, *, find: FindFamily) -> Patterns:
    """Return the patterns of a file that `Patterns.save` wrote, equal to the last bit.

    Args:
        path: the file.
        find: returns the family of a name and a link.

    Raises:
        DataError: no such file; not one of patterns; cut off, changed or corrupted; written in a
            newer schema; or its content contradicts itself.
    """
    name = f"'{path}'"
    header, arrays = read_patterns(path)
    with report_broken(name):
        family = find_outcome(header, find)
        patterns = rebuild_patterns(header, arrays, family=family)
        check_pattern_counts(header, patterns)
        check_patterns(patterns, name)
        return patterns


def merge_patterns(parts: Sequence[Patterns], *, names: Sequence[str] | None = None) -> Patterns:
    """Return the patterns of the union of disjoint sets of rows.

    Equal patterns of a group add up, so that a merge of the parts of a table is what the whole
    table gives, but for the rounding of exposures and of the constant.

    Args:
        parts: patterns under one formula, family, centring constants and levels.
        names: what to call each part in an error, such as its file.

    Raises:
        DataError: no parts; two parts of the same rows; parts of different models, families,
            constants, levels or types of labels; a group in two parts of a model with cwc() or
            gm().
    """
    names = name_parts(parts, names, what="patterns")
    first = parts[0]
    design = first.design
    for part, name in zip(parts[1:], names[1:], strict=True):
        check_alike(design, part.design, names=(names[0], name))
        check_outcomes(first, part, names=(names[0], name))
    refuse_repeated(
        [(digest_sorted(part), str(part.groups.dtype)) for part in parts], names, what="patterns"
    )
    labels = join_labels([part.groups for part in parts], design.group, names=names)
    groups, index = np.unique(labels, return_inverse=True)
    if len(groups) < len(labels):
        check_shared(design, parts, index, names=names)
    ends = np.cumsum([0, *(part.n_groups for part in parts)])
    codes = np.concatenate(
        [index[ends[i] : ends[i + 1]][part.codes] for i, part in enumerate(parts)]
    )
    n, y, offset, values = (
        np.concatenate([getattr(part, name) for part in parts]) for name in LISTS
    )
    keys = np.column_stack([values, offset]) if np.any(offset != 0.0) else values
    own, starts, at = find_patterns(codes, np.ascontiguousarray(keys), len(groups))
    constant, rest = join_constants(parts)
    return replace(
        first,
        groups=groups,
        starts=starts,
        n=np.bincount(own, weights=n, minlength=len(at)),
        y=np.bincount(own, weights=y, minlength=len(at)),
        offset=offset[at],
        values=np.ascontiguousarray(values[at]),
        rows=np.bincount(index, weights=np.concatenate([part.rows for part in parts])),
        constant=constant,
        rest=rest,
        dropped=sum(part.dropped for part in parts),
        suppressed=sum(part.suppressed for part in parts),
        missing=tuple(sum((Counter(dict(part.missing)) for part in parts), Counter()).items()),
        min_group_size=join_promises(part.min_group_size for part in parts),
    )


def find_outcome(header: Mapping[str, Any], find: FindFamily) -> Outcome:
    """Return the family that a file's description names; raise `ValueError` where there is none."""
    try:
        return find(header["family"], header["link"])
    except ArgumentError as error:
        raise ValueError(str(error)) from error


def join_constants(parts: Sequence[AnyPatterns]) -> tuple[float, float]:
    """Return the sum of the constants of parts, and what the double leaves of it."""
    constants = [each for part in parts for each in (part.constant, part.rest)]
    constant = math.fsum(constants)
    return constant, math.fsum([*constants, -constant])


def check_outcomes(first: CountedRows, part: CountedRows, *, names: tuple[str, str]) -> None:
    """Raise `DataError` where two parts differ in their families, trials or offsets."""
    for what, here, there in zip(
        ("the family", "the trials", "offsets"), *map(_tell_outcome, (part, first)), strict=True
    ):
        if here != there:
            raise DataError(
                f"patterns differ in {what}: {names[1]} has {here} and {names[0]} has {there}; "
                "reduce both alike"
            )


def _tell_outcome(part: CountedRows) -> tuple[str, str, str]:
    """Return the family, the trials and the offsets, in words."""
    formula = part.design.formula
    offsets = ", ".join(map(str, formula.offsets)) or "none"
    return f"{part.family.name} by {part.family.link}", str(formula.trials or "none"), offsets


def suppress_small_patterns(
    patterns: Patterns, k: int, *, action: str = "refuse"
) -> tuple[Patterns, str]:
    """Return patterns without groups of fewer than k rows, and a sentence on what was done.

    It is a threshold on groups. A pattern of a large group may still be a single row, which
    `Patterns.disclosures` tells; columns of fewer values make larger patterns.

    Raises:
        ArgumentError: k is not a whole number above 0, or the action is not known.
        DataError: there are groups below k to refuse, or none would be left; or groups to drop of
            a family whose constant is over all rows.
    """
    keep, sentence = find_large_groups(
        patterns.rows, k, of=f"groups of '{patterns.group}'", action=action
    )
    if keep.all():
        is_known = patterns.min_group_size == k
        return patterns if is_known else replace(patterns, min_group_size=int(k)), sentence
    if patterns.constant != 0.0:
        # The constant sums log-factorials of all rows, which would tell of those left out.
        raise DataError(
            f"{sentence.split(' and ')[0]}; patterns of family='{patterns.family.name}' hold a "
            "constant of all rows, so that groups cannot be dropped after: leave their rows out of "
            "the table, and reduce it again"
        )
    own = keep[patterns.codes]
    left = np.diff(patterns.starts)[keep]
    return replace(
        patterns,
        groups=patterns.groups[keep],
        starts=np.concatenate([[0], np.cumsum(left)]),
        rows=patterns.rows[keep],
        suppressed=patterns.suppressed + int(patterns.rows[~keep].sum()),
        min_group_size=int(k),
        **{name: getattr(patterns, name)[own] for name in LISTS},
    ), sentence
