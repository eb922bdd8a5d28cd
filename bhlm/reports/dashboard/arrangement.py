"""Where the blocks of a page stand: side by side, across, or folded away."""

from collections.abc import Collection
from dataclasses import replace
from math import ceil
from typing import NamedTuple

from bhlm.plots.figure import Figure
from bhlm.reports.dashboard.blocks import Block, Text


class Place(NamedTuple):
    """How a block stands on the page."""

    width: int  # of the twelve columns of a wide screen
    folded: bool  # behind its title


ACROSS, HALF = 12, 6
LEAD, BESIDE = 7, 5  # what a page says first, and what to do about it
BOTH = "verdict-estimates"  # the table of all fits, beside which each one's own is folded
HALVES = {
    "verdict-missing_information",
    *("groups-shrinkage", "groups-group", "checks-loo_pit", "checks-khat"),
}
# Side by side; one that stands alone stands across.
PIT, KHAT = "checks-loo_pit", "checks-khat"
# The forest of pooled fits stands beside what the imputations cost each parameter.
# Where the variance lies by each fit, side by side where there are two.
SHARES = {"verdict-variance_shares", "verdict-posterior_shares"}
FIRST, TO_DO = "verdict-text", "What to do"
FOREST, COST = "verdict-forest", "verdict-missing_information"
# What is looked up rather than read.
FOLDED = {
    *("verdict-reml_estimates", "verdict-posterior_estimates", "verdict-fixed_tests"),
    *("verdict-pooled_estimates", "verdict-conventions"),
    *("reconciliation-intervals", "reconciliation-printed_values"),
    *("convergence-ranks", "convergence-traces", "convergence-divergences"),
    *("convergence-energy", "convergence-diagnostics"),
    *("priors-prior_quantiles", "priors-power_scaling"),
    *("reproduction-settings", "reproduction-priors", "reproduction-versions"),
}
FOLDED_TEXTS = {
    *("What was fitted", "What this page and its .json hold", "In numbers"),
    *("Each gap in words", "How the means were found", "The priors", "In Python"),
}
# Figures of one panel a parameter, drawn as small multiples: panels side by side at most, pixels
# of a row.
WITH_LEGEND = {"predictive", "prior_posterior"}
ALONE = 310  # pixels of the only row of these
MULTIPLES = {
    "attribution": (4, 210),
    "curves": (4, 230),
    "intervals": (2, 130),
    "predictive": (3, 190),
    "prior_posterior": (4, 240),
    "residuals": (4, 260),
}


def place_block(block: Block, anchor: str, *, anchors: Collection[str] = (BOTH,)) -> Place:
    """Return where a block stands; a page without a table of all fits unfolds what it has instead.

    Args:
        block: what is placed.
        anchor: its anchor.
        anchors: those of every block of the page.
    """
    is_alone = anchor.startswith("verdict-") and BOTH not in anchors
    if isinstance(block, Text):
        if block.heading == TO_DO or (anchor == FIRST and block.tone != "plain"):
            return Place(BESIDE if block.heading == TO_DO else LEAD, folded=False)
        is_folded = block.heading in FOLDED_TEXTS and block.tone == "plain" and not is_alone
        return Place(ACROSS, folded=is_folded)
    is_half = anchor in HALVES or (anchor == FOREST and COST in anchors)
    is_half |= anchor in SHARES and set(anchors) >= SHARES
    is_half &= anchor not in (PIT, KHAT) or {PIT, KHAT} <= set(anchors)
    return Place(HALF if is_half else ACROSS, folded=anchor in FOLDED and not is_alone)


def arrange_figure(figure: Figure) -> Figure:
    """Return a figure with its panels as small multiples, where it has one panel a parameter.

    Rows are as few as fit, and as even as can be: six panels stand three by three.
    """
    if figure.name not in MULTIPLES or len(figure.panels) < 2:
        return figure
    most, row = MULTIPLES[figure.name]
    if len({panel.y.ticks for panel in figure.panels}) > 1:
        most = min(most, 2)  # each panel has texts of its own at its left
    if figure.name in WITH_LEGEND and len(figure.panels) == 4:
        most = 2  # in one row the labels of their axes would be broken, over the legend
    rows = ceil(len(figure.panels) / most)
    if (
        rows == 1 and figure.name in WITH_LEGEND
    ):  # a low row would have its legend over the labels of its axes
        row = max(row, ALONE)
    columns = ceil(len(figure.panels) / rows)
    height = row * rows + 90
    return replace(figure, columns=columns, height=height)
