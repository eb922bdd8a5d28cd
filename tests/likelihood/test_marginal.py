"""The marginal log-likelihood with beta and sigma given, against a dense normal."""

import numpy as np
import pytest
from marginal_columns import evaluate_marginal
from simulate import dense_loglik, simulate_rows

from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.effects import draw_effects, predict_effects
from bhlm.likelihood.marginal import total_products
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.whitening import whiten

EXACT = 1e-10


def setup(random, seed=1):
    rows = simulate_rows(seed, random)
    white = whiten(rows.model.moments, arrange(rows.model.moments))
    return rows, white


@pytest.mark.parametrize("random", ["1", "x", "x + t", "0 + x"])
def test_value_and_gradient(random):
    rows, white = setup(random)
    total = total_products(white)
    rng = np.random.default_rng(2)
    for _ in range(3):
        beta, sigma = rng.normal(size=3), float(np.exp(rng.normal()))
        root = np.tril(rng.normal(size=(white.q, white.q)))
        value, dbeta, droot, dsigma = evaluate_marginal(white, total, beta, root, sigma)
        assert value == pytest.approx(dense_loglik(rows, beta, root @ root.T, sigma**2), rel=EXACT)
        step = 1e-6
        for i, e in enumerate(step * np.eye(3)):
            up = evaluate_marginal(white, total, beta + e, root, sigma)[0]
            down = evaluate_marginal(white, total, beta - e, root, sigma)[0]
            assert dbeta[i] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-5)
        for i in range(white.q):
            for j in range(white.q):
                e = np.zeros_like(root)
                e[i, j] = step
                up = evaluate_marginal(white, total, beta, root + e, sigma)[0]
                down = evaluate_marginal(white, total, beta, root - e, sigma)[0]
                assert droot[i, j] == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-5)
        up = evaluate_marginal(white, total, beta, root, sigma + step)[0]
        down = evaluate_marginal(white, total, beta, root, sigma - step)[0]
        assert dsigma == pytest.approx((up - down) / (2 * step), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("random", ["1", "x", "x + t"])
def test_effects_are_the_dense_conditional(random):
    rows, white = setup(random, seed=3)
    rng = np.random.default_rng(4)
    beta, sigma = rng.normal(size=3), 1.3
    root = np.tril(rng.normal(size=(white.q, white.q)))
    g = root @ root.T
    means, covs = predict_effects(white, beta, root, sigma)
    draws = 20_000
    once = (beta, root, np.array(sigma))
    repeated = Parameters(*(np.repeat(a[None], draws, axis=0) for a in once))
    u = draw_effects(white, repeated, rng=np.random.default_rng(5))
    for j, label in enumerate(rows.model.moments.groups):
        at = rows.labels == label
        z, residual = rows.z[at], rows.y[at] - rows.x[at] @ beta
        v = z @ g @ z.T + sigma**2 * np.eye(at.sum())
        gain = g @ z.T @ np.linalg.inv(v)
        np.testing.assert_allclose(means[j], gain @ residual, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(covs[j], g - gain @ z @ g, rtol=1e-7, atol=1e-10)
        # Means of 20,000 draws lie within 5 standard errors, variances within 5 of theirs.
        error = np.sqrt(np.diag(covs[j]) / draws)
        assert np.all(np.abs(u[:, j].mean(axis=0) - means[j]) < 5 * error + 1e-12)
        ratio = u[:, j].var(axis=0) / np.diag(covs[j])
        assert np.all(np.abs(ratio - 1) < 5 * np.sqrt(2 / draws))


def test_singular_covariance_has_effects_of_zero():
    _, white = setup("x", seed=6)
    root = np.array([[1.0, 0.0], [0.0, 0.0]])
    means, covs = predict_effects(white, np.zeros(3), root, 1.0)
    assert np.all(means[:, 1] == 0.0)
    assert np.all(covs[:, 1, 1] == 0.0)
