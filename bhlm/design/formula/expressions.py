"""The expressions that a formula may hold: frozen nodes, and their one printed form.

An expression is a column (`Name`), a number (`Number`), or a known function or operator
applied to expressions (`Apply`). There are no other nodes, so nothing in a formula can be
evaluated as Python. `str(node)` has the fewest parentheses that read back to the same node.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from bhlm.design.formula.functions import ELEMENTWISE

type Expression = Name | Number | Apply
type Option = str | int | float | bool

CENTRINGS = ("cgm", "cwc", "gm")
FUNCTIONS = ("C", "I", *ELEMENTWISE, *CENTRINGS, "scale", "poly")
ALIASES = {f"{module}.{name}": name for module in ("np", "numpy") for name in ELEMENTWISE}

# How tightly each operator binds. Everything else (a name, a number, a call) is an atom.
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3, "**": 4}
ATOM = 5


@dataclass(frozen=True, slots=True)
class Name:
    """A column of the table."""

    name: str

    def __str__(self) -> str:
        doubled = self.name.replace("`", "``")
        return self.name if is_plain_name(self.name) else f"`{doubled}`"


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number that is not negative (a minus sign is an operator)."""

    value: int | float

    def __str__(self) -> str:
        return print_number(self.value)


@dataclass(frozen=True, slots=True)
class Apply:
    """A function of `FUNCTIONS` or an operator of `PRECEDENCE`, with its arguments.

    `options` hold what is not an expression: the degree of a polynomial and whether it is
    raw, the reference level of a categorical column, the grouping factor of cwc() and gm().
    """

    function: str
    arguments: tuple[Expression, ...]
    options: tuple[tuple[str, Option], ...] = ()

    def option(self, name: str) -> Option | None:
        """Return the value of an option, or None where it was not given."""
        return dict(self.options).get(name)

    def __str__(self) -> str:
        if self.function not in PRECEDENCE:
            inside = [str(argument) for argument in self.arguments]
            inside += [print_option(name, value) for name, value in self.options]
            return f"{self.function}({', '.join(inside)})"
        own = PRECEDENCE[self.function]
        if self.function == "neg":
            return "-" + _parenthesise(self.arguments[0], own)
        left, right = self.arguments
        # a - (b - c) needs its parentheses, (a - b) - c does not; ** is the other way round.
        from_left, from_right = (own + 1, own) if self.function == "**" else (own, own + 1)
        operator = self.function if self.function in ("/", "**") else f" {self.function} "
        return f"{_parenthesise(left, from_left)}{operator}{_parenthesise(right, from_right)}"


def walk(expression: Expression) -> Iterator[Expression]:
    """Yield every node of an expression, arguments before the call that holds them."""
    if isinstance(expression, Apply):
        for argument in expression.arguments:
            yield from walk(argument)
    yield expression


def column_names(expression: Expression) -> list[str]:
    """Return the columns that an expression reads, each once, in order."""
    return list(dict.fromkeys(node.name for node in walk(expression) if isinstance(node, Name)))


def is_plain_name(name: str) -> bool:
    """Return whether a column name can be printed without backquotes.

    A column that is called Intercept is not the intercept.
    """
    literal = name in ("True", "False", "None", "Intercept")
    return not literal and name[:1].isalpha() and all(c.isalnum() or c in "._" for c in name)


def print_number(value: int | float) -> str:
    """Return a number in positional notation, the only one that the parser reads."""
    return format(Decimal(repr(value)), "f")


def print_option(name: str, value: Option) -> str:
    """Return an option as it is written inside its call."""
    if name in ("degree", "group"):
        return str(value)
    if name == "reference":
        return f"Treatment({quote(value) if isinstance(value, str) else value})"
    return f"{name}={value}"


def quote(text: str) -> str:
    """Return a text between the kind of quotes that it does not contain."""
    return f"'{text}'" if '"' in text else f'"{text}"'


def _parenthesise(expression: Expression, least: int) -> str:
    function = expression.function if isinstance(expression, Apply) else ""
    binds = PRECEDENCE.get(function, ATOM)
    return f"({expression})" if binds < least else str(expression)
