"""Weights, known variances and strata: the identity, the split of gaps, and sabotage found out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import bhlm
from bhlm import HalfNormal, Model, Priors, SamplingWeights
from bhlm.bayes.adjust import adjust_draws
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import resolve_priors
from bhlm.bayes.weighted_density import build_weighted
from bhlm.fits.weighted_bayes_fit import WeightedBayesFit
from bhlm.likelihood.weighted_positions import spread_positions, sum_weighted
from bhlm.likelihood.whitening import Whitened, whiten, whiten_strata
from bhlm.reconciliation.adjustment import check_adjustment
from bhlm.reconciliation.identity import compare_heights
from bhlm.reconciliation.weighted_mode import find_weighted_mode

KINDS = ("strata", "known", "sampling")

pytestmark = pytest.mark.wide  # kernels of weights


def make_table(*, groups: int = 30, size: int = 8, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    n = len(g)
    x = rng.normal(size=n)
    u, v = rng.normal(size=(2, groups)) * [[1.0], [0.4]]
    s = np.array(["a", "b"])[rng.integers(2, size=n)]
    known = rng.uniform(0.5, 2.0, n)
    noise = rng.normal(size=n)
    mean = 2.0 + u[g] + (0.5 + v[g]) * x
    table = {"g": g, "x": x, "s": s, "v": known, "w": rng.uniform(0.5, 2.0, n)}
    table["W"] = rng.uniform(1.0, 4.0, groups)[g]
    table["strata"] = mean + noise * np.where(s == "a", 1.0, 2.0)
    table["known"] = mean + noise * np.sqrt(known)
    table["sampling"] = mean + noise
    return pd.DataFrame(table)


def state(kind: str, **size: int) -> Model:
    given = {
        "strata": {"residual": "s"},
        "known": {"known_variance": "v"},
        "sampling": {"weights": SamplingWeights(rows="w", groups="W", scaling="size")},
    }[kind]
    return Model(f"{kind} ~ x + (x | g)", make_table(**size), **given)


def fit(model: Model):
    weights = model.formula.weights
    return model.reml(method="ml" if weights is not None and weights.is_sampling else "reml")


def prepare(model: Model) -> tuple:
    moments = model.moments if model.strata is None else model.strata.whole
    structure = arrange_prior(moments, None)
    strata = model.strata
    white = whiten(moments, structure) if strata is None else whiten_strata(strata, structure)
    return moments, structure, white


def find_mode(model: Model, reml):
    moments, structure, white = prepare(model)
    flat = resolve_priors(Priors.flat(), moments, structure=structure)
    at = reml if model.strata is None else reml.at
    variances = [reml.sigma2] if model.strata is None else [*reml.residual_variances.values()]
    return find_weighted_mode(
        build_weighted(white, flat, structure), white, structure,
        start=(at.beta, at.root, np.sqrt(variances)), restricted=reml.method == "reml",
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_mode_under_flat_priors_is_the_estimate(kind: str) -> None:
    model = state(kind)
    reml = fit(model)
    at = reml if model.strata is None else reml.at
    mode = find_mode(model, reml)
    slack = 1e-9 * abs(reml.loglik)
    assert mode.start_loglik == pytest.approx(reml.loglik, abs=slack)
    assert mode.loglik == pytest.approx(reml.loglik, abs=slack)
    assert mode.own_loglik == pytest.approx(reml.loglik, abs=slack)
    assert mode.beta == pytest.approx(at.beta, rel=1e-4)
    assert mode.g == pytest.approx(at.g, abs=1e-4)
    assert mode.flatness < 1e-8
    assert compare_heights(mode, reml).finding == "same"


@pytest.mark.parametrize("kind", ["known", "sampling"])
def test_an_estimate_that_is_no_optimum_is_told(kind: str) -> None:
    model = state(kind)
    reml = fit(model)
    moved = replace(reml, g=1.5 * reml.g, root=np.sqrt(1.5) * reml.root)
    assert compare_heights(find_mode(model, moved), moved).finding == "likelihoods"
    lower = replace(moved, loglik=find_mode(model, moved).start_loglik)
    assert compare_heights(find_mode(model, lower), lower).finding == "reml_short"


def sum_dense(white: Whitened, lam: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
    """The sums that `sum_weighted` takes, by H of all rows of a root of each group's products."""
    blocks = white.blocks[None] if white.parts is None else white.parts
    groups = np.ones(blocks.shape[1]) if white.groups is None else white.groups
    logdet, e = 0.0, np.zeros((white.p + 1, white.p + 1))
    for j, weight in enumerate(groups):
        values, vectors = np.linalg.eigh(np.tensordot(counts, blocks[:, j], axes=1))
        rows = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
        z, rest = rows[:, : white.q], rows[:, white.q :]
        h = np.eye(len(z)) + z @ lam @ lam.T @ z.T
        logdet += weight * np.linalg.slogdet(h)[1]
        e += weight * rest.T @ np.linalg.solve(h, rest)
    return logdet, e


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_dense_algebra(kind: str) -> None:
    white = prepare(state(kind, groups=6))[2]
    data = spread_positions(white)
    rng = np.random.default_rng(1)
    lam = np.tril(rng.normal(size=(3, white.q, white.q)))
    counts = rng.uniform(0.2, 2.0, size=(3, len(data.blocks)))
    logdet, e = sum_weighted(data, lam, counts)
    for i in range(3):
        expected = sum_dense(white, lam[i], counts[i])
        assert logdet[i] == pytest.approx(expected[0], rel=1e-10)
        assert e[i] == pytest.approx(expected[1], rel=1e-8, abs=1e-9)


