"""The likelihood of several factors with one parameter held, maximised over all others.

As in `held_likelihood`: every factor has its family, of which that with a held parameter has fewer
coordinates. A held fixed effect leaves [X y] with one column less, whatever the factors' pattern.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from scipy.linalg import block_diag

from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Family
from bhlm.likelihood.levels import (
    Bend,
    Effects,
    Eliminated,
    Levels,
    LevelsCriterion,
    evaluate_levels,
)
from bhlm.reml.optimize import descend

Array = np.ndarray


class Held(Protocol):
    """Minus twice a log-likelihood with one parameter held."""

    def start(self, g: Any, v: float) -> Array:
        """Return the point near G~ = g, of every factor, and the residual variance v."""

    def value_and_gradient(self, point: Array) -> tuple[float, Array]:
        """Return the value and the gradient at a point."""

    def minimize(self, point: Array) -> tuple[float, Array]:
        """Return the minimum that is reached from a point, and where."""

    def keeps_signs(self, point: Array) -> bool:
        """Whether what must be positive is so at a point."""


class Visit(NamedTuple):
    """The likelihood and its families at one point."""

    criterion: LevelsCriterion
    v: float
    lams: tuple[Array, ...]
    loadings: list[Array]  # by factor, (q, q) L
    slopes: list[Array]  # (c, q, q) of L by the point
    bends: list[Array]  # (c, c, q, q) its second derivatives
    weight: Array  # (p + 1, p + 1) by which E moves the value at fixed v


@dataclass(frozen=True, slots=True)
class HeldLevels:
    """Minus twice the (restricted) log-likelihood on families, in whitened units.

    A point is x (c_f,) of every family, then log v unless v is held.
    """

    white: WhitenedCells
    families: tuple[Family, ...]
    restricted: bool
    v: float | None = None
    _last: dict[bytes, Visit] = field(default_factory=dict, repr=False, compare=False)
    _bends: dict[bytes, Array] = field(default_factory=dict, repr=False, compare=False)

    def start(self, g: Sequence[Array], v: float) -> Array:
        """Return the point near G~_f = g_f (q_f, q_f) and the residual variance v."""
        parts = [family.coordinates(own) for family, own in zip(self.families, g, strict=True)]
        return np.concatenate(parts if self.v is not None else [*parts, [np.log(v)]])

    def value_and_gradient(self, point: Array) -> tuple[float, Array]:
        """Return the value and the gradient at a point."""
        visit = self._visit(point)
        at, v, levels = visit.criterion.at, visit.v, self.white.levels
        by_lam = levels.slopes(visit.lams, visit.criterion.found, visit.weight)
        parts = [
            np.einsum("ij,cij->c", own, slopes) / np.sqrt(v)
            for own, slopes in zip(by_lam, visit.slopes, strict=True)
        ]
        if self.v is None:
            taken = sum(
                float(np.sum(own * lam)) / 2.0 for own, lam in zip(by_lam, visit.lams, strict=True)
            )
            parts.append(np.array([at.dof - at.rss / v - taken]))
        return at.at_variance(v), np.concatenate(parts)

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

    def minimize(self, point: Array) -> tuple[float, Array]:
        """Return the minimum that is reached from a point, saddles left behind, and where."""
        if len(point):
            point = descend(self, point)
        return self.value_and_gradient(point)[0], point

    def keeps_signs(self, point: Array) -> bool:
        """Whether what must be positive is so at a point; see `Family.keeps_signs`."""
        return all(
            family.keeps_signs(x)
            for family, x in zip(self.families, self._split(point), strict=True)
        )

    def _split(self, point: Array) -> list[Array]:
        stops = np.cumsum([len(family.spans) for family in self.families])
        return np.split(point[: stops[-1]], stops[:-1])

    def _differentiate(self, point: Array) -> Array:
        visit = self._visit(point)
        at, v = visit.criterion.at, visit.v
        # Psi = L L' / v moves by the point along these, and with log v by -Psi.
        turned = [
            s @ loading.T / v for s, loading in zip(visit.slopes, visit.loadings, strict=True)
        ]
        directions = [each + each.transpose(0, 2, 1) for each in turned]
        counts = [len(each) for each in directions]
        psis = [lam @ lam.T for lam in visit.lams]
        if self.v is None:
            directions = [
                np.concatenate([own, -psi[None]]) for own, psi in zip(directions, psis, strict=True)
            ]
        bend = self.white.levels.bend(
            visit.lams, visit.criterion.found, visit.weight[None], directions
        )
        left = np.append(-at.beta, 1.0)
        lean = bend.e @ left
        slope = lean @ left
        second = bend.second[0] - 2.0 / v * lean[:, :-1] @ at.phi @ lean[:, :-1].T
        if self.restricted:
            carried = at.phi @ bend.e[:, :-1, :-1]
            second -= np.einsum("aij,bji->ab", carried, carried)
        # The last direction of every factor moves with log v: they are one.
        c, extra = sum(counts), int(self.v is None)
        join = np.zeros((len(second), c + extra))
        row = column = 0
        for count in counts:
            join[row : row + count, column : column + count] = np.eye(count)
            row, column = row + count, column + count
            if extra:
                join[row, c] = 1.0
                row += 1
        hessian = join.T @ second @ join
        along = join.T @ np.concatenate(
            [
                np.einsum("dij,ij->d", own, scores[0])
                for own, scores in zip(directions, bend.scores, strict=True)
            ]
        )
        start = 0
        for count, scores, loading, slopes, bends in zip(
            counts, bend.scores, visit.loadings, visit.slopes, visit.bends, strict=True
        ):
            span = slice(start, start + count)
            start = span.stop
            hessian[span, span] += 2.0 / v * np.einsum("cij,ik,dkj->cd", slopes, scores[0], slopes)
            hessian[span, span] += 2.0 / v * np.einsum("ij,cdij->cd", scores[0] @ loading, bends)
        if extra:
            hessian[:c, c] -= along[:c]
            hessian[c, :c] -= along[:c]
            hessian[c, c] += at.rss / v - along[c]
            moved = join.T @ slope / v
            hessian[:, c] -= moved
            hessian[c, :] -= moved
        return np.asarray(hessian)

    def _visit(self, point: Array) -> Visit:
        key = point.tobytes()
        if key not in self._last:
            self._last.clear()
            self._last[key] = self._evaluate(point)
        return self._last[key]

    def _evaluate(self, point: Array) -> Visit:
        v = self.v if self.v is not None else float(np.exp(point[-1]))
        at_each = [
            family.at(x) for family, x in zip(self.families, self._split(point), strict=True)
        ]
        loadings, slopes, bends = (list(each) for each in zip(*at_each, strict=True))
        lams = tuple(np.ascontiguousarray(loading / np.sqrt(v)) for loading in loadings)
        criterion = evaluate_levels(
            self.white.levels, lams, n=self.white.n, restricted=self.restricted
        )
        contrast = np.append(-criterion.at.beta, 1.0)
        weight = np.outer(contrast, contrast) / v
        if self.restricted:
            weight[:-1, :-1] += criterion.at.phi
        return Visit(criterion, v, lams, loadings, slopes, bends, weight)


@dataclass(frozen=True, slots=True)
class TurnedLevels:
    """Factors of other columns [X y] loadings; `loadings` (p + 1, r) keep the random columns."""

    levels: Levels
    loadings: Array

    @property
    def sizes(self) -> tuple[int, ...]:
        """The random coefficients q_f of each factor."""
        return self.levels.sizes

    @property
    def counts(self) -> tuple[int, ...]:
        """The levels J_f of each factor."""
        return self.levels.counts

    @property
    def bends_dearly(self) -> bool:
        """Whether `bend` costs much more than `slopes`."""
        return self.levels.bends_dearly

    def eliminate(self, lams: Sequence[Array]) -> Eliminated:
        """Return log |V| and E; see `bhlm.likelihood.levels.Levels`."""
        found = self.levels.eliminate(lams)
        return Eliminated(found.logdet, self.loadings.T @ found.e @ self.loadings, found)

    def slopes(self, lams: Sequence[Array], found: Eliminated, weight: Array) -> tuple[Array, ...]:
        """Return the derivatives by lam_f; see `bhlm.likelihood.levels.Levels`."""
        return self.levels.slopes(lams, found.kept, self.loadings @ weight @ self.loadings.T)

    def bend(
        self,
        lams: Sequence[Array],
        found: Eliminated,
        weights: Array,
        directions: Sequence[Array],
        *,
        share: float = 1.0,
    ) -> Bend:
        """Return first and second derivatives; see `bhlm.likelihood.levels.Levels`."""
        turned = self.loadings @ weights @ self.loadings.T
        bend = self.levels.bend(lams, found.kept, turned, directions, share=share)
        return bend._replace(e=self.loadings.T @ bend.e @ self.loadings)

    def precisions(self, lams: Sequence[Array], found: Eliminated) -> tuple[Array, ...]:
        """Return every factor's F_jj; see `bhlm.likelihood.levels.Levels`."""
        return self.levels.precisions(lams, found.kept)

    def effects(
        self, lams: Sequence[Array], found: Eliminated, beta: Array, spread: Array
    ) -> tuple[Effects, ...]:
        """Return every factor's effects; see `bhlm.likelihood.levels.Levels`."""
        p = len(beta)
        full = self.loadings @ np.append(-beta, 1.0)
        wide = self.loadings[:-1, :p] @ spread @ self.loadings[:-1, :p].T
        return self.levels.effects(lams, found.kept, -full[:-1], wide)

    def joint(self, lams: Sequence[Array], found: Eliminated, spread: Array, codes: Array) -> Array:
        """Return joint covariances; see `bhlm.likelihood.levels.Levels`."""
        turn = self.loadings[:-1, : len(spread)]
        q = sum(self.sizes)
        blocks = self.levels.joint(lams, found.kept, turn @ spread @ turn.T, codes)
        back = block_diag(np.eye(q), np.linalg.pinv(turn))
        return np.asarray(back @ blocks @ back.T)


@dataclass(frozen=True, slots=True)
class HeldCells:
    """Whitened cross-products of a model in which a fixed effect is held."""

    levels: TurnedLevels
    n: float
    p: int
    scale: float
    logdet_fixed: float
    unit: float = 1.0  # as in `bhlm.likelihood.whitening.Whitened`
    offset: float = 0.0
    restricted_offset: float = 0.0
    held: float | None = None


def hold_fixed_effect(white: WhitenedCells, index: int, value: float) -> HeldCells:
    """Return the whitened cross-products of the model in which beta[index] has a given value.

    As `bhlm.reml.profile.held_likelihood.hold_fixed` does.
    """
    p = white.p
    vectors, triangle = np.linalg.qr(white.fixed[index][:, None], mode="complete")
    held = (value - white.ols[index]) / (white.scale * triangle[0, 0])
    loadings = np.zeros((p + 1, p))
    loadings[:-1, :-1] = vectors[:, 1:]
    loadings[-1, -1] = 1.0
    loadings[:-1, -1] = -held * vectors[:, 0]
    levels = TurnedLevels(white.levels, loadings)
    return HeldCells(levels, white.n, p - 1, white.scale, white.logdet_fixed, offset=white.offset)
