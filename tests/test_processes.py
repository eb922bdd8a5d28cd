"""Work that nobody waits for any more ends with the processes that do it."""

import signal
import time
from types import FrameType

import numpy as np
import pytest
from scipy.linalg import lapack
from threadpoolctl import threadpool_info, threadpool_limits

from bhlm.likelihood import crossed
from bhlm.processes import limit_blas, run_here

LONG = 300.0  # seconds of a task
PATIENCE = 60  # seconds after which the test counts as hanging, whatever else the machine does


def stop(number: int, frame: FrameType | None) -> None:
    raise TimeoutError("still waiting for a task that nobody reads")


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["the reader leaves", "an interrupt"])
def test_a_task_under_way_is_not_waited_for(ends: str) -> None:
    results = run_here(time.sleep, [0, LONG, LONG], processes=2, refusal="refused")
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
