"""A factor of the syntax tree -> an expression of known functions; all else is refused."""

from difflib import get_close_matches
from math import isfinite
from typing import Any

from bhlm.design.formula.expressions import (
    ALIASES,
    CENTRINGS,
    FUNCTIONS,
    Apply,
    Expression,
    Name,
    Number,
    Option,
    column_names,
)
from bhlm.design.formula.syntax import kind_of, show, strip_parentheses
from bhlm.errors import FormulaError

# Every later walk over an expression recurses, and so do the dataframe engines.
MAX_DEPTH = 100
MAX_DEGREE = 9
OPERATORS = {"PLUS": "+", "MINUS": "-", "STAR": "*", "SLASH": "/"}
KNOWN = f"known functions: {', '.join(FUNCTIONS)}"


def read_factor(node: Any) -> Expression:
    """Return the expression of one factor: a column or a call.

    Raises `FormulaError` that names what is not known, and lists what is.
    """
    node = strip_parentheses(node)
    expression = _read(node, 0, whole=True)
    if not column_names(expression):
        raise FormulaError(f"'{show(node)}' uses no column; use one, or 1 for the intercept")
    return expression


def _read(node: Any, depth: int, *, whole: bool = False) -> Expression:
    """Return the expression of a node; `whole` where it is a factor, not part of one."""
    node = strip_parentheses(node)
    if depth > MAX_DEPTH:
        raise FormulaError(
            f"an expression is nested more than {MAX_DEPTH} deep; compute part of it as a "
            "column first"
        )
    match kind_of(node):
        case "Variable" if node.level is None:
            return Name(node.name.lexeme)
        case "QuotedName":
            return Name(node.expression.lexeme[1:-1])
        case "Literal" if type(node.value) in (int, float):
            return _read_number(node.value)
        case "Call":
            return _read_call(node, depth, whole=whole)
        case "Unary" if not whole:
            argument = _read(node.right, depth + 1)
            return argument if node.operator.kind == "PLUS" else Apply("neg", (argument,))
        case "Binary" if not whole and node.operator.kind == "STAR_STAR":
            return _read_power(node, depth)
        case "Binary" if not whole and node.operator.kind in OPERATORS:
            operands = (_read(node.left, depth + 1), _read(node.right, depth + 1))
            return Apply(OPERATORS[node.operator.kind], operands)
    raise FormulaError(
        f"'{show(node)}' is not known here; a call may hold columns, numbers and + - * / ** "
        f"({KNOWN})"
    )


def _read_number(value: int | float) -> Number:
    try:
        finite = isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise FormulaError(f"the number {str(value)[:12]}... is too large; write one below 1.8e308")
    return Number(value)


def _read_power(node: Any, depth: int) -> Expression:
    """Return a chain of ** as arithmetic has it: from the right, and before a minus sign.

    The parser of formulae reads -x**2 as (-x)**2 and a**b**c as (a**b)**c.
    """
    chain = [node.right]
    node = node.left
    while kind_of(node) == "Binary" and node.operator.kind == "STAR_STAR":
        chain.append(node.right)
        node = node.left
    chain.append(node)
    if len(chain) + depth > MAX_DEPTH:
        raise FormulaError(f"a chain of {len(chain)} powers is too long; write it shorter")
    power: Expression | None = None
    for operand in chain:
        negative = False
        while kind_of(operand) == "Unary":
            negative ^= operand.operator.kind == "MINUS"
            operand = operand.right
        base = _read(operand, depth + 1 + len(chain))
        power = base if power is None else Apply("**", (base, power))
        power = Apply("neg", (power,)) if negative else power
    assert power is not None
    return power


