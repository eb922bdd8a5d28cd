"""Moments -> whitened cross-products, in which scale and centring no longer matter.

With X = X~ A^-1 from a pooled QR, Z~ = Z B as far as the covariance structure allows, and
y~ = (y - X b) / s with b and s from ordinary least squares, the fit happens in columns that
are orthonormal, of unit scale and free of offsets; the maps lead back exactly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.errors import IdentifiabilityError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.identify import expect_information, find_flat
from bhlm.moments.moments import INTERCEPT, Moments, pool
from bhlm.moments.strata import StratumMoments

if TYPE_CHECKING:
    from bhlm.likelihood.cells import WhitenedCells
    from bhlm.moments.cells import CellMoments
    from bhlm.moments.level_patterns import LevelPatterns
    from bhlm.moments.patterns import Patterns

Array = np.ndarray

# A column whose share of unexplained variance, given the columns before it, is below this is
# a linear combination of them. Squared, R's tolerance for the same decision is 1e-14; centred
# moments of doubles cannot tell anything below about 1e-13 from rounding.
COLLINEAR = 1e-12
# A residual sum of squares below this share of the total is what rounding leaves of zero.
PERFECT = 1e-13
# Below this share of its mean square a variance is rounding, not variation.
ROUNDING = 1e-26
LARGEST = 1e150  # value whose square, times so many rows as there may be, is a double
EPS = float(np.finfo(float).eps)
TOGETHER = 4096  # groups of which cross-products are whitened at once, within a core's cache


@dataclass(frozen=True, slots=True)
class Whitened:
    """Cross-products of [Z~ X~ y~] per group, and the maps back to the columns as given."""

    blocks: Array  # (J, k, k) with k = q + p + 1, C-contiguous
    n: float  # rows
    q: int
    p: int
    basis: Array  # (q, q) B, with Z~ = Z B, so that u = B u~
    fixed: Array  # (p, p) A, with X~ = X A, so that beta = b + s A beta~
    ols: Array  # (p,) b
    scale: float  # s, the residual SD of ordinary least squares
    logdet_fixed: float  # log |det A|
    # With sampling weights: what each group's log-likelihood is multiplied by (J,), in units in
    # which they add up to the groups, and n is the sum of them times the rows that count; times
    # `unit` it is as given.
    groups: Array | None = None
    unit: float = 1.0
    offset: float = 0.0  # that the log-likelihood as given is more by: of precision weights
    restricted_offset: float = 0.0  # beside, of the restricted one: of known variances
    held: float | None = None  # the residual variance in whitened units, where it is known
    parts: Array | None = None  # (S, J, k, k) of strata that have residual variances of their own
    # (S, J) rows that count, where groups have weights, sigma is held or there are strata
    sizes: Array | None = None

    @property
    def is_plain(self) -> bool:
        """Whether every group counts once, and one residual variance is estimated."""
        return self.sizes is None

    def respond(self, blocks: Array, *, ols: Array, scale: float, held: float | None) -> "Whitened":
        """Return the whitening with another response over the same columns, rows and weights."""
        # Said field by field, which is ten times as fast as dataclasses.replace.
        return Whitened(
            blocks=blocks,
            n=self.n,
            q=self.q,
            p=self.p,
            basis=self.basis,
            fixed=self.fixed,
            ols=ols,
            scale=scale,
            logdet_fixed=self.logdet_fixed,
            groups=self.groups,
            unit=self.unit,
            offset=self.offset,
            restricted_offset=self.restricted_offset,
            held=held,
            parts=self.parts,
            sizes=self.sizes,
        )


def whiten(moments: Moments, structure: Structure) -> Whitened:
    """Return the whitened cross-products of `moments`.

    Raises:
        IdentifiabilityError: more parameters than rows, a constant or perfectly fitted
            response, collinear columns, a random slope of a column that varies between groups
            alone and has too few values there, or no group with more rows than random
            coefficients.
    """
    whole = Whole(*pool(moments))
    check_response(moments, len(structure.directions) + 1, whole=whole)
    columns = whiten_columns(moments, (structure,), whole=whole)
    if moments.weights is not None:
        return _whiten_weighted(moments, structure, columns)
    _check_random(moments, structure, columns.blocks)
    _check_residual(moments, structure, columns.blocks)
    return Whitened(
        blocks=np.ascontiguousarray(columns.blocks),
        n=columns.n,
        q=structure.q,
        p=len(moments.fixed),
        basis=columns.bases[0],
        fixed=columns.fixed,
        ols=columns.ols,
        scale=columns.scale,
        logdet_fixed=columns.logdet_fixed,
    )


def _whiten_weighted(moments: Moments, structure: Structure, columns: "Columns") -> Whitened:
    """Return the whitened cross-products of weighted moments, as the likelihood counts them."""
    weights, applied = moments.weights, moments.applied
    assert weights is not None
    assert applied is not None
    blocks = np.ascontiguousarray(columns.blocks)
    blocks *= applied.factor[:, None, None]
    _check_random(moments, structure, blocks, holds_sigma=weights.holds_sigma)
    if not weights.holds_sigma:
        _check_residual(moments, structure, blocks)
    groups, unit, offset = None, 1.0, applied.offset
    if weights.is_sampling:
        groups = np.ones(moments.n_groups) if applied.groups is None else applied.groups
        unit = float(groups.mean())
    return Whitened(
        blocks=blocks,
        n=float(applied.size.sum() if groups is None else groups @ applied.size / unit),
        q=structure.q,
        p=len(moments.fixed),
        basis=columns.bases[0],
        fixed=columns.fixed,
        ols=columns.ols,
        scale=columns.scale,
        logdet_fixed=columns.logdet_fixed,
        groups=None if groups is None else groups / unit,
        unit=unit,
        offset=offset,
        restricted_offset=measure_columns(moments) if weights.holds_sigma else 0.0,
        held=1.0 / columns.scale**2 if weights.holds_sigma else None,
        sizes=applied.size[None] if weights.is_sampling or weights.holds_sigma else None,
    )


def whiten_strata(strata: StratumMoments, structure: Structure) -> Whitened:
    """Return the whitened cross-products of all rows, and those of every stratum beside them.

    Raises:
        IdentifiabilityError: as `whiten`.
    """
    moments = strata.whole
    white = whiten(moments, structure)
    whole = Whole(*pool(moments))
    columns = whiten_columns(moments, (structure,), whole=whole)
    shape = (len(strata.parts), *white.blocks.shape)
    parts, sizes = np.zeros(shape), np.zeros(shape[:2])
    for s, part in enumerate(strata.parts):
        at = np.searchsorted(moments.groups, part.groups)
        parts[s, at] = _congruence(part, columns.loadings, whole.mean)
        sizes[s, at] = part.n
    return replace(white, parts=parts, sizes=sizes)


def whiten_parts(
    strata: StratumMoments, moments: Moments, structure: Structure
) -> list[tuple[Array, Array]]:
    """Return each stratum's places among the groups (J_s,), and its cross-products (J_s, k, k).

    In the columns in which `whiten` has `moments`, those of all rows by their weights; the strata's
    own count every row once.
    """
    whole = Whole(*pool(moments))
    columns = whiten_columns(moments, (structure,), whole=whole)
    return [
        (
            np.searchsorted(moments.groups, part.groups),
            _congruence(part, columns.loadings, whole.mean),
        )
        for part in strata.parts
    ]


def measure_columns(moments: "Moments | CellMoments") -> float:
    """Return log |X'X| / 2, X unweighted, by which restricted likelihoods of meta-analyses differ.

    So that they do not depend on the units of X, as metafor's (Harville 1974, Biometrika 61,
    383-385). Moments hold X where every group, or cell, has one row; elsewhere, zero.
    """
    if moments.n_rows > len(moments.n):
        return 0.0
    place = {name: i for i, name in enumerate(moments.columns)}
    ones = np.ones(len(moments.n))
    x = [ones if each == INTERCEPT else moments.mean[:, place[each]] for each in moments.fixed]
    triangle = np.linalg.qr(np.column_stack(x), mode="r")
    return float(np.log(np.abs(np.diag(triangle))).sum())


class Whole(NamedTuple):
    """The moments of all rows, as `bhlm.moments.moments.pool` adds them up, once."""

    n: float
    mean: Array  # (k,)
    total: Array  # (k, k) cross-products about the grand means


def _check_sizes(moments: "Moments | CellMoments", *, whole: Whole) -> None:
    """Refuse columns of values whose squares are no doubles: they overflow, or vanish."""
    _, grand, total = whole
    means, squares = np.abs(grand).tolist(), total.diagonal().tolist()
    for name, mean, square in zip(moments.columns, means, squares, strict=True):
        if not math.isfinite(square) or mean > LARGEST or 0.0 < mean < 1.0 / LARGEST:
            raise IdentifiabilityError(
                f"the square of '{name}', whose mean has the size {mean:.2g}, is no double; give "
                f"'{name}' in other units"
            )


def check_response(moments: "Moments | CellMoments", components: int, *, whole: Whole) -> None:
    """Refuse fewer rows than parameters, and a response that is constant.

    Raises:
        IdentifiabilityError: either of these.
    """
    _check_sizes(moments, whole=whole)
    p = len(moments.fixed)
    n, (mass, grand, total) = moments.n_rows, whole
    if n <= p + components:
        raise IdentifiabilityError(
            f"{int(n)} rows cannot identify {p + components} parameters "
            f"({p} fixed effects, {components} variance components); "
            f"drop terms from '{moments.formula}' or give more rows"
        )
    if not total[-1, -1] > ROUNDING * mass * max(grand[-1] ** 2, np.finfo(float).tiny):
        raise IdentifiabilityError(
            f"the response '{moments.response}' is constant ({grand[-1]:g} in every row), so "
            "there is nothing to model; choose a response that varies"
        )


class Columns(NamedTuple):
    """Cross-products of [Z_1~ ... Z_F~ X~ y~], of any number of factors, and the maps back."""

    blocks: Array  # (J, k, k) by group or cell
    n: float  # rows
    bases: tuple[Array, ...]  # (q_f, q_f) as in `Whitened`, by factor
    fixed: Array  # (p, p)
    ols: Array  # (p,)
    scale: float
    logdet_fixed: float
    loadings: Array  # (1 + columns, k) that lead to the whitened columns


def whiten_columns(
    moments: "Moments | CellMoments", structures: Sequence[Structure], *, whole: Whole
) -> Columns:
    """Return the whitened cross-products of moments, with the random columns of every structure.

    Raises:
        IdentifiabilityError: a perfectly fitted response, collinear columns.
    """
    p, sizes = len(moments.fixed), [structure.q for structure in structures]
    n, grand, total = whole
    fixed_at = find_positions(moments, moments.fixed)
    _, a = orthonormalize(moments, moments.fixed, fixed_at, n, grand, total)
    plain = _fit_plainly(moments, a, fixed_at, whole=whole)
    q = sum(sizes)
    bases = []
    loadings = np.zeros((len(grand) + 1, q + p + 1))
    for structure, stop in zip(structures, np.cumsum(sizes).tolist(), strict=True):
        is_same = structure.names == moments.fixed
        random_at = fixed_at if is_same else find_positions(moments, structure.names)
        if is_same and structure.whitening == "triangular" and len(structure.blocks) == 1:
            bases.append(np.ascontiguousarray(a) * np.sqrt(n))  # as `find_basis` finds it
        else:
            bases.append(find_basis(moments, structure, random_at, n, grand, total))
        loadings[random_at, stop - structure.q : stop] = bases[-1]
    # The columns of X~ and y~.
    loadings[fixed_at, q : q + p] = a
    loadings[-1, -1] = 1.0 / plain.scale
    loadings[fixed_at, -1] -= plain.ols / plain.scale
    blocks = _congruence(moments, loadings, grand)
    if INTERCEPT in moments.fixed[1:]:  # which leaves A no triangle
        logdet = float(np.linalg.slogdet(a)[1])
    else:
        logdet = math.fsum(map(math.log, a.diagonal().tolist()))
    return Columns(blocks, n, tuple(bases), a, plain.ols, plain.scale, logdet, loadings)


class _Plain(NamedTuple):
    """Ordinary least squares of the response."""

    ols: Array  # (p,)
    scale: float  # the residual SD


def _fit_plainly(moments: "Moments | CellMoments", a: Array, at: Array, *, whole: Whole) -> _Plain:
    """Return ordinary least squares by A (p, p) with (X A)'(X A) = I, X the columns at `at` (p,).

    Raises `IdentifiabilityError` where nothing is left of the response.
    """
    n, grand, total = whole
    shift = INTERCEPT in moments.fixed
    xy = a.T @ _products(at, [len(grand)], n, grand, total, shift)[:, 0]
    rss = total[-1, -1] + (0.0 if shift else n * grand[-1] ** 2) - xy @ xy
    if not rss > PERFECT * total[-1, -1]:
        raise IdentifiabilityError(
            f"the fixed effects fit '{moments.response}' without error, so no variance is left "
            "to divide; drop the column that repeats the response"
        )
    rows = float(moments.n_rows)
    ols = a @ xy
    if shift:
        ols[moments.fixed.index(INTERCEPT)] += grand[-1]
    return _Plain(ols, float(np.sqrt(rss / ((rows - len(a)) * (n / rows)))))


def find_positions(moments: "Moments | CellMoments", names: Sequence[str]) -> Array:
    """Return where each of some columns stands in [1, columns]."""
    place = {INTERCEPT: 0} | {name: i + 1 for i, name in enumerate(moments.columns)}
    return np.array([place[name] for name in names], dtype=int)


def _products(
    rows: Array, columns: Array | list[int], n: float, grand: Array, total: Array, shift: bool
) -> Array:
    """Return cross-products over all rows of the table of [1, columns] (about the means if shift).

    With `shift` every column but the intercept is taken about its grand mean.
    """
    extended = np.zeros((len(grand) + 1, len(grand) + 1))
    extended[1:, 1:] = total
    if shift:
        extended[0, 0] = n
    else:
        means = np.concatenate([[1.0], grand])
        extended += n * np.outer(means, means)
    return extended[rows][:, columns]


def orthonormalize(
    moments: "Moments | CellMoments | Patterns | LevelPatterns",
    names: tuple[str, ...],
    at: Array,
    n: float,
    grand: Array,
    total: Array,
) -> tuple[bool, Array]:
    """Return whether an intercept absorbs the means, and A (p, p) with (X A)'(X A) = I."""
    shift = INTERCEPT in names
    gram = _products(at, at, n, grand, total, shift)
    a = _inverse_factor(moments, names, gram, n, grand[at - 1])
    if shift:
        first = names.index(INTERCEPT)
        others = np.flatnonzero(at != 0)
        a[first] -= grand[at[others] - 1] @ a[others]
    return shift, a


