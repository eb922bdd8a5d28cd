"""Moments files: one Parquet file that any process or site can fit from, without the rows.

A file has one row per group and four columns that any Parquet reader can list:

    group   the label, in its own type
    n       int64, the rows of the group
    mean    double[k], the means of the k columns of the model, the response last
    cross   double[k(k+1)/2], the lower triangle, row by row, of the cross-products about the
            means: (1,1), (2,1), (2,2), (3,1), ...

Patterns of a family have a file of their own kind, see `bhlm.moments.pattern_file`.

Weighted moments, whose means and cross-products are weighted, have `schema` 3 and beside

    weights double[5], the sums of w, w^2 and log w over the group's rows, the group's weight, and
            how many rows of the table there are

Moments by cell have a row per cell, and in the place of `group` a column for each grouping column
of the formula: `group0`, `group1`, ... They have `schema` 2 and name these in `groupings`. Weighted
ones, with `schema` 3, have the weights of units, where there are any, in

    units   double[U], of the units of the U factors in `weights` that the cell lies in

What the k columns are stands in the file's metadata, under the key `bhlm.moments`, as a JSON
object: `schema` (the version of this layout), `bhlm` (of the package), `formula`, `group`,
`columns`, `fixed`, `random`, `blocks`, `levels`, `constants`, `labels` (NumPy's type of the
labels; by cell a list), `rows`, `groups` (blocks of the file), `dropped` (rows with a missing
value), `suppressed` (rows of groups too small to disclose) and `min_group_size` (the one promised
by the writer, or null), by cell `factors` too (name, columns and blocks of each), and where there
are any `weights` (what they mean). Under `bhlm.sha256` stands the SHA-256 of that text followed by
labels, n, mean, cross and weights as little-endian bytes. Nothing in a file is ever executed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bhlm.design.labels import kind_of_labels
from bhlm.errors import DataError
from bhlm.files import check_output, replace_file
from bhlm.moments.memory import Blocks
from bhlm.moments.weighting import Weighting, describe_weighting
from bhlm.sources.files import SUFFIXES, find_suffix

Array = np.ndarray

SCHEMA = 1
CELLS = 2  # the schema of moments by cell
WEIGHTED = 3  # of weighted moments, which earlier versions must not read as others
SUFFIX = ".moments"
DESCRIPTION = b"bhlm.moments"
CHECKSUM = b"bhlm.sha256"
MAGIC = b"PAR1"  # the first and the last four bytes of every Parquet file


def is_moments_path(data: Any) -> bool:
    """Return whether data is a path that ends in .moments."""
    return isinstance(data, str | Path) and Path(data).suffix.lower() == SUFFIX


def check_place(path: str | Path) -> None:
    """Refuse a place where moments cannot be written, or would be taken for a table.

    Raises:
        DataError: its folder cannot be written to, or its suffix is that of another format.
    """
    suffix = find_suffix(path)
    if suffix in SUFFIXES and suffix != ".parquet":  # which is how they are written
        raise DataError(f"'{path}' ends as a table does that is not moments; end it in {SUFFIX}")
    check_output(path)


def write_blocks(path: str | Path, description: Mapping[str, Any], blocks: Blocks) -> None:
    """Write blocks and what their columns are to one file.

    A description with `groupings`, the names of the grouping columns, is of moments by cell.

    Raises:
        DataError: labels of a type that has no place in a file, a folder that cannot be written
            to, a suffix of another format.
    """
    check_place(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels, n, mean, cross, weighting, units = blocks
    lower = cross[:, *np.tril_indices(mean.shape[1])]
    names: Sequence[str] = description.get("groupings", (description["group"],))
    kinds = list(map(describe_labels, labels))
    header = {
        "schema": WEIGHTED if weighting else CELLS if "groupings" in description else SCHEMA,
        "bhlm": version("bhlm"),
        **description,
        "labels": kinds if "groupings" in description else kinds[0],
        "rows": int(n.sum()),
        "groups": len(n),
    }
    text = json.dumps(header, allow_nan=False)
    written = {}
    for at, name, each in zip(_name_columns(header), names, labels, strict=True):
        written[at] = store_labels(each, name)
    arrays = {"mean": mean, "cross": lower}
    if weighting is not None:
        arrays["weights"] = np.column_stack(list(describe_weighting(weighting).values()))
    if units is not None:
        arrays["units"] = units
    lists = {
        each: pa.FixedSizeListArray.from_arrays(array.ravel(), array.shape[1])
        for each, array in arrays.items()
    }
    digest = digest_content(text, labels, n, *arrays.values())
    table = pa.table(
        {**written, "n": pa.array(n.astype(np.int64)), **lists}
    ).replace_schema_metadata({DESCRIPTION: text.encode(), CHECKSUM: digest.encode()})
    with replace_file(path) as stream:
        # Means and cross-products hardly repeat, so a dictionary would only take time.
        pq.write_table(
            table, stream, compression="zstd", use_dictionary=False, write_page_checksum=True
        )


def describe_labels(labels: Array) -> str:
    """Return the type of labels (J,), by which `labels_from_arrow` restores them."""
    return kind_of_labels(labels) if labels.dtype.kind == "O" else labels.dtype.str


def store_labels(labels: Array, name: str) -> Any:
    """Return labels (J,) of a grouping column as a pyarrow Array.

    Raises:
        DataError: a type that has no place in a file.
    """
    import pyarrow as pa

    try:
        return labels_to_arrow(pa, labels)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"labels of '{name}' ({labels.dtype}) cannot be written "
            f"({' '.join(str(error).split())}); make them integers or strings"
        ) from error


def _name_columns(header: Mapping[str, Any]) -> list[str]:
    """Return the columns of a file that hold labels."""
    if "groupings" not in header:
        return ["group"]
    return [f"group{i}" for i in range(len(header["groupings"]))]


def _name_units(header: Mapping[str, Any]) -> list[str]:
    """Return the factors whose units have weights in a file."""
    return list((header.get("weights") or {}).get("factors") or {})


def read_blocks(path: str | Path) -> tuple[dict[str, Any], Blocks]:
    """Return the description and the blocks of a file that `write_blocks` wrote.

    Raises:
        DataError: no such file; not a moments file; cut off, changed or corrupted; written in a
            newer schema.
    """
    import pyarrow.parquet as pq

    name = f"'{path}'"
    check_whole(Path(path))
    with report_broken(name), pq.ParquetFile(path, page_checksum_verification=True) as file:
        metadata = file.metadata.metadata or {}
        if DESCRIPTION not in metadata:
            raise DataError(
                f"{name} is a Parquet file without moments; reduce it first, with its formula"
            )
        text = metadata[DESCRIPTION].decode()
        header = json.loads(text)
        if "family" in header:
            raise DataError(
                f"{name} has patterns of family='{header['family']}', not moments; "
                "bhlm.load_moments reads it, and bhlm.Model fits it"
            )
        _check_schema_version(header, name)
        columns = [*_name_columns(header), "n", "mean", "cross"]
        columns += ["weights"] if header["schema"] == WEIGHTED else []
        columns += ["units"] if _name_units(header) else []
        arrays = _read_arrays(file.read(columns=columns), header)
        check_digest(metadata, digest_content(text, arrays.labels, *arrays.numbers), name)
        return header, _fill_cross(arrays)


def check_digest(metadata: Mapping[bytes, bytes], digest: str, name: str) -> None:
    """Raise `DataError`, about `name`, where a file's checksum is not that of its content."""
    if metadata[CHECKSUM].decode() != digest:
        raise DataError(
            f"{name} is corrupted: its content does not have the SHA-256 that it was written "
            "with; copy it again, or reduce the table again"
        )


