"""A table with every difficulty at once, and what "the same moments" means."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import Moments, pool

# Engines add in their own order, so sums of n terms differ by a few
# sqrt(n) * 2e-16 of their scale, and nothing here is so large that this comes near it.
EXACT = 1e-12


# About the standard deviation of every column below whose constants are compared.
SPREAD = 3.0


# The resolution of a double: what its value can say about a deviation from the group mean.
RESOLUTION = np.finfo(float).eps


HSB_FORMULA = "mathach ~ cwc(ses)*sector + gm(ses) + (cwc(ses) | school)"


FORMULA = (
    "y ~ cwc(x) * f + gm(x) + cgm(far) + cwc(far) + gm(far) + poly(far, 2) + I(k**2) + cwc(k * x)"
    " + log(abs(x) + 1) + (cwc(far) | g) + (0 + f:x | g)"
)


NASTY_FORMULA = FORMULA.replace("+ I(k**2)", "+ I(k**2) + flag + flag:cwc(far) + cwc(flag) + C(h)")


def make_nasty(seed: int = 1) -> pa.Table:
    """Every difficulty at once: gaps, unicode, unordered groups of 1 to 40, an offset of 1e8."""
    rng = np.random.default_rng(seed)
    names = np.array(["zoë", "Ärger", "b", "a", "日本", "it's", "ß", "Z", "école 1", "école 10"])
    names = np.concatenate([names, [f"g{i}" for i in range(30)]])
    sizes = np.concatenate([np.ones(6, int), [2, 2, 3], rng.integers(4, 40, len(names) - 9)])
    g = np.repeat(names, sizes)
    n = len(g)
    at = np.repeat(rng.normal(size=len(names)), sizes)
    x = at + rng.normal(size=n)
    columns: dict[str, list[Any]] = {
        "g": g.tolist(),
        "x": x.tolist(),
        "far": (1e8 + 3 * at + rng.normal(size=n)).tolist(),
        "k": rng.integers(-50, 50, n).tolist(),
        "h": rng.integers(0, 3, n).tolist(),
        "f": rng.choice(["ä", "β lang", "日本", "o'clock"], n).tolist(),
        "flag": (rng.random(n) < 0.4).tolist(),
        "y": (50 + 2 * x + at + rng.normal(size=n)).tolist(),
    }
    for i, name in enumerate(("x", "far", "k", "f", "flag", "y", "g")):
        for row in rng.integers(20, n, 2):
            columns[name][row] = None
        columns["x"][30 + i] = float("nan")
    order = rng.permutation(n)
    return pa.table({name: [values[i] for i in order] for name, values in columns.items()})


def as_pandas(table: pa.Table) -> pd.DataFrame:
    """Integers and booleans with gaps as such: pandas would make floats and objects of them."""
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=nullable.get)


NASTY = make_nasty()


def assert_same_moments(found: Moments, expected: Moments) -> None:
    """Compare to EXACT, relative to what each number is made of.

    Means: relative to |mean| + sd of the column over all rows, since the mean of a centred
    column is zero but for rounding. Cross-products c_ij of a group: relative to
    sqrt(c_ii c_jj), which bounds |c_ij|. A column that is constant within the group has
    c_ii = 0 in truth, and there each row counts with the resolution of the mean instead.
    """
    assert found.groups.tolist() == expected.groups.tolist()
    assert found.n.tolist() == expected.n.tolist()
    assert found.columns == expected.columns
    assert found.dropped == expected.dropped
    assert found.design.levels == expected.design.levels
    assert found.design.constants.keys() == expected.design.constants.keys()
    for name, theirs in expected.design.constants.items():
        step = np.subtract(found.design.constants[name], theirs)
        if name.startswith("poly"):  # shift, then norm2 and alpha in turn
            assert np.max(np.abs(step[1::2]) / np.asarray(theirs)[1::2]) < EXACT, name
            step = step[::2]
        # The first is a mean near 1e8, and the others what rounding it left: places are sums.
        assert np.max(np.abs(step[0] + step[1:])) < EXACT * SPREAD, name
    mean_error, cross_error = measure_errors(found, expected)
    assert mean_error < EXACT
    assert cross_error < EXACT


def measure_errors(
    found: Moments | CellMoments, expected: Moments | CellMoments
) -> tuple[float, float]:
    """Return the largest relative error of a mean and of a cross-product."""
    n, _, total = pool(expected)
    sd = np.sqrt(np.diag(total) / n)
    mean_error = np.abs(found.mean - expected.mean) / (np.abs(expected.mean) + sd)
    square = np.einsum("jaa->ja", expected.cross)
    floor = expected.n[:, None] * (RESOLUTION * (np.abs(expected.mean) + sd)) ** 2
    scale = np.sqrt(square + floor)
    cross_error = np.abs(found.cross - expected.cross) / (scale[:, :, None] * scale[:, None, :])
    return float(mean_error.max()), float(cross_error.max())


CELLS_FORMULA = "y ~ cwc(x, g:h) * f + gm(x, g) + cgm(far) + flag + (cwc(far, g) | g/h) + (1 | k)"


# A mean of what is centred within another factor, and that again.
DEEP_FORMULA = CELLS_FORMULA.replace("+ flag", "+ gm(cwc(far, k), g) + log(abs(x) + 1)")


def assert_same_cells(found: CellMoments, expected: CellMoments) -> None:
    """Compare moments by cell as `assert_same_moments` does."""
    assert found.columns == expected.columns
    assert found.groups == expected.groups
    for ours, theirs in zip(found.labels, expected.labels, strict=True):
        assert ours.codes.tolist() == theirs.codes.tolist()
        assert [e.tolist() for e in ours.columns] == [e.tolist() for e in theirs.columns]
    assert found.n.tolist() == expected.n.tolist()
    assert (found.dropped, found.missing) == (expected.dropped, expected.missing)
    assert found.design.levels == expected.design.levels
    for name, theirs in expected.design.constants.items():
        step = np.subtract(found.design.constants[name], theirs)
        assert np.max(np.abs(step[0] + step[1:])) < EXACT * SPREAD, name
    mean_error, cross_error = measure_errors(found, expected)
    assert mean_error < EXACT
    assert cross_error < EXACT
