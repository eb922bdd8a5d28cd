"""The sections of a page about a fit of several grouping factors."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bhlm.bayes.quantities import derive_level_icc, derive_level_r_squared
from bhlm.design.formula.weights import has_shares
from bhlm.layout import count, format_digits, format_percent, list_names, show_name
from bhlm.likelihood.cells import describe_pattern
from bhlm.plots.forest import plot_forest
from bhlm.plots.level_caterpillar import (
    LevelFits,
    plot_factor,
    split_levels,
    tabulate_factor,
)
from bhlm.plots.style import shorten
from bhlm.reml.compare import r_squared
from bhlm.reml.fixed.few_groups import note_binary, tell_weights
from bhlm.reports.dashboard.blocks import Block, Facts, Section, Subject, Table, Text
from bhlm.reports.dashboard.command_line import write_command
from bhlm.reports.dashboard.groups import measure_effects
from bhlm.reports.dashboard.holdings import HEADING, list_holdings
from bhlm.reports.dashboard.reproduction import (
    tabulate_level_settings,
    tabulate_priors,
    tabulate_versions,
    write_level_lines,
)
from bhlm.reports.dashboard.verdict import (
    find_fit,
    show_outcome,
    tabulate_both,
    tabulate_posterior,
    tabulate_tests,
    tell_few_groups,
)

if TYPE_CHECKING:
    import pandas as pd

    from bhlm.bayes.level_draws import LevelDraws
    from bhlm.moments.cells import CellMoments
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.reconciliation.comparison import Comparison
    from bhlm.reml.levels import LevelsEstimate

SHARE = 0.05  # to two digits of which shares of the variance are shown


def find_levels(subject: Subject) -> "LevelsEstimate | LevelDraws":
    """Return the fit by REML or ML that the page is about, the posterior where there is none."""
    fit = subject.levels if subject.levels is not None else subject.level_post
    assert fit is not None
    return fit


def find_level_moments(subject: Subject) -> "CellMoments":
    """Return the moments that the page's fits were made from."""
    return find_levels(subject).moments


def build_level_verdict(subject: Subject) -> Section:
    """Return the findings, every estimate, and where the variance lies."""
    moments, reml, post = find_level_moments(subject), subject.levels, subject.level_post
    blocks = show_outcome(subject)
    blocks.append(_list_facts(subject))
    blocks += [plot_forest(subject.both or find_fit(subject)), tabulate_both(subject)]
    divides = has_shares(moments.weights)
    blocks += [_tabulate_shares(reml)] if divides and reml is not None else []
    if divides and post is not None:
        blocks.append(tabulate_drawn_shares(derive_level_icc(post).estimates))
    blocks.append(Text(_describe_data(subject), heading="What was fitted", listed=True))
    blocks.append(Text(list_holdings(subject, moments), heading=HEADING, listed=True))
    if reml is not None:
        blocks.append(_tabulate_levels(reml))
        if subject.df is not None and reml.converged:
            blocks.append(tabulate_tests(reml, subject.df))
    if post is not None:
        blocks.append(tabulate_posterior(post))
    return Section("verdict", "Verdict", tuple(blocks))


def _list_facts(subject: Subject) -> Facts:
    """Return how many rows and units there are, and what of the variance lies where."""
    moments = find_level_moments(subject)
    units = [(f"Units of {shorten(name)}", f"{J:,}") for name, J in moments.groups.items()]
    items = (("Rows", f"{moments.n_rows:,}"), *units, ("Rows dropped", f"{moments.dropped:,}"))
    reading = "Rows, and units of each grouping factor"
    if moments.weights is not None and moments.weights.is_sampling:
        size = moments.effective_size
        items += (
            ("Effective rows", f"{size['rows']:,.0f}"),
            *(
                (f"Effective units of {shorten(name)}", f"{each:,.0f}")
                for name, each in size["units"].items()
            ),
        )
        reading += ", and how many count as much without weights"
    if has_shares(moments.weights):
        items += tuple(_list_shares(subject))
        kind = "the posterior" if subject.levels is None else subject.levels.method.upper()
        reading += (
            "; ICC of rows that have the factor in common, at the means of the random columns, and "
            f"R² of Nakagawa and others, by {kind}"
        )
    return Facts("facts", "In short", f"{reading}.", items)


def _list_shares(subject: Subject) -> Iterator[tuple[str, str]]:
    """Yield the ICC of each factor and the R², by REML or ML where there is such a fit."""
    reml, post = subject.levels, subject.level_post
    if reml is not None:
        icc = reml.icc()["icc"].dropna().to_dict()
        shares = r_squared(reml)
    else:
        assert post is not None
        means = {name: float(drawn.mean()) for name, drawn in derive_level_icc(post).draws.items()}
        icc = {name: means[f"icc({name})"] for name in post.moments.groups}
        drawn = derive_level_r_squared(post).draws
        shares = {name: float(values.mean()) for name, values in drawn.items()}
    for name, value in icc.items():
        yield f"ICC of {shorten(str(name))}", format_digits(value, 2)
    for name in ("marginal", "conditional"):
        yield f"R², {name}", format_digits(shares[name], 2)


def _describe_data(subject: Subject) -> tuple[str, ...]:
    moments, post = find_level_moments(subject), subject.level_post
    levels = [f"{number:,} of '{name}'" for name, number in moments.groups.items()]
    sizes = [
        f"a '{name}' has {size['min']} to {size['max']} rows, {size['mean']:.1f} on average"
        for name, size in moments.group_size.items()
    ]
    methods = [] if subject.levels is None else [subject.levels.method.upper()]
    if post is not None:
        chains, draws = post.shape
        run = f"{count(chains, 'chain')} of {count(draws, 'draw')}"
        methods.append(f"full Bayes ({run}, {post.sampler})")
    told = (
        f"{moments.formula}, by {' and by '.join(methods)}.",
        f"{moments.rows_used}: {list_names(levels, most=len(levels))}, "
        f"{describe_pattern(moments)}; {'; '.join(sizes)}.",
    )
    notes = (tell_weights(moments), moments.note)
    return (*told, *(f"{note.rstrip('.')}." for note in notes if note))


