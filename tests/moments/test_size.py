"""Moments beyond memory are refused before it is taken, and wide ones are read in batches."""

import numpy as np
import pandas as pd
import pytest

from bhlm.errors import DataError
from bhlm.fits.model import Model
from bhlm.moments.moments import reduce_part
from bhlm.moments.size import check_size
from bhlm.sources.open import open_table

# Sums of a few hundred rows, in another order.
ROUNDING = 1e-12


def make_levels(n, levels, seed=1):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"g": rng.integers(0, 5, n), "y": rng.normal(size=n)})
    table["a"] = [f"a{at % levels:03d}" for at in range(n)]
    table["b"] = [f"a{at:03d}" for at in rng.integers(0, levels, n)]
    return table


def test_what_fits_into_memory_is_taken():
    check_size(1000, 10, most=2_000_000)
    with pytest.raises(DataError) as caught:
        check_size(60_000, 282, most=8 << 30)
    assert "60,000 groups with 282 columns each take 53.8 GiB, and at most 8.0 GiB" in str(
        caught.value
    )


@pytest.mark.slow
def test_blocks_beyond_memory_are_refused_on_every_route(tmp_path):
    table = make_levels(300_000, 400)
    table["g"] = np.arange(len(table))
    table.to_parquet(tmp_path / "t.parquet")
    for data in (table, str(tmp_path / "t.parquet")):
        with pytest.raises(DataError, match=r"groups with 400 columns each take .* GiB"):
            Model("y ~ a + (1 | g)", data)


def test_a_term_of_too_many_combinations_is_refused():
    with pytest.raises(DataError) as caught:
        reduce_part("y ~ a * b + (1 | g)", make_levels(9000, 300))
    assert (
        "'a:b' has a column for each combination of levels (300 of 'a' x 300 of 'b'), 90,000"
        in (str(caught.value))
    )


@pytest.mark.parametrize(
    "labels", ["integers", "text", pytest.param("floats", marks=pytest.mark.slow)]
)
def test_many_columns_of_duckdb_are_those_of_pandas(tmp_path, labels):
    pytest.importorskip("duckdb")
    table = make_levels(400, 40)
    if labels == "text":
        table["g"] = "s" + table["g"].astype(str)
    elif labels == "floats":
        table["g"] += 0.5
    table.to_parquet(tmp_path / "t.parquet")
    formula = "y ~ a + (1 | g)"
    relation = open_table(str(tmp_path / "t.parquet"), memory_limit="500MB")
    found, expected = reduce_part(formula, relation), Model(formula, table).moments
    scanned = reduce_part(formula, str(tmp_path / "t.parquet"))
    for moments in (found, scanned, reduce_part(formula, table), Model(formula, relation).moments):
        assert moments.groups.tolist() == expected.groups.tolist()
        assert moments.n.tolist() == expected.n.tolist()
        np.testing.assert_allclose(moments.mean, expected.mean, atol=ROUNDING)
        np.testing.assert_allclose(moments.cross, expected.cross, atol=ROUNDING)
