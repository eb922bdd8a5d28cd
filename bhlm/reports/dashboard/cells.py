"""A table's numbers -> the text of its cells: few digits, aligned, under human headings."""

import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from bhlm.layout import format_digits
from bhlm.reports.dashboard.content import show_text

HEADINGS = {
    "se": "SE",
    "lower": "95 % from",
    "upper": "to",
    "df": "df",
    "p": "p",
    "sd": "SD",
    "reml": "REML",
    "ml": "ML",
    "residual SD": "Residual SD",
    "posterior": "posterior mean",
    "gap_sd": "gap, SDs",
    "ess_bulk": "bulk ESS",
    "ess_tail": "tail ESS",
    "rhat": "R-hat",
    "khat": "k-hat",
    "mcse_mean": "Monte Carlo SE",
    "monte_carlo": "Monte Carlo",
    "n": "rows",
    "riv": "RIV",
    "fmi": "FMI",
    "icc": "ICC",
    "u": "effect",
    "u_low": "95 % from",
    "u_high": "to",
    "low": "95 % from",
    "high": "to",
    "u 2.5 %": "95 % from",
    "u 97.5 %": "to",
    "u_se": "SE",
}
DECIMALS = {"reliability": 3, "rhat": 3, "khat": 2, "gap_sd": 3, "fmi": 2, "riv": 2}
SPREAD = 1e3  # largest over smallest number of a column up to which all have the same decimals
MOST = 6  # decimals of a column
APART = 1  # decimals by which rows differ that have the larger number of them all
PLAIN = {"reliability", "gap_sd"}  # of which the smallest are as good as zero
LEAST = 0.001  # probability that is told
COUNTS = {"n", "rows", "groups"}
LONG = re.compile(r"(?<![\d.e])\d{5,}(?![\de])")
PROSE = 40  # characters of a cell from which a column is wrapped
LONGEST = 80  # characters of a cell


class Head(NamedTuple):
    """The heading of a column."""

    name: str  # as in the CSV
    text: str
    kind: str  # "number", "word" or "prose"
    is_first: bool  # shown before all columns are asked for


class Rows(NamedTuple):
    """A table as text."""

    heads: tuple[Head, ...]
    rows: tuple[tuple[str, ...], ...]


def show_cells(
    columns: Sequence[dict[str, Any]],
    *,
    digits: int,
    first: Sequence[str] = (),
    sizes: Sequence[float] = (),
    sized: Sequence[str] = (),
) -> Rows:
    """Return a table as text.

    Args:
        columns: what `content.list_columns` returns.
        digits: significant digits of a column's middle number.
        first: columns that are shown at first, beside those in front of them that are named; ()
            for all.
        sizes: of each row the size that its numbers are known to; see `count_decimals`.
        sized: columns whose decimals are those of the row.
    """
    heads, texts = [], []
    decimals = count_decimals(sizes)
    for at, column in enumerate(columns):
        name, values = column["name"], column["values"]
        is_number = column["kind"] == "number"
        if is_number and name in sized:
            cells = [
                _show_row(value, own, digits) for value, own in zip(values, decimals, strict=True)
            ]
        else:
            show = _show_numbers if is_number else _show_texts
            cells = show(name, values, digits)
        if name == "verdict":  # a key of the JSON, such as not_converged
            cells = [cell.replace("_", " ") for cell in cells]
        if name.endswith(" interval") or name == "published":  # text, which aligns with numbers
            cells = [cell.replace("-", "\N{MINUS SIGN}") for cell in cells]
        longest = max(map(len, cells), default=0)
        kind = "number" if is_number else "prose" if longest > PROSE else "word"
        shown = not first or at == 0 or name in first
        heads.append(Head(name, show_heading(name), kind, shown))
        texts.append(cells)
    order = _order(heads, first)
    return Rows(
        tuple(heads[at] for at in order),
        tuple(zip(*(texts[at] for at in order), strict=True)),
    )


