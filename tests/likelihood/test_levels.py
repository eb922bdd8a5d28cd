"""Several grouping factors against dense n x n algebra: value, gradient, effects."""

from typing import NamedTuple

import numpy as np
import pytest

from bhlm.errors import DataError
from bhlm.likelihood.arrange import arrange_levels
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.levels import (
    bend_levels,
    evaluate_levels,
    expect_squares,
    score_levels,
    score_parameters,
    slope_rss,
)
from bhlm.likelihood.nested import Nested

EXACT = 1e-8
# Central differences with step 1e-5 leave about 1e-10 of the third derivative and 1e-11 of noise.
STEP, DIFFERENCE = 1e-5, 1e-6


class Rows(NamedTuple):
    """Rows of a design, and what the likelihood takes of them."""

    z: list[np.ndarray]  # by factor (n, q_f)
    codes: np.ndarray  # (F, n)
    x: np.ndarray
    y: np.ndarray
    levels: Nested | Crossed

    def wide(self, factor: int) -> np.ndarray:
        """Return the dense columns (n, J q) of one factor."""
        count, (n, q) = int(self.codes[factor].max()) + 1, self.z[factor].shape
        out = np.zeros((n, count, q))
        out[np.arange(n), self.codes[factor]] = self.z[factor]
        return out.reshape(n, count * q)

    def covariance(self, lams) -> np.ndarray:
        """Return V."""
        v = np.eye(len(self.y))
        for factor, lam in enumerate(lams):
            wide = self.wide(factor)
            count = wide.shape[1] // len(lam)
            v += wide @ np.kron(np.eye(count), lam @ lam.T) @ wide.T
        return v


def _recode(*labels):
    return np.array([np.unique(label, return_inverse=True)[1] for label in labels])


def make_rows(kind: str) -> Rows:
    """Return rows of one pattern; unbalanced, with slopes."""
    rng = np.random.default_rng(sum(map(ord, kind)))
    n = 90
    school = rng.integers(0, 4, n)
    klass = school * 3 + rng.integers(0, 3, n)
    pupil = klass * 3 + rng.integers(0, 3, n)
    rater = rng.integers(0, 5, n)
    item = rng.integers(0, 7, n)
    one, t, s = np.ones(n), rng.normal(size=n), rng.normal(size=n)
    labels, columns = {
        "two nested": ((school, klass), ([one, t], [one, s])),
        "three nested": ((klass, school, pupil), ([one, t], [one], [one, t])),
        "crossed": ((rater, item), ([one, t], [one])),
        "three crossed": ((rater, item, school), ([one], [one, s], [t])),
        "crossed within nested": ((school, klass, rater), ([one], [one, t], [one, s])),
        "one": ((klass,), ([one, t],)),
    }[kind]
    z = [np.column_stack(each) for each in columns]
    x = np.column_stack([one, t, rng.normal(size=n)])
    y = rng.normal(size=n) + school + 0.5 * rater
    codes = _recode(*labels)
    cells, at = np.unique(codes, axis=1, return_inverse=True)
    w = np.column_stack([*z, x, y])
    blocks = np.zeros((cells.shape[1], w.shape[1], w.shape[1]))
    np.add.at(blocks, at.ravel(), w[:, :, None] * w[:, None, :])
    sizes = [each.shape[1] for each in z]
    names = [f"f{i}" for i in range(len(z))]
    return Rows(z, codes, x, y, arrange_levels(blocks, cells, sizes, names=names))


KINDS = {
    "one": Nested,
    "two nested": Nested,
    "three nested": Nested,
    "crossed": Crossed,
    "three crossed": Crossed,
    "crossed within nested": Crossed,
}


