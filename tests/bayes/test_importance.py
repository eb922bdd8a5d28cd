"""The posterior by importance sampling: against quadrature, dense algebra and itself recoded."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from few_groups import make_case, simulate_model
from gallery_fits import list_one_factor
from scipy import stats
from scipy.stats import multivariate_normal
from simulate import dense_covariance, simulate_rows

from bhlm.bayes.importance import integrate_importance
from bhlm.bayes.importance import target as target_module
from bhlm.bayes.importance.draws import draw_weighted
from bhlm.bayes.importance.mixtures import Mixture, draw_mixture, log_mixture, make_mixture
from bhlm.bayes.importance.modes import find_edges, find_modes
from bhlm.bayes.importance.posterior import propose_target
from bhlm.bayes.importance.target import (
    bend,
    build_target,
    condition_fixed,
    list_priors,
    log_target,
    place,
    spread_starts,
    unbend,
)
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Exponential, Normal, StudentT
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.bayes.quadrature import integrate_resolved
from bhlm.fits.model import Model
from bhlm.likelihood.covariance import arrange
from bhlm.likelihood.whitening import whiten
from bhlm.sources.gallery import find_model, load_data

# Standard errors that an estimate may be off by: of some 200 compared, one in a million.
ERRORS = 5.5


def integrate(moments, priors=None, **options):
    resolved = resolve_priors(priors, moments, structure=arrange(moments))
    options = {"seed": 1} | options
    return integrate_importance(moments, arrange(moments), resolved, **options)


def resample(exact, *, seed, size=(4, 1000)):
    """Independent draws of every parameter from the weighted ones: sound by construction."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(exact.draws.weight), size=size, p=exact.draws.weight)
    noise = rng.standard_normal(size)
    return {
        name: each.centre[rows] + each.width[rows] * noise for name, each in exact.kernels.items()
    }


@pytest.fixture(scope="module")
def sleepstudy():
    model = find_model("sleepstudy")
    return Model(model.formula, load_data(model)).moments


@pytest.fixture(scope="module")
def exact(sleepstudy):
    return integrate(sleepstudy)


def build(moments, priors=None):
    white = whiten(moments, arrange(moments))
    resolved = resolve_priors(priors, moments, structure=arrange(moments))
    return build_target(white, resolved, arrange(moments))


@pytest.mark.parametrize("q", [1, 2, 3, 4])
def test_jacobian_is_that_of_central_differences(q):
    target = build(simulate_model(20, q, 1).moments)
    target = replace(target, knee=np.linspace(-1.0, 0.3, q))
    y = np.random.default_rng(q).normal(0.0, 0.6, target.dimension)

    def natural(y):
        at = place(target, y[None])
        g = target.frame @ at.g[0] @ target.frame.T
        sd = np.sqrt(np.diag(g))
        corr = g / np.outer(sd, sd)
        return np.concatenate([sd, corr[np.tril_indices(q, -1)], at.sigma])

    h = 1e-5 * np.eye(len(y))
    columns = [(natural(y + e) - natural(y - e)) / 2e-5 for e in h]
    expected = np.linalg.slogdet(np.column_stack(columns))[1]
    assert place(target, y[None]).jacobian[0] == pytest.approx(expected, abs=1e-5)


def test_value_is_the_dense_marginal_density():
    model = simulate_model(6, 2, 3)
    target = build(model.moments)
    labels, x, z, response = model.rows()
    y = np.random.default_rng(1).normal(0.0, 0.5, target.dimension)
    at = place(target, y[None])
    v = at.sigma[0] ** 2 * np.eye(len(response))
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        v[np.ix_(rows, rows)] += z[rows] @ at.g[0] @ z[rows].T
    # Normal priors, the intercept's at the means of the other columns.
    at_means = np.eye(x.shape[1])
    at_means[0, 1:] = x[:, 1:].mean(axis=0)
    mu = np.array([prior.mu for prior in target.priors.fixed])
    tau = np.array([prior.sigma for prior in target.priors.fixed])
    back = np.linalg.inv(at_means)
    covariance = v + x @ back @ np.diag(tau**2) @ back.T @ x.T
    expected = stats.multivariate_normal(x @ back @ mu, covariance).logpdf(response)
    assert condition_fixed(target, at.lam, at.sigma).value[0] == pytest.approx(expected, abs=1e-7)


def test_bend_is_undone_and_keeps_logarithms_above_its_knee():
    y = np.linspace(-8.0, 12.0, 41)
    np.testing.assert_allclose(unbend(bend(y)[0]), y, atol=1e-9)
    assert bend(np.array([12.0]))[0][0] == pytest.approx(12.0, abs=1e-9)


