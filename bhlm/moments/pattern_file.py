"""Files of patterns: what a model of counts needs of rows, saved, merged, and what it tells.

A file is Parquet, with one row per group and these columns:

    group   the label, in its own type
    rows    int64, the rows of the group
    n       list of double, by pattern: the trials, or the exposure
    y       list of double, by pattern: the successes, or the events
    offset  list of double, by pattern
    values  list of double, the k - 1 columns of the design, pattern by pattern

The file's metadata are those of moments (`bhlm.moments.file`), with `schema` 4 and beside
`family`, `link`, `constant` (what is left of the log-likelihood when the patterns are known),
`rest` (what the double leaves of it) and `patterns` (how many there are). The checksum is over that
text, the labels, rows, n, y, offset and values.
"""

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.design.labels import kind_of_labels
from bhlm.errors import DataError
from bhlm.files import replace_file
from bhlm.layout import agree, count, list_names
from bhlm.moments.check import LABELS, check_columns
from bhlm.moments.disclosure import SPARE, tell_constants
from bhlm.moments.file import (
    CHECKSUM,
    DESCRIPTION,
    check_digest,
    check_place,
    check_version,
    check_whole,
    describe_labels,
    digest_content,
    labels_from_arrow,
    report_broken,
    store_labels,
)

if TYPE_CHECKING:
    from bhlm.moments.level_patterns import AnyPatterns
    from bhlm.moments.patterns import Patterns

Array = np.ndarray
SCHEMA = 4  # of the layout, which versions that know moments alone refuse as a later one
LISTS = ("n", "y", "offset", "values")

FARTHEST = 230.0  # of an offset: e to that, or less that, are sizes that doubles compute with


