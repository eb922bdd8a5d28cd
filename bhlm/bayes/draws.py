"""Draws from the posterior of one model, and the tables that are read off them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from bhlm.bayes.adjust import Adjustment, adjust_draws
from bhlm.bayes.contents import Arrays, Contents
from bhlm.bayes.convergence import (
    Certificate,
    Diagnostics,
    diagnose_run,
    measure_draws,
    tabulate_summaries,
)
from bhlm.bayes.density import AnyWhitened, evaluate_priors
from bhlm.bayes.existence import explain_missing, index_tails
from bhlm.bayes.mixing import Known
from bhlm.bayes.priors.resolve import ResolvedPriors, find_residuals, measure_scales
from bhlm.bayes.rounding import resolve_draws
from bhlm.errors import ArgumentError, check_arguments, check_fields
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.effects import draw_effects, tabulate_effects
from bhlm.likelihood.parameters import (
    Parameter,
    Parameters,
    bound_parameters,
    list_parameters,
    name_group_dimension,
    name_strata,
    scale_covariance,
)
from bhlm.likelihood.weighted_marginal import map_draws, weigh_logliks
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.either import Reduced
from bhlm.moments.groups import find_groups
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import CountedRows, Patterns

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray

# Random effects of every draw are held in `data` up to this many numbers (256 MB), and the
# log-likelihood of every group likewise; beyond it they are drawn when asked for.
HELD = 2**25
# Groups whose effects are drawn from one random stream. Any choice of groups is drawn alike.
STREAM = 256


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to sample, and how.

    Raises:
        ArgumentError: a count that is not positive, or an acceptance outside of (0, 1).
    """

    draws: int = 1000  # kept per chain
    # Warm-up draws per chain, discarded; None: see `bhlm.bayes.sampling.choose_tune`.
    tune: int | None = None
    chains: int = 4
    # Mean acceptance that the step size is tuned to; None: by the number of groups and whether the
    # posterior is normal, see `choose_acceptance` and `is_normal` of `bhlm.bayes.sampling`.
    target_accept: float | None = None
    maxdepth: int = 10  # trajectories have at most 2**maxdepth steps
    prior_only: bool = False  # leave the likelihood out
    # "density" moves on bhlm's own compiled density, "pymc" on the marginal pm.Model, which has
    # to be compiled in each process; None takes "pymc" where a prior is a PyMC distribution and
    # else "density".
    sampler: str | None = None
    cores: int | None = None  # chains that run side by side; None leaves it to nutpie
    # "nuts" moves, "independent" resamples draws from a proposal; None is independent where there
    # are many groups, see `bhlm.bayes.independent.choose_method`.
    method: str | None = None

    def __post_init__(self) -> None:
        """Refuse what nobody can sample by."""
        for name in ("draws", "tune", "chains"):
            value = getattr(self, name)
            if name == "tune" and value is None:
                continue
            if not (isinstance(value, int | np.integer) and value > 0):
                raise ArgumentError(f"{name}={value!r} is not a count; give a positive integer")
            object.__setattr__(self, name, int(value))  # NumPy's integers are none to JSON
        if self.target_accept is not None and not 0.0 < self.target_accept < 1.0:
            raise ArgumentError(f"target_accept={self.target_accept!r} must lie between 0 and 1")
        if self.sampler not in (None, "density", "pymc"):
            raise ArgumentError(
                f"sampler={self.sampler!r} is not known; choose 'density' or 'pymc'"
            )
        if self.method not in (None, "nuts", "independent"):
            raise ArgumentError(
                f"method={self.method!r} is not known; choose 'nuts' or 'independent'"
            )


