"""Laplace's approximation with crossed factors: dense algebra, slopes by differences, its error."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

from bhlm.design.formula.terms import parse_formula
from bhlm.errors import DataError, IdentifiabilityError
from bhlm.likelihood.covariance import combine
from bhlm.likelihood.crossed_families import Approximation, WhitenedCross, whiten_cross
from bhlm.likelihood.densities import CODES, contribute
from bhlm.likelihood.families import find_family
from bhlm.likelihood.laplace import bend_slope
from bhlm.moments.level_patterns import reduce_level_patterns
from bhlm.reml.family.level_variances import keep_coefficients

pytestmark = pytest.mark.wide

KINDS = [
    ("bernoulli", "logit"),
    ("bernoulli", "probit"),
    ("bernoulli", "cloglog"),
    ("binomial", "logit"),
    ("poisson", "log"),
]
DESIGNS = {
    "crossed": "(1 | a) + (1 | b)",
    "three": "(x | a) + (1 | b) + (1 | c)",
    "independent": "(x || b) + (1 | a)",
    "nested": "(1 | c/d)",
    "one": "(x | a)",
}
DENSE = 1e-10  # of solutions and determinants, by algebra of the same numbers
SLOPE = 1e-6  # of a gradient, by central differences of the log-likelihood


def draw(name: str, *, seed: int = 1, n: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "a": rng.integers(0, 11, n),
            "b": rng.integers(0, 7, n),
            "c": np.arange(n) * 4 // n,
            "d": np.arange(n) * 12 // n,
            "x": rng.normal(size=n).round(1),
            "o": rng.normal(0.0, 0.2, n),
            "m": rng.integers(1, 5, n),
        }
    )
    eta = 0.3 * table["x"] + rng.normal(0.0, 0.8, 11)[table["a"]]
    if name == "poisson":
        return table.assign(y=rng.poisson(np.exp(eta)))
    trials = table["m"] if name == "binomial" else 1
    return table.assign(y=rng.binomial(trials, 1.0 / (1.0 + np.exp(-eta))))


def whiten(name: str, link: str, random: str, **how) -> WhitenedCross:
    left = "y / m" if name == "binomial" else "y"
    one = random == DESIGNS["one"]  # what is left when another factor is tested
    formula = parse_formula(f"{left} ~ x + offset(o) + {random}{' + (1 | b)' if one else ''}")
    patterns = reduce_level_patterns(formula, draw(name), family=find_family(name, link))
    structures = [combine(each.blocks, group=each.name) for each in patterns.factors]
    if one:
        patterns, structures = keep_coefficients(patterns, 1, ("Intercept",)), structures[:1]
    return whiten_cross(patterns, structures, **how)


def choose(white: WhitenedCross) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return parameters: beta~ and lower-triangular lam_f."""
    rng = np.random.default_rng(5)
    lams = [
        np.tril(rng.normal(0.0, 0.2, (q, q)), -1) + np.diag(rng.uniform(0.3, 0.8, q))
        for q in white.sizes
    ]
    return np.array([0.2, 0.4]), lams


def spread_out(white: WhitenedCross, a: np.ndarray) -> np.ndarray:
    """Return A (I, Q), the dense rows."""
    dense = np.zeros((len(a), white.effects))
    column = place = 0
    for level, factor in enumerate(white.order):
        q = white.sizes[factor]
        for d in range(q):
            dense[np.arange(len(a)), place + white.units[level] * q + d] += a[:, column + d]
        column, place = column + q, place + white.counts[factor] * q
    return dense


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "log"])
@pytest.mark.parametrize("counts", [(1.0, 0.0), (1.0, 1.0), (5.0, 2.0)])
def test_third_derivatives(link: str, counts: tuple[float, float]) -> None:
    gap, code = 1e-4, CODES[link]
    for eta in (-6.0, -1.3, 0.0, 0.7, 2.5):
        up, down = (contribute(code, eta + step, *counts, np.nan)[2] for step in (gap, -gap))
        assert bend_slope(code, eta, *counts) == pytest.approx(
            (up - down) / (2.0 * gap), rel=1e-6, abs=1e-7
        )


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("name", "link"), KINDS)
def test_dense_algebra_agrees(name: str, link: str, design: str) -> None:
    white = whiten(name, link, DESIGNS[design])
    beta, lams = choose(white)
    made = Approximation(white)
    found = made.evaluate(beta, lams)
    a, eta0 = made._load(beta, lams)
    dense = spread_out(white, a)
    eta = eta0 + dense @ made.mode
    parts = np.array(
        [
            contribute(white.family.code, *each, np.nan)
            for each in zip(eta, white.n, white.y, strict=True)
        ]
    )
    np.testing.assert_allclose(dense.T @ parts[:, 1], made.mode, atol=DENSE)
    h = np.eye(white.effects) + dense.T @ (parts[:, 2:] * dense)
    value = parts[:, 0].sum() - 0.5 * made.mode @ made.mode - 0.5 * np.linalg.slogdet(h)[1]
    assert found.loglik == pytest.approx(value + sum(white.constant), abs=DENSE)
    inverse, place = np.linalg.inv(h), 0
    for factor in white.order:
        q, count = white.sizes[factor], white.counts[factor]
        for j in range(count):
            own = slice(place + j * q, place + (j + 1) * q)
            np.testing.assert_allclose(found.covs[factor][j], inverse[own, own], atol=DENSE)
            np.testing.assert_allclose(found.means[factor][j], made.mode[own], atol=DENSE)
        place += q * count
    spread = made.spread(beta, lams, a, white.units)
    np.testing.assert_allclose(spread, np.einsum("ij,jk,ik->i", dense, inverse, dense), atol=DENSE)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize(("name", "link"), KINDS)
