"""Exact deletion against refits of the other groups' moments."""

import numpy as np
import pandas as pd
import pytest
from simulate import dense_loglik, dense_restricted, simulate_rows, simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reml.estimate import fit_moments
from bhlm.reml.influence import loglik_at, measure_influence


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_deletion_is_a_refit_without_the_group(method, hsb):
    model = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb)
    fit = model.reml(method=method)
    table = measure_influence(fit).set_index("school")
    assert len(table) == 160
    assert table["converged"].all()
    for label in (1224, 4292, 9586):
        rest = fit_moments(model.moments.without([label]), method=method)
        own, other = fit.estimates["estimate"], rest.estimates["estimate"]
        for name in ("Intercept", "cwc(ses)", "var(Intercept|school)", "var(Residual)",
                     "cov(Intercept,cwc(ses)|school)"):  # fmt: skip
            assert table.loc[label, name] == pytest.approx(other[name] - own[name], abs=1e-7)
        step = rest.beta - fit.beta
        cook = step @ np.linalg.solve(fit.beta_cov, step) / 2
        assert table.loc[label, "cook"] == pytest.approx(cook, rel=1e-6)
        ratio = np.linalg.det(rest.beta_cov) / np.linalg.det(fit.beta_cov)
        assert table.loc[label, "covratio"] == pytest.approx(ratio, rel=1e-6)


def test_an_outlying_group_stands_out(hsb):
    table = hsb.copy()
    table.loc[table["school"] == 1288, "mathach"] += 40.0
    influence = measure_influence(Model("mathach ~ 1 + (1 | school)", table).reml())
    assert influence.loc[influence["cook"].idxmax(), "school"] == 1288


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_displacement_is_the_fall_of_the_dense_likelihood(method):
    rows = simulate_rows(2, "x", n_groups=15)
    fit = rows.model.reml(method=method)
    table = measure_influence(fit).set_index("g")
    assert (table["displacement"] > 0).all()
    for label in (1, 4, 9):
        rest = fit_moments(rows.model.moments.without([label]), method=method)
        if method == "reml":
            at = dense_restricted(rows, rest.g, rest.sigma2)
        else:
            at = dense_loglik(rows, rest.beta, rest.g, rest.sigma2)
        fall = 2.0 * (fit.loglik - at)
        assert table.loc[label, "displacement"] == pytest.approx(fall, rel=1e-5, abs=1e-8)
        step = rest.beta - fit.beta
        expected = step @ np.linalg.solve(rest.beta_cov, step) / len(step)
        assert table.loc[label, "mdffits"] == pytest.approx(expected, rel=1e-5)


def test_likelihood_elsewhere_is_dense():
    rows = simulate_rows(6, "x", n_groups=10)
    fit = rows.model.reml(method="ml")
    beta, root, sigma2 = fit.beta + 0.3, np.array([[0.9, 0.0], [0.2, 0.4]]), 1.7
    dense = dense_loglik(rows, beta, root @ root.T, sigma2)
    assert loglik_at(fit, beta, root=root, sigma2=sigma2) == pytest.approx(dense, rel=1e-11)
    assert loglik_at(fit, fit.beta, root=fit.root, sigma2=fit.sigma2) == pytest.approx(fit.loglik)


def test_deletion_from_a_singular_fit():
    """The warm start stands on the boundary, and some refits have to leave it."""
    rng = np.random.default_rng(19)
    group = np.repeat(np.arange(12), 5)
    table = pd.DataFrame({"g": group, "y": 0.3 * rng.normal(size=12)[group] + rng.normal(size=60)})
    model = Model("y ~ 1 + (1 | g)", table)
    fit = model.reml()
    assert fit.singular
    found = measure_influence(fit).set_index("g")
    for label in range(12):
        rest = fit_moments(model.moments.without([label]))
        change = rest.g[0, 0] - fit.g[0, 0]
        assert found.loc[label, "var(Intercept|g)"] == pytest.approx(change, abs=1e-7)
        assert found.loc[label, "singular"] == rest.singular
    assert 0 < found["singular"].sum() < 12


@pytest.mark.parametrize("case", ["level", "rows", "slope"])
def test_a_deletion_that_leaves_too_little_is_nan(case):
    table = simulate_table(8, n_groups=9)
    if case == "level":  # one group alone has the level
        formula = "y ~ x + w + (1 | g)"
        table["w"] = (table["g"] == 4) * 1.0
    elif case == "rows":  # one group alone has more than one row
        formula = "y ~ 1 + (1 | g)"
        table = table[(table["g"] == 4) | ~table["g"].duplicated()]
    else:  # one group alone has a covariate that varies
        formula = "y ~ 1 + (1 | g) + (0 + x | g)"
        table["x"] = table["x"].where(table["g"] == 4, 1.0)
    found = measure_influence(Model(formula, table).reml()).set_index("g")
    lost = found.loc[4]
    assert lost.drop(["converged", "singular"]).isna().all()
    assert not lost["converged"]
    others = found.drop(index=4)
    assert others["converged"].all()
    assert others.notna().all(axis=None)


def test_a_deletion_that_takes_nearly_all_of_a_column_is_a_refit():
    table = simulate_table(8, n_groups=9)
    table["w"] = np.where(table["g"] == 4, 1e6, table["w"])
    model = Model("y ~ x + w + (1 | g)", table)
    fit = model.reml()
    rest = fit_moments(model.moments.without([4]))
    row = measure_influence(fit).set_index("g").loc[4]
    for name, own, other in zip(fit.moments.fixed, fit.beta, rest.beta, strict=True):
        assert row[name] == pytest.approx(other - own, rel=1e-6)
    ratio = np.linalg.det(rest.beta_cov) / np.linalg.det(fit.beta_cov)
    assert row["covratio"] == pytest.approx(ratio, rel=1e-5)


def test_distances_do_not_depend_on_where_zero_lies():
    table = simulate_table(5, n_groups=15)
    far = table.assign(x=table["x"] + 1e7)
    near, other = (
        measure_influence(Model("y ~ x + w + (x | g)", data).reml()) for data in (table, far)
    )
    names = ["cook", "mdffits", "covratio", "displacement"]
    # x + 1e7 has lost nine digits of x, which leaves seven.
    np.testing.assert_allclose(other[names], near[names], rtol=1e-5, atol=1e-7)


def test_two_groups_are_too_few():
    table = simulate_table(9, n_groups=2, largest=12)
    table = pd.concat([table, table.assign(y=table["y"] + 0.3, x=-table["x"])])
    fit = Model("y ~ x + (1 | g)", table).reml()
    with pytest.raises(ArgumentError, match=r"the fit has 2 'g', .* needs at least 3"):
        measure_influence(fit)


def test_a_deletion_that_saturates_the_groups_is_nan():
    """Of the two groups left each has its own mean, and nothing tells how groups vary."""
    table = simulate_table(3, n_groups=3, largest=12)
    table = pd.concat([table, table.assign(y=table["y"] + 0.3, x=-table["x"])])
    fit = Model("y ~ x + w + (1 | g)", table).reml()
    found = measure_influence(fit)
    assert found.drop(columns=["g", "converged", "singular"]).isna().all(axis=None)
    assert not found["converged"].any()
