"""Predictions and residuals of rows, of known and of new units at any level."""

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from bhlm.errors import ArgumentError, DataError
from bhlm.likelihood.parameters import check_level
from bhlm.moments.cells import CellMoments, CellRows
from bhlm.moments.groups import KINDS
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.reml.level_algebra import evaluate_fit
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import require_unweighted

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


def locate_levels(moments: CellMoments | LevelPatterns, labels: list[list[Array]]) -> Array:
    """Return the level (F, n) of every factor that rows belong to, -1 for those that are new.

    Args:
        moments: of the model.
        labels: by factor, its label columns (n,).
    """
    import pandas as pd

    codes = []
    for own, known in zip(labels, moments.labels, strict=True):
        if len(own) == 1:
            index, asked = pd.Index(known.columns[0]), pd.Index(own[0])
        else:
            index, asked = pd.MultiIndex.from_arrays(known.columns), pd.MultiIndex.from_arrays(own)
        codes.append(np.asarray(index.get_indexer(asked)))
    return np.array(codes)


def predict_level_rows(
    fit: LevelsEstimate,
    rows: CellRows,
    *,
    kind: str = "conditional",
    new_groups: str = "error",
    level: float = 0.95,
) -> "pd.DataFrame":
    """Return predictions with intervals, one row per row, in the columns of `predict_rows`.

    "population" is X beta; a new observation adds every factor's z'Gz and sigma^2. "conditional"
    adds Z u_hat of the levels that the fit knows, with the joint error of the effects of all
    factors and of beta; the variance parameters count as known. A level that is new has mean zero
    and z'Gz, with new_groups="population".

    Raises:
        ArgumentError: an unknown kind or choice, a level outside (0, 1).
        DataError: a level that the fit has not seen, if that is an error.
    """
    require_unweighted(fit, "predict()")
    import pandas as pd

    check_level(level)
    if kind not in KINDS:
        raise ArgumentError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    if new_groups not in ("error", "population"):
        raise ArgumentError(
            f"new_groups={new_groups!r} is not known; choose 'error' or 'population'"
        )
    codes, names = rows.codes, list(fit.moments.groups)
    if kind == "population":
        codes = np.full_like(codes, -1)
    elif new_groups == "error" and np.any(codes < 0):
        factor, at = np.argwhere(codes < 0)[0]
        raise DataError(
            f"row {at} has a '{names[factor]}' that the fit does not know; ask for "
            "kind='population' or new_groups='population'"
        )
    white = fit.white
    turned = [z @ basis for z, basis in zip(rows.z, white.bases, strict=True)]
    estimate = rows.x @ fit.beta + add_effects(fit, turned, codes)
    forms = np.concatenate([*turned, rows.x @ white.fixed], axis=1)
    variance, new = _spread_rows(fit, forms, codes)
    if kind == "population":
        known = sum(each.shape[1] for each in turned)
        lever = forms[:, known:]
        variance = np.einsum("ni,ij,nj->n", lever, evaluate_fit(fit).at.phi, lever) * fit.sigma2
    half = special.ndtri(0.5 + level / 2.0)
    se, se_new = np.sqrt(variance), np.sqrt(new)
    return pd.DataFrame(
        {
            "estimate": estimate,
            "se": se,
            "lower": estimate - half * se,
            "upper": estimate + half * se,
            "lower_new": estimate - half * se_new,
            "upper_new": estimate + half * se_new,
        }
    )


def add_effects(fit: LevelsEstimate, turned: list[Array], codes: Array) -> Array:
    """Return sum_f z_f u_hat_f (n,) of the levels (F, n) that are known, z in whitened columns."""
    total = np.zeros(codes.shape[1])
    for at, z in enumerate(turned):
        known = codes[at] >= 0
        means = fit.whitened_means(at)[codes[at, known]]
        total[known] += np.einsum("nq,nq->n", z[known], means)
    return total


def list_residuals(fit: LevelsEstimate, rows: CellRows) -> "pd.DataFrame":
    """Return level-1 residuals, one row per row.

    Columns: every factor's level; `fitted` X beta + sum_f Z_f u_hat_f; `marginal` y - X beta;
    `conditional` y - fitted; `standardized`, the conditional residual over sigma.

    Raises:
        DataError: a row of a level that the fit has not seen.
    """
    require_unweighted(fit, "residuals()")
    import pandas as pd

    if np.any(rows.codes < 0):
        raise DataError("a row has a level that the fit has not; give the rows of the model")
    turned = [z @ basis for z, basis in zip(rows.z, fit.white.bases, strict=True)]
    marginal = rows.y - rows.x @ fit.beta
    conditional = marginal - add_effects(fit, turned, rows.codes)
    levels = {
        name: fit.name_levels(at)[rows.codes[at]] for at, name in enumerate(fit.moments.groups)
    }
    return pd.DataFrame(
        levels
        | {
            "fitted": rows.y - conditional,
            "marginal": marginal,
            "conditional": conditional,
            "standardized": conditional / np.sqrt(fit.sigma2),
        }
    )


def _spread_rows(fit: LevelsEstimate, forms: Array, codes: Array) -> tuple[Array, Array]:
    """Return the variances (n,) of the mean and of a new observation, each combination once."""
    criterion = evaluate_fit(fit)
    combos, at = np.unique(codes, axis=1, return_inverse=True)
    joint = fit.white.levels.joint(fit.lams, criterion.found, criterion.at.phi, combos)
    variance = np.einsum("ni,nij,nj->n", forms, joint[at.ravel()], forms) * fit.sigma2
    variance = np.maximum(variance, 0.0)  # rounding, where the residual variance vanishes
    return variance, variance + fit.sigma2