def _inverse_factor(
    moments: "Moments | CellMoments | Patterns | LevelPatterns",
    names: tuple[str, ...],
    gram: Array,
    n: float,
    means: Array,
) -> Array:
    """Return R^-1 of gram = R'R, refusing columns that repeat the ones before them."""
    size = np.sqrt(gram.diagonal())
    for name, length, mean in zip(names, size.tolist(), means.tolist(), strict=True):
        if name != INTERCEPT and not length**2 > ROUNDING * n * mean**2:
            raise IdentifiabilityError(
                f"'{name}' does not vary over the {moments.n_rows} rows used, so it has no effect "
                "to "
                f"estimate; drop it from '{moments.formula}'"
            )
    unit = gram / (size[:, None] * size)
    # Row by row, without LAPACK, which wakes its threads for the smallest triangle.
    root = np.zeros_like(unit)
    for j, name in enumerate(names):
        rest = unit[j, j:] - root[:j, j] @ root[:j, j:] if j else unit[j]
        if rest[0] < COLLINEAR:
            raise IdentifiabilityError(
                f"'{name}' is a linear combination of {', '.join(names[:j])}, so their effects "
                f"cannot be told apart; drop it from '{moments.formula}'"
            )
        root[j, j:] = rest / math.sqrt(rest[0])
    inverse = np.zeros_like(unit, order="F")
    last = len(names) - 1
    for j in range(last, -1, -1):
        inverse[j, j] = back = 1.0 / root[j, j]
        if j < last:
            inverse[j, j + 1 :] = -(root[j, j + 1 :] @ inverse[j + 1 :, j + 1 :]) * back
    return np.asarray(inverse / size[:, None])


