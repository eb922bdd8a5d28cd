"""The covariance structures of the random coefficients, each linear in its parameters.

Write Psi = G / sigma^2 for the relative covariance and Psi = lam lam' for a square root of
it. Every structure here is linear twice over: lam = sum_c theta_c N_c (the *factors*, in which
the optimiser moves freely, since the sign of a factor does not matter), and
G = sum_a g_a E_a (the *directions*, in which standard errors are reported).

A structure is one class: whatever differs between structures is a method or an attribute of it,
and nobody else asks which one a fit has. To add one, write the class and its line in `STRUCTURES`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np

from bhlm.design.kernels import light_kernel
from bhlm.errors import ArgumentError
from bhlm.likelihood.parameters import Parameter
from bhlm.moments.moments import Moments
from bhlm.moments.patterns import Patterns

if TYPE_CHECKING:
    from bhlm.likelihood.whitening import Whitened

Array = np.ndarray
type Terms = tuple[tuple[str, ...], ...]  # the coefficients of each random term of a formula
type Labels = tuple[tuple[int, int], ...]  # (row, column) of elements of G


class Based(NamedTuple):
    """The columns in which one factor's random coefficients were whitened."""

    basis: Array  # (q, q) B, with Z~ = Z B
    scale: float  # the unit of the response


