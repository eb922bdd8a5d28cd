"""What identifies variance components: the rank of their information, not a count of rows."""

import numpy as np
import pandas as pd
import pytest

from bhlm.errors import IdentifiabilityError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.identify import expect_information
from bhlm.likelihood.whitening import whiten
from tests.simulate import simulate_rows

ROUNDING = 1e-9


def make_pairs(x: np.ndarray) -> pd.DataFrame:
    """Return groups of two rows with covariate x and a slope that varies."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(len(x) // 2), 2)
    u = rng.normal(size=(len(x), 2)) * [1.0, 0.8]
    y = u[group, 0] + u[group, 1] * x + rng.normal(size=len(x))
    return pd.DataFrame({"g": group, "x": x, "y": y})


@pytest.mark.parametrize("restricted", [True, False])
@pytest.mark.parametrize("covariance", ["unstructured", "independent", "exchangeable"])
def test_information_is_that_of_dense_algebra(covariance: str, *, restricted: bool) -> None:
    rows = simulate_rows(3)
    moments = rows.model.moments
    structure = arrange(moments, covariance)
    white = whiten(moments, structure)
    n = len(rows.y)
    x, z = rows.x @ white.fixed, rows.z @ white.basis
    own = [np.where((rows.labels == label)[:, None], z, 0.0) for label in moments.groups]
    inverse = np.linalg.inv(np.eye(n) + sum(each @ each.T for each in own))
    slopes = [sum(z @ d @ z.T for z in own) for d in structure.directions]
    slopes.append(np.linalg.inv(inverse))
    weight = inverse
    if restricted:
        middle = np.linalg.inv(x.T @ inverse @ x)
        weight = inverse - inverse @ x @ middle @ x.T @ inverse
    expected = [[0.5 * np.trace(weight @ a @ weight @ b) for a in slopes] for b in slopes]
    found = expect_information(white.blocks, white.q, structure, n=white.n, restricted=restricted)
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING)


def test_pairs_whose_covariate_differs_between_groups_are_fitted() -> None:
    fit = Model("y ~ x + (x | g)", make_pairs(np.random.default_rng(1).normal(size=400))).reml()
    assert fit.converged
    # u has variances 1 and .64, the residual 1; 200 pairs tell them within about a third
    variances = fit.estimates.loc[["var(Intercept|g)", "var(x|g)", "var(Residual)"], "estimate"]
    np.testing.assert_allclose(variances, [1.0, 0.64, 1.0], rtol=0.5)


def test_pairs_with_the_same_covariate_tell_three_variances_but_not_four() -> None:
    model = Model("y ~ x + (x | g)", make_pairs(np.tile([0.0, 1.0], 40)))
    with pytest.raises(IdentifiabilityError, match="the residual variance cannot be told from"):
        model.reml()
    # two variances and a covariance of two rows are as many as they
    assert model.reml(covariance="independent").moments.n_rows == 80


def test_one_row_per_group_is_refused() -> None:
    model = Model("y ~ x + (1 | g)", make_pairs(np.arange(40.0)).iloc[::2])
    with pytest.raises(IdentifiabilityError, match="more rows than random coefficients"):
        model.reml()
