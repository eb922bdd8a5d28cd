"""Rows that a design was not built from -> its columns there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import pandas as pd

from bhlm.design.design import (
    INTERCEPT,
    Design,
    check_levels,
    distinct_columns,
    index_rows,
    prepare_design,
)
from bhlm.design.evaluate import Rows, read_rows
from bhlm.design.formula.expressions import Apply, Expression, column_names, walk
from bhlm.design.formula.terms import list_factors
from bhlm.design.labels import code_groups, widen_labels
from bhlm.design.rows import Layout, read_frame
from bhlm.errors import ArgumentError, DataError
from bhlm.layout import agree

Array = np.ndarray


# The group of rows that have none.
NO_GROUP = "(no group)"
OWN_ROWS = "new rows"

type At = Mapping[str, float | Sequence[float]] | str


class NewRows(NamedTuple):
    """The columns of rows of which the response need not be known."""

    labels: Array  # (n,) group labels
    x: Array  # (n, p)
    z: Array  # (n, q)
    index: Any  # what the table calls its rows, a pandas Index; None where they have no order
    offset: Array  # (n,) of the linear predictor; zero without one


def read_new_rows(
    design: Design,
    own: Any,
    new: Any,
    *,
    needs_group: bool = True,
    at: At | None = None,
    check: Callable[[Array], object] | None = None,
) -> NewRows:
    """Return the columns of a design for new rows.

    gm() and cwc() take the group means of the rows that the design was built from. A group that
    is not among them has no mean there: `at` must give it.

    Args:
        design: the columns.
        own: the table that the design was built from.
        new: any dataframe that narwhals accepts.
        needs_group: whether the rows must have a group; without it, the column may be left out.
        at: for groups that are not among those of `own`, each gm() that the columns rest on, such
            as {"gm(ses)": 0.0}, a number or one for each new row; or "new rows", for the means of
            their own new rows.
        check: called with the labels (n,) before anything is centred on them.

    Raises:
        ArgumentError: `at` is neither, or has a key that is no gm() of the columns.
        DataError: a row misses a value or holds a level that the design does not know; a column is
            not finite there; a group mean that nothing gives.
    """
    table = read_frame(new)
    formula = design.formula
    means = list_means(design)
    at = check_at(at, [f"gm({argument})" for argument in means], new=new)
    # The response is not known there, and any value will do; but I(y - x) ~ x reads x.
    needed = (*list_factors(formula), *formula.offsets)
    read = {name for part in needed for name in column_names(part)}
    # Nor are the weights: what is asked of new rows does not rest on them.
    parts = [formula.response, *([] if formula.trials is None else [formula.trials])]
    parts += [] if formula.weights is None else formula.weights.expressions
    unread = {name: 1.0 for part in parts for name in column_names(part) if name not in read}
    blank = {name: nw.lit(value) for name, value in unread.items()}
    has_group = design.group in table.collect_schema()
    if not has_group and needs_group:
        raise DataError(
            f"the new rows have no column '{design.group}'; give it, or ask for kind='population'"
        )
    if not needs_group and not (has_group and means) and design.group not in read:
        blank[design.group] = nw.lit(NO_GROUP)
    filled = table.with_columns(**blank).to_native()
    rows, layout = prepare_design(design, filled)
    held = rows.lazy().collect()
    check_levels(design, held, layout)
    total = table.lazy().select(nw.len()).collect().item()
    if len(held) < total:
        short = total - len(held)
        raise DataError(
            f"{short} of the {total} new rows {agree(short, 'misses', 'miss')} a value that the "
            "formula reads; drop or fill them first"
        )
    if check is not None:
        check(np.asarray(held["group"].to_numpy()))
    known = held, layout  # of which nothing is read where no mean is taken
    if means:
        training, old_layout = prepare_design(design, own)
        known = training.lazy().collect(), old_layout
    labels, columns = evaluate_new(design, known, (held, layout), at=at)
    columns[INTERCEPT] = np.ones(len(labels))
    x = np.column_stack([columns[name] for name in design.fixed])
    z = np.column_stack([columns[name] for name in design.random])
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        raise DataError(
            "a column of the formula is not finite in some new row; check the new table"
        )
    offset = read_offsets(design, held, layout)
    return NewRows(labels, x, z, index_rows(design, filled), offset)


def read_offsets(design: Design, held: nw.DataFrame[Any], layout: Layout) -> Array:
    """Return the sum (n,) of the offsets of new rows."""
    total = np.zeros(len(held))
    if not design.formula.offsets:
        return total
    rows = read_rows(design, held, layout, np.zeros(len(held), dtype=np.int64), 1)
    with np.errstate(all="ignore"):
        for each in design.formula.offsets:
            total = total + rows.evaluate(each, slice(0, len(held)))
    if not np.isfinite(total).all():
        raise DataError(
            f"offset({design.formula.offsets[0]}) is not finite in some new row; check the new "
            "table"
        )
    return total


def list_means(design: Design) -> list[Expression]:
    """Return what the columns of a design take group means of, by gm() or cwc(), inner ones first.

    The response is not among them.
    """
    columns = distinct_columns(design.formula, design.levels).values()
    nodes = (node for column in columns for part in column.parts for node in walk(part.factor))
    return list(
        dict.fromkeys(
            node.arguments[0]
            for node in nodes
            if isinstance(node, Apply) and node.function in ("gm", "cwc")
        )
    )


def list_named_means(design: Design) -> list[Apply]:
    """Return the group means that the columns of a design with several factors read, inner first.

    Each as gm() writes it, such as gm(ses, school).
    """
    columns = distinct_columns(design.formula, design.levels).values()
    nodes = (node for column in columns for part in column.parts for node in walk(part.factor))
    return list(
        dict.fromkeys(
            Apply("gm", node.arguments, node.options)
            for node in nodes
            if isinstance(node, Apply) and node.function in ("gm", "cwc")
        )
    )


def carry_means(
    design: Design, old: Rows, rows: Rows, *, known: Mapping[str, int], at: At | None
) -> None:
    """Give new rows the group means of those that a design was built from.

    Args:
        design: of several factors.
        old: the rows that the design was built from.
        rows: the new ones; in `rows.levels`, codes beyond the known ones are of new groups.
        known: how many groups of each kind the design knows, by the names of `rows.levels`.
        at: as in `read_new_rows`; its keys are such as "gm(ses, school)".

    Raises:
        ArgumentError: `at` holds what is no number.
        DataError: a mean of a new group that nothing gives.
    """
    calls = list_named_means(design)
    old.find_means(calls)
    for call in calls:
        group = str(call.option("group"))
        codes, total = rows.levels[group]
        is_new = codes >= known[group]
        first, rest = np.zeros((2, total))
        first[: known[group]], rest[: known[group]] = old.means[call]
        if is_new.any() and at == OWN_ROWS:
            rows.find_means([call])
            for own, whole in zip(rows.means[call], (first, rest), strict=True):
                whole[known[group] :] = own[known[group] :]
        elif is_new.any():
            if not isinstance(at, Mapping) or str(call) not in at:
                raise DataError(
                    f"a '{group}' of the new rows is not one of the model's and has no {call} "
                    f"there; give the mean, as in at={{{str(call)!r}: 0.0}}, or "
                    f"at={OWN_ROWS!r} where the new rows are whole groups"
                )
            given = np.broadcast_to(_read_means(at[str(call)], codes), codes.shape)
            first[codes[is_new]] = given[is_new]
        rows.means[call] = first, rest


def check_at(at: At | None, calls: Sequence[str], *, new: Any) -> At | None:
    """Return `at` as `read_new_rows` takes it; raise `ArgumentError` where it is something else.

    A Series stands for the new rows by their places, so that it must have their index: one that is
    called by groups, or in another order, would give rows the means of others.
    """
    if at is None or (isinstance(at, str) and at == OWN_ROWS):
        return at
    if not isinstance(at, Mapping):
        raise ArgumentError(
            f"at={at!r} is not known; give the groups' means, as in {{{'gm(x)'!r}: 0.0}}, or "
            f"{OWN_ROWS!r}"
        )
    # gm( ses ) is gm(ses).
    given = {"".join(str(key).split()): value for key, value in at.items()}
    known = {"".join(call.split()): call for call in calls}
    for key in given:
        if key not in known:
            names = ", ".join(calls) or "no group mean"
            raise ArgumentError(f"at has '{key}', but the columns rest on {names}")
        value = given[key]
        if not isinstance(value, pd.Series) or not isinstance(new, pd.DataFrame):
            continue
        if not value.index.equals(new.index):
            raise ArgumentError(
                f"at['{key}'] is a Series with another index than the new rows; give one value for "
                "each row, as groupby().transform() does, or to_numpy() of values in their order"
            )
    return {known[key]: value for key, value in given.items()}


def evaluate_new(
    design: Design,
    training: tuple[nw.DataFrame[Any], Layout],
    new: tuple[nw.DataFrame[Any], Layout],
    *,
    at: At | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Return the group labels (n,) and the columns of a design, by name, for new rows.

    For `at` and the errors see `read_new_rows`.
    """
    columns = distinct_columns(design.formula, design.levels)
    factors = [part.factor for column in columns.values() for part in column.parts]
    means = list_means(design)
    old_labels = widen_labels(np.asarray(training[0]["group"].to_numpy()))
    labels = widen_labels(np.asarray(new[0]["group"].to_numpy()))
    # Labels of another type are other groups, and do not sort or join with those known.
    groups, old_codes = code_groups(old_labels)
    codes = np.asarray(pd.Index(groups).get_indexer(pd.Index(labels)))
    is_new = codes < 0
    if at == OWN_ROWS:
        fresh, others = pd.factorize(labels[is_new])
    else:
        # Each row has a mean of its own where that is given.
        fresh, others = np.arange(is_new.sum()), labels[is_new]
        if len(others):
            _check_given(design, means, at or {}, others)
    codes[is_new] = len(groups) + fresh
    n_groups = len(groups) + len(others)
    old = read_rows(design, *training, old_codes, n_groups)
    rows = read_rows(design, *new, codes, n_groups)
    with np.errstate(all="ignore"):
        old.find_means(factors)
        for argument in means:
            first, rest = old.means[argument]
            if isinstance(at, Mapping) and len(others):
                given = at[f"gm({argument})"]
                first[len(groups) :] = np.broadcast_to(_read_means(given, labels), labels.shape)[
                    is_new
                ]
            elif len(others):
                rows.find_means([Apply("gm", (argument,))])
                own_first, own_rest = rows.means[argument]
                first[len(groups) :], rest[len(groups) :] = (
                    own_first[len(groups) :],
                    own_rest[len(groups) :],
                )
            rows.means[argument] = first, rest
        whole = slice(0, len(labels))
        values = {
            name: np.broadcast_to(np.asarray(rows.column(column, whole), np.float64), labels.shape)
            for name, column in columns.items()
        }
    return labels, values


def _check_given(design: Design, means: Sequence[Expression], at: At, others: Array) -> None:
    """Raise `DataError` where a mean of a group that the design does not know is not given."""
    missing = [f"gm({argument})" for argument in means if f"gm({argument})" not in at]
    if missing:
        who = f"{design.group} {others[0]!s} is new and has"
        if others[0] == NO_GROUP:
            who = f"the new rows have no '{design.group}' and so"
        example = ", ".join(f"'{call}': 0.0" for call in missing)
        raise DataError(
            f"{who} no {' and no '.join(missing)} among the rows of the model; give the mean, "
            f"as in at={{{example}}}, or at='{OWN_ROWS}' where the new rows are whole groups"
        )


def _read_means(given: Any, labels: Array) -> Array:
    """Return group means that were given, one or one for each new row."""
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.array(np.nan)
    if values.shape not in ((), labels.shape) or not np.isfinite(values).all():
        raise ArgumentError(
            f"at holds {str(given)[:60]!r}; give a finite number, or one for each of the "
            f"{len(labels)} new rows"
        )
    return values
