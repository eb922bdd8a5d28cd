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
from bhlm.reml.standard_errors import scale_slopes
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
    moved = [_move(fit, kept, scaled=each) for fit, each in zip(fits, sizes, strict=True)]
    values, covs = (np.array(part) for part in zip(*moved, strict=True))
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
            for rows, power in ((squared, 1.0), (scaled, 0.5)):
                size = np.exp(power * value)
                with np.errstate(over="ignore", under="ignore"):  # next to zero: from 0 to inf
                    limits = np.exp(power * ends)
                rows[at] = PooledRow(size, power * size * error, *limits, **about)
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
    where = [set(structure.find_block(i)) for i, _ in structure.labels]
    able = []
    for fit, scaled in zip(fits, sizes, strict=True):
        errors = np.diag(fit.variance_cov)[:m]
        fine = [
            error >= 0.0 and (value > 0.0 if i == j else abs(value) < 1.0)
            for error, value, (i, j) in zip(errors, scaled, structure.labels, strict=True)
        ]
        able.append(fine)
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


def _move(fit: Estimate, kept: Sequence[int], *, scaled: Array) -> tuple[Array, Array]:
    """Return log variances and Fisher's z (c + 1,) of the elements `kept`, and their covariance.

    The last is the logarithm of the residual variance. `scaled` are the fit's SDs and correlations.
    """
    labels = fit.structure.labels
    slopes = scale_slopes(fit.g, labels)
    values, c = np.empty(len(kept) + 1), len(kept)
    jacobian = np.zeros((c + 1, c + 1))
    for row, at in enumerate(kept):
        value = scaled[at]
        is_sd = labels[at][0] == labels[at][1]
        values[row] = 2.0 * np.log(value) if is_sd else np.arctanh(value)
        jacobian[row, :c] = slopes[at, kept] * (2.0 / value if is_sd else 1.0 / (1.0 - value**2))
    values[c], jacobian[c, c] = np.log(fit.sigma2), 1.0 / fit.sigma2
    part = [*kept, len(labels)]
    return values, jacobian @ fit.variance_cov[np.ix_(part, part)] @ jacobian.T


def _as_floats(rows: Sequence[PooledRow]) -> tuple[PooledRow, ...]:
    return tuple(PooledRow(*map(float, row)) for row in rows)
