"""Draws that are weighed for other priors than theirs: against draws of their own."""

import math

import numpy as np
import pytest
from few_groups import simulate_model
from sound_draws import integrate

from bhlm.bayes.importance import integrate_importance
from bhlm.bayes.importance.pool import join_pool, start_pool, weigh_pool
from bhlm.bayes.importance.posterior import draw_target
from bhlm.bayes.importance.target import PRIORS, build_target
from bhlm.bayes.priors.families import StudentT
from bhlm.bayes.priors.resolve import Priors
from bhlm.likelihood.whitening import whiten

# Standard errors that a difference may reach: of some 60 compared, one in 1e5.
ERRORS = 4.5
WITHOUT = frozenset({"sd", "corr", "fixed"})


def make_pools(q: int, priors: Priors | None = None):
    """Return a posterior, its pool, and the pool with draws of the posterior under flat priors."""
    exact = integrate(simulate_model(30, q, 3).moments, priors, draws=1000)
    alone = start_pool(exact)
    white = whiten(exact.moments, exact.structure)
    target = build_target(white, exact.target.priors, exact.structure, without=frozenset(PRIORS))
    return exact, alone, join_pool(alone, draw_target(target, seed=5, draws=1000))


@pytest.mark.parametrize(
    ("q", "priors"),
    [
        (1, None),
        (1, Priors(fixed=StudentT(4.0, 0.0, 0.5))),
        pytest.param(2, None, marks=pytest.mark.slow),
        pytest.param(3, None, marks=pytest.mark.slow),
        pytest.param(2, Priors(fixed=StudentT(4.0, 0.0, 0.5)), marks=pytest.mark.slow),
    ],
)
def test_a_pool_weighed_for_other_priors_is_their_posterior(q, priors):
    """Means and SDs without some priors are those of draws that were made for them."""
    exact, _, pool = make_pools(q, priors)
    own = integrate_importance(
        exact.moments, exact.structure, exact.target.priors, seed=9, draws=2000, without=WITHOUT
    )
    found = weigh_pool(pool, WITHOUT)
    assert found.khat < 0.7
    assert len(found.weight) == 2000
    for name, located in own.located.items():
        centre, width = found.kernels[name]
        mean = float(found.weight @ centre)
        error = math.hypot(located.mean_se, float(np.linalg.norm(found.weight * (centre - mean))))
        assert abs(mean - located.mean) < ERRORS * error, name
        sd = math.sqrt(float(found.weight @ ((centre - mean) ** 2 + width**2)))
        assert sd == pytest.approx(located.sd, rel=0.2), name


def test_a_pool_of_one_posterior_has_its_weights():
    exact, alone, _ = make_pools(1)
    found = weigh_pool(alone, frozenset())
    assert found.khat == pytest.approx(exact.khat, abs=1e-6)
    np.testing.assert_allclose(found.weight, exact.draws.weight, atol=1e-9)


def test_more_draws_leave_the_posterior_and_narrow_it():
    """Flat draws join those of the chosen priors: the same means, and more effective draws."""
    exact, alone, pool = make_pools(1)
    one, two = weigh_pool(alone, frozenset()), weigh_pool(pool, frozenset())
    assert two.ess > one.ess
    for name, located in exact.located.items():
        mean = float(two.weight @ two.kernels[name].centre)
        assert abs(mean - located.mean) < ERRORS * located.mean_se, name
