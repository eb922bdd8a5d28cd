"""Formula text -> the syntax tree of `formulae`, with errors that say what to write instead.

Only the scanner and the parser of `formulae` are used: they read the text and build a tree,
and neither evaluates nor resolves anything.
"""

import re
from decimal import Decimal
from itertools import pairwise
from typing import Any

from bhlm.design.formula.expressions import FUNCTIONS
from bhlm.errors import FormulaError

QUOTED = re.compile(r"(`[^`]*`|\"[^\"]*\"|'[^']*')")
SCIENTIFIC = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|\.\d+)[eE][+-]?\d+(?![\w.])")
UNDERSCORED = re.compile(r"(?<![\w.])(_[\w.]*)(\s*\()?")
LONG_NUMBER = re.compile(r"(?<![\d.])\d{310,}")


def parse_tree(text: str) -> tuple[Any, Any]:
    """Return the syntax trees of the response and of the right-hand side of a formula.

    Raises `FormulaError` where the text is not a formula.
    """
    from formulae.parser import Parser
    from formulae.scanner import Scanner

    code, strings = _prepare(text)
    try:
        tokens = Scanner(code).scan(add_intercept=False)
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise FormulaError(
            f"it cannot be scanned: {reason[:1].lower()}{reason[1:]}; write a column whose name is "
            "not plain letters, digits, '.' and '_' in backquotes"
        ) from None
    _check_tokens(tokens)
    literals = iter(strings)
    for token in tokens:
        if token.kind == "STRING":
            token.literal = next(literals)
    parser = Parser(_merge_bars(tokens))
    try:
        tree = parser.parse()
        failed = not parser.at_end()
    except RecursionError:
        raise
    except Exception:
        failed = True
    if failed:
        raise FormulaError(_explain(parser))
    if kind_of(tree) != "Binary" or tree.operator.kind != "TILDE":
        raise FormulaError("'~' stands inside parentheses; write the formula as y ~ x + (x | g)")
    return tree.left, tree.right


def kind_of(node: Any) -> str:
    """Return the name of the class of a node of the syntax tree."""
    return type(node).__name__


def strip_parentheses(node: Any) -> Any:
    """Return the node inside any number of parentheses."""
    while kind_of(node) == "Grouping":
        node = node.expression
    return node


def show(node: Any) -> str:
    """Return a node of the syntax tree as text, for messages."""
    match kind_of(node):
        case "Grouping":
            return f"({show(node.expression)})"
        case "Binary":
            sign = node.operator.lexeme
            gap = "" if sign in ("/", ":", "**") else " "
            return f"{show(node.left)}{gap}{sign}{gap}{show(node.right)}"
        case "Unary":
            return f"{node.operator.lexeme}{show(node.right)}"
        case "Call":
            return f"{show(node.callee)}({', '.join(show(argument) for argument in node.args)})"
        case "Assign":
            return f"{show(node.name)}={show(node.value)}"
        case "Variable":
            level = "" if node.level is None else f"[{show(node.level)}]"
            return f"{node.name.lexeme}{level}"
        case "QuotedName":
            return str(node.expression.lexeme)
        case _:
            return repr(node.value)


def _prepare(text: str) -> tuple[str, list[str]]:
    """Return the text in the scanner's dialect, and the quoted strings taken out of it.

    The scanner knows neither `^` nor scientific notation, ends a string at either kind of
    quote, and fails on a backquote that is not closed.
    """
    pieces = QUOTED.split(text)
    strings = []
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            for mark, name in (("`", "backquote"), ('"', "quote"), ("'", "quote")):
                if mark in piece:
                    raise FormulaError(
                        f"a {name} ({mark}) is not closed; add the one that is missing"
                    )
            _check_names(piece)
            pieces[i] = SCIENTIFIC.sub(_expand_number, piece.replace("^", "**"))
        elif piece == "``":
            raise FormulaError("there is nothing between two backquotes; write a column name there")
        elif piece[0] != "`":
            strings.append(piece[1:-1])
            pieces[i] = '""'
    tildes = sum(piece.count("~") for piece in pieces[::2])
    if tildes != 1:
        raise FormulaError(f"it has {tildes or 'no'} '~'; write one, as in y ~ x + (x | g)")
    return "".join(pieces), strings


def _check_names(piece: str) -> None:
    """Refuse what the scanner reports poorly: a leading underscore, hundreds of digits."""
    if found := UNDERSCORED.search(piece):
        name, call = found.groups()
        if call:
            known = ", ".join(FUNCTIONS)
            raise FormulaError(f"the function '{name}' is not known; known functions: {known}")
        raise FormulaError(f"the name '{name}' begins with '_'; write the column as `{name}`")
    if long := LONG_NUMBER.search(piece):
        raise FormulaError(
            f"the number {long.group()[:12]}... is too large; write one below 1.8e308"
        )


def _expand_number(match: re.Match[str]) -> str:
    value = float(match.group())
    if value == float("inf"):
        raise FormulaError(f"the number {match.group()} is too large; write one below 1.8e308")
    return format(Decimal(repr(value)), "f")


def _check_tokens(tokens: list[Any]) -> None:
    if tokens[0].kind == "TILDE":
        raise FormulaError(
            "nothing stands before '~'; write the response there, as in y ~ x + (x | g)"
        )
    depth = 0
    for token in tokens:
        depth += (token.kind == "LEFT_PAREN") - (token.kind == "RIGHT_PAREN")
        if token.kind == "EQUAL" and depth == 0:
            raise FormulaError("'=' stands outside a call; remove it, or compute that column first")
    for left, right in pairwise(tokens):
        if left.kind == "NUMBER" and right.kind in ("IDENTIFIER", "NUMBER", "PERIOD"):
            raise FormulaError(
                f"'{left.lexeme}{right.lexeme}' is neither a number nor a name; put an operator "
                "between them, or write the name in backquotes"
            )


def _merge_bars(tokens: list[Any]) -> list[Any]:
    """Return the tokens with each `| |` as one bar, whose text `||` tells it apart."""
    merged: list[Any] = []
    for token in tokens:
        if token.kind == "PIPE" and merged and merged[-1].kind == "PIPE":
            merged[-1].lexeme = "||"
        else:
            merged.append(token)
    return merged


def _explain(parser: Any) -> str:
    """Return why the parser stopped where it did."""
    kinds = [token.kind for token in parser.tokens]
    if kinds.count("LEFT_PAREN") > kinds.count("RIGHT_PAREN"):
        return "a '(' is never closed; add the ')' that is missing"
    if kinds.count("LEFT_PAREN") < kinds.count("RIGHT_PAREN"):
        return "a ')' closes nothing; remove it or add the '(' that is missing"
    token = parser.peek()
    if token.kind == "EOF":
        return f"it ends after '{parser.previous().lexeme}'; write the term that is missing"
    if token.kind == "PIPE" and parser.previous().kind == "LEFT_PAREN":
        return "nothing stands before '|'; write (1 | g) or (x | g)"
    if token.kind == "PIPE":
        return "a random term stands without parentheses; write it as (x | g)"
    before = f" after '{parser.previous().lexeme}'" if parser.current else ""
    return f"'{token.lexeme}' is not expected{before}; remove it or write a term, as in x or log(x)"
