"""Posteriors of nested factors with weights of rows and with known variances."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bhlm
from bhlm.bayes.existence import judge_existence
from bhlm.bayes.level_density import build_levels, constrain_levels, log_levels
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.errors import ArgumentError
from bhlm.likelihood.cells import whiten_cells

pytestmark = pytest.mark.wide
FORMULA = "y ~ x + (x | town) + (1 | town:school)"
EXACT = 1e-9
GIVEN = {
    "known": {"known_variance": "v"},
    "precision": {"weights": "v"},
    "frequency": {"weights": bhlm.FrequencyWeights("k")},
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    town, school = np.repeat(np.arange(9), 6), np.repeat(np.arange(18), 3)
    x = rng.normal(size=54)
    y = 1.0 + x + rng.normal(size=9)[town] + rng.normal(size=18)[school] + rng.normal(size=54)
    return pd.DataFrame(
        {"town": town, "school": school, "x": x, "y": y, "v": rng.uniform(0.3, 3.0, 54)}
        | {"k": rng.integers(1, 4, 54)}
    )


def open_density(table, given, **more):
    cells = bhlm.Model(FORMULA, table, **given).cells
    structure = arrange_prior(cells, None)
    white = whiten_cells(cells, structure.parts)
    priors = resolve_priors(None, cells, structure=structure)
    return cells, structure, white, priors, build_levels(white, priors, structure, **more)


def dense_loglik(table, kind, parameters):
    """Return the log density of all rows, rows that count k times written k times."""
    rows = table.loc[table.index.repeat(table["k"])] if kind == "frequency" else table
    beta, root, sigma = (part[0] for part in parameters)
    g = root @ root.T
    z = np.column_stack([np.ones(len(rows)), rows["x"]])
    town, school = (
        np.equal.outer(rows[name].values, rows[name].values) for name in rows.columns[:2]
    )
    own = {
        "known": rows["v"],
        "precision": sigma**2 / rows["v"],
        "frequency": np.full(len(rows), sigma**2),
    }[kind]
    v = town * (z @ g[:2, :2] @ z.T) + school * g[2, 2] + np.diag(own)
    return stats.multivariate_normal(z @ beta, v).logpdf(rows["y"])


@pytest.mark.parametrize("kind", GIVEN)
def test_likelihood_is_that_of_dense_normals(kind, table):
    _, _, white, priors, density = open_density(table, GIVEN[kind])
    prior = open_density(table, GIVEN[kind], use_likelihood=False)[-1]
    assert density.dimension == 2 + 3 + 1 + (kind != "known")
    rng = np.random.default_rng(1)
    gaps = []
    for _ in range(3):
        x = 0.4 * rng.normal(size=density.dimension)
        own = log_levels(x, density)[0] - log_levels(x, prior)[0]
        at = constrain_levels(density, white, priors.frame, x[None])
        gaps.append(own - dense_loglik(table, kind, at))
    np.testing.assert_allclose(gaps, gaps[0], EXACT, EXACT)
    # What is left is half the sum of log w, which no parameter changes.
    expected = {
        "known": 0.5 * np.log(table["v"]).sum(),
        "precision": -0.5 * np.log(table["v"]).sum(),
        "frequency": 0.0,
    }[kind]
    assert gaps[0] == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("kind", GIVEN)
def test_gradient_is_that_of_the_value(kind, table):
    density = open_density(table, GIVEN[kind])[-1]
    x = 0.3 * np.random.default_rng(2).normal(size=density.dimension)
    found = log_levels(x, density)[1]
    for i in range(len(x)):
        step = np.zeros(len(x))
        step[i] = 1e-5
        slope = (log_levels(x + step, density)[0] - log_levels(x - step, density)[0]) / 2e-5
        assert found[i] == pytest.approx(slope, rel=1e-6, abs=1e-6)


def test_a_known_residual_variance_has_no_tail(table):
    _, structure, white, priors, _ = open_density(table, GIVEN["known"])
    assert judge_existence(white, structure, priors).sigma == np.inf


def test_a_pseudo_posterior_of_several_factors_is_refused(table):
    weights = bhlm.SamplingWeights(rows="v")
    model = bhlm.Model(FORMULA, table, weights=weights)
    with pytest.raises(ArgumentError, match="pseudo-posterior of several grouping factors"):
        model.sample(seed=1)


def test_pymc_has_no_residual_to_sample_where_it_is_known(table):
    model = bhlm.Model(FORMULA, table, **GIVEN["known"])
    stated = model.pymc()
    assert "sigma" not in stated.named_vars
    assert np.isfinite(stated.compile_logp()(stated.initial_point()))
    with pytest.raises(ArgumentError, match="form='conditional' is not there with known variances"):
        model.pymc(form="conditional")


@pytest.fixture(scope="module")
def calendar() -> bhlm.Model:
    table = bhlm.load_dataset("school_calendar")
    formula = "effect ~ 1 + (1 | district) + (1 | study)"
    return bhlm.Model(formula, table, known_variance="variance")


@pytest.fixture(scope="module")
def both(calendar) -> bhlm.Reconciliation:
    return bhlm.reconcile(calendar.reml(), calendar.sample(seed=1))


@pytest.mark.slow
def test_studies_in_districts_are_reconciled(both):
    assert both.verdict in ("agree", "explained")
    assert "sigma" not in both.post.data["posterior"]
    assert "var(Residual)" not in both.post.estimates.index
    text = repr(both) + both.summary()
    assert "prior_residual" not in text


@pytest.mark.slow
@pytest.mark.parametrize("ask", ["icc", "r_squared", "check"])
def test_what_rests_on_a_residual_variance_is_refused(ask, both, calendar):
    with pytest.raises(ArgumentError, match="is not there with known variances") as told:
        getattr(both.post, ask)()
    assert "\n" not in str(told.value)
    with pytest.raises(ArgumentError, match="a check of single rows is not there"):
        calendar.check_rows(both.post)


@pytest.mark.slow
def test_draws_of_known_variances_are_saved_and_shown(both, tmp_path):
    both.post.save(tmp_path / "post.nc")
    again = bhlm.load(tmp_path / "post.nc")
    pd.testing.assert_frame_equal(again.estimates, both.post.estimates)
    both.dashboard(tmp_path / "page.html")
    assert "could not be computed" not in (tmp_path / "page.json").read_text(encoding="utf-8")
