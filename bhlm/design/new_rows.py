"""Rows that a design was not built from -> its columns there."""

from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import pandas as pd

from bhlm.design.design import (
    INTERCEPT,
    Design,
    check_levels,
    distinct_columns,
    prepare_design,
)
from bhlm.design.evaluate import read_rows
from bhlm.design.formula.expressions import column_names
from bhlm.design.formula.terms import list_factors
from bhlm.design.labels import code_groups
from bhlm.design.rows import Layout, read_frame
from bhlm.errors import DataError

Array = np.ndarray


class NewRows(NamedTuple):
    """The columns of rows of which the response need not be known."""

    labels: Array  # (n,) group labels
    x: Array  # (n, p)
    z: Array  # (n, q)


def read_new_rows(design: Design, own: Any, new: Any) -> NewRows:
    """Return the columns of a design for new rows.

    gm() and cwc() take the group means of the rows that the design was built from; a group
    that is not among them is centred on its own new rows.

    Args:
        design: the columns.
        own: the table that the design was built from.
        new: any dataframe that narwhals accepts.

    Raises:
        DataError: a row misses a value or holds a level that the design does not know, or a
            column is not finite there.
    """
    table = read_frame(new)
    formula = design.formula
    # The response is not known there, and any value will do; but I(y - x) ~ x reads x.
    read = {name for part in list_factors(formula) for name in column_names(part)}
    unread = [name for name in column_names(formula.response) if name not in read]
    blank = [nw.lit(1.0).alias(name) for name in unread]
    rows, layout = prepare_design(design, table.with_columns(*blank).to_native())
    training, old_layout = prepare_design(design, own)
    held = rows.lazy().collect()
    check_levels(design, held, layout)
    labels, columns = evaluate_new(design, (training.lazy().collect(), old_layout), (held, layout))
    total = table.lazy().select(nw.len()).collect().item()
    if len(labels) < total:
        raise DataError(
            f"{total - len(labels)} of the {total} new rows miss a value that the formula "
            "reads; drop or fill them first"
        )
    columns[INTERCEPT] = np.ones(len(labels))
    x = np.column_stack([columns[name] for name in design.fixed])
    z = np.column_stack([columns[name] for name in design.random])
    if not (np.isfinite(x).all() and np.isfinite(z).all()):
        raise DataError(
            "a column of the formula is not finite in some new row; check the new table"
        )
    return NewRows(labels, x, z)


def evaluate_new(
    design: Design,
    training: tuple[nw.DataFrame[Any], Layout],
    new: tuple[nw.DataFrame[Any], Layout],
) -> tuple[Array, dict[str, Array]]:
    """Return the group labels (n,) and the columns of a design, by name, for new rows.

    gm() and cwc() take the group means of the rows that the design was built from; a group
    that is not among them is centred on its own new rows.
    """
    columns = distinct_columns(design.formula, design.levels)
    factors = [part.factor for column in columns.values() for part in column.parts]
    old_labels = np.asarray(training[0]["group"].to_numpy())
    labels = np.asarray(new[0]["group"].to_numpy())
    # Labels of another type are other groups, and do not sort or join with those known.
    groups, old_codes = code_groups(old_labels)
    codes = np.asarray(pd.Index(groups).get_indexer(pd.Index(labels)))
    fresh, others = pd.factorize(labels[codes < 0])
    codes[codes < 0] = len(groups) + fresh
    known = np.arange(len(groups) + len(others)) < len(groups)
    old = read_rows(design, *training, old_codes, len(known))
    rows = read_rows(design, *new, codes, len(known))
    with np.errstate(all="ignore"):
        old.find_means(factors)
        rows.find_means(factors)
        for argument, (first, rest) in old.means.items():
            own_first, own_rest = rows.means[argument]
            rows.means[argument] = (
                np.where(known, first, own_first),
                np.where(known, rest, own_rest),
            )
        whole = slice(0, len(labels))
        values = {
            name: np.broadcast_to(np.asarray(rows.column(column, whole), np.float64), labels.shape)
            for name, column in columns.items()
        }
    return labels, values
