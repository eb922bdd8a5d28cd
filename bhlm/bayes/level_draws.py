"""Draws from the posterior of a model with several grouping factors, and what is read off them."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.contents import Arrays, Contents
from bhlm.bayes.convergence import Certificate, diagnose_run, measure_draws
from bhlm.bayes.density import evaluate_priors
from bhlm.bayes.draws import (
    HELD,
    Posterior,
    Settings,
    name_versions,
    parameter_draws,
    read_sigma,
    sign_roots,
    tell_unbounded,
)
from bhlm.bayes.existence import index_tails
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.rounding import resolve_draws
from bhlm.bayes.streams import STREAM, run_streams
from bhlm.errors import ArgumentError, DataError, check_arguments, check_fields
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.factor_names import join_labels, name_factors
from bhlm.likelihood.level_draws import draw_level_effects, top_logliks
from bhlm.likelihood.levels import score_parameters
from bhlm.likelihood.nested import Nested
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import (
    Parameters,
    name_apart,
    scale_covariance,
)
from bhlm.likelihood.whitening import whiten_parameters
from bhlm.moments.cells import CellMoments
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.processes import count_cores

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray

# Effects that a crossed design leaves to the dense matrix, above which drawing them takes so long
# that it is done when they are asked for.
DENSE = 400


@check_arguments
@dataclass(frozen=True, slots=True)
class FactorDraws(Posterior):
    """Draws from the posterior of a model with F grouping factors, whatever the response.

    `data` is the xarray DataTree that ArviZ's functions take: `posterior` holds `beta`, `sigma` of
    a gaussian response and for each factor `sd|factor`, `corr|factor`, `cov|factor` and the effects
    `u|factor`, `log_likelihood` that of each unit of the coarsest of nested factors with all that
    is nested in it, `log_prior` the prior's terms, `unconstrained_posterior` the sampler's own
    coordinates and the roots `chol|factor`. Where there are too many effects, or drawing them takes
    long, they are left out there; `effect_draws` gives them.
    """

    moments: CellMoments | LevelPatterns
    white: WhitenedCells | WhitenedNest

    def draw_all(self) -> list[Array]:
        """Return one exact draw of u (N, J_f, q_f) of every factor for each kept draw."""
        raise NotImplementedError

    @property
    def factors(self) -> tuple[str, ...]:
        """The names of the grouping factors."""
        return tuple(part.group for part in self.structure.parts)

    @property
    def flat(self) -> Parameters:
        """The parameters of all N kept draws."""
        self._check_whole()
        beta, sigma = self.contents.read("posterior", "beta"), read_sigma(self.contents).ravel()
        root = np.zeros((len(sigma), self.structure.q, self.structure.q))
        parts = zip(
            self.structure.parts, self.structure.spans, name_factors(self.moments), strict=True
        )
        for part, span, name in parts:
            own = self.contents.read("unconstrained_posterior", f"chol|{name}")
            root[:, span, span] = own.reshape(-1, part.q, part.q)
        return Parameters(beta.reshape(len(sigma), -1), root, sigma)

    @check_arguments
    def effect_draws(self, factor: str) -> "xr.DataArray":
        """Return u (chain, draw, level, coefficient) of a factor, one exact draw per kept draw.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        import xarray as xr

        at = self.find_factor(factor)
        u = self.all_effects[at]
        shape = self.shape
        name = name_factors(self.moments)[at]
        part = self.structure.parts[at]
        return xr.DataArray(
            u.reshape(*shape, *u.shape[1:]),
            dims=("chain", "draw", name, "coefficient"),
            coords={name: join_labels(self.moments, at), "coefficient": list(part.names)},
            name=f"u|{name}",
        )

    @check_arguments
    def group_effects(self, factor: str | None = None) -> "pd.DataFrame":
        """Return posterior effects, one row per level and coefficient.

        Columns: `factor` and its label `level` (of several columns joined by ":"), or, for one
        `factor`, a column for each of its label columns; `coefficient`; `mean`, `sd`, `lower` and
        `upper` (95 %) of the deviation u. Beside a fixed effect of the same column a deviation has
        the tails of its SD, and where those leave it no mean or SD, that is nan.

        Args:
            factor: the factor; None is all of them.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        import pandas as pd

        chosen = range(len(self.factors)) if factor is None else [self.find_factor(factor)]
        tables = [self._tabulate_effects(at, alone=factor is not None) for at in chosen]
        return pd.concat(tables, ignore_index=True)

    def find_factor(self, name: str) -> int:
        """Return the number of a factor.

        Raises:
            ArgumentError: it is not a factor of the model.
        """
        if name not in self.factors:
            raise ArgumentError(
                f"factor={name!r} is not a grouping factor; choose one of {', '.join(self.factors)}"
            )
        return self.factors.index(name)

    @property
    def holds_effects(self) -> bool:
        """Whether `data` has the effects, which are else drawn when they are asked for."""
        held = self.data["posterior"].dataset.data_vars
        return all(f"u|{name}" in held for name in name_factors(self.moments))

    @property
    def all_effects(self) -> list[Array]:
        """U (N, J_f, q_f) of every factor, in all N kept draws."""
        held = self.data["posterior"].dataset
        if self.holds_effects:
            found = (held[f"u|{name}"].values for name in name_factors(self.moments))
            return [each.reshape(-1, *each.shape[2:]) for each in found]
        if "effects" not in self._kept:
            self._kept["effects"] = self.draw_all()
        kept: list[Array] = self._kept["effects"]
        return kept

    def _tabulate_effects(self, at: int, *, alone: bool) -> "pd.DataFrame":
        import pandas as pd

        u, part, labels = self.all_effects[at], self.structure.parts[at], self.moments.labels[at]
        values = [u.mean(axis=0), u.std(axis=0, ddof=1), *np.quantile(u, [0.025, 0.975], axis=0)]
        for i, name in enumerate(part.names):
            index = self.tail_indices[str(part.sds[part.owners[i]])]
            if name in self.moments.fixed:
                values[0][:, i] = np.nan if index <= 1.0 else values[0][:, i]
                values[1][:, i] = np.nan if index <= 2.0 else values[1][:, i]
        own = ("mean", "sd", "lower", "upper")
        columns: dict[str, Any]
        if alone:
            heads = name_apart(self.moments.factors[at].columns, table=("coefficient", *own))
            pairs = zip(heads, labels.columns, strict=True)
            columns = {head: np.repeat(each, part.q) for head, each in pairs}
        else:
            columns = {
                "factor": np.repeat(np.array([part.group], dtype=object), u.shape[1] * part.q),
                "level": np.repeat(join_labels(self.moments, at).astype(object), part.q),
            }
        columns["coefficient"] = np.array(list(part.names) * u.shape[1], dtype=object)
        named = {name: each.ravel() for name, each in zip(own, values, strict=True)}
        return pd.DataFrame(columns | named)


@check_fields
@dataclass(frozen=True, slots=True)
class LevelDraws(FactorDraws):
    """Draws from the posterior of a gaussian model with F grouping factors; see `FactorDraws`."""

    moments: CellMoments
    white: WhitenedCells

    @property
    def tail_indices(self) -> dict[str, float]:
        """By parameter, P(|x| > t) ~ t^-index: the m-th moment exists if m < index."""
        if "tail_indices" not in self._kept:
            self._kept["tail_indices"] = index_tails(
                self.moments, self.structure, self.priors, self.white,
                prior_only=self.settings.prior_only,
            )  # fmt: skip
        return dict(self._kept["tail_indices"])

    def draw_all(self) -> list[Array]:
        """Return one exact draw of u (N, J_f, q_f) of every factor for each kept draw."""
        return draw_all_effects(
            self.white, self.structure, self.flat, seed=self.seed,
            prior_only=self.settings.prior_only,
        )  # fmt: skip


def draw_all_effects(
    white: WhitenedCells,
    structure: Structure,
    parameters: Parameters,
    *,
    seed: int,
    prior_only: bool = False,
) -> list[Array]:
    """Return one exact draw of u (N, J_f, q_f) of every factor for each draw of the parameters.

    Several threads share the streams of draws; the draws do not depend on how many.

    Args:
        white: whitened cross-products.
        structure: of all factors.
        parameters: in N draws.
        seed: the run's.
        prior_only: draw them from N(0, G), whatever the data.
    """
    levels, n_draws = white.levels, len(parameters.sigma)
    out = [
        np.empty((n_draws, count, q)) for count, q in zip(levels.counts, levels.sizes, strict=True)
    ]
    lams_by_draw = list(iterate_lams(white, structure, parameters))

    def fill(span: slice, rng: np.random.Generator) -> None:
        for at in range(span.start, span.stop):
            if prior_only:
                for each, part in zip(out, structure.spans, strict=True):
                    noise = rng.standard_normal(each.shape[1:])
                    each[at] = noise @ parameters.root[at, part, part].T
                continue
            beta, lams, sigma = lams_by_draw[at]
            drawn = draw_level_effects(levels, lams, beta, sigma, rng=rng)
            for each, u, basis in zip(out, drawn, white.bases, strict=True):
                each[at] = white.scale * u @ basis.T

    run_streams(fill, n_draws, seed=seed)
    return out


def iterate_lams(
    white: WhitenedCells, structure: Structure, parameters: Parameters
) -> Iterator[tuple[Array, list[Array], float]]:
    """Yield whitened beta (p,), lam_f (q_f, q_f) and sigma of every draw."""
    beta, lam, sigma = whiten_parameters(white, *parameters)
    for at in range(len(sigma)):
        own = [np.ascontiguousarray(lam[at, span, span]) for span in structure.spans]
        yield beta[at], own, float(sigma[at])


def find_top(white: WhitenedCells) -> int | None:
    """Return the coarsest of nested factors; None if they are crossed."""
    return white.levels.order[-1] if isinstance(white.levels, Nested) else None


def unit_logliks(
    moments: CellMoments, white: WhitenedCells, structure: Structure, parameters: Parameters
) -> Array:
    """Return the log-likelihood (N, J) of each unit of the coarsest of nested factors.

    Raises:
        DataError: factors that cross have no units that are independent of each other.
    """
    levels = white.levels
    if not isinstance(levels, Nested):
        raise DataError(
            f"{' and '.join(moments.groups)} cross, so that no group of rows is independent of the "
            "others; only nested factors have units that can be left out"
        )
    top = levels.order[-1]
    n = np.bincount(moments.labels[top].codes, weights=moments.n)
    out = np.empty((len(parameters.sigma), len(n)))
    drawn = list(iterate_lams(white, structure, parameters))

    def fill(first: int) -> None:
        for at in range(first, min(first + STREAM, len(out))):
            beta, lams, sigma = drawn[at]
            out[at] = top_logliks(levels, n, lams, beta, sigma)

    firsts = range(0, len(out), STREAM)
    with ThreadPoolExecutor(min(count_cores(), len(firsts))) as pool:
        list(pool.map(fill, firsts))
    return out - n * np.log(white.scale) + _add_offsets(moments, top)


def _add_offsets(moments: CellMoments, factor: int) -> Array:
    """Return half the sum of log w of each unit (J,), which its log-likelihood is more by."""
    codes, weights = moments.labels[factor].codes, moments.weights
    if weights is None or weights.counts_rows or moments.weighting is None:
        return np.zeros(int(codes.max()) + 1)
    return 0.5 * np.bincount(codes, weights=moments.weighting.logs)


def whole_logliks(fit: LevelDraws) -> Array:
    """Return the log-likelihood (chain, draw) of all rows, but for a constant.

    That of units that are independent of each other is added up, if it is held. Otherwise it is
    what the sampler's own density has beyond that of the prior, or evaluated anew.
    """
    shape = fit.shape
    if "log_likelihood" in fit.data.children:
        return np.asarray(fit.data["log_likelihood"]["loglik"].values.sum(axis=2))
    held = fit.data["unconstrained_posterior"].dataset.data_vars
    if "x" in held:
        from bhlm.bayes.level_density import build_levels, log_levels

        prior = build_levels(fit.white, fit.priors, fit.structure, use_likelihood=False)
        x = held["x"].values
        own = [
            log_levels(np.ascontiguousarray(each), prior)[0] for each in x.reshape(-1, x.shape[-1])
        ]
        return np.asarray(fit.data["sample_stats"]["lp"].values - np.reshape(own, shape))
    return marginal_logliks(fit.white, fit.structure, fit.flat).reshape(shape)


def marginal_logliks(white: WhitenedCells, structure: Structure, parameters: Parameters) -> Array:
    """Return the log-likelihood (N,) of all rows with the effects integrated out."""
    found = (
        score_parameters(white.levels, beta, lams, sigma, n=white.n).loglik
        for beta, lams, sigma in iterate_lams(white, structure, parameters)
    )
    return np.fromiter(found, dtype=np.float64) - white.n * np.log(white.scale)


def build_levels_fit(
    moments: CellMoments,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedCells,
    flat: Parameters,
    stats: dict[str, Array],
    *,
    settings: Settings,
    seed: int,
    start: float,
    sampler: str,
    x: Array | None = None,
    unbounded: Sequence[str] = (),
    held: int = HELD,
    certificate: Certificate | None = None,
) -> LevelDraws:
    """Return draws of the parameters as LevelDraws, with the random effects drawn from them.

    Args:
        moments: the reduced table.
        structure: of the random coefficients of all factors.
        priors: one prior per parameter.
        white: the whitened moments.
        flat: the parameters in all draws, one chain after the other.
        stats: the sampler's statistics, each (chain, draw), under ArviZ's names.
        settings: what the sampler was asked for.
        seed: the run's seed, from which the random effects are drawn too.
        start: when the run began, by `time.perf_counter`.
        sampler: which route ran.
        x: the sampler's coordinates (chain, draw, d), where they are those of the density.
        unbounded: SDs that the default prior alone bounds, which the diagnostics tell.
        held: numbers of random effects, and of units' log-likelihoods, that `data` may hold.
        certificate: of independent draws.
    """
    flat = sign_roots(flat)
    shape = next(iter(stats.values())).shape
    posterior, roots = split_factors(moments, structure, flat, shape)
    if white.held is None:
        posterior["sigma"] = flat.sigma.reshape(shape)

    # Of the draws as they are here: whoever reads them may write to what he got.
    own = Parameters(*(each.copy("K") for each in flat))

    def complete(arrays: Arrays) -> "xr.DataTree":
        content = _fill_content(
            moments, structure, priors, white, own, shape,
            settings=settings, seed=seed, held=held,
        )  # fmt: skip
        content["posterior"] = arrays["posterior"] | content["posterior"]
        rest = {name: arrays[name] for name in ("sample_stats", "unconstrained_posterior")}
        return build_level_tree(moments, structure, content | rest, top=find_top(white))

    arrays = {
        "posterior": posterior,
        "unconstrained_posterior": roots if x is None else roots | {"x": x},
        "sample_stats": stats,
    }
    chained = (each.reshape(*shape, *each.shape[1:]) for each in (flat.beta, flat.g, flat.sigma))
    named = parameter_draws(moments, structure, *chained)
    resolved = resolve_draws(moments, structure, named, flat.root)
    known = measure_draws(resolved)
    diagnostics = diagnose_run(resolved, stats, certificate, known)
    diagnostics = tell_unbounded(diagnostics, "the groups", unbounded)
    fit = LevelDraws(
        moments=moments, structure=structure, priors=priors, contents=Contents(arrays, complete),
        diagnostics=diagnostics, settings=settings, seed=seed,
        seconds=time.perf_counter() - start, sampler=sampler, white=white,
    )  # fmt: skip
    return fit.remember(known)


def split_factors(
    moments: CellMoments | LevelPatterns,
    structure: Structure,
    flat: Parameters,
    shape: tuple[int, ...],
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return beta and each factor's SDs, correlations and covariances, and the roots of these.

    Each (chain, draw, ...), under the names that `data` has them by; `shape` is (chain, draw).
    """

    def chain(values: Array) -> Array:
        return values.reshape(*shape, *values.shape[1:])

    posterior, roots = {"beta": chain(flat.beta)}, {}
    names = name_factors(moments)
    for part, span, name in zip(structure.parts, structure.spans, names, strict=True):
        own = flat.root[:, span, span]
        g = own @ own.swapaxes(-1, -2)
        pairs = [(i, j) for i in range(part.q) for j in range(part.q)]
        corr = scale_covariance(g, pairs).reshape(g.shape)
        corr[..., np.arange(part.q), np.arange(part.q)] = 1.0
        posterior[f"sd|{name}"] = chain(np.sqrt(np.einsum("nii->ni", g)))
        posterior[f"corr|{name}"] = chain(corr)
        posterior[f"cov|{name}"] = chain(g)
        roots[f"chol|{name}"] = chain(own)
    return posterior, roots


