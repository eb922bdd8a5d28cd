"""Kernels of Laplace's approximation with any grouping factors: one eliminated, a dense rest.

Given beta and the lam_f, the effects of all units are v ~ N(0, I), and eta = eta0 + A v with a row
a_i of A for each pattern: z_f lam_f at its unit of each factor f. The log-integrand

    f(v) = sum_i l_i(eta_i) - v'v / 2

is concave, with minus its second derivative H = I + A'WA, W = -l''. The units of one factor, that
with the most levels, meet in no pattern: their part D of H is block-diagonal, K = D^-1, and with C
their products with the R columns of the other factors, B = K C, S = E - C'B is factored by LAPACK.
It is the elimination of `bhlm.likelihood.crossed`, with weights that change at every step. Source:
Bates, Maechler, Bolker & Walker (2015), J. Stat. Softw. 67(1), section 4, for the blocks.
"""

import math
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel
from bhlm.likelihood.densities import LOG, LOGIT, PROBIT, RELATIVE, contribute, normal_tail

Array = np.ndarray


class Arranged(NamedTuple):
    """How the patterns, in the order of the eliminated factor's units, meet the other factors'."""

    starts: Array  # (J + 1,) where the patterns of each eliminated unit begin
    tail: Array  # (I, r) which of the R columns of the rest each pattern has
    local: Array  # (I, r) the same among those that its eliminated unit meets
    meets: Array  # (M,) the columns of the rest that each eliminated unit meets, ascending
    spans: Array  # (J + 1,) where these begin


@kernel
def bend_slope(link: int, eta: float, n: float, y: float) -> float:
    """Return the derivative by eta of a pattern's minus second derivative, -l'''."""
    link %= RELATIVE
    if link == LOGIT:
        e = math.exp(-abs(eta))
        bend = n * e / ((1.0 + e) * (1.0 + e))
        tilt = (e - 1.0) / (1.0 + e)  # 1 - 2 mu where eta is positive
        return bend * tilt if eta >= 0.0 else -bend * tilt
    if link == LOG:
        return n * math.exp(eta)
    value = 0.0
    if link == PROBIT:
        if y > 0.0:
            _, ratio = normal_tail(eta)
            value += y * ratio * (1.0 - (ratio + eta) * (2.0 * ratio + eta))
        if y < n:
            _, ratio = normal_tail(-eta)
            value -= (n - y) * ratio * (1.0 - (ratio - eta) * (2.0 * ratio - eta))
        return value
    e = math.exp(eta)
    if y > 0.0:
        if e < 1e-9:
            value += y * 0.5 * e
        elif e < 700.0:
            share = e / -math.expm1(-e)
            ratio = e / math.expm1(e)
            value += y * ratio * (share * (1.0 - ratio) - (share - 1.0) * (share - 1.0))
    if y < n:
        value += (n - y) * e
    return value


@kernel
def bend_slopes(link: int, eta: Array, n: Array, y: Array, out: Array) -> None:
    """Write `bend_slope` of patterns (I,) into `out` (I,)."""
    for i in range(len(eta)):
        out[i] = bend_slope(link, eta[i], n[i], y[i])


@kernel
def add_effects(at: Arranged, a: Array, v: Array, q: int, out: Array) -> None:
    """Add A v to `out` (I,); v (J q + R,) are the eliminated effects and then the rest."""
    J = len(at.starts) - 1
    head = J * q
    for j in range(J):
        for i in range(at.starts[j], at.starts[j + 1]):
            value = 0.0
            for d in range(q):
                value += a[i, d] * v[j * q + d]
            for d in range(at.tail.shape[1]):
                value += a[i, q + d] * v[head + at.tail[i, d]]
            out[i] += value


@kernel
def gather_effects(at: Arranged, a: Array, slope: Array, q: int, out: Array) -> None:
    """Add A'slope to `out` (J q + R,)."""
    J = len(at.starts) - 1
    head = J * q
    for j in range(J):
        for i in range(at.starts[j], at.starts[j + 1]):
            for d in range(q):
                out[j * q + d] += a[i, d] * slope[i]
            for d in range(at.tail.shape[1]):
                out[head + at.tail[i, d]] += a[i, q + d] * slope[i]


@kernel
def _invert(block: Array, root: Array, out: Array) -> float:
    """Write the inverse of a positive definite matrix into `out`, and return its log det."""
    q = len(block)
    logdet = 0.0
    for i in range(q):
        for j in range(i + 1):
            value = block[i, j]
            for k in range(j):
                value -= root[i, k] * root[j, k]
            if i == j:
                root[i, i] = math.sqrt(value)
                logdet += math.log(value)
            else:
                root[i, j] = value / root[j, j]
    for c in range(q):
        for i in range(q):
            value = 1.0 if i == c else 0.0
            for k in range(i):
                value -= root[i, k] * out[k, c]
            out[i, c] = value / root[i, i]
        for i in range(q - 1, -1, -1):
            value = out[i, c]
            for k in range(i + 1, q):
                value -= root[k, i] * out[k, c]
            out[i, c] = value / root[i, i]
    return logdet


