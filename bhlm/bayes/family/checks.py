"""Posterior predictive checks of a family: proportions or rates by group, and calibration."""

import numpy as np

from bhlm.bayes.checks.model_checks import GROUPS, Checks
from bhlm.bayes.checks.sensitivity import measure_sensitivity
from bhlm.bayes.family.draws import FamilyDraws
from bhlm.layout import count
from bhlm.likelihood.replicates import KINDS, NEW, FamilyCheck, check_seed, compare_groups

CHECK = 4  # separates these seeds from the fit's other streams


def check_groups(
    fit: FamilyDraws, *, kind: str = "same groups", draws: int = 400, seed: int | None = None
) -> FamilyCheck:
    """Return each group's proportion or rate beside replicates of it, and the calibration.

    Args:
        fit: the draws.
        kind: "same groups" keeps the groups' effects, "new groups" draws them from N(0, G).
        draws: of the posterior, each of which is replicated once.
        seed: of the replicates; None takes the fit's.

    Raises:
        ArgumentError: an unknown kind, a seed that is negative, or too few draws.
    """
    check_seed(kind, draws, seed)
    most = int(np.prod(fit.shape))
    seed = fit.seed if seed is None else seed
    rng = np.random.default_rng([seed, CHECK, KINDS.index(kind)])
    flat = fit.flat
    chosen = np.unique(np.linspace(0, most - 1, min(draws, most)).astype(int))
    u = fit.list_effects()[chosen]
    if kind == NEW:
        u = np.einsum("nab,njb->nja", flat.root[chosen], rng.standard_normal(u.shape))
    return compare_groups(
        fit.moments, fit.family, beta=flat.beta[chosen], effects=u, kind=kind, seed=seed, rng=rng
    )


def run_family_checks(post: FamilyDraws) -> Checks:
    """Return the checks of a posterior of zeros and ones, proportions or counts.

    Each group's proportion or rate beside replicates of it, the calibration by tenths, and the
    sensitivity to the priors.

    Raises:
        ArgumentError: draws from the prior alone.
    """
    groups = post.moments.n_groups
    if groups > GROUPS:
        told = (
            f"Neither the model nor the sensitivity to its priors was checked, since there are "
            f"{count(groups, 'group')}: post.check() and post.sensitivity() do it"
        )
        return Checks(None, None, None, (told,))
    return Checks(check_groups(post), None, measure_sensitivity(post))
