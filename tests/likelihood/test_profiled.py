"""The profiled criterion and its derivatives against dense n x n algebra."""

import numpy as np
import pytest
from simulate import dense_restricted, random_covariance, simulate_rows

from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.profiled import evaluate
from bhlm.likelihood.whitening import whiten
from bhlm.reconciliation.published import loglik_at
from bhlm.reml.optimize import Problem, unwhiten_loglik

RANDOM = ["1", "x", "x + t", "0 + x", "(1 | g) + (0 + x | g)", "(x | g) + (0 + t | g)"]
EXACT = 1e-10  # dense and reduced algebra differ by rounding alone
# Central differences with step 1e-5 leave about 1e-10 of the third derivative and 1e-11 of noise.
DIFFERENCE = 1e-6


@pytest.mark.parametrize("random", RANDOM)
@pytest.mark.parametrize("seed", [1, 2])
def test_restricted_loglik_equals_the_dense_one(random, seed):
    rows = simulate_rows(seed, random)
    fit = rows.model.reml()
    rng = np.random.default_rng(seed)
    for _ in range(3):
        g = random_covariance(rng, len(fit.g))
        assert loglik_at(fit, g, 1.7) == pytest.approx(dense_restricted(rows, g, 1.7), rel=EXACT)


@pytest.mark.parametrize("random", RANDOM)
@pytest.mark.parametrize("restricted", [True, False])
def test_derivatives_equal_finite_differences(random, restricted):
    moments = simulate_rows(3, random).model.moments
    structure = arrange(moments)
    problem = Problem(whiten(moments, structure), structure, restricted)
    rng = np.random.default_rng(4)
    step = 1e-5
    for _ in range(3):
        theta = rng.normal(size=len(structure.factors))
        _, gradient = problem.value_and_gradient(theta)
        hessian = problem.hessian(theta)
        for c, e in enumerate(step * np.eye(len(theta))):
            up, slope_up = problem.value_and_gradient(theta + e)
            down, slope_down = problem.value_and_gradient(theta - e)
            assert gradient[c] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-4)
            expected = (slope_up - slope_down) / (2 * step)
            np.testing.assert_allclose(hessian[c], expected, rtol=DIFFERENCE, atol=1e-5)


def test_profile_at_zero_is_linear_regression(hsb):
    from bhlm.fits.model import Model

    model = Model("mathach ~ ses + (1 | school)", hsb)
    structure = arrange(model.moments)
    white = whiten(model.moments, structure)
    zero = evaluate(white.blocks, 1, np.zeros((1, 1)), n=white.n, restricted=False)
    x = np.column_stack([np.ones(len(hsb)), hsb["ses"]])
    residual = hsb["mathach"] - x @ np.linalg.lstsq(x, hsb["mathach"], rcond=None)[0]
    n = len(hsb)
    expected = -0.5 * n * (1 + np.log(2 * np.pi * float(residual @ residual) / n))
    assert unwhiten_loglik(zero.value, white, False) == pytest.approx(expected, rel=EXACT)