@check_arguments
@dataclass(frozen=True, slots=True)
class Posterior:
    """Draws from the posterior of a hierarchical linear model, with a single factor or several.

    Its subclasses say what `data` holds.
    """

    moments: Reduced
    structure: Structure  # of the random coefficients of all factors
    priors: ResolvedPriors
    contents: Contents
    diagnostics: Diagnostics
    settings: Settings
    seed: int
    seconds: float
    sampler: str  # which route ran
    white: AnyWhitened
    # What was computed once; a changed copy begins anew.
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def data(self) -> "xr.DataTree":
        """The draws as ArviZ's functions take them, made at the first call; see the class."""
        return self.contents.tree

    def with_data(self, data: "xr.DataTree") -> Self:
        """Return this posterior with other draws, such as some of its own.

        Raises:
            DataError: `data` has no draws of these parameters.
        """
        return replace(self, contents=self.contents.with_tree(data))

    def _check_whole(self) -> None:
        """Raise `DataError` where `data` no longer holds what it did; see `check_arguments`."""
        self.contents.check()

    @property
    def known(self) -> Known | None:
        """What was measured of the draws for the verdict; None of draws that were not sampled."""
        found: Known | None = self._kept.get("known")
        return found

    def remember(self, known: Known) -> Self:
        """Keep what was measured of the draws for the verdict, and return the posterior."""
        self._kept["known"] = known
        return self

    @property
    def flat(self) -> Parameters:
        """The parameters of all N kept draws."""
        raise NotImplementedError

    @property
    def tail_indices(self) -> dict[str, float]:
        """By parameter, P(|x| > t) ~ t^-index: the m-th moment exists if m < index."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of chains and of draws in each."""
        self._check_whole()
        chains, draws = self.contents.read("posterior", "beta").shape[:2]
        return int(chains), int(draws)

    @property
    def converged(self) -> bool:
        """Whether the convergence verdict holds."""
        return self.diagnostics.ok

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter, in the order of the tables."""
        return list_own(self.moments, self.structure)

    @property
    def draws(self) -> dict[str, Array]:
        """Every parameter's draws (chain, draw), on the variance, SD and correlation scale."""
        self._check_whole()
        if "draws" not in self._kept:
            beta, root, sigma = self.flat
            shape = self.shape
            g = root @ root.swapaxes(-1, -2)
            parts = (each.reshape(*shape, *each.shape[1:]) for each in (beta, g, sigma))
            self._kept["draws"] = parameter_draws(self.moments, self.structure, *parts)
        return dict(self._kept["draws"])

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `mean, median, mode, sd, lower, upper, ess_bulk, ess_tail, rhat,

        mcse_mean`, with equal-tailed 95 % intervals. A mean or SD that the posterior does not have
        is nan; `withheld` says why.
        """
        self._check_whole()
        if "estimates" not in self._kept:
            table = tabulate_summaries(
                self.draws, index="parameter", bounds=bound_parameters(self.parameters),
                known=self.known,
            )  # fmt: skip
            index = table.index.map(self.tail_indices)
            table.loc[index <= 1.0, ["mean", "mcse_mean"]] = np.nan
            table.loc[index <= 2.0, ["sd", "mcse_mean"]] = np.nan
            self._kept["estimates"] = table
        kept: pd.DataFrame = self._kept["estimates"]
        return kept.copy()

    @property
    def withheld(self) -> dict[str, str]:
        """By parameter, why its posterior mean does not exist, where it does not."""
        label = "the prior" if self.settings.prior_only else "the posterior"
        return explain_missing(self.tail_indices, label=label)

    @property
    def scales(self) -> dict[str, float]:
        """The SD of every column, by which default priors are scaled."""
        return measure_scales(self.moments)


@check_fields
@dataclass(frozen=True, slots=True)
class Draws(Posterior):
    """Draws from the posterior of a model with a single factor.

    `data` is the xarray DataTree that ArviZ's functions take: `posterior` holds beta, sd, corr,
    G, sigma and u, `log_likelihood` that of each group with its effects integrated out,
    `log_prior` the prior's terms, `unconstrained_posterior` the sampler's own coordinates,
    `sample_stats` what ArviZ expects of NUTS, or of independent draws which proposal each was and
    its weight. With so many groups that u or the log-likelihood
    would pass 2^25 numbers they are left out there; `effect_draws` gives u for chosen groups.

    By strata sigma has a dimension of them, and where variances are known there is none. Under
    sampling weights there is no log-likelihood of rows; `unadjusted_posterior` holds what
    `adjustment` moved the draws from.
    """

    moments: Moments
    white: Whitened
    adjustment: Adjustment | None = None  # of draws under sampling weights, None elsewhere

    @property
    def flat(self) -> Parameters:
        """The parameters of all N kept draws."""
        self._check_whole()
        return _flatten(self.contents, self.contents.read("unconstrained_posterior", "chol"))

    @property
    def sampled(self) -> "Draws":
        """The draws as the sampler left them: these, unless they were adjusted."""
        if self.adjustment is None or self.adjustment.failure:
            return self
        own = self.data["unadjusted_posterior"].dataset
        tree = self.data.copy()
        parts = {
            name: self.data["posterior"].dataset[name] * 1.0 for name in ("beta", "sigma", "G")
        }
        root = own["chol"].values
        parts["beta"] = parts["beta"].copy(data=own["beta"].values)
        parts["sigma"] = parts["sigma"].copy(data=own["sigma"].values)
        parts["G"] = parts["G"].copy(data=root @ root.swapaxes(-1, -2))
        tree["posterior"].dataset = self.data["posterior"].dataset.assign(parts)
        held = self.data["unconstrained_posterior"].dataset
        moved = held.assign(chol=held["chol"].copy(data=root))
        tree["unconstrained_posterior"].dataset = moved
        return replace(self.with_data(tree), adjustment=None)

    @property
    def draws(self) -> dict[str, Array]:
        """Every parameter's draws (chain, draw), on the variance, SD and correlation scale."""
        self._check_whole()
        if "draws" not in self._kept:
            beta, g = (self.contents.read("posterior", name) for name in ("beta", "G"))
            arrays = beta, g, read_sigma(self.contents)
            self._kept["draws"] = parameter_draws(self.moments, self.structure, *arrays)
        return dict(self._kept["draws"])

    @property
    def tail_indices(self) -> dict[str, float]:
        """By parameter, P(|x| > t) ~ t^-index: the m-th moment exists if m < index."""
        if "tail_indices" not in self._kept:
            self._kept["tail_indices"] = index_tails(
                self.moments, self.structure, self.priors, self.white,
                prior_only=self.settings.prior_only,
            )  # fmt: skip
        return dict(self._kept["tail_indices"])

    @check_arguments
    def effect_draws(self, groups: Sequence[Any] | None = None) -> "xr.DataArray":
        """Return u (chain, draw, group, coefficient), one exact draw for each kept draw.

        Args:
            groups: labels of the groups wanted; None takes all.

        Raises:
            DataError: a label is not one of the groups.
        """
        import xarray as xr

        at = (
            np.arange(self.moments.n_groups)
            if groups is None
            else find_groups(self.moments, groups)
        )
        out = np.empty((*self.shape, len(at), len(self.moments.random)))
        for members, u in stream_effects(self, at):
            out[:, :, members] = u.reshape(*self.shape, *u.shape[1:])
        dims = ("chain", "draw", name_group_dimension(self.moments.group, taken=("dimension",)))
        return xr.DataArray(
            out,
            dims=(*dims, "coefficient"),
            coords={dims[2]: self.moments.groups[at], "coefficient": list(self.moments.random)},
            name="u",
        )

    def group_effects(self) -> "pd.DataFrame":
        """Return posterior effects, one row per group and coefficient.

        Columns: the group's label, `coefficient`, `mean`, `sd`, `lower` and `upper` (95 %) of
        the deviation u.
        """
        return tabulate_effects(self.moments, summarize_effects(self))


