"""Several grouping factors: random effects drawn given the parameters, and units' likelihoods.

Of nested factors the coarsest units are drawn first and their children given them; of crossed ones
the dense rest jointly, and the levels of the eliminated factor given it. With A = Z'Z of a unit,
K = I + lam'A lam, F and U what is left of Z'Z and Z'[Z_+ X y] (`bhlm.likelihood.nested`), given
the effects w of its parents

    u ~ N(Psi U [-w; -beta; 1], sigma^2 T),    T = lam K^-1 lam'
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular

from bhlm.design.kernels import kernel
from bhlm.likelihood.crossed import Crossed
from bhlm.likelihood.levels import Eliminated
from bhlm.likelihood.nested import Nested
from bhlm.likelihood.profiled import factor_group

Array = np.ndarray


def draw_level_effects(
    levels: Nested | Crossed,
    lams: Sequence[Array],
    beta: Array,
    sigma: float,
    *,
    rng: np.random.Generator,
) -> list[Array]:
    """Return one draw (J_f, q_f) of every factor's effects given the parameters, in order.

    All is whitened. Whether a lam is triangular or singular does not matter.

    Args:
        levels: whitened cross-products.
        lams: relative covariance factors (q_f, q_f).
        beta: fixed effects (p,).
        sigma: the residual SD.
        rng: the source of the normal noise.
    """
    noises = [
        sigma * rng.standard_normal((count, q))
        for count, q in zip(levels.counts, levels.sizes, strict=True)
    ]
    return _add_noise(levels, lams, levels.eliminate(lams), beta, noises)


def expect_level_effects(
    levels: Nested | Crossed, lams: Sequence[Array], found: Eliminated, beta: Array
) -> list[Array]:
    """Return the means (J_f, q_f) of every factor's effects given the parameters, in order.

    Args:
        levels: whitened cross-products.
        lams: relative covariance factors (q_f, q_f).
        found: what `levels.eliminate` returned for them.
        beta: fixed effects (p,).
    """
    shapes = zip(levels.counts, levels.sizes, strict=True)
    return _add_noise(levels, lams, found, beta, [np.zeros(shape) for shape in shapes])


def _add_noise(
    levels: Nested | Crossed, lams: Sequence[Array], found: Eliminated, beta: Array,
    noises: list[Array],
) -> list[Array]:  # fmt: skip
    """Return every factor's mean effects with noises (J_f, q_f) of SD sigma, brought to scale."""
    left = np.append(-beta, 1.0)
    if isinstance(levels, Crossed):
        return _draw_crossed(levels, lams, found.kept, left, noises)
    return _draw_nested(levels, lams, found.kept, left, noises)


def _draw_nested(
    levels: Nested, lams: Sequence[Array], kept: Any, left: Array,
    noises: list[Array],
) -> list[Array]:  # fmt: skip
    drawn: list[Array] = [np.empty(0)] * len(levels.order)
    above = left[None]
    for level in reversed(range(len(levels.order))):
        factor, parents = levels.order[level], levels.parents[level]
        taken, inner = kept[level].taken, kept[level].inner
        lam = np.ascontiguousarray(lams[factor])
        below = np.empty((len(taken), taken.shape[2]))
        _draw_units(taken, inner, lam @ lam.T, parents, above, noises[factor], below)
        drawn[factor] = -below[:, : levels.sizes[factor]]
        above = below
    return drawn


@kernel
def _take_root(matrix: Array, out: Array) -> None:
    """Write the lower root of a matrix (q, q) that may be singular into `out`."""
    q = len(matrix)
    for a in range(q):
        for c in range(q):
            out[a, c] = 0.0
    for a in range(q):
        pivot = matrix[a, a]
        for i in range(a):
            pivot -= out[a, i] * out[a, i]
        if pivot > 1e-14 * matrix[a, a]:
            out[a, a] = np.sqrt(pivot)
            for c in range(a + 1, q):
                value = matrix[c, a]
                for i in range(a):
                    value -= out[c, i] * out[a, i]
                out[c, a] = value / out[a, a]


