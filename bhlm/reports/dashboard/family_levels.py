"""The sections of a page about a family with several grouping factors."""

from dataclasses import replace

import numpy as np

from bhlm.layout import count, format_digits, format_percent, list_names, show_name
from bhlm.plots.family_check import draw_family_check
from bhlm.plots.family_groups import name_response
from bhlm.plots.forest import plot_forest
from bhlm.plots.level_caterpillar import plot_factor, tabulate_factor
from bhlm.plots.style import shorten
from bhlm.reml.family.level_checks import check_factors
from bhlm.reml.family.level_predictions import expect_units
from bhlm.reml.family.levels import FamilyLevelsEstimate, tell_integration
from bhlm.reml.family.population import explain_variance
from bhlm.reports.dashboard.blocks import Block, Facts, Section, Subject, Table, Text
from bhlm.reports.dashboard.families import (
    find_any_pair,
    judge_dispersion,
    tabulate_both,
    tabulate_effect_ratios,
    tabulate_ml,
    tell_check,
)
from bhlm.reports.dashboard.holdings import HEADING, list_holdings
from bhlm.reports.dashboard.verdict import join_ends, measure_rows, show_outcome

DRAWS = 400  # replicates of the checks


def find_counted(subject: Subject) -> FamilyLevelsEstimate:
    """Return the fit that a page is about."""
    fit = subject.counted
    assert isinstance(fit, FamilyLevelsEstimate)
    return fit


def build_family_level_verdict(subject: Subject) -> Section:
    """Return the findings, the facts, every estimate, ratios, and where the variance lies."""
    fit, pair = find_counted(subject), find_any_pair(subject)
    blocks = show_outcome(subject)
    if fit.label:
        told = tell_integration(fit)
        blocks.append(Text((f"{told[0].upper()}{told[1:]}.",), tone="caution", heading=fit.label))
    blocks += [_list_facts(fit), plot_forest(fit)]
    blocks += [tabulate_both(pair, None), tabulate_effect_ratios(pair), _tabulate_shares(fit)]
    blocks.append(Text(_describe_data(fit), heading="What was fitted", listed=True))
    sentences = list_holdings(subject, fit.patterns)
    blocks.append(Text(sentences, heading=HEADING, listed=True))
    blocks.append(tabulate_ml(fit, tell_integration(fit)))
    return Section("verdict", "Verdict", tuple(blocks))


def _list_facts(fit: FamilyLevelsEstimate) -> Facts:
    """Return what a reader asks first: of the data, the variance, and the likelihood."""
    patterns, icc = fit.patterns, fit.icc()
    items = [("Rows", f"{patterns.n_rows:,}")]
    items += [(f"Units of {shorten(name)}", f"{J:,}") for name, J in patterns.groups.items()]
    items.append(("Rows dropped", f"{patterns.dropped:,}"))
    ratio = (fit.family.ratio_name or "Hazard ratio").lower()
    for name in patterns.groups:
        if np.isfinite(icc.loc[name, "icc"]):
            value = format_digits(float(icc.loc[name, "icc"]), 2)
            items.append((f"ICC of {shorten(name)}, latent", value))
        if fit.family.link != "probit":
            value = format_digits(float(icc.loc[name, "median_ratio"]), 3)
            items.append((f"Median {ratio}, {shorten(name)}", value))
    if fit.family.link != "log":
        shares = explain_variance(fit)
        items += [(f"R², {name}", format_digits(value, 2)) for name, value in shares.items()]
    known = "approximate" if fit.error is None else f"known to {fit.error:.0e}"
    items.append(("Log-likelihood", known))
    icc_is = (
        ""
        if fit.family.link == "log"
        else " The ICC is on the latent scale of the link, of two rows that have the unit in "
        "common, at the means of the random columns."
    )
    ratio_is = (
        ""
        if fit.family.link == "probit"
        else " The median ratio is that of two rows which differ in this unit alone."
    )
    by = f" ({fit.label})" if fit.label else ""
    reading = f"By maximum likelihood{by}.{icc_is}{ratio_is}"
    return Facts("facts", "In short", reading, tuple(items))


