"""Sums over many groups keep the digits that a sum one after the other loses."""

import math

import numpy as np
import pytest

from bhlm.moments.sums import STRETCH, sum_blocks, sum_products

EPS = np.finfo(float).eps


@pytest.mark.parametrize(
    "n", [1, STRETCH - 1, STRETCH, STRETCH + 1, 3 * STRETCH + 5, 300 * STRETCH]
)
def test_sums_are_those_without_rounding(n: int) -> None:
    x = np.random.default_rng(n).uniform(1.0, 2.0, (n, 2))
    exact = [math.fsum(column) for column in x.T]
    assert sum_blocks(x) == pytest.approx(exact, rel=8.0 * EPS)
    inner = [[math.fsum(a * b) for b in x.T] for a in x.T]
    assert sum_products(x, x) == pytest.approx(np.array(inner), rel=8.0 * EPS)


def test_one_after_the_other_would_not_do() -> None:
    x = np.random.default_rng(1).uniform(1.0, 2.0, (300 * STRETCH, 2))
    exact = math.fsum(x[:, 0])
    assert abs(x.sum(axis=0)[0] / exact - 1.0) > 8.0 * EPS


def test_blocks_keep_their_shape_and_nothing_sums_to_zero() -> None:
    assert sum_blocks(np.ones((2 * STRETCH, 2, 3))).shape == (2, 3)
    assert not sum_blocks(np.ones((0, 2, 3))).any()
    assert sum_products(np.ones((0, 2)), np.ones((0, 3))).shape == (2, 3)
