"""Quadrature against dense matrices, closed forms, another algebra and the sampler."""

import numpy as np
import pandas as pd
import pytest
from arviz_stats import mcse
from lme4_cases import FOLDER, load_cases
from scipy import integrate, special
from simulate import dense_covariance, simulate_rows

from bhlm.bayes.draws import Settings
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import (
    Exponential,
    Flat,
    Gamma,
    HalfNormal,
    HalfStudentT,
    Normal,
    StudentT,
)
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.bayes.quadrature import integrate_posterior
from bhlm.bayes.quadrature.axes import Axis, interpolate, map_nodes, weigh_half, weigh_nodes
from bhlm.bayes.quadrature.groups import decompose_groups, sum_effects
from bhlm.bayes.sampling import sample_moments
from bhlm.errors import ArgumentError, PriorError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.profiled import evaluate
from bhlm.likelihood.whitening import whiten
from bhlm.sources.datasets import load_hsb

# The tolerance asked for below and what another rule on another grid may add, in posterior SDs.
EXACT = 1e-7
# Two algebras of the same sums differ by rounding.
ROUNDING = 1e-10
# Monte Carlo standard errors that a mean or SD of draws may be off.
MONTE_CARLO = 4.0
# The densities end where 0.1 % of the probability lies outside, and are drawn with 201 points.
DRAWN = 2e-3


def case_moments(name):
    case = load_cases()[name]
    data = load_hsb() if name.startswith("hsb") else pd.read_csv(FOLDER / case["data"])
    return Model(case["formula"], data).moments


def distance(found, mean, sd):
    """The largest difference of a mean or SD, in posterior SDs."""
    names = list(mean)
    shift = [abs(found.mean[name] - mean[name]) / sd[name] for name in names]
    spread = [abs(found.sd[name] - sd[name]) / sd[name] for name in names]
    return max(*shift, *spread)


def read_moments(values, weights):
    """The mean and SD of values under weights of any shape."""
    mean = float(np.sum(weights * values) / np.sum(weights))
    return mean, float(np.sqrt(np.sum(weights * (values - mean) ** 2) / np.sum(weights)))


def half_line(count, scale):
    """Gauss-Legendre nodes and weights (count,) on (0, inf), through u / (1 - u)."""
    u, w = np.polynomial.legendre.leggauss(count)
    u = 0.5 * (u + 1.0)
    return scale * u / (1.0 - u), 0.5 * w * scale / (1.0 - u) ** 2


def log_density(prior, x):
    """The log density of a positive prior, by textbook formulas."""
    if isinstance(prior, HalfStudentT):
        nu, s = prior.nu, prior.sigma
        constant = special.gammaln((nu + 1) / 2) - special.gammaln(nu / 2)
        constant += np.log(2.0) - 0.5 * np.log(nu * np.pi) - np.log(s)
        return constant - (nu + 1) / 2 * np.log1p((x / s) ** 2 / nu)
    if isinstance(prior, Exponential):
        return np.log(prior.rate) - prior.rate * x
    if isinstance(prior, HalfNormal):
        return np.log(2.0 / prior.sigma) - 0.5 * np.log(2 * np.pi) - (x / prior.sigma) ** 2 / 2
    if isinstance(prior, Gamma):
        constant = prior.shape * np.log(prior.rate) - special.gammaln(prior.shape)
        return constant + (prior.shape - 1) * np.log(x) - prior.rate * x
    assert isinstance(prior, Flat)
    return prior.power * np.log(x)


