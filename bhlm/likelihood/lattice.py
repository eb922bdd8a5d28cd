"""Integrals over the random effects of each group, on a lattice about its mode.

With eta_i = eta0_i + z_i' lam v and v ~ N(0, I) a priori, the integrand exp f(v) of a group is
log-concave. Take the mode v^ and H = C C', minus the second derivative there, and the lattice
v^ + h C'^-1 k, k whole: the sum of exp f over it, times h^q / |C|, is the trapezoidal rule. Of an
analytic integrand that dies off as a normal density does, its error falls exponentially in 1 / h,
whatever the skewness, and halving h measures it; Gauss-Hermite rules need more nodes the less
normal the integrand is, and have no such measure. Since the set of v where f is within a distance
of its peak is convex, lines of nodes are followed until they leave it. Source: Trefethen & Weideman
(2014), SIAM Review 56, 385-458, section 5.

The sum does not depend on where the lattice lies, but for that same error. So a node that is taken
in proportion to exp f from a lattice moved by a uniform share of its cell is a draw from the
group's posterior of v: whatever the shift, v has the density exp f(v) / (the sum h^q / |C|), and
the sum is the integral.

The same nodes give the exact derivatives: by Fisher's identity the score is the posterior mean of
that of the patterns and the effects together, and by Louis' identity the information is the mean of
theirs less the variance of their score. Source: Louis (1982), J. R. Stat. Soc. B 44, 226-233.
"""

import math
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.densities import LOG, LOGIT, RELATIVE, contribute, depart, find_share

Array = np.ndarray

NEWTON_STEPS = 100
# What is left to gain at a mode, in units of the log-likelihood: the curvature there, on which a
# fixed rule rests, is then good to 1e-11. A lattice may lie anywhere.
DECREMENT = 1e-22
NEAR = 1e-4  # for a lattice
LOST = 1.0  # a search that ends with more to gain has not come near the mode
DEPTH = 34.0  # nodes are left out where f is so far below its peak: exp(-34) = 2e-15
SCORE, INFORMATION = 1, 2  # derivatives that are wanted
LARGE = 1e150  # of a product, before its logarithm is taken
WIDTH = 4  # nodes of a line that are taken together, so that the innermost loops are over nodes


class Rows(NamedTuple):
    """The patterns of all groups, one after the other, at one set of parameters."""

    link: int  # see `bhlm.likelihood.densities.Reference`
    starts: Array  # (J + 1,) where each group's patterns begin
    n: Array  # (I,) trials or exposure
    y: Array  # (I,) successes or events
    peak: Array  # (I,) what log-likelihoods are relative to, nan where they are not
    x: Array  # (I, p)
    z: Array  # (I, q)
    sign: Array  # (I,) 1 where most trials are successes, else -1
    slack: Array  # (I,) y where the sign is -1, else y - n: the part of a pattern linear in eta
    eta: Array  # (I,) offset + x beta
    a: Array  # (I, q) z lam


class Sums(NamedTuple):
    """What the nodes of one group add up to, and room to work."""

    slope: Array  # (M,) of each pattern at a node
    bend: Array  # (M,)
    growth: Array  # (M,) the factor of `power` along a line of nodes
    # (M,) exp(-sign eta) of the logit, exp(eta) of the log link, at the next node; of `RELATIVE`
    # links the share at the mode, for `depart`
    power: Array
    origin: Array  # (M,) the same where the line begins; of `RELATIVE` links eta at the mode
    drift: Array  # (1 + q,) sum of slack eta0, and of slack a
    values: Array  # (WIDTH,) f at some nodes
    weights: Array  # (WIDTH,) exp of f, less the peak
    slopes: Array  # (M, WIDTH) of each pattern there; before that the powers
    bends: Array  # (M, WIDTH)
    tilts: Array  # (p + q, WIDTH) sums of slope x and slope z there
    # (M, 3) weighted bend of each pattern along a line, times 1, v[0], v[0]^2; for scores alone
    # the weighted slope, times 1, v[0]
    line: Array
    total: Array  # (2,) weights, nodes
    mean: Array  # (q,) weighted v
    square: Array  # (q, q) weighted v v'
    first: Array  # (m,) weighted score, of beta and of lam's elements row by row: m = p + q^2
    second: Array  # (m, m) weighted score score'
    curve: Array  # (M, 1 + q + q^2) the same of all lines, times 1, v, v v'
    score: Array  # (m,) at a node
    point: Array  # (q,) the node
    base: Array  # (q,) where the line of nodes begins
    start: Array  # (q,) where the next line begins
    mode: Array  # (q,)
    pick: Array  # (1,) the weight up to which `chosen` follows the nodes; below 0 it does not
    chosen: Array  # (q,)


