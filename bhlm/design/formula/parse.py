"""Formula text -> a syntax tree: a tokenizer and an operator-precedence (Pratt) parser.

The tree says how the text is grouped and nothing of what it means: `reader` makes expressions of
it and `terms` a sum of terms. Source: Pratt (1973), Top down operator precedence, POPL.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, NoReturn

from bhlm.design.formula.expressions import FUNCTIONS
from bhlm.errors import FormulaError

type Node = Leaf | Parentheses | Prefix | Binary | Call | Keyword | Level

# Alternatives are tried in order; "other" is any character that no formula has.
TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<number>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![\w.]))?)
    |(?P<name>[^\W\d_][\w.]*)
    |(?P<underscored>_[\w.]*)
    |(?P<quoted>`(?:[^`]|``)*`)
    |(?P<string>"[^"]*"|'[^']*')
    |(?P<sign>\*\*|//|[=!<>]=|\|\s*\||[][(){}+\-*/:^|~,.=!<>%])
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
SPELLINGS = {"^": "**"}
CONSTANTS = {"True": True, "False": False, "None": None}
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
# How tightly each operator binds; all but ** go from the left.
BINDS = {"|": 1, "||": 1, **dict.fromkeys(COMPARISONS, 2), "+": 3, "-": 3, "*": 4, "/": 4, ":": 5}
BINDS["**"] = 7
PREFIX = 6  # a minus sign comes after ** and before all else: -x**2 is -(x**2)
SUM = 3
EXAMPLE = "y ~ x + (x | g)"


class Token(NamedTuple):
    """A piece of the text."""

    kind: str  # "name", "quoted", "number", "string", "constant", "end", or the sign itself
    text: str
    value: str | int | float | bool | None = None  # of a name the column, of a constant itself


@dataclass(frozen=True, slots=True)
class Leaf:
    """A name, a number, a text or True, False, None."""

    token: Token

    @property
    def kind(self) -> str:
        """What it is, as `Token` has it."""
        return self.token.kind

    @property
    def is_column(self) -> bool:
        """Whether it can name a column."""
        return self.token.kind in ("name", "quoted")

    @property
    def number(self) -> int | float | None:
        """Its value, if it is a number."""
        value = self.token.value
        return value if self.kind == "number" and isinstance(value, int | float) else None

    def __str__(self) -> str:
        return self.token.text


@dataclass(frozen=True, slots=True)
class Parentheses:
    """A node in parentheses."""

    inside: "Node"

    def __str__(self) -> str:
        return f"({self.inside})"


@dataclass(frozen=True, slots=True)
class Prefix:
    """A sign before a node."""

    sign: str
    operand: "Node"

    def __str__(self) -> str:
        return f"{self.sign}{self.operand}"


@dataclass(frozen=True, slots=True)
class Binary:
    """A sign between two nodes."""

    sign: str
    left: "Node"
    right: "Node"

    def __str__(self) -> str:
        gap = "" if self.sign in ("/", ":", "**") else " "
        return f"{self.left}{gap}{self.sign}{gap}{self.right}"


@dataclass(frozen=True, slots=True)
class Call:
    """What is called, and its arguments."""

    function: "Node"
    arguments: "tuple[Node, ...]"

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Keyword:
    """An argument that is given by its name."""

    name: str
    value: "Node"

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class Level:
    """A column with a level in brackets, which no formula may have."""

    column: Leaf
    level: Leaf

    def __str__(self) -> str:
        return f"{self.column}[{self.level}]"


def parse_tree(text: str) -> tuple[Node, Node]:
    """Return the syntax trees of the response and of the right-hand side of a formula.

    Raises `FormulaError` where the text is not a formula.
    """
    tokens = list(_read_tokens(text))
    _check_tokens(tokens)
    parser = Parser(tokens)
    left = parser.expression(0)
    parser.expect("~")
    right = parser.expression(SUM)
    parser.expect("end")
    return left, right


def strip_parentheses(node: Node) -> Node:
    """Return the node inside any number of parentheses."""
    while isinstance(node, Parentheses):
        node = node.inside
    return node


class Parser:
    """Reads tokens from the left, each once."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0

    @property
    def here(self) -> Token:
        """The token that is read next."""
        return self.tokens[self.at]

    def accept(self, kind: str) -> bool:
        """Return whether the next token is of a kind, and step over it if so."""
        found = self.here.kind == kind
        self.at += found
        return found

    def expect(self, kind: str) -> None:
        """Step over a token of a kind; raise `FormulaError` if there is none."""
        if not self.accept(kind):
            self.refuse()

    def expression(self, least: int) -> Node:
        """Return the longest expression of operators that bind as tightly as `least` or more."""
        left = self.operand()
        while (binds := BINDS.get(self.here.kind, -1)) >= least:
            sign = self.here.kind
            self.at += 1
            left = Binary(sign, left, self.expression(binds if sign == "**" else binds + 1))
        return left

    def operand(self) -> Node:
        """Return a signed operand, or one with the calls that follow it."""
        token = self.here
        self.at += 1
        node: Node
        match token.kind:
            case "+" | "-":
                return Prefix(token.kind, self.expression(PREFIX))
            case "name" | "quoted" | "number" | "string" | "constant":
                node = Leaf(token)
            case "(":
                node = Parentheses(self.argument())
                self.expect(")")
            case "{":
                # {x + 1} is another way to write I(x + 1).
                node = Call(Leaf(Token("name", "I", "I")), (self.expression(0),))
                self.expect("}")
            case _:
                self.at -= 1
                self.refuse()
        if isinstance(node, Leaf) and node.kind == "name" and self.accept("["):
            if self.here.kind not in ("name", "string"):
                self.refuse()
            node = Level(node, Leaf(self.here))
            self.at += 1
            self.expect("]")
        while self.accept("("):
            arguments = [] if self.here.kind == ")" else [self.argument()]
            while arguments and self.accept(","):
                arguments.append(self.argument())
            self.expect(")")
            node = Call(node, tuple(arguments))
        return node

    def argument(self) -> Node:
        """Return what may stand inside parentheses: an expression, or one that is given a name."""
        node = self.expression(0)
        if isinstance(node, Leaf) and node.kind == "name" and self.accept("="):
            return Keyword(node.token.text, self.expression(SUM))
        return node

    def refuse(self) -> NoReturn:
        """Raise `FormulaError` that says why the text cannot go on as it does here."""
        kinds = [token.kind for token in self.tokens]
        here, before = self.here, self.tokens[self.at - 1] if self.at else None
        if kinds.count("(") > kinds.count(")"):
            raise FormulaError("a '(' is never closed; add the ')' that is missing")
        if kinds.count("(") < kinds.count(")"):
            raise FormulaError("a ')' closes nothing; remove it or add the '(' that is missing")
        if here.kind == "end" and before is not None:
            raise FormulaError(f"it ends after '{before.text}'; write the term that is missing")
        if here.kind in ("|", "||") and before is not None and before.kind == "(":
            raise FormulaError("nothing stands before '|'; write (1 | g) or (x | g)")
        if here.kind in ("|", "||") and before is not None and before.kind not in ("|", "||"):
            raise FormulaError("a random term stands without parentheses; write it as (x | g)")
        if here.kind == "~" and kinds[: self.at].count("(") > kinds[: self.at].count(")"):
            raise FormulaError(f"'~' stands inside parentheses; write the formula as {EXAMPLE}")
        after = f" after '{before.text}'" if before is not None else ""
        column = (
            f", and a column called '{before.text} {here.text}' in backquotes"
            if before is not None and before.text.isidentifier() and here.text.isidentifier()
            else ""
        )
        raise FormulaError(
            f"'{here.text}' is not expected{after}; remove it or write a term, as in x or "
            f"log(x){column}"
        )


