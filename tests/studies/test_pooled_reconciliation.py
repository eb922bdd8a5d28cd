"""Pooled fits beside the mixture of posteriors: gaps that add up, and what is refused."""

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm.errors import ArgumentError
from bhlm.studies.imputations.mixture import Mixture

NAMES = ["pv1", "pv2", "pv3"]


@pytest.fixture(scope="module")
def pooled() -> bhlm.PooledFit:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(30), 6)
    x, u = rng.normal(size=180), rng.normal(size=30)
    table = pd.DataFrame({"g": g, "x": x})
    score = x + u[g] + rng.normal(size=180)
    for name in NAMES:
        table[name] = score + 0.5 * rng.normal(size=180)
    return bhlm.fit_imputations("~ x + (1 | g)", table, responses=NAMES)


@pytest.mark.slow
def test_gaps_are_the_means_of_those_given_each_imputation(pooled) -> None:
    mixture = pooled.sample(seed=1)
    both = bhlm.reconcile(pooled, mixture)
    assert both.verdict in ("agree", "explained")
    assert [one.verdict in ("agree", "explained") for one in both.each] == [True] * 3
    table = both.table
    shares = ["pooling", "shape", "prior", "monte_carlo", "unexplained"]
    whole = table[shares].sum(axis=1, skipna=False)
    assert whole.to_numpy() == pytest.approx(table["gap"].to_numpy(), abs=1e-9)
    fixed = table.loc[["Intercept", "x"], "pooling"]
    assert fixed.to_numpy() == pytest.approx(0.0, abs=1e-12)
    assert table.loc["var(Intercept|g)", "pooling"] > 0.0  # a mean is above a geometric one
    # Without the allowance for few imputations Rubin's standard error is the mixture's SD.
    assert table.loc["x", "comparable_se"] == pytest.approx(table.loc["x", "sd"], rel=0.1)
    assert table.loc["x", "comparable_se"] < table.loc["x", "se"]
    text = both.summary()
    assert "3 pooled fits" in text
    assert both.verdict in repr(both)
    told = both.to_dict()
    assert told["verdict"] == both.verdict
    assert set(told["reconciliation"]) == set(table.index)
    assert len(told["imputations"]) == 3


def test_what_does_not_belong_together_is_refused(pooled) -> None:
    nothing = Mixture((), pooled)
    with pytest.raises(ArgumentError, match=r"give pooled and pooled\.sample"):
        bhlm.reconcile(pooled.fits[0], nothing)
    with pytest.raises(ArgumentError, match="3 fits are pooled and 0 posteriors mixed"):
        bhlm.reconcile(pooled, nothing)
