"""DuckDB and PostgreSQL -> tables whose rows stay where they are until they are reduced."""

import atexit
import os
import re
import shutil
import tempfile
import uuid
import weakref
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.errors import DataError, miss_package
from bhlm.secrets import hide_from, hide_password
from bhlm.sources.kinds import list_categories
from bhlm.sources.labels import (
    DECIMAL,
    DIGITS,
    DIGITS_ALONE,
    INTEGER,
    PADDED_FIELD,
    TRUTHS,
    Spellings,
    choose_type,
)
from bhlm.sources.text import check_headers, check_rows, read_header
from bhlm.sources.watch import remember_files, watch_files

if TYPE_CHECKING:
    import duckdb

SPILL_SHARE = 2  # DuckDB may fill the free space of the temporary folder divided by this
ATTACHED = "attached"  # what DuckDB calls a database file here
# A table, with its schema where that is not main; either may stand in quotes.
_TABLE = re.compile(
    r'(?:(?P<schema>"(?:[^"]|"")+"|[^."]+)\.)?(?P<table>"(?:[^"]|"")+"|[^"]+)', re.DOTALL
)
# What pandas takes for missing in a CSV file, so that DuckDB does the same.
CSV_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)


MANY = 1000  # categories, of which DuckDB plans queries slowly; no factor may have so many levels
PERIOD = "pandas.period"  # what Arrow calls a type that pandas adds
# What makes a duration of an integer, by its unit.
_DURATIONS = {
    "s": "to_seconds({})", "ms": "to_microseconds({} * 1000)", "us": "to_microseconds({})",
    "ns": "to_microseconds({} // 1000)",
}  # fmt: skip


def has_duckdb() -> bool:
    """Return whether DuckDB is installed."""
    try:
        import duckdb  # noqa: F401
    except ImportError:
        return False
    return True


@cache
def _make_spill(process: int, around: str) -> str:
    """Return the folder for what DuckDB writes beside memory: the owner's alone, removed at exit.

    DuckDB makes its own folder inside when it needs it, readable as the system's default has it.
    """
    try:
        folder = tempfile.mkdtemp(prefix="bhlm-duckdb-", dir=around)
    except OSError as error:
        raise DataError(
            f"no folder for what DuckDB writes beside memory can be made ({error.strerror}); set "
            "TMPDIR to a folder that is writable"
        ) from error

    def remove() -> None:
        if os.getpid() == process:  # not in a process forked from this one
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def _connect_duckdb(
    what: str, memory_limit: str | None, *, database: Path | None = None
) -> "duckdb.DuckDBPyConnection":
    """Return a connection that may use so much memory, and the system's temporary folder.

    A database file is attached to it as ATTACHED, to be read: opened by itself, it would have to be
    opened alike by whoever opens it twice.
    """
    try:
        import duckdb
    except ImportError as error:
        raise miss_package(what, "duckdb", "duckdb") from error
    spill = os.path.join(_make_spill(os.getpid(), tempfile.gettempdir()), uuid.uuid4().hex)
    most = shutil.disk_usage(os.path.dirname(spill)).free // SPILL_SHARE // 10**6
    # The order of rows, which nothing here rests on, would cost memory to keep.
    config: dict[str, Any] = {
        "temp_directory": spill,
        "max_temp_directory_size": f"{most}MB",
        "preserve_insertion_order": False,
    }
    if memory_limit is not None:
        # DuckDB takes a negative limit for none at all.
        if not re.fullmatch(r"\d+(\.\d+)?\s*[KMGT]i?B", memory_limit, re.IGNORECASE):
            raise DataError(
                f"the memory limit {memory_limit!r} is not one; give a number with a unit, such as "
                "'500MB' or '4GB'"
            )
        config["memory_limit"] = memory_limit
    try:
        connection = duckdb.connect(":memory:", config=config)
        # A bar of its own would stand in standard output, between what a command prints.
        connection.execute("SET enable_progress_bar = false")
        if database is not None:
            path = str(database.absolute()).replace("'", "''")
            connection.execute(f"ATTACH '{path}' AS {ATTACHED} (READ_ONLY)")
        return connection
    except duckdb.Error as error:
        raise DataError(
            f"{what} cannot be opened ({shorten(error)}); check that it is a DuckDB file that no "
            "other program writes, or give the relation of a connection that you have open"
        ) from error


