"""The cores that are there, and numbered tasks in one process or in several."""

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

from bhlm.errors import ArgumentError

type Task = Callable[[int], dict[str, Any]]

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_here(
    task: Task,
    numbers: Sequence[int],
    *,
    workers: int,
    refusal: str,
    single_threaded: bool = False,
) -> Generator[dict[str, Any]]:
    """Yield `task(number)` of each number when it is done, by processes of this machine.

    Args:
        task: what can be sent to another process.
        numbers: the numbers.
        workers: processes; with one of them the tasks run in this process.
        refusal: what to say when the processes cannot be started.
        single_threaded: let each process compute in one thread.

    Raises:
        ArgumentError: the processes cannot be started.
    """
    if workers <= 1:
        yield from map(task, numbers)
        return
    # Forking a process that has threads may lock up; spawning is the same on every system.
    context = get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        with _single_threaded() if single_threaded else nullcontext():
            waiting = [pool.submit(task, number) for number in numbers]
        for future in as_completed(waiting):
            yield future.result()
    except BrokenProcessPool as error:
        raise ArgumentError(refusal) from error
    finally:
        # An error or an interrupt must not wait for the replicates that have not begun.
        pool.shutdown(cancel_futures=True)


@contextmanager
def _single_threaded() -> Generator[None]:
    """Let processes that start here compute in one thread each, unless the user says otherwise."""
    added = [name for name in THREADS if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _end_with_parent() -> None:
    """End this worker when the process that started it is killed, or it would wait for ever."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