def find_basis(
    moments: "Moments | CellMoments | Patterns | LevelPatterns",
    structure: Structure,
    at: Array,
    n: float,
    grand: Array,
    total: Array,
) -> Array:
    """Return B (q, q), triangular in each block, diagonal or common as the structure allows."""
    q = structure.q
    if structure.whitening == "triangular":
        basis = np.zeros((q, q))
        start = 0
        for block in structure.blocks:
            span = slice(start, start + len(block))
            _, a = orthonormalize(moments, tuple(block), at[span], n, grand, total)
            basis[span, span] = a * np.sqrt(n)
            start += len(block)
        return basis
    squares = np.concatenate([[n], np.diag(total) + n * grand**2])
    size = np.sqrt(squares[at] / n)
    if not size.all():
        name = structure.names[int(np.argmin(size))]
        raise IdentifiabilityError(
            f"'{name}' is zero in all of the {moments.n_rows} rows used, so its random slope has "
            "no "
            f"variance to estimate; drop it from '{moments.formula}'"
        )
    if structure.whitening == "columns":
        return np.diag(1.0 / size)
    return np.asarray(np.eye(q) / np.sqrt(np.mean(size**2)))


def _check_random(
    moments: Moments, structure: Structure, blocks: Array, *, holds_sigma: bool = False
) -> None:
    """Refuse random slopes of columns that vary between groups alone, where these do not tell them.

    For w of that kind, (w | g) says that the variance of a group's mean is g00 + 2 g01 w + g11 w^2,
    which three values of w tell, and two do not.
    """
    constant = _find_constant(moments)
    if not constant:
        return
    information = expect_information(
        blocks, len(moments.random), structure, n=float(moments.n.sum()), restricted=True
    )
    if holds_sigma:  # it is known, and need not be told from the others
        information = information[:-1, :-1]
    if not len(find_flat(information, np.ones(len(information)), n_groups=moments.n_groups)):
        return
    place = {name: i for i, name in enumerate(moments.columns)}
    values = {name: moments.mean[:, place[name]] for name in constant}
    raise refuse_constant(structure, values)


