"""Parameters and their public names."""

import pytest

from bhlm.likelihood.covariance import combine
from bhlm.likelihood.parameters import RESIDUAL, RESIDUAL_SD, list_parameters, map_names

TERMS = (("Intercept", "cwc(ses)"), ("t",))


def test_names_in_the_order_of_the_tables():
    structure = combine(TERMS, group="school")
    assert list(map(str, list_parameters(["Intercept", "cwc(ses):sector"], structure))) == [
        "Intercept", "cwc(ses):sector",
        "var(Intercept|school)", "var(cwc(ses)|school)", "cov(Intercept,cwc(ses)|school)",
        "var(t|school)", "var(Residual)",
        "sd(Intercept|school)", "sd(cwc(ses)|school)", "corr(Intercept,cwc(ses)|school)",
        "sd(t|school)", "sd(Residual)",
    ]  # fmt: skip
    assert str(structure.correlations) == "corr(|school)"


def test_a_fixed_effect_is_no_variance_whatever_its_name():
    structure = combine((("Intercept",),), group="g")
    named = map_names(list_parameters(["var(x|g)", "sd(Residual)x"], structure))
    assert named["var(x|g)"].is_fixed
    assert not named["var(x|g)"].is_squared
    assert not named["var(x|g)"].is_residual
    assert named["var(x|g)"].scaled == named["var(x|g)"]


@pytest.mark.parametrize("squared", [*combine(TERMS, group="g").variances, RESIDUAL])
def test_to_the_scale_of_sds_and_back(squared):
    assert squared.is_squared
    assert not squared.scaled.is_squared
    assert squared.scaled.squared == squared
    assert squared.is_variance == squared.scaled.is_sd
    assert squared.is_covariance == squared.scaled.is_correlation
    assert squared.is_residual == (squared.scaled == RESIDUAL_SD)
