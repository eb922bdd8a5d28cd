"""Whether moments agree with themselves and with their formula."""

from itertools import chain
from math import isfinite

import numpy as np

from bhlm.design.constants import constant_nodes, count_constants
from bhlm.design.design import Design
from bhlm.design.formula.terms import list_factors
from bhlm.design.labels import kind_of_labels
from bhlm.errors import DataError, FormulaError
from bhlm.moments.memory import Blocks
from bhlm.moments.merge import number_cells

Array = np.ndarray

# A cross-product has rounding errors of some n * eps relative to its columns' sums of squares;
# the floor is for what the engines do beyond that, far below any dependence that matters.
ROUNDING = 1e-9
EPS = float(np.finfo(np.float64).eps)
CHUNK = 1 << 16  # groups whose correlations are checked at a time
LABELS = ("integers", "floats", "booleans", "text", "times", "date")


def check_blocks(design: Design, blocks: Blocks, name: str) -> None:
    """Raise `DataError`, about `name`, where moments contradict themselves or their formula.

    Labels are distinct; n are whole and positive; mean and cross are finite; each cross-product
    is symmetric and, within rounding, positive semi-definite; the columns are the formula's.
    """
    labels, n, mean, cross, weighting, units = blocks
    J, k = len(n), len(design.columns)
    shapes = [array.shape for array in (*labels, n, mean, cross)]
    if not J:
        raise DataError(f"{name} cannot be used: there is no group of '{design.group}' in it")
    if shapes != [(J,)] * len(labels) + [(J,), (J, k), (J, k, k)]:
        raise DataError(f"{name} cannot have arrays of the shapes {shapes}; reduce the table again")
    for group, each in zip(design.formula.group_columns, labels, strict=True):
        if kind_of_labels(each) not in LABELS:
            raise DataError(
                f"{name} cannot have labels of '{group}' that are {kind_of_labels(each)}, "
                f"such as {each[0]!r}; make them integers or strings"
            )

    def refuse(bad: Array, what: str) -> None:
        if bad.any():
            one, *more = (each[bad][:1].tolist()[0] for each in labels)
            label = (one, *more) if more else one
            raise DataError(
                f"{name} cannot be used: the group {label!r} has {what}; reduce the table again"
            )

    _, first = np.unique(number_cells(labels), return_index=True)
    repeated = np.ones(J, dtype=bool)
    repeated[first] = False
    refuse(repeated, "two blocks")
    refuse(
        ~((n >= 1) & (n < 2**53) & (n == np.floor(n))), "an n that is not a whole number above 0"
    )
    if weighting is not None:
        for array in (weighting.sums, weighting.squares, weighting.groups):
            refuse(~((array > 0.0) & np.isfinite(array)), "weights that do not add up above 0")
    if units is not None:
        refuse(~((units > 0.0) & np.isfinite(units)).all(axis=1), "a unit's weight not above 0")
    refuse(~np.isfinite(mean).all(axis=1), "a mean that is not finite")
    refuse(~np.isfinite(cross).all(axis=(1, 2)), "a cross-product that is not finite")
    refuse((cross != cross.transpose(0, 2, 1)).any(axis=(1, 2)), "a cross-product not symmetric")
    refuse((n == 1) & cross.any(axis=(1, 2)), "one row, and a cross-product that is not 0")
    size = np.abs(mean).max(axis=0)
    for start in range(0, J, CHUNK):
        span = slice(start, start + CHUNK)
        bad = np.zeros(J, dtype=bool)
        bad[span] = _is_indefinite(n[span], cross[span], size)
        refuse(bad, "a cross-product that no rows can have (it is not positive semi-definite)")
    try:
        check_columns(design)
    except DataError as error:
        raise DataError(f"{name} cannot be used: {error}") from error


def check_columns(design: Design) -> None:
    """Raise `DataError` where a design is not the one of its formula, levels and constants."""
    formula = design.formula
    try:
        whole = Design.assemble(formula, design.levels, design.constants)
    except FormulaError as error:
        raise DataError(str(error)) from error
    for name in ("group", "columns", "fixed", "random", "blocks", "factors"):
        expected, given = getattr(whole, name), getattr(design, name)
        if given != expected:
            raise DataError(
                f"the {name} {given} are not those of '{formula}', {expected}; reduce the table "
                "again"
            )
    needed = {str(node): count_constants(node) for node in constant_nodes(list_factors(formula))}
    found = {name: len(values) for name, values in design.constants.items()}
    if found != needed or not all(map(isfinite, chain(*design.constants.values()))):
        raise DataError(
            f"the constants {design.constants} are not those of '{formula}'; reduce the table again"
        )


def _is_indefinite(n: Array, cross: Array, size: Array) -> Array:
    """Return whether each cross-product (J, k, k) has a negative eigenvalue beyond rounding.

    Eigenvalues are those of the correlations, so that units play no part. A column that is
    constant within a group, such as a mean of the group's, has a sum of squares of rounding
    errors, EPS times its size (k,) a row; divided by their root, the rounding of the others would
    look like correlations.
    """
    k = cross.shape[1]
    diagonal = np.einsum("jaa->ja", cross)
    # The smallest normal number stands in where a sum of squares has vanished.
    root = np.sqrt(np.maximum(diagonal, 0.0) + np.finfo(np.float64).tiny)
    root = np.maximum(root, np.sqrt(n)[:, None] * size * (EPS / ROUNDING))
    correlation = cross / root[:, :, None] / root[:, None, :]
    slack = ROUNDING + 4.0 * k * n * EPS
    bad: Array = (diagonal < 0.0).any(axis=1)  # whatever its size: no sum of squares is
    try:
        # It exists if the smallest eigenvalue is above -slack, at a fraction of the price.
        np.linalg.cholesky(correlation + slack[:, None, None] * np.eye(k))
    except np.linalg.LinAlgError:
        bad |= np.linalg.eigvalsh(correlation)[:, 0] < -2.0 * slack
    return bad
