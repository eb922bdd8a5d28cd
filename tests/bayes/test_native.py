"""The C callbacks: the density to the last bit, and the same draws as through Python."""

import ctypes

import numpy as np
import pytest
from prior_sets import SETS
from simulate import simulate_rows, simulate_table

from bhlm.bayes.centring import Axes, evaluate_turned
from bhlm.bayes.density import build_density, log_density
from bhlm.bayes.draws import Settings
from bhlm.bayes.packing import evaluate_packed, pack_density, pack_turned
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.bayes.sampling import centre_density, sample_moments
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


def call(posterior, x, axes=None):
    """Return the status, value and gradient of one call from C."""
    from bhlm.bayes.callbacks import density_callback  # which compiles it

    d = posterior.dimension
    data = pack_turned(pack_density(posterior), axes or Axes(np.zeros(d), np.eye(d)))
    gradient, value = np.zeros(len(x)), np.zeros(1)
    pointer = ctypes.POINTER(ctypes.c_double)
    arguments = [array.ctypes.data_as(pointer) for array in (x, gradient, value, data)]
    status = density_callback.ctypes(len(x), *arguments)
    return status, value[0], gradient


@pytest.mark.parametrize("random", ["1", "x"])
def test_the_callback_turns_positions_and_gradients(random):
    posterior = posterior_of(random, None)
    rng = np.random.default_rng(3)
    d = posterior.dimension
    axes = Axes(0.1 * rng.normal(size=d), np.eye(d) + 0.2 * rng.normal(size=(d, d)))
    z = 0.3 * rng.normal(size=d)
    status, value, gradient = call(posterior, z, axes)
    x = axes.turn_back(z)
    np.testing.assert_allclose(x, axes.centre + axes.turn @ z, rtol=1e-14)
    expected, slope = evaluate_turned(lambda x: log_density(x, posterior), axes, z)
    assert status == 0
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)
    step = 1e-5
    for i in range(d):
        ahead, behind = (call(posterior, z + way * step * np.eye(d)[i], axes)[1] for way in (1, -1))
        np.testing.assert_allclose((ahead - behind) / (2 * step), slope[i], rtol=1e-5, atol=1e-4)


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


def test_the_warm_up_is_what_the_start_needs():
    model = Model("y ~ x + (1 | g)", simulate_table(3))
    few = {"seed": 1, "draws": 20, "chains": 2}
    assert model.sample(**few).settings.tune == 300
    assert model.sample(**few, tune=40).settings.tune == 40
    assert model.sample(**few, prior_only=True).settings.tune == 1000
    counted = Model("n ~ x + (1 | g)", simulate_table(3).assign(n=1.0), family="poisson")
    assert counted.sample(**few).settings.tune == 1000


@pytest.mark.parametrize("random", ["1", "x"])
def test_axes_stand_at_the_mode_of_the_posterior(random):
    posterior = posterior_of(random, None)
    axes = centre_density(posterior, 1).axes
    d = posterior.dimension
    value, gradient = evaluate_turned(lambda x: log_density(x, posterior), axes, np.zeros(d))
    np.testing.assert_allclose(gradient, 0.0, atol=1e-3)
    for z in np.concatenate([np.eye(d), -np.eye(d)]):
        fallen, _ = evaluate_turned(lambda x: log_density(x, posterior), axes, 0.05 * z)
        assert value - fallen == pytest.approx(0.5 * 0.05**2, rel=0.2)
