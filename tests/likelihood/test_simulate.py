"""Simulated moments have the law of simulated rows."""

import numpy as np
import pytest
from simulate import dense_covariance, simulate_rows

from bhlm.likelihood.simulate import simulate_blocks
from bhlm.reml.bootstrap import plan_refits

DRAWS = 20_000
SIGMAS = 5.0  # of Monte Carlo error; the seed is fixed


@pytest.mark.slow
@pytest.mark.parametrize("random", ["1", "x", "x + t"])
def test_simulated_moments_have_the_law_of_simulated_rows(random):
    # Group 0 has one row, so that W'W is singular there, and group 1 has nine.
    rows = simulate_rows(5, random, n_groups=6)
    fit = rows.model.reml()
    white, q = fit.white, fit.white.q
    simulator = plan_refits(fit).simulator
    rng = np.random.default_rng(1)
    v = dense_covariance(rows, fit.g, fit.sigma2)
    drawn = np.array([simulate_blocks(simulator, rng)[:, :, -1] for _ in range(DRAWS)])
    for j in range(len(white.blocks)):
        at = rows.labels == j
        columns = np.column_stack([rows.z[at] @ white.basis, rows.x[at] @ white.fixed])
        mean = (rows.x[at] @ (fit.beta - white.ols)) / white.scale
        vj = v[np.ix_(at, at)] / white.scale**2
        expected = np.append(columns.T @ mean, mean @ mean + np.trace(vj))
        cov = np.empty((len(expected), len(expected)))
        cov[:-1, :-1] = columns.T @ vj @ columns
        cov[:-1, -1] = cov[-1, :-1] = 2.0 * columns.T @ vj @ mean
        cov[-1, -1] = 2.0 * np.trace(vj @ vj) + 4.0 * mean @ vj @ mean
        sd = np.sqrt(np.diag(cov))
        gap = (drawn[:, j].mean(axis=0) - expected) / sd
        assert np.abs(gap).max() < SIGMAS / np.sqrt(DRAWS), j
        # The squared length is far from normal: its fourth moment sets the Monte Carlo error.
        seen = np.cov(drawn[:, j].T)
        products = np.einsum("da,db->dab", *[drawn[:, j] - expected] * 2)
        error = products.std(axis=0) / np.sqrt(DRAWS)
        assert np.all(np.abs(seen - cov) < SIGMAS * error + 1e-12), j
    assert simulate_blocks(simulator, rng)[:, :-1, :-1] == pytest.approx(
        white.blocks[:, :-1, :-1], rel=1e-15
    )
    assert q + 4 == white.blocks.shape[1]


def test_simulated_moments_could_come_from_rows():
    fit = simulate_rows(5, "x", n_groups=6).model.reml()
    simulator, rng = plan_refits(fit).simulator, np.random.default_rng(2)
    for _ in range(50):
        blocks = simulate_blocks(simulator, rng)
        assert np.linalg.eigvalsh(blocks).min() > -1e-10
        assert np.linalg.matrix_rank(blocks[0], tol=1e-8) == 1
