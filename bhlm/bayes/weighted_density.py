"""The posterior density with weights of groups, known variances or strata, compiled once.

A position x holds [beta~ (p), scales (s), correlations (c), log sigma (S)]: that of
`bhlm.bayes.density` with a residual SD for every stratum, and with none where it is known. With
sampling weights the density is that of the pseudo-posterior, the prior times the pseudo-likelihood
with weights of groups that add up to the groups.
"""

import math
from typing import NamedTuple

import numpy as np

from bhlm.bayes.density import (
    Density,
    add_priors,
    build_density,
    root_draws,
    scale_coordinates,
)
from bhlm.bayes.priors.correlations import correlate, pull_correlations
from bhlm.bayes.priors.families import log_prior
from bhlm.bayes.priors.frame import Frame
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.design.kernels import light_kernel
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.panels import LANES
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.weighted_marginal import spread_strata, weighted_marginal
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

HEADER = 15  # numbers before the parts of a packed density


class WeightedDensity(NamedTuple):
    """All that the density kernel reads."""

    base: Density  # priors and maps; its data are empty
    blocks: Array  # (S, J, k, k) whitened cross-products
    sizes: Array  # (S, J) rows
    groups: Array  # (J,) what each group's log-likelihood is multiplied by
    held: float  # the residual SD where it is known; 0 where it is not

    @property
    def dimension(self) -> int:
        """The length of x."""
        return len(self.base.offset) + len(self.base.unit) + self.base.angles + self.n_sigmas

    @property
    def n_sigmas(self) -> int:
        """The number of residual SDs that are free."""
        return 0 if self.held > 0.0 else len(self.blocks)


def build_weighted(
    white: Whitened,
    priors: ResolvedPriors,
    structure: Structure,
    *,
    use_likelihood: bool = True,
) -> WeightedDensity:
    """Return the posterior density of whitened data with weights, known variances or strata.

    Arguments are those of `build_density`.

    Raises:
        PriorError: a prior without a density that the kernel knows.
    """
    blocks, sizes, groups = spread_strata(white)
    base = build_density(white, priors, structure, use_likelihood=use_likelihood, priors_only=True)
    empty = np.zeros((0, white.q, white.q + white.p + 1, LANES))
    return WeightedDensity(
        base=base._replace(panels=empty, total=np.zeros_like(base.total)),
        blocks=blocks,
        sizes=sizes,
        groups=np.ascontiguousarray(groups),
        held=0.0 if white.held is None else math.sqrt(white.held) * white.scale,
    )


@light_kernel
def log_weighted(x: Array, density: WeightedDensity) -> tuple[float, Array]:
    """Return the log posterior density at x, Jacobian included, and its gradient (d,)."""
    base = density.base
    p, q, s = len(base.offset), len(base.inverse_basis), len(base.unit)
    n_strata, first = len(density.blocks), p + s + base.angles
    is_held = density.held > 0.0
    gradient = np.zeros(len(x))
    scales = scale_coordinates(x[p : p + s], base.unit, base.signed)
    sigma = np.empty(n_strata)
    for i in range(n_strata):
        sigma[i] = density.held if is_held else math.exp(x[first + i])
    factor = np.empty((q, q))
    correlate(base.law, x[p + s : first], base.sizes, factor)
    logp = 0.0
    dfactor = np.zeros((q, q))
    if base.use_likelihood:
        root = np.zeros((q, q))
        for i in range(q):
            for j in range(q):
                for m in range(q):
                    sd = scales[base.owners[m]]
                    root[i, j] += base.inverse_basis[i, m] * sd * factor[m, j] / base.scale
        loglik, droot, dbeta, dlog = weighted_marginal(
            density.blocks, density.sizes, density.groups, root, x[:p], sigma / base.scale
        )
        logp += loglik - base.n * math.log(base.scale)
        for i in range(p):
            gradient[i] += dbeta[i]
        if not is_held:
            for i in range(n_strata):
                gradient[first + i] += dlog[i]
        for m in range(q):
            own = base.owners[m]
            sd = scales[own]
            for j in range(q):
                pulled = 0.0
                for i in range(q):
                    pulled += base.inverse_basis[i, m] * droot[i, j]
                pulled /= base.scale
                dfactor[m, j] = pulled * sd
                gradient[p + own] += (
                    pulled * factor[m, j] * (base.unit[own] if base.signed[own] else sd)
                )
    # `add_priors` knows one residual SD, the last coordinate.
    shown, slope = np.zeros(p + s + 1), np.zeros(p + s + 1)
    for i in range(p + s):
        shown[i] = x[i]
    shown[p + s] = math.log(sigma[0])
    logp = add_priors(base, shown, scales, sigma[0], logp, slope)
    for i in range(p + s):
        gradient[i] += slope[i]
    if is_held:
        term, _ = log_prior(base.codes[p + s], base.numbers[p + s], sigma[0])
        logp -= term + shown[p + s]
    else:
        gradient[first] += slope[p + s]
        for i in range(1, n_strata):
            term, derivative = log_prior(base.codes[p + s + i], base.numbers[p + s + i], sigma[i])
            logp += term + x[first + i]
            gradient[first + i] += derivative * sigma[i] + 1.0
    logp += pull_correlations(
        base.law, x[p + s : first], base.sizes, base.eta, dfactor, gradient[p + s : first]
    )
    return logp, gradient


