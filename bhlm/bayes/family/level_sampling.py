"""NUTS on the marginal posterior of a family with nested factors -> FamilyLevelDraws."""

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import HELD, Settings
from bhlm.bayes.family.level_density import centre_nest
from bhlm.bayes.family.level_draws import FamilyLevelDraws, build_family_levels_fit
from bhlm.bayes.family.sampling import MOST, choose_nuts, find_unbounded
from bhlm.bayes.level_sampling import read_levels, run_levels
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, resolve_priors
from bhlm.bayes.sampling import (
    Progress,
    Watch,
    choose_sampler,
    choose_tune,
    settle,
    start_turned,
    tell_stopped,
    warn_of,
)
from bhlm.errors import ArgumentError
from bhlm.layout import list_names
from bhlm.likelihood.arrange import is_chain
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.nested_families import WhitenedNest, whiten_nest
from bhlm.likelihood.parameters import Parameters
from bhlm.moments.level_patterns import LevelPatterns

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray

MOST_TOGETHER = 4  # random coefficients of all factors: nodes grow with their power


def sample_level_patterns(
    patterns: LevelPatterns,
    *,
    seed: int,
    settings: Settings | None = None,
    priors: Priors | None = None,
    covariance: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    held: int = HELD,
) -> FamilyLevelDraws:
    """Return posterior draws of the model that patterns of nested factors were reduced for.

    NUTS (nutpie) moves over the fixed effects, SDs and correlations with the effects of all factors
    integrated out by the lattices within lattices that maximum likelihood uses, in coordinates that
    stand at the posterior's mode; each draw then gets one exact draw of the random effects. What
    fails the convergence verdict is logged as a warning of the logger "bhlm" too. Arguments are
    those of `bhlm.bayes.sampling.sample_moments`.

    Raises:
        ArgumentError: crossed factors, more random coefficients than are integrated, a covariance
            that has no prior here, the sampler of PyMC, or independent draws.
        PriorError: priors that do not fit the model.
        IdentifiabilityError: the patterns cannot identify the model.
    """
    start = time.perf_counter()
    settings = settings or Settings()
    check_nested(patterns)
    choose_nuts(settings, patterns.family.name)
    if settings.method == "independent":
        raise ArgumentError(
            f"method='independent' is not there for family='{patterns.family.name}' with several "
            "grouping factors; take method='nuts', or leave it out"
        )
    settings = settle(settings, min(patterns.groups.values()))
    structure = arrange_prior(patterns, covariance)
    widest = max(part.q for part in structure.parts)
    if widest > MOST or structure.q > MOST_TOGETHER:
        raise ArgumentError(
            f"'{patterns.formula}' has {structure.q} random coefficients, and of family="
            f"'{patterns.family.name}' up to {MOST} of a factor and {MOST_TOGETHER} of all are "
            "integrated; drop some"
        )
    white = whiten_nest(patterns, structure.parts)
    resolved = resolve_priors(priors, patterns, structure=structure)
    choose_sampler("density", resolved)
    settings = choose_tune(settings, resolved)
    unbounded = [] if settings.prior_only else find_unbounded(priors, patterns, structure, white)
    fit = sample_whitened_nest(
        patterns, structure, resolved, white, settings=replace(settings, method="nuts"), seed=seed,
        start=start, unbounded=unbounded, progress=progress, watch=watch, held=held,
    )  # fmt: skip
    warn_of(fit.diagnostics, patterns.formula)
    return fit


def check_nested(patterns: LevelPatterns) -> None:
    """Refuse factors that cross, of which there is no likelihood with a known error.

    Raises:
        ArgumentError: they do.
    """
    if not is_chain(patterns.codes):
        raise ArgumentError(
            f"{list_names(list(patterns.groups))} cross, and of family='{patterns.family.name}' "
            "their likelihood is Laplace's approximation, which is no density to sample by; "
            "model.ml() has it with what it misses, and pm.sample() draws from "
            "model.pymc(form='conditional')"
        )


def sample_whitened_nest(
    patterns: LevelPatterns,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedNest,
    *,
    settings: Settings,
    seed: int,
    start: float | None = None,
    unbounded: list[str] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    held: int = HELD,
) -> FamilyLevelDraws:
    """Return posterior draws in columns that are whitened already, under priors as they are.

    Arguments are those of `bhlm.bayes.level_sampling.sample_whitened_cells`.

    Raises:
        PriorError: priors that the density cannot read.
    """
    from bhlm.bayes.native import make_model

    start = time.perf_counter() if start is None else start
    density, nodes = centre_nest(white, priors, structure, use_likelihood=not settings.prior_only)
    model, route = make_model(density, partial(start_turned, density.dimension))

    def read(trace: "xr.DataTree") -> tuple[Array, Parameters]:
        return read_levels(trace, density, white, priors)

    x, flat, stats = run_levels(
        model, read, patterns, structure, settings=settings, seed=seed, progress=progress,
        watch=watch,
    )  # fmt: skip
    fit = build_family_levels_fit(
        patterns, structure, priors, nodes, flat, stats,
        settings=replace(settings, draws=stats["energy"].shape[1]), seed=seed, start=start,
        sampler=route, x=x, unbounded=unbounded or (), held=held,
    )  # fmt: skip
    return tell_stopped(fit, asked=settings.draws)
