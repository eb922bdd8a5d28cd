"""Profile likelihoods against lme4, a dense likelihood and what must hold at the bounds."""

import numpy as np
import pytest
from lme4_cases import fit_case, load_cases
from scipy import stats
from scipy.optimize import approx_fprime, minimize, minimize_scalar
from simulate import dense_covariance, dense_loglik, dense_restricted, simulate_rows, simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import STRUCTURES
from bhlm.reml.profile.held_likelihood import HeldLikelihood
from bhlm.reml.profile.intervals import build_profile, list_profiled, profile_intervals

LME4 = 1e-3  # relative; lme4 interpolates between points of the profile
DENSE = 1e-6  # of -2 log L; the dense maximum is found without derivatives
Q95 = stats.chi2.ppf(0.95, 1)

LIMITS = {
    name: {row: limits for row, limits in case["profile"]["intervals"].items() if limits}
    for name, case in load_cases().items()
    if "intervals" in case["profile"]
}
# Here lme4's interval is too short: at its limit we hold a point whose -2 log L is less than the
# quantile above the minimum, which is enough to show it.
SHORT = {
    ("orthodont", "sd(Intercept|Subject)", "lower"),
    ("gcsemv_written", "sd(Intercept|school)", "lower"),
    ("gcsemv_written", "sd(Intercept|school)", "upper"),
}


def test_lme4_gives_limits_of_most_models():
    assert len(LIMITS) == 25
    assert sum(map(len, LIMITS.values())) > 120


QUICK = ("dyestuff2", "oats_independent", "hsb_random_coefficient")


@pytest.mark.parametrize(
    "name",
    [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in LIMITS],
)
def test_agrees_with_lme4(name):
    fit = fit_case(name, "reml")
    table = profile_intervals(fit, likelihood="ml")
    assert set(table["likelihood"]) == {"ml"}
    for parameter, limits in LIMITS[name].items():
        for side, sign in (("lower", -1.0), ("upper", 1.0)):
            ours, stored = table.loc[parameter, side], limits[side]
            if (name, parameter, side) in SHORT:
                assert sign * (ours - stored) > LME4 * stored
                rise = build_profile(fit, parameter, likelihood="ml").rise(stored)
                assert rise < 0.5 * Q95
            else:
                assert ours == pytest.approx(stored, rel=LME4), (parameter, side)


@pytest.mark.parametrize(
    ("held", "kind"),
    [(held, kind) for held in ("sd", "sigma") for kind in STRUCTURES]
    + [("corr", "unstructured"), ("corr", "exchangeable")],
)
@pytest.mark.parametrize("restricted", [True, False])
def test_derivatives_and_what_is_held(kind, held, restricted):
    fit = Model("y ~ x + w + (x + t | g)", simulate_table(2, n_groups=12)).reml(covariance=kind)
    white, structure = fit.white, fit.structure
    sigma = 0.8 if held == "sigma" else None
    family = {
        "sd": lambda: structure.family_with_sd(white, 1, sd=0.7),
        "corr": lambda: structure.family_with_correlation(white, 0, 1, correlation=-0.3),
        "sigma": lambda: structure.family(),
    }[held]()
    function = HeldLikelihood(white, family, restricted, sigma)
    point = function.start(np.linalg.inv(white.basis) @ fit.g @ np.linalg.inv(white.basis).T, 0.7)
    point = point + 0.1 * np.random.default_rng(1).normal(size=len(point))
    loading, _, _ = family.at(point) if held == "sigma" else family.at(point[:-1])
    root = white.scale * white.basis @ loading
    g = root @ root.T
    if held == "sd":
        assert np.sqrt(g[1, 1]) == pytest.approx(0.7, rel=1e-12)
    elif held == "corr":
        assert g[0, 1] / np.sqrt(g[0, 0] * g[1, 1]) == pytest.approx(-0.3, rel=1e-12)
    gradient = approx_fprime(point, lambda x: function.value_and_gradient(x)[0], 1e-7)
    assert function.value_and_gradient(point)[1] == pytest.approx(gradient, rel=2e-5, abs=2e-5)
    hessian = np.atleast_2d(approx_fprime(point, lambda x: function.value_and_gradient(x)[1], 1e-7))
    assert function.hessian(point) == pytest.approx(hessian, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("restricted", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("sd(Intercept|g)", 0.9),
        ("sd(Intercept|g)", 0.0),
        pytest.param("sd(x|g)", 1.4, marks=pytest.mark.slow),
        pytest.param("corr(Intercept,x|g)", 0.6, marks=pytest.mark.slow),
        ("corr(Intercept,x|g)", -1.0),
        pytest.param("sd(Residual)", 1.2, marks=pytest.mark.slow),
    ],
)
def test_rise_is_that_of_a_dense_likelihood(parameter, value, restricted):
    rows = simulate_rows(8, "x", n_groups=8)
    fit = rows.model.reml(method="reml" if restricted else "ml")

    def deviance(g, sigma2):
        if restricted:
            return -2.0 * dense_restricted(rows, g, sigma2)
        inverse = np.linalg.inv(dense_covariance(rows, g, sigma2))
        beta = np.linalg.solve(rows.x.T @ inverse @ rows.x, rows.x.T @ inverse @ rows.y)
        return -2.0 * dense_loglik(rows, beta, g, sigma2)

    def held(x):
        first, second, corr, sigma = np.exp(x[0]), np.exp(x[1]), np.tanh(x[2]), np.exp(x[3])
        if parameter.startswith("sd(I"):
            first = value
        elif parameter.startswith("sd(x"):
            second = value
        elif parameter.startswith("corr"):
            corr = value
        else:
            sigma = value
        off = corr * first * second
        return deviance(np.array([[first**2, off], [off, second**2]]), sigma**2)

    options = {"xatol": 1e-5, "fatol": 1e-9, "maxiter": 2000}
    best = np.inf
    for start in ([0.3, -0.2, 0.0, 0.0], [-0.5, 0.5, -0.8, 0.3]):
        found = minimize(held, start, method="Nelder-Mead", options=options)
        best = min(best, minimize(held, found.x, method="Nelder-Mead", options=options).fun)
    expected = best + 2.0 * fit.loglik
    assert build_profile(fit, parameter).rise(value) == pytest.approx(expected, abs=DENSE)


