"""The first section: what was fitted, to what data, whether it holds, and what to do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.likelihood.parameters import RESIDUAL_SD
from bhlm.reml.fixed.few_groups import list_notes
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Table, Text, Tone

if TYPE_CHECKING:
    from bhlm.bayes.draws import Draws
    from bhlm.moments.moments import Moments
    from bhlm.reml.estimate import Estimate

# What each verdict of a reconciliation says on the badge.
BADGES: dict[str, tuple[str, Tone]] = {
    "agree": ("The two answers agree", "good"),
    "explained": ("Every gap is explained", "good"),
    "undetermined": ("Undetermined", "caution"),
    "unexplained": ("Unexplained gap", "bad"),
    "not_converged": ("Not converged", "bad"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the fits hold."""

    label: str  # two or three words, for a badge
    tone: Tone
    headline: str  # one sentence
    failures: tuple[str, ...]  # sentences; empty if all is well
    advice: tuple[str, ...]  # sentences on what to do


def judge(subject: Subject) -> Outcome:
    """Return whether the fits of a page hold, what fails, and what to do about it.

    A posterior whose diagnostics fail, a REML fit that did not converge, and a gap that nothing
    accounts for are bad; a singular REML fit calls for caution.
    """
    reml, post, both = subject.reml, subject.post, subject.both
    failures, advice = _list_failures(subject)
    if both is not None and both.verdict in ("undetermined", "unexplained", "not_converged"):
        label, tone = BADGES[both.verdict]
        headline = both.conclusion
    elif reml is not None and not reml.converged:
        label, tone = "Not converged", "bad"
        headline = "The REML fit did not converge: do not report its estimates."
    elif post is not None and not post.converged:
        label, tone = "Not converged", "bad"
        headline = "The posterior draws failed their diagnostics: do not report them."
    elif reml is not None and reml.singular:
        label, tone = "Singular REML fit", "caution"
        headline = (
            "The REML fit is singular: a variance or correlation stands on its boundary, where "
            "standard errors do not exist."
        )
    elif both is not None:
        label, tone = BADGES[both.verdict]
        headline = both.conclusion
    elif post is not None:
        label, tone = "Converged", "good"
        headline = f"The posterior draws pass every convergence check ({_list_numbers(post)})."
    else:
        label, tone = "Converged", "good"
        headline = "The REML fit converged to an interior maximum."
    return Outcome(label, tone, headline, failures, advice)


def _list_failures(subject: Subject) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what fails, a sentence each, and what to do, in the same manner."""
    reml, post, both = subject.reml, subject.post, subject.both
    failures = []
    advice: list[str] = []
    if reml is not None and reml.advice:
        failures.append(f"REML: {_end(reml.advice)}")
    if both is not None:
        # The reasons repeat what REML says of itself.
        failures += [reason for reason in both.reasons if reason not in failures]
        advice += both.advice
    elif post is not None:
        failures += [f"Posterior: {_end(failure)}" for failure in post.diagnostics.failures]
    if post is not None and not post.converged:
        advice.insert(
            0,
            "Sample again as each failed check says, with more tuning or other priors, and read "
            "the section on convergence before any number on this page.",
        )
    if reml is not None and not reml.converged:
        advice.insert(0, "Do not report the REML estimates until the optimiser converges.")
    elif reml is not None and reml.singular:
        advice.append(
            "Of the components that REML puts on the boundary report the posterior's interval, "
            "or fit the model without the term that REML puts there."
        )
    if both is not None and both.verdict == "unexplained":
        advice.insert(0, "Report neither answer before the unexplained part is found.")
    if both is not None and both.verdict == "undetermined":
        advice.insert(0, "Report both answers, and that what separates them is not known.")
    return tuple(failures), tuple(advice)


def build_verdict(subject: Subject) -> Section:
    """Return the section that a reader sees first: a failure, if there is one, leads it."""
    outcome = judge(subject)
    moments = find_moments(subject)
    is_failed = outcome.tone in ("bad", "caution")
    lead = outcome.failures if is_failed else ()
    advice = outcome.advice or ("Nothing: report the estimates with their intervals.",)
    banner = Text((outcome.headline, *lead), tone=outcome.tone, heading=outcome.label)
    blocks: list[Block] = [banner]
    to_do = Text(advice, heading="What to do", listed=len(advice) > 1)
    if is_failed:
        blocks.append(to_do)
    blocks.append(Text(_describe_data(subject, moments), heading="What was fitted", listed=True))
    blocks.append(Text(_describe_checks(subject, outcome), heading="Does it hold?", listed=True))
    if not is_failed:
        blocks.append(to_do)
    if subject.reml is not None:
        blocks.append(_tabulate_reml(subject.reml))
    if subject.post is not None:
        blocks.append(_tabulate_posterior(subject.post))
    return Section("verdict", "Verdict", tuple(blocks))


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


def _describe_checks(subject: Subject, outcome: Outcome) -> tuple[str, ...]:
    reml, post, both = subject.reml, subject.post, subject.both
    sentences = []
    if both is not None:
        label = BADGES[both.verdict][0].lower()
        sentences += [f"Reconciliation: {label}. {both.conclusion}"]
    if reml is not None:
        state = "converged" if reml.converged else "did not converge"
        where = "on the boundary (singular)" if reml.singular else "inside the parameter space"
        largest = float(np.max(np.abs(reml.gradient), initial=0.0))
        sentences.append(
            f"{reml.method.upper()} {state} {where} after {_count(len(reml.steps), 'step')}: "
            f"log-likelihood {reml.loglik:.7g}, largest gradient component {largest:.2g}."
        )
    if post is not None:
        state = "pass" if post.converged else "FAIL"
        sentences.append(f"The posterior draws {state} their checks: {_list_numbers(post)}.")
    if both is not None and both.printed_note:
        sentences.append(f"Printed values: {both.printed_note}")
    if outcome.tone == "good":
        sentences += outcome.failures
    return tuple(sentences)


def _list_numbers(post: "Draws") -> str:
    found = post.diagnostics
    return (
        f"largest R-hat {found.max_rhat:.4f}, smallest bulk ESS {found.min_ess_bulk:.0f}, smallest "
        f"tail ESS {found.min_ess_tail:.0f}, smallest E-BFMI {found.min_bfmi:.2f}, "
        f"{_count(found.divergences, 'divergence')}, {found.max_treedepth} at the tree-depth limit"
    )


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


def _end(sentence: str) -> str:
    return sentence if sentence.endswith(".") else f"{sentence}."
