"""Whether the fits of a page hold: the findings, and which of them stands on the badge."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bhlm.layout import count, list_names
from bhlm.plots.imputations import name_fits
from bhlm.reconciliation.findings import (
    Finding,
    Findings,
    judge_agreement,
    judge_convergence,
    judge_model,
    judge_priors,
    list_failed,
)
from bhlm.reconciliation.words import advise_failed
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reports.dashboard.blocks import Subject, Tone

if TYPE_CHECKING:
    from bhlm.studies.imputations.mixture import Mixture
    from bhlm.studies.imputations.pooled import Pooled


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the fits hold."""

    label: str  # two to four words, for a badge
    tone: Tone
    headline: str  # one sentence
    failures: tuple[str, ...]  # sentences; empty if all is well
    advice: tuple[str, ...]  # sentences on what to do
    findings: Findings


def judge(subject: Subject) -> Outcome:
    """Return whether the fits of a page hold, what fails, and what to do about it.

    The badge is that of the gravest finding; only where all hold is it good.
    """
    findings = gather_findings(subject)
    worst = findings.worst
    return Outcome(
        label=worst.label,
        tone=choose_tone(worst),
        headline=worst.headline,
        failures=worst.details,
        advice=_advise(subject, findings),
        findings=findings,
    )


def choose_tone(finding: Finding) -> Tone:
    """Return the tone of a finding.

    Numbers that are wrong are bad: of a fit that failed, of a gap that nothing accounts for, of an
    improper posterior. A model that misses something calls for caution: its numbers are right.
    """
    if finding.holds:
        return "good"
    return "bad" if finding.status == "fails" and finding.topic != "model checks" else "caution"


def gather_findings(subject: Subject) -> Findings:
    """Return the findings on the fits of a page, those of the reconciliation where there is one."""
    if subject.pooled is not None:
        convergence = _judge_pooled(subject.pooled)
        if subject.mixture is not None:
            drawn = judge_mixture(subject.mixture)
            convergence = drawn if convergence.holds or not drawn.holds else convergence
        mixed = subject.mixed
        agreement = (
            None
            if mixed is None
            else judge_agreement(mixed.verdict, mixed.conclusion, mixed.reasons)
        )
        return Findings(convergence, agreement, None, None)
    if subject.fits:
        found = {name: judge_convergence(None, fit) for name, fit in subject.fits.items()}
        worst = next((name for name, each in found.items() if not each.holds), None)
        if worst is None:
            return Findings(next(iter(found.values())), None, None, None)
        headline = f"{worst}: {found[worst].headline}"
        return Findings(replace(found[worst], headline=headline), None, None, None)
    reml, post, both = subject.estimate, subject.posterior, subject.both
    if both is not None:
        return both.findings
    convergence = judge_convergence(reml, post)
    if post is None or post.settings.prior_only:
        return Findings(convergence, None, None, None)
    failed = list_failed(reml, post)
    return Findings(
        convergence,
        None,
        judge_model(subject.checks, failed=failed),
        judge_priors(subject.checks, failed=failed, bound=post.diagnostics.prior_bound),
    )


def _judge_pooled(pooled: "Pooled") -> Finding:
    """Return whether the fits that were pooled, all of which converged, are inside the boundary."""
    singular = sum(fit.singular for fit in pooled.fits)
    fits = count(pooled.m, "fit")
    if singular:
        headline = (
            f"{fits} converged and were pooled by Rubin's rules; {singular} of them "
            f"{'is' if singular == 1 else 'are'} singular: a variance or correlation stands on "
            "its boundary, where standard errors do not exist."
        )
        return Finding("convergence", "caution", "Singular fits", headline)
    headline = f"{fits} converged to an interior maximum each, and were pooled by Rubin's rules."
    return Finding("convergence", "holds", "Converged and pooled", headline)


def judge_mixture(mixture: "Mixture") -> Finding:
    """Return whether the draws given every imputation pass."""
    names = name_fits(mixture.pooled)
    failed = {
        name: fit.diagnostics.failures
        for name, fit in zip(names, mixture.fits, strict=True)
        if not fit.converged
    }
    number = len(mixture.fits)
    if failed:
        headline = (
            f"The draws given {list_names(list(failed), most=len(failed))} fail, so that their "
            "mixture is not to be reported."
        )
        details = tuple(f"{name}: {texts[0]}." for name, texts in failed.items())
        return Finding("convergence", "fails", "Not converged", headline, details)
    headline = f"{count(number, 'fit')} were pooled by Rubin's rules, and the draws given each pass"
    return Finding("convergence", "holds", "Converged and pooled", f"{headline} every check.")


def _advise(subject: Subject, findings: Findings) -> tuple[str, ...]:
    reml, both = subject.estimate, subject.both
    failed = list_failed(reml, subject.posterior)
    if failed:
        return tuple(advise_failed(failed))
    if subject.mixture is not None and not subject.mixture.converged:
        return ("Sample again, with more draws or a longer warm-up, before any draw is used.",)
    gaps = [] if both is None else list(both.advice)
    verdict = both.verdict if both is not None else subject.mixed and subject.mixed.verdict
    if verdict == "unexplained":
        gaps.insert(0, "Report neither answer before the unexplained part is found.")
    if verdict == "undetermined":
        gaps.insert(0, "Report both answers, and that what separates them is not known.")
    boundary: list[str] = []
    if subject.pooled is not None and any(fit.singular for fit in subject.pooled.fits):
        boundary.append(
            "Report the fixed effects; of the components on the boundary say in how many fits they "
            "are there, or fit the model without the term that is."
        )
    if isinstance(reml, FamilyLevelsEstimate) and reml.singular:  # which have no posterior
        boundary.append(
            "Report the fixed effects, and of the components on the boundary that they are there; "
            "or fit the model without the term that is."
        )
    elif reml is not None and reml.singular:
        label = reml.method.upper()
        boundary.append(
            f"Of the components that {label} puts on the boundary report the posterior's interval, "
            f"or fit the model without the term that {label} puts there."
        )
    model, priors = findings.model_checks, findings.priors
    checks: list[str] = []
    if model is not None and model.status in ("fails", "caution"):
        checks.append(
            "Look at the model checks: report what the model misses beside its estimates, or fit "
            "a model that has it."
        )
    elif model is not None and not model.holds:
        checks.append("Say beside the estimates what of the model was not checked.")
    stated: list[str] = []
    if priors is not None and priors.status in ("fails", "caution"):
        stated.append(
            "Report the priors, and the reason for them, beside what depends on them; the section "
            "Priors says what does."
        )
    advice = {
        "convergence": boundary, "reconciliation": gaps, "model checks": checks, "priors": stated,
    }  # fmt: skip
    # What the page leads with is answered first.
    topics = sorted(advice, key=lambda topic: topic != findings.worst.topic)
    return tuple(sentence for topic in topics for sentence in advice[topic])
