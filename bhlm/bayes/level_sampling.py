"""NUTS on the marginal posterior of several grouping factors -> LevelDraws."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.draws import HELD, Settings, parameter_draws, read_sigma
from bhlm.bayes.existence import index_tails
from bhlm.bayes.independent import ROUTE, choose_method
from bhlm.bayes.level_density import (
    LevelDensity,
    build_levels,
    centre_levels,
    constrain_levels,
    turn_back,
)
from bhlm.bayes.level_draws import LevelDraws, build_levels_fit
from bhlm.bayes.level_tails import find_unbounded_levels
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, resolve_priors
from bhlm.bayes.sampling import (
    Progress,
    Watch,
    choose_sampler,
    choose_tune,
    collect_arguments,
    find_independent,
    initial_position,
    read_statistics,
    settle,
    start_turned,
    tell_stopped,
    warn_of,
)
from bhlm.errors import ArgumentError
from bhlm.likelihood.cells import WhitenedCells, whiten_cells
from bhlm.likelihood.covariance import Structure, lower_roots
from bhlm.likelihood.factor_names import name_factors
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import Parameters
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray


def sample_cells(
    moments: CellMoments,
    *,
    seed: int,
    settings: Settings | None = None,
    priors: Priors | None = None,
    covariance: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    held: int = HELD,
) -> LevelDraws:
    """Return posterior draws of the model that `moments` of several factors were reduced for.

    NUTS (nutpie) moves over the fixed effects, SDs, correlations and residual SD with the random
    effects of all factors integrated out, in coordinates that stand at the posterior's mode; each
    draw then gets one exact draw of the random effects. Where factors are crossed and leave a dense
    rest of many columns, draws are resampled from a proposal in its place, if the weights bear it
    (`bhlm.bayes.independent`). What fails the convergence verdict is logged as a warning of the
    logger "bhlm" too. Arguments are those of `bhlm.bayes.sampling.sample_moments`.

    Raises:
        ArgumentError: a covariance that has no prior here, or sampling weights.
        PriorError: priors that do not fit the model, or that the sampler asked for cannot read.
        IdentifiabilityError: the moments cannot identify the model.
        DataError: crossed factors that are too large for the memory.
    """
    if moments.weights is not None and moments.weights.is_sampling:
        raise ArgumentError(
            f"a pseudo-posterior of several grouping factors is not there with "
            f"{moments.weights.sentence}: its draws would need the sandwich of all factors; "
            "model.reml(method='ml') has it"
        )
    start = time.perf_counter()
    settings = settle(settings, min(moments.groups.values()))
    structure = arrange_prior(moments, covariance)
    white = whiten_cells(moments, structure.parts)
    resolved = resolve_priors(priors, moments, structure=structure)
    settings = choose_tune(settings, resolved)
    unbounded: list[str] = []
    if not settings.prior_only:
        flat = resolve_priors(Priors.flat(), moments, structure=structure)
        unbounded = find_unbounded_levels(priors, structure, white, flat)
    # Whether many levels of a factor make the weights even has not been measured: by default only
    # where NUTS, which asks for some fifty thousand evaluations, would take hours.
    method = choose_method(
        settings, 0, resolved, is_dear=white.levels.bends_dearly, is_watched=watch is not None
    )
    drawn = None
    if method == "independent":
        drawn = find_independent(
            moments.formula, white, structure, resolved,
            tails=index_tails(moments, structure, resolved, white), settings=settings, seed=seed,
        )  # fmt: skip
    if drawn is not None:
        fit = build_levels_fit(
            moments, structure, resolved, white, drawn.parameters, drawn.stats,
            settings=replace(settings, method="independent"), seed=seed, start=start,
            sampler=ROUTE, unbounded=unbounded, held=held, certificate=drawn.certificate,
        )  # fmt: skip
    else:
        fit = sample_whitened_cells(
            moments, structure, resolved, white, settings=replace(settings, method="nuts"),
            seed=seed, start=start, unbounded=unbounded, progress=progress, watch=watch, held=held,
        )  # fmt: skip
    warn_of(fit.diagnostics, moments.formula)
    return fit


def sample_whitened_cells(
    moments: CellMoments,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedCells,
    *,
    settings: Settings,
    seed: int,
    start: float | None = None,
    unbounded: list[str] | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    held: int = HELD,
) -> LevelDraws:
    """Return posterior draws in columns that are whitened already, under priors as they are.

    Arguments are those of `bhlm.bayes.sampling.sample_whitened`; `start` is when the run began, by
    `time.perf_counter`.

    Raises:
        PriorError: priors that the sampler asked for cannot read.
    """
    from bhlm.bayes.native import compile_pymc, make_model

    start = time.perf_counter() if start is None else start
    density: LevelDensity | None = None
    if choose_sampler(settings.sampler, priors) == "pymc":
        from bhlm.bayes.pymc_model import build_marginal_levels

        model = compile_pymc(
            build_marginal_levels(
                moments, white, priors, structure, use_likelihood=not settings.prior_only
            )
        )
        route = "PyMC marginal model, nutpie"
    else:
        density = build_levels(white, priors, structure, use_likelihood=not settings.prior_only)
        begin = initial_position(density.base, seed)[: density.dimension]
        density = centre_levels(density, begin)
        model, route = make_model(density, partial(start_turned, density.dimension))

    def read(trace: "xr.DataTree") -> tuple[Array | None, Parameters]:
        if density is None:
            return None, _read_pymc(trace, moments, structure)
        return read_levels(trace, density, white, priors)

    x, flat, stats = run_levels(
        model, read, moments, structure, settings=settings, seed=seed, progress=progress,
        watch=watch,
    )  # fmt: skip
    fit = build_levels_fit(
        moments, structure, priors, white, flat, stats,
        settings=replace(settings, draws=stats["energy"].shape[1]), seed=seed, start=start,
        sampler=route, x=x, unbounded=unbounded or (), held=held,
    )  # fmt: skip
    return tell_stopped(fit, asked=settings.draws)


def read_levels(
    trace: "xr.DataTree",
    density: LevelDensity,
    white: WhitenedCells | WhitenedNest,
    priors: ResolvedPriors,
) -> tuple[Array, Parameters]:
    """Return positions x (chain, draw, d) of a trace, and the parameters, one chain after another.

    Args:
        trace: of the density.
        density: that was moved on.
        white: what it is of.
        priors: one prior per parameter.
    """
    z = trace["posterior"]["x"].values
    x = turn_back(density, z.reshape(-1, z.shape[-1]))
    return x.reshape(z.shape), constrain_levels(density, white, priors.frame, x)


def run_levels(
    model: Any,
    read: "Callable[[xr.DataTree], tuple[Array | None, Parameters]]",
    moments: CellMoments | LevelPatterns,
    structure: Structure,
    *,
    settings: Settings,
    seed: int,
    progress: Progress | None,
    watch: Watch | None,
) -> tuple[Array | None, Parameters, dict[str, Array]]:
    """Return positions (chain, draw, d), parameters and statistics of a run of NUTS.

    Args:
        model: as nutpie takes it.
        read: a trace -> positions, and the parameters of all draws, one chain after the other.
        moments: the reduced table.
        structure: of the random coefficients of all factors.
        settings: how long to run, and how.
        seed: makes the run repeatable, bit for bit.
        progress: called now and then with nutpie's progress of every chain.
        watch: waits for the sampler, and may stop it early.
    """
    from bhlm.bayes.native import run_model

    def read_parameters(trace: "xr.DataTree") -> dict[str, Array]:
        _, flat = read(trace)
        shape = trace["sample_stats"]["energy"].shape
        parts = (each.reshape(*shape, *each.shape[1:]) for each in (flat.beta, flat.g, flat.sigma))
        return parameter_draws(moments, structure, *parts)

    def wait(running: Any) -> "xr.DataTree":
        return running.wait() if watch is None else watch(running, read_parameters)

    trace = run_model(model, collect_arguments(settings, seed, progress), wait)
    x, flat = read(trace)
    return x, flat, read_statistics(trace)


def _read_pymc(trace: "xr.DataTree", moments: CellMoments, structure: Structure) -> Parameters:
    """Return the parameters of a trace of the marginal pm.Model, all chains one after the other."""
    posterior = trace["posterior"]
    sigma = read_sigma(posterior.dataset).ravel()
    root = np.zeros((len(sigma), structure.q, structure.q))
    names = name_factors(moments)
    for part, span, name in zip(structure.parts, structure.spans, names, strict=True):
        g = posterior[f"cov|{name}"].values
        root[:, span, span] = lower_roots(g.reshape(-1, part.q, part.q))
    return Parameters(posterior["beta"].values.reshape(len(sigma), -1), root, sigma)
