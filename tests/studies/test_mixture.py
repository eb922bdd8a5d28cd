"""The posterior given plausible values: one repeated is itself, and variances add up."""

import numpy as np
import pandas as pd
import pytest

import bhlm


@pytest.fixture(scope="module")
def pooled() -> bhlm.PooledFit:
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(12), 6)
    x = rng.normal(size=len(g))
    true = 1.0 + x + rng.normal(size=12)[g] + rng.normal(size=len(g))
    values = {f"pv{i}": true + rng.normal(size=len(g)) for i in (1, 2)}
    table = pd.DataFrame({"g": g, "x": x} | values)
    return bhlm.fit_imputations("~ x + (1 | g)", table, responses=["pv1", "pv2"])


def test_draws_of_all_imputations_are_mixed(pooled):
    found = pooled.sample(seed=1, draws=400, tune=200, chains=2)
    table = found.estimates
    assert found.draws["x"].shape == (4, 400)
    assert found.draws["x"].mean() == pytest.approx(table.loc["x", "mean"])
    np.testing.assert_allclose(
        found.draws["x"].std(), np.hypot(table.loc["x", "within"], table.loc["x", "between"])
    )
    assert table.loc["x", "sd"] > max(fit.estimates.loc["x", "sd"] for fit in found.fits) * 0.9
    beside = found.compare()
    assert abs(beside.loc["x", "gap_sd"]) < 0.5
    assert "given 2 imputations" in found.summary()


def test_one_value_repeated_is_itself(pooled):
    twice = bhlm.pool([pooled.fits[0], pooled.fits[0]])
    found = twice.sample(seed=1, draws=60, tune=100, chains=2)
    assert found.estimates.loc["x", "fmi"] < 0.1
