"""Moments: exact, mergeable, the same from every engine."""

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from simulate import simulate_table

from bhlm.design.design import build_design
from bhlm.errors import DataError
from bhlm.fits.model import Model
from bhlm.moments.either import merge_moments as merge_either
from bhlm.moments.either import reduce_part
from bhlm.moments.moments import compute_moments, merge_moments, pool, select_groups

EXACT = 1e-12
FORMULA = "y ~ x + w + (x | g)"


def assert_same(a, b):
    assert a.columns == b.columns
    np.testing.assert_array_equal(a.groups, b.groups)
    np.testing.assert_array_equal(a.n, b.n)
    np.testing.assert_allclose(a.mean, b.mean, rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(a.cross, b.cross, rtol=EXACT, atol=EXACT)


def test_moments_are_those_of_the_rows():
    table = simulate_table(1)
    moments = Model(FORMULA, table).moments
    assert moments.columns == ("x", "w", "y")
    for label, n, mean, cross in zip(
        moments.groups, moments.n, moments.mean, moments.cross, strict=True
    ):
        rows = table.loc[table["g"] == label, ["x", "w", "y"]].to_numpy()
        assert n == len(rows)
        np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=EXACT)
        centred = rows - rows.mean(axis=0)
        np.testing.assert_allclose(cross, centred.T @ centred, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_every_engine_gives_the_same_moments(offset):
    table = simulate_table(2).sample(frac=1.0, random_state=1)
    table["x"] += offset
    table.loc[table.index[3], "x"] = np.nan
    frame = pl.from_pandas(table)
    expected = Model(FORMULA, table).moments
    assert expected.dropped == 1
    relation = duckdb.sql("select * from frame")
    for other in (frame, frame.lazy(), frame.to_arrow(), relation):
        assert_same(Model(FORMULA, other).moments, expected)


def test_merge_of_any_split_is_the_whole():
    table = simulate_table(3)
    design = build_design(FORMULA, table)
    whole = compute_moments(design, table)
    rng = np.random.default_rng(4)
    for _ in range(6):
        part = rng.integers(0, 3, len(table))
        pieces = [compute_moments(design, table[part == i]) for i in range(3) if (part == i).any()]
        assert_same(merge_moments(pieces), whole)


def test_moments_of_different_models_do_not_merge():
    table = simulate_table(5)
    one = Model(FORMULA, table).moments
    with pytest.raises(DataError, match="differ in columns"):
        merge_moments([one, Model("y ~ x + (x | g)", table).moments])
    other = Model("y ~ cgm(x) + (1 | g)", table).moments
    shifted = Model("y ~ cgm(x) + (1 | g)", table.assign(x=table["x"] + 1)).moments
    with pytest.raises(DataError, match="differ in constants"):
        merge_moments([other, shifted])
    with pytest.raises(DataError, match="no moments to merge"):
        merge_moments([])


def test_pool_and_select():
    table = simulate_table(6)
    moments = Model(FORMULA, table).moments
    n, grand, total = pool(moments)
    rows = table[["x", "w", "y"]].to_numpy()
    assert n == len(rows)
    np.testing.assert_allclose(grand, rows.mean(axis=0), rtol=EXACT)
    np.testing.assert_allclose(total, np.cov(rows.T) * (n - 1), rtol=1e-10)
    fewer = moments.without([0, 3])
    assert fewer.groups.tolist() == [1, 2, 4, 5, 6, 7]
    assert_same(fewer, select_groups(moments, ~np.isin(moments.groups, [0, 3])))
    with pytest.raises(DataError, match="99 is not a g"):
        moments.without([99])


def test_a_model_of_moments_is_the_model_of_the_rows():
    table = simulate_table(7, n_groups=20)
    model = Model(FORMULA, table)
    again = Model(FORMULA, model.moments)
    assert again.reml().loglik == model.reml().loglik
    with pytest.raises(DataError, match="reduced for"):
        Model("y ~ x + (1 | g)", model.moments)
    with pytest.raises(DataError, match="has no rows"):
        again.pymc(form="conditional")


FORMULAS = [
    "y ~ cwc(x) + gm(x) + cgm(t) + (cwc(x) | g)",
    "y ~ poly(x, 3) + poly(t, 2, raw=True) + (x | g)",
    "log(exp(y) + 1) ~ k * cwc(x) + b + C(h) + (k | g)",
    "y ~ gm(x):cwc(t) + cwc(x * t) + I((x - 3)/2 - t**2) + (0 + k | g) + (0 + x | g)",
    "y ~ cwc(gm(x) * t) + abs(x) + sqrt(abs(t)) + log1p(abs(x)) + (1 | g)",
]
# Functions of a covariate far from zero have lost its digits before any mean is taken.
FAR = [formula for formula in FORMULAS if "poly" not in formula and "* t)" not in formula]


@pytest.mark.parametrize(
    ("formula", "offset"),
    [*((formula, 0.0) for formula in FORMULAS), *((formula, 1e8) for formula in FAR)],
)
def test_compiled_passes_equal_the_group_by(formula, offset):
    """What a table in memory goes through, and what a database would be asked for."""
    rng = np.random.default_rng(8)
    table = simulate_table(8, n_groups=15)
    table["k"] = rng.choice(["a", "b", "c"], len(table))
    table["b"] = rng.random(len(table)) < 0.5
    table["h"] = rng.integers(0, 3, len(table))
    table["x"] += offset
    table.loc[[4, 9], "t"] = np.nan
    table["g"] = table["g"].map("school {:02d}".format)
    fast = Model(formula, table).moments
    lazy = Model(formula, pl.from_pandas(table).lazy()).moments
    assert fast.dropped == lazy.dropped == (0 if "log(exp" in formula else 2)
    scale = np.sqrt(np.einsum("jaa->ja", lazy.cross).max(axis=0))
    # A column that is constant within groups has cross-products of rounding alone.
    scale += 1e-7 * np.abs(lazy.mean).max(axis=0) + 1e-9
    np.testing.assert_array_equal(fast.groups, lazy.groups)
    np.testing.assert_allclose(fast.mean, lazy.mean, rtol=EXACT, atol=EXACT)
    difference = np.abs(fast.cross - lazy.cross) / (scale[:, None] * scale[None, :])
    assert difference.max() < (1e-12 if offset == 0 else 1e-7)


def test_labels_without_an_order_are_refused():
    table = simulate_table(3)
    table["g"] = [label if i % 2 else str(label) for i, label in enumerate(table["g"])]
    with pytest.raises(DataError, match=r"labels of several types \(int, str\)"):
        Model("y ~ x + (1 | g)", table)
    # Of several columns the one is named.
    table["h"] = np.arange(len(table)) % 3
    for terms in ("(1 | h) + (1 | g)", "(1 | h/g)"):
        with pytest.raises(DataError, match=r"^the group column 'g' holds labels of several"):
            Model(f"y ~ x + {terms}", table)


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        (lambda g: [[each] for each in g], "list"),
        (lambda g: [{"at": each} for each in g], "dict, which have no order"),
    ],
)
def test_labels_that_cannot_be_looked_up_are_refused(label, kind):
    table = simulate_table(3)
    with pytest.raises(DataError, match=f"labels of the type {kind}; choose a column"):
        Model("y ~ x + (1 | g)", table.assign(g=pd.Series(label(table["g"]), dtype=object)))


def test_labels_of_half_precision_are_those_of_doubles():
    table = simulate_table(3)
    half = table.assign(g=table["g"].to_numpy(np.float16))
    model = Model("y ~ x + (1 | g)", half)
    double = Model("y ~ x + (1 | g)", table.assign(g=table["g"].astype(float)))
    np.testing.assert_array_equal(model.moments.groups, double.moments.groups)
    fit = model.reml()
    for new in (None, half):
        pd.testing.assert_frame_equal(model.predict(fit, new), double.predict(fit, table))


def test_the_same_rows_do_not_merge_twice():
    table = simulate_table(1)
    for formula in ("y ~ x + (1 | g)", "y ~ x + (1 | g) + (1 | h)"):
        both = reduce_part(formula, table.assign(h=table["g"]))
        with pytest.raises(DataError, match="part 1 and part 2 hold the same moments"):
            merge_either([both, both])
        with pytest.raises(DataError, match="the moments so far and the new rows hold the same"):
            both.update(both)