def _fill_content(
    moments: CellMoments,
    structure: Structure,
    priors: ResolvedPriors,
    white: WhitenedCells,
    flat: Parameters,
    shape: tuple[int, ...],
    *,
    settings: Settings,
    seed: int,
    held: int,
) -> dict[str, dict[str, Array]]:
    """Return the variables of the DataTree's groups that are drawn or evaluated from the draws."""

    def chain(values: Array) -> Array:
        return values.reshape(*shape, *values.shape[1:])

    effects: dict[str, Array] = {}
    levels = white.levels
    numbers = sum(count * q for count, q in zip(levels.counts, levels.sizes, strict=True))
    slow = isinstance(levels, Crossed) and levels.width > DENSE
    if len(flat.sigma) * numbers <= held and not slow:
        drawn = draw_all_effects(white, structure, flat, seed=seed, prior_only=settings.prior_only)
        named = zip(name_factors(moments), drawn, strict=True)
        effects |= {f"u|{name}": chain(u) for name, u in named}
    prior = evaluate_priors(priors, structure, flat)
    content = {
        "posterior": effects,
        "log_prior": {name: chain(values) for name, values in prior.items()},
    }
    top = find_top(white)
    if top is None or settings.prior_only or len(flat.sigma) * levels.counts[top] > held:
        return content
    loglik = unit_logliks(moments, white, structure, flat)
    content["log_likelihood"] = {"loglik": chain(loglik)}
    return content


