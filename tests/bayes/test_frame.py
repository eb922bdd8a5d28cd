"""Priors at the columns' means: what an offset or a unit of a column leaves unchanged, is."""

import numpy as np
import pandas as pd
import pytest
from simulate import simulate_table

import bhlm
from bhlm.bayes.density import build_density, constrain, log_density
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.frame import stand_at_means
from bhlm.bayes.priors.resolve import draw_prior, resolve_priors
from bhlm.fits.model import Model
from bhlm.likelihood.whitening import whiten

# The density is a sum over rows; a column 2000 units from zero costs three or four digits.
SAME = 1e-7

FORMULAS = (
    "y ~ x + w + (x | g)",
    "y ~ x + t + w + (x + t | g)",
    "y ~ x * w + (x | g)",
    "y ~ x * t + w + (x * t | g)",
    "y ~ x + I(x**2) + (x + I(x**2) | g)",
    "y ~ cwc(x) * gm(x) + (cwc(x) | g)",
    "y ~ x + w + (x || g)",
    "y ~ x + (0 + x | g)",
    "y ~ x + t + (x | g) + (0 + t | g)",
)
# Where the model itself depends on where a column's zero lies, only its unit may change.
BOUND_TO_ZERO = {
    "y ~ x + w + (x || g)": "x",
    "y ~ x + (0 + x | g)": "x",
    "y ~ x + t + (x | g) + (0 + t | g)": "t",
}


def make_density(formula: str, table: pd.DataFrame, priors: bhlm.Priors | None = None):
    moments = Model(formula, table).moments
    structure = arrange_prior(moments)
    white = whiten(moments, structure)
    resolved = resolve_priors(priors, moments, structure=structure)
    return build_density(white, resolved, structure), white, resolved, structure


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("column", ["x", "t", "w", "y"])
def test_recoding_a_column_leaves_the_density_as_it_is(formula: str, column: str) -> None:
    """In whitened coordinates the whole posterior is the same function, but for a constant."""
    table = simulate_table(3, n_groups=12)
    offset = 0.0 if BOUND_TO_ZERO.get(formula) == column else 2000.0
    recoded = table.assign(**{column: 3.0 * table[column] + offset})
    one = make_density(formula, table)[0]
    other = make_density(formula, recoded)[0]
    rng = np.random.default_rng(1)
    values = []
    for _ in range(4):
        x = rng.normal(size=one.dimension)
        x[-1] += np.log(one.scale)
        turned = x.copy()
        turned[-1] += np.log(3.0) if column == "y" else 0.0
        values.append((log_density(x, one)[0], log_density(turned, other)[0]))
    steps = np.diff(np.array(values), axis=0)
    np.testing.assert_allclose(steps[:, 1], steps[:, 0], rtol=SAME, atol=1e-6)


@pytest.mark.parametrize("formula", FORMULAS)
def test_priors_stand_on_products_of_centred_columns(formula: str) -> None:
    """C beta is what goes with the centred columns: X beta = X* (C beta), computed row by row."""
    table = simulate_table(4, n_groups=10).assign(x=lambda t: t["x"] + 5.0)
    model = Model(formula, table)
    moments, structure = model.moments, arrange_prior(model.moments)
    frame = stand_at_means(moments, structure)
    _, x, z, _ = model.rows()
    mean = dict(zip(moments.fixed, x.mean(axis=0), strict=True))
    expected = x @ np.linalg.inv(frame.fixed)
    for name, column in zip(moments.fixed, expected.T, strict=True):
        if ":" in name:
            one, two = name.split(":")
            at = [moments.fixed.index(part) for part in (one, two)]
            own = (x[:, at[0]] - mean[one]) * (x[:, at[1]] - mean[two])
        elif name == "I(x**2)":
            own = (table["x"] - table["x"].mean()) ** 2
        elif name == "Intercept":
            own = np.ones(len(x))
        else:
            own = x[:, moments.fixed.index(name)]
        if name != "Intercept":  # the Intercept takes every constant
            own, column = own - np.mean(own), column - np.mean(column)
        np.testing.assert_allclose(column, own, atol=1e-9)
    assert np.linalg.det(frame.random) == pytest.approx(1.0, abs=1e-12)
    assert z.shape[1] == len(frame.random)


