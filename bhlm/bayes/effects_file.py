"""Posterior random effects of every group -> one Parquet file, however many groups there are."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import STREAM, stream_effects
from bhlm.errors import ArgumentError
from bhlm.files import replace_file
from bhlm.processes import count_cores

if TYPE_CHECKING:
    from bhlm.bayes.draws import Draws

Array = np.ndarray
Progress = Callable[[int, int], None]

PROBABILITIES = (0.025, 0.975)
FLUSHED = 1 << 25  # bytes of rows that are written together, as a row group


def save_effects(
    fit: "Draws",
    path: str | Path,
    *,
    draws: bool = False,
    progress: Progress | None = None,
    flushed: int = FLUSHED,
    cores: int | None = None,
) -> None:
    """Write the random effects of all groups to a Parquet file.

    It has one row per group and coefficient, in the order of `fit.group_effects()` and with its
    columns: the group's label, `coefficient`, `mean`, `sd`, `lower` and `upper` (95 %) of the
    deviation u; with `draws` also `draws`, the list of u at all kept draws, chain after chain.
    Groups are drawn a few hundred at a time, as `fit.effect_draws` draws them, so that memory does
    not grow with their number. Until it is whole the file has another name.

    Args:
        fit: the posterior.
        path: the file, which is replaced if it exists.
        draws: keep every draw: 8 bytes for each draw of each coefficient of each group.
        progress: called with (done, groups) as groups are written.
        flushed: bytes of rows that are written together, as a row group.
        cores: streams of groups that are drawn side by side; None takes all.

    Raises:
        ArgumentError: the path does not end in .parquet, or the group has a name that a column
            of the file has.
        DataError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        raise ArgumentError(f"'{path}' does not end in .parquet; give a path that does")
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["coefficient", "mean", "sd", "lower", "upper", *(["draws"] if draws else [])]
    if fit.moments.group in columns:
        raise ArgumentError(
            f"the group '{fit.moments.group}' has the name of a column of the file; rename it in "
            "the table"
        )
    size = fit.settings.chains * fit.settings.draws
    types = [pa.array(fit.moments.groups[:1]).type, pa.string(), *[pa.float64()] * 4]
    types += [pa.list_(pa.float64(), size)] if draws else []
    schema = pa.schema(list(zip([fit.moments.group, *columns], types, strict=True)))
    with replace_file(path) as stream, pq.ParquetWriter(stream, schema) as writer:
        waiting: list[Any] = []
        done = 0
        for table in _tabulate_streams(fit, schema, cores or count_cores()):
            waiting.append(table)
            done += len(table) // len(fit.moments.random)
            if sum(part.nbytes for part in waiting) >= flushed:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
            if progress is not None:
                progress(done, fit.moments.n_groups)
        if waiting:
            writer.write_table(pa.concat_tables(waiting))


def _tabulate_streams(fit: "Draws", schema: Any, cores: int) -> Iterator[Any]:
    """Yield the rows of the groups of one random stream after the other, in their order."""
    starts = range(0, fit.moments.n_groups, STREAM)
    with ThreadPoolExecutor(cores) as pool:
        for first in range(0, len(starts), cores):
            yield from pool.map(
                lambda start: _tabulate_stream(fit, schema, start), starts[first : first + cores]
            )


def _tabulate_stream(fit: "Draws", schema: Any, start: int) -> Any:
    """Return the rows of the groups of the stream that begins with the `start`-th group."""
    import pyarrow as pa

    at = np.arange(start, min(start + STREAM, fit.moments.n_groups))
    q = len(fit.moments.random)
    ((_, u),) = stream_effects(fit, at)
    values = u.reshape(len(u), -1)
    ordered = np.sort(values, axis=0)
    columns = [
        pa.array(np.repeat(fit.moments.groups[at], q), schema.types[0]),
        pa.array(list(fit.moments.random) * len(at), pa.string()),
        values.mean(axis=0),
        values.std(axis=0, ddof=1),
        *(_interpolate(ordered, level) for level in PROBABILITIES),
    ]
    if "draws" in schema.names:
        flat = pa.array(np.ascontiguousarray(values.T).ravel())
        columns.append(pa.FixedSizeListArray.from_arrays(flat, len(values)))
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)


def _interpolate(ordered: Array, level: float) -> Array:
    """Return the quantiles of sorted draws (N, m), linear between the two nearest."""
    place = level * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return np.asarray(ordered[low] + (place - low) * (ordered[high] - ordered[low]))
