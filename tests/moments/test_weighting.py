"""Weighted moments: the same on every engine, in files and merges, and what is told of bad ones."""

import logging

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm.errors import ArgumentError, DataError, FormulaError
from bhlm.moments import reduce

ROUNDING = 1e-10  # of sums that engines take in other orders
FORMULA = "y ~ x + cwc(x) + (x | g)"
PLAIN = "y ~ x + z + (x | g)"  # for frequencies, which centring takes no note of


def make_table(seed: int = 1, *, groups: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), rng.integers(3, 9, groups))
    x = 1e4 + rng.normal(size=len(g))
    u = rng.normal(size=groups)
    return pd.DataFrame(
        {
            "g": g,
            "x": x,
            "z": x - 1e4,
            "y": 1e5 + u[g] + 0.5 * (x - 1e4) + rng.normal(size=len(g)),
            "w": rng.integers(1, 5, len(g)).astype(float),
            "wg": rng.uniform(1.0, 3.0, groups)[g],
        }
    )


WEIGHTS = [
    bhlm.PrecisionWeights("w"),
    bhlm.FrequencyWeights("w"),
    bhlm.SamplingWeights(rows="w / wg", groups="wg"),
    bhlm.SamplingWeights(rows="w", groups="wg", scaling="gk"),
]


def choose(weights: bhlm.SamplingWeights) -> str:
    return PLAIN if weights.counts_rows else FORMULA


def assert_same(one: bhlm.Moments, other: bhlm.Moments) -> None:
    scale = np.sqrt(np.einsum("jaa->ja", one.cross).max(axis=0))
    assert np.array_equal(one.groups, other.groups)
    assert np.array_equal(one.n, other.n)
    np.testing.assert_allclose(other.mean, one.mean, rtol=1e-12, atol=1e-11)
    gap = np.abs(one.cross - other.cross) / np.outer(scale, scale)
    assert gap.max() < ROUNDING
    for name in ("sums", "squares", "logs", "groups", "rows"):
        ours, theirs = (getattr(each.weighting, name) for each in (one, other))
        np.testing.assert_allclose(theirs, ours, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda each: f"{each.kind} {each.scaling}")
def test_moments_are_those_of_weighted_sums(weights):
    table = make_table()
    moments = bhlm.Model(choose(weights), table, weights=weights).moments
    own = table[table.g == 3]
    w = own.w / own.wg if weights.rows == "w / wg" else own.w
    w = w if weights.scaling == "none" else w * 0 + 1
    second = own.z if weights.counts_rows else own.x - own.x.mean()
    v = np.column_stack([own.x, second, own.y])
    mean = np.average(v, axis=0, weights=w)
    assert moments.weighting.groups[3] == (own.wg.iloc[0] if weights.groups else 1.0)
    np.testing.assert_allclose(moments.mean[3], mean, rtol=1e-12, atol=1e-11)
    expected = (v - mean).T @ (w.to_numpy()[:, None] * (v - mean))
    np.testing.assert_allclose(moments.cross[3], expected, rtol=1e-8, atol=1e-9)
    assert moments.n[3] == (own.w.sum() if weights.counts_rows else len(own))


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda each: f"{each.kind} {each.scaling}")
def test_engines_agree(weights, tmp_path):
    import duckdb
    import polars as pl

    table = make_table()
    plain = bhlm.Model(choose(weights), table, weights=weights).moments
    path = tmp_path / "t.parquet"
    table.to_parquet(path)
    connection = duckdb.connect()
    for each in (
        pl.from_pandas(table),
        pl.from_pandas(table).lazy(),
        path,
        connection.from_df(table),
    ):
        assert_same(plain, bhlm.Model(choose(weights), each, weights=weights).moments)


def test_wide_formulas_of_a_database_come_in_batches(monkeypatch):
    import duckdb

    table = make_table()
    monkeypatch.setattr(reduce, "WIDE", 1)
    monkeypatch.setattr(reduce, "HELD", 10)
    lazy = duckdb.connect().from_df(table)
    plain = bhlm.Model(FORMULA, table, weights=WEIGHTS[2]).moments
    assert_same(plain, bhlm.Model(FORMULA, lazy, weights=WEIGHTS[2]).moments)
    assert_same(plain, bhlm.reduce_like(plain, table))


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda each: f"{each.kind} {each.scaling}")
def test_files_and_merges_keep_weights(weights, tmp_path):
    table = make_table()
    formula = "y ~ x + (x | g)"
    whole = bhlm.Model(formula, table, weights=weights)
    path = tmp_path / "whole.moments"
    whole.moments.save(path)
    again = bhlm.Model.from_moments(path)
    assert again.moments.weights == weights
    assert np.array_equal(again.moments.cross, whole.moments.cross)
    assert again.moments.weighting.sums.tolist() == whole.moments.weighting.sums.tolist()
    assert again.reml(method="ml").loglik == pytest.approx(whole.reml(method="ml").loglik)
    odd = np.arange(len(table)) % 2 == 1
    parts = [bhlm.reduce_like(path, table[keep]) for keep in (odd, ~odd)]
    assert_same(whole.moments, bhlm.merge_moments(parts))


def test_moments_of_other_weights_do_not_merge(tmp_path):
    table = make_table()
    parts = [
        bhlm.Model("y ~ x + (1 | g)", table[keep], weights=weights).moments
        for keep, weights in ((table.g < 6, "w"), (table.g > 5, None))
    ]
    with pytest.raises(DataError, match="differ in weights"):
        bhlm.merge_moments(parts)
    with pytest.raises(ArgumentError, match="not with"):
        bhlm.Model("y ~ x + (1 | g)", parts[0], weights=bhlm.FrequencyWeights("w"))


