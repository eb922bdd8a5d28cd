"""Integrals over the random effects, against sums over dense grids in NumPy."""

import numpy as np
import pytest

from bhlm.design.formula.terms import parse_formula
from bhlm.likelihood.covariance import combine
from bhlm.likelihood.families import FAMILIES, Family, find_family
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns, whiten_patterns
from bhlm.moments.patterns import Patterns, reduce_patterns

pytestmark = pytest.mark.wide

Array = np.ndarray

EVERY = [(name, link) for name, family in FAMILIES.items() for link in family.links]
QUICK = (("bernoulli", "logit"), ("poisson", "log"))
# What the dense sums and the lattice are both good to, per group of some rows.
EXACT = 1e-9
# The gradient by differences of the dense log-likelihood, with a step of 1e-4.
DIFFERENCES = 1e-6


def make_table(family: Family, *, seed: int, groups: int = 12, size: int = 6, sd: float = 1.5):
    """A table of groups, of which some have large effects."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    g = np.repeat(np.arange(groups), size)
    x = np.round(rng.normal(size=len(g)), 1)
    eta = -0.4 + 0.6 * x + sd * rng.normal(size=groups)[g] + 0.7 * rng.normal(size=groups)[g] * x
    n = rng.integers(1, 9, len(g)) if family.has_trials else np.ones(len(g), dtype=int)
    mean = family.mean(np.clip(eta, -3.0, 3.0))
    y = family.draw(mean, n, rng=rng)
    if family.name == "bernoulli":
        y[g == 0], y[g == 1] = 0.0, 1.0  # integrands far from normal
    return pd.DataFrame({"g": g, "x": x, "y": y, "n": n, "t": rng.uniform(0.2, 3.0, len(g))})


def integrate_densely(
    patterns: Patterns, beta: Array, root: Array, *, points: int, reach: float
) -> tuple[Array, Array, Array]:
    """Log-likelihoods (J,) and posterior means (J, q) and covariances of u, on a dense grid."""
    family = patterns.family
    assert isinstance(family, Family)
    q = len(root)
    axis, gap = np.linspace(-reach, reach, points, retstep=True)
    v = np.stack(np.meshgrid(*[axis] * q, indexing="ij"), axis=-1).reshape(-1, q)
    x, z = patterns.take(patterns.fixed), patterns.take(patterns.random)
    logliks, means, covs = [], [], []
    for j in range(patterns.n_groups):
        span = slice(patterns.starts[j], patterns.starts[j + 1])
        eta = patterns.offset[span] + x[span] @ beta + v @ root.T @ z[span].T
        n, y = patterns.n[span], patterns.y[span]
        if family.link == "log":
            terms = y * eta - n * np.exp(eta)
        elif family.link == "logit":
            terms = -y * np.logaddexp(0.0, -eta) - (n - y) * np.logaddexp(0.0, eta)
        else:
            from scipy import special

            far = np.exp(np.minimum(eta, 6.0))
            log_p = special.log_ndtr(eta) if family.link == "probit" else np.log(-np.expm1(-far))
            log_q = special.log_ndtr(-eta) if family.link == "probit" else -np.exp(eta)
            terms = y * log_p + (n - y) * log_q
        f = terms.sum(axis=1) - 0.5 * (v**2).sum(axis=1) - 0.5 * q * np.log(2.0 * np.pi)
        weight = np.exp(f - f.max())
        logliks.append(f.max() + np.log(weight.sum()) + q * np.log(gap))
        weight /= weight.sum()
        u = v @ root.T
        means.append(weight @ u)
        covs.append((weight[:, None] * (u - means[-1])).T @ (u - means[-1]))
    return np.array(logliks), np.array(means), np.array(covs)


def score_densely(patterns: Patterns, beta: Array, sd: float) -> Array:
    """Gradients (J, p + 1) of log-likelihoods by beta and the SD of one effect, on a dense grid.

    By Fisher's identity they are posterior means of those of the integrand.
    """
    from scipy import special, stats

    v = np.linspace(-11.0, 11.0, 8001)
    x, scores = patterns.take(patterns.fixed), []
    for j in range(patterns.n_groups):
        span = slice(patterns.starts[j], patterns.starts[j + 1])
        eta = patterns.offset[span] + x[span] @ beta + sd * v[:, None]
        n, y, link = patterns.n[span], patterns.y[span], patterns.family.link
        if link == "log":
            terms, slopes = y * eta - n * np.exp(eta), y - n * np.exp(eta)
        elif link == "logit":
            terms, slopes = y * eta - n * np.logaddexp(0.0, eta), y - n * special.expit(eta)
        elif link == "probit":
            yes, no = special.log_ndtr(eta), special.log_ndtr(-eta)
            terms, height = y * yes + (n - y) * no, stats.norm.logpdf(eta)
            slopes = y * np.exp(height - yes) - (n - y) * np.exp(height - no)
        else:
            hazard = np.exp(np.minimum(eta, 6.0))
            terms = y * np.log(-np.expm1(-hazard)) - (n - y) * np.exp(eta)
            slopes = y * hazard / np.expm1(hazard) - (n - y) * np.exp(eta)
        f = terms.sum(axis=1) - 0.5 * v**2
        weight = np.exp(f - f.max())
        weight /= weight.sum()
        by_beta = weight @ (slopes @ x[span])
        scores.append([*by_beta, weight @ (slopes.sum(axis=1) * v)])
    return np.array(scores)


def prepare(name: str, link: str, formula: str, *, seed: int = 3) -> tuple[Patterns, Integrator]:
    family = find_family(name, link)
    table = make_table(family, seed=seed)
    patterns = reduce_patterns(parse_formula(formula), table, family=family)
    structure = combine(patterns.blocks, group="g")
    return patterns, Integrator(whiten_patterns(patterns, structure))


def whiten(white: WhitenedPatterns, beta: Array, root: Array) -> tuple[Array, Array]:
    return np.linalg.solve(white.fixed, beta), np.linalg.solve(white.basis, root)


@pytest.mark.parametrize(("name", "link"), EVERY)
def test_one_effect_agrees_with_a_dense_grid(name: str, link: str) -> None:
    response = "y / n" if name == "binomial" else "y"
    offset = "log(t)" if name == "poisson" else "t"
    patterns, integrator = prepare(name, link, f"{response} ~ x + offset({offset}) + (1 | g)")
    beta, root = np.array([-0.3, 0.5]), np.array([[1.7]])
    at = whiten(integrator.white, beta, root)
    integrator.refine(*at, tolerance=1e-13)
    found = integrator.evaluate(*at)
    logliks, means, covs = integrate_densely(patterns, beta, root, points=8001, reach=11.0)
    np.testing.assert_allclose(found.logliks, logliks, atol=EXACT)
    np.testing.assert_allclose(1.7 * found.mean, means, atol=EXACT)
    np.testing.assert_allclose(1.7**2 * found.cov, covs, atol=EXACT)
    halved, error = integrator.measure_error(*at, found)
    assert abs(halved.loglik - patterns.constant - logliks.sum()) < EXACT
    assert error < EXACT
    scores = score_densely(patterns, beta, 1.7)
    white = integrator.white
    np.testing.assert_allclose(found.score[:, :2], scores[:, :2] @ white.fixed, atol=EXACT)
    np.testing.assert_allclose(found.score[:, 2], scores[:, 2] * white.basis[0, 0], atol=EXACT)


@pytest.mark.parametrize(
    ("name", "link"),
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow, id="-".join(each))
        for each in EVERY
    ],
)
def test_derivatives(name: str, link: str) -> None:
    """Of two correlated effects, against differences of the log-likelihood and of its gradient."""
    response = "y / n" if name == "binomial" else "y"
    patterns, integrator = prepare(name, link, f"{response} ~ x + (x | g)")
    beta, root = np.array([-0.3, 0.5]), np.array([[1.1, 0.0], [0.3, 0.6]])
    at = whiten(integrator.white, beta, root)
    integrator.refine(*at, tolerance=1e-13)
    found = integrator.evaluate(*at)
    logliks, means, covs = integrate_densely(patterns, beta, root, points=301, reach=9.5)
    np.testing.assert_allclose(found.logliks, logliks, atol=EXACT)
    turn = integrator.white.basis @ at[1]
    np.testing.assert_allclose(found.mean @ turn.T, means, atol=EXACT)
    np.testing.assert_allclose(turn @ found.cov @ turn.T, covs, atol=EXACT)
    step = 1e-4
    point = np.concatenate([at[0], at[1].ravel()])
    slopes, bends = [], []
    for e in step * np.eye(len(point)):
        up, down = (
            integrator.evaluate((point + by)[:2], (point + by)[2:].reshape(2, 2)) for by in (e, -e)
        )
        slopes.append((up.loglik - down.loglik) / (2.0 * step))
        bends.append((down.score - up.score).sum(axis=0) / (2.0 * step))
    np.testing.assert_allclose(found.score.sum(axis=0), slopes, atol=DIFFERENCES)
    np.testing.assert_allclose(found.information, bends, atol=10 * DIFFERENCES)


def test_three_effects() -> None:
    """Products of lines, planes and spaces of nodes: three effects of which one is a dummy."""
    family = find_family("binomial")
    table = make_table(family, seed=5, groups=4)
    table["w"] = (table["x"] > 0).astype(float)
    patterns = reduce_patterns(parse_formula("y / n ~ x + (x + w | g)"), table, family=family)
    integrator = Integrator(whiten_patterns(patterns, combine(patterns.blocks, group="g")))
    beta = np.array([-0.3, 0.5])
    root = np.array([[0.9, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 0.4]])
    at = whiten(integrator.white, beta, root)
    integrator.refine(*at, tolerance=1e-11)
    found = integrator.evaluate(*at)
    logliks, _, _ = integrate_densely(patterns, beta, root, points=61, reach=7.0)
    np.testing.assert_allclose(found.logliks, logliks, atol=EXACT)


def test_enumeration_of_a_flat_effect() -> None:
    """Without an effect, the likelihood is that of the rows; with one whose SD is 1e-12, too."""
    patterns, integrator = prepare("bernoulli", "logit", "y ~ x + (1 | g)")
    beta = np.array([-0.3, 0.5])
    at, lam = whiten(integrator.white, beta, np.array([[1e-12]]))
    eta = patterns.take(patterns.fixed) @ beta
    exact = float(np.sum(patterns.y * eta - patterns.n * np.logaddexp(0.0, eta)))
    for root in (lam, 0.0 * lam):
        integrator.refine(at, root, tolerance=1e-13)
        halved, _ = integrator.measure_error(at, root, integrator.evaluate(at, root))
        assert halved.loglik == pytest.approx(exact, abs=1e-10)


def test_threads_change_nothing() -> None:
    _, integrator = prepare("poisson", "log", "y ~ x + (1 | g)")
    at = whiten(integrator.white, np.array([0.1, 0.2]), np.array([[0.8]]))
    one = integrator.evaluate(*at)
    two = integrator.evaluate(*at, threads=2)
    assert one.loglik == two.loglik
    assert np.array_equal(one.information, two.information)


@pytest.mark.parametrize("sd", [np.inf, 1e200, np.nan])
def test_parameters_beyond_all_numbers_have_no_likelihood(sd: float) -> None:
    """Where a sampler's trajectory diverges, the integral ends and says so."""
    _, integrator = prepare("poisson", "log", "y ~ x + (1 | g)")
    at = whiten(integrator.white, np.array([0.1, 0.2]), np.array([[1.0]]))
    found = integrator.evaluate(at[0], sd * at[1], information=False)
    assert not np.isfinite(found.loglik)


def test_a_mode_out_of_reach_ends_the_integral() -> None:
    """At means of exp(600) Newton's steps are of one unit: the search ends far from the mode."""
    _, integrator = prepare("poisson", "log", "y ~ x + (1 | g)")
    at = whiten(integrator.white, np.array([600.0, 0.2]), np.array([[0.3]]))
    assert integrator.evaluate(*at, information=False).loglik == -np.inf