@kernel
def eliminate(
    at: Arranged, a: Array, bend: Array, q: int, inner: Array, across: Array, rest: Array
) -> float:
    """Write K (J, q, q), B (q, M) and S (R, R), lower triangle; return sum log |D_j|."""
    J, r = len(at.starts) - 1, at.tail.shape[1]
    block, root = np.empty((q, q)), np.zeros((q, q))
    widest = 0
    for j in range(J):
        widest = max(widest, at.spans[j + 1] - at.spans[j])
    cross = np.empty((q, widest))
    rest[:] = 0.0
    for c in range(len(rest)):
        rest[c, c] = 1.0
    logdet = 0.0
    for j in range(J):
        first, width = at.spans[j], at.spans[j + 1] - at.spans[j]
        block[:] = 0.0
        cross[:, :width] = 0.0
        for d in range(q):
            block[d, d] = 1.0
        for i in range(at.starts[j], at.starts[j + 1]):
            for d in range(q):
                weighted = bend[i] * a[i, d]
                for e in range(q):
                    block[d, e] += weighted * a[i, e]
                for e in range(r):
                    cross[d, at.local[i, e]] += weighted * a[i, q + e]
            for d in range(r):
                weighted = bend[i] * a[i, q + d]
                row = at.tail[i, d]
                for e in range(r):
                    if at.tail[i, e] <= row:
                        rest[row, at.tail[i, e]] += weighted * a[i, q + e]
        logdet += _invert(block, root, inner[j])
        for d in range(q):
            for c in range(width):
                value = 0.0
                for e in range(q):
                    value += inner[j, d, e] * cross[e, c]
                across[d, first + c] = value
        for c in range(width):
            row = at.meets[first + c]
            for b in range(c + 1):
                value = 0.0
                for d in range(q):
                    value += cross[d, c] * across[d, first + b]
                rest[row, at.meets[first + b]] -= value
    return logdet


@kernel
def push_down(at: Arranged, inner: Array, across: Array, right: Array, out: Array) -> None:
    """Write K right_0 and right_r - B'right_0 into `out` (J q + R,), of H x = right."""
    J, q = len(at.starts) - 1, inner.shape[1]
    head = J * q
    out[head:] = right[head:]
    for j in range(J):
        for d in range(q):
            value = 0.0
            for e in range(q):
                value += inner[j, d, e] * right[j * q + e]
            out[j * q + d] = value
        for c in range(at.spans[j], at.spans[j + 1]):
            value = 0.0
            for d in range(q):
                value += across[d, c] * right[j * q + d]
            out[head + at.meets[c]] -= value


@kernel
def pull_up(at: Arranged, across: Array, q: int, out: Array) -> None:
    """Take B x_r off the eliminated effects in `out` (J q + R,), of which x_r stand at the end."""
    J = len(at.starts) - 1
    head = J * q
    for j in range(J):
        for c in range(at.spans[j], at.spans[j + 1]):
            value = out[head + at.meets[c]]
            for d in range(q):
                out[j * q + d] -= across[d, c] * value


@kernel
def solve_own(
    at: Arranged,
    a: Array,
    inner: Array,
    across: Array,
    inverse: Array,
    own: Array,
    covs: Array,
) -> None:
    """Write what each pattern has of H^-1 a_i at its own units into `own` (I, q + r).

    And K + B S^-1 B' of every eliminated unit into `covs` (J, q, q). `inverse` is S^-1 (R, R),
    both triangles.
    """
    J, q, r = len(at.starts) - 1, inner.shape[1], at.tail.shape[1]
    widest = 0
    for j in range(J):
        widest = max(widest, at.spans[j + 1] - at.spans[j])
    lean = np.empty((q, widest))
    for j in range(J):
        first, width = at.spans[j], at.spans[j + 1] - at.spans[j]
        for d in range(q):
            for c in range(width):
                value = 0.0
                for b in range(width):
                    value += (
                        across[d, first + b] * inverse[at.meets[first + b], at.meets[first + c]]
                    )
                lean[d, c] = value
        for d in range(q):
            for e in range(q):
                value = inner[j, d, e]
                for c in range(width):
                    value += lean[d, c] * across[e, first + c]
                covs[j, d, e] = value
        for i in range(at.starts[j], at.starts[j + 1]):
            for d in range(q):
                value = 0.0
                for e in range(q):
                    value += covs[j, d, e] * a[i, e]
                for e in range(r):
                    value -= lean[d, at.local[i, e]] * a[i, q + e]
                own[i, d] = value
            for d in range(r):
                value = 0.0
                for e in range(q):
                    value -= lean[e, at.local[i, d]] * a[i, e]
                for e in range(r):
                    value += inverse[at.tail[i, d], at.tail[i, e]] * a[i, q + e]
                own[i, q + d] = value


@kernel
def sum_draws(
    link: int,
    at: Arranged,
    a: Array,
    eta: Array,
    n: Array,
    y: Array,
    peak: Array,
    v: Array,
    q: int,
    moved: Array,
) -> float:
    """Return f(v), where `eta` (I,) is that of v = 0; `moved` (I,) is room to work."""
    moved[:] = eta
    add_effects(at, a, v, q, moved)
    value = 0.0
    for i in range(len(eta)):
        value += contribute(link, moved[i], n[i], y[i], peak[i])[0]
    for d in range(len(v)):
        value -= 0.5 * v[d] * v[d]
    return value
