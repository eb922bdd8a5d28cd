"""The posterior of every parameter by importance sampling, for any number of random coefficients.

What the fixed effects leave is drawn from a mixture of multivariate t's that is fitted to it: at
the modes first, then to its own weighted draws. The last set of draws is a scrambled net from one
proposal, whose errors are below those of independent draws; the latter are what is stated, and
Pareto's k says whether they may be believed.

Sources: Geweke (1989), Econometrica 57, 1317-1339, theorem 2; Owen (2013), Monte Carlo theory,
methods and examples, section 9.2; Glynn (1996), for quantiles.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.density import AnyWhitened, evaluate_prior
from bhlm.bayes.draws import parameter_draws
from bhlm.bayes.importance.draws import KHAT, WeightedDraws, draw_weighted, smooth_weights
from bhlm.bayes.importance.kernels import Kernels, Located, locate
from bhlm.bayes.importance.modes import Modes, find_edges, find_modes
from bhlm.bayes.importance.target import (
    Conditional,
    Place,
    Target,
    bend_target,
    build_target,
    condition_fixed,
    list_tied,
    log_target,
    place,
    spread_starts,
)
from bhlm.bayes.priors.families import Flat
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.rounding import find_rounded, read_at_means
from bhlm.likelihood.cells import whiten_cells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.nested_families import whiten_nest
from bhlm.likelihood.patterns import whiten_patterns
from bhlm.likelihood.whitening import whiten
from bhlm.moments.cells import CellMoments
from bhlm.moments.either import Reduced
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Drawn:
    """Weighted draws of a target, and what they stand for."""

    target: Target
    modes: Modes
    draws: WeightedDraws
    at: Place  # what the draws stand for
    given: Conditional  # the fixed effects there


@dataclass(frozen=True, slots=True)
class ImportancePosterior(Drawn):
    """The posterior of every parameter by importance sampling, and whether it may be believed."""

    moments: Reduced
    structure: Structure
    kernels: dict[str, Kernels]  # by parameter, in the order of the tables
    located: dict[str, Located]
    seconds: float

    @property
    def khat(self) -> float:
        """Pareto's k of the weights."""
        return self.draws.khat

    @property
    def certified(self) -> bool:
        """Whether k is at most 0.7 and so the standard errors hold."""
        return self.khat <= KHAT

    @property
    def rounded(self) -> tuple[str, ...]:
        """The correlations that are +-1 to rounding by where zero lies."""
        points = {name: kernels.centre for name, kernels in self.kernels.items()}
        return find_rounded(self.structure, points, weight=self.draws.weight)

    def resolve(self, names: Sequence[str]) -> "ImportancePosterior":
        """Return the posterior with some correlations as they are at the columns' means."""
        if not names:
            return self
        sigma = self.at.sigma if self.at.sigma.ndim == 1 else self.at.sigma[:, 0]
        root = self.target.basis @ self.at.lam * sigma[:, None, None]
        found = {
            name: Kernels(x, np.zeros(len(x)))
            for name, x in read_at_means(self.moments, self.structure, root, names).items()
        }
        located = {name: locate(each, self.draws.weight) for name, each in found.items()}
        return replace(self, kernels=self.kernels | found, located=self.located | located)

    @property
    def estimates(self) -> "pd.DataFrame":
        """Every parameter: `mean, sd, lower, upper` and the standard error of each."""
        import pandas as pd

        table = pd.DataFrame.from_dict(
            {name: each._asdict() for name, each in self.located.items()}, orient="index"
        )
        table.index.name = "parameter"
        return table


def integrate_importance(
    moments: Reduced,
    structure: Structure,
    priors: ResolvedPriors,
    *,
    seed: int,
    draws: int = 4096,
    budget: int = 30_000,
    without: frozenset[str] = frozenset(),
    frame: Array | None = None,
    white: AnyWhitened | None = None,
) -> ImportancePosterior:
    """Return the posterior of every parameter by importance sampling.

    The posterior must be proper: what the weights of an improper one converge to is nothing, and
    k does not always tell.

    Args:
        moments: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        seed: makes the answer repeatable.
        draws: weighted draws.
        budget: the most evaluations that adaptation may take.
        without: names of `list_priors` to swap for flat ones.
        frame: of the priors of the random part, see `build_target`.
        white: the whitened moments; None whitens them.
    """
    if white is None and isinstance(moments, CellMoments):
        white = whiten_cells(moments, structure.parts)
    elif white is None and isinstance(moments, Patterns):
        white = whiten_patterns(moments, structure)
    elif white is None and isinstance(moments, LevelPatterns):
        white = whiten_nest(moments, structure.parts)
    elif white is None and isinstance(moments, Moments):
        white = whiten(moments, structure)
    assert white is not None
    target = build_target(white, priors, structure, frame=frame, without=without)
    start = time.perf_counter()
    drawn = draw_target(target, seed=seed, draws=draws, budget=budget)
    kernels, correction = read_kernels(moments, structure, target, drawn.at, drawn.given, seed=seed)
    found = drawn.draws
    if correction is not None:
        height = found.log_target + correction
        weight, khat = smooth_weights(height - found.log_proposal)
        found = replace(found, log_target=height, weight=weight, khat=khat)
    return ImportancePosterior(
        target=drawn.target,
        modes=drawn.modes,
        draws=found,
        at=drawn.at,
        given=drawn.given,
        moments=moments,
        structure=structure,
        kernels=kernels,
        located={name: locate(each, found.weight) for name, each in kernels.items()},
        seconds=time.perf_counter() - start,
    )


