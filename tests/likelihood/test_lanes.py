"""Kernels read and write lanes side by side: no vector is gathered, number by number.

An index that the compiler cannot tell to be positive, such as a sum with an argument, counts from
the end where it is negative, for all that it knows. Where the lanes of a loop have such indices,
they are gathered, and the loop takes twice as long.
"""

import numba
import pytest
from numba import float64, int64

from bhlm.likelihood import marginal, panels, positions

ONE, TWO, THREE = float64[::1], float64[:, ::1], float64[:, :, ::1]
KERNELS = [
    (marginal.solve_two, (ONE, int64, int64, TWO, float64, ONE, int64)),
    (marginal.take_residual, (THREE, ONE, int64, TWO)),
    (marginal.add_fixed, (THREE, TWO, int64, TWO)),
    (panels.factor_panel, (THREE, TWO, THREE, THREE, THREE, TWO, TWO)),
    (panels.turn_panel, (TWO, THREE, THREE, TWO, TWO, THREE)),
    (panels.add_determinants, (TWO, int64, int64, ONE, ONE)),
    (panels.add_products, (ONE, ONE, ONE)),
    (positions.weigh_lanes, (ONE, ONE, int64, ONE, ONE)),
    (positions.add_weighed, (ONE, ONE, ONE, int64, ONE)),
]


def find_gathers(function, arguments) -> list[str]:
    """Return the machine instructions that gather or scatter, on this processor."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    compiled.compile(arguments)
    lines = compiled.inspect_asm(arguments).splitlines()
    return [line.strip() for line in lines if "gather" in line or "scatter" in line]


@pytest.mark.parametrize(("kernel", "arguments"), KERNELS, ids=lambda x: getattr(x, "__name__", ""))
def test_lanes_are_not_gathered(kernel, arguments) -> None:
    assert find_gathers(kernel.py_func, arguments) == []


def test_an_index_that_might_be_negative_gathers() -> None:
    """So that the test above can fail, where the processor has such an instruction."""

    def add_from(x, start, out):
        for g in range(64):
            out[g] += x[start + g]

    if not numba.core.codegen.get_host_cpu_features().count("+avx512f"):
        pytest.skip("this processor gathers nothing")
    assert find_gathers(add_from, (ONE, int64, ONE))
