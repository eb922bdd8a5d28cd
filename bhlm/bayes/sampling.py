"""NUTS on the marginal posterior, or independent draws of it -> BayesFit."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bhlm.bayes.centring import Turned, find_axes
from bhlm.bayes.convergence import Diagnostics
from bhlm.bayes.density import Density, build_density, constrain
from bhlm.bayes.draws import HELD, Draws, Posterior, Settings, build_fit, parameter_draws
from bhlm.bayes.existence import index_tails
from bhlm.bayes.independent import (
    ROUTE,
    Independent,
    choose_method,
    draw_independent,
    refuse_independent,
)
from bhlm.bayes.priors.correlations import arrange_prior
from bhlm.bayes.priors.families import PyMCPrior
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, resolve_priors
from bhlm.bayes.priors.tails import find_unbounded
from bhlm.bayes.weighted_density import (
    WeightedDensity,
    build_weighted,
    constrain_weighted,
    start_weighted,
)
from bhlm.errors import ArgumentError, PriorError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure, lower_roots
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.likelihood.whitening import Whitened, whiten, whiten_strata
from bhlm.moments.moments import Moments
from bhlm.moments.strata import StratumMoments
from bhlm.processes import measure_memory

if TYPE_CHECKING:
    import xarray as xr

    from bhlm.bayes.native import Drawn, Evaluate

Array = np.ndarray
Progress = Callable[[Sequence[Any]], None]
type Reader = Callable[["xr.DataTree"], dict[str, Array]]  # a trace -> each parameter's draws
# Given nutpie's running sampler and a reader of its traces, returns the trace of as many draws as
# are wanted, the same number in each chain.
type Watch = Callable[[Any, Reader], "xr.DataTree"]
LOGGER = logging.getLogger("bhlm")

SPREAD = 2.0  # chains start this far from a mode that was found, in SDs by the curvature there
FEW_GROUPS = 30  # fewer make the step size smaller by default
TUNE = 1000  # warm-up draws where nothing is known of where the posterior is
TURNED_TUNE = 300  # where chains start from its mode, see `bhlm.bayes.centring`
MANY_GROUPS = 1000  # groups from which it is looked whether long steps serve
# The mean acceptance of long steps: of a normal posterior of six parameters 0.7 takes three steps a
# draw where 0.9 takes six, and has more effective draws. Where a variance is next to zero, and the
# log density two SDs off is another by 1 and more, there are divergences at 0.7 and none at 0.9.
LONG_STEPS = 0.7
NORMAL = 0.25  # what the log density two SDs off may differ by from a normal one's
STATISTICS = {  # nutpie's names -> those of the ArviZ schema
    "energy": "energy",
    "diverging": "diverging",
    "maxdepth_reached": "reached_max_treedepth",
    "depth": "tree_depth",
    "logp": "lp",
    "n_steps": "n_steps",
    "step_size": "step_size",
    "mean_tree_accept": "acceptance_rate",
}
PER_DRAW = 200  # bytes of a draw of the smallest model, with the sampler's statistics


def sample_moments(
    moments: Moments | StratumMoments,
    *,
    seed: int,
    settings: Settings | None = None,
    priors: Priors | None = None,
    covariance: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
    evaluate: "Evaluate | None" = None,
    held: int = HELD,
    adjust: bool = True,
) -> Draws:
    """Return posterior draws of the model that `moments` were reduced for.

    NUTS (nutpie) moves over the fixed effects, SDs, correlations and residual SD with the
    random effects integrated out, or draws are resampled from a proposal that was fitted to that
    posterior (`bhlm.bayes.independent`, also by default where there are many groups and the
    weights bear it); each draw then gets one exact draw of the random effects. What fails the
    convergence verdict is logged as a warning of the logger "bhlm" too.

    Args:
        moments: the reduced table, by stratum where residual variances differ.
        seed: makes the run repeatable, bit for bit.
        settings: how long to run, and how; None takes the defaults.
        priors: what replaces the autoscaled defaults.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        progress: called now and then with nutpie's progress of every chain.
        watch: waits for the sampler, and may stop it early; see `bhlm.bayes.live`.
        evaluate: the density that is moved on, called through Python; None is bhlm's own.
        held: numbers of random effects, and of groups' log-likelihoods, that `data` may hold;
            beyond it they are drawn when asked for.
        adjust: whether draws under sampling weights get the sandwich's covariance, see
            `bhlm.bayes.adjust`.

    Raises:
        ArgumentError: a covariance that has no prior here, or method="independent" of a posterior
            that it has no draws of to be trusted.
        PriorError: priors that do not fit the model, or that the sampler asked for cannot read.
        IdentifiabilityError: the moments cannot identify the model.
    """
    start = time.perf_counter()
    strata = moments if isinstance(moments, StratumMoments) else None
    moments = moments.whole if isinstance(moments, StratumMoments) else moments
    is_free = moments.n_groups >= MANY_GROUPS and (
        settings is None or settings.target_accept is None
    )
    settings = settle(settings, moments.n_groups)
    structure = arrange_prior(moments, covariance)
    white = whiten(moments, structure) if strata is None else whiten_strata(strata, structure)
    resolved = resolve_priors(priors, moments, structure=structure)
    settings = choose_tune(settings, resolved)
    unbounded = [] if settings.prior_only else find_unbounded(priors, structure, white)
    method = choose_method(
        settings, moments.n_groups, resolved, is_plain=white.is_plain,
        is_watched=watch is not None or evaluate is not None,
    )  # fmt: skip
    drawn = None
    if method == "independent":
        drawn = find_independent(
            moments.formula, white, structure, resolved,
            tails=index_tails(moments, structure, resolved, white), settings=settings, seed=seed,
        )  # fmt: skip
    if drawn is not None:
        shape = settings.chains, settings.draws
        beta, root, sigma = (each.reshape(*shape, *each.shape[1:]) for each in drawn.parameters)
        fit = build_fit(
            moments, structure, resolved, white, beta, root, sigma, drawn.stats,
            settings=replace(settings, method="independent"), seed=seed, start=start,
            sampler=ROUTE, unbounded=unbounded, held=held, certificate=drawn.certificate,
        )  # fmt: skip
    else:
        fit = sample_whitened(
            moments, structure, resolved, white,
            settings=replace(settings, method="nuts"), seed=seed, progress=progress, watch=watch,
            evaluate=evaluate, held=held, adjust=adjust, unbounded=unbounded, is_free=is_free,
        )  # fmt: skip
    warn_of(fit.diagnostics, moments.formula)
    return fit


def find_independent(
    formula: str,
    white: Whitened | WhitenedCells | WhitenedPatterns,
    structure: Structure,
    priors: ResolvedPriors,
    *,
    tails: Mapping[str, float],
    settings: Settings,
    seed: int,
) -> Independent | None:
    """Return independent draws; None, which is logged, where nobody asked and there are none.

    Args are those of `draw_independent`.

    Raises:
        ArgumentError: they were asked for, and there are none to be trusted.
    """
    found = draw_independent(white, structure, priors, tails=tails, settings=settings, seed=seed)
    if not isinstance(found, str):
        if settings.method is None:
            LOGGER.info(
                "the posterior of '%s' is drawn independently (%s); method='nuts' takes NUTS",
                formula, found.certificate.sentence,
            )  # fmt: skip
        return found
    if settings.method is not None:
        raise refuse_independent(formula, found)
    LOGGER.info("no independent draws of '%s': %s; NUTS draws it", formula, found)
    return None


def sample_whitened(
    moments: Moments,
    structure: Structure,
    priors: ResolvedPriors,
    white: Whitened,
    *,
    settings: Settings,
    seed: int,
    unbounded: Sequence[str] = (),
    progress: Progress | None = None,
    watch: Watch | None = None,
    evaluate: "Evaluate | None" = None,
    held: int = HELD,
    adjust: bool = True,
    is_free: bool = False,
) -> Draws:
    """Return posterior draws in columns that are whitened already, under priors as they are.

    Args:
        moments: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        white: the whitened moments.
        settings: how long to run, and how.
        seed: makes the run repeatable, bit for bit.
        unbounded: SDs that the default prior alone bounds, which the diagnostics tell.
        progress: called now and then with nutpie's progress of every chain.
        watch: waits for the sampler, and may stop it early.
        evaluate: the density that is moved on; None is bhlm's own.
        held: numbers of random effects, and of groups' log-likelihoods, that `data` may hold.
        adjust: whether draws under sampling weights get the sandwich's covariance.
        is_free: whether steps may be longer than `settings` say, where `is_normal`.

    Raises:
        PriorError: priors that the sampler asked for cannot read.
    """
    from bhlm.bayes.native import Drawn, compile_pymc, read_columns, run_model

    start = time.perf_counter()
    read: Callable[[Any], tuple[Array | None, Array, Array, Array]]
    by_pymc = choose_sampler(settings.sampler, priors) == "pymc"
    if by_pymc:
        from bhlm.bayes.pymc_model import build_marginal

        model = compile_pymc(
            build_marginal(
                moments, white, priors, structure, use_likelihood=not settings.prior_only
            )
        )
        read, route = _read_pymc, "PyMC marginal model, nutpie"
    else:
        density = state_density(white, priors, structure, use_likelihood=not settings.prior_only)
        turned, model, route = place_chains(density, seed, evaluate=evaluate)
        if is_free and is_normal(turned, evaluate=evaluate):
            settings = replace(settings, target_accept=LONG_STEPS)

        def read(trace: "xr.DataTree | Drawn") -> tuple[Array, Array, Array, Array]:
            if isinstance(trace, Drawn):
                x = turned.axes.turn_back(trace.positions)
            else:
                x = turned.axes.turn_back(trace["posterior"]["x"].values)
            flat = constrain_any(density, white, priors.frame, x.reshape(-1, x.shape[-1]))
            beta, root, sigma = (part.reshape(*x.shape[:2], *part.shape[1:]) for part in flat)
            return x, beta, root, sigma

    def read_parameters(trace: "xr.DataTree") -> dict[str, Array]:
        _, beta, root, sigma = read(trace)
        return parameter_draws(moments, structure, beta, root @ np.swapaxes(root, -1, -2), sigma)

    def wait(running: Any) -> Any:
        return running.wait() if watch is None else watch(running, read_parameters)

    arguments, is_raw = collect_arguments(settings, seed, progress), watch is None and not by_pymc
    trace = run_model(model, arguments | {"return_raw_trace": is_raw}, wait)
    if is_raw:
        trace = read_columns(trace, draws=settings.draws, statistics=list(STATISTICS))
    x, beta, root, sigma = read(trace)
    kept = beta.shape[1]
    fit = build_fit(
        moments, structure, priors, white, beta, root, sigma, read_statistics(trace),
        settings=replace(settings, draws=kept), seed=seed, start=start, sampler=route, x=x,
        unbounded=unbounded, held=held, adjust=adjust,
    )  # fmt: skip
    return tell_stopped(fit, asked=settings.draws)


def state_density(
    white: Whitened,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
) -> Density | WeightedDensity:
    """Return the posterior density of whitened data, with weights and strata where they have any.

    Raises:
        PriorError: a prior without a density that the kernel knows.
    """
    build = build_density if white.is_plain else build_weighted
    return build(white, priors, structure, use_likelihood=use_likelihood)


def constrain_any(
    density: Density | WeightedDensity, white: Whitened, frame: Frame, x: Array
) -> Parameters:
    """Return the parameters at N positions x (N, d) of either density."""
    if isinstance(density, WeightedDensity):
        return constrain_weighted(density, white, frame, x)
    return constrain(density, white, frame, x)


def centre_density(
    density: Density | WeightedDensity, seed: int, *, evaluate: "Evaluate | None" = None
) -> Turned:
    """Return a density in coordinates that stand at its mode, which a search finds.

    Args:
        density: of x.
        seed: of the place where the search begins.
        evaluate: what takes the place of bhlm's own kernel.
    """
    from bhlm.bayes.native import find_kernel

    if isinstance(density, WeightedDensity):
        begin = start_weighted(density, seed)
    else:
        begin = initial_position(density, seed)
    kernel = evaluate or find_kernel(density)
    return Turned(density, find_axes(lambda x: kernel(x, density), begin))


def place_chains(
    density: Density | WeightedDensity, seed: int, *, evaluate: "Evaluate | None" = None
) -> tuple[Turned, Any, str]:
    """Return a density centred, as nutpie's model whose chains start there, and its route's name.

    Arguments are those of `centre_density`.
    """
    from bhlm.bayes.native import make_model

    turned = centre_density(density, seed, evaluate=evaluate)
    model, route = make_model(turned, partial(start_turned, turned.dimension), evaluate=evaluate)
    return turned, model, route


def is_normal(turned: Turned, *, evaluate: "Evaluate | None" = None) -> bool:
    """Return whether a density is all but normal two SDs to both sides of its mode on each axis.

    Long steps are right there, and leave a density whose tails are otherwise.
    """
    from bhlm.bayes.native import find_kernel

    kernel, axes = evaluate or find_kernel(turned.base), turned.axes
    at_mode = kernel(axes.centre, turned.base)[0]
    places = np.concatenate([2.0 * axes.turn.T, -2.0 * axes.turn.T])
    fallen = [at_mode - kernel(axes.centre + step, turned.base)[0] for step in places]
    return bool(np.max(np.abs(np.array(fallen) - 2.0)) < NORMAL)


def choose_acceptance(n_groups: int) -> float:
    """Return the mean acceptance that the step size is tuned to where nobody asks for one."""
    return 0.99 if n_groups < FEW_GROUPS else 0.9


def choose_tune(settings: Settings, priors: ResolvedPriors) -> Settings:
    """Return settings with the draws of warm-up of each chain, asked for or not.

    A sampler that starts from the posterior's mode, in the axes of the curvature there, has a step
    size and the scale of each coordinate to find, and nothing to search for.
    """
    if settings.tune is not None:
        return settings
    is_turned = choose_sampler(settings.sampler, priors) == "density" and not settings.prior_only
    return replace(settings, tune=TURNED_TUNE if is_turned else TUNE)


def settle(settings: Settings | None, n_groups: int) -> Settings:
    """Return settings with the mean acceptance that the step size is tuned to, asked for or not.

    A single chain, which no verdict can pass, is warned of.

    Raises:
        ArgumentError: so many draws in all that they do not fit into memory.
    """
    settings = settings or Settings()
    needed, most = settings.draws * settings.chains * PER_DRAW, measure_memory() // 2
    if needed > most:
        raise ArgumentError(
            f"draws={settings.draws:,} of chains={settings.chains} take {needed / 2**30:,.1f} GiB "
            f"and more, and at most {most / 2**30:,.1f} GiB, half of the memory, are taken; give "
            "fewer"
        )
    if settings.chains == 1:
        LOGGER.warning("chains=1 leaves nothing to compare by R-hat, so the verdict fails; give 2")
    if settings.target_accept is not None:
        return settings
    return replace(settings, target_accept=choose_acceptance(n_groups))


def tell_stopped[F: Posterior](fit: F, *, asked: int) -> F:
    """Return the fit; its verdict fails where chains have fewer draws than were asked for."""
    kept = fit.settings.draws
    if kept == asked:
        return fit
    failed = fit.diagnostics.add_failure(
        f"stopped after {kept} of {asked} draws per chain; run it to its end, or ask for "
        f"draws={kept} with seed={fit.seed}, which gives these very draws"
    )
    return replace(fit, diagnostics=failed)


def warn_of(diagnostics: Diagnostics, formula: str) -> None:
    """Log what fails the convergence verdict, and what the prior alone decides."""
    for failure in diagnostics.failures:
        LOGGER.warning("the posterior of '%s' failed its verdict: %s", formula, failure)
    for sentence in diagnostics.prior_bound:
        LOGGER.warning("the prior decides on the posterior of '%s': %s", formula, sentence)


class Raw(NamedTuple):
    """The draws of a run, and what a study reads of its statistics."""

    x: Array  # (chain, draw, d) positions
    diverging: Array  # (chain, draw)


def sample_density(
    density: Density | WeightedDensity,
    settings: Settings,
    *,
    seed: int,
    progress: Progress | None = None,
    evaluate: "Evaluate | None" = None,
) -> Raw:
    """Return the draws of a density."""
    from bhlm.bayes.native import read_columns, run_model

    turned, model, _ = place_chains(density, seed, evaluate=evaluate)
    arguments = collect_arguments(settings, seed, progress) | {"return_raw_trace": True}
    results = run_model(model, arguments, lambda running: running.wait())
    drawn = read_columns(results, draws=settings.draws, statistics=["diverging"])
    diverging = drawn.statistics["diverging"].astype(bool)
    return Raw(turned.axes.turn_back(drawn.positions), diverging)


def _read_pymc(trace: "xr.DataTree") -> tuple[None, Array, Array, Array]:
    """Return beta, the lower roots of G and sigma of a trace of the marginal pm.Model."""
    posterior = trace["posterior"]
    beta, g = posterior["beta"].values, posterior["G"].values
    known = "sigma" not in posterior
    sigma = np.ones(beta.shape[:2]) if known else posterior["sigma"].values
    return None, beta, lower_roots(g), sigma


def collect_arguments(settings: Settings, seed: int, progress: Progress | None) -> dict[str, Any]:
    """Return what nutpie is to be called with."""
    return {
        "draws": settings.draws,
        "tune": settings.tune,
        "chains": settings.chains,
        "cores": settings.cores,
        "seed": seed,
        "target_accept": settings.target_accept,
        "maxdepth": settings.maxdepth,
        "save_warmup": False,
        "blocking": False,
        "progress_bar": False,
        "progress_callback": progress,
    }


def choose_sampler(sampler: str | None, priors: ResolvedPriors) -> str:
    """Return "density" or "pymc", as asked for or as the priors need.

    Raises:
        PriorError: a PyMC distribution, which the compiled density cannot read.
    """
    custom = [str(prior) for prior in priors.every if isinstance(prior, PyMCPrior)]
    if custom and sampler == "density":
        raise PriorError(
            f"{custom[0]} is a PyMC distribution, which sampler='density' cannot read; leave "
            "sampler out, or use one such as bhlm.Normal"
        )
    return sampler or ("pymc" if custom else "density")


def initial_position(density: Density, seed: int) -> Array:
    """Return a starting position (d,), spread by one unit around ordinary least squares.

    SDs start near a third of the residual SD, per unit of their column's spread.
    """
    p, s = len(density.offset), len(density.unit)
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, density.dimension)
    start = np.exp(x[p : p + s]) / 3.0
    x[p : p + s] = np.where(density.signed, start, np.log(start))
    x[-1] += np.log(density.scale)
    return x


def start_turned(dimension: int, seed: int) -> Array:
    """Return a starting position z (d,) of a density that stands at its mode, spread around it."""
    return np.random.default_rng(seed).uniform(-SPREAD, SPREAD, dimension)


def read_statistics(trace: "xr.DataTree | Drawn") -> dict[str, Array]:
    """Return the statistics of nutpie's trace under the names of the ArviZ schema."""
    from bhlm.bayes.native import Drawn

    if isinstance(trace, Drawn):
        return {ours: trace.statistics[theirs] for theirs, ours in STATISTICS.items()}
    stats = trace["sample_stats"]
    return {ours: stats[theirs].values for theirs, ours in STATISTICS.items()}
