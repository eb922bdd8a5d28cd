"""The marginal likelihood of patterns: whitened columns, and integrals that know their error."""

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import NamedTuple

import numpy as np

from bhlm.errors import IdentifiabilityError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.densities import Reference, measure_rounding, refer
from bhlm.likelihood.families import Family
from bhlm.likelihood.identify import REPEATED
from bhlm.likelihood.lattice import INFORMATION, SCORE, Integrated, Rows, integrate, integrate_fixed
from bhlm.likelihood.lattice_sums import draw_groups
from bhlm.likelihood.panels import sum_stretches
from bhlm.likelihood.whitening import find_basis, orthonormalize, refuse_constant
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.moments import INTERCEPT
from bhlm.moments.patterns import Patterns

Array = np.ndarray

STRETCH = 64  # groups that are summed in one go
WIDEST = 1.0  # posterior SDs between nodes: of a normal integrand the error is 5e-9 there
SHRINK = 2.0**-0.5
EPS = float(np.finfo(np.float64).eps)
NEAR = 0.1  # changes of a group's log-likelihood below this foretell the next ones
REFINED = 24  # times that the step is shrunk at most, to 1 / 4096


@dataclass(frozen=True, slots=True)
class WhitenedPatterns:
    """The patterns with columns that are orthonormal and of unit scale, and the maps back."""

    starts: Array  # (J + 1,)
    n: Array  # (I,)
    y: Array  # (I,)
    offset: Array  # (I,)
    x: Array  # (I, p) X A
    z: Array  # (I, q) Z B
    family: Family
    constant: tuple[float, float]  # what rows add, and what the double leaves of it
    fixed: Array  # (p, p) A, so that beta = A beta~
    basis: Array  # (q, q) B, so that u = B u~

    @property
    def n_groups(self) -> int:
        """The number of groups J."""
        return len(self.starts) - 1

    @property
    def p(self) -> int:
        """The number of fixed effects."""
        return self.x.shape[1]

    @property
    def q(self) -> int:
        """The number of random coefficients."""
        return self.z.shape[1]

    @property
    def scale(self) -> float:
        """The response is not scaled."""
        return 1.0

    @property
    def ols(self) -> Array:
        """Where whitened fixed effects (p,) have their zero."""
        return np.zeros(self.p)

    def refer(self) -> Reference:
        """Return what the patterns' log-likelihoods are best taken relative to."""
        return refer(self.family.code, self.n, self.y)

    def stand(self, reference: Reference) -> Rows:
        """Return the patterns at parameters that are zero, as the kernels take them."""
        sign = np.where(2.0 * self.y >= self.n, 1.0, -1.0)
        slack = np.where(sign > 0.0, self.y - self.n, self.y)
        return Rows(
            reference.link, self.starts, self.n, self.y, reference.peak, self.x, self.z, sign,
            slack, self.offset, np.zeros_like(self.z),
        )  # fmt: skip


class CentredColumns:
    """The columns of patterns about their means over the patterns, so that offsets cancel once."""

    def __init__(self, patterns: Patterns | LevelPatterns) -> None:
        """Take the means and the cross-products about them."""
        n, k = patterns.values.shape
        self.patterns, self.n = patterns, float(n)
        self.grand = np.append(patterns.values.mean(axis=0), 0.0)
        self.centred = patterns.values - self.grand[:-1]
        self.total = np.zeros((k + 1, k + 1))
        self.total[:k, :k] = self.centred.T @ self.centred
        self.place = {INTERCEPT: 0} | {name: i + 1 for i, name in enumerate(patterns.columns)}

    def _locate(self, names: Sequence[str]) -> Array:
        return np.array([self.place[name] for name in names], dtype=int)

    def turn(self, names: Sequence[str], matrix: Array) -> Array:
        """Return some columns, by name, times a matrix."""
        loadings = np.zeros((self.centred.shape[1] + 2, matrix.shape[1]))
        loadings[self._locate(names)] = matrix
        offset = loadings[0] + self.grand @ loadings[1:]
        # Columns that an intercept centres have an offset that is zero but for rounding.
        size = np.abs(loadings[0]) + np.abs(self.grand) @ np.abs(loadings[1:])
        offset = np.where(np.abs(offset) < 8 * np.finfo(float).eps * size, 0.0, offset)
        return np.ascontiguousarray(self.centred @ loadings[1:-1] + offset)

    def orthonormalize(self) -> Array:
        """Return A (p, p) with (X A)'(X A) = I_p I."""
        names, total = self.patterns.fixed, self.total
        at = self._locate(names)
        _, fixed = orthonormalize(self.patterns, names, at, self.n, self.grand, total)
        return fixed * np.sqrt(self.n)

    def find_basis(self, structure: Structure) -> Array:
        """Return B (q, q) as far as the covariance structure allows."""
        at = self._locate(structure.names)
        return find_basis(self.patterns, structure, at, self.n, self.grand, self.total)


