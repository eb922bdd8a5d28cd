"""The posterior density as C callbacks, which a sampler's threads call without Python.

All that the density reads is packed into one array of doubles, whose address travels with each
call:

    size, d, p, q, number of panels, n, scale, eta, use_likelihood, number of blocks, reach, then
    panels, total, inverse_basis, offset, slope, unit, signed, sizes, codes, numbers
"""

import numba
import numpy as np
from numba import types

from bhlm.bayes.density import Posterior, log_density
from bhlm.likelihood.panels import LANES

Array = np.ndarray

HEADER = 11
# What nutpie takes for a point outside of the support, which a trajectory may leave again.
BAD_GRADIENT = 3
BAD_VALUE = 4

_DOUBLES = types.CPointer(types.float64)


def pack_posterior(posterior: Posterior) -> Array:
    """Return all that the density reads as one array of doubles."""
    p, q = len(posterior.offset), len(posterior.unit)
    parts = (
        posterior.panels, posterior.total, posterior.inverse_basis, posterior.offset,
        posterior.slope, posterior.unit, posterior.signed, posterior.sizes, posterior.codes,
        posterior.numbers,
    )  # fmt: skip
    body = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])
    header = (
        HEADER + len(body), posterior.dimension, p, q, len(posterior.panels), posterior.n,
        posterior.scale, posterior.eta, posterior.use_likelihood, len(posterior.sizes),
        posterior.reach,
    )  # fmt: skip
    return np.concatenate([np.array(header, dtype=np.float64), body])


@numba.njit(cache=True, nogil=True, error_model="numpy")
def evaluate_packed(x: Array, data: Array) -> tuple[float, Array]:
    """Return `log_density` of a packed posterior: its value and gradient (d,)."""
    p, q, n_panels, n_blocks = int(data[2]), int(data[3]), int(data[4]), int(data[9])
    k = q + p + 1
    at = HEADER
    panels = data[at : at + n_panels * q * k * LANES].reshape((n_panels, q, k, LANES))
    at += n_panels * q * k * LANES
    total = data[at : at + (p + 1) * (p + 1)].reshape((p + 1, p + 1))
    at += (p + 1) * (p + 1)
    inverse_basis = data[at : at + q * q].reshape((q, q))
    at += q * q
    offset = data[at : at + p]
    at += p
    slope = data[at : at + p * p].reshape((p, p))
    at += p * p
    unit = data[at : at + q]
    at += q
    signed = data[at : at + q] > 0.0
    at += q
    sizes = data[at : at + n_blocks].astype(np.int64)
    at += n_blocks
    count = p + q + 1
    codes = data[at : at + count].astype(np.int64)
    at += count
    numbers = data[at : at + 3 * count].reshape((count, 3))
    return log_density(
        x, panels, total, data[10], data[5], data[6], inverse_basis, offset, slope, unit, signed,
        sizes, codes, numbers, data[7], data[8] > 0.0,
    )  # fmt: skip


@numba.cfunc(
    types.int64(types.uint64, _DOUBLES, _DOUBLES, _DOUBLES, _DOUBLES), cache=True, nopython=True
)
def density_callback(d, x_, gradient_, value_, data_):  # type: ignore[no-untyped-def]
    """Write value and gradient at x (d,); return 0, or how the point is bad."""
    size = int(numba.carray(data_, 1)[0])
    value, gradient = evaluate_packed(numba.carray(x_, d), numba.carray(data_, size))
    out = numba.carray(gradient_, d)
    for i in range(d):
        out[i] = gradient[i]
        if not np.isfinite(gradient[i]):
            return BAD_GRADIENT
    numba.carray(value_, 1)[0] = value
    return 0 if np.isfinite(value) else BAD_VALUE


@numba.cfunc(
    types.int64(types.uint64, types.uint64, _DOUBLES, _DOUBLES, _DOUBLES),
    cache=True,
    nopython=True,
)
def copy_callback(d, expanded, x_, out_, data_):  # type: ignore[no-untyped-def]
    """Copy x (d,): what is kept of a draw are the coordinates themselves."""
    x, out = numba.carray(x_, d), numba.carray(out_, expanded)
    for i in range(d):
        out[i] = x[i]
    return 0
