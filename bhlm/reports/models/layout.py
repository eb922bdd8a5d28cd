"""A table of models as lines of text, before it is marked up."""

from dataclasses import dataclass

DASH = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True, slots=True)
class Line:
    """One row: a label, a cell per model, and what stands under each cell."""

    label: str
    cells: tuple[str, ...]  # (k,)
    below: tuple[str, ...] = ()  # (k,) errors or intervals; empty where there are none


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything that stands in the table, as plain text."""

    headings: tuple[str, ...]  # (k,)
    methods: tuple[str, ...]  # (k,)
    sections: tuple[tuple[str, tuple[Line, ...]], ...]  # title and lines
    notes: tuple[str, ...]
