"""Integrals over the random effects of nested units, each inside the one of its parent.

Given the effects of its ancestors, a unit's log-integrand is f(v) = log phi(v) plus the
log-integrals of the units in it; those of the finest units are what `bhlm.likelihood.lattice`
finds. Integrals of log-concave functions are log-concave (Prekopa 1973), so that f has one mode at
every level, and the same trapezoidal rule about it serves: a lattice v^ + h C'^-1 k, with the
integrals within found anew at each node. Halving the h of every level measures the error of all.

The derivatives go the same way. By Louis' identity a log-integral has the gradient E[s] and the
information E[J] - Var(s), s and J those of the units within, at every level. A node moves the
linear predictor of its unit by z'lam v, so that the units within need no more than their
derivatives by the coefficients of z: the one by lam[d, e] is v[e] times that by the coefficient d.
With the gradient and the information by these, Newton's steps find the mode as well. Source: Louis
(1982), J. R. Stat. Soc. B 44, 226-233; Rabe-Hesketh, Skrondal & Pickles (2005), J. Econometrics
128, 301-323, for quadrature within quadrature.

Draws of the effects go down the same tree. A node taken in proportion to exp f from a unit's
lattice that is moved by a uniform share of its cell is a draw from the unit's posterior of v, since
the sum over any such lattice is the integral (`bhlm.likelihood.lattice`); f has the effects of the
units within integrated out. With the linear predictors at that node the units within are
independent, and are drawn in turn.
"""

import math
from typing import NamedTuple

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.lattice import INFORMATION, SCORE, Integrated, Rows, integrate

Array = np.ndarray

NEWTON_STEPS = 60
NEAR = 1e-3  # what is left to gain at the point that a lattice is laid about
LOST = 1.0
DEPTH = 30.0  # nodes are left out where f is so far below its peak: exp(-30) = 1e-13
MOST = 3  # random coefficients of a level


class Tree(NamedTuple):
    """How units lie in each other, by level from the coarsest, L levels."""

    sizes: Array  # (L,) q_l
    heads: Array  # (L,) p and the q of all coarser levels
    starts: Array  # (L, U + 1) where the units of the next level begin that lie in each unit
    bounds: Array  # (L, U + 1) where each unit's patterns begin
    places: Array  # (L + 1,) where the units of each level begin among those of all
    members: Array  # (J,) the finest units


class Nest(NamedTuple):
    """The patterns at one set of parameters, and where lattices lie."""

    tree: Tree
    rows: Rows  # of the finest units; `x` holds X and the Z of coarser levels, eta is etas[-1]
    lams: Array  # (L, MOST, MOST)
    a: Array  # (I, Q) Z_l lam_l of all levels but the finest, one after the other
    etas: Array  # (L, I) given the effects of the levels before; the first is given
    modes: Array  # (N, MOST) of the units of all levels but the finest
    inner: Array  # (J, q) of the finest
    steps: Array  # (N,) h of all units


class Nested(NamedTuple):
    """What is written by `integrate_units`."""

    inner: Integrated  # of the finest units given their ancestors, as they were last
    loglik: Array  # (U,) of the units asked for
    score: Array  # (U, m) by beta and the lam of all levels, row by row
    # (L, N, MOST) posterior mean of v, given the effects of coarser levels than l; where it has no
    # room, moments of the effects are not found
    first: Array
    second: Array  # (L, N, MOST, MOST) posterior mean of v v' likewise
    # (L, N, L, MOST, MOST) and that of v of an ancestor, by its level, times the unit's own v
    cross: Array
    counts: Array  # (2, L) lattices, and their nodes


