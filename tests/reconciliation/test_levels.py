"""Several grouping factors reconciled: identities, certified draws, sabotage."""

import time
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import block_diag
from sound_draws import change_sds, resample, shift, spread

from bhlm.bayes.draws import Settings
from bhlm.bayes.importance import integrate_importance
from bhlm.bayes.importance.target import build_target, log_target, place
from bhlm.bayes.level_density import build_levels, log_levels
from bhlm.bayes.level_draws import build_levels_fit
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.families import HalfNormal
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.errors import ArgumentError
from bhlm.fits.model import Model
from bhlm.fits.reconciliation import reconcile
from bhlm.likelihood.cells import whiten_cells
from bhlm.likelihood.covariance import lower_roots
from bhlm.likelihood.parameters import Parameters
from bhlm.reconciliation.comparison import compare
from bhlm.reconciliation.flat_mode import find_flat_mode

pytestmark = pytest.mark.wide

FORMULAS = {
    "nested": "y ~ t + (1 | school) + (t | school:pupil)",
    "crossed": "y ~ t + (1 | pupil) + (1 | rater)",
}
KINDS_OF_MODEL = ["nested", pytest.param("crossed", marks=pytest.mark.slow)]


@cache
def make_model(kind: str, seed: int = 1) -> Model:
    """Return a model of simulated pupils in schools, crossed with raters."""
    rng = np.random.default_rng(seed)
    n = 500
    school, rater = rng.integers(0, 12, n), rng.integers(0, 10, n)
    pupil = school * 6 + rng.integers(0, 6, n)
    t = rng.normal(size=n)
    y = t * (1.0 + 0.4 * rng.normal(size=72)[pupil]) + 0.7 * rng.normal(size=12)[school]
    y += 0.8 * rng.normal(size=72)[pupil] + 0.6 * rng.normal(size=10)[rater] + rng.normal(size=n)
    table = pd.DataFrame({"y": y, "t": t, "school": school, "pupil": pupil, "rater": rater})
    return Model(FORMULAS[kind], table)


@cache
def integrate(kind: str, seed: int = 1, *, priors: Priors | None = None, draws: int = 6000):
    """Return weighted draws of the posterior, many more than are used."""
    cells = make_model(kind, seed).cells
    structure = arrange_prior(cells)
    resolved = resolve_priors(priors, cells, structure=structure)
    return integrate_importance(cells, structure, resolved, seed=7, draws=draws)


def make_fit(kind: str, sample, *, seed: int = 1):
    """Return draws as a fit of the model under the default priors."""
    cells = make_model(kind).cells
    structure = arrange_prior(cells)
    shape = sample.sigma.shape
    never = np.zeros(shape, dtype=bool)
    stats = {
        "energy": np.random.default_rng(seed).standard_normal(shape),
        "diverging": never,
        "reached_max_treedepth": never,
    }
    flat = Parameters(
        sample.beta.reshape(-1, sample.beta.shape[-1]),
        lower_roots(sample.g.reshape(-1, structure.q, structure.q)),
        sample.sigma.ravel(),
    )
    return build_levels_fit(
        cells, structure, resolve_priors(None, cells, structure=structure),
        whiten_cells(cells, structure.parts), flat, stats,
        settings=Settings(draws=shape[1]), seed=seed, start=time.perf_counter(), sampler="weights",
        held=0,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_the_flat_mode_is_reml(kind):
    model = make_model(kind)
    reml = model.reml()
    structure = arrange_prior(model.cells)
    white = whiten_cells(model.cells, structure.parts)
    flat = resolve_priors(Priors.flat(), model.cells, structure=structure)
    density = build_levels(white, flat, structure)
    root = block_diag(*(b @ lam for b, lam in zip(reml.white.bases, reml.lams, strict=True)))
    mode = find_flat_mode(density, white, structure=structure, start=root)
    assert mode.loglik == pytest.approx(reml.loglik, abs=1e-7)
    assert mode.own_loglik == pytest.approx(reml.loglik, abs=1e-7)
    assert mode.flatness < 1e-7
    np.testing.assert_allclose(mode.g, block_diag(*reml.gs), atol=1e-5)
    np.testing.assert_allclose(mode.beta, reml.beta, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS_OF_MODEL)
def test_the_target_is_the_samplers_density_integrated(kind):
    """Over the fixed effects, normal given the rest: their mean's density times (2 pi)^(p/2) |P|.

    Both as densities of SDs, correlations and sigma, each with its own coordinates and Jacobian.
    """
    model = make_model(kind)
    structure = arrange_prior(model.cells)
    white = whiten_cells(model.cells, structure.parts)
    priors = resolve_priors(None, model.cells, structure=structure)
    density, target = build_levels(white, priors, structure), build_target(white, priors, structure)
    rng = np.random.default_rng(2)
    p, s = white.p, len(structure.sds)
    gaps = []
    for _ in range(4):
        y = 0.4 * rng.normal(size=(1, target.dimension))
        at = place(target, y)
        x = np.zeros(density.dimension)
        x[p : p + s] = at.sd[0] / density.base.unit
        x[-1] = np.log(at.sigma[0])
        if kind == "nested":
            turned = priors.frame.random @ at.g[0] @ priors.frame.random.T
            r = turned[1, 2] / np.sqrt(turned[1, 1] * turned[2, 2])
            x[p + s] = np.arctanh(r)
        # The log density is quadratic in beta~: one Newton step from zero is its mean.
        slope = log_levels(x, density)[1][:p]
        rows = [log_levels(x + np.eye(len(x))[i], density)[1][:p] - slope for i in range(p)]
        precision = -np.array(rows)
        top = x.copy()
        top[:p] = np.linalg.solve(precision, slope)
        value = log_levels(top, density)[0] - 0.5 * np.linalg.slogdet(precision)[1]
        # By x, log of d(sd, r, sigma) / dx; the sampler's sd has half of its density on each side.
        jacobian = np.log(density.base.unit).sum() + x[-1]
        if kind == "nested":
            jacobian += np.log1p(-(r**2))
        gaps.append(log_target(target, y)[0] - at.jacobian[0] - (value - jacobian))
    # What is left are the halves of the SDs' densities, (2 pi)^(p / 2) and |s A|, all constant.
    assert np.ptp(gaps) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMULAS)