@pytest.mark.parametrize(
    ("value", "weights", "told"),
    [
        (0.0, "w", "the weight 'w' is 0 in 1 row"),
        (-2.0, "w", r"the weight 'w' is negative in 1 row \(the least is -2\)"),
        (np.inf, "w", "column 'w' has 1 infinite values"),
        (1.5, bhlm.FrequencyWeights("w"), "is no whole number in 1 row"),
        (9.0, bhlm.SamplingWeights(groups="w"), r"differs between the rows of 1 of the 12 groups"),
        (0.0, bhlm.SamplingWeights(rows="2 / w"), "is not a finite number in 1 row"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_bad_weights_are_told(value, weights, told, lazy):
    import polars as pl

    table = make_table()
    table["w"] = 1.0
    table.loc[4, "w"] = value
    data = pl.from_pandas(table).lazy() if lazy else table
    with pytest.raises(DataError, match=told):
        bhlm.Model("y ~ x + (1 | g)", data, weights=weights)


def test_missing_weights_leave_rows_out_and_are_told(caplog):
    table = make_table()
    table.loc[[2, 5], "w"] = np.nan
    with caplog.at_level(logging.WARNING, logger="bhlm"):
        moments = bhlm.Model("y ~ x + (1 | g)", table, weights="w").moments
    assert "2 rows without a weight in 'w' left out" in caplog.text
    assert moments.rows_used.endswith("2 dropped for missing values (w 2)")


def test_weights_that_cannot_be_read_are_refused():
    table = make_table()
    with pytest.raises(DataError, match="no column 'v'"):
        bhlm.Model("y ~ x + (1 | g)", table, weights="v")
    with pytest.raises(ArgumentError, match="weights by gm"):
        bhlm.SamplingWeights(rows="gm(w)")
    with pytest.raises(FormulaError, match="takes means of rows"):
        bhlm.Model("y ~ cwc(x) + (1 | g)", table, weights=bhlm.FrequencyWeights("w"))
    with pytest.raises(ArgumentError, match="names no weights"):
        bhlm.SamplingWeights()
    with pytest.raises(ArgumentError, match="scaling='all'"):
        bhlm.SamplingWeights(rows="w", scaling="all")
    with pytest.raises(ArgumentError, match="exclude each other"):
        bhlm.Model("y ~ x + (1 | g)", table, weights="w", known_variance="w")
    with pytest.raises(ArgumentError, match="does not say of which of g and wg it is"):
        bhlm.Model("y ~ x + (1 | g) + (1 | wg)", table, weights=bhlm.SamplingWeights("w", "wg"))


def test_weights_in_a_mapping_are_told_what_to_be():
    with pytest.raises(ArgumentError, match=r"weights is a dict; give .*SamplingWeights\(rows="):
        bhlm.Model(FORMULA, make_table(), weights={"rows": "w"})


@pytest.mark.parametrize("order", ["sorted", "shuffled", "pairs"])
@pytest.mark.parametrize("size", [1.0, 1e60, 1e-60])
def test_weights_add_up_however_rows_lie(order, size):
    # Rows of a group that follow each other are taken up to 64 at a time; products of large
    # weights overflow after a few.
    rng = np.random.default_rng(5)
    g = np.repeat(np.arange(6), [1, 3, 63, 64, 65, 300])
    at = np.arange(len(g))
    if order != "sorted":
        at = rng.permutation(at) if order == "shuffled" else np.argsort(at // 2 % 7, kind="stable")
    table = pd.DataFrame({"g": g, "x": rng.normal(size=len(g)), "y": rng.normal(size=len(g))})
    table["w"] = rng.choice([0.5, 1.0, 2.5], len(g)) * rng.choice([1.0, size], len(g))
    table["wg"] = rng.uniform(1.0, 9.0, 6)[g]
    weights = bhlm.SamplingWeights(rows="w", groups="wg")
    moments = bhlm.Model("y ~ x + (1 | g)", table.iloc[at], weights=weights).moments
    groups = table.assign(square=table.w**2, log=np.log(table.w)).groupby("g")
    found = moments.weighting
    np.testing.assert_allclose(found.sums, groups.w.sum(), rtol=1e-13)
    np.testing.assert_allclose(found.squares, groups.square.sum(), rtol=1e-13)
    np.testing.assert_allclose(found.logs, groups.log.sum(), rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(found.groups, groups.wg.first())
    np.testing.assert_array_equal(found.rows, groups.size())
    mean = [np.average(own[["x", "y"]], axis=0, weights=own.w) for _, own in groups]
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.inf])
@pytest.mark.parametrize("column", ["w", "wg"])
def test_every_weight_that_cannot_be_taken_is_counted(column, wrong, tmp_path):
    table = pd.concat([make_table(groups=3)] * 40).sort_values("g", kind="stable")
    table = table.reset_index(drop=True)
    table.loc[[0, 7, 8, 70, len(table) - 1], column] = wrong
    path = tmp_path / "t.parquet"
    table.to_parquet(path)
    weights = bhlm.SamplingWeights(rows="w", groups="wg")
    for given in (table, path):
        with pytest.raises(DataError, match=r"in 5 rows|has 5 infinite values"):
            bhlm.Model("y ~ z + (1 | g)", given, weights=weights)


def test_a_group_whose_weight_changes_after_many_rows_is_told():
    table = pd.DataFrame({"g": np.repeat([0, 1], 200), "x": np.arange(400.0) % 7, "w": 1.0})
    table["y"] = np.arange(400.0) % 11
    table["wg"] = np.where(table.index == 399, 2.0, 1.0)
    with pytest.raises(DataError, match="differs between the rows of 1 of the 2 groups"):
        bhlm.Model("y ~ x + (1 | g)", table, weights=bhlm.SamplingWeights(rows="w", groups="wg"))
