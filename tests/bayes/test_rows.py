"""Leave-one-row-out in closed form against dense algebra, its PIT, and replicated rows."""

from dataclasses import replace

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, norm
from simulate import dense_covariance, simulate_rows, simulate_table

from bhlm.bayes.checks.loo import compare_posteriors
from bhlm.bayes.checks.rows import leave_out_rows, stream_rows
from bhlm.bayes.draws import flatten_draws
from bhlm.bayes.priors.families import HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.model import Model
from bhlm.likelihood.marginal import group_logliks
from bhlm.moments.groups import place_own_rows

EXACT = 1e-9  # the closed form and dense solves of at most 80 rows differ by rounding only
UNLIKELY = 1e-3  # chance that a right answer fails a test, of a seed fixed for good
MONTE_CARLO = 0.05  # three standard errors of a row's elpd by 4000 draws and by as many others
QUICK = {"seed": 1, "draws": 100, "tune": 200, "chains": 2}


def stack_rows(fit, rows):
    """Gaps in SDs and log SDs (n, N) of all rows, in their order."""
    at = place_own_rows(fit.moments, rows.labels, rows.y)
    out = np.full((2, len(rows.y), fit.data["posterior"]["sigma"].size), np.nan)
    for part, gap, log_sd in stream_rows(fit, at, rows.x, rows.z, rows.y):
        out[:, part] = gap, log_sd
    return out


def dense_rows(rows, beta, g, sigma):
    """The same at one draw, from the inverse of the n x n covariance."""
    precision = np.linalg.inv(dense_covariance(rows, g, sigma**2))
    sd = 1.0 / np.sqrt(np.diag(precision))
    return precision @ (rows.y - rows.x @ beta) * sd, np.log(sd)


@pytest.mark.parametrize("random", ["1", "x", "x + t", "(1 | g) + (0 + x | g)", "(0 + x | g)"])
def test_closed_form_is_that_of_dense_algebra(random):
    rows = simulate_rows(1, random)
    fit = rows.model.sample(**QUICK)
    gap, log_sd = stack_rows(fit, rows)
    beta, root, sigma = flatten_draws(fit)
    for d in (0, 77, 199):
        expected = dense_rows(rows, beta[d], root[d] @ root[d].T, sigma[d])
        np.testing.assert_allclose(gap[:, d], expected[0], rtol=EXACT, atol=EXACT)
        np.testing.assert_allclose(log_sd[:, d], expected[1], rtol=EXACT, atol=EXACT)


def test_no_intercept_and_far_covariates():
    table = simulate_table(2)
    plain, moved = (
        Model("y ~ x + (1 | g)", table.assign(x=table["x"] + offset)) for offset in (0.0, 1e6)
    )
    bare = Model("y ~ 0 + x + (0 + x | g)", table)
    for model in (bare, moved):
        fit = model.sample(**QUICK)
        labels, x, z, y = model.rows()
        rows = replace(simulate_rows(2), model=model, labels=labels, x=x, z=z, y=y)
        gap, log_sd = stack_rows(fit, rows)
        beta, root, sigma = flatten_draws(fit)
        if model is moved:  # where the dense algebra would lose digits
            beta[:, 0] += 1e6 * beta[:, 1]
            rows = replace(rows, x=plain.rows()[1])
        expected = dense_rows(rows, beta[3], root[3] @ root[3].T, sigma[3])
        # x + 1e6 has 10 digits of x, and the Intercept at zero has 1e6 times the slope.
        limit = 1e-7 if model is moved else EXACT
        np.testing.assert_allclose(gap[:, 3], expected[0], rtol=limit, atol=limit)
        np.testing.assert_allclose(log_sd[:, 3], expected[1], rtol=limit, atol=limit)