def stream_files(
    paths: Sequence[Path],
    suffix: str,
    memory_limit: str | None,
    place: str,
    *,
    labels: Collection[str] | None = None,
    text: Collection[str] = (),
) -> "duckdb.DuckDBPyRelation":
    """Return Parquet or CSV files, called `place` in errors, as a relation that reads in pieces.

    For `labels` and `text`, columns of CSV files, see `bhlm.sources.open.open_table`.

    Raises `MissingPackageError` without DuckDB, and `DataError` where that cannot read them, they
    have no rows, or the limit is not one.
    """
    watch = watch_files(paths)
    connection = _connect_duckdb(f"'{place}' with a memory limit", memory_limit)
    import duckdb

    # DuckDB takes each name for a pattern: a bracket around a sign stands for that sign alone.
    names = [re.sub(r"[*?\[]", r"[\g<0>]", str(path)) for path in paths]
    try:
        relation = (
            _settle_types(connection, _read_parquet(connection, names), paths)
            if suffix == ".parquet"
            else _stream_csv(connection, paths, names, labels, text)
        )
        is_empty = not relation.limit(1).fetchall()
    except (duckdb.Error, UnicodeDecodeError, OSError) as error:
        raise refuse_file(place, suffix, error) from error
    if is_empty:
        raise DataError(f"'{place}' has no rows; give a {suffix} file with at least one")
    remember_files(relation, watch)
    return relation


def _read_parquet(connection: "duckdb.DuckDBPyConnection", names: Any) -> "duckdb.DuckDBPyRelation":
    """Return Parquet files as a relation whose types hold the values of every file.

    By itself DuckDB takes those of the first file, and rounds the numbers of another to integers.
    """
    return connection.read_parquet(names, union_by_name=len(names) > 1)


def _settle_types(
    connection: "duckdb.DuckDBPyConnection",
    relation: "duckdb.DuckDBPyRelation",
    paths: Sequence[Path],
) -> "duckdb.DuckDBPyRelation":
    """Return Parquet files with the types of which only Arrow's schema in the files speaks.

    DuckDB reads durations and pandas' periods as the integers they are, and categories as text,
    which has not their order. Periods come as records, with which nothing can compute.
    """
    import pyarrow as pa
    from pyarrow import parquet, types

    try:
        schema = parquet.read_schema(paths[0])
    except (pa.ArrowException, OSError):  # of what DuckDB alone can read
        return relation
    units = {field.name: field.type.unit for field in schema if types.is_duration(field.type)}
    periods = {field.name for field in schema if _name_extension(field) == PERIOD}
    ordered = list_categories(paths)
    parts = []
    for name, kind in zip(relation.columns, map(str, relation.types), strict=True):
        column = _quote_name(name)
        if kind == "BIGINT" and name in units:
            parts.append(f"{_DURATIONS[units[name]].format(column)} as {column}")
        elif kind == "BIGINT" and name in periods:
            parts.append(f"struct_pack({_quote_name(PERIOD)} := {column}) as {column}")
        elif kind == "VARCHAR" and (held := _find_held(relation, column, ordered.get(name, ()))):
            parts.append(f"cast({column} as {_name_order(connection, held)}) as {column}")
    return relation.project(f"* replace ({', '.join(parts)})") if parts else relation


def _name_extension(field: Any) -> str:
    """Return the name of a pyarrow field's type where it extends one of Arrow's own."""
    beside = field.metadata or {}
    found = getattr(field.type, "extension_name", None) or beside.get(b"ARROW:extension:name", "")
    return found.decode() if isinstance(found, bytes) else found


def _find_held(
    relation: "duckdb.DuckDBPyRelation", column: str, categories: Sequence[str]
) -> Sequence[str]:
    """Return categories in their order; where they are many, those that a quoted column has.

    None where it has many itself: it identifies rows, and no order would serve.
    """
    if len(categories) <= MANY:
        return categories
    some = relation.aggregate(column).limit(MANY + 1).fetchall()
    if len(some) > MANY:
        return ()
    held = {value for (value,) in some}
    return [each for each in categories if each in held]