def _find_constant(moments: Moments) -> list[str]:
    """Return the columns with random slopes beside a random intercept that vary in no group."""
    if INTERCEPT not in moments.random:
        return []
    place = {name: i for i, name in enumerate(moments.columns)}
    found = []
    for name in moments.random:
        if name == INTERCEPT:
            continue
        i = place[name]
        within = float(moments.cross[:, i, i].sum())
        if not within > ROUNDING * float(moments.mass @ moments.mean[:, i] ** 2):
            found.append(name)
    return found


def refuse_constant(structure: Structure, values: dict[str, Array]) -> IdentifiabilityError:
    """Return the error of random slopes of columns that vary between groups alone.

    Args:
        structure: of the random coefficients.
        values: each such column by group, of which the one with the fewest values is named.
    """
    counts = {name: _count_values(each) for name, each in values.items()}
    name = min(counts, key=counts.__getitem__)
    terms = " + ".join(structure.names).replace(INTERCEPT, "1")
    return IdentifiabilityError(
        f"'{name}' never varies within any '{structure.group}' and has {counts[name]} different "
        f"values between them, which do not tell the {len(structure.directions)} variances and "
        f"covariances of ({terms} | {structure.group}) apart; drop it from there"
    )


def _count_values(values: Array) -> int:
    """Return the number of different values (J,), those that rounding tells apart being one."""
    ordered = np.sort(values)
    return 1 + int(np.sum(np.diff(ordered) > np.sqrt(ROUNDING) * np.abs(ordered).max()))


