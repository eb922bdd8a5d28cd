"""Replicates of a calibration of several grouping factors: data by cell, posterior."""

from dataclasses import replace

import numpy as np

from bhlm.bayes.draws import Settings
from bhlm.bayes.level_sampling import sample_whitened_cells
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.likelihood.arrange import arrange_levels
from bhlm.likelihood.cells import CellBlocks, WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.simulate_cells import build_cell_simulator
from bhlm.likelihood.whitening import whiten_parameters
from bhlm.moments.cells import CellMoments

Array = np.ndarray


def simulate_cells(
    white: WhitenedCells, cells: CellBlocks, true: Parameters, rng: np.random.Generator
) -> WhitenedCells:
    """Return the same design with a new response, about its own least-squares fit and SDs.

    Args:
        white: the design, whitened.
        cells: the same by cell.
        true: the parameters, of one draw.
        rng: the source of the random numbers.
    """
    beta, lam, sd = whiten_parameters(white, *true)
    start, effects = 0, []
    for q in cells.sizes:
        effects.append(sd[0] * lam[0, start : start + q, start : start + q])
        start += q
    drawn = build_cell_simulator(cells, beta=beta[0], effects=effects, sigma=float(sd[0])).draw(rng)
    p, q = white.p, white.q
    total = drawn[:, q:, q:].sum(axis=0)
    fit = np.linalg.solve(total[:p, :p], total[:p, p])
    size = float(np.sqrt((total[p, p] - fit @ total[:p, p]) / (white.n - p)))
    loadings = np.eye(q + p + 1)
    loadings[q:, -1] = np.append(-fit, 1.0) / size
    blocks = np.ascontiguousarray(loadings.T @ drawn @ loadings)
    return replace(
        white,
        levels=arrange_levels(blocks, cells.codes, cells.sizes, names=cells.names),
        blocks=blocks,
        ols=white.ols + white.scale * white.fixed @ fit,
        scale=white.scale * size,
    )


def draw_level_posterior(
    moments: CellMoments,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedCells,
    *,
    settings: Settings,
    seed: int,
) -> tuple[Parameters, int]:
    """Return the parameters in the draws of one posterior, and how many transitions diverged."""
    fit = sample_whitened_cells(
        moments, structure, priors, white, settings=settings, seed=seed, held=0
    )
    return fit.flat, int(fit.data["sample_stats"]["diverging"].values.sum())