def _name_order(connection: "duckdb.DuckDBPyConnection", categories: Sequence[str]) -> str:
    """Return the name of a new type of a connection, with categories in this order."""
    import pyarrow as pa

    name = f"bhlm_{uuid.uuid4().hex}"
    places = list(range(len(categories)))
    connection.register(name, pa.table({"place": places, "category": categories}))
    connection.execute(f"create type {name} as enum (select category from {name} order by place)")
    connection.unregister(name)
    return name


def _stream_csv(
    connection: "duckdb.DuckDBPyConnection",
    paths: Sequence[Path],
    names: Any,
    labels: Collection[str] | None,
    text: Collection[str],
) -> "duckdb.DuckDBPyRelation":
    """Return CSV files as a relation whose columns have the types that pandas would give them.

    Args:
        connection: reads them.
        paths: of the files.
        names: the same as DuckDB has them.
        labels: columns that are read as labels.
        text: columns that are read as text.
    """
    import duckdb

    headers = [read_header(path, ",") for path in paths]
    check_headers(paths, headers)
    header = _name_apart(headers[0])
    for path in paths:
        check_rows(path, ",", most=1)
    # What DuckDB would guess of the way in which a file is written rests on its first rows: of
    # labels, quotation marks that come later would be a part.
    how: dict[str, Any] = {
        "sep": ",", "quotechar": '"', "escapechar": '"', "comment": "", "skiprows": 0,
        "header": True, "na_values": list(CSV_MISSING),
    }  # fmt: skip
    # A type rests on all rows, not on the first ones. Dates stay text, as pandas leaves them.
    candidates = ["BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR"]
    try:
        guess = connection.read_csv(
            names, names=header, sample_size=-1, auto_type_candidates=candidates, **how
        )
        types = {name: str(dtype) for name, dtype in zip(guess.columns, guess.types, strict=True)}
    except duckdb.Error:
        for path in paths:
            check_rows(path, ",")
        # Rows may still lack fields at their ends.
        types = dict.fromkeys(header, "VARCHAR")
        how |= {"null_padding": True, "parallel": False}
    how["auto_detect"] = False
    raw = connection.read_csv(names, columns=dict.fromkeys(types, "VARCHAR"), **how)
    # DuckDB takes yes and t for true, and 007 for text; pandas takes them for text and for 7.
    doubtful = [name for name, dtype in types.items() if dtype in ("BOOLEAN", "VARCHAR")]
    asked = {
        name: [
            f"bool_and(lower({column}) in ('true', 'false'))",
            f"bool_and(regexp_full_match({column}, '\\s*[+-]?[0-9]{{1,18}}\\s*'))",
            f"bool_and(regexp_full_match({column}, '\\s*[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)"
            "([eE][+-]?[0-9]+)?\\s*'))",
        ]
        for name in doubtful
        for column in [_quote_name(name)]
    }
    for name, answers in _aggregate(raw, asked).items():
        fits = zip(("BOOLEAN", "BIGINT", "DOUBLE"), answers, strict=True)
        types[name] = next((dtype for dtype, fit in fits if fit), "VARCHAR")
    if labels is None:
        types |= _widen_integers(raw, types)
        types |= dict.fromkeys(_find_padded(raw, types), "VARCHAR")
    else:
        types |= _type_labels(raw, [name for name in labels if name in types])
    types |= {name: "VARCHAR" for name in text if name in types}
    return connection.read_csv(names, columns=types, **how)


def _name_apart(header: Sequence[str]) -> list[str]:
    """Return names that differ in more than upper and lower case, which DuckDB does not tell apart.

    They get numbers, as DuckDB itself would give them.
    """
    found: list[str] = []
    for name in header:
        taken = {each.casefold() for each in found}
        numbered = (f"{name}_{i}" for i in count(1))
        own = (
            name
            if name.casefold() not in taken
            else next(each for each in numbered if each.casefold() not in taken)
        )
        found.append(own)
    return found