def _check_residual(moments: Moments, structure: Structure, blocks: Array) -> None:
    """Refuse rows that do not tell the residual variance from those of the random coefficients.

    One row more in some group than it has random coefficients is enough, but not needed: two rows
    of a group tell three variance components apart where x differs between groups.
    """
    q = len(moments.random)
    # No rank is above q, and mostly that is enough to know.
    if float(np.maximum(moments.n - q, 0.0).sum()) >= 1:
        return
    if float((moments.n - group_ranks(moments)).sum()) >= 1:
        return
    information = expect_information(
        blocks, q, structure, n=float(moments.n.sum()), restricted=True
    )
    size = np.ones(len(information))
    if len(find_flat(information, size, n_groups=moments.n_groups)):
        raise IdentifiabilityError(
            f"no '{moments.group}' has more rows than random coefficients ({q}), and the residual "
            "variance cannot be told from theirs; drop random terms or give more rows per group"
        )


def group_ranks(moments: Moments) -> Array:
    """Return the rank (J,) of each group's Z_j, from its moments."""
    place = {name: i for i, name in enumerate(moments.columns)}
    slopes = [place[name] for name in moments.random if name != INTERCEPT]
    has_intercept = INTERCEPT in moments.random
    cross = moments.cross[:, slopes][:, :, slopes]
    mean = moments.mean[:, slopes]
    if not has_intercept:
        cross = cross + moments.mass[:, None, None] * mean[:, :, None] * mean[:, None, :]
    size = np.sqrt(np.maximum(np.einsum("jaa->ja", cross), 0.0))
    noise = np.sqrt(ROUNDING * moments.mass[:, None] * mean**2)
    varies = size > noise
    size = np.where(varies, size, 1.0)
    unit = cross / size[:, :, None] / size[:, None, :] * (varies[:, :, None] & varies[:, None, :])
    rank = np.linalg.matrix_rank(unit, tol=1e-10, hermitian=True) if slopes else 0
    return np.asarray(np.minimum(rank + int(has_intercept), moments.n))


