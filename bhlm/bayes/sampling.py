"""NUTS on the marginal posterior -> BayesFit."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.density import Posterior, build_posterior, constrain, log_density
from bhlm.bayes.draws import Draws, Settings, build_fit, parameter_draws
from bhlm.bayes.priors.families import PyMCPrior
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, find_unbounded, resolve_priors
from bhlm.errors import ArgumentError, PriorError
from bhlm.likelihood.covariance import Structure, arrange_prior, lower_roots
from bhlm.likelihood.whitening import Whitened, whiten
from bhlm.moments.moments import Moments

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray
Progress = Callable[[Sequence[Any]], None]
type Reader = Callable[["xr.DataTree"], dict[str, Array]]  # a trace -> each parameter's draws
# Given nutpie's running sampler and a reader of its traces, returns the trace of as many draws as
# are wanted, the same number in each chain.
type Watch = Callable[[Any, Reader], "xr.DataTree"]
LOGGER = logging.getLogger("bhlm")
NATIVE = "numba density, nutpie"
PYTHON = "numba density through Python, nutpie"

FEW_GROUPS = 30  # fewer make the step size smaller by default


def sample_moments(
    moments: Moments,
    *,
    seed: int,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    cores: int | None = None,
    priors: Priors | None = None,
    covariance: str | None = None,
    target_accept: float | None = None,
    maxdepth: int = 10,
    prior_only: bool = False,
    sampler: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Draws:
    """Return posterior draws of the model that `moments` were reduced for.

    NUTS (nutpie) moves over the fixed effects, SDs, correlations and residual SD with the
    random effects integrated out; each draw then gets one exact draw of the random effects. What
    fails the convergence verdict is logged as a warning of the logger "bhlm" too.

    Args:
        moments: the reduced table.
        seed: makes the run repeatable, bit for bit.
        draws: kept draws per chain.
        tune: warm-up draws per chain, discarded.
        chains: independent chains.
        cores: chains that run side by side; None leaves it to nutpie.
        priors: what replaces the autoscaled defaults.
        covariance: "unstructured" or "independent"; None keeps what the formula says.
        target_accept: mean acceptance that the step size is tuned to, in (0, 1); None takes 0.9,
            and 0.99 with fewer than 30 groups, whose SDs have heavy-tailed posteriors: at 0.9
            half of all runs with six groups diverge somewhere.
        maxdepth: trajectories have at most 2**maxdepth steps.
        prior_only: leave the likelihood out.
        sampler: "density" moves on bhlm's own compiled density, "pymc" on the marginal pm.Model,
            which has to be compiled in each process; None takes "pymc" where a prior is a PyMC
            distribution and else "density".
        progress: called now and then with nutpie's progress of every chain.
        watch: waits for the sampler, and may stop it early; see `bhlm.bayes.live`.

    Raises:
        ArgumentError: a count that is not positive, or a covariance that has no prior here.
        PriorError: priors that do not fit the model.
        IdentifiabilityError: the moments cannot identify the model.
    """
    for name, value in {"draws": draws, "tune": tune, "chains": chains}.items():
        if not (isinstance(value, int | np.integer) and value > 0):
            raise ArgumentError(f"{name}={value!r} is not a count; give a positive integer")
    if target_accept is None:
        target_accept = choose_acceptance(moments.n_groups)
    if not 0.0 < target_accept < 1.0:
        raise ArgumentError(f"target_accept={target_accept!r} must lie between 0 and 1")
    settings = Settings(
        draws=int(draws), tune=int(tune), chains=int(chains), target_accept=target_accept,
        maxdepth=maxdepth, prior_only=prior_only,
    )  # fmt: skip
    structure = arrange_prior(moments, covariance)
    white = whiten(moments, structure)
    resolved = resolve_priors(priors, moments, structure=structure)
    fit = sample_whitened(
        moments, structure, resolved, white,
        settings=settings, seed=seed, sampler=sampler, cores=cores, progress=progress, watch=watch,
        unbounded=[] if prior_only else find_unbounded(priors, moments, structure),
    )  # fmt: skip
    for failure in fit.diagnostics.failures:
        LOGGER.warning("the posterior of '%s' failed its verdict: %s", moments.formula, failure)
    return fit


def sample_whitened(
    moments: Moments,
    structure: Structure,
    priors: ResolvedPriors,
    white: Whitened,
    *,
    settings: Settings,
    seed: int,
    sampler: str | None = None,
    cores: int | None = None,
    unbounded: Sequence[str] = (),
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Draws:
    """Return posterior draws in columns that are whitened already, under priors as they are.

    Args:
        moments: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        white: the whitened moments.
        settings: how long to run, and how.
        seed: makes the run repeatable, bit for bit.
        sampler: "density", "pymc", or None for the one that the priors allow.
        cores: chains that run side by side; None leaves it to nutpie.
        unbounded: SDs that the default prior alone bounds; they fail the verdict.
        progress: called now and then with nutpie's progress of every chain.
        watch: waits for the sampler, and may stop it early.

    Raises:
        ArgumentError: an unknown sampler.
        PriorError: priors that the sampler asked for cannot read.
    """
    start = time.perf_counter()
    read: Callable[[xr.DataTree], tuple[Array | None, Array, Array, Array]]
    if _choose_sampler(sampler, priors) == "pymc":
        model = _compile_pymc(moments, structure, priors, white, settings)
        read, route = _read_pymc, "PyMC marginal model, nutpie"
    else:
        posterior = build_posterior(
            white, priors, structure, use_likelihood=not settings.prior_only
        )
        model, route = _make_model(posterior)

        def read(trace: "xr.DataTree") -> tuple[Array, Array, Array, Array]:
            x = trace["posterior"]["x"].values
            flat = constrain(posterior, white, x.reshape(-1, x.shape[-1]))
            beta, root, sigma = (part.reshape(*x.shape[:2], *part.shape[1:]) for part in flat)
            return x, beta, root, sigma

    def read_parameters(trace: "xr.DataTree") -> dict[str, Array]:
        _, beta, root, sigma = read(trace)
        return parameter_draws(moments, structure, beta, root @ np.swapaxes(root, -1, -2), sigma)

    def wait(running: Any) -> "xr.DataTree":
        return running.wait() if watch is None else watch(running, read_parameters)

    trace = _await_trace(model, _nutpie_arguments(settings, seed, cores, progress), wait)
    x, beta, root, sigma = read(trace)
    kept = sigma.shape[1]
    fit = build_fit(
        moments, structure, priors, white, beta, root, sigma, read_statistics(trace),
        settings=replace(settings, draws=kept), seed=seed, start=start, sampler=route, x=x,
        unbounded=unbounded,
    )  # fmt: skip
    if kept == settings.draws:
        return fit
    return replace(
        fit,
        diagnostics=fit.diagnostics.add_failure(
            f"stopped after {kept} of {settings.draws} draws per chain; run it to its end, or ask "
            f"for draws={kept} with seed={seed}, which gives these very draws"
        ),
    )


def choose_acceptance(n_groups: int) -> float:
    """Return the mean acceptance that the step size is tuned to where nobody asks for one."""
    return 0.99 if n_groups < FEW_GROUPS else 0.9


def run_nutpie(
    posterior: Posterior,
    settings: Settings,
    *,
    seed: int,
    cores: int | None = None,
    progress: Progress | None = None,
) -> "xr.DataTree":
    """Return nutpie's trace of a posterior density: `x` (chain, draw, d) and its statistics."""
    model, route = _make_model(posterior)
    arguments = _nutpie_arguments(settings, seed, cores, progress)
    trace = _await_trace(model, arguments, lambda running: running.wait())
    trace.attrs["sampler"] = route
    return trace


