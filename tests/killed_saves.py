"""The process that test_storage starts to kill saves: python killed_saves.py FOLDER FORMAT.

FOLDER holds two fits, old.nc and new.nc. Forks save the new one where the old one or nothing is,
and are killed by SIGKILL at chosen steps of the file system and at random moments. What is then
there must load as one of the two, or not exist. Prints how often each outcome was seen.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from bhlm.bayes.storage.arrays import digest_arrays
from bhlm.bayes.storage.description import describe_fit
from bhlm.bayes.storage.file import load, save
from bhlm.errors import DataError
from bhlm.files import name_previous
from bhlm.fits.bayes_fit import BayesFit

STEPS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open", "shutil.rmtree"}
RANDOM_KILLS = 4
SPREAD = 6  # kills spread over all steps of a save, beside those around every renaming


def in_fork(work: Callable[[], object]) -> int:
    """Return the exit code of a fork that does the work; 9 if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            result = work()
            os._exit(result if isinstance(result, int) else 0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watch_steps(folder: Path, at: int, log: Path | None = None) -> None:
    """Kill this process at its step number `at` below a folder; write steps to a log."""
    count = 0

    def see(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in STEPS or not str(arguments[0]).startswith(str(folder)):
            return
        if log is not None:
            os.write(handle, f"{event}\n".encode())
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    if log is not None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(see)


def fingerprint(fit: BayesFit) -> str:
    """Return one hash of all that makes a fit; every type, shape and bit counts."""
    text, arrays = describe_fit(fit)
    return digest_arrays(text, arrays.values())


def kill_saves(folder: Path, format: str) -> None:
    """Kill saves at many steps and moments; report how often what was found afterwards."""
    old, new = load(folder / "old.nc"), load(folder / "new.nc")
    prints = {fingerprint(old): 1, fingerprint(new): 2}
    place = folder / "place"
    path, spare = place / f"fit.{format}", folder / f"spare.{format}"
    seen = {"old": 0, "new": 0, "absent": 0, "between": 0}

    def prepare(there: bool) -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if there and format == "zarr":
            shutil.copytree(spare, path)
        elif there:
            shutil.copy(spare, path)

    def look() -> int:
        try:
            return prints.get(fingerprint(load(path)), 98)
        except DataError as error:
            return 3 if "does not exist" in str(error) else 97

    def save_under_watch(at: int, log: Path | None = None) -> None:
        watch_steps(place, at, log)
        save(new, path)

    def check(there: bool, what: str) -> None:
        seen["between"] += format == "zarr" and not path.exists() and name_previous(path).exists()
        found = in_fork(look)
        assert found in ((1, 2) if there else (2, 3)), f"{what}: {found}"
        seen[{1: "old", 2: "new", 3: "absent"}[found]] += 1
        if sum(seen.values()) % 3 == 0:
            assert in_fork(lambda: save(old, path)) == 0
            assert os.listdir(place) == [path.name], f"{what}: {os.listdir(place)}"
            assert in_fork(look) == 1

    assert in_fork(lambda: save(old, spare)) == 0
    for there in (True, False):
        prepare(there)
        log = folder / f"steps-{there}"
        assert in_fork(partial(save_under_watch, 10**9, log)) == 0
        steps = log.read_text().splitlines()
        renamings = [at for at, step in enumerate(steps) if step == "os.rename"]
        last = [at for at in renamings if at > len(steps) // 4][-2:]
        near = {at + by for at in last for by in (0, 1, 2)}
        chosen = near | set(np.linspace(0, len(steps) - 1, SPREAD).astype(int).tolist())
        for at in sorted(step for step in chosen if step < len(steps)):
            prepare(there)
            assert in_fork(partial(save_under_watch, at)) == -signal.SIGKILL
            check(there, f"step {at} of {len(steps)} ({steps[at]}), there before: {there}")
    start = time.perf_counter()
    assert in_fork(lambda: save(new, path)) == 0
    usual = time.perf_counter() - start
    for wait in np.random.default_rng(1).uniform(0.0, usual, RANDOM_KILLS):
        prepare(True)
        child = os.fork()
        if child == 0:
            save(new, path)
            os._exit(0)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check(True, f"after {wait} s")
    for name, count in seen.items():
        print(name, count)


if __name__ == "__main__":
    kill_saves(Path(sys.argv[1]), sys.argv[2])
