"""Moments by cell -> whitened cross-products of several factors, and the maps back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.linalg import block_diag

from bhlm.errors import IdentifiabilityError
from bhlm.likelihood.arrange import arrange_levels, is_chain
from bhlm.likelihood.covariance import Structure, combine
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.identify import find_flat
from bhlm.likelihood.levels import expect_squares
from bhlm.likelihood.nested import Nested, is_nested
from bhlm.likelihood.whitening import (
    ROUNDING,
    Whole,
    check_response,
    measure_columns,
    refuse_constant,
    whiten_columns,
)
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import INTERCEPT, pool

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class WhitenedCells:
    """Whitened cross-products under the pattern of their factors, and the maps back."""

    levels: Nested | Crossed
    n: float  # rows
    p: int
    bases: tuple[Array, ...]  # (q_f, q_f) B_f by factor, with Z_f~ = Z_f B_f
    fixed: Array  # (p, p) A, with X~ = X A, so that beta = b + s A beta~
    ols: Array  # (p,) b
    scale: float  # s, the residual SD of ordinary least squares
    logdet_fixed: float  # log |det A|
    blocks: Array  # (C, k, k) cross-products of [Z_1~ ... Z_F~ X~ y~] by cell
    codes: Array  # (F, C) the level of every factor that each cell belongs to
    unit: float = 1.0  # as in `Whitened`
    offset: float = 0.0
    restricted_offset: float = 0.0
    held: float | None = None
    # With sampling weights: by factor, those of its units (J_f,), the coarsest in such a unit that
    # all count for n together; and the rows (C,) that count in each cell.
    weights: tuple[Array, ...] | None = None
    sizes: Array | None = None

    @property
    def basis(self) -> Array:
        """The block-diagonal B (q, q) of all factors, one after the other."""
        return np.asarray(block_diag(*self.bases))

    @property
    def q(self) -> int:
        """The random coefficients of all factors."""
        return sum(map(len, self.bases))


def arrange_factors(
    moments: CellMoments | LevelPatterns, covariance: str | None = None
) -> tuple[Structure, ...]:
    """Return the covariance structure of every factor; see `bhlm.likelihood.covariance.combine`."""
    return tuple(
        combine(factor.blocks, group=factor.name, covariance=covariance)
        for factor in moments.factors
    )


@dataclass(frozen=True, slots=True)
class CellBlocks:
    """Whitened cross-products of [Z_1 ... Z_F X y] by cell, before the factors are arranged."""

    blocks: Array  # (C, k, k)
    codes: Array  # (F, C) the level of every factor that each cell belongs to
    n: Array  # (C,) rows
    sizes: tuple[int, ...]  # q_f by factor
    names: tuple[str, ...]  # of the factors

    def arrange(self) -> Nested | Crossed:
        """Return the factors under their pattern."""
        return arrange_levels(self.blocks, self.codes, self.sizes, names=self.names)

    def keep(self, kept: Array) -> "CellBlocks":
        """Return some of the cells (a mask), with the levels that are left counted anew."""
        codes = np.array([np.unique(each[kept], return_inverse=True)[1] for each in self.codes])
        return replace(self, blocks=self.blocks[kept], codes=codes, n=self.n[kept])

    def turn(self, factors: Sequence[int], loadings: Array, sizes: Sequence[int]) -> "CellBlocks":
        """Return the cells of some of the factors, with other columns.

        Args:
            factors: which are left.
            loadings: the new columns (k, k') of the old ones.
            sizes: of the new random columns, the columns of each factor that is left.
        """
        codes = self.codes[list(factors)]
        merged, at = np.unique(codes, axis=1, return_inverse=True)
        blocks = np.zeros((merged.shape[1], loadings.shape[1], loadings.shape[1]))
        np.add.at(blocks, at.ravel(), loadings.T @ self.blocks @ loadings)
        return CellBlocks(
            blocks=blocks,
            codes=merged,
            n=np.bincount(at.ravel(), weights=self.n),
            sizes=tuple(sizes),
            names=tuple(self.names[factor] for factor in factors),
        )


def whiten_blocks(moments: CellMoments, structures: Sequence[Structure]) -> CellBlocks:
    """Return the whitened cross-products of every cell, in the columns of `whiten_cells`."""
    columns = whiten_columns(moments, structures, whole=Whole(*pool(moments)))
    return CellBlocks(
        blocks=columns.blocks,
        codes=moments.codes,
        n=moments.n,
        sizes=tuple(structure.q for structure in structures),
        names=tuple(structure.group for structure in structures),
    )


def whiten_cells(moments: CellMoments, structures: Sequence[Structure]) -> WhitenedCells:
    """Return the whitened cross-products of `moments`.

    Raises:
        IdentifiabilityError: what `bhlm.likelihood.whitening.whiten` refuses; two factors that
            divide the rows alike, or one that has a level for every row.
        DataError: crossed factors that are too large for the memory.
    """
    whole = Whole(*pool(moments))
    meant, applied = moments.weights, moments.applied
    holds = meant is not None and meant.holds_sigma
    components = sum(len(each.directions) for each in structures) + (0 if holds else 1)
    check_response(moments, components, whole=whole)
    _check_factors(moments, structures, holds_sigma=holds)
    columns = whiten_columns(moments, structures, whole=whole)
    blocks, n, offset, unit = columns.blocks, float(moments.n_rows), 0.0, 1.0
    weights: tuple[Array, ...] | None = None
    if applied is not None:
        blocks = applied.factor[:, None, None] * blocks
        offset = applied.offset
    if applied is not None and meant is not None and meant.is_sampling:
        given = moments.level_weights
        unit = float(count_cells(moments.codes, given) @ applied.size) / n
        top = int(np.argmin([len(each) for each in given]))
        weights = tuple(each / unit if factor == top else each for factor, each in enumerate(given))
    levels = arrange_levels(
        blocks,
        moments.codes,
        [structure.q for structure in structures],
        names=[structure.group for structure in structures],
        weights=weights,
    )
    _check_slopes(moments, structures, levels, n=n, holds_sigma=holds)
    return WhitenedCells(
        levels=levels,
        n=n,
        p=len(moments.fixed),
        bases=columns.bases,
        fixed=columns.fixed,
        ols=columns.ols,
        scale=columns.scale,
        logdet_fixed=columns.logdet_fixed,
        blocks=blocks,
        codes=moments.codes,
        unit=unit,
        offset=offset,
        restricted_offset=measure_columns(moments) if holds else 0.0,
        held=1.0 / columns.scale**2 if holds else None,
        weights=weights,
        sizes=None if applied is None else applied.size,
    )


def count_cells(codes: Array, weights: Sequence[Array]) -> Array:
    """Return the product (C,) of the weights of all units that a cell lies in."""
    found = np.ones(codes.shape[1])
    for code, each in zip(codes, weights, strict=True):
        found *= each[code]
    return found


def describe_pattern(moments: CellMoments) -> str:
    """Return how the factors stand to each other: "nested", "crossed" or "partly nested"."""
    codes = moments.codes
    if is_chain(codes):
        return "nested"
    some = any(
        is_nested(codes[one], codes[other]) or is_nested(codes[other], codes[one])
        for one, other in combinations(range(len(codes)), 2)
    )
    return "partly nested" if some else "crossed"


def _check_factors(
    moments: CellMoments, structures: Sequence[Structure], *, holds_sigma: bool
) -> None:
    """Refuse factors of which nothing tells the effects from each other or from the residual."""
    codes, counts = moments.codes, list(moments.groups.values())
    names = list(moments.groups)
    for (name, count), structure in zip(moments.groups.items(), structures, strict=True):
        if count == moments.n_rows and not holds_sigma and _is_residual(moments, structure):
            raise IdentifiabilityError(
                f"'{name}' has a level for each of the {count} rows, so its variance cannot be "
                "told from the residual's; leave its random terms out"
            )
    for one, other in combinations(range(len(names)), 2):
        if counts[one] == counts[other] and is_nested(codes[one], codes[other]):
            raise IdentifiabilityError(
                f"'{names[one]}' and '{names[other]}' divide the rows into the same "
                f"{counts[one]} groups; write the random terms of both with one of the two names"
            )


def _is_residual(moments: CellMoments, structure: Structure) -> bool:
    """Return whether some G of a factor with one row each has the same variance z'Gz in all rows.

    That of an intercept has, and that of a slope whose column is +-1; z'Gz of other columns alone
    is a variance that depends on them, which the residual's does not.
    """
    place = {name: i for i, name in enumerate(moments.columns)}
    ones = np.ones(len(moments.mean))
    z = np.column_stack(
        [ones if name == INTERCEPT else moments.mean[:, place[name]] for name in structure.names]
    )
    each = np.einsum("ni,aij,nj->na", z, structure.directions, z)
    each = each / np.maximum(np.linalg.norm(each, axis=0), np.finfo(float).tiny)
    left = ones - each @ np.linalg.lstsq(each, ones)[0]
    return bool(left @ left <= ROUNDING * len(ones))


def _check_slopes(
    moments: CellMoments,
    structures: Sequence[Structure],
    levels: Nested | Crossed,
    *,
    n: float,
    holds_sigma: bool,
) -> None:
    """Refuse random slopes of columns that vary between levels alone, which these do not tell."""
    stop = 0
    for structure, labels in zip(structures, moments.labels, strict=True):
        start, stop = stop, stop + len(structure.directions)
        values = _find_constant(moments, structure, labels.codes)
        if not values:
            continue
        # Twice the expected information where all Psi_f are zero.
        equations, _ = expect_squares(levels, [each.directions for each in structures], n=n)
        kept = [*range(start, stop), *([] if holds_sigma else [-1])]
        own = 0.5 * equations[np.ix_(kept, kept)]
        if len(find_flat(own, np.ones(len(own)), n_groups=labels.n_levels)):
            raise refuse_constant(structure, values)


def _find_constant(moments: CellMoments, structure: Structure, codes: Array) -> dict[str, Array]:
    """Return by level the columns with random slopes that vary within no level of their factor."""
    if INTERCEPT not in structure.names:
        return {}
    place = {name: i for i, name in enumerate(moments.columns)}
    mass = moments.mass
    rows = np.bincount(codes, weights=mass)
    found = {}
    for name in structure.names:
        if name == INTERCEPT:
            continue
        i = place[name]
        mean = np.bincount(codes, weights=mass * moments.mean[:, i]) / rows
        gap = moments.mean[:, i] - mean[codes]
        within = float(moments.cross[:, i, i].sum() + mass @ gap**2)
        if not within > ROUNDING * float(mass @ moments.mean[:, i] ** 2):
            found[name] = mean
    return found
