"""Sampling: repeatable, right where the answer is known, loud where it fails."""

import numpy as np
import pandas as pd
import pytest
from marginal_columns import evaluate_marginal
from scipy import stats
from simulate import simulate_table

from bhlm.bayes.draws import STREAM, Settings, flatten_draws
from bhlm.bayes.priors.families import Exponential, Flat, HalfNormal, Normal
from bhlm.bayes.priors.resolve import Priors
from bhlm.bayes.sampling import sample_moments, settle
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import lower_roots
from bhlm.likelihood.marginal import total_products

TABLE_4_4 = "hsb_random_coefficient"
EXACT = 1e-10  # two orders of summation


@pytest.fixture(scope="module")
def table_4_4(hsb_model):
    return hsb_model


@pytest.fixture(scope="module")
def post(hsb_post):
    return hsb_post


def test_more_draws_than_memory_holds_are_refused_first():
    with pytest.raises(ArgumentError, match=r"draws=10,000,000 of chains=1024 take .* GiB"):
        settle(Settings(draws=10_000_000, chains=1024), 10)


def test_the_posterior_of_table_4_4_is_near_reml(table_4_4, post):
    estimates, reml = post.estimates, table_4_4.reml().estimates
    for name in ("Intercept", "cwc(ses)"):
        gap = estimates.loc[name, "mean"] - reml.loc[name, "estimate"]
        assert abs(gap) < 0.1 * estimates.loc[name, "sd"]
    assert post.converged
    assert (estimates["rhat"] <= 1.01).all()
    assert (estimates[["ess_bulk", "ess_tail"]] >= 400).all(axis=None)


def test_one_seed_gives_one_run(table_4_4, post):
    again = table_4_4.sample(seed=1)
    for name in post.data["posterior"].data_vars:
        np.testing.assert_array_equal(post.data["posterior"][name], again.data["posterior"][name])
    other = table_4_4.sample(seed=2)
    assert not np.array_equal(post.data["posterior"]["beta"], other.data["posterior"]["beta"])


