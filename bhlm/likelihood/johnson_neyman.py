"""Johnson-Neyman: for which values of a moderator a slope's interval excludes zero."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bhlm.layout import format_digits, list_names

Array = np.ndarray

CELLS = 400  # of a scan for bounds
BISECTIONS = 60  # halve a cell until doubles end
DIGITS = 4  # of a bound in words


@dataclass(frozen=True, slots=True)
class Region:
    """An interval of the moderator in which the slope's interval excludes zero."""

    start: float  # -inf: from where the values begin
    end: float  # inf: to where they end
    sign: int  # of the slope


@dataclass(frozen=True, slots=True)
class JohnsonNeyman:
    """Where the interval of a simple slope excludes zero, along one continuous moderator.

    `regions` lie between the `bounds`; they reach to infinity where nothing ends them, beyond the
    values `low` to `high` of the data too. Of a posterior only `low` to `high` is searched. Source:
    Johnson & Neyman (1936), Statistical Research Memoirs 1, 57-93; Bauer & Curran (2005),
    Multivariate Behavioral Research 40, 373-400.
    """

    column: str
    moderator: str
    level: float
    method: str  # of the interval: "z", ...; "posterior" for draws
    bounds: tuple[float, ...]
    regions: tuple[Region, ...]
    low: float  # of the moderator in the data
    high: float
    is_range: bool  # False: low and high are two SDs from the mean of what varies within groups

    @property
    def reading(self) -> str:
        """The regions in words."""
        kind = f"{100 * self.level:g} % interval"
        ends = f"{_show(self.low)} to {_show(self.high)}"
        data = (
            f"(in the data {self.moderator} runs from {ends})"
            if self.is_range
            else f"(its mean in the data, two SDs to either side, is {ends})"
        )
        if not self.regions:
            return (
                f"The {kind} of the slope of {self.column} includes 0 at every value of "
                f"{self.moderator} {data}."
            )
        parts = [
            f"{'above' if region.sign > 0 else 'below'} 0 {self._place(region)}"
            for region in self.regions
        ]
        told = f"The {kind} of the slope of {self.column} is {list_names(parts)} {data}"
        outside = [b for b in self.bounds if not self.low <= b <= self.high]
        if outside:
            shown = list_names([_show(bound) for bound in outside])
            told += f"; {shown} {'is' if len(outside) == 1 else 'are'} outside of that"
        return f"{told}."

    def __repr__(self) -> str:
        """Return the regions in words."""
        return self.reading

    def _place(self, region: Region) -> str:
        name = self.moderator
        if np.isinf(region.start) and np.isinf(region.end):
            return f"at every value of {name}"
        if np.isinf(region.start):
            return f"where {name} < {_show(region.end)}"
        if np.isinf(region.end):
            return f"where {name} > {_show(region.start)}"
        return f"where {name} is between {_show(region.start)} and {_show(region.end)}"


def solve_bounds(b1: float, b3: float, cov: Array, *, critical: float) -> tuple[float, ...]:
    """Return the roots m of (b1 + b3 m)^2 = t^2 (v11 + 2 m v13 + m^2 v33), in order.

    Args:
        b1: the slope where the moderator is 0.
        b3: its change with the moderator.
        cov: [[v11, v13], [v13, v33]] of (b1, b3).
        critical: t.
    """
    t2 = critical**2
    a = b3**2 - t2 * cov[1, 1]
    half = b1 * b3 - t2 * cov[0, 1]
    c = b1**2 - t2 * cov[0, 0]
    if a == 0.0:
        return () if half == 0.0 else (float(-c / (2.0 * half)),)
    inside = half**2 - a * c
    if not inside > 0.0:
        return ()
    # The root whose terms do not cancel, and the other by the product of both, c / a.
    q = -(half + np.copysign(np.sqrt(inside), half))
    return tuple(sorted(map(float, (q / a, c / q) if q else (0.0, 0.0))))


def find_regions(
    bounds: tuple[float, ...], ends: tuple[float, float], judge: Callable[[float], int]
) -> tuple[Region, ...]:
    """Return the intervals between bounds in which `judge` finds a sign.

    Args:
        bounds: in order.
        ends: of the line, which may be infinite.
        judge: the sign of the slope at a value if its interval excludes zero, else 0.
    """
    edges = (ends[0], *bounds, ends[1])
    found = []
    for start, end in pairwise(edges):
        sign = judge(_between(start, end, span=max(1.0, *map(abs, bounds), 0.0)))
        if sign:
            found.append(Region(start, end, sign))
    return tuple(found)


def scan_bounds(excess: Callable[[Array], Array], low: float, high: float) -> tuple[float, ...]:
    """Return where a function that is computed at many values changes sign in [low, high].

    It is computed at the ends of 400 cells, and each cell with a change is halved until doubles
    end; two changes within one cell are not seen.
    """
    at = np.linspace(low, high, CELLS + 1)
    positive = excess(at) > 0.0
    changes = np.flatnonzero(positive[1:] != positive[:-1])
    if not len(changes):
        return ()
    left, right = at[changes], at[changes + 1]
    for _ in range(BISECTIONS):
        middle = 0.5 * (left + right)
        same = (excess(middle) > 0.0) == positive[changes]
        left, right = np.where(same, middle, left), np.where(same, right, middle)
    return tuple(map(float, 0.5 * (left + right)))


def _between(start: float, end: float, *, span: float) -> float:
    if np.isinf(start):
        return 0.0 if np.isinf(end) else end - span
    return start + span if np.isinf(end) else 0.5 * (start + end)


def _show(value: float) -> str:
    return format_digits(value, DIGITS)
