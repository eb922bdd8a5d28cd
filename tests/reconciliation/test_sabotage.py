"""Every sabotage of an engine turns the verdict; sound draws never do."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from few_groups import make_case, simulate_model
from sound_draws import (
    Sample,
    change_correlations,
    change_sds,
    integrate,
    make_fit,
    resample,
    shift,
    spread,
)

from bhlm.bayes.priors.families import HalfNormal
from bhlm.bayes.priors.resolve import Priors
from bhlm.fits.model import Model
from bhlm.reconciliation.comparison import compare
from bhlm.reml.estimate import unwhiten
from bhlm.reml.optimize import Optimum, Problem

# Of every kind of sabotage one model runs with the slow tests, the others by hand.
SIZES = [
    pytest.param(*size, marks=pytest.mark.slow if size == (20, 2) else pytest.mark.exhaustive)
    for size in ((20, 1), (20, 2), (20, 3), (2000, 1), (2000, 2), (2000, 3))
]
SOUND = (0, 5, 18, 21, 34, 55)  # data sets of q = 1 to 4 that run with the slow tests


@cache
def prepare(groups, q):
    """A model, its REML fit, and weighted draws of its posterior, many more than are used."""
    model = simulate_model(groups, q, 1)
    return model, model.reml(), integrate(model.moments, draws=16_000, seed=7)


def change(sample, which, how):
    if which == "beta":
        return replace(sample, beta=how(sample.beta))
    if which == "sd":
        return replace(sample, g=change_sds(sample.g, how))
    if which == "corr":
        return replace(sample, g=change_correlations(sample.g, how))
    return replace(sample, sigma=np.exp(how(np.log(sample.sigma)[..., None])[..., 0]))


@pytest.mark.parametrize(("groups", "q"), SIZES)
def test_sound_draws_are_certified(groups, q):
    _, reml, exact = prepare(groups, q)
    both = compare(reml, make_fit(exact, resample(exact, seed=1)))
    assert both.verdict in ("agree", "explained")
    assert both.evidence.judgement.sound
    assert both.evidence.identity.finding == "same"


@pytest.mark.parametrize("which", ["beta", "sd", "corr", "sigma"])
@pytest.mark.parametrize("how", ["halved", "doubled", "up", "down"])
@pytest.mark.parametrize(("groups", "q"), SIZES)
def test_draws_of_one_kind_made_wrong(groups, q, how, which):
    """Spread halved or doubled, means off by 0.25 SD, of one kind of parameter at a time."""
    if which == "corr" and q == 1:
        pytest.skip("there is no correlation")
    _, reml, exact = prepare(groups, q)
    changes = {"halved": spread(0.5), "doubled": spread(2.0), "up": shift(0.25)}
    sample = change(resample(exact, seed=2), which, (changes | {"down": shift(-0.25)})[how])
    both = compare(reml, make_fit(exact, sample))
    assert both.verdict == "unexplained"
    assert any("not those of the posterior" in reason for reason in both.reasons)


@pytest.mark.parametrize(("groups", "q"), SIZES)
def test_a_wrong_jacobian(groups, q):
    """A factor sigma^20 that the density has too much of; with 2000 groups a lost one is nothing.

    With 20 groups the Jacobian of the first SD's logarithm is enough.
    """
    _, reml, exact = prepare(groups, q)
    extra = 3.0 * np.log(exact.at.sd[:, 0]) if groups < 100 else 40.0 * np.log(exact.at.sigma)
    both = compare(reml, make_fit(exact, resample(exact, seed=3, extra=extra)))
    assert both.verdict == "unexplained"


@pytest.mark.parametrize(("groups", "q"), SIZES)
def test_a_prior_of_another_scale(groups, q):
    """Draws under HalfNormal(s) that are said to be under the default prior."""
    model, reml, exact = prepare(groups, q)
    scale = 0.25 if groups < 100 else 0.05
    other = integrate(model.moments, Priors(sd=HalfNormal(scale)), draws=16_000, seed=8)
    both = compare(reml, make_fit(exact, resample(other, seed=4)))
    assert both.verdict == "unexplained"


@pytest.mark.parametrize(("groups", "q"), SIZES)
def test_draws_for_other_data(groups, q):
    _, reml, exact = prepare(groups, q)
    other = integrate(simulate_model(groups, q, 2).moments, draws=16_000, seed=8)
    both = compare(reml, make_fit(exact, resample(other, seed=5)))
    assert both.verdict == "unexplained"


@pytest.mark.parametrize(("groups", "q"), SIZES)
def test_reml_that_stopped_short(groups, q):
    model, reml, exact = prepare(groups, q)
    problem = Problem(reml.white, reml.structure, True)
    theta = reml.theta * 1.02
    early = Optimum(
        theta=theta,
        lam=problem.factor(theta),
        criterion=problem.at(theta),
        gradient=np.zeros(len(theta)),
        converged=True,
        singular=False,
        steps=(),
        linear=problem.at_zero().value,
        bends=problem.bend(theta),
    )
    stopped = unwhiten(model.moments, reml.structure, reml.white, early)
    both = compare(stopped, make_fit(exact, resample(exact, seed=6)))
    assert both.verdict == "unexplained"
    assert both.evidence.identity.finding == "reml_short"
    assert any("REML stopped short" in reason for reason in both.reasons)


@pytest.mark.parametrize(("groups", "q"), SIZES)
def test_a_duplicated_chain(groups, q):
    """Two chains that are one, which R-hat and ESS take for agreement."""
    _, reml, exact = prepare(groups, q)
    sample = resample(exact, seed=7)
    parts = (sample.beta, sample.g, sample.sigma)
    twins = Sample(*(np.concatenate([part[:1], part[:1], part[2:]]) for part in parts))
    both = compare(reml, make_fit(exact, twins))
    assert both.verdict == "not_converged"
    assert both.findings.convergence.status == "fails"
    assert any("states from chain" in detail for detail in both.findings.convergence.details)


@pytest.mark.slow
def test_estimates_that_are_not_those_that_were_fitted():
    _, reml, exact = prepare(20, 2)
    swapped = replace(reml, g=reml.g[::-1, ::-1])
    both = compare(swapped, make_fit(exact, resample(exact, seed=6)))
    assert both.verdict == "unexplained"
    assert both.evidence.identity.finding == "likelihoods"
    moved = replace(reml, beta=reml.beta + 0.01)
    both = compare(moved, make_fit(exact, resample(exact, seed=6)))
    assert both.verdict == "unexplained"
    assert any("the fixed effects of REML" in reason for reason in both.reasons)


@pytest.mark.slow
def test_a_density_that_is_not_flat_where_it_should_be(monkeypatch):
    """The sampler's density lacks the Jacobian of log sigma, by which the mode is checked."""
    import bhlm.reconciliation.flat_mode
    from bhlm.bayes.density import log_density

    def wrong(x, density):
        value, gradient = log_density(x, density)
        return value - x[-1], gradient

    _, reml, exact = prepare(20, 2)
    monkeypatch.setattr(bhlm.reconciliation.flat_mode, "log_density", wrong)
    both = compare(reml, make_fit(exact, resample(exact, seed=6)))
    assert both.verdict == "unexplained"
    assert both.evidence.identity.finding == "density"


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=pytest.mark.slow if seed in SOUND else pytest.mark.exhaustive)
        for seed in range(200)
    ],
)
def test_sound_draws_are_never_unexplained(seed):
    """Draws by the weights of another run, of data sets of every awkward kind."""
    case = make_case(seed)
    model = Model(case.formula, case.table)
    reml = model.reml()
    exact = integrate(model.moments, draws=16_000, seed=1000 + seed)
    if not exact.certified:
        pytest.skip("no sound draws can be made")
    post = make_fit(exact, resample(exact, seed=seed))
    both = compare(reml, post)
    assert both.verdict != "unexplained", both.reasons
    assert both.evidence.judgement.sound or not both.evidence.certified
    assert not both.evidence.identity.is_broken


@pytest.mark.slow
def test_sample_keeps_what_it_is_not_told_to_change():
    _, _, exact = prepare(20, 2)
    sample = resample(exact, seed=1)
    assert isinstance(sample, Sample)
    same = change_correlations(sample.g, lambda x: x)
    np.testing.assert_allclose(same, sample.g, atol=1e-9)
    np.testing.assert_allclose(change_sds(sample.g, lambda x: x), sample.g, atol=1e-9)