def test_a_group_of_one_row_is_a_group_left_out():
    rows = simulate_rows(3, "x")
    fit = rows.model.sample(**QUICK)
    gap, log_sd = stack_rows(fit, rows)
    logliks = group_logliks(fit.white, fit.moments.n, flatten_draws(fit))
    alone = np.flatnonzero(rows.labels == 0)
    assert len(alone) == 1
    np.testing.assert_allclose(
        norm.logpdf(gap[alone[0]]) - log_sd[alone[0]], logliks[:, 0], rtol=EXACT
    )
    row, group = leave_out_rows(fit, *rows.model.rows()), fit.loo(refit=False)
    np.testing.assert_allclose(row.table.loc[alone[0], "elpd"], group.table.loc[0, "elpd"])


def simulate(seed, *, skewed=False, n_groups=40, size=10):
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(n_groups), size)
    x = rng.normal(size=len(g))
    u = rng.normal(size=(n_groups, 2)) * [1.0, 0.5]
    e = rng.exponential(size=len(g)) - 1.0 if skewed else rng.normal(size=len(g))
    return pd.DataFrame({"g": g, "x": x, "y": 1.0 + 2.0 * x + u[g, 0] + u[g, 1] * x + e})


@pytest.fixture(scope="module")
def right():
    model = Model("y ~ x + (x | g)", simulate(4).sample(frac=1.0, random_state=1))
    return model, model.sample(seed=1)


@pytest.fixture(scope="module")
def check(right):
    model, fit = right
    return model.check_rows(fit)


def test_table_is_in_the_order_of_the_rows(right, check):
    model, fit = right
    labels, x, z, y = model.rows()
    table = check.loo.table
    np.testing.assert_array_equal(table["g"], labels)
    order = np.argsort(labels, kind="stable")
    sorted_rows = leave_out_rows(fit, labels[order], x[order], z[order], y[order])
    np.testing.assert_allclose(
        sorted_rows.table["elpd"], table["elpd"].to_numpy()[order], rtol=1e-12
    )
    assert table["khat"].max() < 0.5
    assert check.loo.trusted


def test_rows_are_called_as_the_table_calls_them(right, check):
    model, fit = right
    own = simulate(4).sample(frac=1.0, random_state=1).index
    assert check.loo.table.index.equals(own)
    assert check.data["observed_data"]["row"].to_numpy().tolist() == own.tolist()
    rows = model.rows()
    for index in (
        pd.Index([f"pupil {i}" for i in own], name="who"),
        pd.MultiIndex.from_arrays([rows[0], range(len(own))]),
    ):
        assert leave_out_rows(fit, *rows, index=index).table.index.equals(index)
    assert "Leave-one-row-out: 400 rows" in check.loo.summary()


def test_rows_are_streamed(right, check):
    model, fit = right
    table = leave_out_rows(fit, *model.rows(), held=7 * 4000).table
    np.testing.assert_allclose(table["elpd"], check.loo.table["elpd"], rtol=1e-12)
    np.testing.assert_allclose(table["pit"], check.loo.table["pit"], rtol=1e-12)


def test_pit_is_uniform_if_the_model_holds(check):
    assert kstest(check.loo.table["pit"], "uniform").pvalue > UNLIKELY
    assert check.ok
    assert "PIT is uniform" in check.summary()


def test_pit_sees_rows_that_are_not_normal():
    model = Model("y ~ x + (x | g)", simulate(5, skewed=True))
    check = model.check_rows(model.sample(seed=1, draws=300))
    assert not check.ok
    assert "is not uniform" in check.outside[0]
    # Exponential errors: no row far below its group, and more than 2.5 % far above.
    pit = check.loo.table["pit"]
    assert (pit < 0.025).mean() < 0.025 < (pit > 0.975).mean()