def integrate_dense(rows, priors):
    """Means, SDs and log p(y) of a model with one random coefficient from n x n matrices."""
    moments = rows.model.moments
    resolved = resolve_priors(priors, moments)
    n, p = rows.x.shape
    flat = all(isinstance(prior, Flat) for prior in resolved.fixed)
    m0, s0 = np.zeros(p), np.zeros((p, p))
    if not flat:
        centring = np.eye(p)
        centring[0, 1:] = rows.x[:, 1:].mean(axis=0)
        back = np.linalg.inv(centring)
        m0 = back @ [prior.mu for prior in resolved.fixed]
        s0 = back @ np.diag([prior.sigma**2 for prior in resolved.fixed]) @ back.T
    (sd_prior,) = resolved.sd
    taus, w_tau = half_line(110, 1.0)
    z, w_z = np.polynomial.legendre.leggauss(90)
    logs, w_logs = 0.5 + 2.1 * z, 2.1 * w_z
    heights = np.empty((len(taus), len(logs)))
    means = np.empty((*heights.shape, p))
    squares = np.empty((*heights.shape, p))
    one, none = dense_covariance(rows, np.eye(1), 0.0), np.eye(n)
    for i, tau in enumerate(taus):
        v = tau**2 * one + np.exp(2.0 * logs)[:, None, None] * none
        solved = np.linalg.solve(v, np.column_stack([rows.x, rows.y]))
        gram = rows.x.T @ solved
        precision = gram[..., :p] + (0.0 if flat else np.linalg.inv(s0))
        score = gram[..., p] + (0.0 if flat else np.linalg.solve(s0, m0))
        means[i] = np.linalg.solve(precision, score[..., None])[..., 0]
        squares[i] = np.diagonal(np.linalg.inv(precision), axis1=1, axis2=2)
        if flat:
            rss = rows.y @ solved[..., p].T - np.sum(means[i] * score, axis=1)
            logdet = np.linalg.slogdet(v)[1] + np.linalg.slogdet(precision)[1]
            heights[i] = -0.5 * ((n - p) * np.log(2.0 * np.pi) + logdet + rss)
        else:
            full = v + rows.x @ s0 @ rows.x.T
            gap = rows.y - rows.x @ m0
            rss = np.linalg.solve(full, gap[:, None])[..., 0] @ gap
            heights[i] = -0.5 * (n * np.log(2.0 * np.pi) + np.linalg.slogdet(full)[1] + rss)
    sigma = np.exp(logs)
    heights += log_density(sd_prior, taus)[:, None] + np.log(w_tau)[:, None]
    heights += log_density(resolved.sigma, sigma) + logs + np.log(w_logs)
    weights = np.exp(heights - heights.max())
    found = {}
    for i, name in enumerate(moments.fixed):
        mean, sd = read_moments(means[..., i], weights)
        inner = np.sum(weights * squares[..., i]) / np.sum(weights)
        found[name] = mean, float(np.sqrt(sd**2 + inner))
    label = f"{moments.random[0]}|{moments.group}"
    found[f"var({label})"] = read_moments(taus[:, None] ** 2, weights)
    found["var(Residual)"] = read_moments(sigma**2, weights)
    found[f"sd({label})"] = read_moments(taus[:, None], weights)
    found["sd(Residual)"] = read_moments(sigma, weights)
    evidence = heights.max() + np.log(weights.sum())
    return (
        {name: mean for name, (mean, _) in found.items()},
        {name: sd for name, (_, sd) in found.items()},
        evidence,
        (taus, w_tau, weights.sum(axis=1) / weights.sum()),
    )