def write_patterns(path: str | Path, description: Mapping[str, Any], patterns: "Patterns") -> None:
    """Write patterns, of which the description has all but the arrays, to one file.

    Raises:
        DataError: labels of a type that has no place in a file, a folder that cannot be written
            to, a suffix of another format.
    """
    check_place(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = patterns.groups
    header = {
        "schema": SCHEMA,
        "bhlm": version("bhlm"),
        **description,
        "labels": describe_labels(labels),
        "rows": patterns.n_rows,
        "groups": patterns.n_groups,
        "patterns": patterns.n_patterns,
    }
    text = json.dumps(header, allow_nan=False)
    written = store_labels(labels, patterns.group)
    lists = {}
    for name in LISTS:
        array = getattr(patterns, name)
        ends = patterns.starts * (array.size // max(len(array), 1))
        lists[name] = pa.LargeListArray.from_arrays(ends, array.ravel())
    table = pa.table({"group": written, "rows": pa.array(patterns.rows.astype(np.int64)), **lists})
    arrays = {name: getattr(patterns, name) for name in ("groups", "rows", "starts", *LISTS)}
    digest = _digest_arrays(arrays, text)
    table = table.replace_schema_metadata({DESCRIPTION: text.encode(), CHECKSUM: digest.encode()})
    with replace_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def _digest_arrays(arrays: Mapping[str, Array], text: str) -> str:
    # Where groups begin is told apart from their patterns, which would be the same lists.
    starts = arrays["starts"].astype(np.float64)
    rest = (arrays[name] for name in ("rows", *LISTS))
    return digest_content(text, [arrays["groups"]], starts, *rest)


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the description in a file of moments or patterns; {} in other Parquet files.

    Raises:
        DataError: no such file, or not such a file; cut off, changed or corrupted.
    """
    import pyarrow.parquet as pq

    check_whole(Path(path))
    with report_broken(f"'{path}'"), pq.ParquetFile(path) as file:
        metadata = file.metadata.metadata or {}
        header = json.loads(metadata[DESCRIPTION].decode()) if DESCRIPTION in metadata else {}
        if not isinstance(header, dict):
            raise ValueError("the description is none")
        return header


def read_patterns(path: str | Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the description and the arrays, by name, of a file that `write_patterns` wrote.

    Raises:
        DataError: no such file; not one of patterns; cut off, changed or corrupted; written in a
            newer schema.
    """
    import pyarrow.parquet as pq

    name = f"'{path}'"
    check_whole(Path(path))
    with report_broken(name), pq.ParquetFile(path, page_checksum_verification=True) as file:
        metadata = file.metadata.metadata or {}
        text = metadata[DESCRIPTION].decode()
        header = json.loads(text)
        check_layout(header, SCHEMA, name)
        arrays = _read_arrays(file.read(columns=["group", "rows", *LISTS]), header)
        check_digest(metadata, _digest_arrays(arrays, text), name)
        return header, arrays


def check_layout(header: Mapping[str, Any], schema: int, name: str) -> None:
    """Refuse a file, called `name`, of another layout of patterns than `schema`.

    Raises:
        DataError: a later one.
        ValueError: another.
    """
    check_version(header, schema, name)
    if header["schema"] != schema:
        raise ValueError(f"version {header['schema']!r} of the layout of patterns")


def _read_arrays(table: Any, header: Mapping[str, Any]) -> dict[str, Array]:
    """Return the arrays of patterns by the names of their fields."""
    k = len(header["columns"])
    if table.num_rows != header["groups"] or any(column.null_count for column in table.columns):
        raise ValueError(f"{table.num_rows} groups of {header['groups']}, or missing values")
    wanted, found = header["patterns"], {}
    for name in LISTS:
        column = table[name].combine_chunks()
        column = column.chunk(0) if hasattr(column, "chunk") else column
        flat, ends = column.flatten().to_numpy(), column.offsets.to_numpy()
        width = k - 1 if name == "values" else 1
        starts = (ends - ends[0]).astype(np.int64)
        if name == "n":
            found["starts"] = starts
        if not np.array_equal(starts, found["starts"] * width) or starts[-1] != wanted * width:
            raise ValueError(f"lists of '{name}' that do not have the patterns' lengths")
        flat = flat.astype(np.float64)
        found[name] = flat.reshape(wanted, width) if name == "values" else flat
    return found | {
        "groups": labels_from_arrow(table["group"], header["labels"]),
        "rows": table["rows"].to_numpy().astype(np.float64),
    }


def check_pattern_counts(header: Mapping[str, Any], patterns: "Patterns") -> None:
    """Raise `ValueError` where a file does not have the rows that its header tells."""
    counts = (header["dropped"], header["suppressed"])
    if patterns.n_rows != header["rows"] or any(type(c) is not int or c < 0 for c in counts):
        raise ValueError(f"{header['rows']} rows, of which {counts} left out")
    promised, least = header["min_group_size"], patterns.rows.min()
    if promised is not None and not (type(promised) is int and 1 <= promised <= least):
        raise ValueError(f"a smallest group of {promised!r} rows is promised, and not kept")


def check_patterns(patterns: "Patterns", name: str) -> None:
    """Raise `DataError`, about `name`, where patterns contradict themselves or their formula.

    Labels are distinct and sorted; each group has as many rows as patterns at least; counts are
    those of the family; numbers are finite; the columns are the formula's.
    """
    labels, starts, rows = patterns.groups, patterns.starts, patterns.rows
    n, y, offset = patterns.n, patterns.y, patterns.offset
    J, count_, k = len(labels), len(n), len(patterns.columns)
    if not J:
        raise DataError(f"{name} cannot be used: there is no group of '{patterns.group}' in it")
    shapes = [each.shape for each in (starts, rows, n, y, offset, patterns.values)]
    if shapes != [(J + 1,), (J,), (count_,), (count_,), (count_,), (count_, k - 1)]:
        raise DataError(f"{name} cannot have arrays of the shapes {shapes}; reduce the table again")
    check_kind(labels, patterns.group, name)
    refuse = refuse_patterns(name)
    sizes = np.diff(starts)
    refuse(len(np.unique(labels)) < J, "a group twice")
    refuse(not np.array_equal(np.unique(labels), labels), "groups that are not in their order")
    refuse(starts[0] != 0 or starts[-1] != count_ or bool((sizes < 1).any()), "an empty group")
    whole = (rows >= sizes) & (rows < 2**53) & (rows == np.floor(rows))
    refuse(not whole.all(), "groups with fewer rows than patterns")
    check_numbers(patterns, np.add.reduceat(n, starts[:-1]), name)


def check_kind(labels: Array, column: str, name: str) -> None:
    """Raise `DataError`, about `name`, where labels (J,) of a column are no integers or strings."""
    if kind_of_labels(labels) not in LABELS:
        raise DataError(
            f"{name} cannot have labels of '{column}' that are {kind_of_labels(labels)}, such as "
            f"{labels[0]!r}; make them integers or strings"
        )


def refuse_patterns(name: str) -> Callable[[bool | np.bool_, str], None]:
    """Return what raises `DataError`, about `name`, where something of its patterns is bad."""

    def refuse(bad: bool | np.bool_, what: str) -> None:
        if bad:
            raise DataError(f"{name} cannot be used: it has {what}; reduce the table again")

    return refuse


def check_numbers(patterns: "AnyPatterns", trials: Array, name: str) -> None:
    """Raise `DataError`, about `name`, where numbers are none of the family, or the design is none.

    Args:
        patterns: of one factor or of several.
        trials: (R,) those of what `patterns.rows` (R,) counts.
        name: what the error calls them.
    """
    n, y, offset, family = patterns.n, patterns.y, patterns.offset, patterns.family
    refuse = refuse_patterns(name)
    numbers = (n, y, offset, patterns.values, np.array([patterns.constant, patterns.rest]))
    refuse(not all(np.isfinite(each).all() for each in numbers), "numbers that are not finite")
    refuse(bool((np.abs(offset) > FARTHEST).any()), "offsets that doubles cannot compute with")
    refuse(not (n > 0.0).all(), "trials or exposures that are not above 0")
    refuse(bool((y < 0.0).any() or (y != np.floor(y)).any()), "counts that are not whole numbers")
    if not family.has_exposure:
        refuse(bool((n != np.floor(n)).any() or (y > n).any()), "more successes than trials")
        wrong = trials < patterns.rows if family.has_trials else trials != patterns.rows
        refuse(wrong.any(), "trials that are not those of its rows")
    try:
        check_columns(patterns.design)
    except DataError as error:
        raise DataError(f"{name} cannot be used: {error}") from error


def tell_alike(patterns: "AnyPatterns") -> list[str]:
    """Return a sentence on patterns whose outcomes are all alike, if there are any."""
    n, y = patterns.n, patterns.y
    alike = int(((n > 1.0) & ((y == 0.0) | (y == n))).sum())
    if patterns.family.has_exposure or not alike:
        return []
    return [
        f"in {count(alike, 'pattern')} of more than one trial all outcomes are alike: who knows "
        "that a row is among them knows its outcome"
    ]


def list_pattern_disclosures(
    patterns: "Patterns", *, min_group_size: int | None = None
) -> tuple[str, ...]:
    """Return what patterns give away of single rows, a sentence each: nothing if it is empty.

    A pattern holds the covariates of its rows as they are, and how many successes they have. Of a
    pattern of one row that is the row; where all outcomes of a pattern are alike, they are known of
    whoever's covariates are known. Told are these, small groups, and the order of the patterns.

    Args:
        patterns: what is to be released.
        min_group_size: the fewest rows that a group may have, and below which a pattern is told.
            None takes what the patterns promise, and if they promise nothing 2: single rows.
    """
    k = patterns.min_group_size if min_group_size is None else min_group_size
    rows, sizes = patterns.rows, np.diff(patterns.starts)
    named = list(patterns.columns[:-1])
    held = f"{list_names(named, most=6)} and the outcome" if named else "the outcome"
    told = []
    is_own = sizes == rows
    if patterns.family.has_trials or patterns.family.has_exposure:
        # So many patterns are single rows at least: the others have two or more.
        single, sure = int(np.maximum(2 * sizes - rows, 0.0).sum()), "at least "
    else:
        single, sure = int((patterns.n == 1.0).sum()), ""
    if single:
        told.append(
            f"{sure}{single:,} of the {patterns.n_patterns:,} patterns "
            f"{agree(single, 'is', 'are')} single rows of the {patterns.n_rows:,}: the file holds "
            f"{held} of {agree(single, 'that row', 'those rows')} as the table has them"
        )
    if is_own.any():
        some = int(is_own.sum())
        told.append(
            f"{some:,} of the {len(rows):,} groups of '{patterns.group}' "
            f"{agree(some, 'has', 'have')} as many patterns as rows: nothing of "
            f"{agree(some, 'it', 'them')} is hidden but the order of equal rows"
        )
    told += tell_alike(patterns)
    if k is not None and not (patterns.family.has_trials or patterns.family.has_exposure):
        few = int((patterns.n < k).sum())
        if few:
            told.append(
                f"the minimum of {count(k, 'row')} is of groups; {few:,} of the "
                f"{patterns.n_patterns:,} patterns {agree(few, 'has', 'have')} fewer"
            )
    least = max(len(patterns.columns) + SPARE, k or 0)
    if patterns.suppressed and patterns.design.constants and patterns.suppressed < least:
        told.append(tell_constants(patterns.design, patterns.suppressed))
    if patterns.n_patterns > patterns.n_groups:
        told.append(
            "the patterns of a group stand in the order in which the table gave out their rows; "
            "sort the table first where that order tells anything"
        )
    return tuple(told)


def digest_sorted(patterns: "Patterns") -> str:
    """Return the SHA-256 of patterns, in whatever order a group's came."""
    keys = (patterns.y, patterns.n, patterns.offset, *patterns.values.T, patterns.codes)
    order = np.lexsort(keys)
    # Adding 0 leaves one zero of the two.
    arrays = {name: getattr(patterns, name)[order] + 0.0 for name in LISTS}  # of two zeros one
    kept = {name: getattr(patterns, name) for name in ("groups", "rows", "starts")}
    return _digest_arrays(kept | arrays, "")
