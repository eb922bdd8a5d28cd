"""dashboard: a saved fit, or a gallery model, as one HTML page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bhlm.commands.options import (
    Covariance,
    Data,
    Json,
    MemoryLimit,
    Missing,
    Quiet,
    Rows,
    Separator,
    app,
)
from bhlm.commands.shared import (
    check_outputs,
    fit_both,
    open_model,
    print_text,
    print_title,
    refuse_family_rows,
    report_both,
    write_command,
)
from bhlm.errors import ArgumentError
from bhlm.progress import VOICE
from bhlm.secrets import hide_password

if TYPE_CHECKING:
    from bhlm.fits.family_bayes_fit import FamilyBayesFit
    from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit
    from bhlm.fits.level_bayes_fit import LevelBayesFit
    from bhlm.fits.model import Model
    from bhlm.sources.gallery import GalleryModel

SAVED = (".zarr", ".nc")

Fits = Annotated[
    list[str],
    typer.Argument(
        metavar="FIT...",
        help="A fit that `bhlm sample --save` wrote, a .zarr or .nc, or several, to stand side by "
        "side; or a gallery model, by name or by the path of its TOML, which is fitted first.",
    ),
]
Page = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="The .html to write; every number on it goes to a .json beside it."
    ),
]
Title = Annotated[str | None, typer.Option(help="The page's heading.")]

Seed = Annotated[
    int | None, typer.Option(help="Makes the run of a gallery model repeatable; 1 if not given.")
]
Draws = Annotated[int | None, typer.Option(help="Kept draws per chain; 1000 if not given.")]
Tune = Annotated[
    int | None, typer.Option(help="Warm-up draws per chain. Default: what suits the model.")
]
Chains = Annotated[int | None, typer.Option(help="Independent chains; 4 if not given.")]


@app.command("dashboard")
def dashboard_command(
    fits: Fits,
    output: Page,
    data: Data = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    title: Title = None,
    covariance: Covariance = None,
    seed: Seed = None,
    draws: Draws = None,
    tune: Tune = None,
    chains: Chains = None,
    rows: Rows = False,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Write one self-contained HTML page about a fit, or about two to six side by side.

    REML and the reconciliation of a saved fit are computed from the moments that it holds; its
    rows, which some figures need, come from --data. The page holds single rows only with --rows.
    """
    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(*fits, data, json=json, page=output)
    counts = {"seed": seed, "draws": draws, "tune": tune, "chains": chains}
    given = {name: value for name, value in counts.items() if value is not None}
    read = {"memory-limit": memory_limit, "separator": separator, "missing": missing}
    how = {name: value for name, value in read.items() if value is not None}
    if how and data is None:
        raise ArgumentError(
            f"--{next(iter(how))} is about the file of --data; give --data too, or leave it out"
        )
    if len(fits) > 1:
        others = {"data": data, **how, "covariance": covariance, "json": json, **given}
        asked = [name for name, value in others.items() if value is not None]
        if asked or rows:
            raise ArgumentError(
                f"--{(asked or ['rows'])[0]} is for a page about one fit; leave it out, or name one"
            )
        return _show_several(fits, output, title)
    (fit,) = fits
    if Path(fit).suffix.lower() in SAVED:
        if given or covariance is not None:
            raise ArgumentError(
                f"--{next(iter(given), 'covariance')} cannot be given with the saved fit '{fit}', "
                "which is drawn already"
            )
        if rows and data is None:
            raise ArgumentError(
                f"--rows asks for single rows, and the saved fit '{fit}' has none; give --data too"
            )
        return _show_saved(fit, output, data, how, title, json, rows=rows)
    if data is not None:
        raise ArgumentError(
            f"'{fit}' names a gallery model, which has its data; give --data with a saved fit only"
        )
    model, entry = open_model(fit, None, None, several=True, counted=True)
    return _show_gallery(model, entry, output, title, covariance, given, json, rows=rows)


