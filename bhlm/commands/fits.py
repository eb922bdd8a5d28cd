"""reconcile, reml and sample: one model, fitted."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bhlm.commands.options import (
    Chains,
    Covariance,
    Data,
    Draws,
    FormulaText,
    Json,
    MemoryLimit,
    Seed,
    Tune,
    Which,
    app,
)
from bhlm.commands.shared import (
    check_json,
    open_model,
    print_text,
    print_title,
    read_settings,
    write_command,
)
from bhlm.progress import show_chains
from bhlm.secrets import hide_password

Dashboard = Annotated[
    Path | None,
    typer.Option("--dashboard", help="Write a page here, an .html, and its numbers to a .json."),
]
INTERRUPTED = 130  # the exit status of a command that Ctrl-C ended
Live = Annotated[
    bool,
    typer.Option("--live", help="Watch the run; Ctrl-C stops it and keeps what is drawn."),
]

if TYPE_CHECKING:
    from bhlm.bayes.priors.resolve import Priors
    from bhlm.fits.bayes_fit import BayesFit
    from bhlm.fits.model import Model


@app.command("reconcile")
def reconcile_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    covariance: Covariance = None,
    seed: Seed = 1,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    live: Live = False,
    dashboard: Dashboard = None,
    json: Json = None,
) -> int:
    """Fit by REML and by Bayes, and say where the two differ, by how much, and why."""
    from bhlm.files import write_json
    from bhlm.fits.reconciliation import reconcile

    if dashboard:
        from bhlm.reports.dashboard.paths import check_path

        check_path(dashboard)
        check_json(dashboard, json)
    model, entry = open_model(which, data, formula, memory_limit=memory_limit)
    priors, chosen = read_settings(entry, covariance)
    reml = model.reml(covariance=chosen)
    print_title(entry)
    print_text(reml.summary())
    post = _draw(model, priors, chosen, live, seed=seed, draws=draws, tune=tune, chains=chains)
    print_text(post.summary())
    with show_chains("flat-prior posterior", chains) as progress:
        both = reconcile(
            reml, post, published=entry.published if entry else None, progress=progress
        )
    print_text(both.summary())
    if json:
        write_json(both.to_dict(), json)
    if dashboard:
        from bhlm.reports.dashboard.subjects import write_reconciliation

        counts = {"seed": seed, "draws": post.settings.draws, "tune": tune, "chains": chains}
        command = write_command(
            "reconcile", which, data=data, formula=formula, covariance=covariance, **counts,
            dashboard=dashboard,
        )  # fmt: skip
        source = {"Citation": entry.citation} if entry else {"Data": hide_password(str(data))}
        write_reconciliation(
            both, dashboard, model=model, title=entry.title if entry else None,
            source=source | {"Command": command},
        )  # fmt: skip
    return 0 if both.verdict in ("agree", "explained") else 1


@app.command("reml")
def reml_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    method: Annotated[str | None, typer.Option(help="reml or ml.")] = None,
    covariance: Covariance = None,
    style: Annotated[str, typer.Option(help="stata, hlm or lme4.")] = "stata",
    json: Json = None,
) -> int:
    """Fit by restricted (or full) maximum likelihood."""
    from bhlm.files import write_json
    from bhlm.reports.json import describe_model, describe_reml

    model, entry = open_model(which, data, formula, memory_limit=memory_limit)
    fit = model.reml(
        method=method or (entry.method if entry else "reml"),
        covariance=covariance or (entry.covariance if entry else None),
    )
    text = fit.summary(style=style)
    print_title(entry)
    print_text(text)
    if json:
        write_json({"model": describe_model(model.moments), "reml": describe_reml(fit)}, json)
    return 0 if fit.converged else 1


@app.command("sample")
def sample_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    covariance: Covariance = None,
    seed: Seed = 1,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    live: Live = False,
    save: Annotated[
        Path | None, typer.Option(help="Keep the fit here, a .zarr or .nc; bhlm.load reads it.")
    ] = None,
    json: Json = None,
) -> int:
    """Draw from the posterior by NUTS."""
    from bhlm.files import write_json
    from bhlm.reports.json import describe_model, describe_posterior

    model, entry = open_model(which, data, formula, memory_limit=memory_limit)
    priors, covariance = read_settings(entry, covariance)
    fit = _draw(model, priors, covariance, live, seed=seed, draws=draws, tune=tune, chains=chains)
    print_title(entry)
    print_text(fit.summary())
    if save:
        fit.save(save)
    if json:
        content = {"model": describe_model(model.moments), "posterior": describe_posterior(fit)}
        write_json(content, json)
    return 0 if fit.converged else 1


def _draw(
    model: "Model",
    priors: "Priors | None",
    covariance: str | None,
    live: bool,
    *,
    seed: int | None,
    **counts: Any,
) -> "BayesFit":
    """Sample, with a bar per chain or, live, in a view that Ctrl-C stops."""
    if live:
        from bhlm.bayes.draws import Settings
        from bhlm.bayes.live import StoppedError, sample_live
        from bhlm.fits.bayes_fit import BayesFit

        try:
            found = sample_live(
                model, seed=seed, settings=Settings(**counts), priors=priors, covariance=covariance
            )
        except StoppedError as error:
            print(f"bhlm: {error}; nothing was written", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from error
        return BayesFit.of(found, model=model)
    with show_chains("posterior", counts["chains"]) as progress:
        return model.sample(
            priors=priors, covariance=covariance, seed=seed, progress=progress, **counts
        )