@kernel
def _allocate(longest: int, p: int, q: int) -> Sums:
    """Return room for groups of up to so many patterns."""
    m = p + q * q
    return Sums(
        np.empty(longest), np.empty(longest), np.empty(longest), np.empty(longest),
        np.empty(longest), np.empty(1 + q), np.empty(WIDTH), np.empty(WIDTH),
        np.empty((longest, WIDTH)), np.empty((longest, WIDTH)), np.empty((p + q, WIDTH)),
        np.empty((longest, 3)), np.empty(2), np.empty(q), np.empty((q, q)), np.empty(m),
        np.empty((m, m)), np.empty((longest, 1 + q + q * q)), np.empty(m), np.empty(q),
        np.empty(q), np.empty(q), np.empty(q), np.full(1, -1.0), np.empty(q),
    )  # fmt: skip


class Integrated(NamedTuple):
    """What is written by `integrate`; `loglik` is read too where draws are taken."""

    loglik: Array  # (J,)
    mean: Array  # (J, q) posterior mean of v
    cov: Array  # (J, q, q) posterior covariance of v
    score: Array  # (J, m) by beta and lam, row by row
    nodes: Array  # (J,)
    draw: Array  # (J, q) of v, where draws are taken


@kernel
def _visit(rows: Rows, lo: int, hi: int, v: Array, slope: Array, bend: Array) -> float:
    """Return f(v) of the group with patterns lo to hi, and write each pattern's derivatives."""
    q = len(v)
    value, product = 0.0, 1.0
    for d in range(q):
        value -= 0.5 * v[d] * v[d]
    for i in range(lo, hi):
        eta = rows.eta[i]
        for d in range(q):
            eta += rows.a[i, d] * v[d]
        n, y = rows.n[i], rows.y[i]
        if rows.link == LOGIT:
            # As `contribute`, with one logarithm for many patterns.
            e = math.exp(-abs(eta))
            share = 1.0 / (1.0 + e)
            mu = share if eta >= 0.0 else e * share
            value += (y - n) * eta if eta >= 0.0 else y * eta
            slope[i - lo] = y - n * mu
            bend[i - lo] = n * e * share * share
            if n == 1.0:
                product *= 1.0 + e
                if product > LARGE:
                    value -= math.log(product)
                    product = 1.0
            else:
                value -= n * math.log1p(e)
        else:
            own, slope[i - lo], bend[i - lo] = contribute(rows.link, eta, n, y, rows.peak[i])
            value += own
    value -= math.log(product)
    return -np.inf if np.isnan(value) else value


@kernel
def factor_curvature(
    rows: Rows, lo: int, hi: int, v: Array, slope: Array, bend: Array, root: Array, step: Array
) -> float:
    """Write C (q, q) of H = C C' and Newton's step (q,) at v, and return its decrement."""
    q = len(v)
    for d in range(q):
        step[d] = -v[d]
        for e in range(d + 1):
            root[d, e] = 1.0 if d == e else 0.0
    for i in range(lo, hi):
        for d in range(q):
            step[d] += slope[i - lo] * rows.a[i, d]
            for e in range(d + 1):
                root[d, e] += bend[i - lo] * rows.a[i, d] * rows.a[i, e]
    decrement = 0.0
    for d in range(q):
        for e in range(d + 1):
            entry = root[d, e]
            for k in range(e):
                entry -= root[d, k] * root[e, k]
            root[d, e] = math.sqrt(entry) if d == e else entry / root[e, e]
        for k in range(d):
            step[d] -= root[d, k] * step[k]
        step[d] /= root[d, d]
        decrement += step[d] * step[d]
    for d in range(q - 1, -1, -1):
        for k in range(d + 1, q):
            step[d] -= root[k, d] * step[k]
        step[d] /= root[d, d]
    return decrement