@kernel
def _draw_units(
    taken: Array, inner: Array, psi: Array, parents: Array, above: Array, noise: Array, below: Array
) -> None:
    """Write [-u, what the parents have in `above`] of every unit into `below` (J, k)."""
    n_units, q, k = taken.shape
    root = np.empty((q, q))
    seen = np.empty(q)
    for j in range(n_units):
        lifted = above[parents[j]]
        for a in range(q):
            seen[a] = 0.0
            for c in range(k - q):
                seen[a] += taken[j, a, q + c] * lifted[c]
        _take_root(inner[j], root)
        for a in range(q):
            value = 0.0
            for b in range(q):
                value += psi[a, b] * seen[b]
            for b in range(a + 1):
                value += root[a, b] * noise[j, b]
            below[j, a] = -value
        for c in range(k - q):
            below[j, q + c] = lifted[c]


def _draw_crossed(
    levels: Crossed, lams: Sequence[Array], kept: Any, left: Array, noises: list[Array]
) -> list[Array]:
    noise = np.empty(levels.width)
    for span, each in zip(levels.spans, noises, strict=True):
        noise[span] = each.ravel()[: span.stop - span.start]
    seen = kept.half @ left + noise
    v = solve_triangular(kept.root, seen, lower=False, check_finite=False)
    rest = np.empty(levels.width)
    drawn: list[Array] = []
    for factor, span in enumerate(levels.spans):
        own = v[span].reshape(-1, levels.sizes[factor]) @ lams[factor].T
        rest[span] = own.ravel()
        drawn.append(own)
    lifted = np.concatenate([-rest, left])
    first = levels.eliminated
    out = np.empty_like(noises[first])
    _draw_levels(
        levels.values, levels.starts, levels.places, kept.inner, lifted, noises[first], out
    )
    drawn[first] = out
    return drawn


@kernel
def _draw_levels(
    values: Array, starts: Array, places: Array, inner: Array, lifted: Array, noise: Array,
    out: Array,
) -> None:  # fmt: skip
    """Write T B [-u_r; -beta; 1] + root(T) noise of every level of the eliminated factor."""
    q = len(values)
    root = np.empty((q, q))
    seen = np.empty(q)
    for j in range(len(out)):
        for a in range(q):
            seen[a] = 0.0
            for c in range(starts[j] + q, starts[j + 1]):
                seen[a] += values[a, c] * lifted[places[c]]
        _take_root(inner[j], root)
        for a in range(q):
            value = 0.0
            for b in range(q):
                value += inner[j, a, b] * seen[b]
            for b in range(a + 1):
                value += root[a, b] * noise[j, b]
            out[j, a] = value


def top_logliks(
    levels: Nested, n: Array, lams: Sequence[Array], beta: Array, sigma: float
) -> Array:
    """Return each coarsest unit's marginal log-likelihood (J,) with all that is nested in it.

    Args:
        levels: whitened cross-products.
        n: rows of each coarsest unit (J,).
        lams: relative covariance factors (q_f, q_f).
        beta: fixed effects (p,), whitened.
        sigma: the residual SD, whitened.
    """
    blocks = levels.blocks
    logdet = np.zeros(len(blocks))
    for level, factor in enumerate(levels.order):
        is_last = level + 1 == len(levels.order)
        upper = len(blocks) if is_last else levels.counts[levels.order[level + 1]]
        parents = np.arange(upper) if is_last else levels.parents[level]
        rest = blocks.shape[1] - levels.sizes[factor]
        out, sums = np.zeros((upper, rest, rest)), np.zeros(upper)
        lam = np.ascontiguousarray(lams[factor])
        _leave_parents(blocks, lam, parents, logdet, out, sums)
        blocks, logdet = out, sums
    left = np.append(-beta, 1.0)
    square = np.einsum("a,jab,b->j", left, blocks, left)
    return np.asarray(-0.5 * (n * np.log(2.0 * np.pi * sigma**2) + logdet + square / sigma**2))


@kernel
def _leave_parents(
    blocks: Array, lam: Array, parents: Array, logdet: Array, out: Array, sums: Array
) -> None:
    """Add to `out` and `sums` what each unit leaves to its parent: R'R - B'T B, and log |K|."""
    q, k = len(lam), blocks.shape[1]
    root, half = np.empty((q, q)), np.empty((q, k))
    for j in range(len(blocks)):
        own = factor_group(blocks[j], q, lam, root, half)
        sums[parents[j]] += logdet[j] + own
        for a in range(q, k):
            for b in range(q, k):
                value = blocks[j, a, b]
                for i in range(q):
                    value -= half[i, a] * half[i, b]
                out[parents[j], a - q, b - q] += value