def test_dimensions_and_scales(post):
    data = post.data["posterior"]
    assert data["u"].dims == ("chain", "draw", "school", "coefficient")
    assert data["u"].shape == (4, 1000, 160, 2)
    assert data["beta"].coords["fixed"].values.tolist() == ["Intercept", "cwc(ses)"]
    g = data["G"].values
    np.testing.assert_allclose(data["sd"], np.sqrt(np.einsum("cdii->cdi", g)), rtol=1e-12)
    outer = data["sd"].values[..., :, None] * data["sd"].values[..., None, :]
    np.testing.assert_allclose(data["corr"], g / outer, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(g).min() > 0
    draws = post.draws
    np.testing.assert_allclose(draws["sd(Residual)"] ** 2, draws["var(Residual)"])


def test_arviz_takes_the_data_as_it_is(post):
    import arviz as az

    table = az.summary(post.data, var_names=["beta", "sd", "sigma"], ci_prob=0.95)
    assert len(table) == 5
    assert not post.data["sample_stats"]["diverging"].any()


def test_effects_agree_with_empirical_bayes(table_4_4, post):
    exact, bayes = table_4_4.reml().group_effects(), post.group_effects()
    assert exact["school"].equals(bayes["school"])
    assert np.corrcoef(exact["estimate"], bayes["mean"])[0, 1] > 0.999
    # Uncertainty about the parameters can only widen the effects on average.
    assert bayes["sd"].mean() > exact["sd"].mean()


def test_posterior_matches_numerical_integration():
    """One variance, known answer: the posterior of (sd, sigma) on a fine grid."""
    table = simulate_table(3, n_groups=12)
    model = Model("y ~ 1 + (1 | g)", table)
    priors = Priors(fixed=Flat(), sd=Exponential(0.7), sigma=HalfNormal(3))
    post = model.sample(seed=4, priors=priors, draws=2000)
    labels, x, _, y = model.rows()
    same = labels[:, None] == labels[None, :]
    sds, sigmas = np.linspace(1e-3, 8, 161), np.linspace(0.3, 5, 121)
    weight = np.empty((len(sds), len(sigmas)))
    for i, sd in enumerate(sds):
        values, vectors = np.linalg.eigh(same * sd**2)
        one, rotated = vectors.T @ x[:, 0], vectors.T @ y
        for j, sigma in enumerate(sigmas):
            v = values + sigma**2
            precision = np.sum(one**2 / v)
            mean = np.sum(one * rotated / v) / precision
            rss = np.sum((rotated - one * mean) ** 2 / v)
            weight[i, j] = -0.5 * (np.sum(np.log(v)) + np.log(precision) + rss)
    weight += stats.expon(scale=1 / 0.7).logpdf(sds)[:, None]
    weight += stats.halfnorm(scale=3).logpdf(sigmas)
    weight = np.exp(weight - weight.max())
    weight /= weight.sum()
    estimates = post.estimates
    for name, grid, axis in (("sd(Intercept|g)", sds, 1), ("sd(Residual)", sigmas, 0)):
        marginal = weight.sum(axis=axis)
        mean = float(grid @ marginal)
        spread = float(np.sqrt((grid - mean) ** 2 @ marginal))
        error = estimates.loc[name, "mcse_mean"]
        # The grid itself is good to about a thousandth of an SD.
        assert abs(estimates.loc[name, "mean"] - mean) < 4 * error + 2e-3 * spread
        assert estimates.loc[name, "sd"] == pytest.approx(spread, rel=0.06)


def test_prior_only_draws_the_prior():
    model = Model("y ~ x + (1 | g)", simulate_table(5))
    priors = Priors(fixed=Normal(0, 2), sd=Exponential(2), sigma=HalfNormal(3))
    draws = model.sample(seed=6, priors=priors, prior_only=True).draws
    assert draws["sd(Intercept|g)"].mean() == pytest.approx(0.5, rel=0.1)
    assert draws["sd(Residual)"].mean() == pytest.approx(3 * np.sqrt(2 / np.pi), rel=0.1)
    assert draws["x"].std() == pytest.approx(2.0, rel=0.1)


def test_too_short_a_run_fails_loudly(caplog):
    post = Model("y ~ x + (x | g)", simulate_table(7)).sample(seed=8, draws=50, tune=5)
    assert not post.converged
    assert "ESS" in " ".join(post.diagnostics.failures)
    logged = [record.getMessage() for record in caplog.records if record.name == "bhlm"]
    assert [text.split("verdict: ")[1] for text in logged] == list(post.diagnostics.failures)
    assert "the posterior of 'y ~ x + (x | g)' failed" in logged[0]


def test_two_groups_leave_an_sd_to_the_prior_unless_the_user_states_one():
    """Two groups do not bound an SD: its posterior has the tail of the default prior."""
    table = simulate_table(17, n_groups=2, largest=30)
    model = Model("y ~ x + (1 | g)", table)
    post = model.sample(seed=1)
    (text,) = post.diagnostics.prior_bound
    assert not any("bound" in failure for failure in post.diagnostics.failures)
    assert text.startswith("2 groups do not bound sd(Intercept|g): the upper tail is that of the")
    assert "Priors(sd=...)" in text
    stated = model.sample(seed=1, priors=Priors(sd=HalfNormal(2)))
    assert stated.diagnostics.prior_bound == ()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ({"draws": 0}, "draws=0 is not a count; give a positive integer"),
        ({"chains": 2.5}, "chains=2.5 is not a count; give a positive integer"),
        ({"target_accept": 1.0}, "target_accept=1.0 must lie between 0 and 1"),
        ({"covariance": "toeplitz"}, "covariance='toeplitz' is not known"),
    ],
)
def test_bad_arguments_are_refused(argument, expected):
    model = Model("y ~ x + (x | g)", simulate_table(9))
    with pytest.raises(ArgumentError) as error:
        model.sample(seed=1, **argument)
    assert expected in str(error.value)


@pytest.mark.parametrize("name", ["chain", "fixed", "coefficient", "dimension", "a/b", "."])
def test_a_group_column_may_have_any_name(name):
    table = simulate_table(11).rename(columns={"g": name})
    post = Model(f"y ~ x + (1 | `{name}`)", table).sample(seed=1, draws=20, tune=20)
    assert post.data["posterior"]["u"].dims == ("chain", "draw", "group", "coefficient")


