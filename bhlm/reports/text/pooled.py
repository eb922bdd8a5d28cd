"""Pooled fits as text and as a table of a notebook."""

from html import escape
from typing import TYPE_CHECKING

from bhlm.layout import (
    align_columns,
    align_left,
    align_right,
    format_digits,
    list_names,
    show_name,
    wrap,
)
from bhlm.markup import HTML, estimates_html
from bhlm.reml.fixed.few_groups import tell_weights
from bhlm.reml.sandwich import tell_errors

if TYPE_CHECKING:
    from bhlm.studies.imputations.pooled import Pooled

WIDTH = 78


def summarize_pooled(pooled: "Pooled") -> str:
    """Return the model, every pooled estimate, and what to know about them."""
    moments = pooled.fits[0].moments
    lines = wrap(f"{head_pooled(pooled)}; {moments.rows_used}; {_count_groups(pooled)}", WIDTH)
    if len(pooled.responses) > 1:
        lines += wrap(f"Responses: {list_names(pooled.responses, most=8)}", WIDTH)
    ends = f"{100 * pooled.level:g} %"
    cells: list[tuple[str, ...]] = [
        ("", "estimate", "se", f"{ends} from", "to", "t", "df", "p", "riv", "fmi")
    ]
    for name, row in pooled.estimates.iterrows():
        numbers = (format_digits(row[key], 5) for key in ("estimate", "se", "lower", "upper"))
        tested = row["p"] == row["p"]
        statistic = f"{row['statistic']:.2f}" if tested else ""
        p = f"{row['p']:.3f}" if tested else ""
        extra = (f"{row[key]:.3f}" if row[key] == row[key] else "." for key in ("riv", "fmi"))
        cells.append((show_name(name), *numbers, statistic, _format_df(row["df"]), p, *extra))
    sides = (align_left, *(align_right,) * 9)
    lines += ["", *align_columns(cells, sides=sides, gap="  "), ""]
    for note in list_pooled_notes(pooled):
        lines += wrap(note, WIDTH)
    return "\n".join(lines)


def head_pooled(pooled: "Pooled") -> str:
    """Return the model and how many fits of it are pooled."""
    fit = pooled.fits[0]
    formula = show_name(fit.moments.formula)
    return f"{formula} by {fit.method.upper()}: {pooled.m} fits pooled by Rubin's rules"


def list_pooled_notes(pooled: "Pooled") -> list[str]:
    """Return the sentences under the table: how it was computed, and what to know."""
    if pooled.df == "z":
        df = "df: Rubin (1987), complete data being tested by z"
    else:
        df = f"df: Barnard & Rubin (1999), complete-data df by {pooled.df}"
    legend = (
        f"{df}. riv: relative increase in variance; fmi: fraction of missing information. "
        "Variances and SDs are pooled by their logarithms, correlations by Fisher's z."
    )
    fit = pooled.fits[0]
    given = [tell_weights(fit.moments)] if fit.weights is not None else []
    if fit.errors != "model":
        given.append(f"Standard errors of each fit by {tell_errors(fit.errors)}")
    return [legend, *(f"{note}." for note in (*given, *pooled.notes))]


def show_pooled(pooled: "Pooled") -> str:
    """Return the pooled estimates as HTML, with the notes under them."""
    notes = "".join(
        f"<p>{escape(show_name(note)).translate(HTML)}</p>\n" for note in list_pooled_notes(pooled)
    )
    return f"{estimates_html(pooled.estimates, head_pooled(pooled))}\n{notes}"


def _count_groups(pooled: "Pooled") -> str:
    moments = pooled.fits[0].moments
    return f"{moments.n_groups} of '{show_name(moments.group)}'"


def _format_df(df: float) -> str:
    if df != df:
        return "."
    return "inf" if df == float("inf") else format_digits(df, 4)
