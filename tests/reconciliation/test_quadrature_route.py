"""Where the weights of importance sampling fail, quadrature certifies and splits alike."""

from functools import cache

import numpy as np
import pytest
from few_groups import simulate_model
from small_groups import draw_groups
from sound_draws import change_sds, integrate, make_fit, resample, shift, spread

from bhlm.bayes.pareto import measure_tails
from bhlm.bayes.priors.families import HalfNormal, StudentT
from bhlm.bayes.priors.resolve import Priors
from bhlm.fits.model import Model
from bhlm.reconciliation.comparison import compare
from bhlm.reconciliation.judge import SD_KHAT
from bhlm.reports.comparison_json import describe_certification

pytestmark = pytest.mark.wide

NEVER = -10.0  # a limit of k that no weights keep
TIGHT = Priors(sd=HalfNormal(0.15))


@cache
def make_model() -> Model:
    return Model("y ~ x + (1 | g)", draw_groups(12, 6, sd=(0.6,), seed=2))


@cache
def reconcile_by(limit: float, priors: Priors | None = None):
    model = make_model()
    exact = integrate(model.moments, priors)
    return compare(model.reml(), make_fit(exact, resample(exact, seed=1)), limit=limit)


def test_quadrature_certifies_what_weights_cannot():
    both = reconcile_by(NEVER)
    assert both.evidence.weighted is None
    assert both.evidence.judgement.sound
    assert both.verdict == reconcile_by(0.7).verdict == "explained"
    assert "by quadrature" in both.route
    assert "importance" in reconcile_by(0.7).route
    for limit, route in ((NEVER, "quadrature"), (0.7, "importance")):
        told = describe_certification(reconcile_by(limit))
        assert (told["certified"], told["route"]) == (True, route)
    assert not any("not certified" in reason for reason in both.reasons)
    scores = both.evidence.judgement.scores
    assert np.isfinite([scores["sd(Intercept|g)"]["upper"].z, scores["x"]["sd"].z]).all()


@pytest.mark.parametrize(
    "priors",
    [pytest.param(None, id="default", marks=pytest.mark.slow), pytest.param(TIGHT, id="tight")],
)
def test_both_routes_split_alike(priors):
    """Shares by quadrature are those by weights; the scale alone has none."""
    one, other = reconcile_by(0.7, priors).table, reconcile_by(NEVER, priors).table
    for share in ("shape", "prior", "prior_sd", "prior_residual", "prior_fixed", "monte_carlo"):
        error = np.hypot(one[f"{share}_se"], other[f"{share}_se"])
        assert (other[share] - one[share]).abs().le(4.5 * error + 2e-3 * one["sd"]).all(), share
    assert other["prior_scale"].isna().all()
    total = other[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1, skipna=False)
    assert (total - other["gap"]).abs().max() < 1e-10
    told = [
        row for row in other.index if "HalfNormal(0.15)" in reconcile_by(NEVER, priors).words[row]
    ]
    assert bool(told) == (priors is TIGHT)


@pytest.mark.parametrize(
    "kind",
    [
        "wide SDs",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("shifted effects", "narrow effects", "shifted SDs")
        ),
    ],
)
def test_wrong_draws_are_refuted_by_quadrature(kind):
    model = make_model()
    exact = integrate(model.moments)
    sample = resample(exact, seed=1)
    change = {"shifted": shift(0.5), "narrow": spread(0.5), "wide": spread(2.0)}[kind.split()[0]]
    if kind.endswith("effects"):
        sample.beta[:] = change(sample.beta)
    else:
        sample.g[:] = change_sds(sample.g, change)
    both = compare(model.reml(), make_fit(exact, sample), limit=NEVER)
    assert both.verdict == "unexplained"
    told = describe_certification(both)
    assert (told["certified"], told["route"]) == (False, "quadrature")
    assert told["refuted"]


@pytest.mark.parametrize(
    ("q", "fixed"), [pytest.param(3, None, marks=pytest.mark.slow), (1, StudentT(4.0, 0.0, 1.0))]
)
def test_where_neither_route_can_the_draws_are_not_certified(q, fixed):
    model = simulate_model(20, q, 1)
    exact = integrate(model.moments, Priors(fixed=fixed) if fixed else None, draws=1000)
    both = compare(model.reml(), make_fit(exact, resample(exact, seed=1)), limit=NEVER)
    assert both.verdict == "undetermined"
    assert both.route == "The draws are not certified: see the points."
    assert any("quadrature has no answer" in reason for reason in both.reasons)


@pytest.mark.slow
def test_two_random_coefficients_are_certified_by_quadrature():
    table = draw_groups(15, 8, sd=(0.6, 0.4), seed=4)
    model = Model("y ~ x + (x | g)", table)
    exact, reml = integrate(model.moments), model.reml()
    both = compare(reml, make_fit(exact, resample(exact, seed=3)), limit=NEVER)
    assert both.evidence.judgement.sound
    assert both.verdict == "explained"
    # Of what priors do not stand on quadrature knows the SD alone, which heavy tails do not tell.
    post = make_fit(exact, resample(exact, seed=1))
    assert measure_tails(post.draws["cov(Intercept,x|g)"]) > SD_KHAT
    both = compare(reml, post, limit=NEVER)
    assert both.verdict == "undetermined"
    assert any(
        "judge the spread of var(Intercept|g) and cov(Intercept,x|g))" in reason
        for reason in both.reasons
    )
