"""The sampler's density: gradient, normalisation, and equality with PyMC's own."""

import numpy as np
import pytest
from marginal_columns import evaluate_marginal
from prior_sets import SETS, proper_examples
from scipy import integrate, stats
from simulate import simulate_rows

from bhlm.bayes.density import build_density, constrain, log_density, root_correlations
from bhlm.bayes.priors.correlations import Partial, arrange_prior, has_prior
from bhlm.bayes.priors.families import (
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    Normal,
    Prior,
    StudentT,
    log_prior,
)
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.likelihood.covariance import STRUCTURES, arrange
from bhlm.likelihood.marginal import total_products
from bhlm.likelihood.whitening import whiten


def posterior_of(random, priors, seed=1):
    rows = simulate_rows(seed, random)
    moments = rows.model.moments
    white = whiten(moments, arrange(moments))
    return white, build_density(white, resolve_priors(priors, moments), arrange(moments))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("random", ["1", "x", "x + t", "(x | g) + (0 + t | g)"])
def test_gradient_equals_finite_differences(name, random):
    check_gradient(posterior_of(random, SETS[name])[1])


def check_gradient(posterior):
    """Compare a density's gradient with differences of its values at five positions."""
    rng = np.random.default_rng(2)
    step = 1e-6
    for _ in range(5):
        x = rng.normal(size=posterior.dimension)
        value, gradient = log_density(x, posterior)
        assert np.isfinite(value)
        for i, e in enumerate(step * np.eye(len(x))):
            up, _ = log_density(x + e, posterior)
            down, _ = log_density(x - e, posterior)
            difference = (up - down) / (2 * step)
            scale = np.abs(gradient).max()
            assert gradient[i] == pytest.approx(difference, rel=1e-5, abs=1e-6 * scale + 1e-5)


@pytest.mark.parametrize("random", ["x", "x + t"])
@pytest.mark.parametrize(
    "covariance", [kind for kind, each in STRUCTURES.items() if has_prior(each)]
)
@pytest.mark.parametrize("name", ["default", "away"])
def test_gradient_of_each_structure(covariance, random, name):
    moments = simulate_rows(3, random).model.moments
    structure = arrange_prior(moments, covariance)
    resolved = resolve_priors(SETS[name], moments, structure=structure)
    density = build_density(whiten(moments, structure), resolved, structure)
    assert density.dimension == len(moments.fixed) + len(structure.labels) + 1
    check_gradient(density)


@pytest.mark.parametrize("prior", [*proper_examples(), Flat(), Flat(1.5)], ids=str)
def test_a_familys_slope_is_that_of_its_density(prior):
    numbers = np.array(prior.numbers)
    for x in (0.1, 0.7, 2.0, 9.0):
        up, down = (log_prior(prior.code, numbers, x + e)[0] for e in (1e-6, -1e-6))
        slope = log_prior(prior.code, numbers, x)[1]
        assert slope == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-8)


def test_no_family_has_no_density():
    assert np.isnan(log_prior(len(Prior.families()), np.ones(3), 1.0)).all()


@pytest.mark.parametrize(
    ("prior", "reference"),
    [
        (Normal(1, 2), stats.norm(1, 2)),
        (StudentT(4, 1, 2), stats.t(4, 1, 2)),
        (Cauchy(1, 2), stats.cauchy(1, 2)),
        (HalfNormal(2), stats.halfnorm(0, 2)),
        (HalfCauchy(2), stats.halfcauchy(0, 2)),
        (Exponential(2), stats.expon(0, 0.5)),
        (Gamma(3, 2), stats.gamma(3, scale=0.5)),
    ],
)
def test_families_are_scipys(prior, reference):
    numbers = np.zeros(3)
    numbers[: len(prior.numbers)] = prior.numbers
    for x in (0.1, 0.7, 2.0, 9.0):
        value, slope = log_prior(prior.code, numbers, x)
        assert value == pytest.approx(reference.logpdf(x), rel=1e-12)
        difference = (reference.logpdf(x + 1e-6) - reference.logpdf(x - 1e-6)) / 2e-6
        assert slope == pytest.approx(difference, rel=1e-6, abs=1e-8)


