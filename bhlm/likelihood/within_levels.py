"""Least squares within each unit of one of several factors, and the law of what it gives.

As `bhlm.likelihood.within`, where the rows of a unit have effects of other factors too: their mean
is mu = X beta + Z_1 u_1 + ... + Z_F u_F, which the columns of the regression need not span. Given
all effects, with C those columns less their means, A = (C'C)^-1 and lambda what mu leaves beside
them,

    unit's mean  normal, mean of mu, variance sigma^2 / n
    slopes       normal, A C'mu, covariance sigma^2 A
    residual SS  sigma^2 times a noncentral chi-square of df, noncentrality lambda / sigma^2

Over new effects u ~ N(0, G) of the factor and of those within it, mean and slopes are normal too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import sparse

from bhlm.likelihood.within import WithinRegressions, regress_within
from bhlm.moments.cells import CellMoments
from bhlm.moments.moments import INTERCEPT

Array = np.ndarray

# A share of the sum of squares below this is what rounding leaves of zero.
ROUNDED = 1e-12


@dataclass(frozen=True, slots=True)
class UnitMoments:
    """Moments of the units of one factor, whose columns are those of all factors."""

    columns: tuple[str, ...]
    fixed: tuple[str, ...]
    random: tuple[str, ...]  # of this factor
    n: Array  # (J,)
    mean: Array  # (J, k)
    cross: Array  # (J, k, k)

    @property
    def mass(self) -> Array:
        """By how much each unit's means count (J,): its rows."""
        return self.n


@dataclass(frozen=True, slots=True)
class UnitRegressions:
    """Least squares within the J units of a factor, and what its law depends on."""

    within: WithinRegressions
    moments: CellMoments
    units: UnitMoments
    at: Array  # (m,) the columns that are regressed on
    shown: Array  # (s,) those of them that have a slope in two units or more
    codes: Array  # (C,) the unit that each cell belongs to
    gather: sparse.csr_array  # (J, C) adds cells up to units
    n: Array  # (J,)
    away: Array  # (C, m) means of these columns less those of the unit
    observed: Array  # (J, 1 + s + 1) mean, slopes and residual SD, nan where a unit has none


class Expected(NamedTuple):
    """What D draws of the parameters and the effects expect of every unit."""

    located: Array  # (D, J, 1 + s) mean and slopes
    left: Array  # (D, J) lambda, the sum of squares of mu that the regression leaves


def regress_units(moments: CellMoments, factor: int) -> UnitRegressions:
    """Return the regression of the response within each unit of a factor, given by its number."""
    labels = moments.labels[factor]
    codes, count = labels.codes, labels.n_levels
    cells = np.arange(moments.n_cells)
    gather = sparse.csr_array((np.ones(len(cells)), (codes, cells)), shape=(count, len(cells)))
    n = gather @ moments.n
    mean = (gather @ (moments.n[:, None] * moments.mean)) / n[:, None]
    apart = moments.mean - mean[codes]
    between = moments.n[:, None, None] * apart[:, :, None] * apart[:, None]
    flat = (moments.cross + between).reshape(len(cells), -1)
    cross = (gather @ flat).reshape(count, *moments.cross.shape[1:])
    first = [factor, *(other for other in range(len(moments.factors)) if other != factor)]
    names = [name for at in first for term in moments.factors[at].blocks for name in term]
    random = tuple(dict.fromkeys(names))
    units = UnitMoments(moments.columns, moments.fixed, random, n, mean, cross)
    within = regress_within(units)
    at = np.array([moments.columns.index(name) for name in within.entered], dtype=np.int64)
    shown = np.array([within.entered.index(name) for name in within.columns], dtype=np.int64)
    observed = np.column_stack([mean[:, -1], within.slopes, within.sd])
    return UnitRegressions(
        within, moments, units, at, shown, codes, gather, n, away=apart[:, at], observed=observed
    )


def expect_units(units: UnitRegressions, beta: Array, effects: Sequence[Array]) -> Expected:
    """Return what parameters and effects expect of mean and slopes, and what they leave.

    Args:
        units: the regressions.
        beta: fixed effects (D, p).
        effects: of every factor (D, J_f, q_f).
    """
    moments = units.moments
    constant, slopes = _spread(moments.columns, moments.fixed, beta[:, None])
    constant, slopes = (
        np.repeat(constant, moments.n_cells, 1),
        np.repeat(slopes, moments.n_cells, 1),
    )
    for factor, labels, u in zip(moments.factors, moments.labels, effects, strict=True):
        names = [name for term in factor.blocks for name in term]
        own, by_column = _spread(moments.columns, names, u[:, labels.codes])
        constant += own
        slopes += by_column
    mu = constant + np.einsum("dck,ck->dc", slopes, moments.mean)
    means = _gather(units, moments.n * mu) / units.n
    apart = mu - means[:, units.codes]
    pulled = np.einsum("ckl,dcl->dck", moments.cross, slopes)
    products = pulled[..., units.at] + (moments.n * apart)[..., None] * units.away
    by_unit = _gather(units, products)
    squares = _gather(units, np.sum(pulled * slopes, axis=2) + moments.n * apart**2)
    fitted = np.einsum("jab,djb->dja", units.within.inverse, by_unit)
    left = squares - np.sum(fitted * by_unit, axis=2)
    left = np.where(left > ROUNDED * squares, left, 0.0)
    return Expected(np.concatenate([means[..., None], fitted[..., units.shown]], axis=2), left)