def constrain_weighted(
    density: WeightedDensity, white: Whitened, frame: Frame, x: Array
) -> Parameters:
    """Return the parameters at N positions x (N, d); sigma is (N, S), or (N,) of one stratum."""
    base = density.base
    p, q, s = white.p, white.q, len(base.unit)
    first = p + s + base.angles
    beta = white.ols + white.scale * x[:, :p] @ white.fixed.T
    root = np.empty((len(x), q, q))
    root_draws(base.law, np.ascontiguousarray(x[:, p + s : first]), base.sizes, root)
    sd = base.unit * np.where(base.signed, x[:, p : p + s], np.exp(x[:, p : p + s]))
    root *= sd[:, base.owners, None]
    sigma = np.exp(x[:, first:]) if density.n_sigmas else np.full((len(x), 1), density.held)
    return Parameters(
        beta, frame.unturn_root(root), sigma if len(density.blocks) > 1 else sigma[:, 0]
    )


def start_weighted(density: WeightedDensity, seed: int) -> Array:
    """Return a starting position (d,), spread by one unit; see `sampling.initial_position`."""
    base = density.base
    p, s = len(base.offset), len(base.unit)
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, density.dimension)
    begin = np.exp(x[p : p + s]) / 3.0
    x[p : p + s] = np.where(base.signed, begin, np.log(begin))
    x[p + s + base.angles :] += math.log(base.scale)
    return x


def pack_weighted(density: WeightedDensity) -> Array:
    """Return all that the density reads as one array of doubles."""
    base = density.base
    header = (
        len(base.offset), len(base.owners), len(base.unit), len(base.sizes),
        base.numbers.shape[1], base.law, base.angles, base.scale, base.n, base.eta,
        base.use_likelihood, len(density.blocks), len(density.groups), density.held,
    )  # fmt: skip
    parts = (
        base.inverse_basis, base.offset, base.slope, base.unit, base.signed, base.owners,
        base.sizes, base.codes, base.numbers, density.blocks, density.sizes, density.groups,
    )  # fmt: skip
    body = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])
    return np.concatenate([np.array((HEADER + len(body), *header), dtype=np.float64), body])


@light_kernel
def evaluate_weighted(x: Array, data: Array) -> tuple[float, Array]:
    """Return `log_weighted` of a packed density: its value and gradient (d,)."""
    p, q, s, n_blocks, width = (
        int(data[1]), int(data[2]), int(data[3]), int(data[4]), int(data[5]),
    )  # fmt: skip
    n_strata, n_groups = int(data[12]), int(data[13])
    k = q + p + 1
    at = HEADER
    inverse_basis = data[at : at + q * q].reshape((q, q))
    at += q * q
    offset = data[at : at + p]
    at += p
    slope = data[at : at + p * p].reshape((p, p))
    at += p * p
    unit = data[at : at + s]
    at += s
    signed = data[at : at + s] > 0.0
    at += s
    owners = data[at : at + q].astype(np.int64)
    at += q
    sizes = data[at : at + n_blocks].astype(np.int64)
    at += n_blocks
    count = p + s + n_strata
    codes = data[at : at + count].astype(np.int64)
    at += count
    numbers = data[at : at + width * count].reshape((count, width))
    at += width * count
    blocks = data[at : at + n_strata * n_groups * k * k].reshape((n_strata, n_groups, k, k))
    at += n_strata * n_groups * k * k
    rows = data[at : at + n_strata * n_groups].reshape((n_strata, n_groups))
    at += n_strata * n_groups
    groups = data[at : at + n_groups]
    base = Density(
        panels=np.zeros((0, q, k, LANES)), total=np.zeros((p + 1, p + 1)), reach=0.0,
        n=data[9], scale=data[8], inverse_basis=inverse_basis, offset=offset, slope=slope,
        unit=unit, signed=signed, owners=owners, law=int(data[6]), angles=int(data[7]),
        sizes=sizes, codes=codes, numbers=numbers, eta=data[10], use_likelihood=data[11] > 0.0,
    )  # fmt: skip
    return log_weighted(
        x, WeightedDensity(base=base, blocks=blocks, sizes=rows, groups=groups, held=data[14])
    )
