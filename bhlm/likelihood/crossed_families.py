"""Patterns with any grouping factors, and Laplace's approximation of their likelihood.

The effects of all units are approximated at their joint mode,

    log L = f(v^) - log |H| / 2,   H = -f''(v^),

which is what lme4 calls the log-likelihood for nAGQ = 1. Of the canonical links (logit, log) H is
what lme4 takes; of probit and cloglog bhlm takes the second derivative as it is, as glmmTMB does,
and lme4 its expectation. Source: Breslow & Clayton (1993), JASA 88, 9-25; Bates, Maechler, Bolker &
Walker (2015), J. Stat. Softw. 67(1).

The gradient is exact, with what the mode moves by: of h_i = a_i'H^-1 a_i, t = dW/d eta and
s = t h / 2, r = H^-1 A's, the slope by eta0 is l' - s + W A r.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from bhlm.errors import DataError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.densities import Reference, measure_rounding, refer, sum_patterns
from bhlm.likelihood.families import Family
from bhlm.likelihood.laplace import (
    Arranged,
    add_effects,
    bend_slopes,
    eliminate,
    gather_effects,
    pull_up,
    push_down,
    solve_own,
    sum_draws,
)
from bhlm.likelihood.patterns import CentredColumns, check_random
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.processes import limit_blas, measure_memory

Array = np.ndarray

NEWTON_STEPS = 100
DECREMENT = 1e-22  # of f at the mode: what the log-determinant then misses is below 1e-10
NEAR = 1.0  # of the mode, in units of f
STALLED = 1e-9  # below, a decrement that does not fall is rounding's
DENSE = 6  # matrices of the rest that are held at a time
SHORTEST = 1e-10


@dataclass(frozen=True, slots=True)
class WhitenedCross:
    """The patterns, by the unit of the eliminated factor, in whitened columns.

    `sizes`, `counts` and `bases` go by the order of the formula; `order` is that of elimination.
    """

    at: Arranged
    n: Array  # (I,)
    y: Array  # (I,)
    offset: Array  # (I,)
    x: Array  # (I, p) X A
    z: tuple[Array, ...]  # F in `order`, (I, q_f) Z_f B_f
    units: Array  # (F, I) in `order`, the unit of each pattern
    order: tuple[int, ...]  # the factors, that with the most levels first
    counts: tuple[int, ...]  # F, the units J_f of each factor
    family: Family
    constant: tuple[float, float]  # what rows add, and what the double leaves of it
    fixed: Array  # (p, p) A, so that beta = A beta~
    bases: tuple[Array, ...]  # F, (q_f, q_f) B_f, so that u = B_f u~

    @property
    def p(self) -> int:
        """The number of fixed effects."""
        return self.x.shape[1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The random coefficients q_f of each factor."""
        return tuple(map(len, self.bases))

    @property
    def width(self) -> int:
        """The columns R of all factors but the eliminated one."""
        return sum(self.counts[f] * self.sizes[f] for f in self.order[1:])

    @property
    def effects(self) -> int:
        """The random effects of all units."""
        return sum(count * size for count, size in zip(self.counts, self.sizes, strict=True))