def whiten_patterns(patterns: Patterns, structure: Structure) -> WhitenedPatterns:
    """Return the whitened columns of patterns.

    X~ = X A with X~'X~ = I_p I, and Z~ = Z B as far as the covariance structure allows, both over
    the patterns.

    Raises:
        IdentifiabilityError: columns that do not vary, or repeat others; random slopes of columns
            that vary between groups alone and have too few values there.
    """
    columns = CentredColumns(patterns)
    fixed = columns.orthonormalize()
    basis = columns.find_basis(structure)
    z = columns.turn(structure.names, basis)
    check_random(patterns, structure, z, patterns.starts)
    family = patterns.family
    assert isinstance(family, Family)
    return WhitenedPatterns(
        starts=patterns.starts,
        n=patterns.n,
        y=patterns.y,
        offset=patterns.offset,
        x=columns.turn(patterns.fixed, fixed),
        z=z,
        family=family,
        constant=(patterns.constant, patterns.rest),
        fixed=fixed,
        basis=basis,
    )


def check_random(
    patterns: Patterns | LevelPatterns,
    structure: Structure,
    z: Array,
    starts: Array,
    order: Array | slice = slice(None),
) -> None:
    """Refuse random coefficients of which the groups' values do not tell G.

    `z` (I, q) are the patterns' in `order`, in which groups begin at `starts` (J + 1,).

    The likelihood of group j depends on Z_j G Z_j'. Directions D_a of G are told apart where these
    are, by the rank of sum_j tr(Z_j D_a Z_j' Z_j D_b Z_j').
    """
    inner = np.add.reduceat(z[:, :, None] * z[:, None, :], starts[:-1], axis=0)
    turned = structure.directions[:, None] @ inner[None]
    information = np.einsum("ajqs,bjsq->ab", turned, turned)
    own = np.sqrt(np.diag(information))
    values = np.linalg.eigvalsh(information / np.outer(own, own))
    if values[0] > REPEATED:
        return
    first = starts[:-1]
    columns = {
        name: patterns.values[order, patterns.columns.index(name)]
        for name in structure.names
        if name != INTERCEPT
    }
    constant = {
        name: each[first]
        for name, each in columns.items()
        if np.array_equal(each, np.repeat(each[first], np.diff(starts)))
    }
    if constant:
        raise refuse_constant(structure, constant)
    terms = " + ".join(structure.names).replace(INTERCEPT, "1")
    raise IdentifiabilityError(
        f"no '{structure.group}' has as many different rows as ({terms} | {structure.group}) has "
        "coefficients, and what they have does not tell its variances and covariances apart; drop "
        "random terms"
    )


class Marginal(NamedTuple):
    """The marginal log-likelihood at one set of parameters, by group, with its derivatives."""

    loglik: float
    logliks: Array  # (J,)
    score: Array  # (J, m) by beta~ and lam, row by row: m = p + q^2
    information: Array  # (m, m) observed
    mean: Array  # (J, q) posterior mean of v, u~ = lam v
    cov: Array  # (J, q, q) posterior covariance of v
    nodes: int


class Drawn(NamedTuple):
    """Draws of the random effects at N sets of parameters."""

    v: Array  # (N, J, q) u~ = lam v
    logliks: Array  # (N, J)
    errors: Array  # (N,) of the sum over groups, by another lattice