def test_mixture_is_a_density():
    rng = np.random.default_rng(0)
    mixture = Mixture(
        weight=np.array([0.3, 0.7]),
        mean=np.array([[0.0, 1.0], [2.0, -1.0]]),
        axes=np.stack([np.eye(2), np.array([[1.0, 0.0], [0.5, 2.0]])]),
        ahead=np.array([[0.5, 2.0], [1.0, 1.0]]),
        behind=np.array([[1.5, 0.3], [1.0, 1.0]]),
        df=np.array([5.0, 8.0]),
    )
    # The mean of g / mixture over its draws is the integral of g, here 1.
    y = draw_mixture(mixture, 20_000, rng)
    g = stats.multivariate_normal([1.0, 0.0], np.diag([0.5, 0.5])).logpdf(y)
    ratio = np.exp(g - log_mixture(mixture, y))
    assert ratio.mean() == pytest.approx(1.0, abs=ERRORS * ratio.std() / np.sqrt(len(ratio)))


def test_draws_fill_a_mixture_more_evenly_than_chance():
    """Errors of means over 20 nets are well below those of as many independent draws."""
    spread = np.diag([1.0, 3.0])
    mixture = make_mixture(np.ones(1), np.zeros((1, 2)), spread[None], np.full(1, 8.0))
    rng = np.random.default_rng(0)
    y = np.stack([draw_mixture(mixture, 1024, rng) for _ in range(20)])
    errors = np.sqrt(np.mean(y.mean(axis=1) ** 2, axis=0))
    assert np.all(errors < 0.5 * y.std(axis=(0, 1)) / np.sqrt(1024))
    # They are draws of the mixture nevertheless: a t with 8 degrees of freedom.
    for size in (1.0, 2.0, 4.0):
        beyond = 2.0 * stats.t(8.0).sf(size)
        assert np.mean(np.abs(y / np.diag(spread)) > size) == pytest.approx(beyond, rel=0.1)


def test_the_way_to_zero_of_an_sd_is_drawn_from():
    """Half a per cent of the mass lies far below an SD's mode, where the likelihood is flat."""

    def height(y):
        t = np.exp(y[:, 0])
        return y[:, 0] + np.logaddexp(np.log(0.005), -0.5 * ((t - 1.0) / 0.2) ** 2) - t**4 / 50.0

    t = np.linspace(1e-6, 4.0, 400_001)
    density = np.exp(height(np.log(t)[:, None])) / t
    expected = density[t < 0.3].sum() / density.sum()
    modes = find_modes(height, np.linspace(-3.0, 1.0, 9)[:, None])
    edges = find_edges(height, modes, 1)
    assert edges is not None
    for seed in range(4):
        found = draw_weighted(height, modes, seed=seed, edges=edges)
        assert found.weight[np.exp(found.y[:, 0]) < 0.3].sum() == pytest.approx(expected, rel=0.1)


def test_a_climb_along_a_ridge_ends_next_to_the_top():
    """Four SDs of ten groups under flat priors: all but a straight line of G is next to flat."""
    case = make_case(75)
    target = build(Model(case.formula, data=case.table).moments)
    names = list_priors(target.structure)
    target = replace(target, without=frozenset(names), knee=np.full(target.n_sds, -np.inf))
    modes = find_modes(lambda y: log_target(target, y), spread_starts(target))
    top = -173.35560  # where climbs to a gradient of 1e-3 end, after 12,675 evaluations
    assert modes.value[0] == pytest.approx(top, abs=0.01)
    assert modes.evaluations < 10_000


def test_an_sd_far_from_zero_has_no_way_there():
    def height(y):
        return -0.5 * (y[:, 0] / 0.1) ** 2

    assert find_edges(height, find_modes(height, np.zeros((1, 1))), 1) is None


@pytest.mark.parametrize("seed", [1, 2])
def test_agrees_with_quadrature_in_means_sds_and_evidence(seed):
    moments = simulate_model(12, 1, seed, "singular").moments
    found, known = (
        integrate(moments),
        integrate_resolved(
            moments, arrange(moments), resolve_priors(None, moments, structure=arrange(moments))
        ),
    )
    for name, each in found.located.items():
        assert abs(each.mean - known.mean[name]) <= ERRORS * each.mean_se + 1e-6 * each.sd, name
        assert abs(each.sd - known.sd[name]) <= ERRORS * each.sd_se + 1e-6 * each.sd, name
    assert found.draws.log_integral == pytest.approx(known.log_marginal, abs=0.05)


def test_points_hold_their_probability_in_draws(exact):
    drawn = resample(exact, seed=5, size=(4, 5000))
    for name, each in exact.located.items():
        below = np.mean(drawn[name] < each.lower)
        assert below == pytest.approx(0.025, abs=0.006), name
        assert np.mean(drawn[name] > each.upper) == pytest.approx(0.025, abs=0.006), name


def test_same_seed_same_answer(sleepstudy, exact):
    again = integrate(sleepstudy)
    np.testing.assert_array_equal(again.draws.weight, exact.draws.weight)
    assert again.located == exact.located


