"""Priors: what they mean, the scale of the defaults, and what is refused."""

import numpy as np
import pytest
from simulate import simulate_table

from bhlm.bayes.priors.correlations import LKJ, arrange_prior
from bhlm.bayes.priors.families import (
    Exponential,
    Flat,
    Gamma,
    HalfNormal,
    HalfStudentT,
    Normal,
    PyMCPrior,
)
from bhlm.bayes.priors.resolve import Priors, parse_prior, read_priors, resolve_priors
from bhlm.bayes.pymc_model import log_prior_values
from bhlm.errors import BhlmError, PriorError
from bhlm.fits.model import Model

TABLE = simulate_table(1)
MOMENTS = Model("y ~ x + w + (x | g)", TABLE).moments


def test_defaults_are_scaled_to_the_data():
    resolved = resolve_priors(None, MOMENTS)
    sd_y, sd_x = TABLE["y"].std(), TABLE["x"].std()
    assert resolved.fixed[0].mu == pytest.approx(TABLE["y"].mean())
    assert resolved.fixed[0].sigma == pytest.approx(2.5 * sd_y)
    assert resolved.fixed[1].mu == 0.0
    assert resolved.fixed[1].sigma == pytest.approx(2.5 * sd_y / sd_x)
    assert resolved.sd[0].numbers == pytest.approx((3.0, sd_y))
    assert resolved.sd[1].numbers == pytest.approx((3.0, sd_y / sd_x))
    assert resolved.sigma.numbers == pytest.approx((3.0, sd_y))
    assert resolved.corr == LKJ(2.0)
    np.testing.assert_allclose(resolved.frame.fixed[0], [1.0, TABLE["x"].mean(), TABLE["w"].mean()])
    text = resolved.describe(MOMENTS)
    assert list(text) == [
        "Intercept", "x", "w", "sd(Intercept|g)", "sd(x|g)", "corr(|g)", "sd(Residual)",
    ]  # fmt: skip
    assert text["Intercept"].endswith("at the predictors' means")


def test_independent_coefficients_have_no_correlation_prior():
    post = Model("y ~ x + w + (x | g)", TABLE).sample(
        seed=1, covariance="independent", draws=20, tune=20
    )
    assert "corr(|g)" not in post.priors.describe(post.moments, structure=post.structure)
    assert "LKJ" not in post.summary()


def test_rescaling_the_data_rescales_the_defaults():
    other = Model("y ~ x + w + (x | g)", TABLE.assign(y=10 * TABLE["y"], x=TABLE["x"] / 2)).moments
    resolved, moved = resolve_priors(None, MOMENTS), resolve_priors(None, other)
    assert moved.fixed[1].sigma == pytest.approx(20 * resolved.fixed[1].sigma)
    assert moved.sd[0].sigma == pytest.approx(10 * resolved.sd[0].sigma)
    assert moved.sigma.sigma == pytest.approx(10 * resolved.sigma.sigma)


def test_one_coefficient_can_have_its_own():
    resolved = resolve_priors(Priors(fixed={"x": Normal(0, 1)}, sd=Exponential(2)), MOMENTS)
    assert resolved.fixed[1] == Normal(0, 1)
    assert resolved.fixed[2] != Normal(0, 1)
    assert resolved.sd == (Exponential(2), Exponential(2))


def test_flat_priors_are_flat_on_the_covariance_matrix():
    resolved = resolve_priors(Priors.flat(), MOMENTS)
    assert resolved.is_flat
    assert resolved.sd == (Flat(power=2.0), Flat(power=2.0))
    assert not resolve_priors(None, MOMENTS).is_flat


@pytest.mark.parametrize(
    ("priors", "expected"),
    [
        (Priors(fixed={"z": Normal(0, 1)}), "'z', which is no coefficient of the model"),
        (Priors(sd=Normal(0, 1)), "allows negative values"),
        (Priors(sigma=Normal(0, 1)), "sd(Residual) is positive"),
        (Priors(fixed=HalfStudentT(3, 1)), "the fixed effect 'Intercept' may be negative"),
        (Priors(fixed="wide"), "fixed='wide' is not a prior"),
        (Priors(fixed={"x": 3}), "fixed['x']=3 is not a prior"),
        (Priors(corr=Normal(0, 1)), "use LKJ(eta)"),
    ],
)
def test_priors_that_do_not_fit_are_refused(priors, expected):
    with pytest.raises(PriorError) as error:
        resolve_priors(priors, MOMENTS)
    assert expected in str(error.value)


