"""Several responses over one X: one pass, weights, and what pools to itself."""

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm.errors import ArgumentError
from bhlm.moments import responses

SAME = 1e-7
FORMULA = "~ x + C(k) + (1 | g)"
NAMES = ["pv1", "pv2", "pv3"]
WEIGHTS = bhlm.SamplingWeights(rows="w", groups="wg")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(25), 6)
    x, u = rng.normal(size=150), rng.normal(size=25)
    found = pd.DataFrame(
        {"g": g, "x": x, "k": rng.choice(list("abc"), 150), "w": rng.uniform(1, 3, 150)}
    )
    found["wg"] = rng.uniform(1, 9, 25)[g]
    for name in NAMES:
        found[name] = x + u[g] + rng.normal(size=150)
    return found


def pooled(table: pd.DataFrame, **more) -> bhlm.PooledFit:
    choice = {"responses": NAMES, "weights": WEIGHTS, "method": "ml"} | more
    return bhlm.fit_imputations(FORMULA, table, **choice)


def test_one_pass_gives_what_a_pass_for_each_does(table):
    found = pooled(table)
    apart = [
        bhlm.Model(f"{name} {FORMULA}", table, weights=WEIGHTS).reml(method="ml") for name in NAMES
    ]
    expected = bhlm.pool(apart)
    np.testing.assert_allclose(found.estimates, expected.estimates, SAME, SAME)
    assert found.df == expected.df == "z"
    assert [fit.errors for fit in found.fits] == ["full"] * 3


def test_a_sum_on_the_left_names_the_responses(table):
    found = bhlm.fit_imputations(f"pv1 + pv2 + `pv3` {FORMULA}", table)
    expected = bhlm.fit_imputations(FORMULA, table, responses=NAMES)
    assert found.responses == ("pv1", "pv2", "pv3")
    np.testing.assert_array_equal(found.estimates, expected.estimates)


def test_the_table_is_read_once(table, monkeypatch):
    asked = []

    def count(*args):
        asked.append(args)
        return reduce_table(*args)

    reduce_table = responses.reduce_table
    monkeypatch.setattr(responses, "reduce_table", count)
    monkeypatch.setattr("bhlm.fits.model.reduce_table", None)
    pooled(table)
    assert len(asked) == 1


def test_responses_that_miss_rows_of_their_own_keep_their_rows(table):
    gaps = table.copy()
    gaps.loc[:4, "pv2"] = np.nan
    found = pooled(gaps)
    assert [fit.moments.n_rows for fit in found.fits] == [150, 145, 150]


def test_one_plausible_value_repeated_pools_to_itself(table):
    repeated = table.assign(pv2=table["pv1"], pv3=table["pv1"])
    found = pooled(repeated)
    one = bhlm.Model(f"pv1 {FORMULA}", table, weights=WEIGHTS).reml(method="ml")
    columns = ["estimate", "se"]
    np.testing.assert_allclose(found.estimates[columns], one.estimates[columns], SAME)
    assert np.abs(found.between).max() < 1e-12


def test_fits_of_other_weights_do_not_pool(table):
    one = bhlm.Model(f"pv1 {FORMULA}", table, weights=WEIGHTS).reml(method="ml")
    two = bhlm.Model(f"pv2 {FORMULA}", table).reml(method="ml")
    with pytest.raises(ArgumentError, match="fit 2 has the weights"):
        bhlm.pool([one, two])