def build_level_tree(
    moments: CellMoments | LevelPatterns,
    structure: Structure,
    content: dict[str, dict[str, Array]],
    *,
    top: int | None,
) -> "xr.DataTree":
    """Return the variables of a posterior with several factors as the tree ArviZ takes.

    Args:
        moments: the reduced table.
        structure: of the random coefficients of all factors.
        content: variables by group of the tree.
        top: the coarsest of nested factors, whose units have a log-likelihood; None: no units have.
    """
    from arviz_base import from_dict

    names = name_factors(moments)
    coords: dict[str, Any] = {"fixed": list(moments.fixed)}
    dims: dict[str, list[str]] = {"beta": ["fixed"], "x": ["dimension"]}
    for at, (part, name) in enumerate(zip(structure.parts, names, strict=True)):
        row, column = f"coefficient|{name}", f"coefficient_bis|{name}"
        coords |= {row: list(part.names), column: list(part.names), name: join_labels(moments, at)}
        dims |= {f"sd|{name}": [row], f"u|{name}": [name, row]}
        dims |= {f"{kind}|{name}": [row, column] for kind in ("corr", "cov", "chol")}
    if top is not None:
        dims["loglik"] = [names[top]]
    tree = from_dict(content, coords=coords, dims=dims)
    tree.attrs |= {"inference_library": "bhlm", "formula": moments.formula, **name_versions()}
    return tree
