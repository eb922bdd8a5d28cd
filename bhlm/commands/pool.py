"""pool: one model, fitted to plausible values or imputed tables and pooled."""

from collections.abc import Callable
from typing import Annotated

import typer

from bhlm.commands.fits import Dashboard
from bhlm.commands.options import (
    Covariance,
    Errors,
    FormulaText,
    GroupReplicates,
    GroupWeights,
    Json,
    MemoryLimit,
    Missing,
    Quiet,
    Replicates,
    ReplicatesAre,
    Rho,
    Rscales,
    Scaling,
    Separator,
    WeightColumn,
    WeightsAre,
    app,
)
from bhlm.commands.shared import (
    check_outputs,
    choose_errors,
    choose_weights,
    print_text,
    write_all,
    write_command,
)
from bhlm.errors import ArgumentError
from bhlm.files import write_json
from bhlm.progress import VOICE
from bhlm.secrets import hide_password

Tables = Annotated[
    list[str],
    typer.Argument(
        metavar="DATA...",
        help="One table with several plausible values, or one imputed table after the other.",
    ),
]
Tests = Annotated[
    str | None,
    typer.Option("--df", help="satterthwaite (the default), kenward-roger, hlm, cr0, cr2 or z."),
]


@app.command("pool")
def pool_command(
    data: Tables,
    formula: FormulaText = None,
    memory_limit: MemoryLimit = None,
    separator: Separator = None,
    missing: Missing = None,
    method: Annotated[
        str | None, typer.Option(help="reml or ml; default: ml with sampling weights, else reml.")
    ] = None,
    covariance: Covariance = None,
    df: Tests = None,
    weights: WeightColumn = None,
    group_weights: GroupWeights = None,
    weights_are: WeightsAre = None,
    scaling: Scaling = None,
    errors: Errors = None,
    replicates: Replicates = None,
    group_replicates: GroupReplicates = None,
    replicates_are: ReplicatesAre = None,
    rho: Rho = None,
    rscales: Rscales = None,
    dashboard: Dashboard = None,
    json: Json = None,
    quiet: Quiet = False,
) -> int:
    """Fit plausible values, or imputed tables, and pool the fits by Rubin's rules.

    Plausible values stand on the left of the formula, added up: 'pv1 + pv2 + pv3 ~ x + (1 | g)'.
    """
    from bhlm.design.formula.terms import parse_formula
    from bhlm.design.rows import open_rows
    from bhlm.fits.pooled_fit import fit_imputations, split_responses
    from bhlm.reports.dashboard.subjects import write_pooled

    VOICE.quiet = quiet or VOICE.quiet
    check_outputs(*data, json=json, page=dashboard)
    if formula is None:
        raise ArgumentError("--formula is missing; give it, such as 'pv1 + pv2 ~ x + (1 | g)'")
    meant = choose_weights(weights, group_weights, weights_are, scaling)
    by = choose_errors(errors, replicates, group_replicates, replicates_are, rho, rscales)
    VOICE.say("reading the data")
    right, responses = split_responses(formula)
    parsed = parse_formula(formula if responses is None else f"`{responses[0]}` {right}")
    tables = [
        open_rows(
            parsed, path, memory_limit=memory_limit, separator=separator, missing=missing or ()
        )
        for path in data
    ]
    if method is None:
        method = "ml" if meant is not None and meant.is_sampling else "reml"
    VOICE.say("fitting")
    pooled = fit_imputations(
        formula, tables[0] if len(tables) == 1 else tables, method=method, covariance=covariance,
        weights=meant, errors=by, df=df,
    )  # fmt: skip
    command = write_command(
        "pool", *data, formula=formula, separator=separator, missing=missing, method=method,
        covariance=covariance, df=df, weights=weights, group_weights=group_weights,
        weights_are=weights_are, scaling=scaling, errors=errors, replicates=replicates,
        group_replicates=group_replicates, replicates_are=replicates_are, rho=rho, rscales=rscales,
        dashboard=dashboard,
    )  # fmt: skip
    source = {"Data": ", ".join(map(hide_password, data)), "Command": command}
    writers: list[Callable[[], object]] = [lambda: print_text(pooled.summary())]
    if json:
        writers.append(lambda: write_json(pooled.to_dict(), json))
    if dashboard:
        writers.append(lambda: write_pooled(pooled, dashboard, source=source))
    write_all(*writers)
    return 0
