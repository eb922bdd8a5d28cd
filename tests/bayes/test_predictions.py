"""Posterior predictions against the draws, the predictive law and REML."""

import numpy as np
import pytest
from scipy import stats
from simulate import simulate_rows, simulate_table

from bhlm.bayes.draws import STREAM, Settings, flatten_draws
from bhlm.bayes.predictions import find_quantiles, predict_posterior
from bhlm.bayes.sampling import sample_moments
from bhlm.errors import ArgumentError, DataError
from bhlm.fits.bayes_fit import BayesFit
from bhlm.fits.model import Model

COLUMNS = ["estimate", "se", "lower", "upper", "lower_new", "upper_new"]
EXACT = 1e-10  # two orders of summation
SHARE = 2e-6  # that the probability beyond an end may be wrong by


@pytest.fixture(scope="module")
def rows():
    return simulate_rows(5, "x", n_groups=15, largest=12)


@pytest.fixture(scope="module")
def post(rows):
    return rows.model.sample(seed=4, draws=400)


@pytest.fixture(scope="module")
def parts(rows, post):
    """Return the draws (n, N) of X beta, of Z u and of z'Gz, and sigma (N,)."""
    beta, root, sigma = flatten_draws(post)
    u = post.effect_draws().values.reshape(len(sigma), -1, 2)
    at = np.searchsorted(post.moments.groups, rows.labels)
    effects = np.array([u[:, j] @ z for j, z in zip(at, rows.z, strict=True)])
    spread = np.array([np.sum((z @ root) ** 2, axis=1) for z in rows.z])
    return rows.x @ beta.T, effects, spread, sigma


def assert_tails(table, mean, sd, columns):
    """Compare an interval with the distribution function of a mixture of normals."""
    for name, tail in zip(columns, (0.025, 0.975), strict=True):
        p = stats.norm.cdf((table[name].to_numpy()[:, None] - mean) / sd).mean(axis=1)
        np.testing.assert_allclose(p, tail, atol=SHARE)


def test_conditional_predictions_are_those_of_the_draws(rows, post, parts):
    fixed, effects, _, sigma = parts
    table = predict_posterior(post, rows.labels, rows.x, rows.z)
    assert list(table.columns) == COLUMNS
    mean = fixed + effects
    np.testing.assert_allclose(table["estimate"], mean.mean(axis=1), rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(table["se"], mean.std(axis=1, ddof=1), rtol=EXACT)
    ends = np.quantile(mean, [0.025, 0.975], axis=1)
    np.testing.assert_allclose(table[["lower", "upper"]].T, ends, rtol=EXACT, atol=EXACT)
    assert_tails(table, mean, sigma, ["lower_new", "upper_new"])


def test_population_predictions(rows, post, parts):
    fixed, _, spread, sigma = parts
    table = predict_posterior(post, rows.labels, rows.x, rows.z, kind="population", level=0.95)
    np.testing.assert_allclose(table["estimate"], fixed.mean(axis=1), rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(table["se"], fixed.std(axis=1, ddof=1), rtol=EXACT)
    ends = np.quantile(fixed, [0.025, 0.975], axis=1)
    np.testing.assert_allclose(table[["lower", "upper"]].T, ends, rtol=EXACT, atol=EXACT)
    assert_tails(table, fixed, np.sqrt(spread + sigma**2), ["lower_new", "upper_new"])


def test_new_groups_have_an_unknown_effect(rows, post, parts):
    fixed, _, spread, sigma = parts
    labels = np.full(len(rows.labels), 999)
    table = predict_posterior(post, labels, rows.x, rows.z, new_groups="population")
    np.testing.assert_allclose(table["estimate"], fixed.mean(axis=1), rtol=EXACT, atol=EXACT)
    variance = fixed.var(axis=1, ddof=1) + spread.mean(axis=1)
    np.testing.assert_allclose(table["se"] ** 2, variance, rtol=EXACT)
    assert_tails(table, fixed, np.sqrt(spread), ["lower", "upper"])
    assert_tails(table, fixed, np.sqrt(spread + sigma**2), ["lower_new", "upper_new"])


def test_a_prediction_does_not_depend_on_the_other_rows(rows, post):
    labels = rows.labels.astype(object)
    labels[::5] = "new"
    everyone = predict_posterior(post, labels, rows.x, rows.z, new_groups="population")
    some = np.random.default_rng(1).permutation(len(labels))[:20]
    part = predict_posterior(
        post, labels[some], rows.x[some], rows.z[some], new_groups="population"
    )
    np.testing.assert_allclose(part, everyone.iloc[some], rtol=EXACT)
    none = predict_posterior(post, labels[:0], rows.x[:0], rows.z[:0])
    assert (list(none.columns), len(none)) == (COLUMNS, 0)


def test_pieces_and_streams_change_nothing(rows, post):
    labels = np.where(np.arange(len(rows.labels)) % 7 == 0, 999, rows.labels)
    whole = predict_posterior(post, labels, rows.x, rows.z, new_groups="population")
    pieces = predict_posterior(post, labels, rows.x, rows.z, new_groups="population", held=3 * 1600)
    np.testing.assert_allclose(pieces, whole, rtol=EXACT)


def test_effects_that_are_not_held_are_drawn():
    rows = simulate_rows(5, "x", n_groups=STREAM + 20, largest=3)
    labels = np.where(np.arange(len(rows.labels)) % 7 == 0, 999, rows.labels)
    settings = Settings(draws=50, tune=200)
    streamed = BayesFit.of(sample_moments(rows.model.moments, seed=4, settings=settings, held=0))
    assert "u" not in streamed.data["posterior"]
    found = predict_posterior(
        streamed, labels, rows.x, rows.z, new_groups="population", held=3 * 200
    )
    u = streamed.effect_draws().values.reshape(200, -1, 2)
    known = labels != 999
    at = np.searchsorted(streamed.moments.groups, labels[known])
    beta = flatten_draws(streamed)[0]
    mean = rows.x[known] @ beta.T + np.einsum("mi,nmi->mn", rows.z[known], u[:, at])
    np.testing.assert_allclose(found["estimate"][known], mean.mean(axis=1), rtol=EXACT)
    np.testing.assert_allclose(found["upper"][known], np.quantile(mean, 0.975, axis=1), rtol=EXACT)


def test_wider_levels_reach_further(rows, post):
    wide = predict_posterior(post, rows.labels, rows.x, rows.z, level=0.99)
    narrow = predict_posterior(post, rows.labels, rows.x, rows.z, level=0.5)
    assert (wide["lower"] < narrow["lower"]).all()
    assert (wide["upper_new"] > narrow["upper_new"]).all()


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0, "heavy"])
def test_quantiles_of_mixtures(spread):
    rng = np.random.default_rng(1)
    mean = rng.normal(size=(20, 500)) * np.exp(3 * rng.normal(size=(20, 1)))
    if spread == "heavy":
        sd = np.exp(rng.standard_t(2, size=mean.shape))
    else:
        sd = np.exp(spread * rng.normal(size=mean.shape))
    tails = np.array([0.001, 0.025, 0.3, 0.5, 0.975])
    found = find_quantiles(mean, sd, tails)
    p = stats.norm.cdf((found[:, :, None] - mean[:, None]) / sd[:, None]).mean(axis=2)
    np.testing.assert_allclose(p, np.broadcast_to(tails, p.shape), atol=SHARE)


