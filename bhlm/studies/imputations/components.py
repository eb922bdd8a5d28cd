"""Variance components of several fits, pooled on the scales of their intervals.

Logarithms of variances, which are twice those of SDs, and Fisher's z of correlations are averaged;
covariances follow from these, so that all scales tell the same. Where an estimate lies on the
boundary these scales end: in one fit is enough, and that block of G is then averaged as it is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameter, scale_covariance
from bhlm.reml.estimate import Estimate
from bhlm.studies.imputations.rubin import Combined, combine

Array = np.ndarray


class PooledRow(NamedTuple):
    """One parameter's row of the pooled estimates; nan is what it does not have."""

    estimate: float
    se: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    statistic: float = np.nan
    df: float = np.nan
    p: float = np.nan
    riv: float = np.nan
    fmi: float = np.nan


class Boundary(NamedTuple):
    """A block of G that has no logarithm, or no standard error, in some of the fits."""

    parameters: tuple[Parameter, ...]  # its variances and covariances
    fits: tuple[int, ...]  # which fits, counted from 1


class PooledComponents(NamedTuple):
    """The rows of variances and covariances, of SDs and correlations, and what is on a boundary."""

    squared: tuple[PooledRow, ...]  # as structure.variances, then the residual
    scaled: tuple[PooledRow, ...]  # as structure.scaled, then the residual
    boundary: tuple[Boundary, ...]


class Moved(NamedTuple):
    """The variance components of several fits on the scales that they are pooled on."""

    values: Array  # (f, c + 1) log variances and Fisher's z of what is kept, and log sigma^2
    covs: Array  # (f, c + 1, c + 1)
    kept: tuple[int, ...]  # (c,) which elements of structure.labels these are
    boundary: tuple[Boundary, ...]


def move_components(fits: Sequence[Estimate]) -> Moved:
    """Return the variance components of fits of one model on the scales of their intervals."""
    structure = fits[0].structure
    gs = np.array([fit.g for fit in fits])
    errors = np.array([fit.variance_cov for fit in fits])
    sizes = scale_covariance(gs, structure.labels)  # (f, m) SDs and correlations
    boundary = _find_boundary(errors, sizes, structure)
    lost = {at for block in boundary for at in map(structure.variances.index, block.parameters)}
    kept = tuple(at for at in range(len(structure.labels)) if at not in lost)
    return Moved(*_move(fits, gs, sizes, errors, kept), kept, boundary)


def pool_components(
    fits: Sequence[Estimate], moved: Moved, pooled: Combined, half: Array, *, level: float
) -> PooledComponents:
    """Return the pooled variance components of fits of one model, with intervals at `level`.

    Their complete-data degrees of freedom are infinite, as in the fits' own intervals.

    Args:
        fits: of one model.
        moved: their components.
        pooled: these by Rubin's rules.
        half: (c + 1,) how far their intervals reach to each side.
        level: of the intervals.
    """
    labels = fits[0].structure.labels
    m = len(labels)
    g = np.array([fit.g for fit in fits]).mean(axis=0)
    squared = [PooledRow(float(g[i, j])) for i, j in labels]
    scaled = [PooledRow(value) for value in scale_covariance(g, labels).tolist()]
    squared.append(PooledRow(np.nan))
    scaled.append(PooledRow(np.nan))
    place = {label: at for at, label in enumerate(labels)}
    columns = (pooled.estimate, pooled.total, half, pooled.df, pooled.riv, pooled.fmi)
    rows = zip(*(each.tolist() for each in columns), strict=True)
    for row, (at, own) in enumerate(zip((*moved.kept, m), rows, strict=True)):
        value, total, reach, df, riv, fmi = own
        error = math.sqrt(total)
        lower, upper = value - reach, value + reach
        about = {"df": df, "riv": riv, "fmi": fmi}
        if at == m or labels[at][0] == labels[at][1]:
            for some, power in ((squared, 1.0), (scaled, 0.5)):
                size = _exp(power * value)
                ends = _exp(power * lower), _exp(power * upper)
                some[at] = PooledRow(size, power * size * error, *ends, **about)
            continue
        corr = math.tanh(value)
        ends = math.tanh(lower), math.tanh(upper)
        scaled[at] = PooledRow(corr, (1.0 - corr**2) * error, *ends, **about)
        # The exchangeable structure reports one variance for both coefficients.
        pair = [moved.kept.index(place.get((k, k), 0)) for k in labels[at]]
        size = _exp(0.5 * pooled.estimate[pair].sum())
        slope = np.zeros(len(moved.kept) + 1)
        slope[row] = (1.0 - corr**2) * size
        np.add.at(slope, pair, 0.5 * corr * size)
        variances = np.einsum("c,fcd,d->f", slope, moved.covs, slope)[:, None]
        one = combine((moved.values @ slope)[:, None], variances, complete_df=np.inf)
        error, reach = math.sqrt(one.total[0]), float(one.reach(level)[0])
        squared[at] = PooledRow(
            corr * size, error, corr * size - reach, corr * size + reach,
            df=float(one.df[0]), riv=float(one.riv[0]), fmi=float(one.fmi[0]),
        )  # fmt: skip
    return PooledComponents(tuple(squared), tuple(scaled), moved.boundary)


