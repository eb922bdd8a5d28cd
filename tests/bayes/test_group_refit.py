"""A group predicted by the others: against numerical integration, near to them or far."""

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pymc as pm
import pytest
from scipy import stats

from bhlm.bayes.checks.group_refit import predict_left_out
from bhlm.bayes.priors.families import HalfNormal, Normal, PyMCPrior
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import sample_whitened
from bhlm.fits.model import Model

# The integral's own error: halving the grid's step moves it by less than 1e-3.
GRID = 0.002
PRIORS = Priors(fixed=Normal(0.0, 10.0), sd=HalfNormal(20.0), sigma=HalfNormal(3.0))


def simulate(far):
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(7), 4)
    u = rng.normal(size=7)
    u[0] += far
    return pd.DataFrame({"g": g, "y": 1.0 + u[g] + rng.normal(size=len(g))})


def log_evidence(table):
    """log p(y) of y ~ 1 + (1 | g) under PRIORS, on a grid of the two SDs.

    The Intercept, normal, is integrated out: y is normal with covariance sigma^2 I + tau^2 within
    groups + 100 everywhere.
    """
    g, y = table["g"].to_numpy(), table["y"].to_numpy()
    same = (g[:, None] == g[None, :]).astype(float)
    eye, one = np.eye(len(y)), np.ones((len(y), len(y)))
    tau, sigma = np.geomspace(1e-3, 120.0, 160), np.geomspace(0.3, 6.0, 60)
    logs = np.empty((len(tau), len(sigma)))
    for a, t in enumerate(tau):
        covariance = sigma[:, None, None] ** 2 * eye + t**2 * same + 100.0 * one
        squared = np.linalg.solve(covariance, y[:, None])[..., 0] @ y
        logdet = np.linalg.slogdet(covariance)[1]
        logs[a] = -0.5 * (squared + logdet + len(y) * np.log(2 * np.pi))
    logs += stats.halfnorm.logpdf(tau, scale=20.0)[:, None] + np.log(tau)[:, None]
    logs += stats.halfnorm.logpdf(sigma, scale=3.0) + np.log(sigma)
    inner = np.trapezoid(np.exp(logs - logs.max()), np.log(sigma), axis=1)
    return logs.max() + np.log(np.trapezoid(inner, np.log(tau)))


@pytest.mark.parametrize(
    ("far", "bridged"), [(0.0, False), pytest.param(25.0, True, marks=pytest.mark.slow)]
)
def test_density_is_that_of_numerical_integration(far, bridged):
    table = simulate(far)
    fit = Model("y ~ 1 + (1 | g)", table).sample(seed=1, draws=400, priors=PRIORS)
    found = predict_left_out(fit, 0)
    exact = log_evidence(table) - log_evidence(table[table["g"] > 0])
    # One mean over the posterior of the others would be off by many units if far.
    assert found.mcse < 0.3
    assert abs(found.elpd - exact) < 4.0 * found.mcse + GRID
    assert (found.steps > 1) == bridged


@pytest.fixture(scope="module")
def fit():
    return Model("y ~ 1 + (1 | g)", simulate(0.0)).sample(seed=1, draws=300)


def test_a_refit_takes_the_priors_as_they_are(fit):
    """PyMC's own distributions among them, which choose the sampler by themselves."""
    asked = {}

    def sample(*arguments, **options):
        asked.update(signature.bind(*arguments, **options).arguments)
        return fit

    signature = inspect.signature(sample_whitened)
    custom = replace(fit, priors=replace(fit.priors, sigma=PyMCPrior(pm.HalfNormal.dist(1.0))))
    predict_left_out(custom, 2, sample=sample)
    assert asked["priors"] is custom.priors
    assert asked["structure"] == fit.structure
    assert asked["settings"] == fit.settings
    assert not asked["white"].blocks[2].any()
    np.testing.assert_array_equal(asked["white"].blocks[3], fit.white.blocks[3])
    assert asked["white"].n == 24
    assert fit.white.blocks[2].any()


@pytest.mark.slow
def test_a_way_too_long_is_told():
    fit = Model("y ~ 1 + (1 | g)", simulate(60.0)).sample(seed=1, priors=PRIORS, draws=500)
    found = predict_left_out(fit, 0, steps=1)
    assert np.isnan(found.elpd)
    assert found.failure


@pytest.mark.slow
def test_one_seed_gives_one_density(fit):
    one = predict_left_out(fit, 3)
    assert one == predict_left_out(fit, 3)
    assert one.elpd != predict_left_out(replace(fit, seed=2), 3).elpd


def test_chains_that_do_not_move_are_told(fit):
    frozen = fit.data.isel(chain=[0] * 4, draw=[0] * 300, missing_dims="ignore")
    still = replace(fit.with_data(frozen), diagnostics=replace(fit.diagnostics, ok=True))
    found = predict_left_out(fit, 0, sample=lambda *_, **__: still)
    assert np.isnan(found.elpd)
    assert "no path of posteriors" in found.failure
