"""Nested factors: eliminate units level by level, from the finest to the coarsest.

A unit holds the cross-products of [Z R], Z its own random columns and R those of its parents, X
and y. With A = Z'Z, B = Z'R and K = I + lam'A lam, its random effects integrated out leave

    R'R - B'T B,   T = lam K^-1 lam'

which is a block of the same kind for its parent, where those of all children add up. On the way
back a block's weight G, by which tr(weight E) changes with it, gives that of each child:

    G_child = [T 0; 0 0] + [-T B; I] G [-T B; I]'

and a child adds F - U G U' to the derivative by its Psi, F = A - A T A and U = B - A T B. G is also
the covariance of (u of the unit, u of the parents, beta), so that the effects take the same way.
Linear in the units, at any depth; one factor is the case of depth one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.levels import Bend, Effects, Eliminated, join_priors
from bhlm.likelihood.profiled import factor_group, invert_group, project_group

Array = np.ndarray


@kernel
def eliminate_units(
    blocks: Array,
    q: int,
    lam: Array,
    parents: Array,
    counts: Array,
    out: Array,
    taken: Array,
    inner: Array,
) -> float:
    """Add to `out` (J', r, r) what each unit leaves to its parent; return the sum of log |K_j|.

    There each counts by `counts` (J,). Writes [F_j U_j] into `taken` (J, q, q + r) and T_j into
    `inner` (J, q, q).
    """
    n_units, k, _ = blocks.shape
    r = k - q
    root = np.empty((q, q))
    half = np.empty((q, k))
    low = np.empty((q, q))
    logdet = 0.0
    for j in range(n_units):
        block = blocks[j]
        logdet += counts[j] * factor_group(block, q, lam, root, half)
        project_group(block, q, half, taken[j])
        invert_group(lam, root, low, inner[j])
        own = out[parents[j]]
        for a in range(r):
            for b in range(a + 1):
                value = block[q + a, q + b]
                for i in range(q):
                    value -= half[i, q + a] * half[i, q + b]
                own[a, b] += value
    for own in out:
        for a in range(r):
            for b in range(a):
                own[b, a] = own[a, b]
    return logdet


@kernel
def pull_units(
    taken: Array,
    inner: Array,
    psi: Array,
    parents: Array,
    counts: Array,
    above: Array,
    below: Array,
    spread: Array,
    score: Array,
    share: float,
) -> None:
    """Add share F_j - U_j G U_j' of every unit to `score` (q, q), G (r, r) that of its parent.

    Writes the unit's own G into `below` (J, q + r, q + r), and its part of Z and Z into `spread`
    (J, q, q), where these are not empty. T B = Psi U. `share` is that of log |V|, 1 or 0, of which
    every unit's counts by `counts` (J,).
    """
    n_units, q, k = taken.shape
    r = k - q
    weighted = np.empty((q, r))
    middle = np.empty((q, q))
    for j in range(n_units):
        own, g, part = taken[j], above[parents[j]], share * counts[j]
        for a in range(q):
            for c in range(r):
                value = 0.0
                for d in range(r):
                    value += own[a, q + d] * g[d, c]
                weighted[a, c] = value
            for b in range(q):
                value = 0.0
                for c in range(r):
                    value += weighted[a, c] * own[b, q + c]
                middle[a, b] = value
                score[a, b] += part * own[a, b] - value
        if len(below) == 0 and len(spread) == 0:
            continue
        for a in range(q):
            for b in range(q):
                value = part * inner[j, a, b]
                for i in range(q):
                    for m in range(q):
                        value += psi[a, i] * middle[i, m] * psi[m, b]
                if len(spread) > 0:
                    spread[j, a, b] = value
                if len(below) > 0:
                    below[j, a, b] = value
        if len(below) == 0:
            continue
        for c in range(r):
            for a in range(q):
                value = 0.0
                for i in range(q):
                    value -= psi[a, i] * weighted[i, c]
                below[j, a, q + c] = below[j, q + c, a] = value
            for d in range(r):
                below[j, q + c, q + d] = g[c, d]


@kernel
def bend_units(
    blocks: Array,
    taken: Array,
    inner: Array,
    parents: Array,
    counts: Array,
    above: Array,
    given: Array,
    directions: Array,
    out: Array,
    second: Array,
    share: float,
) -> None:
    """Add what every unit bends share log |V| + tr(weight E) by to `second` (m + c, m + c).

    `given` (J, m, k, k) are the derivatives dC of the unit's block along the m directions of finer
    levels, `directions` (c, q, q) those dPsi of its own. Adds the derivatives of what the unit
    leaves to `out` (J', m + c, r, r): L'dC L and -U'dPsi U with L = [-T B; I]. With P = I - A T,
    M = dC_z L and G that of the parent,

    and `share` times `counts` (J,) in the place of share for each unit,

        own with own        tr((2 dPsi U G U' - share dPsi F) dPsi F)
        own with finer      tr(dPsi (share P dA P' - 2 P M G U'))
        finer with finer    -share tr(T dA T dA) - 2 tr(G M'T M)
    """
    n_units, q, k = taken.shape
    r, m, c = k - q, given.shape[1], len(directions)
    p = np.empty((q, q))
    tb = np.empty((q, r))
    ug = np.empty((q, r))
    middle = np.empty((q, q))
    turned = np.empty((q, r))
    left = np.empty((c, q, q))
    right = np.empty((c, q, q))
    lean = np.empty((q, r))
    pulled = np.empty((q, r))
    inside = np.empty((q, q))
    bent = np.empty((m, q, q))
    shrunk = np.empty((m, q, q))
    loaded = np.empty((m, q, r))
    weighted = np.empty((m, q, r))
    for j in range(n_units):
        block, own, t, g = blocks[j], taken[j], inner[j], above[parents[j]]
        to, part = out[parents[j]], share * counts[j]
        for a in range(q):
            for b in range(r):
                value = weight = 0.0
                for i in range(q):
                    value += t[a, i] * block[i, q + b]
                for d in range(r):
                    weight += own[a, q + d] * g[d, b]
                tb[a, b] = value
                ug[a, b] = weight
        for a in range(q):
            for b in range(q):
                value = 1.0 if a == b else 0.0
                for i in range(q):
                    value -= block[a, i] * t[i, b]
                p[a, b] = value
                value = 0.0
                for d in range(r):
                    value += ug[a, d] * own[b, q + d]
                middle[a, b] = value
        for x in range(c):
            for a in range(q):
                for b in range(q):
                    value = weight = 0.0
                    for i in range(q):
                        value += directions[x, a, i] * own[i, b]
                        weight += directions[x, a, i] * middle[i, b]
                    right[x, a, b] = value
                    left[x, a, b] = 2.0 * weight - part * value
                for d in range(r):
                    value = 0.0
                    for i in range(q):
                        value += directions[x, a, i] * own[i, q + d]
                    turned[a, d] = value
            for d in range(r):
                for e in range(r):
                    value = 0.0
                    for a in range(q):
                        value += own[a, q + d] * turned[a, e]
                    to[m + x, d, e] -= value
        for x in range(c):
            for z in range(c):
                value = 0.0
                for a in range(q):
                    for b in range(q):
                        value += left[x, a, b] * right[z, b, a]
                second[m + x, m + z] += value
        for x in range(m):
            change = given[j, x]
            for a in range(q):
                for d in range(r):
                    value = change[a, q + d]
                    for i in range(q):
                        value -= change[a, i] * tb[i, d]
                    lean[a, d] = value
            for d in range(r):
                for e in range(r):
                    value = change[q + d, q + e]
                    for i in range(q):
                        value -= change[q + d, i] * tb[i, e] + tb[i, d] * lean[i, e]
                    to[x, d, e] += value
            for a in range(q):
                for b in range(q):
                    value = 0.0
                    for i in range(q):
                        value += t[a, i] * change[i, b]
                    shrunk[x, a, b] = value
                    value = 0.0
                    for i in range(q):
                        value += p[a, i] * change[i, b]
                    inside[a, b] = value
                for d in range(r):
                    value = weight = 0.0
                    for i in range(q):
                        value += t[a, i] * lean[i, d]
                        weight += p[a, i] * lean[i, d]
                    loaded[x, a, d] = value
                    pulled[a, d] = weight
                    value = 0.0
                    for e in range(r):
                        value += lean[a, e] * g[e, d]
                    weighted[x, a, d] = value
            for a in range(q):
                for b in range(q):
                    value = 0.0
                    for i in range(q):
                        value += part * inside[a, i] * p[b, i]
                    for d in range(r):
                        value -= 2.0 * pulled[a, d] * ug[b, d]
                    bent[x, a, b] = value
            for z in range(c):
                value = 0.0
                for a in range(q):
                    for b in range(q):
                        value += directions[z, a, b] * bent[x, a, b]
                second[m + z, x] += value
                second[x, m + z] += value
            for z in range(x + 1):
                value = 0.0
                for a in range(q):
                    for b in range(q):
                        value -= part * shrunk[x, a, b] * shrunk[z, b, a]
                    for d in range(r):
                        value -= 2.0 * weighted[x, a, d] * loaded[z, a, d]
                second[x, z] += value
                if z < x:
                    second[z, x] += value


class _Pulled(NamedTuple):
    """What a way back gives."""

    scores: list[Array]  # by factor, (q_f, q_f) by Psi_f
    spread: list[Array]  # by factor, the blocks (J_f, q_f, q_f) of G, if asked for
    above: list[Array]  # by level, G (J', r, r) of the units above
    below: list[Array]  # by level, G (J, q + r, q + r) of its own units; of the finest if asked for


class _Kept(NamedTuple):
    """What the way back needs of one level."""

    blocks: Array  # (J, k, k)
    taken: Array  # (J, q, k) [F U]
    inner: Array  # (J, q, q) T


@dataclass(frozen=True, slots=True)
class Nested:
    """Whitened cross-products of the finest units, and who is whose parent.

    Levels go from the finest to the coarsest, and so do the columns of Z in a block.
    """

    blocks: Array  # (J_0, k, k) of [Z_0 ... Z_{L-1} X y]
    parents: tuple[Array, ...]  # by level, (J_l,) the place of each unit's parent; zeros at last
    order: tuple[int, ...]  # the factor of each level
    sizes: tuple[int, ...]  # q_f by factor
    counts: tuple[int, ...]  # J_f by factor
    # By level, what log |K_j| of each unit counts by (J_l,): its weight and those of its parents.
    weights: tuple[Array, ...]

    def eliminate(self, lams: Sequence[Array]) -> Eliminated:
        """Return log |V| and E; see `bhlm.likelihood.levels.Levels`."""
        blocks, logdet, kept = self.blocks, 0.0, []
        levels = zip(self.order, self.parents, self._uppers, self.weights, strict=True)
        for factor, parents, upper, counts in levels:
            n_units, k, _ = blocks.shape
            q = self.sizes[factor]
            out = np.zeros((upper, k - q, k - q))
            taken, inner = np.empty((n_units, q, k)), np.empty((n_units, q, q))
            lam = np.ascontiguousarray(lams[factor])
            logdet += eliminate_units(blocks, q, lam, parents, counts, out, taken, inner)
            kept.append(_Kept(blocks, taken, inner))
            blocks = out
        return Eliminated(logdet, blocks[0], kept)

    def slopes(self, lams: Sequence[Array], found: Eliminated, weight: Array) -> tuple[Array, ...]:
        """Return the derivatives by lam_f; see `bhlm.likelihood.levels.Levels`."""
        pulled = self._pull(lams, found, weight)
        return tuple(2.0 * score @ lam for score, lam in zip(pulled.scores, lams, strict=True))

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
        many = [len(each) for each in directions]
        stops = np.cumsum([0, *many])
        at = np.concatenate([np.arange(stops[f], stops[f + 1]) for f in self.order])
        r = len(found.e)
        second = np.empty((len(weights), stops[-1], stops[-1]))
        e = np.empty((stops[-1], r, r))
        scores: list[Array] = [np.empty((len(weights), q, q)) for q in self.sizes]
        for w, weight in enumerate(weights):
            pulled = self._pull(lams, found, weight, share=share)
            for factor, score in enumerate(pulled.scores):
                scores[factor][w] = score
            bent = np.zeros((stops[-1], stops[-1]))
            given = np.zeros((self.counts[self.order[0]], 0, *self.blocks.shape[1:]))
            for level, (factor, upper) in enumerate(zip(self.order, self._uppers, strict=True)):
                blocks, taken, inner = found.kept[level]
                m, c = given.shape[1], many[factor]
                r = blocks.shape[1] - self.sizes[factor]
                out = np.zeros((upper, m + c, r, r))
                own = np.zeros((m + c, m + c))
                bend_units(
                    blocks, taken, inner, self.parents[level], self.weights[level],
                    pulled.above[level], given, np.ascontiguousarray(directions[factor]), out, own,
                    share,
                )  # fmt: skip
                bent[: m + c, : m + c] += own
                given = out
            second[w][np.ix_(at, at)] = bent
            e[at] = given[0]
        return Bend(e, second, tuple(scores))

    @property
    def bends_dearly(self) -> bool:
        """False: it costs about what `slopes` does."""
        return False

    def precisions(self, lams: Sequence[Array], found: Eliminated) -> tuple[Array, ...]:
        """Return every factor's F_jj; see `bhlm.likelihood.levels.Levels`."""
        own = {
            factor: kept.taken[:, :, : self.sizes[factor]]
            for factor, kept in zip(self.order, found.kept, strict=True)
        }
        return tuple(own[factor] for factor in range(len(own)))

    def effects(
        self, lams: Sequence[Array], found: Eliminated, beta: Array, spread: Array
    ) -> tuple[Effects, ...]:
        """Return every factor's effects; see `bhlm.likelihood.levels.Levels`."""
        p = len(beta)
        weight = np.zeros((p + 1, p + 1))
        weight[:p, :p] = spread
        covs = self._pull(lams, found, weight, spread=True).spread
        means: list[Array] = [np.empty(0)] * len(self.order)
        # What a unit's rows are freed of: its parents' effects and the fixed ones.
        left = np.append(-beta, 1.0)[None]
        for level in reversed(range(len(self.order))):
            factor, parents = self.order[level], self.parents[level]
            taken, q = found.kept[level].taken, self.sizes[factor]
            psi = lams[factor] @ lams[factor].T
            lifted = left[parents]
            means[factor] = np.einsum("ab,jbr,jr->ja", psi, taken[:, :, q:], lifted)
            left = np.concatenate([-means[factor], lifted], axis=1)
        return tuple(Effects(*pair) for pair in zip(means, covs, strict=True))

    def weighted_effects(self, lams: Sequence[Array], beta: Array) -> tuple[Effects, ...]:
        """Return every factor's effects (J_f, q) under sampling weights, covariances in sigma^2.

        A unit's effects given those of the units that it lies in have the density that its rows'
        weighted ones, and its own units' weighted integrals, make with N(0, G): its own weight
        counts for its parents alone. Columns carry the roots of the weights of the levels below
        theirs, which are taken out again. With M = d mean / d (effects above) and S the covariance
        of these,

            cov = Psi - Psi F Psi + M S M'

        Args:
            lams: a square root (q_f, q_f) of each factor's Psi = G / sigma^2.
            beta: (p,) whitened fixed effects.
        """
        found = self.eliminate(lams)
        means: list[Array] = [np.empty(0)] * len(self.order)
        covs = list(means)
        left, above = np.append(-beta, 1.0)[None], np.zeros((1, 0, 0))
        roots = np.ones(left.shape)  # of the weights from the top down to each column's own level
        for level in reversed(range(len(self.order))):
            factor, parents = self.order[level], self.parents[level]
            taken, q = found.kept[level].taken, self.sizes[factor]
            own = np.sqrt(self.weights[level])[:, None]
            psi = lams[factor] @ lams[factor].T
            lifted, spread, root = left[parents], above[parents], roots[parents]
            slopes = psi @ taken[:, :, q:] * (root / own)[:, None, :]
            means[factor] = np.einsum("jqr,jr->jq", slopes, lifted)
            moved = -slopes[:, :, : spread.shape[1]]
            beside = moved @ spread
            inner = psi - psi @ taken[:, :, :q] @ psi
            covs[factor] = inner + beside @ moved.transpose(0, 2, 1)
            left = np.concatenate([-means[factor], lifted], axis=1)
            roots = np.concatenate([np.repeat(own, q, axis=1), root], axis=1)
            lower = np.concatenate([beside.transpose(0, 2, 1), spread], axis=2)
            above = np.concatenate([np.concatenate([covs[factor], beside], axis=2), lower], axis=1)
        return tuple(Effects(*pair) for pair in zip(means, covs, strict=True))

    def joint(self, lams: Sequence[Array], found: Eliminated, spread: Array, codes: Array) -> Array:
        """Return joint covariances; see `bhlm.likelihood.levels.Levels`.

        A finer level that is known brings its own coarser ones.
        """
        p, (_, many) = len(spread), codes.shape
        weight = np.zeros((p + 1, p + 1))
        weight[:p, :p] = spread
        pulled = self._pull(lams, found, weight, finest=True)
        starts = np.cumsum([0, *self.sizes])
        blocks = np.zeros((many, starts[-1] + p, starts[-1] + p))
        left = np.ones(many, dtype=bool)
        for level, factor in enumerate(self.order):
            here = np.flatnonzero(left & (codes[factor] >= 0))
            left[here] = False
            # G of a unit and all that stands above it, without y.
            own = pulled.below[level][codes[factor, here]][:, :-1, :-1]
            names = [np.arange(starts[f], starts[f + 1]) for f in self.order[level:]]
            at = np.concatenate([*names, starts[-1] + np.arange(p)])
            blocks[here[:, None, None], at[:, None], at] = own
        return join_priors(lams, codes >= 0, spread, blocks)

    @property
    def _uppers(self) -> tuple[int, ...]:
        """How many units stand above each level."""
        return (*(self.counts[factor] for factor in self.order[1:]), 1)

    def _pull(
        self,
        lams: Sequence[Array],
        found: Eliminated,
        weight: Array,
        *,
        spread: bool = False,
        share: float = 1.0,
        finest: bool = False,
    ) -> _Pulled:
        """Return the way back, from the coarsest level to the finest."""
        n_levels = len(self.order)
        scores: list[Array] = [np.empty(0)] * n_levels
        covs, aboves, belows = list(scores), list(scores), list(scores)
        above = np.ascontiguousarray(weight, dtype=np.float64)[None]
        for level in reversed(range(n_levels)):
            factor, (_, taken, inner) = self.order[level], found.kept[level]
            n_units, q, k = taken.shape
            below = np.empty((n_units if level or finest else 0, k, k))
            cov = np.empty((n_units if spread else 0, q, q))
            score = np.zeros((q, q))
            psi = lams[factor] @ lams[factor].T
            parents = self.parents[level]
            counts = self.weights[level]
            pull_units(taken, inner, psi, parents, counts, above, below, cov, score, share)
            scores[factor], covs[factor] = 0.5 * (score + score.T), cov
            aboves[level], belows[level], above = above, below, below
        return _Pulled(scores, covs, aboves, belows)


def is_nested(finer: Array, coarser: Array) -> bool:
    """Return whether every level of a factor lies in one level of another, by cells' codes (C,)."""
    parents = np.zeros(int(finer.max()) + 1, dtype=np.int64)
    parents[finer] = coarser
    return bool((parents[finer] == coarser).all())


def build_nested(
    blocks: Array,
    codes: Array,
    sizes: Sequence[int],
    *,
    weights: Sequence[Array] | None = None,
) -> Nested:
    """Return nested factors from the cross-products of their finest units.

    With weights w a unit's log-likelihood, its parents' effects given, is multiplied by its own:
    that is, what it leaves to its parent, and its log |K|, by that and by its parents' weights.
    Products of columns that stand above a level are therefore multiplied by sqrt(w) of its units.

    Args:
        blocks: whitened cross-products (C, k, k) of [Z_1 ... Z_F X y], one block for each level of
            the finest factor.
        codes: the level (F, C) of every factor that each block belongs to, from 0.
        sizes: the random coefficients of every factor.
        weights: by factor, of its units (J_f,), each given its parent; None is 1.
    """
    counts = tuple(int(code.max()) + 1 for code in codes)
    order = tuple(sorted(range(len(counts)), key=lambda factor: -counts[factor]))
    starts = np.cumsum([0, *sizes])
    columns = [np.arange(starts[factor], starts[factor + 1]) for factor in order]
    columns.append(np.arange(starts[-1], blocks.shape[1]))
    at = np.concatenate(columns)
    finest = np.argsort(codes[order[0]], kind="stable")
    parents = []
    for lower, upper in pairwise(order):
        own = np.zeros(counts[lower], dtype=np.int64)
        own[codes[lower]] = codes[upper]
        parents.append(own)
    parents.append(np.zeros(counts[order[-1]], dtype=np.int64))
    turned = blocks[finest][:, at[:, None], at]
    given = [np.ones(count) for count in counts] if weights is None else list(weights)
    if weights is not None:
        size, start = np.ones(turned.shape[:2]), 0
        for factor in order:
            start += sizes[factor]
            size[:, start:] *= np.sqrt(given[factor])[codes[factor, finest], None]
        turned = turned * size[:, :, None] * size[:, None, :]
    whole: list[Array] = []
    above = np.ones(1)
    for factor, parent in zip(reversed(order), reversed(parents), strict=True):
        above = given[factor] * above[parent]
        whole.insert(0, above)
    return Nested(
        np.ascontiguousarray(turned), tuple(parents), order, tuple(sizes), counts, tuple(whole)
    )