def _type_labels(raw: "duckdb.DuckDBPyRelation", labels: Collection[str]) -> dict[str, str]:
    """Return the types of columns of labels, by the rule of `labels.choose_type`."""
    asked = {}
    for name in labels:
        column = _quote_name(name)
        whole = f"regexp_full_match({column}, '{INTEGER}')"
        decimal = f"regexp_full_match({column}, '{DECIMAL}') and {column} <> '-0.0'"
        short = f"length(regexp_replace({column}, '[^0-9]', '', 'g')) <= {DIGITS}"
        styles = [f"bool_and({column} in {style})" for style in TRUTHS]
        asked[name] = [
            f"bool_and({column} is null or ({whole} and try_cast({column} as BIGINT) is not null))",
            f"bool_and(({whole} or ({decimal})) and {short})",
            f"bool_or({whole})",
            f"bool_or(ends_with({column}, '.0'))",
            " or ".join(styles),
        ]
    kinds = {"integer": "BIGINT", "decimal": "DOUBLE", "boolean": "BOOLEAN", "text": "VARCHAR"}
    found = _aggregate(raw, asked)
    return {name: kinds[choose_type(Spellings(*map(bool, found[name])))] for name in labels}


def _widen_integers(raw: "duckdb.DuckDBPyRelation", types: dict[str, str]) -> dict[str, str]:
    """Return the types of columns of integers beyond 64 bits with a sign, as pandas has them.

    DuckDB takes them for doubles, which do not tell them apart.
    """
    asked = {
        name: [
            f"bool_and(regexp_full_match({column}, '{DIGITS_ALONE}'))",
            f"bool_and({column} is null or try_cast({column} as UBIGINT) is not null)",
        ]
        for name, dtype in types.items()
        if dtype == "DOUBLE"
        for column in [_quote_name(name)]
    }
    found = _aggregate(raw, asked)
    return {
        name: "UBIGINT" if fits else "VARCHAR" for name, (whole, fits) in found.items() if whole
    }


def _find_padded(raw: "duckdb.DuckDBPyRelation", types: dict[str, str]) -> list[str]:
    """Return the columns of numbers that spell one in two ways, one with zeros or blanks."""
    names = [name for name, dtype in types.items() if dtype in ("BIGINT", "UBIGINT", "DOUBLE")]
    padded = {
        name: [f"bool_or(regexp_matches({_quote_name(name)}, '{PADDED_FIELD}'))"] for name in names
    }
    suspects = [name for name, (found,) in _aggregate(raw, padded).items() if found]
    merged = {
        name: [f"count(distinct {column}) > count(distinct try_cast({column} as DOUBLE))"]
        for name in suspects
        for column in [_quote_name(name)]
    }
    return [name for name, (found,) in _aggregate(raw, merged).items() if found]


def _aggregate(
    relation: "duckdb.DuckDBPyRelation", asked: dict[str, list[str]]
) -> dict[str, list[Any]]:
    """Return the answers to some aggregates by column, in one pass."""
    if not asked:
        return {}
    (answers,) = relation.aggregate(
        ", ".join(q for each in asked.values() for q in each)
    ).fetchall()
    left = iter(answers)
    return {name: [next(left) for _ in each] for name, each in asked.items()}


