"""Variance components of several fits, pooled on the scales of their intervals.

Logarithms of variances, which are twice those of SDs, and Fisher's z of correlations are averaged;
covariances follow from these, so that all scales tell the same. Where an estimate lies on the
boundary these scales end: in one fit is enough, and that block of G is then averaged as it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameter, scale_covariance
from bhlm.reml.estimate import Estimate
from bhlm.studies.imputations.rubin import combine, t_quantile

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


def pool_components(fits: Sequence[Estimate], *, level: float) -> PooledComponents:
    """Return the pooled variance components of fits of one model, with intervals at `level`.

    Their complete-data degrees of freedom are infinite, as in the fits' own intervals.
    """
    structure = fits[0].structure
    labels, m = structure.labels, len(structure.labels)
    gs = np.array([fit.g for fit in fits])
    sizes = scale_covariance(gs, labels)  # (fits, m) SDs and correlations
    boundary = _find_boundary(fits, sizes, structure)
    lost = {at for block in boundary for at in map(structure.variances.index, block.parameters)}
    kept = [at for at in range(m) if at not in lost]
    values, covs = _move(fits, gs, sizes, kept)
    pooled = combine(values, np.einsum("fcc->fc", covs), complete_df=np.inf)
    quantile = t_quantile(0.5 + level / 2.0, pooled.df)

    g = gs.mean(axis=0)
    squared = [PooledRow(float(g[i, j])) for i, j in labels]
    scaled = [PooledRow(float(value)) for value in scale_covariance(g, labels)]
    squared.append(PooledRow(np.nan))
    scaled.append(PooledRow(np.nan))
    place = {label: at for at, label in enumerate(labels)}
    for row, at in enumerate([*kept, m]):
        value, error = pooled.estimate[row], np.sqrt(pooled.total[row])
        ends = value + quantile[row] * error * np.array([-1.0, 1.0])
        about = {"df": pooled.df[row], "riv": pooled.riv[row], "fmi": pooled.fmi[row]}
        if at == m or labels[at][0] == labels[at][1]:
            with np.errstate(over="ignore", under="ignore"):  # next to zero: from 0 to inf
                limits = np.exp(np.multiply.outer((1.0, 0.5), ends))
            for rows, power, reach in ((squared, 1.0, limits[0]), (scaled, 0.5, limits[1])):
                size = np.exp(power * value)
                rows[at] = PooledRow(size, power * size * error, *reach, **about)
            continue
        corr = np.tanh(value)
        scaled[at] = PooledRow(corr, (1.0 - corr**2) * error, *np.tanh(ends), **about)
        # The exchangeable structure reports one variance for both coefficients.
        pair = [kept.index(place.get((k, k), 0)) for k in labels[at]]
        size = np.exp(0.5 * pooled.estimate[pair].sum())
        slope = np.zeros(len(values[0]))
        slope[row] = (1.0 - corr**2) * size
        np.add.at(slope, pair, 0.5 * corr * size)
        errors = np.einsum("c,fcd,d->f", slope, covs, slope)[:, None]
        one = combine((values @ slope)[:, None], errors, complete_df=np.inf)
        error = float(np.sqrt(one.total[0]))
        half = float(t_quantile(0.5 + level / 2.0, one.df)[0]) * error
        squared[at] = PooledRow(
            corr * size, error, corr * size - half, corr * size + half,
            df=one.df[0], riv=one.riv[0], fmi=one.fmi[0],
        )  # fmt: skip
    return PooledComponents(_as_floats(squared), _as_floats(scaled), boundary)


def _find_boundary(
    fits: Sequence[Estimate], sizes: Array, structure: Structure
) -> tuple[Boundary, ...]:
    """Return the blocks whose elements have no logarithm, Fisher's z or error in some fit."""
    m, found = len(structure.labels), []
    errors = np.einsum("fcc->fc", np.array([fit.variance_cov for fit in fits]))[:, :m]
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
    fits: Sequence[Estimate], gs: Array, sizes: Array, kept: Sequence[int]
) -> tuple[Array, Array]:
    """Return log variances and Fisher's z (f, c + 1) of the elements `kept`, with covariances.

    The last is the logarithm of the residual variance. `sizes` (f, m) are SDs and correlations of
    G (f, q, q).
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
    part = np.array([*kept, len(labels)])
    covs = np.array([fit.variance_cov for fit in fits])[:, part[:, None], part]
    return values, jacobian @ covs @ jacobian.transpose(0, 2, 1)


def _as_floats(rows: Sequence[PooledRow]) -> tuple[PooledRow, ...]:
    return tuple(PooledRow(*map(float, row)) for row in rows)
