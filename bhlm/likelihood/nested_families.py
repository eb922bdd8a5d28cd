"""The marginal likelihood of patterns in nested units: integrals within integrals, to an error."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import block_diag

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.densities import Reference, measure_rounding, refer
from bhlm.likelihood.families import Family
from bhlm.likelihood.lattice import INFORMATION, Integrated, Rows, integrate
from bhlm.likelihood.nested_lattice import MOST, Nest, Nested, Tree, integrate_units
from bhlm.likelihood.panels import sum_stretches
from bhlm.likelihood.patterns import (
    EPS,
    NEAR,
    SHRINK,
    WIDEST,
    CentredColumns,
    WhitenedPatterns,
    check_random,
)
from bhlm.moments.level_patterns import LevelPatterns

Array = np.ndarray

REFINED = 16  # times that a step is shrunk at most, to 1 / 256
# Posterior SDs from their means at which coarser effects are held where finer steps are chosen.
HELD = (0.0, -2.5, 2.5)


@dataclass(frozen=True, slots=True)
class WhitenedNest:
    """The patterns, unit by unit, with columns that are orthonormal and of unit scale.

    Levels go from the coarsest to the finest, L of them, units within each as their patterns go.
    """

    n: Array  # (I,)
    y: Array  # (I,)
    offset: Array  # (I,)
    x: Array  # (I, p) X A
    z: tuple[Array, ...]  # L, (I, q_l) Z_l B_l
    bounds: tuple[Array, ...]  # L, (J_l + 1,) where the patterns of each unit begin
    levels: tuple[Array, ...]  # L, (J_l,) the level of the factor that each unit is
    order: tuple[int, ...]  # the factor of each level
    rank: Array  # (I,) which pattern of the table each one is
    family: Family
    constant: tuple[float, float]  # what rows add, and what the double leaves of it
    fixed: Array  # (p, p) A, so that beta = A beta~
    level_bases: tuple[Array, ...]  # L, (q_l, q_l) B_l, so that u = B_l u~

    @property
    def p(self) -> int:
        """The number of fixed effects."""
        return self.x.shape[1]

    @property
    def q(self) -> int:
        """The number of random coefficients of all factors."""
        return sum(self.sizes)

    @property
    def spans(self) -> tuple[int, ...]:
        """Where the coefficients of each level begin among those of all, in formula order."""
        widths = [len(basis) for basis in self.bases]
        starts = np.cumsum([0, *widths[:-1]])
        return tuple(int(starts[at]) for at in self.order)

    @property
    def basis(self) -> Array:
        """The B (Q, Q) of all factors, block by block in the order of the formula."""
        return block_diag(*self.bases)

    @property
    def scale(self) -> float:
        """The response is not scaled."""
        return 1.0

    @property
    def ols(self) -> Array:
        """Where whitened fixed effects (p,) have their zero."""
        return np.zeros(self.p)

    @property
    def held(self) -> float:
        """There is no residual: its SD is held at one."""
        return 1.0

    @property
    def bases(self) -> tuple[Array, ...]:
        """The B (q_f, q_f) of the factors, in the order of the formula."""
        places = np.argsort(self.order)
        return tuple(self.level_bases[level] for level in places)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The random coefficients q_l of each level."""
        return tuple(each.shape[1] for each in self.z)

    @property
    def counts(self) -> tuple[int, ...]:
        """The units J_l of each level."""
        return tuple(len(each) - 1 for each in self.bounds)

    def split(self, lam: Array) -> list[Array]:
        """Return the lam_l (q_l, q_l), the coarsest first, of one matrix (Q, Q) of all factors."""
        spans = zip(self.spans, self.sizes, strict=True)
        return [
            np.ascontiguousarray(lam[start : start + size, start : start + size])
            for start, size in spans
        ]

    def find_parents(self, level: int, upper: int) -> Array:
        """Return the unit (J_l,) of a coarser level that each unit of a level lies in."""
        return np.searchsorted(self.bounds[upper], self.bounds[level][:-1], side="right") - 1

    def keep(self, levels: Sequence[int]) -> "WhitenedNest":
        """Return the patterns without the random effects of other levels than these."""
        return replace(
            self,
            z=tuple(self.z[at] for at in levels),
            bounds=tuple(self.bounds[at] for at in levels),
            levels=tuple(self.levels[at] for at in levels),
            order=tuple(self.order[at] for at in levels),
            level_bases=tuple(self.level_bases[at] for at in levels),
        )

    def keep_one(self, level: int) -> WhitenedPatterns:
        """Return the patterns with the random effects of a single level."""
        return WhitenedPatterns(
            starts=self.bounds[level],
            n=self.n,
            y=self.y,
            offset=self.offset,
            x=self.x,
            z=self.z[level],
            family=self.family,
            constant=self.constant,
            fixed=self.fixed,
            basis=self.level_bases[level],
        )

    def grow(self) -> Tree:
        """Return how units lie in each other, as the kernels take it."""
        most = max(self.counts) + 1
        levels = len(self.counts)
        starts, bounds = np.zeros((2, levels, most), dtype=np.int64)
        for level, own in enumerate(self.bounds):
            bounds[level, : len(own)] = own
            finer = self.bounds[level + 1] if level + 1 < levels else np.arange(len(self.n) + 1)
            starts[level, : len(own)] = np.searchsorted(finer, own)
        return Tree(
            sizes=np.array(self.sizes),
            heads=self.p + np.cumsum([0, *self.sizes[:-1]]),
            starts=starts,
            bounds=bounds,
            places=np.cumsum([0, *self.counts]),
            members=np.arange(self.counts[-1]),
        )


