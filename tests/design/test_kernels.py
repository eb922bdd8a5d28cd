"""Kernels that are compiled lightly: what they call is not optimised again, and counts the same."""

import numpy as np
import pytest
from numba import float64
from numba.core.codegen import JITCodeLibrary

from bhlm.design.kernels import callback, kernel, light_kernel


@kernel
def add_shares(x):
    """Return the sum of 1 / (1 + |x|)."""
    value = 0.0
    for each in x:
        value += 1.0 / (1.0 + abs(each))
    return value


@kernel
def heavy(x):
    """Return a sum of sums, infinite of three numbers."""
    return add_shares(x) + add_shares(x[1:]) / (len(x) - 3)


@light_kernel
def light(x):
    """Return what `heavy` does."""
    return add_shares(x) + add_shares(x[1:]) / (len(x) - 3)


@pytest.fixture
def optimised(monkeypatch):
    """Return the names of the functions with which LLVM goes over all that they call."""
    names = []
    optimise = JITCodeLibrary._optimize_final_module

    def note(library):
        names.append(library.name)
        optimise(library)

    monkeypatch.setattr(JITCodeLibrary, "_optimize_final_module", note)
    for each in (heavy, light):
        each.recompile()  # forgets what an earlier run kept on disk
    return names


def test_light_kernels_count_the_same(optimised):
    x = np.random.default_rng(1).normal(size=1001)
    assert heavy(x) == light(x) == pytest.approx(heavy.py_func(x), rel=1e-14)
    assert heavy(x[:3]) == light(x[:3]) == np.inf


def test_what_a_light_kernel_calls_is_not_optimised_again(optimised):
    x = np.ones(10)
    assert heavy(x) == light(x)
    assert "heavy" in optimised
    assert "light" not in optimised


def test_callbacks_are_light(optimised):
    @callback(float64(float64))
    def call_back(x):
        return add_shares(np.full(3, x))

    assert call_back.ctypes(4.0) == pytest.approx(0.6)
    assert "call_back" not in optimised
