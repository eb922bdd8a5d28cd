"""What the weights of rows and groups mean: the one value that every module asks.

A weight may say how precise a row is, how many rows it stands for, or how many units of a
population. The estimates of the three can be alike; what differs is what is maximised, which
standard errors follow, and whether REML exists.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NoReturn

from bhlm.design.formula.expressions import (
    PRECEDENCE,
    Apply,
    Expression,
    Name,
    Number,
    column_names,
    walk,
)
from bhlm.design.formula.functions import ELEMENTWISE
from bhlm.design.formula.parse import parse_tree
from bhlm.design.formula.reader import read_factor
from bhlm.errors import ArgumentError, FormulaError, check_arguments
from bhlm.layout import print_label

SCALINGS = ("none", "size", "effective", "gk")


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of rows, and perhaps of groups, each a column or an expression of columns.

    The class says what they mean; none of them may be zero, negative or infinite, and rows in
    which one is missing are left out as those of any other column are.
    """

    rows: str | None = None
    groups: str | None = None
    scaling: str = "none"

    kind: ClassVar[str] = ""
    # Whether a row stands for others of a population: the likelihood is a pseudo-likelihood.
    is_sampling: ClassVar[bool] = False
    # Whether a row of weight w is w rows.
    counts_rows: ClassVar[bool] = False
    # Whether the residual variance is known, and held at 1 over the weight.
    holds_sigma: ClassVar[bool] = False

    # Of several grouping factors, those of units: a column or an expression by factor.
    factors: tuple[tuple[str, str], ...] = ()

    levels: ClassVar[tuple[Any, ...]] = ()  # of strata, each with a residual variance of its own

    @property
    def strata(self) -> tuple[str, ...]:
        """What residual variances that differ are called by, such as "sex=F"."""
        return tuple(f"{self.rows}={print_label(level)}" for level in self.levels)

    def __post_init__(self) -> None:
        for expression in self.expressions:
            for node in walk(expression):
                allowed = ("I", *ELEMENTWISE, *PRECEDENCE)
                if isinstance(node, Apply) and node.function not in allowed:
                    raise ArgumentError(
                        f"weights by {node} are not taken; give a column, or arithmetic of columns "
                        "in one row, such as 'w_student / w_school'"
                    )

    @property
    def weighs_rows(self) -> bool:
        """Whether rows count by their weights in means and cross-products."""
        return self.scaling != "gk"

    @property
    def row_expression(self) -> Expression:
        """The weight of a row."""
        return Number(1) if self.rows is None else _read_expression(self.rows, what="rows")

    @property
    def group_expression(self) -> Expression:
        """The weight of a row's group."""
        return Number(1) if self.groups is None else _read_expression(self.groups, what="groups")

    @property
    def factor_expressions(self) -> tuple[Expression, ...]:
        """The weights of the units of `factors`."""
        return tuple(_read_expression(text, what="groups") for _, text in self.factors)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The expressions that read columns."""
        given = (self.row_expression, self.group_expression, *self.factor_expressions)
        return tuple(each for each in given if column_names(each))

    @property
    def sentence(self) -> str:
        """What the weights are, in words for a summary."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return what `rebuild_weights` reads, as JSON can hold it."""
        return {
            "kind": self.kind,
            "rows": self.rows,
            "groups": self.groups,
            "scaling": self.scaling,
            **({"factors": dict(self.factors)} if self.factors else {}),
        } | ({"levels": list(self.levels)} if self.levels else {})


@check_arguments
@dataclass(frozen=True, slots=True)
class PrecisionWeights(Weights):
    """Weights of precision, as lme4's: the residual variance of a row is sigma^2 / w.

    They are part of the model, so that REML, ML and all that rests on them hold.
    """

    kind: ClassVar[str] = "precision"

    def __init__(self, rows: str) -> None:
        _set(self, rows=rows)

    @property
    def sentence(self) -> str:
        """What the weights are."""
        return f"precision weights {self.rows}: Var(row) = sigma^2 / {self.rows}"


@check_arguments
@dataclass(frozen=True, slots=True)
class FrequencyWeights(Weights):
    """Weights of frequency: a row of weight w stands for w rows that are equal."""

    kind: ClassVar[str] = "frequency"
    counts_rows: ClassVar[bool] = True

    def __init__(self, rows: str) -> None:
        _set(self, rows=rows)

    @property
    def sentence(self) -> str:
        """What the weights are."""
        return f"frequency weights {self.rows}: each row stands for {self.rows} equal ones"


