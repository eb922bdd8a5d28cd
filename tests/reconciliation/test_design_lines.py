"""What the design says of how the two answers relate, a claim after the other, by numbers.

Dense algebra stands here for the likelihood, and sums over grids for its integrals. What is swept
over many models stands elsewhere: symmetries in bayes/test_recoding, blame and advice in
test_swaps, wrong draws in test_sabotage and test_joint.
"""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from few_groups import simulate_model
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from small_groups import draw_groups
from sound_draws import integrate, make_fit, resample

from bhlm.bayes.priors.resolve import Priors
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.reconciliation.comparison import compare
from bhlm.reconciliation.split import NEGLIGIBLE

FORMULA = "y ~ x + (x | g)"
STEP = 1e-4  # of central differences, relative
DIFFERENCE = 1e-5  # what they leave of a gradient of zero, in log-likelihood per unit of log
PARTS = ("scale", "sd", "corr", "residual", "fixed", "interaction")


@cache
def make_table():
    return draw_groups(12, (4, 7, 9), sd=(0.8, 0.5), seed=3)


@cache
def fit_small():
    return Model(FORMULA, make_table()).reml()


@cache
def prepare(q):
    """The reconciliation of sound draws of a posterior, and the weighted draws themselves."""
    model = simulate_model(20, q, 1)
    exact = integrate(model.moments, draws=16_000, seed=7)
    return compare(model.reml(), make_fit(exact, resample(exact, seed=2))), exact


def build_dense(table, g, sigma2):
    """Return y (n,), X (n, 2) and the covariance V (n, n) of y."""
    x = np.column_stack([np.ones(len(table)), table["x"]])
    same = table["g"].to_numpy()[:, None] == table["g"].to_numpy()
    return table["y"].to_numpy(), x, same * (x @ g @ x.T) + sigma2 * np.eye(len(table))


def integrate_likelihood(table, g, sigma2):
    """Return the log of the likelihood integrated over the fixed effects, summed over a grid."""
    y, x, cov = build_dense(table, g, sigma2)
    precision = x.T @ np.linalg.solve(cov, x)
    middle = np.linalg.solve(precision, x.T @ np.linalg.solve(cov, y))
    root = np.linalg.inv(np.linalg.cholesky(precision)).T
    nodes = np.linspace(-8.0, 8.0, 81)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    law = multivariate_normal(np.zeros(len(y)), cov)
    height = law.logpdf(y - (middle + grid @ root.T) @ x.T)
    area = (nodes[1] - nodes[0]) ** 2 * abs(np.linalg.det(root))
    return float(logsumexp(height) + np.log(area))


def test_the_restricted_likelihood_is_the_likelihood_less_its_fixed_effects():
    reml = fit_small()
    assert integrate_likelihood(make_table(), reml.g, reml.sigma2) == pytest.approx(
        reml.loglik, abs=1e-8
    )


def test_reml_is_the_mode_of_the_flat_posterior():
    """In every direction of (G, sigma^2) the integrated likelihood is flat there, and falls."""
    table, reml = make_table(), fit_small()
    assert not reml.singular
    root = np.linalg.cholesky(reml.g)

    def measure(at):
        turn = np.array([[np.exp(at[0]), 0.0], [at[1], np.exp(at[2])]])
        g = root @ turn @ turn.T @ root.T
        return integrate_likelihood(table, g, reml.sigma2 * np.exp(at[3]))

    top = measure(np.zeros(4))
    for direction in np.eye(4):
        ahead, behind = (measure(sign * STEP * direction) for sign in (1.0, -1.0))
        assert abs(ahead - behind) / (2.0 * STEP) < DIFFERENCE
        assert measure(0.1 * direction) < top
        assert measure(-0.1 * direction) < top


