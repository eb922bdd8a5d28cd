"""Draws from the posterior of a family with nested factors, and what is read off them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from bhlm.bayes.contents import Contents
from bhlm.bayes.convergence import diagnose_run, measure_draws
from bhlm.bayes.density import evaluate_priors
from bhlm.bayes.draws import HELD, Settings, parameter_draws, sign_roots, tell_unbounded
from bhlm.bayes.existence import index_tails
from bhlm.bayes.family.draws import FamilyDraws, tell_accuracy
from bhlm.bayes.family.tails import index_family
from bhlm.bayes.level_draws import FactorDraws, build_level_tree, split_factors
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.rounding import resolve_draws
from bhlm.bayes.streams import run_streams
from bhlm.errors import check_fields
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.factor_names import name_factors
from bhlm.likelihood.families import Family
from bhlm.likelihood.nested_families import NestIntegrator, WhitenedNest
from bhlm.likelihood.nested_sums import draw_nest
from bhlm.likelihood.parameters import Parameters
from bhlm.moments.level_patterns import LevelPatterns

Array = np.ndarray


@check_fields
@dataclass(frozen=True, slots=True)
class FamilyLevelDraws(FactorDraws):
    """Draws from the posterior of zeros and ones, proportions or counts with nested factors.

    `data` is as of `FactorDraws`, without a residual SD. `error` is the largest difference, over
    all kept draws, of the log-likelihood by two lattices of nodes that have none in common, at
    every level: what it is known to.
    """

    moments: LevelPatterns
    white: WhitenedNest
    nodes: Array  # posterior SDs between the nodes of each unit, level by level, coarsest first
    error: float

    @property
    def patterns(self) -> LevelPatterns:
        """The reduced table."""
        return self.moments

    @property
    def family(self) -> Family:
        """The family, with its link."""
        return self.white.family

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

    def integrator(self) -> NestIntegrator:
        """Return an integrator with the nodes that the draws rest on."""
        made = NestIntegrator(self.white)
        made.steps[:] = self.nodes
        return made

    def integrate(self) -> "DrawnLevels":
        """Return effects and log-likelihoods of every kept draw, as they were drawn at first."""
        return integrate_levels(
            self.integrator(), self.structure, self.flat, seed=self.seed,
            prior_only=self.settings.prior_only,
        )  # fmt: skip

    def draw_all(self) -> list[Array]:
        """Return one exact draw of u (N, J_f, q_f) of every factor for each kept draw.

        The effect of a unit of the coarsest factor is a node of a lattice over it, moved at random,
        taken in proportion to the density there with all effects within integrated out; then those
        of the units within it are drawn likewise, given what was drawn; see
        `bhlm.likelihood.nested_lattice`.
        """
        return self.integrate().effects

    def sum_logliks(self) -> Array:
        """Return the log-likelihood (chain, draw), all units together."""
        held = self.data.get("log_likelihood")
        if held is not None:
            return np.asarray(held["loglik"].values.sum(axis=-1))
        return self.integrate().logliks.sum(axis=1).reshape(self.shape)


type AnyFamilyDraws = FamilyDraws | FamilyLevelDraws


class DrawnLevels(NamedTuple):
    """What integrals over the random effects say of each draw of the parameters."""

    effects: list[Array]  # F, (N, J_f, q_f) a draw of u
    logliks: Array  # (N, J) by unit of the coarsest factor
    error: float  # the largest over draws, of the log-likelihood


def integrate_levels(
    nodes: NestIntegrator,
    structure: Structure,
    parameters: Parameters,
    *,
    seed: int,
    prior_only: bool = False,
) -> DrawnLevels:
    """Return coarsest units' log-likelihoods and exact draws of u for N draws of the parameters.

    Threads share the draws; what is drawn does not depend on how many.

    Args:
        nodes: modes to start from, and the distances of nodes.
        structure: of the random coefficients of all factors.
        parameters: in N draws.
        seed: the run's.
        prior_only: draw u from N(0, G) whatever the data; the log-likelihoods are zero.
    """
    white, (beta, root, _) = nodes.white, parameters
    count = len(beta)
    units = [white.levels[white.order.index(at)] for at in range(len(structure.parts))]
    effects = [
        np.empty((count, len(own), part.q))
        for own, part in zip(units, structure.parts, strict=True)
    ]
    logliks, errors = np.zeros((count, white.counts[0])), np.zeros(count)
    whitened = np.linalg.solve(white.fixed, beta.T).T
    lam = np.linalg.solve(white.basis, root)

    def fill(span: slice, rng: np.random.Generator) -> None:
        if prior_only:
            size = span.stop - span.start
            v = tuple(
                rng.standard_normal((size, units, q))
                for units, q in zip(white.counts, white.sizes, strict=True)
            )
        else:
            v, own, errors[span] = draw_nest(nodes, whitened[span], lam[span], rng=rng)
            logliks[span, white.levels[0]] = own
        for at, (u, part) in enumerate(zip(effects, structure.spans, strict=True)):
            made = v[white.order.index(at)] @ root[span, part, part].swapaxes(-1, -2)
            u[span, units[at]] = made

    run_streams(fill, count, seed=seed)
    return DrawnLevels(effects, logliks, float(errors.max(initial=0.0)))


def build_family_levels_fit(
    patterns: LevelPatterns,
    structure: Structure,
    priors: ResolvedPriors,
    nodes: NestIntegrator,
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
) -> FamilyLevelDraws:
    """Return draws of the parameters as FamilyLevelDraws, with the random effects drawn from them.

    Arguments are those of `bhlm.bayes.family.draws.build_family_fit`.
    """
    white = nodes.white
    flat = sign_roots(flat)._replace(sigma=np.ones(len(flat.beta)))
    shape = next(iter(stats.values())).shape

    def chain(values: Array) -> Array:
        return values.reshape(*shape, *values.shape[1:])

    found = integrate_levels(nodes, structure, flat, seed=seed, prior_only=settings.prior_only)
    posterior, roots = split_factors(patterns, structure, flat, shape)
    if sum(u.size for u in found.effects) <= held:
        named = zip(name_factors(patterns), found.effects, strict=True)
        posterior |= {f"u|{name}": chain(u) for name, u in named}
    prior = evaluate_priors(priors, structure, flat)
    content = {
        "posterior": posterior,
        "log_prior": {name: chain(values) for name, values in prior.items()},
        "unconstrained_posterior": roots | ({} if x is None else {"x": x}),
        "sample_stats": stats,
    }
    if not settings.prior_only and found.logliks.size <= held:
        content["log_likelihood"] = {"loglik": chain(found.logliks)}
    named_draws = parameter_draws(patterns, structure, *map(chain, (flat.beta, flat.g, flat.sigma)))
    resolved = resolve_draws(patterns, structure, named_draws, flat.root)
    known = measure_draws(resolved)
    diagnostics = diagnose_run(resolved, stats, None, known)
    diagnostics = tell_accuracy(diagnostics, found.error)
    diagnostics = tell_unbounded(diagnostics, "the groups", unbounded)
    fit = FamilyLevelDraws(
        moments=patterns, structure=structure, priors=priors,
        contents=Contents(
            content, partial(build_level_tree, patterns, structure, top=white.order[0])
        ),
        diagnostics=diagnostics, settings=settings, seed=seed,
        seconds=time.perf_counter() - start, sampler=sampler, white=white,
        nodes=nodes.steps.copy(), error=found.error,
    )  # fmt: skip
    return fit.remember(known)