@kernel
def find_mode(
    rows: Rows, lo: int, hi: int, v: Array, slope: Array, bend: Array, root: Array, enough: float
) -> float:
    """Move v (q,) to the mode of f, write C (q, q) of H = C C' there, and return f.

    The search ends where no more than `enough` is left to gain. It returns -inf where it does not
    come near the mode: Newton's steps down an exponential of some hundreds are of one unit each.
    """
    q = len(v)
    decrement = np.inf
    step, trial = np.empty(q), np.empty(q)
    value = _visit(rows, lo, hi, v, slope, bend)
    if not value > -np.inf:
        v[:] = 0.0
        value = _visit(rows, lo, hi, v, slope, bend)
    for _ in range(NEWTON_STEPS):
        decrement = factor_curvature(rows, lo, hi, v, slope, bend, root, step)
        if not decrement > enough:
            break
        share = 1.0
        while share > 1e-12:
            for d in range(q):
                trial[d] = v[d] + share * step[d]
            found = _visit(rows, lo, hi, trial, slope, bend)
            if found >= value + 1e-4 * share * decrement or share * decrement < 1e-11:
                break
            share *= 0.5
        for d in range(q):
            v[d] = trial[d]
        value = found
    return value if decrement < LOST else -np.inf


@kernel
def _value_nodes(
    link: int,
    count: int,
    n: Array,
    y: Array,
    eta: Array,
    a: Array,
    origin: Array,
    growth: Array,
    power: Array,
    slopes: Array,
    bends: Array,
    values: Array,
    level: float,
    drift: float,
    v0: float,
    step: float,
    mode: float,
) -> None:
    """Write f at WIDTH nodes of a line, v0, v0 + step, ..., to `values`.

    Of logit and log link the powers there go to `slopes`, and `power` moves on; of other links
    slopes and bends are written. The four nodes are written out, as they stay in registers then.

    Args:
        link: of the family.
        count: the patterns M of the group.
        n: (M,) trials or exposure.
        y: (M,) successes or events.
        eta: (M,) at a line's v[1:], for links without powers; less that at the mode if `RELATIVE`.
        a: (M,) what eta grows by with v[0].
        origin: (M,) see `Sums`.
        growth: (M,) factors of the powers from node to node.
        power: (M,) at the first node.
        slopes: (M, WIDTH) that are written.
        bends: (M, WIDTH) that are written.
        values: (WIDTH,) that are written.
        level: f without the patterns at v[0] = 0, but for what is curved.
        drift: what that grows by with v[0].
        v0: the first node's v[0].
        step: from node to node.
        mode: v[0] of the mode.
    """
    v1, v2, v3 = v0 + step, v0 + 2.0 * step, v0 + 3.0 * step
    f0 = level + v0 * (drift - 0.5 * v0)
    f1 = level + v1 * (drift - 0.5 * v1)
    f2 = level + v2 * (drift - 0.5 * v2)
    f3 = level + v3 * (drift - 0.5 * v3)
    if link in (LOGIT, LOG):
        r0 = r1 = r2 = r3 = 1.0
        for i in range(count):
            own, factor, a0 = n[i], growth[i], power[i]
            a1 = a0 * factor
            a2 = a1 * factor
            a3 = a2 * factor
            power[i] = a3 * factor
            slopes[i, 0], slopes[i, 1], slopes[i, 2], slopes[i, 3] = a0, a1, a2, a3
            if link == LOG:
                f0 -= own * a0
                f1 -= own * a1
                f2 -= own * a2
                f3 -= own * a3
            elif own == 1.0:
                r0 *= 1.0 + a0
                r1 *= 1.0 + a1
                r2 *= 1.0 + a2
                r3 *= 1.0 + a3
                # Powers grow or shrink along a line.
                if r0 > LARGE or r3 > LARGE:
                    f0 -= math.log(r0)
                    f1 -= math.log(r1)
                    f2 -= math.log(r2)
                    f3 -= math.log(r3)
                    r0 = r1 = r2 = r3 = 1.0
            else:
                f0 -= own * math.log1p(a0)
                f1 -= own * math.log1p(a1)
                f2 -= own * math.log1p(a2)
                f3 -= own * math.log1p(a3)
        if link == LOGIT:
            f0 -= math.log(r0)
            f1 -= math.log(r1)
            f2 -= math.log(r2)
            f3 -= math.log(r3)
        values[0], values[1], values[2], values[3] = f0, f1, f2, f3
    else:
        values[0], values[1], values[2], values[3] = f0, f1, f2, f3
        for i in range(count):
            for c in range(WIDTH):
                if link >= RELATIVE:
                    here = eta[i] + a[i] * (v0 + c * step - mode)
                    own, slopes[i, c], bends[i, c] = depart(
                        link - RELATIVE, here, n[i], y[i], origin[i], power[i]
                    )
                else:
                    here = eta[i] + a[i] * (v0 + c * step)
                    own, slopes[i, c], bends[i, c] = contribute(link, here, n[i], y[i], np.nan)
                values[c] += own
    for c in range(WIDTH):
        if np.isnan(values[c]):
            values[c] = -np.inf


