"""A table of models as a great_tables.GT."""

from typing import Any

from bhlm.errors import miss_package
from bhlm.reports.models.layout import Layout


def make_gt(layout: Layout) -> Any:
    """Return the table as a GT: sections are row groups, notes its source notes.

    Raises:
        MissingPackageError: great_tables is not installed.
    """
    import pandas as pd

    try:
        from great_tables import GT
    except ImportError as error:
        raise miss_package("a table to be styled", "great_tables", "tables") from error
    keys = [f"model{at}" for at in range(1, len(layout.headings) + 1)]
    rows = []
    for title, lines in layout.sections:
        for line in lines:
            rows.append((title, line.label, *line.cells))
            rows += [(title, "", *line.below)] if line.below else []
    frame = pd.DataFrame(rows, columns=["section", "row", *keys])
    heads = zip(layout.headings, layout.methods, strict=True)
    labels = {key: f"{head} {method}" for key, (head, method) in zip(keys, heads, strict=True)}
    made = GT(frame, rowname_col="row", groupname_col="section").cols_label(**labels)
    made = made.cols_align(align="right", columns=keys)
    for note in layout.notes:
        made = made.tab_source_note(note)
    return made