def whiten_cross(
    patterns: LevelPatterns, structures: Sequence[Structure], *, memory: int | None = None
) -> WhitenedCross:
    """Return the whitened columns of patterns, and how the units of their factors meet.

    Args:
        patterns: of any factors.
        structures: by factor.
        memory: bytes that the dense rest may take; None is half of what the machine has.

    Raises:
        IdentifiabilityError: columns that do not vary, or repeat others; random slopes of columns
            that vary between units alone and have too few values there.
        DataError: the dense rest does not fit in memory.
    """
    codes = patterns.codes
    counts = tuple(each.n_levels for each in patterns.labels)
    sizes = tuple(each.q for each in structures)
    order = tuple(sorted(range(len(codes)), key=lambda f: (-counts[f] * sizes[f], f)))
    first, rest = order[0], order[1:]
    width = sum(counts[f] * sizes[f] for f in rest)
    needed, room = DENSE * 8 * width**2, memory or measure_memory() // 2
    if needed > room:
        raise DataError(
            f"'{patterns.formula}' leaves {width} effects beside those of "
            f"'{structures[first].group}', which take {needed / 1e9:.3g} GB of the "
            f"{room / 1e9:.3g} GB that may be used; drop the factor or slopes with most of them"
        )
    columns = CentredColumns(patterns)
    fixed = columns.orthonormalize()
    bases = tuple(columns.find_basis(each) for each in structures)
    own = np.argsort(codes[first], kind="stable")
    z = []
    for f in order:
        turned = columns.turn(structures[f].names, bases[f])
        by_unit = np.argsort(codes[f], kind="stable")
        starts = np.searchsorted(codes[f][by_unit], np.arange(counts[f] + 1))
        check_random(patterns, structures[f], turned[by_unit], starts, by_unit)
        z.append(np.ascontiguousarray(turned[own]))
    family = patterns.family
    assert isinstance(family, Family)
    units = codes[list(order)][:, own]
    return WhitenedCross(
        at=_arrange(units, [sizes[f] for f in order], counts[first]),
        n=patterns.n[own],
        y=patterns.y[own],
        offset=patterns.offset[own],
        x=np.ascontiguousarray(columns.turn(patterns.fixed, fixed)[own]),
        z=tuple(z),
        units=units,
        order=order,
        counts=counts,
        family=family,
        constant=(patterns.constant, patterns.rest),
        fixed=fixed,
        bases=bases,
    )


def _arrange(units: Array, sizes: Sequence[int], many: int) -> Arranged:
    """Return how patterns (F, I), sorted by the first factor's unit, meet the other factors'."""
    count = units.shape[1]
    tail = np.empty((count, sum(sizes[1:])), dtype=np.int64)
    place = column = 0
    for own, size in zip(units[1:], sizes[1:], strict=True):
        for d in range(size):
            tail[:, column] = place + own * size + d
            column += 1
        place += (int(own.max()) + 1) * size
    width = max(place, 1)
    keys = units[0][:, None] * width + tail
    met, local = np.unique(keys, return_inverse=True)
    spans = np.searchsorted(met, np.arange(many + 1) * width)
    return Arranged(
        starts=np.searchsorted(units[0], np.arange(many + 1)),
        tail=tail,
        local=local.reshape(tail.shape) - spans[units[0]][:, None],
        meets=met % width,
        spans=spans,
    )


class Factored(NamedTuple):
    """H at a point, factored."""

    inner: Array  # (J, q, q) K
    across: Array  # (q, M) B
    root: Array  # (R, R) the Cholesky root of S, lower triangle
    logdet: float  # log |H|


class Slant(NamedTuple):
    """What the slopes of log |H| rest on."""

    own: Array  # (I, q + r) what each pattern has of H^-1 a_i at its own units
    covs: Array  # (J, q, q) the eliminated units' blocks of H^-1
    s: Array  # (I,) the slope of log |H| / 2 by eta
    r: Array  # (Q,) H^-1 A's


class LaplaceMarginal(NamedTuple):
    """Laplace's approximation at one set of parameters, with its derivatives."""

    loglik: float
    gradient: Array  # (m,) by beta~ and the lam_f in the formula's order: m = p + sum q_f^2
    means: tuple[Array, ...]  # F, (J_f, q_f) joint modes of v, u~ = lam v
    covs: tuple[Array, ...]  # F, (J_f, q_f, q_f) the units' blocks of H^-1
    masses: tuple[Array, ...]  # F, (q_f,) information of a unit's rows about u~, on average


