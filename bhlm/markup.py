"""Tables and text -> Markdown, LaTeX, HTML, with every name escaped for where it goes."""

import math
from html import escape
from typing import TYPE_CHECKING, Any

from bhlm.errors import ArgumentError, miss_package
from bhlm.layout import shorten, show_name

if TYPE_CHECKING:
    import pandas as pd

DIGITS = 7
NOTEBOOK_DIGITS = 5  # of posterior summaries: Monte Carlo noise hides the others
MARKDOWN = str.maketrans({char: f"\\{char}" for char in "\\`*_{}[]<>&|~$#%!:@"})
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        # At the start of a row these two would be read as options of the line break above.
        "[": "{[}",
        "*": "{*}",
        **{char: f"\\{char}" for char in "&%$#_{}"},
    }
)
# Braces mean something to template engines, in text as in markup.
HTML = str.maketrans({"{": "&#123;", "}": "&#125;"})


def to_markdown(table: "pd.DataFrame", *, digits: int = DIGITS) -> str:
    """Return a table in the pipe syntax of GitHub-flavoured Markdown.

    Args:
        table: a tidy table; its index is the first column.
        digits: significant digits of the numbers; missing ones are left empty.

    Raises:
        ArgumentError: `digits` is not positive.
        MissingPackageError: tabulate is not installed.
    """
    return _tabulate(table, "pipe", digits, MARKDOWN)


def to_latex(table: "pd.DataFrame", *, digits: int = DIGITS) -> str:
    """Return a table as a LaTeX tabular that needs no package.

    Args:
        table: a tidy table; its index is the first column.
        digits: significant digits of the numbers; missing ones are left empty.

    Raises:
        ArgumentError: `digits` is not positive.
        MissingPackageError: tabulate is not installed.
    """
    return _tabulate(table, "latex_raw", digits, LATEX)


def to_html(table: "pd.DataFrame", *, digits: int = DIGITS) -> str:
    """Return a table as an HTML table element, escaped and without scripts.

    Args:
        table: a tidy table; its index is the first column.
        digits: significant digits of the numbers; missing ones are left empty.

    Raises:
        ArgumentError: `digits` is not positive.
    """
    import pandas as pd

    heads, rows = _format_cells(table, digits)
    frame = pd.DataFrame(rows, columns=heads, dtype=object)
    html: str = frame.to_html(index=False, border=0, justify="right")
    return html.translate(HTML)


def estimates_html(table: "pd.DataFrame", title: str, *, digits: int = DIGITS) -> str:
    """Return a section of HTML with the table under its title, for notebooks.

    Raises:
        ArgumentError: `digits` is not positive.
    """
    caption = escape(show_name(title)).translate(HTML)
    return f"<section>\n<h4>{caption}</h4>\n{to_html(table, digits=digits)}\n</section>"


def _format_cells(table: "pd.DataFrame", digits: int) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows as plain text, the index first."""
    if digits < 1:
        raise ArgumentError(f"digits={digits!r} is not a count of digits; give 1 or more")
    heads = ["" if name is None else show_name(name) for name in table.index.names]
    heads += [show_name(name) for name in table.columns]
    columns = [table.iloc[:, at].tolist() for at in range(table.shape[1])]
    rows = []
    for at, label in enumerate(table.index.tolist()):
        labels = label if isinstance(label, tuple) else (label,)
        values = [column[at] for column in columns]
        rows.append([_format_cell(value, digits) for value in (*labels, *values)])
    return heads, rows


def _format_cell(value: Any, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.{digits}g}"
    return show_name(value)


def _tabulate(table: "pd.DataFrame", layout: str, digits: int, escapes: dict[int, str]) -> str:
    try:
        import tabulate
    except ImportError as error:
        raise miss_package("a table in Markdown or LaTeX", "tabulate", "tables") from error
    heads, rows = _format_cells(table, digits)
    numeric = ["right" if kind.kind in "fiu" else "left" for kind in table.dtypes]
    return tabulate.tabulate(
        [[cell.translate(escapes) for cell in row] for row in rows],
        headers=[head.translate(escapes) for head in heads],
        tablefmt=layout,
        disable_numparse=True,
        colalign=["left"] * table.index.nlevels + numeric,
    )


class ShownAsText:
    """Base of results that are shown by their `summary()`: as a page in notebooks, else short."""

    __slots__ = ()

    def __repr__(self: Any) -> str:
        """Return the summary, within a screen."""
        return shorten(self.summary(), whole="print(...) of its summary()")

    def _repr_html_(self: Any) -> str:
        """Return the summary as preformatted text, for notebooks."""
        return show_text(self.summary())


def show_text(text: str) -> str:
    """Return lines of text as HTML that keeps them."""
    lines = (escape(show_name(line)).translate(HTML) for line in text.splitlines())
    return '<pre style="overflow-x: auto">' + "\n".join(lines) + "</pre>"
