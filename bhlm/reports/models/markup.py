"""A table of models as plain text, Markdown, LaTeX and HTML; no package is needed for these."""

from collections.abc import Callable
from html import escape

from bhlm.layout import align_left, align_right, measure_widest, wrap
from bhlm.markup import HTML, LATEX, MARKDOWN
from bhlm.reports.models.layout import DASH, MINUS, TIMES, Layout, Line

WIDTH = 100  # of the notes under a table of text
# What is not in every font of LaTeX.
SYMBOLS = {
    MINUS: "$-$",
    TIMES: "$\\times$",
    DASH: "--",
    "²": "\\textsuperscript{2}",
    "†": "$\\dagger$",
}
STYLE = (
    ".bhlm-models{border-collapse:collapse;font-variant-numeric:tabular-nums;"
    "border-top:2px solid;border-bottom:2px solid;line-height:1.35}"
    ".bhlm-models th,.bhlm-models td{padding:.1rem .8rem;text-align:right;vertical-align:top;"
    "font-weight:normal}"
    ".bhlm-models tbody th{text-align:left}"
    ".bhlm-models thead th{font-weight:bold}"
    ".bhlm-models thead tr:first-child :is(th,td){padding-top:.4rem}"
    ".bhlm-models thead tr:last-child td{border-bottom:1px solid;padding-bottom:.3rem}"
    ".bhlm-models :is(th,td):first-child{padding-left:0}"
    ".bhlm-models :is(th,td):last-child{padding-right:0}"
    ".bhlm-models tbody tr:last-child>*{padding-bottom:.4rem}"
    ".bhlm-models tbody .section th{font-style:italic;padding-top:.5rem}"
    ".bhlm-models tbody+tbody{border-top:1px solid}"
    ".bhlm-models .below{display:block}"
    ".bhlm-models tfoot td{text-align:left;border-top:1px solid;padding-top:.3rem;"
    "font-size:.9em;max-width:0}"
)
# A page of its own follows the reader's light or dark, and scrolls the table where it is narrow.
PAGE = (
    ":root{color-scheme:light dark}body{margin:2rem;font:1rem/1.5 -apple-system,"
    'BlinkMacSystemFont,"Segoe UI",Roboto,"Noto Sans","Helvetica Neue","Liberation Sans",Arial,'
    "sans-serif}main{overflow-x:auto}h1{margin:0 0 1rem;font:600 1.4rem/1.25 Charter,"
    '"Iowan Old Style","Palatino Linotype",Palatino,Georgia,serif}'
)


def write_plain(layout: Layout) -> str:
    """Return lines of text, numbers under each other."""
    k = len(layout.headings)
    rows: list[tuple[str, ...] | None] = [("", *layout.headings), ("", *layout.methods)]
    for title, lines in layout.sections:
        rows += [None, (title, *[""] * k)]
        for line in lines:
            rows.append((f"  {line.label}", *line.cells))
            rows += [("", *line.below)] if line.below else []
    filled = [row for row in rows if row is not None]
    widths = [measure_widest(column) for column in zip(*filled, strict=True)]
    rule = "-" * (sum(widths) + 2 * k)
    sides: list[Callable[[str, int], str]] = [align_left, *[align_right] * k]
    out = []
    for row in rows:
        if row is None:
            out.append(rule)
            continue
        cells = zip(sides, row, widths, strict=True)
        out.append("  ".join(side(cell, width) for side, cell, width in cells).rstrip())
    out.append(rule)
    for note in layout.notes:
        out += wrap(note, max(len(rule), min(WIDTH, 72)))
    return "\n".join(out)


