"""Roles -> colours, symbols and dashes, the same in every figure.

The hues are those of Okabe & Ito (2008), "Color universal design", which readers with any of the
common colour-vision deficiencies tell apart; each also differs by symbol or dash. They are
darkened on a light and lightened on a dark page until they stand out from it by at least 3 : 1
(WCAG 2.1, success criterion 1.4.11).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """How a role is drawn."""

    light: str  # colour on a light page
    dark: str  # colour on a dark page
    symbol: str = "circle"  # Plotly's name
    dash: str = "solid"  # Plotly's name


ROLES = {
    "reml": Look("#0072b2", "#56b4e9", "square"),
    "posterior": Look("#c44e00", "#ff8c42", "circle"),
    "published": Look("#1a1a1a", "#f2f2f2", "diamond-open"),
    "profile": Look("#0072b2", "#56b4e9", "square", "dash"),
    "prior": Look("#6b6b6b", "#a8a8a8", "x", "dot"),
    "data": Look("#595959", "#b3b3b3", "circle-open"),
    "ols": Look("#00785a", "#1fc296", "triangle-up", "dashdot"),
    "population": Look("#1a1a1a", "#f2f2f2", "cross", "dash"),
    "warning": Look("#a3006e", "#f07cc4", "x"),
    "reference": Look("#767676", "#8c8c8c", "line-ew", "dash"),
    "first": Look("#0072b2", "#56b4e9", "square"),
    "second": Look("#c44e00", "#ff8c42", "circle", "dash"),
    "third": Look("#00785a", "#1fc296", "triangle-up", "dashdot"),
    "fourth": Look("#a3006e", "#f07cc4", "diamond", "dot"),
    "fifth": Look("#8a6500", "#f0c945", "cross", "longdash"),
    "sixth": Look("#595959", "#b3b3b3", "x", "longdashdot"),
}
SERIES = ("first", "second", "third", "fourth", "fifth", "sixth")

# Paper, ink and grid of the two pages.
PAGES: dict[str, dict[str, str]] = {
    "light": {"paper": "#ffffff", "ink": "#1a1a1a", "grid": "#dcdcdc"},
    "dark": {"paper": "#16181d", "ink": "#f0f0f0", "grid": "#3a3f4a"},
}

SYMBOLS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "diamond-open": "D",
    "circle-open": "o",
    "triangle-up": "^",
    "cross": "P",
    "x": "X",
    "line-ew": "_",
}
DASHES: dict[str, str | tuple[int, tuple[int, ...]]] = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 1, 3)),
}
# Families of letters, the first of which that a machine has is taken.
FONTS = (
    '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Noto Sans", "Helvetica Neue", '
    '"Nimbus Sans", "Liberation Sans", Arial, sans-serif'
)
LONGEST = 60  # characters of a label that a figure shows


def cut_middle(text: object, longest: int) -> str:
    """Return a label of at most `longest` characters, cut in its middle: ends differ."""
    line = shorten(text, len(str(text)) + 1)
    if len(line) <= longest:
        return line
    tail = longest // 2
    return f"{line[: longest - 1 - tail]}…{line[-tail:]}"


def shorten(text: object, longest: int = LONGEST) -> str:
    """Return a label as one line of at most `longest` characters; the cut shows as an ellipsis."""
    line = " ".join(str(text).split())
    if not line.isprintable():
        line = "".join(letter for letter in line if letter.isprintable())
    return line if len(line) <= longest else line[: longest - 1] + "…"