SINGLE = {
    "default": None,
    "flat": Priors.flat(),
    "exponential": Priors(sd=Exponential(0.8), sigma=HalfNormal(2.0)),
    "gamma": Priors(Flat(), Gamma(2.0, 0.7), sigma=Gamma(3.0, 1.0)),
    "strong": Priors({"x": Normal(5.0, 0.1)}, HalfNormal(0.2)),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_coefficient_equals_dense_integration(name):
    rows = simulate_rows(11, "1", n_groups=10, largest=6)
    found = integrate_posterior(rows.model.moments, priors=SINGLE[name], tolerance=1e-8)
    mean, sd, evidence, (taus, w_tau, mass) = integrate_dense(rows, SINGLE[name])
    assert found.converged, found.note
    assert list(found.mean) == list(mean)
    assert distance(found, mean, sd) < EXACT
    if name in ("flat", "gamma"):
        assert np.isnan(found.log_marginal)
    else:
        assert found.log_marginal == pytest.approx(evidence, abs=EXACT)
    points, density = found.densities["sd(Intercept|g)"]
    inside = (taus > points[0]) & (taus < points[-1])
    # Between 201 points a straight line is good to a thousandth of the highest density.
    np.testing.assert_allclose(
        np.interp(taus[inside], points, density),
        (mass / w_tau)[inside],
        atol=2e-3 * density.max(),
    )


def test_balanced_anova_has_its_closed_form():
    """Under flat priors SSW / sigma^2 and SSB / (sigma^2 + n tau^2) are truncated chi-squares."""
    n_groups, size = 12, 4
    rng = np.random.default_rng(4)
    y = 5.0 + rng.normal(size=(n_groups, 1)) * 0.9 + rng.normal(size=(n_groups, size))
    group = np.repeat(np.arange(n_groups), size)
    moments = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": group, "y": y.ravel()})).moments
    found = integrate_posterior(moments, priors=Priors.flat(), tolerance=1e-8)
    within = float(((y - y.mean(axis=1, keepdims=True)) ** 2).sum())
    between = size * float(((y.mean(axis=1) - y.mean()) ** 2).sum())
    half_w, half_b = 0.5 * n_groups * (size - 1), 0.5 * (n_groups - 1)

    def moment(a, b):
        """The integral of sigma^2a (sigma^2 + n tau^2)^b over the posterior, not normalised."""

        def inner(v):
            shape = half_b - b - 1.0
            upper = special.gamma(shape) * special.gammainc(shape, 0.5 * between / v)
            return v ** (a - half_w) * np.exp(-0.5 * within / v) * upper * (0.5 * between) ** -shape

        return integrate.quad(inner, 0.05, 40.0, epsabs=0.0, epsrel=1e-12, limit=400)[0]

    total = moment(0, 0)
    e = {(a, b): moment(a, b) / total for a, b in ((1, 0), (0, 1), (2, 0), (1, 1), (0, 2))}
    mean = {
        "Intercept": float(y.mean()),
        "var(Intercept|g)": (e[0, 1] - e[1, 0]) / size,
        "var(Residual)": e[1, 0],
    }
    square = (e[0, 2] - 2.0 * e[1, 1] + e[2, 0]) / size**2
    sd = {
        "Intercept": np.sqrt(e[0, 1] / (n_groups * size)),
        "var(Intercept|g)": np.sqrt(square - mean["var(Intercept|g)"] ** 2),
        "var(Residual)": np.sqrt(e[2, 0] - e[1, 0] ** 2),
    }
    assert found.converged, found.note
    assert distance(found, mean, sd) < EXACT


def integrate_otherwise(moments, priors, covariance):
    """Means and SDs for two coefficients by Gauss rules and the algebra that REML uses.

    Fixed effects have flat priors, so that beta and sigma follow from `likelihood.evaluate`.
    """
    structure = arrange(moments, covariance)
    white = whiten(moments, structure)
    resolved = resolve_priors(priors, moments, structure=structure)
    dof = white.n - white.p
    t1, w1 = half_line(44, 1.0)
    t2, w2 = half_line(44, 0.7)
    if covariance == "unstructured":
        # (1 - r^2)^(eta - 1) is the weight of the Gauss-Gegenbauer rule.
        r, w3 = special.roots_gegenbauer(32, resolved.corr.eta - 0.5)
    else:
        r, w3 = np.zeros(1), np.ones(1)
    z, w4 = np.polynomial.legendre.leggauss(48)
    logs, w4 = 1.2 * z, 1.2 * w4
    sigma = np.exp(logs)
    shape = (len(t1), len(t2), len(r), len(sigma))
    heights = np.empty(shape)
    means = np.empty((*shape[:3], white.p))
    phis = np.empty((*shape[:3], white.p))
    # Priors stand at the columns' means, and the covariances are those of the columns as given.
    back = np.linalg.inv(resolved.frame.random)
    inverse = np.linalg.inv(white.basis) @ back
    for i, j, k in np.ndindex(shape[:3]):
        root = np.array([[t1[i], 0.0], [t2[j] * r[k], t2[j] * np.sqrt(1.0 - r[k] ** 2)]])
        at = evaluate(white.blocks, 2, inverse @ root, n=white.n, restricted=True)
        means[i, j, k] = white.ols + white.scale * white.fixed @ at.beta
        phis[i, j, k] = np.einsum("ij,jk,ik->i", white.fixed, at.phi, white.fixed)
        rss = at.rss * white.scale**2 / sigma**2
        logdet = at.value - dof * (1.0 + np.log(2.0 * np.pi * at.rss / dof))
        heights[i, j, k] = -0.5 * (logdet + rss) - dof * logs
    tau1, tau2 = np.outer(t1, sigma), np.outer(t2, sigma)
    heights += (log_density(resolved.sd[0], tau1) + np.log(w1)[:, None])[:, None, None, :]
    heights += (log_density(resolved.sd[1], tau2) + np.log(w2)[:, None])[None, :, None, :]
    heights += np.log(w3)[:, None] + log_density(resolved.sigma, sigma) + 3.0 * logs + np.log(w4)
    weights = np.exp(heights - heights.max())
    spread = np.broadcast_to(sigma**2, shape)
    found = {}
    for i, name in enumerate(moments.fixed):
        mean, sd = read_moments(means[..., i, None], weights)
        inner = np.sum(weights * phis[..., i, None] * spread) / np.sum(weights)
        found[name] = mean, float(np.sqrt(sd**2 + inner))
    first, second = moments.random
    tau1, tau2 = tau1[:, None, None, :], tau2[None, :, None, :]
    turn = r[:, None]
    (a, b), (c, d) = back
    squares, product = (tau1**2, tau2**2), turn * tau1 * tau2
    var1 = a**2 * squares[0] + 2.0 * a * b * product + b**2 * squares[1]
    var2 = c**2 * squares[0] + 2.0 * c * d * product + d**2 * squares[1]
    cov = a * c * squares[0] + (a * d + b * c) * product + b * d * squares[1]
    values = {
        f"var({first}|g)": var1,
        f"var({second}|g)": var2,
        f"cov({first},{second}|g)": cov,
        "var(Residual)": sigma**2,
        f"sd({first}|g)": np.sqrt(var1),
        f"sd({second}|g)": np.sqrt(var2),
        f"corr({first},{second}|g)": cov / np.sqrt(var1 * var2),
        "sd(Residual)": sigma,
    }
    for name, value in values.items():
        if covariance == "unstructured" or name[:3] not in ("cov", "cor"):
            found[name] = read_moments(value, weights)
    return {n: m for n, (m, _) in found.items()}, {n: s for n, (_, s) in found.items()}


@pytest.mark.parametrize(
    "covariance", [pytest.param("unstructured", marks=pytest.mark.slow), "independent"]
)
@pytest.mark.parametrize(
    "priors",
    [
        Priors(Flat(), HalfStudentT(5.0, 1.0), LKJ(2.0), HalfStudentT(5.0, 1.0)),
        Priors(Flat(), Exponential(1.0), LKJ(0.6), HalfNormal(2.0)),
    ],
    ids=["half-t", "exponential"],
)
def test_two_coefficients_equal_another_algebra(covariance, priors):
    moments = simulate_rows(3, "x", n_groups=16, largest=8).model.moments
    found = integrate_posterior(moments, priors=priors, covariance=covariance)
    mean, sd = integrate_otherwise(moments, priors, covariance)
    assert found.converged, found.note
    assert list(found.mean) == list(mean)
    assert distance(found, mean, sd) < 10 * EXACT


NUTS = ("sleepstudy_independent", "dyestuff2", "rail", "sleepstudy", "hsb_random_coefficient")


@pytest.mark.slow
@pytest.mark.parametrize("name", NUTS)
def test_the_sampler_agrees(name):
    moments = case_moments(name)
    found = integrate_posterior(moments)
    fit = sample_moments(moments, seed=20, settings=Settings(draws=4000, tune=1000))
    assert found.converged, found.note
    assert list(found.mean) == list(fit.draws)
    for parameter, draws in fit.draws.items():
        mean_error = float(mcse(draws, method="mean"))
        sd_error = float(mcse(draws, method="sd"))
        assert abs(draws.mean() - found.mean[parameter]) < MONTE_CARLO * mean_error, parameter
        assert abs(draws.std() - found.sd[parameter]) < MONTE_CARLO * sd_error, parameter


@pytest.mark.slow
def test_the_evidence_of_a_slope_that_hardly_varies_is_that_of_none():
    """The priors of slope and correlation integrate to one, or log p(y) would move."""
    rows = simulate_rows(8, "x")
    alone = integrate_posterior(simulate_rows(8, "1").model.moments)
    tiny = Priors(sd={"x": HalfNormal(1e-7)}, corr=LKJ(1.7))
    for covariance in ("unstructured", "independent"):
        both = integrate_posterior(rows.model.moments, priors=tiny, covariance=covariance)
        assert both.converged, both.note
        assert both.log_marginal == pytest.approx(alone.log_marginal, abs=2e-6)


@pytest.mark.slow
def test_the_number_of_cores_changes_nothing():
    moments = case_moments("sleepstudy_independent")
    one, two = (integrate_posterior(moments, cores=cores) for cores in (1, 2))
    assert one.mean == two.mean
    assert one.sd == two.sd


@pytest.mark.slow
def test_the_stated_error_is_honest():
    """It bounds the distance to a far better answer, also where the budget ended early."""
    moments = case_moments("sleepstudy_independent")
    best = integrate_posterior(moments, tolerance=1e-9)
    assert best.converged
    seen = []
    for tolerance, budget in ((1e-2, 10**6), (1e-6, 10**6), (1e-6, 200), (1e-6, 800)):
        rough = integrate_posterior(moments, tolerance=tolerance, budget=budget)
        assert rough.converged == (rough.accuracy <= tolerance)
        assert distance(rough, best.mean, best.sd) <= rough.accuracy + best.accuracy
        assert rough.nodes[0] * rough.nodes[1] * rough.nodes[2] <= budget
        seen.append(rough.converged)
    assert seen == [True, True, False, False]


@pytest.mark.parametrize("name", ["dyestuff2", "sleepstudy_independent"])
def test_the_units_of_the_response_do_not_matter(name):
    moments = case_moments(name)
    case = load_cases()[name]
    data = pd.read_csv(FOLDER / case["data"])
    factor = 1e4
    data[moments.response] *= factor
    scaled = integrate_posterior(Model(case["formula"], data).moments)
    found = integrate_posterior(moments)
    power = {
        key: 0 if key.startswith("corr(") else 2 if key.startswith(("var(", "cov(")) else 1
        for key in found.mean
    }
    for key in found.mean:
        unit = factor ** power[key]
        shift = abs(scaled.mean[key] / unit - found.mean[key]) / found.sd[key]
        assert shift < 2e-6, key
        assert scaled.sd[key] / unit == pytest.approx(found.sd[key], rel=2e-6)
    n = moments.n.sum()
    assert scaled.log_marginal == pytest.approx(found.log_marginal - n * np.log(factor), abs=2e-6)


@pytest.mark.parametrize("name", ["dyestuff2", pytest.param("sleepstudy", marks=pytest.mark.slow)])
def test_the_densities_have_the_moments(name):
    found = integrate_posterior(case_moments(name))
    expected = {key for key in found.mean if key.startswith(("var(", "sd(", "corr("))}
    if name == "sleepstudy":
        # Their priors stand at the mean of Days.
        expected -= {key for key in expected if "Intercept" in key}
    assert set(found.densities) == expected
    for key, (points, density) in found.densities.items():
        assert np.all(density >= 0.0)
        if key.startswith("var(") and points[0] < 0.01 * points[-1]:
            # The density of a variance has a pole at zero: integrate it by the SD.
            points, density = np.sqrt(points), density * 2.0 * np.sqrt(points)
            first = np.concatenate([[0.0], points])
            assert np.trapezoid(np.interp(first, points, density), first) == pytest.approx(
                1.0, abs=DRAWN
            )
            continue
        first = np.concatenate([[max(points[0] - (points[1] - points[0]), -1.0)], points])
        mass = np.trapezoid(np.interp(first, points, density), first)
        assert mass == pytest.approx(1.0, abs=DRAWN)
        mean = np.trapezoid(first * np.interp(first, points, density), first)
        assert abs(mean - found.mean[key]) < 0.02 * found.sd[key]


def test_moments_that_do_not_exist_are_not_certified():
    """With six groups the flat posterior of the variance has a mean and no SD."""
    found = integrate_posterior(case_moments("dyestuff"), priors=Priors.flat())
    assert not found.converged
    assert found.accuracy > found.tolerance
    assert found.error["var(Intercept|Batch)"] > 0.1
    assert "var(Intercept|Batch)" in found.note
    # The others exist, and the intercept's mean is the mean of a balanced design.
    assert found.error["Intercept"] < found.tolerance
    assert found.error["var(Residual)"] < found.tolerance
    assert found.mean["Intercept"] == pytest.approx(1527.5, abs=1e-6)


def test_an_improper_posterior_is_not_certified():
    found = integrate_posterior(case_moments("dyestuff"), priors=Priors(sd=Flat(power=-1.0)))
    assert not found.converged


def test_a_budget_that_ends_is_reported():
    found = integrate_posterior(case_moments("sleepstudy"), budget=5000)
    assert not found.converged
    assert found.accuracy > found.tolerance
    assert "5000 nodes" in found.note


def test_a_posterior_is_printed_as_a_table():
    found = integrate_posterior(case_moments("rail"))
    table = found.estimates
    assert list(table.columns) == ["mean", "sd", "error"]
    assert table.loc["sd(Rail)" if "sd(Rail)" in table.index else "sd(Intercept|Rail)", "mean"] > 0


def test_three_coefficients_are_refused():
    with pytest.raises(ArgumentError, match="3 random coefficients"):
        integrate_posterior(case_moments("oxboys"))


@pytest.mark.parametrize("prior", [StudentT(3.0, 0.0, 1.0), Flat(power=1.0)])
def test_fixed_priors_that_are_not_normal_are_refused(prior):
    moments = case_moments("sleepstudy")
    with pytest.raises(PriorError, match="of the fixed effect 'Days' cannot be integrated"):
        integrate_posterior(moments, priors=Priors(fixed={"Days": prior}))


@pytest.mark.parametrize(
    "arguments",
    [
        {"tolerance": 0.0},
        {"tolerance": 2.0},
        {"tolerance": float("nan")},
        {"budget": 0},
        {"cores": 0},
    ],
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ArgumentError):
        integrate_posterior(case_moments("rail"), **arguments)


@pytest.mark.parametrize(
    ("random", "seed"), [("1", 5), ("x", 5), ("(1 | g) + (0 + x | g)", 6), ("0 + x", 7)]
)
def test_group_sums_equal_those_of_the_likelihood(random, seed):
    moments = simulate_rows(seed, random).model.moments
    white = whiten(moments, arrange(moments))
    d, vectors, fitted, within, logdet = decompose_groups(white.blocks, white.q)
    inverse = np.zeros((2, 2))
    inverse[: white.q, : white.q] = np.linalg.inv(white.basis)
    turn = np.swapaxes(vectors, 1, 2) @ inverse
    for t1, t2, r in ((0.3, 0.2, 0.4), (3.0, 0.01, -0.9), (1e-3, 20.0, 0.0)):
        rest = np.sqrt(1.0 - r**2)
        found, e = sum_effects(t1, t2, r, rest, d, turn, fitted, within)
        root = np.array([[t1, 0.0], [t2 * r, t2 * rest]])[: white.q, : white.q]
        lam = inverse[: white.q, : white.q] @ root
        at = evaluate(white.blocks, white.q, lam, n=white.n, restricted=False)
        assert found + logdet == pytest.approx(at.logdet, rel=ROUNDING)
        np.testing.assert_allclose(np.linalg.inv(e[:-1, :-1]), at.phi, rtol=1e3 * ROUNDING)
        rss = e[-1, -1] - e[-1, :-1] @ np.linalg.solve(e[:-1, :-1], e[:-1, -1])
        assert rss == pytest.approx(at.rss, rel=1e3 * ROUNDING)


@pytest.mark.parametrize("kind", ["open", "edge", "corr", "log"])
def test_rules_and_series_are_exact_for_what_decays(kind):
    """A normal density in y integrates to one, by the rule and its half, and interpolates."""
    low, high = (0, 64) if kind == "edge" else (-32, 32)
    axis = Axis(kind, 2.0, step=0.25, low=low, high=high)
    centre = 8.0 if kind == "edge" else 0.0
    density = np.exp(-0.5 * (axis.y - centre) ** 2) / np.sqrt(2.0 * np.pi)
    assert weigh_nodes(axis) @ density == pytest.approx(1.0, abs=1e-12)
    assert weigh_half(axis) @ density == pytest.approx(1.0, abs=1e-4 if kind == "edge" else 1e-12)
    y = centre + np.linspace(-2.0, 2.0, 9) + 0.01
    expected = np.exp(-0.5 * (y - centre) ** 2) / np.sqrt(2.0 * np.pi)
    np.testing.assert_allclose(interpolate(axis, density, y), expected, atol=1e-8)
    assert np.all(np.diff(map_nodes(axis, axis.y)) >= 0.0)
