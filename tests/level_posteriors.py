"""Posteriors of several grouping factors without a sampler: normal draws about the REML fit."""

from functools import cache

import numpy as np
from level_designs import fit_design
from scipy.linalg import block_diag

from bhlm.bayes.draws import Settings
from bhlm.bayes.level_draws import build_levels_fit
from bhlm.bayes.priors.correlations import LKJ, arrange_prior
from bhlm.bayes.priors.families import HalfNormal
from bhlm.bayes.priors.resolve import Priors, resolve_priors
from bhlm.fits.level_bayes_fit import LevelBayesFit
from bhlm.likelihood.cells import whiten_cells
from bhlm.likelihood.covariance import lower_roots
from bhlm.likelihood.parameters import Parameters

CHAINS, DRAWS = 2, 40  # of draws each, unless more are asked for
PRIORS = {
    "two nested": Priors(sd={"school": HalfNormal(2.0)}, corr={"school:klass": LKJ(4.0)}),
}


@cache
def draw_fit(kind: str, *, spread: float = 0.1, draws: int = DRAWS) -> LevelBayesFit:
    """Return draws of a design of `level_designs`, its fixed effects and roots about REML's."""
    reml = fit_design(kind)
    cells = reml.moments
    structure = arrange_prior(cells)
    rng = np.random.default_rng(3)
    n = CHAINS * draws
    noise = spread * rng.standard_normal((n, structure.q, structure.q))
    root = lower_roots(block_diag(*reml.gs)) * (1.0 + noise)
    flat = Parameters(
        reml.beta + spread * rng.standard_normal((n, len(reml.beta))),
        root,
        np.sqrt(reml.sigma2) * np.exp(spread * rng.standard_normal(n)),
    )
    never = np.zeros((CHAINS, draws), dtype=bool)
    stats = {
        "energy": rng.standard_normal((CHAINS, draws)),
        "diverging": never,
        "reached_max_treedepth": never,
    }
    found = build_levels_fit(
        cells, structure, resolve_priors(PRIORS.get(kind), cells, structure=structure),
        whiten_cells(cells, structure.parts), flat, stats,
        settings=Settings(draws=draws, tune=1000, chains=CHAINS), seed=5, start=0.0,
        sampler="normal draws",
    )  # fmt: skip
    return LevelBayesFit.of(found)