def read_sigma(contents: Contents) -> Array:
    """Return sigma (chain, draw), of strata (chain, draw, S); 1 where variances are known."""
    if contents.has("posterior", "sigma"):
        return contents.read("posterior", "sigma")
    return np.ones(contents.read("posterior", "beta").shape[:2])


def _flatten(contents: Contents, root: Array) -> Parameters:
    """Return the parameters of all N kept draws."""
    beta, sigma = contents.read("posterior", "beta"), read_sigma(contents)
    return Parameters(
        beta.reshape(-1, beta.shape[-1]),
        root.reshape(-1, *root.shape[2:]),
        sigma.reshape(-1, *sigma.shape[2:]),
    )


def summarize_effects(fit: Draws) -> dict[str, Array]:
    """Return `mean`, `sd`, `lower` and `upper` (95 %) of every group's u, (J, q) each.

    Beside a fixed effect of the same column a deviation has the tails of its SD, and where those
    leave it no mean or SD, that is nan.
    """
    n_groups, q = fit.moments.n_groups, len(fit.moments.random)
    table = np.empty((4, n_groups, q))
    for members, u in stream_effects(fit, np.arange(n_groups)):
        table[0, members] = u.mean(axis=0)
        table[1, members] = u.std(axis=0, ddof=1)
        table[2:, members] = np.quantile(u, [0.025, 0.975], axis=0)
    for i, name in enumerate(fit.moments.random):
        index = fit.tail_indices[str(fit.structure.sds[fit.structure.owners[i]])]
        if name in fit.moments.fixed:
            table[0, :, i] = np.nan if index <= 1.0 else table[0, :, i]
            table[1, :, i] = np.nan if index <= 2.0 else table[1, :, i]
    return dict(zip(("mean", "sd", "lower", "upper"), table, strict=True))


