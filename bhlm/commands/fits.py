"""reconcile, reml and sample: one model, fitted."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bhlm.commands.options import (
    Adjust,
    Chains,
    Covariance,
    Data,
    Df,
    Draws,
    Errors,
    Exposure,
    FamilyName,
    FormulaText,
    GroupReplicates,
    GroupWeights,
    Json,
    KnownVariance,
    Link,
    MemoryLimit,
    Method,
    Missing,
    PriorsText,
    Quiet,
    Replicates,
    ReplicatesAre,
    Residual,
    Rho,
    Rows,
    Rscales,
    Save,
    Scaling,
    Seed,
    Separator,
    Trials,
    Tune,
    WeightColumn,
    WeightsAre,
    Which,
    app,
)
from bhlm.commands.pooled import has_responses, run_pooled
from bhlm.commands.shared import (
    check_outputs,
    check_rows_asked,
    check_strata,
    choose_errors,
    choose_weights,
    draw_posterior,
    fit_both,
    keep_fit,
    load_arviz,
    name_source,
    open_model,
    print_text,
    print_title,
    read_settings,
    refuse_family_rows,
    refuse_live,
    report_both,
    write_all,
    write_command,
    write_page,
)
from bhlm.errors import ArgumentError
from bhlm.progress import VOICE

Dashboard = Annotated[
    Path | None,
    typer.Option("--dashboard", help="Write a page here, an .html, and its numbers to a .json."),
]
Live = Annotated[
    bool,
    typer.Option("--live", help="Watch the run; Ctrl-C stops it and keeps what is drawn."),
]

if TYPE_CHECKING:
    from bhlm.bayes.family.level_draws import AnyFamilyDraws
    from bhlm.fits.bayes_fit import BayesFit
    from bhlm.fits.levels_fit import LevelsFit
    from bhlm.fits.reml_fit import RemlFit
    from bhlm.fits.strata_fit import StrataFit


@app.command("reconcile")
def reconcile_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    family: FamilyName = None,
    link: Link = None,
    trials: Trials = None,
    exposure: Exposure = None,
    weights: WeightColumn = None,
    group_weights: GroupWeights = None,
    weights_are: WeightsAre = None,
    scaling: Scaling = None,
    known_variance: KnownVariance = None,
    residual: Residual = None,
    adjust: Adjust = True,
    covariance: Covariance = None,
    df: Df = None,
    priors: PriorsText = None,
    seed: Seed = 1,
    draws: Draws = 1000,
    tune: Tune = None,
    chains: Chains = 4,
    method: Method = None,
    live: Live = False,
    save: Save = None,
    dashboard: Dashboard = None,
    rows: Rows = False,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Fit by REML and by Bayes, and say where the two differ, by how much, and why."""
    load_arviz()
    from bhlm.fits.levels_fit import LevelsFit
    from bhlm.fits.reml_fit import RemlFit

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(which, data, priors, json=json, page=dashboard, save=save)
    check_rows_asked(rows=rows, page=dashboard)
    refuse_live(live, method)
    uncounted = df is not None or live
    meant = choose_weights(weights, group_weights, weights_are, scaling)
    if has_responses(which, formula):
        refused = {
            "--family": family, "--known-variance": known_variance, "--residual": residual,
            "--live": live, "--memory-limit": memory_limit, "--rows": rows,
            "--method": method,
        }  # fmt: skip
        command = write_command(
            "reconcile", which, data=data, formula=formula, separator=separator, missing=missing,
            weights=weights, group_weights=group_weights, weights_are=weights_are,
            scaling=scaling, no_adjust=not adjust, covariance=covariance, df=df, priors=priors,
            seed=seed, draws=draws, tune=tune, chains=chains, dashboard=dashboard,
        )  # fmt: skip
        return run_pooled(
            "reconcile", which, data, formula, weights=meant, refused=refused, save=save,
            separator=separator, missing=missing, covariance=covariance, df=df, priors=priors,
            counts={"seed": seed, "draws": draws, "tune": tune, "chains": chains}, json=json,
            dashboard=dashboard, command=command, adjust=adjust,
        )  # fmt: skip
    model, entry = open_model(
        which, data, formula, memory_limit=memory_limit, separator=separator, missing=missing,
        several=True, counted=not uncounted,
        outcome={
            "family": family, "link": link, "trials": trials, "exposure": exposure,
            "weights": meant, "known_variance": known_variance, "residual": residual,
        },
    )  # fmt: skip
    if model.strata is not None:
        check_strata(model.strata.column, df=df, rows=rows)
    is_counted = (model.patterns or model.level_patterns) is not None
    if is_counted and uncounted:
        raise ArgumentError(
            f"--df and --live are not there yet with family='{model.family}'; leave them out"
        )

    def show(fit: "RemlFit | BayesFit") -> None:
        if not isinstance(fit, RemlFit | LevelsFit) and hasattr(fit, "loglik"):
            print_title(entry)  # of a family, or by stratum
            told = cast("StrataFit", fit)
            print_text(told.summary() if df is None else told.summary(df=df))
        elif isinstance(fit, RemlFit | LevelsFit):
            text = fit.summary() if df is None else fit.summary(df=df)
            print_title(entry)
            print_text(text)
        else:
            print_text(fit.summary())

    if rows and is_counted:
        raise refuse_family_rows(model.family)
    if rows and not model.has_rows:
        raise ArgumentError(f"--rows asks for single rows, and '{data}' has none; leave it out")
    counts: dict[str, Any] = {"seed": seed, "draws": draws, "tune": tune, "chains": chains}
    asked = counts | ({"method": method} if method else {})
    asked |= {} if adjust else {"adjust": False}
    both = fit_both(model, entry, asked, covariance=covariance, priors=priors, live=live, show=show)
    command = write_command(
        "reconcile", which, data=data, formula=formula, family=family, link=link, trials=trials,
        exposure=exposure, weights=weights, group_weights=group_weights, weights_are=weights_are,
        scaling=scaling, known_variance=known_variance, residual=residual, covariance=covariance,
        df=df,
        separator=separator,
        missing=missing, priors=priors,
        **counts | {"draws": both.post.settings.draws, "tune": both.post.settings.tune},
        method=method, no_adjust=not adjust, dashboard=dashboard, rows=rows,
    )  # fmt: skip
    source = name_source(entry, data)
    return report_both(
        both, json=json, page=dashboard, model=model, title=entry.title if entry else None,
        source=source | {"Command": command}, df=df, rows=rows, save=save,
    )  # fmt: skip


