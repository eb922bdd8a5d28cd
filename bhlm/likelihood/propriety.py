"""How fast the restricted likelihood falls where variances grow.

Let S be a subspace of the random coefficients and let G grow like lam on S. Then, with B_S the
block-diagonal matrix of the Z_j S,

    restricted likelihood ~ lam^(-N(S) / 2),
    N(S) = rank [X  B_S] - rank X = sum_j rank(Z_j S) - r(S),

r(S) being the dimension of the fixed effects that S absorbs: {beta: X_j beta in span(Z_j S) for
all j}. For K a basis of the complement of X, |K'VK| has rank(K'B_S) eigenvalues of order lam, and
|K'VK| = |V| |X'V^-1 X| / |X'X|; the exponent y'Py tends to a constant. A fixed effect counts
against S only if it is absorbed wholly, as a covariate that varies within groups beyond Z_j S
never is.

Sources: Hobert & Casella (1996), JASA 91, 1461-1473; Chaloner (1987), Technometrics 29, 323-337.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bhlm.likelihood.whitening import Whitened
from bhlm.moments.sums import sum_blocks

Array = np.ndarray

# Of a group's Z_j S, relative to the trace of Z_j'Z_j: a smaller eigenvalue is rounding. Centred
# moments of doubles tell nothing apart below about 1e-13; the angle between the columns enters
# squared.
RANK = 1e-11
# Of X'X left when the span of Z S is projected out, X'X = I. A fixed effect that is absorbed to
# five digits is absorbed, for any scale at which the integrand matters.
ABSORBED = 1e-9
# Blocks larger than this are searched along fewer chains of subspaces (3^b of them).
LARGEST_BLOCK = 4
SAME = 1e-4  # subspaces whose projectors differ by less are one, found with rounding
STARTS = 8  # of the search for directions that are no columns
ASCENTS = 300  # steps of that search; it converges linearly


@dataclass(frozen=True, slots=True)
class Geometry:
    """Cross-products in whitened columns, and the maps to the columns as given."""

    zz: Array  # (J, q, q)
    zxy: Array  # (J, q, p + 1) of Z with X and y
    xy: Array  # (p + 1, p + 1) over all rows, X'X = I
    basis: Array  # (q, q) B, u = B u~
    fixed: Array  # (p, p) A, beta = b + s A beta~
    n: float
    sizes: tuple[int, ...]  # of the correlated blocks
    # What `project_out` found, by the subspace: most are asked for several times.
    found: dict[tuple[tuple[int, ...], bytes], tuple[Array, Array]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def q(self) -> int:
        """The number of random coefficients."""
        return self.zz.shape[1]

    @property
    def p(self) -> int:
        """The number of fixed effects."""
        return len(self.xy) - 1


def read_geometry(white: Whitened, sizes: Sequence[int]) -> Geometry:
    """Return the geometry of whitened cross-products."""
    q = white.q
    blocks = white.blocks
    return Geometry(
        zz=blocks[:, :q, :q],
        zxy=blocks[:, :q, q:],
        xy=sum_blocks(blocks[:, q:, q:]),
        basis=white.basis,
        fixed=white.fixed,
        n=float(white.n),
        sizes=tuple(int(size) for size in sizes),
    )


def count_freedom(geometry: Geometry, span: Array, kept: Array | None = None) -> tuple[int, Array]:
    """Return N(S), and the fixed effects that S absorbs as columns (p, r) in whitened units.

    Args:
        geometry: the cross-products.
        span: S (q, k), in the columns as given.
        kept: columns (p, f), orthonormal, of the fixed effects that may be absorbed; None is all.
    """
    ranks, left = project_out(geometry, span)
    left = left[:-1, :-1]
    kept = np.eye(geometry.p) if kept is None else kept
    values, vectors = np.linalg.eigh(kept.T @ left @ kept)
    absorbed = kept @ vectors[:, values < ABSORBED]
    return int(ranks.sum()) - absorbed.shape[1], absorbed


def residual_share(geometry: Geometry, span: Array) -> float:
    """Return the share of the response's sum of squares that [X  B_S] leaves unexplained."""
    _, left = project_out(geometry, span)
    values, vectors = np.linalg.eigh(left[:-1, :-1])
    usable = values > ABSORBED
    along = vectors[:, usable].T @ left[:-1, -1]
    rss = left[-1, -1] - np.sum(along**2 / values[usable])
    return float(rss / geometry.xy[-1, -1])


def project_out(geometry: Geometry, span: Array) -> tuple[Array, Array]:
    """Return rank(Z_j S) (J,), and [X y]'[X y] with Z_j S projected out in each group."""
    if span.shape[1] == 0:
        return np.zeros(len(geometry.zz), dtype=int), geometry.xy
    key = span.shape, span.tobytes()
    if key in geometry.found:
        return geometry.found[key]
    inner = np.linalg.qr(np.linalg.solve(geometry.basis, span))[0]
    gram = inner.T @ geometry.zz @ inner
    size = np.maximum(np.einsum("jaa->j", geometry.zz), np.finfo(float).tiny)
    values, vectors = np.linalg.eigh(gram)
    usable = values > RANK * size[:, None]
    along = vectors.transpose(0, 2, 1) @ (inner.T @ geometry.zxy)
    along *= (usable / np.sqrt(np.where(usable, values, 1.0)))[:, :, None]
    flat = along.reshape(-1, along.shape[2])
    geometry.found[key] = usable.sum(axis=1), geometry.xy - flat.T @ flat
    return geometry.found[key]


