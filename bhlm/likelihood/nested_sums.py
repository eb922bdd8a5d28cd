"""All nested units at one set of parameters, or at many, without Python between: for samplers.

What the kernels read is one array of doubles: the sizes of the parts, then the parts one after the
other. Searches for modes always begin at the same places, so that a value depends on nothing but
the parameters.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.lattice import SCORE, Integrated, Rows, integrate
from bhlm.likelihood.nested_families import NestIntegrator
from bhlm.likelihood.nested_lattice import (
    MOST,
    Nest,
    Nested,
    Tree,
    allocate_work,
    count_most,
    draw_unit,
    integrate_units,
)

Array = np.ndarray

HEADER = 10


class Packed(NamedTuple):
    """Patterns of nested units at parameters that are zero, and where their nodes lie."""

    tree: Tree
    rows: Rows  # `x` holds X and the Z of all levels but the finest, eta is the offset
    modes: Array  # (N, MOST) where searches begin, of all levels but the finest
    inner: Array  # (J, q) of the finest
    steps: Array  # (N,) posterior SDs between nodes
    spans: Array  # (L,) int64, where the coefficients of each level begin among those of all
    constant: float  # of the log-likelihood


def pack_nest(nodes: NestIntegrator, spans: Sequence[int]) -> Array:
    """Return the patterns, the modes and the steps of an integrator as one array of doubles.

    Args:
        nodes: the integrator.
        spans: where the coefficients of each level begin among those of all factors.
    """
    tree, rows = nodes.tree, nodes.rows
    count, head = rows.x.shape
    header = (
        len(tree.sizes), tree.starts.shape[1], tree.places[-1], count, head, rows.z.shape[1],
        len(nodes.inner), rows.link, nodes.constant,
    )  # fmt: skip
    parts = (
        tree.sizes, tree.heads, tree.starts, tree.bounds, tree.places, rows.starts, rows.n, rows.y,
        rows.peak, rows.x, rows.z, rows.sign, rows.slack, nodes.white.offset, nodes.modes,
        nodes.inner, nodes.steps, np.asarray(spans),
    )  # fmt: skip
    body = np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in parts])
    return np.concatenate([np.array((HEADER + len(body), *header), dtype=np.float64), body])


@kernel
def _unpack(data: Array) -> Packed:
    """Return what `pack_nest` packed."""
    levels, width, total, count, head, q, finest = (
        int(data[1]), int(data[2]), int(data[3]), int(data[4]), int(data[5]), int(data[6]),
        int(data[7]),
    )  # fmt: skip
    at = HEADER
    sizes = data[at : at + levels].astype(np.int64)
    at += levels
    heads = data[at : at + levels].astype(np.int64)
    at += levels
    starts = data[at : at + levels * width].astype(np.int64).reshape((levels, width))
    at += levels * width
    bounds = data[at : at + levels * width].astype(np.int64).reshape((levels, width))
    at += levels * width
    places = data[at : at + levels + 1].astype(np.int64)
    at += levels + 1
    own = data[at : at + finest + 1].astype(np.int64)
    at += finest + 1
    n = data[at : at + count]
    at += count
    y = data[at : at + count]
    at += count
    peak = data[at : at + count]
    at += count
    x = data[at : at + count * head].reshape((count, head))
    at += count * head
    z = data[at : at + count * q].reshape((count, q))
    at += count * q
    sign = data[at : at + count]
    at += count
    slack = data[at : at + count]
    at += count
    offset = data[at : at + count]
    at += count
    modes = data[at : at + total * MOST].reshape((total, MOST))
    at += total * MOST
    inner = data[at : at + finest * q].reshape((finest, q))
    at += finest * q
    steps = data[at : at + total]
    at += total
    spans = data[at : at + levels].astype(np.int64)
    rows = Rows(int(data[8]), own, n, y, peak, x, z, sign, slack, offset, z)
    tree = Tree(sizes, heads, starts, bounds, places, np.arange(finest))
    return Packed(tree, rows, modes, inner, steps, spans, data[9])


@kernel
def _stand(packed: Packed, beta: Array, lam: Array, modes: Array, inner: Array) -> Nest:
    """Return the patterns at beta~ (p,) and lam (Q, Q), block by block that of each factor.

    `modes` and `inner` are where searches begin, and are written.
    """
    tree, rows, p = packed.tree, packed.rows, len(beta)
    levels, (count, q) = len(tree.sizes), rows.z.shape
    etas = np.zeros((levels, count))
    lams = np.zeros((levels, MOST, MOST))
    outer, a = np.zeros((count, tree.heads[levels - 1] - p)), np.zeros((count, q))
    for i in range(count):
        etas[0, i] = rows.eta[i]
        for k in range(p):
            etas[0, i] += rows.x[i, k] * beta[k]
    for level in range(levels):
        start, head, size = packed.spans[level], tree.heads[level], tree.sizes[level]
        for d in range(size):
            for e in range(size):
                lams[level, d, e] = lam[start + d, start + e]
        for i in range(count):
            for d in range(size):
                for e in range(size):
                    if level + 1 < levels:
                        outer[i, head - p + e] += rows.x[i, head + d] * lams[level, d, e]
                    else:
                        a[i, e] += rows.z[i, d] * lams[level, d, e]
    here = Rows(
        rows.link, rows.starts, rows.n, rows.y, rows.peak, rows.x, rows.z, rows.sign, rows.slack,
        etas[levels - 1], a,
    )  # fmt: skip
    return Nest(tree, here, lams, outer, etas, modes, inner, packed.steps)


@kernel
def _allocate(tree: Tree, p: int, m: int) -> Nested:
    """Return room for the integrals of all units, and for no moments of the effects."""
    levels = len(tree.sizes)
    q, units, finest = tree.sizes[levels - 1], tree.places[1], len(tree.members)
    below = tree.heads[levels - 1] + q * q
    inner = Integrated(
        np.zeros(finest), np.zeros((finest, q)), np.zeros((finest, q, q)),
        np.zeros((finest, below)), np.zeros(finest), np.zeros((finest, q)),
    )  # fmt: skip
    return Nested(
        inner, np.zeros(units), np.zeros((units, m)), np.zeros((0, 0, MOST)),
        np.zeros((0, 0, MOST, MOST)), np.zeros((0, 0, levels, MOST, MOST)),
        np.zeros((2, levels)),
    )  # fmt: skip


@light_kernel
def _integrate_all(nest: Nest, derivatives: int, out: Nested, information: Array) -> None:
    """Integrate over the effects of all units, and write what the coarsest of them say."""
    tree = nest.tree
    units = tree.places[1]
    if len(tree.sizes) > 1:
        integrate_units(nest, np.int64(0), np.arange(units), derivatives, out, information)
        return
    # A single factor has no integrals within its own.
    none = np.zeros((0, 1 + tree.sizes[0]))
    integrate(
        nest.rows, nest.inner, nest.steps, tree.members, derivatives, out.inner, information, none
    )
    for j in range(units):
        out.loglik[j] = out.inner.loglik[j]
        for k in range(out.score.shape[1]):
            out.score[j, k] = out.inner.score[j, k]


@light_kernel
def family_marginal(
    data: Array, n: float, lam: Array, beta: Array, sigma: float
) -> tuple[float, Array, Array, float]:
    """Return the log-likelihood, its gradient by lam (Q, Q) and by beta~ (p,), and zero.

    Arguments and result are those of `bhlm.likelihood.nested_marginal.nested_marginal`; there is no
    residual, and `n` and `sigma` are not read.

    Args:
        data: of `pack_nest`.
        n: rows.
        lam: whitened covariance factors, a block of each factor.
        beta: whitened fixed effects.
        sigma: the residual SD.
    """
    packed = _unpack(data)
    tree, p = packed.tree, len(beta)
    m = p
    for q in tree.sizes:
        m += q * q
    nest = _stand(packed, beta, lam, packed.modes.copy(), packed.inner.copy())
    out = _allocate(tree, p, m)
    units = tree.places[1]
    _integrate_all(nest, np.int64(SCORE), out, np.zeros((m, m)))
    total = packed.constant
    dlam, dbeta = np.zeros(lam.shape), np.zeros(p)
    for j in range(units):
        total += out.loglik[j]
        for k in range(p):
            dbeta[k] += out.score[j, k]
        at = p
        for level in range(len(tree.sizes)):
            start, size = packed.spans[level], tree.sizes[level]
            for d in range(size):
                for e in range(size):
                    dlam[start + d, start + e] += out.score[j, at]
                    at += 1
    return total, dlam, dbeta, 0.0


@light_kernel
def value_units(data: Array, lam: Array, beta: Array) -> float:
    """Return the log-likelihood at lam (Q, Q) and beta~ (p,), arguments as `family_marginal`."""
    packed = _unpack(data)
    nest = _stand(packed, beta, lam, packed.modes.copy(), packed.inner.copy())
    units, none = packed.tree.places[1], 0
    out = _allocate(packed.tree, len(beta), none)
    _integrate_all(nest, np.int64(0), out, np.zeros((0, 0)))
    total = packed.constant
    for j in range(units):
        total += out.loglik[j]
    return total


@light_kernel
def draw_units(
    data: Array, beta: Array, lam: Array, luck: Array, noise: Array, logliks: Array, draws: Array,
    errors: Array,
) -> None:  # fmt: skip
    """Write each coarsest unit's log-likelihood and draws of all v, at N sets of parameters.

    Args:
        data: of `pack_nest`.
        beta: (N, p) whitened.
        lam: (N, Q, Q) whitened, a block of each factor.
        luck: (N, U, 1 + MOST) uniform numbers, of the units of all levels.
        noise: (N, J, 1 + q) uniform numbers, of the finest.
        logliks: (N, J_0) that are written, by lattices at the modes.
        draws: (N, U, MOST) that are written, level by level.
        errors: (N,) that are written: the sum over units of what two lattices differ by.
    """
    packed = _unpack(data)
    tree = packed.tree
    units, zero, none = tree.places[1], np.int64(0), 0
    modes, inner = packed.modes.copy(), packed.inner.copy()
    work = allocate_work(len(tree.sizes), count_most(tree), tree.sizes[-1])
    out, nothing = _allocate(tree, beta.shape[1], none), np.zeros((0, 0))
    for t in range(len(beta)):
        nest = _stand(packed, beta[t], lam[t], modes, inner)
        errors[t] = 0.0
        if len(tree.sizes) == 1:
            _integrate_all(nest, zero, out, nothing)
            for j in range(units):
                logliks[t, j] = out.loglik[j]
            integrate(
                nest.rows, nest.inner, nest.steps, tree.members, zero, out.inner, nothing, noise[t]
            )
            for j in range(units):
                errors[t] += abs(out.inner.loglik[j] - logliks[t, j])
                for d in range(tree.sizes[0]):
                    draws[t, j, d] = out.inner.draw[j, d]
            continue
        for j in range(units):
            found = draw_unit(nest, zero, j, luck[t], noise[t], out, work, draws[t])
            logliks[t, j] = found[0]
            errors[t] += found[1]


class DrawnUnits(NamedTuple):
    """Draws of the effects of nested units at N sets of parameters."""

    v: tuple[Array, ...]  # L, (N, J_l, q_l) u~ = lam v, by unit
    logliks: Array  # (N, J_0) by unit of the coarsest level
    errors: Array  # (N,) of the sum of these, by other lattices


def draw_nest(
    nodes: NestIntegrator, beta: Array, lam: Array, *, rng: np.random.Generator
) -> DrawnUnits:
    """Return one draw of the v of all units at each of N sets of parameters.

    From the coarsest level to the finest, each given those before; see
    `bhlm.likelihood.nested_lattice`. What two lattices of a unit differ by is the error of both.

    Args:
        nodes: the distances of nodes, and where searches for modes begin.
        beta: whitened fixed effects (N, p).
        lam: whitened covariance factors (N, Q, Q), a block of each factor.
        rng: the source of the random numbers.
    """
    white, count = nodes.white, len(beta)
    total, q = sum(white.counts), white.sizes[-1]
    luck = rng.uniform(size=(count, total, 1 + MOST))
    noise = rng.uniform(size=(count, white.counts[-1], 1 + q))
    logliks, draws = np.zeros((count, white.counts[0])), np.zeros((count, total, MOST))
    errors = np.zeros(count)
    draw_units(
        pack_nest(nodes, white.spans), np.ascontiguousarray(beta), np.ascontiguousarray(lam),
        luck, noise, logliks, draws, errors,
    )  # fmt: skip
    heights = np.add.reduceat(nodes.reference.heights, white.bounds[0][:-1])
    spans = pairwise(np.cumsum([0, *white.counts]))
    v = tuple(
        draws[:, start:stop, :size] for (start, stop), size in zip(spans, white.sizes, strict=True)
    )
    return DrawnUnits(v, logliks + heights, errors)
