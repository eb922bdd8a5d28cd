"""Each group's coefficients against row-level least squares, dense algebra and lme4."""

import numpy as np
import pytest
from lme4_cases import fit_case, load_cases
from simulate import dense_covariance, simulate_rows, simulate_table

from bhlm.fits.model import Model
from bhlm.moments.groups import locate_groups
from bhlm.reml.groups import describe_groups, solve_groups


def test_least_squares_of_each_school(hsb):
    fit = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    table = describe_groups(fit)
    for label in (1224, 1288, 9586):
        rows = hsb[hsb["school"] == label]
        x = np.column_stack([np.ones(len(rows)), rows["ses"] - rows["ses"].mean()])
        beta, rss = np.linalg.lstsq(x, rows["mathach"], rcond=None)[:2]
        ours = table[table["school"] == label]
        np.testing.assert_allclose(ours["ols"], beta, rtol=1e-9)
        np.testing.assert_allclose(ours["fixed"], fit.beta, rtol=1e-9)
        errors = np.sqrt(fit.sigma2 * np.diag(np.linalg.inv(x.T @ x)))
        np.testing.assert_allclose(ours["ols_se"], errors, rtol=1e-9)
        assert rss > 0
    means = table.groupby("coefficient")["reliability"].mean()
    assert means["Intercept"] == pytest.approx(0.9075635381124627, rel=1e-9)
    assert means["cwc(ses)"] == pytest.approx(0.2636675265588875, rel=1e-9)
    np.testing.assert_allclose(table["eb"], table["fixed"] + table["u"], rtol=1e-12)


def test_fixed_part_holds_the_cross_level_interactions(hsb):
    formula = "mathach ~ sector + cwc(ses) + sector:cwc(ses) + (cwc(ses) | school)"
    fit = Model(formula, hsb).reml()
    table = describe_groups(fit).merge(hsb[["school", "sector"]].drop_duplicates(), on="school")
    b = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    slope = table[table["coefficient"] == "cwc(ses)"]
    expected = b["cwc(ses)"] + b["sector:cwc(ses)"] * slope["sector"]
    np.testing.assert_allclose(slope["fixed"], expected, rtol=1e-8)


def test_prediction_error_variance_is_hendersons():
    rows = simulate_rows(3, "x", n_groups=12)
    fit = rows.model.reml()
    v = dense_covariance(rows, fit.g, fit.sigma2)
    inverse = np.linalg.inv(v)
    p = inverse - inverse @ rows.x @ fit.beta_cov @ rows.x.T @ inverse
    table = describe_groups(fit)
    for j, label in enumerate(fit.moments.groups):
        z = np.where((rows.labels == label)[:, None], rows.z, 0.0)
        # u_hat = G Z'P y, so that var(u_hat - u) = G - G Z'P Z G.
        expected = np.diag(fit.g - fit.g @ z.T @ p @ z @ fit.g)
        np.testing.assert_allclose(table["pev"][2 * j : 2 * j + 2], expected, rtol=1e-8)


@pytest.mark.parametrize("name", list(load_cases()))
def test_conditional_modes_are_lme4s(name):
    stored = load_cases()[name]["reml"]
    fit = fit_case(name, "reml")
    table = describe_groups(fit)
    scale = np.sqrt(np.diag(fit.g)).max() + 1e-12
    assert stored["group_effects"]
    for label, coefficients in stored["group_effects"].items():
        ours = table[table[fit.moments.group].astype(str) == str(label)]
        assert len(ours) == len(fit.moments.random)
        for k, (coefficient, mode) in enumerate(coefficients["mode"].items()):
            row = ours[ours["coefficient"] == coefficient].iloc[0]
            assert row["u"] == pytest.approx(mode, rel=1e-4, abs=1e-4 * scale)
            variance = coefficients["cov"][k][k]
            assert row["sd"] ** 2 == pytest.approx(variance, rel=1e-4, abs=1e-4 * scale**2)
        solution = solve_groups(fit)
        j = [str(g) for g in fit.moments.groups].index(str(label))
        at = [list(coefficients["mode"]).index(name) for name in fit.moments.random]
        ours = solution.basis @ solution.cov[j] @ solution.basis.T
        wanted = np.array(coefficients["cov"])[np.ix_(at, at)]
        np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-4 * scale**2)


