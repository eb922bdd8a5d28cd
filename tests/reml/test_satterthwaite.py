"""Satterthwaite's df against lmerTest, dense matrices and what must not matter."""

import numpy as np
import pytest
from lme4_cases import fit_case, in_order, load_cases, select_rows
from scipy.optimize import approx_fprime
from simulate import dense_covariance, dense_restricted, simulate_rows, simulate_table

from bhlm.fits.model import Model
from bhlm.reml.fixed.satterthwaite import satterthwaite_df, satterthwaite_test

LMERTEST = 2e-6  # relative; lmerTest differentiates numerically
# Raw powers of the pressure up to the third: lmerTest's numerical Hessian loses three digits.
# A Richardson-extrapolated Hessian of our criterion confirms our value to 1e-8.
ILL_SCALED = {"dialyzer": 3e-3}
DENSE = 1e-5  # numerical second derivatives of a dense likelihood
CASES = [(name, method) for name in load_cases() for method in ("reml", "ml")]


def test_hsb_table_4_4(hsb):
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    df = satterthwaite_df(fit, np.eye(2))
    assert df == pytest.approx([156.75, 155.22], abs=0.005)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_agrees_with_lmertest(name, method):
    fit, stored = fit_case(name, method), load_cases()[name][method]
    tolerance = ILL_SCALED.get(name, LMERTEST)
    df = satterthwaite_df(fit, np.eye(len(fit.beta)))
    assert df == pytest.approx(in_order(fit, stored["satterthwaite"]["df"]), rel=tolerance)
    for joint in stored["joint"] or []:
        test = satterthwaite_test(fit, select_rows(fit, joint["hypothesis"]))
        expected = joint["satterthwaite"]
        assert test.df == expected["ndf"]
        assert test.statistic == pytest.approx(expected["F"], rel=tolerance)
        assert test.ddf == pytest.approx(expected["ddf"], rel=tolerance)
        assert test.p == pytest.approx(expected["p"], rel=0.05 if name in ILL_SCALED else 1e-4)


@pytest.mark.parametrize("random", ["1", "x", "(1 | g) + (0 + x | g)"])
def test_agrees_with_dense_derivatives(random):
    rows = simulate_rows(5, random, n_groups=25)
    fit = rows.model.reml()
    contrast = np.array([1.0, -0.5, 2.0])
    labels = fit.structure.labels
    at = np.array([*(fit.g[i, j] for i, j in labels), fit.sigma2])

    def build(values):
        return np.tensordot(values[:-1], fit.structure.directions, axes=1), values[-1]

    def variance(values):
        v = dense_covariance(rows, *build(values))
        return contrast @ np.linalg.solve(rows.x.T @ np.linalg.solve(v, rows.x), contrast)

    def second(i, j):
        def step(a, b):
            values = at.copy()
            values[i] += a * 1e-3 * abs(at[i])
            values[j] += b * 1e-3 * abs(at[j])
            return -2.0 * dense_restricted(rows, *build(values))

        mixed = step(1, 1) - step(1, -1) - step(-1, 1) + step(-1, -1)
        return mixed / (4e-6 * abs(at[i] * at[j]))

    hessian = np.array([[second(i, j) for j in range(len(at))] for i in range(len(at))])
    gradient = approx_fprime(at, variance, 1e-6 * np.abs(at))
    expected = 2.0 * variance(at) ** 2 / (gradient @ np.linalg.inv(hessian / 2.0) @ gradient)
    assert satterthwaite_df(fit, contrast) == pytest.approx([expected], rel=DENSE)


def test_one_hypothesis_has_the_df_of_its_t():
    fit = Model("y ~ x + w + (x | g)", simulate_table(3, n_groups=20)).reml()
    row = np.array([[0.0, 1.0, -1.0]])
    test = satterthwaite_test(fit, row, values=np.array([0.5]))
    gap = fit.beta[1] - fit.beta[2] - 0.5
    assert test.ddf == pytest.approx(satterthwaite_df(fit, row)[0], rel=1e-12)
    assert test.statistic == pytest.approx(gap**2 / (row @ fit.beta_cov @ row.T).item(), rel=1e-12)


def test_scale_and_offset_do_not_matter():
    table = simulate_table(4, n_groups=20)
    formula = "y ~ x + w + (x | g)"
    plain = satterthwaite_df(Model(formula, table).reml(), np.eye(3)[1:])
    # An offset of a column with a random slope leaves the model as it is, all but its intercept.
    moved = table.assign(x=1e4 * (table["x"] + 1e3), w=1e-3 * table["w"], y=1e6 * table["y"])
    assert satterthwaite_df(Model(formula, moved).reml(), np.eye(3)[1:]) == pytest.approx(
        plain, rel=1e-5
    )


def test_repeated_hypotheses_count_once():
    fit = Model("y ~ x + w + (x | g)", simulate_table(3, n_groups=20)).reml()
    once = satterthwaite_test(fit, np.eye(3)[1:])
    twice = satterthwaite_test(fit, np.vstack([np.eye(3)[1:], [0.0, 1.0, 1.0]]))
    assert twice.df == once.df == 2
    assert twice.statistic == pytest.approx(once.statistic, rel=1e-8)


def test_a_df_below_two_pools_to_two():
    fit = Model("y ~ x + w + (1 | g)", simulate_table(0, n_groups=3, largest=30)).reml()
    df = satterthwaite_df(fit, np.eye(3))
    assert df.min() < 2.0
    assert satterthwaite_test(fit, np.eye(3)).ddf == 2.0
