"""Posteriors of several grouping factors: density, draws, effects, priors, PyMC, refusals."""

import warnings
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.linalg import block_diag

from bhlm.bayes.level_density import build_levels, constrain_levels, log_levels
from bhlm.bayes.level_tails import judge_existence
from bhlm.bayes.priors.correlations import LKJ, arrange_prior
from bhlm.bayes.priors.families import HalfNormal, HalfStudentT, Normal
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.errors import ArgumentError, PriorError
from bhlm.fits.level_bayes_fit import LevelBayesFit
from bhlm.fits.model import Model
from bhlm.likelihood.cells import whiten_cells
from bhlm.likelihood.factor_names import name_factors
from bhlm.likelihood.level_draws import draw_level_effects, top_logliks
from bhlm.likelihood.levels import score_parameters
from bhlm.moments.cells import read_cell_rows

EXACT = 1e-9
MODE = "FAST_COMPILE"  # few values are asked for, so that machine code costs more than it saves
FORMULAS = {
    "nested": "y ~ t + (t | school) + (1 | school:pupil)",
    "crossed": "y ~ t + (1 | pupil) + (t | rater)",
}


def make_table(n: int = 120) -> pd.DataFrame:
    """Return rows of pupils in schools that are crossed with raters."""
    rng = np.random.default_rng(4)
    school, rater = rng.integers(0, 6, n), rng.integers(0, 5, n)
    pupil = school * 4 + rng.integers(0, 4, n)
    t = rng.normal(size=n) + 3.0
    y = t + rng.normal(size=6)[school] + rng.normal(size=24)[pupil] + rng.normal(size=5)[rater]
    y += rng.normal(size=n)
    return pd.DataFrame({"y": y, "t": t, "school": school, "pupil": pupil, "rater": rater})


class Case(NamedTuple):
    """A model, its posterior density and what it rests on."""

    model: Model
    structure: object
    white: object
    priors: object
    density: object


@pytest.fixture(scope="module", params=FORMULAS)
def case(request):
    """A nested and a crossed model."""
    return build_case(FORMULAS[request.param])


def build_case(formula: str) -> Case:
    """Return a model of the table with its posterior density under the default priors."""
    model = Model(formula, make_table())
    cells = model.cells
    structure = arrange_prior(cells)
    white = whiten_cells(cells, structure.parts)
    priors = resolve_priors(None, cells, structure=structure)
    return Case(model, structure, white, priors, build_levels(white, priors, structure))


def draw_position(case: Case, seed: int = 1) -> np.ndarray:
    """Return a position of the density."""
    return 0.4 * np.random.default_rng(seed).normal(size=case.density.dimension)


