"""The first section: what was fitted, to what data, whether it holds, and what to do."""

from typing import TYPE_CHECKING

import numpy as np

from bhlm.likelihood.parameters import RESIDUAL_SD
from bhlm.reconciliation.findings import Finding
from bhlm.reml.fixed.contrasts import tabulate_fixed
from bhlm.reml.fixed.few_groups import list_notes
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text
from bhlm.reports.dashboard.holdings import describe_holdings
from bhlm.reports.dashboard.outcome import choose_tone, judge

if TYPE_CHECKING:
    from bhlm.bayes.draws import Draws
    from bhlm.moments.moments import Moments
    from bhlm.reml.estimate import Estimate


def build_verdict(subject: Subject) -> Section:
    """Return the section that a reader sees first: a failure, if there is one, leads it."""
    outcome = judge(subject)
    moments = find_moments(subject)
    is_failed = outcome.tone != "good"
    lead = outcome.failures if is_failed else ()
    advice = outcome.advice or ("Nothing: report the estimates with their intervals.",)
    banner = Text((outcome.headline, *lead), tone=outcome.tone, heading=outcome.label)
    to_do = Text(advice, heading="What to do", listed=len(advice) > 1)
    findings = [
        _show_finding(each, is_told=is_failed and each == outcome.findings.worst)
        for each in outcome.findings.told
    ]
    blocks: list[Block] = [banner]
    blocks += [to_do, *findings] if is_failed else [*findings, to_do]
    blocks.append(Text(_describe_data(subject, moments), heading="What was fitted", listed=True))
    blocks.append(describe_holdings(subject, moments))
    numbers = _list_numbers(subject)
    if numbers:
        blocks.append(Text(numbers, heading="In numbers", listed=True))
    if subject.reml is not None:
        blocks.append(_tabulate_reml(subject.reml))
        if subject.df is not None and subject.reml.converged:
            blocks.append(_tabulate_tests(subject.reml, subject.df))
    if subject.post is not None:
        blocks.append(_tabulate_posterior(subject.post))
    return Section("verdict", "Verdict", tuple(blocks))


def _show_finding(finding: Finding, *, is_told: bool) -> Text:
    """Return a finding under its topic; of one that leads the page only its first sentence."""
    details = () if is_told else finding.details
    label = "not judged" if finding.status == "unknown" else finding.label
    return Text(
        (finding.headline, *details),
        tone=choose_tone(finding),
        heading=f"{finding.topic.capitalize()}: {label[0].lower()}{label[1:]}",
    )


def find_moments(subject: Subject) -> "Moments":
    """Return the moments that the page's fits were made from."""
    fit = subject.reml if subject.reml is not None else subject.post
    assert fit is not None
    return fit.moments


def _describe_data(subject: Subject, moments: "Moments") -> tuple[str, ...]:
    size = moments.group_size
    spread = (
        f"{size['min']} rows each"
        if size["min"] == size["max"]
        else f"{size['min']} to {size['max']} rows each, {size['mean']:.1f} on average"
    )
    methods = []
    if subject.reml is not None:
        kind = "restricted" if subject.reml.method == "reml" else "full"
        methods.append(f"{kind} maximum likelihood ({subject.reml.method.upper()})")
    if subject.post is not None:
        chains, draws = subject.post.data["posterior"]["sigma"].shape
        methods.append(
            f"full Bayes ({_count(chains, 'chain')} of {_count(draws, 'draw')}, "
            f"{subject.post.sampler})"
        )
    sentences = [
        f"Formula: {moments.formula}",
        f"Data: {_count(moments.n_rows, 'row')} in {_count(moments.n_groups, 'group')} of "
        f"'{moments.group}', {spread}.",
        _describe_dropped(moments),
        f"Estimated by {' and by '.join(methods)}.",
    ]
    if moments.suppressed:
        sentences.append(
            f"{_count(moments.suppressed, 'row')} of groups too small to disclose left out."
        )
    if subject.model is None or not subject.model.has_rows:
        sentences.append(
            "Only the moments of the rows are at hand, not the rows: figures of single rows are "
            "left out. Give the model that was made from the table, model=..., or --data on the "
            "command line, to have them."
        )
    sentences += [
        f"{label}: {text}" for label, text in subject.source.items() if label != "Command"
    ]
    return tuple(sentences)


def _describe_dropped(moments: "Moments") -> str:
    if not moments.dropped:
        return "No row was dropped: every column of the formula is complete."
    share = moments.dropped / (moments.n_rows + moments.suppressed + moments.dropped)
    return f"{moments.rows_used}: {share:.1%} left out."


def _list_numbers(subject: Subject) -> tuple[str, ...]:
    """Return what REML says of itself, and of the printed values, in numbers."""
    reml, both = subject.reml, subject.both
    sentences = []
    if reml is not None:
        state = "converged" if reml.converged else "did not converge"
        where = "on the boundary (singular)" if reml.singular else "inside the parameter space"
        largest = float(np.max(np.abs(reml.gradient), initial=0.0))
        sentences.append(
            f"{reml.method.upper()} {state} {where} after {_count(len(reml.steps), 'step')}: "
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
    sd, wald = table.loc[str(RESIDUAL_SD), "estimate"], fit.wald
    joint = (
        f"; jointly the slopes differ from 0 with chi2({wald['df']}) = {wald['chi2']:.4g}, "
        f"p = {wald['p']:.2g}"
        if wald["df"]
        else ""
    )
    reading = (
        f"By {fit.method.upper()} {intervals} {verb} 0 and the residual SD is {sd:.4g}{joint}."
    )
    reading = " ".join([reading, *(f"{note}." for note in list_notes(fit))])
    return Table("reml_estimates", f"{fit.method.upper()} estimates", reading, table, digits=6)


def _tabulate_tests(fit: "Estimate", df: str) -> Table:
    table = tabulate_fixed(fit, method=df)
    low = int((table["p"] < 0.05).sum())
    few = (
        f"; the fewest degrees of freedom, {table['df'].min():.4g}, are those of "
        f"{table['df'].idxmin()}"
        if np.isfinite(table["df"].min())
        else ""
    )
    reading = (
        f"By df='{df}' p is below .05 for {low or 'none'} of {_count(len(table), 'fixed effect')}"
        f"{few}."
    )
    return Table("fixed_tests", "Tests of the fixed effects", reading, table, digits=6)


def _tabulate_posterior(fit: "Draws") -> Table:
    table = fit.estimates
    least, worst = table["ess_bulk"].idxmin(), table["rhat"].idxmax()
    noise = (table["mcse_mean"] / table["sd"]).max()
    reading = (
        f"Monte Carlo error is at most {noise:.2g} posterior SDs; the fewest effective draws, "
        f"{table.loc[least, 'ess_bulk']:.0f}, are those of {least}, and the largest R-hat, "
        f"{table.loc[worst, 'rhat']:.4f}, is that of {worst}."
    )
    return Table("posterior_estimates", "Posterior estimates", reading, table, digits=5)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
