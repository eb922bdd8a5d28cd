"""Fits at the end of a notebook cell: HTML in which every name is text."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from bhlm.layout import show_name
from bhlm.markup import HTML, NOTEBOOK_DIGITS, estimates_html

if TYPE_CHECKING:
    from bhlm.bayes.draws import Posterior
    from bhlm.moments.cells import AnyMoments
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.patterns import Patterns
    from bhlm.reconciliation.comparison import Comparison

SHOWN = ("published", "reml", "posterior", "gap", "gap_sd", "verdict")


def show_posterior(fit: "Posterior") -> str:
    """Return the table of a posterior, under what fails if anything does."""
    failed = [f"FAILED: {sentence}." for sentence in fit.diagnostics.failures]
    failed += [f"THE PRIOR DECIDES: {sentence}." for sentence in fit.diagnostics.prior_bound]
    table = estimates_html(fit.estimates, fit.moments.formula, digits=NOTEBOOK_DIGITS)
    return _list_sentences(failed) + table + tell_dropped(fit.moments)


def show_reconciliation(both: "Comparison") -> str:
    """Return the table of a reconciliation under its conclusion, with the reasons below."""
    table = both.table[[name for name in SHOWN if name in both.table]]
    table = table.dropna(axis=1, how="all")
    html = estimates_html(table, both.reml.moments.formula, digits=NOTEBOOK_DIGITS)
    html += tell_dropped(both.reml.moments)
    findings = both.findings
    told = [f"{each.topic.capitalize()}: {each.status}. {each.label}." for each in findings.told]
    lead = [both.conclusion]
    if findings.worst is not findings.reconciliation:
        lead.append(findings.worst.headline)
    return _list_sentences(lead) + html + _list_sentences([*both.reasons, *told])


def tell_dropped(moments: "AnyMoments | Patterns | LevelPatterns") -> str:
    """Return the rows that were left out, and the columns for which, if there are any."""
    return _list_sentences([f"{moments.rows_used}."] if moments.dropped else [])


def _list_sentences(sentences: Sequence[str]) -> str:
    return "".join(
        f"<p>{escape(show_name(sentence)).translate(HTML)}</p>\n" for sentence in sentences
    )
