"""Checks of a family's fit by replicates at the estimates: proportions by group, calibration."""

import numpy as np

from bhlm.likelihood.replicates import KINDS, NEW, FamilyCheck, check_seed, compare_groups
from bhlm.reml.family.estimate import FamilyEstimate


def check_groups(
    fit: FamilyEstimate, *, kind: str = "same groups", draws: int = 400, seed: int = 0
) -> FamilyCheck:
    """Return each group's proportion or rate beside replicates of it, and the calibration.

    The parameters stand at their estimates, and each replicate has effects of its own: exact draws
    of them given the data and the parameters, or of new groups.

    Args:
        fit: the fit.
        kind: "same groups" draws the groups' effects given the data, "new groups" from N(0, G).
        draws: replicates.
        seed: of the replicates.

    Raises:
        ArgumentError: an unknown kind, a seed that is negative, or too few draws.
    """
    check_seed(kind, draws, seed)
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    groups, q = fit.patterns.n_groups, len(fit.patterns.random)
    if kind == NEW:
        v = rng.standard_normal((draws, groups, q))
    else:
        beta = np.tile(fit.point[: len(fit.beta)], (draws, 1))
        noise = rng.uniform(size=(draws, groups, 1 + q))
        v = fit.integrator().draw_effects(beta, np.tile(fit.lam, (draws, 1, 1)), noise=noise).v
    return compare_groups(
        fit.patterns, fit.family, beta=np.broadcast_to(fit.beta, (draws, len(fit.beta))),
        effects=v @ fit.root.T, kind=kind, seed=seed, rng=rng,
    )  # fmt: skip
