"""Leave-one-unit-out predictive density of nested factors, by the coarsest of them.

A unit's log-likelihood has its effects and those of all that is nested in it integrated out
exactly, so leaving it out asks how well a school with its classes is predicted that was never seen.
"""

import numpy as np

from bhlm.bayes.checks.importance import log_mean, score_units
from bhlm.bayes.checks.loo import (
    Loo,
    assemble,
    check_likelihood,
    khat_threshold,
    relative_efficiency,
)
from bhlm.bayes.level_draws import LevelDraws, find_top, unit_logliks
from bhlm.errors import ArgumentError
from bhlm.layout import name_some, name_unit
from bhlm.likelihood.factor_names import join_labels
from bhlm.moments.cells import CellMoments

Array = np.ndarray


def leave_out_units(fit: LevelDraws) -> Loo:
    """Return the elpd of each unit of the coarsest of nested factors given the others.

    `table` is indexed by the unit, with the columns of
    `bhlm.bayes.checks.loo.leave_out_groups`; nothing is sampled anew, and units whose k-hat exceeds
    min(0.7, 1 - 1/log10(draws)) are told.

    Raises:
        ArgumentError: draws from the prior alone; factors that cross, of which no group of rows is
            independent of the others.
    """
    import pandas as pd

    check_likelihood(fit)
    moments, top = fit.moments, find_top(fit.white)
    if top is None:
        names = " and ".join(moments.groups)
        raise ArgumentError(
            f"{names} cross, so that no group of rows is independent of the others and none can be "
            "left out; only nested factors have such units"
        )
    loglik = unit_logliks(moments, fit.white, fit.structure, fit.flat).T
    elpd, mcse, khat, _ = score_units(np.ascontiguousarray(loglik), relative_efficiency(fit))
    labels, name = join_labels(moments, top), moments.factors[top].name
    bad = np.flatnonzero(~(khat <= khat_threshold(fit)))
    failures = []
    if len(bad):
        failures.append(
            f"k-hat is above {khat_threshold(fit):.2f} for "
            f"{name_unit(name, name_some(labels[bad].tolist()))}, so "
            f"{'its' if len(bad) == 1 else 'their'} elpd may be far off; take more draws"
        )
    return assemble(
        fit, "group", elpd, full=log_mean(loglik), mcse=mcse, khat=khat,
        refitted=np.zeros(len(elpd), dtype=bool), labels=labels,
        observed=_fingerprint(moments, top), failures=failures, index=pd.Index(labels, name=name),
    )  # fmt: skip


def _fingerprint(moments: CellMoments, top: int) -> Array:
    """Return rows, mean and sum of squares of the response by unit (J, 3)."""
    codes = moments.labels[top].codes
    n = np.bincount(codes, weights=moments.n)
    mean = np.bincount(codes, weights=moments.n * moments.mean[:, -1]) / n
    within = moments.cross[:, -1, -1] + moments.n * (moments.mean[:, -1] - mean[codes]) ** 2
    return np.column_stack([n, mean, np.bincount(codes, weights=within)])
