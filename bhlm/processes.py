"""The cores that are there, and numbered tasks in one process or in several."""

import os
import pickle
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from multiprocessing import get_context, parent_process
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

from bhlm.errors import ArgumentError

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue as SharedQueue

    from threadpoolctl import ThreadpoolController

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
PER_THREAD = 20_000  # small matrices, some 100 ns each: fewer are not worth a thread
_SCRIPT = ("__file__", "__spec__")  # by which a new process finds the script to run


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_memory() -> int:
    """Return the bytes of memory that the machine has; 8 GB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 10**9


@contextmanager
def limit_blas(*, when: bool = True) -> Generator[None]:
    """Let linear algebra compute in one thread meanwhile, here and in every other thread.

    numpy and scipy bring a BLAS each, whose idle threads wait for work at full speed: on few cores
    they take from each other what a matrix of a thousand columns gains.
    """
    with _find_pools().limit(limits=1, user_api="blas") if when else nullcontext():
        yield


@cache
def _find_pools() -> "ThreadpoolController":
    import scipy.linalg.lapack  # noqa: F401  its library is to be among those that are found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def share_out(work: Callable[[slice], None], count: int, *, each: int) -> None:
    """Call `work` on stretches of range(count), side by side where that is worth a thread.

    Args:
        work: releases Python's lock, and does the same to each number whatever its stretch.
        count: how many numbers.
        each: what one of them costs, in groups whose small matrices are factored once.
    """
    threads = min(count_cores(), count, count * each // PER_THREAD)
    if threads < 2:
        work(slice(0, count))
        return
    bounds = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda i: work(slice(bounds[i], bounds[i + 1])), range(threads)))


def run_here[T](
    task: Callable[[int], T],
    numbers: Sequence[int],
    *,
    processes: int,
    refusal: str,
    single_threaded: bool = False,
) -> Generator[T]:
    """Yield `task(number)` of each number when it is done, by processes of this machine.

    Args:
        task: what can be sent to another process.
        numbers: the numbers.
        processes: processes, this one among them: it does what none of the others has begun, from
            the end of the numbers, and the first tasks while the others start.
        refusal: what to say when the processes cannot be started.
        single_threaded: let each process compute in one thread.

    Raises:
        ArgumentError: the processes cannot be started.
    """
    if processes <= 1:
        yield from map(task, numbers)
        return
    # Forking a process that has threads may lock up; spawning is the same on every system.
    context = get_context("spawn")
    own, *others = _deal_cores(processes)
    dealt = context.SimpleQueue()
    for cores in others:
        dealt.put(cores)
    pool = ProcessPoolExecutor(
        processes - 1, mp_context=context, initializer=_begin_worker, initargs=(dealt,)
    )
    try:
        with ExitStack() as around:
            around.enter_context(without_script(task))
            if single_threaded:
                around.enter_context(_single_threaded())
            waiting = {number: pool.submit(task, number) for number in numbers}
        yield from _work_along(task, waiting, single_threaded=single_threaded, cores=own)
        _end_workers(pool)  # those that were too late for any task still start
    except BrokenProcessPool as error:
        raise ArgumentError(refusal) from error
    except BaseException:
        # An error or an interrupt must not wait for what nobody will read, which may take minutes.
        _end_workers(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _work_along[T](
    task: Callable[[int], T],
    waiting: dict[int, "Future[T]"],
    *,
    single_threaded: bool,
    cores: set[int],
) -> Generator[T]:
    """Yield the results of tasks that processes do; do here those that none of them has begun.

    Meanwhile this one keeps to `cores`.
    """
    finished: SimpleQueue[Future[T]] = SimpleQueue()
    for future in waiting.values():
        future.add_done_callback(finished.put)
    left = len(waiting)
    unbegun = (number for number, future in reversed(waiting.items()) if future.cancel())
    while left:
        number = next(unbegun, None)
        if number is not None:
            left -= 1
            with limit_blas(when=single_threaded), _keep_to(cores):
                own = task(number)
            yield own
        while left and (number is None or not finished.empty()):
            future = finished.get()
            if not future.cancelled():
                left -= 1
                yield future.result()


def _deal_cores(processes: int) -> list[set[int]]:
    """Return the cores that each process keeps to; where each can have one, no other.

    A task's threads wait for each other, and one that wakes on the core of another process waits
    for that one too: a sixth of the time of a study in as many processes as there are cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        return [set()] * processes
    every = os.sched_getaffinity(0)
    if len(every) != processes:
        return [every] * processes
    return [{core} for core in sorted(every)]


@contextmanager
def _keep_to(cores: set[int]) -> Generator[None]:
    """Let this thread, and those that it starts, run on these cores alone; on all if none."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    _move_to(cores)
    try:
        yield
    finally:
        _move_to(before)


def _move_to(cores: set[int]) -> None:
    with suppress(OSError):  # a sandbox may forbid it
        os.sched_setaffinity(0, cores)


def _begin_worker(dealt: "SharedQueue[set[int]]") -> None:
    """Keep to the next cores that were dealt, and end with the process that started this one."""
    cores = dealt.get()
    if cores:
        _move_to(cores)
    _end_with_parent()


def _end_workers(pool: ProcessPoolExecutor) -> None:
    for worker in list((pool._processes or {}).values()):
        worker.terminate()


@contextmanager
def without_script(task: object) -> Generator[None]:
    """Let processes that start here not run the user's script, which they would as `__main__`.

    A script without `if __name__ == "__main__":` would start the study again in every process. A
    task of which a part is defined in the script needs it, and keeps it.
    """
    names = vars(sys.modules["__main__"])
    try:
        needs_script = b"__main__" in pickle.dumps(task)
    except Exception as error:  # of whatever is in the task
        raise ArgumentError(
            f"what is given cannot be sent to other processes ({error}); define it in a file "
            "that is imported, or work in one process"
        ) from error
    if needs_script:
        yield
        return
    hidden = {name: names[name] for name in _SCRIPT if name in names}
    names.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        names.update(hidden)


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
