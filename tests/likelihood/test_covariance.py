"""Covariance structures: what each spans, and what it says of itself."""

import numpy as np
import pytest

from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import STRUCTURES, bound_eigenvalues, combine

TERMS = (("Intercept", "x"), ("t",))
KINDS = [None, *STRUCTURES]


@pytest.mark.parametrize("kind", KINDS)
def test_every_square_of_the_factors_is_in_the_span_of_the_directions(kind):
    structure = combine(TERMS, group="g", covariance=kind)
    theta = np.random.default_rng(1).normal(size=len(structure.factors))
    lam = np.tensordot(theta, structure.factors, axes=1)
    psi = lam @ lam.T
    values = structure.read(psi)
    assert values.tolist() == [psi[label] for label in structure.labels]
    assert (structure.read(np.array([psi, 2.0 * psi])) == [values, 2.0 * values]).all()
    np.testing.assert_allclose(structure.assemble(values), psi, atol=1e-14)
    again = np.tensordot(structure.project(psi), structure.factors, axes=1)
    np.testing.assert_allclose(again @ again.T, psi, atol=1e-13)
    for i in range(structure.q):
        outside = [j for j in range(structure.q) if j not in structure.find_block(i)]
        assert not psi[i, outside].any()


@pytest.mark.parametrize(
    ("kind", "sizes", "sections"),
    [
        (None, (2, 1), [("Unstructured", (0, 1)), ("Identity", (2,))]),
        ("unstructured", (3,), [("Unstructured", (0, 1, 2))]),
        ("independent", (1, 1, 1), [("Independent", (0, 1, 2))]),
        ("exchangeable", (3,), [("Exchangeable", (0, 1, 2))]),
        ("identity", (1, 1, 1), [("Identity", (0, 1, 2))]),
    ],
)
def test_blocks_and_sections(kind, sizes, sections):
    structure = combine(TERMS, group="g", covariance=kind)
    assert structure.names == ("Intercept", "x", "t")
    assert structure.sizes == sizes
    assert list(structure.sections) == sections
    assert structure.has_correlations == (max(sizes) > 1)
    assert structure.name_override == kind
    # Several coefficients share a variance where fewer variances are free than there are.
    assert structure.shares_variance == (sum(i == j for i, j in structure.labels) < structure.q)


@pytest.mark.parametrize(
    ("terms", "kind", "override"),
    [
        ((("a", "b"),), "unstructured", None),
        ((("a",), ("b",)), "independent", None),
        ((("a",), ("b",)), "unstructured", "unstructured"),
        ((("a",), ("b",)), "exchangeable", "exchangeable"),
    ],
)
def test_an_override_that_says_what_the_formula_says_is_none(terms, kind, override):
    structure = combine(terms, group="g", covariance=kind)
    assert structure.name_override == override
    assert combine(terms, group="g", covariance=override) == structure


@pytest.mark.parametrize("kind", STRUCTURES)
def test_one_coefficient_has_one_variance(kind):
    structure = combine((("a",),), group="g", covariance=kind)
    assert structure.labels == ((0, 0),)
    assert structure.title == "Identity"
    assert not structure.shares_variance
    assert not structure.has_correlations


def test_the_least_correlation_is_where_g_loses_rank():
    structure = combine(TERMS, group="g", covariance="exchangeable")
    least, most = structure.correlation_bounds
    for bound in (least, most):
        assert np.linalg.eigvalsh(structure.assemble(np.array([1.0, bound])))[0] == pytest.approx(0)
    assert np.linalg.eigvalsh(structure.assemble(np.array([1.0, least - 0.01])))[0] < 0.0


def test_an_unknown_structure_is_refused_by_name():
    with pytest.raises(ArgumentError, match=r"covariance='ar1' is not known; choose .*identity"):
        combine(TERMS, group="g", covariance="ar1")


def test_no_eigenvalue_is_below_its_bound():
    rng = np.random.default_rng(2)
    for q in (1, 2, 3, 5, 8):
        for _ in range(200):
            root = rng.normal(size=(q, q)) * 10.0 ** rng.uniform(-4, 4, q)
            matrix = root @ root.T
            least = np.linalg.eigvalsh(matrix)[0]
            bound = bound_eigenvalues(matrix)
            assert 0.0 <= bound <= least + 1e-12 * matrix.trace()
            assert bound > 0.0 or least < 1e-10 * matrix.trace()
    assert bound_eigenvalues(4.0 * np.eye(5)) == pytest.approx(4.0 * (4 / 5) ** 4)
    assert bound_eigenvalues(np.array([[3.0]])) == pytest.approx(3.0)
    # Of two eigenvalues far apart the bound is the least.
    assert bound_eigenvalues(np.diag([1e6, 1.0])) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "matrix", [[[1.0, 2.0], [2.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]]
)
def test_a_matrix_that_is_not_positive_definite_has_no_bound_above_zero(matrix):
    assert bound_eigenvalues(np.array(matrix)) == 0.0
    assert bound_eigenvalues(np.full((2, 2), np.nan)) == 0.0
