"""Patterns of several factors of files and of parts of a table: loaded and merged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bhlm.design.cells import read_labels
from bhlm.moments.disclosure import join_promises
from bhlm.moments.file import refuse_repeated, report_broken
from bhlm.moments.level_pattern_file import (
    LISTS,
    check_level_patterns,
    digest_sorted,
    read_level_patterns,
)
from bhlm.moments.level_patterns import LevelPatterns, gather_patterns, rebuild_level_patterns
from bhlm.moments.merge import check_alike, check_within, join_labels, name_parts
from bhlm.moments.pattern_parts import (
    FindFamily,
    check_outcomes,
    find_outcome,
    join_constants,
)


def load_level_patterns(path: str | Path, *, find: FindFamily) -> LevelPatterns:
    """Return the patterns of a file that `LevelPatterns.save` wrote, equal to the last bit.

    Args:
        path: the file.
        find: returns the family of a name and a link.

    Raises:
        DataError: no such file; not one of patterns; cut off, changed or corrupted; written in a
            newer schema; or its content contradicts itself.
    """
    name = f"'{path}'"
    header, labels, lists = read_level_patterns(path)
    with report_broken(name):
        family = find_outcome(header, find)
        patterns = rebuild_level_patterns(header, labels, lists, family=family)
        if patterns.n_rows != header["rows"] or type(header["dropped"]) is not int:
            raise ValueError(f"{header['rows']} rows, {header['dropped']} left out")
        check_level_patterns(patterns, name)
        return patterns


def merge_level_patterns(
    parts: Sequence[LevelPatterns], *, names: Sequence[str] | None = None
) -> LevelPatterns:
    """Return the patterns of the union of disjoint sets of rows.

    Equal patterns of a combination of labels add up, as `bhlm.moments.pattern_parts.merge_patterns`
    does in a group; units may have rows in several parts.

    Raises:
        DataError: no parts; two parts of the same rows; parts of different models, families,
            constants, levels or types of labels; a level in two parts of a factor within which
            means are taken.
    """
    names = name_parts(parts, names, what="patterns")
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        check_alike(first.design, part.design, names=(names[0], name))
        check_outcomes(first, part, names=(names[0], name))
    contents = [
        (digest_sorted(part), *(str(each.dtype) for each in part.cell_labels.values()))
        for part in parts
    ]
    refuse_repeated(contents, names, what="patterns")
    formula = first.design.formula
    joined = {
        column: join_labels([part.cell_labels[column] for part in parts], column, names=names)
        for column in formula.group_columns
    }
    belongs = np.repeat(np.arange(len(parts)), [part.n_patterns for part in parts])
    check_within(formula, belongs, joined)
    lists = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in (*LISTS, "values")
    }
    labels = read_labels(formula, joined, n=int(lists["rows"].sum()), least=1)
    kept, own = gather_patterns(labels, lists)
    constant, rest = join_constants(parts)
    missing = sum((Counter(dict(part.missing)) for part in parts), Counter[str]())
    return replace(
        first,
        labels=kept,
        **own,
        constant=constant,
        rest=rest,
        dropped=sum(part.dropped for part in parts),
        missing=tuple(missing.items()),
        min_group_size=join_promises(part.min_group_size for part in parts),
    )
