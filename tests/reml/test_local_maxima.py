"""Random designs with sampling weights, many on the boundary: no other start leads higher."""

import numpy as np
import pytest
from scipy.optimize import minimize
from survey_designs import Survey, integrate_survey, make_survey

from bhlm.fits.model import Model
from bhlm.reml.estimate import unwhiten
from bhlm.reml.level_search import maximize_levels
from bhlm.reml.levels import LevelsEstimate, unwhiten_levels
from bhlm.reml.optimize import maximize, may_be_lower, unwhiten_loglik

Array = np.ndarray

SAME = 1e-9  # relative, of one log-likelihood added up in two ways
HIGHER = 1e-5  # of log-likelihoods: a search by differences ends nearer to the maximum
# From the variances by MIVQUE(0) alone these end lower, by up to 16 in the deviance: variances
# that went to the other factor, correlations at the other end, two maxima along one variance.
HARD = (98, 569, 613, 884, 1383, 36, 83, 118, 146, 529, 617, 687, 906)
# Of few units: the search from MIVQUE(0) ends inside, or on a part of the boundary, and a higher
# maximum is inside too, or on another part.
FEW_UNITS = (
    ("one factor", 265, "ml"),
    ("one factor", 930, "ml"),
    ("one factor", 1337, "ml"),
    ("one factor without weights", 930, "ml"),
    ("one factor without weights", 1019, "reml"),
    ("nested", 601, "ml"),
    ("nested", 1454, "ml"),
)


def fit_survey(survey: Survey, *, weighted: bool = True, method: str = "ml"):
    weights = survey.weights if weighted else None
    return Model(survey.formula, survey.table, weights=weights).reml(method=method)


def find_root(g: Array) -> Array:
    values, vectors = np.linalg.eigh(g)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def list_elsewhere(fit, *, seed: int, count: int) -> list:
    """Where searches from random covariances end, and the log-likelihood there."""
    rng, restricted = np.random.default_rng([seed, 11]), fit.method == "reml"
    ends = []
    for _ in range(count):
        start = rng.normal(size=len(fit.theta)) * 10.0 ** rng.uniform(-1.5, 1.0)
        if isinstance(fit, LevelsEstimate):
            found = maximize_levels(fit.white, fit.structures, restricted=restricted, start=start)
            value = found.criterion.at.value
        else:
            found = maximize(fit.white, fit.structure, restricted=restricted, start=start)
            value = found.criterion.value
        if found.converged:
            ends.append((unwhiten_loglik(value, fit.white, restricted), found))
    return ends


def search_elsewhere(fit, *, seed: int, count: int) -> float:
    """The highest log-likelihood that searches from random covariances end at."""
    return max(loglik for loglik, _ in list_elsewhere(fit, seed=seed, count=count))


def climb(survey: Survey, fit, start: Array) -> float:
    """Where a search by differences of the integrals ends, from a point in (beta, roots, log v)."""
    shapes = [
        np.tril_indices(part.structure.q)
        if len(part.structure.terms) == 1
        else np.diag_indices(part.structure.q)
        for part in fit.parts
    ]

    def lose(point: Array) -> float:
        roots, at = [], 3
        for part, shape in zip(fit.parts, shapes, strict=True):
            root = np.zeros((part.structure.q, part.structure.q))
            root[shape] = point[at : at + len(shape[0])]
            roots.append(root)
            at += len(shape[0])
        return -integrate_survey(survey, beta=point[:3], roots=roots, sigma2=np.exp(point[at]))

    size = sum(len(shape[0]) for shape in shapes)
    begin = np.concatenate([fit.beta, start[:size], [np.log(fit.sigma2)]])
    return -float(minimize(lose, begin, method="BFGS").fun)


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "one factor"])
@pytest.mark.parametrize("seed", range(8))
def test_pseudo_likelihoods_are_integrals_unit_by_unit(seed: int, nested: bool) -> None:
    survey = make_survey(seed, nested=nested)
    fit = fit_survey(survey)
    roots = [find_root(part.g) for part in fit.parts]
    value = integrate_survey(survey, beta=fit.beta, roots=roots, sigma2=fit.sigma2)
    assert fit.loglik == pytest.approx(value, rel=SAME)


