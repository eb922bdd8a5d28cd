"""Cluster-robust standard errors against HLM, clubSandwich and dense matrices."""

import numpy as np
import pytest
from lme4_cases import fit_case, in_order, load_cases
from scipy.linalg import sqrtm
from simulate import Rows, dense_covariance, simulate_rows, simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.reml.fixed.robust import robust_covariance, robust_df, robust_test

CLUB_SANDWICH = 1e-9  # relative; the estimates themselves differ by about 1e-10
DENSE = 1e-8  # a symmetric root of an n_j x n_j matrix
CASES = [(name, method) for name in load_cases() for method in ("reml", "ml")]


def test_hsb_table_4_4(hsb):
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    se = np.sqrt(np.diag(robust_covariance(fit, kind="cr0").cov))
    assert se == pytest.approx([0.243738, 0.127829], abs=5e-7)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_agrees_with_clubsandwich(name, method):
    fit, stored = fit_case(name, method), load_cases()[name][method]
    for kind in ("cr0", "cr2"):
        robust = robust_covariance(fit, kind=kind)
        se = np.sqrt(np.diag(robust.cov))
        assert se == pytest.approx(in_order(fit, stored[kind]["se"]), rel=CLUB_SANDWICH), kind
    df = robust_df(robust, np.eye(len(se)))
    assert df == pytest.approx(in_order(fit, stored["cr2"]["df"]), rel=CLUB_SANDWICH)


# clubSandwich 0.5.8, Wald_test(fit, <every coefficient but the intercept>, "CR2", test = "HTZ")
# of lme4 1.1.31's fits: F, numerator and denominator df.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("oxboys", (218.16430679478992, 2, 23.99995850406323)),
        ("machines", (32.803014746532895, 2, 3.999999999999958)),
        ("hsb_intercepts_and_slopes", (198.22881003615493, 5, 89.71426592671207)),
    ],
)
def test_joint_test_agrees_with_clubsandwich(name, expected):
    fit = fit_case(name, "reml")
    test = robust_test(fit, np.eye(len(fit.beta))[1:])
    assert (test.statistic, test.df, test.ddf) == pytest.approx(expected, rel=1e-7)


def dense_cr2(rows: Rows, fit: RemlFit) -> tuple[np.ndarray, np.ndarray]:
    """Return CR2 and its df with n_j x n_j adjustment matrices, as the paper defines them."""
    v = dense_covariance(rows, fit.g, fit.sigma2)
    c = np.linalg.inv(rows.x.T @ np.linalg.solve(v, rows.x))
    residual = rows.y - rows.x @ fit.beta
    hat = rows.x @ c @ rows.x.T @ np.linalg.inv(v)
    scores, linear = [], []
    for label in np.unique(rows.labels):
        at = np.flatnonzero(rows.labels == label)
        vj, xj = v[np.ix_(at, at)], rows.x[at]
        root = np.linalg.cholesky(vj).T
        values, vectors = np.linalg.eigh(root @ (vj - xj @ c @ xj.T) @ root.T)
        power = np.where(values > 1e-10 * values.max(), np.abs(values) ** -0.5, 0.0)
        a = root.T @ (vectors * power) @ vectors.T @ root
        weights = c @ xj.T @ np.linalg.solve(vj, a)
        scores.append(weights @ residual[at])
        linear.append(weights @ (np.eye(len(rows.y)) - hat)[at])
    cov = np.array(scores).T @ np.array(scores)
    # l'cov l is the quadratic form of y in B'B, row j of B being l'weights_j (I - hat).
    stacked, root = np.array(linear), sqrtm(v)
    df = []
    for k in range(len(fit.beta)):
        b = stacked[:, k] @ root
        form = b @ b.T
        df.append(np.trace(form) ** 2 / np.sum(form**2))
    return cov, np.array(df)


@pytest.mark.parametrize("random", ["1", "x", "x + t", "(1 | g) + (0 + x | g)"])
def test_cr2_agrees_with_dense_matrices(random):
    rows = simulate_rows(5, random, n_groups=15)
    fit = rows.model.reml()
    robust = robust_covariance(fit)
    cov, df = dense_cr2(rows, fit)
    assert robust.cov == pytest.approx(cov, rel=DENSE, abs=DENSE * cov.max())
    assert robust_df(robust, np.eye(3)) == pytest.approx(df, rel=DENSE)


def test_cr2_of_groups_that_fit_themselves_agrees_with_dense_matrices():
    table = simulate_table(5, n_groups=15)
    table["own"] = (table["g"] == 1).astype(float)
    model = Model("y ~ x + own + own:x + (1 | g)", table)
    rows = Rows(model, *model.rows())
    fit = model.reml()
    cov, df = dense_cr2(rows, fit)
    robust = robust_covariance(fit)
    assert robust.cov == pytest.approx(cov, rel=DENSE, abs=DENSE * cov.max())
    keep = np.eye(len(df))[[fit.moments.fixed.index(name) for name in ("Intercept", "x")]]
    assert robust_df(robust, keep) == pytest.approx(keep @ df, rel=DENSE)


def test_cr0_has_the_normal_as_its_reference():
    fit = Model("y ~ x + w + (x | g)", simulate_table(3, n_groups=20)).reml()
    robust = robust_covariance(fit, kind="cr0")
    assert np.isinf(robust_df(robust, np.eye(3))).all()
    test = robust_test(fit, np.eye(3)[1:], kind="cr0")
    chi2 = fit.beta[1:] @ np.linalg.solve(robust.cov[1:, 1:], fit.beta[1:])
    assert test.statistic == pytest.approx(chi2, rel=1e-10)
    assert (test.df, test.ddf) == (2, np.inf)


def test_scale_and_offset_do_not_matter():
    table = simulate_table(4, n_groups=20)
    formula = "y ~ x + w + (x | g)"
    moved = table.assign(x=1e4 * (table["x"] + 1e3), w=1e-3 * table["w"], y=1e6 * table["y"])
    plain = robust_covariance(Model(formula, table).reml())
    other = robust_covariance(Model(formula, moved).reml())
    factor = np.array([1e6 / 1e4, 1e6 / 1e-3])
    assert other.cov[1:, 1:] == pytest.approx(
        plain.cov[1:, 1:] * np.outer(factor, factor), rel=1e-6
    )
    rows = np.eye(3)[1:]
    assert robust_df(other, rows) == pytest.approx(robust_df(plain, rows), rel=1e-6)


def test_one_hypothesis_has_the_df_of_its_t():
    fit = Model("y ~ x + w + (x | g)", simulate_table(3, n_groups=20)).reml()
    row = np.array([[0.0, 1.0, -1.0]])
    df = robust_df(robust_covariance(fit), row)[0]
    assert robust_test(fit, row).ddf == pytest.approx(df, rel=1e-10)


def test_too_few_groups_for_a_joint_test_are_refused():
    fit = Model("y ~ x + w + (1 | g)", simulate_table(0, n_groups=3, largest=30)).reml()
    with pytest.raises(ArgumentError, match=r"3 hypotheses leave CR2 with .* test fewer at once"):
        robust_test(fit, np.eye(3))


def test_an_unknown_kind_is_refused():
    fit = Model("y ~ x + w + (1 | g)", simulate_table(2)).reml()
    with pytest.raises(ArgumentError, match="kind='cr1' is not known; choose one of cr0, cr2"):
        robust_covariance(fit, kind="cr1")
