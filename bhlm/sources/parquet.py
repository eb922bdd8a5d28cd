"""Parquet files that stay unread until a formula says which of their columns it needs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bhlm.errors import DataError
from bhlm.sources.arrow import to_pandas
from bhlm.sources.databases import refuse_file, stream_files
from bhlm.sources.watch import Watch, watch_files

# Rows that are decoded at a time: a few columns of them take some megabytes.
BATCH = 1 << 18
# Bytes of a column that are taken from a file at a time: all that a row group has of it would have
# left the processor's caches where it is decoded.
PIECE = 1 << 17


@dataclass(frozen=True, slots=True)
class ParquetScan:
    """Parquet files of the same columns, and what their metadata tells."""

    paths: tuple[Path, ...]
    text: str  # what they were called
    schema: Any  # pyarrow.Schema that fits all files
    n_rows: int
    is_large: bool  # whether what cannot be reduced batch by batch is left to DuckDB
    watch: Watch  # the files, as they were found
    batch: int = BATCH  # rows that are read at a time

    def is_plain(self, columns: Sequence[str]) -> bool:
        """Return whether columns hold numbers, booleans or text, which Arrow's arrays suffice for.

        Categories, in particular, have an order that only pandas restores.
        """
        from pyarrow import types

        tests = [types.is_integer, types.is_float32, types.is_float64, types.is_boolean]
        tests += [types.is_string, types.is_large_string]
        return all(any(test(self.schema.field(name).type) for test in tests) for name in columns)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield pyarrow Tables of some columns, a batch of rows after the other, in order.

        Raises:
            DataError: a file cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        wanted = pa.schema([self.schema.field(name) for name in columns])
        self.watch.check()
        for path in self.paths:
            try:
                # With its buffer ahead, the reader would hold the bytes of the whole file.
                with pq.ParquetFile(path, pre_buffer=False, buffer_size=PIECE) as file:
                    for batch in file.iter_batches(self.batch, columns=list(columns)):
                        table = pa.Table.from_batches([batch]).select(list(columns))
                        yield table if table.schema.equals(wanted) else table.cast(wanted)
            except (pa.ArrowException, OSError) as error:
                self.watch.check()
                raise refuse_file(path, ".parquet", error) from error
        self.watch.check()

    def read(self, columns: Sequence[str] | None = None) -> Any:
        """Return a table of some columns, or of all: pyarrow's, pandas' or DuckDB's.

        Raises:
            DataError: a file cannot be read.
        """
        self.watch.check()
        if self.is_large:
            return stream_files(self.paths, ".parquet", None, self.text)
        import pyarrow as pa

        names = self.schema.names if columns is None else list(columns)
        table = pa.concat_tables(self.batches(names)) if self.n_rows else self.schema.empty_table()
        if self.is_plain(names):
            return table.select(names).combine_chunks()
        # Booleans with gaps as such: pandas would make objects of them.
        return to_pandas(table.select(names), named_booleans=True)


def scan_files(paths: Sequence[Path], text: str, *, is_large: bool) -> ParquetScan:
    """Return Parquet files, called `text` in errors, unread.

    Raises:
        DataError: a file cannot be read, or its columns are not those of the
            first; there are no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    watch = watch_files(paths)
    schemas = []
    n_rows = 0
    for path in paths:
        try:
            with pq.ParquetFile(path) as file:
                schemas.append(file.schema_arrow)
                n_rows += file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            raise refuse_file(path, ".parquet", error) from error
        if schemas[-1].names != schemas[0].names:
            raise DataError(
                f"'{path}' has the columns {', '.join(schemas[-1].names)}, but '{paths[0]}' has "
                f"{', '.join(schemas[0].names)}; files of one pattern need the same"
            )
    names = schemas[0].names
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"'{text}' has two columns '{twice[0]}'; rename one of them")
    if n_rows == 0:
        raise DataError(f"'{text}' has no rows; give a .parquet file with at least one")
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"the files of '{text}' hold different types ({reason}); write each column with one"
        ) from error
    return ParquetScan(tuple(paths), text, schema, n_rows, is_large, watch)
