"""The first section: what was fitted, to what data, whether it holds, and what to do."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.quantities import derive_icc, derive_r_squared
from bhlm.layout import count, format_digits, format_percent
from bhlm.likelihood.parameters import RESIDUAL_SD
from bhlm.moments.moments import INTERCEPT
from bhlm.plots.figure import Figure
from bhlm.plots.forest import list_rows, plot_forest
from bhlm.plots.studies import MOST, plot_studies
from bhlm.plots.style import shorten
from bhlm.reconciliation.findings import Finding
from bhlm.reml.compare import intraclass_correlation, r_squared
from bhlm.reml.conventions import compare_conventions
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.fixed.contrasts import tabulate_fixed
from bhlm.reml.fixed.few_groups import note_binary, note_few_groups, tell_weights
from bhlm.reml.heterogeneity import measure_heterogeneity
from bhlm.reml.sandwich import CONVENTIONS, tell_errors
from bhlm.reml.strata import StrataEstimate
from bhlm.reports.dashboard.blocks import Block, Facts, Section, Subject, Table, Text, Tone
from bhlm.reports.dashboard.cells import count_decimals, separate_thousands
from bhlm.reports.dashboard.holdings import describe_holdings
from bhlm.reports.dashboard.outcome import choose_tone, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from bhlm.bayes.draws import Posterior
    from bhlm.moments.moments import Moments
    from bhlm.reml.estimate import Estimate
    from bhlm.reml.maximum import Maximum

MOST_STRATA = 4  # whose residual SDs stand among the facts


def build_verdict(subject: Subject) -> Section:
    """Return the section that a reader sees first: a failure, if there is one, leads it."""
    moments = find_moments(subject)
    blocks = show_outcome(subject)
    blocks += [_list_facts(subject, moments), _draw_lead(subject), tabulate_both(subject)]
    blocks.append(Text(_describe_data(subject, moments), heading="What was fitted", listed=True))
    blocks.append(describe_holdings(subject, moments))
    numbers = _list_numbers(subject)
    if numbers:
        blocks.append(Text(numbers, heading="In numbers", listed=True))
    if subject.strata is not None:
        blocks.append(_tabulate_strata(subject.strata))
    elif subject.reml is not None:
        blocks.append(_tabulate_reml(subject.reml))
        if subject.reml.errors != "model":
            blocks.append(tabulate_conventions(subject.reml))
    if subject.reml is not None and subject.df is not None and subject.reml.converged:
        blocks.append(tabulate_tests(subject.reml, subject.df))
    if subject.post is not None:
        blocks.append(tabulate_posterior(subject.post))
    return Section("verdict", "Verdict", tuple(blocks))


def show_outcome(subject: Subject) -> list[Block]:
    """Return the findings and what to do about them: a failure, if there is one, leads them."""
    outcome = judge(subject)
    is_failed = outcome.tone != "good"
    lead = outcome.failures if is_failed else ()
    advice = outcome.advice or ("Nothing: report the estimates with their intervals.",)
    banner = Text((outcome.headline, *lead), tone=outcome.tone, heading=outcome.label)
    to_do = Text(advice, heading="What to do", listed=len(advice) > 1)
    findings = [
        _show_finding(each, is_told=is_failed and each == outcome.findings.worst)
        for each in outcome.findings.told
    ]
    findings += _show_weights(subject)
    return [banner, to_do, *findings]


def _draw_lead(subject: Subject) -> Figure:
    """Return the first figure: the studies of a meta-analysis, else every parameter."""
    reml = subject.reml
    if reml is not None and subject.both is None and holds_studies(reml):
        return plot_studies(reml)
    return plot_forest(subject.both or find_fit(subject))


def holds_studies(fit: "Estimate") -> bool:
    """Return whether a fit is a meta-analysis with a row a study, few enough to be drawn."""
    moments = fit.moments
    return (
        fit.weights is not None
        and fit.weights.holds_sigma
        and moments.n_rows == moments.n_groups <= MOST
        and moments.random == (INTERCEPT,)
    )


def _show_finding(finding: Finding, *, is_told: bool) -> Text:
    """Return a finding under its topic; of one that leads the page only its first sentence."""
    details = () if is_told else finding.details
    label = "not judged" if finding.status == "unknown" else finding.label
    return Text(
        (finding.headline, *details),
        tone=choose_tone(finding),
        heading=f"{finding.topic.capitalize()}: {label[0].lower()}{label[1:]}",
        light=True,
    )


def _show_weights(subject: Subject) -> list[Text]:
    """Return what the weights are, and what was done to the draws of a pseudo-posterior."""
    fit = subject.reml if subject.reml is not None else subject.post
    weights = None if fit is None else fit.moments.weights
    if fit is None or weights is None:
        return []
    sentences = [f"{tell_weights(fit.moments)}."]
    tone: Tone = "plain"
    adjustment = None if subject.post is None else subject.post.adjustment
    if adjustment is not None:
        sentences.append(f"{adjustment.sentence[0].upper()}{adjustment.sentence[1:]}.")
        tone = "caution" if adjustment.failure else "plain"
    heading = f"Weights: {weights.kind}"
    if weights.holds_sigma:
        heading = "Known sampling variances"
    if weights.strata:
        heading = "Residual variances by stratum"
    return [Text(tuple(sentences), tone=tone, heading=heading, light=True)]


def find_moments(subject: Subject) -> "Moments":
    """Return the moments that the page's fits were made from."""
    fit = subject.reml if subject.reml is not None else subject.post
    assert fit is not None
    return fit.moments