@check_arguments
@dataclass(frozen=True, slots=True)
class SamplingWeights(Weights):
    """Weights of a survey: a row, or a group, stands for as many of the population.

    Args:
        rows: the conditional weight of a row, given that its group was drawn: a column, or an
            expression such as "w_student / w_school" where the file has the product. None is 1.
        groups: the weight of the group, the same in all rows of it. None is 1. With several nested
            factors a mapping from factor to the weight of its units, each given the unit that it
            lies in: {"class": "w_class / w_school", "school": "w_school"}.
        scaling: of the row weights, within each group: "none"; "size" to sum to the number of
            rows; "effective" to sum to the effective number of rows, (sum w)^2 / sum w^2; "gk"
            sets them to 1 and multiplies the group's weight by their mean (Graubard & Korn). With
            several factors it is within the finest, and there is no "gk".

    What is maximised is the sum over groups of W_j times the log of the integral over u of the
    product of f(y_ij | u)^w_ij, the pseudo-likelihood. It is no likelihood of the rows: there is no
    REML of it, and standard errors are sandwiches.

    Source: Rabe-Hesketh & Skrondal (2006), J. R. Stat. Soc. A 169, 805-827.
    """

    kind: ClassVar[str] = "sampling"
    is_sampling: ClassVar[bool] = True

    def __init__(
        self,
        rows: str | None = None,
        groups: str | Mapping[str, str] | None = None,
        scaling: str = "none",
    ) -> None:
        if rows is None and not groups:
            raise ArgumentError(
                "SamplingWeights() names no weights; give the column of rows=, of groups=, or both"
            )
        if scaling not in SCALINGS:
            raise ArgumentError(
                f"scaling={scaling!r} is not known; choose one of {', '.join(SCALINGS)}"
            )
        if isinstance(groups, Mapping):
            _set(self, rows=rows, factors=tuple(groups.items()), scaling=scaling)
            return
        _set(self, rows=rows, groups=groups, scaling=scaling)

    @property
    def sentence(self) -> str:
        """What the weights are."""
        how = {
            "none": "as they are",
            "size": "scaled to sum to each group's rows",
            "effective": "scaled to sum to each group's effective rows",
            "gk": "averaged into the groups' weights",
        }[self.scaling]
        parts = [f"of rows {self.rows} {how}"] if self.rows else []
        parts += [f"of groups {self.groups}"] if self.groups else []
        parts += [f"of units of {name} {text}" for name, text in self.factors]
        return f"sampling weights {', '.join(parts)}"


@check_arguments
@dataclass(frozen=True, slots=True)
class KnownVariances(Weights):
    """Sampling variances that are known, row by row: Var(row) = v, and no sigma is estimated."""

    kind: ClassVar[str] = "known"
    holds_sigma: ClassVar[bool] = True

    def __init__(self, rows: str) -> None:
        _set(self, rows=rows)

    @property
    def row_expression(self) -> Expression:
        """The weight of a row, 1 over its variance."""
        return Apply("/", (Number(1), _read_expression(self.rows, what="known_variance")))

    @property
    def sentence(self) -> str:
        """What the weights are."""
        return f"known variances {self.rows}: Var(row) = {self.rows}, sigma held at 1"


@check_arguments
@dataclass(frozen=True, slots=True)
class StratumWeights(Weights):
    """Residual variances by stratum: a row's weight is the first stratum's over its own."""

    levels: tuple[Any, ...] = ()  # type: ignore[misc]  # S, the first is what the others are compared with

    kind: ClassVar[str] = "strata"

    def __init__(self, rows: str, levels: Sequence[Any] = ()) -> None:
        object.__setattr__(self, "levels", tuple(levels))
        _set(self, rows=rows)

    @property
    def row_expression(self) -> Expression:
        """The column of the strata, whatever its name."""
        return Name(str(self.rows))

    @property
    def sentence(self) -> str:
        """What the weights are."""
        return f"residual variances by {self.rows}"


KINDS: dict[str, type[Weights]] = {
    each.kind: each
    for each in (
        PrecisionWeights, FrequencyWeights, SamplingWeights, KnownVariances, StratumWeights,
    )
}  # fmt: skip


