"""The parametric bootstrap from moments alone: new responses are never spelled out by row.

A replicate needs, of y* = X beta + Z u + e in each group, only W'y* and y*'y*, W = [Z X]. With
W'W = R'R, R of rank r: u ~ N(0, G), W'e = sigma R' a with a ~ N(0, I_r), and
e'e = sigma^2 (a'a + b) with b ~ chi-square(n - r), independent, the squared length of e outside
the columns of W. So W'y* = W'W c + W'e, c = (u, beta), and y*'y* = c'W'W c + 2 c'W'e + e'e have
exactly the law that simulated rows would give them, at a cost that does not depend on n.
Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, sections 6.5 and 13.3.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import (
    check_level,
    scale_covariance,
)
from bhlm.likelihood.whitening import Whitened, whiten_parameters
from bhlm.reml.estimate import Estimate
from bhlm.reml.optimize import Optimum, maximize

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
type Progress = Callable[[int, int], None]

KINDS = ("percentile", "basic")
RANK = 1e-12  # a direction of W'W below this share of the largest is rounding
CHUNKS = 4  # per process, so that the last ones end at about the same time


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
        columns = ["estimate", "se", "lower", "upper", "bias", "kind"]
        return pd.DataFrame(rows, index=pd.Index(self.names, name="parameter"), columns=columns)

    def _summarize(self, at: int, *, kind: str, level: float) -> list[float | str]:
        draws = self.draws[:, at]
        draws = draws[~np.isnan(draws)]
        estimate = float(self.estimate[at])
        if len(draws) < 2:
            return [estimate, np.nan, np.nan, np.nan, np.nan, kind]
        lower, upper = np.quantile(draws, [0.5 - level / 2.0, 0.5 + level / 2.0])
        if kind == "basic":
            reflected = 2.0 * estimate - upper, 2.0 * estimate - lower
            least, most = self.bounds[at]
            if least <= reflected[0] and reflected[1] <= most:
                lower, upper = reflected
            else:
                kind = "percentile"
        bias = float(draws.mean()) - estimate
        return [estimate, float(draws.std(ddof=1)), float(lower), float(upper), bias, kind]


@dataclass(frozen=True, slots=True)
class Simulator:
    """What a replicate needs: the design's cross-products and the parameters, whitened."""

    white: Whitened
    structure: Structure
    restricted: bool
    root: Array  # (J, k, k) R', R'R = W'W, k = q + p
    free: Array  # (J,) n - r, the dimensions outside the columns of W
    beta: Array  # (p,)
    effects: Array  # (q, q) a square root of G
    sigma: float
    start: Array | None  # theta to start at