def find_fit(subject: Subject) -> "Maximum | StrataEstimate | Posterior":
    """Return the fit by REML, or the posterior where there is none."""
    fit = subject.estimate if subject.estimate is not None else subject.posterior
    assert fit is not None
    assert not isinstance(fit, FamilyMaximum)
    return fit


def _list_facts(subject: Subject, moments: "Moments") -> Facts:
    """Return what a reader asks first of the data and of the variance."""
    if moments.weights is not None and (moments.weights.holds_sigma or moments.weights.strata):
        return _list_known_facts(subject, moments)
    if subject.reml is not None:
        icc = intraclass_correlation(subject.reml)
        shares = r_squared(subject.reml)
    else:
        assert subject.post is not None
        icc = float(derive_icc(subject.post).draws["icc"].mean())
        draws = derive_r_squared(subject.post).draws
        shares = {name: float(values.mean()) for name, values in draws.items()}
    items = (
        *_count_rows(moments),
        ("ICC", format_digits(icc, 2)),
        ("R², marginal", format_digits(shares["marginal"], 2)),
        ("R², conditional", format_digits(shares["conditional"], 2)),
    )
    kind = "the posterior" if subject.reml is None else subject.reml.method.upper()
    reading = f"ICC at the means of the random columns, R² of Nakagawa and others, by {kind}."
    return Facts("facts", "In short", reading, items)


def _count_rows(moments: "Moments") -> list[tuple[str, str]]:
    """Return how many rows and groups there are, and how many count under sampling weights."""
    items = [
        ("Rows", f"{moments.n_rows:,}"),
        (f"Groups of {shorten(moments.group)}", f"{moments.n_groups:,}"),
        ("Rows dropped", f"{moments.dropped:,}"),
    ]
    if moments.weights is not None and moments.weights.is_sampling:
        size = moments.effective_size
        items += [
            ("Effective rows", f"{size['rows']:,.0f}"),
            ("Effective groups", f"{size['groups']:,.0f}"),
        ]
    return items


def _list_known_facts(subject: Subject, moments: "Moments") -> Facts:
    """Return the facts where rows have no one residual variance, and so no ICC: strata, studies."""
    items, reml = _count_rows(moments), subject.reml
    if subject.strata is not None:
        variances = subject.strata.residual_variances
        items += [
            (f"Residual SD, {shorten(subject.strata.strata.column)} {shorten(level)}",
             format_digits(float(np.sqrt(value)), 3))
            for level, value in list(variances.items())[:MOST_STRATA]
        ]  # fmt: skip
        reading = "The residual SD of each stratum, by maximum likelihood."
    elif reml is not None and moments.weights is not None and moments.weights.holds_sigma:
        found = measure_heterogeneity(reml)
        items += [(f"Q, {found.df} df", format_digits(found.q, 4))]
        items += [("p", "< .001" if found.p < 0.001 else f"{found.p:.3f}")]
        if np.isfinite(found.i2):
            items += [("τ²", format_digits(found.tau2, 3)), ("I²", f"{found.i2:.0f} %")]
        reading = (
            "Q tests whether the effects vary beyond their sampling errors; I² is the share of "
            "their variance that is no sampling error."
        )
    else:
        reading = "Rows and groups that were used."
    return Facts("facts", "In short", reading, tuple(items))


