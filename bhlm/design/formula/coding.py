"""Terms -> named columns: which levels of a categorical factor each term spells out.

A categorical factor has one 0/1 column per level but, where the model already holds the
average over its levels, none for the first level (treatment contrasts). The rule is R's
(TermCode in src/library/stats/src/model.c; Chambers & Hastie 1992, section 2.4.1), so the
columns are those of R's model.matrix with contr.treatment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from bhlm.design.formula.expressions import Apply, Expression
from bhlm.design.formula.terms import Term
from bhlm.layout import print_label

type Level = str | int | float | bool
type Levels = Mapping[str, tuple[Level, ...]]


@dataclass(frozen=True, slots=True)
class Part:
    """One column of one factor: the factor itself, a level of it, or a power of it."""

    factor: Expression
    name: str
    level: Level | None = None  # of a categorical factor
    degree: int = 0  # of a polynomial


@dataclass(frozen=True, slots=True)
class Column:
    """A named column: the product of its parts; with no part, the intercept."""

    name: str
    parts: tuple[Part, ...] = ()


def expand_terms(terms: Sequence[Term], levels: Levels) -> list[Column]:
    """Return the columns of a sum of terms, in the order of the terms.

    `levels` maps each categorical factor, as printed, to its levels with the reference first.
    In an interaction the levels of the first factor vary fastest, as in R.
    """
    contrasted = choose_contrasts(terms, levels)
    columns = []
    for term in terms:
        if not term.factors:
            columns.append(Column("Intercept"))
            continue
        choices = [
            _expand_factor(factor, levels, contrasted=(term, factor) in contrasted)
            for factor in reversed(term.factors)
        ]
        for choice in product(*choices):
            parts = choice[::-1]
            columns.append(Column(":".join(part.name for part in parts), parts))
    return columns


def choose_contrasts(terms: Sequence[Term], levels: Levels) -> set[tuple[Term, Expression]]:
    """Return the pairs (term, categorical factor) that leave out the reference level.

    A factor of a term leaves it out if the rest of the term, which may be empty, is contained
    in an earlier term (earlier by degree, then as written). Without an intercept, the first
    categorical factor of the sum keeps all its levels.
    """
    ordered = sorted(terms, key=lambda term: len(term.factors))
    contrasted = set()
    keep_all = Term() not in ordered
    for i, term in enumerate(ordered):
        for factor in term.factors:
            if str(factor) not in levels:
                continue
            rest = set(term.factors) - {factor}
            if keep_all:
                keep_all = False
            elif any(rest <= set(earlier.factors) for earlier in ordered[:i]):
                contrasted.add((term, factor))
    return contrasted


def _expand_factor(factor: Expression, levels: Levels, *, contrasted: bool) -> list[Part]:
    name = str(factor)
    if name in levels:
        shown = levels[name][1:] if contrasted else levels[name]
        return [Part(factor, f"{name}[{print_label(level)}]", level=level) for level in shown]
    if isinstance(factor, Apply) and factor.function == "poly":
        degree = int(factor.option("degree") or 1)
        return [Part(factor, f"{name}{k}", degree=k) for k in range(1, degree + 1)]
    return [Part(factor, name)]
