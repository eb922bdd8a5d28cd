"""Comparison of fits: what lme4 and the textbook say, and what must be refused."""

import numpy as np
import pytest
from lme4_cases import fit_case, load_cases
from simulate import simulate_rows

from bhlm.comparison import (
    compare_fits,
    compare_nested,
    count_parameters,
    design_effect,
    intraclass_correlation,
    r_squared,
    variance_explained,
)
from bhlm.errors import ArgumentError
from bhlm.model import Model


@pytest.fixture(scope="module")
def fits(hsb):
    formulas = {
        "anova": "mathach ~ 1 + (1 | school)",
        "means": "mathach ~ gm(ses) + (1 | school)",
        "intercept": "mathach ~ cwc(ses) + (1 | school)",
        "slope": "mathach ~ cwc(ses) + (cwc(ses) | school)",
    }
    return {name: Model(formula, hsb).reml() for name, formula in formulas.items()}


@pytest.mark.parametrize("name", list(load_cases()))
@pytest.mark.parametrize("method", ["reml", "ml"])
def test_criteria_are_lme4s(name, method):
    fit, stored = fit_case(name, method), load_cases()[name][method]
    row = compare_fits(fit).iloc[0]
    assert row["parameters"] == count_parameters(fit) == stored["df"]
    assert row["aic"] == pytest.approx(stored["AIC"], abs=1e-4)
    assert row["bic"] == pytest.approx(stored["BIC"], abs=1e-4)


def test_lr_test_of_the_random_slope(fits):
    test = compare_nested(fits["intercept"], fits["slope"])
    assert test.chi2 == pytest.approx(9.761657, abs=1e-6)
    assert test.df == 2
    assert test.boundary


def test_chapter_4_of_the_textbook(fits):
    """Raudenbush & Bryk print .18 (p. 71), .69 (p. 74) and .063 (p. 79)."""
    assert round(intraclass_correlation(fits["anova"]), 2) == 0.18
    explained = variance_explained(fits["means"], fits["anova"])
    assert round(explained["var(Intercept|school)"], 2) == 0.69
    within = variance_explained(fits["slope"], fits["anova"])
    assert round(within["var(Residual)"], 3) == 0.063
    assert design_effect(fits["anova"]) == pytest.approx(
        1 + (7185 / 160 - 1) * intraclass_correlation(fits["anova"])
    )


def test_r_squared_is_that_of_the_rows():
    rows = simulate_rows(4, "x", n_groups=20)
    fit = rows.model.reml()
    fixed = np.var(rows.x @ fit.beta, ddof=1)
    random = np.mean(np.einsum("ni,ij,nj->n", rows.z, fit.g, rows.z))
    whole = fixed + random + fit.sigma2
    found = r_squared(fit)
    assert found["marginal"] == pytest.approx(fixed / whole, rel=1e-9)
    assert found["conditional"] == pytest.approx((fixed + random) / whole, rel=1e-9)


def test_what_cannot_be_compared_is_refused(fits, hsb):
    with pytest.raises(ArgumentError, match=r"differ in fixed effects, .*fit both with method"):
        compare_fits(fits["anova"], fits["means"])
    half = Model("mathach ~ 1 + (1 | school)", hsb.head(3000)).reml()
    with pytest.raises(ArgumentError, match="different rows"):
        compare_fits(fits["anova"], half)
    with pytest.raises(ArgumentError, match="same complete rows"):
        variance_explained(fits["anova"], half)
    by_ml = Model("mathach ~ 1 + (1 | school)", hsb).reml(method="ml")
    with pytest.raises(ArgumentError, match=r"was fitted by reml and .* by ml"):
        compare_fits(fits["anova"], by_ml)
    with pytest.raises(ArgumentError, match="is not a special case of"):
        compare_nested(fits["slope"], fits["intercept"])
    with pytest.raises(ArgumentError, match="nothing to compare"):
        compare_fits()
    big = Model("mathach ~ gm(ses) + (1 | school)", hsb).reml(method="ml")
    assert compare_nested(by_ml, big).df == 1
