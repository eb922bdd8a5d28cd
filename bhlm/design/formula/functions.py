"""What a formula may apply row by row: each with its form for narwhals and for NumPy columns.

To add a function is to add an entry: the reader, the messages and both engines go by this table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np


@dataclass(frozen=True, slots=True)
class RowByRow:
    """A function or an operator that needs nothing but the values of the row."""

    arity: int
    column: Callable[..., Any]  # of narwhals expressions, or of these and numbers
    array: Callable[..., Any]  # of float64 arrays (n,) and numbers; not finite where undefined


def _log1p(x: nw.Expr) -> nw.Expr:
    """Return log(1 + x) to full precision for small x (Goldberg 1991, theorem 4)."""
    u = x + 1.0
    return nw.when(u == 1.0).then(x).otherwise(u.log() * x / (u - 1.0))


# By the name that a formula calls them by; numpy's own are also known as np.log and numpy.log.
ELEMENTWISE = {
    "abs": RowByRow(1, lambda x: x.abs(), np.abs),
    "exp": RowByRow(1, lambda x: x.exp(), np.exp),
    "log": RowByRow(1, lambda x: x.log(), np.log),
    "log10": RowByRow(1, lambda x: x.log(10), np.log10),
    "log1p": RowByRow(1, _log1p, np.log1p),
    "log2": RowByRow(1, lambda x: x.log(2), np.log2),
    "sqrt": RowByRow(1, lambda x: x.sqrt(), np.sqrt),
}
OPERATORS = {
    "+": RowByRow(2, lambda a, b: a + b, lambda a, b: a + b),
    "-": RowByRow(2, lambda a, b: a - b, lambda a, b: a - b),
    "*": RowByRow(2, lambda a, b: a * b, lambda a, b: a * b),
    "/": RowByRow(2, lambda a, b: a / b, np.divide),
    "**": RowByRow(2, lambda a, b: a**b, np.power),
    "neg": RowByRow(1, lambda a: -a, lambda a: -a),
}
ROW_BY_ROW = ELEMENTWISE | OPERATORS
