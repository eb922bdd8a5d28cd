"""The exact null distribution against the F test, dense algebra and symmetries."""

import numpy as np
import pytest
from scipy import stats
from small_groups import draw_groups

from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.reml.exact_null import (
    count_below,
    find_spectrum,
    mass_at_zero,
    null_of_component,
    simulate_null,
)

SIGMAS = 4.0  # Monte Carlo errors that a right answer may be off


def fit(formula, frame, **arguments):
    return Model(formula, frame).reml(**arguments)


def f_test(one):
    """Return F of a balanced one-way layout and its null distribution."""
    moments = one.moments
    J, n = moments.n_groups, moments.n_rows
    means = moments.mean[:, -1]
    between = (moments.n * (means - means.mean()) ** 2).sum() / (J - 1)
    within = moments.cross[:, -1, -1].sum() / (n - J)
    return between / within, stats.f(J - 1, n - J)


@pytest.mark.parametrize(("J", "n", "seed"), [(3, 4, 3), (8, 10, 1), (20, 5, 2)])
def test_balanced_layout_has_the_p_value_of_the_f_test(J, n, seed):
    # REML's ratio increases with F there, from F = 1 on; below, it is zero.
    one = fit("y ~ 1 + (1 | g)", draw_groups(J, n, sd=(0.9,), seed=seed))
    null = null_of_component(one, draws=20_000)
    chi2 = 2.0 * (one.loglik - one.linear_loglik)
    f, law = f_test(one)
    assert f > 1.0
    assert abs(null.p_value(chi2) - law.sf(f)) < SIGMAS * null.error(chi2) + 1e-4
    spectrum = find_spectrum(one.white)
    assert mass_at_zero(spectrum, restricted=True) == pytest.approx(law.cdf(1.0), abs=1e-7)
    assert null.zero == pytest.approx(law.cdf(1.0), abs=SIGMAS * 0.5 / 141)


@pytest.mark.parametrize("method", ["reml", "ml"])
def test_simulated_mass_at_zero_is_imhofs(method):
    one = fit("y ~ w + x + (1 | g)", draw_groups(8, [4, 9, 30], seed=3), method=method)
    spectrum = find_spectrum(one.white)
    exact = mass_at_zero(spectrum, restricted=method == "reml")
    # A likelihood that falls from zero and rises again further out is rare.
    assert exact - 0.02 < simulate_null(spectrum, restricted=method == "reml").zero < exact + 0.01


def test_eigenvalues_are_counted_without_being_computed():
    rng = np.random.default_rng(0)
    a = np.repeat([2.0, 5.0, 5.0, 9.0, 40.0], 20)
    x = np.column_stack([np.ones(100), rng.standard_normal((100, 2))])
    c = a[:, None] * x @ np.linalg.inv(np.linalg.cholesky((a[:, None] * x).T @ x)).T
    values = np.linalg.eigvalsh(np.diag(a) - c @ c.T)
    edges = np.array([1e-6, 1.9, 2.1, 4.99, 5.01, 8.0, 39.0, 41.0])
    assert count_below(a, c, edges).tolist() == [(values < edge).sum() for edge in edges]


def test_counted_spectrum_has_the_law_of_the_computed_one():
    one = fit("y ~ w + x + (1 | g)", draw_groups(150, [3, 5, 20], seed=3))
    computed, counted = find_spectrum(one.white), find_spectrum(one.white, dense=0)
    assert counted.times.sum() == computed.times.sum()
    assert counted.free == computed.free
    masses = [mass_at_zero(each, restricted=True) for each in (computed, counted)]
    assert masses[0] == pytest.approx(masses[1], abs=1e-3)
    quantiles = [
        np.quantile(simulate_null(each, restricted=True, draws=20_000).chi2, [0.8, 0.95])
        for each in (computed, counted)
    ]
    assert quantiles[0] == pytest.approx(quantiles[1], rel=0.08)


def test_units_and_offsets_change_nothing():
    frame = draw_groups(8, 6, sd=(0.5,), seed=4)
    moved = frame.assign(y=1e4 + 50 * frame["y"], x=2000 + 3 * frame["x"])
    first, second = (fit("y ~ x + (1 | g)", each) for each in (frame, moved))
    draws = [null_of_component(each, draws=2000, seed=7).chi2 for each in (first, second)]
    assert draws[0] == pytest.approx(draws[1], abs=1e-6)


def test_seed_fixes_the_draws():
    one = fit("y ~ x + (1 | g)", draw_groups(8, 6, seed=4))
    first, again, other = (null_of_component(one, draws=500, seed=s).chi2 for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_more_than_one_parameter_is_refused():
    with pytest.raises(ArgumentError, match="null='bootstrap'"):
        null_of_component(fit("y ~ x + (x | g)", draw_groups(8, 6, sd=(0.5, 0.5), seed=1)))
