"""Blocks -> plain values, for the page's scripts and for its twin in JSON."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bhlm.files import make_plain
from bhlm.layout import show_name
from bhlm.plots.figure import Figure
from bhlm.reports.dashboard.blocks import Block, Chooser, Facts, Section, Table, Text

if TYPE_CHECKING:
    import pandas as pd

# A word and a text longer than this are cut on the page; the twin holds them whole.
LONGEST_WORD = 80
LONGEST_TEXT = 1500
LONGEST_CODE = 4000
# A hyphen in front of a number, at the beginning of a word.
MINUS = re.compile(r"(?<![^\s(\[,;=+])-(?=\.?\d)")
# What a line must not be broken in: "95 %", "p < .001", "n = 25".
UNBROKEN = re.compile(r"(?<=\d) (?=%)|(?<=\b[pn]) (?=[<=>])|(?<=\b[pn] [<=>]) (?=\.?\d)")
# How to write it in Python, which a page leaves to the documentation.
PLACEHOLDER = re.compile(r", Priors\(\w+=\.\.\.\)| \((?:refit|tune, draws)\)")


def show_text(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return a text for the page: one line, what hides or breaks it escaped, what is long cut."""
    line = show_name(" ".join(str(text).split("\n")))
    words = [_cut(word, LONGEST_WORD) for word in line[: 2 * longest].split(" ")]
    return _cut(" ".join(words), longest)


def show_code(text: str) -> str:
    """Return a line to type: what hides or breaks it escaped, cut only where it is endless."""
    return _cut(show_name(text), LONGEST_CODE)


def show_prose(text: object, longest: int = LONGEST_TEXT) -> str:
    """Return a sentence for the page: as `show_text`, with minus signs and without Python."""
    whole = UNBROKEN.sub("\N{NO-BREAK SPACE}", PLACEHOLDER.sub("", show_text(text, longest)))
    return MINUS.sub("\N{MINUS SIGN}", whole)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def list_columns(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the columns of a table, a named index first: `name`, `kind` and `values` of each.

    `kind` is "number" or "text". A number that is missing is None, an infinite one "inf" or
    "-inf"; every other is as it is, with all its digits.
    """
    index = frame.index
    columns = [
        (name, index.get_level_values(at).tolist())
        for at, name in enumerate(index.names)
        if name is not None
    ]
    columns += [(name, frame.iloc[:, at].tolist()) for at, name in enumerate(frame.columns)]
    return [_describe_column(str(name), values) for name, values in columns]


def _describe_column(name: str, values: Sequence[Any]) -> dict[str, Any]:
    cells = [_describe_cell(value) for value in values]
    numeric = all(isinstance(value, int | float) or value is None for value in values)
    return {"name": name, "kind": "number" if numeric else "text", "values": cells}


def _describe_cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else f"{value:g}"
    if hasattr(value, "item") and not isinstance(value, str):
        return _describe_cell(value.item())
    return str(value)


def describe_sections(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return every text and number of the sections, for the twin in JSON."""
    return [
        {
            "name": section.name,
            "title": section.title,
            "blocks": [
                _describe_block(block) | ({"mark": mark} if mark else {})
                for block, mark in pair_marks(section)
            ],
        }
        for section in sections
    ]


def _describe_block(block: Block) -> dict[str, Any]:
    match block:
        case Text():
            return {
                "kind": "text",
                "tone": block.tone,
                "heading": block.heading,
                "sentences": list(block.sentences),
            }
        case Table():
            content: dict[str, Any] = {"kind": "table", "columns": list_columns(block.frame)}
        case Figure():
            columns = None if block.table is None else list_columns(block.table)
            content = {"kind": "figure", "columns": columns}
        case Facts():
            content = {"kind": "facts", "items": [list(item) for item in block.items]}
        case Chooser():
            content = {"kind": "chooser", "content": make_plain(block.content)}
    return {"name": block.name, "title": block.title, "reading": block.reading} | content


def pair_marks(section: Section) -> Iterator[tuple[Block, str]]:
    """Give every block with what stands over it, "" for nothing."""
    return zip(section.blocks, section.marks or ("",) * len(section.blocks), strict=True)


def name_blocks(sections: Sequence[Section]) -> Iterator[tuple[Section, Block, str]]:
    """Give every block with its section and an anchor that no other block has."""
    taken: dict[str, int] = {}
    for section in sections:
        for block in section.blocks:
            stem = f"{section.name}-{'text' if isinstance(block, Text) else block.name}"
            taken[stem] = taken.get(stem, 0) + 1
            yield section, block, stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