def build_fit(
    moments: Moments,
    structure: Structure,
    priors: ResolvedPriors,
    white: Whitened,
    beta: Array,
    root: Array,
    sigma: Array,
    stats: dict[str, Array],
    *,
    settings: Settings,
    seed: int,
    start: float,
    sampler: str,
    x: Array | None = None,
    unbounded: Sequence[str] = (),
    held: int = HELD,
    adjust: bool = True,
    certificate: Certificate | None = None,
) -> Draws:
    """Return draws of the parameters as Draws, with the random effects drawn from them.

    Args:
        moments: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        white: the whitened moments.
        beta: fixed effects (chain, draw, p).
        root: lower roots of G, the random effects' covariance (chain, draw, q, q); the sign of
            a column is arbitrary.
        sigma: residual SDs (chain, draw), of strata (chain, draw, S).
        stats: the sampler's statistics, each (chain, draw), under ArviZ's names.
        settings: what the sampler was asked for.
        seed: the run's seed, from which the random effects are drawn too.
        start: when the run began, by `time.perf_counter`.
        sampler: which route ran.
        x: the sampler's coordinates (chain, draw, d), where they are those of `density`.
        unbounded: SDs that the default prior alone bounds, which the diagnostics tell.
        held: numbers of random effects, and of groups' log-likelihoods, that `data` may hold.
        adjust: whether draws under sampling weights get the sandwich's covariance.
        certificate: of independent draws.
    """
    adjustment, sampled = None, {"beta": beta, "chol": root, "sigma": sigma}
    if white.groups is not None and not settings.prior_only:
        flat = Parameters(*(each.reshape(-1, *each.shape[2:]) for each in (beta, root, sigma)))
        if adjust:
            flat, adjustment = adjust_draws(moments, white, structure, flat)
        else:
            adjustment = Adjustment(np.empty(0), "adjust=False")
        shape = beta.shape[:2]
        beta, root, sigma = (each.reshape(*shape, *each.shape[1:]) for each in flat)
    root = sign_roots(Parameters(beta, root, sigma)).root
    g = root @ root.swapaxes(-1, -2)
    arrays = {"posterior": {"beta": beta, "G": g}, "sample_stats": stats}
    if white.held is None:
        arrays["posterior"]["sigma"] = sigma
    if adjustment is not None and not adjustment.failure:
        arrays["unadjusted_posterior"] = sampled
    # G alone would lose digits of its root where a column is far from zero.
    arrays["unconstrained_posterior"] = {"chol": root} if x is None else {"chol": root, "x": x}

    # Of the draws as they are here: whoever reads them may write to what he got.
    own = beta.copy("K"), root.copy("K"), g.copy("K"), sigma.copy("K")

    def complete(arrays: Arrays) -> "xr.DataTree":
        content = _fill_groups(moments, structure, priors, white, *own, settings, seed, held)
        content["posterior"] |= arrays["posterior"]
        rest = {name: each for name, each in arrays.items() if name not in content}
        return build_tree(moments, content | rest)

    named = parameter_draws(moments, structure, beta, g, sigma)
    resolved = resolve_draws(moments, structure, named, root)
    known = measure_draws(resolved)
    diagnostics = diagnose_run(resolved, stats, certificate, known)
    diagnostics = tell_unbounded(diagnostics, f"{moments.n_groups} groups", unbounded)
    fit = Draws(
        moments=moments, structure=structure, priors=priors, contents=Contents(arrays, complete),
        diagnostics=diagnostics, settings=settings, seed=seed,
        seconds=time.perf_counter() - start, sampler=sampler, white=white, adjustment=adjustment,
    )  # fmt: skip
    return fit.remember(known)


