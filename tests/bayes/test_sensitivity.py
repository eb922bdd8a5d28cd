"""Power-scaling: a prior that is too tight is seen, the defaults are not."""

import arviz as az
import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from bhlm.bayes.checks.sensitivity import (
    measure_sensitivity,
    scale_term,
    sum_prior_terms,
    total_loglik,
)
from bhlm.bayes.density import evaluate_priors
from bhlm.bayes.draws import flatten_draws
from bhlm.bayes.priors.families import HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.likelihood.marginal import group_logliks

# A sensitivity is the root of a distance that sums of another order move by 1e-15.
ROUNDING = 1e-7
FORMULA = "y ~ x + (x | g)"


def simulate(seed=1, *, n_groups=40, rows=15):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), rows)
    x = rng.normal(size=len(g))
    u = rng.normal(size=(n_groups, 2)) * [1.0, 0.6]
    y = 1.0 + 2.0 * x + u[g, 0] + u[g, 1] * x + rng.normal(size=len(g))
    return pd.DataFrame({"g": g, "x": x, "y": y})


@pytest.fixture(scope="module")
def model():
    return Model(FORMULA, simulate())


@pytest.fixture(scope="module")
def post(model):
    return model.sample(seed=1)


@pytest.fixture(scope="module")
def tight(model):
    priors = Priors(fixed={"x": Normal(0.0, 0.05)}, sd={"Intercept": HalfNormal(0.1)}, at="zero")
    return model.sample(seed=1, priors=priors).sensitivity()


def test_defaults_do_not_matter(post):
    found = post.sensitivity()
    assert found.ok
    assert found.findings == ()
    assert (found.table["diagnosis"] == "ok").all()
    assert (found.table["likelihood"] > 0.05).sum() >= 6
    assert "No parameter's sensitivity" in found.summary()


def test_table_has_every_parameter(post):
    table = post.sensitivity().table
    assert table.index.tolist() == list(post.draws)
    assert table.columns.tolist() == [
        "prior", "likelihood", "beta", "sd", "lkj", "sigma", "diagnosis",
    ]  # fmt: skip
    assert not table.isna().any(axis=None)


def test_numbers_are_those_of_arviz_for_normal_scores(post):
    table = post.sensitivity().table
    data = post.data.copy(deep=True)
    for variable in ("beta", "sd"):
        values = data["posterior"][variable].values
        ranks = stats.rankdata(values.reshape(-1, 2), axis=0)
        scores = stats.norm.ppf((ranks - 0.375) / (len(ranks) + 0.25))
        data["posterior"][variable].values[:] = scores.reshape(values.shape)
    names = {"beta": ["Intercept", "x"], "sd": ["sd(Intercept|g)", "sd(x|g)"]}
    options = {"prior": {}, "likelihood": {"group": "likelihood"}}
    options |= {term: {"group_var_names": [term]} for term in ("beta", "sd", "lkj", "sigma")}
    for column, option in options.items():
        theirs = az.psense(data, var_names=["beta", "sd"], **option)
        for variable, rows in names.items():
            np.testing.assert_allclose(
                table.loc[rows, column], theirs[variable], rtol=1e-6, atol=ROUNDING
            )


def test_tight_priors_are_seen_by_parameter_and_term(tight):
    table = tight.table
    assert not tight.ok
    assert table.loc["x", "diagnosis"] != "ok"
    assert table.loc["x", "beta"] > 0.05 > table.loc["x", "sigma"]
    assert table.loc["sd(Intercept|g)", "diagnosis"] == "prior-data conflict"
    assert table.loc["sd(Intercept|g)", "sd"] > 0.05 > table.loc["sd(Intercept|g)", "beta"]
    assert table.loc["sd(Residual)", "diagnosis"] == "ok"
    told = " ".join(tight.findings)
    assert "of the fixed effects" in told
    assert "of the SDs" in told
    assert "sd(Residual)" not in told


def test_a_prior_alone_is_called_strong():
    """Five groups say little about an SD that the prior knows."""
    priors = Priors(sd=HalfNormal(0.02))
    fit = Model("y ~ x + (1 | g)", simulate(2, n_groups=5, rows=4)).sample(seed=1, priors=priors)
    table = fit.sensitivity().table
    assert table.loc["sd(Intercept|g)", "diagnosis"] == "strong prior"
    assert "hardly on the data" in fit.sensitivity().summary()
    assert "lkj" not in table.columns


def test_flat_priors_scale_to_themselves(model):
    fit = model.sample(seed=1, priors=Priors.flat())
    table = fit.sensitivity().table
    assert (table["beta"] == 0.0).all()
    assert (table["lkj"] == 0.0).all()
    # Flat on G is the square of each SD on theirs, and is no constant there.
    assert (table["sd"] > 0.0).any()


def test_terms_are_sums_over_parameters(post):
    terms = sum_prior_terms(post)
    each = evaluate_priors(post.priors, post.structure, flatten_draws(post))
    assert set(terms) == set(each)
    for name, values in each.items():
        flat = values.reshape(len(values), -1).sum(axis=1)
        np.testing.assert_allclose(terms[name].ravel(), flat, rtol=1e-10)


def test_loglik_is_the_sum_over_groups(post):
    whole = total_loglik(post)
    logliks = group_logliks(post.white, post.moments.n, flatten_draws(post))
    np.testing.assert_allclose(whole.ravel(), logliks.sum(axis=1), rtol=1e-12)


def test_a_parameter_that_does_not_vary_has_none(post):
    data = post.data.copy(deep=True)
    data["posterior"]["sigma"][:] = 1.0
    table = post.with_data(data).sensitivity().table
    assert np.isnan(table.loc["sd(Residual)", "prior"])
    assert table.loc["sd(Residual)", "diagnosis"] == "ok"


def test_wrong_arguments(model, post):
    with pytest.raises(ArgumentError, match="threshold=0"):
        measure_sensitivity(post, threshold=0)
    prior = model.sample(seed=1, draws=100, prior_only=True)
    with pytest.raises(ArgumentError, match="all that it holds is prior"):
        prior.sensitivity()


def test_monotone_functions_have_one_sensitivity():
    sd = np.abs(np.random.default_rng(0).standard_normal((4, 1000))) + 0.01
    draws = {"sd": sd, "var": sd**2, "log": np.log(sd), "precision": sd**-2}
    found = scale_term(draws, -2.0 * sd)
    assert found == pytest.approx(found[0], rel=1e-9)


def test_a_normal_posterior_keeps_its_sensitivity():
    x = np.random.default_rng(0).standard_normal((4, 1000))
    weights = []
    for alpha in (0.99, 1.01):
        logs = array_stats.power_scale_lw(-x, alpha=alpha, axis=(0, 1))
        weights.append(np.exp(logs) / np.exp(logs).sum())
    raw = float(array_stats.power_scale_sense(x, *weights, 0.99, 1.01))
    assert scale_term({"x": x}, -x)[0] == pytest.approx(raw, rel=0.06)
