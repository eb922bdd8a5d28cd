"""NUTS on the marginal posterior of a family -> FamilyDraws."""

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import HELD, Settings, parameter_draws
from bhlm.bayes.family.density import (
    build_family,
    centre_family,
    constrain_family,
    log_turned,
    start_search,
)
from bhlm.bayes.family.draws import FamilyDraws, build_family_fit
from bhlm.bayes.family.packing import pack_family
from bhlm.bayes.family.tails import index_family
from bhlm.bayes.independent import ROUTE, choose_method
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, resolve_priors
from bhlm.bayes.sampling import (
    TUNE,
    Progress,
    Watch,
    choose_sampler,
    collect_arguments,
    find_independent,
    read_statistics,
    settle,
    start_turned,
    tell_stopped,
    warn_of,
)
from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.patterns import WhitenedPatterns, whiten_patterns
from bhlm.moments.level_patterns import AnyPatterns
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray

MOST = 3  # random coefficients: nodes grow with their power


def sample_patterns(
    patterns: Patterns,
    *,
    seed: int,
    settings: Settings | None = None,
    priors: Priors | None = None,
    covariance: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    held: int = HELD,
) -> FamilyDraws:
    """Return posterior draws of the model that patterns were reduced for.

    NUTS (nutpie) moves over the fixed effects, SDs and correlations with the random effects
    integrated out by the nodes that maximum likelihood uses; each draw then gets one exact draw of
    the random effects. What fails the convergence verdict is logged as a warning of the logger
    "bhlm" too. Arguments are those of `bhlm.bayes.sampling.sample_moments`.

    Raises:
        ArgumentError: more than three random coefficients, a covariance that has no prior here, or
            the sampler of PyMC.
        PriorError: priors that do not fit the model.
        IdentifiabilityError: the patterns cannot identify the model.
    """
    start = time.perf_counter()
    settings = settings or Settings()
    choose_nuts(settings, patterns.family.name)
    settings = settle(settings, patterns.n_groups)
    settings = settings if settings.tune else replace(settings, tune=TUNE)
    structure = arrange_prior(patterns, covariance)
    if structure.q > MOST:
        raise ArgumentError(
            f"'{patterns.formula}' has {structure.q} random coefficients, and of "
            f"family='{patterns.family.name}' up to {MOST} are integrated; drop some"
        )
    white = whiten_patterns(patterns, structure)
    resolved = resolve_priors(priors, patterns, structure=structure)
    unbounded = [] if settings.prior_only else find_unbounded(priors, patterns, structure, white)
    # Each evaluation integrates every group anew, so that independent draws are slower than NUTS:
    # only where asked.
    if settings.method == "independent":
        choose_method(settings, 0, resolved, is_watched=watch is not None)  # or refuses
        drawn = find_independent(
            patterns.formula, white, structure, resolved,
            tails=index_family(patterns, structure, resolved, white), settings=settings, seed=seed,
        )  # fmt: skip
        assert drawn is not None
        density = build_family(white, resolved, structure)
        fit = build_family_fit(
            patterns, structure, resolved, density.nodes, drawn.parameters, drawn.stats,
            settings=settings, seed=seed, start=start, sampler=ROUTE, unbounded=unbounded,
            held=held, certificate=drawn.certificate,
        )  # fmt: skip
    else:
        fit = sample_whitened_patterns(
            patterns, structure, resolved, white, settings=settings, seed=seed,
            unbounded=unbounded, progress=progress, watch=watch, held=held,
        )  # fmt: skip
    warn_of(fit.diagnostics, patterns.formula)
    return fit


def sample_whitened_patterns(
    patterns: Patterns,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedPatterns,
    *,
    settings: Settings,
    seed: int,
    unbounded: list[str] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    held: int = HELD,
) -> FamilyDraws:
    """Return posterior draws in columns that are whitened already, under priors as they are.

    Raises:
        PriorError: priors that the density cannot read.
    """
    from bhlm.bayes.family.callback import family_callback
    from bhlm.bayes.native import NATIVE, PYTHON, make_python, run_model, wrap_callback

    start = time.perf_counter()
    choose_sampler("density", priors)
    density = build_family(white, priors, structure, use_likelihood=not settings.prior_only)
    density = centre_family(density, start_search(density))
    d = density.dimension
    begin = partial(start_turned, d)
    model, sampler = wrap_callback(family_callback, pack_family(density), d=d, start=begin), NATIVE
    if model is None:
        model, sampler = make_python(density, begin, evaluate=log_turned), PYTHON

    def read(trace: "xr.DataTree") -> tuple[Array, Parameters]:
        z = trace["posterior"]["x"].values
        x, flat = constrain_family(density, priors.frame, z.reshape(-1, z.shape[-1]))
        return x.reshape(z.shape), flat

    def read_parameters(trace: "xr.DataTree") -> dict[str, Array]:
        x, flat = read(trace)
        beta, g = (each.reshape(*x.shape[:2], *each.shape[1:]) for each in (flat.beta, flat.g))
        return parameter_draws(patterns, structure, beta, g, np.ones(x.shape[:2]))

    def wait(running: Any) -> "xr.DataTree":
        return running.wait() if watch is None else watch(running, read_parameters)

    trace = run_model(model, collect_arguments(settings, seed, progress), wait)
    x, flat = read(trace)
    kept = x.shape[1]
    fit = build_family_fit(
        patterns, structure, priors, density.nodes, flat, read_statistics(trace),
        settings=replace(settings, draws=kept), seed=seed, start=start, sampler=sampler, x=x,
        unbounded=unbounded or (), held=held,
    )  # fmt: skip
    return tell_stopped(fit, asked=settings.draws)


def find_unbounded(
    priors: Priors | None,
    patterns: AnyPatterns,
    structure: Structure,
    white: WhitenedPatterns | WhitenedNest,
) -> list[str]:
    """Return the SDs whose tail neither the data bound nor a prior that the user chose.

    The data bound an SD if it has a mean under priors flat on (beta, G).
    """
    given = None if priors is None else priors.sd
    if given is not None and not isinstance(given, Mapping):
        return []
    flat: ResolvedPriors = resolve_priors(Priors.flat(), patterns, structure=structure)
    indices = index_family(patterns, structure, flat, white)
    found = []
    for part in structure.parts:
        named = given or {}
        own = named if len(structure.parts) == 1 else named.get(part.group, {})
        chosen = {
            owner
            for name, owner in zip(part.names, part.owners, strict=True)
            if not isinstance(own, Mapping) or name in own
        }
        found += [
            str(sd)
            for owner, sd in enumerate(part.sds)
            if owner not in chosen and indices[str(sd)] <= 1.0
        ]
    return found


def choose_nuts(settings: Settings, family: str) -> None:
    """Refuse a sampler that does not know a family's nodes.

    Raises:
        ArgumentError: the sampler of PyMC.
    """
    if settings.sampler == "pymc":
        raise ArgumentError(
            f"sampler='pymc' is not there for family='{family}', whose random effects are "
            "integrated by nodes; leave it out, or sample model.pymc()"
        )
