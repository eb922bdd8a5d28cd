"""LOO-PIT of a posterior of several grouping factors, as `bhlm.bayes.checks.loo_pit` has it."""

from collections.abc import Callable

from bhlm.bayes.checks.level_predictive import check_units
from bhlm.bayes.checks.level_rows import check_same_level_rows, stream_level_rows
from bhlm.bayes.checks.loo import check_likelihood
from bhlm.bayes.checks.loo_pit import (
    ROWS,
    LooPit,
    average_pit,
    choose_rows,
    measure_uniformity,
    read_means,
)
from bhlm.bayes.checks.predictive import thin_draws
from bhlm.bayes.level_draws import LevelDraws
from bhlm.moments.cells import CellRows

# Over which the PIT is averaged: each costs what an evaluation of the likelihood does.
DRAWS = 400


def check_level_pit(
    post: LevelDraws, rows: Callable[[], CellRows] | None = None, *, most: int = ROWS
) -> LooPit:
    """Return the PIT of the rows, each given all others; without rows, that of the units' means.

    The units are those of `check_units`, and their means stand among replicates with new effects
    of these units and of those within them.

    Args:
        post: the posterior.
        rows: returns the rows that it was fitted to.
        most: how many rows the PIT is computed for.

    Raises:
        ArgumentError: draws from the prior alone.
        DataError: rows that are not those of the fit.
    """
    check_likelihood(post)
    if rows is None:
        return read_means(check_units(post, kind="new groups"))
    own = rows()
    check_same_level_rows(post, own)
    picked = choose_rows(post, len(own.y), most=most)
    part = CellRows(
        own.codes[:, picked], own.x[picked], tuple(z[picked] for z in own.z), own.y[picked]
    )
    draws, _ = thin_draws(post, DRAWS)
    pit = average_pit(post, stream_level_rows(post, part, picked=draws), len(picked))
    return LooPit(pit, of_rows=True, total=len(own.y), p=measure_uniformity(pit))