def test_rise_of_a_fixed_effect_is_that_of_a_dense_likelihood():
    rows = simulate_rows(8, "x", n_groups=15)
    fit = rows.model.reml(method="ml")
    value, keep = fit.beta[1] + 0.4, [0, 2]

    def held(x):
        lower = np.array([[x[0], 0.0], [x[1], x[2]]])
        g, sigma2 = lower @ lower.T, np.exp(x[3])
        inverse = np.linalg.inv(dense_covariance(rows, g, sigma2))
        left, x_kept = rows.y - rows.x[:, 1] * value, rows.x[:, keep]
        beta = np.insert(
            np.linalg.solve(x_kept.T @ inverse @ x_kept, x_kept.T @ inverse @ left), 1, value
        )
        return -2.0 * dense_loglik(rows, beta, g, sigma2)

    found = minimize(held, [1.0, 0.0, 1.0, 0.0], method="BFGS")
    profile = build_profile(fit, "x")
    assert profile.rise(value) == pytest.approx(found.fun + 2.0 * fit.loglik, abs=DENSE)
    assert profile.rise(fit.beta[1]) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("method", ["reml", pytest.param("ml", marks=pytest.mark.slow)])
@pytest.mark.parametrize("random", ["1", "x", "(1 | g) + (0 + x | g)"])
def test_the_profile_meets_the_quantile_at_its_limits(random, method):
    fit = simulate_rows(12, random, n_groups=40).model.reml(method=method)
    table = profile_intervals(fit)
    assert list(table.index) == [str(parameter) for parameter in list_profiled(fit)]
    for name in table.index:
        if name.startswith("var("):
            source = name.replace("var(", "sd(")
            for column in ("estimate", "lower", "upper"):
                assert table.loc[name, column] == pytest.approx(table.loc[source, column] ** 2)
            continue
        row = table.loc[name]
        assert row["lower"] < row["estimate"] < row["upper"]
        profile = build_profile(fit, name)
        for limit in (row["lower"], row["upper"]):
            if limit not in profile.bounds:
                assert profile.rise(limit) == pytest.approx(Q95, abs=1e-5), name
        assert row["likelihood"] == ("ml" if name in fit.moments.fixed else method)


@pytest.mark.parametrize("kind", ["exchangeable", "identity"])
def test_shared_variances_have_profiles(kind):
    fit = Model("y ~ x + w + (x + t | g)", simulate_table(2, n_groups=40)).reml(covariance=kind)
    table = profile_intervals(fit)
    for name in table.index:
        if not name.startswith("var("):
            profile = build_profile(fit, name)
            assert profile.rise(profile.estimate) == pytest.approx(0.0, abs=1e-8)
            for limit in table.loc[name, ["lower", "upper"]]:
                if limit not in profile.bounds:
                    assert profile.rise(limit) == pytest.approx(Q95, abs=1e-5), name


def test_limits_stop_at_the_bounds():
    table = profile_intervals(fit_case("oats", "ml"))
    assert table.loc["sd(nitro|Block)", "lower"] == 0.0
    corr = table.loc["corr(Intercept,nitro|Block)"]
    assert (corr["lower"], corr["upper"]) == (-1.0, 1.0)


def test_a_correlation_with_nothing_has_no_limits():
    table = simulate_table(1, n_groups=10)
    for _, rows in table.groupby("g"):
        z = np.column_stack([np.ones(len(rows)), rows["x"]])
        left = rows["t"] - z @ np.linalg.lstsq(z, rows["t"])[0]
        table.loc[rows.index, "y"] = left
    fit = Model("y ~ x + (x | g)", table).reml()
    assert fit.g.max() == 0.0
    limits = profile_intervals(fit)
    corr = limits.loc["corr(Intercept,x|g)", ["estimate", "lower", "upper"]]
    assert corr.isna().all()
    for name in ("sd(Intercept|g)", "sd(x|g)"):
        assert limits.loc[name, "lower"] == limits.loc[name, "estimate"] == 0.0
        rise = build_profile(fit, name).rise(float(limits.loc[name, "upper"]))
        assert rise == pytest.approx(Q95, abs=1e-5)


