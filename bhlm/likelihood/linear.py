"""Text -> linear hypotheses on the fixed effects: "cwc(ses) - 2*gm(ses) = 0".

The names of the fixed effects, which may hold any character, are found first, the longest
first; what is left is arithmetic, which Python's own parser reads.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise, permutations

import numpy as np

from bhlm.errors import ArgumentError

Array = np.ndarray

EXAMPLE = "'sector = 0' or 'cwc(ses) - 2*gm(ses) = 0'"
# Interactions of more factors are found only as they are spelled in the table.
MAX_ORDERED = 4
SHOWN = 60  # characters of a text in an error
LARGEST = 10**308  # a number that is larger is no double
MOST_OPERATORS = 200  # of one side
MOST_CHARACTERS = 10_000  # of a text


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """c linear combinations of p fixed effects, and the values they are tested against."""

    labels: tuple[str, ...]  # (c,)
    contrasts: Array  # (c, p)
    values: Array  # (c,)


@dataclass(frozen=True, slots=True)
class Affine:
    """A constant and p coefficients of the fixed effects."""

    constant: float
    slopes: Array  # (p,)

    @property
    def is_number(self) -> bool:
        """Whether no fixed effect enters."""
        return not self.slopes.any()


def read_hypotheses(texts: str | Sequence[str], names: Sequence[str]) -> Hypotheses:
    """Return the hypotheses that the texts state about the fixed effects `names`.

    A text is one or more expressions joined by "=" ("a = b = 0" is two hypotheses); without
    "=" it is tested against zero. Expressions add, subtract, multiply and divide names,
    numbers and parentheses, and must be linear. Several may be given in one text, separated by
    ";".

    Raises:
        ArgumentError: a text cannot be read, is not linear, has an unknown name, holds a number
            beyond doubles, or says nothing about the fixed effects.
    """
    labels: list[str] = []
    rows: list[Array] = []
    values: list[float] = []
    spellings = spell_names(names)
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise ArgumentError(
                f"a hypothesis is a text such as {EXAMPLE}, not {type(text).__name__}; write each "
                "in quotes, one after the other"
            )
        check_length(text)
        for statement in mark_names(text, spellings).split(";"):
            sides = [_read_side(side, names, text=text) for side in statement.split("=")]
            shown = [unmark_names(side, names) for side in statement.split("=")]
            if len(sides) == 1:
                sides.append(Affine(0.0, np.zeros(len(names))))
                shown.append("0")
            for (left, right), pair in zip(pairwise(sides), pairwise(shown), strict=True):
                row, value = left.slopes - right.slopes, right.constant - left.constant
                if not np.isfinite([*row, value]).all():
                    raise ArgumentError(
                        f"the hypothesis {_shorten(text)} holds a number that is too large; write "
                        "a finite one"
                    )
                if not row.any():
                    raise ArgumentError(
                        f"the hypothesis {text!r} says nothing about a fixed effect; write "
                        f"{EXAMPLE}"
                    )
                rows.append(row)
                values.append(value)
                labels.append(" = ".join(pair))
    if not rows:
        raise ArgumentError(f"there is no hypothesis to test; write {EXAMPLE}")
    return Hypotheses(tuple(labels), np.array(rows), np.array(values))


def mark_names(text: str, spellings: Mapping[str, int]) -> str:
    """Return the text with each name that it holds replaced by its index, as `_3_`.

    The longest name goes first, and a name is not found within a word or a number (1e5).

    Args:
        text: what to read.
        spellings: the index of every spelling of a name, without spaces; see `spell_names`.
    """
    # Backquotes around a name that needs none, as a formula takes them.
    quoted = {f"`{name}`": index for name, index in spellings.items() if "`" not in name}
    spellings = quoted | dict(spellings)
    patterns = [_match_name(name) for name in sorted(spellings, key=len, reverse=True)]
    # What looks like a mark already is no name, and gets what no mark has.
    patterns.append(r"\b_\d+_\b")

    def mark(found: re.Match[str]) -> str:
        # A name as it stands goes before one that differs from it in spaces.
        index = spellings.get(found.group(), spellings.get(_squeeze(found.group())))
        return f"_{found.group()}" if index is None else f"_{index}_"

    return re.sub("|".join(patterns), mark, text)


def unmark_names(marked: str, names: Sequence[str]) -> str:
    """Return a marked text with the names in it again, and single spaces."""

    def unmark(found: re.Match[str]) -> str:
        escape, index = found.group(1), int(found.group(2))
        if escape:
            return f"_{index}_"
        return names[index] if index < len(names) else found.group()

    text = re.sub(r"_(_?)(\d+)_", unmark, marked)
    return re.sub(r"\s+", " ", text).strip()


def suggest_name(part: str, names: Sequence[str], *, kind: str = "fixed effects") -> str:
    """Return the name closest to what could not be read, or all of them, as a hint."""
    close = get_close_matches(part, names, n=1)
    return f"did you mean '{close[0]}'?" if close else f"the {kind} are {', '.join(names)}"


def _read_side(marked: str, names: Sequence[str], *, text: str) -> Affine:
    if not marked.strip():
        raise ArgumentError(f"the hypothesis {text!r} lacks a side; write {EXAMPLE}")
    # How deep Python reads depends on what else is imported, so the limit is one of our own.
    check_length(text, marked)
    try:
        tree = ast.parse(marked.strip(), mode="eval")
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(_explain(marked, names, text=text)) from error
    except (RecursionError, MemoryError):
        raise ArgumentError(_refuse_length(text)) from None
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return _evaluate(tree.body, names, text=text)
    except RecursionError:
        raise ArgumentError(_refuse_length(text)) from None


def check_length(text: str, marked: str = "") -> None:
    """Refuse a text that would take long to read, or deeper than Python reads.

    Args:
        text: as it is given.
        marked: one side or part of it, with its names replaced.

    Raises:
        ArgumentError: the text has too many characters, or the part too many operators.
    """
    if len(text) > MOST_CHARACTERS or count_operators(marked) > MOST_OPERATORS:
        raise ArgumentError(_refuse_length(text))


def _refuse_length(text: str) -> str:
    return (
        f"the hypothesis {_shorten(text)} is too long to read: it has {len(text):,} characters and "
        f"{count_operators(text):,} operators, and at most {MOST_CHARACTERS:,} and, of a side, "
        f"{MOST_OPERATORS} are read; write it with fewer terms"
    )


def count_operators(text: str) -> int:
    """Return how many signs, opening parentheses and nots an expression has."""
    return sum(map(text.count, "+-*/(")) + len(re.findall(r"\bnot\b", text))


def _shorten(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def _evaluate(node: ast.expr, names: Sequence[str], *, text: str) -> Affine:
    """Return the value of a parsed expression as an affine function of the fixed effects."""
    zero = np.zeros(len(names))
    marks = [f"_{index}_" for index in range(len(names))]
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return Affine(float(number) if abs(number) < LARGEST else np.inf, zero)
        case ast.Name(id=name) if name in marks:
            slopes = zero.copy()
            slopes[marks.index(name)] = 1.0
            return Affine(0.0, slopes)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
            return _scale(
                _evaluate(inner, names, text=text),
                -1.0 if isinstance(sign, ast.USub) else 1.0,
            )
        case ast.BinOp(left=first, op=sign, right=second):
            left = _evaluate(first, names, text=text)
            right = _evaluate(second, names, text=text)
            match sign:
                case ast.Add():
                    return Affine(left.constant + right.constant, left.slopes + right.slopes)
                case ast.Sub():
                    return Affine(left.constant - right.constant, left.slopes - right.slopes)
                case ast.Mult() if right.is_number:
                    return _scale(left, right.constant)
                case ast.Mult() if left.is_number:
                    return _scale(right, left.constant)
                case ast.Div() if right.is_number and right.constant:
                    return _scale(left, 1.0 / right.constant)
            raise ArgumentError(
                f"the hypothesis {text!r} is not linear in the fixed effects; write {EXAMPLE}"
            )
    raise ArgumentError(_explain(ast.unparse(node), names, text=text))


def _scale(value: Affine, factor: float) -> Affine:
    return Affine(factor * value.constant, factor * value.slopes)


def _explain(part: str, names: Sequence[str], *, text: str) -> str:
    """Return the error of a part that is neither arithmetic nor a known name."""
    part = unmark_names(part, names)
    return f"'{part}' in the hypothesis {text!r} cannot be read; {suggest_name(part, names)}"


def spell_names(names: Sequence[str]) -> dict[str, int]:
    """Return the index of every spelling of a name: interactions read in any order."""
    spellings: dict[str, int] = {}
    for index, name in enumerate(names):
        parts = _split_factors(name)
        orders = permutations(parts) if len(parts) <= MAX_ORDERED else [tuple(parts)]
        for order in orders:
            spellings.setdefault(_squeeze(":".join(order)), index)
    # The name as it stands goes before another's rearrangement.
    exact = {name: index for index, name in enumerate(names)}
    return spellings | {_squeeze(name): index for name, index in exact.items()} | exact


def find_name(name: str, names: Sequence[str]) -> int | None:
    """Return which of some names is meant, as it stands, in other spaces or with backquotes."""
    spellings = spell_names(names)
    is_quoted = len(name) > 2 and name[0] == name[-1] == "`"
    for each in (name, _squeeze(name), name[1:-1] if is_quoted else f"`{name}`"):
        if each in spellings:
            return spellings[each]
    return None


def _split_factors(name: str) -> list[str]:
    parts, depth = [""], 0
    for character in name:
        depth += (character in "([") - (character in ")]")
        if character == ":" and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _match_name(name: str) -> str:
    """Return a pattern that finds a name with any spaces in it, but not within a longer word."""
    body = r"\s*".join(re.escape(character) for character in name)
    before = r"(?<![\w.])" if re.match(r"\w", name[0]) else ""
    after = r"(?!\w)" if re.match(r"\w", name[-1]) else ""
    return f"(?:{before}{body}{after})"
