"""The likelihood with one parameter held, maximised over all others: points of a profile.

A held variance parameter leaves a family of G and log v, the residual variance; with L the
point of the family, Psi = L L' / v, and S = sum_j F_j - U_j W U_j' the slope by Psi, the
function and its derivatives follow from the same sums over groups as for the fit itself. A
held fixed effect leaves an ordinary fit with one column less.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Family
from bhlm.likelihood.panels import Panels
from bhlm.likelihood.profiled import Criterion, differentiate, evaluate, sum_scores
from bhlm.likelihood.whitening import Whitened
from bhlm.reml.optimize import descend

Array = np.ndarray


class Visit(NamedTuple):
    """The likelihood and its family at one point."""

    at: Criterion
    v: float
    lam: Array  # (q, q) the relative covariance factor
    loading: Array  # (q, q) L
    slopes: Array  # (c, q, q) of L by the point
    bends: Array  # (c, c, q, q) its second derivatives
    score: Array  # (q, q) the slope by Psi at fixed v


@dataclass(frozen=True, slots=True)
class HeldLikelihood:
    """Minus twice the (restricted) log-likelihood on a family, in whitened units.

    A point is x (c,) of the family, then log v unless v is held.
    """

    white: Whitened
    family: Family
    restricted: bool
    v: float | None = None
    panels: Panels | None = None  # of the blocks, for who makes more than one
    # The last point, and what was computed there: value, gradient and Hessian ask one by one.
    _last: dict[bytes, Visit] = field(default_factory=dict, repr=False, compare=False)
    _bends: dict[bytes, Array] = field(default_factory=dict, repr=False, compare=False)

    def start(self, g: Array, v: float) -> Array:
        """Return the point near G~ = g (q, q) and the residual variance v."""
        x = self.family.coordinates(g)
        return x if self.v is not None else np.append(x, np.log(v))

    def value_and_gradient(self, point: Array) -> tuple[float, Array]:
        """Return the value and the gradient at a point."""
        at, v, _, loading, slopes, _, score = self._visit(point)
        gradient = 2.0 / v * np.einsum("ij,cij->c", score @ loading, slopes)
        if self.v is None:
            along = at.dof - at.rss / v - np.sum(score * (loading @ loading.T)) / v
            gradient = np.append(gradient, along)
        return at.at_variance(v), gradient

    def hessian(self, point: Array) -> Array:
        """Return the Hessian at a point."""
        key = point.tobytes()
        if key not in self._bends:
            self._bends.clear()
            self._bends[key] = self._differentiate(point)
        return self._bends[key]

    def has_curvature(self, point: Array) -> bool:
        """Whether the Hessian is finite."""
        return bool(np.isfinite(self.hessian(point)).all())

    def _differentiate(self, point: Array) -> Array:
        at, v, lam, loading, slopes, bends, score = self._visit(point)
        c = len(slopes)
        turned = slopes @ loading.T / v
        directions = turned + turned.transpose(0, 2, 1)
        if self.v is None:
            directions = np.concatenate([directions, -(loading @ loading.T)[None] / v])
        curve = differentiate(self.white.blocks, self.white.q, lam, at, directions)
        hessian = curve.logdet + curve.rss / v
        hessian[:c, :c] += 2.0 / v * np.einsum("cij,ik,dkj->cd", slopes, score, slopes)
        hessian[:c, :c] += 2.0 / v * np.einsum("ij,cdij->cd", score @ loading, bends)
        if self.v is None:
            along = np.einsum("dij,ij->d", directions, score)
            hessian[:c, c] -= along[:c]
            hessian[c, :c] -= along[:c]
            hessian[c, c] += at.rss / v - along[c]
            hessian[:, c] -= curve.rss_slope / v
            hessian[c, :] -= curve.rss_slope / v
        return np.asarray(hessian)

    def minimize(self, point: Array) -> tuple[float, Array]:
        """Return the minimum that is reached from a point, saddles left behind, and where."""
        if len(point):
            point = descend(self, point)
        return self.value_and_gradient(point)[0], point

    def keeps_signs(self, point: Array) -> bool:
        """Whether what must be positive is so at a point; see `Family.keeps_signs`."""
        return self.family.keeps_signs(point[: len(self.family.spans)])

    def _visit(self, point: Array) -> Visit:
        key = point.tobytes()
        if key not in self._last:
            self._last.clear()
            self._last[key] = self._evaluate(point)
        return self._last[key]

    def _evaluate(self, point: Array) -> Visit:
        x, v = (point, self.v) if self.v is not None else (point[:-1], float(np.exp(point[-1])))
        loading, slopes, bends = self.family.at(x)
        lam = np.ascontiguousarray(loading / np.sqrt(v))
        blocks, q, panels = self.white.blocks, self.white.q, self.panels
        at = evaluate(blocks, q, lam, n=self.white.n, restricted=self.restricted, panels=panels)
        contrast = np.append(-at.beta, 1.0)
        weight = np.outer(contrast, contrast) / v
        if self.restricted:
            weight[:-1, :-1] += at.phi
        score = sum_scores(blocks, q, lam, weight, panels=panels)
        return Visit(at, v, lam, loading, slopes, bends, score)


def hold_fixed(white: Whitened, index: int, value: float) -> Whitened:
    """Return the whitened cross-products of the model in which beta[index] has a given value.

    With a the row of A that belongs to it, beta = b + s a'beta~. The coordinates of beta~ are
    turned so that a'beta~ = |a| c; the column of c moves into the response.
    """
    q, p = white.q, white.p
    row = white.fixed[index]
    vectors, triangle = np.linalg.qr(row[:, None], mode="complete")
    held = (value - white.ols[index]) / (white.scale * triangle[0, 0])
    loadings = np.zeros((q + p + 1, q + p))
    loadings[:q, :q] = np.eye(q)
    loadings[q:-1, q:-1] = vectors[:, 1:]
    loadings[-1, -1] = 1.0
    loadings[q:-1, -1] = -held * vectors[:, 0]
    blocks = np.ascontiguousarray(loadings.T @ white.blocks @ loadings)
    return replace(white, blocks=blocks, p=p - 1)
