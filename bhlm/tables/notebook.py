"""Results at the end of a notebook cell: HTML in which every name is text."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from bhlm.tables.export import HTML, estimates_html
from bhlm.tables.layout import show_name

if TYPE_CHECKING:
    from bhlm.bayes import BayesFit
    from bhlm.reconcile import Reconciliation

DIGITS = 5  # Monte Carlo noise hides the others
SHOWN = ("published", "reml", "posterior", "gap", "gap_sd", "verdict")


class ShownAsText:
    """Base of results that a notebook shows by their `summary()`."""

    __slots__ = ()

    def _repr_html_(self: Any) -> str:
        """Return the summary as preformatted text, for notebooks."""
        return show_text(self.summary())


def show_text(text: str) -> str:
    """Return lines of text as HTML that keeps them."""
    lines = (escape(show_name(line)).translate(HTML) for line in text.splitlines())
    return '<pre style="overflow-x: auto">' + "\n".join(lines) + "</pre>"


def show_posterior(fit: "BayesFit") -> str:
    """Return the table of a posterior, under what fails if anything does."""
    failed = [f"FAILED: {sentence}." for sentence in fit.diagnostics.failures]
    table = estimates_html(fit.estimates, fit.moments.formula, digits=DIGITS)
    return _list_sentences(failed) + table


def show_reconciliation(both: "Reconciliation") -> str:
    """Return the table of a reconciliation under its conclusion, with the reasons below."""
    table = both.table[[name for name in SHOWN if name in both.table]]
    table = table.dropna(axis=1, how="all")
    html = estimates_html(table, both.reml.moments.formula, digits=DIGITS)
    return _list_sentences([both.conclusion]) + html + _list_sentences(both.reasons)


def _list_sentences(sentences: Sequence[str]) -> str:
    return "".join(
        f"<p>{escape(show_name(sentence)).translate(HTML)}</p>\n" for sentence in sentences
    )