def test_half_t_is_twice_the_t():
    value, _ = log_prior(HalfStudentT.code, np.array([3.0, 2.0, 0.0]), 1.3)
    assert value == pytest.approx(stats.t(3, 0, 2).logpdf(1.3) + np.log(2), rel=1e-12)


@pytest.mark.parametrize("name", ["default", "heavy", "light", "away", "exponential"])
def test_the_prior_integrates_to_one(name):
    """A dropped Jacobian or constant would show: the density over x must be proper."""
    white, posterior = posterior_of("1", SETS[name])
    resolved = posterior.codes
    posterior = posterior._replace(use_likelihood=False)
    p = white.p

    def slice_of(index):
        def density(value):
            x = np.zeros(posterior.dimension)
            x[index] = value
            return np.exp(log_density(x, posterior)[0])

        far = np.inf if index == p and posterior.signed[0] else 60.0
        halves = [(-far, 0.0), (0.0, far)]
        return sum(integrate.quad(density, a, b, limit=500, epsabs=0)[0] for a, b in halves)

    # The prior of sd and sigma factorises: the integral over one of them, divided by the
    # density at the others' origin, is one.
    origin = log_density(np.zeros(posterior.dimension), posterior)[0]
    for index in (p, posterior.dimension - 1):
        numbers = posterior.numbers[index if index == p else len(resolved) - 1]
        code = posterior.codes[index if index == p else len(resolved) - 1]
        if index == p and posterior.signed[0]:
            unit = posterior.unit[0]
            own = log_prior(code, numbers, 0.0)[0] + np.log(unit / 2)
        else:
            unit = posterior.unit[0] if index == p else 1.0
            own = log_prior(code, numbers, unit)[0] + np.log(unit)
        assert slice_of(index) / np.exp(origin - own) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("eta", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_correlations_follow_the_lkj(eta, size):
    """The marginal of every correlation is Beta(eta - 1 + b/2) on (-1, 1), LKJ (2009)."""
    rng = np.random.default_rng(3)
    draws = 20_000
    # Draw the partial correlations from their independent betas: x = atanh(z).
    count = size * (size - 1) // 2
    x = np.empty((draws, count))
    at = 0
    for i in range(size):
        for j in range(i):
            alpha = eta + (size - 2 - j) / 2
            x[:, at] = np.arctanh(2 * rng.beta(alpha, alpha, draws) - 1)
            at += 1
    out = np.empty((size, size))
    corr = np.empty((draws, size, size))
    for d in range(draws):
        root_correlations(Partial.code, x[d], np.array([size]), out)
        corr[d] = out @ out.T
    np.testing.assert_allclose(np.einsum("dii->di", corr), 1.0, rtol=1e-12)
    shape = eta - 1 + size / 2
    for i in range(size):
        for j in range(i):
            p_value = stats.kstest((corr[:, i, j] + 1) / 2, stats.beta(shape, shape).cdf).pvalue
            assert p_value > 1e-4


def test_density_is_likelihood_plus_priors_plus_jacobian():
    white, posterior = posterior_of("x", SETS["default"])
    rng = np.random.default_rng(5)
    x = rng.normal(size=posterior.dimension)
    frame = resolve_priors(SETS["default"], simulate_rows(1, "x").model.moments).frame
    beta, root, sigma = constrain(posterior, white, frame, x[None])
    loglik = evaluate_marginal(white, total_products(white), beta[0], root[0], float(sigma[0]))[0]
    with_data = log_density(x, posterior)[0]
    alone = log_density(x, posterior._replace(use_likelihood=False))[0]
    assert with_data - alone == pytest.approx(loglik, rel=1e-10)
