"""Where priors stand: on the coefficients at the columns' means, not at the covariates' zeros.

A slope in the presence of a product, and an intercept in the presence of a slope, are those at the
zero of another column, and where that zero lies (a year, a date, a scale of 400 to 800) says
nothing about the data. So every column is written about its means, x - mean x, and a product as
the product of such columns, (x - mean x)(z - mean z). With X = X* C the coefficients that go with
X* are C beta, and those of the random part C u; priors stand on them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from bhlm.design.design import distinct_columns
from bhlm.design.formula.coding import Column, Part
from bhlm.design.formula.expressions import Apply, Number
from bhlm.likelihood.covariance import Structure
from bhlm.moments.either import Reduced
from bhlm.moments.moments import INTERCEPT, pool

Array = np.ndarray
type Product = tuple[str, ...]  # the sorted names of what a column is the product of

# A mean below this share of its column's SD is rounding: the column is centred.
CENTRED = 1e-12
# Products of more factors are left as they are.
MOST_FACTORS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The coefficients on which priors stand, as combinations of those of the columns as given."""

    fixed: Array  # (p, p) C: priors of fixed effects stand on C beta
    random: Array  # (q, q) C: priors of SDs and correlations stand on those of C u

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frame):
            return NotImplemented
        return np.array_equal(self.fixed, other.fixed) and np.array_equal(self.random, other.random)

    __hash__ = None  # type: ignore[assignment]  # arrays have none

    @property
    def is_given(self) -> tuple[bool, bool]:
        """Whether the fixed and the random coefficients are those of the columns as given."""
        return _is_unit(self.fixed), _is_unit(self.random)

    def turn_fixed(self, beta: Array) -> Array:
        """Return C beta (..., p) of beta (..., p)."""
        return beta if self.is_given[0] else np.asarray(beta @ self.fixed.T)

    def unturn_fixed(self, beta: Array) -> Array:
        """Return beta (..., p) of C beta (..., p)."""
        return beta if self.is_given[0] else np.linalg.solve(self.fixed, beta.T).T

    def turn_root(self, root: Array) -> Array:
        """Return the lower root (..., q, q) of C G C' of a root of G, each (..., q, q)."""
        return root if self.is_given[1] else _make_lower(self.random @ root)

    def unturn_root(self, root: Array) -> Array:
        """Return the lower root (..., q, q) of G of a root of C G C', each (..., q, q)."""
        return root if self.is_given[1] else _make_lower(np.linalg.solve(self.random, root))

    def measure_sd(self, root: Array) -> Array:
        """Return the SDs (..., q) in C G C' of a root of G (..., q, q)."""
        turned = root if self.is_given[1] else self.random @ root
        return np.asarray(np.linalg.norm(turned, axis=-1))


def stand_as_given(moments: Reduced, structure: Structure) -> Frame:
    """Return the frame of the coefficients of the columns as given."""
    return Frame(np.eye(len(moments.fixed)), np.eye(structure.q))


def stand_at_means(moments: Reduced, structure: Structure) -> Frame:
    """Return the frame of the coefficients at the columns' means.

    A fixed Intercept is the expected response at the means of all columns. Random coefficients
    are combined within a block of the structure, and only where the structure stays the same
    under it.
    """
    design = moments.design
    parts = distinct_columns(design.formula, design.levels).values()
    # By place: renamed columns are called otherwise than in the formula.
    products = {
        name: _list_factors(column) for name, column in zip(design.columns[:-1], parts, strict=True)
    }
    means = _measure_means(moments)
    random = np.eye(structure.q)
    for part, span in zip(structure.parts, structure.spans, strict=True):
        start = span.start
        for block in part.blocks if part.whitening == "triangular" else ():
            at = slice(start, start + len(block))
            random[at, at] = _combine(block, products, means)
            start += len(block)
    return Frame(_combine(moments.fixed, products, means), random)