def _quote_name(name: str) -> str:
    """Return the name of a column as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def open_duckdb(place: str, name: str, shown: str, memory_limit: str | None) -> Any:
    """Return a table of a DuckDB file, which is opened to be read, as a relation.

    Args:
        place: the URL without its table, such as duckdb:///file.db.
        name: the table, with its schema where that is not main.
        shown: the URL as errors show it.
        memory_limit: what DuckDB may use.

    Raises:
        DataError: DuckDB, the file or the table is missing, or the file cannot be opened.
    """
    path = Path(place.split("://", 1)[1].removeprefix("/"))
    if not os.path.isfile(path):
        raise DataError(
            f"'{hide_password(str(path))}' of '{shown}' does not exist; three slashes start a "
            "relative path, four an absolute one"
        )
    connection = _connect_duckdb(f"'{shown}'", memory_limit, database=path)
    found = connection.execute(
        "select table_schema, table_name from information_schema.tables where table_catalog = ?",
        [ATTACHED],
    ).fetchall()
    # Asked for a name that is none of them, DuckDB would take it for a file, or a variable.
    if (place_of := _find_table(name, found)) is None:
        connection.close()
        raise _miss_table(name, shown, found, default="main")
    import duckdb

    try:
        relation = connection.table(".".join(map(_quote_name, (ATTACHED, *place_of))))
        relation.limit(0).fetchall()
    except duckdb.Error as error:
        connection.close()
        raise DataError(
            f"the table '{name}' of '{shown}' cannot be read ({shorten(error)}); check what it "
            "rests on"
        ) from error
    return relation


def _find_table(name: str, found: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the schema and the table that a name means among those found, as SQL reads names.

    A table whose own name has a dot in it is found by that too.
    """
    asked = [("main", name)]
    if parts := _TABLE.fullmatch(name):
        asked.append((_bare(parts["schema"] or "main"), _bare(parts["table"])))
    for fold in (str, str.casefold):
        known = {(fold(schema), fold(table)): (schema, table) for schema, table in found}
        for schema, table in asked:
            if (fold(schema), fold(table)) in known:
                return known[fold(schema), fold(table)]
    return None


def _bare(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def open_postgres(place: str, name: str, shown: str, memory_limit: str | None) -> Any:
    """Return a table of a PostgreSQL database as an Ibis table; see `open_duckdb` for the rest.

    Raises `DataError` where a package or the table is missing, the server does not answer, or
    a memory limit is given.
    """
    if memory_limit is not None:
        raise DataError(
            f"the memory limit {memory_limit!r} cannot be set for '{shown}', whose server has its "
            "own; leave the limit out"
        )
    try:
        import ibis
        import psycopg
    except ImportError as error:
        raise miss_package(f"'{shown}'", "ibis-framework[postgres]", "postgres") from error
    failure = None
    try:
        connection = psycopg.connect(place, autocommit=True)
    except (psycopg.Error, ValueError, OSError) as error:
        failure = hide_from(shorten(error), place)
    # No cause and no context: the message that they hold may quote the address.
    if failure is not None:
        raise DataError(
            f"'{shown}' cannot be opened ({failure}); check the address, the user and the database"
        )
    backend = ibis.postgres.from_connection(connection)
    # The tables of a backend keep it alive; after the last of them nobody needs the connection.
    weakref.finalize(backend, connection.close)
    schema, _, table = name.rpartition(".")
    try:
        return backend.table(table, database=schema or None)
    except ibis.common.exceptions.TableNotFound as error:
        found = connection.execute(
            "select table_schema, table_name from information_schema.tables "
            "where table_schema not in ('pg_catalog', 'information_schema')"
        ).fetchall()
        connection.close()
        raise _miss_table(name, shown, found, default="public") from error


def _miss_table(
    name: str, shown: str, found: Sequence[tuple[str, str]], *, default: str
) -> DataError:
    names = sorted(table if schema == default else f"{schema}.{table}" for schema, table in found)
    close = get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return DataError(
        f"the database of '{shown}' has no table '{name}'; {hint}it has: "
        f"{', '.join(names[:12]) or 'no tables'}"
    )


def refuse_file(path: object, suffix: str, error: Exception) -> DataError:
    """Return the error for files that their reader does not understand."""
    is_text = isinstance(error, UnicodeDecodeError) and (
        b"\0" not in error.object or error.object.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    )
    if isinstance(error, UnicodeDecodeError) and is_text and suffix.startswith((".csv", ".tsv")):
        return DataError(
            f"'{path}' is not UTF-8 text (byte {error.start} is {error.object[error.start]:#x}); "
            "save it as UTF-8, which Excel calls 'CSV UTF-8', or give the dataframe that "
            "pandas.read_csv(path, encoding=...) returns"
        )
    return DataError(
        f"'{path}' cannot be read as {suffix} ({shorten(error)}); check that its suffix is right "
        "and that the file is whole"
    )


def shorten(error: Exception) -> str:
    """Return the message of another package's error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