def whiten_nest(patterns: LevelPatterns, structures: Sequence[Structure]) -> WhitenedNest:
    """Return the whitened columns of patterns whose factors are nested in each other.

    X~ = X A with X~'X~ = I_p I, and Z_l~ = Z_l B_l as far as the covariance structures allow, all
    over the patterns.

    Args:
        patterns: of F factors that are a chain, in whatever order.
        structures: by factor.

    Raises:
        IdentifiabilityError: columns that do not vary, or repeat others; random slopes of columns
            that vary between units alone and have too few values there.
    """
    codes = patterns.codes
    order = sorted(range(len(codes)), key=lambda at: patterns.labels[at].n_levels)
    rank = np.lexsort([codes[at] for at in reversed(order)])
    bounds, levels = [], []
    for at in order:
        own = codes[at][rank]
        begins = np.flatnonzero(np.append(True, own[1:] != own[:-1]))
        bounds.append(np.append(begins, len(rank)).astype(np.int64))
        levels.append(own[begins])
    columns = CentredColumns(patterns)
    fixed = columns.orthonormalize()
    bases = [columns.find_basis(structures[at]) for at in order]
    z = []
    for at, basis, own in zip(order, bases, bounds, strict=True):
        turned = columns.turn(structures[at].names, basis)[rank]
        check_random(patterns, structures[at], turned, own, rank)
        z.append(np.ascontiguousarray(turned))
    family = patterns.family
    assert isinstance(family, Family)
    return WhitenedNest(
        n=patterns.n[rank],
        y=patterns.y[rank],
        offset=patterns.offset[rank],
        x=np.ascontiguousarray(columns.turn(patterns.fixed, fixed)[rank]),
        z=tuple(z),
        bounds=tuple(bounds),
        levels=tuple(levels),
        order=tuple(order),
        rank=rank,
        family=family,
        constant=(patterns.constant, patterns.rest),
        fixed=fixed,
        level_bases=tuple(bases),
    )


class NestMarginal(NamedTuple):
    """The marginal log-likelihood at one set of parameters, with its derivatives."""

    loglik: float
    logliks: Array  # (J_0,) by unit of the coarsest level
    score: Array  # (J_0, m) by beta~ and the lam_l, row by row: m = p + sum q_l^2
    information: Array  # (m, m) observed
    means: tuple[Array, ...]  # L, (J_l, q_l) posterior means of v, u~ = lam v
    covs: tuple[Array, ...]  # L, (J_l, q_l, q_l) posterior covariances of v
    # L, by coarser level (J_l, q_k, q_l) posterior covariances of its unit's v with the unit's own
    crosses: tuple[tuple[Array, ...], ...]
    nodes: Array  # (L,) of an integral of each level, on average


