"""Posteriors with weights, known variances and strata: dense algebra, identities, adjustment."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bhlm
from bhlm.bayes.adjust import (
    adjust_draws,
    measure_spreads,
    take_exponentials,
    take_logarithms,
)
from bhlm.bayes.density import log_density
from bhlm.bayes.draws import Settings
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.bayes.sampling import constrain_any, sample_moments, state_density
from bhlm.bayes.weighted_density import (
    WeightedDensity,
    evaluate_weighted,
    log_weighted,
    pack_weighted,
    start_weighted,
)
from bhlm.errors import ArgumentError, PriorError
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.whitening import whiten, whiten_strata

pytestmark = pytest.mark.wide

KINDS = ("strata", "known", "sampling")
EXACT = 1e-9  # relative, of two ways to compute one density
STEP = 1e-5  # of central differences, which leave about its square
BRIEF = Settings(draws=100, tune=200, chains=2, target_accept=0.9)


def make_table(n_groups: int = 12, rows: int = 7) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(n_groups), rows)
    n = len(group)
    x = rng.normal(size=n)
    u = rng.normal(size=(n_groups, 2)) * (1.0, 0.5)
    level = np.array(["a", "b"])[rng.integers(2, size=n)]
    noise = rng.normal(size=n) * np.where(level == "a", 1.0, 2.5)
    y = 3.0 + x + u[group, 0] + u[group, 1] * x + noise
    weight = np.repeat(rng.integers(1, 4, size=n_groups), rows).astype(float)
    rest = {"w": rng.uniform(0.5, 2.0, size=n), "v": rng.uniform(0.5, 2.0, size=n), "one": 1.0}
    return pd.DataFrame({"g": group, "x": x, "y": y, "s": level, "wg": weight} | rest)


TABLE = make_table()
FORMULA = "y ~ x + (x | g)"


def state(kind: str, formula: str = FORMULA) -> bhlm.Model:
    given = {
        "strata": {"residual": "s"},
        "known": {"known_variance": "v"},
        "sampling": {"weights": bhlm.SamplingWeights(rows="w", groups="wg")},
    }[kind]
    return bhlm.Model(formula, TABLE, **given)


def prepare(model: bhlm.Model, priors: bhlm.Priors | None = None):
    """Return moments, structure, whitened moments, priors and density of a model."""
    strata = model.strata
    moments = model.moments if strata is None else strata.whole
    structure = arrange_prior(moments, None)
    white = whiten(moments, structure) if strata is None else whiten_strata(strata, structure)
    resolved = resolve_priors(priors, moments, structure=structure)
    return moments, structure, white, resolved, state_density(white, resolved, structure)


def position(density: WeightedDensity, seed: int = 1):
    x = start_weighted(density, seed)
    return x + 0.1 * np.random.default_rng(seed).normal(size=len(x))


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_is_that_of_the_value_and_packing_loses_nothing(kind):
    density = prepare(state(kind))[-1]
    x = position(density)
    value, gradient = log_weighted(x, density)
    moved = [log_weighted(x + e, density)[0] - log_weighted(x - e, density)[0] for e in
             STEP * np.eye(len(x))]  # fmt: skip
    np.testing.assert_allclose(np.array(moved) / (2 * STEP), gradient, rtol=1e-6, atol=1e-5)
    assert evaluate_weighted(x, pack_weighted(density))[0] == value


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_is_that_of_dense_normals(kind):
    """Differences between two positions, so that constants of the data do not matter."""
    moments, _, white, priors, density = prepare(state(kind))
    bare = density._replace(base=density.base._replace(use_likelihood=False))
    found, expected = [], []
    for seed in (1, 2):
        x = position(density, seed)
        found.append(log_weighted(x, density)[0] - log_weighted(x, bare)[0])
        each = constrain_any(density, white, priors.frame, x[None])
        expected.append(dense_loglik(kind, moments, each))
    assert found[0] - found[1] == pytest.approx(expected[0] - expected[1], rel=EXACT)


def dense_loglik(kind: str, moments, each: Parameters) -> float:
    beta, g, sigma = each.beta[0], each.g[0], np.atleast_1d(each.sigma[0])
    total = 0.0
    unit = TABLE.groupby("g").wg.first().mean()
    levels = moments.weights.levels
    for _, rows in TABLE.groupby("g"):
        z = np.column_stack([np.ones(len(rows)), rows.x])
        gap = rows.y.to_numpy() - z @ beta
        if kind == "sampling":  # w_i copies of each row: sums of them by the kernel of one
            w, s2 = rows.w.to_numpy(), sigma[0] ** 2
            inner = np.linalg.inv(g) + z.T @ (w[:, None] * z) / s2
            pull = z.T @ (w * gap) / s2
            value = -0.5 * (w.sum() * np.log(2 * np.pi * s2) + (w * gap) @ gap / s2)
            value += 0.5 * pull @ np.linalg.solve(inner, pull)
            value -= 0.5 * np.log(np.linalg.det(inner) * np.linalg.det(g))
            total += rows.wg.iloc[0] / unit * value
            continue
        variance = rows.v if kind == "known" else sigma[[levels.index(s) for s in rows.s]] ** 2
        cov = z @ g @ z.T + np.diag(variance)
        total += stats.multivariate_normal(cov=cov).logpdf(gap)
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_pymc_has_the_same_density(kind):
    import pymc as pm

    model = state(kind, "y ~ x + (x || g)")  # without correlations there is no measure of them
    _, _, white, priors, density = prepare(model, bhlm.Priors(at="zero"))
    stated = model.pymc(priors=bhlm.Priors(at="zero"))
    likelihood = stated.compile_fn(
        stated.replace_rvs_by_values([stated["loglik"], stated["beta"], stated["G"]]),
        inputs=stated.value_vars, mode="FAST_COMPILE", on_unused_input="ignore",
    )  # fmt: skip
    prior = stated.compile_logp(vars=stated.free_RVs, jacobian=False, mode="FAST_COMPILE")
    gaps = []
    for seed in (1, 2):
        point = pm.model.core.Point(stated.initial_point(random_seed=seed), model=stated)
        rng = np.random.default_rng(seed)
        point = {name: value + 0.1 * rng.normal(size=value.shape) for name, value in point.items()}
        loglik, beta, g = likelihood(point)
        sigma = np.exp(point["sigma_log__"]) if "sigma_log__" in point else np.array(1.0)
        root = np.linalg.cholesky(g)
        each = Parameters(beta[None], root[None], np.atleast_1d(sigma)[None].reshape(1, -1))
        each = each if white.parts is not None else each._replace(sigma=each.sigma[:, 0])
        x = locate(density, white, each)
        np.testing.assert_allclose(constrain_any(density, white, priors.frame, x[None]).g[0], g)
        bare = density._replace(base=density.base._replace(use_likelihood=False))
        ours = log_weighted(x, density)[0] - log_weighted(x, bare)[0]
        assert loglik == pytest.approx(ours, rel=EXACT)
        jacobian = x[-density.n_sigmas :].sum() if density.n_sigmas else 0.0
        gaps.append(float(prior(point)) - (log_weighted(x, bare)[0] - jacobian))
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-8)


def locate(density: WeightedDensity, white, each: Parameters):
    """Return the position of parameters with two random coefficients, uncorrelated."""
    base, root = density.base, each.root[0]
    beta = np.linalg.solve(white.fixed, each.beta[0] - white.ols) / white.scale
    sd = np.linalg.norm(root, axis=1)
    scaled = np.where(base.signed, sd / base.unit, np.log(sd / base.unit))
    sigma = np.log(np.atleast_1d(each.sigma[0])) if density.n_sigmas else []
    return np.concatenate([beta, scaled, sigma])


def test_one_stratum_and_equal_weights_are_the_plain_density():
    plain = bhlm.Model(FORMULA, TABLE)
    _, _, _, _, density = prepare(plain)
    one = prepare(bhlm.Model(FORMULA, TABLE.assign(s="a"), residual="s"))[-1]
    equal = prepare(bhlm.Model(FORMULA, TABLE, weights=bhlm.SamplingWeights(groups="one")))[-1]
    x = position(one)
    value, gradient = log_density(x, density)
    for other in (one, equal):
        assert isinstance(other, WeightedDensity)
        found, slope = log_weighted(x, other)
        assert found == pytest.approx(value, rel=EXACT)
        np.testing.assert_allclose(slope, gradient, rtol=1e-8, atol=1e-8)


def test_frequency_weights_are_rows_that_often():
    twice = pd.concat([TABLE, TABLE])
    whole = prepare(bhlm.Model(FORMULA, twice))[-1]
    counted = prepare(bhlm.Model(FORMULA, TABLE.assign(w=2), weights=bhlm.FrequencyWeights("w")))[
        -1
    ]
    x = np.random.default_rng(1).normal(size=whole.dimension)
    assert log_density(x, counted)[0] == pytest.approx(log_density(x, whole)[0], rel=EXACT)


def test_the_unit_of_precision_weights_changes_no_posterior_of_the_effects():
    one, other = (
        prepare(bhlm.Model(FORMULA, TABLE.assign(w=TABLE.w * unit), weights="w"))
        for unit in (1.0, 100.0)
    )
    assert other[3].sigma.sigma == pytest.approx(10.0 * one[3].sigma.sigma)
    for mine, yours in zip(one[3].fixed + one[3].sd, other[3].fixed + other[3].sd, strict=True):
        assert mine.numbers == pytest.approx(yours.numbers)


def test_draws_by_stratum_have_their_names_and_their_dimension():
    fit = sample_moments(state("strata").strata, seed=1, settings=BRIEF)
    assert "sd(Residual|s=b)" in fit.estimates.index
    assert "var(Residual)" not in fit.estimates.index
    assert fit.data["posterior"]["sigma"].dims == ("chain", "draw", "s")
    ratio = fit.draws["sd(Residual|s=b)"].mean() / fit.draws["sd(Residual|s=a)"].mean()
    assert 1.5 < ratio < 3.5
    effects = fit.group_effects()
    assert len(effects) == 24
    assert effects["mean"].notna().all()


def test_known_variances_leave_no_residual_to_sample():
    fit = sample_moments(state("known", "y ~ x + (1 | g)").moments, seed=1, settings=BRIEF)
    assert not [name for name in fit.estimates.index if "Residual" in name]
    assert fit.data["log_likelihood"]["loglik"].shape == (2, 100, 12)
    with pytest.raises(PriorError, match="known variances hold"):
        prepare(state("known"), bhlm.Priors(sigma=bhlm.HalfNormal(1)))


def test_adjusted_draws_have_the_sandwich_for_their_covariance():
    weights = bhlm.SamplingWeights(rows="w", groups="wg")
    model = bhlm.Model(FORMULA, make_table(60), weights=weights)
    moments, structure, white, _, _ = prepare(model)
    fit = model.reml(method="ml")
    once = Parameters(fit.beta[None], np.linalg.cholesky(fit.g)[None], np.array([fit.sigma2**0.5]))
    centre = take_logarithms(structure, once)[0]
    naive, robust = measure_spreads(moments, white, structure, centre)
    # The errors of fixed effects by pseudo-ML are the same sandwich.
    np.testing.assert_allclose(robust[:2, :2], fit.beta_cov, rtol=1e-6)
    noise = np.random.default_rng(1).normal(size=(500, len(centre)))
    noise -= noise.mean(axis=0)
    noise = np.linalg.solve(np.linalg.cholesky(np.cov(noise.T)), noise.T).T
    phi = centre + noise @ np.linalg.cholesky(naive).T
    moved = adjust_draws(moments, white, structure, take_exponentials(structure, phi, 2))
    found = take_logarithms(structure, moved.parameters)
    np.testing.assert_allclose(np.cov(found.T), robust, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.mean(axis=0), centre, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("scaling", ["none", "size", "effective", "gk"])
def test_weights_of_groups_add_up_to_the_groups_whatever_those_of_rows_do(scaling):
    """A pseudo-posterior of fewer groups is skewed, and no adjustment moves its mean."""
    table = TABLE.assign(w=9.0 * TABLE.w, wg=40.0 * TABLE.wg)
    model = bhlm.Model(
        "y ~ x + (1 | g)",
        table,
        weights=bhlm.SamplingWeights(rows="w", groups="wg", scaling=scaling),
    )
    white = prepare(model)[2]
    assert white.groups.sum() == pytest.approx(len(white.groups))
    assert white.n == pytest.approx(white.groups @ white.sizes[0])
    fit = model.reml(method="ml")
    scaled = white.unit * white.groups
    applied = model.moments.applied
    np.testing.assert_allclose(scaled, applied.groups, rtol=1e-12)
    # What is maximised does not depend on the unit.
    other = TABLE.assign(w=9.0 * TABLE.w)
    again = bhlm.Model("y ~ x + (1 | g)", other, weights=model.formula.weights).reml(method="ml")
    np.testing.assert_allclose(
        again.estimates[["estimate", "se"]], fit.estimates[["estimate", "se"]], rtol=1e-6
    )


def test_summaries_say_what_was_done_to_draws_under_sampling_weights():
    model = state("sampling", "y ~ x + (1 | g)")
    fit = model.sample(seed=1, draws=100, tune=200, chains=2)
    assert "adjusted to the sandwich covariance (Williams & Savitsky 2021)" in " ".join(
        fit.summary().split()
    )
    assert "log_likelihood" not in fit.data.children
    before = fit.sampled
    assert before.estimates.loc["x", "sd"] != fit.estimates.loc["x", "sd"]
    assert before.estimates.loc["x", "mean"] == pytest.approx(fit.estimates.loc["x", "mean"])
    plain = model.sample(seed=1, draws=100, tune=200, chains=2, adjust=False)
    assert "NOT adjusted (adjust=False)" in " ".join(plain.summary().split())
    np.testing.assert_array_equal(plain.draws["x"], before.draws["x"])
    with pytest.raises(AttributeError, match="not there yet with sampling weights"):
        fit.loo()


@pytest.mark.parametrize(
    "kind", ["strata", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])]
)
def test_saved_draws_come_back(kind, tmp_path):
    pytest.importorskip("zarr")
    model = state(kind, "y ~ x + (1 | g)")
    fit = model.sample(seed=1, draws=20, tune=50, chains=2)
    fit.save(tmp_path / "fit.zarr")
    again = bhlm.load(tmp_path / "fit.zarr")
    assert type(again) is type(fit)
    assert again.summary() == fit.summary()
    pd.testing.assert_frame_equal(again.group_effects(), fit.group_effects())
    np.testing.assert_allclose(again.white.blocks, fit.white.blocks, rtol=1e-12)


def test_a_prior_of_each_stratum_goes_by_its_name():
    given = bhlm.Priors(sigma={"s=b": bhlm.Exponential(3.0)})
    text = prepare(state("strata"), given)[3].describe(state("strata").strata.whole)
    assert text["sd(Residual|s=b)"] == "Exponential(3)"
    assert text["sd(Residual|s=a)"].startswith("HalfStudentT")
    with pytest.raises(PriorError, match="no stratum; the strata are"):
        prepare(state("strata"), bhlm.Priors(sigma={"s=c": bhlm.Exponential(3.0)}))


def test_a_pseudo_posterior_is_not_calibrated_by_its_prior():
    with pytest.raises(ArgumentError, match="pseudo-posterior"):
        bhlm.calibrate(state("sampling"), seed=1, replicates=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["strata", "known"])
def test_ranks_of_true_values_are_uniform(kind):
    priors = bhlm.Priors(
        fixed=bhlm.Normal(0, 1), sd=bhlm.HalfNormal(1),
        sigma=None if kind == "known" else bhlm.Gamma(4, 4),
    )  # fmt: skip
    found = bhlm.calibrate(
        state(kind, "y ~ x + (1 | g)"), seed=3, replicates=300, n_draws=39, thin=5, tune=200,
        priors=priors, processes=1,
    )  # fmt: skip
    assert found.ok, found
    assert found.ranks.shape == (300, len(found.quantities))
    # A residual SD of each stratum is among them, and none where it is known.
    strata = [name for name in found.quantities if "Residual" in name]
    assert len(strata) == (2 if kind == "strata" else 0)
