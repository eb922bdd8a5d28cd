"""The marginal likelihood of nested factors is a function of its arguments alone."""

import ctypes

import numpy as np
import pytest

from bhlm.likelihood.nested_marginal import nested_marginal, pack_nested

pytestmark = pytest.mark.wide

SIZES = range(256, 8192, 16)  # bytes, of whatever a kernel may ask for
EACH = 7  # as many as malloc keeps of a size at hand


def leave_nan_behind():
    """Free memory whose bytes are those of nan, which malloc gives out again as it is."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    for size in SIZES:
        taken = [libc.malloc(ctypes.c_size_t(size)) for _ in range(EACH)]
        for place in taken:
            ctypes.memset(place, 255, size)
        for place in taken:
            libc.free(ctypes.c_void_p(place))


def test_what_memory_held_before_changes_nothing():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(30, 8, 4))
    blocks, codes = rows.swapaxes(1, 2) @ rows, np.array([np.arange(30), np.arange(30) // 3])
    packed = pack_nested(blocks, codes, (1, 1))
    lam, beta = np.diag([0.7, 0.9]), np.array([0.1])
    found = []
    for _ in range(5):
        leave_nan_behind()
        value, dlam, dbeta, dlog = nested_marginal(packed, 240.0, lam, beta, 0.8)
        found.append([value, dlog, *dlam.ravel(), *dbeta])
    assert np.isfinite(found).all()
    assert np.ptp(found, axis=0).max() == 0.0