def test_sound_draws_are_certified(kind):
    sample = resample(integrate(kind), seed=1)
    both = compare(make_model(kind).reml(), make_fit(kind, sample))
    assert both.verdict in ("agree", "explained")
    assert both.evidence.judgement.sound
    assert both.evidence.identity.finding == "same"
    groups = ("school", "school:pupil") if kind == "nested" else ("pupil", "rater")
    assert {f"prior_sd|{group}" for group in groups} <= set(both.table.columns)
    shares = both.table[["shape", "prior", "monte_carlo", "unexplained"]].sum(axis=1)
    np.testing.assert_allclose(shares, both.table["gap"], atol=1e-9)
    parts = [name for name in both.table.columns if name.startswith("prior_") and "_se" not in name]
    np.testing.assert_allclose(both.table[parts].sum(axis=1), both.table["prior"], atol=1e-9)


# Of every kind one runs with the slow tests, the others by hand.
KINDS = [
    pytest.param(
        how, which, kind,
        marks=pytest.mark.slow
        if (how, which) in (("up", "beta"), ("halved", "sd"), ("doubled", "sigma"))
        else pytest.mark.exhaustive,
    )
    for kind in FORMULAS
    for how in ("halved", "doubled", "up", "down")
    for which in ("beta", "sd", "sigma")
]  # fmt: skip


@pytest.mark.parametrize(("how", "which", "kind"), KINDS)
def test_draws_of_one_kind_made_wrong(kind, how, which):
    changes = {"halved": spread(0.5), "doubled": spread(2.0), "up": shift(0.25)}
    change = (changes | {"down": shift(-0.25)})[how]
    sample = resample(integrate(kind), seed=2)
    if which == "beta":
        sample = replace(sample, beta=change(sample.beta))
    elif which == "sd":
        sample = replace(sample, g=change_sds(sample.g, change))
    else:
        sample = replace(sample, sigma=np.exp(change(np.log(sample.sigma)[..., None])[..., 0]))
    both = compare(make_model(kind).reml(), make_fit(kind, sample))
    assert both.verdict == "unexplained"
    assert any("not those of the posterior" in reason for reason in both.reasons)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMULAS)
def test_draws_under_another_prior_or_for_other_data(kind):
    reml = make_model(kind).reml()
    tight = integrate(kind, priors=Priors(sd=HalfNormal(0.15)))
    swapped = integrate(kind, seed=2)
    for other in (tight, swapped):
        assert compare(reml, make_fit(kind, resample(other, seed=4))).verdict == "unexplained"


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMULAS)
def test_reml_that_stopped_short(kind):
    reml = make_model(kind).reml()
    post = make_fit(kind, resample(integrate(kind), seed=6))
    lams = tuple(1.03 * lam for lam in reml.lams)
    low = replace(reml, lams=lams, gs=tuple(1.03**2 * g for g in reml.gs))
    both = compare(low, post)
    assert both.verdict == "unexplained"
    assert both.evidence.identity.is_broken


@pytest.mark.slow
def test_reconcile_tells_and_refuses():
    model = make_model("nested")
    reml, post = model.reml(), model.sample(seed=1)
    both = reconcile(reml, post)
    assert both.verdict in ("agree", "explained")
    text = both.summary()
    assert "SDs|school:pupil" in text
    assert "Verdict: " in text
    table = both.group_effects()
    assert list(table.columns[:3]) == ["factor", "level", "coefficient"]
    assert np.median(table["widening"]) > 1.0
    content = both.to_dict()
    assert content["model"]["groups"] == {"school": 12, "school:pupil": 72}
    assert "prior_sd|school" in content["reconciliation"]["sd(Intercept|school)"]
    with pytest.raises(ArgumentError, match="several grouping factors"):
        both.curves()
    with pytest.raises(ArgumentError, match="only the REML estimate"):
        reconcile(model.reml(method="ml"), post)
    with pytest.raises(ArgumentError, match="differ in model or data"):
        reconcile(make_model("nested", 2).reml(), post)
