"""A run in progress: what its draws say so far, and its stop with what is drawn kept.

A run that was stopped fails its verdict, whatever its R-hat and ESS: who stops when the numbers
please has chosen them. The same seed with as many draws as were kept gives these very draws, with
a verdict of their own.
"""

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.convergence import ESS, RHAT
from bhlm.bayes.mixing import measure
from bhlm.bayes.sampling import Progress, Reader
from bhlm.errors import StoppedError as StoppedError

if TYPE_CHECKING:
    import xarray as xr


Array = np.ndarray

LEAST = 50  # kept draws of each chain that a fit is made of
FIRST = 20  # draws of each chain, from which R-hat and ESS say anything
TICK = 0.1  # seconds between two looks at the counts
EVERY = 1.0  # seconds between two looks at the draws, at the least
SELDOM = 10.0  # and at the most
SHARE = 0.2  # of the time, at most, goes into looking at the draws


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the draws so far say."""

    draws: int  # of each chain, after warm-up
    divergences: int
    names: tuple[str, ...]  # parameters, the furthest from their limits first
    rhat: Array  # (len(names),)
    ess_bulk: Array  # (len(names),)
    ess_tail: Array  # (len(names),)


# Opens what a run is shown in, and gives the function that brings it up to date.
View = Callable[["Watcher"], AbstractContextManager[Callable[[], None]]]


class Watcher:
    """Looks at a run, and has it shown, while it waits for its end or for Ctrl-C."""

    def __init__(self, open_view: View, *, draws: int, progress: Progress | None = None) -> None:
        self.open_view = open_view
        self.draws = draws
        self.progress = progress
        self.states: Sequence[Any] = ()  # nutpie's, of every chain
        self.outlook: Outlook | None = None
        self.start = time.perf_counter()

    def note(self, states: Sequence[Any]) -> None:
        """Keep nutpie's progress of every chain; called from a thread of its own."""
        self.states = states
        if self.progress is not None:
            self.progress(states)

    def watch(self, running: Any, read: Reader) -> "xr.DataTree":
        """Return the trace of a run at its end, or cut to the draws so far after Ctrl-C.

        Raises:
            StoppedError: stopped before every chain had enough draws.
        """
        due = self.start
        with _note_interrupt() as interrupted, self.open_view(self) as show:
            while not _is_finished(running):
                if interrupted():
                    return self._stop(running)
                began = time.perf_counter()
                if began >= due and self.count_kept() >= FIRST:
                    self.outlook = look(running, read)
                    spent = time.perf_counter() - began
                    due = began + min(max(EVERY, spent / SHARE), SELDOM)
                show()
                time.sleep(TICK)
        whole: xr.DataTree = running.wait()
        return whole

    def _stop(self, running: Any) -> "xr.DataTree":
        with ignore_short_chains():
            trace = running.abort()
        kept = count_draws(trace)
        if kept.min() < LEAST:
            slowest = int(np.argmin(kept))
            raise StoppedError(
                f"stopped when chain {slowest + 1} had {kept[slowest]} draws after its "
                f"{self.tune} of warm-up, and a fit needs {LEAST} of each; let it run longer, or "
                "ask for less warm-up (tune)"
            )
        return cut_trace(trace, int(kept.min()))

    @property
    def tune(self) -> int:
        """The draws of warm-up of each chain; 0 before the sampler has told of them."""
        return max((state.total_draws - self.draws for state in self.states), default=0)

    def count_kept(self) -> int:
        """Return the draws after warm-up of the chain that has fewest."""
        return min((state.finished_draws - self.tune for state in self.states), default=0)


def look(running: Any, read: Reader) -> Outlook | None:
    """Return what the draws so far of a running sampler say; None if they are too few."""
    with ignore_short_chains():
        trace = running.inspect()
    kept = int(count_draws(trace).min())
    if kept < FIRST:
        return None
    trace = cut_trace(trace, kept)
    return judge_draws(read(trace), divergences=int(trace["sample_stats"]["diverging"].sum()))


def judge_draws(draws: Mapping[str, Array], *, divergences: int) -> Outlook:
    """Return R-hat and ESS of parameters' draws (chain, draw), the worst first."""
    stack = np.stack(list(draws.values()))
    measured = measure(stack)
    order = np.argsort(-measure_shortfall(*measured), kind="stable")
    names = list(draws)
    worst_first = {name: values[order] for name, values in measured._asdict().items()}
    return Outlook(
        draws=stack.shape[2], divergences=divergences, names=tuple(names[at] for at in order),
        **worst_first,
    )  # fmt: skip


def measure_shortfall(rhat: Array, ess_bulk: Array, ess_tail: Array) -> Array:
    """Return how far parameters are from their limits: 1 is on the worst of the three.

    The largest of (rhat - 1) / 0.01, 400 / ess_bulk and 400 / ess_tail; infinite where one of
    them cannot be computed.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.stack([(rhat - 1.0) / (RHAT - 1.0), ESS / ess_bulk, ESS / ess_tail])
    worst: Array = np.where(np.isnan(parts), np.inf, parts).max(axis=0)
    return worst


def count_draws(trace: "xr.DataTree") -> Array:
    """Return how many draws after warm-up each chain of nutpie's trace has (chains,).

    Shorter chains are filled up with nan to the length of the longest.
    """
    counts: Array = np.isfinite(trace["sample_stats"]["step_size"].values).sum(axis=1)
    return counts


def cut_trace(trace: "xr.DataTree", draws: int) -> "xr.DataTree":
    """Return a trace with the first draws of every chain alone."""
    return trace.isel(draw=slice(draws))


def _is_finished(running: Any) -> bool:
    """Return whether a run has ended; nutpie says so of one that has not by a TimeoutError."""
    try:
        return bool(running.is_finished)
    except TimeoutError:
        return False


@contextmanager
def ignore_short_chains() -> Iterator[None]:
    """Let chains that have few draws yet pass for what they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found chain dimension to be longer than draw")
        yield


@contextmanager
def _note_interrupt() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether Ctrl-C was pressed; a second one interrupts.

    Outside the main thread, and where SIGINT is ignored (a job in the background), Ctrl-C means
    what it did.
    """
    pressed = False
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield lambda: False
        return

    def note(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