def test_a_group_without_least_squares_has_its_total():
    """One row cannot give an intercept and a slope, but gamma'W_j and u are there."""
    table = simulate_table(3, n_groups=12)
    fit = Model("y ~ x * w + (x | g)", table).reml()
    b = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    single = table[table["g"] == 0].iloc[0]
    ours = describe_groups(fit)
    intercept, slope = ours.iloc[0], ours.iloc[1]
    assert intercept["n"] == 1
    assert intercept["fixed"] == pytest.approx(b["Intercept"] + b["w"] * single["w"], rel=1e-10)
    assert slope["fixed"] == pytest.approx(b["x"] + b["x:w"] * single["w"], rel=1e-10)
    assert slope["eb"] == pytest.approx(slope["fixed"] + slope["u"], rel=1e-12)
    without = ours.iloc[:2][["ols", "ols_se", "u_ols", "reliability", "shrinkage"]]
    assert without.isna().all(axis=None)
    assert ours.iloc[2:4].notna().all(axis=None)


def test_level_1_effects_that_do_not_vary_stay_out_of_the_fixed_part():
    """As in lme4's coef(); least squares then is that of what they leave of y."""
    table = simulate_table(4, n_groups=12)
    fit = Model("y ~ x + t + (x | g)", table).reml()
    b = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    ours = describe_groups(fit).set_index(["g", "coefficient"])
    fixed = ours["fixed"].unstack()[["Intercept", "x"]]
    np.testing.assert_allclose(fixed, [[b["Intercept"], b["x"]]] * 12, rtol=1e-12)
    rows = table[table["g"] == 1]
    z = np.column_stack([np.ones(len(rows)), rows["x"]])
    own = np.linalg.lstsq(z, rows["y"] - b["t"] * rows["t"], rcond=None)[0]
    np.testing.assert_allclose(ours.loc[1, "ols"][["Intercept", "x"]], own, rtol=1e-9)
    np.testing.assert_allclose(ours["u_ols"].dropna(), (ours["ols"] - ours["fixed"]).dropna())


def test_columns_that_several_coefficients_make_up_count_in_each():
    """y ~ Machine + (0 + Machine | Worker): the intercept is part of every machine's mean."""
    fit = fit_case("machines_cell_means", "reml")
    b = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    ours = describe_groups(fit)
    for name in fit.moments.random:
        fixed = ours.loc[ours["coefficient"] == name, "fixed"]
        np.testing.assert_allclose(fixed, b["Intercept"] + b.get(name, 0.0), rtol=1e-10)


@pytest.mark.parametrize("terms", ["sector +", "minority + C(sector) +", ""])
def test_a_multiple_of_a_column_that_is_zero_is_known_by_its_factor(terms, hsb):
    """cwc(ses) is zero in a school of one pupil: only a column of its own tells its sector."""
    table = hsb.copy()
    alone = table["school"] == 1317
    table = table[~alone | (table.groupby("school").cumcount() == 0)]
    sector = "C(sector)" if "C(" in terms else "sector"
    formula = f"mathach ~ {terms} cwc(ses) + {sector}:cwc(ses) + (cwc(ses) | school)"
    fit = Model(formula, table).reml()
    slope = describe_groups(fit).set_index(["school", "coefficient"]).loc[(1317, "cwc(ses)")]
    assert int(table.loc[alone, "sector"].iloc[0]) == 1
    assert slope["n"] == 1
    assert np.isfinite(slope["u"])
    if not terms:
        assert np.isnan(slope["fixed"])
        return
    b = dict(zip(fit.moments.fixed, fit.beta, strict=True))
    (product,) = (name for name in b if ":" in name)
    assert slope["fixed"] == pytest.approx(b["cwc(ses)"] + b[product], rel=1e-12)
    assert slope["eb"] == pytest.approx(slope["fixed"] + slope["u"], rel=1e-12)


def test_groups_are_found_by_label(hsb):
    moments = Model("mathach ~ 1 + (1 | school)", hsb).moments
    labels = np.array([9586, 1224, 1, "1224"], dtype=object)
    np.testing.assert_array_equal(locate_groups(moments, labels), [159, 0, -1, -1])