@dataclass(slots=True)
class NestIntegrator:
    """The marginal likelihood of nested units; it keeps the modes, and each unit's step.

    `refine` chooses the steps, and `measure_error` tells what halving all of them changes.
    """

    white: WhitenedNest
    given: InitVar[Reference | None] = None  # None takes what suits the patterns
    reference: Reference = field(init=False)
    constant: float = field(init=False)  # of the log-likelihood, beside the units' integrals
    tree: Tree = field(init=False)
    rows: Rows = field(init=False)
    a: Array = field(init=False)  # (I, sum q_l) room for Z_l lam_l of all but the finest
    etas: Array = field(init=False)  # (L, I)
    modes: Array = field(init=False)  # (N, MOST)
    inner: Array = field(init=False)  # (J, q) of the finest
    steps: Array = field(init=False)  # (N,) posterior SDs between nodes
    out: Nested = field(init=False)

    def __post_init__(self, given: Reference | None) -> None:
        white = self.white
        self.reference = given or refer(white.family.code, white.n, white.y)
        self.constant = self.reference.join(white.constant)
        self.tree = white.grow()
        levels, total, finest = len(white.counts), sum(white.counts), white.counts[-1]
        q, head = white.sizes[-1], int(self.tree.heads[-1])
        m, below = white.p + sum(each**2 for each in white.sizes), head + q * q
        self.a = np.zeros((len(white.n), head - white.p))
        self.etas = np.zeros((levels, len(white.n)))
        self.modes = np.zeros((total, MOST))
        self.inner = np.zeros((finest, q))
        self.steps = np.full(total, WIDEST)
        sign = np.where(2.0 * white.y >= white.n, 1.0, -1.0)
        slack = np.where(sign > 0.0, white.y - white.n, white.y)
        self.rows = Rows(
            self.reference.link, white.bounds[-1], white.n, white.y, self.reference.peak,
            np.ascontiguousarray(np.column_stack([white.x, *white.z[:-1]])), white.z[-1],
            sign, slack, self.etas[-1], np.zeros_like(white.z[-1]),
        )  # fmt: skip
        inner = Integrated(
            np.zeros(finest), np.zeros((finest, q)), np.zeros((finest, q, q)),
            np.zeros((finest, below)), np.zeros(finest), np.zeros((0, q)),
        )  # fmt: skip
        most = max(white.counts)
        self.out = Nested(
            inner, np.zeros(most), np.zeros((most, m)), np.zeros((levels, total, MOST)),
            np.zeros((levels, total, MOST, MOST)), np.zeros((levels, total, levels, MOST, MOST)),
            np.zeros((2, levels)),
        )  # fmt: skip

    def place(self, beta: Array, lams: Sequence[Array], steps: Array) -> Nest:
        """Return the patterns at beta~ (p,) and lam_l (q_l, q_l), as the kernels take them."""
        white = self.white
        held = np.zeros((len(lams), MOST, MOST))
        start = 0
        for level, (z, lam) in enumerate(zip(white.z, lams, strict=True)):
            held[level, : len(lam), : len(lam)] = lam
            if level + 1 < len(lams):
                self.a[:, start : start + len(lam)] = z @ lam
                start += len(lam)
        np.copyto(self.rows.a, white.z[-1] @ lams[-1])
        self.etas[0] = white.offset + white.x @ beta
        return Nest(
            self.tree, self.rows, held, self.a, self.etas, self.modes, self.inner, steps
        )  # fmt: skip

    def evaluate(
        self,
        beta: Array,
        lams: Sequence[Array],
        *,
        derivatives: bool = True,
        steps: Array | None = None,
        members: Array | None = None,
        threads: int | None = None,
    ) -> NestMarginal:
        """Return the marginal likelihood at beta~ (p,) and lam_l (q_l, q_l), coarsest first.

        Args:
            beta: whitened fixed effects.
            lams: whitened covariance factors.
            derivatives: whether score and information are wanted, which else are zero.
            steps: (N,) in the place of the integrator's own.
            members: units of the coarsest level that are integrated; of the others nothing is told.
            threads: as in `bhlm.likelihood.panels.sum_stretches`.
        """
        nest = self.place(beta, lams, self.steps if steps is None else steps)
        return self._integrate(nest, 0, derivatives, members, threads)

    def _integrate(
        self,
        nest: Nest,
        level: int,
        derivatives: bool,
        members: Array | None = None,
        threads: int | None = None,
    ) -> NestMarginal:
        """Return the integrals of units of a level, given `nest.etas[level]`."""
        white, out = self.white, self.out
        finest = len(white.counts) - 1
        members = np.arange(white.counts[level]) if members is None else members
        m = out.score.shape[1]
        # Those of few units take long enough each to be worth a thread.
        count = min(len(members), 32)
        edges = [len(members) * i // count for i in range(count + 1)]
        informations = np.zeros((count, m, m))
        tallies = np.zeros((count, 2, finest + 1))
        noise = np.zeros((0, 1 + white.sizes[-1]))
        wanted = INFORMATION if derivatives else 0
        is_single = finest == 0  # a single factor has no integrals within its own

        def fill(first: int, last: int) -> None:
            for s in range(first, last):
                some = members[edges[s] : edges[s + 1]]
                if level == finest:
                    own = nest.steps[self.tree.places[finest] :]
                    integrate(
                        nest.rows, nest.inner, own, some, wanted if is_single else 0, out.inner,
                        informations[s], noise,
                    )  # fmt: skip
                else:
                    into = out._replace(counts=tallies[s])
                    integrate_units(nest, level, some, wanted, into, informations[s])

        sum_stretches(fill, count, threads=threads)
        if level == finest:
            logliks = out.inner.loglik.copy()
        else:
            logliks = out.loglik[: white.counts[level]].copy()
        whole = informations.sum(axis=0)
        whole += np.tril(whole, -1).T
        tally = tallies.sum(axis=0)
        if is_single:
            self._take_single(derivatives)
            tally[:, 0] = len(members), out.inner.nodes[members].sum()
        means, covs, crosses = [], [], []
        for other, q in enumerate(white.sizes):
            span = slice(*self.tree.places[other : other + 2])
            first, second = out.first[level, span, :q], out.second[level, span, :q, :q]
            means.append(first.copy())
            covs.append(second - first[:, :, None] * first[:, None, :])
            own = []
            for upper in range(level, other):
                above = white.find_parents(other, upper)
                both = out.cross[level, span, upper, : white.sizes[upper], :q]
                own.append(both - means[upper][above][:, :, None] * first[:, None, :])
            crosses.append(tuple(own))
        return NestMarginal(
            loglik=float(logliks.sum()) + self.constant,
            logliks=logliks,
            score=out.score[: white.counts[0]].copy(),
            information=whole,
            means=tuple(means),
            covs=tuple(covs),
            crosses=tuple(crosses),
            nodes=tally[1] / np.maximum(tally[0], 1.0),
        )

    def _take_single(self, derivatives: bool) -> None:
        """Take the score and the effects' moments of a single factor from its integrals."""
        out, count, q = self.out, self.white.counts[0], self.white.sizes[0]
        out.score[:count] = out.inner.score if derivatives else 0.0
        mean = out.inner.mean
        out.first[0, :count, :q] = mean
        out.second[0, :count, :q, :q] = out.inner.cov + mean[:, :, None] * mean[:, None, :]

    def refine(self, beta: Array, lams: Sequence[Array], *, tolerance: float) -> None:
        """Choose each unit's step so that a smaller one changes its log-integral by less.

        From the finest level to the coarsest, with the finer steps chosen already. The effects of
        coarser levels are held at their posterior means, and two and a half posterior SDs to both
        sides of them, and the smallest of the steps is taken.

        Args:
            beta: whitened fixed effects (p,).
            lams: whitened covariance factors.
            tolerance: what each unit's log-integral may change by, if rounding lets it.
        """
        at = self.evaluate(beta, lams, derivatives=False, steps=np.full(len(self.steps), WIDEST))
        nest = self.place(beta, lams, self.steps)
        for level in reversed(range(len(lams))):
            span = slice(*self.tree.places[level : level + 2])
            tolerances = np.maximum(tolerance, self.find_rounding(nest, at, level, between=True))
            smallest = np.full(self.white.counts[level], np.inf)
            for gap in HELD if level else HELD[:1]:
                self._hold(nest, at, level, gap)
                smallest = np.minimum(smallest, self._shrink(nest, level, tolerances))
            self.steps[span] = smallest

    def _hold(self, nest: Nest, at: NestMarginal, level: int, gap: float) -> None:
        """Write the linear predictors with the effects of coarser levels held."""
        start = 0
        for other in range(level):
            q = self.white.sizes[other]
            sd = np.sqrt(np.maximum(np.einsum("jaa->ja", at.covs[other]), 0.0))
            v = at.means[other] + gap * sd / np.sqrt(level * q)
            own = np.repeat(v, np.diff(self.white.bounds[other]), axis=0)
            a = self.a[:, start : start + q]
            self.etas[other + 1] = self.etas[other] + np.einsum("iq,iq->i", a, own)
            start += q

    def _shrink(self, nest: Nest, level: int, tolerances: Array) -> Array:
        """Return the steps (J_l,) that the units of a level need, given coarser effects."""
        span = slice(*self.tree.places[level : level + 2])
        steps = self.steps.copy()
        steps[span] = WIDEST
        members = np.arange(self.white.counts[level])
        coarse = self._integrate(nest._replace(steps=steps), level, False).logliks
        for turn in range(REFINED):
            trial = steps.copy()
            trial[span] *= SHRINK
            fine = self._integrate(nest._replace(steps=trial), level, False, members).logliks
            with np.errstate(invalid="ignore"):  # of two that are -inf: not known
                change = np.abs(fine - coarse)
            members = members[~(change[members] <= tolerances[members])]
            if not len(members):
                break
            steps[span.start + members] *= SHRINK
            coarse[members] = fine[members]
            if turn == 1:
                # The error's logarithm grows with each by a factor of sqrt(2) at least.
                known = members[change[members] < NEAR]
                wanted = np.log(np.minimum(tolerances[known], 0.5)) / np.log(change[known])
                more = np.log(wanted) / np.log(1.0 / SHRINK)
                steps[span.start + known] *= SHRINK ** (np.ceil(more) - 1.0)
                members = np.setdiff1d(members, known)
                if not len(members):
                    break
        return steps[span]

    def measure_error(
        self, beta: Array, lams: Sequence[Array], at: NestMarginal
    ) -> tuple[NestMarginal, float]:
        """Return the likelihood with the steps of all levels halved, and what that changes.

        The sum over the coarsest units of the changes' sizes is the error of the likelihood at the
        steps as they were; that of the halved ones is far smaller.
        """
        halved = self.evaluate(beta, lams, derivatives=False, steps=0.5 * self.steps)
        with np.errstate(invalid="ignore"):
            return halved, float(np.abs(halved.logliks - at.logliks).sum())

    def find_rounding(
        self, nest: Nest, at: NestMarginal, level: int, *, between: bool = False
    ) -> Array:
        """Return what rounding may cost the log-integrals of a level's units (J_l,).

        At the posterior means; see `bhlm.likelihood.densities.measure_rounding`.
        """
        white, start, eta = self.white, 0, nest.etas[0].copy()
        for other, q in enumerate(white.sizes):
            last = other + 1 == len(white.sizes)
            a = nest.rows.a if last else self.a[:, start : start + q]
            own = np.repeat(at.means[other], np.diff(white.bounds[other]), axis=0)
            eta += np.einsum("iq,iq->i", a, own)
            start += q
        bounds = white.bounds[level]
        between = between and level + 1 == len(white.sizes)
        return measure_rounding(self.reference, eta, white.n, white.y, bounds, between=between)

    def measure_rounding(self, beta: Array, lams: Sequence[Array], at: NestMarginal) -> float:
        """Return what rounding may cost the log-likelihood: the units' is as good as random."""
        nest = self.place(beta, lams, self.steps)
        own = float(np.linalg.norm(self.find_rounding(nest, at, 0)))
        return own + EPS * (abs(at.loglik) + abs(self.constant))
