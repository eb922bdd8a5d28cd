"""Damaged files of every kind that is read: an answer, or a BhlmError of one line.

Files that end the process that reads them would end the tests too. So `try_files` reads in a
process of its own, and says by which signal it ended; `try_here` reads in this one.
"""

import json
import logging
import resource
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

import bhlm
from bhlm.reports.dashboard.paths import check_path
from bhlm.studies.replicate_file import append_replicate, open_replicates
from tests.fuzz.outcome import judge
from tests.simulate import simulate_table

FORMULA = "y ~ x + f + (x | g)"
MEMORY = 8 << 30  # bytes that a reading process may ask for
LONGEST = 30  # seconds that it may take before it is ended
HUGE = (b"\xff" * 8, b"\xff\xff\xff\x7f" * 2, b"\0" * 8, b"\x7f" * 8)
IDENTITY = {"study": "simulation", "seed": 1}


def write_files(folder: Path) -> None:
    """Write right files, but for those of posteriors and of SAS."""
    import pyreadstat

    table = simulate_table(3, n_groups=12, largest=6)
    table["f"] = np.array(["a", "b", "\u00e9"])[np.arange(len(table)) % 3]
    table.to_csv(folder / "t.csv", index=False)
    table.to_parquet(folder / "t.parquet")
    table.to_feather(folder / "t.feather")
    table.to_stata(folder / "t.dta", write_index=False, version=118)
    pyreadstat.write_sav(table, folder / "t.sav")
    with duckdb.connect(str(folder / "t.duckdb")) as connection:
        connection.register("rows", table)
        connection.execute("create table t as select * from rows")
    with closing(sqlite3.connect(folder / "t.sqlite")) as lite:
        table.to_sql("t", lite, index=False)
    bhlm.Model("y ~ x + (x | g)", table).moments.save(folder / "t.moments")
    with (folder / "t.jsonl").open("wb"):
        pass
    open_replicates(folder / "t.jsonl", IDENTITY)
    for number in range(3):
        append_replicate(folder / "t.jsonl", {"replicate": number, "fits": [1.0, None]})
    (folder / "page.json").write_text(json.dumps({"title": "t", "model": {}, "sections": []}))
    (folder / "t.toml").write_text(
        'title = "t"\ncitation = "c"\nformula = "y ~ x + (x | g)"\n[data]\npath = "right.csv"\n'
    )
    table.to_csv(folder / "right.csv", index=False)


def write_fits(folder: Path) -> None:
    """Write right files of a posterior."""
    logging.getLogger("bhlm").setLevel(logging.ERROR)  # the verdict of so few draws
    post = bhlm.Model("y ~ x + (x | g)", folder / "right.csv").sample(
        seed=1, draws=20, tune=20, chains=2
    )
    post.save(folder / "t.nc")
    post.save(folder / "t.zarr")


def write_sas(folder: Path) -> None:
    """Write the right table as SAS does, by R's haven where that is installed."""
    code = "haven::write_sas(read.csv('right.csv', encoding = 'UTF-8'), 't.sas7bdat')"
    with suppress(FileNotFoundError):
        subprocess.run(["Rscript", "--vanilla", "-e", code], cwd=folder, capture_output=True)


def fit(data: Any) -> None:
    """Fit the model of the right table."""
    bhlm.Model(FORMULA, data).reml()


USES: dict[str, Callable[[Path], Any]] = {
    "t.csv": fit,
    "t.csv, limit": lambda path: fit(bhlm.open_table(path, memory_limit="100MB")),
    "t.parquet": fit,
    "t.parquet, read": lambda path: fit(bhlm.open_table(path)),
    "t.parquet, limit": lambda path: fit(bhlm.open_table(path, memory_limit="100MB")),
    "t.feather": fit,
    "t.dta": fit,
    "t.sav": fit,
    "t.sas7bdat": fit,
    "t.duckdb": lambda path: fit(f"duckdb:///{path}#t"),
    "t.sqlite": lambda path: fit(f"duckdb:///{path}#t"),
    "t.moments": lambda path: bhlm.Model.from_moments(path).reml(),
    "t.moments, merge": lambda path: bhlm.merge_files([path, path]),
    "t.nc": bhlm.load,
    "t.zarr": bhlm.load,
    "t.toml": bhlm.find_model,
    "t.jsonl": lambda path: open_replicates(path, IDENTITY),
    "page.json": lambda path: check_path(path.with_suffix(".html")),
}