def test_scores_by_differences_take_a_small_residual_variance() -> None:
    """There a trial step leads to a negative one; warnings are errors."""
    assert np.isfinite(fit_survey(make_survey(575)).beta_cov).all()


@pytest.mark.parametrize(
    "seed", [*HARD[:5], *(pytest.param(each, marks=pytest.mark.slow) for each in HARD[5:])]
)
def test_searches_that_end_on_the_boundary_begin_again(seed: int) -> None:
    fit = fit_survey(make_survey(seed))
    assert fit.converged
    assert search_elsewhere(fit, seed=seed, count=8) < fit.loglik + HIGHER


@pytest.mark.parametrize(("kind", "seed", "method"), FEW_UNITS)
def test_searches_of_few_units_begin_again(kind: str, seed: int, method: str) -> None:
    survey = make_survey(seed, nested=kind == "nested")
    fit = fit_survey(survey, weighted="without" not in kind, method=method)
    assert fit.converged
    assert search_elsewhere(fit, seed=seed, count=16) < fit.loglik + HIGHER


@pytest.mark.parametrize("nested", [True, False], ids=["nested", "one factor"])
def test_so_do_fits_that_start_from_a_lower_maximum_inside(nested: bool) -> None:
    seed = 1454 if nested else 265
    survey = make_survey(seed, nested=nested)
    whole = fit_survey(survey)
    ends = list_elsewhere(whole, seed=seed, count=16)
    inside = [end for end in ends if end[0] < whole.loglik - HIGHER and not end[1].singular]
    loglik, end = max(inside, key=lambda each: each[0])
    lower = (
        unwhiten_levels(whole.moments, whole.structures, whole.white, end)
        if nested
        else unwhiten(whole.moments, whole.structure, whole.white, end)
    )
    assert lower.loglik == pytest.approx(loglik, rel=SAME)
    model = Model(survey.formula, survey.table, weights=survey.weights)
    assert model.reml(method="ml", start=lower).loglik == pytest.approx(whole.loglik, rel=SAME)


def test_many_groups_are_searched_once() -> None:
    """From one place, which is what fits of many groups cost."""
    survey = make_survey(0, nested=False, schools=(100, 100))
    fit = fit_survey(survey, weighted=False, method="reml")
    assert not fit.singular
    assert not may_be_lower(
        fit.white, fit.structure, maximize(fit.white, fit.structure, restricted=True)
    )


@pytest.mark.parametrize(("seed", "method"), [(83, "ml"), (118, "ml"), (118, "reml")])
def test_so_do_those_without_weights(seed: int, method: str) -> None:
    fit = fit_survey(make_survey(seed), weighted=False, method=method)
    assert search_elsewhere(fit, seed=seed, count=8) < fit.loglik + HIGHER


def test_a_start_on_a_lower_maximum_holds_no_fit() -> None:
    """A fit to other responses, such as another plausible value, may lie in another valley."""
    survey = make_survey(569)
    whole = fit_survey(survey)
    ends = list_elsewhere(whole, seed=569, count=4)
    low, end = min(ends, key=lambda each: each[0])
    assert low < whole.loglik - 5.0
    lower = unwhiten_levels(whole.moments, whole.structures, whole.white, end)
    model = Model(survey.formula, survey.table, weights=survey.weights)
    assert model.reml(method="ml", start=lower).loglik == pytest.approx(whole.loglik, rel=SAME)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 400, 25))
@pytest.mark.parametrize("kind", ["nested", "one factor", "nested by REML"])
def test_no_random_start_leads_higher(kind: str, first: int) -> None:
    for seed in range(first, first + 25):
        survey = make_survey(seed, nested="nested" in kind)
        by_reml = "REML" in kind
        fit = fit_survey(survey, weighted=not by_reml, method="reml" if by_reml else "ml")
        best = search_elsewhere(fit, seed=seed, count=6)
        assert best < fit.loglik + HIGHER, f"seed {seed}: {survey.formula}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*range(10), *HARD[:6]])
def test_no_search_by_brute_force_leads_higher(seed: int) -> None:
    survey = make_survey(seed)
    fit = fit_survey(survey)
    rng = np.random.default_rng(seed)
    for scale in (0.1, 0.5, 2.0):
        found = climb(survey, fit, scale * rng.normal(size=12))
        assert found < fit.loglik + HIGHER
