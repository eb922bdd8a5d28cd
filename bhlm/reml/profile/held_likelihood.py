"""The likelihood with one parameter held, maximised over all others: points of a profile.

A held variance parameter leaves a family of G and log v, the residual variance; with L the
point of the family, Psi = L L' / v, and S = sum_j F_j - U_j W U_j' the slope by Psi, the
function and its derivatives follow from the same sums over groups as for the fit itself. A
held fixed effect leaves an ordinary fit with one column less.
"""

from dataclasses import dataclass, replace

import numpy as np

from bhlm.likelihood.covariance import Family
from bhlm.likelihood.profiled import Criterion, differentiate, evaluate, sum_scores
from bhlm.likelihood.whitening import Whitened
from bhlm.reml.optimize import CURVED, SADDLES, search_trust_region

Array = np.ndarray

NUDGE = 0.1


@dataclass(frozen=True, slots=True)
class HeldLikelihood:
    """Minus twice the (restricted) log-likelihood on a family, in whitened units.

    A point is x (c,) of the family, then log v unless v is held.
    """

    white: Whitened
    family: Family
    restricted: bool
    v: float | None = None

    def start(self, g: Array, v: float) -> Array:
        """Return the point near G~ = g (q, q) and the residual variance v."""
        x = self.family.coordinates(g)
        return x if self.v is not None else np.append(x, np.log(v))

    def value_and_gradient(self, point: Array) -> tuple[float, Array]:
        """Return the value and the gradient at a point."""
        at, v, _, loading, slopes, _ = self._evaluate(point)
        score = self._score(at, v, loading)
        gradient = 2.0 / v * np.einsum("ij,cij->c", score @ loading, slopes)
        if self.v is None:
            along = at.dof - at.rss / v - np.sum(score * (loading @ loading.T)) / v
            gradient = np.append(gradient, along)
        return at.at_variance(v), gradient

    def hessian(self, point: Array) -> Array:
        """Return the Hessian at a point."""
        at, v, lam, loading, slopes, bends = self._evaluate(point)
        score = self._score(at, v, loading)
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
        at, v = self._evaluate(point)[:2]
        value = at.at_variance(v)
        for _ in range(SADDLES):
            if not len(point):
                break
            point, value = search_trust_region(self, point)
            values, vectors = np.linalg.eigh(self.hessian(point))
            if values[0] > -CURVED * max(1.0, values[-1]):
                break
            point = point + NUDGE * vectors[:, 0]
        return value, point

    def _evaluate(self, point: Array) -> tuple[Criterion, float, Array, Array, Array, Array]:
        """Return the criterion, v, lam, L, its slopes and its second derivatives."""
        x, v = (point, self.v) if self.v is not None else (point[:-1], float(np.exp(point[-1])))
        loading, slopes, bends = self.family.at(x)
        lam = np.ascontiguousarray(loading / np.sqrt(v))
        at = evaluate(
            self.white.blocks, self.white.q, lam, n=self.white.n, restricted=self.restricted
        )
        return at, v, lam, loading, slopes, bends

    def _score(self, at: Criterion, v: float, loading: Array) -> Array:
        """Return the slope (q, q) by Psi at fixed v."""
        contrast = np.append(-at.beta, 1.0)
        weight = np.outer(contrast, contrast) / v
        if self.restricted:
            weight[:-1, :-1] += at.phi
        lam = np.ascontiguousarray(loading / np.sqrt(v))
        return np.asarray(sum_scores(self.white.blocks, self.white.q, lam, weight))


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
