"""Influence of each group by exact deletion: dropping a group is dropping its block."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError, IdentifiabilityError
from bhlm.likelihood.parameters import RESIDUAL, name_apart
from bhlm.likelihood.profiled import evaluate
from bhlm.likelihood.whitening import ROUNDING, Whitened, group_ranks, whiten, whiten_parameters
from bhlm.moments.moments import INTERCEPT, Moments, select_groups
from bhlm.reml.estimate import Estimate
from bhlm.reml.group_algebra import reduce_groups
from bhlm.reml.maximum import check_converged, require_plain
from bhlm.reml.optimize import Optimum, maximize, unwhiten_loglik
from bhlm.reml.standard_errors import is_flat

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# Below this share of what there was, what a deletion leaves of the fixed columns or of the
# residuals is reduced and checked afresh, because the coordinates of the full fit fit it badly.
DOUBTFUL = 1e-6
DISTANCES = ("cook", "mdffits", "covratio", "displacement")
FLAGS = ("converged", "singular")


def measure_influence(fit: Estimate) -> "pd.DataFrame":
    """Return what deleting each group changes, one row per group.

    The model is refitted without each group in turn, from the full fit's optimum. Columns: the
    group's label; `cook`, Cook's distance (b - b_j)' V^-1 (b - b_j) / p of the fixed effects;
    `mdffits`, the same with V_j; `covratio`, |V_j| / |V|; `displacement`, twice the fall of the
    (restricted, for REML) log-likelihood of all rows from the estimates to those without the
    group; `converged` and `singular` of the refit; then for each fixed effect and variance
    component its change, without the group less with it. Where the other groups do not identify
    the model (the deleted one alone had some level of a factor), the numbers are nan. Cost
    O(J^2), from moments alone.

    Source: Cook (1977), Technometrics 19, 15-18; Cook (1986), JRSS B 48, 133-169; Demidenko &
    Stukel (2005), Statistics in Medicine 24, 893-909.

    Raises:
        ArgumentError: two groups, of which one alone says nothing about how groups vary; a fit
            that did not converge.
    """
    require_plain(fit, "influence()")
    import pandas as pd

    check_converged(fit, "influence")
    moments, structure = fit.moments, fit.structure
    if moments.n_groups < 3:
        raise ArgumentError(
            f"the fit has {moments.n_groups} '{moments.group}', and without one of them nothing is "
            "left to tell how groups vary; influence needs at least 3"
        )
    names = [*moments.fixed, *map(str, (*fit.structure.variances, RESIDUAL))]
    *names, group = name_apart([*names, moments.group], table=(*DISTANCES, *FLAGS))
    own = np.array([*fit.beta, *structure.read(fit.g), fit.sigma2])
    # Distances are those of b = A^-1 beta, the same, but for digits that A would cost.
    cov = fit.sigma2 * reduce_groups(fit).phi
    rows = []
    for j, doubtful in enumerate(_find_doubtful(fit)):
        row = {group: moments.groups[j]}
        distances = dict.fromkeys(DISTANCES, np.nan)
        refit = _refit_without(fit, j, doubtful)
        changes = np.full(len(own), np.nan)
        if refit is not None:
            white, found = refit
            at = found.criterion
            sigma2 = at.sigma2 * white.scale**2
            root = white.basis @ found.lam * np.sqrt(sigma2)
            g = root @ root.T
            beta = white.ols + white.scale * white.fixed @ at.beta
            changes = np.array([*beta, *structure.read(g), sigma2]) - own
            step = np.linalg.solve(fit.white.fixed, beta - fit.beta)
            turn = np.linalg.solve(fit.white.fixed, white.fixed)
            left = sigma2 * turn @ at.phi @ turn.T
            ratio = np.linalg.slogdet(left)[1] - np.linalg.slogdet(cov)[1]
            distances["cook"] = float(step @ np.linalg.solve(cov, step)) / len(beta)
            distances["mdffits"] = float(step @ np.linalg.solve(left, step)) / len(beta)
            distances["covratio"] = float(np.exp(ratio))
            fall = 2.0 * (fit.loglik - loglik_at(fit, beta, root=root, sigma2=sigma2))
            distances["displacement"] = fall
        flags = {
            "converged": refit is not None and refit[1].converged,
            "singular": refit is not None and refit[1].singular,
        }
        rows.append(row | distances | flags | dict(zip(names, changes.tolist(), strict=True)))
    return pd.DataFrame(rows)


def loglik_at(fit: Estimate, beta: Array, *, root: Array, sigma2: float) -> float:
    """Return the log-likelihood of the fit's rows at other parameters, restricted for REML.

    The restricted one does not depend on beta.

    Args:
        fit: the fit whose rows and method count.
        beta: fixed effects (p,).
        root: a square root (q, q) of G.
        sigma2: the residual variance.
    """
    white, restricted = fit.white, fit.method == "reml"
    b, lam, sigma = whiten_parameters(white, beta, root, np.sqrt(sigma2))
    lam = np.ascontiguousarray(lam)
    at = evaluate(white.blocks, white.q, lam, n=white.n, restricted=restricted)
    rss = at.rss
    if not restricted:
        gap = b - at.beta
        rss += float(gap @ np.linalg.solve(at.phi, gap))
    return unwhiten_loglik(at.at_variance(float(sigma) ** 2, rss=rss), white, restricted)


def _refit_without(fit: Estimate, j: int, doubtful: bool) -> tuple[Whitened, Optimum] | None:
    """Return the maximum without group j and the coordinates it is in; None if there is none."""
    moments, white, structure = fit.moments, fit.white, fit.structure
    restricted = fit.method == "reml"
    keep = np.arange(moments.n_groups) != j
    if doubtful:
        try:
            rest = whiten(select_groups(moments, keep), structure)
        except IdentifiabilityError:
            return None
        found = maximize(rest, structure, restricted=restricted)
    else:
        blocks = np.ascontiguousarray(white.blocks[keep])
        rest = replace(white, blocks=blocks, n=white.n - moments.n[j])
        found = maximize(rest, structure, restricted=restricted, start=fit.theta)
    return None if is_flat(structure, rest, found) else (rest, found)


def _find_doubtful(fit: Estimate) -> Array:
    """Return for each group (J,) whether its deletion may leave the model unidentified."""
    moments, white, q = fit.moments, fit.white, fit.white.q
    products = white.blocks[:, q:, q:]
    left = products.sum(axis=0) - products
    values, vectors = np.linalg.eigh(left[:, :-1, :-1])
    lost = values[:, 0] < DOUBTFUL
    turned = np.einsum("jab,ja->jb", vectors, left[:, :-1, -1])
    explained = np.sum(turned**2 / np.where(lost[:, None], 1.0, values), axis=1)
    lost |= left[:, -1, -1] - explained < DOUBTFUL * (white.n - white.p)
    parameters = white.p + len(fit.structure.directions) + 1
    lost |= moments.n_rows - moments.n <= parameters
    spare = moments.n - group_ranks(moments)
    lost |= spare.sum() - spare < 1
    return np.asarray(lost | _varies_here_alone(moments))


def _varies_here_alone(moments: Moments) -> Array:
    """Return for each group (J,) whether some random slope varies within no other group."""
    alone = np.zeros(moments.n_groups, dtype=bool)
    for name in moments.random:
        if name == INTERCEPT:
            continue
        i = moments.columns.index(name)
        within, mean = moments.cross[:, i, i], moments.mean[:, i]
        noise = ROUNDING * (moments.mass @ mean**2)
        alone |= within.sum() - within <= np.maximum(noise, DOUBTFUL * within.sum())
    return alone
