"""Covariance structures: what each spans, and what it says of itself."""

import numpy as np
import pytest

from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import STRUCTURES, combine

TERMS = (("Intercept", "x"), ("t",))
KINDS = [None, *STRUCTURES]


@pytest.mark.parametrize("kind", KINDS)
def test_every_square_of_the_factors_is_in_the_span_of_the_directions(kind):
    structure = combine(TERMS, group="g", covariance=kind)
    theta = np.random.default_rng(1).normal(size=len(structure.factors))
    lam = np.tensordot(theta, structure.factors, axes=1)
    psi = lam @ lam.T
    values = np.array([psi[label] for label in structure.labels])
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