@pytest.mark.parametrize("make", [lambda: Normal(0, 0), lambda: Gamma(-1, 2), lambda: LKJ(0)])
def test_impossible_numbers_are_refused(make):
    with pytest.raises(PriorError, match="is not a distribution"):
        make()


def test_priors_read_from_text():
    assert parse_prior("Normal(0, 2.5)") == Normal(0, 2.5)
    assert parse_prior("Flat") == Flat()
    assert parse_prior(str(HalfStudentT(3, 6.878))) == HalfStudentT(3, 6.878)
    priors = read_priors({"fixed": {"x": "Normal(0, 1)"}, "corr": "LKJ(4)", "sigma": "Flat"})
    assert priors == Priors(fixed={"x": Normal(0, 1)}, corr=LKJ(4), sigma=Flat())
    assert read_priors(None) is None
    for text in ("Normal(0", "Normal(0)", "Normal(0, x)", "__import__('os')", "Gauss(0, 1)"):
        with pytest.raises(PriorError, match="prior"):
            parse_prior(text)
    with pytest.raises(PriorError, match=r"priors\.slopes is not known; the keys are fixed, sd"):
        read_priors({"slopes": "Flat"})


class TestASharedSd:
    STRUCTURE = arrange_prior(MOMENTS, "identity")

    def test_has_one_prior_by_the_largest_scale(self):
        resolved = resolve_priors(None, MOMENTS, structure=self.STRUCTURE)
        alone = resolve_priors(None, MOMENTS).sd
        assert resolved.sd == (max(alone, key=lambda prior: prior.sigma),)
        assert list(resolved.describe(MOMENTS, structure=self.STRUCTURE)) == [
            "Intercept", "x", "w", "sd(Intercept|g)", "sd(Residual)",
        ]  # fmt: skip

    def test_takes_the_prior_that_is_given_for_any_of_its_coefficients(self):
        given = Priors(sd={"x": Exponential(2)})
        assert resolve_priors(given, MOMENTS, structure=self.STRUCTURE).sd == (Exponential(2),)

    def test_refuses_two(self):
        given = Priors(sd={"x": Exponential(2), "Intercept": Exponential(1)})
        with pytest.raises(PriorError, match="Intercept and x share"):
            resolve_priors(given, MOMENTS, structure=self.STRUCTURE)

    def test_is_flat_on_the_variance(self):
        resolved = resolve_priors(Priors.flat(), MOMENTS, structure=self.STRUCTURE)
        assert resolved.sd == (Flat(power=1.0),)


def test_a_common_correlation_needs_an_eta_that_integrates():
    moments = Model("y ~ x + w + (x + w | g)", TABLE).moments
    structure = arrange_prior(moments, "exchangeable")
    with pytest.raises(PriorError, match=r"give an eta above 0\.5"):
        resolve_priors(Priors(corr=LKJ(0.5)), moments, structure=structure)
    assert resolve_priors(Priors.flat(), moments, structure=structure).sd == (Flat(power=3.0),)


def test_distributions_of_pymc_are_told_apart():
    """A density is compiled once for each, by what it is equal to."""
    import pymc as pm

    one, other = PyMCPrior(pm.Gamma.dist(2, 0.5)), PyMCPrior(pm.Normal.dist(0, 1))
    assert one != other
    assert len({one, other, one}) == 2
    at = np.array([-1.0, 1.0])
    assert np.isneginf(log_prior_values(one, at)[0])
    assert np.isfinite(log_prior_values(other, at)).all()


@pytest.mark.parametrize("size", [-1, 0.5, True, None, "3", [2], 10**20])
def test_a_number_of_draws_is_checked(size):
    with pytest.raises(BhlmError, match="size="):
        Normal(0, 1).draw(np.random.default_rng(1), size)


def test_draws_need_a_generator_and_quantiles_numbers():
    with pytest.raises(BhlmError, match=r"give one, such as np\.random\.default_rng\(1\)"):
        HalfNormal(1).draw(1, 3)
    for p in ("half", [[1, [2]]], 10**400, object()):
        with pytest.raises(BhlmError, match="no probabilities"):
            Normal(0, 1).quantile(p)
    assert Normal(0, 1).quantile(0.5) == 0.0