@pytest.mark.slow
@pytest.mark.parametrize("row", [3, 250])
def test_elpd_is_that_of_a_fit_without_the_row(row):
    """With given priors, that do not change with the data, and nothing centred."""
    table = simulate(6)
    table.loc[3, "y"] += 3.0
    priors = Priors(fixed=Normal(0.0, 5.0), sd=HalfNormal(2.0), sigma=HalfNormal(2.0))
    model = Model("y ~ 1 + (1 | g)", table.assign(y=table["y"] - 2.0 * table["x"]))
    fit = model.sample(seed=1, priors=priors)
    labels, x, z, y = model.rows()
    rest = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": labels, "y": y}).drop(index=row))
    other = rest.sample(seed=2, priors=priors)
    rows = replace(simulate_rows(2), model=model, labels=labels, x=x, z=z, y=y)
    # The parameters are those of the fit without the row; the closed form takes the row's
    # group from the moments, where it is.
    gap, log_sd = stack_rows(fit.with_data(other.data), rows)
    exact = np.log(np.mean(np.exp(norm.logpdf(gap[row]) - log_sd[row])))
    assert abs(model.loo_rows(fit).table.loc[row, "elpd"] - exact) < MONTE_CARLO


def test_replicates_have_the_effects_of_their_draw(right, check):
    model, fit = right
    _, x, z, y = model.rows()
    data = check.data
    name = fit.moments.response
    drawn = data["posterior_predictive"][name]
    assert drawn.dims == ("chain", "draw", "row")
    assert drawn.shape == (4, 25, 400)
    np.testing.assert_array_equal(data["observed_data"][name], y)
    along = np.linspace(0, 999, 25).round().astype(int)
    posterior = fit.data["posterior"].dataset.isel(draw=along)
    at = place_own_rows(fit.moments, model.rows()[0], y)
    u = posterior["u"].values[:, :, at]
    fitted = posterior["beta"].values @ x.T + np.einsum("cdik,ik->cdi", u, z)
    left = (drawn.values - fitted) / posterior["sigma"].values[..., None]
    assert kstest(left.ravel(), "norm").pvalue > UNLIKELY
    az.plot_ppc_dist(data, backend="none")


def test_seeds(check):
    drawn = check.data["posterior_predictive"]["y"].values
    np.testing.assert_array_equal(drawn, check.data["posterior_predictive"]["y"].values)
    other = replace(check, seed=7).data["posterior_predictive"]["y"].values
    assert not np.array_equal(drawn, other)


@pytest.mark.slow
def test_models_are_compared_by_row(check):
    plain = Model("y ~ x + (1 | g)", simulate(4).sample(frac=1.0, random_state=1))
    loos = {"slopes": check.loo, "plain": plain.loo_rows(plain.sample(seed=1))}
    result = compare_posteriors(loos, by="row")
    assert result.index[0] == "slopes"
    assert result.loc["plain", "elpd_diff"] < -2 * result.loc["plain", "dse"]
    swapped = Model("y ~ x + (1 | g)", simulate(4))
    loos["plain"] = swapped.loo_rows(swapped.sample(**QUICK))
    with pytest.raises(DataError, match="different rows"):
        compare_posteriors(loos, by="row")


def test_wrong_rows(right):
    model, fit = right
    labels, x, z, y = model.rows()
    with pytest.raises(DataError, match="99 is not a g of the fit"):
        leave_out_rows(fit, np.where(labels == 3, 99, labels), x, z, y)
    with pytest.raises(DataError, match="has 9 rows"):
        leave_out_rows(fit, labels[1:], x[1:], z[1:], y[1:])
    with pytest.raises(DataError, match="give the rows that the model was fitted to"):
        leave_out_rows(fit, labels, x, z, y + (labels == 5))
    with pytest.raises(DataError, match="has no rows"):
        Model("y ~ x + (x | g)", model.moments).loo_rows(fit)
    with pytest.raises(ArgumentError, match="draws=0"):
        model.check_rows(fit, draws=0)
    with pytest.raises(ArgumentError, match="seed=-2"):
        model.check_rows(fit, seed=-2)
    prior = model.sample(**QUICK, prior_only=True)
    with pytest.raises(ArgumentError, match="has not seen the response"):
        model.loo_rows(prior)
