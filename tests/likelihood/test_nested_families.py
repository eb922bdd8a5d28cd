"""Integrals within integrals agree with dense quadrature, in values, slopes and effects."""

import numpy as np
import pytest

from bhlm.design.formula.terms import parse_formula
from bhlm.errors import IdentifiabilityError
from bhlm.likelihood.covariance import combine
from bhlm.likelihood.families import find_family
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest
from bhlm.likelihood.patterns import Integrator, whiten_patterns
from bhlm.moments.patterns import reduce_patterns
from tests.nested_quadrature import KINDS, differentiate, draw, integrate_densely, whiten

pytestmark = pytest.mark.wide

SAME = 1e-9  # of log-likelihood, gradient and effects


def integrate_exactly(white: WhitenedNest, beta, lams) -> tuple[NestIntegrator, object]:
    made = NestIntegrator(white)
    made.refine(beta, lams, tolerance=1e-13)
    return made, made.evaluate(beta, lams)


@pytest.mark.parametrize(
    ("name", "link"), KINDS[:1] + [pytest.param(*k, marks=pytest.mark.slow) for k in KINDS[1:]]
)
def test_values_slopes_and_effects_agree_with_dense_quadrature(name: str, link: str) -> None:
    white = whiten(draw(name), name, link, "(1 | school/class)")
    beta, lams = np.array([-0.3, 0.4]), [np.array([[0.9]]), np.array([[0.6]])]
    made, at = integrate_exactly(white, beta, lams)
    assert at.loglik == pytest.approx(integrate_densely(white, beta, lams), abs=SAME)
    halved, error = made.measure_error(beta, lams, at)
    assert error < 1e-10
    assert halved.nodes[0] > 1.9 * at.nodes[0]

    def slide(k: int):
        def value(step: float) -> float:
            moved = np.concatenate([beta, lams[0].ravel(), lams[1].ravel()])
            moved[k] += step
            return integrate_densely(
                white, moved[:2], [moved[2:3].reshape(1, 1), moved[3:].reshape(1, 1)]
            )

        return value

    score = at.score.sum(axis=0)
    for k in (1, 2, 3):
        assert score[k] == pytest.approx(differentiate(slide(k)), abs=SAME)
    for level, unit in ((0, 1), (1, 4)):

        def tilt(s: float, level: int = level, unit: int = unit) -> float:
            return integrate_densely(white, beta, lams, effect=(level, unit, s))

        mean = differentiate(tilt)
        second = (tilt(4e-3) - 2.0 * tilt(0.0) + tilt(-4e-3)) / 4e-3**2
        assert at.means[level][unit, 0] == pytest.approx(mean, abs=SAME)
        assert at.covs[level][unit, 0, 0] == pytest.approx(second, abs=1e-5)


@pytest.mark.parametrize(
    "random",
    [
        "(1 | school/teacher/class)",
        pytest.param("(1 + x | school) + (1 | class)", marks=pytest.mark.slow),
        pytest.param("(1 | school) + (1 + x | class)", marks=pytest.mark.slow),
    ],
)
def test_deeper_nests_and_slopes_agree_with_dense_quadrature(random: str) -> None:
    white = whiten(draw("bernoulli", schools=2, rows=2), "bernoulli", "logit", random)
    lams = []
    for q, scale in zip(white.sizes, (0.9, 0.6, 0.7), strict=False):
        lams.append(np.array([[scale]]) if q == 1 else np.array([[scale, 0.0], [0.3, 0.5]]))
    beta = np.array([-0.3, 0.4])
    at = integrate_exactly(white, beta, lams)[1]
    assert at.loglik == pytest.approx(integrate_densely(white, beta, lams), abs=SAME)