def _tabulate_levels(fit: "LevelsEstimate") -> Table:
    test = fit.lr_test
    notes = [note for note in (tell_few_groups(fit), note_binary(fit)) if note]
    against = (
        f"; against a regression without random effects chi2({test['df']}) = "
        f"{format_digits(test['chi2'], 4)}"
    )
    pseudo = fit.weights is not None and fit.weights.is_sampling
    reading = f"{'Log pseudolikelihood' if pseudo else 'Log-likelihood'} {fit.loglik:.6g}"
    reading += "." if pseudo else f"{against}."
    return Table(
        "reml_estimates",
        f"{fit.method.upper()} estimates",
        " ".join((reading, *(f"{note}." for note in notes))),
        fit.estimates.dropna(axis=1, how="all"),
    )


def _tabulate_shares(fit: "LevelsEstimate") -> Table:
    shares = fit.icc()
    most = shares["share"].idxmax()
    return Table(
        "variance_shares",
        "Where the variance lies",
        f"The largest share, {format_percent(shares.loc[most, 'share'])}, is that of "
        f"{shorten(str(most))}; "
        "ICC is the correlation of two rows that have the level in common.",
        shares,
    )


def tabulate_drawn_shares(found: "pd.DataFrame") -> Table:
    """Return shares and ICCs by the draws, of their `estimates`."""
    table = found[["mean", "sd", "lower", "upper"]]
    first = table.index[0]
    correlated = any(str(name).startswith("icc(") for name in table.index)
    icc_is = (
        "; icc(factor) is the correlation of two rows that have the level in common"
        if correlated
        else ""
    )
    return Table(
        "posterior_shares",
        "Where the variance lies, by the posterior",
        f"{shorten(str(first))} is {table['mean'].iloc[0]:.2f}, 95 % interval "
        f"{table['lower'].iloc[0]:.2f} to {table['upper'].iloc[0]:.2f}{icc_is}.",
        table,
        sizes=(SHARE,) * len(table),
        sized=tuple(table.columns),
    )


def build_level_groups(subject: Subject) -> Section:
    """Return of every factor the caterpillar of its units, and the table of their effects."""
    fit: LevelsEstimate | LevelDraws | Comparison = subject.both or find_levels(subject)
    moments = find_level_moments(subject)
    is_sampling = moments.weights is not None and moments.weights.is_sampling
    return build_factor_groups(
        fit,
        moments,
        spread=(
            "its SD given the estimates" if is_sampling else "its standard error of prediction"
        ),
    )


def build_factor_groups(
    fit: LevelFits, moments: "CellMoments | LevelPatterns", *, spread: str
) -> Section:
    """Return of every factor the caterpillar of its units, and the table of their effects.

    The units of nested factors stand beside the labels of those that they are in, by which the
    table can be searched: so one unit's children are seen together.

    Args:
        fit: a fit, a posterior, or the reconciliation of both.
        moments: what they are of.
        spread: what stands beside the estimate of an effect.
    """
    reml, post, _ = split_levels(fit)
    own = [] if reml is None else ["u", "u_se", "u_low", "u_high"]
    own += [] if post is None else ["mean", "low", "high"]
    kinds = [] if reml is None else [f"empirical Bayes and {spread}"]
    kinds += [] if post is None else ["the posterior mean and its 95 % interval"]
    told = " and ".join(kinds)
    blocks: list[Block] = []
    for at, factor in enumerate(moments.factors):
        blocks.append(plot_factor(fit, factor.name))
        table = tabulate_factor(fit, factor.name)
        labels = {f"label {i}": f"label of {name}" for i, name in enumerate(factor.columns)}
        ends = ("u_high", "u_low") if post is None else ("high", "low")
        for column in labels:
            table[column] = table[column].map(show_name)  # a label is a text, be it of digits
        inside = (
            f"; search for a label of '{factor.columns[0]}' to see what is in it"
            if len(factor.columns) > 1
            else ""
        )
        blocks.append(
            Table(
                f"effects_{at}",
                f"Effects of {shorten(factor.name)}",
                f"{told[0].upper()}{told[1:]}, of "
                f"{count(moments.groups[factor.name], 'unit')}{inside}.",
                table[[*labels, "coefficient", "n", *own]].rename(
                    columns=labels | {"mean": "posterior mean"}
                ),
                sizes=measure_effects(table, table[ends[0]] - table[ends[1]]),
                sized=(*own, "posterior mean"),
            )
        )
    return Section("groups", "Groups", tuple(blocks))


def build_level_reproduction(subject: Subject) -> Section:
    """Return settings, versions, the data's hash, the priors, and the lines that run it again."""
    post = subject.level_post
    blocks: list[Block] = [tabulate_level_settings(subject, find_level_moments(subject))]
    if post is not None:
        blocks.append(tabulate_priors(post))
    blocks.append(tabulate_versions())
    if command := write_command(subject):
        blocks.append(Text((command,), heading="The command", code=True))
    lines, notes = write_level_lines(subject, find_level_moments(subject))
    blocks.append(Text(lines, heading="In Python", code=True))
    if notes:
        blocks.append(Text(notes, tone="caution"))
    return Section("reproduction", "Reproduction", tuple(blocks))
