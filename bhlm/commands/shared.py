"""What commands share: the model they name, what they print, the progress they show."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bhlm.errors import ArgumentError
from bhlm.layout import show_name
from bhlm.secrets import hide_password

if TYPE_CHECKING:
    from bhlm.bayes.priors.resolve import Priors
    from bhlm.fits.model import Model
    from bhlm.sources.gallery import GalleryModel


def open_model(
    which: str | None, data: str | None, formula: str | None, *, memory_limit: str | None = None
) -> tuple["Model", "GalleryModel | None"]:
    """Return the model that the arguments name, and its gallery entry if it has one."""
    from bhlm.fits.model import Model
    from bhlm.moments.file import is_moments_path
    from bhlm.sources.gallery import find_model, load_data
    from bhlm.sources.open import scan_table

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
    from bhlm.bayes.priors.resolve import read_priors

    if entry is None:
        return None, covariance
    return read_priors(entry.priors), covariance or entry.covariance


def print_title(entry: "GalleryModel | None") -> None:
    """Print what a gallery model is, and where it was published."""
    if entry:
        print(f"{entry.title}\n{entry.citation}\n")


def print_text(text: str) -> None:
    """Print lines; a control character of a label is written as an escape."""
    print("\n".join(map(show_name, text.split("\n"))))


def write_command(name: str, *words: str | None, **options: Any) -> str:
    """Return a command line without passwords; options that are None were not given."""
    line = ["bhlm", name, *(hide_password(word) for word in words if word is not None)]
    for option, value in options.items():
        if value is not None:
            shown = hide_password(str(value)) if option == "data" else str(value)
            line += [f"--{option.replace('_', '-')}", shown]
    return shlex.join(line)


def check_json(page: Path, json: Path | None) -> None:
    """Refuse a --json that names the page or the file of its numbers.

    Raises:
        ArgumentError: the two are one file.
    """
    from bhlm.reports.dashboard.paths import name_twin

    if json is not None and json.resolve() in (page.resolve(), name_twin(page).resolve()):
        raise ArgumentError(
            f"--json '{json}' is where the page '{page}' keeps its own numbers; give another name"
        )
