"""The app, the options that commands share, and the model that they name."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bhlm.errors import ArgumentError

if TYPE_CHECKING:
    from bhlm.gallery import GalleryModel
    from bhlm.model import Model
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
    str | None,
    typer.Option(
        help="A .csv, .parquet, .feather, .dta, .sav, .sas7bdat or .moments file; "
        "'parts/*.parquet'; duckdb:///file.db#table; postgresql://host/db#table."
    ),
]
MemoryLimit = Annotated[
    str | None, typer.Option(help="Such as 500MB: DuckDB reads the file, within so much memory.")
]
DataArgument = Annotated[
    str, typer.Argument(metavar="DATA", help="A file, files or a table, as for --data elsewhere.")
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


def open_model(
    which: str | None, data: str | None, formula: str | None, *, memory_limit: str | None = None
) -> tuple["Model", "GalleryModel | None"]:
    """Return the model that the arguments name, and its gallery entry if it has one."""
    from bhlm.gallery import find_model, load_data
    from bhlm.model import Model
    from bhlm.moments_file import is_moments_path
    from bhlm.sources import scan_table

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
    if is_moments_path(data):
        return Model(formula, data), None
    return Model(formula, scan_table(data, memory_limit=memory_limit)), None


def read_settings(
    entry: "GalleryModel | None", covariance: str | None
) -> tuple["Priors | None", str | None]:
    """Return the priors and structure of a gallery entry, under what the caller names."""
    from bhlm.prior_text import read_priors

    if entry is None:
        return None, covariance
    return read_priors(entry.priors), covariance or entry.covariance


def print_title(entry: "GalleryModel | None") -> None:
    """Print what a gallery model is, and where it was published."""
    if entry:
        print(f"{entry.title}\n{entry.citation}\n")
