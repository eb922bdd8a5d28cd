"""Each group's coefficients against row-level least squares, dense algebra and lme4."""

import numpy as np
import pytest
from lme4_cases import fit_case, load_cases
from simulate import dense_covariance, simulate_rows

from bhlm.group_effects import describe_groups
from bhlm.model import Model


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