def _read_call(node: Any, depth: int, *, whole: bool) -> Expression:
    callee = node.callee
    if kind_of(callee) != "Variable" or callee.level is not None:
        raise FormulaError(f"'{show(callee)}' is called, but is not a function; {KNOWN}")
    written = callee.name.lexeme
    name = ALIASES.get(written, written)
    if name not in FUNCTIONS:
        close = get_close_matches(written.lower(), FUNCTIONS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ";"
        raise FormulaError(f"the function '{written}' is not known{hint} {KNOWN}")
    if name in ("C", "poly") and not whole:
        raise FormulaError(
            f"{show(node)} stands inside another call, but {name}() gives several columns; "
            "use it as a term of its own"
        )
    if name == "C":
        return _read_category(node)
    if name == "poly":
        return _read_polynomial(node, depth)
    if len(node.args) != 1 or kind_of(node.args[0]) == "Assign":
        raise FormulaError(f"'{show(node)}' does not have one argument; write {name}(x)")
    argument = _read(node.args[0], depth + 1)
    if name in CENTRINGS and not column_names(argument):
        raise FormulaError(f"'{show(node)}' uses no column; write {name}(x) with a column x")
    return Apply(name, (argument,))


def _read_category(node: Any) -> Apply:
    """Return C(x) or C(x, Treatment("reference"))."""
    usage = 'write C(x) or C(x, Treatment("level")) with a column x'
    column = strip_parentheses(node.args[0]) if node.args else None
    if kind_of(column) not in ("Variable", "QuotedName") or len(node.args) > 2:
        raise FormulaError(f"'{show(node)}' is not a categorical column; {usage}")
    argument = _read(column, 0)
    if len(node.args) == 1:
        return Apply("C", (argument,))
    coding = node.args[1]
    known = kind_of(coding) == "Call" and show(coding.callee) == "Treatment"
    if not known or len(coding.args) != 1:
        raise FormulaError(f"the contrast '{show(coding)}' is not known; {usage}")
    reference = coding.args[0]
    if kind_of(reference) == "Assign" and show(reference.name) == "reference":
        reference = reference.value
    return Apply("C", (argument,), (("reference", _read_constant(reference, usage=usage)),))


def _read_polynomial(node: Any, depth: int) -> Apply:
    """Return poly(x, degree) or poly(x, degree, raw=True)."""
    usage = f"write poly(x, 2) or poly(x, 2, raw=True), with a degree from 1 to {MAX_DEGREE}"
    given: dict[str, Option] = {}
    for position, argument in enumerate(node.args[1:]):
        if kind_of(argument) == "Assign":
            given[show(argument.name)] = _read_constant(argument.value, usage=usage)
        elif position == 0:
            given["degree"] = _read_constant(argument, usage=usage)
        else:
            raise FormulaError(f"the argument '{show(argument)}' of poly is not known; {usage}")
    unknown = set(given) - {"degree", "raw"}
    degree, raw = given.get("degree", 1), given.get("raw", False)
    whole = type(degree) is int and 1 <= degree <= MAX_DEGREE
    if not node.args or unknown or not whole or type(raw) is not bool:
        raise FormulaError(f"'{show(node)}' is not a polynomial; {usage}")
    argument = _read(node.args[0], depth + 1)
    if not column_names(argument):
        raise FormulaError(f"'{show(node)}' uses no column; {usage}")
    options: tuple[tuple[str, Option], ...] = (("degree", degree),)
    return Apply("poly", (argument,), (*options, ("raw", True)) if raw else options)


def _read_constant(node: Any, *, usage: str) -> Option:
    """Return a literal: a text, a number or a truth value (R's TRUE and FALSE too)."""
    node = strip_parentheses(node)
    if kind_of(node) == "Variable" and node.level is None:
        value = {"TRUE": True, "FALSE": False}.get(node.name.lexeme)
        if value is not None:
            return value
    if kind_of(node) == "Unary" and kind_of(node.right) == "Literal":
        number = node.right.value
        if type(number) in (int, float):
            return -_read_number(number).value if node.operator.kind == "MINUS" else +number
    if kind_of(node) == "Literal" and node.value is not None:
        constant: Option = node.value
        return constant
    raise FormulaError(f"'{show(node)}' is not a constant; {usage}")
