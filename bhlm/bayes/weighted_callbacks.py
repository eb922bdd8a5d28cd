"""The density with weights or strata as a C callback; numba compiles it when this is imported."""

import numba

from bhlm.bayes.callbacks import DENSITY, report
from bhlm.bayes.centring import locate, pull_back
from bhlm.bayes.packing import unpack_axes
from bhlm.bayes.weighted_density import evaluate_weighted
from bhlm.design.kernels import callback


@callback(DENSITY)
def weighted_callback(d, z_, gradient_, value_, data_):  # type: ignore[no-untyped-def]
    """Write value and gradient at z (d,); return 0, or how the point is bad."""
    data = numba.carray(data_, int(numba.carray(data_, 1)[0]))
    centre, turn, packed = unpack_axes(d, data)
    value, gradient = evaluate_weighted(locate(numba.carray(z_, d), centre, turn), packed)
    return report(
        value, pull_back(gradient, turn), numba.carray(value_, 1), numba.carray(gradient_, d)
    )