@dataclass(slots=True)
class Integrator:
    """The marginal likelihood of patterns; it keeps the modes, and the step of each group's nodes.

    `refine` chooses the steps, and `measure_error` tells what halving them changes.
    """

    white: WhitenedPatterns
    given: InitVar[Reference | None] = None  # None takes what suits the patterns
    reference: Reference = field(init=False)
    constant: float = field(init=False)  # of the log-likelihood, beside the groups' integrals
    rows: Rows = field(init=False)  # at parameters that are zero
    modes: Array = field(init=False)  # (J, q)
    steps: Array = field(init=False)  # (J,) posterior SDs between nodes

    def __post_init__(self, given: Reference | None) -> None:
        groups, q = self.white.n_groups, self.white.z.shape[1]
        self.reference = self.white.refer() if given is None else given
        self.constant = self.reference.join(self.white.constant)
        self.rows = self.white.stand(self.reference)
        self.modes = np.zeros((groups, q))
        self.steps = np.full(groups, WIDEST)

    def place(self, beta: Array, lam: Array) -> Rows:
        """Return the patterns at beta~ (p,) and lam (q, q), as the kernels take them."""
        white = self.white
        eta, a = white.offset + white.x @ beta, np.ascontiguousarray(white.z @ lam)
        return self.rows._replace(eta=eta, a=a)

    def evaluate(
        self,
        beta: Array,
        lam: Array,
        *,
        derivatives: bool = True,
        information: bool = True,
        steps: Array | None = None,
        members: Array | None = None,
        threads: int | None = None,
    ) -> Marginal:
        """Return the marginal likelihood at beta~ (p,) and lam (q, q).

        Args:
            beta: whitened fixed effects.
            lam: whitened covariance factor.
            derivatives: whether score and information are wanted, which else are zero.
            information: False is content with the score.
            steps: (J,) in the place of the integrator's own.
            members: groups that are integrated; of the others nothing is told.
            threads: as in `bhlm.likelihood.panels.sum_stretches`.
        """
        white = self.white
        q, p, groups = white.z.shape[1], white.x.shape[1], white.n_groups
        m = p + q * q
        steps = self.steps if steps is None else steps
        members = np.arange(groups) if members is None else members
        out = Integrated(
            np.zeros(groups),
            np.zeros((groups, q)),
            np.zeros((groups, q, q)),
            np.zeros((groups, m)),
            np.zeros(groups),
            np.zeros((0, q)),
        )
        rows = self.place(beta, lam)
        stretches = max(1, -(-len(members) // STRETCH))
        informations = np.zeros((stretches, m, m))
        noise = np.zeros((0, 1 + q))
        wanted = (INFORMATION if information else SCORE) if derivatives else 0

        def fill(first: int, last: int) -> None:
            for s in range(first, last):
                some = members[s * STRETCH : (s + 1) * STRETCH]
                integrate(rows, self.modes, steps, some, wanted, out, informations[s], noise)

        sum_stretches(fill, stretches, threads=threads)
        whole = informations.sum(axis=0)
        if wanted == INFORMATION:  # the kernels write the lower triangle
            whole += np.tril(whole, -1).T
        return Marginal(
            loglik=float(out.loglik.sum()) + self.constant,
            logliks=out.loglik,
            score=out.score,
            information=whole,
            mean=out.mean,
            cov=out.cov,
            nodes=int(out.nodes.sum()),
        )

    def refine(
        self,
        beta: Array,
        lam: Array,
        *,
        tolerance: float,
        is_foretold: bool = False,
        start: Array | None = None,
    ) -> None:
        """Choose each group's step so that a smaller one changes its log-likelihood by less.

        Args:
            beta: whitened fixed effects (p,).
            lam: whitened covariance factor (q, q).
            tolerance: what each group's log-likelihood may change by, if rounding lets it.
            is_foretold: whether the second change tells how many more are needed: the error's
                logarithm grows with each by a factor of sqrt(2) of an integrand with poles, and of
                2 of a normal one. `measure_error` tells whether that was right.
            start: (J,) log-likelihoods at the widest steps, where they are known.
        """
        members = np.arange(self.white.n_groups)
        self.steps = np.full(len(members), WIDEST)
        if start is None:
            start = self.evaluate(beta, lam, derivatives=False).logliks
        coarse = start.copy()
        tolerances = np.maximum(tolerance, self.find_rounding(beta, lam, between=True))
        for turn in range(REFINED):
            fine = self.evaluate(
                beta, lam, derivatives=False, steps=self.steps * SHRINK, members=members
            ).logliks
            with np.errstate(invalid="ignore"):  # of two that are -inf: not known
                change = np.abs(fine - coarse)
            members = members[~(change[members] <= tolerances[members])]
            if not len(members):
                break
            self.steps[members] *= SHRINK
            coarse[members] = fine[members]
            if is_foretold and turn == 1:
                known = members[change[members] < NEAR]
                wanted = np.log(np.minimum(tolerances[known], 0.5)) / np.log(change[known])
                more = np.log(wanted) / np.log(1.0 / SHRINK)
                self.steps[known] *= SHRINK ** (np.ceil(more) - 1.0)
                members = np.setdiff1d(members, known)
                if not len(members):
                    break

    def measure_error(self, beta: Array, lam: Array, at: Marginal) -> tuple[Marginal, float]:
        """Return the likelihood with every step halved, and what that changes.

        The sum over groups of the changes' sizes is the error of the likelihood at the steps as
        they were; that of the halved ones is far smaller.
        """
        halved = self.evaluate(beta, lam, derivatives=False, steps=0.5 * self.steps)
        return halved, float(np.abs(halved.logliks - at.logliks).sum())

    def find_rounding(self, beta: Array, lam: Array, *, between: bool = False) -> Array:
        """Return what rounding may cost each group's log-likelihood (J,), at the modes found last.

        See `bhlm.likelihood.densities.measure_rounding`.
        """
        white, rows = self.white, self.place(beta, lam)
        v = np.repeat(self.modes, np.diff(white.starts), axis=0)
        eta = rows.eta + np.einsum("iq,iq->i", rows.a, v)
        return measure_rounding(
            self.reference, eta, white.n, white.y, white.starts, between=between
        )

    def measure_rounding(self, beta: Array, lam: Array, at: Marginal) -> float:
        """Return what rounding may cost the log-likelihood: the groups' is as good as random."""
        own = float(np.linalg.norm(self.find_rounding(beta, lam)))
        return own + EPS * (abs(at.loglik) + abs(self.constant))

    def draw_effects(self, beta: Array, lam: Array, *, noise: Array) -> "Drawn":
        """Return one draw of each group's v at each of N sets of parameters.

        The nodes are moved by a uniform share of their distance, and one is taken in proportion to
        the integrand there, which is a draw from the posterior of v as exact as the likelihood; see
        `bhlm.likelihood.lattice`. What the two lattices differ by is the error of both.

        Args:
            beta: whitened fixed effects (N, p).
            lam: whitened covariance factors (N, q, q).
            noise: (N, J, 1 + q) uniform numbers.
        """
        count, groups, q = len(beta), self.white.n_groups, self.white.q
        logliks, v = np.zeros((count, groups)), np.zeros((count, groups, q))
        errors = np.zeros(count)
        draw_groups(
            self.rows, np.ascontiguousarray(beta), np.ascontiguousarray(lam), self.modes,
            self.steps, noise, logliks, v, errors,
        )  # fmt: skip
        heights = np.add.reduceat(self.reference.heights, self.white.starts[:-1])
        return Drawn(v, logliks + heights, errors)

    def copy(self) -> "Integrator":
        """Return an integrator with the same nodes, whose modes move on their own."""
        made = Integrator(self.white, self.reference)
        made.modes[:] = self.modes
        made.steps[:] = self.steps
        return made

    def by_gauss_hermite(self, beta: Array, lam: Array, *, nagq: int) -> float:
        """Return the log-likelihood by `nagq` Gauss-Hermite nodes per dimension about the modes."""
        q = self.white.z.shape[1]
        t, w = np.polynomial.hermite.hermgauss(nagq)
        nodes = np.stack(np.meshgrid(*[t] * q, indexing="ij"), axis=-1).reshape(-1, q)
        logs = np.log(w) + t**2
        logs = np.sum(np.meshgrid(*[logs] * q, indexing="ij"), axis=0).ravel()
        out = np.empty(self.white.n_groups)
        rows = self.place(beta, lam)
        integrate_fixed(rows, self.modes, np.ascontiguousarray(nodes), logs, out)
        return float(out.sum()) + self.constant
