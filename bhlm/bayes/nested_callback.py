"""The density of nested factors as a C callback; numba compiles it when this file is imported."""

import numba

from bhlm.bayes.callbacks import DENSITY, report
from bhlm.bayes.packing import evaluate_nested
from bhlm.design.kernels import callback


@callback(DENSITY)
def nested_callback(d, z_, gradient_, value_, data_):  # type: ignore[no-untyped-def]
    """Write value and gradient at z (d,); return 0, or how the point is bad."""
    size = int(numba.carray(data_, 1)[0])
    value, gradient = evaluate_nested(numba.carray(z_, d), numba.carray(data_, size))
    return report(value, gradient, numba.carray(value_, 1), numba.carray(gradient_, d))
