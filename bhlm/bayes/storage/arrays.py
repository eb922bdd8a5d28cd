"""Arrays <-> what a Zarr folder or NetCDF file can hold of them, to the last bit.

Numbers are stored as they are, text as text, dates as text, times as whole numbers of their unit
since 1970 with the attributes by which other readers take them for times. The name of an array's
type brings it back exactly.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import date
from typing import Any

import numpy as np

from bhlm.errors import DataError

Array = np.ndarray

UNITS = {
    "D": "days", "h": "hours", "m": "minutes", "s": "seconds",
    "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds",
}  # fmt: skip
# Arrays above this many numbers (32 MB) are cut by chain, so that one can be read alone.
WHOLE = 2**22


def name_type(array: Array) -> str:
    """Return the name of an array's type: NumPy's, or "StringDType", "text" or "date".

    Raises:
        DataError: a type that has no place in a file.
    """
    kind = array.dtype.kind
    if kind in "biufU" or (kind in "mM" and np.datetime_data(array.dtype)[0] in UNITS):
        return array.dtype.str
    if kind == "T":
        return "StringDType"
    found = {type(value) for value in array.ravel().tolist()} if kind == "O" else {array.dtype}
    if kind == "O" and all(isinstance(value, type) and issubclass(value, str) for value in found):
        return "text"
    if found == {date}:
        return "date"
    names = sorted(getattr(value, "__name__", str(value)) for value in found)
    raise DataError(
        f"values of type {' and '.join(names)} have no place in a file; make them numbers or text"
    )


def pack_array(array: Array, name: str) -> tuple[Array, dict[str, str]]:
    """Return an array of the type called `name` as it is stored, and the attributes of times."""
    if name == "date":
        return np.asarray(np.frompyfunc(date.isoformat, 1, 1)(array), dtype=object), {}
    if name == "StringDType":
        return array.astype(object), {}
    if array.dtype.kind not in "mM":
        return array, {}
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    unit = UNITS[np.datetime_data(array.dtype)[0]]
    if array.dtype.kind == "m":
        return native.view(np.int64), {"units": unit}
    return native.view(np.int64), {
        "units": f"{unit} since 1970-01-01",
        "calendar": "proleptic_gregorian",
    }


def unpack_array(stored: Array, name: str) -> Array:
    """Return an array as it was before `pack_array`.

    Raises:
        ValueError: what is stored is not of the type called `name`.
    """
    if name == "text":
        return stored.astype(object)
    if name == "date":
        texts = stored.astype(object)
        return np.asarray(np.frompyfunc(date.fromisoformat, 1, 1)(texts), dtype=object)
    if name == "StringDType":
        return stored.astype(np.dtypes.StringDType())
    dtype = np.dtype(name)
    if dtype.kind in "mM":
        return stored.astype(np.int64).view(dtype.newbyteorder("=")).astype(dtype, copy=False)
    return stored.astype(dtype, copy=False)


def choose_encoding(stored: Array, package: str) -> dict[str, Any]:
    """Return how xarray is to write an array by "zarr" or "h5netcdf": lossless, in few pieces.

    There is no fill value, which would stand in for an array's own nan.
    """
    chosen: dict[str, Any] = {"_FillValue": None} if stored.dtype.kind == "f" else {}
    if package == "zarr":
        # Pieces as files side by side: a folder for each would double what the disk has to sync.
        chosen["chunk_key_encoding"] = {"name": "default", "separator": "."}
    if stored.dtype.kind not in "biuf" or not stored.ndim or not stored.size:
        return chosen
    chunks = stored.shape if stored.size <= WHOLE else (1, *stored.shape[1:])
    if package == "h5netcdf":
        compression = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        return chosen | compression | {"chunksizes": chunks}
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
    return chosen | {"compressors": (codec,), "chunks": chunks}


def digest_arrays(text: str, arrays: Iterable[Array]) -> str:
    """Return the SHA-256 of a text and arrays, which is the same on every machine.

    Numbers count as little-endian bytes, text and dates as JSON.
    """
    found = hashlib.sha256(text.encode())
    for array in arrays:
        if array.dtype.kind in "OTU":
            found.update(json.dumps([str(value) for value in array.ravel()]).encode())
        else:
            plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            found.update(plain.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
