"""The HLM program's layout: blocks, equations, and the tests that it prints."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from scipy import stats

from bhlm.design.design import build_design
from bhlm.design.formula.terms import parse_formula
from bhlm.moments.moments import compute_moments
from bhlm.reml.estimate import fit_moments
from bhlm.reml.fixed.hlm_df import coefficient_df
from bhlm.reports.text.hlm import render_hlm

TABLE_4_4 = "mathach ~ cwc(ses) + (cwc(ses) | school)"
TABLE_4_5 = "mathach ~ gm(ses) * cwc(ses) + female + (cwc(ses) | school)"


def reduce(formula, table):
    return compute_moments(build_design(parse_formula(formula), table), table)


@pytest.fixture(scope="module")
def table_4_4(hsb):
    return fit_moments(reduce(TABLE_4_4, hsb))


@pytest.fixture(scope="module")
def table_4_5(hsb):
    return fit_moments(reduce(TABLE_4_5, hsb))


# Estimates of tests/reference/hsb_reml.json; tests/reml hold the chi-squares, the degrees of
# freedom and the robust errors against plain algebra.
EXPECTED = """\
sigma_squared = 36.70020

tau
 INTRCPT1,B0  8.68097  0.04679
 cwc(ses),B1  0.04679  0.69399

tau (as correlations)
 INTRCPT1,B0  1.000  0.019
 cwc(ses),B1  0.019  1.000

--------------------------------------------------
 Random level-1 coefficient  Reliability estimate
--------------------------------------------------
 INTRCPT1,B0                                0.908
 cwc(ses),B1                                0.264
--------------------------------------------------

The value of the log-likelihood function at iteration N = -2.335712E+004

Final estimation of fixed effects:
--------------------------------------------------------------------
                                Standard           Approx.
 Fixed Effect      Coefficient     Error  T-ratio     d.f.  P-value
--------------------------------------------------------------------
 For INTRCPT1, B0
    INTRCPT2, G00    12.636193  0.244504   51.681      159    0.000
 For cwc(ses) slope, B1
    INTRCPT2, G10     2.193196  0.128259   17.100      159    0.000
--------------------------------------------------------------------

Final estimation of fixed effects (with robust standard errors):
--------------------------------------------------------------------
                                Standard           Approx.
 Fixed Effect      Coefficient     Error  T-ratio     d.f.  P-value
--------------------------------------------------------------------
 For INTRCPT1, B0
    INTRCPT2, G00    12.636193  0.243738   51.843      159    0.000
 For cwc(ses) slope, B1
    INTRCPT2, G10     2.193196  0.127829   17.157      159    0.000
--------------------------------------------------------------------

Final estimation of variance components:
---------------------------------------------------------------------
                      Standard   Variance
 Random Effect       Deviation  Component  d.f.  Chi-square  P-value
---------------------------------------------------------------------
 INTRCPT1, U0          2.94635    8.68097   159  1771.01321    0.000
 cwc(ses) slope, U1    0.83306    0.69399   159   213.45722    0.003
 level-1, R            6.05807   36.70020
---------------------------------------------------------------------