def sign_roots(parameters: Parameters) -> Parameters:
    """Return parameters whose roots of G (..., q, q) have diagonals that are not negative."""
    diagonal = np.einsum("...ii->...i", parameters.root)
    sign = np.where(diagonal < 0.0, -1.0, 1.0)
    return parameters._replace(root=parameters.root * sign[..., None, :])


def tell_unbounded(diagnostics: Diagnostics, who: str, unbounded: Sequence[str]) -> Diagnostics:
    """Return diagnostics that say which SDs the default prior alone bounds; `who` does not."""
    if not unbounded:
        return diagnostics
    sentence = (
        f"{who} do not bound {' and '.join(unbounded)}: the upper tail is that of the default "
        "prior; give more groups, drop random coefficients, or state a prior that you would "
        "defend, Priors(sd=...)"
    )
    return replace(diagnostics, prior_bound=(sentence,))


def parameter_draws(
    moments: Reduced,
    structure: Structure,
    beta: Array,
    g: Array,
    sigma: Array,
) -> dict[str, Array]:
    """Return every parameter's draws (chain, draw) under its name, in the order of the tables.

    Of a family there is no residual, and sigma is not read.
    """
    labels = structure.labels
    variances = [g[..., i, j] for i, j in labels]
    scaled = scale_covariance(g, labels)
    sigmas = [sigma] if sigma.ndim == g.ndim - 2 else list(np.moveaxis(sigma, -1, 0))
    sigmas = sigmas[: len(find_residuals(moments))]  # none where variances are known
    values = [*np.moveaxis(beta, -1, 0), *variances, *(each**2 for each in sigmas)]
    values += [*np.moveaxis(scaled, -1, 0), *sigmas]
    return dict(zip(map(str, list_own(moments, structure)), values, strict=True))


def list_own(moments: Reduced, structure: Structure) -> tuple[Parameter, ...]:
    """Return every parameter of what moments, or the patterns of a family, were reduced for."""
    residual = not isinstance(moments, CountedRows)
    weights = moments.design.formula.weights
    return list_parameters(moments.fixed, structure, residual=residual, weights=weights)


def turn_draws(fit: Posterior) -> dict[str, Array]:
    """Return every parameter's draws (N,) as the priors mean it: where the priors stand."""
    frame = fit.priors.frame
    beta, root, sigma = flatten_draws(fit)
    root = frame.turn_root(root)
    g = root @ root.swapaxes(-1, -2)
    return parameter_draws(fit.moments, fit.structure, frame.turn_fixed(beta), g, sigma)


def flatten_draws(fit: Posterior) -> Parameters:
    """Return the parameters of all N kept draws."""
    return fit.flat


