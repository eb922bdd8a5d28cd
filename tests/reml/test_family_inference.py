"""What is asked of a fit of zeros and ones or counts, against programs of their own in NumPy."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import minimize

from bhlm.errors import ArgumentError, DataError
from bhlm.fits.family_fit import FamilyFit
from bhlm.fits.model import Model
from bhlm.likelihood.averages import average_mean
from bhlm.likelihood.families import find_family
from bhlm.sources.datasets import load_dataset

pytestmark = pytest.mark.wide

AXIS = np.linspace(-10.0, 10.0, 401)
WEIGHT = stats.norm.pdf(AXIS) * (AXIS[1] - AXIS[0])


def simulate(seed: int = 5, *, groups: int = 40, size: int = 6) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = np.round(rng.normal(size=len(g)), 1)
    w = (rng.uniform(size=groups) < 0.5).astype(int)[g]
    u = 1.2 * rng.normal(size=groups)[g]
    y = (rng.uniform(size=len(g)) < 1.0 / (1.0 + np.exp(0.4 - 0.8 * x - 0.5 * w - u))).astype(int)
    t = np.round(rng.uniform(0.5, 2.0, len(g)), 1)
    return pd.DataFrame({"g": g, "x": x, "w": w, "y": y, "t": t, "c": rng.poisson(t * np.exp(u))})


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return simulate()


@pytest.fixture(scope="module")
def model(table: pd.DataFrame) -> Model:
    return Model("y ~ x + w + (1 | g)", table, family="bernoulli")


@pytest.fixture(scope="module")
def fit(model: Model) -> FamilyFit:
    found = model.ml()
    assert isinstance(found, FamilyFit)
    return found


@pytest.fixture(scope="module")
def counts(table: pd.DataFrame) -> FamilyFit:
    found = Model("c ~ x + (1 | g)", table, family="poisson", exposure="t").ml()
    assert isinstance(found, FamilyFit)
    return found


def logliks(table: pd.DataFrame, beta: np.ndarray, sd: float) -> np.ndarray:
    """Each group's log-likelihood by a dense sum."""
    eta = beta[0] + beta[1] * table["x"].to_numpy() + beta[2] * table["w"].to_numpy()
    eta = eta[:, None] + sd * AXIS
    y = table["y"].to_numpy()[:, None]
    terms = y * eta - np.logaddexp(0.0, eta)
    sums = np.add.reduceat(terms, np.flatnonzero(np.diff(table["g"], prepend=-1)), axis=0)
    return np.log(np.exp(sums) @ WEIGHT)


def test_contrasts_and_joint_tests(fit: FamilyFit) -> None:
    one = fit.contrast("x - w = 0")
    c = np.array([0.0, 1.0, -1.0])
    assert one["estimate"].iloc[0] == pytest.approx(c @ fit.beta)
    assert one["se"].iloc[0] == pytest.approx(np.sqrt(c @ fit.beta_cov @ c))
    assert fit.test("x = 0", "w = 0")["chi2"] == pytest.approx(fit.wald["chi2"])
    with pytest.raises(ArgumentError, match="follow from the others"):
        fit.test("x = 0", "2*x = 0")
    with pytest.raises(ArgumentError, match="choose one of z, cr0, cr1"):
        fit.fixed_effects(method="satterthwaite")


def test_odds_ratios(fit: FamilyFit) -> None:
    table, ratios = fit.fixed_effects(level=0.9), fit.ratios(level=0.9)
    np.testing.assert_allclose(ratios["ratio"], np.exp(table["estimate"]))
    np.testing.assert_allclose(np.log(ratios["upper"]), table["upper"])


def test_cluster_robust_errors_are_the_sandwich(fit: FamilyFit, table: pd.DataFrame) -> None:
    """By differences of each group's dense log-likelihood."""
    point = np.append(fit.beta, np.sqrt(fit.g[0, 0]))
    step = 1e-5
    scores = np.array(
        [
            (logliks(table, *split(point + e)) - logliks(table, *split(point - e))) / (2 * step)
            for e in step * np.eye(4)
        ]
    ).T
    jacobian = np.diag([1.0, 1.0, 1.0, 2.0 * point[3]])  # from the SD to the variance
    inverse = np.linalg.inv(jacobian) @ fit.joint_cov @ np.linalg.inv(jacobian)
    robust = inverse @ scores.T @ scores @ inverse
    wanted = np.sqrt(np.diag(robust)[:3])
    np.testing.assert_allclose(fit.fixed_effects(method="cr0")["se"], wanted, rtol=1e-5)
    ratio = fit.fixed_effects(method="cr1")["se"] / fit.fixed_effects(method="cr0")["se"]
    np.testing.assert_allclose(ratio, np.sqrt(40 / 39))


