"""Crossed factors: eliminate the one with the most levels, factor the dense rest.

Level j of the eliminated factor meets some levels of the others; B_j holds the products of its
columns with theirs and with [X y]. Its random effects integrated out leave, as in `nested`,

    D = sum_c [Z_r X y]'[Z_r X y] - sum_j B_j'T_j B_j,   T_j = lam K_j^-1 lam'

over the R = sum_f J_f q_f columns Z_r of the other factors, which are eliminated together: with Lam
their lam_f repeated down the diagonal, S = I + Lam'D_rr Lam is factored by LAPACK. The way back
is that of `nested`, once for the rest and once for each level of the eliminated factor. Source:
Bates, Maechler, Bolker & Walker (2015), J. Stat. Softw. 67(1), section 4, for the blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from bhlm.design.kernels import kernel
from bhlm.errors import DataError
from bhlm.likelihood.levels import Bend, Effects, Eliminated, join_priors
from bhlm.likelihood.profiled import factor_group, invert_group
from bhlm.moments.sums import sum_blocks
from bhlm.processes import limit_blas, measure_memory

Array = np.ndarray

DENSE = 10  # matrices of the dense rest that are held at a time
# Where the variance of a mean of a level is less than this share made by its effects, F is solved
# for rather than taken from I - S^-1.
THIN = 1e-3
WIDE = 300  # columns of the rest above which second derivatives are dear
# Columns of the rest from which on LAPACK may take several threads: InstEval, with 1142, takes .9 s
# in one and 1.3 to 4 in two; with 2256 there is no difference on two cores.
THREADED = 2500


@kernel
def eliminate_levels(
    values: Array, starts: Array, q: int, lam: Array, places: Array, out: Array, inner: Array
) -> float:
    """Take off `out` (lower triangle) what the eliminated factor explains; return sum log |K_j|.

    Level j has the columns `values[:, starts[j] : starts[j + 1]]`: q of its own, and then those
    that stand at `places` of `out`, in ascending order. Writes T_j into `inner` (J, q, q).
    """
    root = np.empty((q, q))
    low = np.empty((q, q))
    logdet = 0.0
    for j in range(len(starts) - 1):
        first, last = starts[j], starts[j + 1]
        block = values[:, first:last]
        half = np.empty((q, last - first))
        logdet += factor_group(block, q, lam, root, half)
        invert_group(lam, root, low, inner[j])
        for c in range(q, last - first):
            row = out[places[first + c]]
            for i in range(q):
                own = half[i, c]
                for d in range(q, c + 1):
                    row[places[first + d]] -= own * half[i, d]
    return logdet


@kernel
def pull_levels(
    values: Array,
    starts: Array,
    q: int,
    places: Array,
    inner: Array,
    above: Array,
    own: Array,
    middle: Array,
) -> None:
    """Write F_j and U_j G U_j' of every level into `own` and `middle` (J, q, q).

    G are the rows and columns that the level meets of `above`, of which the lower triangle is read.
    """
    shrunk = np.empty((q, q))
    half = np.empty(q)
    for j in range(len(starts) - 1):
        first, last = starts[j], starts[j + 1]
        width = last - first
        taken = np.empty((q, width))
        take_level(values[:, first:last], q, inner[j], shrunk, taken)
        middle[j] = 0.0
        for c in range(q, width):
            row = above[places[first + c]]
            for b in range(q):
                value = 0.5 * row[places[first + c]] * taken[b, c]
                for d in range(q, c):
                    value += row[places[first + d]] * taken[b, d]
                half[b] = value
            for a in range(q):
                for b in range(q):
                    middle[j, a, b] += taken[a, c] * half[b] + half[a] * taken[b, c]
        for a in range(q):
            for b in range(q):
                own[j, a, b] = taken[a, b]


@kernel
def take_level(block: Array, q: int, t: Array, shrunk: Array, out: Array) -> None:
    """Write [F U] = P [A B] of one level into `out` (q, width), P = I - A T, by `shrunk` (q, q)."""
    for a in range(q):
        for b in range(q):
            value = 1.0 if a == b else 0.0
            for i in range(q):
                value -= block[a, i] * t[i, b]
            shrunk[a, b] = value
    for a in range(q):
        for c in range(block.shape[1]):
            value = 0.0
            for i in range(q):
                value += shrunk[a, i] * block[i, c]
            out[a, c] = value


@kernel
def push_levels(
    values: Array,
    starts: Array,
    q: int,
    places: Array,
    inner: Array,
    direction: Array,
    out: Array,
) -> None:
    """Take U_j' direction U_j of every level off `out` (lower triangle)."""
    shrunk = np.empty((q, q))
    for j in range(len(starts) - 1):
        first, last = starts[j], starts[j + 1]
        width = last - first
        taken = np.empty((q, width))
        take_level(values[:, first:last], q, inner[j], shrunk, taken)
        for c in range(q, width):
            row = out[places[first + c]]
            for a in range(q):
                value = 0.0
                for i in range(q):
                    value += direction[a, i] * taken[i, c]
                for d in range(q, c + 1):
                    row[places[first + d]] -= value * taken[a, d]


