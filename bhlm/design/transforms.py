"""Expressions of a formula -> steps of narwhals columns, the same for every engine.

A mean within groups is an aggregate of its own, and no database nests one in another, so a
column that a mean reads is laid down in an earlier step than the mean itself.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw

from bhlm.design.formula.expressions import Apply, Expression, Name, Number, walk
from bhlm.errors import DataError, FormulaError

type Frame = nw.DataFrame[Any] | nw.LazyFrame[Any]
type Value = nw.Expr | float
type Constants = Mapping[str, tuple[float, ...]]

GROUP = "group"  # the grouping column in every prepared frame
MAX_REASON = 300  # characters of an engine's own error, some of which repeat the whole query


@dataclass(slots=True)
class Step:
    """What is laid down together: values of each row, and means of columns within groups."""

    values: dict[str, nw.Expr] = field(default_factory=dict)
    means: dict[str, nw.Expr] = field(default_factory=dict)


@dataclass(slots=True)
class Steps:
    """Successive steps of columns over a prepared frame, grown by lowering expressions.

    A value that was lowered to step s can be read once the steps before s are laid down;
    after `lay_down` all can.
    """

    columns: Mapping[str, str]  # column of the table -> its Float64 column of the frame
    constants: Constants
    steps: list[Step] = field(default_factory=list)
    named: dict[tuple[str, Expression], tuple[int, str]] = field(default_factory=dict)

    def lay_down(self, frame: Frame) -> Frame:
        """Return the frame with the columns of every step.

        Where rows have an order to keep, in memory and in polars, group means are windows.
        Elsewhere they are a table of groups that is joined to the rows: a window would have the
        engine write every row to disk, sorted by group, while it streams rows past a table.
        Each step with means makes the table of groups anew from the rows and the table before
        it, whose means it carries along, so that the rows are read once per such step.
        """
        if isinstance(frame, nw.DataFrame) or frame.implementation.is_polars():
            for step in self.steps:
                windows = {name: mean.mean().over(GROUP) for name, mean in step.means.items()}
                frame = frame.with_columns(**step.values, **windows)
            return frame
        known: list[str] = []
        groups: nw.LazyFrame[Any] | None = None
        for i, step in enumerate(self.steps):
            if step.means:
                groups = (
                    self._add_values(frame, groups, steps=self.steps[:i])
                    .group_by(GROUP)
                    .agg(
                        **{name: column.mean() for name, column in step.means.items()},
                        **{name: nw.col(name).max() for name in known},
                    )
                )
                known += step.means
        return self._add_values(frame, groups, steps=self.steps)

    def _add_values(
        self,
        rows: nw.LazyFrame[Any],
        groups: nw.LazyFrame[Any] | None,
        *,
        steps: list[Step],
    ) -> nw.LazyFrame[Any]:
        """Return the rows with their group's means, and the values of some steps over both."""
        if groups is not None:
            rows = rows.join(groups, on=GROUP, how="left")
        for step in steps:
            if step.values:
                rows = rows.with_columns(**step.values)
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
            case Apply("cwc" | "gm" as function, (argument,)):
                return self._lower_group_moment(function, argument)
            case Apply("cgm", (argument,)):
                step, value = self.lower(argument)
                mean, remainder = self.constants[str(expression)]
                return step, (value - mean) - remainder
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
            return self._name("p1", node, step, z)
        step_1, p_1 = self.lower_orthogonal(node, k - 1, constants=constants)
        step_2, p_2 = self.lower_orthogonal(node, k - 2, constants=constants)
        ratio = constants[2 * k - 1] / constants[2 * k - 3]
        return self._name(f"p{k}", node, max(step, step_1, step_2), z * p_1 - ratio * p_2)

    def _lower_group_moment(self, function: str, argument: Expression) -> tuple[int, Value]:
        """Return the group means of an expression (gm), or its deviations from them (cwc).

        The expression is laid down first, since two steps read it.
        The mean of the deviations, zero but for rounding, is taken off once more: a sum of
        values near 1e8 is good to 1e-8 only, and the deviations deserve better.
        """
        step, value = self.lower(argument)
        if not isinstance(argument, Name):
            step, value = self._name("x", argument, step, value)
        step, mean = self._name("mean", argument, step, value, is_mean=True)
        step, rest = self._name("rest", argument, step, value - mean)
        step, left = self._name("left", argument, step, rest, is_mean=True)
        return step, rest - left if function == "cwc" else mean + left

    def _name(
        self, kind: str, expression: Expression, step: int, value: Value, *, is_mean: bool = False
    ) -> tuple[int, nw.Expr]:
        """Lay a value, or its group mean, down at a step, once; return it as a column of the next.

        What a mean is taken of must be a column itself: Dask aggregates nothing else.
        """
        if (kind, expression) not in self.named:
            while len(self.steps) <= step:
                self.steps.append(Step())
            name = f"t{len(self.named)}"
            laid = self.steps[step].means if is_mean else self.steps[step].values
            laid[name] = _as_expr(value)
            self.named[kind, expression] = (step + 1, name)
        step, name = self.named[kind, expression]
        return step, nw.col(name)


