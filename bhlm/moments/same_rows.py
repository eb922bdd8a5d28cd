"""Rows that are read again: whether they are those that the moments came from."""

import numpy as np

from bhlm.design.labels import code_groups
from bhlm.errors import DataError
from bhlm.moments.memory import reduce_columns
from bhlm.moments.moments import Moments

Array = np.ndarray

# Relative difference up to which sums in another order are those of the same rows.
SAME = 1e-6


def is_alike(one: tuple[Array, Array], other: tuple[Array, Array], *, n: float) -> bool:
    """Return whether two pairs of means (J, k) and cross-products (J, k, k) are of the same rows.

    They differ by rounding where the rows, n of them, were summed in another order.
    """
    (before, spread), (mean, cross) = one, other
    if mean.shape != before.shape:
        return False
    size = np.abs(before).max(axis=0)
    # What rounding of values of this size leaves of a sum of squares is no difference.
    diagonal = np.diagonal(spread.sum(axis=0)) + n * (1e-7 * size) ** 2
    sd = np.sqrt(diagonal / n)
    allowed = SAME * np.sqrt(np.outer(diagonal, diagonal))
    same = bool(np.all(np.abs(mean - before) <= SAME * (sd + 1e-3 * size)))
    return same and bool(np.all(np.abs(cross - spread) <= allowed))


def check_same_rows(
    moments: Moments,
    labels: Array,
    x: Array,
    z: Array,
    y: Array,
    *,
    weights: Array | None = None,
) -> None:
    """Refuse rows that do not have these moments.

    A table that is read again may have changed in between: a file may be replaced, a database
    may get rows, and a table in memory may be written to.

    Args:
        moments: of the rows when they were first read.
        labels: (n,) groups.
        x: (n, p) columns of the fixed effects.
        z: (n, q) columns of the random effects.
        y: (n,) response.
        weights: (n,) of rows, where cross-products were taken with weights.

    Raises:
        DataError: other groups, numbers of rows or values.
    """
    known = {name: i for i, name in enumerate(moments.columns)}
    columns = dict(zip(moments.fixed, x.T, strict=True)) | dict(
        zip(moments.random, z.T, strict=True)
    )
    columns[moments.response] = y
    named = [name for name in columns if name in known]
    at = np.array([known[name] for name in named])
    groups, codes = code_groups(labels)
    counted = moments.n if moments.weighting is None else moments.weighting.rows
    same = len(labels) == counted.sum() and np.array_equal(groups, moments.groups)
    if same:
        values = np.column_stack([columns[name] for name in named])
        mass, mean, cross = reduce_columns(codes, values, len(groups), weights=weights)
        same = bool(np.all(np.abs(mass - moments.mass) <= SAME * moments.mass))
    if same:
        same = is_alike(
            (moments.mean[:, at], moments.cross[:, at][:, :, at]), (mean, cross), n=moments.n_rows
        )
    if not same:
        raise DataError(
            f"the table has changed since '{moments.formula}' was reduced to {moments.n_rows} rows "
            f"of {moments.n_groups} groups, and now holds other rows; make the model again"
        )