def test_prior_draws_have_the_sds_that_the_priors_state() -> None:
    table = simulate_table(5, n_groups=10).assign(x=lambda t: t["x"] + 50.0)
    moments = Model("y ~ x + (x | g)", table).moments
    structure = arrange_prior(moments)
    priors = resolve_priors(bhlm.Priors(sd=bhlm.HalfNormal(2.0)), moments)
    beta, root, _ = draw_prior(priors, structure, np.random.default_rng(1), 4000)
    at_means = np.array([1.0, moments.mean[:, moments.columns.index("x")] @ moments.n])
    at_means[1] /= moments.n_rows
    own = np.linalg.norm(at_means @ root, axis=1)  # SD over groups at the mean of x
    # The mean of a half-normal, within 4 Monte Carlo errors.
    sd = 2.0 * np.sqrt(1.0 - 2.0 / np.pi)
    assert own.mean() == pytest.approx(2.0 * np.sqrt(2.0 / np.pi), abs=4 * sd / np.sqrt(4000))
    assert np.linalg.norm(root[:, 0], axis=1).mean() > 20.0
    assert (beta @ at_means).mean() == pytest.approx(table["y"].mean(), abs=4 * 2.5 * table[
        "y"].std() / np.sqrt(4000))  # fmt: skip


def test_a_draw_and_its_coordinates_are_one_another() -> None:
    table = simulate_table(6, n_groups=10).assign(x=lambda t: t["x"] + 50.0)
    density, white, priors, _ = make_density("y ~ x + (x | g)", table)
    x = np.random.default_rng(2).normal(size=(5, density.dimension))
    _, root, _ = constrain(density, white, priors.frame, x)
    np.testing.assert_array_equal(root[:, 0, 1], 0.0)
    sd = np.abs(x[:, 2:4]) * density.unit
    np.testing.assert_allclose(priors.frame.measure_sd(root), sd, rtol=1e-9)


def test_priors_at_zero_are_those_of_the_columns_as_given() -> None:
    table = simulate_table(7).assign(x=lambda t: t["x"] + 50.0)
    moments = Model("y ~ x + (x | g)", table).moments
    at_means = resolve_priors(None, moments).describe(moments)
    at_zero = resolve_priors(bhlm.Priors(at="zero"), moments).describe(moments)
    assert at_means["sd(Intercept|g)"].endswith("at the predictors' means")
    assert at_means["corr(|g)"].endswith("at the predictors' means")
    assert not any("means" in text for text in at_zero.values())
    with pytest.raises(bhlm.BhlmError, match="at='nowhere' is not known"):
        resolve_priors(bhlm.Priors(at="nowhere"), moments)


@pytest.mark.slow
def test_quadrature_does_not_see_where_zero_lies() -> None:
    table = simulate_table(8, n_groups=12)
    formula = "y ~ x + (x | g)"
    found = [
        bhlm.integrate_posterior(Model(formula, each).moments, tolerance=1e-4)
        for each in (table, table.assign(x=table["x"] + 100.0))
    ]
    kept = ["x", "var(x|g)", "sd(x|g)", "var(Residual)", "sd(Residual)"]
    one, other = (each.estimates.loc[kept] for each in found)
    np.testing.assert_allclose(other["mean"], one["mean"], rtol=1e-4)
    np.testing.assert_allclose(other["sd"], one["sd"], rtol=1e-3)
    # The Intercept's SD at x + 100 = 100 is that at x = 0: from G by hand.
    g = found[1].mean
    back = g["var(Intercept|g)"] + 2 * 100 * g["cov(Intercept,x|g)"] + 1e4 * g["var(x|g)"]
    assert back == pytest.approx(found[0].mean["var(Intercept|g)"], rel=1e-3)
