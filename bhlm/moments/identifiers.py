"""Columns of numbers that can hardly be meant as numbers: row numbers, labels, identifiers."""

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from bhlm.moments.moments import Moments

FEWEST = 20  # rows from which consecutive numbers are no accident
SAME = 1e-9
_CALLED = re.compile(r"(?:.*[_. ])?(?:id|ID|Id)|.*[a-z]I[dD]")


def doubt_columns(moments: "Moments") -> list[str]:
    """Return a sentence about each predictor that is a row number, or called an identifier.

    The numbers of n rows, in any order, are told by their sum of squares about their mean, which
    is n (n^2 - 1) / 12 and no less for any n different integers.
    """
    from bhlm.moments.moments import pool

    n, _, total = pool(moments)
    squares = dict(zip(moments.design.columns, np.diag(total), strict=False))
    least = n * (n * n - 1.0) / 12.0
    found = []
    for name in moments.fixed:
        if name == moments.group:
            what = "is the group column, taken as a number"
        elif _CALLED.fullmatch(name):
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
