"""The density of one factor as C callbacks; numba compiles them when this file is imported."""

import numba
import numpy as np
from numba import types

from bhlm.bayes.packing import evaluate_packed_turned
from bhlm.design.kernels import callback, kernel

Array = np.ndarray

# What nutpie takes for a point outside of the support, which a trajectory may leave again.
BAD_GRADIENT = 3
BAD_VALUE = 4

_DOUBLES = types.CPointer(types.float64)
DENSITY = types.int64(types.uint64, _DOUBLES, _DOUBLES, _DOUBLES, _DOUBLES)
EXPANSION = types.int64(types.uint64, types.uint64, _DOUBLES, _DOUBLES, _DOUBLES)


@kernel
def report(value: float, gradient: Array, value_out: Array, gradient_out: Array) -> int:
    """Write value (1,) and gradient (d,); return 0, or how the point is bad."""
    for i in range(len(gradient)):
        gradient_out[i] = gradient[i]
        if not np.isfinite(gradient[i]):
            return BAD_GRADIENT
    value_out[0] = value
    return 0 if np.isfinite(value) else BAD_VALUE


@callback(DENSITY)
def density_callback(d, z_, gradient_, value_, data_):  # type: ignore[no-untyped-def]
    """Write value and gradient at z (d,); return 0, or how the point is bad."""
    data = numba.carray(data_, int(numba.carray(data_, 1)[0]))
    value, gradient = evaluate_packed_turned(numba.carray(z_, d), data)
    return report(value, gradient, numba.carray(value_, 1), numba.carray(gradient_, d))


@callback(EXPANSION)
def copy_callback(d, expanded, x_, out_, data_):  # type: ignore[no-untyped-def]
    """Copy x (d,): what is kept of a draw are the coordinates themselves."""
    x, out = numba.carray(x_, d), numba.carray(out_, expanded)
    for i in range(d):
        out[i] = x[i]
    return 0
