"""Checks of a posterior of several factors against the rows, as `bhlm.bayes.checks.rows` has them.

Given the parameters, the effects that row i meets, one unit of each factor, have the mean u and the
covariance sigma^2 C given y; with the row's columns z_i and r = y - X beta

    [H^-1 r]_i = r_i - z_i'u        [H^-1]_ii = 1 - z_i'C z_i
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
from scipy.stats import kstest

from bhlm.bayes.checks.loo import HELD, Loo, check_likelihood
from bhlm.bayes.checks.predictive import CHECK, check_seed, thin_draws
from bhlm.bayes.checks.rows import RowCheck, score_rows, whiten_rows
from bhlm.bayes.level_draws import LevelDraws, iterate_lams
from bhlm.errors import DataError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.factor_names import join_labels
from bhlm.likelihood.level_draws import expect_level_effects
from bhlm.moments.cells import CellRows
from bhlm.processes import count_cores

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


@dataclass(frozen=True, slots=True, repr=False)
class LevelRowCheck(RowCheck):
    """`RowCheck` of several factors, a draw's effects of all of which its replicates have."""

    def _replicate(self, picked: Array) -> Array:
        """Return replicates (D, n) at some draws."""
        fit, (codes, x, z, y) = cast("LevelDraws", self.fit), cast("CellRows", self.rows)
        beta, _, sigma = fit.flat.take(picked)
        rng = np.random.default_rng([self.seed, CHECK])
        out = beta @ x.T + sigma[:, None] * rng.standard_normal((len(picked), len(y)))
        for own, at, u in zip(z, codes, fit.all_effects, strict=True):
            for i in range(own.shape[1]):
                out += u[picked, :, i][:, at] * own[:, i]
        return out


def check_level_rows(
    fit: LevelDraws,
    rows: CellRows,
    *,
    draws: int = 100,
    seed: int | None = None,
    index: "pd.Index | None" = None,
) -> LevelRowCheck:
    """Return the rows beside their predictive distribution given all other rows.

    Arguments and errors are those of `bhlm.bayes.checks.rows.check_rows`, with the rows of the
    model of several factors. Each draw costs what an evaluation of the likelihood does.
    """
    seed = check_seed(fit, seed)
    picked, _ = thin_draws(fit, draws)
    loo = leave_out_level_rows(fit, rows, index=index)
    found = kstest(loo.table["pit"], "uniform")
    return LevelRowCheck(
        fit=fit, loo=loo, draws=len(picked), seed=seed, statistic=float(found.statistic),
        p=float(found.pvalue), rows=rows,
    )  # fmt: skip


def leave_out_level_rows(
    fit: LevelDraws, rows: CellRows, *, held: int = HELD, index: "pd.Index | None" = None
) -> Loo:
    """Return the elpd of each row given all others, the rest of its units among them.

    As `bhlm.bayes.checks.rows.leave_out_rows`; the table has a column of labels for each factor,
    that with the fewest units first.

    Raises:
        ArgumentError: draws from the prior alone.
        DataError: other rows than those of the fit.
    """
    check_likelihood(fit)
    check_same_level_rows(fit, rows)
    names = list(fit.moments.groups)
    order = sorted(range(len(names)), key=lambda at: fit.moments.groups[names[at]])
    groups = {names[at]: join_labels(fit.moments, at)[rows.codes[at]] for at in order}
    return score_rows(
        fit, stream_level_rows(fit, rows, held=held), rows.y, groups=groups, index=index
    )


def stream_level_rows(
    fit: LevelDraws, rows: CellRows, *, held: int = HELD, picked: Array | None = None
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield some rows (m,), and at each of N draws (m, N), given all other rows,

    the gap between the response and its mean, in SDs, and the log SD.

    Args:
        fit: the posterior.
        rows: those that it was fitted to, or some of them.
        held: numbers of each that are yielded at a time. Each portion evaluates all draws anew.
        picked: draws to evaluate (N,); None takes all.
    """
    white = fit.white
    parameters = fit.flat if picked is None else fit.flat.take(picked)
    drawn = list(iterate_lams(white, fit.structure, parameters))
    combos, met = np.unique(rows.codes, axis=1, return_inverse=True)
    met = met.ravel()
    order = np.argsort(met, kind="stable")
    size = max(1, held // len(drawn))
    z = np.concatenate(rows.z, axis=1)
    for start in range(0, len(order), size):
        part = order[start : start + size]
        w = whiten_rows(white, fit.moments, rows.x[part], z[part], rows.y[part])
        first, last = met[part[0]], met[part[-1]]
        place = partial(
            _place_rows, white, w, codes=combos[:, first : last + 1], at=met[part] - first
        )
        gap, log_sd = np.empty((2, len(part), len(drawn)))
        with ThreadPoolExecutor(count_cores()) as pool:
            for d, found in enumerate(pool.map(place, drawn)):
                gap[:, d], log_sd[:, d] = found
        yield part, gap, log_sd + np.log(white.scale)


def _place_rows(
    white: WhitenedCells,
    w: Array,
    draw: tuple[Array, list[Array], float],
    *,
    codes: Array,
    at: Array,
) -> tuple[Array, Array]:
    """Return gaps in SDs and log SDs (m,) of whitened rows at one draw.

    Args:
        white: the whitened cells.
        w: [Z~ X~ y~] of the rows (m, k).
        draw: beta, every lam and sigma, whitened.
        codes: combinations (F, c) of the factors' levels.
        at: which of them each row meets (m,).
    """
    beta, lams, sigma = draw
    q, levels = white.q, white.levels
    found = levels.eliminate(lams)
    means = expect_level_effects(levels, lams, found, beta)
    u = np.concatenate([mean[own] for mean, own in zip(means, codes, strict=True)], axis=1)
    c = levels.joint(lams, found, np.zeros((white.p, white.p)), codes)[:, :q, :q]
    z, x, y = w[:, :q], w[:, q:-1], w[:, -1]
    left = 1.0 - np.einsum("na,nab,nb->n", z, c[at], z)
    gap = y - x @ beta - np.einsum("na,na->n", z, u[at])
    return gap / (sigma * np.sqrt(left)), np.log(sigma) - 0.5 * np.log(left)


def check_same_level_rows(fit: LevelDraws, rows: CellRows) -> None:
    """Refuse rows of another table than the fit's.

    Raises:
        DataError: other rows than those of the fit.
    """
    moments = fit.moments
    counts = all(
        np.array_equal(
            np.bincount(own, minlength=labels.n_levels),
            np.bincount(labels.codes, weights=moments.n, minlength=labels.n_levels),
        )
        for own, labels in zip(rows.codes, moments.labels, strict=True)
        if own.min(initial=0) >= 0
    )
    mean = float(moments.n @ moments.mean[:, -1] / moments.n.sum())
    spread = np.sqrt(moments.cross[:, -1, -1].sum() / moments.n.sum()) + abs(mean)
    if not counts or abs(rows.y.mean() - mean) > 1e-9 * max(spread, 1e-300):
        raise DataError(
            f"the rows are others than those of the fit of '{moments.formula}' "
            f"({len(rows.y)} and {moments.n_rows} rows); take the model that was fitted"
        )
