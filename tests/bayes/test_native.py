"""The C callbacks: the density to the last bit, and the same draws as through Python."""

import ctypes

import numpy as np
import pytest
from prior_sets import SETS
from simulate import simulate_rows, simulate_table

from bhlm.bayes.density import build_density, log_density
from bhlm.bayes.draws import Settings
from bhlm.bayes.packing import evaluate_packed, pack_density
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.bayes.sampling import sample_moments
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.whitening import whiten


def posterior_of(random, priors, **options):
    moments = simulate_rows(1, random).model.moments
    white = whiten(moments, arrange(moments))
    return build_density(white, resolve_priors(priors, moments), arrange(moments), **options)


@pytest.mark.parametrize("random", ["1", "x", "x + t", "(x | g) + (0 + t | g)"])
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("use_likelihood", [True, False])
def test_packing_changes_nothing(name, random, use_likelihood):
    posterior = posterior_of(random, SETS[name], use_likelihood=use_likelihood)
    rng = np.random.default_rng(2)
    data = pack_density(posterior)
    for _ in range(5):
        x = rng.normal(size=posterior.dimension)
        value, gradient = log_density(x, posterior)
        packed, packed_gradient = evaluate_packed(x, data)
        assert packed == value
        np.testing.assert_array_equal(packed_gradient, gradient)


def call(posterior, x):
    """Return the status, value and gradient of one call from C."""
    from bhlm.bayes.callbacks import density_callback  # which compiles it

    data = pack_density(posterior)
    gradient, value = np.zeros(len(x)), np.zeros(1)
    pointer = ctypes.POINTER(ctypes.c_double)
    arguments = [array.ctypes.data_as(pointer) for array in (x, gradient, value, data)]
    status = density_callback.ctypes(len(x), *arguments)
    return status, value[0], gradient


def test_the_callback_reports_points_that_are_bad():
    posterior = posterior_of("x", None)
    good = np.full(posterior.dimension, 0.1)
    status, value, gradient = call(posterior, good)
    expected, expected_gradient = log_density(good, posterior)
    assert status == 0
    assert value == expected
    np.testing.assert_array_equal(gradient, expected_gradient)
    far = good.copy()
    far[-1] = -1e4  # sigma = 0
    # nutpie takes a positive number for a divergence, and goes on
    assert call(posterior, far)[0] > 0


def test_draws_are_those_of_the_public_interface():
    model = Model("y ~ x + (x | g)", simulate_table(3))
    settings = Settings(draws=200, tune=200)
    called = sample_moments(model.moments, seed=4, settings=settings)
    assert called.sampler == "numba density, nutpie"
    through = sample_moments(model.moments, seed=4, settings=settings, evaluate=log_density)
    assert through.sampler == "numba density through Python, nutpie"
    for name, draws in called.data["posterior"].data_vars.items():
        np.testing.assert_array_equal(draws, through.data["posterior"][name])


def test_a_change_inside_nutpie_is_survived(monkeypatch):
    import nutpie.compile_pymc

    def changed(**fields):
        raise TypeError("unexpected keyword argument")

    monkeypatch.setattr(nutpie.compile_pymc, "CompiledPyMCModel", changed)
    post = Model("y ~ x + (1 | g)", simulate_table(3)).sample(seed=4, draws=50, tune=50)
    assert post.sampler == "numba density through Python, nutpie"
