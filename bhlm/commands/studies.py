"""calibrate, simulate and power: many simulated data sets."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bhlm.commands.options import (
    Covariance,
    Data,
    FormulaText,
    Json,
    MemoryLimit,
    Missing,
    PriorsText,
    Quiet,
    Seed,
    Separator,
    Which,
    app,
)
from bhlm.commands.shared import (
    check_outputs,
    open_model,
    read_settings,
    watch_garbage,
    write_all,
)
from bhlm.errors import DataError
from bhlm.progress import VOICE

if TYPE_CHECKING:
    from bhlm.studies.simulation.result import StudyResult

Processes = Annotated[int | None, typer.Option(help="Processes; default: one a core.")]


@app.command("calibrate")
def calibrate_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    covariance: Covariance = None,
    priors: PriorsText = None,
    seed: Seed = 1,
    replicates: Annotated[int, typer.Option(help="Simulated data sets.")] = 1000,
    processes: Processes = None,
    file: Annotated[
        Path | None, typer.Option(help="Keep replicates here, so that a killed study goes on.")
    ] = None,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Simulate data from the prior, sample each, and rank the truth: is the sampler right?"""
    from bhlm.files import write_json
    from bhlm.progress import show_progress
    from bhlm.studies.calibration.run import calibrate

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(which, data, priors, json=json, file=file)
    model, entry = open_model(
        which, data, formula, memory_limit=memory_limit, separator=separator, missing=missing,
        several=True,
    )  # fmt: skip
    chosen, covariance = read_settings(entry, covariance, priors)
    watch_garbage()
    with show_progress("calibration") as progress:
        found = calibrate(
            model, seed=seed, replicates=replicates, priors=chosen, covariance=covariance,
            processes=processes, file=file, progress=progress,
        )  # fmt: skip
    writers: list[Callable[[], object]] = [lambda: print(found.summary())]
    if json:
        writers.append(lambda: write_json(found.to_dict(), json))
    write_all(*writers)
    return 0 if found.ok else 1


@app.command("simulate")
def simulate_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The TOML that states the study.")],
    file: Annotated[
        Path | None, typer.Option(help="Keep replicates here; default: STUDY with .jsonl.")
    ] = None,
    processes: Processes = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Dask scheduler whose workers run the replicates.")
    ] = None,
    json: Json = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Draw bias, coverage and power into it, as .png and .html."
        ),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Simulate data over a grid of conditions: bias, coverage and power of every method."""
    from bhlm.files import write_json
    from bhlm.progress import show_progress
    from bhlm.studies.simulation.run import run_study

    VOICE.quiet = quiet or VOICE.quiet
    file = file or study.with_suffix(".jsonl")
    check_outputs(study, json=json, file=file)  # before the study, which takes long
    if figures:
        make_folder(figures)
    watch_garbage()
    with show_progress("simulation") as progress:
        found = run_study(
            study, file=file, processes=processes, address=address, progress=progress,
        )  # fmt: skip
    writers: list[Callable[[], object]] = [lambda: print(found.summary())]
    if json:
        writers.append(lambda: write_json(found.to_dict(), json))
    if figures:
        writers.append(lambda: draw_study(found, figures))
    write_all(*writers)
    return 0


@app.command("power")
def power_command(
    design: Annotated[
        Path, typer.Argument(metavar="DESIGN", help="The TOML that states the design.")
    ],
    file: Annotated[
        Path | None, typer.Option(help="Keep replicates here, so that a killed run goes on.")
    ] = None,
    processes: Processes = None,
    json: Json = None,
    figures: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Draw the power into it, as .png and .html."),
    ] = None,
    quiet: Quiet = False,
) -> int:
    """Simulate the power of a design, which a TOML states in two tables.

    The table effects has x, w and "x:w"; the table design has groups, group_size and icc, of which
    several values are all tried. Above them stand target (0.8), replicates (500), seed and df.
    """
    from bhlm.files import write_json
    from bhlm.progress import show_progress
    from bhlm.studies.simulation.power import read_design, render_power, tabulate_power
    from bhlm.studies.simulation.run import run_study

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(design, json=json, file=file)
    stated = read_design(design)
    if figures:
        make_folder(figures)
    watch_garbage()
    with show_progress("power") as progress:
        found = run_study(stated.study, file=file, processes=processes, progress=progress)
    writers: list[Callable[[], object]] = [lambda: print(render_power(found, stated))]
    if json:
        table = tabulate_power(found)
        content = {"target": stated.target, "power": table.to_dict("records")}
        writers.append(lambda: write_json(content, json))
    if figures:
        writers.append(lambda: draw_power(found, figures))
    write_all(*writers)
    return 0


def draw_power(found: "StudyResult", folder: Path) -> None:
    """Write the figure of the power into a folder."""
    from bhlm.plots.study_power import plot_power

    figure = plot_power(found)
    for ending in (".png", ".html"):
        figure.save(folder / f"{figure.name}{ending}")
    print(f"\n{folder / figure.name}.png, .html: {figure.reading}")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless they are there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot make the folder '{folder}' ({error.strerror}); name another for --figures"
        ) from error


def draw_study(found: "StudyResult", folder: Path) -> None:
    """Write a study's figures into a folder, and print what each shows."""
    from bhlm.layout import wrap
    from bhlm.plots.study_bias import plot_bias
    from bhlm.plots.study_coverage import plot_coverage
    from bhlm.plots.study_power import plot_power
    from bhlm.studies.simulation.report import WIDTH

    has_power = bool(found.table["reject"].notna().any())
    for plot in (plot_bias, plot_coverage, *([plot_power] if has_power else [])):
        figure = plot(found)
        for ending in (".png", ".html"):
            figure.save(folder / f"{figure.name}{ending}")
        text = f"{folder / figure.name}.png, .html: {figure.reading}"
        print("", *wrap(text, WIDTH, indent=2), sep="\n")