def write_markdown(layout: Layout) -> str:
    """Return a pipe table, what stands under an estimate beside it, and the notes under it."""

    def row(label: str, cells: tuple[str, ...]) -> str:
        return f"| {' | '.join([label, *cells])} |"

    k = len(layout.headings)
    out = [row("", tuple(each.translate(MARKDOWN) for each in layout.headings))]
    out += [f"|:---|{'---:|' * k}", row("", layout.methods)]
    for title, lines in layout.sections:
        out.append(row(f"*{title}*", ("",) * k))
        for line in lines:
            cells = tuple(each.translate(MARKDOWN) for each in _join(line))
            out.append(row(line.label.translate(MARKDOWN), cells))
    return "\n".join([*out, "", *(f"{note.translate(MARKDOWN)}\n" for note in layout.notes)])


def _join(line: Line) -> tuple[str, ...]:
    """Return the cells with what stands under them in the same line."""
    if not line.below:
        return line.cells
    pairs = zip(line.cells, line.below, strict=True)
    return tuple(" ".join(part for part in pair if part) for pair in pairs)


def write_latex(layout: Layout) -> str:
    """Return a tabular with booktabs' rules; the notes are its last row."""
    k = len(layout.headings)

    def row(label: str, cells: tuple[str, ...]) -> str:
        return rf"{' & '.join(map(escape_latex, [label, *cells]))} \\"

    def head(texts: tuple[str, ...]) -> str:
        cells = (rf"\multicolumn{{1}}{{c}}{{{escape_latex(text)}}}" for text in texts)
        return rf" & {' & '.join(cells)} \\"

    out = [rf"\begin{{tabular}}{{l{'r' * k}}}", r"\toprule"]
    out += [head(layout.headings), head(layout.methods)]
    for title, lines in layout.sections:
        out += [r"\midrule", rf"\multicolumn{{{k + 1}}}{{l}}{{\emph{{{escape_latex(title)}}}}} \\"]
        for line in lines:
            out.append(row(line.label, line.cells))
            out += [row("", line.below)] if line.below else []
    out.append(r"\bottomrule")
    notes = escape_latex(" ".join(layout.notes))
    width = rf"\dimexpr 9em + {6 * k}em\relax"
    out.append(
        rf"\multicolumn{{{k + 1}}}{{p{{{width}}}}}{{\footnotesize {notes}}} \\"
        "\n\\end{tabular}"
    )
    return "\n".join(out)


def escape_latex(text: str) -> str:
    """Return text as LaTeX sets it."""
    escaped = text.translate(LATEX)
    for symbol, command in SYMBOLS.items():
        escaped = escaped.replace(symbol, command)
    return escaped


def write_html(layout: Layout, *, title: str = "") -> str:
    """Return a table element with its style; with a title a whole page."""
    k = len(layout.headings)
    out = [f"<style>{STYLE}</style>", '<table class="bhlm-models">', "<thead>"]
    heads = "".join(f'<th scope="col">{_escape(each)}</th>' for each in layout.headings)
    kinds = "".join(f"<td>{_escape(each)}</td>" for each in layout.methods)
    out += [f"<tr><td></td>{heads}</tr>", f"<tr><td></td>{kinds}</tr>", "</thead>"]
    for section, lines in layout.sections:
        heading = f'<th scope="rowgroup" colspan="{k + 1}">{_escape(section)}</th>'
        out += ["<tbody>", f'<tr class="section">{heading}</tr>']
        for line in lines:
            below = line.below or ("",) * k
            cells = "".join(
                f"<td>{_escape(cell)}"
                + (f'<span class="below">{_escape(under)}</span>' if under else "")
                + "</td>"
                for cell, under in zip(line.cells, below, strict=True)
            )
            out.append(f'<tr><th scope="row">{_escape(line.label)}</th>{cells}</tr>')
        out.append("</tbody>")
    notes = "<br>".join(map(_escape, layout.notes))
    out += [f'<tfoot><tr><td colspan="{k + 1}">{notes}</td></tr></tfoot>', "</table>"]
    body = "\n".join(out)
    if not title:
        return body
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{PAGE}</style>\n</head>\n<body>\n"
        f'<main tabindex="0">\n<h1>{_escape(title)}</h1>\n'
        f"{body}\n</main>\n</body>\n</html>\n"
    )


def _escape(text: str) -> str:
    return escape(text).translate(HTML)