@app.command("reml")
def reml_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    method: Annotated[str | None, typer.Option(help="reml or ml.")] = None,
    covariance: Covariance = None,
    df: Df = None,
    weights: WeightColumn = None,
    group_weights: GroupWeights = None,
    weights_are: WeightsAre = None,
    scaling: Scaling = None,
    known_variance: KnownVariance = None,
    residual: Residual = None,
    errors: Errors = None,
    replicates: Replicates = None,
    group_replicates: GroupReplicates = None,
    replicates_are: ReplicatesAre = None,
    rho: Rho = None,
    rscales: Rscales = None,
    conventions: Annotated[
        bool,
        typer.Option("--conventions", help="Sets the standard errors of other programs beside."),
    ] = False,
    style: Annotated[str, typer.Option(help="stata, hlm or lme4.")] = "stata",
    dashboard: Dashboard = None,
    rows: Rows = False,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Fit by restricted (or full) maximum likelihood."""
    from bhlm.files import write_json
    from bhlm.reports.json import (
        describe_cells,
        describe_conventions,
        describe_levels,
        describe_model,
        describe_reml,
        describe_strata,
    )
    from bhlm.reports.text.conventions import render_conventions

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(which, data, json=json, page=dashboard)
    check_rows_asked(rows=rows, page=dashboard)
    meant = choose_weights(weights, group_weights, weights_are, scaling)
    by = choose_errors(errors, replicates, group_replicates, replicates_are, rho, rscales)
    if has_responses(which, formula):
        refused = {
            "--known-variance": known_variance, "--residual": residual,
            "--style": None if style == "stata" else style, "--rows": rows,
            "--memory-limit": memory_limit, "--conventions": conventions,
        }  # fmt: skip
        command = write_command(
            "reml", which, data=data, formula=formula, separator=separator, missing=missing,
            method=method, covariance=covariance, df=df, weights=weights,
            group_weights=group_weights, weights_are=weights_are, scaling=scaling, errors=errors,
            replicates=replicates, group_replicates=group_replicates,
            replicates_are=replicates_are, rho=rho, rscales=rscales, dashboard=dashboard,
        )  # fmt: skip
        return run_pooled(
            "reml", which, data, formula, weights=meant, refused=refused,
            separator=separator, missing=missing, method=method, covariance=covariance,
            errors=by, df=df, json=json,
            dashboard=dashboard, command=command,
        )  # fmt: skip
    model, entry = open_model(
        which,
        data,
        formula,
        memory_limit=memory_limit,
        separator=separator,
        missing=missing,
        several=True,
        outcome={"weights": meant, "known_variance": known_variance, "residual": residual},
    )
    if model.strata is not None:
        check_strata(model.strata.column, df=df, rows=rows)
        if style != "stata":
            raise ArgumentError(
                f"--style {style} is not there yet with residual='{model.strata.column}'; leave it "
                "out"
            )
    VOICE.say("fitting")
    fit = model.reml(
        method=method or (entry.method if entry else "reml"),
        covariance=covariance or (entry.covariance if entry else None),
        errors=by,
    )
    beside = fit.compare_conventions() if conventions else None
    if model.strata is not None:
        text = fit.summary(df=df)
    else:
        text = fit.summary(style=style) if df is None else fit.summary(style=style, df=df)

    if beside is not None:
        text = f"{text}\n\n{render_conventions(beside)}"

    def describe() -> dict[str, Any]:
        content = describe_fit()
        if beside is not None:
            content["reml"]["conventions"] = describe_conventions(beside)
        return content

    def describe_fit() -> dict[str, Any]:
        if model.cells is not None:
            told = describe_levels(cast("LevelsFit", fit), df=df)
            return {"model": describe_cells(model.cells), "reml": told}
        if model.strata is not None:
            told = describe_strata(cast("StrataFit", fit), df=df)
            return {"model": describe_model(model.strata.whole), "reml": told}
        return {"model": describe_model(model.moments), "reml": describe_reml(fit, df=df)}

    writers: list[Callable[[], object]] = [lambda: print_title(entry), lambda: print_text(text)]
    if dashboard:
        command = write_command(
            "reml", which, data=data, formula=formula, separator=separator, missing=missing,
            method=method, covariance=covariance, weights=weights, group_weights=group_weights,
            weights_are=weights_are, scaling=scaling, known_variance=known_variance,
            residual=residual, errors=errors, replicates=replicates,
            group_replicates=group_replicates, replicates_are=replicates_are, rho=rho,
            rscales=rscales, conventions=conventions, dashboard=dashboard, rows=rows,
        )  # fmt: skip
        source = name_source(entry, data) | {"Command": command}
        page, title = dashboard, entry.title if entry else None
        writers.append(lambda: write_page(fit, page, title=title, source=source, rows=rows))
    if json:
        writers.append(lambda: write_json(describe(), json))
    write_all(*writers)
    return 0 if fit.converged else 1


@app.command("ml")
def ml_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    family: FamilyName = None,
    link: Link = None,
    trials: Trials = None,
    exposure: Exposure = None,
    nagq: Annotated[
        int | None, typer.Option(help="So many nodes per dimension; 1 is Laplace. Default: enough.")
    ] = None,
    covariance: Covariance = None,
    style: Annotated[str, typer.Option(help="stata, hlm or lme4.")] = "stata",
    dashboard: Dashboard = None,
    rows: Rows = False,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Fit by maximum likelihood: zeros and ones, proportions, counts, or a normal response."""
    from bhlm.files import write_json
    from bhlm.fits.family_fit import FamilyFit
    from bhlm.fits.family_levels_fit import FamilyLevelsFit
    from bhlm.reports.family_json import (
        describe_family,
        describe_family_levels,
        describe_level_patterns,
        describe_patterns,
    )
    from bhlm.reports.json import describe_cells, describe_levels, describe_model, describe_reml

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(which, data, json=json, page=dashboard)
    check_rows_asked(rows=rows, page=dashboard)
    outcome = {"family": family, "link": link, "trials": trials, "exposure": exposure}
    model, entry = open_model(
        which, data, formula, memory_limit=memory_limit, separator=separator, missing=missing,
        several=True, counted=True, outcome=outcome,
    )  # fmt: skip
    if rows and (model.patterns or model.level_patterns) is not None:
        raise refuse_family_rows(model.family)
    VOICE.say("fitting")
    fit = model.ml(covariance=covariance or (entry.covariance if entry else None), nagq=nagq)
    text = fit.summary(style=style)

    def describe() -> dict[str, Any]:
        if isinstance(fit, FamilyFit):
            return {"model": describe_patterns(fit.patterns), "ml": describe_family(fit)}
        if isinstance(fit, FamilyLevelsFit):
            told = describe_family_levels(fit)
            return {"model": describe_level_patterns(fit.patterns), "ml": told}
        if model.cells is not None:
            told = describe_levels(cast("LevelsFit", fit))
            return {"model": describe_cells(model.cells), "ml": told}
        told = describe_reml(fit)
        return {"model": describe_model(model.moments), "ml": told}

    writers: list[Callable[[], object]] = [lambda: print_title(entry), lambda: print_text(text)]
    if dashboard:
        command = write_command(
            "ml", which, data=data, formula=formula, **outcome, nagq=nagq, separator=separator,
            missing=missing, covariance=covariance, dashboard=dashboard, rows=rows,
        )  # fmt: skip
        source = name_source(entry, data) | {"Command": command}
        page, title = dashboard, entry.title if entry else None
        writers.append(lambda: write_page(fit, page, title=title, source=source, rows=rows))
    if json:
        writers.append(lambda: write_json(describe(), json))
    write_all(*writers)
    return 0 if fit.converged else 1