def damage(rng: np.random.Generator, content: bytes, others: list[Path]) -> bytes:
    """Return a file's bytes, damaged in one of the ways in which files are."""
    data = bytearray(content)
    n = len(data)
    kind = rng.integers(0, 10)
    if kind == 0:
        return bytes(data[: int(rng.integers(0, n))])
    if kind == 1:  # the end of a copy that broke off is often zeros
        at = int(rng.integers(0, n))
        return bytes(data[:at]) + bytes(n - at)
    if kind in (2, 3):
        for at in rng.integers(0, n, 1 if kind == 2 else max(2, n // 100)):
            data[at] ^= 1 << int(rng.integers(8))
        return bytes(data)
    if kind == 4:
        size = min(n, int(rng.choice([1, 4, 8, 16])))
        data[:size] = rng.bytes(size)
        return bytes(data)
    if kind in (5, 6):  # numbers of a header or a footer that promise too much
        number = bytes(
            rng.choice([b"\xff" * 8, b"\xff\xff\xff\x7f" * 2, b"\0" * 8, b"\1" + b"\0" * 6])
        )
        near = int(rng.integers(0, min(n, 600)))
        at = near if kind == 5 else max(0, n - near - 1)
        size = int(rng.choice([2, 4, 8]))
        data[at : at + size] = number[:size]
        return bytes(data[:n])
    if kind == 7:
        return others[int(rng.integers(len(others)))].read_bytes()
    if kind == 8:
        at, size = int(rng.integers(0, n)), int(rng.integers(1, max(2, n // 4)))
        return (
            bytes(data[:at] + data[at + size :])
            if rng.random() < 0.5
            else bytes(data[: at + size] + data[at:])
        )
    return rng.bytes(int(rng.choice([0, 1, 3, 100, n])))


def damage_copy(number: int, right: Path, folder: Path) -> tuple[str, Path]:
    """Write a damaged copy of a right file; return how it is used, and its path."""
    rng = np.random.default_rng([4, number])
    uses = [use for use in USES if (right / use.split(",")[0]).exists()]
    use = uses[number % len(uses)]
    name = use.split(",")[0]
    source, path = right / name, folder / name
    _remove(path)
    shutil.copy(right / "right.csv", folder / "right.csv")
    files = sorted(each for each in right.iterdir() if each.is_file())
    if source.is_dir():
        shutil.copytree(source, path)
        inner = sorted(each for each in path.rglob("*") if each.is_file())
        victim = inner[int(rng.integers(len(inner)))]
        if rng.random() < 0.15:
            victim.unlink()
        elif rng.random() < 0.1:
            victim.unlink()
            victim.mkdir()
        else:
            victim.write_bytes(damage(rng, victim.read_bytes(), files))
    elif rng.random() < 0.03:
        path.mkdir()
    elif rng.random() < 0.03:
        path.symlink_to(path)
    else:
        path.write_bytes(damage(rng, source.read_bytes(), files))
    return use, path


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def _read(use: str, path: Path, *, is_alone: bool) -> str:
    if is_alone:
        signal.alarm(LONGEST)  # of which the process ends, whatever it is at
    try:
        return judge(lambda: USES[use](path), hanging=LONGEST - 5, strict=True)[1]
    finally:
        if is_alone:
            signal.alarm(0)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def try_here(
    numbers: range, right: Path, folder: Path, *, without: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield what is wrong with what comes of damaged files, which are read in this process."""
    for number in numbers:
        use, path = damage_copy(number, right, folder)
        if use.split(",")[0] in without:
            continue
        if wrong := _read(use, path, is_alone=False):
            yield f"file {number}, {use}: {wrong}"


def try_files(numbers: range) -> Iterator[str]:
    """Yield what is wrong with what comes of damaged files, which another process reads."""
    with tempfile.TemporaryDirectory() as name:
        right, folder = Path(name, "right"), Path(name, "damaged")
        right.mkdir()
        folder.mkdir()
        write_files(right)
        write_fits(right)
        write_sas(right)
        start = partial(ProcessPoolExecutor, 1, get_context("spawn"), _limit_memory)
        pool = start()
        for number in numbers:
            use, path = damage_copy(number, right, folder)
            try:
                wrong = pool.submit(_read, use, path, is_alone=True).result()
            except BrokenProcessPool:
                wrong = "the process ended"
                pool = start()
            if wrong:
                yield f"file {number}, {use}: {wrong}"
        pool.shutdown()
