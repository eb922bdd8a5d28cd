"""Inputs of public bug reports, with the values that lme4 1.1.31 finds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reml_fit import RemlFit

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


@pytest.fixture(scope="module")
def without_noise() -> RemlFit:
    """Return the fit of a response that is constant within groups."""
    table = pd.read_csv(CASES / "response-constant-within-groups.csv")
    return Model("y ~ x + (1 | g)", table).reml()


ANSWERED = {
    "summary": lambda fit: fit.summary(),
    "hlm": lambda fit: fit.summary(style="hlm"),
    "lme4": lambda fit: fit.summary(style="lme4"),
    "repr": repr,
    "satterthwaite": lambda fit: fit.fixed_effects(),
    "kenward-roger": lambda fit: fit.fixed_effects(method="kenward-roger"),
    "cr2": lambda fit: fit.fixed_effects(method="cr2"),
    "contrast": lambda fit: fit.contrast("x = 0"),
    "chi-square tests": lambda fit: fit.test_variances(),
    "coefficients": lambda fit: fit.coefficients(),
    "group residuals": lambda fit: fit.group_residuals(),
    "group effects": lambda fit: fit.group_effects(),
}


@pytest.mark.parametrize("what", ANSWERED)
def test_a_fit_without_residual_variance_answers(what: str, without_noise: RemlFit) -> None:
    # https://github.com/ejolly/pymer4/issues/35
    assert not without_noise.converged
    assert "without error" in without_noise.advice
    ANSWERED[what](without_noise)


@pytest.mark.parametrize("method", ["profile", "influence"])
def test_what_needs_a_maximum_is_refused_with_advice(method: str, without_noise: RemlFit) -> None:
    with pytest.raises(ArgumentError, match=r"needs a maximum, and the fit has none: .* without"):
        getattr(without_noise, method)()


def test_a_group_whose_deletion_leaves_no_noise_is_told() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(8), 4)
    noise = np.where(group == 3, rng.normal(size=32), 0.0)
    table = pd.DataFrame({"g": group, "x": rng.normal(size=32), "y": rng.normal(size=8)[group]})
    found = Model("y ~ x + (1 | g)", table.assign(y=table["y"] + noise)).reml().influence()
    assert found.set_index("g")["converged"].tolist() == [group != 3 for group in range(8)]