def check_version(header: Mapping[str, Any], known: int, name: str) -> None:
    """Raise `DataError`, about `name`, where a file is of a later layout than this bhlm knows."""
    found = header["schema"]
    if isinstance(found, int) and found > known:
        raise DataError(
            f"{name} has version {found} of the layout, written by bhlm {header.get('bhlm')}, and "
            f"this bhlm knows version {known}; upgrade bhlm"
        )


@contextmanager
def report_broken(name: str) -> Iterator[None]:
    """Raise `DataError` for whatever bytes lead to that were changed or made up."""
    import pyarrow as pa

    try:
        yield
    except DataError:
        raise
    except (*_BROKEN, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(
            f"{name} is corrupted ({reason}); copy it again, or reduce the table again"
        ) from error


def digest_blocks(blocks: Blocks) -> str:
    """Return the SHA-256 of blocks, by which two files can be told to be of the same rows."""
    weighting = blocks.weighting
    more = [] if weighting is None else [*describe_weighting(weighting).values()]
    more += [] if blocks.units is None else [blocks.units]
    return digest_content("", *blocks[:4], *more)


def refuse_same(parts: Sequence[Blocks], names: Sequence[str]) -> None:
    """Raise `DataError` where two parts, called by their names, hold the same rows."""
    refuse_repeated(
        [(digest_blocks(part), *(str(each.dtype) for each in part.labels)) for part in parts], names
    )


def refuse_repeated(
    contents: Sequence[tuple[str, ...]], names: Sequence[str], *, what: str = "moments"
) -> None:
    """Raise `DataError` where two parts, called by their names, have one content."""
    seen: dict[tuple[str, ...], str] = {}
    for content, name in zip(contents, names, strict=True):
        if content in seen:
            raise DataError(
                f"{seen[content]} and {name} hold the same {what}, and their rows would count "
                "twice; give disjoint rows"
            )
        seen[content] = name


def digest_content(description: str, labels: Sequence[Array], *arrays: Array) -> str:
    """Return the SHA-256 of a description and arrays, which is the same on every machine."""
    found = hashlib.sha256(description.encode())
    for each in labels:
        if each.dtype.kind in "OU":
            found.update(json.dumps([str(label) for label in each]).encode())
        else:
            found.update(each.astype(each.dtype.newbyteorder("<")).tobytes())
    for array in arrays:
        found.update(np.ascontiguousarray(array, dtype="<f8").data)
    return found.hexdigest()


def labels_to_arrow(pa: Any, labels: Array) -> Any:
    """Return labels as a column of a file, by pyarrow, which is given."""
    if labels.dtype.kind in "OU":
        return pa.array(labels.tolist(), pa.string() if kind_of_labels(labels) == "text" else None)
    return pa.array(labels.astype(labels.dtype.newbyteorder("=")))


def labels_from_arrow(labels: Any, dtype: str) -> Array:
    """Return labels in the type that they were written from."""
    if dtype in ("text", "date"):
        return np.array(labels.to_pylist(), dtype=object)
    if np.dtype(dtype).kind == "U":
        return np.array(labels.to_pylist(), dtype=dtype)
    return labels.to_numpy().astype(dtype)


def check_whole(path: Path) -> None:
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
    known = WEIGHTED if "weights" in header else CELLS
    check_version(header, known, name)
    if found != known if known == WEIGHTED else found not in (SCHEMA, CELLS):
        raise ValueError(f"version {found!r} of the layout")


class _Stored(NamedTuple):
    """What a file holds: labels (J,) each, n (J,), mean (J, k), lower (J, k (k + 1) / 2)."""

    labels: tuple[Array, ...]
    n: Array
    mean: Array
    lower: Array
    weights: Array | None = None  # (J, 5)
    units: Array | None = None  # (J, U)

    @property
    def numbers(self) -> tuple[Array, ...]:
        """All but the labels, in the order of the checksum."""
        more = tuple(each for each in (self.weights, self.units) if each is not None)
        return (self.n, self.mean, self.lower, *more)


def _read_arrays(table: Any, header: dict[str, Any]) -> _Stored:
    J, k = header["groups"], len(header["columns"])
    if table.num_rows != J or any(column.null_count for column in table.columns):
        raise ValueError(f"{table.num_rows} groups of {J}, or missing values")

    def read_list(column: str, size: int) -> Array:
        flat = table[column].combine_chunks().flatten()
        return flat.to_numpy().astype(np.float64, copy=False).reshape(J, size)

    kinds = header["labels"] if "groupings" in header else [header["labels"]]
    labels = tuple(
        labels_from_arrow(table[at], kind)
        for at, kind in zip(_name_columns(header), kinds, strict=True)
    )
    n = table["n"].to_numpy().astype(np.float64)
    weights = read_list("weights", 5) if "weights" in table.column_names else None
    lower = read_list("cross", k * (k + 1) // 2)
    named = _name_units(header)
    units = read_list("units", len(named)) if named else None
    return _Stored(labels, n, read_list("mean", k), lower, weights, units)


def _fill_cross(stored: _Stored) -> Blocks:
    """Return blocks with the cross-products (J, k, k) of which `lower` has the triangles."""
    labels, n, mean, lower, weights, units = stored
    k = mean.shape[1]
    rows, columns = np.tril_indices(k)
    cross = np.empty((len(n), k, k))
    cross[:, rows, columns] = cross[:, columns, rows] = lower
    weighting = None if weights is None else Weighting(*np.ascontiguousarray(weights.T))
    return Blocks(labels, n, mean, cross, weighting, units)


# What a file of which bytes were changed or made up leads to, in the reader or further in.
_BROKEN = (
    *(ValueError, OSError, LookupError, TypeError, AttributeError),
    *(RuntimeError, MemoryError, ArithmeticError),
)
