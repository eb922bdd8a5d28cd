"""Moments files: one Parquet file that any process or site can fit from, without the rows.

A file has one row per group and four columns that any Parquet reader can list:

    group   the label, in its own type
    n       int64, the rows of the group
    mean    double[k], the means of the k columns of the model, the response last
    cross   double[k(k+1)/2], the lower triangle, row by row, of the cross-products about the
            means: (1,1), (2,1), (2,2), (3,1), ...

What the k columns are stands in the file's metadata, under the key `bhlm.moments`, as a JSON
object: `schema` (the version of this layout), `bhlm` (of the package), `formula`, `group`,
`columns`, `fixed`, `random`, `blocks`, `levels`, `constants`, `labels` (NumPy's type of the
labels), `rows`, `groups`, `dropped` (rows with a missing value), `suppressed` (rows of groups
too small to disclose) and `min_group_size` (the one promised by the writer, or null). Under
`bhlm.sha256` stands the SHA-256 of that text followed by labels, n, mean and cross as
little-endian bytes. Nothing in a file is ever executed.
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bhlm.design.design import build_design
from bhlm.errors import DataError
from bhlm.files import replace_file
from bhlm.moments.check import check_moments, rebuild_design
from bhlm.moments.disclosure import suppress_small_groups
from bhlm.moments.moments import Moments, compute_moments, kind_of_labels, merge_moments
from bhlm.sources.tables import scan_table

Array = np.ndarray

SCHEMA = 1
SUFFIX = ".moments"
DESCRIPTION = b"bhlm.moments"
CHECKSUM = b"bhlm.sha256"
MAGIC = b"PAR1"  # the first and the last four bytes of every Parquet file


def is_moments_path(data: Any) -> bool:
    """Return whether data is a path that ends in .moments."""
    return isinstance(data, str | Path) and Path(data).suffix.lower() == SUFFIX


def save_moments(moments: Moments, path: str | Path, *, min_group_size: int | None = None) -> None:
    """Write moments to one file, which `load_moments` gives back to the last bit.

    The file appears whole or not at all: a writer that is stopped leaves what was there before.

    Args:
        moments: what to write.
        path: the file; by custom it ends in .moments.
        min_group_size: refuse to write groups with fewer rows than this, and promise so in the
            file; see `suppress_small_groups` for what that guards against, and for dropping them.

    Raises:
        DataError: groups below the minimum, moments that contradict themselves, labels of a type
            that has no place in a file, a folder that cannot be written to.
    """
    if min_group_size is not None:
        moments, _ = suppress_small_groups(moments, min_group_size)
    check_moments(moments, "the moments")
    pa, pq = _import_arrow("writing a moments file")
    lower = moments.cross[:, *np.tril_indices(len(moments.columns))]
    arrays = (moments.groups, moments.n, moments.mean, lower)
    description = json.dumps(_describe(moments, min_group_size), allow_nan=False)
    try:
        labels = _labels_to_arrow(pa, moments.groups)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"labels of '{moments.group}' ({moments.groups.dtype}) cannot be written "
            f"({' '.join(str(error).split())}); make them integers or strings"
        ) from error
    table = pa.table(
        {
            "group": labels,
            "n": pa.array(moments.n.astype(np.int64)),
            "mean": pa.FixedSizeListArray.from_arrays(moments.mean.ravel(), moments.mean.shape[1]),
            "cross": pa.FixedSizeListArray.from_arrays(lower.ravel(), lower.shape[1]),
        }
    ).replace_schema_metadata(
        {DESCRIPTION: description.encode(), CHECKSUM: _digest(description, *arrays).encode()}
    )
    with replace_file(path) as stream:
        # Means and cross-products hardly repeat, so a dictionary would only take time.
        pq.write_table(
            table, stream, compression="zstd", use_dictionary=False, write_page_checksum=True
        )


def load_moments(path: str | Path) -> Moments:
    """Return the moments of a file that `save_moments` wrote, equal to the last bit.

    Raises:
        DataError: no such file; not a moments file; cut off, changed or corrupted; written in a
            newer schema; or its content contradicts itself.
    """
    name = f"'{path}'"
    _check_whole(Path(path))
    pa, pq = _import_arrow(f"reading {name}")
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.metadata.metadata or {}
            if DESCRIPTION not in metadata:
                raise DataError(
                    f"{name} is a Parquet file without moments; reduce it first, with its formula"
                )
            description = metadata[DESCRIPTION].decode()
            header = json.loads(description)
            _check_schema_version(header, name)
            arrays = _read_arrays(file.read(columns=["group", "n", "mean", "cross"]), header)
        if metadata[CHECKSUM].decode() != _digest(description, *arrays):
            raise DataError(
                f"{name} is corrupted: its content does not have the SHA-256 that it was written "
                "with; copy it again, or reduce the table again"
            )
        moments = _assemble(header, *arrays)
        check_moments(moments, name)
    except DataError:
        raise
    except (*_BROKEN, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(
            f"{name} is corrupted ({reason}); copy it again, or reduce the table again"
        ) from error
    return moments


def merge_files(paths: Sequence[str | Path]) -> Moments:
    """Return the moments of the union of the rows behind several files.

    The files must hold disjoint rows, as those of different sites do. Every site but the first
    reduces its rows by `reduce_like` with the first one's file, so that all have the constants
    of cgm() and poly() and the levels of factors in common.

    Raises:
        DataError: a file that cannot be loaded, two files with the same content, or parts that
            do not merge; see `merge_moments`.
    """
    parts, names = [load_moments(path) for path in paths], [f"'{path}'" for path in paths]
    seen: dict[str, str] = {}
    for part, name in zip(parts, names, strict=True):
        content = _digest("", part.groups, part.n, part.mean, part.cross)
        if content in seen:
            raise DataError(
                f"{seen[content]} and {name} hold the same moments, and their rows would count "
                "twice; give disjoint rows"
            )
        seen[content] = name
    return merge_moments(parts, names=names)


def reduce_part(formula: str, table: Any) -> Moments:
    """Return the moments of a table that may be one part of many, even a single group.

    The constants of cgm() and poly() and the levels of factors are those of this part; the other
    parts take them over with `reduce_like`. The part that goes first must have every level; where
    no site has all of them, build the design from a made-up table that does
    (`bhlm.design.design.build_design`), and let every site compute its moments under it
    (`bhlm.moments.moments.compute_moments`).

    Args:
        formula: the model.
        table: any dataframe that narwhals accepts, or the path of a file.

    Raises:
        FormulaError: the formula cannot be read.
        DataError: the table cannot serve the formula.
    """
    opened = scan_table(table)
    return compute_moments(build_design(formula, opened, check=False), opened)


def reduce_like(reference: Moments | str | Path, table: Any) -> Moments:
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
    if not isinstance(reference, Moments):
        reference = load_moments(reference)
    return compute_moments(rebuild_design(reference), scan_table(table))


def update_moments(moments: Moments, more: Any) -> Moments:
    """Return the moments of the rows so far and of new ones, which must be disjoint.

    Args:
        moments: of the rows so far.
        more: moments, a .moments file, or a table or path of new rows, to be reduced under the
            constants and levels of `moments`.

    Raises:
        DataError: the new rows cannot be read or do not merge; see `merge_moments`. In a model
            with cwc() or gm(), new rows of an old group change its mean and do not merge.
    """
    if is_moments_path(more):
        more = load_moments(more)
    elif not isinstance(more, Moments):
        more = reduce_like(moments, more)
    return merge_moments([moments, more], names=["the moments so far", "the new rows"])


def _describe(moments: Moments, min_group_size: int | None) -> dict[str, Any]:
    """Return the metadata of a file."""
    labels = moments.groups
    return {
        "schema": SCHEMA,
        "bhlm": version("bhlm"),
        "formula": moments.formula,
        "group": moments.group,
        "columns": moments.columns,
        "fixed": moments.fixed,
        "random": moments.random,
        "blocks": moments.blocks,
        "levels": moments.levels,
        "constants": moments.constants,
        "labels": kind_of_labels(labels) if labels.dtype.kind == "O" else labels.dtype.str,
        "rows": moments.n_rows,
        "groups": moments.n_groups,
        "dropped": moments.dropped,
        "suppressed": moments.suppressed,
        "min_group_size": None if min_group_size is None else int(min_group_size),
    }


def _digest(description: str, labels: Array, n: Array, mean: Array, cross: Array) -> str:
    """Return the SHA-256 of a description and arrays, which is the same on every machine."""
    found = hashlib.sha256(description.encode())
    if labels.dtype.kind in "OU":
        found.update(json.dumps([str(label) for label in labels]).encode())
    else:
        found.update(labels.astype(labels.dtype.newbyteorder("<")).tobytes())
    for array in (n, mean, cross):
        found.update(np.ascontiguousarray(array, dtype="<f8").data)
    return found.hexdigest()


def _labels_to_arrow(pa: Any, labels: Array) -> Any:
    if labels.dtype.kind in "OU":
        return pa.array(labels.tolist(), pa.string() if kind_of_labels(labels) == "text" else None)
    return pa.array(labels.astype(labels.dtype.newbyteorder("=")))


def _labels_from_arrow(labels: Any, dtype: str) -> Array:
    if dtype in ("text", "date"):
        return np.array(labels.to_pylist(), dtype=object)
    if np.dtype(dtype).kind == "U":
        return np.array(labels.to_pylist(), dtype=dtype)
    return labels.to_numpy().astype(dtype)


def _check_whole(path: Path) -> None:
    """Raise `DataError` where the first and last bytes tell that a file cannot be read."""
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise DataError(f"'{path}' {what}; give the path of a moments file")
        with path.open("rb") as stream:
            first = stream.read(len(MAGIC))
            stream.seek(-min(len(MAGIC), path.stat().st_size), 2)
            last = stream.read()
    except OSError as error:
        raise DataError(
            f"'{path}' cannot be read ({error.strerror}); check its name and rights"
        ) from error
    if first != MAGIC:
        raise DataError(
            f"'{path}' is not a moments file (no Parquet file starts like this); reduce the table "
            "to one first, with its formula"
        )
    if last != MAGIC:
        raise DataError(f"'{path}' is cut off or damaged at its end; copy it again")


def _check_schema_version(header: dict[str, Any], name: str) -> None:
    found = header["schema"]
    if isinstance(found, int) and found > SCHEMA:
        raise DataError(
            f"{name} has version {found} of the layout, written by bhlm {header.get('bhlm')}, and "
            f"this bhlm knows version {SCHEMA}; upgrade bhlm"
        )
    if found != SCHEMA:
        raise ValueError(f"version {found!r} of the layout")


def _read_arrays(table: Any, header: dict[str, Any]) -> tuple[Array, Array, Array, Array]:
    """Return labels (J,), n (J,), mean (J, k) and the lower triangles (J, k (k + 1) / 2)."""
    J, k = header["groups"], len(header["columns"])
    if table.num_rows != J or any(column.null_count for column in table.columns):
        raise ValueError(f"{table.num_rows} groups of {J}, or missing values")

    def read_list(column: str, size: int) -> Array:
        flat = table[column].combine_chunks().flatten()
        return flat.to_numpy().astype(np.float64, copy=False).reshape(J, size)

    labels = _labels_from_arrow(table["group"], header["labels"])
    n = table["n"].to_numpy().astype(np.float64)
    return labels, n, read_list("mean", k), read_list("cross", k * (k + 1) // 2)


def _assemble(
    header: dict[str, Any], labels: Array, n: Array, mean: Array, lower: Array
) -> Moments:
    """Return the moments that a description and arrays stand for."""
    k = len(header["columns"])
    rows, columns = np.tril_indices(k)
    cross = np.empty((len(labels), k, k))
    cross[:, rows, columns] = cross[:, columns, rows] = lower
    moments = Moments(
        groups=labels,
        n=n,
        mean=mean,
        cross=cross,
        columns=_freeze(header["columns"]),
        fixed=_freeze(header["fixed"]),
        random=_freeze(header["random"]),
        blocks=_freeze(header["blocks"]),
        group=header["group"],
        formula=header["formula"],
        dropped=header["dropped"],
        constants=_freeze(header["constants"]),
        levels=_freeze(header["levels"]),
        suppressed=header["suppressed"],
    )
    counts = (moments.dropped, moments.suppressed)
    if moments.n_rows != header["rows"] or any(type(c) is not int or c < 0 for c in counts):
        raise ValueError(f"{header['rows']} rows, of which {counts} left out")
    return moments


def _freeze(value: Any) -> Any:
    """Return what JSON read with tuples in the place of its lists."""
    return tuple(map(_freeze, value)) if isinstance(value, list) else value


def _import_arrow(what: str) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(
            f"{what} needs the package pyarrow; install it with: pip install 'bhlm[arrow]'"
        ) from error
    return pa, pq


# What a file of which bytes were changed or made up leads to, in the reader or further in.
_BROKEN = (
    *(ValueError, OSError, LookupError, TypeError, AttributeError),
    *(RuntimeError, MemoryError, ArithmeticError),
)
