"""What a sentence gives a prior, and what advice promises, held against swaps by quadrature."""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from few_groups import simulate_model
from gallery_fits import make_model
from small_groups import draw_groups
from sound_draws import integrate, make_fit, resample

from bhlm.bayes.checks.sensitivity import THRESHOLD, measure_sensitivity
from bhlm.bayes.draws import Draws
from bhlm.bayes.importance import integrate_importance
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Exponential, Flat, Gamma, HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.quadrature.posterior import integrate_resolved
from bhlm.fits.model import Model
from bhlm.reconciliation.comparison import Comparison, compare
from bhlm.reconciliation.words import name_priors

# Of the share that a sentence gives a prior, and of the gap that advice speaks of.
AT_LEAST = 0.5
RUNS = 5  # of importance sampling, where quadrature has no such prior
TOLERANCE = 1e-3  # of quadrature, in posterior SDs; shares below 0.02 are not spoken of
CHOICES: dict[str, Priors | None] = {
    "default": None,
    "exponential": Priors(sd=Exponential(1.0), sigma=Exponential(1.0)),
    "tight SDs": Priors(sd=HalfNormal(0.15)),
    "tight correlation": Priors(corr=LKJ(40.0)),
    "tight effects": Priors(fixed=Normal(0.0, 0.05)),
    "tight residual": Priors(sigma=HalfNormal(0.1)),
}


def reconcile_sound(model: Model, priors: Priors | None = None) -> Comparison:
    """Return the reconciliation of draws that are the posterior's by construction."""
    exact = integrate(model.moments, priors, draws=4000)
    return compare(model.reml(), make_fit(exact, resample(exact, seed=1)))


def integrate_without(post: Draws, without: Collection[str]) -> Callable[[str], float]:
    """Return posterior means, by parameter, without some priors, by deterministic quadrature.

    Exponential priors times the SDs that the scale stands for are Gamma priors; for others the
    scale's share is that of draws of their own, reweighted.
    """
    resolved = post.priors
    p, sds = len(resolved.fixed), resolved.sd
    powers = post.structure.powers
    swapped = replace(
        resolved,
        fixed=(Flat(),) * p if "fixed" in without else resolved.fixed,
        sd=(Flat(),) * len(sds) if "sd" in without else sds,
        corr=LKJ(1.0) if "corr" in without else resolved.corr,
        sigma=Flat() if "residual" in without else resolved.sigma,
    )
    if "scale" in without:
        assert set(without) == {"scale"}
        every = (*sds, resolved.sigma)
        if not all(isinstance(prior, Exponential) for prior in every):
            return _reweight(post)
        *raised, sigma = (
            Gamma(1.0 + power, prior.rate) for power, prior in zip((*powers, 1), every, strict=True)
        )
        swapped = replace(resolved, sd=tuple(raised), sigma=sigma)
    found = integrate_resolved(post.moments, post.structure, swapped, tolerance=TOLERANCE)
    return lambda name: found.mean[name]


def _reweight(post: Draws) -> Callable[[str], float]:
    """Return means without the scale from weighted draws of seeds of their own."""
    found: dict[str, list[float]] = {}
    for seed in range(90, 90 + RUNS):
        exact = integrate_importance(
            post.moments, post.structure, post.priors, seed=seed, white=post.white
        )
        powers = np.array(post.structure.powers)
        log_weight = np.log(exact.at.sd) @ powers + np.log(exact.at.sigma)
        weight = exact.draws.weight * np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        for name, kernels in exact.kernels.items():
            found.setdefault(name, []).append(float(weight @ kernels.centre))
    return lambda name: float(np.mean(found[name]))


def check_sentences(both: Comparison) -> int:
    """Swap every prior that a sentence names; return how many shares were checked."""
    post = both.post
    chosen = integrate_resolved(
        post.moments, post.structure, post.priors, tolerance=TOLERANCE
    ).mean  # fmt: skip
    count = 0
    for part, noun in name_priors(post).items():
        named = [name for name, text in both.words.items() if f"from {noun}" in text]
        if not named:
            continue
        without = integrate_without(post, {part})
        for name in named:
            share, moved = both.table.loc[name, f"prior_{part}"], chosen[name] - without(name)
            told = f"{both.words[name]} ({part}: swapping moves it by {moved:.3g})"
            assert moved / share > AT_LEAST, told
            assert moved / share < 1.0 / AT_LEAST, told
            count += 1
    return count


