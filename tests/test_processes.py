"""Work that nobody waits for any more ends with the processes that do it."""

import os
import signal
import time
from multiprocessing import active_children, parent_process
from types import FrameType

import numpy as np
import pytest
from scipy.linalg import lapack
from threadpoolctl import threadpool_info, threadpool_limits

from bhlm.errors import ArgumentError
from bhlm.likelihood import crossed
from bhlm.processes import limit_blas, run_here

LONG = 300.0  # seconds of a task
PATIENCE = 60  # seconds after which the test counts as hanging, whatever else the machine does


def stop(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("still waiting for a task that nobody reads")


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["the reader leaves", "an interrupt"])
def test_a_task_under_way_is_not_waited_for(ends: str) -> None:
    results = run_here(time.sleep, [LONG, LONG, 0], processes=2, refusal="refused")
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        assert next(results) is None
        if ends == "an interrupt":
            with pytest.raises(KeyboardInterrupt):
                results.throw(KeyboardInterrupt())
        else:
            results.close()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def name_process(number: int) -> tuple[int, int]:
    time.sleep(0.01)
    return number, os.getpid()


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_task_is_done_once(processes: int) -> None:
    found = list(run_here(name_process, range(40, 140), processes=processes, refusal="refused"))
    assert sorted(number for number, _ in found) == list(range(40, 140))
    assert os.getpid() in {done_by for _, done_by in found}


def test_this_process_works_while_others_start_and_does_not_wait_for_them() -> None:
    began = time.perf_counter()
    found = list(run_here(abs, range(5), processes=2, refusal="refused"))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert active_children() == []
    assert time.perf_counter() - began < PATIENCE


@pytest.mark.slow
def test_others_do_their_share() -> None:
    numbers = range(2000)  # twenty seconds, in which another process starts
    found = list(run_here(name_process, numbers, processes=2, refusal="refused"))
    assert sorted(number for number, _ in found) == list(numbers)
    assert len({done_by for _, done_by in found}) == 2


def name_cores(number: int) -> tuple[int, frozenset[int]]:
    time.sleep(0.01)
    return os.getpid(), frozenset(os.sched_getaffinity(0))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be placed here")
@pytest.mark.parametrize("spare", [0, 1])
def test_as_many_processes_as_cores_keep_to_one_each(spare: int) -> None:
    every = os.sched_getaffinity(0)
    processes = len(every) + spare
    found = set(run_here(name_cores, range(1000 * processes), processes=processes, refusal=""))
    assert len(found) == processes  # none of them moved
    if spare or processes == 1:
        assert {cores for _, cores in found} == {frozenset(every)}
    else:
        assert {cores for _, cores in found} == {frozenset([core]) for core in every}
    assert os.sched_getaffinity(0) == every


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be placed here")
def test_where_processes_cannot_be_placed_they_run_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(process: int, cores: set[int]) -> None:
        raise PermissionError("by the sandbox")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    processes = max(2, len(os.sched_getaffinity(0)))
    assert sorted(run_here(abs, range(5), processes=processes, refusal="")) == [0, 1, 2, 3, 4]
    monkeypatch.delattr(os, "sched_setaffinity")
    assert sorted(run_here(abs, range(5), processes=processes, refusal="")) == [0, 1, 2, 3, 4]


def fail_at(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], [3, 2, 1, 0, 4]])
def test_an_error_of_a_task_is_raised_and_ends_the_rest(numbers: list[int]) -> None:
    with pytest.raises(ValueError, match="three"):
        list(run_here(fail_at, numbers, processes=2, refusal="refused"))
    assert active_children() == []


def end_process(number: int) -> int:
    if parent_process() is not None:
        os._exit(1)
    time.sleep(2.0)
    return number


@pytest.mark.slow
def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(ArgumentError, match="refused"):
        list(run_here(end_process, range(20), processes=2, refusal="refused"))


def count_blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_linear_algebra_has_its_threads_back() -> None:
    with threadpool_limits(2, user_api="blas"):
        with limit_blas():
            assert count_blas_threads() == {1}
        assert count_blas_threads() == {2}


@pytest.mark.parametrize(("threaded", "threads"), [(1000, 1), (0, 2)])
def test_a_small_dense_rest_is_factored_in_one_thread(
    monkeypatch: pytest.MonkeyPatch, threaded: int, threads: int
) -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(60, 4))
    blocks = rows[:, :, None] * rows[:, None, :]
    codes = np.array([np.arange(60) % 7, np.arange(60) % 5])
    model = crossed.build_crossed(blocks, codes, (1, 1), names=("one", "two"))
    seen = []

    class Watched:
        """LAPACK, which says in how many threads it was asked."""

        def __getattr__(self, name: str) -> object:
            seen.append(count_blas_threads())
            return getattr(lapack, name)

    monkeypatch.setattr(crossed, "lapack", Watched())
    monkeypatch.setattr(crossed, "THREADED", threaded)
    lams = [np.eye(1), np.eye(1)]
    with threadpool_limits(2, user_api="blas"):
        found = model.eliminate(lams)
        model.slopes(lams, found, np.eye(2))
    assert seen
    assert all(each == {threads} for each in seen)