@kernel
def _add_nodes(
    link: int,
    derivatives: int,
    count: int,
    n: Array,
    y: Array,
    sign: Array,
    slack: Array,
    x: Array,
    z: Array,
    slopes: Array,
    bends: Array,
    weights: Array,
    line: Array,
    tilts: Array,
    v0: float,
    step: float,
) -> None:
    """Add the derivatives at WIDTH nodes to `line`, and write each node's scores to `tilts`.

    Args:
        link: of the family.
        derivatives: those that are wanted.
        count: the patterns M of the group.
        n: (M,) trials or exposure.
        y: (M,) successes or events.
        sign: (M,) see `Rows`.
        slack: (M,) see `Rows`.
        x: (M, p).
        z: (M, q).
        slopes: (M, WIDTH) as `_value_nodes` wrote them.
        bends: (M, WIDTH) likewise.
        weights: (WIDTH,) zero of nodes that are left out.
        line: (M, 3) what is added to.
        tilts: (p + q, WIDTH) that are written.
        v0: the first node's v[0].
        step: from node to node.
    """
    p, q = x.shape[1], z.shape[1]
    for c in range(WIDTH):
        if weights[c] == 0.0:  # where powers may be infinite
            for i in range(count):
                slopes[i, c] = bends[i, c] = 0.0
    for a in range(p + q):
        for c in range(WIDTH):
            tilts[a, c] = 0.0
    v1, v2, v3 = v0 + step, v0 + 2.0 * step, v0 + 3.0 * step
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for i in range(count):
        own = n[i]
        s0, s1, s2, s3 = slopes[i, 0], slopes[i, 1], slopes[i, 2], slopes[i, 3]
        b0 = b1 = b2 = b3 = 0.0
        if link == LOG:
            b0, b1, b2, b3 = own * s0, own * s1, own * s2, own * s3
            at = y[i]
            s0, s1, s2, s3 = at - b0, at - b1, at - b2, at - b3
        elif link == LOGIT:
            h0, h1, h2, h3 = 1.0 / (1.0 + s0), 1.0 / (1.0 + s1), 1.0 / (1.0 + s2), 1.0 / (1.0 + s3)
            s0, s1, s2, s3 = own * s0 * h0, own * s1 * h1, own * s2 * h2, own * s3 * h3
            b0, b1, b2, b3 = s0 * h0, s1 * h1, s2 * h2, s3 * h3
            at, turn = slack[i], sign[i]
            s0, s1, s2, s3 = at + turn * s0, at + turn * s1, at + turn * s2, at + turn * s3
        else:
            b0, b1, b2, b3 = bends[i, 0], bends[i, 1], bends[i, 2], bends[i, 3]
        if derivatives == SCORE:
            b0, b1, b2, b3 = s0, s1, s2, s3
        b0 *= w0
        b1 *= w1
        b2 *= w2
        b3 *= w3
        line[i, 0] += (b0 + b1) + (b2 + b3)
        b0 *= v0
        b1 *= v1
        b2 *= v2
        b3 *= v3
        line[i, 1] += (b0 + b1) + (b2 + b3)
        if derivatives == INFORMATION:
            line[i, 2] += (b0 * v0 + b1 * v1) + (b2 * v2 + b3 * v3)
            for a in range(p):
                loading = x[i, a]
                tilts[a, 0] += s0 * loading
                tilts[a, 1] += s1 * loading
                tilts[a, 2] += s2 * loading
                tilts[a, 3] += s3 * loading
            for d in range(q):
                loading = z[i, d]
                tilts[p + d, 0] += s0 * loading
                tilts[p + d, 1] += s1 * loading
                tilts[p + d, 2] += s2 * loading
                tilts[p + d, 3] += s3 * loading