def read_weights(weights: Any, known_variance: str | None = None) -> Weights | None:
    """Return what `weights=` and `known_variance=` mean; a name alone is precision weights.

    Raises:
        ArgumentError: neither a name nor weights, or both arguments.
    """
    if known_variance is not None:
        if weights is not None:
            raise ArgumentError(
                "weights= and known_variance= exclude each other: a known variance is a weight of "
                "1 / v with sigma held at 1; give one of them"
            )
        if not isinstance(known_variance, str):
            raise ArgumentError(
                f"known_variance={known_variance!r} is not the name of a column; give one, in "
                "quotes"
            )
        return KnownVariances(known_variance)
    if weights is None or isinstance(weights, Weights):
        return weights
    if isinstance(weights, Mapping) and weights.get("kind") in KINDS:  # of a gallery model
        return rebuild_weights(weights)
    if isinstance(weights, str):
        return PrecisionWeights(weights)
    raise ArgumentError(
        f"weights is a {type(weights).__name__}; give the name of a column (precision weights), "
        "bhlm.FrequencyWeights(...) or bhlm.SamplingWeights(rows=..., groups=...)"
    )


def settle_factors(
    weights: Weights | None, factors: Sequence[str], find: Callable[[str], str | None]
) -> Weights | None:
    """Return weights of groups under the names of the formula's factors.

    Those of the one factor that there is need no name. `find` returns the factor that a name means,
    which may be its last column's: `child` of (1 | school/child).

    Raises:
        ArgumentError: weights of other factors, or twice of one.
    """
    if weights is None or not weights.factors:
        return weights
    if len(factors) != 1:
        meant = [(find(name) or name, text) for name, text in weights.factors]
        if twice := [name for at, (name, _) in enumerate(meant) if name in dict(meant[:at])]:
            raise ArgumentError(f"groups= has weights of '{twice[0]}' twice; give one of them")
        return SamplingWeights(weights.rows, dict(meant), scaling=weights.scaling)
    named = {find(name) or name: text for name, text in weights.factors}
    if set(named) != set(factors):
        raise ArgumentError(
            f"groups= names {', '.join(map(repr, named))}, and the model is grouped by "
            f"'{factors[0]}'; give groups='{next(iter(named.values()))}'"
        )
    return SamplingWeights(weights.rows, named[factors[0]], scaling=weights.scaling)


def has_shares(weights: Weights | None) -> bool:
    """Return whether the variance of rows divides into shares: there is a residual one, estimated.

    A pseudo-likelihood is none of the rows, and known variances are the rows' own.
    """
    return weights is None or not (weights.is_sampling or weights.holds_sigma)


def refuse_weights(weights: Weights, what: str) -> ArgumentError:
    """Return the error for what is not there for weights of this meaning."""
    why, last = "", "fixed_effects(method='z') and group_effects()"
    if weights.is_sampling:
        why = "; the pseudo-likelihood is no likelihood of the rows"
        last = "fixed_effects(method='z'), group_effects() and compare_conventions()"
    return ArgumentError(
        f"{what} is not there with {weights.sentence}{why}; there are estimates, summary(), {last}"
    )


def rebuild_weights(description: Mapping[str, Any] | None) -> Weights | None:
    """Return the weights that `Weights.describe` described."""
    if description is None:
        return None
    kind = KINDS[description["kind"]]
    if kind is SamplingWeights:
        return SamplingWeights(
            description.get("rows"),
            description.get("factors") or description.get("groups"),
            scaling=description.get("scaling", "none"),
        )
    if kind is StratumWeights:
        return StratumWeights(description["rows"], description.get("levels", ()))
    return kind(description["rows"])


def _set(weights: Weights, **values: Any) -> None:
    usual = {"rows": None, "groups": None, "scaling": "none", "factors": ()}
    for name, value in (usual | values).items():
        object.__setattr__(weights, name, value)
    weights.__post_init__()


def _read_expression(text: Any, *, what: str) -> Expression:
    return _parse_expression(text, what) if isinstance(text, str) else _refuse(text, what)


def _refuse(text: Any, what: str) -> NoReturn:
    raise ArgumentError(
        f"{what}={text!r} is not the name of a column of weights; give one, in quotes"
    )


@cache
def _parse_expression(text: str, what: str) -> Expression:
    if not text.strip():
        _refuse(text, what)
    try:
        found = read_factor(parse_tree(f"y ~ I({text})")[1])
    except FormulaError as error:
        raise ArgumentError(
            f"{what}={text!r} cannot be read ({error}); give a column, in backquotes if its name "
            "is not plain, or arithmetic of columns"
        ) from error
    inside = found.arguments[0] if isinstance(found, Apply) and found.function == "I" else found
    return inside if isinstance(inside, Name | Apply) else found