def collect_frame(frame: nw.LazyFrame[Any]) -> nw.DataFrame[Any]:
    """Return a lazy frame as a table in memory.

    Raises `DataError` with the engine's own words where it gives up: memory, a lost connection,
    a number that it has no value for.
    """
    try:
        return frame.collect()
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON] or type(error).__name__
        raise DataError(
            f"{frame.implementation.name.lower()} stopped while it read the table ({reason}); "
            "check the table and the engine's limits"
        ) from error


def count_true(condition: nw.Expr) -> nw.Expr:
    """Return the aggregate that counts the rows where a condition holds."""
    # By way of 32 bits, which is the only number that PostgreSQL makes of a boolean.
    return condition.cast(nw.Int32).cast(nw.Int64).sum()


def fit_constants(
    frame: Frame, expressions: Iterable[Expression], *, columns: Mapping[str, str], n: int
) -> dict[str, tuple[float, ...]]:
    """Return the constants of every cgm() and poly() in the expressions, from the n rows of frame.

    cgm(x): (mean, what rounding left of it). poly(x, d): (shift, norm2_0, alpha_0, norm2_1,
    ..., alpha_{d-1}, norm2_d), the alpha and norm2 of R's poly() for z = x - shift, shift being
    the mean of x. One pass over the frame finds the next constant of all of them together.

    Raises `DataError` where an argument is not finite, or has too few distinct values.
    """
    nodes = _constant_nodes(expressions)
    partial: dict[str, tuple[float, ...]] = {str(node): () for node in nodes}
    while open_nodes := [node for node in nodes if not _is_complete(node, partial)]:
        ready = [
            node
            for node in open_nodes
            if all(_is_complete(inner, partial) for inner in _constant_nodes(node.arguments))
        ]
        steps = Steps(columns, partial)
        questions: list[nw.Expr] = []
        for node in ready:
            questions += _ask(node, steps, partial[str(node)])
        first = [node.arguments[0] for node in ready if not partial[str(node)]]
        suspects = list(dict.fromkeys(checkpoints(first) + first))
        finite = [count_finite(_as_expr(steps.lower(suspect)[1])) for suspect in suspects]
        answers = take_row(steps.lay_down(frame), questions + finite)
        check_finite(suspects, answers[len(questions) :], n=n)
        for node in ready:
            if node.function == "poly" and not partial[str(node)]:
                _check_distinct(node, steps, frame)
            partial[str(node)] = _learn(node, partial[str(node)], answers, n=n)
    return partial


def checkpoints(expressions: Iterable[Expression]) -> list[Expression]:
    """Return the arguments, inner ones first, whose means the expressions take.

    They are where a value that is not finite must be caught: a mean spreads it.
    """
    return [
        node.arguments[0]
        for expression in expressions
        for node in walk(expression)
        if isinstance(node, Apply)
        and node.function in ("cwc", "gm", "cgm", "poly")
        and not isinstance(node.arguments[0], Name)
    ]


def count_finite(value: nw.Expr) -> nw.Expr:
    """Return the aggregate that counts the rows where a value is finite (null is not)."""
    return count_true(value.is_finite())


def check_finite(names: Iterable[object], finite: Iterable[Any], *, n: int) -> None:
    """Raise `DataError` for the first expression that is not finite in all n rows."""
    for name, count in zip(names, finite, strict=True):
        if bad := n - int(count or 0):
            raise DataError(
                f"'{name}' is not finite in {bad} of the {n} complete rows (a logarithm of 0, a "
                "root of a negative number, a division by 0?); drop those rows or change the term"
            )


def take_row(frame: Frame, aggregates: list[nw.Expr]) -> list[Any]:
    """Return the values of some aggregates, computed in one pass over the frame."""
    if not aggregates:
        return []
    found = frame.select(*(value.alias(f"a{i}") for i, value in enumerate(aggregates)))
    return list((collect_frame(found) if isinstance(found, nw.LazyFrame) else found).row(0))


