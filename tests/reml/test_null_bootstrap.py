"""The search that a bootstrap of a likelihood ratio refits by, and the ratio itself."""

from dataclasses import replace

import numpy as np
import pytest
from small_groups import draw_groups

from bhlm.fits.model import Model
from bhlm.likelihood.simulate import simulate_blocks
from bhlm.reml.null_bootstrap import build_rivals, likelihood_ratio
from bhlm.reml.optimize import Problem, maximize
from bhlm.reml.small_fits import derivatives_at, find_maximum, value_at
from bhlm.reml.variance_tests import fit_without

# Two searches that stop at a gradient of 1e-6 leave about its square, more near a
# variance that has vanished.
SAME = 1e-5


@pytest.fixture(scope="module")
def slopes():
    return Model("y ~ x + (x | g)", draw_groups(8, 10, sd=(0.6, 0.0), seed=3)).reml()


@pytest.mark.parametrize("method", ["reml", "ml"])
@pytest.mark.parametrize("covariance", ["unstructured", "independent", "exchangeable", "identity"])
def test_compiled_derivatives_are_those_of_fits(method, covariance):
    fit = Model("y ~ x + (x | g)", draw_groups(9, 5, sd=(0.6, 0.3), seed=2)).reml(
        method=method, covariance=covariance
    )
    theta = np.linspace(0.3, 0.8, len(fit.structure.factors))
    problem = Problem(fit.white, fit.structure, method == "reml")
    arguments = (fit.white.blocks, 2, fit.white.n, method == "reml", fit.structure.factors, theta)
    value, gradient, hessian = derivatives_at(*arguments)
    expected, slope = problem.value_and_gradient(theta)
    assert value == pytest.approx(expected, rel=1e-12)
    assert value_at(*arguments) == pytest.approx(expected, rel=1e-12)
    assert gradient == pytest.approx(slope, rel=1e-8, abs=1e-8)
    assert hessian == pytest.approx(problem.hessian(theta), rel=1e-8, abs=1e-8)


def test_compiled_search_ends_where_fits_do(slopes):
    rivals = build_rivals(slopes, fit_without(slopes, ("x",)), ("x",))
    for seed in range(20):
        blocks = simulate_blocks(rivals.simulator, np.random.default_rng(seed))
        white = replace(slopes.white, blocks=blocks)
        expected = maximize(white, slopes.structure, restricted=True).criterion.value
        found = find_maximum(
            blocks, 2, n=white.n, restricted=True, factors=slopes.structure.factors,
            starts=rivals.starts,
        )  # fmt: skip
        assert found.converged
        assert found.value == pytest.approx(expected, abs=SAME)


@pytest.mark.parametrize("formula", ["y ~ x + (x | g)", "y ~ x + (x || g)"])
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_ratio_of_the_data_is_the_difference_of_fits(formula, method):
    fit = Model(formula, draw_groups(12, 8, sd=(0.6, 0.3), seed=5)).reml(method=method)
    for dropped in (("x",), ("Intercept",), ("Intercept", "x")):
        reduced = fit_without(fit, dropped)
        rivals = build_rivals(fit, reduced, dropped)
        null = fit.linear_loglik if reduced is None else reduced.loglik
        assert likelihood_ratio(rivals, fit.white.blocks) == pytest.approx(
            2.0 * (fit.loglik - null), abs=SAME
        )
