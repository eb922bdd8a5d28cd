"""Formula text -> frozen terms: `parse_formula("y ~ x + (x | g)")`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate

from bhlm.design.formula.expressions import PRECEDENCE, Apply, Expression, Name, walk
from bhlm.design.formula.functions import ELEMENTWISE
from bhlm.design.formula.parse import (
    EXAMPLE,
    Binary,
    Call,
    Leaf,
    Level,
    Node,
    Prefix,
    parse_tree,
    strip_parentheses,
)
from bhlm.design.formula.reader import MAX_DEPTH, read_factor
from bhlm.design.formula.weights import Weights
from bhlm.errors import FormulaError

# A formula is written by hand; more terms than this are a slip such as (a + ... + z)**9.
MAX_TERMS = 1000
MAX_FACTORS = 100
MAX_CHARACTERS = 100_000


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
    """Terms whose coefficients vary over the groups, and correlate unless they are independent.

    Which columns a term has, only a table tells: those of a factor are independent too.
    """

    terms: tuple[Term, ...]
    group: str  # what the grouping factor is called, such as school or school:class
    independent: bool = False  # written with ||
    parts: tuple[str, ...] = ()  # the columns of a factor such as school:class

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns whose values together are the labels."""
        return self.parts or (self.group,)

    def __str__(self) -> str:
        bar = "||" if self.independent else "|"
        return f"({_print_sum(self.terms)} {bar} {print_grouping(self.columns)})"


