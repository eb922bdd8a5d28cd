"""Inputs of public bug reports, with the values that lme4 1.1.31 finds."""

from pathlib import Path

import pandas as pd
import pytest

from bhlm.fits.model import Model

CASES = Path(__file__).parents[1] / "reference" / "cases"
# lme4 stops where the deviance changes by less.
LOGLIK = 1e-5


def test_two_bars_with_a_factor() -> None:
    # https://github.com/JuliaStats/MixedModels.jl/issues/218, by explicit dummies in lme4
    table = pd.read_csv(CASES / "double-bar-with-factor.csv")
    fit = Model("rt ~ cond + (0 + cond || subject)", table).reml()
    assert fit.loglik == pytest.approx(-788.337328, abs=LOGLIK)
    assert not [name for name in fit.estimates.index if name.startswith("cov(")]
    correlated = Model("rt ~ cond + (0 + cond | subject)", table).reml()
    assert correlated.loglik == pytest.approx(-763.469580, abs=LOGLIK)


def test_a_response_centred_within_groups_is_a_singular_fit() -> None:
    # https://stats.stackexchange.com/questions/309939, bobyqa with rhoend 1e-10
    table = pd.read_csv(CASES / "response-centred-within-groups.csv")
    fit = Model("score_c ~ visit + (visit | person)", table).reml()
    assert fit.loglik == pytest.approx(-222.237293, abs=LOGLIK)
    assert fit.estimates.loc["var(visit|person)", "estimate"] == pytest.approx(0.170758, abs=1e-5)
    assert fit.converged
    assert fit.singular
