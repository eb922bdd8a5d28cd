"""Influence of each unit of any factor by exact deletion: dropping a unit is dropping its cells."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.errors import ArgumentError, IdentifiabilityError
from bhlm.likelihood.cells import CellBlocks, WhitenedCells, whiten_blocks
from bhlm.likelihood.levels import evaluate_levels
from bhlm.likelihood.parameters import RESIDUAL, name_apart
from bhlm.reml.influence import DISTANCES, DOUBTFUL, FLAGS
from bhlm.reml.level_algebra import evaluate_fit
from bhlm.reml.level_errors import FLAT
from bhlm.reml.level_search import LevelsOptimum, maximize_levels
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import check_converged, require_unweighted
from bhlm.reml.optimize import unwhiten_loglik

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class _Refit:
    """A fit without a unit, in the whitened columns of the whole."""

    white: WhitenedCells
    found: LevelsOptimum


def measure_level_influence(fit: LevelsEstimate, factor: str | None = None) -> "pd.DataFrame":
    """Return what deleting each unit of a factor changes, one row per unit.

    A unit goes with all its rows, and with units that have no others. Columns: `factor`, the unit's
    label `level`, and those of `bhlm.reml.influence.measure_influence`, numbers of which are nan
    where the rows that are left do not identify the model. One refit per unit.

    Args:
        fit: the fit.
        factor: whose units; None is the factor with the fewest.

    Raises:
        ArgumentError: it is not a factor of the model; a fit that did not converge.
    """
    require_unweighted(fit, "influence()")
    import pandas as pd

    check_converged(fit, "influence")
    names = list(fit.moments.groups)
    counts = list(fit.moments.groups.values())
    at = int(np.argmin(counts)) if factor is None else fit.find_factor(factor)
    if counts[at] < 3:
        raise ArgumentError(
            f"the fit has {counts[at]} '{names[at]}', and without one of them nothing is left to "
            "tell how they vary; influence needs at least 3"
        )
    components = (*(each for part in fit.parts for each in part.structure.variances), RESIDUAL)
    own_names = name_apart(
        [*fit.moments.fixed, *map(str, components)], table=("factor", "level", *DISTANCES, *FLAGS)
    )
    own = _list_components(fit.beta, fit, fit.gs, fit.sigma2)
    whole = evaluate_fit(fit).at
    cov = whole.sigma2 * whole.phi
    cells = whiten_blocks(fit.moments, fit.structures)
    levels = fit.name_levels(at)
    rows = []
    for j, level in enumerate(levels):
        row: dict[str, Any] = {"factor": names[at], "level": level}
        distances = dict.fromkeys(DISTANCES, np.nan)
        refit = _refit_without(fit, cells, cells.codes[at] != j)
        changes = np.full(len(own), np.nan)
        if refit is not None:
            white, found = refit.white, refit.found
            part = found.criterion.at
            sigma2 = part.sigma2 * white.scale**2
            roots = (basis @ lam for basis, lam in zip(white.bases, found.lams, strict=True))
            gs = tuple(sigma2 * root @ root.T for root in roots)
            beta = white.ols + white.scale * white.fixed @ part.beta
            changes = _list_components(beta, fit, gs, sigma2) - own
            step, left = part.beta - whole.beta, part.sigma2 * part.phi
            ratio = np.linalg.slogdet(left)[1] - np.linalg.slogdet(cov)[1]
            distances["cook"] = float(step @ np.linalg.solve(cov, step)) / len(step)
            distances["mdffits"] = float(step @ np.linalg.solve(left, step)) / len(step)
            distances["covratio"] = float(np.exp(ratio))
            distances["displacement"] = 2.0 * (fit.loglik - _loglik_at(fit, found))
        flags = {
            "converged": refit is not None and refit.found.converged,
            "singular": refit is not None and refit.found.singular,
        }
        rows.append(row | distances | flags | dict(zip(own_names, changes.tolist(), strict=True)))
    return pd.DataFrame(rows)


def _list_components(
    beta: Array, fit: LevelsEstimate, gs: tuple[Array, ...], sigma2: float
) -> Array:
    """Return fixed effects and the free elements of every G, sigma^2 last."""
    free = (structure.read(g) for structure, g in zip(fit.structures, gs, strict=True))
    return np.concatenate([beta, *free, [sigma2]])


def _refit_without(fit: LevelsEstimate, cells: CellBlocks, kept: Array) -> _Refit | None:
    """Return the maximum over the cells that are kept; None if there is none."""
    rest = cells.keep(kept)
    p, n = fit.white.p, float(rest.n.sum())
    total = rest.blocks[:, -p - 1 :, -p - 1 :].sum(axis=0)
    values, vectors = np.linalg.eigh(total[:-1, :-1])
    many = p + fit.n_components + 1
    single = any(int(codes.max()) < 1 or codes.max() + 1 == n for codes in rest.codes)
    if single or values[0] < DOUBTFUL or n <= many:
        return None
    explained = float(np.sum((vectors.T @ total[:-1, -1]) ** 2 / values))
    if total[-1, -1] - explained < DOUBTFUL * (n - p):
        return None
    white = replace(fit.white, levels=rest.arrange(), n=n)
    restricted = fit.method == "reml"
    start = None if fit.singular else fit.theta
    try:
        found = maximize_levels(white, fit.structures, restricted=restricted, start=start)
    except IdentifiabilityError:
        return None
    size = np.sqrt(np.abs(np.diag(found.hessian)))
    if not found.singular and found.converged:
        if not size.all():
            return None
        scaled = np.linalg.eigvalsh(found.hessian / np.outer(size, size))
        if scaled[0] < FLAT * scaled[-1]:
            return None
    return _Refit(white, found)


def _loglik_at(fit: LevelsEstimate, found: LevelsOptimum) -> float:
    """Return the log-likelihood of all rows at other parameters, restricted for REML."""
    white, restricted = fit.white, fit.method == "reml"
    at = evaluate_levels(white.levels, found.lams, n=white.n, restricted=restricted).at
    rss = at.rss
    if not restricted:
        gap = found.criterion.at.beta - at.beta
        rss += float(gap @ np.linalg.solve(at.phi, gap))
    value = at.at_variance(found.criterion.at.sigma2, rss=rss)
    return unwhiten_loglik(value, white, restricted)
