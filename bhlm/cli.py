"""The command line: parse, call, print."""

import logging
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from bhlm.errors import ArgumentError, BhlmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bhlm.bayes import BayesFit
    from bhlm.gallery import GalleryModel
    from bhlm.model import Model
    from bhlm.moments import Moments
    from bhlm.priors import Priors

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
)

Which = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="A gallery model, by name or by the path of its TOML."),
]
Data = Annotated[
    Path | None, typer.Option(help="A .csv, .parquet, .dta, .sav, .feather or .moments file.")
]
DataArgument = Annotated[
    Path, typer.Argument(metavar="DATA", help="A .csv, .parquet, .dta, .sav or .feather file.")
]
Parts = Annotated[list[Path], typer.Argument(metavar="PART...", help="Moments files.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The moments file to write.")]
FormulaText = Annotated[str | None, typer.Option(help="Such as 'y ~ x + (x | g)'.")]
Covariance = Annotated[
    str | None,
    typer.Option(help="unstructured, independent, exchangeable or identity; default: formula's."),
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers here as JSON.")]
Seed = Annotated[int, typer.Option(help="Makes the run repeatable.")]
Draws = Annotated[int, typer.Option(help="Kept draws per chain.")]
Tune = Annotated[int, typer.Option(help="Warm-up draws per chain.")]
Chains = Annotated[int, typer.Option(help="Independent chains.")]


@app.callback(invoke_without_command=True)
def callback(context: typer.Context) -> None:
    """Hierarchical linear models by REML and by Bayes, and the two answers reconciled."""
    if context.invoked_subcommand is None:
        raise ArgumentError(
            "no command given; start with: bhlm reconcile hsb_random_coefficient (see bhlm --help)"
        )


@app.command("reconcile")
def reconcile_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    covariance: Covariance = None,
    seed: Seed = 1,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    json: Json = None,
) -> int:
    """Fit by REML and by Bayes, and say where the two differ, by how much, and why."""
    from bhlm.export import write_json
    from bhlm.reconcile import reconcile

    model, entry = _open_model(which, data, formula)
    priors, covariance = _read_settings(entry, covariance)
    reml = model.reml(covariance=covariance)
    _print_title(entry)
    print(reml.summary())
    post = _draw(model, priors, covariance, seed=seed, draws=draws, tune=tune, chains=chains)
    print(post.summary())
    with _show_progress("flat-prior posterior", chains) as progress:
        both = reconcile(
            reml, post, published=entry.published if entry else None, progress=progress
        )
    print(both.summary())
    if json:
        write_json(both.to_dict(), json)
    return 0 if both.verdict in ("agree", "explained") else 1


@app.command("reml")
def reml_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    method: Annotated[str | None, typer.Option(help="reml or ml.")] = None,
    covariance: Covariance = None,
    style: Annotated[str, typer.Option(help="stata, hlm or lme4.")] = "stata",
    json: Json = None,
) -> int:
    """Fit by restricted (or full) maximum likelihood."""
    from bhlm.export import describe_model, describe_reml, write_json

    model, entry = _open_model(which, data, formula)
    fit = model.reml(
        method=method or (entry.method if entry else "reml"),
        covariance=covariance or (entry.covariance if entry else None),
    )
    text = fit.summary(style=style)
    _print_title(entry)
    print(text)
    if json:
        write_json({"model": describe_model(model.moments), "reml": describe_reml(fit)}, json)
    return 0 if fit.converged else 1


@app.command("sample")
def sample_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    covariance: Covariance = None,
    seed: Seed = 1,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    save: Annotated[
        Path | None, typer.Option(help="Keep the fit here, a .zarr or .nc; bhlm.load reads it.")
    ] = None,
    json: Json = None,
) -> int:
    """Draw from the posterior by NUTS."""
    from bhlm.export import describe_model, describe_posterior, write_json

    model, entry = _open_model(which, data, formula)
    priors, covariance = _read_settings(entry, covariance)
    fit = _draw(model, priors, covariance, seed=seed, draws=draws, tune=tune, chains=chains)
    _print_title(entry)
    print(fit.summary())
    if save:
        fit.save(save)
    if json:
        content = {"model": describe_model(model.moments), "posterior": describe_posterior(fit)}
        write_json(content, json)
    return 0 if fit.converged else 1


@app.command("calibrate")
def calibrate_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    covariance: Covariance = None,
    seed: Seed = 1,
    replicates: Annotated[int, typer.Option(help="Simulated data sets.")] = 1000,
    workers: Annotated[int | None, typer.Option(help="Processes; default: one a core.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Keep replicates here, so that a killed study goes on.")
    ] = None,
    json: Json = None,
) -> int:
    """Simulate data from the prior, sample each, and rank the truth: is the sampler right?"""
    from bhlm.calibration.study import calibrate
    from bhlm.export import write_json
    from bhlm.progress import show_progress

    model, entry = _open_model(which, data, formula)
    priors, covariance = _read_settings(entry, covariance)
    with show_progress("calibration") as progress:
        found = calibrate(
            model, seed=seed, replicates=replicates, priors=priors, covariance=covariance,
            workers=workers, file=file, progress=progress,
        )  # fmt: skip
    print(found.summary())
    if json:
        write_json(found.to_dict(), json)
    return 0 if found.ok else 1