class Work(NamedTuple):
    """Room for a unit of each level."""

    v: Array  # (L, MOST) the node
    origin: Array  # (L, MOST) the mode, or where a step towards it begins
    step: Array  # (L, MOST)
    root: Array  # (L, MOST, MOST) C of H = C C'
    net: Array  # (L, MOST, MOST) h C'^-1
    k: Array  # (L, MOST) the node in the lattice
    first: Array  # (L, MOST) where a line of nodes begins, by direction
    side: Array  # (L, MOST) 0 while a line is followed up, 1 down
    last: Array  # (L, MOST) f before, or the largest of the lines and planes before
    begin: Array  # (L, MOST) f where the line begins
    best: Array  # (L, MOST) the largest f of the line, the plane, the space
    at: Array  # (L, MOST, MOST) and where
    within: Array  # (L, M) the score of all units within a unit
    bend: Array  # (L, M, M) their information
    score: Array  # (L, M) of a unit
    information: Array  # (L, M, M)
    grown: Array  # (L, M) `within` by the parameters of the level
    source: Array  # (L, M) where each of these comes from
    factor: Array  # (L, M) and what it is multiplied by
    pairs: Array  # (L, M, M) weighted score score'
    noise: Array  # (0, 1 + q)
    # (L, 1 + MOST) uniform numbers of a draw: which node, and how far the lattice is moved; the
    # first is below 0 where none is drawn
    luck: Array
    chosen: Array  # (L, MOST) the node that is drawn


@kernel
def allocate_work(levels: int, most: int, q: int) -> Work:
    """Return room for so many levels and parameters, q those of the finest level."""
    small, square = (levels, MOST), (levels, MOST, MOST)
    wide, whole = (levels, most), (levels, most, most)
    return Work(
        np.zeros(small), np.zeros(small), np.zeros(small), np.zeros(square), np.zeros(square),
        np.zeros(small, np.int64), np.zeros(small, np.int64), np.zeros(small, np.int64),
        np.zeros(small), np.zeros(small), np.zeros(small), np.zeros(square, np.int64),
        np.zeros(wide), np.zeros(whole), np.zeros(wide), np.zeros(whole), np.zeros(wide),
        np.zeros(wide, np.int64), np.zeros(wide), np.zeros(whole), np.zeros((0, 1 + q)),
        np.full((levels, 1 + MOST), -1.0), np.zeros(small),
    )  # fmt: skip


@kernel
def _begin_walk(work: Work, level: int) -> None:
    """Put the walk over a lattice at its origin."""
    work.k[level] = 0
    work.first[level] = 0
    work.side[level] = 0
    work.best[level] = -np.inf
    work.at[level] = 0


@kernel
def _walk_on(work: Work, level: int, q: int, f: float, cut: float) -> bool:
    """Move `work.k[level]` to the next node of a lattice, f being that of this one.

    The set of nodes where f is above `cut` is convex. So lines of nodes are followed to both sides
    until they leave it, planes line by line, each begun at the best node of the line before, and
    spaces plane by plane. Returns whether there is another node.
    """
    k, first, side = work.k[level], work.first[level], work.side[level]
    last, begin, best, at = work.last[level], work.begin[level], work.best[level], work.at[level]
    value = f
    for d in range(q):
        if value > best[d]:
            best[d] = value
            for e in range(d):
                at[d, e] = at[d - 1, e]
            at[d, d] = k[d]
        is_over = False
        if side[d] == 0 and k[d] == first[d]:
            begin[d] = value
        else:
            is_over = value < cut and not value > last[d]
        last[d] = value
        if side[d] == 0 or not is_over:
            if is_over:
                side[d], last[d], k[d] = 1, begin[d], first[d] - 1
            else:
                k[d] += 1 if side[d] == 0 else -1
            for e in range(d):
                first[e] = k[e] = at[d - 1, e]
                side[e] = 0
                best[e] = -np.inf
            return True
        value = best[d]
    return False