@kernel
def _fold_line(count: int, sums: Sums, derivatives: int) -> None:
    """Add to `curve` what the nodes added to `line`, and empty that."""
    q, point, line = len(sums.point), sums.point, sums.line
    for i in range(count):
        plain, tilted, squared = line[i, 0], line[i, 1], line[i, 2]
        line[i, 0] = line[i, 1] = line[i, 2] = 0.0
        curve = sums.curve[i]
        curve[0] += plain
        curve[1] += tilted
        for e in range(1, q):
            curve[1 + e] += plain * point[e]
        if derivatives != INFORMATION:
            continue
        square = curve[1 + q :]
        square[0] += squared
        for e in range(1, q):
            square[e] += tilted * point[e]
            square[e * q] += tilted * point[e]
            for f in range(1, q):
                square[e * q + f] += plain * point[e] * point[f]


@kernel
def _prepare_line(rows: Rows, lo: int, hi: int, sums: Sums, first: int, net: Array) -> None:
    """Write the node (q,) `sums.point` that is `first` steps along a line, and `origin` there.

    Of links without powers `slope` becomes eta at the line's v[1:].
    """
    q = len(sums.point)
    for d in range(q):
        sums.point[d] = sums.base[d] + first * net[d, 0]
    geometric, is_relative = rows.link in (LOGIT, LOG), rows.link >= RELATIVE
    for i in range(lo, hi):
        eta = 0.0 if is_relative else rows.eta[i]
        for d in range(0 if geometric else 1, q):
            v = sums.point[d] - sums.mode[d] if is_relative else sums.point[d]
            eta += rows.a[i, d] * v
        if geometric:
            sums.origin[i - lo] = math.exp(eta if rows.link == LOG else -rows.sign[i] * eta)
        else:
            sums.slope[i - lo] = eta


@kernel
def _prepare_group(rows: Rows, lo: int, hi: int, sums: Sums, net: Array) -> None:
    """Write `growth` and `drift` of a group; of `RELATIVE` links `origin` and `power` at the mode.

    Their f is less that at the mode.
    """
    q = len(sums.point)
    sums.drift[:] = 0.0
    if rows.link >= RELATIVE:
        for d in range(q):
            sums.drift[0] += 0.5 * sums.mode[d] * sums.mode[d]
        for i in range(lo, hi):
            eta = rows.eta[i]
            for d in range(q):
                eta += rows.a[i, d] * sums.mode[d]
            sums.origin[i - lo] = eta
            sums.power[i - lo] = find_share(rows.link - RELATIVE, eta, rows.n[i])
    if rows.link not in (LOGIT, LOG):
        return
    for i in range(lo, hi):
        slack = rows.y[i] if rows.link == LOG else rows.slack[i]
        sums.drift[0] += slack * rows.eta[i]
        step = 0.0
        for d in range(q):
            sums.drift[1 + d] += slack * rows.a[i, d]
            step += rows.a[i, d] * net[d, 0]
        sums.growth[i - lo] = math.exp(step if rows.link == LOG else -rows.sign[i] * step)


