"""Formula text -> frozen terms: `parse_formula("y ~ x + (x | g)")`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bhlm.design.formula.expressions import (
    ELEMENTWISE,
    PRECEDENCE,
    Apply,
    Expression,
    Name,
    walk,
)
from bhlm.design.formula.reader import read_factor
from bhlm.design.formula.syntax import kind_of, parse_tree, show, strip_parentheses
from bhlm.errors import FormulaError

# A formula is written by hand; more terms than this are a slip such as (a + ... + z)**9.
MAX_TERMS = 1000
MAX_FACTORS = 100
EXAMPLE = "y ~ x + (x | g)"


@dataclass(frozen=True, slots=True)
class Term:
    """A product of factors; with no factor, the intercept."""

    factors: tuple[Expression, ...] = ()

    @property
    def name(self) -> str:
        """The term as text, the intercept as `Intercept`."""
        return str(self) if self.factors else "Intercept"

    def __str__(self) -> str:
        return ":".join(map(str, self.factors)) or "1"


@dataclass(frozen=True, slots=True)
class RandomTerm:
    """Terms whose coefficients vary over the groups and correlate among themselves."""

    terms: tuple[Term, ...]
    group: str

    def __str__(self) -> str:
        return f"({_print_sum(self.terms)} | {Name(self.group)})"


@dataclass(frozen=True, slots=True)
class Formula:
    """A model formula with one grouping factor.

    `str(formula)` is its one canonical spelling, which reads back to the same terms.
    """

    text: str  # as the user wrote it
    response: Expression
    fixed: tuple[Term, ...]
    random: tuple[RandomTerm, ...]
    group: str

    def __str__(self) -> str:
        parts = [_print_sum(self.fixed), *map(str, self.random)]
        return f"{self.response} ~ {' + '.join(parts)}"


def parse_formula(text: str) -> Formula:
    """Return the terms of a formula such as `y ~ x * z + (x | g)`.

    The fixed part follows R: an intercept is implied and `0 +` or `- 1` removes it; `a * b` is
    `a + b + a:b`, `a / b` is `a + a:b`, `(a + b)**2` is `a + b + a:b`, and `- a` removes `a`.
    Random terms follow lme4: `(x | g)` is unstructured, `(1 | g) + (0 + x | g)` and its short
    form `(x || g)` are independent. Arithmetic is allowed inside a call only: `I(x**2)`.
    Terms keep the order in which they are written.

    Raises `FormulaError`, in one line that names the offending piece and what to write instead.
    """
    if not isinstance(text, str):
        raise FormulaError(
            f"a formula is a string such as '{EXAMPLE}', not {type(text).__name__}; "
            "put it in quotes"
        )
    if not text.strip():
        raise FormulaError(f"the formula is empty; write one such as '{EXAMPLE}'")
    try:
        _check_interactions(text)
        return _read_formula(text)
    except FormulaError as error:
        reason = str(error)
    except RecursionError:
        reason = "it is nested too deeply; write it with fewer parentheses or calls"
    short = " ".join(text.split())
    short = short if len(short) <= 80 else f"{short[:60]}...{short[-15:]}"
    raise FormulaError(f"formula '{short}': {reason}")


def list_factors(formula: Formula) -> list[Expression]:
    """Return the distinct factors of the fixed and random terms."""
    terms = (*formula.fixed, *(term for block in formula.random for term in block.terms))
    return list(dict.fromkeys(factor for term in terms for factor in term.factors))


def _check_interactions(text: str) -> None:
    """Refuse endless interactions here: how deep the parser may go depends on other packages."""
    longest = max(piece.count(":") for piece in re.split(r"[^\w\s.:`]", text))
    if longest > MAX_FACTORS:
        raise FormulaError(
            f"an interaction of {longest + 1} columns is too long; write the ones you need"
        )


def _read_formula(text: str) -> Formula:
    left, right = parse_tree(text)
    response = _read_response(left)
    fixed, bars = _read_sum(right)
    if not bars:
        raise FormulaError(
            "it has no random term, so nothing varies over groups; add one such as (1 | g) or "
            "(x | g)"
        )
    random = [term for bar in bars for term in _read_random(bar)]
    groups = list(dict.fromkeys(term.group for term in random))
    if len(groups) > 1:
        raise FormulaError(
            f"it has several grouping columns ({', '.join(groups)}), but only one grouping factor "
            "is supported; keep the random terms of one of them"
        )
    if not fixed:
        raise FormulaError("it has no fixed effect; keep the intercept or add a term")
    known = {frozenset(term.factors): term for term in fixed}
    return Formula(
        text=text.strip(),
        response=response,
        fixed=tuple(fixed),
        # b:a in a random term is the column a:b of the fixed part, so it takes that name.
        random=tuple(
            RandomTerm(tuple(known.get(frozenset(t.factors), t) for t in r.terms), r.group)
            for r in random
        ),
        group=groups[0],
    )


def _read_response(node: Any) -> Expression:
    node = strip_parentheses(node)
    if kind_of(node) in ("Binary", "Unary"):
        raise FormulaError(
            f"the response '{show(node)}' is arithmetic; write it inside I(), as in I(y + 1)"
        )
    response = read_factor(node)
    for part in walk(response):
        allowed = ("I", *ELEMENTWISE, *PRECEDENCE)
        if isinstance(part, Apply) and part.function not in allowed:
            raise FormulaError(
                f"the response uses {part}, but only row by row functions are allowed there "
                f"({', '.join(ELEMENTWISE)}, I); compute that column first"
            )
    return response


def _summands(node: Any) -> Iterator[tuple[int, Any]]:
    """Yield the addends of a sum with their signs, through parentheses, in order."""
    stack = [(1, node)]
    while stack:
        sign, node = stack.pop()
        node = strip_parentheses(node)
        kind = kind_of(node)
        if kind in ("Binary", "Unary") and node.operator.kind in ("PLUS", "MINUS"):
            turned = -sign if node.operator.kind == "MINUS" else sign
            stack.append((turned, node.right))
            if kind == "Binary":
                stack.append((sign, node.left))
        else:
            yield sign, node


def _is_bar(node: Any) -> bool:
    return kind_of(node) == "Binary" and node.operator.kind == "PIPE"


def _read_sum(node: Any) -> tuple[list[Term], list[Any]]:
    """Return the terms of a sum, with its implied intercept, and its random terms unread."""
    terms, bars = [Term()], []
    for sign, item in _summands(node):
        if _is_bar(item):
            if sign < 0:
                raise FormulaError(
                    f"the random term ({show(item)}) is subtracted; leave it out instead"
                )
            bars.append(item)
            continue
        number = kind_of(item) == "Literal" and type(item.value) in (int, float)
        if number and item.value in (0, 1):
            intercept = (item.value == 1) == (sign > 0)
            terms = _add(terms, [Term()]) if intercept else _remove(terms, [Term()])
        elif sign > 0:
            terms = _add(terms, _expand(item))
        else:
            unwanted = _expand(item)
            present = {frozenset(term.factors) for term in terms}
            for term in unwanted:
                if frozenset(term.factors) not in present:
                    raise FormulaError(f"'- {term}' removes a term that is not there; leave it out")
            terms = _remove(terms, unwanted)
    # R puts the intercept first wherever it is written.
    return sorted(terms, key=lambda term: bool(term.factors)), bars


def _read_random(bar: Any) -> list[RandomTerm]:
    """Return the blocks of `lhs | group`: one, or one for each term of `lhs || group`."""
    group = strip_parentheses(bar.right)
    kind = kind_of(group)
    if kind == "Variable" and group.level is None:
        name = group.name.lexeme
    elif kind == "QuotedName":
        name = group.expression.lexeme[1:-1]
    else:
        raise FormulaError(
            f"'{show(group)}' after '|' is not a column, and only one grouping factor is supported "
            "(neither nested nor crossed); write one column, as in (x | g)"
        )
    terms, inner = _read_sum(bar.left)
    if inner:
        raise FormulaError(
            f"({show(bar)}) has a '|' inside a random term; write (x | g) once per term"
        )
    if not terms:
        raise FormulaError(f"({show(bar)}) has no coefficient; write (1 | {name}) or leave it out")
    if bar.operator.lexeme == "||":
        return [RandomTerm((term,), name) for term in terms]
    return [RandomTerm(tuple(terms), name)]


def _expand(node: Any) -> list[Term]:
    """Return the terms that a product stands for."""
    node = strip_parentheses(node)
    kind = kind_of(node)
    if kind in ("Variable", "QuotedName", "Call"):
        return [Term((read_factor(node),))]
    if kind == "Literal":
        raise FormulaError(
            f"{node.value!r} is not a term: 1 and 0 alone stand for the intercept and its absence; "
            "remove it, or multiply inside I(), as in I(2 * x)"
        )
    operator = node.operator.kind if kind in ("Binary", "Unary") else kind
    if kind == "Unary" or operator in ("PLUS", "MINUS"):
        return _expand_sum(node)
    if operator == "COLON":
        return _cross(_expand(node.left), _expand(node.right))
    if operator == "STAR":
        left, right = _expand(node.left), _expand(node.right)
        return _add(_add(left, right), _cross(left, right))
    if operator == "SLASH":
        left, right = _expand(node.left), _expand(node.right)
        whole = Term(tuple(dict.fromkeys(factor for term in left for factor in term.factors)))
        return _add(left, _cross([whole], right))
    if operator == "STAR_STAR":
        return _expand_power(node)
    if operator == "PIPE":
        raise FormulaError(f"the random term ({show(node)}) is inside a product; add it with '+'")
    raise FormulaError(
        f"'{show(node)}' is not a term: a comparison or assignment is not known; compute that "
        "column first"
    )


def _expand_sum(node: Any) -> list[Term]:
    terms: list[Term] = []
    for sign, item in _summands(node):
        terms = _add(terms, _expand(item)) if sign > 0 else _remove(terms, _expand(item))
    if not terms:
        raise FormulaError(f"'{show(node)}' in a product leaves no term; remove it")
    return terms


def _expand_power(node: Any) -> list[Term]:
    base, power = _expand(node.left), strip_parentheses(node.right)
    if len(base) == 1:
        raise FormulaError(
            f"'{show(node)}' outside a call would not be a power (in a formula, ** means all "
            f"interactions); write I({show(node)}) for the power"
        )
    if kind_of(power) != "Literal" or type(power.value) is not int or power.value < 1:
        raise FormulaError(
            f"the power in '{show(node)}' is not a whole number above 0; write one, as in "
            "(a + b)**2"
        )
    terms = base
    for _ in range(min(power.value, len(base)) - 1):
        terms = _add(terms, _cross(terms, base))
    return sorted(terms, key=lambda term: len(term.factors))


def _cross(left: list[Term], right: list[Term]) -> list[Term]:
    return _add(
        [], [Term(tuple(dict.fromkeys(a.factors + b.factors))) for a in left for b in right]
    )


def _add(terms: list[Term], more: list[Term]) -> list[Term]:
    """Return the terms followed by those of `more` that are new, a:b and b:a being the same."""
    merged = {frozenset(term.factors): term for term in terms}
    for term in more:
        merged.setdefault(frozenset(term.factors), term)
    if len(merged) > MAX_TERMS:
        raise FormulaError(f"it expands to more than {MAX_TERMS} terms; write the ones you need")
    return list(merged.values())


def _remove(terms: list[Term], unwanted: list[Term]) -> list[Term]:
    gone = {frozenset(term.factors) for term in unwanted}
    return [term for term in terms if frozenset(term.factors) not in gone]


def _print_sum(terms: tuple[Term, ...]) -> str:
    written = [str(term) for term in terms]
    return " + ".join(written if Term() in terms else ["0", *written])