@kernel
def turn_rest(
    matrix: Array, begins: Array, kinds: Array, turns: Array, shift: float, out: Array
) -> None:
    """Write shift I + Q'matrix Q into `out`, lower triangles both, Q block-diagonal.

    Level i of the rest has the columns from `begins[i]` to before `begins[i + 1]`, and its block of
    Q is the corner of `turns[kinds[i]]`.
    """
    n_levels, most = len(kinds), turns.shape[1]
    half = np.empty((most, most))
    for i in range(n_levels):
        first, size, left = begins[i], begins[i + 1] - begins[i], turns[kinds[i]]
        for j in range(i + 1):
            second, width, right = begins[j], begins[j + 1] - begins[j], turns[kinds[j]]
            if size == width == 1:
                entry = left[0, 0] * matrix[first, second] * right[0, 0]
                out[first, second] = entry + shift if i == j else entry
                continue
            for a in range(size):
                for b in range(width):
                    value = 0.0
                    for d in range(width):
                        x, y = first + a, second + d
                        entry = matrix[x, y] if x >= y else matrix[y, x]
                        value += entry * right[d, b]
                    half[a, b] = value
            for a in range(size):
                for b in range(width if j < i else a + 1):
                    value = shift if i == j and a == b else 0.0
                    for d in range(size):
                        value += left[d, a] * half[d, b]
                    out[first + a, second + b] = value


@kernel
def scale_rest(matrix: Array, scale: Array, shift: float, out: Array) -> None:
    """Write what `turn_rest` does, of levels with one column each: Q = diag(scale)."""
    for i in range(len(scale)):
        own, row, to = scale[i], matrix[i], out[i]
        for j in range(i + 1):
            to[j] = own * row[j] * scale[j]
        to[i] += shift


@kernel
def multiply_lower(matrix: Array, vectors: Array) -> Array:
    """Return vectors matrix (m, R), of the leading lower triangle of a symmetric matrix."""
    many, r = vectors.shape
    out = np.zeros((many, r))
    for a in range(r):
        row = matrix[a]
        for x in range(many):
            vector, to = vectors[x], out[x]
            own, value = vector[a], row[a] * vector[a]
            for b in range(a):
                value += row[b] * vector[b]
                to[b] += row[b] * own
            to[a] += value
    return out


class _Kept(NamedTuple):
    """What the way back needs."""

    inner: Array  # (J, q, q) T_j of the eliminated factor
    out: Array  # (R + p + 1, R + p + 1) D, lower triangle
    root: Array  # (R, R) upper Cholesky factor of S, in Fortran's order
    half: Array  # (R, p + 1) root'^-1 Lam'D_rx
    varies: bool  # whether some effect of the rest does
    later: dict[str, Array]  # what was computed on the way back


class _Pulled(NamedTuple):
    """What the way back gives."""

    scores: list[Array]  # by factor, (q_f, q_f) by Psi_f
    above: Array  # (R + p + 1, R + p + 1) G, lower triangle
    own: Array  # (J, q, q) F_j of the eliminated factor
    middle: Array  # (J, q, q) U_j G U_j'


def _in_one_thread[**P, T](method: Callable[P, T]) -> Callable[P, T]:
    """Return a method of Crossed that keeps LAPACK to one thread where the rest is not large."""

    @wraps(method)
    def limited(*args: P.args, **named: P.kwargs) -> T:
        crossed = args[0]
        assert isinstance(crossed, Crossed)
        with limit_blas(when=crossed.width < THREADED):
            return method(*args, **named)

    return limited