def _read_tokens(text: str) -> Iterator[Token]:
    """Yield the tokens of a text and the end.

    Raises `FormulaError` where a piece of it is no token.
    """
    for match in TOKEN.finditer(text):
        kind, piece = str(match.lastgroup), match.group()
        match kind:
            case "space":
                continue
            case "number":
                yield Token(kind, piece, _read_number(piece))
            case "name" if piece in CONSTANTS:
                yield Token("constant", piece, CONSTANTS[piece])
            case "name" if piece[0].isalpha():
                yield Token(kind, piece, piece)
            case "quoted" | "string":
                if piece == "``":
                    raise FormulaError(
                        "there is nothing between two backquotes; write a column name there"
                    )
                name = piece[1:-1]
                yield Token(kind, piece, name.replace("``", "`") if kind == "quoted" else name)
            case "sign":
                sign = (
                    "||" if piece[0] == piece[-1] == "|" != piece else SPELLINGS.get(piece, piece)
                )
                yield Token(sign, sign)
            case "underscored":
                _refuse_name(piece, is_call=text[match.end() :].lstrip().startswith("("))
            case _:
                _refuse_character(piece[0])
    yield Token("end", "")


def _read_number(piece: str) -> int | float:
    """Return a number; raise `FormulaError` where it is beyond the largest double."""
    value = float(piece)
    if value == float("inf"):
        shown = piece if len(piece) <= 12 else f"{piece[:12]}..."
        raise FormulaError(f"the number {shown} is too large; write one below 1.8e308")
    return int(piece) if piece.isdigit() else value


def _refuse_name(name: str, *, is_call: bool) -> NoReturn:
    if is_call:
        raise FormulaError(
            f"the function '{name}' is not known; known functions: {', '.join(FUNCTIONS)}"
        )
    raise FormulaError(f"the name '{name}' begins with '_'; write the column as `{name}`")


def _refuse_character(piece: str) -> NoReturn:
    if piece in "`\"'":
        name = "backquote" if piece == "`" else "quote"
        raise FormulaError(f"a {name} ({piece}) is not closed; add the one that is missing")
    if piece == "#":
        raise FormulaError("the character '#' is not known; write a:b for a#b, and a*b for a##b")
    raise FormulaError(
        f"the character {piece!r} is not known; write a column whose name is not plain letters, "
        "digits, '.' and '_' in backquotes"
    )


def _check_tokens(tokens: list[Token]) -> None:
    """Raise `FormulaError` for what the parser would notice late, or say less well."""
    tildes = sum(token.kind == "~" for token in tokens)
    if tildes != 1:
        raise FormulaError(f"it has {tildes or 'no'} '~'; write one, as in {EXAMPLE}")
    if tokens[0].kind == "~":
        raise FormulaError(f"nothing stands before '~'; write the response there, as in {EXAMPLE}")
    depth = 0
    for token, after in pairwise(tokens):
        depth += (token.kind == "(") - (token.kind == ")")
        if token.kind == "=" and depth == 0:
            raise FormulaError("'=' stands outside a call; remove it, or compute that column first")
        if token.kind == "number" and after.kind in ("name", "number", "constant", "."):
            raise FormulaError(
                f"'{token.text}{after.text}' is neither a number nor a name; put an operator "
                "between them, or write the name in backquotes"
            )