@pytest.mark.parametrize(
    "random",
    [
        "(1 | school/class)",
        "(1 | school/teacher/class)",
        "(1 + x | school) + (1 | class)",
        pytest.param("(1 | school) + (1 + x | class)", marks=pytest.mark.slow),
    ],
)
def test_derivatives_are_those_of_the_value(random: str) -> None:
    white = whiten(draw("poisson", schools=2, rows=2), "poisson", "log", random)
    rng = np.random.default_rng(3)
    lams = [0.5 * np.eye(q) + 0.2 * rng.normal(size=(q, q)) for q in white.sizes]
    beta = np.array([-0.3, 0.4])
    made, at = integrate_exactly(white, beta, lams)
    point = np.concatenate([beta, *[lam.ravel() for lam in lams]])

    def split(values):
        parts, start = [], 2
        for q in white.sizes:
            parts.append(values[start : start + q * q].reshape(q, q))
            start += q * q
        return values[:2], parts

    def value(k: int):
        return lambda s: (
            made.evaluate(*split(point + s * np.eye(len(point))[k]), derivatives=False).loglik
        )

    score = at.score.sum(axis=0)
    for k in range(len(point)):
        assert score[k] == pytest.approx(differentiate(value(k)), abs=1e-7)
        # And the information those of the score.
        moved = [
            made.evaluate(*split(point + s * np.eye(len(point))[k])).score.sum(axis=0)
            for s in (1e-4, -1e-4)
        ]
        np.testing.assert_allclose(
            at.information[k], (moved[1] - moved[0]) / 2e-4, rtol=1e-5, atol=1e-5
        )


def test_the_order_of_rows_and_of_factors_changes_nothing() -> None:
    table = draw("bernoulli", schools=4)
    shuffled = table.sample(frac=1.0, random_state=2)
    beta, lams = np.array([-0.3, 0.4]), [np.array([[0.9]]), np.array([[0.6]])]
    found = [
        integrate_exactly(whiten(each, "bernoulli", "logit", random), beta, lams)[1].loglik
        for each, random in (
            (table, "(1 | school/class)"),
            (shuffled, "(1 | school) + (1 | class)"),
            (shuffled, "(1 | class) + (1 | school)"),
        )
    ]
    assert found[1:] == pytest.approx(found[:1] * 2, abs=1e-10)


@pytest.mark.parametrize("random", ["(1 | school:class)", "(x | school:class)"])
def test_a_single_factor_of_two_columns_is_one_of_their_labels(random: str) -> None:
    table = draw("poisson", schools=4)
    table["both"] = table["school"] * 100 + table["class"]
    nest = whiten(table, "poisson", "log", random)
    formula = parse_formula(f"y ~ x + offset(o) + {random.replace('school:class', 'both')}")
    patterns = reduce_patterns(formula, table, family=find_family("poisson", "log"))
    white = whiten_patterns(patterns, combine(patterns.blocks, group="both"))
    beta, lam = np.array([-0.3, 0.4]), np.array([[0.9, 0.0], [0.3, 0.5]])[: white.q, : white.q]
    one = Integrator(white)
    one.refine(beta, lam, tolerance=1e-13)
    wanted = one.evaluate(beta, lam)
    made, found = integrate_exactly(nest, beta, [lam])
    assert found.loglik == pytest.approx(wanted.loglik, abs=SAME)
    np.testing.assert_allclose(found.score, wanted.score, atol=SAME)
    np.testing.assert_allclose(found.information, wanted.information, atol=SAME)
    np.testing.assert_allclose(found.means[0], wanted.mean, atol=SAME)
    np.testing.assert_allclose(found.covs[0], wanted.cov, atol=SAME)
    assert made.measure_error(beta, [lam], found)[1] < 1e-10


def test_threads_change_no_digit() -> None:
    white = whiten(draw("bernoulli", schools=40), "bernoulli", "logit", "(1 | school/class)")
    beta, lams = np.array([-0.3, 0.4]), [np.array([[0.9]]), np.array([[0.6]])]
    one, two = (NestIntegrator(white).evaluate(beta, lams, threads=k) for k in (1, 2))
    assert one.loglik == two.loglik
    np.testing.assert_array_equal(one.information, two.information)


def test_slopes_that_units_do_not_tell_are_refused() -> None:
    table = draw("bernoulli", schools=4)
    table["x"] = (table["class"] % 2).astype(float)
    with pytest.raises(IdentifiabilityError, match="'x' never varies within any 'class'"):
        whiten(table, "bernoulli", "logit", "(1 | school) + (1 + x | class)")
