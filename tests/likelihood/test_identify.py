"""What identifies variance components: the rank of their information, not a count of rows."""

import numpy as np
import pandas as pd
import pytest

from bhlm.errors import IdentifiabilityError
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.identify import expect_information, invert_told
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


def make_between(values: list[float], *, rows: int = 6, groups: int = 30) -> pd.DataFrame:
    """Return groups whose covariate w is constant within each, one of some values."""
    rng = np.random.default_rng(2)
    w = np.resize(values, groups)
    code = np.repeat(np.arange(groups), rows)
    u = rng.normal(size=(groups, 2))
    x = rng.normal(size=len(code))
    y = 0.5 * x + (u[:, 0] + u[:, 1] * w)[code] + rng.normal(size=len(code))
    return pd.DataFrame({"y": y, "x": x, "w": w[code], "g": code, "h": code % 7, "k": code // 3})


@pytest.mark.parametrize(
    ("values", "term", "is_told"),
    [
        # var(b0 + b1 w) = g00 + 2 g01 w + g11 w^2
        ([0.0, 1.0], "(w | {g})", False),
        ([0.0, 1.0, 3.0], "(w | {g})", True),
        ([100.0, 101.0, 103.0], "(w | {g})", True),
        # g00 + g11 w^2
        ([0.0, 1.0], "(w || {g})", True),
        ([-1.0, 1.0], "(w || {g})", False),
        # g11 w^2
        ([1.0, 2.0], "(0 + w | {g})", True),
        ([0.0, 1.0], "(x + w | {g})", False),
        ([0.0, 1.0, 3.0], "(x + w | {g})", True),
    ],
)
@pytest.mark.parametrize("factors", ["{term}", "{term} + (1 | h)", "(1 | k) + {term}"])
def test_slopes_of_what_is_constant_within_groups_are_fitted_where_values_tell_them(
    values: list[float], term: str, factors: str, *, is_told: bool
) -> None:
    table = make_between(values)
    written = f"y ~ x + w + {factors.format(term=term.format(g='g'))}"
    model = Model(written, table)
    if is_told:
        fit = model.reml()
        assert fit.converged
        return
    for estimate in (model.reml, lambda: model.reml(method="ml"), lambda: model.sample(draws=10)):
        with pytest.raises(IdentifiabilityError, match=f"{len(values)} different values between"):
            estimate()


@pytest.mark.parametrize(
    ("values", "term", "is_told"),
    [
        ([0.0, 1.0], "(w | g)", False),
        ([0.0, 1.0, 3.0], "(w | g)", True),
        ([0.0, 1.0], "(w || g)", True),
        ([-1.0, 1.0], "(w || g)", False),
        ([0.0, 1.0], "(x + w | g)", False),
    ],
)
def test_so_are_those_of_families(values: list[float], term: str, *, is_told: bool) -> None:
    table = make_between(values)
    model = Model(f"y ~ x + w + {term}", table.assign(y=1 * (table["y"] > 0)), family="bernoulli")
    if is_told:
        assert np.isfinite(model.ml().loglik)
        return
    for estimate in (model.ml, lambda: model.sample(draws=10)):
        with pytest.raises(IdentifiabilityError, match=f"{len(values)} different values between"):
            estimate()


def test_a_slope_of_what_is_constant_within_groups_is_that_of_dense_algebra() -> None:
    table = make_between([-2.0, 0.0, 3.0], rows=4, groups=24)
    fit = Model("y ~ x + w + (w | g)", table).reml()
    assert not fit.singular
    z = np.column_stack([np.ones(len(table)), table["w"]])
    x = np.column_stack([np.ones(len(table)), table["x"], table["w"]])
    same = np.equal.outer(table["g"].to_numpy(), table["g"].to_numpy())

    def loglik(g00: float, g11: float, g01: float, v: float) -> float:
        variance = same * (z @ np.array([[g00, g01], [g01, g11]]) @ z.T) + v * np.eye(len(z))
        inverse = np.linalg.inv(variance)
        middle = x.T @ inverse @ x
        rest = table["y"] - x @ np.linalg.solve(middle, x.T @ inverse @ table["y"])
        logdets = np.linalg.slogdet(variance)[1] + np.linalg.slogdet(middle)[1]
        count = len(z) - x.shape[1]
        return -0.5 * (logdets + rest @ inverse @ rest + count * np.log(2.0 * np.pi))

    names = ["var(Intercept|g)", "var(w|g)", "cov(Intercept,w|g)", "var(Residual)"]
    at = fit.estimates.loc[names, "estimate"].to_numpy()
    assert fit.loglik == pytest.approx(loglik(*at), abs=1e-8)
    for step in np.vstack([np.eye(4), -np.eye(4)]) * 0.01 * at[-1]:
        assert loglik(*(at + step)) < fit.loglik


@pytest.mark.parametrize("rank", [4, 3, 1])
def test_the_inverse_of_what_is_told_is_the_pseudo_inverse(rank: int) -> None:
    rng = np.random.default_rng(rank)
    for _ in range(50):
        vectors = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        values = np.zeros(4)
        values[:rank] = rng.choice([-1.0, 1.0], rank) * 10.0 ** rng.uniform(-3, 3, rank)
        matrix = (vectors * values) @ vectors.T
        expected = np.linalg.pinv(matrix, rcond=1e-10, hermitian=True)
        np.testing.assert_allclose(
            invert_told(matrix, 1e-10), expected, atol=1e-9 * np.abs(expected).max()
        )