def stream_effects(fit: Draws, at: Array) -> Iterator[tuple[Array, Array]]:
    """Yield positions in `at` and the draws of u (N, m, q) of those m groups, a stream a time.

    A group's draws depend on the seed and on its place among the groups, not on which other
    groups are asked for.
    """
    held = fit.data["posterior"].dataset.data_vars.get("u")
    if held is not None:
        u = held.values
        yield np.arange(len(at)), u.reshape(-1, *u.shape[2:])[:, at]
        return
    parameters = flatten_draws(fit)
    white = _informing(fit.white, fit.settings)
    for stream in np.unique(at // STREAM):
        u = _draw_stream(white, parameters, fit.seed, int(stream))
        members = np.flatnonzero(at // STREAM == stream)
        yield members, u[:, at[members] - stream * STREAM]


def _informing(white: Whitened, settings: Settings) -> Whitened:
    """Return the data that the random effects are drawn given: none if the prior is sampled."""
    if not settings.prior_only:
        return white
    return replace(white, blocks=np.zeros_like(white.blocks), parts=None)


def _draw_stream(white: Whitened, parameters: Parameters, seed: int, stream: int) -> Array:
    """Return u (N, m, q) of the groups of one stream."""
    span = slice(stream * STREAM, (stream + 1) * STREAM)
    parts = None if white.parts is None else white.parts[:, span]
    part = replace(white, blocks=white.blocks[span], parts=parts)
    rng = np.random.default_rng([seed, 1, stream])
    return map_draws(part, parameters, lambda data, each: draw_effects(data, each, rng=rng))


def _fill_groups(
    moments: Moments,
    structure: Structure,
    priors: ResolvedPriors,
    white: Whitened,
    beta: Array,
    root: Array,
    g: Array,
    sigma: Array,
    settings: Settings,
    seed: int,
    held: int,
) -> dict[str, dict[str, Array]]:
    """Return the variables of the DataTree's groups, but for the sampler's own."""
    chained = beta.shape[:2]
    n_draws = chained[0] * chained[1]
    p, q, n_groups = len(moments.fixed), len(moments.random), moments.n_groups
    flat = Parameters(
        beta.reshape(-1, p), root.reshape(-1, q, q), sigma.reshape(-1, *sigma.shape[2:])
    )
    pairs = [(i, j) for i in range(q) for j in range(q)]
    sd = np.sqrt(np.einsum("cdii->cdi", g))
    corr = scale_covariance(g, pairs).reshape(g.shape)
    corr[..., np.arange(q), np.arange(q)] = 1.0
    posterior = {"beta": beta, "sd": sd, "corr": corr, "G": g}
    if white.held is None:
        posterior["sigma"] = sigma
    if n_draws * n_groups * q <= held:
        streams = range(-(-n_groups // STREAM))
        informing = _informing(white, settings)
        u = np.concatenate([_draw_stream(informing, flat, seed, i) for i in streams], axis=1)
        posterior["u"] = u.reshape(*chained, n_groups, q)
    prior = evaluate_priors(priors, structure, flat)
    content = {
        "posterior": posterior,
        "log_prior": {name: x.reshape(*chained, *x.shape[1:]) for name, x in prior.items()},
    }
    if not settings.prior_only and white.groups is None and n_draws * n_groups <= held:
        loglik = weigh_logliks(moments, white, flat)
        content["log_likelihood"] = {"loglik": loglik.reshape(*chained, n_groups)}
    return content


def build_tree(moments: Moments | Patterns, content: dict[str, dict[str, Array]]) -> "xr.DataTree":
    """Return the variables of a posterior with a single factor as the tree ArviZ takes.

    Args:
        moments: the reduced table.
        content: variables by group of the tree.
    """
    from arviz_base import from_dict

    group = name_group_dimension(moments.group, taken=("dimension",))
    square = ["coefficient", "coefficient_bis"]
    by_stratum: dict[str, list[str]] = {}
    strata: dict[str, Any] = {}
    if moments.weights is not None and moments.weights.strata:
        dimension, levels = name_strata(moments)
        by_stratum, strata = {"sigma": [dimension]}, {dimension: list(levels)}
    tree = from_dict(
        content,
        coords={
            "fixed": list(moments.fixed),
            "coefficient": list(moments.random),
            "coefficient_bis": list(moments.random),
            group: moments.groups,
            **strata,
        },
        dims={
            "beta": ["fixed"],
            "sd": ["coefficient"],
            "corr": square,
            "G": square,
            "chol": square,
            "u": [group, "coefficient"],
            "loglik": [group],
            "x": ["dimension"],
        }
        | by_stratum,
    )
    tree.attrs |= {"inference_library": "bhlm", "formula": moments.formula, **name_versions()}
    return tree


@cache
def name_versions() -> dict[str, str]:
    """Return the versions of what the draws depend on."""
    names = ("bhlm", "numba", "numpy", "nutpie", "scipy")
    return {f"{name}_version": version(name) for name in names}
