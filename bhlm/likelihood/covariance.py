"""The covariance structures of the random coefficients, each linear in its parameters.

Write Psi = G / sigma^2 for the relative covariance and Psi = lam lam' for a square root of
it. Every structure here is linear twice over: lam = sum_c theta_c N_c (the *factors*, in which
the optimiser moves freely, since the sign of a factor does not matter), and
G = sum_a g_a E_a (the *directions*, in which standard errors are reported).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np

from bhlm.errors import ArgumentError

Array = np.ndarray
Kind = Literal["unstructured", "independent", "exchangeable", "identity"]
KINDS: tuple[Kind, ...] = ("unstructured", "independent", "exchangeable", "identity")


@dataclass(frozen=True, slots=True)
class Structure:
    """One covariance structure over a block of q random coefficients.

    `whitening` says which change of basis Z -> Z B keeps the structure: any triangular one,
    a scale per column, or one common scale.
    """

    kind: Kind
    whitening: Literal["triangular", "columns", "common"]
    factors: Array  # (c, q, q) N_c, with lam = sum theta_c N_c
    directions: Array  # (m, q, q) symmetric E_a, with G = sum g_a E_a
    labels: tuple[tuple[int, int], ...]  # (row, column) of G that each g_a is read from


def unstructured(q: int) -> Structure:
    """Return the structure with every variance and covariance free; lam lower triangular."""
    pairs = [(row, column) for row in range(q) for column in range(row + 1)]
    factors = np.zeros((len(pairs), q, q))
    for index, (row, column) in enumerate(pairs):
        factors[index, row, column] = 1.0
    labels = [(i, i) for i in range(q)] + [(i, j) for i in range(q) for j in range(i + 1, q)]
    return Structure("unstructured", "triangular", factors, _units(q, labels), tuple(labels))


def independent(q: int) -> Structure:
    """Return the structure with one variance per coefficient and no covariances."""
    labels = [(i, i) for i in range(q)]
    units = _units(q, labels)
    return Structure("independent", "columns", units, units, tuple(labels))


def identity(q: int) -> Structure:
    """Return the structure with one variance that all coefficients share, no covariances."""
    eye = np.eye(q)[None]
    return Structure("identity", "common", eye, eye, ((0, 0),))


def exchangeable(q: int) -> Structure:
    """Return the structure with one shared variance and one shared covariance.

    lam is the symmetric square root, theta_1 (I - 11'/q) + theta_2 11'/q, so that every
    attainable pair, with correlations from -1/(q-1) to 1, has a real theta.
    """
    if q == 1:
        return identity(1)
    mean = np.full((q, q), 1.0 / q)
    directions = np.stack([np.eye(q), np.ones((q, q)) - np.eye(q)])
    return Structure(
        "exchangeable", "common", np.stack([np.eye(q) - mean, mean]), directions, ((0, 0), (0, 1))
    )


_BUILDERS = {
    "unstructured": unstructured,
    "independent": independent,
    "exchangeable": exchangeable,
    "identity": identity,
}


def combine(blocks: Sequence[Sequence[str]], *, covariance: str | None = None) -> Structure:
    """Return the structure of all q coefficients, block diagonal over the random terms.

    Without `covariance` each block (one random term of the formula) is unstructured, as in
    lme4; a name from `KINDS` overrides and treats all coefficients as one block, as Stata's
    `covariance()` does.

    Raises:
        ArgumentError: `covariance` is not one of the four known names.
    """
    if covariance is not None and covariance not in _BUILDERS:
        raise ArgumentError(
            f"covariance={covariance!r} is not known; choose one of {', '.join(KINDS)}"
        )
    q = sum(len(block) for block in blocks)
    if covariance is not None:
        return _BUILDERS[covariance](q)
    if len(blocks) == 1:
        return unstructured(q)
    if all(len(block) == 1 for block in blocks):
        return independent(q)
    parts = [unstructured(len(block)) for block in blocks]
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    placed = [_place(part, start, q) for part, start in zip(parts, starts, strict=False)]
    return Structure(
        "unstructured",
        "triangular",
        np.concatenate([factors for factors, _, _ in placed]),
        np.concatenate([directions for _, directions, _ in placed]),
        tuple(label for _, _, labels in placed for label in labels),
    )


def project(structure: Structure, psi: Array) -> Array:
    """Return theta (c,) whose lam lam' is the structure's nearest match to psi (q, q).

    Psi is first averaged over each direction's pattern, then a square root is taken that lies
    in the span of the factors; eigenvalues that rounding made negative count as zero.
    """
    directions = structure.directions
    weights = np.einsum("aij,aij->a", directions, directions)
    matched = np.einsum("a,aij->ij", np.einsum("aij,ij->a", directions, psi) / weights, directions)
    if structure.kind in ("exchangeable", "identity"):
        values, vectors = np.linalg.eigh(matched)
        root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    else:
        root = _semidefinite_cholesky(matched)
    squares = np.einsum("cij,cij->c", structure.factors, structure.factors)
    return np.asarray(np.einsum("cij,ij->c", structure.factors, root) / squares)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _semidefinite_cholesky(matrix: Array) -> Array:
    """Return the lower Cholesky factor (q, q) of a matrix that may be singular."""
    q = len(matrix)
    root = np.zeros((q, q))
    floor = 1e-300
    for j in range(q):
        floor += 1e-14 * max(matrix[j, j], 0.0)
    for j in range(q):
        pivot = matrix[j, j]
        for i in range(j):
            pivot -= root[j, i] * root[j, i]
        if pivot > floor:
            root[j, j] = np.sqrt(pivot)
            for k in range(j + 1, q):
                value = matrix[k, j]
                for i in range(j):
                    value -= root[k, i] * root[j, i]
                root[k, j] = value / root[j, j]
    return root


def _units(q: int, labels: Sequence[tuple[int, int]]) -> Array:
    units = np.zeros((len(labels), q, q))
    for index, (row, column) in enumerate(labels):
        units[index, row, column] = units[index, column, row] = 1.0
    return units


def _place(part: Structure, start: int, q: int) -> tuple[Array, Array, tuple[tuple[int, int], ...]]:
    stop = start + part.factors.shape[1]
    factors = np.zeros((len(part.factors), q, q))
    directions = np.zeros((len(part.directions), q, q))
    factors[:, start:stop, start:stop] = part.factors
    directions[:, start:stop, start:stop] = part.directions
    return factors, directions, tuple((row + start, col + start) for row, col in part.labels)


def lower_roots(g: Array) -> Array:
    """Return lower roots (..., q, q) of covariance matrices (..., q, q), singular ones included."""
    sd = np.sqrt(np.einsum("...ii->...i", g))
    safe = np.where(sd > 0.0, sd, 1.0)
    q = g.shape[-1]
    scaled = g / (safe[..., :, None] * safe[..., None, :])
    root = np.zeros_like(g)
    for j in range(q):
        left = scaled[..., j:, j] - np.einsum(
            "...ik,...k->...i", root[..., j:, :j], root[..., j, :j]
        )
        pivot = np.sqrt(np.maximum(left[..., 0], 0.0))
        root[..., j, j] = pivot
        root[..., j + 1 :, j] = left[..., 1:] / np.where(pivot > 0.0, pivot, 1.0)[..., None]
    return root * sd[..., :, None]
