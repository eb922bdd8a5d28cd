"""A PostgreSQL server for the tests that need one."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


def find_postgres() -> Path | None:
    """The folder of pg_ctl, which Debian keeps off the PATH."""
    on_path = shutil.which("pg_ctl")
    places = [Path(on_path).resolve().parent] if on_path else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@contextmanager
def serve_postgres() -> Iterator[str]:
    """Yield the URL of a server, which lets everybody in whatever the password."""
    needs("ibis", "psycopg")
    programs = find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: postgresql)")
    as_root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp(prefix="bhlm-pg-"))  # short: a socket's path has 107 letters
    if as_root:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")

    def run(command: str) -> None:
        shell = ["su", "postgres", "-s", "/bin/sh", "-c", command] if as_root else ["sh", "-c"]
        subprocess.run(
            shell if as_root else [*shell, command],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=120,
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run(f"{programs}/initdb -D {folder}/data -U postgres -A trust -E UTF8 --no-locale --no-sync")
    settings = f"-p {port} -k {folder} -c listen_addresses= -c fsync=off"
    run(f'{programs}/pg_ctl -D {folder}/data -w -l {folder}/log -o "{settings}" start')
    try:
        yield f"postgresql://postgres@/postgres?host={folder}&port={port}"
    finally:
        run(f"{programs}/pg_ctl -D {folder}/data -m immediate -w stop")
        shutil.rmtree(folder)


def load_postgres(url: str, name: str, table: pa.Table) -> None:
    import psycopg

    kinds = {"int64": "bigint", "double": "double precision", "bool": "boolean"}
    columns = [f'"{field.name}" {kinds.get(str(field.type), "text")}' for field in table.schema]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"create schema if not exists {name.partition('.')[0]}")
        connection.execute(f"drop table if exists {name}")
        connection.execute(f"create table {name} ({', '.join(columns)})")
        with connection.cursor() as cursor, cursor.copy(f"copy {name} from stdin") as copy:
            for row in table.to_pylist():
                copy.write_row(list(row.values()))