def tabulate_both(subject: Subject) -> Table:
    """Return estimates and 95 % intervals of every fit side by side, with p and verdict."""
    import pandas as pd

    reml, post, both = subject.estimate, subject.posterior, subject.both
    assert not isinstance(reml, FamilyMaximum)
    names = list_rows(find_fit(subject))
    frame = pd.DataFrame(index=pd.Index(names, name="parameter"))
    tables = [fit.estimates.loc[names] for fit in (reml, post) if fit is not None]
    sizes = measure_rows(*tables)
    sized = ["posterior mean"]
    if reml is not None:
        table, label = tables[0], reml.method.upper()
        frame[label] = table["estimate"]
        sized.append(label)
        frame[f"{label} 95 % interval"] = join_ends(table, sizes)
    if post is not None:
        table = tables[-1]
        frame["posterior mean"] = table["mean"]
        frame["posterior 95 % interval"] = join_ends(table, sizes)
    tests = ""
    if reml is not None and reml.converged:
        method, tests = subject.df or "satterthwaite", " p is by t on Satterthwaite's df."
        # The strata's ratios are estimates too, of which no df is known.
        tested = reml.at if isinstance(reml, StrataEstimate) else reml
        if isinstance(reml, StrataEstimate) or tested.judged_by_z:
            method, tests = "z", " p is by z."
        elif subject.df:
            tests = f" p is by df='{method}'."
        frame["p"] = tabulate_fixed(tested, method=method)["p"].reindex(names)
    if both is not None:
        frame["verdict"] = both.table["verdict"].reindex(names)
    clear = "Estimates with their 95 % intervals" if both is None else "Both answers"
    reading = f"{clear}, fixed effects first, then SDs and correlations.{tests}"
    return Table("estimates", "Estimates", reading, frame, sizes=sizes, sized=tuple(sized))


def measure_rows(*tables: "pd.DataFrame") -> tuple[float, ...]:
    """Return the width of each row's narrowest 95 % interval, to whose digits the row is shown.

    nan stands for a row without an interval.

    Args:
        tables: with columns `lower` and `upper`, all of the same rows.
    """
    widths = np.array([(table["upper"] - table["lower"]).to_numpy(float) for table in tables])
    widths[~np.isfinite(widths) | (widths <= 0.0)] = np.inf
    least = widths.min(axis=0)
    return tuple(np.where(np.isfinite(least), least, np.nan).tolist())


def join_ends(table: "pd.DataFrame", sizes: "Sequence[float] | None" = None) -> list[str]:
    """Return intervals as text, to the digits of their rows.

    Args:
        table: with columns `lower` and `upper`.
        sizes: what `measure_rows` returns; None measures these intervals alone.
    """
    decimals = count_decimals(measure_rows(table) if sizes is None else sizes)
    texts = []
    for low, high, own in zip(table["lower"], table["upper"], decimals, strict=True):
        if not (np.isfinite(low) and np.isfinite(high)):
            texts.append("none")
            continue
        places = 2 if own is None else own
        ends = (
            separate_thousands(f"{round(float(end), places) + 0.0:.{places}f}")
            for end in (low, high)
        )
        texts.append(" to ".join(ends))
    return texts


def _describe_data(subject: Subject, moments: "Moments") -> tuple[str, ...]:
    methods = []
    if subject.reml is not None:
        kind = "restricted" if subject.reml.method == "reml" else "full"
        methods.append(f"{kind} maximum likelihood ({subject.reml.method.upper()})")
    if subject.post is not None:
        chains, draws = subject.post.shape
        methods.append(
            f"full Bayes ({count(chains, 'chain')} of {count(draws, 'draw')}, "
            f"{subject.post.sampler})"
        )
    sentences = [
        f"Formula: {moments.formula}",
        describe_sizes(moments),
        describe_dropped(moments),
        f"Estimated by {' and by '.join(methods)}.",
    ]
    if moments.suppressed:
        sentences.append(
            f"{count(moments.suppressed, 'row')} of groups too small to disclose left out."
        )
    if subject.model is None or not subject.model.has_rows:
        sentences.append(
            "Only the moments of the rows are at hand, not the rows: figures of single rows are "
            "left out."
        )
    sentences += [
        f"{label}: {text}" for label, text in subject.source.items() if label != "Command"
    ]
    return tuple(sentences)


def describe_sizes(moments: "Moments") -> str:
    """Return how many rows there are, in how many groups of which size."""
    size = moments.group_size
    spread = (
        count(int(size["min"]), "row") + " each"
        if size["min"] == size["max"]
        else f"{size['min']} to {size['max']} rows each, {size['mean']:.1f} on average"
    )
    return (
        f"Data: {count(moments.n_rows, 'row')} in {count(moments.n_groups, 'group')} of "
        f"'{moments.group}', {spread}."
    )


def describe_dropped(moments: "Moments") -> str:
    """Return how many rows were left out, and of how many."""
    if not moments.dropped:
        return "No row was dropped: every column of the formula is complete."
    share = moments.dropped / (moments.n_rows + moments.suppressed + moments.dropped)
    return f"{moments.rows_used}: {format_percent(share, 1)} left out."


def _list_numbers(subject: Subject) -> tuple[str, ...]:
    """Return what REML says of itself, and of the printed values, in numbers."""
    reml, both = subject.reml, subject.both
    sentences = []
    if reml is not None:
        state = "converged" if reml.converged else "did not converge"
        where = "on the boundary (singular)" if reml.singular else "inside the parameter space"
        largest = float(np.max(np.abs(reml.gradient), initial=0.0))
        sentences.append(
            f"{reml.method.upper()} {state} {where} after {count(len(reml.steps), 'step')}: "
            f"log-likelihood {reml.loglik:.7g}, largest gradient component {largest:.2g}."
        )
    if both is not None and both.printed_note:
        sentences.append(f"Printed values: {both.printed_note}")
    return tuple(sentences)


