"""Likelihood-ratio tests of variances: R, bounds, the bootstrap beside the exact null."""

import numpy as np
import pytest
from lme4_cases import fit_case, load_cases
from scipy import stats
from simulate import simulate_table
from small_groups import draw_groups

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reml.variance_tests import count_fixed, mix_chi_squares
from bhlm.reml.variance_tests import judge_variances as judge

SLOPES = {
    name: case["reml"]["last_slope"]
    for name, case in load_cases().items()
    if case["reml"].get("last_slope")
}


def test_hsb_table_4_4(hsb):
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    test = judge(fit, "cwc(ses)")
    assert test.chi2 == pytest.approx(9.761657, abs=5e-7)
    assert (test.df, test.weights, test.dropped) == ((1, 2), (0.5, 0.5), ("cwc(ses)",))
    halves = [stats.chi2.sf(9.761656579, df) for df in (1, 2)]
    assert test.p == pytest.approx(np.mean(halves), rel=1e-7)
    assert test.naive_p == pytest.approx(halves[1], rel=1e-7)


@pytest.mark.parametrize("name", [name for name in SLOPES if SLOPES[name]["df"] <= 4])
def test_lr_test_agrees_with_lme4(name):
    fit = fit_case(name, "reml")
    dropped = fit.moments.random[-1]
    test = judge(fit, dropped, null="mixture")
    if max(test.df) != SLOPES[name]["df"]:
        pytest.fail(f"{name} drops {SLOPES[name]['df']} parameters in R, {max(test.df)} here")
    assert test.chi2 == pytest.approx(SLOPES[name]["chi2"], rel=1e-6, abs=1e-7)


def test_the_only_coefficient_is_tested_against_linear_regression():
    fit = Model("y ~ x + w + (1 | g)", simulate_table(9, n_groups=12)).reml()
    test = judge(fit, "Intercept", null="mixture")
    assert test.df == (0, 1)
    assert test.chi2 == pytest.approx(fit.lr_test["chi2"], rel=1e-12)
    assert test.p == pytest.approx(0.5 * stats.chi2.sf(test.chi2, 1), rel=1e-12)


def test_independent_coefficients_have_no_covariances_to_lose():
    table = simulate_table(9, n_groups=30)
    fit = Model("y ~ x + w + (1 | g) + (0 + x | g)", table).reml()
    test = judge(fit, "x", null="mixture")
    null = Model("y ~ x + w + (1 | g)", table).reml()
    assert test.df == (0, 1)
    assert test.chi2 == pytest.approx(2.0 * (fit.loglik - null.loglik), rel=1e-9)
    override = Model("y ~ x + w + (x + t | g)", table).reml(covariance="independent")
    null = Model("y ~ x + w + (x | g)", table).reml(covariance="independent")
    test = judge(override, "t", null="mixture")
    assert test.df == (0, 1)
    assert test.chi2 == pytest.approx(2.0 * (override.loglik - null.loglik), rel=1e-9)


def test_a_statistic_of_zero_has_p_one():
    test = judge(fit_case("dyestuff2", "reml"), "Intercept")
    assert (test.chi2, test.p) == (0.0, 1.0)
    for chi2 in (1e-10, -1e-10):
        test = mix_chi_squares(chi2, (0, 1), dropped=("x",))
        assert (test.chi2, test.p) == (0.0, 1.0)


def test_wrong_coefficients_and_shared_variances_are_refused():
    table = simulate_table(9, n_groups=30)
    model = Model("y ~ x + w + (x | g)", table)
    with pytest.raises(ArgumentError, match=r"'w' is not a random coefficient .* Intercept, x$"):
        judge(model.reml(), "w")
    with pytest.raises(ArgumentError, match=r"exchangeable structure shares one variance"):
        judge(model.reml(covariance="exchangeable"), "x")


@pytest.fixture(scope="module")
def slopes():
    return Model("y ~ x + (x | g)", draw_groups(8, 10, sd=(0.6, 0.0), seed=3)).reml()


def test_bounds_enclose_the_independent_mixture():
    # Two independent variances with a diagonal information: 1/4, 1/2, 1/4 of chi2_0, 1, 2.
    for x in (0.5, 2.0, 5.0):
        exact = 0.5 * stats.chi2.sf(x, 1) + 0.25 * stats.chi2.sf(x, 2)
        low, high = mix_chi_squares(x, (0, 2), dropped=("a", "b")).p_bounds
        assert low <= exact <= high


