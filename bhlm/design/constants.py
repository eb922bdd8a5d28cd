"""The constants of cgm(), scale() and poly(), which a design learns from the whole table."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import narwhals as nw

from bhlm.design.formula.expressions import Apply, Expression, Name, walk
from bhlm.design.frames import Frame, count_distinct, count_finite, take_row
from bhlm.design.rows import Layout
from bhlm.design.steps import Steps, as_expr
from bhlm.errors import DataError

# Of the mean: an SD that is smaller is what rounding made of a column without one.
CONSTANT = 1e-13

type Constants = Mapping[str, tuple[float, ...]]


def fit_constants(
    frame: Frame, expressions: Iterable[Expression], *, layout: Layout, n: int
) -> dict[str, tuple[float, ...]]:
    """Return the constants of every cgm(), scale() and poly(), from the n rows of frame.

    cgm(x): (mean, what rounding left of it). scale(x): the same, and the SD over n - 1.
    poly(x, d): (shift, norm2_0, alpha_0, norm2_1, ..., alpha_{d-1}, norm2_d), the alpha and norm2
    of R's poly() for z = x - shift, shift being the mean of x. One pass over the frame finds the
    next constant of all of them together.

    Raises `DataError` where an argument is not finite, or has too few distinct values.
    """
    nodes = constant_nodes(expressions)
    partial: dict[str, tuple[float, ...]] = {str(node): () for node in nodes}
    while open_nodes := [node for node in nodes if not _is_complete(node, partial)]:
        ready = [
            node
            for node in open_nodes
            if all(_is_complete(inner, partial) for inner in constant_nodes(node.arguments))
        ]
        steps = Steps(layout.columns, partial, layout.keys)
        questions: list[nw.Expr] = []
        for node in ready:
            questions += _ask(node, steps, partial[str(node)])
        first = [node.arguments[0] for node in ready if not partial[str(node)]]
        suspects = list(dict.fromkeys(checkpoints(first) + first))
        finite = [count_finite(as_expr(steps.lower(suspect)[1])) for suspect in suspects]
        answers = take_row(steps.lay_down(frame), questions + finite)
        check_finite(suspects, answers[len(questions) :], n=n)
        for node in ready:
            if node.function == "poly" and not partial[str(node)]:
                _check_distinct(node, steps, frame)
            partial[str(node)] = _learn(node, partial[str(node)], answers, n=n)
    return partial


def needs_constants(node: Expression) -> bool:
    """Return whether a call rests on constants of the whole table: all but raw poly()."""
    if not isinstance(node, Apply):
        return False
    return node.function in ("cgm", "scale") or (node.function == "poly" and not node.option("raw"))


def constant_nodes(expressions: Iterable[Expression]) -> list[Apply]:
    """Return the calls that need constants from the whole table, inner ones first."""
    nodes = (node for expression in expressions for node in walk(expression))
    return list(
        dict.fromkeys(node for node in nodes if isinstance(node, Apply) and needs_constants(node))
    )


def count_constants(node: Apply) -> int:
    """Return how many constants a call that needs them has."""
    if node.function in ("cgm", "scale"):
        return 2 if node.function == "cgm" else 3
    return 2 + 2 * _degree(node)


def checkpoints(expressions: Iterable[Expression]) -> list[Expression]:
    """Return the arguments, inner ones first, whose means the expressions take.

    They are where a value that is not finite must be caught: a mean spreads it.
    """
    return [
        node.arguments[0]
        for expression in expressions
        for node in walk(expression)
        if isinstance(node, Apply)
        and node.function in ("cwc", "gm", "cgm", "scale", "poly")
        and not isinstance(node.arguments[0], Name)
    ]


def check_finite(names: Iterable[object], finite: Iterable[Any], *, n: int) -> None:
    """Raise `DataError` for the first expression that is not finite in all n rows."""
    for name, count in zip(names, finite, strict=True):
        if bad := n - int(count or 0):
            raise DataError(
                f"'{name}' is not finite in {bad} of the {n} complete rows (a logarithm of 0, a "
                "root of a negative number, a division by 0?); drop those rows or change the term"
            )


def _check_distinct(node: Apply, steps: Steps, frame: Frame) -> None:
    """Raise `DataError` where the argument of a poly() has too few distinct values."""
    argument = as_expr(steps.lower(node.arguments[0])[1])
    if (distinct := count_distinct(steps.lay_down(frame), argument)) <= _degree(node):
        raise DataError(
            f"'{node}' needs more than {_degree(node)} distinct values of "
            f"{node.arguments[0]}, which has {distinct}; lower the degree"
        )


def _degree(node: Apply) -> int:
    return int(node.option("degree") or 0)


def _is_complete(node: Apply, constants: Constants) -> bool:
    return len(constants[str(node)]) == count_constants(node)


def _ask(node: Apply, steps: Steps, known: tuple[float, ...]) -> list[nw.Expr]:
    """Return the aggregates from which `_learn` finds the next constants of a node."""
    x = as_expr(steps.lower(node.arguments[0])[1])
    if not known:
        return [x.mean()]
    z = x - known[0]
    if len(known) == 2 and node.function == "scale":
        z = z - known[1]
        return [(z * z).sum()]
    if len(known) < 3:
        return [z.mean()]
    k = (len(known) - 1) // 2
    p = as_expr(steps.lower_orthogonal(node, k, constants=known)[1])
    return [(p * p).sum(), (z * p * p).sum()]


def _learn(
    node: Apply, known: tuple[float, ...], answers: list[Any], *, n: int
) -> tuple[float, ...]:
    """Return the constants of a node with the next ones, taking its answers off the list."""
    first = float(answers.pop(0))
    if node.function == "cgm":
        return (*known, first)
    if node.function == "scale":
        return (*known, first if len(known) < 2 else _find_sd(node, first, known, n=n))
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


def _find_sd(node: Apply, squares: float, known: tuple[float, ...], *, n: int) -> float:
    """Return the SD of the argument of a scale(), from the sum of squares about its mean."""
    sd = math.sqrt(squares / (n - 1)) if n > 1 and squares >= 0.0 else math.nan
    if not (math.isfinite(sd) and sd > CONSTANT * abs(known[0])):
        raise DataError(
            f"'{node}' cannot be computed: {node.arguments[0]} has the SD {sd:g} about its mean "
            f"{known[0]:g}; leave a column that does not vary out"
        )
    return sd