@dataclass(frozen=True, slots=True)
class Crossed:
    """Whitened cross-products by level of the eliminated factor, and the dense rest."""

    values: Array  # (q, width) Z_j'[Z_j Z_r X y] of each level j, of the columns that it meets
    starts: Array  # (J + 1,) where each level's columns begin
    places: Array  # (width,) the column of the rest, of X or of y, each counted on from the rest
    dense: Array  # (R + p + 1, R + p + 1) products of [Z_r X y], lower triangle
    eliminated: int  # the factor that is eliminated first
    sizes: tuple[int, ...]  # q_f by factor
    counts: tuple[int, ...]  # J_f by factor
    spans: tuple[slice, ...]  # by factor, its columns of the rest; none of the eliminated one

    @property
    def width(self) -> int:
        """The R columns of the dense rest."""
        return max(span.stop for span in self.spans)

    @property
    def rest(self) -> tuple[int, ...]:
        """The factors that are not eliminated first."""
        return tuple(f for f in range(len(self.sizes)) if f != self.eliminated)

    @_in_one_thread
    def eliminate(self, lams: Sequence[Array]) -> Eliminated:
        """Return log |V| and E; see `bhlm.likelihood.levels.Levels`."""
        q, r = self.sizes[self.eliminated], self.width
        lam = np.ascontiguousarray(lams[self.eliminated])
        out = self.dense.copy()
        inner = np.empty((len(self.starts) - 1, q, q))
        logdet = eliminate_levels(self.values, self.starts, q, lam, self.places, out, inner)
        varies = any(bool(lams[factor].any()) for factor in self.rest)
        if varies:
            square = np.empty((r, r))
            self._congruence(out, lams, 1.0, square)
            # The lower triangle in C's order is the upper one in Fortran's.
            root, info = lapack.dpotrf(square.T, lower=0, clean=0, overwrite_a=1)
            if info:
                root = np.full_like(root, np.nan)
        else:
            root = np.asfortranarray(np.eye(r))
        right = self._turn(out[r:, :r], lams).T
        half = lapack.dtrtrs(root, right, lower=0, trans=1)[0]
        e = _fill_upper(out[r:, r:])
        logdet += 2.0 * float(np.log(np.diag(root)).sum())
        return Eliminated(logdet, e - half.T @ half, _Kept(inner, out, root, half, varies, {}))

    @_in_one_thread
    def slopes(self, lams: Sequence[Array], found: Eliminated, weight: Array) -> tuple[Array, ...]:
        """Return the derivatives by lam_f; see `bhlm.likelihood.levels.Levels`."""
        scores = self._pull(lams, found, weight).scores
        return tuple(2.0 * score @ lam for score, lam in zip(scores, lams, strict=True))

    @_in_one_thread
    def bend(
        self,
        lams: Sequence[Array],
        found: Eliminated,
        weights: Array,
        directions: Sequence[Array],
        *,
        share: float = 1.0,
    ) -> Bend:
        """Return first and second derivatives; see `bhlm.likelihood.levels.Levels`.

        The rest is one unit of `nested`, of which the eliminated factor's levels are the finer
        ones. F there is taken from I - S^-1 = Lam'F Lam where that has the digits.
        """
        kept: _Kept = found.kept
        first, q, r = self.eliminated, self.sizes[self.eliminated], self.width
        stops = np.cumsum([0, *(len(each) for each in directions)])
        spans = [slice(*pair) for pair in pairwise(stops.tolist())]
        t, tb, u = self._inverse(lams, found), self._lean(lams, found), self._take(lams, found)
        f = self._precision(lams, found)
        p = -self._turn(f, [lam @ lam.T for lam in lams])
        p.flat[:: r + 1] += 1.0
        changes, products, leans = [], [], []
        e = np.empty((stops[-1], *weights.shape[1:]))
        for at, direction in enumerate(directions[first]):
            change = np.zeros_like(kept.out)
            own = np.ascontiguousarray(direction)
            push_levels(self.values, self.starts, q, self.places, kept.inner, own, change)
            change = _fill_upper(change)
            lean = change[:r, r:] - change[:r, :r] @ tb
            e[spans[first].start + at] = change[r:, r:] - change[r:, :r] @ tb - tb.T @ lean
            products.append(p @ change[:r, :r] if kept.varies else change[:r, :r])
            changes.append(change)
            leans.append(lean)
        for g in self.rest:
            own = u[self.spans[g]].reshape(self.counts[g], self.sizes[g], -1)
            e[spans[g]] = -np.einsum("jax,cab,jby->cxy", own, directions[g], own, optimize=True)
        plain = np.zeros((stops[-1], stops[-1]))
        if share:
            self._bend_plainly(plain, lams, f, p, products, directions, spans)
        second = np.empty((len(weights), stops[-1], stops[-1]))
        scores: list[Array] = [np.empty((len(weights), size, size)) for size in self.sizes]
        for w, weight in enumerate(weights):
            pulled = self._pull(lams, found, weight, share=share)
            for factor, score in enumerate(pulled.scores):
                scores[factor][w] = score
            bent = share * plain
            turned = np.einsum("xab,jbc->jxac", directions[first], pulled.own)
            middle = np.einsum("xab,jbc->jxac", directions[first], pulled.middle)
            bent[spans[first], spans[first]] += np.einsum(
                "jxab,jzba->xz", 2.0 * middle - share * turned, turned, optimize=True
            )
            for a, lean in enumerate(leans):
                loaded = t @ lean @ weight
                for b in range(len(leans)):
                    bent[spans[first].start + a, spans[first].start + b] -= 2.0 * np.sum(
                        loaded * leans[b]
                    )
                pulled_lean = p @ lean
                for g in self.rest:
                    one, two = (
                        x[self.spans[g]].reshape(self.counts[g], self.sizes[g], -1)
                        for x in (pulled_lean, u @ weight)
                    )
                    both = np.einsum("jax,jbx->ab", one, two)
                    value = -2.0 * np.einsum("cab,ab->c", directions[g], both)
                    bent[spans[g], spans[first].start + a] += value
                    bent[spans[first].start + a, spans[g]] += value
            for g in self.rest:
                for h in self.rest:
                    block, one = f[self.spans[g], self.spans[h]], (u @ weight)[self.spans[g]]
                    shape = self.counts[g], self.sizes[g], self.counts[h], self.sizes[h]
                    bent[spans[g], spans[h]] += 2.0 * np.einsum(
                        "ixjy,iue,jve,axu,bvy->ab", block.reshape(shape),
                        one.reshape(*shape[:2], -1), u[self.spans[h]].reshape(*shape[2:], -1),
                        directions[g], directions[h], optimize=True,
                    )  # fmt: skip
            second[w] = 0.5 * (bent + bent.T)
        return Bend(e, second, tuple(scores))

    @property
    def bends_dearly(self) -> bool:
        """Whether the rest is so wide that products of its matrices take the time."""
        return self.width > WIDE

    @_in_one_thread
    def precisions(self, lams: Sequence[Array], found: Eliminated) -> tuple[Array, ...]:
        """Return every factor's F_jj; see `bhlm.likelihood.levels.Levels`."""
        result = []
        for factor in range(len(self.sizes)):
            if factor == self.eliminated:
                inner, q = found.kept.inner, self.sizes[factor]
                at = self.starts[:-1, None] + np.arange(q)
                a = self.values[:, at].transpose(1, 0, 2)
                result.append(a - a @ inner @ a)
            else:
                result.append(self._own_precisions(lams, found, factor))
        return tuple(result)

    @_in_one_thread
    def effects(
        self, lams: Sequence[Array], found: Eliminated, beta: Array, spread: Array
    ) -> tuple[Effects, ...]:
        """Return every factor's effects; see `bhlm.likelihood.levels.Levels`."""
        p, kept = len(beta), found.kept
        weight = np.zeros((p + 1, p + 1))
        weight[:p, :p] = spread
        pulled = self._pull(lams, found, weight)
        left = np.append(-beta, 1.0)
        mean = self._lean(lams, found) @ left
        left = np.concatenate([-mean, left])
        q = self.sizes[self.eliminated]
        psi = lams[self.eliminated] @ lams[self.eliminated].T
        cov = kept.inner + psi @ pulled.middle @ psi
        sums = np.empty((len(cov), q))
        for j, (first, last) in enumerate(pairwise(self.starts)):
            sums[j] = self.values[:, first + q : last] @ left[self.places[first + q : last]]
        result = []
        for factor, (count, size, span) in enumerate(
            zip(self.counts, self.sizes, self.spans, strict=True)
        ):
            if factor == self.eliminated:
                result.append(Effects(np.einsum("jab,jb->ja", kept.inner, sums), cov))
                continue
            at = span.start + np.arange(count * size).reshape(count, size)
            rows = np.maximum(at[:, :, None], at[:, None, :])
            columns = np.minimum(at[:, :, None], at[:, None, :])
            blocks = pulled.above[rows, columns]
            result.append(Effects(mean[span].reshape(count, size), blocks))
        return tuple(result)

    @_in_one_thread
    def joint(self, lams: Sequence[Array], found: Eliminated, spread: Array, codes: Array) -> Array:
        """Return joint covariances; see `bhlm.likelihood.levels.Levels`."""
        p, (_, many), kept = len(spread), codes.shape, found.kept
        weight = np.zeros((p + 1, p + 1))
        weight[:p, :p] = spread
        pulled = self._pull(lams, found, weight)
        g = _fill_upper(pulled.above)
        first, q = self.eliminated, self.sizes[self.eliminated]
        psi = lams[first] @ lams[first].T
        starts = np.cumsum([0, *self.sizes])
        at = np.zeros((many, starts[-1] + p), dtype=np.int64)
        own = np.zeros(starts[-1] + p, dtype=bool)
        own[starts[first] : starts[first + 1]] = True
        for f in self.rest:
            begin = self.spans[f].start + np.maximum(codes[f], 0)[:, None] * self.sizes[f]
            at[:, starts[f] : starts[f + 1]] = begin + np.arange(self.sizes[f])
        at[:, starts[-1] :] = self.width + np.arange(p)
        blocks = g[at[:, :, None], at[:, None, :]]
        order = np.argsort(codes[first], kind="stable")
        seen, begins = np.unique(codes[first][order], return_index=True)
        for j, rows in zip(seen, np.split(order, begins[1:]), strict=True):
            if j < 0:
                continue
            begin, end = self.starts[j], self.starts[j + 1]
            places, b = self.places[begin + q : end], self.values[:, begin + q : end]
            taken = -kept.inner[j] @ b
            lean = np.tensordot(taken, g[places[:, None, None], at[rows][:, ~own]], axes=1)
            blocks[np.ix_(rows, own, ~own)] = lean.transpose(1, 0, 2)
            blocks[np.ix_(rows, ~own, own)] = lean.transpose(1, 2, 0)
            blocks[np.ix_(rows, own, own)] = kept.inner[j] + psi @ pulled.middle[j] @ psi
        return join_priors(lams, codes >= 0, spread, blocks)

    def _turn(self, matrix: Array, lams: Sequence[Array]) -> Array:
        """Return matrix Lam, of a matrix (m, R)."""
        out = np.empty(matrix.shape)
        for count, size, span, lam in zip(self.counts, self.sizes, self.spans, lams, strict=True):
            if span.stop > span.start:
                part = matrix[:, span]
                if size == 1:
                    np.multiply(part, lam[0, 0], out=out[:, span])
                else:
                    turned = part.reshape(len(matrix), count, size) @ lam
                    out[:, span] = turned.reshape(part.shape)
        return out

    def _congruence(self, matrix: Array, lams: Sequence[Array], shift: float, out: Array) -> None:
        """Write shift I + Lam'matrix Lam into the lower triangle of `out`."""
        factors = np.array(self.rest)
        kinds = np.repeat(factors, np.array(self.counts)[factors])
        if all(self.sizes[factor] == 1 for factor in self.rest):
            scale = np.array([lam[0, 0] for lam in lams])[kinds]
            scale_rest(matrix, scale, shift, out)
            return
        most = max(self.sizes)
        turns = np.zeros((len(lams), most, most))
        for turn, lam in zip(turns, lams, strict=True):
            turn[: len(lam), : len(lam)] = lam
        begins = np.concatenate([[0], np.cumsum(np.array(self.sizes)[kinds])])
        turn_rest(matrix, begins, kinds, turns, shift, out)

    def _invert_rest(self, found: Eliminated) -> Array:
        """Return S^-1, lower triangle."""
        kept: _Kept = found.kept
        if "inverse" not in kept.later and not kept.varies:
            kept.later["inverse"] = np.eye(self.width)
        elif "inverse" not in kept.later:
            inverse, info = lapack.dpotri(kept.root, lower=0)
            kept.later["inverse"] = np.full_like(inverse, np.nan).T if info else inverse.T
        return kept.later["inverse"]

    def _inverse(self, lams: Sequence[Array], found: Eliminated) -> Array:
        """Return T = Lam S^-1 Lam' (R, R), both triangles."""
        inverse = self._invert_rest(found)
        out = np.empty_like(inverse)
        self._congruence(inverse, [lam.T for lam in lams], 0.0, out)
        return _fill_upper(out)

    def _lean(self, lams: Sequence[Array], found: Eliminated) -> Array:
        """Return T D_rx (R, p + 1)."""
        kept: _Kept = found.kept
        solved = lapack.dtrtrs(kept.root, kept.half, lower=0)[0]
        return self._turn(solved.T, [lam.T for lam in lams]).T

    def _take(self, lams: Sequence[Array], found: Eliminated) -> Array:
        """Return U = D_rx - D_rr T D_rx (R, p + 1)."""
        kept: _Kept = found.kept
        r = self.width
        tb = self._lean(lams, found).T
        taken = multiply_lower(kept.out, np.ascontiguousarray(tb))
        return np.ascontiguousarray((kept.out[r:, :r] - taken).T)

    def _is_thin(self, factor: int, lam: Array) -> bool:
        """Whether I - S^-1 has lost digits of F of a factor, whose effects vary little."""
        rows = float(np.trace(self.dense[self.spans[factor], self.spans[factor]]))
        least = float(np.linalg.svd(lam, compute_uv=False)[-1])
        return least**2 * rows < THIN * self.counts[factor] * self.sizes[factor]

    def _precision(self, lams: Sequence[Array], found: Eliminated) -> Array:
        """Return F = Z_r'V^-1 Z_r (R, R)."""
        kept: _Kept = found.kept
        r = self.width
        thin = {g for g in self.rest if self._is_thin(g, lams[g])}
        turns = [
            np.eye(len(lam)) if g in thin or g == self.eliminated else np.linalg.inv(lam)
            for g, lam in enumerate(lams)
        ]
        f = np.empty((r, r))
        self._congruence(self._invert_rest(found), turns, 0.0, f)
        f = -_fill_upper(f)
        for g, turn in enumerate(turns):
            if g in self.rest and g not in thin:
                count = self.counts[g]
                own = f[self.spans[g], self.spans[g]].reshape(count, len(turn), count, -1)
                at = np.arange(count)
                own[at, :, at] += turn.T @ turn
        if thin:
            d = _fill_upper(kept.out[:r, :r])
            for g in sorted(thin):
                f[:, self.spans[g]] = self._precision_columns(lams, found, d, self.spans[g])
                f[self.spans[g]] = f[:, self.spans[g]].T
        return f

    def _precision_columns(
        self, lams: Sequence[Array], found: Eliminated, d: Array, span: slice
    ) -> Array:
        """Return columns of F = D - D T D (R, m)."""
        kept: _Kept = found.kept
        if not kept.varies:
            return d[:, span]
        turned = self._turn(np.ascontiguousarray(d[:, span]).T, lams).T
        solved = lapack.dpotrs(kept.root, turned, lower=0)[0]
        return d[:, span] - d @ self._turn(solved.T, [lam.T for lam in lams]).T

    def _bend_plainly(
        self,
        plain: Array,
        lams: Sequence[Array],
        f: Array,
        p: Array,
        products: Sequence[Array],
        directions: Sequence[Array],
        spans: Sequence[slice],
    ) -> None:
        """Add the rest's part of the second derivatives of log |V| to `plain` (m, m)."""
        start = spans[self.eliminated].start
        turned = [self._turn(each.T, [lam @ lam.T for lam in lams]).T for each in products]
        for a, one in enumerate(turned):
            for b in range(a + 1):
                value = -np.einsum("ij,ji->", one, turned[b])
                plain[start + a, start + b] += value
                if b < a:
                    plain[start + b, start + a] += value
            for g in self.rest:
                left, right = (
                    x[self.spans[g]].reshape(self.counts[g], self.sizes[g], -1)
                    for x in (products[a], p)
                )
                value = np.einsum("cab,ab->c", directions[g], _sum_outer(left, right))
                plain[spans[g], start + a] += value
                plain[start + a, spans[g]] += value
        for g in self.rest:
            for h in self.rest:
                block = f[self.spans[g], self.spans[h]]
                shape = self.counts[g], self.sizes[g], self.counts[h], self.sizes[h]
                flat = block.reshape(shape).transpose(1, 3, 0, 2).reshape(shape[1] * shape[3], -1)
                gram = (flat @ flat.T).reshape(shape[1], shape[3], shape[1], shape[3])
                plain[spans[g], spans[h]] -= np.einsum(
                    "xyuv,axu,bvy->ab", gram, directions[g], directions[h], optimize=True
                )

    def _pull(
        self, lams: Sequence[Array], found: Eliminated, weight: Array, *, share: float = 1.0
    ) -> _Pulled:
        """Return the scores by Psi_f, G, and what the eliminated factor's levels made of it."""
        kept: _Kept = found.kept
        r = self.width
        inverse = self._invert_rest(found)
        above = np.zeros((r + len(weight), r + len(weight)))
        if share:
            self._congruence(inverse, [lam.T for lam in lams], 0.0, above)
        tb, u = self._lean(lams, found), self._take(lams, found)
        weighted = tb @ weight
        if weight.any():
            above[:r, :r] += weighted @ tb.T
        above[r:, :r] = -weighted.T
        above[r:, r:] = weight
        scores: list[Array] = []
        for factor, (count, size, span) in enumerate(
            zip(self.counts, self.sizes, self.spans, strict=True)
        ):
            if factor == self.eliminated:
                scores.append(np.empty(0))
                continue
            own = u[span].reshape(count, size, -1)
            score = -np.einsum("jac,cd,jbd->ab", own, weight, own, optimize=True)
            if share:
                score += self._own_precisions(lams, found, factor).sum(axis=0)
            scores.append(0.5 * (score + score.T))
        shape = kept.inner.shape
        own, middle = np.empty(shape), np.empty(shape)
        q = self.sizes[self.eliminated]
        pull_levels(self.values, self.starts, q, self.places, kept.inner, above, own, middle)
        score = share * own.sum(axis=0) - middle.sum(axis=0)
        scores[self.eliminated] = 0.5 * (score + score.T)
        return _Pulled(scores, above, own, middle)

    def _own_precisions(self, lams: Sequence[Array], found: Eliminated, factor: int) -> Array:
        """Return F_jj (J, q, q) of a factor of the rest."""
        kept: _Kept = found.kept
        r, span, lam = self.width, self.spans[factor], lams[factor]
        count, size, at = self.counts[factor], self.sizes[factor], np.arange(self.counts[factor])
        if self._is_thin(factor, lam):
            if "dense" not in kept.later:
                kept.later["dense"] = _fill_upper(kept.out[:r, :r])
            f = self._precision_columns(lams, found, kept.later["dense"], span)[span]
            return np.asarray(f.reshape(count, size, count, size)[at, :, at])
        blocks = np.tril(
            self._invert_rest(found)[span, span].reshape(count, size, count, size)[at, :, at]
        )
        blocks += np.tril(blocks, -1).transpose(0, 2, 1)
        turn = np.linalg.inv(lam)
        return np.asarray(turn.T @ (np.eye(size) - blocks) @ turn)