def count_distinct(frame: Frame, value: nw.Expr) -> int:
    """Return the number of distinct values of an expression."""
    if isinstance(frame, nw.DataFrame):
        return int(frame.select(value.n_unique()).item())
    # Not n_unique(): for PostgreSQL it would cast a boolean, which that refuses.
    found = frame.select(v=value).group_by("v").agg(nw.len().alias("n"))
    return int(take_row(found, [nw.len()])[0])


def _check_distinct(node: Apply, steps: Steps, frame: Frame) -> None:
    """Raise `DataError` where the argument of a poly() has too few distinct values."""
    argument = _as_expr(steps.lower(node.arguments[0])[1])
    if (distinct := count_distinct(steps.lay_down(frame), argument)) <= _degree(node):
        raise DataError(
            f"'{node}' needs more than {_degree(node)} distinct values of "
            f"{node.arguments[0]}, which has {distinct}; lower the degree"
        )


def _constant_nodes(expressions: Iterable[Expression]) -> list[Apply]:
    """Return the calls that need constants from the whole table, inner ones first."""
    nodes = (node for expression in expressions for node in walk(expression))
    return list(
        dict.fromkeys(
            node
            for node in nodes
            if isinstance(node, Apply)
            and (node.function == "cgm" or (node.function == "poly" and not node.option("raw")))
        )
    )


def _degree(node: Apply) -> int:
    return int(node.option("degree") or 0)


def _is_complete(node: Apply, constants: Constants) -> bool:
    size = 2 if node.function == "cgm" else 2 + 2 * _degree(node)
    return len(constants[str(node)]) == size


def _ask(node: Apply, steps: Steps, known: tuple[float, ...]) -> list[nw.Expr]:
    """Return the aggregates from which `_learn` finds the next constants of a node."""
    x = _as_expr(steps.lower(node.arguments[0])[1])
    if not known:
        return [x.mean()]
    z = x - known[0]
    if len(known) < 3:
        return [z.mean()]
    k = (len(known) - 1) // 2
    p = _as_expr(steps.lower_orthogonal(node, k, constants=known)[1])
    return [(p * p).sum(), (z * p * p).sum()]


def _learn(
    node: Apply, known: tuple[float, ...], answers: list[Any], *, n: int
) -> tuple[float, ...]:
    """Return the constants of a node with the next ones, taking its answers off the list."""
    first = float(answers.pop(0))
    if node.function == "cgm":
        return (*known, first)
    if not known:
        return (first, float(n))
    if len(known) < 3:
        return (*known, first)
    second = float(answers.pop(0))
    if not (math.isfinite(first) and math.isfinite(second) and first > 0):
        raise DataError(
            f"'{node}' cannot be computed: its column of degree {(len(known) - 1) // 2} has the "
            f"sum of squares {first}; lower the degree or rescale {node.arguments[0]}"
        )
    return (
        (*known, first) if len(known) == 2 * _degree(node) + 1 else (*known, first, second / first)
    )


def _as_expr(value: Value) -> nw.Expr:
    return value if isinstance(value, nw.Expr) else nw.lit(value)


def _combine(function: str, values: list[Value]) -> Value:
    """Return a row by row function of values; of numbers alone, the number."""
    try:
        if function == "neg":
            return -values[0]
        if len(values) == 2:
            return OPERATIONS[function](values[0], values[1])
        if isinstance(values[0], float):
            return NUMBER_FUNCTIONS[function](values[0])
    except (ArithmeticError, ValueError) as error:
        shown = ", ".join(map(str, values))
        raise FormulaError(f"{function} of {shown} in the formula: {error}; change it") from None
    return COLUMN_FUNCTIONS[function](values[0])


def _log1p(x: nw.Expr) -> nw.Expr:
    """Return log(1 + x) to full precision for small x (Goldberg 1991, theorem 4)."""
    u = x + 1.0
    return nw.when(u == 1.0).then(x).otherwise(u.log() * x / (u - 1.0))


def _raise(base: Any, power: Any) -> Any:
    value = base**power
    if isinstance(value, complex):
        raise ValueError("a root of a negative number")
    return value


OPERATIONS: dict[str, Callable[[Any, Any], Value]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "**": _raise,
}
NUMBER_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "log10": math.log10,
    "log1p": math.log1p,
    "log2": math.log2,
    "sqrt": math.sqrt,
}
COLUMN_FUNCTIONS: dict[str, Callable[[Any], nw.Expr]] = {
    "abs": lambda x: x.abs(),
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "log10": lambda x: x.log(10),
    "log1p": _log1p,
    "log2": lambda x: x.log(2),
    "sqrt": lambda x: x.sqrt(),
}