def _make_model(posterior: Posterior) -> tuple[Any, str]:
    """Return a posterior density as a nutpie model, and the name of its route."""
    native = make_native(posterior)
    return (_make_python(posterior), PYTHON) if native is None else (native, NATIVE)


def _await_trace(
    model: Any, arguments: dict[str, Any], wait: "Callable[[Any], xr.DataTree]"
) -> "xr.DataTree":
    """Return the trace of a run; whatever is raised while it is waited for ends the run first.

    nutpie itself would take Ctrl-C for a wish to have the draws so far, as many in each chain as
    there happen to be.
    """
    import nutpie

    running = nutpie.sample(model, **arguments)
    try:
        return wait(running)
    except BaseException:
        with suppress(Exception):  # there is nothing to cancel once the draws were taken
            running.cancel()
        raise


def make_native(posterior: Posterior) -> Any:
    """Return the density as a nutpie model of C callbacks, which its threads call without Python.

    They rest on what nutpie keeps to itself. None where that has changed; the draws are the same
    either way, and come at a quarter of the speed then.
    """
    from bhlm.bayes.native import copy_callback, density_callback, pack_posterior

    d = posterior.dimension
    try:
        from nutpie.compile_pymc import CompiledPyMCModel

        model = CompiledPyMCModel(
            dims={"x": ("dimension",)},
            compiled_logp_func=density_callback,
            compiled_expand_func=copy_callback,
            initial_point_func=lambda seed: initial_position(posterior, seed),
            shared_data={},
            shared_var_keys={},
            user_data=pack_posterior(posterior),
            n_expanded=d,
            shape_info=(["x"], None, [(d,)]),
            logp_func=None,
            expand_func=None,
            _n_dim=d,
            _shapes={"x": (d,)},
            _coords={"dimension": [str(i) for i in range(d)]},
        )
        model._make_model(None)
    except (ImportError, AttributeError, TypeError):
        return None
    return model


