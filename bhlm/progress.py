"""Progress bars on standard error, for terminals."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def show_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function of (done, total) that moves a bar; silent where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield update


@contextmanager
def show_chains(title: str, chains: int) -> Iterator[Callable[[Sequence[Any]], None]]:
    """Show a bar per chain on standard error while the sampler runs, if it is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks = [
            bar.add_task(f"{title}, chain {i + 1}", total=None, note="") for i in range(chains)
        ]

        def update(states: Sequence[Any]) -> None:
            for task, state in zip(tasks, states, strict=True):
                note = f"{state.divergences} divergences" if state.divergences else ""
                bar.update(task, completed=state.finished_draws, total=state.total_draws, note=note)

        yield update