def _show_several(paths: list[str], output: Path, title: str | None) -> int:
    from bhlm.bayes.draws import Draws as Posterior
    from bhlm.fits.saved import load
    from bhlm.reports.dashboard.subjects import write_several

    for path in paths:
        if Path(path).suffix.lower() not in SAVED:
            raise ArgumentError(
                f"'{path}' is no saved fit, and several stand side by side only if saved; give "
                ".zarr or .nc files"
            )
    stems = [Path(path).stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else paths
    if len(set(names)) < len(names):
        raise ArgumentError(f"'{paths[0]}' is named twice; give each fit once")
    fits = {}
    for name, path in zip(names, paths, strict=True):
        fit = load(path)
        if not isinstance(fit, Posterior):
            raise ArgumentError(
                f"'{path}' has several grouping factors, of which no page shows fits side by side "
                "yet; leave it out"
            )
        fits[name] = fit
    VOICE.say("writing the page")
    command = write_command("dashboard", *paths, output=output)
    source = {"Fits": "\n".join(paths), "Command": command}
    write_several(fits, output, title=title, source=source)
    for name, fit in fits.items():
        verdict = "converged" if fit.converged else "FAILED: the draws do not pass their verdict"
        print_text(f"{name}: {fit.moments.formula}; {verdict}")
    return 0 if all(fit.converged for fit in fits.values()) else 1


def _show_saved(
    fit: str,
    output: Path,
    data: str | None,
    how: dict[str, Any],
    title: str | None,
    json: Path | None,
    *,
    rows: bool,
) -> int:
    from bhlm.fits.family_bayes_fit import FamilyBayesFit
    from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit
    from bhlm.fits.level_bayes_fit import LevelBayesFit
    from bhlm.fits.model import Model
    from bhlm.fits.reconciliation import reconcile
    from bhlm.fits.reml_fit import RemlFit
    from bhlm.fits.saved import load
    from bhlm.moments.moments import open_alike
    from bhlm.reml.estimate import fit_moments
    from bhlm.reports.dashboard.subjects import check_rows, write_fit

    post = load(fit)
    several: object = post
    if isinstance(several, LevelBayesFit):
        return _show_levels(several, fit, output, data, title, json, rows=rows)
    if isinstance(several, FamilyBayesFit | FamilyLevelBayesFit):
        return _show_family(several, fit, output, data, title, json, rows=rows)
    model = None
    if data is not None:
        reading = {name.replace("-", "_"): value for name, value in how.items()}
        table = open_alike(post.moments, data, **reading)
        model = Model(post.moments.formula, table)
        check_rows(post.moments, model)
    source = {"Fit": fit} | ({} if data is None else {"Data": hide_password(data)})
    source["Command"] = write_command("dashboard", fit, data=data, **how, output=output, rows=rows)
    if post.settings.prior_only or post.moments.weights is not None:
        write_fit(post, output, model=model, title=title, source=source, rows=rows)
        print_text(post.summary())
        return 0 if post.converged and not post.diagnostics.prior_bound else 1
    reml = RemlFit.of(fit_moments(post.moments, covariance=post.structure.name_override))
    both = reconcile(reml, post)
    return report_both(
        both, json=json, page=output, model=model, title=title, source=source, rows=rows
    )


def _show_levels(
    post: "LevelBayesFit",
    fit: str,
    output: Path,
    data: str | None,
    title: str | None,
    json: Path | None,
    *,
    rows: bool,
) -> int:
    """Write the page of a saved posterior of several grouping factors."""
    from bhlm.fits.levels_fit import LevelsFit
    from bhlm.fits.reconciliation import reconcile
    from bhlm.moments.cells import refuse_factors
    from bhlm.reml.levels import fit_cells
    from bhlm.reports.dashboard.subjects import write_levels

    if data is not None or rows:
        raise refuse_factors(post.moments.design.formula, "--data and --rows of a saved fit")
    source = {"Fit": fit, "Command": write_command("dashboard", fit, output=output)}
    if post.settings.prior_only:
        write_levels(post, output, title=title, source=source)
        print_text(post.summary())
        return 0 if post.converged and not post.diagnostics.prior_bound else 1
    reml = LevelsFit.of(fit_cells(post.moments, covariance=post.structure.name_override))
    both = reconcile(reml, post)
    return report_both(both, json=json, page=output, model=None, title=title, source=source)


def _show_family(
    post: "FamilyBayesFit | FamilyLevelBayesFit",
    fit: str,
    output: Path,
    data: str | None,
    title: str | None,
    json: Path | None,
    *,
    rows: bool,
) -> int:
    """Write the page of a saved posterior of zeros and ones, proportions or counts."""
    from bhlm.fits.family_fit import FamilyFit
    from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit
    from bhlm.fits.family_levels_fit import FamilyLevelsFit
    from bhlm.fits.reconciliation import reconcile
    from bhlm.reml.family.estimate import fit_patterns
    from bhlm.reml.family.nested import fit_factors
    from bhlm.reports.dashboard.subjects import write_family

    if data is not None or rows:
        raise ArgumentError(
            f"'{fit}' is of family='{post.family.name}', whose page has no figure of single rows; "
            "leave --data and --rows out"
        )
    source = {"Fit": fit, "Command": write_command("dashboard", fit, output=output)}
    if post.settings.prior_only:
        write_family(post, output, title=title, source=source)
        print_text(post.summary())
        return 0 if post.converged and not post.diagnostics.prior_bound else 1
    kind = post.structure.name_override
    if isinstance(post, FamilyLevelBayesFit):
        levels = FamilyLevelsFit.of(fit_factors(post.patterns, covariance=kind))
        both = reconcile(levels, post)
    else:
        both = reconcile(FamilyFit.of(fit_patterns(post.patterns, covariance=kind)), post)
    return report_both(both, json=json, page=output, model=None, title=title, source=source)


def _show_gallery(
    model: "Model",
    entry: "GalleryModel | None",
    output: Path,
    title: str | None,
    covariance: str | None,
    given: dict[str, int],
    json: Path | None,
    *,
    rows: bool,
) -> int:
    assert entry is not None
    if rows and model.patterns is not None:
        raise refuse_family_rows(model.family)
    both = fit_both(model, entry, {"seed": 1} | given, covariance=covariance)
    print_title(entry)
    command = write_command(
        "dashboard", entry.name, output=output, covariance=covariance, rows=rows, **given
    )
    return report_both(
        both, json=json, page=output, model=model, title=title or entry.title,
        source={"Citation": entry.citation, "Command": command}, rows=rows,
    )  # fmt: skip
