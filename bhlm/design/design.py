"""Formula + table -> Design: the columns of a model, computed the same way by every engine.

A table is anything that narwhals reads, eager or lazy. What a design learns from the table
(levels, centring constants, counts) is kept in it, so that it can be applied to other rows.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from bhlm.design.constants import check_finite, checkpoints, fit_constants
from bhlm.design.formula.coding import Column, Level, expand_terms
from bhlm.design.formula.expressions import CENTRINGS, Apply, Expression, Name, column_names, walk
from bhlm.design.formula.terms import Formula, list_factors, parse_formula
from bhlm.design.frames import (
    GROUP,
    Frame,
    collect_frame,
    count_distinct,
    count_finite,
    count_true,
    take_row,
)
from bhlm.design.levels import find_levels
from bhlm.design.rows import (
    LABELS,
    SHOWN_COLUMNS,
    Layout,
    check_schema,
    count_rows,
    is_complete,
    name_groups,
    prepare_rows,
    read_frame,
    read_table,
    tally_rows,
)
from bhlm.design.steps import Step, Steps, as_expr
from bhlm.errors import DataError, FormulaError
from bhlm.layout import print_label

INTERCEPT = "Intercept"
# Of one term. Fits take time with the cube of the columns, and memory with their square.
MAX_COLUMNS = 2000


@dataclass(frozen=True, slots=True)
class GroupingFactor:
    """One of several grouping factors, and its random coefficients."""

    name: str  # such as school or school:class
    columns: tuple[str, ...]  # of the table, whose values together are the labels
    blocks: tuple[tuple[str, ...], ...]  # the coefficients that correlate, by term


@dataclass(frozen=True, slots=True)
class Design:
    """The columns of a model, and what they rest on.

    p fixed and q random coefficients. `columns` are the k - 1 distinct columns other than the
    intercept, those of the random part first, and then the response. With several grouping
    columns `factors` has the random coefficients, and `random` and `blocks` those of all factors.
    """

    formula: Formula
    group: str
    fixed: tuple[str, ...]  # (p,) columns of X, the intercept first if there is one
    random: tuple[str, ...]  # (q,) columns of Z, block after block
    blocks: tuple[tuple[str, ...], ...]  # the random coefficients that correlate, by term
    columns: tuple[str, ...]  # (k,)
    levels: Mapping[str, tuple[Level, ...]]  # by categorical factor, the reference first
    constants: Mapping[str, tuple[float, ...]]  # by cgm() or poly() call, see fit_constants
    factors: tuple[GroupingFactor, ...] = ()  # F, of several grouping columns

    @property
    def response(self) -> str:
        """The name of the response column."""
        return self.columns[-1]

    @classmethod
    def assemble(
        cls,
        formula: Formula,
        levels: Mapping[str, tuple[Level, ...]],
        constants: Mapping[str, tuple[float, ...]],
    ) -> "Design":
        """Return the design that rests on these levels and constants.

        Raises `FormulaError` where two columns of it have one name.
        """
        fixed, by_group = _expand_formula(formula, levels)
        blocks = [block for found in by_group.values() for block in found]
        factors = tuple(
            GroupingFactor(name, formula.groupings[name], _name_blocks(found))
            for name, found in by_group.items()
        )
        return cls(
            formula=formula,
            group=formula.group,
            fixed=tuple(column.name for column in fixed),
            random=tuple(dict.fromkeys(column.name for block in blocks for column in block)),
            blocks=_name_blocks(blocks),
            columns=(*distinct_columns(formula, levels), str(formula.response)),
            levels=levels,
            constants=constants,
            factors=factors if formula.has_levels else (),
        )

    def rename(self, names: Mapping[str, str]) -> "Design":
        """Return the design with other names for some columns, and for the group."""

        def put(old: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(names.get(name, name) for name in old)

        return replace(
            self,
            group=names.get(self.group, self.group),
            fixed=put(self.fixed),
            random=put(self.random),
            blocks=tuple(put(block) for block in self.blocks),
            columns=put(self.columns),
        )


class Prepared(NamedTuple):
    """A design with the complete rows of the table that it was built from."""

    design: Design
    rows: Frame  # the columns of `layout`
    layout: Layout
    n: int  # complete rows
    dropped: int  # rows left out because a column of the formula is missing there
    missing: Mapping[str, int]  # rows in which each column is missing


def build_design(formula: str | Formula, table: Any, *, check: bool = True) -> Design:
    """Return the design of a formula on a table.

    Rows where a column of the formula is null or NaN are dropped and counted; levels and the
    means of cwc(), gm(), cgm() and poly() are those of the rows that remain. Strings, booleans,
    categoricals and C(x) have treatment contrasts, by R's rule (see `bhlm.design.formula.coding`).

    `check=False` leaves the last pass, which looks for terms that are not finite and for a single
    group, to `check_design`.

    Raises `FormulaError` where the formula is at fault and `DataError` where the table is: a
    column that is unknown or of the wrong type, infinite values, a term that is not finite,
    no complete row, a categorical or group column with one level.
    """
    design, rows, layout, n, _, _ = build_prepared(formula, table)
    if check:
        with ignore_floating_errors():
            check_values(design, rows, layout, n=n)
            _check_groups(design, rows, n=n)
    return design


def build_prepared(formula: str | Formula, table: Any, *, counted: bool = False) -> Prepared:
    """Return the design, and with it the complete rows of the table that it was built from.

    `counted` takes trials and offsets, which only families have. What `check_design` looks for is
    left to it. Raises as `build_design` does.
    """
    formula = parse_formula(formula) if isinstance(formula, str) else formula
    check_roles(formula, counted=counted)
    frame = read_frame(read_table(table, formula))
    with ignore_floating_errors():
        schema = check_schema(frame, formula)
        factors = find_factors(formula, schema)
        rows, layout = prepare_rows(frame, formula, schema, factors=factors)
        tally = count_rows(rows, layout)
        n = tally.complete
        if n < tally.total or isinstance(rows, nw.LazyFrame):
            rows = rows.filter(is_complete(layout))
        levels = {str(f): find_levels(f, rows, layout) for f in factors}
        values = [e for e in (*list_factors(formula), formula.response) if str(e) not in levels]
        constants = fit_constants(rows, values, layout=layout, n=n)
        design = Design.assemble(formula, levels, constants)
    return Prepared(design, rows, layout, n, tally.total - n, tally.name_missing(layout))


def check_design(design: Design, table: Any) -> None:
    """Raise `DataError` if a term is not finite in some complete row, or there is one group."""
    rows, layout = prepare_design(design, table)
    with ignore_floating_errors():
        n = count_rows(rows, layout).complete
        check_values(design, rows, layout, n=n)
        if not design.factors:
            _check_groups(design, rows, n=n)


def _check_groups(design: Design, rows: Frame, *, n: int) -> None:
    groups = count_distinct(rows, nw.col(GROUP))
    if groups < 2:
        raise DataError(
            f"the group column '{design.group}' has {groups} level in the {n} complete rows; "
            " random effects need at least 2 groups, so choose another column or fit a "
            "regression"
        )


def prepare_design(design: Design, table: Any) -> tuple[Frame, Layout]:
    """Return the complete rows of a table with the columns that a design reads."""
    rows, layout = _read_columns(design, table)
    return rows.filter(is_complete(layout)), layout


def _read_columns(design: Design, table: Any) -> tuple[Frame, Layout]:
    """Return all rows of a table with the columns that a design reads."""
    frame = read_frame(read_table(table, design.formula))
    schema = check_schema(frame, design.formula)
    factors = [f for f in list_factors(design.formula) if str(f) in design.levels]
    _check_types(design, factors, schema)
    return prepare_rows(frame, design.formula, schema, factors=factors)


def apply_design(
    design: Design, table: Any, *, check: bool = True, means: bool = False, weights: bool = False
) -> Frame:
    """Return the complete rows of a table as narwhals columns `group`, `w0`, ..., `w{k-1}`.

    Several grouping columns are called as `bhlm.design.rows.name_groups` says, and "within groups"
    is then by cell. w_i is `design.columns[i]`, as Float64; a lazy table stays lazy. With `means`
    there are also `m0`, ..., `m{k-1}`, the means of the w within groups, and with them or
    `weights` also `rows` and `groups`, the weights of rows and of their groups where there are any.
    cgm() and poly() use the constants of the design, cwc() and gm() the group means of this table.
    `check` looks, in one to three passes, for infinite values, values that are not finite and
    levels that the design does not know; leave it out for the very table that the design was built
    from.

    Raises `DataError` where the table cannot serve the design.
    """
    with ignore_floating_errors():
        rows, layout = _read_columns(design, table)
        n = count_rows(rows, layout).complete if check else 0
        rows = rows.filter(is_complete(layout))
        if check:
            check_levels(design, rows, layout)
            check_values(design, rows, layout, n=n)
        steps, values = _lower_columns(design, layout)
        named = {f"w{i}": value.cast(nw.Float64) for i, value in enumerate(values)}
        groups = list(name_groups(design.formula))
        given = _lower_weights(design, steps)
        if not means:
            return steps.lay_down(rows).select(*groups, **named, **(given if weights else {}))
        averages = {f"m{i}": nw.col(name) for i, name in enumerate(named)}
        steps.steps += [Step(values=named), Step(means=averages)]
        return steps.lay_down(rows).select(*groups, *named, *averages, **given)


def design_arrays(
    design: Design, table: Any, *, check: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the group labels (n,), X (n, p), Z (n, q) and y (n,) of a table's complete rows.

    Rows come in the order of the table, or in any order from an engine that has none.
    Raises `DataError` as `apply_design` does.
    """
    return weighted_arrays(design, table, check=check)[0]