@dataclass(frozen=True, slots=True)
class Formula:
    """A model formula; `str(formula)` is its one canonical spelling, which reads back to the same.

    `group` is what the grouping factor is called; several are named one after the other.
    """

    text: str  # as the user wrote it
    response: Expression
    fixed: tuple[Term, ...]
    random: tuple[RandomTerm, ...]
    group: str
    trials: Expression | None = None  # n of y / n, successes of trials
    offsets: tuple[Expression, ...] = ()  # added to the linear predictor, without a coefficient

    weights: Weights | None = None  # of rows and groups, which the text does not name

    @property
    def outcome(self) -> tuple[Expression, ...]:
        """What is read beside the terms: the response, its trials, the offsets, and weights."""
        trials = () if self.trials is None else (self.trials,)
        weights = () if self.weights is None else self.weights.expressions
        return (self.response, *trials, *self.offsets, *weights)

    @property
    def groupings(self) -> dict[str, tuple[str, ...]]:
        """The columns of every grouping factor, by what it is called."""
        return {term.group: term.columns for term in self.random}

    @property
    def has_levels(self) -> bool:
        """Whether there is more than one grouping column."""
        return len(self.group_columns) > 1

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns of the grouping factors, each once."""
        return tuple(dict.fromkeys(name for term in self.random for name in term.columns))

    def find_grouping(self, written: str) -> str | None:
        """Return the factor that gm(x, written) means: by its name, or by its last column."""
        printed = {print_grouping(columns): name for name, columns in self.groupings.items()}
        if written in printed:
            return printed[written]
        ends = [name for name, at in self.groupings.items() if str(Name(at[-1])) == written]
        return ends[0] if len(ends) == 1 else None

    def __str__(self) -> str:
        parts = [_print_sum(self.fixed), *(f"offset({each})" for each in self.offsets)]
        parts += map(str, self.random)
        trials = "" if self.trials is None else f" / {self.trials}"
        return f"{self.response}{trials} ~ {' + '.join(parts)}"


def parse_formula(text: str) -> Formula:
    """Return the terms of a formula such as `y ~ x * z + (x | g)`.

    The fixed part follows R: an intercept is implied and `0 +` or `- 1` removes it; `a * b` is
    `a + b + a:b`, `a / b` is `a + a:b`, `(a + b)**2` is `a + b + a:b`, and `- a` removes `a`.
    Random terms follow lme4: `(x | g)` is unstructured, `(1 | g) + (0 + x | g)` are independent.
    `(x || g)` makes every column independent, those of a factor or a poly() too. Arithmetic is
    allowed inside a call only: `I(x**2)`.
    Terms keep the order in which they are written.

    Raises `FormulaError`, in one line that names the offending piece and what to write instead.
    """
    if not isinstance(text, str):
        raise FormulaError(
            f"a formula is a string such as '{EXAMPLE}', not {type(text).__name__}; "
            "put it in quotes"
        )
    return _parse_text(text)


@lru_cache(maxsize=64)  # responses over one right side, and fits of one model, ask again
def _parse_text(text: str) -> Formula:
    if not text.strip():
        raise FormulaError(f"the formula is empty; write one such as '{EXAMPLE}'")
    try:
        if len(text) > MAX_CHARACTERS:
            raise FormulaError(
                f"it has {len(text):,} characters, and more than {MAX_CHARACTERS:,} are not read; "
                "write the terms that you need"
            )
        return _read_formula(text)
    except FormulaError as error:
        reason = str(error)
        if "removes a term" in reason and (dashed := re.search(r"[^\W\d][\w.]*(-[\w.]+)+", text)):
            reason += f", or write the column '{dashed[0]}' in backquotes, as `{dashed[0]}`"
    except RecursionError:
        depths = accumulate((sign == "(") - (sign == ")") for sign in text)
        reason = (
            f"it is nested {max(depths):,} parentheses deep, which is too deep; write it with at "
            f"most {MAX_DEPTH}"
        )
    short = " ".join(text.split())
    short = short if len(short) <= 80 else f"{short[:60]}...{short[-15:]}"
    raise FormulaError(f"formula '{short}': {reason}")


def add_counts(
    formula: Formula, *, trials: str | None = None, exposure: str | None = None
) -> Formula:
    """Return a formula with a column of trials, or with log(exposure) as an offset.

    Raises `FormulaError` where it has trials already.
    """
    if trials is None and exposure is None:
        return formula
    if trials is not None and formula.trials is not None:
        raise FormulaError(
            f"trials={trials!r} and '{formula.response} / {formula.trials}' both give the trials; "
            "leave one of them out"
        )
    offsets = formula.offsets
    if exposure is not None:
        offsets = (*offsets, Apply("log", (Name(exposure),)))
    made = replace(
        formula, trials=formula.trials if trials is None else Name(trials), offsets=offsets
    )
    return replace(made, text=str(made))


def list_factors(formula: Formula) -> list[Expression]:
    """Return the distinct factors of the fixed and random terms."""
    terms = (*formula.fixed, *(term for block in formula.random for term in block.terms))
    return list(dict.fromkeys(factor for term in terms for factor in term.factors))


def _read_formula(text: str) -> Formula:
    left, right = parse_tree(text)
    response, trials = _read_outcome(left)
    offsets: list[Expression] = []
    fixed, bars = _read_sum(right, offsets)
    if not bars:
        raise FormulaError(
            "it has no random term, so nothing varies over groups; add one such as (1 | g) or "
            "(x | g)"
        )
    random = _spell_alike([term for bar in bars for term in _read_random(bar)])
    groups = list(dict.fromkeys(term.group for term in random))
    if not fixed:
        raise FormulaError("it has no fixed effect; keep the intercept or add a term")
    known = {frozenset(term.factors): term for term in fixed}
    formula = Formula(
        text=text.strip(),
        response=response,
        fixed=tuple(fixed),
        # b:a in a random term is the column a:b of the fixed part, so it takes that name.
        random=tuple(
            replace(r, terms=tuple(known.get(frozenset(t.factors), t) for t in r.terms))
            for r in random
        ),
        group=", ".join(groups),
        trials=trials,
        offsets=tuple(offsets),
    )
    return _settle_centrings(formula)


def _spell_alike(random: list[RandomTerm]) -> list[RandomTerm]:
    """Return random terms of which those of one factor, a:b or b:a, call it the same."""
    known: dict[frozenset[str], RandomTerm] = {}
    for term in random:
        known.setdefault(frozenset(term.columns), term)
    firsts = [known[frozenset(term.columns)] for term in random]
    return [
        replace(term, group=first.group, parts=first.parts)
        for term, first in zip(random, firsts, strict=True)
    ]


def _settle_centrings(formula: Formula) -> Formula:
    """Return the formula in which cwc() and gm() name their factor if, and only if, there are more.

    Raises `FormulaError` where one names what is no factor, or none where there are several.
    """

    def settle(node: Expression) -> Expression:
        if not isinstance(node, Apply):
            return node
        node = replace(node, arguments=tuple(map(settle, node.arguments)))
        if node.function not in ("cwc", "gm"):
            return node
        written = node.option("group")
        names = list(map(print_grouping, formula.groupings.values()))
        if written is None:
            if not formula.has_levels:
                return node
            raise FormulaError(
                f"'{node}' does not say within which of {', '.join(names)}; name one, as in "
                f"{node.function}({node.arguments[0]}, {names[0]})"
            )
        if formula.find_grouping(str(written)) is None:
            raise FormulaError(
                f"'{written}' in '{node}' is not a grouping factor; the random terms have "
                f"{', '.join(names)}"
            )
        return node if formula.has_levels else replace(node, options=())

    def settle_term(term: Term) -> Term:
        return Term(tuple(map(settle, term.factors)))

    return replace(
        formula,
        fixed=tuple(map(settle_term, formula.fixed)),
        random=tuple(
            replace(term, terms=tuple(map(settle_term, term.terms))) for term in formula.random
        ),
    )


def _read_outcome(node: Node) -> tuple[Expression, Expression | None]:
    """Return the response, and the trials of successes / trials."""
    node = strip_parentheses(node)
    match node:
        case Binary("/", left, right):
            sides = strip_parentheses(left), strip_parentheses(right)
            if all(isinstance(side, Leaf) and side.is_column for side in sides):
                return read_factor(sides[0]), read_factor(sides[1])
    return _read_response(node), None


def _read_offset(node: Node) -> Expression | None:
    """Return what stands in offset(); None of another node.

    Raises `FormulaError` where it is not computed row by row.
    """
    if not isinstance(node, Call) or str(node.function) != "offset":
        return None
    if len(node.arguments) != 1:
        raise FormulaError(f"'{node}' does not have one argument; write offset(x)")
    offset = read_factor(node.arguments[0])
    for part in walk(offset):
        allowed = ("I", *ELEMENTWISE, *PRECEDENCE)
        if isinstance(part, Apply) and part.function not in allowed:
            raise FormulaError(
                f"'{node}' uses {part}, but only row by row functions are allowed in an offset "
                f"({', '.join(ELEMENTWISE)}, I); compute that column first"
            )
    return offset


def _read_response(node: Node) -> Expression:
    node = strip_parentheses(node)
    if isinstance(node, Binary | Prefix):
        raise FormulaError(
            f"the response '{node}' is arithmetic; write it inside I(), as in I(y + 1)"
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


def _summands(node: Node) -> Iterator[tuple[int, Node]]:
    """Yield the addends of a sum with their signs, through parentheses, in order."""
    stack = [(1, node)]
    while stack:
        sign, node = stack.pop()
        match node := strip_parentheses(node):
            case Binary("+" | "-" as operator, left, right):
                stack += [(-sign if operator == "-" else sign, right), (sign, left)]
            case Prefix(operator, operand):
                stack.append((-sign if operator == "-" else sign, operand))
            case _:
                yield sign, node


def _read_sum(
    node: Node, offsets: list[Expression] | None = None
) -> tuple[list[Term], list[Binary]]:
    """Return the terms of a sum, with its implied intercept, and its random terms unread.

    What stands in offset() is added to `offsets`, where there is a place for it.
    """
    terms, bars = [Term()], list[Binary]()
    for sign, item in _summands(node):
        if isinstance(item, Binary) and item.sign in ("|", "||"):
            if sign < 0:
                raise FormulaError(f"the random term ({item}) is subtracted; leave it out instead")
            bars.append(item)
            continue
        if offsets is not None and (offset := _read_offset(item)) is not None:
            if sign < 0:
                raise FormulaError(f"{item} is subtracted; write offset(-x)")
            offsets.append(offset)
            continue
        if isinstance(item, Leaf) and item.number in (0, 1):
            intercept = (item.number == 1) == (sign > 0)
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


def _read_random(bar: Binary) -> list[RandomTerm]:
    """Return the terms of `lhs | group` or `lhs || group`, one for each factor of a/b."""
    groupings = _read_grouping(bar.right)
    name = print_grouping(groupings[0])
    terms, inner = _read_sum(bar.left)
    if inner:
        raise FormulaError(f"({bar}) has a '|' inside a random term; write (x | g) once per term")
    if not terms:
        raise FormulaError(f"({bar}) has no coefficient; write (1 | {name}) or leave it out")
    # A single intercept has nothing to correlate with.
    independent = bar.sign == "||" and terms != [Term()]
    return [
        RandomTerm(
            tuple(terms), ":".join(columns), independent, columns if len(columns) > 1 else ()
        )
        for columns in groupings
    ]


def _read_grouping(node: Node) -> list[tuple[str, ...]]:
    """Return the columns of each factor that a, a:b or a/b stands for."""
    match node := strip_parentheses(node):
        case Leaf() if node.is_column:
            return [(str(node.token.value),)]
        case Binary(":", left, right):
            sides = _read_grouping(left), _read_grouping(right)
            if len(sides[0]) == len(sides[1]) == 1:
                return [tuple(dict.fromkeys(sides[0][0] + sides[1][0]))]
        case Binary("/", left, right):
            outer, inner = _read_grouping(left), _read_grouping(right)
            within = tuple(dict.fromkeys(name for columns in outer for name in columns))
            return [*outer, *(tuple(dict.fromkeys(within + columns)) for columns in inner)]
    raise FormulaError(
        f"'{node}' after '|' is not a grouping factor; write a column, as in (x | g), or columns "
        "that are nested, as in (x | g/h); of crossed ones write each its own term, as in "
        "(1 | g) + (1 | h)"
    )


def print_grouping(columns: tuple[str, ...]) -> str:
    """Return a grouping factor as a formula has it, such as school:class."""
    return ":".join(str(Name(column)) for column in columns)


def _expand(node: Node) -> list[Term]:
    """Return the terms that a product stands for."""
    node = strip_parentheses(node)
    match node:
        case Leaf() if not node.is_column:
            raise FormulaError(
                f"{node} is not a term: 1 and 0 alone stand for the intercept and its absence; "
                "remove it, or multiply inside I(), as in I(2 * x)"
            )
        case Leaf() | Call():
            return [Term((read_factor(node),))]
        case Prefix() | Binary("+" | "-"):
            return _expand_sum(node)
        case Binary(":"):
            return _expand_interaction(node)
        case Binary("*", left, right):
            one, other = _expand(left), _expand(right)
            return _add(_add(one, other), _cross(one, other))
        case Binary("/", left, right):
            one, other = _expand(left), _expand(right)
            whole = Term(tuple(dict.fromkeys(factor for term in one for factor in term.factors)))
            return _add(one, _cross([whole], other))
        case Binary("**"):
            return _expand_power(node)
        case Binary("|" | "||"):
            raise FormulaError(f"the random term ({node}) is inside a product; add it with '+'")
        case Level():
            return [Term((read_factor(node),))]
    raise FormulaError(
        f"'{node}' is not a term: a comparison or assignment is not known; compute that column "
        "first"
    )


def _expand_interaction(node: Node) -> list[Term]:
    """Return the terms of a:b:..., from the left."""
    factors: list[Node] = []
    while isinstance(node, Binary) and node.sign == ":":
        factors.append(node.right)
        node = node.left
    if len(factors) > MAX_FACTORS:
        raise FormulaError(
            f"an interaction of {len(factors) + 1} columns is too long; write the ones you need"
        )
    terms = _expand(node)
    for factor in reversed(factors):
        terms = _cross(terms, _expand(factor))
    return terms


def _expand_sum(node: Node) -> list[Term]:
    terms: list[Term] = []
    for sign, item in _summands(node):
        terms = _add(terms, _expand(item)) if sign > 0 else _remove(terms, _expand(item))
    if not terms:
        raise FormulaError(f"'{node}' in a product leaves no term; remove it")
    return terms


def _expand_power(node: Binary) -> list[Term]:
    base, power = _expand(node.left), strip_parentheses(node.right)
    if len(base) == 1:
        raise FormulaError(
            f"'{node}' outside a call would not be a power (in a formula, ** means all "
            f"interactions); write I({node}) for the power"
        )
    times = power.number if isinstance(power, Leaf) else None
    if not isinstance(times, int) or times < 1:
        raise FormulaError(
            f"the power in '{node}' is not a whole number above 0; write one, as in (a + b)**2"
        )
    terms = base
    for _ in range(min(times, len(base)) - 1):
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