def bootstrap(
    fit: Estimate,
    *,
    replicates: int = 1000,
    seed: int = 0,
    processes: int = 1,
    progress: Progress | None = None,
) -> Bootstrap:
    """Return the estimates of `replicates` data sets drawn from the fitted model.

    The draws depend on the seed alone, not on how many processes share the work. More than one
    process pays for itself from some thousand refits on; as everywhere, a script that starts
    processes must do so under `if __name__ == "__main__":`.

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
    for name, value, least in (
        ("replicates", replicates, 2),
        ("seed", seed, 0),
        ("processes", processes, 0),
    ):
        if not isinstance(value, int | np.integer):
            raise ArgumentError(f"{name}={value!r} is not a whole number; give one such as {least}")
        if value < least:
            raise ArgumentError(f"{name}={value} is too small; give at least {least}")
    simulator = build_simulator(fit)
    children = np.random.SeedSequence(seed).spawn(replicates)
    processes = processes or os.cpu_count() or 1
    q, p = simulator.white.q, simulator.white.p
    estimates = np.empty((replicates, p + q * q + 1))
    flags = np.empty((replicates, 2), dtype=bool)
    done = 0
    for at, values, states in _run(simulator, children, processes):
        estimates[at : at + len(values)] = values
        flags[at : at + len(values)] = states
        done += len(values)
        if progress is not None:
            progress(done, replicates)
    own = np.concatenate([fit.beta, fit.g.ravel(), [fit.sigma2]])
    labels = fit.structure.labels
    return Bootstrap(
        names=tuple(map(str, fit.parameters)),
        estimate=_spread(own[None], q, p, labels)[0],
        draws=_spread(estimates, q, p, labels),
        converged=flags[:, 0],
        singular=flags[:, 1],
        seed=seed,
        bounds=_bound_parameters(fit),
    )


def build_simulator(fit: Estimate) -> Simulator:
    """Return what is needed to draw data from the fitted model."""
    white = fit.white
    beta, lam, sigma = whiten_parameters(white, fit.beta, fit.root, np.sqrt(fit.sigma2))
    root, free = factor_design(white, fit.moments.n)
    return Simulator(
        white=white,
        structure=fit.structure,
        restricted=fit.method == "reml",
        root=root,
        free=free,
        beta=beta,
        effects=lam * sigma,
        sigma=float(sigma),
        # From a boundary the optimiser would have to leave a saddle; EM starts inside.
        start=None if fit.singular else fit.theta,
    )


def factor_design(white: Whitened, n: Array) -> tuple[Array, Array]:
    """Return R' (J, k, k), R'R = W'W, and the dimensions n - r (J,) outside the columns of W.

    A direction that W'W lacks has a zero column in R'. `n` (J,) are the rows per group.
    """
    gram = white.blocks[:, :-1, :-1]
    size = np.sqrt(np.einsum("jaa->a", gram) / white.n)
    values, vectors = np.linalg.eigh(gram / np.outer(size, size))
    present = values > RANK * values[:, -1:]
    root = size[:, None] * vectors * np.sqrt(np.where(present, values, 0.0))[:, None, :]
    return root, np.maximum(n - present.sum(axis=1), 0.0)


def simulate_blocks(simulator: Simulator, rng: np.random.Generator) -> Array:
    """Return whitened cross-products (J, k + 1, k + 1) of the same design and a new response."""
    gram = simulator.white.blocks[:, :-1, :-1]
    n_groups, k, _ = gram.shape
    q = simulator.white.q
    inside = rng.standard_normal((n_groups, k))
    known = np.empty((n_groups, k))
    known[:, :q] = rng.standard_normal((n_groups, q)) @ simulator.effects.T
    known[:, q:] = simulator.beta
    # Directions that W'W lacks have a zero column in the root; their noise belongs to no row.
    inside[~simulator.root.any(axis=1)] = 0.0
    outside = 2.0 * rng.standard_gamma(0.5 * simulator.free)
    noise = simulator.sigma * np.einsum("jab,jb->ja", simulator.root, inside)
    fitted = np.einsum("jab,jb->ja", gram, known)
    squares = np.einsum("ja,ja->j", known, fitted + 2.0 * noise)
    squares += simulator.sigma**2 * (np.einsum("ja,ja->j", inside, inside) + outside)
    blocks = simulator.white.blocks.copy()
    blocks[:, :-1, -1] = blocks[:, -1, :-1] = fitted + noise
    blocks[:, -1, -1] = squares
    return blocks


def refit_replicate(simulator: Simulator, seed: np.random.SeedSequence) -> Optimum:
    """Return the optimum of one simulated data set."""
    blocks = simulate_blocks(simulator, np.random.Generator(np.random.PCG64(seed)))
    white = replace(simulator.white, blocks=blocks)
    return maximize(
        white, simulator.structure, restricted=simulator.restricted, start=simulator.start
    )


def _refit_many(
    simulator: Simulator, seeds: Sequence[np.random.SeedSequence]
) -> tuple[Array, Array]:
    """Return (beta, G, sigma2) and (converged, singular) of each seed's replicate."""
    white = simulator.white
    rows, flags = [], []
    for seed in seeds:
        found = refit_replicate(simulator, seed)
        sigma2 = found.criterion.sigma2 * white.scale**2
        root = white.basis @ found.lam
        beta = white.ols + white.scale * white.fixed @ found.criterion.beta
        rows.append(np.concatenate([beta, (sigma2 * root @ root.T).ravel(), [sigma2]]))
        flags.append([found.converged, found.singular])
    return np.array(rows), np.array(flags, dtype=bool)


def _run(
    simulator: Simulator, seeds: Sequence[np.random.SeedSequence], processes: int
) -> Iterator[tuple[int, Array, Array]]:
    """Yield where a chunk starts, its estimates and its flags, in the order they are done."""
    size = max(1, len(seeds) // (CHUNKS * processes) if processes > 1 else len(seeds) // 100)
    chunks = range(0, len(seeds), size)
    if processes == 1:
        for at in chunks:
            yield at, *_refit_many(simulator, seeds[at : at + size])
        return
    # Forking a process that has threads may lock up; spawning is the same on every system.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(_refit_many, simulator, seeds[at : at + size]): at for at in chunks}
        for future in as_completed(waiting):
            yield waiting[future], *future.result()


def _bound_parameters(fit: Estimate) -> Array:
    """Return the bounds (m, 2) of the parameters."""
    bounds = np.tile([-np.inf, np.inf], (len(fit.parameters), 1))
    for row, parameter in zip(bounds, fit.parameters, strict=True):
        if parameter.is_positive:
            row[0] = 0.0
        elif parameter.is_correlation:
            row[:] = fit.structure.correlation_bounds
    return bounds


def _spread(rows: Array, q: int, p: int, labels: tuple[tuple[int, int], ...]) -> Array:
    """Return every named parameter (draws, m) from rows of (beta, G, sigma2)."""
    g = rows[:, p:-1].reshape(-1, q, q)
    variances = np.stack([g[:, i, j] for i, j in labels], axis=1)
    sigma2 = rows[:, -1:]
    scaled = scale_covariance(g, labels)
    return np.concatenate([rows[:, :p], variances, sigma2, scaled, np.sqrt(sigma2)], axis=1)