@app.command("moments")
def moments_command(
    data: DataArgument,
    formula: FormulaText = None,
    output: Output = Path("model.moments"),
    like: Annotated[
        Path | None, typer.Option(help="A moments file whose constants and levels to use.")
    ] = None,
    min_group_size: Annotated[
        int | None, typer.Option(help="Release no group with fewer rows than this.")
    ] = None,
    drop_small: Annotated[
        bool, typer.Option("--drop-small", help="Drop small groups instead of refusing.")
    ] = False,
) -> int:
    """Reduce a table to its moments: all that a fit needs, and no rows."""
    from bhlm.disclosure import suppress_small_groups
    from bhlm.moments_file import reduce_like, reduce_part

    if formula is not None and like is None:
        moments = reduce_part(formula, data)
    elif like is not None and formula is None:
        moments = reduce_like(like, data)
    else:
        raise ArgumentError(
            "give either --formula 'y ~ x + (x | g)' or --like FILE.moments, which has a formula"
        )
    if min_group_size is not None:
        action = "drop" if drop_small else "refuse"
        moments, note = suppress_small_groups(moments, min_group_size, action=action)
        print(f"{note}.")
    moments.save(output, min_group_size=min_group_size)
    _print_moments(moments, output)
    return 0


@app.command("merge")
def merge_command(parts: Parts, output: Output = Path("merged.moments")) -> int:
    """Merge moments files of disjoint rows, as those of sites that may not share rows."""
    from bhlm.moments_file import merge_files

    moments = merge_files(parts)
    moments.save(output)
    _print_moments(moments, output)
    return 0


@app.command("models")
def models_command(json: Json = None) -> int:
    """List the gallery of published models."""
    from bhlm.export import write_json
    from bhlm.gallery import list_models

    models = list_models()
    for entry in models:
        print(f"{entry.name}\n    {entry.title}\n    {entry.formula}")
    if json:
        keys = ("name", "title", "citation", "formula", "method")
        write_json([{key: getattr(entry, key) for key in keys} for entry in models], json)
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 the verdict holds, 1 it does not, 2 bad input."""
    logger = logging.getLogger("bhlm")
    level = logger.level
    logger.setLevel(logging.ERROR)  # commands print the verdict themselves
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = app(arguments, prog_name="bhlm", standalone_mode=False)
    except BhlmError as error:
        status = _refuse(str(error))
    except TyperException as error:
        status = _refuse(f"{error.format_message()} See bhlm --help.")
    except (KeyboardInterrupt, typer.Abort):
        print("bhlm: interrupted; nothing was written", file=sys.stderr)
        status = 130
    finally:
        logger.setLevel(level)
    sys.exit(status or 0)


def _refuse(message: str) -> int:
    print(f"bhlm: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _open_model(
    which: str | None, data: Path | None, formula: str | None
) -> tuple["Model", "GalleryModel | None"]:
    """Return the model that the arguments name, and its gallery entry if it has one."""
    from bhlm.gallery import find_model, load_data
    from bhlm.model import Model
    from bhlm.moments_file import is_moments_path

    if which is not None:
        if data is not None or formula is not None:
            raise ArgumentError(
                f"'{which}' names a gallery model, which has its data and formula; give either "
                "the model or --data with --formula"
            )
        entry = find_model(which)
        return Model(entry.formula, load_data(entry)), entry
    if data is not None and formula is None and is_moments_path(data):
        return Model.from_moments(data), None
    if data is None or formula is None:
        missing = "--data" if data is None else "--formula"
        raise ArgumentError(
            f"{missing} is missing: name a gallery model (bhlm models lists them), or give "
            "--data FILE and --formula 'y ~ x + (x | g)'"
        )
    return Model(formula, data), None


def _read_settings(
    entry: "GalleryModel | None", covariance: str | None
) -> tuple["Priors | None", str | None]:
    """Return the priors and structure of a gallery entry, under what the caller names."""
    from bhlm.prior_text import read_priors

    if entry is None:
        return None, covariance
    return read_priors(entry.priors), covariance or entry.covariance


def _draw(
    model: "Model", priors: "Priors | None", covariance: str | None, **counts: Any
) -> "BayesFit":
    """Sample, with a bar per chain."""
    with _show_progress("posterior", counts["chains"]) as progress:
        return model.sample(priors=priors, covariance=covariance, progress=progress, **counts)


def _print_moments(moments: "Moments", path: Path) -> None:
    left = f", {moments.dropped} rows dropped for missing values" if moments.dropped else ""
    print(
        f"{moments.formula}: {moments.n_rows} rows in {moments.n_groups} groups of "
        f"'{moments.group}'{left} -> {path}"
    )


def _print_title(entry: "GalleryModel | None") -> None:
    if entry:
        print(f"{entry.title}\n{entry.citation}\n")


@contextmanager
def _show_progress(title: str, chains: int) -> "Iterator[Any]":
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