def measure_spread(moments: Reduced, names: Sequence[str], combine: Array) -> dict[str, float]:
    """Return the SD over all rows of the columns (m,) that go with the coefficients of a frame.

    Args:
        moments: the reduced table.
        names: of the m columns.
        combine: C (m, m) of the frame.
    """
    mass, _, total = pool(moments)
    kept = [i for i, name in enumerate(names) if name != INTERCEPT]
    at = [moments.columns.index(names[i]) for i in kept]
    back = np.linalg.inv(combine)[np.ix_(kept, kept)]  # X* = X C^-1
    spread = np.einsum("ia,ij,ja->a", back, total[np.ix_(at, at)], back)
    spread = spread / (mass - mass / moments.n_rows)
    found = dict(zip((names[i] for i in kept), np.sqrt(spread).tolist(), strict=True))
    return {INTERCEPT: 1.0} | found


def _is_unit(combine: Array) -> bool:
    return bool(np.array_equal(combine, np.eye(len(combine))))


def _make_lower(root: Array) -> Array:
    """Return lower roots (..., q, q) with a diagonal that is not negative, of any roots."""
    upper = np.linalg.qr(np.swapaxes(root, -1, -2), mode="r")
    lower = np.swapaxes(upper, -1, -2)
    sign = np.where(np.einsum("...ii->...i", lower) < 0.0, -1.0, 1.0)
    return np.asarray(np.ascontiguousarray(lower * sign[..., None, :]))


def _measure_means(moments: Reduced) -> dict[str, float]:
    """Return the mean of every column over all rows, zero where only rounding differs from it."""
    n, grand, total = pool(moments)
    sd = np.sqrt(np.diag(total) / n)
    means = np.where(np.abs(grand) > CENTRED * sd, grand, 0.0)
    return dict(zip(moments.columns, means.tolist(), strict=True))


def _list_factors(column: Column) -> Product:
    """Return what a column is the product of, powers as often as they count."""
    return tuple(sorted(name for part in column.parts for name in _repeat(part)))


def _repeat(part: Part) -> Iterable[str]:
    factor = part.factor
    if part.level is None and isinstance(factor, Apply):
        inner = factor.arguments[0] if factor.function == "I" else factor
        if isinstance(inner, Apply) and inner.function == "**":
            base, power = inner.arguments
            if isinstance(power, Number) and power.value in range(2, MOST_FACTORS + 1):
                return [str(base)] * int(power.value)
    return [part.name]


def _combine(
    names: Sequence[str], products: Mapping[str, Product], means: Mapping[str, float]
) -> Array:
    """Return C (m, m) of some columns, the product of the centred ones being X*."""
    place = {products[name]: i for i, name in enumerate(names) if name != INTERCEPT}
    single = {products[name][0]: name for name in products if len(products[name]) == 1}
    back = np.eye(len(names))  # X* = X back
    for product, column in place.items():
        for left, weight in _expand(product, place, single, means):
            back[left, column] += weight
    combine = np.linalg.inv(back)
    if INTERCEPT in names:
        at = list(names).index(INTERCEPT)
        combine[at] = [1.0 if name == INTERCEPT else means[name] for name in names]
    return np.where(np.abs(combine) > 0.0, combine, 0.0)


def _expand(
    product: Product,
    place: Mapping[Product, int],
    single: Mapping[str, str],
    means: Mapping[str, float],
) -> list[tuple[int, float]]:
    """Return where the lower products of a centred product stand, with their weights.

    The factors that are centred are those without which the product is a column too; where
    some product of the others is no column, none is.
    """
    if not 2 <= len(product) <= MOST_FACTORS:
        return []
    movable = [
        at
        for at, factor in enumerate(product)
        if factor in single and _without(product, (at,)) in place
    ]
    weights: dict[int, float] = {}
    for count in range(1, len(movable) + 1):
        for gone in combinations(movable, count):
            left = _without(product, gone)
            if not left:  # a constant, which the Intercept takes
                continue
            if left not in place:
                return []
            weight = np.prod([-means[single[product[at]]] for at in gone])
            weights[place[left]] = weights.get(place[left], 0.0) + float(weight)
    return [(at, weight) for at, weight in weights.items() if weight]


def _without(product: Product, gone: tuple[int, ...]) -> Product:
    return tuple(factor for at, factor in enumerate(product) if at not in gone)
