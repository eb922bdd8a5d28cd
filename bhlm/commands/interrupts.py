"""How Ctrl-C ends a command: by one line, whatever it interrupts."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended
INTERRUPTION = "bhlm: interrupted; what was not written yet is lost"
PATIENCE = 3.0  # seconds after which an interrupt that led nowhere is repeated


@contextmanager
def hear_interrupts(*, patience: float = PATIENCE) -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed, which raises KeyboardInterrupt.

    Compilers and extension modules turn an interrupt into errors of their own, so that what is
    raised says little; or it falls into a callback, where it is lost, so that it is repeated until
    the block ends. Outside the main thread, and where SIGINT is ignored or somebody else's, Ctrl-C
    means what it did.

    Args:
        patience: seconds between the repetitions.
    """
    pressed, ended = threading.Event(), threading.Event()
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.default_int_handler:
        yield pressed.is_set
        return

    def repeat() -> None:
        while not ended.wait(patience):
            if hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            else:
                signal.raise_signal(signal.SIGINT)

    def note(*_: Any) -> None:
        if not pressed.is_set():
            pressed.set()
            threading.Thread(target=repeat, daemon=True).start()
        raise KeyboardInterrupt

    def drop(lost: Any) -> None:
        # What an interrupt leads to where it is lost is not worth a traceback either.
        if not pressed.is_set():
            hook(lost)

    hook, sys.unraisablehook = sys.unraisablehook, drop
    signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        ended.set()
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
