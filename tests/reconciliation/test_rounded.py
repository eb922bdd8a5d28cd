"""A covariate millions of SDs from zero leaves no digits of a correlation, and no wrong verdict."""

import time
from functools import cache

import numpy as np
import pandas as pd
import pytest
from sound_draws import change_correlations, change_sds, shift, spread

from bhlm.bayes.draws import build_fit
from bhlm.bayes.marginal_mode import find_mode
from bhlm.bayes.priors.frame import stand_at_means
from bhlm.bayes.rounding import find_rounded, has_density, read_at_means
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import lower_roots
from bhlm.reconciliation.comparison import compare

CORR = "corr(Intercept,x|g)"


def simulate(q, *, far=0.0, response=0.0, groups=30, size=10):
    rng = np.random.default_rng(q)
    g = np.repeat(np.arange(groups), size)
    x, z = rng.standard_normal((2, len(g)))
    u = rng.standard_normal((groups, 3)) * [0.8, 0.5, 0.4]
    y = 1.0 + u[g, 0] + (0.5 + u[g, 1]) * x + rng.standard_normal(len(g))
    y = y + (u[g, 2] * z if q == 3 else 0.0)
    return pd.DataFrame({"g": g, "x": x + far, "z": z, "y": y + response})


@cache
def fit(q, far=0.0, response=0.0):
    slopes = "x" if q == 2 else "x + z"
    model = Model(f"y ~ {slopes} + ({slopes} | g)", simulate(q, far=far, response=response))
    return model.reml(), model.sample(seed=1)


def rebuild(post, change):
    """Return draws whose covariances at the columns' means are changed, and nothing else."""
    frame = stand_at_means(post.moments, post.structure)
    shape, flat = post.shape, post.flat
    turned = frame.random @ flat.root
    g = (turned @ np.swapaxes(turned, 1, 2)).reshape(*shape, *turned.shape[1:])
    root = frame.unturn_root(lower_roots(change(g)).reshape(turned.shape))
    stats = {str(name): x.values for name, x in post.data["sample_stats"].dataset.items()}
    return build_fit(
        post.moments, post.structure, post.priors, post.white,
        *(each.reshape(*shape, *each.shape[1:]) for each in (flat.beta, root, flat.sigma)), stats,
        settings=post.settings, seed=post.seed, start=time.perf_counter(), sampler=post.sampler,
    )  # fmt: skip


SLOW = pytest.mark.slow
FAR = [
    (2, 2e7, 0.0),
    *(
        pytest.param(q, far, response, marks=SLOW)
        for q, far, response in (
            (2, 1e6, 0.0), (2, 1e9, 0.0), (2, 0.0, 2e7), (2, 2e7, 2e7), (2, 0.0, 1e9),
            (3, 1e6, 0.0), (3, 2e7, 0.0), (3, 1e9, 0.0), (3, 0.0, 2e7),
        )
    ),
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("q", "far", "response"), FAR)
def test_sound_draws_are_certified_however_far_zero_lies(q, far, response):
    plain, moved = compare(*fit(q)), compare(*fit(q, far, response))
    assert moved.verdict == plain.verdict
    assert moved.post.converged
    assert moved.evidence.exact.khat == pytest.approx(plain.evidence.exact.khat, abs=1e-3)
    assert moved.evidence.judgement.sound
    assert moved.evidence.identity.finding == "same"
    assert moved.evidence.rounded == ((CORR,) if far else ())
    for name in ("x", "sd(x|g)", "sd(Residual)"):
        one, two = (both.evidence.exact.located[name] for both in (plain, moved))
        assert two.mean == pytest.approx(one.mean, abs=1e-3 * one.sd)
        assert two.sd == pytest.approx(one.sd, rel=1e-3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("far", [2e7, pytest.param(1e9, marks=SLOW)])
def test_nothing_that_is_read_off_such_draws_warns(far):
    reml, post = fit(2, far)
    both = compare(reml, post)
    row = both.table.loc[CORR]
    assert row["verdict"] == "agree"
    assert (row["gap"], row["unexplained"]) == (0.0, 0.0)
    assert "-1 to rounding in both answers" in both.words[CORR]
    assert post.estimates.loc[CORR, "mode"] == pytest.approx(-1.0, abs=1e-12)
    assert f"({CORR} is judged at the columns' means)" in both.route
    assert len(both.curves())


@pytest.mark.parametrize("q", [2, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize(
    "how", [spread(0.5), spread(2.0), shift(0.5)], ids=["half", "double", "mean"]
)
@pytest.mark.parametrize("what", [change_correlations, change_sds])
def test_wrong_draws_are_found_however_far_zero_lies(q, how, what):
    """The correlation as reported is -1 whatever the draws are."""
    reml, post = fit(q, 2e7)
    wrong = rebuild(post, lambda g: what(g, how))
    both = compare(reml, wrong)
    assert both.verdict == "unexplained"
    assert compare(reml, rebuild(post, lambda g: g)).verdict == "explained"


def test_a_correlation_at_the_means_is_that_of_the_centred_covariate():
    near, far = fit(2)[1], fit(2, 2e7)[1]
    assert find_rounded(near.structure, near.draws) == ()
    assert find_rounded(far.structure, far.draws) == (CORR,)
    centred = Model("y ~ x + (x | g)", simulate(2).assign(x=lambda t: t["x"] - t["x"].mean()))
    found = read_at_means(far.moments, far.structure, far.flat.root, [CORR])[CORR]
    other = centred.sample(seed=1).draws[CORR]
    # Draws of one posterior: of the same seed, but rounding parts trajectories.
    assert np.mean(found) == pytest.approx(np.mean(other), abs=0.1 * np.std(other))
    assert np.std(found) == pytest.approx(np.std(other), rel=0.1)


def test_draws_at_the_edge_of_rounding_have_no_density():
    x = -1.0 + np.finfo(float).eps * np.random.default_rng(1).integers(1, 9, 4000)
    assert not has_density(x)
    assert has_density(np.random.default_rng(1).normal(1e9, 1.0, 4000))
    assert -1.0 < find_mode(x, lower=-1.0, upper=1.0) < -1.0 + 1e-14


@pytest.mark.slow
def test_quadrature_says_that_it_does_not_judge_such_a_correlation():
    reml, post = fit(2, 2e7)
    both = compare(reml, post, limit=-1.0)
    if both.evidence.route == "quadrature":
        assert CORR not in both.evidence.judgement.scores
        assert any(f"does not judge the draws of {CORR}" in reason for reason in both.reasons)
        assert "its draws are not judged" in both.words[CORR]
        assert f"({CORR} is not judged)" in both.route
    assert both.table.loc[CORR, "verdict"] == "undetermined"
    assert both.verdict == "undetermined"
