"""The sections of a page about a fit of several grouping factors."""

from typing import TYPE_CHECKING

from bhlm.layout import count, format_digits, list_names
from bhlm.likelihood.cells import describe_pattern
from bhlm.plots.level_caterpillar import plot_factor, tabulate_factor
from bhlm.plots.style import shorten
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text
from bhlm.reports.dashboard.holdings import HEADING, list_holdings
from bhlm.reports.dashboard.reproduction import tabulate_versions

if TYPE_CHECKING:
    from bhlm.reml.levels import LevelsEstimate


def find_levels(subject: Subject) -> "LevelsEstimate":
    """Return the fit that the page is about."""
    assert subject.levels is not None
    return subject.levels


def build_level_verdict(subject: Subject) -> Section:
    """Return what was fitted, every estimate, and where the variance lies."""
    fit = find_levels(subject)
    moments = fit.moments
    levels = [f"{number:,} of '{name}'" for name, number in moments.groups.items()]
    sizes = [
        f"a '{name}' has {size['min']} to {size['max']} rows, {size['mean']:.1f} on average"
        for name, size in moments.group_size.items()
    ]
    told = [
        f"{moments.formula}, by {fit.method.upper()}.",
        f"{moments.rows_used}: {list_names(levels, most=len(levels))}, "
        f"{describe_pattern(moments)}; {list_names(sizes, most=len(sizes))}.",
        *([moments.note] if moments.note else []),
    ]
    blocks: list[Block] = [Text(tuple(told), heading="What was fitted", listed=True)]
    test = fit.lr_test
    blocks.append(
        Table(
            "reml_estimates",
            "Estimates",
            f"Log-likelihood {fit.loglik:.6g}; against a regression without random effects "
            f"chi2({test['df']}) = {format_digits(test['chi2'], 4)}.",
            fit.estimates.dropna(axis=1, how="all"),
        )
    )
    shares = fit.icc()
    most = shares["share"].idxmax()
    blocks.append(
        Table(
            "variance_shares",
            "Where the variance lies",
            f"The largest share, {shares.loc[most, 'share']:.0%}, is that of {shorten(str(most))}; "
            "`icc` is the correlation of two rows that have the level in common.",
            shares,
        )
    )
    blocks.append(Text(list_holdings(subject, moments), heading=HEADING, listed=True))
    return Section("verdict", "Verdict", tuple(blocks))


def build_level_groups(subject: Subject) -> Section:
    """Return of every factor the caterpillar of its units, and the table of their effects.

    The units of nested factors stand beside the labels of those that they are in, by which the
    table can be searched: so one unit's children are seen together.
    """
    fit = find_levels(subject)
    blocks: list[Block] = []
    for at, factor in enumerate(fit.moments.factors):
        figure = plot_factor(fit, factor.name)
        blocks.append(figure)
        table = tabulate_factor(fit, factor.name)
        labels = {f"label {i}": f"label of {name}" for i, name in enumerate(factor.columns)}
        kept = [*labels, "coefficient", "n", "u", "u_se", "u_low", "u_high"]
        inside = (
            f"; search for a label of '{factor.columns[0]}' to see what is in it"
            if len(factor.columns) > 1
            else ""
        )
        blocks.append(
            Table(
                f"effects_{at}",
                f"Effects of {shorten(factor.name)}",
                f"Empirical Bayes and its standard error of prediction, of "
                f"{count(fit.moments.groups[factor.name], 'unit')}{inside}.",
                table[kept].rename(columns=labels),
            )
        )
    return Section("groups", "Groups", tuple(blocks))


def build_level_reproduction(subject: Subject) -> Section:
    """Return the versions, and the lines that run it again."""
    fit = find_levels(subject)
    blocks: list[Block] = [tabulate_versions()]
    if command := subject.source.get("Command"):
        blocks.append(Text((command,), heading="The command", code=True))
    lines = (
        "import bhlm",
        f"model = bhlm.Model({fit.moments.formula!r}, table)",
        f"fit = model.reml(method={fit.method!r})",
    )
    blocks.append(Text(lines, heading="In Python", code=True))
    return Section("reproduction", "Reproduction", tuple(blocks))
