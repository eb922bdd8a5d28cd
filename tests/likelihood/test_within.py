"""Within-group regressions from moments: those of the rows, and the law of replicated rows."""

import numpy as np
import pytest
from simulate import random_covariance, simulate_rows, simulate_table

from bhlm.fits.model import Model
from bhlm.likelihood.within import (
    expect_statistics,
    find_tails,
    regress_within,
    replicate_statistics,
)

EXACT = 1e-9  # moments and rows differ by rounding of well-scaled columns only
# 20000 replicates: a mean is known to 0.007 SD, an SD to 0.5 %; five times that never fails.
REPLICATES = 20000
MEAN_ERROR = 0.035
SD_ERROR = 0.03


def regress_rows(x, y):
    """Slopes and residual SD of least squares with an intercept on columns of full rank."""
    design = np.column_stack([np.ones(len(y)), x])
    solution, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    left = y - design @ solution
    return solution[1:], np.sqrt(left @ left / (len(y) - rank)) if len(y) > rank else np.nan


def test_slopes_and_sds_are_those_of_the_rows():
    rows = simulate_rows(1, "x + t", n_groups=10, largest=12)
    within = regress_within(rows.model.moments)
    assert within.columns == ("x", "t")
    seen = 0
    for j, label in enumerate(rows.model.moments.groups):
        mine = rows.labels == label
        if mine.sum() < 3:
            assert np.isnan(within.slopes[j]).any()
            continue
        seen += 1
        slopes, sd = regress_rows(rows.z[mine, 1:], rows.y[mine])
        np.testing.assert_allclose(within.slopes[j], slopes, rtol=EXACT, atol=EXACT)
        np.testing.assert_allclose(within.sd[j], sd, rtol=EXACT)
        assert within.df[j] == max(mine.sum() - 3, 0)
    assert seen > 5


def test_columns_without_a_random_slope_have_one_too():
    within = regress_within(Model("y ~ x + t + w + (1 | g)", simulate_table(2)).moments)
    assert within.columns == ("x", "t")


def test_a_model_without_columns_has_no_slopes():
    moments = Model("y ~ 1 + (1 | g)", simulate_table(2)).moments
    within = regress_within(moments)
    assert within.columns == ()
    np.testing.assert_allclose(within.df, moments.n - 1)


def test_combinations_within_a_group_are_left_out_there():
    table = simulate_table(3, n_groups=12, largest=10)
    # d is constant in every third group, and x:w is w times x within each.
    table["d"] = np.where(table["g"] % 3 == 0, 1.0, (table["t"] > 0).astype(float))
    model = Model("y ~ x * w + d + (x | g)", table)
    within = regress_within(model.moments)
    assert within.columns == ("x", "d")
    constant = table.groupby("g")["d"].nunique().to_numpy() == 1
    assert constant.sum() >= 4
    assert np.isnan(within.slopes[constant, 1]).all()
    j = int(np.flatnonzero(constant & (model.moments.n > 4))[0])
    mine = table[table["g"] == model.moments.groups[j]]
    slopes, sd = regress_rows(mine[["x"]].to_numpy(), mine["y"].to_numpy())
    np.testing.assert_allclose(within.slopes[j, 0], slopes[0], rtol=EXACT)
    np.testing.assert_allclose(within.sd[j], sd, rtol=EXACT)


def test_an_offset_covariate_keeps_its_digits():
    table = simulate_table(4)
    plain = regress_within(Model("y ~ x + (1 | g)", table).moments)
    moved = regress_within(Model("y ~ x + (1 | g)", table.assign(x=table["x"] + 1e7)).moments)
    # Of the 16 digits of x + 1e7, 9 are left for x.
    np.testing.assert_allclose(moved.slopes, plain.slopes, rtol=1e-6)


