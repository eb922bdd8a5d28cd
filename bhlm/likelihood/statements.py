"""Text about parameters -> its value at every draw: "2*a - b", "a > 2 and sd(b|g) < 1".

The names, which may hold any character, are found as in `bhlm.likelihood.linear`; what is
left is read by Python's own parser. Since it is evaluated draw by draw, an expression need not be
linear: "var(Intercept|school) / var(Residual) > 0.2".
"""

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.linear import (
    LARGEST,
    check_length,
    mark_names,
    spell_names,
    suggest_name,
    unmark_names,
)

Array = np.ndarray

EXAMPLE = "'cwc(ses) > 2' or 'sd(Intercept|school) > 3 and sector < 0'"
MARK = re.compile(r"_(\d+)_")
ORDERS: dict[type[ast.cmpop], Callable[[Array, Array], Array]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
}
SIGNS: dict[type[ast.operator], Callable[[Array, Array], Array]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The parameters that a text may name, with their draws."""

    names: tuple[str, ...]
    values: tuple[Array, ...]  # each (chain, draw)
    spellings: dict[str, int]  # the index of every spelling of a name, without spaces


@dataclass(frozen=True, slots=True)
class Statement:
    """A text that has been read."""

    given: str
    shown: str  # with the names as in the tables
    tree: ast.expr  # with marks for names
    words: Vocabulary


def collect_words(
    draws: Mapping[str, Array], *, aliases: Mapping[str, str] | None = None
) -> Vocabulary:
    """Return what a text about these parameters is read with.

    Args:
        draws: parameter name -> (chain, draw).
        aliases: other spellings of a name -> the name.
    """
    names = tuple(draws)
    other = {
        re.sub(r"\s+", "", alias): names.index(name) for alias, name in (aliases or {}).items()
    }
    return Vocabulary(names, tuple(draws.values()), other | spell_names(names))


def read_statement(text: str, words: Vocabulary) -> Statement:
    """Return a text as read: a comparison, several of them, or an expression.

    Raises:
        ArgumentError: text that cannot be read, an unknown name, or no name at all.
    """
    if not (isinstance(text, str) and text.strip()):
        raise ArgumentError(f"{text!r} states nothing; write {EXAMPLE}")
    check_length(text)
    marked = re.sub(r"\s+", " ", mark_names(text, words.spellings)).strip()
    for part in re.split(r"\band\b|\bor\b", marked):
        check_length(text, part)
    tree = _parse(marked)
    if tree is None:
        if re.search(r"(?<![<>])=", marked):
            raise _refuse_equality(text)
        parts = re.split(r"[<>]=?|\band\b|\bor\b", marked)
        unknown = [part for part in parts if part.strip() and _parse(part) is None]
        raise _refuse_part(unknown[0] if unknown else marked, text, words)
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    if not any(map(MARK.fullmatch, names)):
        calls = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        if names:
            raise _refuse_part((calls or names)[0], text, words)
        raise ArgumentError(f"{text!r} says nothing about a parameter; write {EXAMPLE}")
    return Statement(text, unmark_names(marked, words.names), tree, words)


def judge_statement(statement: Statement) -> Array:
    """Return whether a statement holds (chain, draw).

    A statement is a comparison by <, <=, > or >= (chains such as "0 < a < 1" too), or several
    joined by `and`, `or` and `not`.

    Raises:
        ArgumentError: no comparison, an equality, or a side that is not finite at some draw.
    """
    return _judge(statement.tree, statement)


def evaluate_statement(statement: Statement) -> Array:
    """Return the value (chain, draw) of an expression.

    Expressions add, subtract, multiply, divide and raise to powers the parameters, numbers,
    parentheses and abs().

    Raises:
        ArgumentError: a comparison, or a value that is not finite at some draw.
    """
    if isinstance(statement.tree, ast.Compare | ast.BoolOp):
        raise ArgumentError(
            f"{statement.given!r} is a comparison, not a quantity; write a parameter, or an "
            "expression of several such as '2*a - b'"
        )
    return _finish(_evaluate(statement.tree, statement), statement)


def subtract_sides(statement: Statement) -> Array:
    """Return the left side less the right side (chain, draw) of one comparison.

    Raises:
        ArgumentError: more or less than one comparison, an equality, or a difference that is
            not finite at some draw.
    """
    tree = statement.tree
    if isinstance(tree, ast.Compare) and len(tree.ops) == 1:
        left = _evaluate(tree.left, statement)
        right = _evaluate(tree.comparators[0], statement)
        return _finish(left - right, statement)
    judge_statement(statement)
    raise ArgumentError(
        f"{statement.given!r} is more than one comparison; give fit.hypothesis one at a time, or "
        "ask for fit.probability"
    )


def _parse(marked: str) -> ast.expr | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of "1and", which can be read
            return ast.parse(marked.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None


def _judge(node: ast.expr, statement: Statement) -> Array:
    match node:
        case ast.BoolOp(op=ast.And(), values=parts):
            return np.asarray(np.logical_and.reduce([_judge(part, statement) for part in parts]))
        case ast.BoolOp(op=ast.Or(), values=parts):
            return np.asarray(np.logical_or.reduce([_judge(part, statement) for part in parts]))
        case ast.UnaryOp(op=ast.Not(), operand=inner):
            return ~_judge(inner, statement)
        case ast.Compare(left=first, ops=signs, comparators=others):
            sides = [_finish(_evaluate(side, statement), statement) for side in (first, *others)]
            holds = np.ones(sides[0].shape, dtype=bool)
            for sign, left, right in zip(signs, sides[:-1], sides[1:], strict=True):
                if type(sign) not in ORDERS:
                    raise _refuse_equality(statement.given)
                holds &= ORDERS[type(sign)](left, right)
            return holds
    _evaluate(node, statement)
    part = unmark_names(ast.unparse(node), statement.words.names)
    whole = "" if part == statement.shown else f" in {statement.given!r}"
    raise ArgumentError(f"'{part}'{whole} is no comparison; write {EXAMPLE}")


def _evaluate(node: ast.expr, statement: Statement) -> Array:
    """Return the value of an expression, (chain, draw) or one number."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            if abs(number) >= LARGEST:
                raise ArgumentError(
                    f"{statement.given!r} holds a number that is too large; write a smaller one"
                )
            return np.asarray(float(number))
        case ast.Name(id=name) if found := MARK.fullmatch(name):
            return statement.words.values[int(found.group(1))]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_evaluate(inner, statement)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _evaluate(inner, statement)
        case ast.Call(func=ast.Name(id="abs"), args=[inner], keywords=[]):
            return np.abs(_evaluate(inner, statement))
        case ast.BinOp(left=first, op=sign, right=second) if type(sign) in SIGNS:
            left, right = _evaluate(first, statement), _evaluate(second, statement)
            with np.errstate(all="ignore"):  # what is not finite is refused in the end
                return SIGNS[type(sign)](left, right)
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
            raise ArgumentError(
                f"{statement.given!r} cannot be read; join comparisons by 'and' or 'or', and "
                f"check the names: the parameters are {', '.join(statement.words.names)}"
            )
    raise _refuse_part(ast.unparse(node), statement.given, statement.words)


def _finish(value: Array, statement: Statement) -> Array:
    """Return the value at every draw (chain, draw), all finite."""
    full = np.broadcast_to(value, statement.words.values[0].shape)
    bad = int(np.sum(~np.isfinite(full)))
    if bad:
        raise ArgumentError(
            f"a side of {statement.given!r} is not finite at {bad} of {full.size} draws; leave "
            "out what may be zero below the line, or too large"
        )
    return full


def _refuse_part(marked: str, text: str, words: Vocabulary) -> ArgumentError:
    """Return the error of a part that is neither arithmetic nor a known name."""
    part = unmark_names(marked, words.names)
    rest = re.sub(r"\b(?:_\d+_|abs|and|or|not)(?!\w)", "", marked)
    is_name = re.search(r"[^\W\d]", rest)
    hint = suggest_name(part, words.names, kind="parameters") if is_name else f"write {EXAMPLE}"
    whole = "" if part == text.strip() else f" in {text!r}"
    return ArgumentError(f"'{part}'{whole} cannot be read; {hint}")


def _refuse_equality(text: str) -> ArgumentError:
    return ArgumentError(
        f"{text!r} does not compare by < or >, and equality has posterior probability 0; ask "
        "for fit.rope with a region of practical equivalence instead"
    )