def sample_briefly(model: Model, **more):
    return model.sample(seed=1, draws=100, tune=200, chains=2, target_accept=0.9, **more)


def test_draws_that_are_not_adjusted_are_not_certified() -> None:
    found = check_adjustment(sample_briefly(state("sampling"), adjust=False))
    assert not found.made
    assert not found.holds
    assert "not adjusted to the sandwich (adjust=False)" in found.sentence


def test_the_adjustment_is_computed_again() -> None:
    model = state("sampling")
    post = sample_briefly(model)
    assert check_adjustment(post).holds
    # Draws that were adjusted by the scores of other weights.
    table = make_table()
    table["W"] = table["W"] ** 3
    other = Model(model.formula.text, table, weights=model.formula.weights)
    moments, structure, white = prepare(other)
    wrong = adjust_draws(moments, white, structure, post.sampled.flat).parameters
    data = post.data.copy(deep=True)
    shape = post.shape
    data["posterior"]["beta"].values[:] = wrong.beta.reshape(*shape, -1)
    data["posterior"]["G"].values[:] = wrong.g.reshape(*shape, 2, 2)
    data["posterior"]["sigma"].values[:] = wrong.sigma.reshape(shape)
    data["unconstrained_posterior"]["chol"].values[:] = wrong.root.reshape(*shape, 2, 2)
    found = check_adjustment(WeightedBayesFit.of(post.with_data(data)))
    assert found.made
    assert "do not have the sandwich's covariance" in found.sentence
    # Draws of one parameter alone, moved.
    data = post.data.copy(deep=True)
    data["posterior"]["beta"].values[0, 0] += 0.1
    found = check_adjustment(WeightedBayesFit.of(post.with_data(data)))
    assert "no linear map" in found.sentence


@pytest.fixture(scope="module", params=KINDS)
def both(request):
    model = state(request.param)
    return model, fit(model), model.sample(seed=2)


