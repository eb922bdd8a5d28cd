"""Posteriors of families: density, draws of the effects, and what is read off the draws."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import bhlm
from bhlm import HalfNormal, Model, Normal, Priors
from bhlm.bayes.draws import Settings
from bhlm.bayes.family.density import (
    build_family,
    locate_family,
    log_family,
    log_turned,
    start_search,
)
from bhlm.bayes.family.draws import integrate_draws
from bhlm.bayes.family.packing import evaluate_packed, pack_family
from bhlm.bayes.family.sampling import sample_patterns
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.errors import ArgumentError, PriorError
from bhlm.fits.family_bayes_fit import FamilyBayesFit
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.patterns import Integrator, whiten_patterns

pytestmark = pytest.mark.wide

SHORT = {"draws": 100, "tune": 100, "chains": 2, "seed": 3}
CASES = {
    "bernoulli": ("y ~ x + (1 | g)", "logit"),
    "binomial": ("y / n ~ x + (1 | g)", "probit"),
    "poisson": ("y ~ x + (1 | g)", "log"),
}


def make_table(
    family: str, *, seed: int = 0, groups: int = 12, size: int = 8, sd: float = 0.8
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = rng.integers(0, 3, len(g)).astype(float)
    eta = -0.3 + 0.4 * x + sd * rng.normal(size=groups)[g]
    n = rng.integers(1, 6, len(g))
    if family == "poisson":
        y = rng.poisson(np.exp(eta))
    else:
        y = rng.binomial(n if family == "binomial" else 1, special.expit(eta))
    return pd.DataFrame({"g": g, "x": x, "y": y, "n": n})


def make_model(family: str, formula: str | None = None, **options: float) -> Model:
    own, link = CASES[family]
    return Model(formula or own, make_table(family, **options), family=family, link=link)


@pytest.fixture(scope="module")
def model() -> Model:
    return make_model("bernoulli")


@pytest.fixture(scope="module")
def fit(model: Model) -> FamilyBayesFit:
    return model.sample(**SHORT)


def evaluate_by_hand(
    model: Model, betas: np.ndarray, sd: float, *, points: int = 2401, reach: float = 12.0
) -> np.ndarray:
    """Log-likelihoods plus the default priors at betas (B, p) of one random intercept's SD.

    By dense sums.
    """
    patterns = model.patterns
    v, gap = np.linspace(-reach, reach, points, retstep=True)
    x = patterns.take(patterns.fixed)
    total = np.full(len(betas), patterns.constant)
    for j in range(patterns.n_groups):
        span = slice(patterns.starts[j], patterns.starts[j + 1])
        eta = (patterns.offset[span, None] + x[span] @ betas.T)[:, :, None] + sd * v
        n, y = patterns.n[span, None, None], patterns.y[span, None, None]
        if patterns.family.link == "log":
            f = y * eta - n * np.exp(eta)
        elif patterns.family.link == "logit":
            f = y * special.log_expit(eta) + (n - y) * special.log_expit(-eta)
        else:
            f = y * special.log_ndtr(eta) + (n - y) * special.log_ndtr(-eta)
        total += special.logsumexp(f.sum(axis=0) + stats.norm.logpdf(v), axis=1) + np.log(gap)
    latent = np.sqrt({"logit": np.pi**2 / 3.0}.get(patterns.family.link, 1.0))
    weight = patterns.n / patterns.n.sum()
    column = x[:, 1]
    mean = weight @ column
    scale = patterns.n_rows / (patterns.n_rows - 1.0)
    spread = np.sqrt(scale * weight @ (column - mean) ** 2)
    level = patterns.family.apply_link((patterns.y.sum() + 0.5) / (patterns.n.sum() + 1.0))
    total += stats.norm.logpdf(betas[:, 0] + mean * betas[:, 1], level, 2.5 * latent)
    total += stats.norm.logpdf(betas[:, 1], 0.0, 2.5 * latent / spread)
    return np.asarray(total + stats.t.logpdf(sd / latent, 3.0) + np.log(2.0 / latent))


@pytest.mark.parametrize("family", CASES)
def test_density_is_likelihood_times_priors(family: str) -> None:
    model = make_model(family)
    patterns = model.patterns
    structure = arrange_prior(patterns)
    white = whiten_patterns(patterns, structure)
    density = build_family(white, resolve_priors(None, patterns, structure=structure), structure)
    density.nodes.steps[:] = 0.4
    start = start_search(density)
    gaps = []
    for move in (0.0, 0.2, -0.3):
        x = start + move * np.array([1.0, -0.7, 0.5])
        beta, lam = locate_family(density, x)
        value, gradient = log_family(x, density)
        sd = float(abs(white.basis[0, 0] * lam[0, 0]))
        gaps.append(value - evaluate_by_hand(model, (white.fixed @ beta)[None], sd)[0])
        for i, step in enumerate(1e-5 * np.eye(3)):
            up, down = log_family(x + step, density)[0], log_family(x - step, density)[0]
            assert gradient[i] == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-6)
    # The Jacobian from x to (beta, sd) is constant.
    assert np.ptp(gaps) < 1e-8


@pytest.mark.parametrize("y", [0.0, 5.0, 7.0])
def test_draws_of_effects_have_the_posterior_distribution(y: float) -> None:
    # 3000 groups alike: 7 trials, one draw of each group's effect from a lattice moved at random.
    groups = 3000
    table = pd.DataFrame({"g": np.arange(groups), "y": y, "n": 7})
    table.loc[0, "y"] = 3.0
    model = Model("y / n ~ 1 + (1 | g)", table, family="binomial")
    structure = arrange_prior(model.patterns)
    nodes = Integrator(whiten_patterns(model.patterns, structure))
    nodes.steps[:] = 0.4
    beta, root = np.array([[0.4]]), np.array([[[1.7]]])
    drawn = integrate_draws(nodes, Parameters(beta, root, np.ones(1)), seed=1)
    u = np.linspace(-14.0, 14.0, 40_001)
    f = y * special.log_expit(0.4 + u) + (7.0 - y) * special.log_expit(-0.4 - u)
    weight = np.exp(f + stats.norm.logpdf(u, scale=1.7))
    cdf = np.cumsum(weight) / weight.sum()
    found = drawn.effects[0, 1:, 0]
    assert stats.kstest(found, lambda x: np.interp(x, u, cdf)).pvalue > 1e-3
    assert len(np.unique(np.round(found, 9))) > 2900  # no lattice is left in them
    assert drawn.logliks[0, 1] == pytest.approx(np.log(weight.sum() * (u[1] - u[0])), abs=1e-8)
    assert drawn.error < 1e-5


def test_draws_of_correlated_effects() -> None:
    groups = 4000
    rows = {"x": [-1.0, 0.5, 2.0], "y": [0, 1, 1]}
    g = np.repeat(np.arange(groups), 3)
    table = pd.DataFrame({"g": g, "x": np.tile(rows["x"], groups), "y": np.tile(rows["y"], groups)})
    model = Model("y ~ x + (x | g)", table, family="bernoulli")
    nodes = Integrator(whiten_patterns(model.patterns, arrange_prior(model.patterns)))
    nodes.steps[:] = 0.4
    root = np.array([[1.2, 0.0], [0.6, 0.9]])
    at = Parameters(np.array([[0.1, 0.3]]), root[None], np.ones(1))
    u = integrate_draws(nodes, at, seed=2).effects[0]
    axis = np.linspace(-7.0, 7.0, 281)
    v = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    grid = v @ root.T
    eta = 0.1 + grid[:, :1] + (0.3 + grid[:, 1:]) * rows["x"]
    log_p = np.where(np.array(rows["y"]) == 1, special.log_expit(eta), special.log_expit(-eta))
    weight = np.exp(log_p.sum(axis=1) - 0.5 * np.sum(v**2, axis=1))
    weight /= weight.sum()
    mean = weight @ grid
    cov = (grid - mean).T @ ((grid - mean) * weight[:, None])
    error = np.sqrt(np.diag(cov) / groups)
    assert np.all(np.abs(u.mean(axis=0) - mean) < 4.0 * error)
    assert np.cov(u.T) == pytest.approx(cov, abs=0.12)


def test_fit_tells_what_it_is(fit: FamilyBayesFit) -> None:
    assert fit.shape == (2, 100)
    names = ["Intercept", "x", "var(Intercept|g)", "sd(Intercept|g)"]
    assert list(fit.estimates.index) == names
    assert set(fit.data["posterior"].data_vars) == {"beta", "sd", "corr", "G", "u"}
    assert fit.data["log_likelihood"]["loglik"].shape == (2, 100, 12)
    assert fit.error < 1e-5
    text = fit.summary()
    assert "bernoulli with logit link" in text
    assert "log-likelihood known to" in text
    assert "Residual" not in text
    assert repr(fit)
    told = fit.to_dict()
    assert told["integration"]["error"] == fit.error
    assert set(told["ratios"]) == {"Intercept", "x"}
    assert float(fit.probability("x > 0")) == pytest.approx((fit.draws["x"] > 0).mean())


def test_run_repeats_on_any_number_of_cores(model: Model) -> None:
    short = {"draws": 15, "tune": 20, "chains": 2, "seed": 3}
    one, two = model.sample(**short, cores=1), model.sample(**short, cores=2)
    for name, draws in one.draws.items():
        assert np.array_equal(draws, two.draws[name])
    assert np.array_equal(one.list_effects(), two.list_effects())


def test_effects_are_drawn_when_asked_for(model: Model, fit: FamilyBayesFit) -> None:
    lean = FamilyBayesFit.of(fit.with_data(fit.data.drop_nodes("log_likelihood").copy()))
    lean.data["posterior"] = lean.data["posterior"].to_dataset().drop_vars("u")
    table = fit.group_effects()
    assert table.shape == (12, 6)
    # The density's nodes start from other modes, by which a draw moves within rounding.
    assert lean.group_effects()["mean"].to_numpy() == pytest.approx(table["mean"], abs=0.2)


def test_derived_quantities(fit: FamilyBayesFit) -> None:
    ratios = fit.ratios()
    assert ratios.loc["x", "ratio"] == pytest.approx(np.exp(np.median(fit.draws["x"])))
    variance = fit.draws["var(Intercept|g)"]
    icc = fit.icc().draws["icc"]
    assert icc == pytest.approx(variance / (variance + np.pi**2 / 3.0))
    assert set(fit.r_squared().draws) == {"marginal", "conditional"}


def test_predictions(model: Model, fit: FamilyBayesFit) -> None:
    new = pd.DataFrame({"g": [3, 99], "x": [1.0, 1.0]})
    linear = model.predict(fit, new, scale="link", new_groups="population")
    beta, u = fit.flat.beta, fit.list_effects()[:, 3, 0]
    eta = beta[:, 0] + beta[:, 1] + u
    assert linear["estimate"].iloc[0] == pytest.approx(eta.mean())
    assert linear["upper"].iloc[0] == pytest.approx(np.quantile(eta, 0.975))
    assert linear["se"].iloc[1] > linear["se"].iloc[0]
    mean = model.predict(fit, new, new_groups="population")
    assert mean["estimate"].iloc[0] == pytest.approx(special.expit(eta).mean())
    everyone = model.predict(fit, new, kind="population")
    assert everyone["estimate"].nunique() == 1
    with pytest.raises(ArgumentError, match="scale='odds'"):
        model.predict(fit, new, scale="odds", new_groups="population")


def test_checks(fit: FamilyBayesFit) -> None:
    found = fit.check(draws=200)
    assert len(found.groups) == 12
    assert found.groups["observed"].mean() == pytest.approx(found.overall.loc["mean", "observed"])
    assert found.calibration["n"].sum() == 96
    assert found.ok
    assert "tenth" in found.summary()
    with pytest.raises(ArgumentError, match="too few"):
        fit.check(draws=10)
    loo = fit.loo()
    assert len(loo.table) == 12
    assert loo.elpd < fit.data["log_likelihood"]["loglik"].sum("g").mean()


def test_checks_see_a_model_that_is_wrong(model: Model, fit: FamilyBayesFit) -> None:
    patterns = model.patterns
    other = dataclasses.replace(patterns, y=np.where(patterns.codes == 0, patterns.n, patterns.y))
    far = FamilyBayesFit.of(dataclasses.replace(fit, moments=other))
    shifted = far.list_effects().copy()
    shifted[:, 0] = -6.0
    far.data["posterior"]["u"].values[:] = shifted.reshape(2, 100, 12, 1)
    assert not far.check(draws=200).ok


def test_saved_fit_comes_back(fit: FamilyBayesFit, tmp_path: Path) -> None:
    path = tmp_path / "fit.zarr"
    fit.save(path)
    again = bhlm.load(path)
    assert isinstance(again, FamilyBayesFit)
    assert again.estimates.equals(fit.estimates)
    assert again.moments.formula == fit.moments.formula
    assert np.array_equal(again.moments.y, fit.moments.y)
    assert np.array_equal(again.list_effects(), fit.list_effects())
    assert again.priors == fit.priors
    assert again.error == fit.error
    assert np.array_equal(again.nodes, fit.nodes)


def test_what_cannot_be_done_is_told_in_one_line(model: Model, fit: FamilyBayesFit) -> None:
    with pytest.raises(PriorError, match="residual SD"):
        model.sample(seed=1, priors=Priors(sigma=HalfNormal(1.0)))
    with pytest.raises(ArgumentError, match="sampler='pymc'"):
        model.sample(seed=1, sampler="pymc")
    with pytest.raises(ArgumentError, match="form='conditional'"):
        model.pymc()
    with pytest.raises(ArgumentError, match="not there yet"):
        fit.average_effects("x")


def test_priors_stand_where_recoding_leaves_them(model: Model) -> None:
    table = make_table("bernoulli").assign(x=lambda t: t.x + 2000.0)
    other = Model("y ~ x + (1 | g)", table, family="bernoulli")
    ours, theirs = (
        resolve_priors(None, each.patterns).describe(each.patterns) for each in (model, other)
    )
    assert ours == theirs


@pytest.mark.slow
def test_prior_alone(model: Model) -> None:
    priors = Priors(fixed=Normal(0.0, 1.0), sd=HalfNormal(2.0))
    fit = model.sample(seed=4, prior_only=True, priors=priors)
    sd = fit.draws["sd(Intercept|g)"]
    assert np.quantile(sd, [0.25, 0.5, 0.75]) == pytest.approx(
        stats.halfnorm(scale=2.0).ppf([0.25, 0.5, 0.75]), rel=0.08
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", CASES)
def test_posterior_is_that_of_a_dense_grid(family: str) -> None:
    model = make_model(family)
    fit = FamilyBayesFit.of(
        sample_patterns(model.patterns, seed=5, settings=Settings(draws=1000, tune=500, chains=4))
    )
    assert fit.converged
    centre, spread = fit.flat.beta.mean(axis=0), fit.flat.beta.std(axis=0)
    axis = np.linspace(-5.0, 5.0, 13)
    grid = centre + spread * np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    sds = (np.arange(50) + 0.5) / 10.0
    # 81 points are exact here: the integrands have no pole within half a unit of the real line.
    logs = [evaluate_by_hand(model, grid.reshape(-1, 2), sd, points=81, reach=8.0) for sd in sds]
    weight = np.exp(np.array(logs) - np.max(logs)).reshape(len(sds), len(axis), len(axis))
    weight /= weight.sum()
    mean = centre[1] + spread[1] * (weight.sum(axis=(0, 1)) @ axis)
    sd = weight.sum(axis=(1, 2)) @ sds
    table = fit.estimates
    for name, exact in (("x", mean), ("sd(Intercept|g)", sd)):
        row = table.loc[name]
        assert abs(row["mean"] - exact) < 4.0 * row["mcse_mean"] + 0.01 * row["sd"]


MODELS = {
    "bernoulli": ("y ~ x + (1 | g)", "logit"),
    "binomial": ("y / n ~ x + (x | g)", "cloglog"),
    "poisson": ("y ~ x + (x || g)", "log"),
    "probit": ("y ~ x + (1 | g)", "probit"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_conditional_model_of_pymc_has_the_same_posterior(name: str) -> None:
    import pymc as pm

    formula, link = MODELS[name]
    family = "bernoulli" if name == "probit" else name
    model = Model(formula, make_table(family, groups=15, size=10), family=family, link=link)
    ours = model.sample(seed=6, target_accept=0.95)
    with model.pymc(form="conditional"):
        theirs = pm.sample(
            draws=2000, tune=1500, chains=4, random_seed=7, nuts_sampler="nutpie",
            target_accept=0.95, progressbar=False,
        )  # fmt: skip
    from arviz_stats.base import array_stats

    sds = theirs["posterior"]["sd"].values
    beta = np.moveaxis(theirs["posterior"]["beta"].values, 2, 0)
    columns = dict(zip(model.patterns.fixed, beta, strict=True))
    columns |= {f"sd({c}|g)": sds[..., i] for i, c in enumerate(model.patterns.random)}
    for key, values in columns.items():
        row = ours.estimates.loc[key]
        error = values.std() / np.sqrt(array_stats.ess(values, chain_axis=0, draw_axis=1))
        assert abs(row["mean"] - values.mean()) < 4.0 * np.hypot(row["mcse_mean"], error)


@pytest.mark.parametrize("size", [30.0, 1e7])
def test_density_of_large_counts_is_the_likelihood_with_its_gradient(size: float) -> None:
    """Relative to peaks and not: packed, by differences, and beside the integrator's value."""
    rng = np.random.default_rng(9)
    g = np.repeat(np.arange(8), 4)
    y = rng.poisson(size * np.exp(0.3 * rng.normal(size=8))[g])
    table = pd.DataFrame({"g": g, "x": rng.normal(size=32), "y": y})
    model = Model("y ~ x + (1 | g)", table, family="poisson")
    patterns, structure = model.patterns, arrange_prior(model.patterns)
    density = build_family(
        whiten_patterns(patterns, structure), resolve_priors(None, patterns), structure
    )
    assert density.nodes.reference.is_relative == (size > 1e3)
    fit = model.ml()
    x = np.concatenate([fit.point[:2], np.log(np.abs(np.diag(fit.lam)))])
    density.nodes.steps[:] = 0.5
    value, gradient = log_family(x, density)
    packed, slope = evaluate_packed(x, pack_family(density))
    assert packed == value
    np.testing.assert_array_equal(slope, gradient)
    assert log_turned(x, density)[0] == value
    # The scale along which the likelihood bends: steps are shares of it.
    bend = 1e-2 / np.sqrt(size * 32.0)
    for k, step in enumerate((bend, bend, 1e-3)):
        up, down = x.copy(), x.copy()
        up[k], down[k] = x[k] + step, x[k] - step
        off = (log_family(up, density)[0] - log_family(down, density)[0]) / (2.0 * step)
        assert gradient[k] == pytest.approx(off, rel=1e-3, abs=0.02)