def _tabulate_reml(fit: "Estimate") -> Table:
    table = fit.estimates
    fixed = table.loc[list(fit.moments.fixed)]
    clear = int(((fixed["lower"] > 0.0) | (fixed["upper"] < 0.0)).sum())
    if len(fixed) == 1:
        intervals = "the 95 % interval of the one fixed effect"
        verb = "excludes" if clear else "includes"
    else:
        intervals = f"the 95 % intervals of {clear or 'none'} of the {len(fixed)} fixed effects"
        verb = "exclude"
    wald = fit.wald
    joint = (
        f"; jointly the slopes differ from 0 with chi2({wald['df']}) = {wald['chi2']:.4g}, "
        f"p = {wald['p']:.2g}"
        if wald["df"]
        else ""
    )
    spread = (
        f" and the residual SD is {table.loc[str(RESIDUAL_SD), 'estimate']:.4g}"
        if str(RESIDUAL_SD) in table.index and fit.white.held is None
        else ""
    )
    reading = f"By {fit.method.upper()} {intervals} {verb} 0{spread}{joint}."
    reading = " ".join([reading, *(f"{note}." for note in list_page_notes(fit))])
    return Table("reml_estimates", f"{fit.method.upper()} estimates", reading, table)


def tabulate_conventions(fit: "Estimate") -> Table:
    """Return the standard errors as programs print them, and how far they are apart."""
    found = compare_conventions(fit)
    ratio = (found[list(CONVENTIONS)].max(axis=1) / found[list(CONVENTIONS)].min(axis=1)).dropna()
    worst = ratio.idxmax()
    reading = (
        f"The largest is at most {ratio[worst] - 1.0:.1%} above the smallest, of {worst}. They are "
        f"those of {'; '.join(f'{each.programs} ({name})' for name, each in CONVENTIONS.items())}."
    )
    return Table("conventions", "Standard errors of other programs", reading, found)


def list_page_notes(fit: "Estimate") -> list[str]:
    """Return the sentences under the table of estimates: weights, errors, few groups, 0 and 1."""
    notes = [tell_weights(fit.moments)]
    if fit.errors != "model":
        notes.append(f"Standard errors are by {tell_errors(fit.errors)}")
    return [note for note in (*notes, tell_few_groups(fit), note_binary(fit)) if note]


def tell_few_groups(fit: "Maximum") -> str:
    """Return the sentence about few groups without the Python that asks for every test by t."""
    return note_few_groups(fit, advise=False)


def _tabulate_strata(fit: "StrataEstimate") -> Table:
    test, column = fit.test_homogeneity(), shorten(fit.strata.column)
    title = f"{fit.method.upper()} estimates"
    if not test["df"]:
        return Table("reml_estimates", title, f"{column} has one stratum.", fit.estimates)
    p = test["p"]
    told = "differ" if p < 0.05 else "can be one"
    reading = (
        f"The residual variances by {column} {told}: the LR test of one for all has "
        f"chi2({test['df']:.0f}) = {test['chi2']:.4g}, "
        f"{'p < .001' if p < 0.001 else f'p = {p:.3f}'}."
    )
    return Table("reml_estimates", title, reading, fit.estimates)


def tabulate_tests(fit: "Maximum", df: str) -> Table:
    """Return the tests of the fixed effects by one method."""
    table = tabulate_fixed(fit, method=df)
    low = int((table["p"] < 0.05).sum())
    few = (
        f"; the fewest degrees of freedom, {table['df'].min():.4g}, are those of "
        f"{table['df'].idxmin()}"
        if np.isfinite(table["df"].min())
        else ""
    )
    reading = (
        f"By df='{df}' p is below .05 for {low or 'none'} of {count(len(table), 'fixed effect')}"
        f"{few}."
    )
    return Table("fixed_tests", "Tests of the fixed effects", reading, table)


def tabulate_posterior(fit: "Posterior") -> Table:
    """Return the estimates of the posterior, with what is worst among their diagnostics."""
    table = fit.estimates
    least, worst = table["ess_bulk"].idxmin(), table["rhat"].idxmax()
    noise = (table["mcse_mean"] / table["sd"]).max()
    reading = (
        f"Monte Carlo error is at most {noise:.2g} posterior SDs; the fewest effective draws, "
        f"{table.loc[least, 'ess_bulk']:.0f}, are those of {least}, and the largest R-hat, "
        f"{table.loc[worst, 'rhat']:.4f}, is that of {worst}."
    )
    return Table("posterior_estimates", "Posterior estimates", reading, table)
