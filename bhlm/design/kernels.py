"""How bhlm compiles its kernels: kept on disk, beside other threads, division by NumPy's rules."""

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, or where another kernel calls it.

    Nobody calls it from C: numba need not wrap it for that, which takes a twentieth of the time
    that compiling takes.
    """
    compiled: Callable[..., Any] = numba.njit(
        cache=True, nogil=True, error_model="numpy", no_cfunc_wrapper=True
    )(function)
    return compiled
