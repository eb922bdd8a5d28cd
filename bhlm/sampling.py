"""NUTS on the marginal posterior -> BayesFit, with exact draws of the random effects."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.convergence import SUMMARY_COLUMNS, Diagnostics, diagnose, summarize
from bhlm.covariance import combine
from bhlm.density import Posterior, build_posterior, constrain, log_density
from bhlm.effects import draw_effects
from bhlm.errors import ArgumentError
from bhlm.moments import Moments
from bhlm.parameters import (
    RESIDUAL,
    name_group_dimension,
    scale_covariance,
    scaled_names,
    variance_names,
)
from bhlm.priors import Priors, ResolvedPriors, resolve_priors
from bhlm.tables import render_posterior
from bhlm.whitening import Whitened, whiten

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray
Progress = Callable[[Sequence[Any]], None]


@dataclass(frozen=True, slots=True)
class BayesFit:
    """Draws from the posterior of one hierarchical linear model.

    `data` is the xarray DataTree that ArviZ's functions take: `posterior` holds beta, sd, corr,
    G, sigma and u, `unconstrained_posterior` the sampler's own coordinates, `sample_stats`
    what ArviZ expects of NUTS.
    """

    moments: Moments
    blocks: tuple[tuple[str, ...], ...]  # correlated sets of random coefficients
    priors: ResolvedPriors
    data: "xr.DataTree"
    diagnostics: Diagnostics
    seed: int
    seconds: float
    sampler: str
    white: Whitened

    @property
    def converged(self) -> bool:
        """Whether the convergence verdict holds."""
        return self.diagnostics.ok

    @property
    def draws(self) -> dict[str, Array]:
        """Every parameter's draws (chain, draw), on the variance, SD and correlation scale."""
        posterior = self.data["posterior"].dataset
        return parameter_draws(
            self.moments,
            self.blocks,
            posterior["beta"].values,
            posterior["G"].values,
            posterior["sigma"].values,
        )

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `mean, median, mode, sd, lower, upper, ess_bulk, ess_tail, rhat,

        mcse_mean`, with equal-tailed 95 % intervals.
        """
        import pandas as pd

        table = pd.DataFrame.from_dict(
            summarize(self.draws), orient="index", columns=list(SUMMARY_COLUMNS)
        )
        table.index.name = "parameter"
        return table

    def group_effects(self) -> "pd.DataFrame":
        """Return posterior effects, one row per group and coefficient.

        Columns: the group's label, `coefficient`, `mean`, `sd`, `lower` and `upper` (95 %) of
        the deviation u.
        """
        import pandas as pd

        u = self.data["posterior"]["u"].values
        flat = u.reshape(-1, *u.shape[2:])
        lower, upper = np.quantile(flat, [0.025, 0.975], axis=0)
        n_groups, q = flat.shape[1:]
        return pd.DataFrame(
            {
                self.moments.group: np.repeat(self.moments.groups, q),
                "coefficient": list(self.moments.random) * n_groups,
                "mean": flat.mean(axis=0).ravel(),
                "sd": flat.std(axis=0, ddof=1).ravel(),
                "lower": lower.ravel(),
                "upper": upper.ravel(),
            }
        )

    def summary(self) -> str:
        """Return the posterior table, the priors and the convergence verdict as text."""
        return render_posterior(self)


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
    target_accept: float = 0.9,
    maxdepth: int = 10,
    prior_only: bool = False,
    progress: Progress | None = None,
) -> BayesFit:
    """Return posterior draws of the model that `moments` were reduced for.

    NUTS (nutpie) moves over the fixed effects, SDs, correlations and residual SD with the
    random effects integrated out; each draw then gets one exact draw of the random effects.

    Args:
        moments: the reduced table.
        seed: makes the run repeatable, bit for bit.
        draws: kept draws per chain.
        tune: warm-up draws per chain, discarded.
        chains: independent chains.
        cores: chains that run side by side; None leaves it to nutpie.
        priors: what replaces the autoscaled defaults.
        covariance: "unstructured" or "independent"; None keeps what the formula says.
        target_accept: mean acceptance that the step size is tuned to, in (0, 1). At 0.9 half a
            dozen groups, whose SDs have heavy-tailed posteriors, seldom make it diverge.
        maxdepth: trajectories have at most 2**maxdepth steps.
        prior_only: leave the likelihood out.
        progress: called now and then with nutpie's progress of every chain.

    Raises:
        ArgumentError: a count that is not positive, or a covariance that has no prior here.
        PriorError: priors that do not fit the model.
        IdentifiabilityError: the moments cannot identify the model.
    """
    for name, value in {"draws": draws, "tune": tune, "chains": chains}.items():
        if not (isinstance(value, int | np.integer) and value > 0):
            raise ArgumentError(f"{name}={value!r} is not a count; give a positive integer")
    if not 0.0 < target_accept < 1.0:
        raise ArgumentError(f"target_accept={target_accept!r} must lie between 0 and 1")
    blocks = arrange_blocks(moments, covariance)
    start = time.perf_counter()
    white = whiten(moments, combine(blocks))
    resolved = resolve_priors(priors, moments, blocks=blocks)
    sizes = tuple(len(block) for block in blocks)
    posterior = build_posterior(white, resolved, sizes, use_likelihood=not prior_only)
    trace = _run_nutpie(
        posterior,
        seed=seed,
        draws=int(draws),
        tune=int(tune),
        chains=int(chains),
        cores=cores,
        target_accept=target_accept,
        maxdepth=maxdepth,
        progress=progress,
    )
    x = trace["posterior"]["x"].values
    stats = _sampler_statistics(trace["sample_stats"])
    return assemble(
        moments, blocks, resolved, white, x, stats,
        seed=seed, start=start, sampler="numba density, nutpie",
    )  # fmt: skip


def arrange_blocks(moments: Moments, covariance: str | None) -> tuple[tuple[str, ...], ...]:
    """Return the correlated blocks of random coefficients that `covariance` asks for.

    Raises:
        ArgumentError: a structure for which there is no prior.
    """
    if covariance is None:
        return moments.blocks
    if covariance == "unstructured":
        return (moments.random,)
    if covariance == "independent":
        return tuple((name,) for name in moments.random)
    raise ArgumentError(
        f"covariance={covariance!r} has no prior for sampling; choose 'unstructured' or "
        "'independent', or fit it with reml()"
    )


def assemble(
    moments: Moments,
    blocks: tuple[tuple[str, ...], ...],
    priors: ResolvedPriors,
    white: Whitened,
    x: Array,
    stats: dict[str, Array],
    *,
    seed: int,
    start: float,
    sampler: str,
) -> BayesFit:
    """Return the BayesFit of unconstrained draws x (chain, draw, d) and sampler statistics.

    `start` is when the run began, by `time.perf_counter`.
    """
    chains, draws, d = x.shape
    posterior = build_posterior(white, priors, tuple(len(block) for block in blocks))
    beta, root, sigma = constrain(posterior, white, x.reshape(-1, d))
    u = draw_effects(white, beta, root, sigma, rng=np.random.default_rng([seed, 1]))
    g = root @ root.transpose(0, 2, 1)

    def chained(values: Array) -> Array:
        return values.reshape(chains, draws, *values.shape[1:])

    data = _build_tree(moments, chained(beta), chained(g), chained(sigma), chained(u), x, stats)
    diagnostics = diagnose(
        parameter_draws(moments, blocks, chained(beta), chained(g), chained(sigma)),
        energy=stats["energy"],
        diverging=stats["diverging"],
        treedepth=stats["reached_max_treedepth"],
    )
    return BayesFit(
        moments=moments, blocks=blocks, priors=priors, data=data, diagnostics=diagnostics,
        seed=seed, seconds=time.perf_counter() - start, sampler=sampler, white=white,
    )  # fmt: skip


def parameter_draws(
    moments: Moments,
    blocks: tuple[tuple[str, ...], ...],
    beta: Array,
    g: Array,
    sigma: Array,
) -> dict[str, Array]:
    """Return every parameter's draws (chain, draw) under its name, in the order of the tables."""
    labels = combine(blocks).labels
    variances = [g[..., i, j] for i, j in labels]
    scaled = scale_covariance(g, labels)
    named = dict(zip(moments.fixed, np.moveaxis(beta, -1, 0), strict=True))
    named |= zip(variance_names(moments.random, moments.group, labels), variances, strict=True)
    named[RESIDUAL] = sigma**2
    names = scaled_names(moments.random, moments.group, labels)
    named |= zip(names, np.moveaxis(scaled, -1, 0), strict=True)
    named["sd(Residual)"] = sigma
    return named