@kernel
def _aim(nest: Nest, work: Work, level: int) -> float:
    """Write C (q, q) of H = C C' and Newton's step (q,) at a node, and return its decrement."""
    q, head = nest.tree.sizes[level], nest.tree.heads[level]
    root, step, v, lam = work.root[level], work.step[level], work.v[level], nest.lams[level]
    within, bend = work.within[level], work.bend[level]
    decrement = 0.0
    for d in range(q):
        step[d] = -v[d]
        for i in range(q):
            step[d] += lam[i, d] * within[head + i]
        for e in range(d + 1):
            entry = 1.0 if d == e else 0.0
            for i in range(q):
                for j in range(q):
                    entry += lam[i, d] * bend[head + max(i, j), head + min(i, j)] * lam[j, e]
            for i in range(e):
                entry -= root[d, i] * root[e, i]
            root[d, e] = math.sqrt(entry) if d == e else entry / root[e, e]
    for d in range(q):
        for i in range(d):
            step[d] -= root[d, i] * step[i]
        step[d] /= root[d, d]
        decrement += step[d] * step[d]
    for d in range(q - 1, -1, -1):
        for i in range(d + 1, q):
            step[d] -= root[i, d] * step[i]
        step[d] /= root[d, d]
    return decrement


@kernel
def _lay_net(work: Work, level: int, q: int, h: float) -> float:
    """Write h C'^-1 (q, q), upper triangular, and return log |C|."""
    root, net = work.root[level], work.net[level]
    logdet = 0.0
    for d in range(q - 1, -1, -1):
        logdet += math.log(root[d, d])
        for e in range(d, q):
            entry = h if d == e else 0.0
            for i in range(d + 1, e + 1):
                entry -= root[i, d] * net[i, e]
            net[d, e] = entry / root[d, d]
    return logdet


@kernel
def move(nest: Nest, v: Array, level: int, unit: int) -> None:
    """Write the linear predictors of a unit's patterns at a node v (q,)."""
    tree = nest.tree
    q, column = tree.sizes[level], tree.heads[level] - tree.heads[0]
    before, after = nest.etas[level], nest.etas[level + 1]
    for i in range(tree.bounds[level, unit], tree.bounds[level, unit + 1]):
        eta = before[i]
        for d in range(q):
            eta += nest.a[i, column + d] * v[d]
        after[i] = eta


@kernel
def _grow(nest: Nest, work: Work, level: int) -> int:
    """Write score and information of a node by the parameters of its level; return their number.

    Those by the coefficients of the level's z become those by its lam.
    """
    q, head = nest.tree.sizes[level], nest.tree.heads[level]
    source, factor, v = work.source[level], work.factor[level], work.v[level]
    tail = 0
    for other in range(level + 1, len(nest.tree.sizes)):
        tail += nest.tree.sizes[other] ** 2
    for b in range(head):
        source[b], factor[b] = b, 1.0
    for d in range(q):
        for e in range(q):
            source[head + d * q + e], factor[head + d * q + e] = head + d, v[e]
    for b in range(tail):
        source[head + q * q + b], factor[head + q * q + b] = head + q + b, 1.0
    m = head + q * q + tail
    for b in range(m):
        work.grown[level, b] = factor[b] * work.within[level, source[b]]
    return m


@kernel
def _add_score(nest: Nest, work: Work, level: int, weight: float, derivatives: int) -> None:
    """Add a node's score and, if wanted, its square and the information there, by its weight."""
    m = _grow(nest, work, level)
    if derivatives == SCORE:
        for b in range(m):
            work.score[level, b] += weight * work.grown[level, b]
        return
    grown, source, factor, bend = (
        work.grown[level], work.source[level], work.factor[level], work.bend[level]
    )  # fmt: skip
    score, information, pairs = work.score[level], work.information[level], work.pairs[level]
    for b in range(m):
        own = weight * grown[b]
        score[b] += own
        for c in range(b + 1):
            pairs[b, c] += own * grown[c]
            information[b, c] += weight * factor[b] * factor[c] * bend[source[b], source[c]]