@pytest.mark.parametrize("random", ["1", "x"])
def test_replicates_have_the_law_of_replicated_rows(random):
    rows = simulate_rows(5, random, n_groups=6, largest=8)
    moments = rows.model.moments
    within = regress_within(moments)
    rng = np.random.default_rng(6)
    q = len(moments.random)
    beta, u, sigma = rng.normal(size=3), rng.normal(size=(6, q)), 1.7
    drawn = replicate_statistics(
        within, moments.n, np.arange(6),
        np.tile(beta, (REPLICATES, 1)), np.tile(u, (REPLICATES, 1, 1)), np.full(REPLICATES, sigma),
        rng,
    )  # fmt: skip
    place = np.searchsorted(moments.groups, rows.labels)
    fitted = rows.x @ beta + np.einsum("ik,ik->i", rows.z, u[place])
    j = int(np.argmax(moments.n))
    mine = place == j
    y = fitted[mine] + sigma * rng.normal(size=(REPLICATES, mine.sum()))
    x = rows.x[mine, 1]
    centred = x - x.mean()
    slope = y @ centred / (centred @ centred)
    left = y - y.mean(axis=1, keepdims=True) - slope[:, None] * centred
    sd = np.sqrt((left**2).sum(axis=1) / within.df[j])
    brute = np.stack([y.mean(axis=1), slope, sd], axis=1)
    assert within.df[j] == mine.sum() - 2
    np.testing.assert_allclose(
        (drawn[:, j].mean(axis=0) - brute.mean(axis=0)) / brute.std(axis=0), 0, atol=MEAN_ERROR
    )
    np.testing.assert_allclose(drawn[:, j].std(axis=0), brute.std(axis=0), rtol=SD_ERROR)
    # Mean, slope and SD of a group are independent.
    assert np.abs(np.corrcoef(drawn[:, j].T) - np.eye(3)).max() < MEAN_ERROR


@pytest.mark.parametrize("new", [False, True])
def test_tails_are_the_shares_of_replicates(new):
    rows = simulate_rows(7, "x", n_groups=6, largest=8)
    moments = rows.model.moments
    within = regress_within(moments)
    rng = np.random.default_rng(8)
    beta, sigma = np.tile([3.0, 2.0, -1.0], (REPLICATES, 1)), np.full(REPLICATES, 1.3)
    root = np.linalg.cholesky(random_covariance(rng, 2))
    u = rng.normal(size=(6, 2))
    us = rng.normal(size=(REPLICATES, 6, 2)) @ root.T if new else np.tile(u, (REPLICATES, 1, 1))
    every = np.arange(6)
    observed = np.column_stack([moments.mean[:, -1], within.slopes, within.sd])
    drawn = replicate_statistics(within, moments.n, every, beta, us, sigma, rng)
    one = slice(0, 1)
    tails = find_tails(
        within, moments.n, every, observed, beta[one], 0.0 * us[one] if new else us[one],
        sigma[one], np.tile(root, (1, 1, 1)) if new else None,
    )  # fmt: skip
    there = ~np.isnan(observed)
    np.testing.assert_allclose(
        tails[there], (drawn >= observed).mean(axis=0)[there], atol=5 * 0.5 / np.sqrt(REPLICATES)
    )


def test_expectations_are_regressions_of_the_fitted_values():
    rows = simulate_rows(9, "x", n_groups=6, largest=8)
    moments = rows.model.moments
    within = regress_within(moments)
    rng = np.random.default_rng(10)
    beta, u = rng.normal(size=(1, 3)), rng.normal(size=(1, 6, 2))
    place = np.searchsorted(moments.groups, rows.labels)
    fitted = rows.x @ beta[0] + np.einsum("ik,ik->i", rows.z, u[0, place])
    expected = expect_statistics(within, np.arange(6), beta, u)[0]
    for j in np.flatnonzero(~np.isnan(within.slopes[:, 0])):
        mine = place == j
        slopes, _ = regress_rows(rows.x[mine, 1:2], fitted[mine])
        np.testing.assert_allclose(expected[j], [fitted[mine].mean(), slopes[0]], rtol=EXACT)
