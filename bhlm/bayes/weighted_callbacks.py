"""The density with weights or strata as a C callback; numba compiles it when this is imported."""

import numba

from bhlm.bayes.callbacks import DENSITY, report
from bhlm.bayes.weighted_density import evaluate_weighted


@numba.cfunc(DENSITY, cache=True, nopython=True)
def weighted_callback(d, x_, gradient_, value_, data_):  # type: ignore[no-untyped-def]
    """Write value and gradient at x (d,); return 0, or how the point is bad."""
    size = int(numba.carray(data_, 1)[0])
    value, gradient = evaluate_weighted(numba.carray(x_, d), numba.carray(data_, size))
    return report(value, gradient, numba.carray(value_, 1), numba.carray(gradient_, d))
