"""BayesFit <-> one Zarr folder or NetCDF file, from which it comes back without sampling again.

The groups of `fit.data` stand in the file as ArviZ expects them, so that `xr.open_datatree` and
ArviZ read it too. The group `bhlm_moments` holds the rest:

    groups, n, mean, cross  the moments, one row per group of the data; cross in full (J, k, k)
    labels_0, labels_1, ... in the place of `groups` the labels of each grouping column by cell
    description             UTF-8 bytes of a JSON object: formula, columns, constants and levels
                            of the moments, their SHA-256 (`data_sha256`), covariance, priors,
                            settings, seed, seconds, sampler, diagnostics, and of each array its
                            dimensions, shape, type and attributes

of a family groups, starts, n, y, offset, values and rows of the patterns, and nodes,

and as attributes `schema`, the version of this layout, and `sha256`, that of the description and
then of every array in its order; see `storage_arrays`. What is loaded is what was saved to the
last bit, or it is refused. Nothing in a file is ever executed: an array holds numbers or text,
and a prior is the name of a family with its numbers.

A save that is killed leaves the content from before, or nothing. A Zarr folder cannot be
replaced in one step: between two renamings the old one is `.NAME.previous`, and the next `load`
or `save` of that path puts it back; see `folders`.
"""

import errno
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import Posterior
from bhlm.bayes.storage.arrays import choose_encoding, digest_arrays, pack_array, unpack_array
from bhlm.bayes.storage.description import EXTRA, Arrays, describe_fit, rebuild_fit
from bhlm.errors import ArgumentError, BhlmError, DataError, miss_package
from bhlm.files import (
    check_output,
    lock_folder,
    recover_folder,
    refuse_address,
    replace_file,
    replace_folder,
)

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray

SCHEMA = 1
# What a path's ending asks for: the format, the packages it needs, the extra that brings them.
FORMATS = {".zarr": "zarr", ".nc": "h5netcdf"}
PACKAGES = {"zarr": ("zarr",), "h5netcdf": ("h5netcdf", "h5py")}
EXTRAS = {"zarr": "zarr", "h5netcdf": "netcdf"}
HDF5 = b"\x89HDF\r\n\x1a\n"  # how a NetCDF-4 file begins
AGAIN = "copy it again, or fit the model again"
# What a disk says that takes no more, or nothing at all.
PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# What xarray, zarr, h5py and the decompressors raise on files of which bytes were changed.
BROKEN = (
    *(ValueError, OSError, LookupError, TypeError, AttributeError),
    *(RuntimeError, MemoryError, ArithmeticError, AssertionError),
)


def save(fit: Posterior, path: str | Path) -> None:
    """Write a posterior to a folder `*.zarr` or a file `*.nc`, which `load` gives back.

    What was written is read again and compared before it takes its place. A saved fit that is
    there already is replaced, or stays if the save fails or is killed.

    Args:
        fit: the posterior.
        path: where to; the ending chooses the format.

    Raises:
        ArgumentError: a path with another ending.
        DataError: a place that cannot be written to, a folder that holds something else, a
            package that is missing, or content of `fit.data` that has no place in a file.
    """
    refuse_address(path)
    target, package = Path(path).resolve(), _choose_format(path)
    failure, remedy = f"cannot save to '{path}'", "change what is odd in fit.data"
    with _explain(failure, remedy):
        description, arrays = describe_fit(fit)
        digest = digest_arrays(description, arrays.values())
        tree, encoding = _build_tree(description, arrays, digest, package)
    with lock_folder(target.parent):
        if package == "zarr":
            _check_replaceable(target)
            with replace_folder(target) as folder, _explain(failure, remedy):
                _write_zarr(tree, folder, encoding)
                _verify(folder, digest)
            return
        with _explain(failure, remedy), _lock_here():
            content = tree.to_netcdf(engine="h5netcdf", encoding=encoding)
        with content:
            with _explain(failure, remedy), io.BytesIO(content) as source:
                _verify(source, digest)
            _remove_unfinished_files(target)
            with replace_file(target) as stream:
                stream.write(content)


def _lock_here() -> AbstractContextManager[Any]:
    """Return a context in which xarray locks what it writes in this process.

    While a client of dask.distributed is open it would ask the cluster for a lock, by the name of
    what is in memory here.
    """
    dask = sys.modules.get("dask")
    return nullcontext() if dask is None else dask.config.set(scheduler="threads")


