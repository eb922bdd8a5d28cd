"""Draws of which each parameter is right by itself are found where they are wrong together."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from few_groups import make_case, simulate_model
from sound_draws import integrate, make_fit, resample

from bhlm.bayes.density import evaluate_prior
from bhlm.bayes.priors.families import Cauchy, Normal, StudentT
from bhlm.bayes.priors.resolve import Priors
from bhlm.fits.model import Model
from bhlm.reconciliation.comparison import compare
from bhlm.reconciliation.given_rest import _integrate
from bhlm.reconciliation.joint import condition_draws, describe_joint
from bhlm.reconciliation.quadrature_route import QuadratureRoute

SLOW = pytest.mark.slow


@cache
def prepare(q, priors=None):
    """A REML fit, weighted draws of its posterior, and some of them as draws."""
    model = simulate_model(20, q, 1)
    exact = integrate(model.moments, priors, draws=16_000, seed=7)
    return model.reml(), exact, resample(exact, seed=2)


def permute(x):
    """Return draws (chain, draw, ...) in another order, in which they are independent still."""
    order = np.random.default_rng(3).permutation(x.shape[0] * x.shape[1])
    return x.reshape(-1, *x.shape[2:])[order].reshape(x.shape)


def permute_fixed(sample, which):
    beta = sample.beta.copy()
    beta[..., which] = permute(beta[..., which])
    return replace(sample, beta=beta)


def permute_sds(sample, which):
    """Return draws in which SDs of random coefficients are those of other draws."""
    sd = np.sqrt(np.einsum("cdii->cdi", sample.g))
    other = sd.copy()
    other[..., which] = permute(sd[..., which])
    ratio = other / sd
    return replace(sample, g=sample.g * ratio[..., :, None] * ratio[..., None, :])


CHANGES = {
    "first fixed effect": lambda sample: permute_fixed(sample, [0]),
    "second fixed effect": lambda sample: permute_fixed(sample, [1]),
    "all fixed effects": lambda sample: permute_fixed(sample, slice(None)),
    "covariances": lambda sample: replace(sample, g=permute(sample.g)),
    "residual SD": lambda sample: replace(sample, sigma=permute(sample.sigma)),
    "first SD": lambda sample: permute_sds(sample, [0]),
}


@pytest.mark.parametrize(
    ("q", "what"),
    [
        (2, "first fixed effect"),
        (2, "first SD"),
        *(pytest.param(2, each, marks=pytest.mark.slow) for each in list(CHANGES)[1:-1]),
        *(pytest.param(3, each, marks=pytest.mark.slow) for each in CHANGES),
    ],
)
def test_one_part_of_the_draws_in_another_order(q, what):
    reml, exact, sample = prepare(q)
    both = compare(reml, make_fit(exact, CHANGES[what](sample)))
    assert both.evidence.judgement.sound  # each parameter by itself is right
    assert both.verdict == "unexplained"
    assert any("not jointly those of the posterior" in reason for reason in both.reasons)


def test_the_page_says_what_was_tested_of_the_draws_together():
    reml, exact, sample = prepare(2)
    both = compare(reml, make_fit(exact, sample))
    assert "tested against their exact distribution given the other parameters" in both.route
    assert both.route.endswith("dependence of another kind would not be seen.")
    quadrature = replace(both.evidence, quadrature=QuadratureRoute(None))
    assert ", and nothing else is tested" in describe_joint(quadrature)
    assert describe_joint(replace(both.evidence, judgement=None)) == ""


def test_fixed_effects_that_are_correlated_the_other_way():
    """Draws mirrored about their mean, which leaves each parameter as it was."""
    reml, exact, sample = prepare(2)
    beta = sample.beta.copy()
    beta[..., 0] = 2.0 * beta[..., 0].mean() - beta[..., 0]
    both = compare(reml, make_fit(exact, replace(sample, beta=beta)))
    assert both.verdict == "unexplained"
    assert any("Intercept" in each and "correlat" in each for each in both.reasons)


HEAVY = Priors(fixed=StudentT(4.0, 0.0, 5.0))  # of which no normal is given the rest


@cache
def prepare_heavy(q):
    model = simulate_model(20, q, 1)
    exact = integrate(model.moments, HEAVY, draws=16_000, seed=7)
    return model.reml(), exact, resample(exact, seed=2)


def change_fixed(sample, which, how):
    """Return draws of which one fixed effect is changed at the columns' means."""
    beta = sample.beta.copy()
    x = beta[..., which]
    changes = {
        "permuted": lambda: permute(x),
        "halved": lambda: x.mean() + 0.5 * (x - x.mean()),
        "doubled": lambda: x.mean() + 2.0 * (x - x.mean()),
        "up": lambda: x + 0.25 * x.std(),
        "down": lambda: x - 0.25 * x.std(),
    }
    beta[..., which] = changes[how]()
    return replace(sample, beta=beta)