def split(point: np.ndarray) -> tuple[np.ndarray, float]:
    return point[:3], float(point[3])


def test_profile_limits_are_where_the_likelihood_has_fallen(
    fit: FamilyFit, table: pd.DataFrame
) -> None:
    found = fit.profile(parameters=["x", "sd(Intercept|g)"])
    half = stats.chi2.ppf(0.95, 1) / 2.0

    def held(at: int, value: float) -> float:
        def loss(rest: np.ndarray) -> float:
            return -logliks(table, *split(np.insert(rest, at, value))).sum()

        start = np.delete(np.append(fit.beta, np.sqrt(fit.g[0, 0])), at)
        return -minimize(loss, start, method="BFGS", options={"gtol": 1e-7}).fun

    for name, at in (("x", 1), ("sd(Intercept|g)", 3)):
        for end in ("lower", "upper"):
            fallen = fit.loglik - held(at, found.loc[name, end])
            assert fallen == pytest.approx(half, abs=1e-4), (name, end)
    assert found.loc["x", "lower"] < fit.beta[1] < found.loc["x", "upper"]
    with pytest.raises(ArgumentError, match="has no profile here"):
        fit.profile(parameters=["corr(x,w|g)"])


def test_variance_test_is_a_mixture(fit: FamilyFit, table: pd.DataFrame) -> None:
    found = fit.test_variances("Intercept")
    assert found.chi2 == pytest.approx(2.0 * (fit.loglik - fit.linear_loglik), abs=1e-8)
    assert found.p == pytest.approx(fit.lr_test["p"])
    assert found.p == pytest.approx(0.5 * stats.chi2.sf(found.chi2, 1))
    both = Model("y ~ x + w + (x | g)", table, family="bernoulli").ml()
    slope = both.test_variances("x")
    assert slope.chi2 == pytest.approx(2.0 * (both.loglik - fit.loglik), abs=1e-6)
    assert slope.df == (1, 2)


@pytest.mark.parametrize(("name", "link"), [("bernoulli", "logit"), ("bernoulli", "probit")])
def test_average_mean_is_an_integral(name: str, link: str) -> None:
    family = find_family(name, link)
    eta, sd = np.array([-2.0, 0.0, 1.5]), np.array([0.0, 1.0, 4.0])
    fine = np.linspace(-12.0, 12.0, 20001)
    weight = stats.norm.pdf(fine) * (fine[1] - fine[0])
    wanted = family.mean(eta[:, None] + sd[:, None] * fine) @ weight
    np.testing.assert_allclose(average_mean(family, eta, sd), wanted, atol=1e-10)


def test_population_effects(fit: FamilyFit, table: pd.DataFrame, counts: FamilyFit) -> None:
    found = fit.population_effects()
    assert (found["estimate"].abs() < np.abs(fit.beta)).all()
    # A probit with a random intercept is attenuated by a factor that is known.
    probit = Model("y ~ x + w + (1 | g)", table, family="bernoulli", link="probit").ml()
    averaged = probit.population_effects()["estimate"]
    np.testing.assert_allclose(averaged, probit.beta / np.sqrt(1.0 + probit.g[0, 0]), atol=1e-8)
    # So is the delta method's error of it.
    factor = 1.0 / np.sqrt(1.0 + probit.g[0, 0])
    slopes = np.hstack([factor * np.eye(3), -0.5 * factor**3 * probit.beta[:, None]])
    wanted = np.sqrt(np.diag(slopes @ probit.joint_cov @ slopes.T))
    np.testing.assert_allclose(probit.population_effects()["se"], wanted, rtol=1e-5)
    # Of a log link only the intercept moves.
    moved = counts.population_effects()["estimate"] - counts.beta
    np.testing.assert_allclose(moved, [0.5 * counts.g[0, 0], 0.0], atol=1e-8)