def _tabulate_shares(fit: FamilyLevelsEstimate) -> Table:
    """Return the variance of each factor on the latent scale."""
    shares = fit.icc().dropna(axis=1, how="all").dropna(axis=0, how="all")
    if fit.family.link == "probit":  # whose effects have no ratios
        shares = shares.drop(columns="median_ratio")
    if "share" not in shares:
        largest = shares["variance"].idxmax()
        reading = (
            f"Counts have no residual on the link scale; the largest variance there, "
            f"{format_digits(float(shares['variance'].max()), 3)}, is that of "
            f"{shorten(str(largest))}."
        )
    else:
        parts = [
            f"{format_percent(float(shares.loc[name, 'share']))} with {shorten(name)}"
            for name in fit.patterns.groups
        ]
        ratio = (
            ", the median ratio that of two rows that differ in it alone"
            if "median_ratio" in shares
            else ""
        )
        reading = (
            f"Of the variance on the latent scale of the link {list_names(parts)} lies; ICC is the "
            f"correlation of two rows that have the unit in common{ratio}."
        )
    return Table("variance_shares", "Where the variance lies", reading, shares)


def _describe_data(fit: FamilyLevelsEstimate) -> tuple[str, ...]:
    patterns, test = fit.patterns, fit.lr_test
    levels = [f"{number:,} of '{name}'" for name, number in patterns.groups.items()]
    sizes = [
        f"a '{name}' has {size['min']} to {size['max']} rows, {size['mean']:.1f} on average"
        for name, size in patterns.group_size.items()
    ]
    sentences = [
        f"Formula: {patterns.formula}, {patterns.family.name} with {patterns.family.link} link.",
        f"{patterns.rows_used}: {list_names(levels, most=len(levels))}; {'; '.join(sizes)}. They "
        f"make {count(patterns.n_patterns, 'pattern')} of equal columns.",
        f"Maximum likelihood, {tell_integration(fit)}: log-likelihood {fit.loglik:.9g}; against "
        f"no random effects chi2({test['df']}) = {format_digits(test['chi2'], 4)}.",
    ]
    return (*sentences, *([f"{patterns.note.rstrip('.')}."] if patterns.note else []))


def build_family_level_groups(subject: Subject) -> Section:
    """Return of every factor the caterpillars of its units on both scales, and their table."""
    fit = find_counted(subject)
    name = name_response(fit)
    kind = "rate" if name == "rate" else "proportion"
    by = f" ({fit.label})" if fit.label else ""
    blocks: list[Block] = []
    for at, factor in enumerate(fit.patterns.factors):
        for scale in ("response", "link"):
            drawn = plot_factor(fit, factor.name, scale=scale)
            blocks.append(replace(drawn, name=f"{scale}_{at}"))
        effects, units = tabulate_factor(fit, factor.name), expect_units(fit, factor.name)
        coefficients = list(dict.fromkeys(effects["coefficient"]))
        own = effects.iloc[:: len(coefficients)].reset_index(drop=True)
        labels = {f"label {i}": f"label of {each}" for i, each in enumerate(factor.columns)}
        table = own[list(labels)].map(show_name).rename(columns=labels)
        table["rows"], table["observed"] = units["n"], units["observed"]
        table[f"expected {name}"] = units["estimate"]
        table["95 % interval"] = join_ends(units)
        for coefficient in coefficients:
            mine = effects[effects["coefficient"] == coefficient].reset_index(drop=True)
            table[f"effect, {coefficient}"] = mine["u"]
            table[f"its SD, {coefficient}"] = mine["u_se"]
        reading = (
            f"The observed {kind} of each unit, what is expected of it where every column has its "
            f"mean, at its own effects and those of what it lies in, and its effects on the "
            f"{fit.family.link} scale with their SDs given the parameters{by}."
        )
        title = f"Every unit of {shorten(factor.name)}"
        sized = ("observed", f"expected {name}")
        sizes = measure_rows(units)
        blocks.append(Table(f"units_{at}", title, reading, table, sizes=sizes, sized=sized))
    return Section("groups", "Groups", tuple(blocks))


def build_family_level_checks(subject: Subject) -> Section:
    """Return each factor's units beside replicates, the calibration, and overdispersion."""
    fit = find_counted(subject)
    names = list(fit.patterns.groups)
    blocks: list[Block] = []
    for at, check in enumerate(check_factors(fit, names, draws=DRAWS)):
        figure = draw_family_check(check)
        if at:  # the calibration is that of the first
            figure = replace(
                figure,
                name=f"predictive_{at}",
                table=check.groups,
                panels=figure.panels[1:],
                columns=1,
            )
        blocks += [figure, tell_check(check, f"Units of {shorten(names[at])}, and calibration")]
    blocks.append(
        Text(
            (
                "Each replicate has effects of its own for the same units, normal with "
                + (
                    "their joint mode and the curvature there, as Laplace's approximation has it."
                    if fit.label
                    else "their posterior means and covariances given the parameters."
                ),
            ),
            heading="How replicates were drawn",
        )
    )
    blocks.append(judge_dispersion(fit))
    return Section("checks", "Model checks", tuple(blocks))
