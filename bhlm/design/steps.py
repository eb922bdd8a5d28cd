"""Expressions of a formula -> steps of narwhals columns, the same for every engine.

A mean within groups is an aggregate of its own, and no database nests one in another, so a
column that a mean reads is laid down in an earlier step than the mean itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np

from bhlm.design.formula.expressions import Apply, Expression, Name, Number, walk
from bhlm.design.formula.functions import ROW_BY_ROW
from bhlm.design.frames import GROUP, Frame
from bhlm.errors import FormulaError

type Value = nw.Expr | float


@dataclass(slots=True)
class Step:
    """What is laid down together: values of each row, and means of columns within groups."""

    values: dict[str, nw.Expr] = field(default_factory=dict)
    means: dict[str, nw.Expr] = field(default_factory=dict)
    # Within which column's groups a mean is taken, where it is not GROUP.
    within: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Steps:
    """Successive steps of columns over a prepared frame, grown by lowering expressions.

    A value that was lowered to step s can be read once the steps before s are laid down;
    after `lay_down` all can.
    """

    columns: Mapping[str, str]  # column of the table -> its Float64 column of the frame
    constants: Mapping[str, tuple[float, ...]]
    # Columns of the frame that together are the groups of `Step.within`, where they are several.
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    named: dict[tuple[str, Expression], tuple[int, str]] = field(default_factory=dict)
    # By column, within which groups the means are that a row needs for it, or that it averages.
    reads: dict[str, frozenset[str]] = field(default_factory=dict)

    def lay_down(self, frame: Frame) -> Frame:
        """Return the frame with the columns of every step.

        Where rows have an order to keep, in memory and in polars, group means are windows.
        Elsewhere they are a table of groups that is joined to the rows: a window would have the
        engine write every row to disk, sorted by group, while it streams rows past a table.
        Each step with means makes the table of groups anew from the rows and the table before
        it, whose means it carries along, so that the rows are read once per such step. Of several
        grouping columns each has a table of its own, joined where a column needs it.
        """
        if isinstance(frame, nw.DataFrame) or frame.implementation.is_polars():
            for step in self.steps:
                windows = {
                    name: mean.mean().over(*self._find_keys(step.within.get(name, GROUP)))
                    for name, mean in step.means.items()
                }
                frame = frame.with_columns(**step.values, **windows)
            return frame
        known: dict[str, list[str]] = {}
        groups: dict[str, nw.LazyFrame[Any]] = {}
        for i, step in enumerate(self.steps):
            before = dict(groups)
            for within in dict.fromkeys(step.within.get(name, GROUP) for name in step.means):
                means = {
                    name: column.mean()
                    for name, column in step.means.items()
                    if step.within.get(name, GROUP) == within
                }
                carried = known.setdefault(within, [])
                needed = {within}.union(*(self.reads.get(name, before.keys()) for name in means))
                joined = {each: table for each, table in before.items() if each in needed}
                groups[within] = (
                    self._add_values(frame, joined, steps=self.steps[:i])
                    .group_by(*self._find_keys(within))
                    .agg(**means, **{name: nw.col(name).max() for name in carried})
                )
                carried += means
        return self._add_values(frame, groups, steps=self.steps)

    def _find_keys(self, within: str) -> tuple[str, ...]:
        return self.keys.get(within, (within,))

    def _add_values(
        self,
        rows: nw.LazyFrame[Any],
        groups: Mapping[str, nw.LazyFrame[Any]],
        *,
        steps: list[Step],
    ) -> nw.LazyFrame[Any]:
        """Return the rows with their groups' means, and the values of some steps over both."""
        for within, table in groups.items():
            rows = rows.join(table, on=list(self._find_keys(within)), how="left")
        for step in steps:
            values = {
                name: value
                for name, value in step.values.items()
                if self.reads.get(name, frozenset()) <= groups.keys()
            }
            if values:
                rows = rows.with_columns(**values)
        return rows

    def lower(self, expression: Expression) -> tuple[int, Value]:
        """Return the first step at which an expression can be read, and its value there."""
        match expression:
            case Name(name):
                return 0, nw.col(self.columns[name])
            case Number(number):
                return 0, float(number)
            case Apply("I", (argument,)):
                return self.lower(argument)
            case Apply("cwc" | "gm" as function, (argument,)) as node:
                within = name_within(node.option("group"))
                return self._lower_group_moment(function, argument, within=within)
            case Apply("cgm", (argument,)):
                step, value = self.lower(argument)
                mean, remainder = self.constants[str(expression)]
                return step, (value - mean) - remainder
            case Apply("scale", (argument,)):
                step, value = self.lower(argument)
                mean, remainder, sd = self.constants[str(expression)]
                return step, ((value - mean) - remainder) / sd
            case Apply(function, arguments):
                lowered = [self.lower(argument) for argument in arguments]
                step = max(step for step, _ in lowered)
                return step, _combine(function, [value for _, value in lowered])

    def lower_power(self, node: Apply, degree: int) -> tuple[int, Value]:
        """Return one column of poly(): x**degree if raw, else the orthonormal polynomial."""
        if node.option("raw"):
            step, value = self.lower(node.arguments[0])
            return step, value**degree
        constants = self.constants[str(node)]
        step, value = self.lower_orthogonal(node, degree, constants=constants)
        return step, value / math.sqrt(constants[2 * degree + 1])

    def lower_orthogonal(
        self, node: Apply, k: int, *, constants: tuple[float, ...]
    ) -> tuple[int, Value]:
        """Return the k-th monic orthogonal polynomial p_k of the argument x of poly().

        With z = x - shift: p_0 = 1, p_1 = z - alpha_0 and
        p_k = (z - alpha_{k-1}) p_{k-1} - norm2_{k-1}/norm2_{k-2} p_{k-2};
        `constants` is (shift, norm2_0, alpha_0, norm2_1, alpha_1, ...), see `fit_constants`.
        """
        step, value = self.lower(node.arguments[0])
        if k == 0:
            return step, 1.0
        z = value - constants[0] - constants[2 * k]
        if k == 1:
            return self._name("p1", node, step, z, reads=_find_reads(node))
        step_1, p_1 = self.lower_orthogonal(node, k - 1, constants=constants)
        step_2, p_2 = self.lower_orthogonal(node, k - 2, constants=constants)
        ratio = constants[2 * k - 1] / constants[2 * k - 3]
        deepest = max(step, step_1, step_2)
        return self._name(f"p{k}", node, deepest, z * p_1 - ratio * p_2, reads=_find_reads(node))

    def _lower_group_moment(
        self, function: str, argument: Expression, *, within: str
    ) -> tuple[int, Value]:
        """Return the group means of an expression (gm), or its deviations from them (cwc).

        The expression is laid down first, since two steps read it.
        The mean of the deviations, zero but for rounding, is taken off once more: a sum of
        values near 1e8 is good to 1e-8 only, and the deviations deserve better.
        """
        step, value = self.lower(argument)
        reads = _find_reads(argument)
        if not isinstance(argument, Name):
            step, value = self._name("x", argument, step, value, reads=reads)
        step, mean = self._name("mean", argument, step, value, within=within, reads=reads)
        reads |= {within}
        step, rest = self._name(f"rest {within}", argument, step, value - mean, reads=reads)
        step, left = self._name("left", argument, step, rest, within=within, reads=reads)
        return step, rest - left if function == "cwc" else mean + left

    def _name(
        self,
        kind: str,
        expression: Expression,
        step: int,
        value: Value,
        *,
        within: str = "",
        reads: frozenset[str],
    ) -> tuple[int, nw.Expr]:
        """Lay a value, or its mean within a column's groups, down at a step, once.

        It is returned as a column of the next step. `reads` are the groups of `Steps.reads`.

        What a mean is taken of must be a column itself: Dask aggregates nothing else.
        """
        kind += within
        if (kind, expression) not in self.named:
            while len(self.steps) <= step:
                self.steps.append(Step())
            name = f"t{len(self.named)}"
            laid = self.steps[step].means if within else self.steps[step].values
            if within and within != GROUP:
                self.steps[step].within[name] = within
            laid[name] = as_expr(value)
            self.reads[name] = reads
            self.named[kind, expression] = (step + 1, name)
        step, name = self.named[kind, expression]
        return step, nw.col(name)


def _find_reads(expression: Expression) -> frozenset[str]:
    """Return within which groups the means are that an expression is made of."""
    return frozenset(
        name_within(node.option("group"))
        for node in walk(expression)
        if isinstance(node, Apply) and node.function in ("cwc", "gm")
    )


def name_within(group: object) -> str:
    """Return the frame's column of the groups that cwc(x, group) and gm(x, group) mean."""
    return GROUP if group is None else f"{GROUP} {group}"


def as_expr(value: Value) -> nw.Expr:
    """Return a value as a column, a number as a constant one."""
    return value if isinstance(value, nw.Expr) else nw.lit(value)


def _combine(function: str, values: list[Value]) -> Value:
    """Return a row by row function of values; of numbers alone, the number."""
    if any(isinstance(value, nw.Expr) for value in values):
        column: nw.Expr = ROW_BY_ROW[function].column(*values)
        return column
    with np.errstate(all="ignore"):
        number = float(ROW_BY_ROW[function].array(*values))
    if not math.isfinite(number):
        shown = ", ".join(map(str, values))
        raise FormulaError(
            f"{function} of {shown} in the formula is {number} (a logarithm of 0, a root of a "
            "negative number, a division by zero?); change it"
        )
    return number
