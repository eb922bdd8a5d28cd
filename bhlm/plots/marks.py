"""What a figure is made of: marks in panels, which Plotly and matplotlib both draw."""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Points:
    """Symbols at (x, y), with an interval along either axis where one is given."""

    x: Array  # (k,)
    y: Array  # (k,)
    role: str  # a key of `style.ROLES`, which sets colour, symbol and dash
    name: str = ""  # in the legend; marks of one name share an entry
    hover: tuple[str, ...] = ()  # k texts; line breaks are kept, nothing is read as HTML
    x_low: Array | None = None  # (k,) ends of horizontal intervals
    x_high: Array | None = None
    y_low: Array | None = None  # (k,) ends of vertical intervals
    y_high: Array | None = None
    size: float = 7.0  # of the symbol, in pixels
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line through (x, y), which nan interrupts."""

    x: Array  # (k,)
    y: Array  # (k,)
    role: str
    name: str = ""
    hover: tuple[str, ...] = ()
    width: float = 2.0  # pixels
    opacity: float = 1.0
    steps: bool = False  # horizontal first, then vertical


@dataclass(frozen=True, slots=True)
class Band:
    """The region between two lines over x."""

    x: Array  # (k,)
    low: Array  # (k,)
    high: Array  # (k,)
    role: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Segments:
    """Straight segments from (x0, y0) to (x1, y1)."""

    x0: Array  # (k,)
    y0: Array  # (k,)
    x1: Array  # (k,)
    y1: Array  # (k,)
    role: str
    name: str = ""
    width: float = 1.0
    opacity: float = 1.0


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars at positions, from `base` to `base + length`."""

    at: Array  # (k,) positions of their middles
    length: Array  # (k,) signed
    base: Array  # (k,)
    role: str
    name: str = ""
    hover: tuple[str, ...] = ()
    horizontal: bool = False
    width: float = 0.8  # in units of the positions


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across the whole panel where one coordinate has a value."""

    value: float
    axis: str  # "x": vertical, at x = value; "y": horizontal
    role: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """A text beside the point (x, y)."""

    x: float
    y: float
    text: str
    before: bool = False  # to the left of the point, not to its right


Mark = Points | Line | Band | Segments | Bars | Rule | Note


@dataclass(frozen=True, slots=True)
class Axis:
    """The label of an axis, and what it shows."""

    label: str
    ticks: tuple[tuple[float, ...], tuple[str, ...]] | None = None  # positions and their texts
    range: tuple[float, float] | None = None  # the first may be the larger one
    log: bool = False
    turned: bool = False  # whether the texts of the ticks stand upright


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes with its marks, drawn in their order."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    title: str = ""
