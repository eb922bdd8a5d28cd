"""Sums over groups at many roots of G at once: by panels, and by products of pairs of columns."""

from fractions import Fraction

import numpy as np
import pytest

from bhlm.likelihood.panels import build_panels
from bhlm.likelihood.positions import FEW, pair_columns, sum_positions

COUNT = 150  # groups, in three panels of which the last is not full


def make_blocks(q: int, r: int, *, singular: bool) -> np.ndarray:
    """Return cross-products of [Z X y] of integers, some groups of which do not tell all of Z."""
    rng = np.random.default_rng(q + 10 * r)
    blocks = []
    for j in range(COUNT):
        z = rng.integers(-9, 10, size=(1 if singular and j % 3 == 0 else 5, q)).astype(float)
        if singular and j % 3 == 1:
            z[:, -1] = 2.0 * z[:, 0]
        rows = np.column_stack([z, rng.integers(-9, 10, size=(len(z), r))])
        blocks.append(rows.T @ rows)
    return np.array(blocks)


def sum_exactly(blocks: np.ndarray, q: int, lam: np.ndarray) -> tuple[float, np.ndarray]:
    """Return log |H| and E of one position, by fractions."""
    psi = [[sum(Fraction(a) * Fraction(b) for a, b in zip(x, y, strict=True)) for y in lam]
           for x in lam]  # fmt: skip
    r = blocks.shape[1] - q
    logdet, e = 0.0, [[Fraction(0)] * r for _ in range(r)]
    for block in blocks:
        own = [[Fraction(value) for value in row] for row in block]
        if q == 1:
            det = 1 + psi[0][0] * own[0][0]
            m = [[psi[0][0] / det]]
        else:
            size = psi[0][0] * psi[1][1] - psi[0][1] ** 2
            det = 1 + size * (own[0][0] * own[1][1] - own[0][1] ** 2)
            det += psi[0][0] * own[0][0] + 2 * psi[0][1] * own[0][1] + psi[1][1] * own[1][1]
            m = [
                [(psi[0][0] + size * own[1][1]) / det, (psi[0][1] - size * own[0][1]) / det],
                [(psi[0][1] - size * own[0][1]) / det, (psi[1][1] + size * own[0][0]) / det],
            ]
        logdet += float(np.log(float(det)))
        for c in range(r):
            for d in range(r):
                taken = sum(
                    m[a][b] * own[a][q + c] * own[b][q + d] for a in range(q) for b in range(q)
                )
                e[c][d] += own[q + c][q + d] - taken
    return logdet, np.array([[float(value) for value in row] for row in e])


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("singular", [False, True])
@pytest.mark.parametrize(("q", "r"), [(1, 1), (1, 3), (2, 2), (2, FEW)])
def test_products_of_pairs_keep_their_digits(q: int, r: int, *, singular: bool, size: float):
    blocks = make_blocks(q, r, singular=singular)
    panels = build_panels(blocks, q)
    lam = size * np.tril(np.random.default_rng(4).normal(size=(3, q, q)))
    logdet, e = sum_positions(panels, lam, pairs=pair_columns(panels))
    for at in range(len(lam)):
        exact, products = sum_exactly(blocks, q, lam[at])
        assert logdet[at] == pytest.approx(exact, rel=1e-12)
        np.testing.assert_allclose(e[at], products, atol=1e-13 * np.abs(panels.total).max())


@pytest.mark.parametrize("q", [1, 2])
def test_both_ways_sum_the_same(q: int):
    blocks = make_blocks(q, 3, singular=False)
    panels = build_panels(np.tile(blocks, (30, 1, 1)), q)  # more than one stretch
    lam = np.random.default_rng(5).normal(size=(40, q, q))
    by_panels, by_pairs = sum_positions(panels, lam), sum_positions(
        panels, lam, pairs=pair_columns(panels)
    )  # fmt: skip
    for one, other in zip(by_panels, by_pairs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11)


def test_a_position_does_not_depend_on_its_neighbours():
    panels = build_panels(make_blocks(2, 3, singular=True), 2)
    pairs = pair_columns(panels)
    lam = np.random.default_rng(6).normal(size=(37, 2, 2))
    together = sum_positions(panels, lam, pairs=pairs)
    alone = [sum_positions(panels, lam[at : at + 1], pairs=pairs) for at in range(len(lam))]
    for at, parts in enumerate(zip(*alone, strict=True)):
        np.testing.assert_array_equal(together[at], np.concatenate(parts))


def test_what_is_too_large_for_a_determinant_is_taken_pivot_by_pivot():
    panels = build_panels(make_blocks(2, 3, singular=False), 2)
    lam = np.array([np.eye(2), 1e90 * np.eye(2)])
    logdet, e = sum_positions(panels, lam, pairs=pair_columns(panels))
    by_panels = sum_positions(panels, lam[1:])
    assert np.isfinite(logdet).all()
    assert (logdet[1], e[1].tolist()) == (by_panels[0][0], by_panels[1][0].tolist())


@pytest.mark.parametrize(("q", "r"), [(3, 2), (2, FEW + 1)])
def test_wide_models_keep_no_products(q: int, r: int):
    assert pair_columns(build_panels(make_blocks(q, r, singular=False), q)) is None