def check_place(path: str | Path) -> None:
    """Refuse a path that `save` could not write to, before anything is sampled for it.

    Raises:
        ArgumentError: a path with another ending than .zarr or .nc.
        DataError: a place that cannot be written to, or a folder that holds something else.
        MissingPackageError: the package that writes the format is not installed.
    """
    refuse_address(path)
    is_folder = _choose_format(path) == "zarr"
    check_output(path, is_folder=is_folder)
    if is_folder:
        _check_replaceable(Path(path).resolve())


def _choose_format(path: str | Path) -> str:
    """Return the format of a path to save to, which is one that can be written here."""
    package = FORMATS.get(Path(path).suffix.lower())
    if package is None:
        raise ArgumentError(f"'{path}' ends in neither .zarr nor .nc; give it one of the two")
    _require(package, f"saving '{path}'")
    return package


def load(path: str | Path) -> Posterior:
    """Return the posterior that `save` wrote, its draws equal to the last bit.

    A prior that is a PyMC distribution comes back as its text, see `TextPrior`.

    Raises:
        DataError: no such file; not a saved fit; cut off, changed or corrupted; written in a
            newer layout; or a package that is missing.
    """
    target = Path(path).resolve()
    with _explain(f"'{path}' cannot be read", "check its rights"):
        if not os.path.exists(target):
            with lock_folder(target.parent):
                recover_folder(target)
        package = _recognize(target, path)
    _require(package, f"reading '{path}'")
    with lock_folder(target.parent, shared=True), _explain(f"'{path}' is corrupted", AGAIN):
        return rebuild_fit(*_read(target, f"'{path}'"))


def _build_tree(
    description: str, arrays: Arrays, digest: str, package: str
) -> tuple["xr.DataTree", dict[str, dict[str, Any]]]:
    """Return the tree that goes into a file, and how each of its arrays is compressed."""
    import xarray as xr

    datasets, encoding = {}, {}
    for path, node in json.loads(description)["nodes"].items():
        variables = {}
        for name, entry in node["variables"].items():
            stored, units = pack_array(arrays[path, name], entry["dtype"])
            variables[name] = (entry["dims"], stored, _simplify(entry["attrs"]) | units)
        if path == EXTRA:
            text = np.frombuffer(description.encode(), dtype=np.uint8)
            variables["description"] = (["byte"], text, {})
            node["attrs"] = {"schema": SCHEMA, "sha256": digest}
        encoding[path] = {
            name: choose_encoding(np.asarray(stored), package)
            for name, (_, stored, _) in variables.items()
        }
        coordinates = {name: variables.pop(name) for name in node["coordinates"]}
        datasets[path] = xr.Dataset(variables, coordinates, _simplify(node["attrs"]))
    return xr.DataTree.from_dict(datasets), encoding


