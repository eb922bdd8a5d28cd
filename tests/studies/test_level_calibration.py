"""Calibration of several grouping factors: simulated cells, ranks, whole studies."""

from dataclasses import replace

import numpy as np
import pytest
from level_designs import FORMULAS, fit_design, make_table, spell_out

from bhlm.bayes.draws import Settings
from bhlm.bayes.level_draws import iterate_lams
from bhlm.bayes.priors.families import Exponential, Gamma, HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.likelihood.levels import score_parameters
from bhlm.likelihood.parameters import Parameters
from bhlm.studies.calibration.levels import simulate_cells
from bhlm.studies.calibration.run import calibrate, plan_study, quantity_names

PRIORS = Priors(fixed=Normal(0, 1), sd=Gamma(2, 2), sigma=Exponential(1))
FAST = {"seed": 3, "n_draws": 39, "thin": 6, "tune": 300, "priors": PRIORS}
SETTINGS = Settings(draws=100, tune=100, chains=1, target_accept=0.9)


def plan(kind: str):
    cells = fit_design(kind).moments
    return plan_study(cells, SETTINGS, priors=PRIORS, covariance=None, seed=1, n_draws=10, thin=10)


@pytest.mark.parametrize("kind", ["two nested", pytest.param("crossed", marks=pytest.mark.slow)])
def test_simulated_cells_have_the_models_moments(kind):
    """Of y = X beta + Z u + e by dense algebra: mean X beta, and E r'r = tr V, over many."""
    study = plan(kind)
    fit = fit_design(kind)
    dense = spell_out(kind)
    n, p = dense.x.shape
    root = np.zeros((1, study.structure.q, study.structure.q))
    for span, g in zip(study.structure.spans, fit.gs, strict=True):
        root[0, span, span] = np.linalg.cholesky(g)
    sigma = np.sqrt([fit.sigma2])
    true = Parameters(fit.beta[None], root, sigma)
    rng = np.random.default_rng(4)
    drawn = [simulate_cells(study.white, study.simulator, true, rng) for _ in range(250)]
    ols = np.array([each.ols for each in drawn])
    projection = np.linalg.pinv(dense.x)
    covariance = projection @ dense.v @ projection.T
    z = (ols.mean(axis=0) - fit.beta) / np.sqrt(np.diag(covariance) / len(drawn))
    assert np.abs(z).max() < 4.0
    np.testing.assert_allclose(ols.var(axis=0) / np.diag(covariance), 1.0, atol=0.4)
    rss = np.array([each.scale**2 for each in drawn]) * (n - p)
    left = np.eye(n) - dense.x @ projection
    expected, spread = np.trace(left @ dense.v), 2.0 * np.trace(left @ dense.v @ left @ dense.v)
    assert abs(rss.mean() - expected) < 4.0 * np.sqrt(spread / len(drawn))


def test_a_likelihood_does_not_depend_on_what_it_is_stated_about():
    """The blocks of simulated data are those of the same data under any whitening."""
    study = plan("two nested")
    white = study.white
    true = Parameters(white.ols[None] + 0.3, np.eye(3)[None] * 0.8, np.array([1.7]))
    drawn = simulate_cells(white, study.simulator, true, np.random.default_rng(1))
    p, q = white.p, white.q
    # Back to the first whitening's y~ = (y - X b) / s.
    loadings = np.eye(q + p + 1)
    shift = np.linalg.solve(white.fixed, drawn.ols - white.ols) / white.scale
    loadings[q:, -1] = np.append(shift, drawn.scale / white.scale)
    blocks = loadings.T @ drawn.blocks @ loadings
    back = replace(study.simulator, blocks=blocks).arrange()
    values = []
    for one, levels in ((drawn, drawn.levels), (white, back)):
        (at,) = iterate_lams(replace(one, levels=levels), study.structure, true)
        loglik = score_parameters(levels, *at, n=one.n).loglik
        values.append(loglik - one.n * np.log(one.scale))
    assert values[0] == pytest.approx(values[1], rel=1e-10)


def test_a_study_of_several_factors_names_what_it_ranks():
    names = quantity_names(plan("crossed"))
    assert "var(x|rater)" in names
    assert "corr(Intercept,x|rater)" in names
    assert names[-1] == "log posterior density"
    with pytest.raises(ArgumentError, match="evaluate= is not there yet"):
        calibrate(fit_design("crossed").moments, seed=1, evaluate=lambda x, density: (0.0, x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["three nested", "crossed"])
def test_three_hundred_replicates_pass(kind):
    model = Model(FORMULAS[kind], make_table(kind))
    found = calibrate(model, replicates=300, processes=1, **FAST)
    assert found.ok, found.summary()
    factors = [f"'{name}'" for name in model.cells.groups]
    assert all(name in found.summary() for name in factors)
    assert found.to_dict()["model"]["groups"] == model.cells.groups


@pytest.mark.slow
def test_a_wrong_prior_of_one_factor_is_caught(monkeypatch):
    """Data are drawn with the raters' SDs twice as large as the posterior takes them to be."""
    import bhlm.studies.calibration.run as run

    def wrong(study, *args):
        narrow = Priors(fixed=Normal(0, 1), sd={"rater": HalfNormal(0.3)}, sigma=Exponential(1))
        own = plan_study(
            study.moments, SETTINGS, priors=narrow, covariance=None, seed=1, n_draws=10, thin=10
        )
        return real(replace(study, priors=own.priors), *args)

    real = run._sample
    monkeypatch.setattr(run, "_sample", wrong)
    found = calibrate(fit_design("crossed").moments, replicates=60, processes=1, **FAST)
    assert not found.ok
    assert any("rater" in failure for failure in found.failures)
