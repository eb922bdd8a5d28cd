"""Draws from the prior: each family against scipy, correlations against their known laws."""

import numpy as np
import pytest
from prior_sets import proper_examples
from scipy import stats
from simulate import simulate_table

from bhlm.bayes.priors.correlations import LKJ, Common, Partial
from bhlm.bayes.priors.families import (
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    LogNormal,
    Normal,
    Prior,
    StudentT,
)
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import (
    Priors,
    ResolvedPriors,
    check_drawable,
    draw_prior,
    resolve_priors,
)
from bhlm.errors import PriorError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange, combine

DRAWS = 20_000
ONE = combine((("Intercept",),), group="g")
# The seeds are fixed; a right sampler falls below this with a probability of 1e-3 per test, and
# a wrong scale or shape of 10 % is far below it.
LEAST_P = 1e-3
SIGMAS = 4.5  # of Monte Carlo error, for means; the seed is fixed

GIVEN = Frame(np.eye(1), np.eye(1))
LAWS = {
    Normal(1.5, 2.0): stats.norm(1.5, 2.0).cdf,
    StudentT(4.0, -1.0, 3.0): stats.t(4.0, -1.0, 3.0).cdf,
    Cauchy(2.0, 0.5): stats.cauchy(2.0, 0.5).cdf,
    HalfNormal(3.0): stats.halfnorm(scale=3.0).cdf,
    HalfStudentT(3.0, 2.0): lambda x: 2.0 * stats.t.cdf(x / 2.0, 3.0) - 1.0,
    HalfCauchy(2.5): stats.halfcauchy(scale=2.5).cdf,
    Exponential(0.25): stats.expon(scale=4.0).cdf,
    Gamma(2.5, 0.5): stats.gamma(2.5, scale=2.0).cdf,
    LogNormal(0.5, 1.5): stats.lognorm(1.5, scale=np.exp(0.5)).cdf,
}


def test_scipy_is_asked_about_most_families():
    assert {type(prior) for prior in LAWS} <= set(Prior.families()) - {Flat}


def draw_one(prior):
    """Return draws of a parameter that has the prior."""
    fixed = Normal(0.0, 1.0) if prior.positive else prior
    sd = prior if prior.positive else HalfNormal(1.0)
    priors = ResolvedPriors((fixed,), (sd,), LKJ(), HalfNormal(1.0), GIVEN)
    beta, root, _ = draw_prior(priors, ONE, np.random.default_rng(1), DRAWS)
    return root[:, 0, 0] if prior.positive else beta[:, 0]


@pytest.mark.parametrize("prior", LAWS, ids=str)
def test_a_family_has_the_law_of_scipy(prior):
    drawn = draw_one(prior)
    assert stats.kstest(drawn, LAWS[prior]).pvalue > LEAST_P
    assert stats.kstest(1.1 * drawn, LAWS[prior]).pvalue < LEAST_P


@pytest.mark.parametrize("prior", proper_examples(), ids=str)
def test_draws_lie_between_quantiles_as_often_as_they_should(prior):
    drawn = draw_one(prior)
    ends = prior.quantile(np.arange(1, 40) / 40)
    assert stats.chisquare(np.bincount(np.searchsorted(ends, drawn))).pvalue > LEAST_P
    assert stats.chisquare(np.bincount(np.searchsorted(ends, 1.1 * drawn))).pvalue < LEAST_P


def test_sigma_has_its_own_prior():
    priors = ResolvedPriors((Normal(0, 1),), (HalfNormal(1),), LKJ(), Exponential(5.0), GIVEN)
    _, _, sigma = draw_prior(priors, ONE, np.random.default_rng(2), DRAWS)
    assert stats.kstest(sigma, stats.expon(scale=0.2).cdf).pvalue > LEAST_P


def test_the_intercept_stands_at_the_means():
    table = simulate_table(3, n_groups=9).assign(x=lambda t: t["x"] + 100.0)
    moments = Model("y ~ x + w + (1 | g)", table).moments
    priors = resolve_priors(Priors(fixed=Normal(5.0, 0.5)), moments)
    beta, _, _ = draw_prior(priors, ONE, np.random.default_rng(3), DRAWS)
    at_means = beta @ [1.0, table["x"].mean(), table["w"].mean()]
    assert stats.kstest(at_means, stats.norm(5.0, 0.5).cdf).pvalue > LEAST_P
    assert beta[:, 0].std() > 40.0  # 100 x the SD of the slope: at zero it is another thing


@pytest.mark.parametrize(("eta", "q"), [(1.0, 2), (2.0, 2), (0.5, 3), (2.0, 3), (4.0, 4)])
def test_each_correlation_has_the_marginal_of_lkj(eta, q):
    """(r + 1) / 2 is Beta(a, a), a = eta - 1 + q / 2, for every pair alike."""
    root = Partial.draw(eta, (q,), np.random.default_rng(4), DRAWS)
    corr = root @ root.swapaxes(1, 2)
    np.testing.assert_allclose(np.einsum("dii->di", corr), 1.0, rtol=1e-12)
    a = eta - 1.0 + 0.5 * q
    for i in range(q):
        for j in range(i):
            assert stats.kstest(corr[:, i, j], stats.beta(a, a, -1.0, 2.0).cdf).pvalue > LEAST_P