def test_the_log_likelihood_is_that_of_each_group(table_4_4, post):
    held = post.data["log_likelihood"]["loglik"]
    assert held.dims == ("chain", "draw", "school")
    beta, root, sigma = flatten_draws(post)
    total = total_products(post.white)
    for at in (0, 1234, 3999):
        whole = evaluate_marginal(post.white, total, beta[at], root[at], sigma[at])[0]
        assert held.values.reshape(4000, -1)[at].sum() == pytest.approx(whole, rel=EXACT)


def test_effects_of_chosen_groups_are_those_of_all(post):
    chosen = post.effect_draws([9586, 1224])
    held = post.data["posterior"]["u"].sel(school=[9586, 1224])
    np.testing.assert_array_equal(chosen, held)
    assert chosen.coords["coefficient"].values.tolist() == ["Intercept", "cwc(ses)"]
    with pytest.raises(DataError, match="7 is not a school; the labels are in"):
        post.effect_draws([7])


def test_effects_that_are_not_held_are_drawn_alike():
    """Beyond so many numbers u and the log-likelihood are left out, and drawn when asked for."""
    model = Model("y ~ x + (x | g)", simulate_table(12, n_groups=STREAM + 30, largest=4))
    held = model.sample(seed=1, draws=60, tune=60)
    settings = Settings(draws=60, tune=60)
    left = BayesFit.of(sample_moments(model.moments, seed=1, settings=settings, held=1000))
    assert "u" not in left.data["posterior"]
    assert "log_likelihood" not in left.data
    np.testing.assert_array_equal(left.effect_draws([3, 270, 8]), held.effect_draws([3, 270, 8]))
    pd.testing.assert_frame_equal(left.group_effects(), held.group_effects(), rtol=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_lower_roots_give_the_covariance_back(sign):
    rng = np.random.default_rng(13)
    root = np.tril(rng.normal(size=(50, 3, 3))) * [1.0, 1e-5, 1e4]
    root[:10, 1] = sign * root[:10, 0] * 3.0  # correlation +-1
    root[10:20, 2] = 0.0  # an SD of zero
    g = root @ root.swapaxes(1, 2)
    found = lower_roots(g)
    assert not np.triu(found, 1).any()
    scale = np.sqrt(np.einsum("nii->ni", g))
    error = np.abs(found @ found.swapaxes(1, 2) - g)
    assert (error <= 1e-14 * scale[:, :, None] * scale[:, None, :]).all()


def test_a_prior_run_has_no_likelihood():
    model = Model("y ~ x + (1 | g)", simulate_table(14))
    post = model.sample(seed=1, draws=20, tune=20, prior_only=True)
    assert "log_likelihood" not in post.data


def test_a_prior_run_has_random_effects_of_the_prior():
    """Their draws know nothing of the data: they are the SD's draw times a standard normal."""
    model = Model("y ~ x + (1 | g)", simulate_table(14, n_groups=40))
    post = model.sample(seed=1, draws=500, prior_only=True, priors=Priors(sd=HalfNormal(2)))
    scaled = post.effect_draws().values[..., 0] / post.data["posterior"]["sd"].values
    assert stats.kstest(scaled.ravel()[::7], stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("slope", "n_groups", "asked", "taken"),
    [
        (0.6, 1000, None, 0.7),
        (0.6, 1000, 0.8, 0.8),
        (0.0, 1000, None, 0.9),  # a variance next to zero, whose posterior is not normal
        (0.6, 900, None, 0.9),
    ],
)
def test_steps_are_long_where_many_groups_make_the_posterior_normal(slope, n_groups, asked, taken):
    rng = np.random.default_rng(8)
    g = np.repeat(np.arange(n_groups), 8)
    x = rng.normal(size=len(g))
    u = rng.normal(size=(n_groups, 2)) * [0.8, slope]
    y = 1.0 + u[g, 0] + (0.5 + u[g, 1]) * x + rng.normal(size=len(g))
    model = Model("y ~ x + (x | g)", pd.DataFrame({"g": g, "x": x, "y": y}))
    post = model.sample(seed=1, method="nuts", target_accept=asked, draws=400)
    assert post.settings.target_accept == taken
    assert post.data["sample_stats"]["diverging"].sum() == 0
    if taken == 0.7:
        gap = post.estimates["mean"] - model.reml().estimates["estimate"]
        assert (gap.abs() < 0.2 * post.estimates["sd"]).all()
