"""Which likelihoods of families can be compared, and what is refused."""

from typing import Any

import numpy as np

from bhlm.design.cells import Labels
from bhlm.errors import ArgumentError
from bhlm.layout import print_label
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.moments.patterns import Patterns
from bhlm.reml.family.maximum import FamilyMaximum

Array = np.ndarray

# Two engines sum the same rows in another order.
SAME = 1e-8


def check_families(one: Any, two: Any) -> None:
    """Raise `ArgumentError` unless the likelihoods of two fits, one of a family, can be compared.

    They are of one family and link, of the same responses, and both integrated, or both
    approximated in the same way: what an approximation misses differs between models.
    """
    a, b = one.moments.formula, two.moments.formula
    first, second = (_name_family(fit) for fit in (one, two))
    if first != second:
        raise ArgumentError(
            f"'{a}' is {first} and '{b}' is {second}; compare fits of one family and link"
        )
    if one.label != two.label:
        exact, other = (fit.label or "integration to a stated error" for fit in (one, two))
        raise ArgumentError(
            f"'{a}' was fitted by {exact} and '{b}' by {other}, whose likelihoods cannot be "
            "compared; fit both alike, such as both with nagq=1"
        )
    _check_responses(one.moments, two.moments)


def _name_family(fit: Any) -> str:
    if not isinstance(fit, FamilyMaximum):
        return "gaussian"
    return f"{fit.family.name} with {fit.family.link} link"


def _check_responses(a: AnyPatterns, b: AnyPatterns) -> None:
    """Raise `ArgumentError` unless two models have the same responses, rows and shared columns."""
    if a.response != b.response:
        raise ArgumentError(
            f"'{a.formula}' explains '{a.response}' and '{b.formula}' '{b.response}'; compare "
            "models of one response"
        )
    ours, theirs = _sum_units(a), _sum_units(b)
    shared = ["", *(name for name in ours if name and name in theirs)]
    if a.n_rows != b.n_rows or not all(_agree(ours[name], theirs[name]) for name in shared):
        raise ArgumentError(
            f"'{a.formula}' and '{b.formula}' were fitted to different rows ({a.n_rows} and "
            f"{b.n_rows}); fit both to the same complete rows"
        )
    for name in a.design.columns[:-1]:
        if name in b.design.columns[:-1] and not _agree(_sum_column(a, name), _sum_column(b, name)):
            raise ArgumentError(
                f"'{name}' has other values in '{b.formula}' than in '{a.formula}'; fit both to "
                "the same table"
            )


def _agree(one: dict[str, float], two: dict[str, float]) -> bool:
    return one.keys() == two.keys() and all(
        abs(value - two[key]) <= SAME * max(abs(value), 1.0) for key, value in one.items()
    )


def _sum_units(patterns: AnyPatterns) -> dict[str, dict[str, float]]:
    """Return successes, and trials, of all rows (""), and by unit of each factor."""
    found: dict[str, dict[str, float]] = {"": {}}
    if isinstance(patterns, Patterns):
        units = {patterns.group: Labels((patterns.groups,), patterns.codes)}
    else:
        names = (factor.name for factor in patterns.factors)
        units = dict(zip(names, patterns.labels, strict=True))
    for what, counts in _list_counts(patterns).items():
        found[""][what] = float(counts.sum())
        for name, (columns, codes) in units.items():
            sums = np.bincount(codes, weights=counts, minlength=len(columns[0]))
            labels = zip(*columns, strict=True)
            found.setdefault(name, {}).update(
                {f"{what} {':'.join(map(print_label, each))}": float(total)
                 for each, total in zip(labels, sums, strict=True)}
            )  # fmt: skip
    return found


def _list_counts(patterns: AnyPatterns) -> dict[str, Array]:
    """Return what rows of one response have alike: an exposure belongs to the model."""
    counts = {"successes": patterns.y}
    return counts if patterns.family.has_exposure else counts | {"trials": patterns.n}


def _sum_column(patterns: AnyPatterns, name: str) -> dict[str, float]:
    """Return the sums of a column and of its squares over successes, and over trials."""
    column = patterns.take((name,))[:, 0]
    return {
        f"{what} {power}": float(counts @ column**power)
        for what, counts in _list_counts(patterns).items()
        for power in (1, 2)
    }
