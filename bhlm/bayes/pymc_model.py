"""Design + priors -> pm.Model, in a marginal and a conditional form.

Both forms state the same posterior with the same priors. The conditional one holds the random
effects u explicitly, non-centred, over the rows; the marginal one integrates them out and reads
only the moments, through one pytensor Op that gives value and gradient in the same pass.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.graph.replace import clone_replace
from pytensor.graph.traversal import graph_inputs
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key
from pytensor.tensor.random.type import RandomType

from bhlm.bayes.priors.correlations import Law, find_law
from bhlm.bayes.priors.families import (
    Flat,
    Prior,
    PyMCPrior,
)
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.errors import PriorError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.crossed_marginal import crossed_marginal
from bhlm.likelihood.factor_names import join_columns, join_labels, name_factors
from bhlm.likelihood.level_pattern import NestedPattern, pack_cells
from bhlm.likelihood.marginal import marginal_loglik, total_products
from bhlm.likelihood.nested_marginal import nested_marginal
from bhlm.likelihood.parameters import name_group_dimension, name_response, name_strata
from bhlm.likelihood.weighted_marginal import spread_strata, weighted_marginal
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.cells import CellMoments, CellRows
from bhlm.moments.either import Reduced
from bhlm.moments.level_patterns import AnyPatterns, LevelPatterns
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import Patterns

Array = np.ndarray


class _Loglik(Op):
    """A log-likelihood whose last inputs are a root or lam, beta and sigma, with its gradients.

    Outputs: the value and its derivatives by these, the last by log sigma.
    """

    n_data: int  # inputs before them

    def connection_pattern(self, node: Apply) -> list[list[bool]]:
        """Return that only the value depends, differentiably, on the parameters."""
        places = range(len(node.inputs))
        return [[place >= self.n_data, False, False, False] for place in places]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Return the value's cotangent times the gradients that the same pass computed."""
        bar = cotangents[0]
        if isinstance(bar.type, DisconnectedType):
            return [disconnected_type() for _ in inputs]
        _, droot, dbeta, dlog = outputs
        data = [disconnected_type() for _ in range(self.n_data)]
        return [*data, bar * droot, bar * dbeta, bar * dlog / inputs[-1]]


class MarginalLoglik(_Loglik):
    """The whitened marginal log-likelihood, with its gradients as further outputs.

    Inputs: blocks (J, k, k), total (p + 1, p + 1), n, lam (q, q), beta (p,), sigma.
    Outputs: the value, d/d lam, d/d beta and d/d log sigma with lam held.
    """

    n_data = 3
    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """Return the node; every input is float64."""
        blocks, total, n, lam, beta, sigma = (
            pt.as_tensor_variable(value, dtype="float64") for value in inputs
        )
        outputs = [pt.dscalar(), pt.dmatrix(), pt.dvector(), pt.dscalar()]
        return Apply(self, [blocks, total, n, lam, beta, sigma], outputs)

    def perform(self, node: Apply, inputs: Any, output_storage: Any) -> None:
        """Evaluate outside of numba mode."""
        blocks, total, n, lam, beta, sigma = inputs
        results = marginal_loglik(
            np.ascontiguousarray(blocks), np.ascontiguousarray(total), float(n),
            np.ascontiguousarray(lam), np.ascontiguousarray(beta), float(sigma),
        )  # fmt: skip
        for storage, result in zip(output_storage, results, strict=True):
            storage[0] = np.asarray(result, dtype=np.float64)


class LevelLoglik(_Loglik):
    """The whitened marginal log-likelihood of several factors, with its gradients.

    Inputs: the pattern (m,), see `pack_nested` and `pack_crossed`, n, lam (q, q), beta (p,), sigma.
    Outputs: as those of `MarginalLoglik`.
    """

    n_data = 2
    __props__ = ("is_nested",)

    def __init__(self, *, is_nested: bool) -> None:
        self.is_nested = is_nested

    def make_node(self, *inputs: Any) -> Apply:
        """Return the node; every input is float64."""
        pattern, n, lam, beta, sigma = (
            pt.as_tensor_variable(value, dtype="float64") for value in inputs
        )
        outputs = [pt.dscalar(), pt.dmatrix(), pt.dvector(), pt.dscalar()]
        return Apply(self, [pattern, n, lam, beta, sigma], outputs)

    def perform(self, node: Apply, inputs: Any, output_storage: Any) -> None:
        """Evaluate outside of numba mode."""
        pattern, n, lam, beta, sigma = inputs
        evaluate = nested_marginal if self.is_nested else crossed_marginal
        results = evaluate(
            np.ascontiguousarray(pattern), float(n), np.ascontiguousarray(lam),
            np.ascontiguousarray(beta), float(sigma),
        )  # fmt: skip
        for storage, result in zip(output_storage, results, strict=True):
            storage[0] = np.asarray(result, dtype=np.float64)


