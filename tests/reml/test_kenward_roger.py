"""Kenward and Roger's method against pbkrtest and dense matrices."""

import numpy as np
import pandas as pd
import pytest
from lme4_cases import fit_case, in_order, load_cases, select_rows
from simulate import Rows, dense_covariance, simulate_rows, simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit
from bhlm.reml.fixed.kenward_roger import (
    KenwardRoger,
    kenward_roger,
    kenward_roger_df,
    kenward_roger_test,
)

PBKRTEST = 2e-9  # relative; the estimates themselves differ by about 1e-10
DENSE = 1e-9
CASES = list(load_cases())


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_pbkrtest(name):
    fit, stored = fit_case(name, "reml"), load_cases()[name]["reml"]
    adjusted, expected = kenward_roger(fit), stored["kenward_roger"]
    se = np.sqrt(np.diag(adjusted.cov))
    df = kenward_roger_df(adjusted, np.eye(len(se)))
    assert se == pytest.approx(in_order(fit, expected["se"]), rel=PBKRTEST)
    assert df == pytest.approx(in_order(fit, expected["df"]), rel=PBKRTEST)
    for joint in stored["joint"] or []:
        test = kenward_roger_test(fit, select_rows(fit, joint["hypothesis"]))
        assert test.df == joint["kenward_roger"]["ndf"]
        assert test.statistic == pytest.approx(joint["kenward_roger"]["F"], rel=PBKRTEST)
        assert test.ddf == pytest.approx(joint["kenward_roger"]["ddf"], rel=PBKRTEST)
        assert test.p == pytest.approx(joint["kenward_roger"]["p"], rel=1e-6)


def dense_kenward_roger(rows: Rows, fit: RemlFit) -> np.ndarray:
    """Return the adjusted covariance by n x n matrices, as the paper defines it."""
    same = rows.labels[:, None] == rows.labels[None, :]
    parts = [
        np.where(same, rows.z @ direction @ rows.z.T, 0.0) for direction in fit.structure.directions
    ] + [np.eye(len(rows.y))]
    inverse = np.linalg.inv(dense_covariance(rows, fit.g, fit.sigma2))
    x = rows.x
    phi = np.linalg.inv(x.T @ inverse @ x)
    p = [-x.T @ inverse @ part @ inverse @ x for part in parts]
    q = [[x.T @ inverse @ a @ inverse @ b @ inverse @ x for b in parts] for a in parts]
    size = range(len(parts))
    information = [
        [
            np.trace(inverse @ parts[i] @ inverse @ parts[j])
            - 2.0 * np.trace(phi @ q[i][j])
            + np.trace(phi @ p[i] @ phi @ p[j])
            for j in size
        ]
        for i in size
    ]
    w = 2.0 * np.linalg.inv(information)
    middle = sum(w[i, j] * (q[i][j] - p[i] @ phi @ p[j]) for i in size for j in size)
    return phi + 2.0 * phi @ middle @ phi


@pytest.mark.parametrize("random", ["1", "x", "x + t", "(1 | g) + (0 + x | g)"])
def test_agrees_with_dense_matrices(random):
    rows = simulate_rows(5, random, n_groups=25)
    fit = rows.model.reml()
    assert kenward_roger(fit).cov == pytest.approx(dense_kenward_roger(rows, fit), rel=DENSE)


@pytest.mark.parametrize("covariance", ["exchangeable", "identity", "independent"])
def test_agrees_with_dense_matrices_under_any_structure(covariance):
    rows = simulate_rows(6, "x + t", n_groups=25)
    fit = rows.model.reml(covariance=covariance)
    assert kenward_roger(fit).cov == pytest.approx(dense_kenward_roger(rows, fit), rel=DENSE)


def test_one_hypothesis_has_the_df_of_its_t():
    fit = Model("y ~ x + w + (x | g)", simulate_table(3, n_groups=20)).reml()
    adjusted, row = kenward_roger(fit), np.array([[0.0, 1.0, -1.0]])
    test = kenward_roger_test(fit, row, values=np.array([0.5]))
    gap = fit.beta[1] - fit.beta[2] - 0.5
    assert test.ddf == pytest.approx(kenward_roger_df(adjusted, row)[0], rel=1e-10)
    assert test.statistic == pytest.approx(gap**2 / (row @ adjusted.cov @ row.T).item(), rel=1e-9)


@pytest.mark.parametrize("n_groups", [2, 3, 4, 5])
def test_balanced_groups_have_their_exact_df(n_groups):
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(n_groups), 5)
    y = 2.0 * rng.normal(size=n_groups)[group] + rng.normal(size=len(group))
    fit = Model("y ~ 1 + (1 | g)", pd.DataFrame({"g": group, "y": y})).reml()
    means = y.reshape(n_groups, 5).mean(axis=1)
    test = kenward_roger_test(fit, np.eye(1))
    assert not fit.singular
    assert test.ddf == pytest.approx(n_groups - 1, rel=1e-9)
    assert test.statistic == pytest.approx(
        means.mean() ** 2 * n_groups / means.var(ddof=1), rel=1e-9
    )


def test_two_df_are_two_however_rounding_falls():
    # One contrast of variance 1 that varies as one parameter of variance 1: A1 = A2 = 1, at
    # which the formula is 0 / 0.
    one = np.ones((1, 1))
    adjusted = KenwardRoger(inner=one, plain=one, slopes=one[None], weights=one, loadings=one)
    assert kenward_roger_df(adjusted, one) == pytest.approx([2.0], rel=1e-12)


def test_is_refused_for_ml():
    fit = Model("y ~ x + w + (x | g)", simulate_table(3, n_groups=20)).reml(method="ml")
    with pytest.raises(ArgumentError, match=r"defined for REML .* fit with method='reml' or"):
        kenward_roger(fit)


@pytest.mark.parametrize("random", ["x", "x + t"])
@pytest.mark.parametrize("shift", [2e3, 1e8])
def test_offset_does_not_matter(random, shift):
    """Columns far from zero make the variances as given all but coincide."""
    table = simulate_table(5, n_groups=25)
    table["x"] = (table["x"] + shift) - shift  # what a double near the shift can hold
    near, far = (
        Model(f"y ~ x + w + ({random} | g)", data).reml()
        for data in (table, table.assign(x=table["x"] + shift))
    )
    rows = np.eye(3)[1:]
    one, two = kenward_roger(near), kenward_roger(far)
    # The optimum itself agrees to about 1e-8 at the greater shift.
    np.testing.assert_allclose(two.cov[1:, 1:], one.cov[1:, 1:], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(kenward_roger_df(two, rows), kenward_roger_df(one, rows), rtol=1e-6)
    joint, moved = kenward_roger_test(near, rows), kenward_roger_test(far, rows)
    assert moved.ddf == pytest.approx(joint.ddf, rel=1e-6)
    assert moved.statistic == pytest.approx(joint.statistic, rel=1e-6)