def test_offset_and_unit_of_a_covariate_change_no_weight():
    """Under priors that are flat on G the posterior of what a recoding leaves alone is the same."""
    model = find_model("sleepstudy")
    table = load_data(model)
    plain = integrate(Model(model.formula, table).moments, Priors.flat())
    table = table.assign(Days=(table["Days"] + 2000.0) / 7.0)
    moved = integrate(Model(model.formula, table).moments, Priors.flat())
    assert moved.khat == pytest.approx(plain.khat, abs=1e-2)
    assert moved.located["sd(Days|Subject)"].mean == pytest.approx(
        7.0 * plain.located["sd(Days|Subject)"].mean, rel=1e-4
    )
    assert moved.located["var(Residual)"].mean == pytest.approx(
        plain.located["var(Residual)"].mean, rel=1e-4
    )


def test_other_priors_of_fixed_effects_are_weighed_in():
    """A t with many degrees of freedom is a normal: one goes through weights, one is exact."""
    moments = simulate_model(20, 1, 2).moments
    near = integrate(moments, Priors(fixed=StudentT(400.0, 0.0, 0.3)))
    normal = integrate(moments, Priors(fixed=Normal(0.0, 0.3)))
    assert not near.target.exact
    for name, each in near.located.items():
        gap = abs(each.mean - normal.located[name].mean)
        assert gap <= ERRORS * each.mean_se + 0.01 * each.sd, name


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", [model.name for model in list_one_factor()])
def test_gallery_is_certified(name):
    model = find_model(name)
    assert integrate(Model(model.formula, load_data(model)).moments).certified


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["regular", "singular", "zero"])
@pytest.mark.parametrize("q", [1, 2, 3, 4])
@pytest.mark.parametrize("J", [6, 12, 20, 160])
def test_simulated_sets_are_certified(kind, q, J):
    if J == 6 and q == 4:
        pytest.skip("fewer groups than the random part has parameters")
    assert integrate(simulate_model(J, q, 5, kind).moments).certified


@pytest.mark.parametrize("covariance", ["identity", "exchangeable"])
def test_the_density_of_a_shared_sd_is_that_of_dense_algebra(covariance):
    """y ~ N(X mu, V + X S X'), times the priors and a Jacobian that is differenced."""
    rows = simulate_rows(6, "x")
    moments = rows.model.moments
    structure = arrange(moments, covariance)
    given = Priors(sd=Exponential(0.5), corr=LKJ(1.5), sigma=Exponential(0.7))
    priors = resolve_priors(given, moments, structure=structure)
    target = build_target(whiten(moments, structure), priors, structure)
    numbers = np.array([prior.numbers for prior in priors.fixed])
    back = np.linalg.inv(priors.frame.fixed)
    spread = rows.x @ back * numbers[:, 1]

    def read(y):
        at = place(target, y[None])
        sd, r = np.sqrt(at.g[0, 0, 0]), at.g[0, 0, 1] / at.g[0, 0, 0]
        return np.array([sd, r, at.sigma[0]] if len(y) == 3 else [sd, at.sigma[0]])

    rng = np.random.default_rng(1)
    gaps = []
    for _ in range(4):
        y = rng.normal(size=target.dimension)
        at = place(target, y[None])
        v = dense_covariance(rows, at.g[0], at.sigma[0] ** 2) + spread @ spread.T
        value = multivariate_normal(rows.x @ back @ numbers[:, 0], v).logpdf(rows.y)
        sd, r = np.sqrt(at.g[0, 0, 0]), at.g[0, 0, 1] / at.g[0, 0, 0]
        value += -0.5 * sd - 0.7 * at.sigma[0]
        value += 0.5 * np.log1p(-(r**2)) if covariance == "exchangeable" else 0.0
        step = 1e-6 * np.eye(len(y))
        turn = np.array([(read(y + e) - read(y - e)) / 2e-6 for e in step])
        gaps.append(log_target(target, y[None])[0] - value - np.linalg.slogdet(turn)[1])
    np.testing.assert_allclose(gaps, gaps[0], atol=1e-6)


@pytest.mark.parametrize("sd", [0.8, 0.0])
def test_some_of_the_groups_tell_where_to_look(monkeypatch, sd):
    """The modes, and so the proposal, are those that a search of all groups finds by itself."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(400), 8)
    x = rng.normal(size=len(g))
    u = rng.normal(size=(400, 2)) * [sd, 0.4]
    y = 1.0 + x + u[g, 0] + u[g, 1] * x + rng.normal(size=len(g))
    table = pd.DataFrame({"g": g, "x": x, "y": y})
    moments = Model("y ~ x + (x | g)", table).moments
    structure = arrange(moments)
    white, priors = whiten(moments, structure), resolve_priors(None, moments, structure=structure)
    plain = build_target(white, priors, structure)
    monkeypatch.setattr(target_module, "GLANCE", 40)
    quick = build_target(white, priors, structure)
    assert plain.some is None
    assert quick.some is not None
    assert quick.some.panels.values.size < 0.3 * quick.panels.values.size
    (_, one, _), (_, two, drawn) = (
        propose_target(each, seed=1, draws=512) for each in (plain, quick)
    )
    assert two.value[0] == pytest.approx(one.value[0], abs=1e-4)
    np.testing.assert_allclose(two.y[0], one.y[0], atol=0.02)
    assert drawn.khat < 0.7
