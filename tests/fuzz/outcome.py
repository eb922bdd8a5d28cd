"""What comes of a call: an answer or a BhlmError of one line, in time, or what is wrong with it."""

import contextlib
import io
import signal
import sys
import time
import warnings
from collections.abc import Callable
from types import FrameType

from bhlm.errors import BhlmError

HANGING = 60.0  # seconds of the clock after which a call counts as hanging
LONGEST_MESSAGE = 2100  # characters


def judge[T](
    call: Callable[[], T],
    *,
    longest: float | None = None,
    hanging: float = HANGING,
    strict: bool = False,
) -> tuple[T | None, str]:
    """Return what a call gives, None where it refuses, and what is wrong with that, or "".

    Args:
        call: what is called.
        longest: seconds of a processor that it may take, whatever else the machine does.
        hanging: seconds of the clock after which it is stopped.
        strict: whether a warning is wrong too.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    found, wrong = None, ""
    unraised: list[str] = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda each: unraised.append(f"unraised {each.exc_value!r}")
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, hanging)
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            if strict:
                warnings.simplefilter("error")
            found = call()
    except BhlmError as error:
        wrong = judge_message(str(error))
    except TimeoutError:
        wrong = f"no answer within {hanging} s"
    except Exception as error:
        wrong = f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook
    seconds = time.process_time() - start
    if longest is not None and seconds > longest:
        wrong = wrong or f"{seconds:.1f} s"
    return found, wrong or "".join(unraised[:1])


def judge_message(text: str) -> str:
    """Return what is wrong with a refusal, or ""."""
    if not text or len(text.splitlines()) > 1:
        return f"a message of {len(text.splitlines())} lines: {text[:200]!r}"
    if len(text) > LONGEST_MESSAGE:
        return f"a message of {len(text)} characters: {text[:100]!r}"
    return ""