@pytest.mark.slow
def test_gaps_are_explained(both) -> None:
    model, reml, post = both
    found = bhlm.reconcile(reml, post)
    assert found.verdict in ("agree", "explained")
    assert found.evidence.route == "importance"
    table = found.table
    shares = ["shape", "prior", "monte_carlo", "unexplained"]
    pseudo = model.formula.weights is not None and model.formula.weights.is_sampling
    assert ("adjustment" in table) == pseudo
    whole = table[[*shares, *(["adjustment"] if pseudo else [])]].sum(axis=1, skipna=False)
    assert whole.to_numpy() == pytest.approx(table["gap"].to_numpy(), abs=1e-9)
    parts = [name for name in table if name.startswith("prior_") and not name.endswith("_se")]
    assert table[parts].sum(axis=1).to_numpy() == pytest.approx(table["prior"].to_numpy(), abs=1e-9)
    assert table.loc["x", "unexplained"] == pytest.approx(0.0, abs=1e-3 * table.loc["x", "sd"])
    text = found.summary()
    assert ("pseudo-ML" in text) == pseudo
    told = found.to_dict()
    assert set(told["reconciliation"]) == set(table.index)
    assert found.group_effects()["gap"].abs().max() < 1.0
    if model.strata is not None:
        assert {"var(Residual|s=a)", "sd(Residual|s=b)"} <= set(table.index)


def change(post: WeightedBayesFit, *, shift: float = 0.0, spread: float = 1.0) -> WeightedBayesFit:
    """The posterior with the draws of x moved, in posterior SDs, and spread about their mean."""
    data = post.data.copy(deep=True)
    for name in ("posterior", "unadjusted_posterior"):
        if name in data:
            beta = data[name]["beta"].values
            mean, sd = beta[..., 1].mean(), beta[..., 1].std()
            beta[..., 1] = mean + shift * sd + spread * (beta[..., 1] - mean)
    return WeightedBayesFit.of(post.with_data(data))


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage", [{"shift": 0.3}, {"spread": 0.5}, {"spread": 2.0}], ids=["bias", "half", "double"]
)
def test_sabotaged_draws_are_found_out(both, sabotage: dict[str, float]) -> None:
    _, reml, post = both
    found = bhlm.reconcile(reml, change(post, **sabotage), checks=False)
    assert found.verdict == "unexplained"
    assert found.evidence.judgement.refuted[0][0] == "x"


@pytest.mark.slow
def test_another_prior_is_found_out(both) -> None:
    model, reml, post = both
    moments = model.moments if model.strata is None else model.strata.whole
    other = resolve_priors(Priors(sd=HalfNormal(0.2)), moments, structure=post.structure)
    found = bhlm.reconcile(reml, WeightedBayesFit.of(replace(post, priors=other)), checks=False)
    assert found.verdict == "unexplained"
    assert any("|g)" in name for name, _ in found.evidence.judgement.refuted)


@pytest.mark.slow
def test_unadjusted_draws_leave_the_verdict_undetermined() -> None:
    model = state("sampling")
    found = bhlm.reconcile(fit(model), model.sample(seed=2, adjust=False))
    assert found.verdict == "undetermined"
    assert not found.evidence.certified
    assert any("not adjusted to the sandwich" in reason for reason in found.reasons)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["precision", "frequency"])
def test_rows_with_weights_of_the_model_are_reconciled_as_others(kind: str) -> None:
    """Rows of weight 2 and rows twice have one posterior, and one estimate."""
    table = make_table(groups=12, size=4)
    table["f"] = np.random.default_rng(2).integers(1, 3, len(table))
    made = bhlm.FrequencyWeights("f") if kind == "frequency" else bhlm.PrecisionWeights("f")
    model = Model("sampling ~ x + (1 | g)", table, weights=made)
    reml = model.reml()
    evidence = bhlm.reconcile(reml, sample_briefly(model), checks=False).evidence
    assert evidence.identity.finding == "same"
    if kind == "frequency":
        twice = Model("sampling ~ x + (1 | g)", table.loc[table.index.repeat(table["f"])])
        other = bhlm.reconcile(twice.reml(), sample_briefly(twice), checks=False).evidence
        for name, found in other.exact.located.items():
            assert evidence.exact.located[name].mean == pytest.approx(found.mean, rel=1e-6)