@kernel
def _scan_line(
    rows: Rows, lo: int, hi: int, sums: Sums, net: Array, peak: float, derivatives: int
) -> float:
    """Add the nodes base + k net[:, 0] of a line; return the largest f, `start[0]` is its k.

    Of v, only the first coordinate changes along a line. There exp(eta) grows by a factor per node,
    so that logit and log link need no exponential, and of rows of 0 and 1 one logarithm is enough.
    """
    q, p, size, m = len(sums.point), rows.x.shape[1], hi - lo, len(sums.score)
    first, span, link = int(sums.start[0]), net[0, 0], rows.link
    geometric = link in (LOGIT, LOG)
    # Everything has a name outside of the loops: to take an array from a tuple counts a reference.
    n, y, sign, slack = rows.n[lo:hi], rows.y[lo:hi], rows.sign[lo:hi], rows.slack[lo:hi]
    x, z, a = rows.x[lo:hi], rows.z[lo:hi], rows.a[lo:hi, 0]
    values, weights, slopes, bends = sums.values, sums.weights, sums.slopes, sums.bends
    power, growth, origin, eta, line = sums.power, sums.growth, sums.origin, sums.slope, sums.line
    tilts, score, point, mean, square = sums.tilts, sums.score, sums.point, sums.mean, sums.square
    ones, pairs, total, chosen = sums.first, sums.second, sums.total, sums.chosen
    pick, middle, mode = sums.pick[0], sums.base[0], sums.mode[0]
    best, at, begin = -np.inf, first, -np.inf
    _prepare_line(rows, lo, hi, sums, first, net)
    level, drift = sums.drift[0], sums.drift[1]
    for d in range(1, q):
        level += point[d] * (sums.drift[1 + d] - 0.5 * point[d])
    for turn in range(2):
        side = 1 if turn == 0 else -1
        last = begin
        k = first if turn == 0 else first - 1
        if geometric:
            for i in range(size):
                power[i] = origin[i]
                if turn == 1:
                    growth[i] = 1.0 / growth[i]
                    power[i] *= growth[i]
        is_open = True
        while is_open:
            v, step = middle + k * span, side * span
            _value_nodes(
                link, size, n, y, eta, a, origin, growth, power, slopes, bends, values, level,
                drift, v, step, mode,
            )  # fmt: skip
            is_near = False
            for c in range(WIDTH):
                f = values[c]
                weights[c] = 0.0
                if not is_open:
                    continue
                if f > peak - DEPTH:
                    is_near = True
                    weight = math.exp(f - peak)
                    weights[c] = weight
                    point[0] = v + c * step
                    if total[0] <= pick:
                        for d in range(q):
                            chosen[d] = point[d]
                    total[0] += weight
                    total[1] += 1.0
                    for d in range(q):
                        mean[d] += weight * point[d]
                        for e in range(d + 1):
                            square[d, e] += weight * point[d] * point[e]
                if f > best:
                    best, at = f, k + side * c
                if k + side * c == first:
                    begin = f
                elif f < peak - DEPTH and not f > last:
                    is_open = False
                last = f
            if is_near and derivatives > 0:
                _add_nodes(
                    link, derivatives, size, n, y, sign, slack, x, z, slopes, bends, weights, line,
                    tilts, v, step,
                )  # fmt: skip
            if is_near and derivatives == INFORMATION:
                for c in range(WIDTH):
                    weight = weights[c]
                    if weight == 0.0:
                        continue
                    for b in range(p):
                        score[b] = tilts[b, c]
                    point[0] = v + c * step
                    for d in range(q):
                        for e in range(q):
                            score[p + d * q + e] = tilts[p + d, c] * point[e]
                    for b in range(m):
                        own = weight * score[b]
                        ones[b] += own
                        for other in range(b + 1):
                            pairs[b, other] += own * score[other]
            k += side * WIDTH
    if geometric:
        for i in range(size):
            growth[i] = 1.0 / growth[i]
    if derivatives > 0:
        _fold_line(size, sums, derivatives)
    sums.start[0] = at
    return best


@light_kernel
def _scan_plane(
    rows: Rows, lo: int, hi: int, sums: Sums, net: Array, peak: float, derivatives: int
) -> float:
    """Add the lines of a plane; return the largest f, `start[:2]` are its k."""
    q = len(sums.point)
    base = sums.base.copy()
    first = int(sums.start[1])
    best, at, along = -np.inf, first, sums.start[0]
    begin, here = -np.inf, sums.start[0]
    for side in range(2):
        last = begin
        k = first if side == 0 else first - 1
        if side == 1:
            sums.start[0] = here
        while True:
            for d in range(q):
                sums.base[d] = base[d] + k * net[d, 1]
            f = _scan_line(rows, lo, hi, sums, net, peak, derivatives)
            if f > best:
                best, at, along = f, k, sums.start[0]
            if k == first:
                begin, here = f, sums.start[0]
            elif f < peak - DEPTH and not f > last:
                break
            last = f
            k += 1 if side == 0 else -1
    for d in range(q):
        sums.base[d] = base[d]
    sums.start[0], sums.start[1] = along, at
    return best


