"""Charts: all covariance matrices of a structure in which one SD or correlation is given.

In the whitened columns and in units of y~, G~ = L L'. A chart is a family of L that keeps the
held parameter and moves freely otherwise, so that the rest is found by unconstrained
minimisation, up to and including the boundary (an SD of 0, a correlation of +-1).

With b_i the row of the whitening basis B that belongs to coefficient i, SD_i = s |L' b_i|. Turn
the coordinates so that b_i points along the first axis: then SD_i = s |b_i| L_11. Turn them so
that b_i has one and b_j two coordinates: then the SDs and the correlation of i and j fix the
first two rows of L.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bhlm.likelihood.covariance import Structure, project
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Chart:
    """L = turn (base + sum_c x_c spans_c), or, if `angular`, with x_c = cos(x), sin(x)."""

    structure: Structure
    turn: Array  # (q, q) orthogonal
    base: Array  # (q, q)
    spans: Array  # (c, q, q)
    angular: bool = False

    def at(self, x: Array) -> tuple[Array, Array, Array]:
        """Return L (q, q), its slopes (c, q, q) and its second derivatives (c, c, q, q)."""
        if self.angular:
            ahead = np.tensordot([np.cos(x[0]), np.sin(x[0])], self.spans, axes=1)
            aside = np.tensordot([-np.sin(x[0]), np.cos(x[0])], self.spans, axes=1)
            return self.turn @ ahead, (self.turn @ aside)[None], -(self.turn @ ahead)[None, None]
        straight = self.base + np.tensordot(x, self.spans, axes=1)
        bends = np.zeros((len(x), len(x), *self.base.shape))
        return self.turn @ straight, self.turn @ self.spans, bends

    def coordinates(self, g: Array) -> Array:
        """Return the x (c,) whose L L' is near g (q, q)."""
        theta = project(self.structure, self.turn.T @ g @ self.turn)
        target = np.tensordot(theta, self.structure.factors, axes=1) - self.base
        spans = self.spans.reshape(len(self.spans), target.size).T
        weights = np.linalg.lstsq(spans, target.ravel())[0]
        return np.array([np.arctan2(weights[1], weights[0])]) if self.angular else weights


def chart_all(structure: Structure) -> Chart:
    """Return the chart of every covariance matrix of the structure."""
    q = structure.factors.shape[1]
    return Chart(structure, np.eye(q), np.zeros((q, q)), structure.factors)


def chart_sd(structure: Structure, white: Whitened, i: int, *, sd: float) -> Chart:
    """Return the chart in which coefficient i has the given SD."""
    q = white.q
    eye = np.eye(q)
    if structure.kind in ("exchangeable", "identity"):
        r = sd / (white.scale * white.basis[i, i])
        if len(structure.factors) == 1:
            return Chart(structure, eye, r * structure.factors[0], structure.factors[:0])
        sizes = np.array([np.sqrt(q / (q - 1.0)), np.sqrt(q)])
        spans = r * sizes[:, None, None] * structure.factors
        return Chart(structure, eye, np.zeros((q, q)), spans, angular=True)
    block = find_block(structure, i)
    turn, first = eye.copy(), block[0]
    vectors, triangle = np.linalg.qr(white.basis[i, block][:, None], mode="complete")
    turn[np.ix_(block, block)] = vectors
    base = np.zeros((q, q))
    base[first, first] = sd / (white.scale * abs(triangle[0, 0]))
    free = [factor for factor in structure.factors if not factor[first].any()]
    return Chart(structure, turn, base, _stack(free, q))


def chart_correlation(
    structure: Structure, white: Whitened, i: int, j: int, *, correlation: float
) -> Chart:
    """Return the chart in which coefficients i and j have the given correlation."""
    q = white.q
    if structure.kind == "exchangeable":
        weights = np.sqrt(np.maximum([1.0 - correlation, 1.0 + (q - 1.0) * correlation], 0.0))
        span = np.tensordot(weights, structure.factors, axes=1)
        return Chart(structure, np.eye(q), np.zeros((q, q)), span[None])
    block = find_block(structure, i)
    turn, (first, second) = np.eye(q), block[:2]
    vectors, triangle = np.linalg.qr(white.basis[np.ix_([i, j], block)].T, mode="complete")
    # Positive first coordinates, so that L_11 and the correlation have the right signs.
    signs = np.ones(len(block))
    signs[:2] = np.where(np.diag(triangle) < 0.0, -1.0, 1.0)
    turn[np.ix_(block, block)] = vectors * signs
    (_, shared), (_, own) = triangle[:2] * signs[:2, None]
    # Row j of the turned basis is (shared, own): shared L_11 + own L_21 = correlation SD_j, and
    # own L_22 = sqrt(1 - correlation^2) SD_j. The coordinates are L_11 and SD_j.
    spans = np.zeros((2, q, q))
    spans[0, first, first] = 1.0
    spans[0, second, first] = -shared / own
    spans[1, second, first] = correlation / own
    spans[1, second, second] = np.sqrt(1.0 - correlation**2) / own
    free = [factor for factor in structure.factors if not factor[[first, second]].any()]
    return Chart(structure, turn, np.zeros((q, q)), np.concatenate([spans, _stack(free, q)]))


def find_block(structure: Structure, i: int) -> list[int]:
    """Return the random coefficients that the structure lets covary with i, and i, in order."""
    linked = {i}
    for a, b in structure.labels:
        if i in (a, b):
            linked |= {a, b}
    return sorted(linked)


def _stack(factors: Sequence[Array], q: int) -> Array:
    return np.array(factors).reshape(-1, q, q)
