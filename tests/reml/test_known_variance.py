"""Known sampling variances: metafor's fits, printed ones, and what weights of 1 / v are."""

import json
from pathlib import Path

import numpy as np
import pytest

import bhlm
from bhlm.errors import ArgumentError, DataError

FOUND = json.loads((Path(__file__).parents[1] / "reference" / "survey" / "survey.json").read_text())
SAME = 1e-6  # metafor, run to its optimum
# Of 16 zeros of a variance at the boundary, where metafor stops at 1e-16.
ZERO = 1e-12


def fit(data: str, fixed: str = "1", method: str = "reml") -> bhlm.RemlFit:
    table = bhlm.load_dataset(data)
    return bhlm.Model(f"effect ~ {fixed} + (1 | study)", table, known_variance="variance").reml(
        method=method
    )


CASES = {
    "expectancy_reml": ("expectancy", "1", "reml"),
    "expectancy_ml": ("expectancy", "1", "ml"),
    "contact_reml": ("expectancy", "contact", "reml"),
    "calendar_reml": ("school_calendar", "1", "reml"),
    "calendar_year": ("school_calendar", "year", "reml"),
}


@pytest.mark.parametrize("case", CASES)
def test_metafor_agrees(case):
    found, theirs = fit(*CASES[case]), FOUND[case]
    assert found.converged
    assert found.loglik == pytest.approx(theirs["loglik"], abs=SAME)
    np.testing.assert_allclose(found.beta, theirs["beta"], SAME)
    se = found.estimates["se"]
    np.testing.assert_allclose(se.iloc[: len(found.beta)], theirs["se"], SAME)
    assert found.g[0, 0] == pytest.approx(theirs["tau2"], SAME, ZERO)
    if not found.singular:
        assert se["var(Intercept|study)"] == pytest.approx(theirs["se_tau2"], SAME)
    about = found.heterogeneity()
    assert about.q == pytest.approx(theirs["q"], SAME)
    assert (about.i2, about.h2) == pytest.approx((theirs["i2"], theirs["h2"]), SAME, 1e-9)
    if found.moments.fixed == ("Intercept",):
        assert (about.lower, about.upper) == pytest.approx((theirs["lower"], theirs["upper"]), SAME)
    studies = found.studies()
    np.testing.assert_allclose(studies["eb"], theirs["blup"], SAME, SAME)
    np.testing.assert_allclose(studies["eb_se"], theirs["blup_se"], SAME)


def test_printed_values():
    plain, contact = fit("expectancy"), fit("expectancy", "contact")
    rows = plain.estimates
    assert f"{rows.loc['var(Intercept|study)', 'estimate']:.4f}" == "0.0188"
    assert f"{rows.loc['Intercept', 'estimate']:.4f}" == "0.0837"
    assert f"{rows.loc['Intercept', 'statistic']:.4f}" == "1.6208"
    assert f"{plain.heterogeneity().q:.4f}" == "35.8295"
    assert [f"{each:.4f}" for each in contact.beta] == ["0.4072", "-0.1572"]
    assert f"{contact.heterogeneity().q:.4f}" == "16.5708"
    calendar = fit("school_calendar").estimates
    assert f"{calendar.loc['var(Intercept|study)', 'se']:.4f}" == "0.0202"


def test_known_variances_are_weights_with_sigma_held():
    """Where the residual variance by weights 1 / v comes out at 1, the two are one model."""
    table = bhlm.load_dataset("school_calendar")
    formula = "effect ~ 1 + (1 | district)"
    weighted = bhlm.Model(formula, table.assign(w=1.0 / table.variance), weights="w")
    sigma2 = weighted.reml(method="ml").sigma2
    table["v"] = table.variance * sigma2
    known = bhlm.Model(formula, table, known_variance="v").reml(method="ml")
    free = bhlm.Model(formula, table.assign(w=1.0 / table.v), weights="w").reml(method="ml")
    assert free.sigma2 == pytest.approx(1.0)
    assert known.sigma2 == 1.0
    assert known.loglik == pytest.approx(free.loglik)
    np.testing.assert_allclose(known.beta, free.beta, 1e-6)
    np.testing.assert_allclose(known.g, free.g, 1e-5)
    np.testing.assert_allclose(
        known.group_effects()["estimate"], free.group_effects()["estimate"], 1e-4
    )


def test_summary_tells_that_sigma_is_held():
    found = fit("expectancy")
    assert "sigma held at 1" in found.summary()
    assert "sigma held at 1" in repr(found)
    assert str(found.heterogeneity()).startswith("Q(18) = 35.8295, p = 0.00742; tau^2 = 0.0188")
    assert np.isnan(found.estimates.loc["var(Residual)", "se"])


def test_what_is_not_there_is_refused():
    found, table = fit("expectancy"), bhlm.load_dataset("expectancy")
    for ask in (found.profile, found.bootstrap, found.fixed_effects):
        with pytest.raises(ArgumentError, match="is not there with known variances"):
            ask()
    with pytest.raises(ArgumentError, match="make the model with known_variance="):
        bhlm.Model("effect ~ 1 + (1 | weeks)", table).reml().heterogeneity()
    calendar = bhlm.load_dataset("school_calendar")
    several = bhlm.Model("effect ~ 1 + (1 | district)", calendar, known_variance="variance").reml()
    with pytest.raises(ArgumentError, match="56 rows in 11 groups"):
        several.studies()
    table.loc[3, "variance"] = -0.1
    with pytest.raises(DataError, match="known variance 'variance' is negative in 1 row"):
        bhlm.Model("effect ~ 1 + (1 | study)", table, known_variance="variance")
    table.loc[3, "variance"] = 0.0
    with pytest.raises(DataError, match="known variance 'variance' is"):
        bhlm.Model("effect ~ 1 + (1 | study)", table, known_variance="variance")


@pytest.mark.parametrize("case", ["expectancy_reml", "calendar_reml"])
def test_predictions_are_metafors(case):
    data, _, method = CASES[case]
    table = bhlm.load_dataset(data)
    model = bhlm.Model("effect ~ 1 + (1 | study)", table, known_variance="variance")
    found, theirs = model.reml(method=method), FOUND[case]
    whole = model.predict(found, kind="population").iloc[0]
    assert whole["lower_new"] == pytest.approx(theirs["lower"], rel=1e-5)
    assert whole["upper_new"] == pytest.approx(theirs["upper"], rel=1e-5)
    each = model.predict(found)
    np.testing.assert_allclose(each["estimate"], theirs["blup"], 1e-4, 1e-6)
    np.testing.assert_allclose(each["se"], theirs["blup_se"], 1e-4)
    rows = model.residuals(found)
    np.testing.assert_allclose(
        rows["standardized"], rows["conditional"] / np.sqrt(table["variance"]), 1e-12
    )
