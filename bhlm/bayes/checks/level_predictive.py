"""Posterior predictive checks of the units of one of several factors, from moments alone.

As `bhlm.bayes.checks.predictive`, with the law of `bhlm.likelihood.within_levels`.
"""

import numpy as np
from scipy.special import chndtr, ndtr

from bhlm.bayes.checks.predictive import (
    CHECK,
    KINDS,
    LEAST,
    PredictiveCheck,
    Replicates,
    check_kind,
    check_seed,
    thin_draws,
)
from bhlm.bayes.draws import HELD
from bhlm.bayes.level_draws import LevelDraws, find_top
from bhlm.likelihood.factor_names import join_labels
from bhlm.likelihood.nested import is_nested
from bhlm.likelihood.within_levels import expect_units, regress_units, spread_new_effects

Array = np.ndarray

BLOCK = 2**22  # numbers of cells' slopes that are in memory at a time


def check_units(
    fit: LevelDraws,
    factor: str | None = None,
    *,
    kind: str = "same groups",
    draws: int = 400,
    seed: int | None = None,
    held: int = HELD,
    block: int = BLOCK,
) -> PredictiveCheck:
    """Return statistics of a factor's units beside replicates of them under the posterior.

    The statistics are those of `bhlm.bayes.checks.predictive.check_groups`, of the rows of each
    unit. "same groups" keeps every factor's effects; with "new groups" the factor's units are new,
    and so are the units within them, while what crosses them or holds them keeps its effects. The
    residual SD of units that hold others is then left out, whose law has no closed form.

    Args:
        fit: the posterior.
        factor: the factor; None takes the one that all others are nested in, and of crossed ones
            that with the fewest units.
        kind: "same groups" or "new groups".
        draws: of the posterior, spread evenly over each chain; at least 200.
        seed: of the replicates; None takes the fit's.
        held: numbers of the replicates that are kept; beyond it `data` is None.
        block: numbers of cells' slopes that are in memory at a time.

    Raises:
        ArgumentError: it is not a factor of the model; an unknown kind, a seed that is negative, or
            too few draws.
    """
    check_kind(kind)
    seed = check_seed(fit, seed)
    picked, shape = thin_draws(fit, draws, least=LEAST)
    moments = fit.moments
    at = _choose_factor(fit) if factor is None else fit.find_factor(factor)
    units = regress_units(moments, at)
    beta, root, sigma = fit.flat.take(picked)
    effects = [each[picked] for each in fit.all_effects]
    codes = moments.codes
    inside = [other for other in range(len(codes)) if is_nested(codes[other], codes[at])]
    if kind == "new groups":
        effects = [np.zeros_like(u) if other in inside else u for other, u in enumerate(effects)]
    names = ("mean", *(f"slope({name})" for name in units.within.columns))
    has_sd = np.sum(units.within.df > 0.0) > 1 and (kind == "same groups" or inside == [at])
    names = (*names, "residual SD") if has_sd else names
    observed = units.observed[:, : len(names)]
    n_draws, n_units = len(picked), len(units.n)
    located, left = np.empty((n_draws, n_units, len(units.shown) + 1)), np.empty((n_draws, n_units))
    size = max(1, block // (moments.n_cells * len(moments.columns)))
    for start in range(0, n_draws, size):
        part = slice(start, start + size)
        located[part], left[part] = expect_units(units, beta[part], [u[part] for u in effects])
    scale = np.concatenate([1.0 / units.n[:, None], np.sum(units.within.root**2, axis=2)], axis=1)
    variance = sigma[:, None, None] ** 2 * scale
    for other in inside if kind == "new groups" else ():
        own = root[:, fit.structure.spans[other], fit.structure.spans[other]]
        g = own @ own.swapaxes(1, 2)
        variance += np.einsum("jsab,dab->djs", spread_new_effects(units, other), g)
    rng = np.random.default_rng([seed, CHECK, KINDS.index(kind), at])
    replicates = np.empty((n_draws, *observed.shape))
    width = located.shape[2]
    replicates[..., :width] = located + np.sqrt(variance) * rng.standard_normal(variance.shape)
    p = np.empty(observed.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = located - observed[:, :width]
        p[:, :width] = ndtr(gap / np.sqrt(variance)).mean(axis=0)
    if has_sd:
        df = np.maximum(units.within.df, 1.0)
        share = left / sigma[:, None] ** 2
        squares = rng.noncentral_chisquare(df, share)
        replicates[..., -1] = sigma[:, None] * np.sqrt(squares / df)
        ratio = df * observed[:, -1] ** 2 / sigma[:, None] ** 2
        p[:, -1] = 1.0 - chndtr(ratio, df, share).mean(axis=0)
    replicates = np.where(np.isnan(observed), np.nan, replicates)
    label = moments.factors[at].name
    return Replicates(names, observed, replicates, p).tell(
        label, join_labels(moments, at), kind=kind, seed=seed, shape=shape, held=held
    )


def _choose_factor(fit: LevelDraws) -> int:
    top = find_top(fit.white)
    return int(np.argmin(list(fit.moments.groups.values()))) if top is None else top
