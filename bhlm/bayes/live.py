"""A run in progress: the sampler watched in the terminal, and stopped with what is drawn kept.

A run that was stopped fails its verdict, whatever its R-hat and ESS: who stops when the numbers
please has chosen them. The same seed with as many draws as were kept gives these very draws, with
a verdict of their own.
"""

import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.convergence import ESS, RHAT, measure
from bhlm.bayes.draws import Draws, Settings
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import Progress, Reader, sample_moments
from bhlm.errors import BhlmError
from bhlm.layout import format_fixed, show_name

if TYPE_CHECKING:
    import xarray as xr
    from rich.console import Console, Group

    from bhlm.fits.model import Model

Array = np.ndarray

LEAST = 50  # kept draws of each chain that a fit is made of
FIRST = 20  # draws of each chain, from which R-hat and ESS say anything
SHOWN = 5  # parameters in the view
LONGEST = 60  # characters of a name in a line
TICK = 0.1  # seconds between two looks at the counts
EVERY = 1.0  # seconds between two looks at the draws
SHARE = 0.2  # of the time, at most, goes into looking at the draws
FIRST_LINE = 2.0  # seconds, where there is no terminal
NEXT_LINE = 10.0


class StoppedError(BhlmError, RuntimeError):
    """A run was stopped before there were enough draws to make a fit of."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the draws so far say."""

    draws: int  # of each chain, after warm-up
    divergences: int
    names: tuple[str, ...]  # parameters, the furthest from their limits first
    rhat: Array  # (len(names),)
    ess_bulk: Array  # (len(names),)
    ess_tail: Array  # (len(names),)


def sample_live(
    model: "Model",
    *,
    seed: int | None = None,
    settings: Settings | None = None,
    priors: Priors | None = None,
    covariance: str | None = None,
    progress: Progress | None = None,
    console: "Console | None" = None,
) -> Draws:
    """Return the fit of `model.sample(...)`, watched while it runs and stopped by Ctrl-C.

    Standard error shows each chain's draws, divergences and step size, and the R-hat and ESS so
    far of the parameters that are furthest from their limits; where it is no terminal, a line now
    and then. The first Ctrl-C stops the chains, and the fit is made of the draws that every chain
    has by then, at least 50; its diagnostics hold the failure that it was stopped. A second
    Ctrl-C interrupts as elsewhere. The draws of a run to its end are those of `model.sample`.

    Args:
        model: the model to sample.
        seed: makes the run repeatable; without one it is drawn and kept as `fit.seed`.
        settings: how long to run, and how; where they leave `cores` open all chains run side by
            side, so that they have about as many draws each when they are stopped.
        priors: what replaces the autoscaled defaults.
        covariance: "unstructured" or "independent"; None keeps what the formula says.
        progress: called now and then with nutpie's progress of every chain.
        console: where to show it; None takes standard error.

    Raises:
        StoppedError: stopped before every chain had 50 draws after warm-up.
        ArgumentError, PriorError, IdentifiabilityError: as from `model.sample`.
    """
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    settings = settings or Settings()
    settings = replace(settings, cores=settings.cores or settings.chains)
    watcher = Watcher(
        console or _open_console(), draws=settings.draws, tune=settings.tune, progress=progress
    )
    return sample_moments(
        model.moments, seed=seed, settings=settings, priors=priors, covariance=covariance,
        progress=watcher.note, watch=watcher.watch,
    )  # fmt: skip