@light_kernel
def _scan_space(
    rows: Rows, lo: int, hi: int, sums: Sums, net: Array, peak: float, derivatives: int
) -> None:
    """Add the planes of a space."""
    q = len(sums.point)
    base = sums.base.copy()
    begin, here, there = -np.inf, sums.start[0], sums.start[1]
    for side in range(2):
        last = begin
        k = 0 if side == 0 else -1
        if side == 1:
            sums.start[0], sums.start[1] = here, there
        while True:
            for d in range(q):
                sums.base[d] = base[d] + k * net[d, 2]
            f = _scan_plane(rows, lo, hi, sums, net, peak, derivatives)
            if k == 0:
                begin, here, there = f, sums.start[0], sums.start[1]
            elif f < peak - DEPTH and not f > last:
                break
            last = f
            k += 1 if side == 0 else -1
    for d in range(q):
        sums.base[d] = base[d]


@kernel
def _subtract_information(rows: Rows, lo: int, hi: int, sums: Sums, information: Array) -> None:
    """Add a group's observed information (m, m) by beta and lam to the lower triangle."""
    q, p = rows.z.shape[1], rows.x.shape[1]
    m = p + q * q
    whole = sums.total[0]
    for k in range(m):
        for other in range(k + 1):
            product = sums.first[k] * sums.first[other] / whole
            information[k, other] -= (sums.second[k, other] - product) / whole
    for i in range(lo, hi):
        curve = sums.curve[i - lo]
        for k in range(p):
            own = rows.x[i, k] * curve[0] / whole
            for other in range(k + 1):
                information[k, other] += own * rows.x[i, other]
        for d in range(q):
            for e in range(q):
                own = rows.z[i, d] * curve[1 + e] / whole
                for k in range(p):
                    information[p + d * q + e, k] += own * rows.x[i, k]
                for f in range(d + 1):
                    for g in range(e + 1 if f == d else q):
                        information[p + d * q + e, p + f * q + g] += (
                            rows.z[i, d] * rows.z[i, f] * curve[1 + q + e * q + g] / whole
                        )