@pytest.mark.parametrize("how", ["permuted", "halved", "doubled", "up", "down"])
@pytest.mark.parametrize(
    ("q", "which"),
    [(2, 0), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((2, 1), (2, 2), (3, 1)))],
)
def test_one_fixed_effect_made_wrong_under_priors_that_are_not_normal(q, which, how):
    reml, exact, sample = prepare_heavy(q)
    both = compare(reml, make_fit(exact, change_fixed(sample, which, how)))
    assert both.verdict == "unexplained"
    assert any("given all other parameters" in reason for reason in both.reasons)


def test_sound_draws_under_priors_that_are_not_normal():
    reml, exact, sample = prepare_heavy(2)
    sound = make_fit(exact, sample)
    assert condition_draws(sound) is None
    both = compare(reml, sound)
    assert both.verdict in ("agree", "explained")
    assert "tested against their exact distribution given the other parameters" in both.route


@pytest.mark.parametrize(
    "prior",
    [StudentT(3.0, 0.0, 0.1), StudentT(1.0, 0.5, 0.01), Cauchy(0.0, 30.0), Normal(0.0, 1.0)],
)
def test_distributions_given_the_rest_against_a_fine_grid(prior):
    x = np.array([0.3, -0.2, 1.4])
    mean, sd = np.array([0.4, -0.2, 1.1]), np.array([0.2, 0.1, 0.5])
    found = _integrate(prior, x, mean, sd)
    for i in range(3):
        grid = np.linspace(mean[i] - 12.0 * sd[i], mean[i] + 12.0 * sd[i], 1_000_001)
        height = np.exp(evaluate_prior(prior, grid) - 0.5 * ((grid - mean[i]) / sd[i]) ** 2)
        exact = height[grid <= x[i]].sum() / height.sum()
        assert found[i] == pytest.approx(exact, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("prior", [StudentT(3.0, 0.0, 0.1), Cauchy(0.0, 0.05)])
def test_few_effective_weighted_draws_refute_nothing(prior):
    """Tight priors with heavy tails leave some 300 of 4096, whose own errors are too small."""
    model = simulate_model(20, 2, 1)
    both = compare(model.reml(), model.sample(seed=3, priors=Priors(fixed=prior)))
    assert both.evidence.exact.draws.ess < 400
    assert both.verdict == "undetermined"
    assert any("are effective, fewer than 400" in reason for reason in both.reasons)
    assert "not certified" in both.route


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(i, marks=SLOW) for i in range(2, 40))])
def test_sound_sets_are_not_refuted_under_priors_that_are_not_normal(seed):
    case = make_case(seed)
    model = Model(case.formula, case.table)
    exact = integrate(model.moments, HEAVY, draws=16_000, seed=1000 + seed)
    if not exact.certified:
        pytest.skip("no sound draws can be made")
    both = compare(model.reml(), make_fit(exact, resample(exact, seed=seed)))
    assert both.verdict != "unexplained", both.reasons


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 200, 29))
def test_sound_draws_have_standard_scores(seed):
    """Given the rest a fixed effect of sound draws is normal, to the last of 4000 draws."""
    from scipy.stats import kstest

    case = make_case(seed)
    exact = integrate(Model(case.formula, case.table).moments, draws=16_000, seed=1000 + seed)
    if not exact.certified:
        pytest.skip("no sound draws can be made")
    found = condition_draws(make_fit(exact, resample(exact, seed=seed)))
    scores = found.gap / found.sd
    assert min(kstest(column, "norm").pvalue for column in scores.T) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 2000.0, 20_000.0, 2e7])
def test_a_covariate_far_from_zero(offset):
    """There intercept and slope correlate by nearly -1, and given one another they hardly vary."""
    case = make_case(5)
    model = Model(case.formula, case.table.assign(x1=case.table["x1"] + offset))
    exact = integrate(model.moments, draws=16_000, seed=7)
    sample = resample(exact, seed=2)
    assert compare(model.reml(), make_fit(exact, sample)).verdict in ("agree", "explained")
    both = compare(model.reml(), make_fit(exact, permute_fixed(sample, [0])))
    assert both.verdict == "unexplained"
