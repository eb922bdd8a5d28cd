"""Families: maximum likelihood is the joint mode under flat priors, and sabotage is found out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm import HalfNormal, Model, Priors
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.errors import ArgumentError
from bhlm.fits.family_bayes_fit import FamilyBayesFit
from bhlm.fits.family_fit import FamilyFit
from bhlm.reconciliation.family_mode import find_family_mode
from bhlm.reconciliation.identity import compare_heights
from bhlm.reconciliation.words import speak_of_ml

pytestmark = pytest.mark.wide

CASES = {
    "bernoulli": ("y ~ x + (1 | g)", None),
    "binomial": ("y / n ~ x + (1 | g)", "probit"),
    "poisson": ("y ~ x + (x | g)", None),
}


def make_model(family: str, *, seed: int = 0, groups: int = 30, size: int = 8) -> Model:
    from scipy import special

    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = rng.integers(-1, 2, len(g)).astype(float)
    u, v = rng.normal(size=(2, groups))
    eta = -0.2 + (0.4 + 0.4 * v[g]) * x + 0.8 * u[g]
    n = rng.integers(1, 6, len(g))
    if family == "poisson":
        y = rng.poisson(np.exp(eta))
    else:
        y = rng.binomial(n if family == "binomial" else 1, special.expit(eta))
    table = pd.DataFrame({"g": g, "x": x, "y": y, "n": n})
    formula, link = CASES[family]
    return Model(formula, table, family=family, link=link)


def find_mode(fit: FamilyFit):
    start = fit.beta, fit.root
    return find_family_mode(fit.patterns, fit.white, fit.structure, start=start)


@pytest.mark.parametrize(
    "family",
    [
        "bernoulli",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("binomial", "poisson")),
    ],
)
def test_joint_mode_is_maximum_likelihood(family: str) -> None:
    fit = make_model(family).ml()
    mode = find_mode(fit)
    assert mode.loglik == pytest.approx(fit.loglik, abs=1e-7)
    assert mode.own_loglik == pytest.approx(fit.loglik, abs=1e-7)
    assert mode.beta == pytest.approx(fit.beta, abs=1e-4)
    assert mode.g == pytest.approx(fit.g, abs=1e-4)
    assert mode.flatness < 1e-7
    assert compare_heights(mode, fit).finding == "same"
    # An estimate that is no optimum, and one with another likelihood, are told.
    moved = replace(fit, beta=fit.beta + 0.1)
    assert compare_heights(find_mode(moved), moved).finding == "likelihoods"
    lower = replace(moved, loglik=find_mode(moved).start_loglik)
    found = compare_heights(find_mode(lower), lower)
    assert found.finding == "reml_short"
    assert "ML stopped short of the maximum: the log-likelihood" in speak_of_ml(found.sentence)


def test_what_cannot_be_reconciled_is_told() -> None:
    model = make_model("bernoulli", groups=8)
    post = model.sample(seed=1, draws=10, tune=20, chains=2)
    with pytest.raises(ArgumentError, match="nagq=3 cannot be reconciled"):
        bhlm.reconcile(model.ml(nagq=3), post)
    with pytest.raises(ArgumentError, match="differ in model or data"):
        bhlm.reconcile(make_model("bernoulli", groups=8, seed=1).ml(), post)


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_gaps_are_explained(family: str) -> None:
    model = make_model(family)
    both = bhlm.reconcile(model.ml(), model.sample(seed=2))
    assert both.verdict in ("agree", "explained")
    assert both.evidence.route == "importance"
    table = both.table
    whole = table["shape"] + table["prior"] + table["monte_carlo"] + table["unexplained"]
    assert whole.to_numpy() == pytest.approx(table["gap"].to_numpy(), abs=1e-9)
    assert (table["prior_residual"] == 0.0).all()
    assert "REML" not in both.summary()
    assert both.to_dict()["reml"]["method"] == "ml"
    effects = both.group_effects()
    assert effects["gap"].abs().max() < 0.5


@pytest.fixture(scope="module")
def sound() -> tuple[Model, FamilyFit, FamilyBayesFit]:
    model = make_model("bernoulli")
    return model, model.ml(), model.sample(seed=3)


def change(post: FamilyBayesFit, *, shift: float = 0.0, spread: float = 1.0) -> FamilyBayesFit:
    """The posterior with the draws of x moved, in posterior SDs, and spread about their mean."""
    data = post.data.copy(deep=True)
    beta = data["posterior"]["beta"].values
    mean, sd = beta[..., 1].mean(), beta[..., 1].std()
    beta[..., 1] = mean + shift * sd + spread * (beta[..., 1] - mean)
    return FamilyBayesFit.of(post.with_data(data))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage", [{"shift": 0.3}, {"spread": 0.5}, {"spread": 2.0}], ids=["bias", "half", "double"]
)
def test_sabotaged_draws_are_found_out(sound, sabotage: dict[str, float]) -> None:
    _, fit, post = sound
    both = bhlm.reconcile(fit, change(post, **sabotage))
    assert both.verdict == "unexplained"
    assert both.evidence.judgement.refuted[0][0] == "x"


@pytest.mark.slow
def test_another_prior_is_found_out(sound) -> None:
    model, fit, post = sound
    other = resolve_priors(Priors(sd=HalfNormal(0.3)), model.patterns, structure=post.structure)
    both = bhlm.reconcile(fit, FamilyBayesFit.of(replace(post, priors=other)))
    assert both.verdict == "unexplained"
    assert any("sd(Intercept|g)" in name for name, _ in both.evidence.judgement.refuted)