def test_the_gradient_is_exact(name: str, link: str, design: str) -> None:
    white = whiten(name, link, DESIGNS[design])
    beta, lams = choose(white)
    point = np.concatenate([beta, *(lam.ravel() for lam in lams)])
    made, gap = Approximation(white), 1e-4

    def evaluate(point: np.ndarray):
        start, parts = white.p, []
        for q in white.sizes:
            parts.append(point[start : start + q * q].reshape(q, q))
            start += q * q
        return made.evaluate(point[: white.p], parts)

    wanted = [
        (evaluate(point + step).loglik - evaluate(point - step).loglik) / (2.0 * gap)
        for step in gap * np.eye(len(point))
    ]
    np.testing.assert_allclose(evaluate(point).gradient, wanted, rtol=SLOPE, atol=3.0 * SLOPE)


@pytest.mark.parametrize(("name", "link"), KINDS)
def test_the_error_is_that_of_dense_integration(name: str, link: str) -> None:
    """Two units of each of two factors: an integral of four dimensions, by the trapezoidal rule."""
    table = draw(name, n=24).assign(a=np.arange(24) % 2, b=np.arange(24) // 2 % 2)
    left = "y / m" if name == "binomial" else "y"
    formula = parse_formula(f"{left} ~ x + (1 | a) + (1 | b)")
    patterns = reduce_level_patterns(formula, table, family=find_family(name, link))
    structures = [combine(each.blocks, group=each.name) for each in patterns.factors]
    white = whiten_cross(patterns, structures)
    beta, lams = np.array([0.2, 0.4]), [np.array([[0.9]]), np.array([[0.7]])]
    made = Approximation(white)
    found = made.evaluate(beta, lams)
    told = made.measure_error(beta, lams, draws=4000)
    a, eta0 = made._load(beta, lams)
    dense = spread_out(white, a)
    line = np.arange(-7.0, 7.01, 0.4)
    nodes = np.stack(np.meshgrid(*[line] * 4, indexing="ij"), axis=-1).reshape(-1, 4)
    eta = eta0[:, None] + dense @ nodes.T
    f = -0.5 * np.sum(nodes**2, axis=1) - 2.0 * np.log(2.0 * np.pi)
    family = white.family
    mean = family.mean(eta)
    if family.has_exposure:
        f += (white.y[:, None] * eta - white.n[:, None] * mean).sum(axis=0)
    else:
        missed = (white.n - white.y)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):  # far out, where nothing is left
            f += np.where(white.y[:, None] > 0, white.y[:, None] * np.log(mean), 0.0).sum(axis=0)
            f += np.where(missed > 0, missed * np.log1p(-mean), 0.0).sum(axis=0)
    exact = logsumexp(f) + 4.0 * np.log(0.4) + sum(white.constant)
    assert told.effective > 0.5 * told.draws
    assert abs(found.loglik + told.difference - exact) < 5.0 * told.mcse + 1e-6
    assert told.mcse < 0.01


def test_what_does_not_fit_in_memory_is_told() -> None:
    with pytest.raises(DataError, match=r"leaves 7 effects beside those of 'a'.*may be used"):
        whiten("bernoulli", "logit", DESIGNS["crossed"], memory=100)


def test_columns_that_repeat_others_are_told() -> None:
    table = draw("bernoulli").assign(z=lambda t: 2.0 * t["x"])
    formula = parse_formula("y ~ x + z + (1 | a) + (1 | b)")
    patterns = reduce_level_patterns(formula, table, family=find_family("bernoulli"))
    structures = [combine(each.blocks, group=each.name) for each in patterns.factors]
    with pytest.raises(IdentifiabilityError):
        whiten_cross(patterns, structures)