def weighted_arrays(
    design: Design, table: Any, *, check: bool = True
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """Return what `design_arrays` does, and the rows' weights (n,), 1 without any."""
    with ignore_floating_errors():
        frame = apply_design(design, table, check=check, weights=True)
        if isinstance(frame, nw.LazyFrame):
            frame = collect_frame(frame)
    columns = {
        name: np.asarray(frame[f"w{i}"].to_numpy(), dtype=np.float64)
        for i, name in enumerate(design.columns)
    }
    y = columns[design.response]
    columns[INTERCEPT] = np.ones_like(y)
    X = np.column_stack([columns[name] for name in design.fixed])
    Z = np.column_stack([columns[name] for name in design.random])
    has_weights = design.formula.weights is not None
    w = np.asarray(frame["rows"].to_numpy(), np.float64) if has_weights else np.ones_like(y)
    return (np.asarray(frame[GROUP].to_numpy()), X, Z, y), w


def tally_table(design: Design, table: Any) -> tuple[int, dict[str, int]]:
    """Return the number of rows, and those in which each column that a design reads is missing."""
    rows, layout = _read_columns(design, table)
    tally = tally_rows(rows, layout)
    return tally.total, tally.name_missing(layout)


def index_rows(design: Design, table: Any) -> Any:
    """Return what the table calls its complete rows, in their order, as a pandas Index.

    Those of pandas have labels, others are numbered from 0. None for an engine whose rows have no
    order, such as a database.
    """
    import pandas as pd

    frame = read_frame(read_table(table, design.formula))
    if isinstance(frame, nw.LazyFrame) and not frame.implementation.is_polars():
        return None
    rows, layout = _read_columns(design, frame.to_native())
    asked = rows.select(complete=is_complete(layout))
    held = collect_frame(asked) if isinstance(asked, nw.LazyFrame) else asked
    complete = np.asarray(held["complete"].to_numpy(), dtype=bool)
    index = getattr(held.to_native(), "index", None)
    return (index if isinstance(index, pd.Index) else pd.RangeIndex(len(complete)))[complete]


def ignore_floating_errors() -> AbstractContextManager[Any]:
    """Silence NumPy where it would warn: what is not finite is counted and raised."""
    return np.errstate(all="ignore")


def check_roles(formula: Formula, *, counted: bool = False) -> None:
    """Raise `FormulaError` where one column plays two parts that exclude each other.

    Unless `counted`, there are neither trials nor offsets.
    """
    if formula.trials is not None and not counted:
        raise FormulaError(
            f"'{formula.response} / {formula.trials}' is successes of trials; give "
            f"family='binomial', or write I({formula.response}/{formula.trials}) for the ratio"
        )
    if formula.offsets and not counted:
        raise FormulaError(
            f"offset({formula.offsets[0]}) is for the families 'bernoulli', 'binomial' and "
            f"'poisson'; of the gaussian subtract it, as in I({formula.response} - ...) ~ ..."
        )
    if formula.weights is not None and formula.weights.counts_rows:
        _check_counted(formula)
    check_outcomes(formula, [formula.response])


def check_outcomes(formula: Formula, responses: Sequence[Expression]) -> None:
    """Raise `FormulaError` where one of some responses is a group or a predictor of a formula."""
    factors = [(factor, column_names(factor)) for factor in list_factors(formula)]
    for response in responses:
        outcome = column_names(response)
        for group in formula.group_columns:
            if group in outcome:
                raise FormulaError(
                    f"'{group}' is both the response and the group; change one of them"
                )
        for factor, names in factors:
            # A change score such as I(y - x) may well be explained by x.
            if factor == response or (len(outcome) == 1 and outcome[0] in names):
                raise FormulaError(
                    f"the response '{response}' is used again in the term '{factor}'; "
                    "remove that term"
                )


def _check_counted(formula: Formula) -> None:
    """Refuse means of rows where a row stands for several: they would count each row once."""
    nodes = [node for factor in list_factors(formula) for node in walk(factor)]
    for node in nodes:
        if isinstance(node, Apply) and node.function in (*CENTRINGS, "scale", "poly"):
            raise FormulaError(
                f"'{node}' takes means of rows, and with frequency weights each row stands for "
                "several; compute that column first, with the weights"
            )


def find_factors(formula: Formula, schema: nw.Schema) -> list[Expression]:
    """Return the factors of a formula that are categorical."""
    return [factor for factor in list_factors(formula) if _is_categorical(factor, schema)]


def _is_categorical(factor: Expression, schema: nw.Schema) -> bool:
    if isinstance(factor, Name):
        return isinstance(schema[factor.name], (*LABELS, nw.Boolean))
    return isinstance(factor, Apply) and factor.function == "C"


def _check_types(design: Design, factors: Iterable[Expression], schema: nw.Schema) -> None:
    """Raise `DataError` where a categorical column changed its type since the design was built."""
    for factor in factors:
        name = column_names(factor)[0]
        level, found = design.levels[str(factor)][0], schema[name]
        if isinstance(level, str) != isinstance(found, LABELS):
            raise DataError(
                f"column '{name}' has type {found} here, but levels such as {level!r} in the "
                "design; give it the type that it had"
            )


def _check_width(formula: Formula, levels: Mapping[str, tuple[Level, ...]]) -> None:
    """Refuse terms of so many columns that only an identifier or a slip makes them."""
    for term in (*formula.fixed, *(term for block in formula.random for term in block.terms)):
        width = math.prod(len(levels.get(str(factor), ())) or 1 for factor in term.factors)
        if width > MAX_COLUMNS:
            sizes = " x ".join(
                f"{len(found)} of '{factor}'"
                for factor in term.factors
                if (found := levels.get(str(factor)))
            )
            raise DataError(
                f"the term '{term}' has a column for each combination of levels ({sizes}), "
                f"{width:,} in all, and more than {MAX_COLUMNS:,} are not taken; merge levels or "
                "leave it out"
            )


def _expand_formula(
    formula: Formula, levels: Mapping[str, tuple[Level, ...]]
) -> tuple[list[Column], dict[str, list[list[Column]]]]:
    """Return the columns of X, and those of Z by grouping factor and block.

    Raises `FormulaError` where two of them clash, and `DataError` where a term has too many.
    """
    _check_width(formula, levels)
    fixed = expand_terms(formula.fixed, levels)
    by_group: dict[str, list[list[Column]]] = {}
    for term in formula.random:
        columns = expand_terms(term.terms, levels)
        # Together the terms know which levels are left out; apart, every factor keeps them all.
        blocks = by_group.setdefault(term.group, [])
        blocks += [[column] for column in columns] if term.independent else [columns]
    parts = [("fixed", fixed)]
    parts += [("random", [c for block in found for c in block]) for found in by_group.values()]
    for part, columns in parts:
        seen: set[str] = set()
        for column in columns:
            if column.name in seen:
                advice = (
                    "write independent blocks as (1 | g) + (0 + x | g)"
                    if part == "random"
                    else "rename"
                )
                raise FormulaError(
                    f"'{column.name}' stands twice in the {part} part of '{formula}'; {advice}"
                )
            seen.add(column.name)
    return fixed, by_group


def _name_blocks(blocks: Iterable[Iterable[Column]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(column.name for column in block) for block in blocks)


def distinct_columns(
    formula: Formula, levels: Mapping[str, tuple[Level, ...]]
) -> dict[str, Column]:
    """Return the columns other than the intercept by name, those of the random part first."""
    fixed, by_group = _expand_formula(formula, levels)
    random = [column for blocks in by_group.values() for block in blocks for column in block]
    every = [*random, *fixed]
    return {column.name: column for column in every if column.parts}


def _lower_columns(design: Design, layout: Layout) -> tuple[Steps, list[nw.Expr]]:
    """Return the steps to lay down, and then the values of `design.columns`."""
    steps = Steps(layout.columns, design.constants, layout.keys)
    values = []
    for column in distinct_columns(design.formula, design.levels).values():
        product: Any = None
        for part in column.parts:
            if part.level is not None:
                labels = read_labels(layout, str(part.factor), part.level)
                value: Any = (labels == nw.lit(part.level)).cast(nw.Int32).cast(nw.Float64)
            elif part.degree and isinstance(part.factor, Apply):
                value = steps.lower_power(part.factor, part.degree)[1]
            else:
                value = steps.lower(part.factor)[1]
            product = value if product is None else product * value
        values.append(product)
    response: Any = steps.lower(design.formula.response)[1]
    return steps, [*values, response]


def _lower_weights(design: Design, steps: Steps) -> dict[str, nw.Expr]:
    """Return the weights of rows, groups and units by name; none where there are none."""
    weights = design.formula.weights
    if weights is None:
        return {}
    given = {"rows": weights.row_expression, "groups": weights.group_expression}
    given |= {f"unit{i}": each for i, each in enumerate(weights.factor_expressions)}
    return {name: as_expr(steps.lower(each)[1]).cast(nw.Float64) for name, each in given.items()}


def check_values(design: Design, rows: Frame, layout: Layout, *, n: int) -> None:
    """Raise `DataError` that names the innermost term of which some value is not finite."""
    steps, values = _lower_columns(design, layout)
    numeric = [f for f in list_factors(design.formula) if str(f) not in design.levels]
    suspects = list(dict.fromkeys(checkpoints([*numeric, *design.formula.outcome])))
    asked: dict[str, Any] = {str(suspect): steps.lower(suspect)[1] for suspect in suspects}
    # A table column was checked for infinities already, and an indicator is finite by itself.
    safe = {str(Name(name)) for name in layout.columns} | {
        name
        for name, column in distinct_columns(design.formula, design.levels).items()
        if all(part.level is not None for part in column.parts)
    }
    for name, value in zip(design.columns, values, strict=True):
        if name not in safe:
            asked.setdefault(name, value)
    counts = take_row(steps.lay_down(rows), [*map(count_finite, asked.values())])
    check_finite(asked, counts, n=n)


def check_levels(design: Design, rows: Frame, layout: Layout) -> None:
    """Raise `DataError` for a level that the design does not know."""
    unknown = {
        factor: ~read_labels(layout, factor, levels[0]).is_in(levels)
        for factor, levels in design.levels.items()
    }
    counts = take_row(rows, [count_true(value) for value in unknown.values()])
    for (factor, is_unknown), count in zip(unknown.items(), counts, strict=True):
        if count:
            safe = layout.categories[factor]
            found = rows.filter(is_unknown).select(safe).head(1)
            found = collect_frame(found) if isinstance(found, nw.LazyFrame) else found
            known = ", ".join(print_label(level) for level in design.levels[factor][:SHOWN_COLUMNS])
            raise DataError(
                f"'{factor}' has the level {found[safe].to_list()[0]!r}, which the design does not "
                f"know ({count} such rows; known: {known}); drop those rows or build "
                "the design anew"
            )


def read_labels(layout: Layout, factor: str, level: Level) -> nw.Expr:
    """Return the column of a categorical factor, comparable with levels such as this one."""
    return match_labels(nw.col(layout.categories[factor]), level)


def match_labels[Labels: (nw.Expr, nw.Series[Any])](labels: Labels, level: Level) -> Labels:
    """Return the labels of a factor in the type of its levels, of which this is one."""
    return labels.cast(nw.String) if isinstance(level, str) else labels