def draw_target(target: Target, *, seed: int, draws: int = 4096, budget: int = 30_000) -> Drawn:
    """Return weighted draws of a target, of the fixed effects' priors those that are exact.

    Args are those of `integrate_importance`.
    """
    target, modes, found = propose_target(target, seed=seed, draws=draws, budget=budget)
    # Where the density is beyond what doubles hold a draw has no weight, and stands at the mode.
    lost = ~np.isfinite(found.log_target)
    weight = np.where(lost, 0.0, found.weight)
    found = replace(
        found, y=np.where(lost[:, None], modes.y[0], found.y), weight=weight / weight.sum()
    )
    at = place(target, found.y)
    return Drawn(target, modes, found, at, condition_fixed(target, at.lam, at.sigma, beta=at.beta))


def propose_target(
    target: Target, *, seed: int, draws: int = 4096, budget: int = 30_000
) -> tuple[Target, Modes, WeightedDraws]:
    """Return a target in coordinates that bend where SDs vanish, its modes, and weighted draws.

    Args are those of `integrate_importance`.
    """
    straight = replace(target, knee=np.full(target.n_sds, -np.inf))
    starts = spread_starts(straight)
    if target.some is not None:
        # All groups are climbed with from where some of them have their modes.
        some = replace(target.some, knee=straight.knee)
        starts = find_modes(lambda y: log_target(some, y), starts).y
    rough = find_modes(lambda y: log_target(straight, y), starts)
    target, places = bend_target(straight, rough)
    modes = find_modes(lambda y: log_target(target, y), places)
    modes = replace(modes, evaluations=modes.evaluations + rough.evaluations)
    found = draw_weighted(
        lambda y: log_target(target, y),
        modes,
        seed=seed,
        draws=draws,
        budget=budget,
        edges=find_edges(
            lambda y: log_target(target, y), modes, target.n_sds, list_tied(target.structure)
        ),
    )
    return target, modes, found


def read_kernels(
    moments: Reduced,
    structure: Structure,
    target: Target,
    at: Place,
    given: Conditional,
    *,
    seed: int,
) -> tuple[dict[str, Kernels], Array | None]:
    """Return every parameter at each place, and what its log weight still lacks.

    Under normal and flat priors a fixed effect is the normal that it is given the rest
    (Rao-Blackwell), and nothing is lacking; nor is it of a family, whose fixed effects are drawn.
    Under others it is a draw from that normal, and the log density of its prior is lacking.
    """
    p = len(target.ols)
    if target.counted is not None:
        beta = target.ols + given.mean @ target.back.T
        named = parameter_draws(moments, structure, beta, at.g, at.sigma)
        return {name: Kernels(x, np.zeros(len(beta))) for name, x in named.items()}, None
    inverse = np.linalg.inv(given.root)  # precision^-1 = inverse' inverse
    spread = target.back @ np.swapaxes(inverse, 1, 2)  # (N, p, p)
    beta = target.ols + given.mean @ target.back.T
    width = np.linalg.norm(spread, axis=2)
    correction = None
    if not target.exact and "fixed" not in target.without:
        drawn = draw_fixed(target, given, np.random.default_rng([seed, 2]))
        beta, width = target.ols + drawn @ target.back.T, np.zeros_like(width)
        correction = correct_fixed(target, drawn)
    named = parameter_draws(moments, structure, beta, at.g, at.sigma)
    point = np.zeros(len(beta))
    kernels = {
        name: Kernels(values, width[:, i] if i < p else point)
        for i, (name, values) in enumerate(named.items())
    }
    return kernels, correction


def draw_fixed(target: Target, given: Conditional, rng: np.random.Generator) -> Array:
    """Return the fixed effects beta~ (N, p) at each place, drawn given the rest.

    They are from the normal that they are given the rest under their normal and flat priors; those
    of a family are coordinates, and as they are.
    """
    if target.counted is not None:
        return given.mean
    inverse = np.linalg.inv(given.root)  # precision^-1 = inverse' inverse
    noise = rng.standard_normal(given.mean.shape)
    return np.asarray(given.mean + np.einsum("nji,nj->ni", inverse, noise))


def correct_fixed(target: Target, drawn: Array) -> Array:
    """Return what the log weights (N,) of drawn fixed effects beta~ (N, p) still lack.

    It is the log density of the priors that are neither normal nor flat.
    """
    correction = np.zeros(len(drawn))
    if target.exact or target.counted is not None or "fixed" in target.without:
        return correction
    shown = target.offset + drawn @ target.slope.T
    for i, prior in enumerate(target.priors.fixed):
        if not (target.normal[i] or isinstance(prior, Flat)):
            correction += evaluate_prior(prior, shown[:, i])
    return correction