def _wide(z: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the dense columns (n, J q) of one factor."""
    n, q = z.shape
    out = np.zeros((n, int(codes.max()) + 1, q))
    out[np.arange(n), codes] = z
    return out.reshape(n, -1)


def _dense(case: Case, at):
    """Return rows, V and the residual of parameters at one position."""
    rows = read_cell_rows(case.model.formula, case.model._table)
    v = at.sigma[0] ** 2 * np.eye(len(rows.y))
    for z, codes, span in zip(rows.z, rows.codes, case.structure.spans, strict=True):
        wide, g = _wide(z, codes), at.g[0][span, span]
        v += wide @ np.kron(np.eye(wide.shape[1] // len(g)), g) @ wide.T
    return rows, v, rows.y - rows.x @ at.beta[0]


def _constrain(case: Case, x: np.ndarray):
    return constrain_levels(case.density, case.white, case.priors.frame, x[None])


@pytest.mark.slow
def test_density_is_dense_likelihood_times_priors(case):
    x = draw_position(case)
    at = _constrain(case, x)
    _, v, r = _dense(case, at)
    loglik = stats.multivariate_normal(cov=v).logpdf(r)
    frame = case.priors.frame
    beta = frame.fixed @ at.beta[0]
    sd = np.sqrt(np.diag(frame.random @ at.g[0] @ frame.random.T))
    base = case.density.base
    p = len(beta)
    prior = sum(
        stats.norm(*each.numbers).logpdf(b) for each, b in zip(case.priors.fixed, beta, strict=True)
    )
    for each, value, unit in zip(case.priors.sd, sd, base.unit, strict=True):
        # Half of the density on either side of zero, by the signed coordinate.
        prior += stats.t(3.0, scale=each.sigma).logpdf(value) + np.log(unit)
    prior += np.log(2.0) + stats.t(3.0, scale=case.priors.sigma.sigma).logpdf(at.sigma[0]) + x[-1]
    # LKJ(2) of one correlation is 3/4 (1 - r^2), and r = tanh(x).
    r_squared = np.tanh(x[p + len(sd) : -1]) ** 2
    prior += np.sum(np.log(0.75) + 2.0 * np.log1p(-r_squared))
    assert log_levels(x, case.density)[0] == pytest.approx(loglik + prior, rel=EXACT)


@pytest.mark.slow
def test_likelihood_is_that_of_score_parameters(case):
    x = draw_position(case, 3)
    at = _constrain(case, x)
    white, sigma = case.white, float(at.sigma[0])
    lams = [
        np.linalg.solve(basis, at.root[0][span, span]) / sigma
        for basis, span in zip(white.bases, case.structure.spans, strict=True)
    ]
    own = score_parameters(white.levels, x[: white.p], lams, sigma / white.scale, n=white.n)
    quiet = case.density._replace(base=case.density.base._replace(use_likelihood=False))
    loglik = log_levels(x, case.density)[0] - log_levels(x, quiet)[0]
    assert loglik == pytest.approx(own.loglik - white.n * np.log(white.scale), rel=EXACT)


@pytest.mark.slow
def test_gradient_is_that_of_differences(case):
    x = draw_position(case, 2)
    step = 1e-5
    slopes = [
        (log_levels(x + each, case.density)[0] - log_levels(x - each, case.density)[0])
        / (2.0 * step)
        for each in step * np.eye(len(x))
    ]
    _, gradient = log_levels(x, case.density)
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_effects_are_drawn_from_their_joint_law(case):
    at = _constrain(case, draw_position(case, 5))
    rows, v, r = _dense(case, at)
    white, sigma = case.white, float(at.sigma[0])
    lams = [
        np.ascontiguousarray(np.linalg.solve(basis, at.root[0][span, span]) / sigma)
        for basis, span in zip(white.bases, case.structure.spans, strict=True)
    ]
    beta = np.linalg.solve(white.fixed, at.beta[0] - white.ols) / white.scale
    rng, size = np.random.default_rng(0), 2000
    drawn = []
    for _ in range(size):
        u = draw_level_effects(white.levels, lams, beta, sigma / white.scale, rng=rng)
        flat = [(white.scale * each @ b.T).ravel() for each, b in zip(u, white.bases, strict=True)]
        drawn.append(np.concatenate(flat))
    drawn = np.array(drawn)
    wide = np.hstack([_wide(z, codes) for z, codes in zip(rows.z, rows.codes, strict=True)])
    g = block_diag(
        *(
            np.kron(np.eye(count), at.g[0][span, span])
            for count, span in zip(white.levels.counts, case.structure.spans, strict=True)
        )
    )
    gain = g @ wide.T @ np.linalg.inv(v)
    mean, cov = gain @ r, g - gain @ wide @ g
    sd = np.sqrt(np.diag(cov))
    # Of some fifty means, and of all their correlations, the largest error of 2000 draws.
    assert np.max(np.abs(drawn.mean(axis=0) - mean) / sd) * np.sqrt(size) < 4.5
    found = np.cov((drawn / sd).T)
    assert np.max(np.abs(found - cov / np.outer(sd, sd))) * np.sqrt(size) < 7.5


def test_coarsest_units_add_up_to_the_whole():
    case = build_case(FORMULAS["nested"])
    at = _constrain(case, draw_position(case, 6))
    rows, v, r = _dense(case, at)
    white, sigma = case.white, float(at.sigma[0])
    lams = [
        np.ascontiguousarray(np.linalg.solve(basis, at.root[0][span, span]) / sigma)
        for basis, span in zip(white.bases, case.structure.spans, strict=True)
    ]
    beta = np.linalg.solve(white.fixed, at.beta[0] - white.ols) / white.scale
    school = rows.codes[0]
    n = np.bincount(school).astype(float)
    found = top_logliks(white.levels, n, lams, beta, sigma / white.scale)
    found -= n * np.log(white.scale)
    dense = [
        stats.multivariate_normal(cov=v[np.ix_(own, own)]).logpdf(r[own])
        for own in (np.flatnonzero(school == j) for j in range(len(n)))
    ]
    np.testing.assert_allclose(found, dense, rtol=EXACT)


def test_priors_by_factor():
    cells = Model(FORMULAS["nested"], make_table()).cells
    structure = arrange_prior(cells)
    given = Priors(
        sd={"school": {"t": HalfNormal(2.0)}, "school:pupil": HalfNormal(1.0)},
        corr={"school": LKJ(4.0)},
    )
    text = resolve_priors(given, cells, structure=structure).describe(cells, structure=structure)
    assert text["sd(t|school)"] == "HalfNormal(2)"
    assert text["sd(Intercept|school:pupil)"] == "HalfNormal(1)"
    assert text["sd(Intercept|school)"].startswith("HalfStudentT(3, ")
    assert text["corr(|school)"] == "LKJ(4) at the predictors' means"
    for kind, wrong in (("sd", HalfNormal(1.0)), ("corr", LKJ(1.0))):
        with pytest.raises(PriorError, match=r"'class', which is no grouping factor"):
            resolve_priors(Priors(**{kind: {"class": wrong}}), cells, structure=structure)
    with pytest.raises(PriorError, match=r"sd\(Intercept\|school:pupil\) is positive"):
        resolve_priors(Priors(sd={"school:pupil": Normal(0, 1)}), cells, structure=structure)


def test_default_priors_stand_at_the_means():
    table = make_table()
    texts = []
    for shift in (0.0, 2000.0):
        cells = Model(FORMULAS["nested"], table.assign(t=table["t"] + shift)).cells
        structure = arrange_prior(cells)
        priors = resolve_priors(None, cells, structure=structure)
        texts.append(priors.describe(cells, structure=structure))
    assert texts[0] == texts[1]


def test_existence_counts_levels_of_each_factor():
    case = build_case(FORMULAS["nested"])
    cells = case.model.cells
    flat = resolve_priors(Priors.flat(), cells, structure=case.structure)
    found = judge_existence(case.white, case.structure, flat)
    # Flat on its variance, and J - 1 schools or J pupils: index N - 2 for pupils alone.
    pupils = next(ray for ray in found.rays if ray.span.shape[1] == 1 and ray.reaches[2])
    assert pupils.freedom == 23
    schools = next(ray for ray in found.rays if ray.span.shape[1] == 1 and ray.reaches[0])
    assert schools.freedom == 5
    # Under priors that integrate nothing is improper, and the half-t leaves its own tail at least.
    proper = judge_existence(case.white, case.structure, case.priors)
    assert proper.proper
    assert proper.sd.min() > 3.0


@pytest.fixture(scope="module")
def fit():
    """A posterior of the nested model, with few draws."""
    return Model(FORMULAS["nested"], make_table()).sample(seed=3, draws=200, tune=200, chains=2)


@pytest.mark.slow
def test_data_has_a_set_of_variables_per_factor(fit):
    assert isinstance(fit, LevelBayesFit)
    posterior = fit.data["posterior"]
    expected = {"beta", "sigma"} | {
        f"{kind}|{name}"
        for kind in ("sd", "corr", "cov", "u")
        for name in ("school", "school:pupil")
    }
    assert set(posterior.data_vars) == expected
    assert posterior["u|school:pupil"].dims == (
        "chain", "draw", "school:pupil", "coefficient|school:pupil",
    )  # fmt: skip
    names = list(fit.estimates.index)
    assert "var(Intercept|school:pupil)" in names
    assert "corr(Intercept,t|school)" in names
    loglik = fit.data["log_likelihood"]["loglik"]
    assert loglik.dims == ("chain", "draw", "school")
    text = fit.summary()
    assert "24 levels of 'school:pupil'" in text
    assert "sd(t|school)" in text


@pytest.mark.slow
def test_tables_follow_the_draws(fit):
    g = fit.data["posterior"]["cov|school"].values
    np.testing.assert_allclose(fit.draws["var(t|school)"], g[..., 1, 1], rtol=1e-12)
    table = fit.group_effects("school:pupil")
    assert list(table.columns[:3]) == ["school", "pupil", "coefficient"]
    u = fit.effect_draws("school:pupil")
    np.testing.assert_allclose(table["mean"], u.mean(("chain", "draw")).values.ravel())
    both = fit.group_effects()
    assert len(both) == 6 * 2 + 24
    with pytest.raises(ArgumentError, match="choose one of school, school:pupil"):
        fit.group_effects("class")
    assert 0.0 <= fit.probability("sd(Intercept|school:pupil) > 0.5").value <= 1.0
    assert {"sd(t|school)", "corr(Intercept,t|school)"} <= set(fit.prior_table()["parameter"])


@pytest.mark.slow
def test_loo_leaves_out_the_coarsest_units(fit):
    loo = fit.loo()
    assert list(loo.table.index) == list(range(6))
    assert loo.table.index.name == "school"
    loglik = fit.data["log_likelihood"]["loglik"].values.reshape(-1, 6)
    full = np.log(np.exp(loglik).mean(axis=0)).sum()
    assert loo.p == pytest.approx(full - loo.elpd)
    assert loo.elpd < full
    assert "6 groups" in loo.summary()
    crossed = Model(FORMULAS["crossed"], make_table()).sample(seed=1, draws=50, tune=50, chains=2)
    with pytest.raises(ArgumentError, match="pupil and rater cross"):
        crossed.loo()
    assert "log_likelihood" not in crossed.data.children


@pytest.mark.slow
def test_a_seed_gives_the_same_draws(fit):
    again = Model(FORMULAS["nested"], make_table()).sample(seed=3, draws=200, tune=200, chains=2)
    assert again.data["posterior"].dataset.equals(fit.data["posterior"].dataset)


@pytest.mark.slow
def test_prior_alone_is_the_prior():
    model = Model(FORMULAS["crossed"], make_table())
    fit = model.sample(seed=1, draws=500, tune=300, chains=2, prior_only=True)
    sd = fit.draws["sd(Intercept|pupil)"].ravel()
    prior = resolve_priors(None, model.cells).sd[0]
    assert isinstance(prior, HalfStudentT)
    assert np.median(sd) == pytest.approx(prior.quantile(np.array([0.5]))[0], rel=0.2)


@pytest.mark.slow
def test_what_is_not_there_yet_is_refused(fit):
    assert not hasattr(fit, "save_effects")
    with pytest.raises(ArgumentError, match="several grouping factors"):
        _ = fit.save_effects
    with pytest.raises(AttributeError, match="has no 'nonsense'"):
        _ = fit.nonsense


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMULAS)
def test_both_forms_of_pymc_state_the_density(kind):
    case = build_case(FORMULAS[kind])
    marginal, conditional = (case.model.pymc(form=form) for form in ("marginal", "conditional"))
    names = name_factors(case.model.cells)
    wanted = [marginal[name] for name in ("beta", *(f"cov|{name}" for name in names), "sigma")]
    read = marginal.compile_fn(
        marginal.replace_rvs_by_values(wanted), inputs=marginal.value_vars, mode=MODE,
        on_unused_input="ignore",
    )  # fmt: skip
    logp = marginal.compile_logp(jacobian=False, mode=MODE)
    prior = marginal.compile_logp(vars=marginal.free_RVs, jacobian=False, mode=MODE)
    joint = conditional.compile_logp(jacobian=False, mode=MODE)
    rng = np.random.default_rng(1)
    point = {
        name: value + 0.3 * rng.normal(size=np.shape(value))
        for name, value in marginal.initial_point().items()
    }
    beta, *gs, sigma = read(point)
    rows = read_cell_rows(case.model.formula, case.model._table)
    loadings = []
    for z, codes, span, g in zip(rows.z, rows.codes, case.structure.spans, gs, strict=True):
        wide, turn = _wide(z, codes), case.priors.frame.random[span, span]
        root = np.linalg.solve(turn, np.linalg.cholesky(turn @ g @ turn.T))
        loadings.append(wide @ np.kron(np.eye(wide.shape[1] // len(g)), root))
    whole, r = np.hstack(loadings), rows.y - rows.x @ beta
    cov = whole @ whole.T + sigma**2 * np.eye(len(r))
    loglik = stats.multivariate_normal(cov=cov).logpdf(r)
    assert float(logp(point)) - float(prior(point)) == pytest.approx(loglik, rel=EXACT)
    # In the conditional form log p(z, y) - log p(z | y) = log p(y), at any z.
    widths = [loading.shape[1] for loading in loadings]
    noise = rng.normal(size=sum(widths))
    parts = np.split(noise, np.cumsum(widths)[:-1])
    at = point | {
        f"z|{name}": part.reshape(-1, len(g))
        for name, part, g in zip(names, parts, gs, strict=True)
    }
    precision = np.eye(len(noise)) + whole.T @ whole / sigma**2
    mean = np.linalg.solve(precision, whole.T @ r / sigma**2)
    left = stats.multivariate_normal(mean, np.linalg.inv(precision)).logpdf(noise)
    found = float(joint(at)) - left - float(prior(point))
    assert found == pytest.approx(loglik, rel=EXACT)


def test_existence_is_the_same_wherever_zero_lies() -> None:
    """A covariate 2e7 SDs from zero: priors flat there stand on columns that are all but one."""
    rng = np.random.default_rng(5)
    n = 200
    table = pd.DataFrame(
        {"g": rng.integers(0, 12, n), "k": rng.integers(0, 8, n), "x": rng.normal(size=n)}
    )
    table["y"] = rng.normal(size=12)[table["g"]] + rng.normal(size=n)
    found = []
    for offset in (0.0, 2e7):
        cells = Model("y ~ x + (x | g) + (1 | k)", table.assign(x=table["x"] + offset)).cells
        structure = arrange_prior(cells)
        white = whiten_cells(cells, structure.parts)
        flat = resolve_priors(Priors.flat(), cells, structure=structure)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(judge_existence(white, structure, flat))
    assert found[0].proper == found[1].proper
    assert sorted(ray.index for ray in found[0].rays) == sorted(ray.index for ray in found[1].rays)
    assert found[0].sd[1] == found[1].sd[1]