@kernel
def _fill_upper(matrix: Array) -> Array:
    """Return the symmetric matrix of which the lower triangle is given."""
    n, tile = len(matrix), 32
    full = np.empty((n, n))
    # By tiles, so that what is written by column stays in the cache.
    for i in range(0, n, tile):
        for j in range(0, i + 1, tile):
            for a in range(i, min(i + tile, n)):
                for b in range(j, min(j + tile, a + 1)):
                    full[a, b] = full[b, a] = matrix[a, b]
    return full


def _sum_outer(left: Array, right: Array) -> Array:
    """Return sum_j left_j right_j' (a, b) of (J, a, m) and (J, b, m)."""
    one, two = (x.transpose(1, 0, 2).reshape(x.shape[1], -1) for x in (left, right))
    return np.asarray(one @ two.T)


@kernel
def _gather(
    blocks: Array,
    owner: Array,
    own: Array,
    others: Array,
    places: Array,
    found: Array,
    starts: Array,
    values: Array,
    dense: Array,
) -> None:
    """Add the blocks (C, k, k) of all cells to `values` and to the lower triangle of `dense`.

    A cell has the level `owner` of the eliminated factor, whose columns of a block are `own`; its
    columns `others` stand at `places` (C, m) of `dense` and at `found` (C, m) of `values`.
    """
    q, m = len(own), len(others)
    for c in range(len(blocks)):
        block, first = blocks[c], starts[owner[c]]
        for a in range(q):
            for b in range(q):
                values[a, first + b] += block[own[a], own[b]]
            for b in range(m):
                values[a, found[c, b]] += block[own[a], others[b]]
        for a in range(m):
            for b in range(m):
                if places[c, b] <= places[c, a]:
                    dense[places[c, a], places[c, b]] += block[others[a], others[b]]


