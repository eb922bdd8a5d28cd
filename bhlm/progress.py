"""What is said on standard error while work goes on: bars in terminals, lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

PATIENCE = 1.0  # seconds of silence after which a sign is given
LINE = 15.0  # seconds between lines where there is no terminal; dots stand between them
LOOK = 0.1  # seconds between two looks at the clock


class Voice:
    """Says on standard error what goes on, as soon as nothing has been printed for a while.

    In a terminal one line is written over and over, elsewhere a line now and then with dots after
    it. What else is printed stands on lines of its own.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.notes = False  # whether notes are printed, as commands do, instead of logged
        self._text = ""
        self._said = ""  # the text of the last line
        self._line_at = 0.0
        self._pending = False  # whether the last line has no end
        self._last = self._start = 0.0
        self._held = 0
        self._ended: threading.Event | None = None
        self._lock = threading.RLock()
        self._stream: TextIO = sys.stderr
        self._main = threading.main_thread().ident

    @contextmanager
    def speak(self, *, patience: float = PATIENCE) -> Iterator[None]:
        """Speak, from a thread of its own, until the block ends."""
        if self._ended is not None:
            yield
            return
        ended = self._ended = threading.Event()
        self._start = self._last = time.monotonic()
        before = sys.stdout, sys.stderr
        self._stream = sys.stderr
        self._text, self._said, self._main = "starting", "", threading.get_ident()
        sys.stdout, sys.stderr = (_Watched(each, self) for each in before)
        thread = threading.Thread(target=self._watch, args=(ended, patience), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.end_line()
            sys.stdout, sys.stderr = before
            self._ended = None

    def say(self, text: str) -> None:
        """Name what goes on from here."""
        self._text = text

    def tell(self, sentence: str) -> None:
        """Tell what a user should know before the work: a command prints it, others log it."""
        if not self.notes:
            import logging

            logging.getLogger("bhlm").warning("%s", sentence)
        elif not self.quiet:
            print(f"bhlm: note: {sentence}", file=sys.stderr)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Say nothing within the block, in which something else shows the progress."""
        self.end_line()
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self._last = time.monotonic()

    def end_line(self) -> None:
        """End a line that has none, before something else is printed."""
        with self._lock:
            self._last = time.monotonic()
            if self._pending:
                self._pending = False
                self._write("\r\x1b[K" if self._stream.isatty() else "\n")

    def _watch(self, ended: threading.Event, patience: float) -> None:
        while not ended.wait(min(LOOK, patience)):
            if self.quiet or self._held or time.monotonic() - self._last < patience:
                continue
            with self._lock:
                self._sign()

    def _sign(self) -> None:
        now = self._last = time.monotonic()
        text = f"bhlm: {self._text}{self._find_cause()}"
        if self._stream.isatty():
            self._write(f"\r{text}, {now - self._start:.0f} s\x1b[K")
        elif text.partition(":")[2] != self._said and (
            not self._pending or now - self._line_at > LINE or self._is_other(text)
        ):
            self._write(("\n" if self._pending else "") + f"{text}, {now - self._start:.0f} s ")
            self._said, self._line_at = text.partition(":")[2], now
        else:
            self._write(".")
        self._pending = True

    def _is_other(self, text: str) -> bool:
        """Return whether a text names another step, not another count of the same one."""
        return text.partition(":")[2].split(":")[0] != self._said.split(":")[0]

    def _find_cause(self) -> str:
        """Return what makes the first run slow, where the main thread is at that."""
        frame = sys._current_frames().get(self._main or 0)
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            # A kernel that is there already comes from disk by other functions.
            if name == "numba.core.compiler" and frame.f_code.co_name.startswith("compile"):
                return " (compiling, which only the first run does)"
            frame = frame.f_back
        return ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody listens any more
            self.quiet = True


class _Watched:
    """A stream before which the voice ends its line."""

    def __init__(self, stream: Any, voice: Voice) -> None:
        self._stream, self._voice = stream, voice

    def write(self, text: str) -> int:
        self._voice.end_line()
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


VOICE = Voice()


@contextmanager
def show_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function of (done, total) that moves a bar; without a terminal the voice has it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if VOICE.quiet or not console.is_terminal:
        VOICE.say(title)
        yield lambda done, total: VOICE.say(f"{title}: {done:,} of {total:,}")
        return
    with VOICE.hold(), Progress(console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


@contextmanager
def show_chains(title: str, chains: int) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Show a bar per chain on standard error; without a terminal the voice has their sum."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    if VOICE.quiet or not console.is_terminal:
        VOICE.say(title)

        def tell(states: Sequence[Any]) -> None:
            done, total = (
                sum(getattr(state, name) for state in states)
                for name in ("finished_draws", "total_draws")
            )
            VOICE.say(f"{title}: {done:,} of {total:,} draws")

        yield tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with VOICE.hold(), Progress(*columns, console=console, transient=True) as bar:
        tasks = [
            bar.add_task(f"{title}, chain {i + 1}", total=None, note="") for i in range(chains)
        ]

        def update(states: Sequence[Any]) -> None:
            for task, state in zip(tasks, states, strict=True):
                note = f"{state.divergences} divergences" if state.divergences else ""
                bar.update(task, completed=state.finished_draws, total=state.total_draws, note=note)

        yield update
