"""Work that nobody waits for any more ends with the processes that do it."""

import signal
import time
from types import FrameType

import pytest

from bhlm.processes import run_here

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