def _simplify(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes for other readers: what is not text, numbers or a list of text as JSON."""

    def is_plain(value: Any) -> bool:
        if isinstance(value, list):
            return bool(value) and all(isinstance(item, str) for item in value)
        return isinstance(value, str | float) or (type(value) is int and abs(value) < 2**63)

    return {name: x if is_plain(x) else json.dumps(x) for name, x in attrs.items()}


def _write_zarr(
    tree: "xr.DataTree", folder: Path, encoding: Mapping[str, Mapping[str, Any]]
) -> None:
    with warnings.catch_warnings():
        # Every xr.open_datatree would warn if it was not consolidated.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        # A chunk of nan alone counts as empty, and would come back as nan of another sign.
        tree.to_zarr(
            folder, mode="w-", encoding=encoding, zarr_format=3, consolidated=True,
            write_empty_chunks=True,
        )  # fmt: skip


def _open(source: Path | io.BytesIO) -> "xr.DataTree":
    import xarray as xr

    as_stored = {"decode_cf": False, "cache": False, "create_default_indexes": False}
    if isinstance(source, Path) and source.is_dir():
        # The format that is written; format 2 has a codec for pickled objects.
        return xr.open_datatree(
            source, engine="zarr", zarr_format=3, consolidated=True, **as_stored
        )
    # h5netcdf leaves an object behind that cannot be closed where a file is not whole.
    with import_module("h5py").File(source, "r") as file:
        file.visititems(lambda name, node: None)
    return xr.open_datatree(source, engine="h5netcdf", **as_stored)


def _read(source: Path, name: str) -> tuple[str, Arrays]:
    """Return the description and the arrays of a file.

    Raises:
        DataError: not a saved fit, of a newer layout, or not what was written.
    """
    with _open(source) as tree:
        if EXTRA not in tree.groups:
            raise DataError(f"{name} is not a saved fit: it has no group {EXTRA}; give one's path")
        schema, digest = tree[EXTRA].attrs["schema"], tree[EXTRA].attrs["sha256"]
        if schema > SCHEMA:
            raise DataError(
                f"{name} has version {schema} of the layout, and this bhlm knows version {SCHEMA}; "
                "upgrade bhlm"
            )
        description = _read_description(tree)
        arrays = dict(_iterate(tree, description))
    if digest != digest_arrays(description, arrays.values()):
        raise DataError(
            f"{name} is corrupted: its content does not have the SHA-256 that it was written "
            f"with; {AGAIN}"
        )
    return description, arrays


def _verify(source: Path | io.BytesIO, digest: str) -> None:
    """Raise ValueError unless what was written reads as what was meant, an array at a time."""
    with _open(source) as tree:
        description = _read_description(tree)
        found = digest_arrays(description, (array for _, array in _iterate(tree, description)))
    if found != digest:
        raise ValueError("it would be read as something else")


def _read_description(tree: "xr.DataTree") -> str:
    return bytes(tree[EXTRA].variables["description"].values).decode()


def _iterate(tree: "xr.DataTree", description: str) -> Iterator[tuple[tuple[str, str], Array]]:
    """Yield the arrays of a file by group and name, in the order and type of the description."""
    for path, node in json.loads(description)["nodes"].items():
        for name, entry in node["variables"].items():
            array = unpack_array(tree[path].variables[name].values, entry["dtype"])
            if list(array.shape) != entry["shape"]:
                raise ValueError(f"'{name}' in '{path}' has the shape {array.shape}")
            yield (path, name), array


def _recognize(target: Path, path: str | Path) -> str:
    """Return the format of what stands at a path."""
    if os.path.isdir(target):
        if (target / "zarr.json").is_file() and (target / EXTRA[1:]).is_dir():
            return "zarr"
    elif os.path.isfile(target):
        with target.open("rb") as stream:
            if stream.read(len(HDF5)) == HDF5:
                return "h5netcdf"
    else:
        raise DataError(f"'{path}' does not exist; give the path of a saved fit, .zarr or .nc")
    raise DataError(
        f"'{path}' is not a saved fit; give the path that fit.save() wrote, .zarr or .nc"
    )


def _check_replaceable(target: Path) -> None:
    """Raise `DataError` where a folder that is no saved fit would be lost."""
    if not os.path.exists(target):
        return
    if os.path.isdir(target) and ((target / EXTRA[1:]).is_dir() or not any(target.iterdir())):
        return
    raise DataError(
        f"'{target}' is there and is not a saved fit, so it is left alone; choose another path, "
        "or remove it"
    )


def _remove_unfinished_files(target: Path) -> None:
    """Remove the temporary files of `replace_file` that killed writers left beside a file."""
    if not os.path.isdir(target.parent):
        return
    pattern = re.compile(re.escape(f".{target.name}.") + "[a-z0-9_]{8}")
    for entry in target.parent.iterdir():
        if pattern.fullmatch(entry.name) and entry.is_file():
            entry.unlink(missing_ok=True)


def _require(package: str, what: str) -> None:
    try:
        for name in PACKAGES[package]:
            import_module(name)
    except ImportError as error:
        raise miss_package(what, PACKAGES[package][0], EXTRAS[package]) from error


@contextmanager
def _explain(failure: str, remedy: str) -> Iterator[None]:
    """Turn what readers and writers raise into a DataError."""
    try:
        yield
    except BhlmError:
        raise
    except OSError as error:
        if error.errno not in PLACE:
            raise DataError(f"{failure} ({_shorten(error)}); {remedy}") from error
        raise DataError(f"{failure} ({error.strerror}); choose another place") from error
    except BROKEN as error:
        raise DataError(f"{failure} ({_shorten(error)}); {remedy}") from error


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
