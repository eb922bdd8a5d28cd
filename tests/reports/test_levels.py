"""Printed layouts of several grouping factors: Stata's, HLM's and lme4's."""

from functools import cache

import pytest

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reports.json import describe_levels
from bhlm.sources.gallery import find_model, load_data


@cache
def summarize(name, style, method):
    entry = find_model(name)
    return Model(entry.formula, load_data(entry)).reml(method=method).summary(style=style)


# HLM prints tau(pi), tau(beta) and their reliabilities of the EG data (Raudenbush et al., HLM 7,
# section 4.2) to three and five places; its search stops in the fourth digit of the variances.
GROWTH = """
The maximum number of level-1 units = 7230
The maximum number of level-2 units = 1721 (schoolid:childid)
The maximum number of level-3 units = 60 (schoolid)
sigma_squared = 0.30144
tau(pi)
 INTRCPT1,P0  0.64046  0.04679
     year,P1  0.04679  0.01126
tau(pi) (as correlations)
 INTRCPT1,P0  1.000  0.551
 Random level-1 coefficient  Reliability estimate
 INTRCPT1,P0                                0.839
 year,P1                                    0.190
tau(beta)
 INTRCPT1/INTRCPT2,B00  0.16532  0.01705
     year/INTRCPT2,B10  0.01705  0.01102
tau(beta) (as correlations)
 INTRCPT1/INTRCPT2,B00  1.000  0.399
 Random level-2 coefficient  Reliability estimate
 INTRCPT1/INTRCPT2,B00                      0.821
 year/INTRCPT2,B10                          0.786
Final estimation of level-1 and level-2 variance components:
 INTRCPT1, R0           0.80029             0.64046
 level-1, E             0.54903             0.30144
Final estimation of level-3 variance components:
 year/INTRCPT2, U10             0.10496             0.01102
Deviance                       = 16326.231116
Number of estimated parameters = 9
"""


def find_in_order(text, wanted):
    lines = iter(text.split("\n"))
    return all(any(line == each for line in lines) for each in wanted.strip("\n").split("\n"))


def test_hlm_prints_levels_two_and_three():
    text = summarize("egsingle_growth", "hlm", "ml")
    assert find_in_order(text, GROWTH)
    assert all(line == line.rstrip() for line in text.split("\n"))


def test_hlm_prints_crossed_factors_by_their_names():
    text = summarize("penicillin", "hlm", "reml")
    assert "tau of plate\n INTRCPT1  0.71691\n" in text
    assert " sample: INTRCPT1         1.93156             3.73092" in text
    assert "Reliability" not in text


def test_stata_prints_the_levels_from_the_top():
    text = summarize("productivity", "stata", "ml")
    table = """
                |   No. of       Observations per Group
 Group Variable |   Groups    Minimum    Average    Maximum
----------------+------------------------------------------
         region |        9         51       90.7        136
   region:state |       48         17       17.0         17
"""
    assert table.strip("\n") in text
    assert text.index("region: Identity") < text.index("region:state: Identity")
    assert "Log likelihood = 1430.5017 " in text


def test_lme4_prints_the_factor_of_most_levels_first():
    text = summarize("scots_sec", "lme4", "reml")
    assert "REML criterion at convergence: 17127.9" in text
    assert " primary  (Intercept) 1.1096   1.053" in text
    assert "Number of obs: 3435, groups:  primary, 148; second, 19" in text


@pytest.mark.parametrize("name", ["egsingle_growth", "penicillin"])
def test_a_fit_fits_on_a_screen(name):
    entry = find_model(name)
    shown = repr(Model(entry.formula, load_data(entry)).reml(method="ml"))
    assert len(shown.split("\n")) < 24
    assert entry.formula in shown


@pytest.mark.parametrize("style", ["stata", "hlm", "lme4"])
def test_df_adds_the_tests_by_another_method(style):
    entry = find_model("pastes")
    fit = Model(entry.formula, load_data(entry)).reml()
    tests = fit.fixed_effects(method="kenward-roger")
    lines = fit.summary(style=style, df="kenward-roger").split("\n")
    start = lines.index("Tests of fixed effects by kenward-roger:")
    assert f"{tests.loc['Intercept', 'df']:.1f}" in lines[start + 2].split()
    with pytest.raises(ArgumentError, match="method='between' is not known"):
        fit.summary(df="between")


def test_df_in_the_json():
    entry = find_model("pastes")
    fit = Model(entry.formula, load_data(entry)).reml()
    told = describe_levels(fit, df="satterthwaite")["fixed_effects"]
    expected = fit.fixed_effects(method="satterthwaite").loc["Intercept"]
    assert told["tests"]["Intercept"] == pytest.approx(expected.to_dict())
    assert "fixed_effects" not in describe_levels(fit)