def _make_python(posterior: Posterior) -> Any:
    """Return the density as a nutpie model of Python functions, nutpie's public interface."""
    from nutpie.compiled_pyfunc import from_pyfunc

    d = posterior.dimension
    arguments = posterior.arguments()
    log_density(np.zeros(d), *arguments)  # compile before the threads start

    def make_logp() -> Callable[[Array], tuple[float, Array]]:
        return lambda x: log_density(x, *arguments)

    def make_expand(*_: int) -> Callable[[Array], dict[str, Array]]:
        return lambda x: {"x": x}

    return from_pyfunc(
        d,
        make_logp,
        make_expand,
        [np.dtype(np.float64)],
        [(d,)],
        ["x"],
        dims={"x": ("dimension",)},
        coords={"dimension": [str(i) for i in range(d)]},
        make_initial_point_fn=lambda seed: initial_position(posterior, seed),
    )


def _compile_pymc(
    moments: Moments,
    structure: Structure,
    priors: ResolvedPriors,
    white: Whitened,
    settings: Settings,
) -> Any:
    """Return the marginal pm.Model as a nutpie model, compiled in this process."""
    import nutpie

    from bhlm.bayes.pymc_model import build_marginal

    model = build_marginal(
        moments, white, priors, structure, use_likelihood=not settings.prior_only
    )
    return nutpie.compile_pymc_model(model)


def _read_pymc(trace: "xr.DataTree") -> tuple[None, Array, Array, Array]:
    """Return beta, the lower roots of G and sigma of a trace of the marginal pm.Model."""
    beta, g, sigma = (trace["posterior"][name].values for name in ("beta", "G", "sigma"))
    return None, beta, lower_roots(g), sigma


def _nutpie_arguments(
    settings: Settings, seed: int, cores: int | None, progress: Progress | None
) -> dict[str, Any]:
    return {
        "draws": settings.draws,
        "tune": settings.tune,
        "chains": settings.chains,
        "cores": cores,
        "seed": seed,
        "target_accept": settings.target_accept,
        "maxdepth": settings.maxdepth,
        "save_warmup": False,
        "blocking": False,
        "progress_bar": False,
        "progress_callback": progress,
    }


def _choose_sampler(sampler: str | None, priors: ResolvedPriors) -> str:
    if sampler not in (None, "density", "pymc"):
        raise ArgumentError(f"sampler={sampler!r} is not known; choose 'density' or 'pymc'")
    custom = [str(prior) for prior in priors.every if isinstance(prior, PyMCPrior)]
    if custom and sampler == "density":
        raise PriorError(
            f"{custom[0]} is a PyMC distribution, which sampler='density' cannot read; leave "
            "sampler out, or use a family of bhlm.priors"
        )
    return sampler or ("pymc" if custom else "density")


def initial_position(posterior: Posterior, seed: int) -> Array:
    """Return a starting position (d,), spread by one unit around ordinary least squares.

    SDs start near a third of the residual SD, per unit of their column's spread.
    """
    p, q = len(posterior.offset), len(posterior.inverse_basis)
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, posterior.dimension)
    start = np.exp(x[p : p + q]) / 3.0
    x[p : p + q] = np.where(posterior.signed, start, np.log(start))
    x[-1] += np.log(posterior.scale)
    return x


def read_statistics(trace: "xr.DataTree") -> dict[str, Array]:
    """Return the statistics of nutpie's trace under the names of the ArviZ schema."""
    names = {
        "energy": "energy",
        "diverging": "diverging",
        "maxdepth_reached": "reached_max_treedepth",
        "depth": "tree_depth",
        "logp": "lp",
        "n_steps": "n_steps",
        "step_size": "step_size",
        "mean_tree_accept": "acceptance_rate",
    }
    stats = trace["sample_stats"]
    return {ours: stats[theirs].values for theirs, ours in names.items()}
