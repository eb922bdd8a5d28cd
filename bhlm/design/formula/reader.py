"""A factor of the syntax tree -> an expression of known functions; all else is refused."""

from difflib import get_close_matches

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
from bhlm.design.formula.parse import (
    Binary,
    Call,
    Keyword,
    Leaf,
    Node,
    Prefix,
    strip_parentheses,
)
from bhlm.errors import FormulaError

# Every later walk over an expression recurses, and so do the dataframe engines.
MAX_DEPTH = 100
MAX_DEGREE = 9
ARITHMETIC = ("+", "-", "*", "/", "**")
TRUTH = {"TRUE": True, "FALSE": False}
KNOWN = f"known functions: {', '.join(FUNCTIONS)}"


def read_factor(node: Node) -> Expression:
    """Return the expression of one factor: a column or a call.

    Raises `FormulaError` that names what is not known, and lists what is.
    """
    node = strip_parentheses(node)
    expression = _read(node, 0, whole=True)
    if not column_names(expression):
        raise FormulaError(f"'{node}' uses no column; use one, or 1 for the intercept")
    return expression


def _read(node: Node, depth: int, *, whole: bool = False) -> Expression:
    """Return the expression of a node; `whole` where it is a factor, not part of one."""
    node = strip_parentheses(node)
    if depth > MAX_DEPTH:
        raise FormulaError(
            f"an expression is nested more than {MAX_DEPTH} deep; compute part of it as a "
            "column first"
        )
    match node:
        case Leaf() if node.is_column:
            return Name(str(node.token.value))
        case Leaf() if node.number is not None:
            return Number(node.number)
        case Call():
            return _read_call(node, depth, whole=whole)
        case Prefix(sign, operand) if not whole:
            argument = _read(operand, depth + 1)
            return argument if sign == "+" else Apply("neg", (argument,))
        case Binary("**") if not whole and (length := _count_powers(node)) + depth > MAX_DEPTH:
            raise FormulaError(f"a chain of {length} powers is too long; write it shorter")
        case Binary(sign, left, right) if not whole and sign in ARITHMETIC:
            return Apply(sign, (_read(left, depth + 1), _read(right, depth + 1)))
    raise FormulaError(
        f"'{node}' is not known here; a call may hold columns, numbers and + - * / ** ({KNOWN})"
    )


def _count_powers(node: Node) -> int:
    """Return the number of operands in a chain of **."""
    count = 1
    while isinstance(node, Binary) and node.sign == "**":
        node, count = node.right, count + 1
    return count


def _read_call(node: Call, depth: int, *, whole: bool) -> Expression:
    called = node.function
    if not isinstance(called, Leaf) or called.kind != "name":
        raise FormulaError(f"'{called}' is called, but is not a function; {KNOWN}")
    written = called.token.text
    name = ALIASES.get(written, written)
    if name not in FUNCTIONS:
        close = ["C"] if "factor" in written.lower() else []
        close = close or get_close_matches(written.lower(), FUNCTIONS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ";"
        raise FormulaError(f"the function '{written}' is not known{hint} {KNOWN}")
    if name in ("C", "poly") and not whole:
        raise FormulaError(
            f"{node} stands inside another call, but {name}() gives several columns; "
            "use it as a term of its own"
        )
    if name == "C":
        return _read_category(node)
    if name == "poly":
        return _read_polynomial(node, depth)
    options: tuple[tuple[str, Option], ...] = ()
    if name in ("cwc", "gm") and len(node.arguments) == 2:
        options = (("group", _read_group(node)),)
    elif len(node.arguments) != 1 or isinstance(node.arguments[0], Keyword):
        raise FormulaError(f"'{node}' does not have one argument; write {name}(x)")
    argument = _read(node.arguments[0], depth + 1)
    if name in (*CENTRINGS, "scale") and not column_names(argument):
        raise FormulaError(f"'{node}' uses no column; write {name}(x) with a column x")
    return Apply(name, (argument,), options)


def _read_group(node: Call) -> str:
    """Return the grouping factor of cwc(x, school) or gm(x, school:class), as it is printed."""
    columns: list[str] = []
    part = node.arguments[1]
    while isinstance(part, Binary) and part.sign == ":":
        columns.append(str(_read_column(part.right, node)))
        part = part.left
    return ":".join(reversed([*columns, str(_read_column(part, node))]))


def _read_column(part: Node, node: Call) -> Name:
    if not isinstance(part, Leaf) or not part.is_column:
        raise FormulaError(
            f"'{part}' in '{node}' is not a grouping factor; write {node.function}(x, g) with a "
            "factor g of the random terms"
        )
    return Name(str(part.token.value))


def _read_category(node: Call) -> Apply:
    """Return C(x) or C(x, Treatment("reference"))."""
    usage = 'write C(x) or C(x, Treatment("level")) with a column x'
    column = strip_parentheses(node.arguments[0]) if node.arguments else None
    if not isinstance(column, Leaf) or not column.is_column or len(node.arguments) > 2:
        raise FormulaError(f"'{node}' is not a categorical column; {usage}")
    argument = _read(column, 0)
    if len(node.arguments) == 1:
        return Apply("C", (argument,))
    coding = node.arguments[1]
    if not isinstance(coding, Call) or str(coding.function) != "Treatment":
        raise FormulaError(f"the contrast '{coding}' is not known; {usage}")
    if len(coding.arguments) != 1:
        raise FormulaError(f"the contrast '{coding}' does not have one level; {usage}")
    reference = coding.arguments[0]
    if isinstance(reference, Keyword) and reference.name == "reference":
        reference = reference.value
    return Apply("C", (argument,), (("reference", _read_constant(reference, usage=usage)),))


def _read_polynomial(node: Call, depth: int) -> Apply:
    """Return poly(x, degree) or poly(x, degree, raw=True)."""
    usage = f"write poly(x, 2) or poly(x, 2, raw=True), with a degree from 1 to {MAX_DEGREE}"
    given: dict[str, Option] = {}
    for position, argument in enumerate(node.arguments[1:]):
        if isinstance(argument, Keyword):
            given[argument.name] = _read_constant(argument.value, usage=usage)
        elif position == 0:
            given["degree"] = _read_constant(argument, usage=usage)
        else:
            raise FormulaError(f"the argument '{argument}' of poly is not known; {usage}")
    unknown = set(given) - {"degree", "raw"}
    degree, raw = given.get("degree", 1), given.get("raw", False)
    whole = type(degree) is int and 1 <= degree <= MAX_DEGREE
    if not node.arguments or unknown or not whole or type(raw) is not bool:
        raise FormulaError(f"'{node}' is not a polynomial; {usage}")
    value = _read(node.arguments[0], depth + 1)
    if not column_names(value):
        raise FormulaError(f"'{node}' uses no column; {usage}")
    options: tuple[tuple[str, Option], ...] = (("degree", degree),)
    return Apply("poly", (value,), (*options, ("raw", True)) if raw else options)


def _read_constant(node: Node, *, usage: str) -> Option:
    """Return a literal: a text, a number or a truth value (R's TRUE and FALSE too)."""
    node = strip_parentheses(node)
    match node:
        case Leaf() if node.token.text in TRUTH and node.kind == "name":
            return TRUTH[node.token.text]
        case Leaf() if not node.is_column and node.token.value is not None:
            return node.token.value
        case Prefix(sign, Leaf() as operand) if operand.number is not None:
            return -operand.number if sign == "-" else operand.number
    raise FormulaError(f"'{node}' is not a constant; {usage}")