def replicate_units(
    units: UnitRegressions,
    beta: Array,
    effects: Sequence[Array],
    sigma: Array,
    rng: np.random.Generator,
) -> Array:
    """Return replicated statistics (D, J, 1 + s + 1), whether a unit has them or not.

    Args:
        units: the regressions.
        beta: fixed effects (D, p).
        effects: of every factor (D, J_f, q_f).
        sigma: residual SDs (D,).
        rng: the source of the residuals.
    """
    within, df = units.within, np.maximum(units.within.df, 1.0)
    located, left = expect_units(units, beta, effects)
    out = np.empty((*left.shape, located.shape[2] + 1))
    out[..., 0] = sigma[:, None] / np.sqrt(units.n) * rng.standard_normal(left.shape)
    inner = rng.standard_normal((*left.shape, within.root.shape[-1]))
    out[..., 1:-1] = sigma[:, None, None] * np.einsum("jab,djb->dja", within.root, inner)
    out[..., :-1] += located
    squares = rng.noncentral_chisquare(df, left / sigma[:, None] ** 2)
    out[..., -1] = sigma[:, None] * np.sqrt(squares / df)
    return out


def spread_new_effects(units: UnitRegressions, factor: int) -> Array:
    """Return sum_l b_l b_l' (J, 1 + s, q, q) over the units l of a factor within each unit.

    b_l is what a unit l's effects add to mean and slopes, so that new ones ~ N(0, G) add the
    variance tr(G b_l b_l') to each.
    """
    moments, labels = units.moments, units.moments.labels[factor]
    names = [name for term in moments.factors[factor].blocks for name in term]
    z = [None if name == INTERCEPT else moments.columns.index(name) for name in names]
    n_cells, q = moments.n_cells, len(names)
    mean = np.column_stack([np.ones(n_cells) if k is None else moments.mean[:, k] for k in z])
    cross = np.zeros((n_cells, len(units.at), q))
    for i, k in enumerate(z):
        if k is not None:
            cross[:, :, i] = moments.cross[:, units.at, k]
    cross += moments.n[:, None, None] * units.away[:, :, None] * mean[:, None]
    cells = np.arange(n_cells)
    shape = (labels.n_levels, n_cells)
    add = sparse.csr_array((np.ones(n_cells), (labels.codes, cells)), shape=shape)
    outer = np.zeros(labels.n_levels, dtype=np.int64)
    outer[labels.codes] = units.codes
    own_mean = (add @ (moments.n[:, None] * mean)) / units.n[outer][:, None]
    slopes = len(units.at)  # none, where the model has no column but the intercept
    own_cross = (add @ cross.reshape(n_cells, slopes * q)).reshape(len(outer), slopes, q)
    own_slopes = (units.within.inverse[outer] @ own_cross)[:, units.shown]
    b = np.concatenate([own_mean[:, None], own_slopes], axis=1)
    out = np.zeros((len(units.n), b.shape[1], q, q))
    np.add.at(out, outer, b[..., :, None] * b[..., None, :])
    return out


def _spread(columns: Sequence[str], names: Sequence[str], values: Array) -> tuple[Array, Array]:
    """Return what coefficients (..., q) add to the constant (...) and to slopes (..., k)."""
    constant = np.zeros(values.shape[:-1])
    slopes = np.zeros((*values.shape[:-1], len(columns)))
    for i, name in enumerate(names):
        if name == INTERCEPT:
            constant += values[..., i]
        else:
            slopes[..., columns.index(name)] += values[..., i]
    return constant, slopes


def _gather(units: UnitRegressions, values: Array) -> Array:
    """Return sums (D, J, ...) over the cells of each unit of values (D, C, ...)."""
    turned = np.moveaxis(values, 0, -1)
    flat = units.gather @ turned.reshape(len(units.codes), -1)
    return np.moveaxis(flat.reshape(len(units.n), *turned.shape[1:]), -1, 0)
