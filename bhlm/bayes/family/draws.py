"""Draws from the posterior of a family, and what is read off them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bhlm.bayes.contents import Contents
from bhlm.bayes.convergence import Certificate, Diagnostics, diagnose_run, measure_draws
from bhlm.bayes.density import evaluate_priors
from bhlm.bayes.draws import (
    HELD,
    Posterior,
    Settings,
    build_tree,
    parameter_draws,
    sign_roots,
    tell_unbounded,
)
from bhlm.bayes.existence import index_tails
from bhlm.bayes.family.tails import index_family
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.rounding import resolve_draws
from bhlm.bayes.streams import run_streams
from bhlm.errors import check_arguments
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.effects import tabulate_effects
from bhlm.likelihood.families import Family
from bhlm.likelihood.parameters import Parameters, name_group_dimension, scale_covariance
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns
from bhlm.moments.groups import find_groups
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = np.ndarray

# Of a draw's log-likelihood: above it the integrals have not been done well enough.
ACCURATE = 1e-3


@dataclass(frozen=True, slots=True)
class FamilyDraws(Posterior):
    """Draws from the posterior of zeros and ones, proportions or counts with a single factor.

    `data` is the xarray DataTree that ArviZ's functions take, as that of `bhlm.bayes.draws.Draws`
    but for the residual SD. `error` is the largest difference, over all kept draws, of the
    log-likelihood by two lattices of nodes that have none in common: what it is known to.
    """

    moments: Patterns
    white: WhitenedPatterns
    nodes: Array  # (J,) posterior SDs between the nodes of each group
    error: float

    @property
    def patterns(self) -> Patterns:
        """The reduced table."""
        return self.moments

    @property
    def family(self) -> Family:
        """The family, with its link."""
        return self.white.family

    @property
    def flat(self) -> Parameters:
        """The parameters of all N kept draws; sigma is one."""
        self._check_whole()
        beta = self.contents.read("posterior", "beta")
        root = self.contents.read("unconstrained_posterior", "chol")
        beta = beta.reshape(-1, beta.shape[-1])
        return Parameters(beta, root.reshape(-1, *root.shape[2:]), np.ones(len(beta)))

    @property
    def tail_indices(self) -> dict[str, float]:
        """By parameter, P(|x| > t) falls at least as t^-index: a moment exists if m < index."""
        if "tail_indices" not in self._kept:
            self._kept["tail_indices"] = (
                index_tails(self.moments, self.structure, self.priors, None, prior_only=True)
                if self.settings.prior_only
                else index_family(self.moments, self.structure, self.priors, self.white)
            )
        return dict(self._kept["tail_indices"])

    def integrator(self) -> Integrator:
        """Return an integrator with the nodes that the draws rest on."""
        made = Integrator(self.white)
        made.steps[:] = self.nodes
        return made

    def list_effects(self) -> Array:
        """Return u (N, J, q), one exact draw for each kept draw."""
        held = self.data["posterior"].dataset.data_vars.get("u")
        if held is not None:
            return np.asarray(held.values.reshape(-1, *held.shape[2:]))
        if "effects" not in self._kept:
            self._kept["effects"] = integrate_draws(
                self.integrator(), self.flat, seed=self.seed, prior_only=self.settings.prior_only
            ).effects
        kept: Array = self._kept["effects"]
        return kept

    def sum_logliks(self) -> Array:
        """Return the log-likelihood (chain, draw), all groups together."""
        held = self.data.get("log_likelihood")
        if held is not None:
            return np.asarray(held["loglik"].values.sum(axis=-1))
        found = integrate_draws(self.integrator(), self.flat, seed=self.seed)
        return found.logliks.sum(axis=1).reshape(self.shape)

    @check_arguments
    def effect_draws(self, groups: Sequence[Any] | None = None) -> "xr.DataArray":
        """Return u (chain, draw, group, coefficient), one exact draw for each kept draw.

        Args:
            groups: labels of the groups wanted; None takes all.

        Raises:
            DataError: a label is not one of the groups.
        """
        import xarray as xr

        patterns = self.moments
        at = np.arange(patterns.n_groups) if groups is None else find_groups(patterns, groups)
        u = self.list_effects()[:, at]
        name = name_group_dimension(patterns.group, taken=("dimension",))
        return xr.DataArray(
            u.reshape(*self.shape, *u.shape[1:]),
            dims=("chain", "draw", name, "coefficient"),
            coords={name: patterns.groups[at], "coefficient": list(patterns.random)},
            name="u",
        )

    @check_arguments
    def group_effects(self) -> "pd.DataFrame":
        """Return posterior effects on the link scale, one row per group and coefficient.

        Columns: the group's label, `coefficient`, `mean`, `sd`, `lower` and `upper` (95 %) of the
        deviation u.
        """
        u = self.list_effects()
        table = [u.mean(axis=0), u.std(axis=0, ddof=1), *np.quantile(u, [0.025, 0.975], axis=0)]
        for i, name in enumerate(self.moments.random):
            index = self.tail_indices[str(self.structure.sds[self.structure.owners[i]])]
            if name in self.moments.fixed:
                table[0][:, i] = np.nan if index <= 1.0 else table[0][:, i]
                table[1][:, i] = np.nan if index <= 2.0 else table[1][:, i]
        columns = ("mean", "sd", "lower", "upper")
        return tabulate_effects(self.moments, dict(zip(columns, table, strict=True)))


class Drawn(NamedTuple):
    """What integrals over the random effects say of each draw of the parameters."""

    effects: Array  # (N, J, q) a draw of u
    logliks: Array  # (N, J)
    error: float  # the largest over draws, of the log-likelihood


def integrate_draws(
    nodes: Integrator, parameters: Parameters, *, seed: int, prior_only: bool = False
) -> Drawn:
    """Return groups' log-likelihoods and exact draws of u for N draws of the parameters.

    Two lattices of nodes serve each draw: one at the groups' modes, for the log-likelihood, and one
    that is moved at random, of which a node is taken (`Integrator.draw_effects`). Threads share
    the draws; what is drawn does not depend on how many.

    Args:
        nodes: modes to start from, and the distances of nodes.
        parameters: in N draws.
        seed: the run's.
        prior_only: draw u from N(0, G) whatever the data; the log-likelihoods are zero.
    """
    white = nodes.white
    beta, root, _ = parameters
    count, groups, q = len(beta), white.n_groups, white.q
    effects, logliks = np.empty((count, groups, q)), np.zeros((count, groups))
    errors = np.zeros(count)
    whitened = np.linalg.solve(white.fixed, beta.T).T
    lam = np.linalg.solve(white.basis, root)

    def fill(span: slice, rng: np.random.Generator) -> None:
        size = (span.stop - span.start, groups)
        if prior_only:
            v = rng.standard_normal((*size, q))
        else:
            noise = rng.uniform(size=(*size, 1 + q))
            v, logliks[span], errors[span] = nodes.draw_effects(
                whitened[span], lam[span], noise=noise
            )
        effects[span] = np.einsum("nab,njb->nja", root[span], v)

    run_streams(fill, count, seed=seed)
    return Drawn(effects, logliks, float(errors.max(initial=0.0)))


def build_family_fit(
    patterns: Patterns,
    structure: Structure,
    priors: ResolvedPriors,
    nodes: Integrator,
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
) -> FamilyDraws:
    """Return draws of the parameters as FamilyDraws, with the random effects drawn from them.

    Args:
        patterns: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        nodes: of the integrals.
        flat: the parameters in all draws, one chain after the other.
        stats: the sampler's statistics, each (chain, draw), under ArviZ's names.
        settings: what the sampler was asked for.
        seed: the run's seed, from which the random effects are drawn too.
        start: when the run began, by `time.perf_counter`.
        sampler: which route ran.
        x: the density's coordinates (chain, draw, d), where the sampler moved in them.
        unbounded: SDs that the default prior alone bounds, which the diagnostics tell.
        held: numbers of random effects, and of groups' log-likelihoods, that `data` may hold.
        certificate: of independent draws.
    """
    flat = sign_roots(flat)._replace(sigma=np.ones(len(flat.beta)))
    shape = next(iter(stats.values())).shape

    def chain(values: Array) -> Array:
        return values.reshape(*shape, *values.shape[1:])

    found = integrate_draws(nodes, flat, seed=seed, prior_only=settings.prior_only)
    g, q = flat.g, structure.q
    pairs = [(i, j) for i in range(q) for j in range(q)]
    corr = scale_covariance(g, pairs).reshape(g.shape)
    corr[..., np.arange(q), np.arange(q)] = 1.0
    posterior = {
        "beta": chain(flat.beta),
        "sd": chain(np.sqrt(np.einsum("nii->ni", g))),
        "corr": chain(corr),
        "G": chain(g),
    }
    if found.effects.size <= held:
        posterior["u"] = chain(found.effects)
    prior = evaluate_priors(priors, structure, flat)
    content = {
        "posterior": posterior,
        "log_prior": {name: chain(values) for name, values in prior.items()},
        "unconstrained_posterior": {"chol": chain(flat.root)} | ({} if x is None else {"x": x}),
        "sample_stats": stats,
    }
    if not settings.prior_only and found.logliks.size <= held:
        content["log_likelihood"] = {"loglik": chain(found.logliks)}
    named = parameter_draws(patterns, structure, *map(chain, (flat.beta, g, flat.sigma)))
    resolved = resolve_draws(patterns, structure, named, flat.root)
    known = measure_draws(resolved)
    diagnostics = diagnose_run(resolved, stats, certificate, known)
    diagnostics = tell_accuracy(diagnostics, found.error)
    diagnostics = tell_unbounded(diagnostics, f"{patterns.n_groups} groups", unbounded)
    fit = FamilyDraws(
        moments=patterns, structure=structure, priors=priors,
        contents=Contents(content, partial(build_tree, patterns)),
        diagnostics=diagnostics, settings=settings, seed=seed,
        seconds=time.perf_counter() - start, sampler=sampler, white=nodes.white,
        nodes=nodes.steps.copy(), error=found.error,
    )  # fmt: skip
    return fit.remember(known)


def tell_accuracy(diagnostics: Diagnostics, error: float) -> Diagnostics:
    """Return diagnostics that fail where the largest error of a draw's log-likelihood is large."""
    if not error > ACCURATE:
        return diagnostics
    return diagnostics.add_failure(
        f"the log-likelihood is known to {error:.2g} only at some draw, where an SD is "
        "large; state a prior of the SDs that you would defend, Priors(sd=...)"
    )