class Watcher:
    """Shows a run while it waits for its end or for Ctrl-C."""

    def __init__(
        self, console: "Console", *, draws: int, tune: int, progress: Progress | None
    ) -> None:
        self.console = console
        self.draws, self.tune = draws, tune
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
        with _note_interrupt() as interrupted, self._open_display() as show:
            while not _is_finished(running):
                if interrupted():
                    return self._stop(running)
                began = time.perf_counter()
                if began >= due and self._count_kept() >= FIRST:
                    self.outlook = look(running, read)
                    spent = time.perf_counter() - began
                    due = began + min(max(EVERY, spent / SHARE), NEXT_LINE)
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

    def _count_kept(self) -> int:
        """Return the draws after warm-up of the chain that has fewest."""
        return min((state.finished_draws - self.tune for state in self.states), default=0)

    @contextmanager
    def _open_display(self) -> "Iterator[Callable[[], None]]":
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            yield self._print_lines()
            return
        from rich.live import Live

        with Live(
            console=self.console, auto_refresh=False, transient=True, redirect_stdout=False
        ) as display:
            yield lambda: display.update(self.render(), refresh=True)

    def _print_lines(self) -> Callable[[], None]:
        due = self.start + FIRST_LINE

        def show() -> None:
            nonlocal due
            now = time.perf_counter()
            if now >= due and self.states:
                print(self.describe(), file=self.console.file, flush=True)
                due = now + NEXT_LINE

        return show

    def describe(self) -> str:
        """Return the state of the run as one line."""
        kept, found = self._count_kept(), self.outlook
        chains = f"the slowest of {len(self.states)} chains" if len(self.states) > 1 else "1 chain"
        seconds = f"{time.perf_counter() - self.start:.0f} s"
        if kept < 0:
            return f"bhlm: warm-up, {kept + self.tune} of {self.tune} in {chains}, {seconds}"
        text = f"bhlm: {kept} of {self.draws} draws in {chains}"
        if found:
            named = show_name(found.names[0])
            named = named if len(named) <= LONGEST else named[: LONGEST - 1] + "…"
            least = format_fixed(min(found.ess_bulk[0], found.ess_tail[0]), 0)
            text += f", {found.divergences} divergence{'s' * (found.divergences != 1)}"
            text += f", R-hat {format_fixed(found.rhat[0], 3)} and ESS {least} of {named}"
            text += " (the worst)"
        return f"{text}, {seconds}"

    def render(self) -> "Group":
        """Return the view: the chains, the worst parameters, and what Ctrl-C does."""
        from rich.console import Group
        from rich.text import Text

        seconds = time.perf_counter() - self.start
        kept = self._count_kept()
        advice = (
            "Ctrl-C stops the run and keeps what is drawn"
            if kept >= LEAST
            else f"Ctrl-C stops the run; it keeps draws once every chain has {LEAST} after warm-up"
        )
        parts: list[Any] = [Text(f"Sampling, {seconds:.0f} s", style="bold"), self._table_chains()]
        if self.outlook:
            parts += [Text(""), _table_worst(self.outlook)]
        return Group(*parts, Text(""), Text(advice, style="dim"))

    def _table_chains(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column("chain", justify="right", no_wrap=True)
        table.add_column("", width=20)
        for heading in ("draws", "divergences", "step size"):
            table.add_column(heading, justify="right", no_wrap=True)
        for at, state in enumerate(self.states):
            kept = state.finished_draws - self.tune
            table.add_row(
                str(at + 1),
                ProgressBar(total=state.total_draws, completed=state.finished_draws, width=20),
                f"{kept} of {self.draws}" if kept > 0 else f"warm-up {state.finished_draws}",
                str(state.divergences),
                f"{state.step_size:.3g}",
            )
        return table


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


def _table_worst(found: Outlook) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    heading = f"furthest from their limits after {found.draws} draws per chain"
    table.add_column(heading, overflow="ellipsis", no_wrap=True, max_width=LONGEST)
    for heading in ("R-hat", "bulk ESS", "tail ESS"):
        table.add_column(heading, justify="right", no_wrap=True)
    for at, name in enumerate(found.names[:SHOWN]):
        rhat, sizes = found.rhat[at], (found.ess_bulk[at], found.ess_tail[at])
        cells = [(format_fixed(rhat, 4), rhat <= RHAT)]
        cells += [(format_fixed(size, 0), size >= ESS) for size in sizes]
        styled = [Text(text, style="" if holds else "bold yellow") for text, holds in cells]
        table.add_row(Text(show_name(name)), *styled)
    table.caption = f"needed: R-hat at most {RHAT}, ESS at least {ESS:.0f}"
    table.caption_justify = "left"
    return table


def _open_console() -> "Console":
    from rich.console import Console

    return Console(stderr=True, force_jupyter=False)


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
