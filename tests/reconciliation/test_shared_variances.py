"""Coefficients that share an SD are reconciled with the same promises as those that do not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bhlm.bayes.density import build_density
from bhlm.bayes.priors.families import HalfNormal
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.fits.model import Model
from bhlm.reconciliation.comparison import compare
from bhlm.reconciliation.flat_mode import find_flat_mode

# Between two maxima of one function, relative to a parameter's posterior SD.
SAME = 1e-4


@pytest.fixture(scope="module")
def model() -> Model:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(25), 8)
    x = rng.normal(size=len(g))
    u = 0.7 * rng.normal(size=(25, 2))[g]
    y = 1.0 + 0.5 * x + u[:, 0] + u[:, 1] * x + rng.normal(size=len(g))
    return Model("y ~ x + (x | g)", pd.DataFrame({"g": g, "x": x, "y": y}))


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["identity", "exchangeable"])
def test_shared_variances_are_reconciled(model, covariance):
    reml = model.reml(covariance=covariance)
    post = model.sample(seed=1, draws=500, tune=500, covariance=covariance)
    both = compare(reml, post)
    assert both.verdict in ("agree", "explained")
    assert both.evidence.identity.finding == "same"
    assert both.evidence.judgement.sound
    # The search of its own ends where REML did, and the sampler's flat density is flat.
    mode = both.evidence.mode
    assert abs(mode.own_loglik - mode.start_loglik) < 1e-6
    assert mode.flatness < 1e-9
    table = both.table
    assert (table["unexplained"].abs() < SAME * table["sd"]).all()
    shares = table[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1)
    np.testing.assert_allclose(shares, table["gap"], atol=1e-9)
    assert len(both.curves()["parameter"].unique()) == (4 if covariance == "identity" else 5)
    # Draws of another posterior than is claimed are refuted.
    other = resolve_priors(Priors(sd=HalfNormal(0.2)), model.moments, structure=post.structure)
    wrong = compare(reml, replace(post, priors=other))
    assert wrong.verdict == "unexplained"
    assert wrong.evidence.judgement.refuted


def test_a_correlation_at_its_bound_is_found():
    """The slope is the intercept: REML stands at r = 1, and the search agrees."""
    rows = np.arange(25).repeat(8)
    rng = np.random.default_rng(5)
    x, u = rng.normal(size=200), rng.normal(size=25)[rows]
    table = pd.DataFrame({"g": rows, "x": x, "y": u + u * x + rng.normal(size=200)})
    at_bound = Model("y ~ x + (x | g)", table)
    reml = at_bound.reml(covariance="exchangeable")
    flat = resolve_priors(Priors.flat(), at_bound.moments, structure=reml.structure)
    density = build_density(reml.white, flat, reml.structure)
    mode = find_flat_mode(density, reml.white, structure=reml.structure)
    assert mode.loglik == pytest.approx(reml.loglik, abs=1e-6)
    np.testing.assert_allclose(mode.g, reml.g, atol=1e-4)