@dataclass(slots=True)
class Approximation:
    """Laplace's approximation as a function of the parameters; it keeps the mode."""

    white: WhitenedCross
    reference: Reference = field(init=False)
    constant: float = field(init=False)  # of the log-likelihood
    mode: Array = field(init=False)  # (Q,) v, by the order of elimination

    def __post_init__(self) -> None:
        """Begin without effects."""
        white = self.white
        self.reference = refer(white.family.code, white.n, white.y)
        self.constant = self.reference.join(white.constant)
        self.mode = np.zeros(self.white.effects)

    def evaluate(self, beta: Array, lams: Sequence[Array]) -> LaplaceMarginal:
        """Return the approximation at beta~ (p,) and the whitened lam_f, by factor."""
        white, at = self.white, self.white.at
        with limit_blas():
            a, eta0 = self._load(beta, lams)
            value, found, parts = self._find_mode(a, eta0)
            eta, slope, bend = parts
            sizes = white.sizes
            q = sizes[white.order[0]]
            inverse = self._invert(found)
            own, covs, s, r = self._slant(a, eta, found, inverse)
            moved = np.zeros(len(eta))
            add_effects(at, a, r, q, moved)
            slant = slope - s + bend * moved
        vs, rs = self._split(self.mode), self._split(r)
        scores: list[Array] = [np.empty(0)] * len(sizes)
        means: list[Array] = list(scores)
        blocks: list[Array] = list(scores)
        masses: list[Array] = list(scores)
        column, place = 0, 0
        for level, factor in enumerate(white.order):
            z, units, size = white.z[level], white.units[level], sizes[factor]
            by_row = (
                vs[level][units] * slant[:, None]
                - rs[level][units] * slope[:, None]
                - own[:, column : column + size] * bend[:, None]
            )
            scores[factor] = (z.T @ by_row).ravel()
            means[factor] = vs[level]
            masses[factor] = np.square(z).T @ bend / white.counts[factor]
            if level == 0:
                blocks[factor] = covs
            else:
                count = white.counts[factor]
                here = place + np.arange(count * size).reshape(count, size)
                blocks[factor] = inverse[here[:, :, None], here[:, None, :]]
                place += count * size
            column += size
        return LaplaceMarginal(
            loglik=value - 0.5 * found.logdet + self.constant,
            gradient=np.concatenate([slant @ white.x, *scores]),
            means=tuple(means),
            covs=tuple(blocks),
            masses=tuple(masses),
        )

    def measure_error(
        self, beta: Array, lams: Sequence[Array], *, draws: int, seed: int = 0
    ) -> "ImportanceError":
        """Return what the approximation misses at these parameters, by importance sampling.

        Effects are drawn in pairs m +- d from N(m, H^-1) with m = v^ - r, where the mean is to the
        next order, and weighted by the integrand: the mean weight is the likelihood's ratio to the
        approximation. Source: Tierney & Kadane (1986), JASA 81, 82-86, for the mean.
        """
        white = self.white
        q = white.sizes[white.order[0]]
        with limit_blas():
            a, eta0 = self._load(beta, lams)
            value, found, (eta, _, _) = self._find_mode(a, eta0)
            inverse = self._invert(found)
            middle = self.mode - self._slant(a, eta, found, inverse).r
            rng = np.random.default_rng(seed)
            roots = np.linalg.cholesky(found.inner)
            weights, moved = np.empty((draws, 2)), np.empty(len(eta0))
            for draw in range(draws):
                noise = rng.standard_normal(white.effects)
                step = self._spread(found, roots, noise)
                for side, sign in enumerate((1.0, -1.0)):
                    f = sum_draws(
                        self.reference.link, white.at, a, eta0, white.n, white.y,
                        self.reference.peak, middle + sign * step, q, moved,
                    )  # fmt: skip
                    weights[draw, side] = f - value + 0.5 * float(noise @ noise)
        return weigh_draws(weights)

    def draw(
        self, beta: Array, lams: Sequence[Array], *, draws: int, rng: np.random.Generator
    ) -> Iterator[tuple[Array, ...]]:
        """Yield effects v (J_f, q_f) by factor from N(mode, H^-1), so many times."""
        with limit_blas():
            a, eta0 = self._load(beta, lams)
            _, found, _ = self._find_mode(a, eta0)
            roots = np.linalg.cholesky(found.inner)
        for _ in range(draws):
            noise = rng.standard_normal(self.white.effects)
            parts = self._split(self.mode + self._spread(found, roots, noise))
            yield tuple(parts[self.white.order.index(f)] for f in range(len(parts)))

    def spread(self, beta: Array, lams: Sequence[Array], a: Array, units: Array) -> Array:
        """Return a_i'H^-1 a_i (n,) of rows at these parameters.

        Args:
            beta: whitened fixed effects (p,).
            lams: whitened, by factor.
            a: (n, q + r) by the order of elimination: z_f lam_f, zero where a unit is not known.
            units: (F, n) by that order, those of each row.
        """
        white, at = self.white, self.white.at
        sizes = [white.sizes[f] for f in white.order]
        q, tail, place = sizes[0], [], 0
        for own, f in zip(units[1:], white.order[1:], strict=True):
            tail.append(place + own[:, None] * white.sizes[f] + np.arange(white.sizes[f]))
            place += white.counts[f] * white.sizes[f]
        rest = np.column_stack(tail) if tail else np.zeros((len(a), 0), dtype=np.int64)
        with limit_blas():
            own, eta0 = self._load(beta, lams)
            _, found, _ = self._find_mode(own, eta0)
            inverse = self._invert(found)
        result = np.empty(len(a))
        for i, (row, j) in enumerate(zip(a, units[0], strict=True)):
            span = slice(at.spans[j], at.spans[j + 1])
            head, met, mine = row[:q], at.meets[span], rest[i]
            # H^-1 of a unit is K + B S^-1 B', across -B S^-1, and S^-1 of the rest.
            lean = np.zeros(len(inverse))
            lean[met] = -(head @ found.across[:, span])
            lean[mine] += row[q:]
            at_most = np.unique(np.concatenate([met, mine]))
            some = lean[at_most]
            result[i] = head @ found.inner[j] @ head
            result[i] += some @ inverse[np.ix_(at_most, at_most)] @ some
        return result

    def _load(self, beta: Array, lams: Sequence[Array]) -> tuple[Array, Array]:
        """Return the rows a_i (I, q + r) at each pattern's units, and eta0 (I,)."""
        white = self.white
        parts = [z @ lams[f] for z, f in zip(white.z, white.order, strict=True)]
        a = np.ascontiguousarray(np.column_stack(parts))
        return a, white.offset + white.x @ beta

    def _find_mode(
        self, a: Array, eta0: Array
    ) -> tuple[float, Factored, tuple[Array, Array, Array]]:
        """Find the joint mode from where it was last; return f, H, and eta, l' and W there."""
        white, at = self.white, self.white.at
        reference, q = self.reference, white.sizes[white.order[0]]
        slope, bend = np.empty(len(eta0)), np.empty(len(eta0))

        def visit(v: Array) -> tuple[float, Array]:
            eta = eta0.copy()
            add_effects(at, a, v, q, eta)
            found = float(
                sum_patterns(reference.link, eta, white.n, white.y, reference.peak, slope, bend)
            )
            value = found - 0.5 * float(v @ v)
            return (value if np.isfinite(value) else -np.inf), eta

        v = self.mode
        start, _ = visit(np.zeros_like(v))
        value, eta = visit(v)
        if not value >= start:  # far out, where a small lam has led to before
            v = np.zeros_like(v)
            value, eta = visit(v)
        last = np.inf
        for _ in range(NEWTON_STEPS):
            found = self._factor(a, bend)
            right = -v
            gather_effects(at, a, slope, q, right)
            step = self._solve(found, right)
            decrement = float(right @ step)
            # What is left to gain falls with its square, until rounding of large counts is left.
            if not decrement > DECREMENT or (decrement < STALLED and decrement > 0.5 * last):
                break
            last, share = decrement, 1.0
            slack = 1e-13 * abs(value)
            if reference.is_relative and decrement < NEAR:
                slack += self._round(eta)
            while True:
                there, moved = visit(v + share * step)
                if there >= value + 1e-4 * share * decrement - slack:
                    break
                share *= 0.5
                if share < SHORTEST:
                    break
            if share < SHORTEST:
                value, eta = visit(v)
                break
            v, value, eta = v + share * step, there, moved
        self.mode = v
        return value, found, (eta, slope, bend)

    def measure_rounding(self, beta: Array, lams: Sequence[Array]) -> float:
        """Return what rounding may cost the log-likelihood at beta~ and lam_f."""
        with limit_blas():
            _, _, (eta, _, _) = self._find_mode(*self._load(beta, lams))
        return self._round(eta)

    def _round(self, eta: Array) -> float:
        white, whole = self.white, np.array([0, len(eta)])
        return float(measure_rounding(self.reference, eta, white.n, white.y, whole)[0])

    def _factor(self, a: Array, bend: Array) -> Factored:
        """Return H factored."""
        white, at = self.white, self.white.at
        q, width = white.sizes[white.order[0]], white.width
        inner = np.empty((white.counts[white.order[0]], q, q))
        across = np.empty((q, len(at.meets)))
        rest = np.empty((width, width))
        logdet = eliminate(at, a, bend, q, inner, across, rest)
        if not width:
            return Factored(inner, across, rest, logdet)
        root, info = lapack.dpotrf(rest.T, lower=0, overwrite_a=1, clean=0)
        if info:  # rounding left S short of positive definite: no weight is finite there
            root = np.full_like(root, np.nan)
        return Factored(inner, across, root.T, logdet + 2.0 * float(np.log(np.diag(root)).sum()))

    def _solve(self, found: Factored, right: Array) -> Array:
        """Return H^-1 right."""
        at, q = self.white.at, found.inner.shape[1]
        head = len(found.inner) * q
        out = np.empty_like(right)
        push_down(at, found.inner, found.across, right, out)
        if len(out) > head:
            out[head:] = lapack.dpotrs(found.root.T, out[head:], lower=0)[0]
            pull_up(at, found.across, q, out)
        return out

    def _slant(self, a: Array, eta: Array, found: Factored, inverse: Array) -> "Slant":
        """Return what the log-determinant's slope by eta moves the mode by, and on the way."""
        white, at = self.white, self.white.at
        own, covs = np.empty_like(a), np.empty_like(found.inner)
        solve_own(at, a, found.inner, found.across, inverse, own, covs)
        third = np.empty(len(eta))
        bend_slopes(white.family.code, eta, white.n, white.y, third)
        s = 0.5 * third * np.einsum("ij,ij->i", a, own)
        right = np.zeros(white.effects)
        gather_effects(at, a, s, found.inner.shape[1], right)
        return Slant(own, covs, s, self._solve(found, right))

    def _spread(self, found: Factored, roots: Array, noise: Array) -> Array:
        """Return a draw (Q,) of N(0, H^-1) from standard normal noise (Q,)."""
        at, q = self.white.at, found.inner.shape[1]
        head = len(found.inner) * q
        out = np.empty_like(noise)
        out[:head] = np.einsum("jab,jb->ja", roots, noise[:head].reshape(-1, q)).ravel()
        if len(out) > head:
            out[head:] = lapack.dtrtrs(found.root.T, noise[head:], lower=0)[0]
            pull_up(at, found.across, q, out)
        return out

    def _invert(self, found: Factored) -> Array:
        """Return S^-1 (R, R), both triangles."""
        if not len(found.root):
            return np.empty((0, 0))
        inverse, _ = lapack.dpotri(found.root.T, lower=0)
        return np.ascontiguousarray(np.triu(inverse) + np.triu(inverse, 1).T)

    def _split(self, v: Array) -> list[Array]:
        """Return effects by factor (J_f, q_f), in the order of elimination."""
        white, found, start = self.white, [], 0
        for f in white.order:
            stop = start + white.counts[f] * white.sizes[f]
            found.append(v[start:stop].reshape(white.counts[f], white.sizes[f]))
            start = stop
        return found


class ImportanceError(NamedTuple):
    """The log-likelihood less its approximation, as draws of the effects tell it."""

    difference: float
    mcse: float
    effective: float  # pairs of draws, of `draws`
    draws: int


def weigh_draws(weights: Array) -> ImportanceError:
    """Return the mean of exp of log weights (N, 2), of pairs of draws, on the log scale."""
    top = float(weights.max())
    pairs = np.exp(weights - top).mean(axis=1)
    mean, count = float(pairs.mean()), len(pairs)
    mcse = float(pairs.std(ddof=1)) / (np.sqrt(count) * mean)
    effective = float(pairs.sum() ** 2 / (pairs @ pairs))
    return ImportanceError(top + float(np.log(mean)), mcse, effective, count)