@app.command("sample")
def sample_command(
    which: Which = None,
    data: Data = None,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    family: FamilyName = None,
    link: Link = None,
    trials: Trials = None,
    exposure: Exposure = None,
    weights: WeightColumn = None,
    group_weights: GroupWeights = None,
    weights_are: WeightsAre = None,
    scaling: Scaling = None,
    known_variance: KnownVariance = None,
    residual: Residual = None,
    adjust: Adjust = True,
    covariance: Covariance = None,
    priors: PriorsText = None,
    seed: Seed = 1,
    draws: Draws = 1000,
    tune: Tune = None,
    chains: Chains = 4,
    method: Method = None,
    live: Live = False,
    save: Save = None,
    dashboard: Dashboard = None,
    rows: Rows = False,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Draw from the posterior, by NUTS or independently."""
    load_arviz()
    from bhlm.files import write_json
    from bhlm.moments.patterns import Patterns
    from bhlm.reports.family_json import (
        describe_family_posterior,
        describe_level_patterns,
        describe_patterns,
    )
    from bhlm.reports.json import describe_cells, describe_model, describe_posterior

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(which, data, priors, json=json, page=dashboard, save=save)
    check_rows_asked(rows=rows, page=dashboard)
    refuse_live(live, method)
    meant = choose_weights(weights, group_weights, weights_are, scaling)
    if has_responses(which, formula):
        refused = {
            "--family": family, "--known-variance": known_variance, "--residual": residual,
            "--live": live, "--memory-limit": memory_limit, "--rows": rows,
            "--method": method,
        }  # fmt: skip
        command = write_command(
            "sample", which, data=data, formula=formula, separator=separator, missing=missing,
            weights=weights, group_weights=group_weights, weights_are=weights_are,
            scaling=scaling, no_adjust=not adjust, covariance=covariance, priors=priors,
            seed=seed, draws=draws, tune=tune, chains=chains, dashboard=dashboard,
        )  # fmt: skip
        return run_pooled(
            "sample", which, data, formula, weights=meant, refused=refused, save=save,
            separator=separator, missing=missing, covariance=covariance, priors=priors,
            counts={"seed": seed, "draws": draws, "tune": tune, "chains": chains}, json=json,
            dashboard=dashboard, command=command, adjust=adjust,
        )  # fmt: skip
    outcome: dict[str, Any] = {
        "family": family, "link": link, "trials": trials, "exposure": exposure,
        "weights": meant, "known_variance": known_variance, "residual": residual,
    }  # fmt: skip
    model, entry = open_model(
        which, data, formula, memory_limit=memory_limit, separator=separator, missing=missing,
        several=True, counted=not live, outcome=outcome,
    )  # fmt: skip
    counted = model.patterns or model.level_patterns
    if rows and counted is not None:
        raise refuse_family_rows(model.family)
    if model.strata is not None:
        check_strata(model.strata.column, rows=rows)
    if live and counted is not None:
        raise ArgumentError(f"--live is not there yet with family='{model.family}'; leave it out")
    chosen, covariance = read_settings(entry, covariance, priors)
    counts: dict[str, Any] = {"draws": draws, "tune": tune, "chains": chains}
    if method:
        counts["method"] = method
    if not adjust:
        counts["adjust"] = False
    fit = draw_posterior(
        model, priors=chosen, covariance=covariance, live=live, seed=seed, **counts
    )
    content: dict[str, Any]
    if counted is not None:
        told = describe_family_posterior(cast("AnyFamilyDraws", fit))
        described = (
            describe_patterns(counted)
            if isinstance(counted, Patterns)
            else describe_level_patterns(counted)
        )
        content = {"model": described, "posterior": told}
    else:
        cells, strata = model.cells, model.strata
        if strata is not None:
            told = describe_model(strata.whole)
        else:
            told = describe_model(model.moments) if cells is None else describe_cells(cells)
        content = {"model": told, "posterior": describe_posterior(fit)}
    writers: list[Callable[[], object]] = [
        lambda: print_title(entry),
        lambda: print_text(fit.summary()),
    ]
    if save:
        writers.append(lambda: keep_fit(fit, save))
    if json:
        writers.append(lambda: write_json(content, json))
    if dashboard:
        command = write_command(
            "sample", which, data=data, formula=formula, family=family, link=link, trials=trials,
            exposure=exposure, separator=separator, missing=missing,
            weights=weights, group_weights=group_weights, weights_are=weights_are, scaling=scaling,
            known_variance=known_variance, residual=residual, no_adjust=not adjust,
            covariance=covariance, priors=priors, seed=seed, draws=fit.settings.draws,
            tune=fit.settings.tune, chains=chains, method=method, dashboard=dashboard, rows=rows,
        )  # fmt: skip
        source = name_source(entry, data) | {"Command": command}
        page, title = dashboard, entry.title if entry else None
        writers.append(lambda: write_page(fit, page, title=title, source=source, rows=rows))
    write_all(*writers)
    return 0 if fit.converged and not fit.diagnostics.prior_bound else 1
