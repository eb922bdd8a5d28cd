"""Crossed factors: eliminate the one with the most levels, factor the dense rest.

Level j of the eliminated factor meets some levels of the others; B_j holds the products of its
columns with theirs and with [X y]. Its random effects integrated out leave, as in `nested`,

    D = sum_c [Z_r X y]'[Z_r X y] - sum_j B_j'T_j B_j,   T_j = lam K_j^-1 lam'

over the R = sum_f J_f q_f columns Z_r of the other factors, which are eliminated together: with Lam
their lam_f repeated down the diagonal, S = I + Lam'D_rr Lam is factored by LAPACK. The way back
is that of `nested`, once for the rest and once for each level of the eliminated factor. Source:
Bates, Maechler, Bolker & Walker (2015), J. Stat. Softw. 67(1), section 4, for the blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np
from scipy.linalg import lapack, solve_triangular

from bhlm.errors import DataError
from bhlm.likelihood.levels import Effects, Eliminated
from bhlm.likelihood.profiled import factor_group, invert_group
from bhlm.processes import measure_memory

Array = np.ndarray

DENSE = 8  # matrices of the dense rest that are held at a time


@numba.njit(cache=True, nogil=True, error_model="numpy")
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


@numba.njit(cache=True, nogil=True, error_model="numpy")
def pull_levels(
    values: Array,
    starts: Array,
    q: int,
    psi: Array,
    places: Array,
    inner: Array,
    above: Array,
    score: Array,
    spread: Array,
) -> None:
    """Add F_j - U_j G U_j' of every level to `score` (q, q), G the rows and columns of `above`.

    Writes T + Psi U G U' Psi into `spread` (J, q, q).
    """
    middle = np.empty((q, q))
    shrunk = np.empty((q, q))
    for j in range(len(starts) - 1):
        first, last = starts[j], starts[j + 1]
        width = last - first
        block = values[:, first:last]
        # P = I - A T, so that [F U] = P [A B].
        for a in range(q):
            for b in range(q):
                value = 1.0 if a == b else 0.0
                for i in range(q):
                    value -= block[a, i] * inner[j, i, b]
                shrunk[a, b] = value
        taken = np.empty((q, width))
        for a in range(q):
            for c in range(width):
                value = 0.0
                for i in range(q):
                    value += shrunk[a, i] * block[i, c]
                taken[a, c] = value
        middle[:] = 0.0
        for c in range(q, width):
            row = above[places[first + c]]
            for b in range(q):
                value = 0.0
                for d in range(q, width):
                    value += row[places[first + d]] * taken[b, d]
                for a in range(q):
                    middle[a, b] += taken[a, c] * value
        for a in range(q):
            for b in range(q):
                score[a, b] += taken[a, b] - middle[a, b]
                value = inner[j, a, b]
                for i in range(q):
                    for m in range(q):
                        value += psi[a, i] * middle[i, m] * psi[m, b]
                spread[j, a, b] = value


class _Kept(NamedTuple):
    """What the way back needs."""

    inner: Array  # (J, q, q) T_j of the eliminated factor
    rest: Array  # (R, R) D_rr
    right: Array  # (R, p + 1) D_rx
    root: Array  # (R, R) lower Cholesky factor of S
    half: Array  # (R, p + 1) root^-1 Lam'D_rx


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

    def eliminate(self, lams: Sequence[Array]) -> Eliminated:
        """Return log |V| and E; see `bhlm.likelihood.levels.Levels`."""
        q, r = self.sizes[self.eliminated], self.width
        lam = np.ascontiguousarray(lams[self.eliminated])
        out = self.dense.copy()
        inner = np.empty((len(self.starts) - 1, q, q))
        logdet = eliminate_levels(self.values, self.starts, q, lam, self.places, out, inner)
        rest = np.tril(out[:r, :r])
        rest += np.tril(rest, -1).T
        right = out[r:, :r].T
        square = self._turn(self._turn(rest, lams).T, lams)
        square.flat[:: r + 1] += 1.0
        root, info = lapack.dpotrf(square.T, lower=1, clean=1, overwrite_a=1)
        if info:
            root = np.full_like(root, np.nan)
        half = solve_triangular(root, self._turn(right.T, lams).T, lower=True, check_finite=False)
        e = np.tril(out[r:, r:])
        e += np.tril(e, -1).T
        logdet += 2.0 * float(np.log(np.diag(root)).sum())
        return Eliminated(logdet, e - half.T @ half, _Kept(inner, rest, right, root, half))

    def slopes(self, lams: Sequence[Array], found: Eliminated, weight: Array) -> tuple[Array, ...]:
        """Return the derivatives by lam_f; see `bhlm.likelihood.levels.Levels`."""
        slopes, _, _ = self._pull(lams, found, weight)
        return slopes

    def effects(
        self, lams: Sequence[Array], found: Eliminated, beta: Array, spread: Array
    ) -> tuple[Effects, ...]:
        """Return every factor's effects; see `bhlm.likelihood.levels.Levels`."""
        p, r = len(beta), self.width
        weight = np.zeros((p + 1, p + 1))
        weight[:p, :p] = spread
        _, above, cov = self._pull(lams, found, weight)
        left = np.append(-beta, 1.0)
        kept: _Kept = found.kept
        mean = solve_triangular(kept.root, kept.half @ left, lower=True, trans="T")
        mean = self._turn(mean[None], [lam.T for lam in lams])[0]
        left = np.concatenate([-mean, left])
        q = self.sizes[self.eliminated]
        sums = np.empty((len(cov), q))
        for j, (first, last) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            sums[j] = self.values[:, first + q : last] @ left[self.places[first + q : last]]
        result = []
        for factor, (count, size, span) in enumerate(
            zip(self.counts, self.sizes, self.spans, strict=True)
        ):
            if factor == self.eliminated:
                result.append(Effects(np.einsum("jab,jb->ja", kept.inner, sums), cov))
                continue
            blocks = above[:r, :r][span, span].reshape(count, size, count, size)
            own = np.arange(count)
            result.append(Effects(mean[span].reshape(count, size), blocks[own, :, own]))
        return tuple(result)

    def _turn(self, matrix: Array, lams: Sequence[Array]) -> Array:
        """Return matrix Lam, of a matrix (m, R)."""
        out = np.empty(matrix.shape)
        for count, size, span, lam in zip(self.counts, self.sizes, self.spans, lams, strict=True):
            if span.stop > span.start:
                part = matrix[:, span]
                if size == 1:
                    out[:, span] = part * lam[0, 0]
                else:
                    turned = part.reshape(len(matrix), count, size) @ lam
                    out[:, span] = turned.reshape(part.shape)
        return out

    def _pull(
        self, lams: Sequence[Array], found: Eliminated, weight: Array
    ) -> tuple[tuple[Array, ...], Array, Array]:
        """Return the slopes by lam_f, G (R + p + 1, R + p + 1) and the eliminated factor's."""
        kept: _Kept = found.kept
        r = self.width
        inverse, info = lapack.dpotri(kept.root, lower=1)
        if info:
            inverse = np.full_like(inverse, np.nan)
        inverse = np.tril(inverse)
        inverse += np.tril(inverse, -1).T
        back = [lam.T for lam in lams]
        lifted = self._turn(inverse, back)  # S^-1 Lam'
        solved = solve_triangular(kept.root, kept.half, lower=True, trans="T", check_finite=False)
        turned = self._turn(solved.T, back).T  # T D_rx
        u = kept.right - kept.rest @ turned
        above = np.empty((r + len(weight), r + len(weight)))
        above[:r, :r] = self._turn(lifted.T, back)
        weighted = turned @ weight
        above[:r, :r] += weighted @ turned.T
        above[r:, :r] = -weighted.T
        above[:r, r:] = -weighted
        above[r:, r:] = weight
        rest = self._turn(kept.rest, lams)
        slopes: list[Array] = []
        for count, size, span, lam in zip(self.counts, self.sizes, self.spans, lams, strict=True):
            if span.stop == span.start:
                slopes.append(np.empty(0))
                continue
            own = u[span].reshape(count, size, -1)
            score = -np.einsum("jac,cd,jbd->ab", own, weight, own) @ lam
            left, right = rest[span], inverse[:, span]
            for a in range(size):
                for b in range(size):
                    score[a, b] += np.einsum("ji,ij->", left[a::size], right[:, b::size])
            slopes.append(2.0 * score)
        q = self.sizes[self.eliminated]
        lam = lams[self.eliminated]
        score, cov = np.zeros((q, q)), np.empty_like(kept.inner)
        pull_levels(
            self.values, self.starts, q, lam @ lam.T, self.places, kept.inner, above, score, cov
        )
        slopes[self.eliminated] = (score + score.T) @ lam
        return tuple(slopes), above, cov


@numba.njit(cache=True, nogil=True, error_model="numpy")
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
    return Crossed(values, begins, standing, dense, first, tuple(sizes), counts, spans)
