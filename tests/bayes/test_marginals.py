"""Modes of marginals from weighted draws, against quadrature."""

import numpy as np
import pytest
from few_groups import simulate_model
from small_groups import draw_groups
from sound_draws import integrate

from bhlm.bayes.draws import list_own
from bhlm.bayes.importance.kernels import Kernels
from bhlm.bayes.importance.marginals import find_support, fit_marginal
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.bayes.quadrature.posterior import integrate_resolved
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.reconciliation.evidence import find_power
from bhlm.reconciliation.quadrature_route import find_marginal_mode

ERRORS = 3.5  # of a mode; seeds are fixed


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_a_mode_near_zero_is_found_where_the_power_there_is_known(power):
    """Of x^a exp(-(x - m)^2 / 2 s^2) much lies at zero, and the few lowest draws decide nothing."""
    x = (np.arange(8000) + 0.5) / 8000 * 4.0
    height = power * np.log(x) - 0.5 * ((x - 0.3) / 0.6) ** 2
    weight = np.exp(height - height.max())
    weight /= weight.sum()
    found = fit_marginal(Kernels(x, np.zeros_like(x)), weight, "positive", power=power)
    expected = x[np.argmax(height)]
    assert found.mode == pytest.approx(expected, abs=0.02)
    inside = (found.x > 0.05) & (found.x < 1.5)
    exact = np.interp(found.x, x, weight / (x[1] - x[0]))
    np.testing.assert_allclose(found.density[inside], exact[inside], rtol=0.05)


SEEDS = [8, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (26, 29))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_variance_near_zero_has_the_mode_of_quadrature(seed):
    """Its density at zero is nearly that at the mode: by log x the mode is zero, or either."""
    table = draw_groups(12, 10, sd=(0.1,), seed=seed)
    check_modes(Model("y ~ x + (1 | g)", table).moments, most=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_variances_of_two_coefficients_have_the_modes_of_quadrature(seed):
    check_modes(simulate_model(14, 2, seed, "singular").moments, most=0.3)


def check_modes(moments, *, most):
    """Compare the modes under flat priors; `most` is what their errors may be in posterior SDs."""
    structure, flat = arrange(moments), Priors.flat()
    exact = integrate(moments, flat)
    resolved = resolve_priors(flat, moments, structure=structure)
    known = integrate_resolved(moments, structure, resolved)
    checked = 0
    for parameter in list_own(moments, structure):
        name, power = str(parameter), find_power(parameter, structure)
        mode, step = find_marginal_mode(known, name)
        if np.isnan(mode) or power is None:
            continue
        weight = exact.draws.weight
        found = fit_marginal(exact.kernels[name], weight, find_support(parameter), power=power)
        assert abs(found.mode - mode) <= ERRORS * found.mode_se + step, name
        assert found.mode_se < most * exact.located[name].sd, name
        checked += 1
    assert checked > 0