@kernel
def _add_effects(
    nest: Nest, out: Nested, level: int, unit: int, weight: float, node: Array
) -> None:
    """Add the moments of the effects of all units within, given a node, by its weight."""
    tree = nest.tree
    finest = len(tree.sizes) - 1
    start, stop = unit, unit + 1
    for other in range(level + 1, finest + 1):
        start, stop = tree.starts[other - 1, start], tree.starts[other - 1, stop]
        q = tree.sizes[other]
        for each in range(start, stop):
            at = tree.places[other] + each
            for d in range(q):
                mean = 0.0
                if level + 1 == finest:
                    mean = out.inner.mean[each, d]
                else:
                    mean = out.first[level + 1, at, d]
                out.first[level, at, d] += weight * mean
                for e in range(q):
                    square = 0.0
                    if level + 1 == finest:
                        square = out.inner.cov[each, d, e] + mean * out.inner.mean[each, e]
                    else:
                        square = out.second[level + 1, at, d, e]
                    out.second[level, at, d, e] += weight * square
                for e in range(tree.sizes[level]):
                    out.cross[level, at, level, e, d] += weight * node[e] * mean
                for upper in range(level + 1, other):
                    for e in range(tree.sizes[upper]):
                        found = out.cross[level + 1, at, upper, e, d]
                        out.cross[level, at, upper, e, d] += weight * found


@kernel
def _scale_effects(nest: Nest, out: Nested, level: int, unit: int, factor: float) -> None:
    """Multiply the moments of the effects of a unit and all units within; 0 clears them."""
    tree = nest.tree
    start, stop = unit, unit + 1
    for other in range(level, len(tree.sizes)):
        if other > level:
            start, stop = tree.starts[other - 1, start], tree.starts[other - 1, stop]
        for at in range(tree.places[other] + start, tree.places[other] + stop):
            for d in range(MOST):
                out.first[level, at, d] = factor * out.first[level, at, d] if factor else 0.0
                for e in range(MOST):
                    square = out.second[level, at, d, e]
                    out.second[level, at, d, e] = factor * square if factor else 0.0
                    for upper in range(level, other):
                        product = out.cross[level, at, upper, d, e]
                        out.cross[level, at, upper, d, e] = factor * product if factor else 0.0


@kernel
def _choose(luck: Array, chosen: Array, v: Array, weight: float, total: float) -> None:
    """Write a node to `chosen` with the probability weight / total, its share of those so far.

    A uniform number, `luck[0]`, serves all nodes: what is left of it is uniform again.
    """
    place = luck[0] * total
    if place < weight or weight == total:
        luck[0] = place / weight
        chosen[:] = v
    else:
        luck[0] = (place - weight) / (total - weight)


