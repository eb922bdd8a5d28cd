"""A run of the sampler shown in the terminal: chains, and the parameters that are worst off."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from bhlm.bayes.convergence import ESS, RHAT
from bhlm.bayes.draws import Settings
from bhlm.bayes.live import LEAST, Outlook, Watcher
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import Progress, sample_moments
from bhlm.fits.bayes_fit import BayesFit
from bhlm.layout import format_fixed, show_name

if TYPE_CHECKING:
    from rich.console import Console, Group

    from bhlm.fits.model import Model

SHOWN = 5  # parameters in the view
LONGEST = 60  # characters of a name in a line
FIRST_LINE = 2.0  # seconds, where there is no terminal
NEXT_LINE = 10.0


def sample_live(
    model: "Model",
    *,
    seed: int | None = None,
    settings: Settings | None = None,
    priors: Priors | None = None,
    covariance: str | None = None,
    adjust: bool = True,
    progress: Progress | None = None,
    console: "Console | None" = None,
) -> BayesFit:
    """Return the fit of `model.sample(...)`, watched while it runs and stopped by Ctrl-C.

    Standard error shows each chain's draws, divergences and step size, and the R-hat and ESS so
    far of the parameters that are furthest from their limits; where it is no terminal, a line now
    and then. The first Ctrl-C stops the chains, and the fit is made of the draws that every chain
    has by then, at least 50; its diagnostics hold the failure that it was stopped. A second
    Ctrl-C interrupts as elsewhere. The draws of a run to its end are those that `model.sample` has
    by NUTS.

    Args:
        model: the model to sample.
        seed: makes the run repeatable; without one it is drawn and kept as `fit.seed`.
        settings: how long to run, and how; where they leave `cores` open all chains run side by
            side, so that they have about as many draws each when they are stopped.
        priors: what replaces the autoscaled defaults.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        adjust: with sampling weights, whether the draws get the sandwich's covariance.
        progress: called now and then with nutpie's progress of every chain.
        console: where to show it; None takes standard error.

    Raises:
        StoppedError: stopped before every chain had 50 draws after warm-up.
        ArgumentError, PriorError, IdentifiabilityError: as from `model.sample`.
    """
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    asked = settings or Settings()
    settings = replace(asked, cores=asked.cores or asked.chains)
    shown = console or _open_console()
    watcher = Watcher(
        lambda watcher: open_view(watcher, shown), draws=settings.draws,
        progress=progress,
    )  # fmt: skip
    options: dict[str, Any] = {
        "seed": seed, "settings": settings, "priors": priors, "covariance": covariance,
        "progress": watcher.note, "watch": watcher.watch,
    }  # fmt: skip
    if model.cells is not None:
        from bhlm.bayes.level_sampling import sample_cells
        from bhlm.fits.level_bayes_fit import LevelBayesFit

        several = sample_cells(model.cells, **options)
        ran = replace(several.settings, cores=asked.cores)
        return cast("BayesFit", LevelBayesFit.of(replace(several, settings=ran), model=model))
    found = sample_moments(model.strata or model.moments, adjust=adjust, **options)
    found = replace(found, settings=replace(found.settings, cores=asked.cores))
    if found.white.is_plain:
        return BayesFit.of(found, model=model)
    from bhlm.fits.weighted_bayes_fit import WeightedBayesFit

    return cast("BayesFit", WeightedBayesFit.of(found, model=model))


@contextmanager
def open_view(watcher: Watcher, console: "Console") -> Iterator[Callable[[], None]]:
    """Give the function that shows a run: in place in a terminal, elsewhere a line now and then."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield _print_lines(watcher, console)
        return
    from rich.live import Live

    with Live(
        console=console, auto_refresh=False, transient=True, redirect_stdout=False
    ) as display:
        yield lambda: display.update(render(watcher), refresh=True)


def _print_lines(watcher: Watcher, console: "Console") -> Callable[[], None]:
    due = watcher.start + FIRST_LINE

    def show() -> None:
        nonlocal due
        now = time.perf_counter()
        if now >= due and watcher.states:
            print(describe(watcher), file=console.file, flush=True)
            due = now + NEXT_LINE

    return show


def describe(watcher: Watcher) -> str:
    """Return the state of the run as one line."""
    kept, found = watcher.count_kept(), watcher.outlook
    chains = (
        f"the slowest of {len(watcher.states)} chains" if len(watcher.states) > 1 else "1 chain"
    )
    seconds = f"{time.perf_counter() - watcher.start:.0f} s"
    if kept < 0:
        return f"bhlm: warm-up, {kept + watcher.tune} of {watcher.tune} in {chains}, {seconds}"
    text = f"bhlm: {kept} of {watcher.draws} draws in {chains}"
    if found:
        named = show_name(found.names[0])
        named = named if len(named) <= LONGEST else named[: LONGEST - 1] + "…"
        least = format_fixed(min(found.ess_bulk[0], found.ess_tail[0]), 0)
        text += f", {found.divergences} divergence{'s' * (found.divergences != 1)}"
        text += f", R-hat {format_fixed(found.rhat[0], 3)} and ESS {least} of {named}"
        text += " (the worst)"
    return f"{text}, {seconds}"


def render(watcher: Watcher) -> "Group":
    """Return the view: the chains, the worst parameters, and what Ctrl-C does."""
    from rich.console import Group
    from rich.text import Text

    seconds = time.perf_counter() - watcher.start
    kept = watcher.count_kept()
    advice = (
        "Ctrl-C stops the run and keeps what is drawn"
        if kept >= LEAST
        else f"Ctrl-C stops the run; it keeps draws once every chain has {LEAST} after warm-up"
    )
    parts: list[Any] = [Text(f"Sampling, {seconds:.0f} s", style="bold"), _table_chains(watcher)]
    if watcher.outlook:
        parts += [Text(""), _table_worst(watcher.outlook)]
    return Group(*parts, Text(""), Text(advice, style="dim"))


def _table_chains(watcher: Watcher) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("chain", justify="right", no_wrap=True)
    table.add_column("", width=20)
    for heading in ("draws", "divergences", "step size"):
        table.add_column(heading, justify="right", no_wrap=True)
    for at, state in enumerate(watcher.states):
        kept = state.finished_draws - watcher.tune
        table.add_row(
            str(at + 1),
            ProgressBar(total=state.total_draws, completed=state.finished_draws, width=20),
            f"{kept} of {watcher.draws}" if kept > 0 else f"warm-up {state.finished_draws}",
            str(state.divergences),
            f"{state.step_size:.3g}",
        )
    return table


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
