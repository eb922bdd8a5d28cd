"""Comparison of fits: what lme4 and the textbook say, and what must be refused."""

from typing import Any

import numpy as np
import polars as pl
import pytest
from lme4_cases import fit_case, load_cases
from simulate import simulate_rows, simulate_table

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reml.compare import (
    compare_fits,
    compare_nested,
    count_parameters,
    design_effect,
    intraclass_correlation,
    r_squared,
    variance_explained,
)
from bhlm.sources.datasets import load_dataset


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
    assert "p is too large; fit.test_variances(coefficients)" in test.note


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
    with pytest.raises(ArgumentError, match=r"'a' is not a REML or ML fit; give what model.reml"):
        compare_fits("a")
    big = Model("mathach ~ gm(ses) + (1 | school)", hsb).reml(method="ml")
    assert compare_nested(by_ml, big).df == 1


def test_structures_nest_by_what_they_allow():
    """Names and counts do not tell: with three coefficients exchangeable has two parameters and
    independent three, and neither holds the other."""
    model = Model("y ~ x + t + (x + t | g)", simulate_table(2, n_groups=40))
    kinds = ("identity", "exchangeable", "independent", "unstructured")
    fits = {kind: model.reml(covariance=kind) for kind in kinds}
    nested = {("identity", kind) for kind in kinds[1:]}
    nested |= {(kind, "unstructured") for kind in kinds[1:3]}
    for small in kinds:
        for large in kinds:
            if (small, large) in nested:
                test = compare_nested(fits[small], fits[large])
                assert test.df == len(fits[large].structure.labels) - len(
                    fits[small].structure.labels
                )
                assert not test.boundary
                assert test.note == ""
            else:
                with pytest.raises(ArgumentError, match=r"\(.*\) is not a special case of"):
                    compare_nested(fits[small], fits[large])
    alone = Model("y ~ x + t + (1 | g)", simulate_table(2, n_groups=40)).reml()
    assert compare_nested(alone, fits["independent"]).boundary
    with pytest.raises(ArgumentError, match=r"of .* \(identity\); give the smaller"):
        compare_nested(alone, fits["identity"])


def test_different_data_are_refused():
    table = simulate_table(2, n_groups=20)
    base = Model("y ~ x + (1 | g)", table).reml(method="ml")
    other = Model("y ~ x + t + (1 | g)", table.assign(x=2.0 * table["x"])).reml(method="ml")
    with pytest.raises(ArgumentError, match=r"'x' has other values in 'y ~ x \+ t"):
        compare_nested(base, other)
    noise = table["y"].where(table["g"] > 0, table["y"] + 1e-5)
    other = Model("y ~ x + t + (1 | g)", table.assign(y=noise)).reml(method="ml")
    with pytest.raises(ArgumentError, match="different rows"):
        compare_nested(base, other)
    spread = 1.0 + 1e-5 * (table["g"] == 1)
    means = table.groupby("g")["y"].transform("mean")
    scaled = table.assign(y=means + spread * (table["y"] - means))
    other = Model("y ~ x + t + (1 | g)", scaled).reml(method="ml")
    with pytest.raises(ArgumentError, match="different rows"):
        compare_nested(base, other)
    other = Model("I(y * 2) ~ x + t + (1 | g)", table).reml(method="ml")
    with pytest.raises(ArgumentError, match=r"explains 'y' and .*; compare models of one response"):
        compare_fits(base, other)
    with pytest.raises(ArgumentError, match="compare models of one response"):
        variance_explained(other, base)


def test_two_engines_read_the_same_data():
    """Centred columns have group means that are zero but for rounding."""
    table = simulate_table(2, n_groups=20)
    table["y"] -= table.groupby("g")["y"].transform("mean")
    table["x"] += 1e6
    small = Model("y ~ x + (1 | g)", table).reml(method="ml")
    lazy = pl.from_pandas(table).lazy()
    large = Model("y ~ x + t + (1 | g)", lazy).reml(method="ml")
    assert compare_nested(small, large).df == 1


def test_shares_of_variance_do_not_depend_on_where_zero_lies():
    table = simulate_table(5, n_groups=15)
    near, far = (
        Model("y ~ x + w + (x | g)", data).reml()
        for data in (table, table.assign(x=table["x"] + 1e7))
    )
    # x + 1e7 has lost nine digits of x, which leaves seven.
    assert intraclass_correlation(far) == pytest.approx(intraclass_correlation(near), rel=1e-6)
    assert r_squared(far) == pytest.approx(r_squared(near), rel=1e-6)
    z = np.array([1.0, table["x"].mean()])
    between = z @ near.g @ z
    expected = between / (between + near.sigma2)
    assert intraclass_correlation(near) == pytest.approx(expected, rel=1e-9)