@kernel
def integrate(
    rows: Rows,
    modes: Array,
    steps: Array,
    members: Array,
    derivatives: int,
    out: Integrated,
    information: Array,
    noise: Array,
) -> None:
    """Integrate over the random effects of some groups, or draw these.

    Args:
        rows: the patterns.
        modes: (J, q) where the search for each mode begins, and where it is found.
        steps: (J,) h, the distance of nodes in posterior SDs.
        members: which groups.
        derivatives: 0 for none, `SCORE` for scores, `INFORMATION` for scores and information.
        out: what is written.
        information: (m, m), to which the groups' is added, in the lower triangle.
        noise: (J, 1 + q) uniform numbers, for draws; (0, 1 + q) for none. With them each lattice
            is moved, and `out.loglik` is read first: the log-likelihoods by lattices at the modes.
    """
    q, p = rows.z.shape[1], rows.x.shape[1]
    m = p + q * q
    longest = 0
    for j in members:
        longest = max(longest, rows.starts[j + 1] - rows.starts[j])
    sums = _allocate(longest, p, q)
    root, net = np.zeros((q, q)), np.zeros((q, q))
    for j in members:
        lo, hi = rows.starts[j], rows.starts[j + 1]
        peak = find_mode(rows, lo, hi, modes[j], sums.slope, sums.bend, root, NEAR)
        if not (np.isfinite(peak) and np.isfinite(root.sum())):
            # Far out, where a trajectory diverged: there is no end to nodes that are all alike.
            out.loglik[j] = -np.inf
            continue
        logdet = 0.0
        # net = h C'^-1, upper triangular.
        for d in range(q - 1, -1, -1):
            logdet += math.log(root[d, d])
            for e in range(d, q):
                entry = steps[j] if d == e else 0.0
                for k in range(d + 1, e + 1):
                    entry -= root[k, d] * net[k, e]
                net[d, e] = entry / root[d, d]
        sums.total[:] = 0.0
        sums.mean[:] = 0.0
        sums.square[:] = 0.0
        sums.start[:] = 0.0
        for d in range(q):
            sums.base[d] = sums.mode[d] = modes[j, d]
        # h^q / (|C| (2 pi)^(q / 2)) times the sum.
        scale = q * (math.log(steps[j]) - 0.5 * math.log(2.0 * math.pi))
        if len(noise):
            sums.pick[0] = noise[j, 0] * math.exp(out.loglik[j] - peak - scale + logdet)
            for d in range(q):
                for e in range(d, q):
                    sums.base[d] += net[d, e] * (noise[j, 1 + e] - 0.5)
        _prepare_group(rows, lo, hi, sums, net)
        if derivatives > 0:
            sums.first[:] = 0.0
            sums.second[:] = 0.0
            sums.curve[: hi - lo] = 0.0
            sums.line[: hi - lo] = 0.0
        top = 0.0 if rows.link >= RELATIVE else peak
        if q == 1:
            _scan_line(rows, lo, hi, sums, net, top, derivatives)
        elif q == 2:
            _scan_plane(rows, lo, hi, sums, net, top, derivatives)
        else:
            _scan_space(rows, lo, hi, sums, net, top, derivatives)
        whole = sums.total[0]
        if len(noise):
            for d in range(q):
                out.draw[j, d] = sums.chosen[d]
        out.loglik[j] = peak + math.log(whole) + scale - logdet
        out.nodes[j] = sums.total[1]
        for d in range(q):
            out.mean[j, d] = sums.mean[d] / whole
            for e in range(d + 1):
                entry = sums.square[d, e] / whole - sums.mean[d] * sums.mean[e] / whole**2
                out.cov[j, d, e] = out.cov[j, e, d] = entry
        if derivatives == SCORE:
            for i in range(lo, hi):
                for k in range(p):
                    out.score[j, k] += sums.curve[i - lo, 0] / whole * rows.x[i, k]
                for d in range(q):
                    for e in range(q):
                        tilt = sums.curve[i - lo, 1 + e] / whole
                        out.score[j, p + d * q + e] += tilt * rows.z[i, d]
        elif derivatives == INFORMATION:
            for k in range(m):
                out.score[j, k] = sums.first[k] / whole
            _subtract_information(rows, lo, hi, sums, information)


@kernel
def integrate_fixed(rows: Rows, modes: Array, nodes: Array, logs: Array, loglik: Array) -> None:
    """Write each group's log-likelihood (J,) by a fixed Gauss-Hermite rule about its mode.

    `nodes` (K, q) and `logs` (K,) of the weights are for exp(-t't), less t't: the integral is
    sum_k w_k exp(t_k't_k + f(v^ + sqrt(2) C'^-1 t_k)) 2^(q / 2) / |C|. One node is Laplace's.
    Source: Pinheiro & Bates (1995), J. Comput. Graph. Stat. 4, 12-35, section 2.5.
    """
    q = rows.z.shape[1]
    root, v = np.zeros((q, q)), np.empty(q)
    for j in range(len(rows.starts) - 1):
        lo, hi = rows.starts[j], rows.starts[j + 1]
        slope, bend = np.empty(hi - lo), np.empty(hi - lo)
        peak = find_mode(rows, lo, hi, modes[j], slope, bend, root, DECREMENT)
        if not peak > -np.inf:
            loglik[j] = -np.inf
            continue
        total = 0.0
        for k in range(len(nodes)):
            for d in range(q - 1, -1, -1):
                v[d] = math.sqrt(2.0) * nodes[k, d]
                for e in range(d + 1, q):
                    v[d] -= root[e, d] * v[e]
                v[d] /= root[d, d]
            for d in range(q):
                v[d] += modes[j, d]
            total += math.exp(logs[k] + _visit(rows, lo, hi, v, slope, bend) - peak)
        loglik[j] = peak + math.log(total) - 0.5 * q * math.log(math.pi)
        for d in range(q):
            loglik[j] -= math.log(root[d, d])
