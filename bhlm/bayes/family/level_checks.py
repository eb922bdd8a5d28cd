"""Posterior predictive checks of a family with nested factors: replicates by unit, calibration."""

from collections.abc import Iterator, Sequence

import numpy as np

from bhlm.bayes.checks.model_checks import Checks
from bhlm.bayes.checks.sensitivity import measure_sensitivity
from bhlm.bayes.family.checks import CHECK
from bhlm.bayes.family.level_draws import FamilyLevelDraws
from bhlm.likelihood.factor_names import join_labels
from bhlm.likelihood.replicates import (
    KINDS,
    NEW,
    FamilyCheck,
    check_seed,
    judge_units,
    replicate,
)

Array = np.ndarray


def check_units(
    fit: FamilyLevelDraws,
    factor: str | None = None,
    *,
    kind: str = "same groups",
    draws: int = 400,
    seed: int | None = None,
) -> FamilyCheck:
    """Return each unit's proportion or rate beside replicates of it, and the calibration.

    Tenths go by the fixed effects alone, since effects of units know the responses.

    Args:
        fit: the draws.
        factor: whose units; None takes that with the fewest.
        kind: "same groups" keeps the units' effects, "new groups" draws them from N(0, G).
        draws: of the posterior, each of which is replicated once.
        seed: of the replicates; None takes the fit's.

    Raises:
        ArgumentError: it is not a factor, an unknown kind, a negative seed, or too few draws.
    """
    counts = fit.moments.groups
    name = min(counts, key=counts.__getitem__) if factor is None else factor
    fit.find_factor(name)
    return check_factors(fit, [name], kind=kind, draws=draws, seed=seed)[0]


def check_factors(
    fit: FamilyLevelDraws,
    factors: Sequence[str],
    *,
    kind: str = "same groups",
    draws: int = 400,
    seed: int | None = None,
) -> list[FamilyCheck]:
    """Return what `check_units` does of each factor, by the same replicates."""
    check_seed(kind, draws, seed)
    most = int(np.prod(fit.shape))
    seed = fit.seed if seed is None else seed
    rng = np.random.default_rng([seed, CHECK, KINDS.index(kind)])
    patterns, flat = fit.moments, fit.flat
    chosen = np.unique(np.linspace(0, most - 1, min(draws, most)).astype(int))
    effects = [u[chosen] for u in fit.all_effects]
    if kind == NEW:
        spans = fit.structure.spans
        effects = [
            rng.standard_normal(u.shape) @ flat.root[chosen, span, span].swapaxes(-1, -2)
            for u, span in zip(effects, spans, strict=True)
        ]
    fixed = patterns.offset + flat.beta[chosen] @ patterns.take(patterns.fixed).T
    zs = [patterns.take(part.names) for part in fit.structure.parts]

    def list_predictors() -> Iterator[Array]:
        for row, eta in enumerate(fixed):
            own = zip(zs, effects, patterns.codes, strict=True)
            yield eta + sum(np.einsum("iq,iq->i", z, u[row, codes]) for z, u, codes in own)

    replicated = replicate(
        patterns.n, fit.family, list_predictors(), draws=len(chosen), rng=rng
    )._replace(expected=fit.family.mean(fixed).mean(axis=0))
    found = []
    for name in factors:
        at = fit.find_factor(name)
        check = judge_units(
            patterns,
            fit.family,
            replicated,
            group=name,
            groups=join_labels(patterns, at),
            codes=patterns.labels[at].codes,
            kind=kind,
            seed=seed,
        )
        found.append(check)
    return found


def run_family_level_checks(post: FamilyLevelDraws) -> Checks:
    """Return the checks of a posterior of a family with nested factors.

    Each unit of the coarsest factor beside replicates of it, the calibration by tenths, and the
    sensitivity to the priors.

    Raises:
        ArgumentError: draws from the prior alone.
    """
    if not post.holds_effects:
        told = (
            "Units were not checked, since the effects of so many of them were not drawn with the "
            "posterior: post.check() does it"
        )
        return Checks(None, None, measure_sensitivity(post), (told,))
    return Checks(check_units(post), None, measure_sensitivity(post))