@dataclass(frozen=True, slots=True)
class Structure(ABC):
    """One covariance structure of the q random coefficients of a single factor.

    `kind` is the name that users write and tables print. `whitening` says which change of basis
    Z -> Z B keeps the structure: any triangular one within each block, a scale per column, or one
    common scale. `correlation_law` names how priors stand on the correlations of a block, by a
    class of `bhlm.bayes.priors.correlations`.
    """

    kind: ClassVar[str]
    whitening: ClassVar[Literal["triangular", "columns", "common"]]
    correlation_law: ClassVar[str] = "partial"

    group: str  # the grouping factor
    terms: Terms  # of the formula, in the order of the coefficients
    factors: Array = field(init=False, repr=False, compare=False)  # (c, q, q) N_c
    directions: Array = field(init=False, repr=False, compare=False)  # (m, q, q) symmetric E_a
    labels: Labels = field(init=False, repr=False, compare=False)  # where each g_a is read from
    # The rows and columns (m,) of the labels, and what `project` divides by.
    _at: tuple[Array, Array] = field(init=False, repr=False, compare=False)
    _lengths: tuple[Array, Array] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Lay out factors, directions and labels."""
        factors, directions, labels = self._span()
        rows, columns = np.array(labels, dtype=np.intp).reshape(-1, 2).T
        lengths = (directions**2).sum(axis=(1, 2)), (factors**2).sum(axis=(1, 2))
        for name, value in (
            *(("factors", factors), ("directions", directions), ("labels", labels)),
            *(("_at", (rows, columns)), ("_lengths", lengths)),
        ):
            object.__setattr__(self, name, value)

    @abstractmethod
    def _span(self) -> tuple[Array, Array, Labels]:
        """Return the factors, the directions and the labels."""

    @property
    @abstractmethod
    def blocks(self) -> Terms:
        """The sets of coefficients that may be correlated, in the order of the coefficients."""

    @property
    def names(self) -> tuple[str, ...]:
        """The random coefficients."""
        return tuple(name for term in self.terms for name in term)

    @property
    def q(self) -> int:
        """How many random coefficients there are."""
        return sum(map(len, self.terms))

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many coefficients each block has, summing to q."""
        return tuple(map(len, self.blocks))

    @property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The blocks by the places of their coefficients."""
        stops = np.cumsum(self.sizes).tolist()
        return tuple(
            tuple(range(stop - size, stop)) for stop, size in zip(stops, self.sizes, strict=True)
        )

    @property
    def parts(self) -> tuple["Structure", ...]:
        """The structure of each grouping factor, one after the other: this one alone."""
        return (self,)

    @property
    def spans(self) -> tuple[slice, ...]:
        """The places of the coefficients of each of the `parts`."""
        stops = np.cumsum([part.q for part in self.parts]).tolist()
        return tuple(
            slice(stop - part.q, stop) for stop, part in zip(stops, self.parts, strict=True)
        )

    @property
    def variances(self) -> tuple[Parameter, ...]:
        """The free elements of G as parameters: variances and covariances, as in `labels`."""
        return _name_variances(self)

    @property
    def scaled(self) -> tuple[Parameter, ...]:
        """The same as SDs and correlations."""
        return _name_scaled(self)

    @property
    def sds(self) -> tuple[Parameter, ...]:
        """The SDs that are free."""
        return tuple(parameter for parameter in self.scaled if parameter.is_sd)

    @property
    def correlations(self) -> Parameter:
        """All correlations together, as a prior has them: `corr(|group)`."""
        return Parameter("corr", "", group=self.group)

    @property
    def owners(self) -> tuple[int, ...]:
        """Which of the free SDs, by its place in `sds`, each coefficient has (q,)."""
        return tuple(range(self.q))

    @property
    def powers(self) -> tuple[int, ...]:
        """The power of each free SD, with flat correlations, that is flat on G's free elements."""
        return tuple(len(self.find_block(i)) for i in range(self.q))

    @property
    def has_correlations(self) -> bool:
        """Whether some coefficients may be correlated."""
        return max(self.sizes) > 1

    @property
    def shares_variance(self) -> bool:
        """Whether several coefficients have one variance, so that none has one of its own."""
        return False

    @property
    def correlation_bounds(self) -> tuple[float, float]:
        """The values between which a correlation can lie."""
        return -1.0, 1.0

    @property
    def title(self) -> str:
        """The structure's name at the head of a printed table."""
        return "Identity" if self.q == 1 else self.kind.capitalize()

    @property
    def sections(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """The parts that a printed table shows on their own: title and places of each."""
        return ((self.title, tuple(range(self.q))),)

    @property
    def name_override(self) -> str | None:
        """The `covariance=` that asks for the structure; None if it is the formula's own."""
        return None if self == combine(self.terms, group=self.group) else self.kind

    def find_block(self, i: int) -> list[int]:
        """Return the places of the coefficients that may covary with i, and i, in order."""
        return list(next(block for block in self.places if i in block))

    def read(self, g: Array) -> Array:
        """Return the free elements (..., m) of matrices (..., q, q) such as G."""
        rows, columns = self._at
        found: Array = g[..., rows, columns]
        return found

    def assemble(self, values: Array) -> Array:
        """Return G (q, q) from its free elements (m,)."""
        flat = self.directions.reshape(len(self.directions), -1)
        return np.asarray((values @ flat).reshape(self.directions.shape[1:]))

    def project(self, psi: Array) -> Array:
        """Return theta (c,) whose lam lam' is the structure's nearest match to psi (q, q).

        Psi is first averaged over each direction's pattern, then a square root is taken that lies
        in the span of the factors; eigenvalues that rounding made negative count as zero.
        """
        directions = self.directions.reshape(len(self.directions), -1)
        factors = self.factors.reshape(len(self.factors), -1)
        wide, long = self._lengths
        means = (directions @ psi.ravel()) / wide
        root = self._take_root((means @ directions).reshape(psi.shape))
        return np.asarray((factors @ root.ravel()) / long)

    def _take_root(self, psi: Array) -> Array:
        """Return a square root (q, q) of a covariance of the structure, in the factors' span."""
        return np.asarray(semidefinite_cholesky(psi))

    def family(self) -> "Family":
        """Return the family of all covariance matrices of the structure."""
        return Family(self, np.eye(self.q), np.zeros((self.q, self.q)), self.factors)

    def family_with_sd(self, white: "Based | Whitened", i: int, *, sd: float) -> "Family":
        """Return the family in which coefficient i has the given SD."""
        q, block = self.q, self.find_block(i)
        turn, first = np.eye(q), block[0]
        vectors, triangle = np.linalg.qr(white.basis[i, block][:, None], mode="complete")
        turn[np.ix_(block, block)] = vectors
        base = np.zeros((q, q))
        base[first, first] = sd / (white.scale * abs(triangle[0, 0]))
        free = [factor for factor in self.factors if not factor[first].any()]
        return Family(self, turn, base, _stack(free, q))

    def family_with_correlation(
        self, white: "Based | Whitened", i: int, j: int, *, correlation: float
    ) -> "Family":
        """Return the family in which coefficients i and j have the given correlation."""
        q, block = self.q, self.find_block(i)
        turn, (first, second) = np.eye(q), block[:2]
        vectors, triangle = np.linalg.qr(white.basis[np.ix_([i, j], block)].T, mode="complete")
        # Positive first coordinates, so that L_11 and the correlation have the right signs.
        signs = np.ones(len(block))
        signs[:2] = np.where(np.diag(triangle) < 0.0, -1.0, 1.0)
        turn[np.ix_(block, block)] = vectors * signs
        (_, shared), (_, own) = triangle[:2] * signs[:2, None]
        # Row j of the turned basis is (shared, own): shared L_11 + own L_21 = r SD_j, and own L_22
        # = s SD_j, with r the correlation and s = sqrt(1 - r^2): a plane in (L_11, L_21, L_22).
        # Its axes are orthonormal, however small `own` is beside `shared`: of a covariate far from
        # zero, coordinates such as L_11 and SD_j would differ in their last digits alone.
        r, s = correlation, np.sqrt(1.0 - correlation**2)
        slant = -shared / own
        size = np.hypot(1.0, slant * s)
        spans = np.zeros((2, q, q))
        spans[0, first, first] = 1.0 / size
        spans[0, second, first] = slant * s**2 / size
        spans[0, second, second] = -slant * s * r / size
        spans[1, second, first] = r
        spans[1, second, second] = s
        free = [factor for factor in self.factors if not factor[[first, second]].any()]
        signs = np.zeros((2, 2 + len(free)))
        signs[0, 0] = 1.0 / size  # L_11
        signs[1, :2] = shared * r / size, own  # SD_j
        spans = np.concatenate([spans, _stack(free, q)])
        return Family(self, turn, np.zeros((q, q)), spans, signs=signs)


@lru_cache(maxsize=256)
def _name_variances(structure: Structure) -> tuple[Parameter, ...]:
    names, group = structure.names, structure.group
    return tuple(
        Parameter("var", names[i], group=group)
        if i == j
        else Parameter("cov", names[i], names[j], group)
        for i, j in structure.labels
    )


@lru_cache(maxsize=256)
def _name_scaled(structure: Structure) -> tuple[Parameter, ...]:
    return tuple(parameter.scaled for parameter in structure.variances)


@dataclass(frozen=True, slots=True)
class Unstructured(Structure):
    """Every variance and covariance is free; lam is lower triangular."""

    kind: ClassVar[str] = "unstructured"
    whitening: ClassVar = "triangular"

    @property
    def blocks(self) -> Terms:
        """All coefficients as one set."""
        return (self.names,)

    def _span(self) -> tuple[Array, Array, Labels]:
        return _span_triangle(self.q)


@dataclass(frozen=True, slots=True)
class Independent(Structure):
    """Every coefficient has its own variance, and there are no covariances."""

    kind: ClassVar[str] = "independent"
    whitening: ClassVar = "columns"

    @property
    def blocks(self) -> Terms:
        """Every coefficient on its own."""
        return tuple((name,) for name in self.names)

    def _span(self) -> tuple[Array, Array, Labels]:
        labels = tuple((i, i) for i in range(self.q))
        units = _units(self.q, labels)
        return units, units, labels


@dataclass(frozen=True, slots=True)
class BlockDiagonal(Structure):
    """The coefficients of each term are unstructured, those of different terms independent."""

    kind: ClassVar[str] = "unstructured"
    whitening: ClassVar = "triangular"

    @property
    def blocks(self) -> Terms:
        """The terms."""
        return self.terms

    @property
    def sections(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """One section per term."""
        return tuple(
            (Unstructured(self.group, (term,)).title, places)
            for term, places in zip(self.terms, self.places, strict=True)
        )

    def _span(self) -> tuple[Array, Array, Labels]:
        placed = [place_span(_span_triangle(len(block)), block[0], self.q) for block in self.places]
        return (
            np.concatenate([factors for factors, _, _ in placed]),
            np.concatenate([directions for _, directions, _ in placed]),
            tuple(label for _, _, labels in placed for label in labels),
        )


@dataclass(frozen=True, slots=True)
class _Shared(Structure):
    """All coefficients share one variance; lam is the symmetric square root."""

    whitening: ClassVar = "common"

    @property
    def owners(self) -> tuple[int, ...]:
        """All coefficients have the first's."""
        return (0,) * self.q

    @property
    def powers(self) -> tuple[int, ...]:
        """All free elements of G, the variance and maybe a covariance, grow as its square."""
        return (2 * len(self.labels) - 1,)

    @property
    def shares_variance(self) -> bool:
        """Whether there is more than one coefficient."""
        return self.q > 1

    def _take_root(self, psi: Array) -> Array:
        values, vectors = np.linalg.eigh(psi)
        return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)

    def family_with_sd(self, white: "Based | Whitened", i: int, *, sd: float) -> "Family":
        """Return the family in which all coefficients have the given SD."""
        q, r = self.q, sd / (white.scale * white.basis[i, i])
        if len(self.factors) == 1:
            return Family(self, np.eye(q), r * self.factors[0], self.factors[:0])
        # The two eigenvalues of G move on an ellipse: q SD^2 = (q - 1) x + y.
        sizes = np.array([np.sqrt(q / (q - 1.0)), np.sqrt(q)])
        spans = r * sizes[:, None, None] * self.factors
        return Family(self, np.eye(q), np.zeros((q, q)), spans, angular=True)


@dataclass(frozen=True, slots=True)
class Exchangeable(_Shared):
    """One shared variance and one shared covariance.

    lam = theta_1 (I - 11'/q) + theta_2 11'/q, so that every attainable pair, with correlations
    from -1/(q-1) to 1, has a real theta.
    """

    kind: ClassVar[str] = "exchangeable"
    correlation_law: ClassVar[str] = "common"

    @property
    def blocks(self) -> Terms:
        """All coefficients as one set."""
        return (self.names,)

    @property
    def correlation_bounds(self) -> tuple[float, float]:
        """Below the lower one, G is not positive semidefinite."""
        return -1.0 / (self.q - 1.0), 1.0

    def family_with_correlation(
        self, white: "Based | Whitened", i: int, j: int, *, correlation: float
    ) -> "Family":
        """Return the family in which all coefficients have the given correlation."""
        q = self.q
        weights = np.sqrt(np.maximum([1.0 - correlation, 1.0 + (q - 1.0) * correlation], 0.0))
        span = np.tensordot(weights, self.factors, axes=1)
        return Family(self, np.eye(q), np.zeros((q, q)), span[None])

    def _span(self) -> tuple[Array, Array, Labels]:
        q, eye = self.q, np.eye(self.q)
        if q == 1:
            return eye[None], eye[None], ((0, 0),)
        mean = np.full((q, q), 1.0 / q)
        directions = np.stack([eye, np.ones((q, q)) - eye])
        return np.stack([eye - mean, mean]), directions, ((0, 0), (0, 1))


@dataclass(frozen=True, slots=True)
class Identity(_Shared):
    """One variance that all coefficients share, and no covariances."""

    kind: ClassVar[str] = "identity"

    @property
    def blocks(self) -> Terms:
        """Every coefficient on its own."""
        return tuple((name,) for name in self.names)

    def _span(self) -> tuple[Array, Array, Labels]:
        eye = np.eye(self.q)[None]
        return eye, eye, ((0, 0),)


STRUCTURES: dict[str, type[Structure]] = {
    each.kind: each for each in (Unstructured, Independent, Exchangeable, Identity)
}


def arrange(moments: "Moments | Patterns", covariance: str | None = None) -> Structure:
    """Return the structure of the random coefficients of `moments`; see `combine`."""
    return combine(moments.blocks, group=moments.group, covariance=covariance)


def combine(terms: Terms, *, group: str, covariance: str | None = None) -> Structure:
    """Return the structure of all q coefficients of a single factor.

    Without `covariance` each random term of the formula is unstructured, as in lme4; a name from
    `STRUCTURES` overrides and treats all coefficients as one block, as Stata's `covariance()` does.

    Raises:
        ArgumentError: `covariance` is not one of the known names.
    """
    if covariance is not None and covariance not in STRUCTURES:
        raise ArgumentError(
            f"covariance={covariance!r} is not known; choose one of {', '.join(STRUCTURES)}"
        )
    return _make(terms, group, covariance)


@lru_cache(maxsize=64)  # frozen, and asked for by every refit
def _make(terms: Terms, group: str, covariance: str | None) -> Structure:
    if covariance is not None:
        return STRUCTURES[covariance](group, terms)
    if len(terms) == 1:
        return Unstructured(group, terms)
    if all(len(term) == 1 for term in terms):
        return Independent(group, terms)
    return BlockDiagonal(group, terms)


@dataclass(frozen=True, slots=True)
class Family:
    """Covariance matrices G = L L' of a structure in which one SD or correlation may be given.

    In the whitened columns and in units of y~, L = turn (base + sum_c x_c spans_c) or, if
    `angular`, with cos(x) and sin(x) for the two x_c. L keeps the held parameter and moves freely
    otherwise, so that the rest is found by unconstrained minimisation, up to and including the
    boundary (an SD of 0, a correlation of +-1).

    With b_i the row of the whitening basis B that belongs to coefficient i, SD_i = s |L' b_i|. Turn
    the coordinates so that b_i points along the first axis: then SD_i = s |b_i| L_11. Turn them so
    that b_i has one and b_j two coordinates: then the SDs and the correlation of i and j fix the
    first two rows of L.
    """

    structure: Structure
    turn: Array  # (q, q) orthogonal
    base: Array  # (q, q)
    spans: Array  # (c, q, q)
    angular: bool = False
    # (2, c): x times its rows is signed as the two SDs whose correlation is held; where the signs
    # differ the correlation is the opposite one. None where no sign matters.
    signs: Array | None = None

    def keeps_signs(self, x: Array) -> bool:
        """Return whether the held correlation has its sign at x (c,)."""
        return self.signs is None or float(np.prod(self.signs @ x)) >= 0.0

    def at(self, x: Array) -> tuple[Array, Array, Array]:
        """Return L (q, q), its slopes (c, q, q) and its second derivatives (c, c, q, q)."""
        if self.angular:
            ahead = np.tensordot([np.cos(x[0]), np.sin(x[0])], self.spans, axes=1)
            aside = np.tensordot([-np.sin(x[0]), np.cos(x[0])], self.spans, axes=1)
            return self.turn @ ahead, (self.turn @ aside)[None], -(self.turn @ ahead)[None, None]
        straight = self.base + np.tensordot(x, self.spans, axes=1)
        bends = np.zeros((len(x), len(x), *self.base.shape))
        return self.turn @ straight, self.turn @ self.spans, bends

    def coordinates(self, g: Array) -> Array:
        """Return the x (c,) whose L L' is near g (q, q)."""
        theta = self.structure.project(self.turn.T @ g @ self.turn)
        target = np.tensordot(theta, self.structure.factors, axes=1) - self.base
        spans = self.spans.reshape(len(self.spans), target.size).T
        weights = np.linalg.lstsq(spans, target.ravel())[0]
        return np.array([np.arctan2(weights[1], weights[0])]) if self.angular else weights


@light_kernel
def semidefinite_cholesky(matrix: Array) -> Array:
    """Return the lower Cholesky factor (q, q) of a matrix that may be singular."""
    q = len(matrix)
    root = np.zeros((q, q))
    floor = 1e-300
    for j in range(q):
        floor += 1e-14 * max(matrix[j, j], 0.0)
    for j in range(q):
        pivot = matrix[j, j]
        for i in range(j):
            pivot -= root[j, i] * root[j, i]
        if pivot > floor:
            root[j, j] = np.sqrt(pivot)
            for k in range(j + 1, q):
                value = matrix[k, j]
                for i in range(j):
                    value -= root[k, i] * root[j, i]
                root[k, j] = value / root[j, j]
    return root


@light_kernel
def bound_eigenvalues(matrix: Array) -> float:
    """Return what the least eigenvalue of a symmetric matrix (q, q) is at least, 0 if not above it.

    By its determinant: the product of the others is at most the power of their mean.
    """
    q = len(matrix)
    root = semidefinite_cholesky(matrix)
    least, trace = 1.0, 0.0
    for a in range(q):
        least *= root[a, a] ** 2
        trace += matrix[a, a]
    for _ in range(q - 1):
        least *= (q - 1) / trace
    return least if least > 0.0 else 0.0


def _span_triangle(q: int) -> tuple[Array, Array, Labels]:
    """Return what spans all covariance matrices (q, q) and their lower roots."""
    pairs = [(row, column) for row in range(q) for column in range(row + 1)]
    factors = np.zeros((len(pairs), q, q))
    for index, (row, column) in enumerate(pairs):
        factors[index, row, column] = 1.0
    labels = [(i, i) for i in range(q)] + [(i, j) for i in range(q) for j in range(i + 1, q)]
    return factors, _units(q, labels), tuple(labels)


def _units(q: int, labels: Sequence[tuple[int, int]]) -> Array:
    units = np.zeros((len(labels), q, q))
    for index, (row, column) in enumerate(labels):
        units[index, row, column] = units[index, column, row] = 1.0
    return units


def place_span(
    part: tuple[Array, Array, Labels], start: int, q: int
) -> tuple[Array, Array, Labels]:
    """Return the span of one block (b, b) of matrices (q, q)."""
    span, units, labels = part
    inside = slice(start, start + span.shape[1])
    factors, directions = np.zeros((len(span), q, q)), np.zeros((len(units), q, q))
    factors[:, inside, inside] = span
    directions[:, inside, inside] = units
    return factors, directions, tuple((row + start, column + start) for row, column in labels)


def _stack(factors: Sequence[Array], q: int) -> Array:
    return np.array(factors).reshape(-1, q, q)


def lower_roots(g: Array) -> Array:
    """Return lower roots (..., q, q) of covariance matrices (..., q, q), singular ones included."""
    sd = np.sqrt(np.einsum("...ii->...i", g))
    safe = np.where(sd > 0.0, sd, 1.0)
    q = g.shape[-1]
    scaled = g / (safe[..., :, None] * safe[..., None, :])
    root = np.zeros_like(g)
    for j in range(q):
        left = scaled[..., j:, j] - np.einsum(
            "...ik,...k->...i", root[..., j:, :j], root[..., j, :j]
        )
        pivot = np.sqrt(np.maximum(left[..., 0], 0.0))
        root[..., j, j] = pivot
        root[..., j + 1 :, j] = left[..., 1:] / np.where(pivot > 0.0, pivot, 1.0)[..., None]
    return root * sd[..., :, None]