def test_quantiles_of_points():
    mean = np.arange(10.0)[None]
    found = find_quantiles(mean, np.zeros_like(mean), np.array([0.05, 0.55, 0.95]))
    np.testing.assert_allclose(found, [[0.0, 5.0, 9.0]], atol=1e-9)
    same = find_quantiles(np.full((1, 10), 3.0), np.zeros((1, 10)), np.array([0.5]))
    np.testing.assert_allclose(same, 3.0)


def test_requests_are_those_of_reml(rows, post):
    labels = np.full(3, 999)
    with pytest.raises(DataError, match=r"999.* is not a g of the fit; ask for kind='population'"):
        predict_posterior(post, labels, rows.x[:3], rows.z[:3])
    for argument in ({"kind": "bayes"}, {"new_groups": "skip"}, {"level": 95}):
        with pytest.raises(ArgumentError, match=next(iter(argument))):
            predict_posterior(post, labels, rows.x[:3], rows.z[:3], **argument)


@pytest.mark.slow
def test_model_predicts_by_either_fit(hsb):
    """With 160 schools the two differ by little but Monte Carlo error and what REML holds known."""
    model = Model("mathach ~ cwc(ses) + gm(ses) + (cwc(ses) | school)", hsb)
    reml, post = model.reml(), model.sample(seed=1, draws=500)
    new = hsb.groupby("school").head(3).drop(columns="mathach")
    stranger = new.head(6).assign(school=1)
    for kind, data, groups in (
        ("conditional", new, "error"),
        ("population", new, "error"),
        ("conditional", stranger, "population"),
    ):
        asked = {"kind": kind, "new_groups": groups}
        if data is stranger:
            asked["at"] = {"gm(ses)": 0.0}
        a, b = (model.predict(fit, data, **asked) for fit in (reml, post))
        assert list(a.columns) == list(b.columns)
        assert len(a) == len(data)
        gap = (b["estimate"] - a["estimate"]) / a["se"]
        assert gap.abs().mean() < 0.1
        assert (b["se"] / a["se"]).mean() == pytest.approx(1.0, abs=0.05)
        for side in ("lower_new", "upper_new"):
            assert (b[side] - a[side]).abs().max() < 0.05 * (a["upper_new"] - a["lower_new"]).min()
    assert len(model.predict(post)) == len(hsb)
    with pytest.raises(DataError, match="1 is not a school of the fit"):
        model.predict(post, stranger, at={"gm(ses)": 0.0})


def test_a_fit_of_another_model_is_refused():
    table = simulate_table(5, n_groups=15)
    model, other = Model("y ~ x + (x | g)", table), Model("y ~ t + (t | g)", table)
    expected = r"the fit is of 'y ~ t \+ \(t \| g\)' and this model is 'y ~ x"
    for fit in (other.reml(), other.sample(seed=1, draws=10, tune=20)):
        with pytest.raises(ArgumentError, match=expected):
            model.predict(fit)
