"""Families with nested factors: ML is the joint mode under flat priors, sabotage is found out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import block_diag

import bhlm
from bhlm import HalfNormal, Model, Priors
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.errors import ArgumentError
from bhlm.fits.family_level_bayes_fit import FamilyLevelBayesFit
from bhlm.fits.family_levels_fit import FamilyLevelsFit
from bhlm.reconciliation.family_mode import find_family_mode
from bhlm.reconciliation.identity import compare_heights

pytestmark = pytest.mark.wide

TWO = "(1 | school/class)"
CASES = {"bernoulli": TWO, "poisson": "(1 | class) + (1 + x || school)"}


def make_model(family: str, random: str, *, seed: int = 0, schools: int = 12) -> Model:
    rng = np.random.default_rng(seed)
    school, place = np.repeat(np.arange(schools), 15), np.repeat(np.arange(3 * schools), 5)
    x = rng.integers(-1, 2, len(school)).astype(float)
    u, v = rng.normal(0.0, 0.8, (2, schools))
    eta = 0.3 + (0.4 + 0.4 * v[school]) * x + u[school] + rng.normal(0.0, 0.7, 3 * schools)[place]
    if family == "poisson":
        y = rng.poisson(np.exp(eta))
    else:
        y = rng.binomial(1, 1.0 / (1.0 + np.exp(-eta)))
    table = pd.DataFrame({"school": school, "class": place, "x": x, "y": y})
    return Model(f"y ~ x + {random}", table, family=family)


def find_mode(fit: FamilyLevelsFit):
    start = fit.beta, block_diag(*fit.roots)
    return find_family_mode(fit.patterns, fit.white, arrange_prior(fit.patterns), start=start)


@pytest.mark.parametrize("family", ["bernoulli", pytest.param("poisson", marks=pytest.mark.slow)])
def test_joint_mode_is_maximum_likelihood(family: str) -> None:
    fit = make_model(family, CASES[family]).ml()
    mode = find_mode(fit)
    assert mode.loglik == pytest.approx(fit.loglik, abs=1e-7)
    assert mode.own_loglik == pytest.approx(fit.loglik, abs=1e-7)
    assert mode.beta == pytest.approx(fit.beta, abs=1e-4)
    assert mode.g == pytest.approx(block_diag(*fit.gs), abs=1e-4)
    assert mode.flatness < 1e-7
    assert compare_heights(mode, fit).finding == "same"
    # An estimate that is no optimum, and one with another likelihood, are told.
    moved = replace(fit, beta=fit.beta + 0.1)
    assert compare_heights(find_mode(moved), moved).finding == "likelihoods"
    lower = replace(moved, loglik=find_mode(moved).start_loglik)
    assert compare_heights(find_mode(lower), lower).finding == "reml_short"


def test_what_cannot_be_reconciled_is_told() -> None:
    model = make_model("bernoulli", TWO, schools=4)
    post = model.sample(seed=1, draws=10, tune=20, chains=2)
    with pytest.raises(ArgumentError, match="Laplace's approximation, whose error is not known"):
        bhlm.reconcile(model.ml(nagq=1), post)
    with pytest.raises(ArgumentError, match="differ in model or data"):
        bhlm.reconcile(make_model("bernoulli", TWO, schools=4, seed=1).ml(), post)
    one = make_model("bernoulli", "(1 | school)", schools=4).ml()
    with pytest.raises(ArgumentError, match="differ in model or data"):
        bhlm.reconcile(one, post)


@pytest.fixture(scope="module")
def sound() -> tuple[Model, FamilyLevelsFit, FamilyLevelBayesFit]:
    model = make_model("bernoulli", TWO)
    return model, model.ml(), model.sample(seed=3)


@pytest.mark.slow
def test_gaps_are_explained(sound) -> None:
    _, fit, post = sound
    both = bhlm.reconcile(fit, post)
    assert both.verdict in ("agree", "explained")
    assert both.evidence.route == "importance"
    table = both.table
    whole = table["shape"] + table["prior"] + table["monte_carlo"] + table["unexplained"]
    assert whole.to_numpy() == pytest.approx(table["gap"].to_numpy(), abs=1e-9)
    assert {"prior_sd|school", "prior_sd|school:class"} <= set(table)
    assert (table["prior_residual"] == 0.0).all()
    assert "REML" not in both.summary()
    told = both.to_dict()
    assert told["reml"]["method"] == "ml"
    assert told["model"]["groups"] == {"school": 12, "school:class": 36}
    effects = both.group_effects()
    assert len(effects) == 48
    assert effects["gap"].abs().max() < 0.5
    assert both.checks.predictive.group == "school"


def change(post: FamilyLevelBayesFit, *, shift: float = 0.0, spread: float = 1.0):
    """The posterior with the draws of x moved, in posterior SDs, and spread about their mean."""
    data = post.data.copy(deep=True)
    beta = data["posterior"]["beta"].values
    mean, sd = beta[..., 1].mean(), beta[..., 1].std()
    beta[..., 1] = mean + shift * sd + spread * (beta[..., 1] - mean)
    return FamilyLevelBayesFit.of(post.with_data(data))


@pytest.mark.slow
@pytest.mark.parametrize("sabotage", [{"shift": 0.3}, {"spread": 0.5}], ids=["bias", "half"])
def test_sabotaged_draws_are_found_out(sound, sabotage: dict[str, float]) -> None:
    _, fit, post = sound
    both = bhlm.reconcile(fit, change(post, **sabotage))
    assert both.verdict == "unexplained"
    assert both.evidence.judgement.refuted[0][0] == "x"


@pytest.mark.slow
def test_another_prior_is_found_out(sound) -> None:
    model, fit, post = sound
    other = resolve_priors(
        Priors(sd=HalfNormal(0.2)), model.level_patterns, structure=post.structure
    )
    both = bhlm.reconcile(fit, FamilyLevelBayesFit.of(replace(post, priors=other)))
    assert both.verdict == "unexplained"
    assert any(name.startswith("sd(") for name, _ in both.evidence.judgement.refuted)