class WeightedLoglik(_Loglik):
    """The whitened marginal log-likelihood with weights or strata, with its gradients.

    Inputs: blocks (S, J, k, k), sizes (S, J), groups (J,), root (q, q), beta (p,), sigma (S,).
    Outputs: the value, d/d root, d/d beta and d/d log sigma (S,).
    """

    n_data = 3
    __props__ = ()

    def make_node(self, *inputs: Any) -> Apply:
        """Return the node; every input is float64."""
        read = [pt.as_tensor_variable(value, dtype="float64") for value in inputs]
        return Apply(self, read, [pt.dscalar(), pt.dmatrix(), pt.dvector(), pt.dvector()])

    def perform(self, node: Apply, inputs: Any, output_storage: Any) -> None:
        """Evaluate outside of numba mode."""
        results = weighted_marginal(*(np.ascontiguousarray(each) for each in inputs))
        for storage, result in zip(output_storage, results, strict=True):
            storage[0] = np.asarray(result, dtype=np.float64)


@register_funcify_default_op_cache_key(WeightedLoglik)
def _compile_weighted(op: WeightedLoglik, node: Apply, **_: Any) -> Any:
    @numba_njit
    def marginal(blocks, sizes, groups, root, beta, sigma):  # type: ignore[no-untyped-def]
        value, droot, dbeta, dlog = weighted_marginal(blocks, sizes, groups, root, beta, sigma)
        return np.asarray(value), droot, dbeta, dlog

    return marginal