@pytest.mark.parametrize(("eta", "q"), [(1.0, 2), (2.0, 2), (0.8, 3), (2.0, 3), (3.0, 5)])
def test_a_common_correlation_has_its_marginal_and_density(eta, q):
    """The density is det(R)^(eta - 1) over the correlations from -1 / (q - 1) to 1."""
    root = Common.draw(eta, (q,), np.random.default_rng(6), DRAWS)
    corr = root @ root.swapaxes(1, 2)
    r = corr[:, 1, 0]
    np.testing.assert_allclose(corr, np.where(np.eye(q) > 0, 1.0, r[:, None, None]), atol=1e-12)
    law = Common.marginal(eta, q)
    assert law.support() == pytest.approx((-1.0 / (q - 1.0), 1.0))
    assert stats.kstest(r, law.cdf).pvalue > LEAST_P
    inside = np.linalg.slogdet(corr)[1] > -15.0  # where rounding of r does not count
    density = Common.log_density(eta, (q,), 3.0 * root, np.full((DRAWS, q), 3.0))[inside]
    np.testing.assert_allclose(density, law.logpdf(r[inside]), rtol=1e-6, atol=1e-6)
    det = (eta - 1.0) * np.linalg.slogdet(corr[inside])[1]
    np.testing.assert_allclose(density - det, density[0] - det[0], rtol=1e-6, atol=1e-6)


def test_a_common_correlation_of_two_is_lkj():
    x = np.linspace(-0.99, 0.99, 9)
    one, other = Common.marginal(1.7, 2), Partial.marginal(1.7, 2)
    np.testing.assert_allclose(one.pdf(x), other.pdf(x), rtol=1e-12)


def test_correlations_have_the_joint_law_of_lkj():
    """Under LKJ(eta) the density is det(R)^(eta - 1) over all correlation matrices.

    For q = 3, uniform points of the cube that are correlation matrices, weighted by the
    determinant, are LKJ(2) by definition.
    """
    rng = np.random.default_rng(5)
    r = rng.uniform(-1.0, 1.0, (400_000, 3))
    det = 1.0 + 2.0 * r.prod(axis=1) - (r**2).sum(axis=1)
    r, det = r[det > 0.0], det[det > 0.0]
    root = Partial.draw(2.0, (3,), rng, DRAWS)
    corr = root @ root.swapaxes(1, 2)
    drawn = np.column_stack([corr[:, 1, 0], corr[:, 2, 0], corr[:, 2, 1]])
    for power in ([1, 1, 1], [2, 2, 0], [2, 0, 2], [0, 2, 2], [4, 0, 0], [0, 0, 4]):
        expected = (r**power).prod(axis=1) @ det / det.sum()
        seen = (drawn**power).prod(axis=1)
        assert abs(seen.mean() - expected) < SIGMAS * seen.std() / np.sqrt(DRAWS), power


def test_blocks_are_uncorrelated_and_scaled_by_their_sds():
    sd = (HalfNormal(1.0), Gamma(400.0, 100.0), Exponential(1.0))
    frame = Frame(np.eye(1), np.eye(3))
    priors = ResolvedPriors((Normal(0, 1),), sd, LKJ(), HalfNormal(1.0), frame)
    _, root, _ = draw_prior(
        priors, combine((("a",), ("b", "c")), group="g"), np.random.default_rng(6), DRAWS
    )
    g = root @ root.swapaxes(1, 2)
    assert not g[:, 0, 1:].any()
    assert g[:, 1, 2].std() > 0.0
    np.testing.assert_allclose(np.triu(root, 1), 0.0, atol=0.0)
    scale = np.sqrt(g[:, 1, 1])
    assert stats.kstest(scale, stats.gamma(400.0, scale=0.01).cdf).pvalue > LEAST_P


@pytest.mark.parametrize(
    ("priors", "words"),
    [
        (Priors(fixed={"x": Flat()}), ["prior of x is Flat", "improper"]),
        (Priors(sd=Flat()), ["sd(Intercept|g)", "improper"]),
        (Priors(sigma=Flat(power=1.0)), ["sd(Residual)", "Flat(power=1)"]),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(priors, words):
    moments = Model("y ~ x + (1 | g)", simulate_table(3)).moments
    resolved = resolve_priors(priors, moments)
    with pytest.raises(PriorError) as caught:
        check_drawable(resolved, moments, arrange(moments))
    assert all(word in str(caught.value) for word in words)
    with pytest.raises(PriorError, match="improper"):
        draw_prior(resolved, ONE, np.random.default_rng(1), 3)


def test_a_pymc_distribution_is_refused():
    import pymc as pm

    moments = Model("y ~ x + (1 | g)", simulate_table(3)).moments
    resolved = resolve_priors(Priors(sigma=pm.Weibull.dist(2.0, 5.0)), moments)
    with pytest.raises(PriorError, match=r"sd\(Residual\) is PyMC weibull"):
        check_drawable(resolved, moments, arrange(moments))
