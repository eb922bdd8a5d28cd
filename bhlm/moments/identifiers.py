"""Columns of numbers that can hardly be meant as numbers: row numbers, labels, identifiers."""

import re
from typing import TYPE_CHECKING

import numpy as np

from bhlm.design.design import INTERCEPT

if TYPE_CHECKING:
    from bhlm.moments.either import AnyMoments
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.patterns import Patterns
    from bhlm.moments.strata import StratumMoments

FEWEST = 20  # rows from which consecutive numbers are no accident
SAME = 1e-9
_CALLED = re.compile(r"(?:.*[_. ])?(?:id|ID|Id)|.*[a-z]I[dD]")


def doubt_columns(reduced: "AnyMoments | Patterns | LevelPatterns | StratumMoments") -> list[str]:
    """Return a sentence about each predictor that is a row number, or called an identifier."""
    design = reduced.design
    found = []
    for name in design.fixed:
        column = name.strip("`") if name.startswith("`") else name
        if name == INTERCEPT:
            continue
        if column in design.formula.group_columns:
            what = "is a group column, taken as a number"
        elif _CALLED.fullmatch(column):
            what = "is called like an identifier, and taken as a number"
        elif _numbers_rows(reduced, name):
            what = "numbers the rows one by one"
        else:
            continue
        found.append(
            f"the predictor '{name}' {what}; leave it out, or write C({name}) if each value is a "
            "category"
        )
    return found


def _numbers_rows(
    reduced: "AnyMoments | Patterns | LevelPatterns | StratumMoments", name: str
) -> bool:
    """Return whether a predictor numbers the rows, in any order; not where rows are merged.

    That is told by its sum of squares about the mean, which is n (n^2 - 1) / 12 and no less for any
    n different integers.
    """
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.patterns import Patterns
    from bhlm.moments.strata import StratumMoments

    columns = reduced.design.columns
    if name not in columns:
        return False
    at = columns.index(name)
    if isinstance(reduced, Patterns | LevelPatterns):
        if reduced.n_patterns < reduced.n_rows:
            return False
        mass, mean, square = np.ones(reduced.n_patterns), reduced.values[:, at], 0.0
    else:
        moments = reduced.whole if isinstance(reduced, StratumMoments) else reduced
        mass, mean = moments.mass, moments.mean[:, at]
        square = float(moments.cross[:, at, at].sum())
    n = float(mass.sum())
    if n < FEWEST:
        return False
    with np.errstate(over="ignore", invalid="ignore"):  # what is no double numbers nothing
        square += float(mass @ (mean - mass @ mean / n) ** 2)
    least = n * (n * n - 1.0) / 12.0
    return abs(square - least) <= SAME * least