def test_parameters_are_counted(slopes):
    three = Model("y ~ x + x2 + (x + x2 | g)", draw_groups(12, 8, sd=(1, 1, 1), columns=2)).reml()
    assert count_fixed(slopes, ("x",)) == (1, 2)
    assert count_fixed(slopes, ("Intercept", "x")) == (0, 3)
    assert count_fixed(three, ("x", "x2")) == (2, 5)


@pytest.mark.slow
def test_bootstrap_agrees_with_the_exact_null():
    fit = Model("y ~ w + (1 | g)", draw_groups(8, 6, sd=(0.5,), seed=11)).reml()
    exact = judge(fit, list(fit.moments.random), null="exact")
    boot = judge(fit, list(fit.moments.random), null="bootstrap", replicates=1500)
    assert 0.002 < exact.p < 0.5
    assert abs(exact.p - boot.p) < 4.0 * np.hypot(exact.p_error, boot.p_error) + 1e-3
    assert abs(exact.zero - boot.zero) < 0.06


@pytest.mark.slow
def test_shared_variance_of_two_has_an_exact_null():
    model = Model("y ~ x + (x | g)", draw_groups(8, 6, sd=(0.4, 0.4), seed=2))
    fit = model.reml(covariance="identity")
    exact = judge(fit, list(fit.moments.random), null="exact")
    boot = judge(fit, list(fit.moments.random), null="bootstrap", replicates=800)
    assert exact.p == judge(fit, list(fit.moments.random)).p
    assert abs(exact.p - boot.p) < 4.0 * np.hypot(exact.p_error, boot.p_error) + 2e-3


@pytest.mark.slow
def test_offset_and_units_of_a_covariate_change_no_p_value():
    frame = draw_groups(10, 8, sd=(0.6, 0.3), seed=8)
    moved = frame.assign(x=2000.0 + 10.0 * frame["x"])
    first, second = (Model("y ~ x + (x | g)", each).reml() for each in (frame, moved))
    p = [judge(each, "x", null="bootstrap", replicates=200).p for each in (first, second)]
    assert p[0] == pytest.approx(p[1], abs=0.06)  # other random numbers, not another law


def test_replicates_depend_on_their_number_alone(slopes):
    few, more, threaded = (
        judge(slopes, "x", null="bootstrap", replicates=many, processes=cores).sample
        for many, cores in ((100, 1), (150, 1), (100, 2))
    )
    assert np.array_equal(few, threaded)
    assert set(few) <= set(more)


def test_text_names_both_nulls(slopes):
    text = repr(judge(slopes, ["x"], null="bootstrap", replicates=100))
    assert "mixture of chi-squares" in text
    assert "parametric bootstrap" in text
    joint = repr(judge(slopes, ["Intercept", "x"], null="mixture"))
    assert "p between" in joint


@pytest.mark.parametrize(
    ("coefficients", "arguments", "message"),
    [
        ("z", {}, "not a random coefficient"),
        (["x", "x"], {}, "named twice"),
        ([], {}, "no coefficient"),
        ("x", {"null": "wild"}, "not known"),
        ("x", {"null": "exact"}, "null='bootstrap'"),
        ("x", {"null": "bootstrap", "replicates": 10}, "at least 100"),
    ],
)
def test_bad_input_is_refused(slopes, coefficients, arguments, message):
    with pytest.raises(ArgumentError, match=message):
        judge(slopes, coefficients, **arguments)


def test_shared_variance_is_not_tested_in_part():
    fit = Model("y ~ x + (x | g)", draw_groups(8, 6, sd=(0.5, 0.5))).reml(covariance="identity")
    with pytest.raises(ArgumentError, match="shares one variance"):
        judge(fit, "x")


def test_null_is_chosen_by_the_number_of_groups(slopes):
    fit = Model("y ~ w + (1 | g)", draw_groups(51, 4, sd=(0.5,), seed=1)).reml()
    assert fit.test_variances("Intercept").null == "mixture"
    fit = Model("y ~ w + (1 | g)", draw_groups(50, 4, sd=(0.5,), seed=1)).reml()
    assert fit.test_variances("Intercept").null == "exact"
    assert slopes.test_variances(["x"], replicates=100).null == "bootstrap"
    assert list(slopes.test_variances().index) == ["Intercept", "x"]
