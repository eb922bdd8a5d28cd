"""Whitening: exact, indifferent to scale and offset, and the place where bad data is refused."""

import numpy as np
import pandas as pd
import pytest
from simulate import simulate_table

from bhlm.errors import IdentifiabilityError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.whitening import group_ranks, whiten, whiten_parameters


def whitened(formula, table):
    moments = Model(formula, table).moments
    return whiten(moments, arrange(moments))


def test_blocks_are_the_cross_products_of_whitened_rows():
    model = Model("y ~ x + w + (x | g)", simulate_table(5))
    white = whiten(model.moments, arrange(model.moments))
    labels, x, z, y = model.rows()
    columns = np.column_stack([z @ white.basis, x @ white.fixed, (y - x @ white.ols) / white.scale])
    for block, label in zip(white.blocks, model.moments.groups, strict=True):
        rows = columns[labels == label]
        np.testing.assert_allclose(block, rows.T @ rows, rtol=1e-10, atol=1e-11)
    total = white.blocks[:, 2:5, 2:5].sum(axis=0)
    np.testing.assert_allclose(total, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e8])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_offset_and_scale_leave_the_fit(offset, scale):
    table = simulate_table(6, n_groups=30)
    plain = Model("y ~ x + (x | g)", table).reml()
    table["x"] = (table["x"] + offset) * scale
    moved = Model("y ~ x + (x | g)", table).reml()
    # Doubles near 1e8 keep 8 digits of x itself.
    tolerance = 1e-9 + 1e-15 * offset
    slope = float(plain.estimates.loc["x", "estimate"])
    assert float(moved.estimates.loc["x", "estimate"]) * scale == pytest.approx(
        slope, rel=10 * tolerance
    )
    assert moved.g[1, 1] * scale**2 == pytest.approx(plain.g[1, 1], rel=1e3 * tolerance)
    shifted = plain.loglik - np.log(scale)  # the restricted likelihood has log|X'X| in it
    assert moved.loglik == pytest.approx(shifted, abs=1e3 * tolerance)


def test_parameters_map_to_the_whitened_scale_and_back():
    white = whitened("y ~ x + w + (x | g)", simulate_table(7))
    root = np.array([[1.2, 0.0], [0.4, 0.7]])
    beta, lam, sigma = whiten_parameters(white, np.array([1.0, 2.0, 3.0]), root, 1.5)
    np.testing.assert_allclose(white.ols + white.scale * white.fixed @ beta, [1.0, 2.0, 3.0])
    np.testing.assert_allclose(white.basis @ lam * 1.5, root, atol=1e-14)
    assert sigma * white.scale == pytest.approx(1.5)


def test_group_ranks():
    table = pd.DataFrame(
        {
            "g": [1, 2, 2, 3, 3, 3, 4, 4, 4, 4, 4],
            "x": [1.0, 2.0, 2.0, 1.0, 2.0, 3.0, 1.0, 1.0, 4.0, 5.0, 6.0],
            "y": [1.0, 2.0, 3.0, 1.0, 5.0, 3.0, 2.0, 4.0, 4.0, 9.0, 1.0],
        }
    )
    moments = Model("y ~ x + (x | g)", table).moments
    np.testing.assert_array_equal(group_ranks(moments), [1, 1, 2, 2])


BASE = simulate_table(8, n_groups=6)


@pytest.mark.parametrize(
    ("formula", "change", "expected"),
    [
        ("y ~ x + (1 | g)", {"y": 4.0}, "'y' is constant (4 in every row)"),
        ("y ~ x + k + (1 | g)", {"k": 2.0}, "'k' does not vary"),
        ("y ~ x + k + (1 | g)", {"k": 2.0 * BASE["x"] + 1}, "'k' is a linear combination"),
        ("y ~ x + k + (1 | g)", {"k": BASE["y"]}, "fit 'y' without error"),
        ("y ~ x + (w | g)", {"w": 1.0 * (BASE["g"] > 2)}, "'w' never varies within any 'g'"),
        ("y ~ x + (1 | g)", {"g": np.arange(len(BASE))}, "no 'g' has more rows than"),
    ],
)
def test_refusals_name_the_column(formula, change, expected):
    with pytest.raises(IdentifiabilityError) as error:
        whitened(formula, BASE.assign(**change))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_too_few_rows_are_refused():
    table = BASE.groupby("g").head(1).reset_index(drop=True)
    with pytest.raises(IdentifiabilityError, match="6 rows cannot identify 6 parameters"):
        whitened("y ~ x + (x | g)", table.assign(g=[1, 1, 1, 2, 2, 2]))


@pytest.mark.parametrize("covariance", [None, "identity"])
def test_a_random_column_of_zeros_is_refused(covariance):
    table = simulate_table(3).assign(none=0.0)
    model = Model("y ~ w + (0 + x | g) + (0 + none | g)", table)
    with pytest.raises(IdentifiabilityError, match=r"'none' is zero in all of the .* rows"):
        model.reml(covariance=covariance)