def check_advice(both: Comparison) -> int:
    """Follow advice to weaken priors; return how many gaps were closed."""
    post, nouns = both.post, name_priors(both.post)
    count = 0
    for sentence in both.advice:
        if "would be closed" not in sentence:
            continue
        cure = [part for part, noun in nouns.items() if noun in sentence]
        assert cure, sentence
        assert "scale" not in cure  # nobody can weaken it
        mean = integrate_without(post, cure)
        moved = sentence.removeprefix("The priors move ").split(" by more than")[0]
        for name in re.split(", | and ", moved):
            gap, reml = both.table.loc[name, "gap"], both.table.loc[name, "reml"]
            assert abs(mean(name) - reml) <= AT_LEAST * abs(gap), f"{name}: {sentence}"
            count += 1
    return count


def simulate(seed: int) -> Model:
    """Return a model of few or many groups, q = 1 or 2, regular or singular."""
    if seed % 2:
        table = draw_groups(8 + seed, 6, sd=(0.5, 0.3) if seed % 3 else (0.5,), seed=seed)
        return Model("y ~ x + w + (x | g)" if seed % 4 == 1 else "y ~ x + (1 | g)", table)
    return simulate_model(10 + 2 * seed, 1 + seed % 3 % 2, seed, "singular" if seed % 5 else "zero")


@cache
def reconcile_small(choice: str) -> Comparison:
    table = draw_groups(12, 6, sd=(0.6,), seed=2)
    return reconcile_sound(Model("y ~ x + (1 | g)", table), CHOICES[choice])


@pytest.mark.parametrize("choice", ["exponential", "tight SDs"])
def test_sensitivity_and_reconciliation_agree(choice):
    """What advice would weaken, power-scaling finds too; a variance is told what its SD is."""
    both = reconcile_small(choice)
    table = measure_sensitivity(both.post).table
    for parameter in both.post.parameters:
        if parameter.is_variance:
            one, other = str(parameter), str(parameter.scaled)
            assert table.loc[one, "diagnosis"] == table.loc[other, "diagnosis"]
    blamed = "the prior HalfNormal(0.15) on sd(Intercept|g)"
    told = any(blamed in sentence for sentence in both.advice)
    assert told == (choice == "tight SDs")
    assert (table.loc["sd(Intercept|g)", "sd"] >= THRESHOLD) == told


@pytest.mark.parametrize("choice", ["exponential", "tight SDs"])
def test_a_named_prior_moves_what_it_is_said_to_move(choice):
    both = reconcile_small(choice)
    assert check_sentences(both) > 0
    assert check_advice(both) > 0 or choice == "exponential"


@pytest.mark.parametrize(
    ("sd", "scale", "told"),
    [
        (0.6, 0.02, "by the prior HalfNormal(0.02) on sd(Intercept|g): without, that point is "),
        (0.0, 0.2, ": the data do not rule out that it vanishes"),
    ],
)
def test_that_an_sd_may_vanish_is_said_of_the_data_only_where_they_say_so(sd, scale, told):
    """By a prior that is tight enough any SD may; without it this one may not."""
    model = Model("y ~ x + (1 | g)", draw_groups(20, 6, sd=(sd,), seed=2))
    both = reconcile_sound(model, Priors(sd=HalfNormal(scale)))
    (flag,) = (each for each in both.reasons if "reaches zero" in each)
    assert told in flag
    assert ("the data do not rule out" in flag) == (sd == 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_sentences_and_advice_of_simulated_sets(seed):
    choice = list(CHOICES)[seed % len(CHOICES)]
    both = reconcile_sound(simulate(seed), CHOICES[choice])
    assert check_sentences(both) + check_advice(both) > 0 or both.verdict == "agree"
    if both.evidence.flat is None:
        assert math.isnan(both.table.loc["sd(Residual)", "prior"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "body_weight", "dyestuff", "dyestuff2", "ergo_stool", "exam", "hsb_anova", "hsb_file_meanses",
    "hsb_intercepts_and_slopes", "hsb_means_as_outcomes", "hsb_random_coefficient", "orthodont",
    "rail", "sleepstudy",
])  # fmt: skip
def test_sentences_and_advice_of_the_gallery(name):
    both = reconcile_sound(make_model(name))
    check_sentences(both)
    check_advice(both)
