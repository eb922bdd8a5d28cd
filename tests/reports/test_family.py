"""Fits of families as glmer, melogit and HLM print them."""

import pytest

from bhlm.errors import ArgumentError
from bhlm.fits.family_fit import FamilyFit
from bhlm.fits.model import Model
from bhlm.sources.datasets import load_dataset

pytestmark = pytest.mark.wide

# print(summary(fit)) of lme4 1.1-31, glmerControl(tolPwrss = 1e-13), but for the data, the weights
# and the scaled residuals; names are in full, and quotes of the stars ASCII.
GLMER = """\
Generalized linear mixed model fit by maximum likelihood (Laplace
  Approximation) [glmerMod]
 Family: binomial  ( logit )
Formula: incidence / size ~ C(period) + (1 | herd)

     AIC      BIC   logLik deviance df.resid
   194.1    204.2    -92.0    184.1       51

Random effects:
 Groups Name        Variance Std.Dev.
 herd   (Intercept) 0.4125   0.6423
Number of obs: 56, groups:  herd, 15

Fixed effects:
             Estimate Std. Error z value Pr(>|z|)
(Intercept)   -1.3985     0.2325  -6.016 1.79e-09 ***
C(period)[2]  -0.9923     0.3066  -3.236 0.001212 **
C(period)[3]  -1.1287     0.3266  -3.455 0.000549 ***
C(period)[4]  -1.5803     0.4274  -3.697 0.000218 ***
---
Signif. codes:  0 '***' 0.001 '**' 0.01 '*' 0.05 '.' 0.1 ' ' 1
"""
# The layout of Stata's xtmelogit, with the values at the exact maximum.
XTMELOGIT = """\
Mixed-effects logistic regression               Number of obs      =        56
Group variable: herd                            Number of groups   =        15

                                                Obs per group: min =         1
                                                               avg =       3.7
                                                               max =         4

Integration points =  49 on average             Wald chi2(3)       =     24.89
Log likelihood = -91.983369                     Prob > chi2        =    0.0000

----------------------------------------------------------------------------------
incidence / size |      Coef.   Std. Err.      z    P>|z|     [95% Conf. Interval]
-----------------+----------------------------------------------------------------
"""


@pytest.fixture(scope="module")
def model() -> Model:
    formula = "incidence / size ~ C(period) + (1 | herd)"
    return Model(formula, load_dataset("cbpp"), family="binomial")


@pytest.fixture(scope="module")
def fit(model: Model) -> FamilyFit:
    found = model.ml()
    assert isinstance(found, FamilyFit)
    return found


def test_glmer(model: Model) -> None:
    text = model.ml(nagq=1).summary(style="lme4")
    assert text.startswith(GLMER)
    assert text.endswith("Laplace's approximation, of unknown error.")


def test_melogit(fit: FamilyFit) -> None:
    text = fit.summary(style="stata")
    assert XTMELOGIT in text
    assert "var(_cons) |   .4192802" in text
    assert "chibar2(01) =" in text
    assert "Integrated to an error of " in text
    assert "Residual" not in text


def test_hglm(fit: FamilyFit) -> None:
    text = fit.summary(style="hlm")
    for title in (
        "Final estimation of fixed effects (Unit-specific model)",
        "Odds ratios (Unit-specific model, robust standard errors)",
        "Final estimation of fixed effects (Population-average model)",
        "Final estimation of variance components",
        "Intraclass correlation on the latent scale = 0.11304",
    ):
        assert title in text


def test_an_unknown_style_is_refused(fit: FamilyFit) -> None:
    with pytest.raises(ArgumentError, match="choose one of stata, hlm, lme4"):
        fit.summary(style="sas")


def test_a_fit_shows_itself(fit: FamilyFit) -> None:
    text = repr(fit)
    assert "binomial with logit link" in text
    assert "in the log-likelihood (49 nodes per group on average)" in text
    assert "<table" in fit._repr_html_()
