"""Other responses over the columns of a whitening: what `whiten` finds of each, in one pass."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.whitening import EPS, LARGEST, PERFECT, ROUNDING, Whitened, find_positions
from bhlm.moments.moments import INTERCEPT, Moments
from bhlm.moments.sums import STRETCH

Array = np.ndarray

TINY = float(np.finfo(float).tiny)


class Loaded(NamedTuple):
    """Other responses over the columns of a whitening, and what leads to their whitened columns."""

    is_sound: Array  # (r,) whether it varies, and the fixed effects leave something of it
    ols: Array  # (r, p)
    scale: Array  # (r,)
    columns: Array  # (r, k) loadings of y~
    mean: Array  # (r, J) of y~ in the groups
    inner: Array  # (k, q + p) loadings of [Z~ X~]
    means: Array  # (J, q + p) of [Z~ X~] in the groups
    last: Array  # (r, J, k) of the responses' cross-products, the column of each


def load_responses(several: Sequence[Moments], structure: Structure, white: Whitened) -> Loaded:
    """Return what `whiten` finds of other responses over the columns and rows of `white`.

    All that the responses have no part in is taken from there.

    Args:
        several: r moments that differ in their last column.
        structure: of the random effects.
        white: the whitened moments of another response.
    """
    first = several[0]
    fixed_at = find_positions(first, first.fixed)
    found = _load_each(
        np.ascontiguousarray(first.mean),
        np.array([each.mean[:, -1] for each in several]),
        np.array([each.cross[:, -1] for each in several]),
        np.asarray(first.mass, dtype=np.float64),
        fixed_at,
        find_positions(first, structure.names),
        white.basis,
        white.fixed,
        first.fixed.index(INTERCEPT) if INTERCEPT in first.fixed else -1,
        float(first.n_rows),
    )
    return Loaded(*found)


@kernel
def _load_each(
    mean: Array,
    y: Array,
    last: Array,
    mass: Array,
    fixed_at: Array,
    random_at: Array,
    basis: Array,
    fixed: Array,
    intercept: int,
    rows: float,
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """Return the fields of `Loaded`.

    Args:
        mean: (J, k) of the columns, of which the last is not read.
        y: (r, J) means of the responses.
        last: (r, J, k) their columns of the cross-products.
        mass: (J,) what groups count by.
        fixed_at: (p,) where fixed effects stand in [1, columns].
        random_at: (q,) where random coefficients do.
        basis: (q, q) B.
        fixed: (p, p) A.
        intercept: which of the fixed effects it is; -1 for none.
        rows: of the table.
    """
    r, n_groups, k = last.shape
    p, q = len(fixed_at), len(random_at)
    n = 0.0
    grand, y_grand = np.zeros(k - 1), np.zeros(r)
    part, y_part = np.zeros(k - 1), np.zeros(r)
    for j in range(n_groups):
        n += mass[j]
        for a in range(k - 1):
            part[a] += mass[j] * mean[j, a]
        for i in range(r):
            y_part[i] += mass[j] * y[i, j]
        if (j + 1) % STRETCH == 0 or j + 1 == n_groups:
            grand += part
            y_grand += y_part
            part[:] = 0.0
            y_part[:] = 0.0
    grand /= n
    y_grand /= n
    loadings = np.zeros((q + p, k))
    for c in range(q):
        for a in range(q):
            loadings[c, random_at[a]] = basis[a, c]
    for c in range(p):
        for a in range(p):
            loadings[q + c, fixed_at[a]] = fixed[a, c]
    means, inner = np.empty((n_groups, q + p)), np.zeros((k, q + p))
    for c in range(q + p):
        offset = _offset(loadings[c], grand)
        for j in range(n_groups):
            means[j, c] = offset
        for a in range(k - 1):
            inner[a, c] = loadings[c, 1 + a]
    for j in range(n_groups):
        for a in range(k - 1):
            apart = mean[j, a] - grand[a]
            for c in range(q + p):
                means[j, c] += apart * inner[a, c]
    is_sound, ols, scale = np.zeros(r, dtype=np.bool_), np.zeros((r, p)), np.ones(r)
    columns, column = np.zeros((r, k)), np.zeros(k + 1)
    grands = np.empty(k)
    for a in range(k - 1):
        grands[a] = grand[a]
    whitened = np.empty((r, n_groups))
    total, own = np.zeros(k), np.zeros(k)
    extended, xy = np.zeros(k), np.zeros(p)
    for i in range(r):
        total[:] = 0.0
        own[:] = 0.0
        for j in range(n_groups):
            apart = mass[j] * (y[i, j] - y_grand[i])
            for a in range(k - 1):
                own[a] += last[i, j, a] + apart * (mean[j, a] - grand[a])
            own[k - 1] += last[i, j, k - 1] + apart * (y[i, j] - y_grand[i])
            if (j + 1) % STRETCH == 0 or j + 1 == n_groups:
                total += own
                own[:] = 0.0
        spread = 0.0
        for a in range(k):
            spread += total[a]
        # X'y, about the means if the intercept absorbs them.
        extended[0] = 0.0 if intercept >= 0 else n * y_grand[i]
        for a in range(k - 1):
            extended[1 + a] = total[a]
            if intercept < 0:
                extended[1 + a] += n * y_grand[i] * grand[a]
        rss = total[k - 1] + (0.0 if intercept >= 0 else n * y_grand[i] ** 2)
        xy[:] = 0.0
        for c in range(p):
            for a in range(p):
                xy[c] += extended[fixed_at[a]] * fixed[a, c]
            rss -= xy[c] ** 2
        size = abs(y_grand[i])
        is_sound[i] = (
            np.isfinite(spread)
            and total[k - 1] > ROUNDING * n * max(size**2, TINY)
            and (size == 0.0 or 1.0 / LARGEST < size < LARGEST)
            and rss > PERFECT * total[k - 1]
        )
        if not is_sound[i]:
            continue
        scale[i] = np.sqrt(rss / ((rows - p) * (n / rows)))
        for a in range(p):
            for c in range(p):
                ols[i, a] += fixed[a, c] * xy[c]
        if intercept >= 0:
            ols[i, intercept] += y_grand[i]
        column[:] = 0.0
        for a in range(p):
            column[fixed_at[a]] -= ols[i, a] / scale[i]
        column[k] = 1.0 / scale[i]
        grands[k - 1] = y_grand[i]
        offset = _offset(column, grands)
        for j in range(n_groups):
            value = offset + column[k] * (y[i, j] - y_grand[i])
            for a in range(k - 1):
                value += column[1 + a] * (mean[j, a] - grand[a])
            whitened[i, j] = value
        for a in range(k):
            columns[i, a] = column[1 + a]
    return is_sound, ols, scale, columns, whitened, inner, means, last


@kernel
def _offset(loadings: Array, grand: Array) -> float:
    """Return the mean of a whitened column over all rows, from loadings (1 + k,) and means (k,)."""
    offset, size = loadings[0], abs(loadings[0])
    for a in range(len(grand)):
        offset += grand[a] * loadings[1 + a]
        size += abs(grand[a] * loadings[1 + a])
    # Columns that an intercept centres have an offset that is zero but for rounding.
    return 0.0 if abs(offset) < 8 * EPS * size else offset
