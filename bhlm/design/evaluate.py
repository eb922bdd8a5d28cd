"""The columns of a design on rows in memory, a block of rows at a time.

The same columns as those of `steps`, which databases compute, by NumPy: the formula is evaluated on
blocks of rows that fit the cache, so that no column of the design ever exists in full.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.design import Design, distinct_columns, match_labels
from bhlm.design.formula.coding import Column, Level
from bhlm.design.formula.expressions import Apply, Expression, Name, Number
from bhlm.design.formula.functions import ROW_BY_ROW
from bhlm.design.kernels import kernel
from bhlm.design.rows import Layout

Array = np.ndarray
BLOCK = 1 << 15  # rows that are evaluated at a time: a few columns of them fit the cache


@dataclass(slots=True)
class Rows:
    """Complete rows in memory: raw columns, group codes, and group means as they are found."""

    columns: Mapping[str, Array]  # table column -> (n,)
    indicators: Mapping[tuple[str, Level], Array]  # categorical factor and level -> (n,) bool
    codes: Array  # (n,) int64 codes of the groups, in the order of their labels
    n_groups: int
    constants: Mapping[str, tuple[float, ...]]
    # Argument of gm() or cwc() -> each group's first value (J,) and mean deviation from it (J,):
    # far from zero the two together have digits that the mean alone has not. Where the group is
    # named, it is the gm() itself.
    means: dict[Expression, tuple[Array, Array]] = field(default_factory=dict)
    # Codes (n,) and number of the levels that cwc(x, group) and gm(x, group) mean, by `group`.
    levels: Mapping[str, tuple[Array, int]] = field(default_factory=dict)

    def evaluate(self, expression: Expression, span: slice) -> Array | float:
        """Return an expression on a block of rows."""
        match expression:
            case Name(name):
                return np.asarray(self.columns[name][span], dtype=np.float64)
            case Number(number):
                return float(number)
            case Apply("I", (argument,)):
                return self.evaluate(argument, span)
            case Apply("gm", (_,)) as node:
                first, rest = self.means[_name_means(node)]
                return (first + rest)[self._find_groups(node)[0][span]]
            case Apply("cwc", (argument,)) as node:
                first, rest = self.means[_name_means(node)]
                codes = self._find_groups(node)[0][span]
                return (self.evaluate(argument, span) - first[codes]) - rest[codes]
            case Apply("cgm", (argument,)):
                mean, remainder = self.constants[str(expression)]
                return (self.evaluate(argument, span) - mean) - remainder
            case Apply("scale", (argument,)):
                mean, remainder, sd = self.constants[str(expression)]
                return ((self.evaluate(argument, span) - mean) - remainder) / sd
            case Apply(function, arguments):
                values = (self.evaluate(argument, span) for argument in arguments)
                return ROW_BY_ROW[function].array(*values)

    def column(self, column: Column, span: slice) -> Array | float:
        """Return one column of the design on a block of rows."""
        product: Array | float = 1.0
        for part in column.parts:
            if part.level is not None:
                seen = self.indicators[str(part.factor), part.level][span]
                value: Array | float = seen.astype(np.float64)
            elif part.degree and isinstance(part.factor, Apply):
                value = self._power(part.factor, part.degree, span)
            else:
                value = self.evaluate(part.factor, span)
            product = value if isinstance(product, float) and product == 1.0 else product * value
        return product

    def _power(self, node: Apply, degree: int, span: slice) -> Array | float:
        """Return one column of poly(), by the recurrence of `steps.Steps`."""
        value = self.evaluate(node.arguments[0], span)
        if node.option("raw"):
            return value**degree
        constants = self.constants[str(node)]
        z = value - constants[0]
        before: Array | float = 1.0
        here = z - constants[2]
        for k in range(2, degree + 1):
            ratio = constants[2 * k - 1] / constants[2 * k - 3]
            before, here = here, (z - constants[2 * k]) * here - ratio * before
        return here / np.sqrt(constants[2 * degree + 1])

    def find_means(self, expressions: Sequence[Expression]) -> None:
        """Find the group means that gm() and cwc() in the expressions need, inner ones first."""
        for expression in expressions:
            if not isinstance(expression, Apply):
                continue
            self.find_means(expression.arguments)
            if expression.function not in ("gm", "cwc"):
                continue
            if (named := _name_means(expression)) not in self.means:
                codes, n_groups = self._find_groups(expression)
                count, first, rest = np.zeros((3, n_groups))
                self.accumulate_means(expression.arguments[0], count, first, rest, codes=codes)
                self.means[named] = first, rest

    def accumulate_means(
        self,
        argument: Expression,
        count: Array,
        first: Array,
        rest: Array,
        *,
        codes: Array | None = None,
    ) -> None:
        """Update counts, first values and mean deviations from them (J,) of an expression.

        `codes` (n,) are those of the groups; None takes those of the rows.
        """
        codes = self.codes if codes is None else codes
        for span in self.blocks():
            value = self.evaluate(argument, span)
            block = np.broadcast_to(np.asarray(value, np.float64), codes[span].shape)
            add_means(codes[span], np.ascontiguousarray(block), count, first, rest)

    def _find_groups(self, node: Apply) -> tuple[Array, int]:
        """Return the codes (n,) and the number of the groups of a cwc() or gm()."""
        group = node.option("group")
        return (self.codes, self.n_groups) if group is None else self.levels[str(group)]

    def blocks(self) -> list[slice]:
        """Return the blocks of rows."""
        n = len(self.codes)
        return [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _name_means(node: Apply) -> Expression:
    """Return under what `Rows.means` has the means that a cwc() or gm() reads."""
    named = node.option("group") is not None
    return Apply("gm", node.arguments, node.options) if named else node.arguments[0]


def read_rows(
    design: Design,
    frame: nw.DataFrame[Any],
    layout: Layout,
    codes: Array,
    n_groups: int,
    *,
    levels: Mapping[str, tuple[Array, int]] | None = None,
) -> Rows:
    """Return complete rows in memory with what a design reads of them, no group means yet.

    `codes` (n,) are those of the rows' groups, `n_groups` of them; `levels` as in `Rows`.
    """
    columns = distinct_columns(design.formula, design.levels).values()
    wanted = {(str(part.factor), part.level) for column in columns for part in column.parts}
    levelled = [(factor, level) for factor, level in wanted if level is not None]
    labels: dict[str, nw.Series[Any]] = {}
    for factor, level in levelled:
        if factor not in labels:
            # Series cost a tenth of expressions.
            labels[factor] = match_labels(frame[layout.categories[factor]], level)
    indicators = {(f, level): (labels[f] == level).to_numpy() for f, level in levelled}
    raw = {name: frame[safe].to_numpy() for name, safe in layout.columns.items()}
    whole = codes.astype(np.int64, copy=False)
    return Rows(raw, indicators, whole, n_groups, design.constants, levels=levels or {})


@kernel
def add_means(codes: Array, values: Array, count: Array, first: Array, rest: Array) -> None:
    """Update group counts, first values and mean deviations from them (J,) with rows (n,)."""
    for i in range(len(codes)):
        j = codes[i]
        if count[j] == 0.0:
            first[j] = values[i]
        count[j] += 1.0
        rest[j] += ((values[i] - first[j]) - rest[j]) / count[j]
