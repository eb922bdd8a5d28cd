"""What a change of units, zero, order or names may change in a fit, and what it must not."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate import simulate_table

from bhlm.design.design import build_design
from bhlm.fits.model import Model
from bhlm.moments.moments import compute_moments, merge_moments

FORMULA = "y ~ x + w + (x | g)"
# Doubles: the criterion is a sum of about 100 terms, estimates follow from it by its curvature.
SAME = 1e-8
NAMES = ["Intercept", "x", "w"]

tables = st.integers(0, 10_000).map(lambda seed: simulate_table(seed, n_groups=14, largest=8))
scales = st.sampled_from([1e-6, 1e-3, 0.1, 7.0, 1e3, 1e6])
relaxed = settings(max_examples=20, deadline=None)


def fit(table: pd.DataFrame):
    return Model(FORMULA, table).reml()


def assert_close(value, expected, scale=1.0):
    assert value == pytest.approx(expected, rel=SAME, abs=SAME * scale)


@relaxed
@given(tables, scales)
def test_rescaling_the_response(table, scale):
    one, two = fit(table), fit(table.assign(y=table["y"] * scale))
    n, p = len(table), 3
    np.testing.assert_allclose(two.beta, one.beta * scale, rtol=SAME, atol=SAME * scale)
    np.testing.assert_allclose(two.g, one.g * scale**2, rtol=1e-5, atol=1e-6 * scale**2)
    assert_close(two.sigma2, one.sigma2 * scale**2)
    assert_close(two.loglik, one.loglik - (n - p) * np.log(scale), scale=1e2)
    assert one.singular == two.singular


@relaxed
@given(tables, scales)
def test_rescaling_a_covariate(table, scale):
    one, two = fit(table), fit(table.assign(x=table["x"] * scale))
    by = np.array([1.0, 1.0 / scale, 1.0])
    np.testing.assert_allclose(two.beta, one.beta * by, rtol=SAME, atol=SAME * by.max())
    units = np.diag([1.0, 1.0 / scale])
    expected = units @ one.g @ units
    np.testing.assert_allclose(two.g / expected.max(), expected / expected.max(), atol=1e-6)
    assert_close(two.sigma2, one.sigma2)
    assert_close(two.loglik, one.loglik - np.log(scale), scale=1e2)


@relaxed
@given(tables, st.sampled_from([-1e8, -3.0, 1e3, 1e8]))
def test_shifting_a_covariate(table, shift):
    """Only the intercept moves: to the fitted value at the old zero."""
    # x is first rounded to what a double near the shift can hold.
    table = table.assign(x=(table["x"] + shift) - shift)
    one, two = fit(table), fit(table.assign(x=table["x"] + shift))
    digits = 1e-7 if abs(shift) > 1e6 else SAME
    assert two.beta[1] == pytest.approx(one.beta[1], rel=1e-6, abs=digits)
    assert two.beta[2] == pytest.approx(one.beta[2], rel=1e-6, abs=digits)
    intercept = two.beta[0] + shift * two.beta[1]
    assert intercept == pytest.approx(one.beta[0], rel=1e-5, abs=max(1e-7, 1e-14 * abs(shift) ** 1))
    assert two.sigma2 == pytest.approx(one.sigma2, rel=1e-6)
    assert two.g[1, 1] == pytest.approx(one.g[1, 1], rel=1e-4, abs=1e-6)
    assert two.loglik == pytest.approx(one.loglik, abs=1e-6)


@relaxed
@given(tables, st.randoms(use_true_random=False))
def test_permuting_rows_and_renaming_groups(table, random):
    order = list(range(len(table)))
    random.shuffle(order)
    names = [f"school {i}" for i in range(20)]
    random.shuffle(names)
    moved = table.iloc[order].reset_index(drop=True)
    moved["g"] = moved["g"].map(dict(enumerate(names)))
    one, two = fit(table), fit(moved)
    np.testing.assert_allclose(two.beta, one.beta, rtol=SAME, atol=SAME)
    np.testing.assert_allclose(two.g, one.g, rtol=1e-5, atol=1e-6)
    assert_close(two.loglik, one.loglik)
    ours = one.group_effects()
    ours["g"] = ours["g"].map(dict(enumerate(names)))
    both = ours.merge(two.group_effects(), on=["g", "coefficient"])
    assert len(both) == len(ours)
    np.testing.assert_allclose(both["estimate_x"], both["estimate_y"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@relaxed
@given(tables, st.integers(0, 1000))
def test_splitting_the_moments(table, seed):
    design = build_design(FORMULA, table)
    whole = compute_moments(design, table)
    part = np.random.default_rng(seed).integers(0, 4, len(table))
    pieces = [compute_moments(design, table[part == i]) for i in range(4) if (part == i).any()]
    one = Model(FORMULA, whole).reml()
    two = Model(FORMULA, merge_moments(pieces)).reml()
    assert_close(two.loglik, one.loglik)
    np.testing.assert_allclose(two.beta, one.beta, rtol=SAME, atol=SAME)