@register_funcify_default_op_cache_key(LevelLoglik)
def _compile_levels(op: LevelLoglik, node: Apply, **_: Any) -> Any:
    evaluate = nested_marginal if op.is_nested else crossed_marginal

    @numba_njit
    def marginal(pattern, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
        value, dlam, dbeta, dlog = evaluate(pattern, n.item(), lam, beta, sigma.item())
        return np.asarray(value), dlam, dbeta, np.asarray(dlog)

    return marginal


@register_funcify_default_op_cache_key(MarginalLoglik)
def _compile_marginal(op: MarginalLoglik, node: Apply, **_: Any) -> Any:
    @numba_njit
    def marginal(blocks, total, n, lam, beta, sigma):  # type: ignore[no-untyped-def]
        value, dlam, dbeta, dlog = marginal_loglik(blocks, total, n.item(), lam, beta, sigma.item())
        return np.asarray(value), dlam, dbeta, np.asarray(dlog)

    return marginal


def build_marginal(
    moments: Moments,
    white: Whitened,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
) -> pm.Model:
    """Return the pm.Model with the random effects integrated out.

    Variables: beta (fixed), sd (coefficient), corr and G (coefficient, coefficient_bis),
    sigma, of strata by their column; the log-likelihood enters as the potential `loglik`, which is
    the pseudo-log-likelihood of sampling weights.

    Args:
        moments: the reduced table.
        white: its whitened form.
        priors: one prior per parameter.
        structure: of the random coefficients.
        use_likelihood: False leaves the prior alone.
    """
    with pm.Model(coords=_coordinates(moments)) as model:
        beta, chol, sigma = _add_parameters(moments, priors, structure)
        if not use_likelihood:
            return model
        whitened = pt.dot(beta - white.ols, np.linalg.inv(white.fixed).T / white.scale)
        if not white.is_plain:
            blocks, sizes, groups = spread_strata(white)
            root = pt.dot(np.linalg.inv(white.basis), chol) / white.scale
            each = pt.atleast_1d(sigma) / white.scale
            value = WeightedLoglik()(blocks, sizes, groups, root, whitened, each)[0]
            pm.Potential("loglik", value - white.n * np.log(white.scale))
            return model
        lam = pt.dot(np.linalg.inv(white.basis), chol) / sigma
        value = MarginalLoglik()(
            white.blocks, total_products(white), white.n, lam, whitened, sigma / white.scale
        )[0]
        pm.Potential("loglik", value - white.n * np.log(white.scale))
    return model


def build_marginal_levels(
    moments: CellMoments,
    white: WhitenedCells,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
) -> pm.Model:
    """Return the pm.Model of several grouping factors with the random effects integrated out.

    Variables: beta (fixed), for each factor `sd|factor`, `corr|factor` and `cov|factor`, sigma; the
    log-likelihood enters as the potential `loglik`. Arguments are those of `build_marginal`.
    """
    with pm.Model(coords=_coordinates_of_levels(moments, structure)) as model:
        beta, chols, sigma = _add_level_parameters(moments, priors, structure)
        if not use_likelihood:
            return model
        whitened = pt.dot(beta - white.ols, np.linalg.inv(white.fixed).T / white.scale)
        pairs = zip(white.bases, chols, strict=True)
        lam = pt.linalg.block_diag(*(pt.dot(np.linalg.inv(basis), chol) for basis, chol in pairs))
        pattern = pack_cells(white)
        value = LevelLoglik(is_nested=isinstance(pattern, NestedPattern))(
            pattern.data, white.n, lam / sigma, whitened, sigma / white.scale
        )[0]
        pm.Potential("loglik", value - white.n * np.log(white.scale))
    return model


def build_conditional_levels(
    moments: CellMoments, rows: CellRows, priors: ResolvedPriors, structure: Structure
) -> pm.Model:
    """Return the pm.Model of several grouping factors with their effects `u|factor` explicit.

    They are non-centred, `z|factor` standard normal, over the rows.
    """
    names = name_factors(moments, taken=("row",))
    coords = _coordinates_of_levels(moments, structure) | {"row": np.arange(len(rows.y))}
    coords |= {name: join_labels(moments, at) for at, name in enumerate(names)}
    with pm.Model(coords=coords) as model:
        beta, chols, sigma = _add_level_parameters(moments, priors, structure)
        mu = pt.dot(rows.x, beta)
        for name, chol, z, codes in zip(names, chols, rows.z, rows.codes, strict=True):
            dims = (name, f"coefficient|{name}")
            noise = pm.Normal(f"z|{name}", 0.0, 1.0, dims=dims)
            u = pm.Deterministic(f"u|{name}", pt.dot(noise, chol.T), dims=dims)
            mu = mu + pt.sum(z * u[codes], axis=1)
        response = name_response(moments.response, taken=tuple(names))
        pm.Normal(response, mu, sigma, observed=rows.y, dims="row")
    return model


def build_conditional(
    moments: Moments,
    rows: tuple[Array, Array, Array, Array],
    priors: ResolvedPriors,
    structure: Structure,
) -> pm.Model:
    """Return the pm.Model with the random effects u explicit, non-centred, over the rows.

    Args:
        moments: the reduced table, for names and group labels.
        rows: group labels (n,), X (n, p), Z (n, q) and y (n,).
        priors: one prior per parameter.
        structure: of the random coefficients.
    """
    labels, x, z, y = rows
    group = name_group_dimension(moments.group, taken=("row",))
    coords = _coordinates(moments) | {group: moments.groups, "row": np.arange(len(y))}
    with pm.Model(coords=coords) as model:
        beta, chol, sigma = _add_parameters(moments, priors, structure)
        index = np.searchsorted(moments.groups, labels)
        noise = pm.Normal("z", 0.0, 1.0, dims=(group, "coefficient"))
        u = pm.Deterministic("u", pt.dot(noise, chol.T), dims=(group, "coefficient"))
        mu = pt.dot(x, beta) + pt.sum(z * u[index], axis=1)
        pm.Normal(
            name_response(moments.response, taken=(group,)), mu, sigma, observed=y, dims="row"
        )
    return model


def build_conditional_patterns(
    patterns: Patterns, priors: ResolvedPriors, structure: Structure
) -> pm.Model:
    """Return the pm.Model of a family with the random effects u explicit, non-centred.

    Its observations are the patterns: successes of so many trials, or events over so much exposure.

    Args:
        patterns: the reduced table.
        priors: one prior per parameter.
        structure: of the random coefficients.
    """
    group = name_group_dimension(patterns.group, taken=("pattern",))
    coords = _coordinates(patterns)
    coords |= {group: patterns.groups, "pattern": np.arange(patterns.n_patterns)}
    x, z = patterns.take(patterns.fixed), patterns.take(structure.names)
    with pm.Model(coords=coords) as model:
        beta = _add_fixed(patterns, priors, structure)
        chol = _add_root(structure, priors.sd, priors.corr.eta, priors.frame.random)
        noise = pm.Normal("z", 0.0, 1.0, dims=(group, "coefficient"))
        u = pm.Deterministic("u", pt.dot(noise, chol.T), dims=(group, "coefficient"))
        eta = patterns.offset + pt.dot(x, beta) + pt.sum(z * u[patterns.codes], axis=1)
        _observe_patterns(patterns, eta, taken=(group,))
    return model


def build_conditional_level_patterns(
    patterns: LevelPatterns, priors: ResolvedPriors, structure: Structure
) -> pm.Model:
    """Return the pm.Model of a family with several factors, their effects `u|factor` explicit.

    They are non-centred, `z|factor` standard normal, over the patterns.
    """
    taken = ("pattern",)
    names = name_factors(patterns, taken=taken)
    coords = _coordinates_of_levels(patterns, structure, taken=taken)
    coords |= {"pattern": np.arange(patterns.n_patterns)}
    coords |= {
        name: join_columns(each.columns) for name, each in zip(names, patterns.labels, strict=True)
    }
    x = patterns.take(patterns.fixed)
    with pm.Model(coords=coords) as model:
        beta, chols, _ = _add_level_parameters(patterns, priors, structure, taken=taken)
        eta = patterns.offset + pt.dot(x, beta)
        rows = zip(names, chols, structure.parts, patterns.codes, strict=True)
        for name, chol, part, codes in rows:
            dims = (name, f"coefficient|{name}")
            noise = pm.Normal(f"z|{name}", 0.0, 1.0, dims=dims)
            u = pm.Deterministic(f"u|{name}", pt.dot(noise, chol.T), dims=dims)
            eta = eta + pt.sum(patterns.take(part.names) * u[codes], axis=1)
        _observe_patterns(patterns, eta, taken=tuple(names))
    return model


def _observe_patterns(patterns: AnyPatterns, eta: Any, *, taken: tuple[str, ...]) -> None:
    """Add the successes or events of all patterns to the model in context."""
    response = name_response(patterns.design.response, taken=taken)
    if patterns.family.link == "log":
        mu = patterns.n * pt.exp(eta)
        pm.Poisson(response, mu=mu, observed=patterns.y, dims="pattern")
        return
    n, y = patterns.n.astype(np.int64), patterns.y.astype(np.int64)
    if patterns.family.link == "logit":
        pm.Binomial(response, n=n, logit_p=eta, observed=y, dims="pattern")
        return
    p = pm.math.invprobit(eta) if patterns.family.link == "probit" else -pt.expm1(-pt.exp(eta))
    pm.Binomial(response, n=n, p=p, observed=y, dims="pattern")


def _coordinates(moments: Moments | Patterns) -> dict[str, Any]:
    return {
        "fixed": list(moments.fixed),
        "coefficient": list(moments.random),
        "coefficient_bis": list(moments.random),
    }


def _coordinates_of_levels(
    moments: CellMoments | LevelPatterns,
    structure: Structure,
    *,
    taken: tuple[str, ...] = ("row",),
) -> dict[str, Any]:
    coords: dict[str, Any] = {"fixed": list(moments.fixed)}
    names = name_factors(moments, taken=taken)
    for part, name in zip(structure.parts, names, strict=True):
        coords |= {f"coefficient{kind}|{name}": list(part.names) for kind in ("", "_bis")}
    return coords


def _add_parameters(
    moments: Moments, priors: ResolvedPriors, structure: Structure
) -> tuple[Any, Any, Any]:
    """Add beta (p,), a root of G (q, q) and sigma to the model in context."""
    beta = _add_fixed(moments, priors, structure)
    chol = _add_root(structure, priors.sd, priors.corr.eta, priors.frame.random)
    return beta, chol, _add_residuals(moments, priors)


def _add_residuals(moments: Moments, priors: ResolvedPriors) -> Any:
    """Add sigma, one SD for each stratum (S,) or one for all; where it is known it is 1."""
    if priors.held:
        return pt.as_tensor_variable(1.0)
    if not priors.strata:
        return _add_scalar("sigma", priors.sigma)
    model, (dimension, levels) = pm.modelcontext(None), name_strata(moments)
    model.add_coord(dimension, levels)
    return _add_vector("sigma", priors.residuals, levels, dimension)


def _add_level_parameters(
    moments: CellMoments | LevelPatterns,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    taken: tuple[str, ...] = ("row",),
) -> tuple[Any, list[Any], Any]:
    """Add beta (p,), a root of every factor's G (q_f, q_f) and sigma to the model in context."""
    beta = _add_fixed(moments, priors, structure)
    chols = []
    before = 0
    for part, span, corr, name in zip(
        structure.parts, structure.spans, priors.corrs,
        name_factors(moments, taken=taken), strict=True,
    ):  # fmt: skip
        sd = priors.sd[before : before + len(part.sds)]
        before += len(part.sds)
        frame = priors.frame.random[span, span]
        chols.append(_add_root(part, sd, corr.eta, frame, mark=f"|{name}", g_name=f"cov|{name}"))
    sigma = pt.as_tensor_variable(1.0) if priors.held else _add_scalar("sigma", priors.sigma)
    return beta, chols, sigma


def _add_fixed(
    moments: Reduced | LevelPatterns, priors: ResolvedPriors, structure: Structure
) -> Any:
    """Add beta (p,), once no prior of an SD allows negative values."""
    for parameter, prior in zip(structure.sds, priors.sd, strict=True):
        _check_positive(parameter.row, prior)
    for prior in priors.residuals:
        _check_positive("Residual", prior)
    at_means = not priors.frame.is_given[0]
    name = "beta_at_means" if at_means else "beta"
    beta = _add_vector(name, priors.fixed, moments.fixed, "fixed")
    if at_means:
        turn = np.linalg.inv(priors.frame.fixed)
        beta = pm.Deterministic("beta", pt.dot(turn, beta), dims="fixed")
    return beta


def _add_root(
    structure: Structure,
    priors: tuple[Prior, ...],
    eta: float,
    frame: Array,
    *,
    mark: str = "",
    g_name: str = "G",
) -> Any:
    """Add the SDs and correlations of one factor; return a root of its G (q, q).

    Args:
        structure: of the factor.
        priors: of its SDs that are free.
        eta: of the LKJ prior.
        frame: C (q, q): priors stand on the SDs and correlations of C G C'.
        mark: what the names of its variables and dimensions end with.
        g_name: the name of its covariance.
    """
    # One SD that all coefficients share is a variable of its own.
    shared = _add_scalar(f"scale{mark}", priors[0]) if structure.shares_variance else None
    parts = []
    start = 0
    for number, block in enumerate(structure.blocks):
        suffix = mark if len(structure.blocks) == 1 else f"{mark}_{number}"
        part = slice(start, start + len(block))
        some = priors[part] if shared is None else (shared,) * len(block)
        parts.append(_add_block(suffix, block, some, find_law(structure), eta))
        start += len(block)
    chol = parts[0] if len(parts) == 1 else pt.linalg.block_diag(*parts)
    if not np.array_equal(frame, np.eye(len(frame))):
        chol = pt.dot(np.linalg.inv(frame), chol)
    square = (f"coefficient{mark}", f"coefficient_bis{mark}")
    g = pm.Deterministic(g_name, pt.dot(chol, chol.T), dims=square)
    sd = pm.Deterministic(f"sd{mark}", pt.sqrt(pt.diagonal(g)), dims=square[0])
    pm.Deterministic(f"corr{mark}", g / pt.outer(sd, sd), dims=square)
    return chol


def _add_block(
    suffix: str, block: tuple[str, ...], sd: tuple[Any, ...], law: type[Law], eta: float
) -> Any:
    """Add one correlated block of random coefficients; return its lower root of G.

    `sd` holds their priors, or their SDs where those are variables of the model already.
    """
    size = len(block)
    if not isinstance(sd[0], Prior):
        root = law.add(pm, f"corr{suffix}_free", size, eta) if size > 1 else np.eye(1)
        return sd[0] * root
    if size > 1 and _share_family(sd):
        chol, _, _ = pm.LKJCholeskyCov(
            f"chol{suffix}",
            n=size,
            eta=eta,
            sd_dist=_Distribution(sd, size).dist,
            compute_corr=True,
            store_in_trace=False,
        )
        return chol
    scales = _add_vector(f"scale{suffix}", sd, block, None)
    if size == 1:
        return pt.reshape(scales, (1, 1))
    return scales[:, None] * law.add(pm, f"lkj{suffix}", size, eta)


class _Distribution:
    """A PyMC distribution of one family with vector parameters, under a name or as a dist."""

    def __init__(self, priors: tuple[Prior, ...], size: int | None) -> None:
        if priors[0].pymc is None:
            raise PriorError(f"{priors[0]} has no PyMC counterpart; use one such as bhlm.Normal")
        columns = [prior.numbers for prior in priors]
        values: list[Any] = [np.array(column) for column in zip(*columns, strict=True)]
        if size is None:
            values = [float(value[0]) for value in values]
        name, keywords = priors[0].pymc
        self.factory = getattr(pm, name)
        self.keywords = dict(zip(keywords, values, strict=True))
        self.shape = {} if size is None else {"shape": size}

    @property
    def dist(self) -> Any:
        """The unnamed distribution."""
        return self.factory.dist(**self.keywords, **self.shape)

    def add(self, name: str, dims: str | None) -> Any:
        """Add it to the model in context."""
        if dims is not None:
            return self.factory(name, **self.keywords, dims=dims)
        return self.factory(name, **self.keywords, **self.shape)


def _add_vector(
    name: str, priors: tuple[Prior, ...], labels: tuple[str, ...], dims: str | None
) -> Any:
    """Add one vector variable, or scalars that are stacked where families differ."""
    if all(prior == Flat() for prior in priors) and dims is not None:
        return pm.Flat(name, dims=dims)
    if _share_family(priors):
        return _Distribution(priors, len(priors)).add(name, dims)
    scalars = [
        _add_scalar(f"{name}[{label}]", prior, positive=dims is None)
        for label, prior in zip(labels, priors, strict=True)
    ]
    return pt.stack(scalars)


def _share_family(priors: tuple[Prior, ...]) -> bool:
    """Whether one distribution with vector parameters can hold all of them."""
    family = type(priors[0])
    return family.pymc is not None and all(type(prior) is family for prior in priors)


def _add_scalar(name: str, prior: Prior, *, positive: bool = True) -> Any:
    if isinstance(prior, PyMCPrior):
        variable = pm.modelcontext(None).register_rv(_copy_variable(prior.dist), name)
        return pt.cast(variable, "float64")
    if isinstance(prior, Flat):
        variable = pm.HalfFlat(name) if positive else pm.Flat(name)
        if prior.power:
            pm.Potential(f"{name}_power", prior.power * pt.log(variable))
        return variable
    return _Distribution((prior,), None).add(name, None)


def log_prior_values(prior: PyMCPrior, values: Array) -> Array:
    """Return the log density of a PyMC distribution at values (m,)."""
    return np.asarray(_compile_prior(prior)(values))


@lru_cache(maxsize=64)
def _compile_prior(prior: PyMCPrior) -> Callable[[Array], Array]:
    points = pt.dvector()
    return pytensor.function([points], pm.logp(prior.dist, points))


def _check_positive(name: str, prior: Prior) -> None:
    """Refuse a PyMC distribution for an SD that allows negative values."""
    if not isinstance(prior, PyMCPrior):
        return
    if log_prior_values(prior, np.array([-1e-3, -1.0, -1e3])).max() > -np.inf:
        raise PriorError(
            f"{prior} allows negative values, but sd({name}) is positive; use a distribution on "
            "the positive numbers, such as pm.Weibull.dist, or pm.Truncated.dist(..., lower=0)"
        )


def _copy_variable(dist: Any) -> Any:
    """Return a copy of a distribution that has a random stream of its own.

    One distribution may stand on several coefficients and in several models.
    """
    streams = {
        source: pytensor.shared(np.random.default_rng())
        for source in graph_inputs([dist])
        if isinstance(source.type, RandomType)
    }
    (copy,) = clone_replace([dist], replace=streams)
    return copy