def _exp(x: float) -> float:
    """Return e^x; next to a boundary intervals are from 0 to inf."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _find_boundary(covs: Array, sizes: Array, structure: Structure) -> tuple[Boundary, ...]:
    """Return the blocks whose elements have no logarithm, Fisher's z or error in some fit.

    Args:
        covs: (f, m + 1, m + 1) of the variances of every fit.
        sizes: (f, m) SDs and correlations.
        structure: of all of them.
    """
    m, found = len(structure.labels), []
    errors = np.diagonal(covs, axis1=1, axis2=2)[:, :m]
    is_sd = np.array([i == j for i, j in structure.labels])
    able = (errors >= 0.0) & np.where(is_sd, sizes > 0.0, np.abs(sizes) < 1.0)
    if able.all():
        return ()
    where = [set(structure.find_block(i)) for i, _ in structure.labels]
    seen: list[set[int]] = []
    for block in where:
        if block in seen:
            continue
        seen.append(block)
        members = [at for at in range(m) if where[at] == block]
        bad = tuple(k for k, fine in enumerate(able, 1) if not all(fine[at] for at in members))
        if bad:
            found.append(Boundary(tuple(structure.variances[at] for at in members), bad))
    return tuple(found)


def _move(
    fits: Sequence[Estimate], gs: Array, sizes: Array, errors: Array, kept: Sequence[int]
) -> tuple[Array, Array]:
    """Return log variances and Fisher's z (f, c + 1) of the elements `kept`, with covariances.

    The last is the logarithm of the residual variance. `sizes` (f, m) are SDs and correlations of
    G (f, q, q), `errors` (f, m + 1, m + 1) the covariances of the variances.
    """
    labels, c = fits[0].structure.labels, len(kept)
    place = {label: at for at, label in enumerate(labels)}
    sigma2 = np.array([fit.sigma2 for fit in fits])
    values = np.empty((len(fits), c + 1))
    jacobian = np.zeros((len(fits), c + 1, c + 1))
    for row, at in enumerate(kept):
        i, j = labels[at]
        if i == j:
            values[:, row], jacobian[:, row, row] = np.log(gs[:, i, i]), 1.0 / gs[:, i, i]
            continue
        corr = sizes[:, at]
        steep = 1.0 / (1.0 - corr**2)
        values[:, row] = np.arctanh(corr)
        jacobian[:, row, row] += steep / np.sqrt(gs[:, i, i] * gs[:, j, j])
        for k in (i, j):
            # The exchangeable structure reports one variance for both coefficients.
            variance = kept.index(place.get((k, k), 0))
            jacobian[:, row, variance] -= 0.5 * steep * corr / gs[:, k, k]
    values[:, c], jacobian[:, c, c] = np.log(sigma2), 1.0 / sigma2
    if c < len(labels):
        part = np.array([*kept, len(labels)])
        errors = errors[:, part[:, None], part]
    return values, jacobian @ errors @ jacobian.transpose(0, 2, 1)
