"""Tests of variance components against HLM's printed values, least squares and R."""

import numpy as np
import pytest
from lme4_cases import fit_case, load_cases
from scipy import stats
from simulate import simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reml.variance_tests import hlm_chi_square, lr_test_coefficient, mix_chi_squares

SLOPES = {
    name: case["reml"]["last_slope"]
    for name, case in load_cases().items()
    if case["reml"].get("last_slope")
}


def test_hsb_table_4_4(hsb):
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    table = hlm_chi_square(fit)
    assert table["chi2"].tolist() == pytest.approx([1771.013, 213.457], abs=5e-4)
    assert table["df"].tolist() == [159, 159]
    assert table["groups"].tolist() == [160, 160]
    assert table["p"].tolist() == pytest.approx(stats.chi2.sf(table["chi2"], 159), rel=1e-9)
    test = lr_test_coefficient(fit, "cwc(ses)")
    assert test.chi2 == pytest.approx(9.761657, abs=5e-7)
    assert (test.df, test.weights, test.dropped) == ((1, 2), (0.5, 0.5), ("cwc(ses)",))
    halves = [stats.chi2.sf(9.761656579, df) for df in (1, 2)]
    assert test.p == pytest.approx(np.mean(halves), rel=1e-7)
    assert test.naive_p == pytest.approx(halves[1], rel=1e-7)


@pytest.mark.parametrize("columns", [(), ("x",), ("x", "t")])
def test_chi_square_is_that_of_least_squares_in_each_group(columns):
    table = simulate_table(9, n_groups=12)
    random = " + ".join(("1", *columns))
    fit = Model(f"y ~ x + w + t + ({random} | g)", table).reml()
    q = len(columns) + 1
    chi2, groups = np.zeros(q), 0
    for _, rows in table.groupby("g"):
        z = np.column_stack([np.ones(len(rows)), *(rows[name] for name in columns)])
        if len(rows) < q:
            continue
        x = rows.assign(Intercept=1.0)[list(fit.moments.fixed)].to_numpy()
        inverse = np.linalg.inv(z.T @ z)
        u = inverse @ z.T @ (rows["y"].to_numpy() - x @ fit.beta)
        chi2 += u**2 / (fit.sigma2 * np.diag(inverse))
        groups += 1
    result = hlm_chi_square(fit)
    assert groups < 12 or q == 1
    assert result["chi2"].tolist() == pytest.approx(chi2, rel=1e-9)
    assert result["groups"].tolist() == [groups] * q
    assert result["df"].tolist() == [groups - 2, *[groups - 1] * (q - 1)]


@pytest.mark.parametrize("name", [name for name in SLOPES if SLOPES[name]["df"] <= 4])
def test_lr_test_agrees_with_lme4(name):
    fit = fit_case(name, "reml")
    dropped = fit.moments.random[-1]
    test = lr_test_coefficient(fit, dropped)
    if max(test.df) != SLOPES[name]["df"]:
        pytest.fail(f"{name} drops {SLOPES[name]['df']} parameters in R, {max(test.df)} here")
    assert test.chi2 == pytest.approx(SLOPES[name]["chi2"], rel=1e-6, abs=1e-7)


def test_the_only_coefficient_is_tested_against_linear_regression():
    fit = Model("y ~ x + w + (1 | g)", simulate_table(9, n_groups=12)).reml()
    test = lr_test_coefficient(fit, "Intercept")
    assert test.df == (0, 1)
    assert test.chi2 == pytest.approx(fit.lr_test["chi2"], rel=1e-12)
    assert test.p == pytest.approx(0.5 * stats.chi2.sf(test.chi2, 1), rel=1e-12)


def test_independent_coefficients_have_no_covariances_to_lose():
    table = simulate_table(9, n_groups=30)
    fit = Model("y ~ x + w + (1 | g) + (0 + x | g)", table).reml()
    test = lr_test_coefficient(fit, "x")
    null = Model("y ~ x + w + (1 | g)", table).reml()
    assert test.df == (0, 1)
    assert test.chi2 == pytest.approx(2.0 * (fit.loglik - null.loglik), rel=1e-9)
    override = Model("y ~ x + w + (x + t | g)", table).reml(covariance="independent")
    null = Model("y ~ x + w + (x | g)", table).reml(covariance="independent")
    test = lr_test_coefficient(override, "t")
    assert test.df == (0, 1)
    assert test.chi2 == pytest.approx(2.0 * (override.loglik - null.loglik), rel=1e-9)


def test_a_statistic_of_zero_has_p_one():
    test = lr_test_coefficient(fit_case("dyestuff2", "reml"), "Intercept")
    assert (test.chi2, test.p) == (0.0, 1.0)
    for chi2 in (1e-10, -1e-10):
        test = mix_chi_squares(chi2, (0, 1), weights=(0.5, 0.5), dropped=("x",))
        assert (test.chi2, test.p) == (0.0, 1.0)


def test_wrong_coefficients_and_shared_variances_are_refused():
    table = simulate_table(9, n_groups=30)
    model = Model("y ~ x + w + (x | g)", table)
    with pytest.raises(ArgumentError, match=r"'w' is not a random coefficient .* Intercept, x$"):
        lr_test_coefficient(model.reml(), "w")
    with pytest.raises(ArgumentError, match=r"exchangeable structure shares one variance"):
        lr_test_coefficient(model.reml(covariance="exchangeable"), "x")


def test_too_few_full_groups_are_refused():
    table = simulate_table(0, n_groups=30, largest=12)
    rows = table[(table["g"] == 1) | ~table.duplicated("g")]
    fit = Model("y ~ w + (x | g)", rows).reml()
    with pytest.raises(ArgumentError, match=r"only 1 of 30 'g' have .* likelihood-ratio test"):
        hlm_chi_square(fit)