def test_values_that_cannot_be_rise_without_bound():
    fit = fit_case("sleepstudy", "ml")
    for name, value in (
        ("sd(Residual)", 0.0),
        ("sd(Days|Subject)", -1.0),
        ("corr(Intercept,Days|Subject)", 1.1),
    ):
        assert build_profile(fit, name).rise(value) == np.inf


def test_a_variance_of_zero_is_no_trap():
    # With a small residual SD the best SD of the batches, 0 at the estimates, is not zero.
    fit = fit_case("dyestuff2", "ml")
    sigma = 0.3 * float(np.sqrt(fit.sigma2))
    size, squares = fit.moments.n[0], fit.moments.cross[:, -1, -1].sum()
    means = fit.moments.mean[:, -1]

    def deviance(log_g):
        total = sigma**2 + size * np.exp(log_g)
        between = size * np.sum((means - means.mean()) ** 2) / total
        logs = len(means) * (np.log(total) + (size - 1.0) * np.log(sigma**2))
        n = size * len(means)
        return n * np.log(2.0 * np.pi) + logs + squares / sigma**2 + between

    expected = minimize_scalar(deviance, bounds=(-8.0, 4.0), method="bounded").fun
    assert deviance(-50.0) > expected + 1.0
    rise = build_profile(fit, "sd(Residual)").rise(sigma)
    assert rise == pytest.approx(expected + 2.0 * fit.loglik, abs=DENSE)


def test_a_wider_level_gives_a_wider_interval():
    fit = fit_case("sleepstudy", "reml")
    narrow = profile_intervals(fit, level=0.5, parameters=["sd(Days|Subject)"]).iloc[0]
    wide = profile_intervals(fit, level=0.99, parameters=["sd(Days|Subject)"]).iloc[0]
    assert wide["lower"] < narrow["lower"] < narrow["estimate"] < narrow["upper"] < wide["upper"]


def test_wrong_arguments_are_refused():
    fit = fit_case("sleepstudy", "ml")
    with pytest.raises(ArgumentError, match="'sd' has no profile; choose one of Intercept, Days"):
        profile_intervals(fit, parameters=["sd"])
    with pytest.raises(ArgumentError, match=r"'cov\(Intercept,Days\|Subject\)' has no profile"):
        profile_intervals(fit, parameters=["cov(Intercept,Days|Subject)"])
    with pytest.raises(ArgumentError, match="likelihood='full' is not known; choose 'reml' or"):
        profile_intervals(fit, likelihood="full")
    with pytest.raises(ArgumentError, match="does not belong to a fit by ML; fit with method="):
        profile_intervals(fit, likelihood="reml")
    with pytest.raises(ArgumentError, match="level=1 is not between"):
        profile_intervals(fit, level=1)


@pytest.mark.slow
def test_offset_does_not_matter():
    table = simulate_table(12, n_groups=14)
    shift = 1e8
    table["x"] = (table["x"] + shift) - shift  # what a double near the shift can hold
    near, far = (
        profile_intervals(Model("y ~ x + w + (x + t | g)", data).reml())
        for data in (table, table.assign(x=table["x"] + shift))
    )
    names = ["x", "w", "sd(x|g)", "sd(t|g)", "corr(x,t|g)", "sd(Residual)"]
    columns = ["estimate", "lower", "upper"]
    # The whitened columns agree to about 1e-8, and a limit at 0 is one.
    np.testing.assert_allclose(
        far.loc[names, columns], near.loc[names, columns], rtol=1e-5, atol=1e-6
    )
    # No double tells the estimate from -1; any correlation goes with a slope of no variance, which
    # the data do not rule out, wherever x stands.
    for table in (near, far):
        assert table.loc["corr(Intercept,x|g)", ["lower", "upper"]].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("shift", [1e3, 1e6, 1e9])
def test_a_correlation_is_held_however_far_the_covariate_is(shift):
    """Corr(Intercept, x) in the middle of its range where x is shifted by many of its SDs."""
    table = simulate_table(3, n_groups=14)
    shifted = table.assign(x=table["x"] + shift)
    fit = Model("y ~ x + (x | g)", shifted).reml()
    structure, white = fit.structure, fit.white
    for correlation in (-1.0, -0.6, 0.0, 0.6, 1.0):
        family = structure.family_with_correlation(white, 0, 1, correlation=correlation)
        held = HeldLikelihood(white, family, True)
        root = white.basis @ family.at(np.array([0.7, 0.4]))[0]
        sd = np.linalg.norm(root, axis=1)
        sign = 1.0 if family.keeps_signs(np.array([0.7, 0.4])) else -1.0
        assert root[0] @ root[1] / (sd[0] * sd[1]) == pytest.approx(sign * correlation, abs=1e-6)
        value, point = held.minimize(np.array([0.7, 0.4, 0.0]))
        assert np.isfinite(value)
        assert np.isfinite(held.hessian(point)).all()
