"""A table of models as a Word document."""

import io
from pathlib import Path
from typing import Any

from bhlm.errors import miss_package
from bhlm.files import replace_file
from bhlm.reports.models.layout import Layout

THICK, THIN = 12, 4  # eighths of a point
PAGE, LABELS = 6.0, 1.9  # inches: between the margins, and of the first column at least


def write_word(layout: Layout, path: Path) -> None:
    """Write a .docx with the table in three rules, and the notes under it.

    Raises:
        MissingPackageError: python-docx is not installed.
        DataError: the file cannot be written.
    """
    try:
        import docx
        from docx.enum.text import WD_ALIGN_PARAGRAPH
        from docx.shared import Inches, Pt
    except ImportError as error:
        raise miss_package("a table for Word", "python-docx", "tables") from error
    rows: list[tuple[str, ...]] = [("", *layout.headings), ("", *layout.methods)]
    sections = []
    for title, lines in layout.sections:
        sections.append(len(rows))
        rows.append((title, *[""] * len(layout.headings)))
        for line in lines:
            under = line.below or ("",) * len(line.cells)
            pairs = zip(line.cells, under, strict=True)
            rows.append((line.label, *("\n".join(filter(None, pair)) for pair in pairs)))
    document = docx.Document()
    table = document.add_table(rows=len(rows), cols=len(rows[0]))
    table.autofit = False
    cells = table._cells  # one pass: table.cell(i, j) builds all of them each time
    each = min((PAGE - LABELS) / len(layout.headings), 1.2)
    for along, column in enumerate(table.columns):
        column.width = Inches(each if along else PAGE - each * len(layout.headings))
    for at, row in enumerate(rows):
        edges = {"top": THICK} if at == 0 else {"top": THIN} if at in sections else {}
        edges |= {"bottom": THICK} if at == len(rows) - 1 else {}
        for along, text in enumerate(row):
            cell = cells[at * len(row) + along]
            cell.width = table.columns[along].width
            paragraph = cell.paragraphs[0]
            run = paragraph.add_run(text)
            run.font.size = Pt(9)
            run.bold, run.italic = at == 0, at in sections
            paragraph.paragraph_format.space_after = Pt(1)
            if along:
                paragraph.alignment = WD_ALIGN_PARAGRAPH.RIGHT
            _rule(cell, edges)
    _repeat_heading(table, 2)
    for note in layout.notes:
        paragraph = document.add_paragraph()
        paragraph.paragraph_format.space_after = Pt(1)
        paragraph.add_run(note).font.size = Pt(8)
    content = io.BytesIO()  # a packer that a full disk stops complains when it is forgotten
    document.save(content)
    with replace_file(path) as stream:
        stream.write(content.getbuffer())


def _rule(cell: Any, edges: dict[str, int]) -> None:
    """Draw lines at the edges of a cell; python-docx has no call for them."""
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn

    if not edges:
        return
    borders = OxmlElement("w:tcBorders")
    for edge, size in edges.items():
        line = OxmlElement(f"w:{edge}")
        for name, value in (("val", "single"), ("sz", str(size)), ("color", "000000")):
            line.set(qn(f"w:{name}"), value)
        borders.append(line)
    cell._tc.get_or_add_tcPr().append(borders)


def _repeat_heading(table: Any, rows: int) -> None:
    """Let the first rows stand on every page that the table goes on to."""
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn

    for row in table.rows[:rows]:
        mark = OxmlElement("w:tblHeader")
        mark.set(qn("w:val"), "true")
        row._tr.get_or_add_trPr().append(mark)