def draw_lams(rows: Rows, seed: int) -> list[np.ndarray]:
    """Return a lam for every factor, of which none is triangular."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(q, q)) for q in rows.levels.sizes]


@pytest.fixture(params=KINDS, scope="module")
def rows(request):
    """Rows of each pattern."""
    made = make_rows(request.param)
    assert isinstance(made.levels, KINDS[request.param])
    return made


def _dense(rows, lams):
    v = rows.covariance(lams)
    inverse = np.linalg.inv(v)
    xvx = rows.x.T @ inverse @ rows.x
    beta = np.linalg.solve(xvx, rows.x.T @ inverse @ rows.y)
    r = rows.y - rows.x @ beta
    return v, inverse, xvx, beta, float(r @ inverse @ r)


@pytest.mark.parametrize("restricted", [True, False])
def test_criterion_equals_the_dense_one(rows, restricted):
    lams = draw_lams(rows, 1)
    v, _, xvx, beta, rss = _dense(rows, lams)
    n, p = rows.x.shape
    dof = n - p if restricted else n
    expected = np.linalg.slogdet(v)[1] + dof * (1.0 + np.log(2.0 * np.pi * rss / dof))
    expected += np.linalg.slogdet(xvx)[1] if restricted else 0.0
    found = evaluate_levels(rows.levels, lams, n=n, restricted=restricted).at
    assert found.value == pytest.approx(expected, rel=EXACT)
    np.testing.assert_allclose(found.beta, beta, rtol=EXACT)
    np.testing.assert_allclose(found.phi, np.linalg.inv(xvx), rtol=EXACT)


def test_slopes_equal_dense_ones(rows):
    lams = draw_lams(rows, 2)
    n = len(rows.y)
    _, inverse, xvx, beta, rss = _dense(rows, lams)
    residual = inverse @ (rows.y - rows.x @ beta)
    p_matrix = inverse - inverse @ rows.x @ np.linalg.solve(xvx, rows.x.T @ inverse)
    criterion = evaluate_levels(rows.levels, lams, n=n, restricted=True)
    found = score_levels(rows.levels, lams, criterion)
    by_rss = slope_rss(rows.levels, lams, criterion)
    for factor, lam in enumerate(lams):
        q, wide = len(lam), rows.wide(factor)
        dof = n - rows.x.shape[1]
        middle = wide.T @ (p_matrix - dof / rss * np.outer(residual, residual)) @ wide
        seen = wide.T @ residual
        count = wide.shape[1] // q
        score = np.einsum("jajb->ab", middle.reshape(count, q, count, q))
        np.testing.assert_allclose(found[factor], 2.0 * score @ lam, rtol=EXACT, atol=EXACT)
        squares = np.einsum("ja,jb->ab", seen.reshape(count, q), seen.reshape(count, q))
        np.testing.assert_allclose(by_rss[factor], -2.0 * squares @ lam, rtol=EXACT, atol=EXACT)


def test_gradient_at_given_parameters_equals_differences(rows):
    lams, sigma = draw_lams(rows, 3), 1.3
    n, p = rows.x.shape
    beta = np.linspace(-0.5, 0.8, p)

    def dense(beta, lams, sigma):
        v = rows.covariance(lams)
        r = rows.y - rows.x @ beta
        size = n * np.log(2.0 * np.pi * sigma**2) + np.linalg.slogdet(v)[1]
        return -0.5 * (size + r @ np.linalg.solve(v, r) / sigma**2)

    found = score_parameters(rows.levels, beta, lams, sigma, n=n)
    assert found.loglik == pytest.approx(dense(beta, lams, sigma), rel=EXACT)
    up, down = dense(beta, lams, sigma + STEP), dense(beta, lams, sigma - STEP)
    assert found.sigma == pytest.approx((up - down) / (2 * STEP), rel=DIFFERENCE)
    for i, e in enumerate(STEP * np.eye(p)):
        up, down = dense(beta + e, lams, sigma), dense(beta - e, lams, sigma)
        assert found.beta[i] == pytest.approx((up - down) / (2 * STEP), rel=DIFFERENCE, abs=1e-6)
    for factor, lam in enumerate(lams):
        for at in np.ndindex(lam.shape):
            e = np.zeros_like(lam)
            e[at] = STEP
            up, down = (
                dense(beta, [*lams[:factor], lam + sign * e, *lams[factor + 1 :]], sigma)
                for sign in (1, -1)
            )
            expected = (up - down) / (2 * STEP)
            assert found.lams[factor][at] == pytest.approx(expected, rel=DIFFERENCE, abs=1e-6)


def test_effects_equal_hendersons(rows):
    lams = draw_lams(rows, 4)
    n, p = rows.x.shape
    wide = np.hstack([rows.wide(factor) for factor in range(len(lams))])
    psi = np.zeros((wide.shape[1], wide.shape[1]))
    start = 0
    for factor, lam in enumerate(lams):
        size = rows.wide(factor).shape[1]
        span = slice(start, start + size)
        psi[span, span] = np.kron(np.eye(size // len(lam)), lam @ lam.T)
        start += size
    _, inverse, xvx, beta, _ = _dense(rows, lams)
    mean = psi @ wide.T @ inverse @ (rows.y - rows.x @ beta)
    given = psi - psi @ wide.T @ inverse @ wide @ psi
    carried = psi @ wide.T @ inverse @ rows.x
    pev = given + carried @ np.linalg.solve(xvx, carried.T)
    criterion = evaluate_levels(rows.levels, lams, n=n, restricted=True)
    for spread, cov in ((criterion.at.phi, pev), (np.zeros((p, p)), given)):
        found = rows.levels.effects(lams, criterion.found, criterion.at.beta, spread)
        start = 0
        for effects, lam in zip(found, lams, strict=True):
            q, count = len(lam), len(effects.mean)
            span = slice(start, start + q * count)
            np.testing.assert_allclose(
                effects.mean, mean[span].reshape(count, q), rtol=EXACT, atol=EXACT
            )
            blocks = cov[span, span].reshape(count, q, count, q)
            expected = blocks[np.arange(count), :, np.arange(count)]
            np.testing.assert_allclose(effects.cov, expected, rtol=EXACT, atol=EXACT)
            start += q * count


def test_factors_without_variance_leave_linear_regression(rows):
    n = len(rows.y)
    lams = [np.zeros((q, q)) for q in rows.levels.sizes]
    found = evaluate_levels(rows.levels, lams, n=n, restricted=False)
    beta, (rss,) = np.linalg.lstsq(rows.x, rows.y, rcond=None)[:2]
    np.testing.assert_allclose(found.at.beta, beta, rtol=EXACT)
    assert found.at.value == pytest.approx(n * (1.0 + np.log(2.0 * np.pi * rss / n)), rel=EXACT)
    assert all(not slope.any() for slope in score_levels(rows.levels, lams, found))


def test_a_dense_rest_beyond_memory_is_refused_with_the_numbers():
    blocks, codes = np.ones((6, 4, 4)), np.array([[0, 0, 1, 1, 2, 2], [0, 1, 1, 2, 2, 0]])
    with pytest.raises(DataError, match=r"3 of rater, 3 of item.*leave 3 effects.*GB"):
        arrange_levels(blocks, codes, (1, 1), names=("rater", "item"), memory=100)


def _dense_tangents(rows, directions):
    """Return dV (m, n, n) along directions of the Psi of one factor after the other."""
    tangents = []
    for factor, own in enumerate(directions):
        wide = rows.wide(factor)
        count = wide.shape[1] // own.shape[1]
        tangents += [wide @ np.kron(np.eye(count), each) @ wide.T for each in own]
    return np.array(tangents)


def _draw_directions(rows, seed):
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=(q * (q + 1) // 2, q, q)) for q in rows.levels.sizes]
    return [each + each.transpose(0, 2, 1) for each in made]


@pytest.mark.parametrize("small", [1.0, 1e-3, 0.0])
def test_second_derivatives_equal_dense_ones(rows, small):
    # The last factor is also tried where its effects hardly vary.
    *lams, last = draw_lams(rows, 5)
    lams = [*lams, small * last]
    directions = _draw_directions(rows, 6)
    inverse = _dense(rows, lams)[1]
    w = np.column_stack([rows.x, rows.y])
    tangents = _dense_tangents(rows, directions)
    turned = inverse @ tangents
    weights = np.random.default_rng(7).normal(size=(2, w.shape[1], w.shape[1]))
    weights = weights + weights.transpose(0, 2, 1)
    found = rows.levels.eliminate(lams)
    logdet = -np.einsum("aij,bji->ab", turned, turned)
    slopes = np.array([-w.T @ inverse @ each @ inverse @ w for each in tangents])
    for share in (1.0, 0.0):
        bend = rows.levels.bend(lams, found, weights, directions, share=share)
        np.testing.assert_allclose(bend.e, slopes, rtol=EXACT, atol=EXACT * np.abs(slopes).max())
        for weight, second in zip(weights, bend.second, strict=True):
            loaded = tangents @ inverse @ w
            both = np.einsum("anx,nm,bmy,xy->ab", loaded, inverse, loaded, weight, optimize=True)
            expected = share * logdet + 2.0 * both
            np.testing.assert_allclose(
                second, expected, rtol=EXACT, atol=EXACT * np.abs(expected).max()
            )


@pytest.mark.parametrize("restricted", [True, False])
def test_hessian_equals_the_dense_one(rows, restricted):
    lams = draw_lams(rows, 8)
    factors = [np.random.default_rng(9).normal(size=(3, len(lam), len(lam))) for lam in lams]
    _, inverse, xvx, _, rss = _dense(rows, lams)
    n, p = rows.x.shape
    dof = n - p if restricted else n
    projected = inverse - inverse @ rows.x @ np.linalg.solve(xvx, rows.x.T @ inverse)
    turned = [each @ lam.T for each, lam in zip(factors, lams, strict=True)]
    tangents = _dense_tangents(rows, [each + each.transpose(0, 2, 1) for each in turned])
    seen = projected @ rows.y
    first = -np.einsum("i,aij,j->a", seen, tangents, seen)
    loaded = tangents @ seen
    second = 2.0 * loaded @ projected @ loaded.T
    sized = (projected if restricted else inverse) @ tangents
    logdet = -np.einsum("aij,bji->ab", sized, sized)
    start = 0
    for factor, own in enumerate(factors):
        for a, b in np.ndindex(3, 3):
            bent = own[a] @ own[b].T
            moved = [np.zeros((1, len(lam), len(lam))) for lam in lams]
            moved[factor] = (bent + bent.T)[None]
            change = _dense_tangents(rows, moved)[factor]
            at = start + a, start + b
            logdet[at] += np.sum((projected if restricted else inverse) * change)
            second[at] -= seen @ change @ seen
        start += 3
    expected = logdet + dof * (second / rss - np.outer(first, first) / rss**2)
    criterion = evaluate_levels(rows.levels, lams, n=n, restricted=restricted)
    found = bend_levels(rows.levels, lams, criterion, factors)
    np.testing.assert_allclose(found, expected, rtol=EXACT, atol=EXACT * np.abs(expected).max())


def test_mivque_equations_are_the_dense_ones(rows):
    directions = _draw_directions(rows, 10)
    equations, squares = expect_squares(rows.levels, directions, n=len(rows.y))
    q = np.eye(len(rows.y)) - rows.x @ np.linalg.solve(rows.x.T @ rows.x, rows.x.T)
    tangents = np.array([*_dense_tangents(rows, directions), np.eye(len(rows.y))])
    sized, seen = q @ tangents, q @ rows.y
    np.testing.assert_allclose(equations, np.einsum("aij,bji->ab", sized, sized), rtol=EXACT)
    np.testing.assert_allclose(squares, np.einsum("i,aij,j->a", seen, tangents, seen), rtol=EXACT)