def find_special(geometry: Geometry, start: int, size: int, kept: Array) -> list[Array]:
    """Return subspaces (size, k) of a block that are no columns' span and fall slower than others.

    They exist where groups have Z_j of deficient rank (the kernels), and where the fixed effects
    that the whole block absorbs are not the sum of those that its columns absorb. The latter are
    found from random starts, by turning subspace and absorbed effects towards each other.
    """
    if size == 1:
        return []
    q = geometry.q
    embed = np.zeros((q, size))
    embed[start : start + size] = np.eye(size)
    found = _find_kernels(geometry, embed)
    whole_effects = count_freedom(geometry, embed, kept)[1]
    whole = whole_effects.shape[1]
    single = [count_freedom(geometry, embed[:, [i]], kept)[1].shape[1] for i in range(size)]
    if sum(single) >= whole or size > LARGEST_BLOCK:
        return found
    table = _load_coefficients(geometry, embed, whole_effects)
    rng = np.random.default_rng(size)
    for k in range(1, size):
        generic = np.linalg.qr(rng.normal(size=(size, k)))[0]
        usual, absorbed = count_freedom(geometry, embed @ generic, kept)
        tried: list[Array] = []
        for _ in range(STARTS):
            begin = np.linalg.qr(rng.normal(size=(size, k)))[0]
            tried.append(_climb(table, begin, absorbed.shape[1] + 1))
        for span in _drop_repeats(tried):
            if count_freedom(geometry, embed @ span, kept)[0] < usual:
                found.append(span)
    unit = np.eye(size)
    plain = [
        unit[:, list(at)] for k in range(1, size) for at in itertools.combinations(range(size), k)
    ]
    return _drop_repeats([*plain, *found])[len(plain) :]


def _load_coefficients(geometry: Geometry, embed: Array, absorbed: Array) -> Array:
    """Return what absorbed fixed effects do in each group, as coefficients of Z_j: (b, b, r, r).

    X_j beta_c = Z_j C_j e_c for the columns beta_c of `absorbed`, scaled so that
    sum_j C_j'C_j = I; entry [i, m] is sum_j (row i of C_j)' (row m of C_j).
    """
    inner = np.linalg.solve(geometry.basis, embed)
    gram = inner.T @ geometry.zz @ inner
    inverse = np.linalg.pinv(gram, rcond=RANK, hermitian=True)
    loads = inverse @ (inner.T @ geometry.zxy[:, :, :-1]) @ absorbed
    groups, b, r = loads.shape
    loads = np.linalg.qr(loads.reshape(groups * b, r))[0].reshape(groups, b, r)
    return np.einsum("jic,jmd->imcd", loads, loads)


def _climb(table: Array, span: Array, count: int) -> Array:
    """Return the subspace S (b, k) near `span` that comes closest to absorbing `count` effects.

    The share of an effect v that lies in S is v'(sum_j C_j'SS'C_j)v; effects and subspace are
    updated in turn, and neither step lowers the sum of the shares.
    """
    b, k = span.shape
    last = -1.0
    for _ in range(ASCENTS):
        gram = np.einsum("ia,imcd,ma->cd", span, table, span)
        values, vectors = np.linalg.eigh(gram)
        total = float(values[-count:].sum())
        if total - last < 1e-14 or count > len(values):
            break
        last = total
        top = vectors[:, -count:]
        span = np.linalg.eigh(np.einsum("cv,imcd,dv->im", top, table, top))[1][:, b - k :]
    return span


def _find_kernels(geometry: Geometry, embed: Array) -> list[Array]:
    """Return the directions of a block that most groups of deficient rank cannot see."""
    inner = np.linalg.solve(geometry.basis, embed)
    gram = inner.T @ geometry.zz @ inner
    scale = np.sqrt(np.maximum(np.einsum("jaa->a", gram), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(gram / np.outer(scale, scale))
    size = np.maximum(values[:, -1:], np.finfo(float).tiny)
    kernels: list[tuple[int, Array]] = []
    for row, column in zip(*np.nonzero(values <= 1e-10 * size), strict=True):
        direction = vectors[row, :, column] / scale
        direction /= np.linalg.norm(direction)
        for i, (count, other) in enumerate(kernels):
            if abs(direction @ other) > 1.0 - 1e-9:
                kernels[i] = (count + 1, other)
                break
        else:
            if len(kernels) < 50:
                kernels.append((1, direction))
    kernels.sort(key=lambda pair: -pair[0])
    return [direction[:, None] for count, direction in kernels[:2] if count > 1]


def _drop_repeats(spans: Sequence[Array]) -> list[Array]:
    kept: list[Array] = []
    for span in spans:
        span = np.linalg.qr(span)[0]
        if all(
            span.shape != other.shape or np.max(np.abs(span @ span.T - other @ other.T)) > SAME
            for other in kept
        ):
            kept.append(span)
    return kept