@kernel
def _integrate_unit(
    nest: Nest, level: int, unit: int, derivatives: int, out: Nested, work: Work
) -> float:
    """Return the log-integral of a unit of any level but the finest, given `nest.etas[level]`.

    Writes its score and information, by beta, the coefficients of coarser levels' z and the lam of
    its own and finer levels, to `work`, and the moments of all effects within to `out`. With
    `work.luck[level]` its lattice is moved, and a node is drawn.
    """
    tree = nest.tree
    q, finest = tree.sizes[level], len(tree.sizes) - 1
    place = tree.places[level] + unit
    start, stop = tree.starts[level, unit], tree.starts[level, unit + 1]
    v, origin, step, net = work.v[level], work.origin[level], work.step[level], work.net[level]
    within, bend, luck = work.within[level], work.bend[level], work.luck[level]
    has_moments, is_drawn = out.first.shape[0] > 0, luck[0] >= 0.0
    below = 0  # parameters of the units within
    for other in range(level + 1, finest + 1):
        below += tree.sizes[other] ** 2
    below += tree.heads[level + 1]
    value, decrement, share, turns, is_laid = -np.inf, np.inf, 1.0, 0, False
    peak, scale, total = -np.inf, 0.0, 0.0
    for d in range(q):
        v[d] = nest.modes[place, d]
    while True:
        wanted = derivatives if is_laid else INFORMATION
        move(nest, v, level, unit)
        f = 0.0
        for d in range(q):
            f -= 0.5 * v[d] * v[d]
        within[:below] = 0.0
        bend[:below, :below] = 0.0
        if level + 1 == finest:
            inner = out.inner
            if wanted == SCORE:  # which is added to what is there
                inner.score[start:stop] = 0.0
            integrate(
                nest.rows, nest.inner, nest.steps[tree.places[finest] :],
                tree.members[start:stop], wanted, inner, bend, work.noise,
            )  # fmt: skip
            for each in range(start, stop):
                f += inner.loglik[each]
                out.counts[1, finest] += inner.nodes[each]
                if wanted > 0:
                    for b in range(below):
                        within[b] += inner.score[each, b]
            out.counts[0, finest] += stop - start
        else:
            for each in range(start, stop):
                f += _integrate_unit(nest, level + 1, each, wanted, out, work)
                if wanted > 0:
                    for b in range(below):
                        within[b] += work.score[level + 1, b]
                if wanted == INFORMATION:
                    for b in range(below):
                        for c in range(b + 1):
                            bend[b, c] += work.information[level + 1, b, c]
        if np.isnan(f):
            f = -np.inf
        if not is_laid:
            # Newton's method: the first point is taken as it is, a step is shortened.
            if turns == 0 and not f > -np.inf:
                is_zero = True
                for d in range(q):
                    is_zero = is_zero and v[d] == 0.0
                    v[d] = 0.0
                if is_zero:
                    return -np.inf
                continue
            is_up = f >= value + 1e-4 * share * decrement or share * decrement < 1e-9
            if turns > 0 and not is_up and share > 1e-9:
                share *= 0.5
                for d in range(q):
                    v[d] = origin[d] + share * step[d]
                continue
            value = f
            decrement = _aim(nest, work, level)
            turns += 1
            for d in range(q):
                origin[d] = v[d]
            if decrement > NEAR and turns < NEWTON_STEPS:
                share = 1.0
                for d in range(q):
                    v[d] = origin[d] + step[d]
                continue
            if not (decrement < LOST and value > -np.inf):
                return -np.inf
            for d in range(q):
                nest.modes[place, d] = origin[d]
            h = nest.steps[place]
            scale = q * (math.log(h) - 0.5 * math.log(2.0 * math.pi))
            scale -= _lay_net(work, level, q, h)
            peak, is_laid = value, True
            _begin_walk(work, level)
            if derivatives > 0:
                work.score[level] = 0.0
            if derivatives == INFORMATION:
                work.information[level] = 0.0
                work.pairs[level] = 0.0
            if has_moments:
                _scale_effects(nest, out, level, unit, 0.0)
            out.counts[0, level] += 1.0
            if is_drawn:
                for d in range(q):
                    for e in range(d, q):
                        origin[d] += net[d, e] * (luck[1 + e] - 0.5)
                    v[d] = origin[d]
                continue
        if f > peak - DEPTH:
            weight = math.exp(f - peak)
            total += weight
            out.counts[1, level] += 1.0
            if is_drawn:
                _choose(luck, work.chosen[level], v, weight, total)
            if has_moments:
                for d in range(q):
                    out.first[level, place, d] += weight * v[d]
                    for e in range(q):
                        out.second[level, place, d, e] += weight * v[d] * v[e]
                _add_effects(nest, out, level, unit, weight, v)
            if derivatives > 0:
                _add_score(nest, work, level, weight, derivatives)
        if not _walk_on(work, level, q, f, peak - DEPTH):
            break
        for d in range(q):
            v[d] = origin[d]
            for e in range(d, q):
                v[d] += net[d, e] * work.k[level, e]
    if has_moments:
        _scale_effects(nest, out, level, unit, 1.0 / total)
    m = below - q + q * q
    score, information, pairs = work.score[level], work.information[level], work.pairs[level]
    if derivatives > 0:
        for b in range(m):
            score[b] /= total
    if derivatives == INFORMATION:
        for b in range(m):
            for c in range(b + 1):
                information[b, c] = (information[b, c] - pairs[b, c]) / total + score[b] * score[c]
    return peak + math.log(total) + scale


