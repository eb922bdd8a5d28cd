"""Where replicates run: in this process, in several on this machine, or on a Dask cluster."""

import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

from bhlm.errors import ArgumentError

type Task = Callable[[int], dict[str, Any]]

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
CONNECT_SECONDS = 20  # how long a cluster may take to answer


def run_here(task: Task, numbers: Sequence[int], *, workers: int) -> Generator[dict[str, Any]]:
    """Yield `task(number)` of each number when it is done, by processes of this machine.

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
        with _single_threaded():
            waiting = [pool.submit(task, number) for number in numbers]
        for future in as_completed(waiting):
            yield future.result()
    except BrokenProcessPool as error:
        raise ArgumentError(
            f"the {workers} worker processes stopped; start them in a script under "
            "`if __name__ == '__main__':`, or give workers=1"
        ) from error
    finally:
        # An error or an interrupt must not wait for the replicates that have not begun.
        pool.shutdown(cancel_futures=True)


def run_on_cluster(
    task: Task, numbers: Sequence[int], *, address: str, versions: dict[str, str]
) -> Generator[dict[str, Any]]:
    """Yield `task(number)` of each number when it is done, by the workers of a Dask cluster.

    Tasks of workers that are lost run again on others.

    Args:
        task: what can be sent to the workers, which have bhlm installed.
        numbers: the numbers.
        address: of the scheduler, such as "tcp://10.0.0.1:8786".
        versions: of packages, which every worker must have.

    Raises:
        ArgumentError: distributed is not installed, no scheduler answers, workers are lost again
            and again, or a worker has other versions.
    """
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as as_finished
    except ImportError as error:
        raise ArgumentError(
            f"address={address!r} asks for a Dask cluster, and distributed is not installed; "
            "pip install 'bhlm[dask]'"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"no Dask scheduler answers at {address!r}; give the address that it printed, such as "
            "'tcp://10.0.0.1:8786'"
        ) from error
    with client:
        checked = partial(_run_checked, task, versions)
        # Not pure: a cluster that has seen the same study would give back what it remembers.
        waiting = client.map(checked, numbers, pure=False)
        try:
            for future in as_finished(waiting):
                yield future.result()
                future.release()  # or a worker that is lost later would have it run again
        except (KilledWorker, CancelledError) as error:
            raise ArgumentError(
                f"the cluster at {address!r} was lost, or its workers again and again; see their "
                "logs, and start the study again to go on"
            ) from error
        finally:
            client.cancel(waiting)


def _run_checked(task: Task, versions: dict[str, str], number: int) -> dict[str, Any]:
    """Run a task where the versions of packages are those that it was planned with."""
    from importlib.metadata import version

    for name, wanted in versions.items():
        if (found := version(name)) != wanted:
            raise ArgumentError(
                f"a worker of the cluster has {name} {found}, and this study is of {name} "
                f"{wanted}; install the same versions everywhere"
            )
    return task(number)


@contextmanager
def _single_threaded() -> Generator[None]:
    """Let processes that start here compute in one thread each, unless the user says otherwise.

    The matrices are small, and threads that wait for each other cost more than they do.
    """
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
