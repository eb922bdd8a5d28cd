"""The sections of a page about a family with several grouping factors."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bhlm.bayes.family.level_checks import check_factors as check_drawn
from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.bayes.family.quantities import derive_level_icc, derive_r_squared
from bhlm.layout import count, format_digits, format_percent, list_names, show_name
from bhlm.likelihood.replicates import FamilyCheck
from bhlm.plots.family_check import draw_family_check
from bhlm.plots.family_groups import Pair, name_response
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
    tell_left_out,
    tell_run,
)
from bhlm.reports.dashboard.holdings import HEADING, list_holdings
from bhlm.reports.dashboard.levels import build_factor_groups, tabulate_drawn_shares
from bhlm.reports.dashboard.verdict import (
    join_ends,
    measure_rows,
    show_outcome,
    tabulate_posterior,
)

DRAWS = 400  # replicates of the checks


type Given = FamilyLevelsEstimate | FamilyLevelDraws


def find_level_pair(subject: Subject) -> Pair[FamilyLevelsEstimate, FamilyLevelDraws]:
    """Return the fits of several factors that a page is about."""
    ml, post = find_any_pair(subject)
    assert ml is None or isinstance(ml, FamilyLevelsEstimate)
    assert post is None or isinstance(post, FamilyLevelDraws)
    return Pair(ml, post)


def build_family_level_verdict(subject: Subject) -> Section:
    """Return the findings, the facts, every estimate, ratios, and where the variance lies."""
    own, pair, both = find_level_pair(subject), find_any_pair(subject), subject.both
    ml, post = own
    blocks = show_outcome(subject)
    if ml is not None and ml.label:
        told = tell_integration(ml)
        blocks.append(Text((f"{told[0].upper()}{told[1:]}.",), tone="caution", heading=ml.label))
    blocks += [_list_facts(own.given), plot_forest(own.given if both is None else both)]
    blocks += [tabulate_both(pair, both), tabulate_effect_ratios(pair)]
    if ml is not None:
        blocks.append(_tabulate_shares(ml))
    if post is not None and (drawn := derive_level_icc(post)).draws:
        blocks.append(tabulate_drawn_shares(drawn.estimates))
    blocks.append(Text(_describe_data(own), heading="What was fitted", listed=True))
    sentences = list_holdings(subject, own.given.moments)
    blocks.append(Text(sentences, heading=HEADING, listed=True))
    if ml is not None:
        blocks.append(tabulate_ml(ml, tell_integration(ml)))
    if post is not None:
        blocks.append(tabulate_posterior(post))
    return Section("verdict", "Verdict", tuple(blocks))


def _list_facts(fit: Given) -> Facts:
    """Return what a reader asks first: of the data, the variance, and the likelihood."""
    patterns = fit.moments
    items = [("Rows", f"{patterns.n_rows:,}")]
    items += [(f"Units of {shorten(name)}", f"{J:,}") for name, J in patterns.groups.items()]
    items.append(("Rows dropped", f"{patterns.dropped:,}"))
    ratio = (fit.family.ratio_name or "Hazard ratio").lower()
    iccs, ratios = _find_shares(fit)
    for name in patterns.groups:
        if np.isfinite(iccs.get(name, np.nan)):
            items.append((f"ICC of {shorten(name)}, latent", format_digits(iccs[name], 2)))
        if fit.family.link != "probit":
            items.append((f"Median {ratio}, {shorten(name)}", format_digits(ratios[name], 3)))
    if fit.family.link != "log":
        shares = (
            explain_variance(fit)
            if isinstance(fit, FamilyLevelsEstimate)
            else {name: float(x.mean()) for name, x in derive_r_squared(fit).draws.items()}
        )
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
    is_ml = isinstance(fit, FamilyLevelsEstimate)
    by = f" ({fit.label})" if isinstance(fit, FamilyLevelsEstimate) and fit.label else ""
    kind = f"maximum likelihood{by}" if is_ml else "the means of the posterior"
    return Facts("facts", "In short", f"By {kind}.{icc_is}{ratio_is}", tuple(items))


def _find_shares(fit: Given) -> tuple[dict[str, float], dict[str, float]]:
    """Return each factor's ICC and median ratio, of draws the means and the medians."""
    names = list(fit.moments.groups)
    if isinstance(fit, FamilyLevelsEstimate):
        table = fit.icc()
        return (
            {name: float(table.loc[name, "icc"]) for name in names},
            {name: float(table.loc[name, "median_ratio"]) for name in names},
        )
    draws = derive_level_icc(fit).draws
    return (
        {name: float(draws[f"icc({name})"].mean()) for name in names if f"icc({name})" in draws},
        {
            name: float(np.median(draws[f"median_ratio({name})"]))
            for name in names
            if f"median_ratio({name})" in draws
        },
    )


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


def _describe_data(pair: Pair[FamilyLevelsEstimate, FamilyLevelDraws]) -> tuple[str, ...]:
    patterns = pair.given.moments
    levels = [f"{number:,} of '{name}'" for name, number in patterns.groups.items()]
    sizes = [
        f"a '{name}' has {size['min']} to {size['max']} rows, {size['mean']:.1f} on average"
        for name, size in patterns.group_size.items()
    ]
    sentences = [
        f"Formula: {patterns.formula}, {patterns.family.name} with {patterns.family.link} link.",
        f"{patterns.rows_used}: {list_names(levels, most=len(levels))}; {'; '.join(sizes)}. They "
        f"make {count(patterns.n_patterns, 'pattern')} of equal columns.",
    ]
    if pair.ml is not None:
        fit, test = pair.ml, pair.ml.lr_test
        sentences.append(
            f"Maximum likelihood, {tell_integration(fit)}: log-likelihood {fit.loglik:.9g}; "
            f"against no random effects chi2({test['df']}) = {format_digits(test['chi2'], 4)}."
        )
    if pair.post is not None:
        sentences.append(tell_run(pair.post))
    return (*sentences, *([f"{patterns.note.rstrip('.')}."] if patterns.note else []))


def build_family_level_groups(subject: Subject) -> Section:
    """Return of every factor the caterpillars of its units on both scales, and their table."""
    ml, post = find_level_pair(subject)
    if post is not None:
        given = post if subject.both is None else subject.both
        return build_factor_groups(given, post.moments, spread="its SD given the estimates")
    assert ml is not None
    fit = ml
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
    ml, post = find_level_pair(subject)
    if post is not None:
        return _check_draws(ml, post)
    assert ml is not None
    fit = ml
    names = list(fit.patterns.groups)
    blocks = _show_checks(check_factors(fit, names, draws=DRAWS), names)
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


def _show_checks(checks: Sequence[FamilyCheck], names: Sequence[str]) -> list[Block]:
    """Return the figure of each factor's units, and what is outside of their replicates."""
    blocks: list[Block] = []
    for at, check in enumerate(checks):
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
    return blocks


def _check_draws(ml: FamilyLevelsEstimate | None, post: FamilyLevelDraws) -> Section:
    """Return the checks of a posterior: units beside replicates, overdispersion, units left out."""
    names = list(post.moments.groups)
    blocks: list[Block] = []
    if post.settings.prior_only:
        told = "The draws are from the prior alone, which no data can contradict yet."
        blocks.append(Text((told,)))
    else:
        blocks += _show_checks(check_drawn(post, names, draws=DRAWS), names)
    if ml is not None:
        blocks.append(judge_dispersion(ml))
    if not post.settings.prior_only:
        blocks.append(tell_left_out(post))
    return Section("checks", "Model checks", tuple(blocks))