def count_decimals(sizes: Sequence[float]) -> tuple[int | None, ...]:
    """Return the decimals of rows that show two digits of the size that they are known to.

    Rows whose decimals differ by one at most have the larger number all, so that they align. None
    stands for a size that is zero or not known.
    """
    found = [
        min(max(1 - math.floor(math.log10(size)), 0), MOST)
        if math.isfinite(size) and size > 0.0
        else None
        for size in sizes
    ]
    known = [decimals for decimals in found if decimals is not None]
    if known and max(known) - min(known) <= APART:
        return tuple(max(known) for _ in found)
    return tuple(found)


def _show_row(value: Any, decimals: int | None, digits: int) -> str:
    """Return a number to the decimals of its row; what rounds to zero is zero."""
    if value is None or isinstance(value, str) or decimals is None:
        return _show(value, lambda number: format_digits(number, digits))
    return _show(round(float(value), decimals) + 0.0, lambda number: f"{number:.{decimals}f}")


def separate_thousands(text: str) -> str:
    """Return a number of five digits or more before its point with its thousands apart."""
    return LONG.sub(lambda found: f"{int(found[0]):,}", text, count=1)


def _order(heads: Sequence[Head], first: Sequence[str]) -> list[int]:
    """Return the columns with those shown at first in front."""
    order = range(len(heads))
    return sorted(order, key=lambda at: not heads[at].is_first) if first else list(order)


def show_heading(name: str) -> str:
    """Return a column's name for people."""
    text = HEADINGS.get(name)
    if text is None:
        base = name.removeprefix("label of ").removesuffix("_se")
        text = HEADINGS.get(base, base).replace("_", " ")
        text += ", SE" if name.endswith("_se") else ""
    text = show_text(text, LONGEST)
    if len(text) == 1:  # a column of the data, whose name is a symbol
        return text
    return text[:1].upper() + text[1:] if name not in ("p", "df") and name == name.lower() else text


def _show_numbers(name: str, values: Sequence[Any], digits: int) -> list[str]:
    numbers = [value for value in values if isinstance(value, int | float)]
    sizes = np.array([abs(value) for value in numbers if value], dtype=float)
    if name == "p" or name.startswith("P("):
        # Where all draws lie on one side of a value, no more is known of a probability.
        is_drawn = name != "p"
        return ["> .999" if is_drawn and value == 1.0 else _show_p(value) for value in values]
    if all(float(value).is_integer() for value in numbers):
        parts = "," if name in COUNTS else ""
        return [_show(value, lambda number: f"{number:{parts}.0f}") for value in values]
    decimals = DECIMALS.get(name)
    if decimals is not None and name in PLAIN:
        write = "{:." + str(decimals) + "f}"
        return [
            _show(round(value, decimals) + 0.0, write.format)
            if isinstance(value, int | float)
            else _show(value, write.format)
            for value in values
        ]
    if decimals is None and len(sizes) and sizes.max() <= SPREAD * np.median(sizes):
        decimals = digits - 1 - math.floor(math.log10(np.median(sizes)))
        decimals = min(max(decimals, 0), MOST)
    if decimals is None:
        return [_show(value, lambda number: format_digits(number, digits)) for value in values]
    return [_show(value, lambda number: _show_fixed(number, decimals)) for value in values]


def _show_fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    if float(text) == 0.0 and value != 0.0:
        return format_digits(value, 2)
    return text


def _show_p(value: Any) -> str:
    if isinstance(value, int | float) and value < LEAST:
        return "< .001"
    if isinstance(value, int | float) and 1.0 - LEAST < value < 1.0:
        return "> .999"
    return _show(value, lambda number: f"{number:.3f}".removeprefix("0"))


def _show(value: Any, write: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, str):
        return value.replace("inf", "∞")
    text = str(write(value))
    if isinstance(value, float) and not value.is_integer():
        text = separate_thousands(text)
    return text.replace("-", "\N{MINUS SIGN}", 1 if value < 0 else 0)


def _show_texts(name: str, values: Sequence[Any], digits: int) -> list[str]:
    cells = []
    for value in values:
        if isinstance(value, bool):
            cells.append("yes" if value else "no")
        elif isinstance(value, int):
            cells.append(str(value))
        elif isinstance(value, float):
            cells.append(format_digits(value, max(digits, 5)))
        else:
            cells.append("\N{EN DASH}" if value is None else show_text(value, LONGEST))
    return cells