@kernel
def count_most(tree: Tree) -> int:
    """Return how many parameters the kernels have room for at most."""
    most = tree.heads[-1] + tree.sizes[-1]
    for q in tree.sizes:
        most += q * q
    return int(most)


@light_kernel
def integrate_units(
    nest: Nest, level: int, members: Array, derivatives: int, out: Nested, information: Array
) -> None:
    """Integrate over the random effects of some units of a level, and of all units within.

    Args:
        nest: the patterns, with `etas[level]` the linear predictors given coarser effects.
        level: any but the finest, 0 for the marginal likelihood.
        members: which units.
        derivatives: 0 for none, `SCORE` for scores, or `INFORMATION` for both, of the coarsest
            level alone.
        out: what is written.
        information: (m, m) by beta and all lam, to whose lower triangle the units' is added.
    """
    m = len(information)
    work = allocate_work(len(nest.tree.sizes), count_most(nest.tree), nest.tree.sizes[-1])
    for unit in members:
        out.loglik[unit] = _integrate_unit(nest, level, unit, derivatives, out, work)
        if derivatives > 0:
            for b in range(m):
                out.score[unit, b] = work.score[level, b]
        if derivatives == INFORMATION:
            for b in range(m):
                for c in range(b + 1):
                    information[b, c] += work.information[level, b, c]


@light_kernel
def draw_unit(
    nest: Nest, level: int, unit: int, luck: Array, noise: Array, out: Nested, work: Work,
    draws: Array,
) -> tuple[float, float]:  # fmt: skip
    """Draw the effects of a unit of any level but the finest, and of all units within.

    Args:
        nest: the patterns, with `etas[level]` the linear predictors given coarser effects.
        level: of the unit.
        unit: which one.
        luck: (N, 1 + MOST) uniform numbers, of the units of all levels but the finest.
        noise: (J, 1 + q) uniform numbers, of the finest.
        out: room for the integrals.
        work: room.
        draws: (N, MOST) of v of all units, which are written.

    Returns:
        The log-integral of the unit by the lattice at its mode, and what two lattices differ by,
        summed over the unit, and over those within given the effects that were drawn.
    """
    tree = nest.tree
    finest = len(tree.sizes) - 1
    place = tree.places[level] + unit
    start, stop = tree.starts[level, unit], tree.starts[level, unit + 1]
    zero = np.int64(0)  # a literal one would compile the kernel again
    found = _integrate_unit(nest, level, unit, zero, out, work)
    work.luck[level] = luck[place]
    error = abs(_integrate_unit(nest, level, unit, zero, out, work) - found)
    work.luck[level, 0] = -1.0
    draws[place] = work.chosen[level]
    move(nest, draws[place], level, unit)
    if level + 1 < finest:
        for each in range(start, stop):
            error += draw_unit(nest, level + 1, each, luck, noise, out, work, draws)[1]
        return found, error
    own, members = nest.steps[tree.places[finest] :], tree.members[start:stop]
    inner, nothing = out.inner, work.bend[level]
    integrate(nest.rows, nest.inner, own, members, zero, inner, nothing, work.noise)
    for each in range(start, stop):
        inner.score[each, 0] = inner.loglik[each]
    integrate(nest.rows, nest.inner, own, members, zero, inner, nothing, noise)
    for each in range(start, stop):
        error += abs(inner.loglik[each] - inner.score[each, 0])
        for d in range(tree.sizes[finest]):
            draws[tree.places[finest] + each, d] = inner.draw[each, d]
    return found, error
