"""What stands over every block of a page that rests on a fit which failed."""

from collections.abc import Sequence
from dataclasses import replace

from bhlm.reconciliation.findings import list_failed, name_failed
from bhlm.reconciliation.words import speak_of_ml
from bhlm.reports.dashboard.blocks import Block, Section, Subject, Text

# Blocks and headings of texts that rest on REML alone, in whatever section; and on no fit.
REML_ONLY = (
    "reml_estimates",
    "conventions",
    "fixed_tests",
    "influence",
    "residuals",
    "shrinkage",
    "Influence",
    "Residuals",
    "Residuals against the normal distribution",
    "From least squares to empirical Bayes",
)
FITLESS = ("What was fitted", "The priors", "What to do")
# Sections that rest on draws alone.
POSTERIOR = ("convergence", "priors", "checks")
# The section whose readings are about the failure, and the one that has no results.
FRANK = "convergence"
BARE = "reproduction"


def mark_failed(sections: Sequence[Section], subject: Subject) -> tuple[Section, ...]:
    """Return the sections with what rests on a failed fit marked, and nothing good said of it.

    Each such block carries a mark; a text that consoles gives way to one that says why it cannot,
    and what was read off the numbers of a figure or table is not told. The convergence keeps its
    readings, which are about the failure.
    """
    failed = list_failed(subject.estimate, subject.posterior)
    if not failed:
        return tuple(sections)
    return tuple(
        section if section.name == BARE else _mark_section(section, failed, subject)
        for section in sections
    )


def _mark_section(section: Section, failed: Sequence[str], subject: Subject) -> Section:
    marked = [_mark(block, section.name, failed, subject) for block in section.blocks]
    blocks, marks = zip(*marked, strict=True)
    return replace(section, blocks=blocks, marks=marks)


def _mark(block: Block, section: str, failed: Sequence[str], subject: Subject) -> tuple[Block, str]:
    """Return a block as it may be shown, and what stands over it."""
    rests_on = ("reml",) if subject.posterior is None else _find_fits(block, section)
    why = [each for each in failed if each in rests_on]
    if not why:
        return block, ""
    told = name_failed(why)
    estimate = subject.estimate
    told = speak_of_ml(told) if estimate is not None and estimate.method == "ml" else told
    mark = f"Not to be reported: {told}."
    if isinstance(block, Text):
        if block.heading in FITLESS or block.tone == "bad" or section == "verdict":
            return block, ""
        if block.tone == "good":
            sentence = f"Not judged: {told}."
            return replace(block, sentences=(sentence,), tone="bad", listed=False), ""
        return block, mark
    reading = block.reading if section == FRANK else f"Not read: {told}."
    return replace(block, reading=reading), mark


def _find_fits(block: Block, section: str) -> tuple[str, ...]:
    """Return which fits a block rests on."""
    name = block.heading if isinstance(block, Text) else block.name
    if name in REML_ONLY:
        return ("reml",)
    if section in POSTERIOR or name == "posterior_estimates":
        return ("posterior",)
    return ("reml", "posterior")
