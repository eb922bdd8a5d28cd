"""Fits pooled over imputations: Rubin's formulas by hand, mitools and mitml, and identities."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm.errors import BhlmError
from bhlm.studies.imputations.joint import pool_chi_squares, pool_wald
from bhlm.studies.imputations.rubin import combine
from tests.simulate import simulate_table

FOLDER = Path(__file__).parents[1] / "reference" / "imputations"
R = json.loads((FOLDER / "pooled.json").read_text(encoding="utf-8"))
PRINTED = 1e-11  # the reference holds 15 digits, of which variances over data sets lose some
CONSTRAINTS = 1e-6  # mitml takes numerical derivatives of the constraints of its joint tests
OPTIMUM = 1e-5  # lme4 stops where estimates still move in the sixth digit
FORMULA = "y ~ x + w + (x | g)"


def impute(number: int) -> pd.DataFrame:
    """Return a table in which a third of x is drawn anew, another in every imputation."""
    table = simulate_table(12, n_groups=25)
    missing = np.random.default_rng(9).random(len(table)) < 0.33
    table.loc[missing, "x"] = np.random.default_rng(number).normal(size=missing.sum())
    return table


@pytest.fixture(scope="module")
def fits() -> list[bhlm.RemlFit]:
    return [bhlm.Model(FORMULA, impute(number)).reml() for number in range(5)]


@pytest.fixture(scope="module")
def pooled(fits: list[bhlm.RemlFit]) -> bhlm.PooledFit:
    return bhlm.pool(fits)


# ---------------------------------------------------------------- formulas


def test_rubins_rules_by_hand():
    # m = 3: mean 2, W = 0.5, B = 1, T = 0.5 + 4/3.
    found = combine(np.array([[1.0], [2.0], [3.0]]), np.full((3, 1), 0.5), complete_df=np.inf)
    total, lam = 0.5 + 4 / 3, (4 / 3) / (0.5 + 4 / 3)
    assert [float(each[0]) for each in found[:4]] == pytest.approx([2.0, 0.5, 1.0, total])
    df, riv = 2 / lam**2, (4 / 3) / 0.5
    assert found.df[0] == pytest.approx(df)
    assert found.riv[0] == pytest.approx(riv)
    assert found.fmi[0] == pytest.approx((riv + 2 / (df + 3)) / (riv + 1))


def test_barnard_and_rubins_df_by_hand():
    found = combine(np.array([[1.0], [2.0], [3.0]]), np.full((3, 1), 0.5), complete_df=10.0)
    lam = (4 / 3) / (0.5 + 4 / 3)
    observed = 11 / 13 * 10 * (1 - lam)
    assert found.df[0] == pytest.approx(1 / (lam**2 / 2 + 1 / observed))
    # Nothing is missing where nothing varies; complete data would also have but 11/13.
    kappa = (found.df[0] + 1) / (found.df[0] + 3)
    assert found.fmi[0] == pytest.approx(1 - (1 - lam) * kappa / (11 / 13))


def test_scalars_are_those_of_mitools_and_mitml():
    betas, covs = np.array(R["betas"]), np.array(R["covs"])
    squares = np.einsum("fcc->fc", covs)
    found = combine(betas, squares, complete_df=np.inf)
    for name, values in (("estimate", found.estimate), ("df", found.df), ("fmi", found.fmi)):
        np.testing.assert_allclose(values, R["mitools"][name], rtol=PRINTED)
    np.testing.assert_allclose(found.total, np.diag(R["mitools"]["variance"]), rtol=PRINTED)
    few = combine(betas, squares, complete_df=30.0)
    for name, values in (("se", np.sqrt(few.total)), ("df", few.df), ("riv", few.riv)):
        np.testing.assert_allclose(values, R["mitml_30"][name], rtol=PRINTED)


@pytest.mark.parametrize(("name", "r"), [("D1", 3), ("D1_two", 2), ("D1_30", 3)])
def test_d1_is_that_of_mitml(name: str, r: int):
    at = slice(1, 1 + r)
    betas, covs = np.array(R["betas"])[:, at], np.array(R["covs"])[:, at, at]
    df = 30.0 if name == "D1_30" else np.inf
    assert pool_wald(betas, covs, complete_df=df) == pytest.approx(
        (R[name]["F"], R[name]["ddf"]), rel=CONSTRAINTS
    )


@pytest.mark.parametrize(("name", "r"), [("D2", 3), ("D2_two", 2)])
def test_d2_is_that_of_mitml(name: str, r: int):
    at = slice(1, 1 + r)
    betas, covs = np.array(R["betas"])[:, at], np.array(R["covs"])[:, at, at]
    chi = np.array([b @ np.linalg.solve(c, b) for b, c in zip(betas, covs, strict=True)])
    expected = (R[name]["F"], R[name]["ddf"])
    assert pool_chi_squares(chi, r) == pytest.approx(expected, rel=CONSTRAINTS)


def test_joint_df_with_few_imputations_and_few_groups_stay_below_complete_data():
    rng = np.random.default_rng(1)
    for m, r in [(2, 2), (3, 2), (5, 3)]:
        estimates, covs = rng.normal(size=(m, r)), np.tile(np.eye(r), (m, 1, 1))
        for complete in (3.0, 6.0, 40.0):
            assert 0.0 < pool_wald(estimates, covs, complete_df=complete)[1] < complete
        t = r * (m - 1)
        x = (1 + 1 / m) * np.trace(np.cov(estimates, rowvar=False)) / r
        if t <= 4:
            old = t * (1 + 1 / r) * (1 + 1 / x) ** 2 / 2
            assert pool_wald(estimates, covs)[1] == pytest.approx(old)


# ---------------------------------------------------------------- from tables


@pytest.fixture(scope="module")
def plausible(hsb: pd.DataFrame) -> bhlm.PooledFit:
    """The fits that `make_reference.R` makes."""
    table = hsb.copy()
    row = np.arange(len(table))
    for k in range(1, 6):
        table[f"pv{k}"] = table["mathach"] + 3.0 * np.sin(k * row)
    return bhlm.fit_imputations(
        "~ ses + female + minority + (1 | school)",
        table,
        responses=[f"pv{k}" for k in range(1, 6)],
        df="z",
    )


@pytest.mark.slow
def test_plausible_values_of_hsb_are_those_of_lme4_and_mitools(plausible: bhlm.PooledFit):
    fixed = plausible.estimates.iloc[:4]
    np.testing.assert_allclose(fixed["estimate"], R["mitools"]["estimate"], rtol=OPTIMUM)
    np.testing.assert_allclose(plausible.total, R["mitools"]["variance"], rtol=OPTIMUM, atol=1e-8)
    np.testing.assert_allclose(fixed["df"], R["mitools"]["df"], rtol=20 * OPTIMUM)
    np.testing.assert_allclose(fixed["fmi"], R["mitools"]["fmi"], rtol=10 * OPTIMUM)
    for rule in ("D1", "D2"):
        test = plausible.test("ses", "female", "minority", rule=rule)
        expected = (R[rule]["F"], R[rule]["ddf"])
        assert (test.statistic, test.ddf) == pytest.approx(expected, rel=50 * OPTIMUM)
    assert plausible.responses == ("pv1", "pv2", "pv3", "pv4", "pv5")
    names = ("var(Intercept|school)", "var(Residual)")
    variances = (R["school_variances"], R["residual_variances"])
    for name, values in zip(names, variances, strict=True):
        geometric = np.exp(np.log(values).mean())
        assert plausible.estimates.loc[name, "estimate"] == pytest.approx(geometric, rel=OPTIMUM)


@pytest.mark.slow
def test_r_still_says_what_is_stored():
    if shutil.which("Rscript") is None:
        pytest.skip("Rscript is not installed")
    command = ["Rscript", str(FOLDER / "make_reference.R")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    if "missing" in said:
        pytest.skip(f"the R package {said['missing']} is not installed")
    for name in ("mitools", "mitml", "mitml_30", "D1", "D2"):
        for key, value in R[name].items():
            np.testing.assert_allclose(said[name][key], value, rtol=1e-5, atol=1e-8)


def test_a_list_of_tables_is_fitted_and_pooled(pooled: bhlm.PooledFit):
    found = bhlm.fit_imputations(FORMULA, [impute(number) for number in range(5)])
    pd.testing.assert_frame_equal(found.estimates, pooled.estimates)


def test_plausible_values_are_fits_of_each_response():
    table = impute(0).assign(**{"y 2": lambda rows: rows["y"] + np.sin(rows["x"])})
    found = bhlm.fit_imputations("~ x + (1 | g)", table, responses=["y", "y 2"])
    fits = [bhlm.Model(f"{name} ~ x + (1 | g)", table).reml() for name in ("y", "`y 2`")]
    pd.testing.assert_frame_equal(found.estimates, bhlm.pool(fits).estimates)
    assert found.responses == ("y", "`y 2`")
    assert "Responses: y and `y 2`" in found.summary()


@pytest.mark.slow
def test_fits_of_several_factors_are_refused():
    table = impute(0).assign(h=lambda rows: np.arange(len(rows)) % 7)
    crossed = bhlm.Model("y ~ x + (1 | g) + (1 | h)", table).reml()
    with pytest.raises(BhlmError, match="pooling is not there yet for several grouping factors"):
        bhlm.pool([crossed, crossed])


# ---------------------------------------------------------------- identities


@pytest.mark.parametrize("df", ["z", "satterthwaite", "kenward-roger", "hlm", "cr2"])
def test_one_fit_repeated_pools_to_itself(fits: list[bhlm.RemlFit], df: str):
    one = fits[0]
    assert not one.singular
    pooled = bhlm.pool([one] * 4, df=df)
    assert not pooled.between.any()
    fixed = one.fixed_effects(method=df)
    names = list(fixed.index)
    found = pooled.estimates
    pd.testing.assert_frame_equal(
        found.loc[names, fixed.columns], fixed, rtol=1e-12, check_names=False
    )
    columns = ["estimate", "se", "lower", "upper"]
    components = one.estimates.drop(index=names)[columns]
    pd.testing.assert_frame_equal(found.drop(index=names)[columns], components, rtol=1e-10)
    assert (found[["riv", "fmi"]] == 0.0).all(axis=None)
    assert np.isinf(found.drop(index=names)["df"]).all()
    own, rules = one.test("x", "w", method=df), ("D1", "D2")
    for rule in rules if df not in ("kenward-roger", "cr2") else ("D2",):
        test = pooled.test("x", "w", rule=rule)
        expected = (own.statistic, own.ddf, own.p)
        assert (test.statistic, test.ddf, test.p) == pytest.approx(expected, rel=1e-10)
    assert "All fits are the same" in pooled.summary()


@pytest.mark.parametrize("covariance", ["independent", "exchangeable", "identity"])
def test_every_structure_repeated_pools_to_itself(covariance: str):
    one = bhlm.Model("y ~ x + (x | g)", simulate_table(4, n_groups=25)).reml(covariance=covariance)
    assert not one.singular
    columns = ["estimate", "se", "lower", "upper"]
    found = bhlm.pool([one, one], df="z").estimates[columns]
    pd.testing.assert_frame_equal(found, one.estimates[columns], rtol=1e-10)


def test_the_order_of_imputations_does_not_matter(fits: list[bhlm.RemlFit], pooled: bhlm.PooledFit):
    turned = bhlm.pool(fits[::-1])
    pd.testing.assert_frame_equal(turned.estimates, pooled.estimates, rtol=1e-9)
    for rule in ("D1", "D2"):
        one, other = (each.test("x", "w = -1", rule=rule) for each in (pooled, turned))
        assert (one.statistic, one.ddf) == pytest.approx((other.statistic, other.ddf), rel=1e-9)


def test_all_scales_of_the_components_tell_the_same(pooled: bhlm.PooledFit):
    table = pooled.estimates
    estimate, kept = table["estimate"], ["estimate", "lower", "upper"]
    for name in ("Intercept|g", "x|g", "Residual"):
        var, sd = table.loc[f"var({name})"], table.loc[f"sd({name})"]
        np.testing.assert_allclose(var[kept], sd[kept] ** 2, rtol=1e-12)
        assert var["df"] == sd["df"]
        assert 0.0 < var["fmi"] < 1.0
    product = estimate[["corr(Intercept,x|g)", "sd(Intercept|g)", "sd(x|g)"]].prod()
    assert estimate["cov(Intercept,x|g)"] == pytest.approx(product, rel=1e-12)
    logs = [np.log(fit.sigma2) for fit in pooled.fits]
    errors = [fit.estimates.loc["var(Residual)", "se"] / fit.sigma2 for fit in pooled.fits]
    total = np.mean(np.square(errors)) + 1.2 * np.var(logs, ddof=1)
    assert table.loc["var(Residual)", "se"] == pytest.approx(
        np.exp(np.mean(logs)) * np.sqrt(total), rel=1e-9
    )


def test_one_hypothesis_is_tested_as_in_the_table(pooled: bhlm.PooledFit):
    row, test = pooled.estimates.loc["x"], pooled.test("x")
    assert (test.statistic, test.ddf, test.p) == pytest.approx(
        (row["statistic"] ** 2, row["df"], row["p"]), rel=1e-9
    )
    contrast = pooled.contrast("x + w = 1").iloc[0]
    assert contrast["estimate"] == pytest.approx(pooled.beta[1] + pooled.beta[2], rel=1e-9)
    variance = np.array([0.0, 1.0, 1.0]) @ pooled.total @ [0.0, 1.0, 1.0]
    assert contrast["se"] == pytest.approx(np.sqrt(variance), rel=1e-9)
    again = pooled.test("x", "2*x = 0", "w")
    assert again.df == 2
    assert again.statistic == pytest.approx(pooled.test("x", "w").statistic, rel=1e-9)


# ---------------------------------------------------------------- what is told


def test_a_variance_on_the_boundary_is_averaged_as_it_is_and_told(fits: list[bhlm.RemlFit]):
    flat = impute(0).assign(
        y=lambda table: table["x"] + np.random.default_rng(3).normal(size=len(table))
    )
    singular = bhlm.Model(FORMULA, flat).reml()
    assert singular.singular
    pooled = bhlm.pool([*fits[:2], singular])
    table = pooled.estimates
    mean = np.mean([fit.g for fit in pooled.fits], axis=0)
    for i, name in enumerate(("Intercept", "x")):
        assert table.loc[f"var({name}|g)", "estimate"] == pytest.approx(mean[i, i])
        assert table.loc[f"sd({name}|g)", "estimate"] == pytest.approx(np.sqrt(mean[i, i]))
    assert np.isnan(
        table.loc["var(x|g)", ["se", "lower", "upper", "df", "fmi"]].astype(float)
    ).all()
    assert table.loc["var(Residual)", "lower"] > 0.0
    assert "boundary in 1 of 3 fits (3)" in " ".join(pooled.summary().split())


def test_different_numbers_of_rows_are_told(fits: list[bhlm.RemlFit]):
    fewer = bhlm.Model(FORMULA, impute(7).iloc[:-1]).reml()
    n = fewer.moments.n_rows
    pooled = bhlm.pool([fits[0], fits[1], fewer])
    assert f"between {n} (fit 3) and {n + 1} (fit 1) rows" in pooled.notes[0]


def test_text_and_json_hold_every_parameter(pooled: bhlm.PooledFit):
    shown = repr(pooled)
    assert len(shown.splitlines()) <= 30
    assert max(map(len, shown.splitlines())) <= 100
    content = json.loads(json.dumps(pooled.to_dict(), allow_nan=False))
    for name in pooled.estimates.index:
        assert name in shown
        assert name in pooled._repr_html_()
        found = content["estimates"][name]["estimate"]
        assert found == pytest.approx(pooled.estimates.loc[name, "estimate"])
    assert len(content["fits"]) == content["m"] == 5
    assert np.array(content["fixed_effects"]["total"]) == pytest.approx(pooled.total)


def test_what_cannot_be_pooled_is_refused_in_one_line(fits: list[bhlm.RemlFit]):
    one, table = fits[0], impute(0)
    other = bhlm.Model("y ~ x + t + (x | g)", table).reml()
    slope = bhlm.Model("y ~ x + w + (1 | g)", table).reml()
    ml = bhlm.Model(FORMULA, table).reml(method="ml")
    for call, words in [
        (lambda: bhlm.pool([one]), "1 fit cannot be pooled"),
        (lambda: bhlm.pool([]), "0 fits cannot be pooled"),
        (lambda: bhlm.pool(one), "fits is one RemlFit"),
        (lambda: bhlm.pool([one, other]), "other fixed effects than fit 1: 't' more and no 'w'"),
        (lambda: bhlm.pool([one, one, slope]), "fit 3 has other parameters than fit 1: no 'var"),
        (lambda: bhlm.fit_imputations("y ~ x + (1 | g) + (1 | t)", [table]), "factors (g and t)"),
        (lambda: bhlm.pool([one, ml]), "fit 2 has the method 'ml' and fit 1 'reml'"),
        (lambda: bhlm.pool([one, one], df="t"), "df='t' is not known"),
        (lambda: bhlm.pool([one, one], level=95), "level=95"),
        (lambda: bhlm.pool([one, "fit"]), "fit 2 to be pooled is a str"),
        (lambda: bhlm.pool([one, one]).test("x", rule="D4"), "rule='D4' is not known"),
        (lambda: bhlm.fit_imputations(FORMULA, table), "data is one DataFrame"),
        (lambda: bhlm.fit_imputations(FORMULA, [table, table[["x"]]]), "table 2: "),
        (lambda: bhlm.fit_imputations(FORMULA, table, responses=["y"]), "begin it with '~'"),
        (lambda: bhlm.fit_imputations("~ 1 + (1 | g)", table, responses=["y", "y"]), "'y' twice"),
        (lambda: bhlm.fit_imputations("~ 1 + (1 | g)", table, responses=["y", "v"]), "'v': "),
    ]:  # fmt: skip
        with pytest.raises(BhlmError) as caught:
            call()
        assert words in str(caught.value)
