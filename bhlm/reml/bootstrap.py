"""The parametric bootstrap from moments alone: new responses are never spelled out by row.

Data sets come from `bhlm.likelihood.simulate`, at a cost that does not depend on their rows.
Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, sections 6.5 and 13.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bhlm.errors import ArgumentError, check_arguments
from bhlm.layout import shorten
from bhlm.likelihood.cells import WhitenedCells, whiten_blocks
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import (
    check_level,
    scale_covariance,
)
from bhlm.likelihood.simulate import Simulator, build_simulator, simulate_blocks
from bhlm.likelihood.simulate_cells import CellSimulator, build_cell_simulator
from bhlm.likelihood.whitening import whiten_parameters
from bhlm.processes import count_cores, run_here
from bhlm.reml.group_algebra import expect_one
from bhlm.reml.level_algebra import evaluate_fit
from bhlm.reml.level_search import maximize_levels
from bhlm.reml.levels import LevelsEstimate
from bhlm.reml.maximum import Maximum, require_plain, require_unweighted
from bhlm.reml.optimize import maximize

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
type Progress = Callable[[int, int], None]

KINDS = ("percentile", "basic")
REFUSAL = (
    "the processes of the bootstrap could not be started or were killed; give processes=1, which "
    "needs less memory"
)
CHUNKS = 4  # per process, so that the last ones end at about the same time


class _Interval(NamedTuple):
    """A parameter's row of `Bootstrap.intervals()`."""

    estimate: float
    se: float
    lower: float
    upper: float
    bias: float
    kind: str


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Estimates from data simulated at the estimates of a fit."""

    names: tuple[str, ...]  # (m,) parameters
    estimate: Array  # (m,) of the fit
    draws: Array  # (replicates, m); nan for a correlation with an SD of zero
    converged: Array  # (replicates,)
    singular: Array  # (replicates,)
    seed: int
    bounds: Array  # (m, 2) between which a parameter can lie

    def __repr__(self) -> str:
        """Return what was drawn and the intervals, within a screen."""
        done = f"{int(self.converged.sum())} of {len(self.draws)} replicates converged"
        table = self.intervals().to_string(float_format="{:.5g}".format)
        head = f"Parametric bootstrap, seed {self.seed}: {done}"
        return shorten(f"{head}\n{table}", whole="intervals()")

    @check_arguments
    def intervals(self, *, kind: str = "percentile", level: float = 0.95) -> "pd.DataFrame":
        """Return `estimate, se, lower, upper, bias, kind` by parameter.

        "percentile" takes the quantiles of the draws, "basic" reflects them at the estimate. A
        reflection that leaves the parameter's range, such as an SD below 0, is no interval; the
        row has percentile limits then, and `kind` says so. Near 0 neither keeps its level
        (coverage .84 to 1.00 for 95 % in small designs); `fit.profile()` comes closer there.
        Where a draw does not exist (nan) the others are used.

        Raises:
            ArgumentError: a kind that is not known, or a level outside (0, 1).
        """
        import pandas as pd

        check_level(level)
        if kind not in KINDS:
            raise ArgumentError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
        rows = [self._summarize(at, kind=kind, level=level) for at in range(len(self.names))]
        return pd.DataFrame(rows, index=pd.Index(self.names, name="parameter"))

    def _summarize(self, at: int, *, kind: str, level: float) -> _Interval:
        draws = self.draws[:, at]
        draws = draws[~np.isnan(draws)]
        estimate = float(self.estimate[at])
        if len(draws) < 2:
            return _Interval(estimate, np.nan, np.nan, np.nan, np.nan, kind)
        lower, upper = np.quantile(draws, [0.5 - level / 2.0, 0.5 + level / 2.0])
        if kind == "basic":
            reflected = 2.0 * estimate - upper, 2.0 * estimate - lower
            least, most = self.bounds[at]
            if least <= reflected[0] and reflected[1] <= most:
                lower, upper = reflected
            else:
                kind = "percentile"
        bias = float(draws.mean()) - estimate
        spread = float(draws.std(ddof=1))
        return _Interval(estimate, spread, float(lower), float(upper), bias, kind)


class Replicate(NamedTuple):
    """The fit of one simulated data set, in the columns as given."""

    beta: Array  # (p,)
    gs: tuple[Array, ...]  # by factor, (q_f, q_f)
    sigma2: float
    converged: bool
    singular: bool


class Refit(Protocol):
    """What a replicate needs: data of the fitted model, and how the fit was made."""

    def replicate(self, seed: np.random.SeedSequence) -> Replicate:
        """Return the fit of one simulated data set."""


@dataclass(frozen=True, slots=True)
class RefitGroups:
    """Replicates of a model with a single factor."""

    simulator: Simulator
    structure: Structure
    restricted: bool
    start: Array | None  # theta to start at

    def replicate(self, seed: np.random.SeedSequence) -> Replicate:
        """Return the fit of one simulated data set."""
        blocks = simulate_blocks(self.simulator, np.random.Generator(np.random.PCG64(seed)))
        white = replace(self.simulator.white, blocks=blocks)
        found = maximize(white, self.structure, restricted=self.restricted, start=self.start)
        at = found.criterion
        sigma2 = at.sigma2 * white.scale**2
        root = white.basis @ found.lam
        beta = white.ols + white.scale * white.fixed @ at.beta
        return Replicate(beta, (sigma2 * root @ root.T,), sigma2, found.converged, found.singular)


@dataclass(frozen=True, slots=True)
class RefitLevels:
    """Replicates of a model with several grouping factors."""

    white: WhitenedCells
    simulator: CellSimulator
    structures: tuple[Structure, ...]
    restricted: bool
    start: Array | None

    def replicate(self, seed: np.random.SeedSequence) -> Replicate:
        """Return the fit of one simulated data set."""
        levels = self.simulator.simulate(np.random.Generator(np.random.PCG64(seed)))
        white = replace(self.white, levels=levels)
        found = maximize_levels(
            white, self.structures, restricted=self.restricted, start=self.start
        )
        at = found.criterion.at
        sigma2 = at.sigma2 * white.scale**2
        roots = (basis @ lam for basis, lam in zip(white.bases, found.lams, strict=True))
        return Replicate(
            white.ols + white.scale * white.fixed @ at.beta,
            tuple(sigma2 * root @ root.T for root in roots),
            sigma2,
            found.converged,
            found.singular,
        )


def bootstrap(
    fit: Maximum,
    *,
    replicates: int = 1000,
    seed: int = 0,
    processes: int = 1,
    progress: Progress | None = None,
) -> Bootstrap:
    """Return the estimates of `replicates` data sets drawn from the fitted model.

    The draws depend on the seed alone, not on how many processes share the work. More than one
    process pays for itself from some thousand refits on.

    Args:
        fit: the fit, by whose method the replicates are fitted.
        replicates: how many.
        seed: of the random numbers.
        processes: how many processes work; 0 is one per processor.
        progress: called with (done, replicates) now and then.

    Raises:
        ArgumentError: fewer than two replicates, a negative number of processes or seed, or one
            that is not whole.
    """
    require_plain(fit, "bootstrap()")
    for name, value, least in (
        ("replicates", replicates, 2),
        ("seed", seed, 0),
        ("processes", processes, 0),
    ):
        if not isinstance(value, int | np.integer):
            raise ArgumentError(f"{name}={value!r} is not a whole number; give one such as {least}")
        if value < least:
            raise ArgumentError(f"{name}={value} is too small; give at least {least}")
    processes = processes or count_cores()
    size = max(1, replicates // (CHUNKS * processes if processes > 1 else 100))
    children = tuple(np.random.SeedSequence(seed).spawn(replicates))
    task = _Chunk(plan_refits(fit), children, size)
    structures, gs = zip(*fit.parts, strict=True)
    own = Replicate(fit.beta, gs, fit.sigma2, fit.converged, fit.singular)
    chunks: dict[int, list[Replicate]] = {}
    done = 0
    for many in run_here(task, range(0, replicates, size), processes=processes, refusal=REFUSAL):
        chunks[many["first"]] = many["found"]
        done += len(many["found"])
        if progress is not None:
            progress(done, replicates)
    found = [each for first in sorted(chunks) for each in chunks[first]]
    return Bootstrap(
        names=tuple(map(str, fit.parameters)),
        estimate=_spread([own], structures)[0],
        draws=_spread(found, structures),
        converged=np.array([each.converged for each in found]),
        singular=np.array([each.singular for each in found]),
        seed=seed,
        bounds=_bound_parameters(fit),
    )


def plan_refits(fit: Maximum) -> Refit:
    """Return what is needed to draw data from the fitted model and to fit them alike."""
    # From a boundary the optimiser would have to leave a saddle; its own start is inside.
    start = None if fit.singular else fit.theta
    restricted = fit.method == "reml"
    if isinstance(fit, LevelsEstimate):
        require_unweighted(fit, "bootstrap()")
        at = evaluate_fit(fit).at
        sigma = float(np.sqrt(at.sigma2))
        simulator = build_cell_simulator(
            whiten_blocks(fit.moments, fit.structures),
            beta=at.beta,
            effects=[sigma * lam for lam in fit.lams],
            sigma=sigma,
        )
        return RefitLevels(fit.white, simulator, fit.structures, restricted, start)
    one = expect_one(fit)
    white = one.white
    beta, lam, sd = whiten_parameters(white, one.beta, one.root, np.sqrt(one.sigma2))
    return RefitGroups(
        build_simulator(white, one.moments.n, beta=beta, effects=lam * sd, sigma=float(sd)),
        one.structure,
        restricted,
        start,
    )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The task of fitting the replicates from a number on, which can go to another process."""

    refit: Refit
    seeds: tuple[np.random.SeedSequence, ...]
    size: int

    def __call__(self, first: int) -> dict[str, Any]:
        """Return where the chunk begins, and its fits."""
        seeds = self.seeds[first : first + self.size]
        return {"first": first, "found": [self.refit.replicate(seed) for seed in seeds]}


def _bound_parameters(fit: Maximum) -> Array:
    """Return the bounds (m, 2) of the parameters."""
    correlations = {part.structure.group: part.structure.correlation_bounds for part in fit.parts}
    bounds = np.tile([-np.inf, np.inf], (len(fit.parameters), 1))
    for at, parameter in enumerate(fit.parameters):
        if parameter.is_positive:
            bounds[at] = (0.0, np.inf)
        elif parameter.is_correlation:
            bounds[at] = correlations[parameter.group]
    return bounds


def _spread(found: Sequence[Replicate], structures: Sequence[Structure]) -> Array:
    """Return every named parameter (draws, m) of replicates."""
    variances, scaled = [], []
    for factor, structure in enumerate(structures):
        g = np.array([each.gs[factor] for each in found])
        variances.append(structure.read(g))
        scaled.append(scale_covariance(g, structure.labels))
    sigma2 = np.array([[each.sigma2] for each in found])
    beta = np.array([each.beta for each in found])
    return np.concatenate([beta, *variances, sigma2, *scaled, np.sqrt(sigma2)], axis=1)