def test_variance_explained_of_a_slope(hsb):
    base = Model("mathach ~ cwc(ses) + (cwc(ses) | school)", hsb).reml()
    formula = "mathach ~ cwc(ses) * (gm(ses) + sector) + (cwc(ses) | school)"
    fit = Model(formula, hsb).reml()
    found = variance_explained(fit, base)
    assert list(found) == ["var(Residual)", "var(Intercept|school)", "var(cwc(ses)|school)"]
    assert found["var(cwc(ses)|school)"] == pytest.approx(1 - fit.g[1, 1] / base.g[1, 1])


def test_what_is_no_fit_is_named_in_one_short_line(hsb):
    """Not by the whole summary that a fit has for its repr."""
    fit = Model("mathach ~ 1 + (1 | school)", hsb).reml()
    with pytest.raises(ArgumentError) as error:
        compare_fits([fit, None])
    assert str(error.value) == "<list> is not a REML or ML fit; give what model.reml() returns"


def _fit_cbpp(formula: str, *, nagq: int | None = None, **kind: str) -> Any:
    table = load_dataset("cbpp")
    table = table.assign(obs=np.arange(len(table)))
    return Model(formula, table, **({"family": "binomial"} | kind)).ml(nagq=nagq)


CBPP = "incidence / size ~ {} + (1 | herd)"


def test_families_are_compared_as_lme4s_anova_does():
    """By glmer with nAGQ = 1 and the tolerances of tests/reference/families/make_reference.R."""
    formulas = (CBPP.format(1), CBPP.format("C(period)"), CBPP.format("C(period)") + " + (1 | obs)")
    fits = [_fit_cbpp(formula, nagq=1) for formula in formulas]
    table = compare_fits(*fits)
    assert list(table["parameters"]) == [2, 5, 6]
    assert set(table["method"]) == {"ml, Laplace approximation"}
    np.testing.assert_allclose(table["aic"], [213.662627, 194.052564, 186.638311], atol=2e-6)
    np.testing.assert_allclose(table["bic"], [217.713331, 204.179322, 198.790421], atol=2e-6)
    one, two = compare_nested(*fits[:2]), compare_nested(*fits[1:])
    assert (one.df, two.df) == (3, 1)
    assert one.chi2 == pytest.approx(25.61006344, abs=2e-6)
    assert one.p == pytest.approx(1.15093669e-05, rel=1e-5)
    assert two.chi2 == pytest.approx(9.41425266, abs=2e-6)
    assert two.p == pytest.approx(2.15305296e-03, rel=1e-5)
    assert (one.boundary, two.boundary) == (False, True)
    exact = [_fit_cbpp(formula) for formula in formulas]
    assert set(compare_fits(*exact)["method"]) == {"ml"}
    found = compare_nested(*exact[1:])
    assert found.chi2 == pytest.approx(2.0 * (exact[2].loglik - exact[1].loglik), abs=1e-12)
    assert count_parameters(exact[2]) == 6


def test_likelihoods_of_families_that_cannot_be_compared_are_refused():
    base, other = _fit_cbpp(CBPP.format(1)), _fit_cbpp(CBPP.format("C(period)"), nagq=1)
    table = load_dataset("cbpp")
    with pytest.raises(ArgumentError, match=r"by integration to a stated error and .* by Laplace"):
        compare_fits(base, other)
    probit = _fit_cbpp(CBPP.format("C(period)"), link="probit")
    counts = Model("incidence ~ 1 + (1 | herd)", table, family="poisson").ml()
    normal = Model("incidence ~ 1 + (1 | herd)", table).reml(method="ml")
    for fit in (probit, counts, normal):
        with pytest.raises(ArgumentError, match="; compare fits of one family and link"):
            compare_nested(base, fit)
        with pytest.raises(ArgumentError, match="; compare fits of one family and link"):
            compare_nested(fit, base)
    rows = "were fitted to different rows"
    for changed in (
        table.iloc[1:],
        table.assign(incidence=table["incidence"].where(table.index != 0, 3)),
        table.assign(herd=table["herd"].to_numpy()[::-1]),
    ):
        fit = Model(CBPP.format("C(period)"), changed, family="binomial").ml()
        with pytest.raises(ArgumentError, match=rows):
            compare_nested(base, fit)
    place = table.assign(x=np.arange(len(table)) % 4.0)
    one = Model(CBPP.format("x"), place, family="binomial").ml()
    moved = place.assign(x=place["x"] + 1.0)
    two = Model(CBPP.format("x + C(period)"), moved, family="binomial").ml()
    with pytest.raises(ArgumentError, match=r"'x' has other values in .*; fit both to the same"):
        compare_nested(one, two)
    with pytest.raises(ArgumentError, match="is not a special case of"):
        compare_nested(one, _fit_cbpp(CBPP.format("C(period)")))
    with pytest.raises(ArgumentError, match="of zeros and ones or counts is not taken here"):
        variance_explained(base, base)


def test_an_exposure_belongs_to_the_model_of_counts():
    table = load_dataset("cbpp")
    formula = "incidence ~ 1 + (1 | herd)"
    plain = Model(formula, table, family="poisson").ml()
    rates = Model(formula, table, family="poisson", exposure="size").ml()
    assert list(compare_fits(plain, rates)["parameters"]) == [2, 2]