Statistics for the current model
--------------------------------------
Deviance                       = 46714.234050
Number of estimated parameters = 4"""


def test_table_4_4_line_by_line(table_4_4):
    text = re.sub(r"(at iteration) \d+ ", r"\1 N ", render_hlm(table_4_4))
    assert text.splitlines() == EXPECTED.splitlines()


def test_shared_variances_have_no_chi_square(table_4_4):
    text = render_hlm(fit_moments(table_4_4.moments, covariance="exchangeable"))
    rows = re.findall(r"^ (?:INTRCPT1|cwc\(ses\) slope), U\d .*$", text, re.M)
    assert len(rows) == 2
    assert all(re.search(r"  \.  +\.  +\.$", row) for row in rows)


def test_effects_stand_under_their_equation(table_4_5):
    moments = table_4_5.moments
    assert moments.fixed == ("Intercept", "gm(ses)", "cwc(ses)", "gm(ses):cwc(ses)", "female")
    text = render_hlm(table_4_5)
    fixed = text.partition("P-value\n")[2].partition("\n\n")[0].splitlines()[1:-1]
    heads = [re.sub(r" +-?\d+\.\d{6} .*", "", line) for line in fixed]
    assert heads == [
        " For INTRCPT1, B0",
        "    INTRCPT2, G00",
        "    gm(ses), G01",
        " For cwc(ses) slope, B1",
        "    INTRCPT2, G10",
        "    gm(ses):cwc(ses), G11",
        " For female slope, B2",
        "    INTRCPT2, G20",
    ]


def test_an_equations_own_intercept_comes_first_and_may_be_missing(hsb):
    own_last = "mathach ~ gm(ses):cwc(ses) + cwc(ses) + (cwc(ses) | school)"
    text = render_hlm(fit_moments(reduce(own_last, hsb)))
    assert " For cwc(ses) slope, B1\n    INTRCPT2, G10  " in text
    assert "\n    gm(ses):cwc(ses), G11 " in text
    without = render_hlm(fit_moments(reduce("mathach ~ 0 + gm(ses) + (1 | school)", hsb)))
    assert " For INTRCPT1, B0\n    gm(ses), G01 " in without


def test_every_coefficient_parses_back(table_4_5):
    fixed = render_hlm(table_4_5).partition("fixed effects:")[2].partition("Final")[0]
    estimates = table_4_5.estimates
    df = dict(zip(table_4_5.moments.fixed, coefficient_df(table_4_5.moments), strict=True))
    shown = {
        "Intercept": "G00", "gm(ses)": "G01", "cwc(ses)": "G10", "gm(ses):cwc(ses)": "G11",
        "female": "G20",
    }  # fmt: skip
    for name in table_4_5.moments.fixed:
        (numbers,) = re.findall(rf", {shown[name]} +(-?\d.*)$", fixed, re.M)
        estimate, se, t, printed_df, p = (float(number) for number in numbers.split())
        for key, number, places in (("estimate", estimate, 6), ("se", se, 6), ("statistic", t, 3)):
            assert number == pytest.approx(
                estimates.loc[name, key], rel=0, abs=0.51 * 10.0**-places
            )
        assert printed_df == df[name]
        two_sided = 2.0 * stats.t.sf(abs(estimates.loc[name, "statistic"]), df[name])
        assert p == pytest.approx(two_sided, rel=0, abs=0.51e-3)


def test_ml_counts_the_fixed_effects_too(hsb):
    fit = fit_moments(reduce(TABLE_4_4, hsb), method="ml")
    assert render_hlm(fit).endswith("Number of estimated parameters = 6")
    fit = fit_moments(reduce("mathach ~ 1 + (1 | school)", hsb), method="ml")
    text = render_hlm(fit)
    assert text.endswith("Deviance                       = 47115.810225\n"
                         "Number of estimated parameters = 3")  # fmt: skip
    assert "as correlations" not in text


def test_singular_last_and_failed_first(table_4_4):
    y = np.tile([-1.0, 1.0, -2.0, 2.0], 6) + np.linspace(0.0, 0.01, 24)
    fit = fit_moments(
        reduce("y ~ 1 + (1 | g)", pd.DataFrame({"g": np.repeat(np.arange(6), 4), "y": y}))
    )
    assert fit.singular
    assert render_hlm(fit).endswith(f"\n\nNote: {fit.advice}")
    failed = replace(table_4_4, converged=False)
    assert render_hlm(failed).startswith("FAILED: the optimiser did not reach")


def test_long_and_wide_names_stay_whole_and_aligned(table_4_4):
    for name in ("x" * 60, "\u5b66\u6821"):
        moments = table_4_4.moments.rename({"cwc(ses)": name})
        text = render_hlm(fit_moments(moments))
        assert f"{name} slope, U1" in text
        for table in re.findall(r"(-+\n[^-].*?)\n\n", text, re.S):
            rows = [line for line in table.splitlines() if re.search(r"\d\.\d", line)]
            assert rows
            ends = {cell_len(line) for line in rows if not line.startswith(" level-1")}
            assert len(ends) == 1
