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
    """Return a sentence about each predictor that is a row number, or called an identifier.

    The numbers of n rows, in any order, are told by their sum of squares about their mean, which
    is n (n^2 - 1) / 12 and no less for any n different integers.
    """
    design = reduced.design
    n, squares = _sum_squares(reduced)
    least = n * (n * n - 1.0) / 12.0
    found = []
    for name in design.fixed:
        column = name.strip("`") if name.startswith("`") else name
        if name == INTERCEPT:
            continue
        if column in design.formula.group_columns:
            what = "is a group column, taken as a number"
        elif _CALLED.fullmatch(column):
            what = "is called like an identifier, and taken as a number"
        elif n >= FEWEST and abs(squares.get(name, 0.0) - least) <= SAME * least:
            what = "numbers the rows one by one"
        else:
            continue
        found.append(
            f"the predictor '{name}' {what}; leave it out, or write C({name}) if each value is a "
            "category"
        )
    return found


def _sum_squares(
    reduced: "AnyMoments | Patterns | LevelPatterns | StratumMoments",
) -> tuple[float, dict[str, float]]:
    """Return n, and each column's sum of squares about its mean; none where rows are merged."""
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.moments import pool
    from bhlm.moments.patterns import Patterns
    from bhlm.moments.strata import StratumMoments

    if isinstance(reduced, Patterns | LevelPatterns):
        if reduced.n_patterns < reduced.n_rows:
            return float(reduced.n_rows), {}
        gaps = reduced.values - reduced.values.mean(axis=0)
        sums = np.sum(gaps**2, axis=0).tolist()
        return float(reduced.n_rows), dict(zip(reduced.columns, sums, strict=False))
    moments = reduced.whole if isinstance(reduced, StratumMoments) else reduced
    n, _, total = pool(moments)
    return n, dict(zip(moments.columns, np.diag(total).tolist(), strict=False))