def _congruence(moments: "Moments | CellMoments", loadings: Array, grand: Array) -> Array:
    """Return L'(cross + n mean mean')L per group, with the means taken about the grand mean.

    The intercept's row of L absorbs the offsets, so that large column means cancel in L, once,
    and not in every group's cross-product.
    """
    inner = loadings[1:]
    means = _whiten_means(moments, loadings, grand)
    n_groups, (k, width) = len(moments.cross), inner.shape
    blocks = np.empty((n_groups, width, width))
    for start in range(0, n_groups, TOGETHER):
        part = slice(start, start + TOGETHER)
        cross, out = moments.cross[part], blocks[part]
        count = len(cross)
        # As two products of long matrices: one call for each small one is what would take the time.
        half = (cross.reshape(count * k, k) @ inner).reshape(count, k, width)
        half = half.transpose(0, 2, 1).reshape(count * width, k)
        np.matmul(half, inner, out=out.reshape(count * width, width))
        add_squares(out, moments.mass[part], means[part])
    return blocks


@kernel
def add_squares(blocks: Array, mass: Array, means: Array) -> None:
    """Add n mean mean' of each group to its block (J, k, k), without room for them."""
    n_groups, k = means.shape
    for j in range(n_groups):
        for a in range(k):
            share = mass[j] * means[j, a]
            for b in range(k):
                blocks[j, a, b] += share * means[j, b]


def _whiten_means(moments: "Moments | CellMoments", loadings: Array, grand: Array) -> Array:
    """Return the groups' means (J, q + p + 1) of the whitened columns."""
    offset = loadings[0] + grand @ loadings[1:]
    # Columns that an intercept centres have an offset that is zero but for rounding.
    size = np.abs(loadings[0]) + np.abs(grand) @ np.abs(loadings[1:])
    offset = np.where(np.abs(offset) < 8 * EPS * size, 0.0, offset)
    return np.asarray((moments.mean - grand) @ loadings[1:] + offset)


def whiten_parameters(
    white: "Whitened | WhitenedCells", beta: Array, root: Array, sigma: Array | float
) -> tuple[Array, Array, Array]:
    """Return (beta~, lam, sigma~) for parameters of the columns as given.

    Args:
        white: the whitening.
        beta: fixed effects (..., p).
        root: a square root (..., q, q) of G, G = root root'.
        sigma: residual SD (...).

    Returns:
        beta~ = A^-1 (beta - b) / s, lam = B^-1 root / sigma and sigma~ = sigma / s.
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    whitened_beta = (beta - white.ols) @ np.linalg.inv(white.fixed).T / white.scale
    lam = np.linalg.inv(white.basis) @ root / sigma[..., None, None]
    return whitened_beta, lam, sigma / white.scale