def test_conditional_probabilities_are_posterior_means(
    model: Model, fit: FamilyFit, table: pd.DataFrame
) -> None:
    found = model.predict(fit)
    eta = fit.beta[0] + fit.beta[1] * table["x"].to_numpy() + fit.beta[2] * table["w"].to_numpy()
    eta = eta[:, None] + np.sqrt(fit.g[0, 0]) * AXIS
    terms = table["y"].to_numpy()[:, None] * eta - np.logaddexp(0.0, eta)
    sums = np.add.reduceat(terms, np.arange(0, len(table), 6), axis=0)
    posterior = np.exp(sums) * WEIGHT
    posterior /= posterior.sum(axis=1, keepdims=True)
    wanted = (np.repeat(posterior, 6, axis=0) / (1.0 + np.exp(-eta))).sum(axis=1)
    np.testing.assert_allclose(found["estimate"], wanted, atol=1e-9)
    assert (found["lower"] < found["estimate"]).all()
    assert (found["estimate"] < found["upper"]).all()
    assert found.index.equals(table.index)
    linked = model.predict(fit, scale="link")["estimate"]
    effects = fit.group_effects().set_index("g")["estimate"]
    wanted = fit.beta[0] + fit.beta[1] * table["x"] + fit.beta[2] * table["w"]
    np.testing.assert_allclose(linked, wanted + effects[table["g"]].to_numpy())


def test_predictions_for_new_rows(model: Model, fit: FamilyFit) -> None:
    new = pd.DataFrame({"g": [999], "x": [0.3], "w": [1]}, index=["a"])
    with pytest.raises(DataError, match="is not a g of the fit"):
        model.predict(fit, new)
    found = model.predict(fit, new.drop(columns="g"), kind="population")
    eta = np.array([fit.beta @ [1.0, 0.3, 1.0]])
    wanted = average_mean(fit.family, eta, np.sqrt(fit.g[0]))
    np.testing.assert_allclose(found["estimate"], wanted)
    other = model.predict(fit, new, new_groups="population")
    np.testing.assert_allclose(other["estimate"], wanted)
    assert list(found.index) == ["a"]


def test_rates_take_the_exposure(counts: FamilyFit, table: pd.DataFrame) -> None:
    model = counts.model
    assert model is None  # it was not kept: predictions need the model
    model = Model("c ~ x + (1 | g)", table, family="poisson", exposure="t")
    twice = table.assign(t=2.0 * table["t"])
    one, two = (model.predict(counts, each)["estimate"] for each in (table, twice))
    np.testing.assert_allclose(two, 2.0 * one, rtol=1e-9)


def test_icc_and_r_squared(fit: FamilyFit) -> None:
    variance = float(fit.g[0, 0])
    shared = fit.icc().iloc[0]
    assert shared["icc"] == pytest.approx(variance / (variance + np.pi**2 / 3.0))
    assert shared["median_ratio"] == pytest.approx(np.exp(0.954 * np.sqrt(variance)), rel=1e-3)
    found = fit.r_squared()
    assert 0.0 < found["marginal"] < found["conditional"] < 1.0


def test_overdispersion_is_told() -> None:
    ticks = simulate(9)
    rng = np.random.default_rng(0)
    ticks["c"] = rng.negative_binomial(1, 0.1, len(ticks))
    over = Model("c ~ x + (1 | g)", ticks, family="poisson").ml()
    assert over.dispersion()["ratio"] > 3.0
    assert "overdispersed" in over.summary()
    cbpp = Model(
        "incidence / size ~ C(period) + (1 | herd)", load_dataset("cbpp"), family="binomial"
    ).ml()
    assert "overdispersed" not in cbpp.summary()


def test_bootstrap_spreads_as_the_standard_errors(fit: FamilyFit) -> None:
    found = fit.bootstrap(replicates=60, seed=1)
    table = found.intervals()
    ratio = table.loc[["Intercept", "x", "w"], "se"] / np.sqrt(np.diag(fit.beta_cov))
    assert found.converged.mean() > 0.95
    assert ((ratio > 0.7) & (ratio < 1.5)).all()
    again = fit.bootstrap(replicates=3, seed=1)
    np.testing.assert_array_equal(again.draws, found.draws[:3])