def build_crossed(
    blocks: Array,
    codes: Array,
    sizes: Sequence[int],
    *,
    names: Sequence[str],
    memory: int | None = None,
) -> Crossed:
    """Return crossed factors from the cross-products of their cells.

    Args:
        blocks: whitened cross-products (C, k, k) of [Z_1 ... Z_F X y], one block for each
            combination of levels that occurs.
        codes: the level (F, C) of every factor that each block belongs to, from 0.
        sizes: the random coefficients of every factor.
        names: what the factors are called.
        memory: bytes that the dense rest may take; None is half of what the machine has.

    Raises:
        DataError: the dense rest does not fit in memory.
    """
    counts = tuple(int(code.max()) + 1 for code in codes)
    columns = [count * size for count, size in zip(counts, sizes, strict=True)]
    first = int(np.argmax(columns))
    ends = np.cumsum([0 if factor == first else size for factor, size in enumerate(columns)])
    spans = tuple(
        slice(int(end) - (0 if factor == first else size), int(end))
        for factor, (end, size) in enumerate(zip(ends, columns, strict=True))
    )
    r, extra = int(ends[-1]), blocks.shape[1] - sum(sizes)
    needed, memory = DENSE * 8 * (r + extra) ** 2, memory or measure_memory() // 2
    if needed > memory:
        counted = ", ".join(f"{count} of {name}" for name, count in zip(names, counts, strict=True))
        raise DataError(
            f"crossed factors ({counted}) leave {r} effects to a dense matrix, which takes "
            f"{needed / 1e9:.3g} GB of the {memory / 1e9:.3g} GB that may be used; drop the "
            "smaller of the large factors, or its random slopes"
        )
    starts = np.cumsum([0, *sizes])
    own = np.arange(starts[first], starts[first + 1])
    others, places = [], []
    for factor, (size, span) in enumerate(zip(sizes, spans, strict=True)):
        if factor != first:
            others.append(np.arange(starts[factor], starts[factor + 1]))
            places.append(span.start + codes[factor][:, None] * size + np.arange(size))
    others.append(np.arange(starts[-1], blocks.shape[1]))
    places.append(np.broadcast_to(r + np.arange(extra), (blocks.shape[0], extra)))
    at = np.ascontiguousarray(np.concatenate(places, axis=1))
    q, owner = sizes[first], codes[first]
    keys, inverse = np.unique(owner[:, None] * (r + extra) + at, return_inverse=True)
    level, place = np.divmod(keys, r + extra)
    begins = np.searchsorted(level, np.arange(counts[first] + 1)) + q * np.arange(counts[first] + 1)
    # A level's own columns come first.
    shifted = np.arange(len(keys)) + q * (level + 1)
    standing = np.zeros(begins[-1], dtype=np.int64)
    standing[shifted] = place
    values, dense = np.zeros((q, begins[-1])), np.zeros((r + extra, r + extra))
    found = shifted[inverse.reshape(at.shape)]
    _gather(blocks, owner, own, np.concatenate(others), at, found, begins, values, dense)
    dense[r:, r:] = np.tril(sum_blocks(blocks[:, starts[-1] :, starts[-1] :]))
    return Crossed(values, begins, standing, dense, first, tuple(sizes), counts, spans)