def _run_nutpie(
    posterior: Posterior,
    *,
    seed: int,
    draws: int,
    tune: int,
    chains: int,
    cores: int | None,
    target_accept: float,
    maxdepth: int,
    progress: Progress | None,
) -> "xr.DataTree":
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    d = posterior.dimension
    arguments = posterior.arguments()
    log_density(initial_position(posterior, seed), *arguments)  # compile before the threads start

    def make_logp() -> Callable[[Array], tuple[float, Array]]:
        return lambda x: log_density(x, *arguments)

    def make_expand(*_: int) -> Callable[[Array], dict[str, Array]]:
        return lambda x: {"x": x}

    model = from_pyfunc(
        d,
        make_logp,
        make_expand,
        [np.dtype(np.float64)],
        [(d,)],
        ["x"],
        dims={"x": ("dimension",)},
        coords={"dimension": [str(i) for i in range(d)]},
        make_initial_point_fn=lambda chain_seed: initial_position(posterior, chain_seed),
    )
    return nutpie.sample(
        model,
        draws=draws,
        tune=tune,
        chains=chains,
        cores=cores,
        seed=seed,
        target_accept=target_accept,
        maxdepth=maxdepth,
        save_warmup=False,
        progress_bar=False,
        progress_callback=progress,
    )


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


def _sampler_statistics(stats: "xr.DataTree") -> dict[str, Array]:
    """Return nutpie's statistics under the names of the ArviZ schema."""
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
    return {ours: stats[theirs].values for theirs, ours in names.items()}


def _build_tree(
    moments: Moments,
    beta: Array,
    g: Array,
    sigma: Array,
    u: Array,
    x: Array,
    stats: dict[str, Array],
) -> "xr.DataTree":
    from arviz_base import from_dict

    q = len(moments.random)
    pairs = [(i, j) for i in range(q) for j in range(q)]
    sd = np.sqrt(np.einsum("cdii->cdi", g))
    corr = scale_covariance(g, pairs).reshape(g.shape)
    corr[..., np.arange(q), np.arange(q)] = 1.0
    group = name_group_dimension(moments.group, taken=("dimension",))
    square = ["coefficient", "coefficient_bis"]
    return from_dict(
        {
            "posterior": {"beta": beta, "sd": sd, "corr": corr, "G": g, "sigma": sigma, "u": u},
            "unconstrained_posterior": {"x": x},
            "sample_stats": stats,
        },
        coords={
            "fixed": list(moments.fixed),
            "coefficient": list(moments.random),
            "coefficient_bis": list(moments.random),
            group: moments.groups,
        },
        dims={
            "beta": ["fixed"],
            "sd": ["coefficient"],
            "corr": square,
            "G": square,
            "u": [group, "coefficient"],
            "x": ["dimension"],
        },
    )