@pytest.mark.parametrize("q", [1, 2, 3])
def test_the_samplers_own_density_has_its_flat_mode_there(q):
    both, _ = prepare(q)
    assert both.evidence.identity.finding == "same"
    np.testing.assert_allclose(both.evidence.mode.g, both.reml.g, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(both.evidence.mode.beta, both.reml.beta, rtol=1e-5, atol=1e-8)


def test_flat_posterior_means_of_fixed_effects_are_averaged_gls():
    table = make_table()
    exact = integrate(Model(FORMULA, table).moments, Priors.flat(), draws=512)
    gls = []
    for g, sigma in zip(exact.at.g, exact.at.sigma, strict=True):
        y, x, cov = build_dense(table, g, sigma**2)
        solved = np.linalg.solve(cov, np.column_stack([x, y]))
        gls.append(np.linalg.solve(x.T @ solved[:, :2], x.T @ solved[:, 2]))
    averaged = exact.draws.weight @ np.array(gls)
    for i, name in enumerate(("Intercept", "x")):
        assert exact.located[name].mean == pytest.approx(averaged[i], rel=1e-7)


@pytest.mark.slow
def test_draws_under_flat_priors_average_so_too():
    model = Model(FORMULA, make_table())
    exact = integrate(model.moments, Priors.flat(), draws=16_000)
    post = model.sample(seed=1, priors=Priors.flat())
    for name in ("Intercept", "x"):
        row = post.estimates.loc[name]
        assert abs(row["mean"] - exact.located[name].mean) < 5.0 * row["mcse_mean"]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
def test_of_families_the_joint_mode_is_that_of_maximum_likelihood(family):
    table = draw_groups(15, (8, 12), sd=(0.7,), seed=2)
    eta = 0.4 * table["y"]
    rng = np.random.default_rng(1)
    y = rng.poisson(np.exp(eta)) if family == "poisson" else rng.random(len(eta)) < 0.5 + 0.1 * eta
    model = Model("y ~ x + (1 | g)", table.assign(y=np.asarray(y, dtype=int)), family=family)
    both = reconcile(model.ml(), model.sample(seed=1))
    assert both.evidence.identity.finding == "same"
    np.testing.assert_allclose(both.evidence.mode.beta, both.reml.beta, rtol=1e-4, atol=1e-6)
    assert both.verdict in ("agree", "explained")


@pytest.mark.parametrize("q", [1, 2, 3])
def test_gaps_are_sums_with_names(q):
    both, _ = prepare(q)
    table = both.table.astype({"gap": float})
    parts = table[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1, skipna=False)
    unit = table["sd"]
    known = parts.notna()
    assert known.any()
    assert ((parts - table["gap"]).abs() / unit)[known].max() < 1e-6
    named = table[[f"prior_{part}" for part in PARTS]].sum(axis=1, skipna=False)
    whole = known & named.notna()
    assert whole.any()
    assert ((named - table["prior"]).abs() / unit)[whole].max() < 1e-9
    shape = table["skewness"] + table["integrating"]
    assert ((shape - table["shape"]).abs() / unit)[known].max() < 1e-9


def test_a_named_prior_is_blamed_for_what_swapping_it_does():
    """Each share is E[chosen] less E[chosen without it], by weighted draws of another run."""
    both, exact = prepare(2)
    structure, priors = exact.structure, exact.target.priors
    from bhlm.bayes.importance import integrate_importance

    for part in ("scale", "sd", "corr", "residual", "fixed"):
        other = integrate_importance(
            exact.moments, structure, priors, seed=11, draws=16_000, without=frozenset((part,))
        )
        for name, row in both.table.iterrows():
            share = exact.located[name].mean - other.located[name].mean
            error = np.hypot(exact.located[name].mean_se, other.located[name].mean_se)
            error = np.hypot(error, row[f"prior_{part}_se"])
            assert abs(share - row[f"prior_{part}"]) < 5.0 * error + 1e-3 * row["sd"], (name, part)


def test_what_cannot_be_split_is_undetermined():
    """Four groups: flat priors leave no means, so that no share is known."""
    model = Model(FORMULA, draw_groups(4, 8, sd=(0.8, 0.5), seed=1))
    exact = integrate(model.moments, draws=16_000, seed=7)
    both = compare(model.reml(), make_fit(exact, resample(exact, seed=2)))
    table = both.table
    unsplit = (table["shape"] + table["prior"]).isna() & (table["gap_sd"].abs() > NEGLIGIBLE)
    assert unsplit.any()
    assert set(table["verdict"][unsplit]) == {"undetermined"}
    assert both.verdict == "undetermined"


@pytest.mark.parametrize("q", [1, 2, 3])
def test_draws_are_certified_in_location_and_spread(q):
    both, exact = prepare(q)
    assert both.evidence.route == "importance"
    assert both.evidence.exact.khat <= 0.7
    assert not both.evidence.judgement.unjudged
    scores = both.evidence.judgement.scores
    assert set(scores) == set(exact.located)
    for row in scores.values():
        assert all(np.isfinite(row[key].z) for key in ("location", "spread", "lower", "upper"))


def test_quadrature_certifies_where_few_variances_are_left_and_weights_fail():
    both, exact = prepare(1)
    again = compare(both.reml, both.post, limit=-1.0)
    assert again.evidence.route == "quadrature"
    assert not again.evidence.judgement.unjudged
    assert again.verdict in ("agree", "explained", "undetermined")
    chosen = again.evidence.quadrature.chosen
    for name, located in exact.located.items():
        assert chosen.mean[name] == pytest.approx(
            located.mean, abs=5.0 * located.mean_se + 1e-3 * located.sd
        )


def test_where_neither_can_the_verdict_says_so():
    both, _ = prepare(3)
    again = compare(both.reml, both.post, limit=-1.0)
    assert again.evidence.route is None
    assert again.verdict == "undetermined"
    assert "could not be certified" in again.conclusion
    assert "not certified" in again.route


@pytest.mark.parametrize(("offset", "unit"), [(2000.0, 1.0), (0.0, 1000.0), (20240101.0, 10.0)])
def test_recoding_a_covariate_changes_no_posterior_of_what_it_leaves(offset, unit):
    table = make_table()
    own = integrate(Model(FORMULA, table).moments, draws=8192)
    other = integrate(
        Model(FORMULA, table.assign(x=unit * table["x"] + offset)).moments, draws=8192
    )
    assert other.khat == pytest.approx(own.khat, abs=0.1)
    for name, factor in {"x": unit, "sd(x|g)": unit, "sd(Residual)": 1.0}.items():
        sd = own.located[name].sd
        assert abs(factor * other.located[name].mean - own.located[name].mean) < 0.02 * sd, name


def test_each_scale_is_compared_by_its_own_draws():
    both, _ = prepare(2)
    table, draws = both.table, both.post.draws
    for name, row in table.iterrows():
        assert row["posterior"] == pytest.approx(float(draws[name].mean()), rel=1e-12)
    variance, sd = table.loc["var(a|g)"], table.loc["sd(a|g)"]
    assert sd["reml"] == pytest.approx(variance["reml"] ** 0.5)
    assert variance["posterior"] - sd["posterior"] ** 2 == pytest.approx(
        float(draws["sd(a|g)"].var()), rel=1e-9
    )


def test_the_boundary_is_flagged_and_a_mean_that_does_not_exist_withheld():
    table = draw_groups(4, 8, sd=(0.0, 0.0), seed=5)
    model = Model("y ~ x + (1 | g)", pd.DataFrame(table))
    exact = integrate(model.moments, draws=16_000, seed=7)
    both = compare(model.reml(), make_fit(exact, resample(exact, seed=2)))
    assert any("sd(Intercept|g) reaches zero" in reason for reason in both.reasons)
    indices = both.evidence.flat_indices
    lost = [name for name, index in indices.items() if index <= 1.0]
    assert lost
    for name in lost:
        assert name in both.withheld
        assert np.isnan(float(both.table.loc[name, "shape"]))
