"""Files of patterns of several grouping factors, and what they tell of single rows.

A file is Parquet, with one row per pattern and these columns:

    group0, group1, ...  the labels in each grouping column, in their own types
    rows                 int64, the rows of the pattern
    n, y, offset         double: trials or exposure, successes or events, and the offset
    values               list of double, the k - 1 columns of the design

The file's metadata are those of patterns of a single factor (`bhlm.moments.pattern_file`), with
`schema` 5 and beside `groupings`, the grouping columns, and `factors`.
"""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import DataError
from bhlm.files import replace_file
from bhlm.layout import agree, count, list_names
from bhlm.moments.file import (
    CHECKSUM,
    DESCRIPTION,
    check_digest,
    check_place,
    check_whole,
    describe_labels,
    digest_content,
    labels_from_arrow,
    report_broken,
    store_labels,
)
from bhlm.moments.pattern_file import (
    check_kind,
    check_layout,
    check_numbers,
    refuse_patterns,
    tell_alike,
)

if TYPE_CHECKING:
    from bhlm.moments.level_patterns import LevelPatterns

Array = np.ndarray
SCHEMA = 5  # of the layout, which versions that know one factor alone refuse as a later one
LISTS = ("rows", "n", "y", "offset")


def write_level_patterns(
    path: str | Path, description: Mapping[str, Any], patterns: "LevelPatterns"
) -> None:
    """Write patterns, of which the description has all but the arrays, to one file.

    Raises:
        DataError: patterns that contradict themselves, labels of a type that has no place in a
            file, a folder that cannot be written to, a suffix of another format.
    """
    check_place(path)
    check_level_patterns(patterns, "the patterns")
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = patterns.cell_labels
    header = {
        "schema": SCHEMA,
        "bhlm": version("bhlm"),
        **description,
        "labels": list(map(describe_labels, labels.values())),
        "rows": patterns.n_rows,
        "patterns": patterns.n_patterns,
    }
    text = json.dumps(header, allow_nan=False)
    written = {
        f"group{at}": store_labels(each, name) for at, (name, each) in enumerate(labels.items())
    }
    width = patterns.values.shape[1]
    ends = np.arange(patterns.n_patterns + 1) * width
    table = pa.table(
        {
            **written,
            "rows": pa.array(patterns.rows.astype(np.int64)),
            **{name: pa.array(getattr(patterns, name)) for name in LISTS[1:]},
            "values": pa.LargeListArray.from_arrays(ends, patterns.values.ravel()),
        }
    )
    arrays = [getattr(patterns, name) for name in (*LISTS, "values")]
    digest = digest_content(text, list(labels.values()), *arrays)
    table = table.replace_schema_metadata({DESCRIPTION: text.encode(), CHECKSUM: digest.encode()})
    with replace_file(path) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)


def read_level_patterns(
    path: str | Path,
) -> tuple[dict[str, Any], dict[str, Array], dict[str, Array]]:
    """Return the description, the labels by column, and the lists of a file of patterns.

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
        names, kinds = header["groupings"], header["labels"]
        columns = [f"group{at}" for at in range(len(names))]
        table = file.read(columns=[*columns, *LISTS, "values"])
        if table.num_rows != header["patterns"] or any(each.null_count for each in table.columns):
            raise ValueError(
                f"{table.num_rows} patterns of {header['patterns']}, or missing values"
            )
        labels = {
            name: labels_from_arrow(table[at], kind)
            for name, at, kind in zip(names, columns, kinds, strict=True)
        }
        lists = {each: table[each].to_numpy().astype(np.float64) for each in LISTS}
        width = len(header["columns"]) - 1
        flat = table["values"].combine_chunks().flatten().to_numpy().astype(np.float64)
        lists["values"] = flat.reshape(table.num_rows, width)
        digest = digest_content(text, list(labels.values()), *lists.values())
        check_digest(metadata, digest, name)
        return header, labels, lists


def check_level_patterns(patterns: "LevelPatterns", name: str) -> None:
    """Raise `DataError`, about `name`, where patterns contradict themselves or their formula.

    Counts are those of the family; numbers are finite; the columns are the formula's.
    """
    n, y, offset, rows = patterns.n, patterns.y, patterns.offset, patterns.rows
    many, k = len(n), len(patterns.columns)
    shapes = [each.shape for each in (n, y, offset, rows, patterns.values)]
    if not many or shapes != [(many,)] * 4 + [(many, k - 1)]:
        raise DataError(f"{name} cannot have arrays of the shapes {shapes}; reduce the table again")
    for column, labels in patterns.cell_labels.items():
        check_kind(labels, column, name)
    whole = (rows >= 1.0) & (rows < 2**53) & (rows == np.floor(rows))
    refuse_patterns(name)(not whole.all(), "patterns without rows")
    check_numbers(patterns, n, name)


def list_level_disclosures(
    patterns: "LevelPatterns", *, min_group_size: int | None = None
) -> tuple[str, ...]:
    """Return what patterns give away of single rows, a sentence each: nothing if it is empty.

    As `bhlm.moments.pattern_file.list_pattern_disclosures`; `min_group_size` is of the units of
    every factor, and below it patterns are told.
    """
    k = patterns.min_group_size if min_group_size is None else min_group_size
    rows, told = patterns.rows, []
    named = list(patterns.columns[:-1])
    held = f"{list_names(named, most=6)} and the outcome" if named else "the outcome"
    if single := int((rows == 1.0).sum()):
        told.append(
            f"{single:,} of the {patterns.n_patterns:,} patterns {agree(single, 'is', 'are')} "
            f"single rows of the {patterns.n_rows:,}: the file holds {held} of "
            f"{agree(single, 'that row', 'those rows')} as the table has them, with the labels of "
            "every factor"
        )
    told += tell_alike(patterns)
    if k is not None and (few := int((rows < k).sum())):
        told.append(
            f"the minimum of {count(k, 'row')} is of units; {few:,} of the "
            f"{patterns.n_patterns:,} patterns {agree(few, 'has', 'have')} fewer"
        )
    told.append(
        "patterns that have all labels in common stand in the order in which the table gave out "
        "their rows; sort the table first where that order tells anything"
    )
    return tuple(told)


def digest_sorted(patterns: "LevelPatterns") -> str:
    """Return the SHA-256 of patterns, in whatever order they came."""
    labels = patterns.cell_labels
    codes = [np.unique(each, return_inverse=True)[1] for each in labels.values()]
    keys = (patterns.y, patterns.n, patterns.offset, *patterns.values.T, *codes)
    order = np.lexsort(keys)
    arrays = [getattr(patterns, name)[order] + 0.0 for name in (*LISTS, "values")]
    return digest_content("", [each[order] for each in labels.values()], *arrays)
