"""Whitened patterns -> the maximum of their marginal likelihood.

Newton's method with the exact gradient and Hessian by (beta, theta), as theta is free: the
likelihood depends on lam lam' alone, which is even in the factors' signs, so that a variance of
zero is an ordinary stationary point.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.densities import refer, sum_patterns
from bhlm.likelihood.families import Family
from bhlm.likelihood.patterns import SHRINK, WIDEST, Integrator, Marginal, WhitenedPatterns
from bhlm.reml.optimize import ZERO, Step

Array = np.ndarray

TOLERANCE = 1e-8  # of the log-likelihood: what its quadrature may be wrong by
NEAR = 1e-2  # of the maximum, in units of the log-likelihood: coarse nodes have done their part
DONE = 1e-15  # estimates are then within 5e-8 of their standard errors
ITERATIONS = 60
SADDLES = 5
STATIONARY = 1e-5  # of the gradient in whitened units
# What Newton's step would gain at most, in units of the log-likelihood, where rounding of large
# counts keeps the gradient above that: estimates are then within 1e-4 of their standard errors.
GAINED = 1e-8
COARSEST = 1e-4  # and of the largest, where the log-likelihood has no more digits: within 1e-2
SETTLED = 1e-7  # of the log-likelihood: what a variance set to zero may cost
# Share of an effect's variance that the rows of no group tell more than: zero is tried there.
UNKNOWN = 1e-2
FLAT = 1e-10  # curvature below this share of the largest is none
SHORTEST = 1e-8
LARGEST_STEP = 4.0  # of beta~ and theta at a time
STARTING_STEPS = 3
LEFT = 1e-3  # of I - C at least
LONGEST = 25.0  # factor of a variance in a starting step at most
# The variance of effects at which those of the linear model are too small by sqrt(2).
HALVED = {"logit": (15.0 * np.pi / 16.0) ** 2 / 3.0, "probit": 1.0}
# A linear predictor beyond this has left what data can tell: probabilities within 1e-13 of 0 or 1.
DIVERGED = 30.0


class Linear(NamedTuple):
    """The maximum without random effects."""

    beta: Array  # (p,) whitened
    loglik: float
    eta: Array  # (I,)
    converged: bool


class Rows(Protocol):
    """Whitened patterns, whatever their factors."""

    @property
    def n(self) -> Array:
        """Trials or exposure (I,)."""

    @property
    def y(self) -> Array:
        """Successes or events (I,)."""

    @property
    def offset(self) -> Array:
        """Of the linear predictor (I,)."""

    @property
    def x(self) -> Array:
        """The fixed columns (I, p)."""

    @property
    def family(self) -> Family:
        """The family, with its link."""

    @property
    def constant(self) -> tuple[float, float]:
        """What rows add to the log-likelihood beside patterns, and what the double leaves of it."""


class PlainRows(NamedTuple):
    """Patterns without random effects, in an order of their own."""

    n: Array  # (I,)
    y: Array  # (I,)
    offset: Array  # (I,)
    x: Array  # (I, p)
    family: Family
    constant: tuple[float, float]


class Point(NamedTuple):
    """Minus the log-likelihood at a point, with its derivatives by (beta~, theta)."""

    value: float
    gradient: Array  # (p + c,)
    hessian: Array  # (p + c, p + c)


def keep_finite(value: float, gradient: Array, hessian: Array) -> Point:
    """Return a point whose numbers are finite, or one that no step goes to and none leaves.

    Where data are separated the search goes on until means under- and overflow.
    """
    if np.isfinite(value) and np.isfinite(gradient).all() and np.isfinite(hessian).all():
        return Point(value, gradient, hessian)
    return Point(np.inf, np.full_like(gradient, np.nan), np.eye(len(gradient)))


@dataclass(frozen=True, slots=True)
class FamilyOptimum:
    """The maximum found, in whitened units."""

    beta: Array  # (p,)
    theta: Array  # (c,)
    lam: Array  # (q, q)
    at: Marginal  # with the nodes' steps halved, and the derivatives of those before
    gradient: Array  # (p + c,) of the log-likelihood
    information: Array  # (p + c, p + c) observed
    error: float  # of the log-likelihood, by halving the steps, and by rounding
    converged: bool
    singular: bool
    steps: tuple[Step, ...]


def fit_linear(white: Rows) -> Linear:
    """Return the generalised linear model without random effects, by Newton's method.

    Where the data are separated, the search goes on until probabilities are 0 and 1, and
    `converged` is False.
    """
    count, p = white.x.shape
    slope, bend = np.empty(count), np.empty(count)
    reference = refer(white.family.code, white.n, white.y)

    def evaluate(beta: Array) -> float:
        eta = white.offset + white.x @ beta
        found = sum_patterns(
            reference.link, eta, white.n, white.y, reference.peak, slope, bend
        )  # fmt: skip
        return float(found) if np.isfinite(found) else -np.inf

    beta = np.zeros(p)
    # Where nothing ever happened there is no maximum, which is told later.
    mean = max(white.y.sum() / white.n.sum(), np.finfo(np.float64).tiny)
    guess = white.family.apply_link(np.array(mean)) - np.average(white.offset, weights=white.n)
    beta = np.linalg.lstsq(white.x, np.full(count, float(guess)))[0]
    value = evaluate(beta)
    for _ in range(ITERATIONS):
        gradient = slope @ white.x
        information = (white.x * bend[:, None]).T @ white.x
        floor = 1e-12 * np.trace(information) / p
        step = np.linalg.solve(information + floor * np.eye(p), gradient)
        decrement = float(gradient @ step)
        if not decrement > DONE:
            break
        share = 1.0
        while not (found := evaluate(beta + share * step)) >= value and share > 1e-9:
            share *= 0.5
        beta, value = beta + share * step, max(found, value)
    eta = white.offset + white.x @ beta
    evaluate(beta)
    spread = np.abs(eta - white.offset).max() if white.family.code != 3 else 0.0
    converged = bool(decrement <= 1e-8 and spread < DIVERGED)
    return Linear(beta, value + reference.join(white.constant), eta, converged)


def tell_error(error: float, white: Rows) -> str:
    """Return how well the log-likelihood is known, and where that is less than is aimed at."""
    told = f"integrated to an error of {error:.0e} in the log-likelihood"
    if error <= TOLERANCE:
        return told
    largest = max(white.y.max(), 0.0 if white.family.has_exposure else white.n.max())
    return f"{told}, more than the {TOLERANCE:.0e} aimed at, with counts up to {largest:.3g}"


def widen(structure: Structure, p: int) -> Array:
    """Return the Jacobian (p + q^2, p + c) of beta~ and lam, row by row, by (beta~, theta)."""
    factors = structure.factors
    c, q = len(factors), structure.q
    wide = np.zeros((p + q * q, p + c))
    wide[:p, :p] = np.eye(p)
    wide[p:, p:] = factors.reshape(c, q * q).T
    return wide


def place_factors(structure: Structure, theta: Array) -> Array:
    """Return lam (q, q) of the factors' coefficients theta (c,)."""
    q = structure.q
    return np.asarray((theta @ structure.factors.reshape(-1, q * q)).reshape(q, q))


@dataclass(slots=True)
class Problem:
    """Minus the marginal log-likelihood as a function of (beta~, theta)."""

    integrator: Integrator
    structure: Structure
    last: tuple[Array, Marginal] | None = None

    def split(self, point: Array) -> tuple[Array, Array]:
        """Return beta~ (p,) and lam (q, q)."""
        p = self.integrator.white.x.shape[1]
        return point[:p], place_factors(self.structure, point[p:])

    def find(self, point: Array) -> Marginal:
        """Return the marginal likelihood at a point (p + c,), once where it was found last."""
        if self.last is None or not np.array_equal(self.last[0], point):
            self.last = point, self.integrator.evaluate(*self.split(point))
        return self.last[1]

    def refine(self, point: Array, *, tolerance: float, is_foretold: bool) -> None:
        """Choose the nodes' steps at a point, where the likelihood was found by the widest."""
        start = self.find(point).logliks if is_foretold else None
        self.integrator.refine(
            *self.split(point), tolerance=tolerance, is_foretold=is_foretold, start=start
        )
        self.last = None

    def at(self, point: Array) -> Point:
        """Return value, gradient and Hessian at a point (p + c,)."""
        found = self.find(point)
        wide = widen(self.structure, self.integrator.white.x.shape[1])
        score = found.score.sum(axis=0)
        return keep_finite(-found.loglik, -score @ wide, wide.T @ found.information @ wide)


class Descended(Protocol):
    """What Newton's steps search: a function with its first two derivatives."""

    def at(self, point: Array, /) -> Point:
        """Return value, gradient and Hessian."""


def descend(
    problem: Descended,
    point: Array,
    *,
    enough: float,
    record: Callable[[Point], None],
    shortest: float = SHORTEST,
) -> tuple[Array, Point]:
    """Return where Newton's steps lead: a point from which no more than `enough` is left to gain.

    Negative curvature counts by its size, so that the step goes down there; steps are shortened
    until they descend, and where one below `shortest` of its length does not, the search ends.
    """
    here = problem.at(point)
    record(here)
    for _ in range(ITERATIONS):
        values, vectors = np.linalg.eigh(here.hessian)
        sizes = np.maximum(np.abs(values), FLAT * max(values[-1], 1.0))
        along = vectors.T @ here.gradient
        decrement = float(np.sum(along**2 / sizes))
        if not decrement > enough:
            break
        step = -vectors @ (along / sizes)
        share = min(1.0, LARGEST_STEP / np.abs(step).max())
        while True:
            there = problem.at(point + share * step)
            if there.value <= here.value - 1e-4 * share * decrement + 1e-12 * abs(here.value):
                break
            share *= 0.5
            if share < shortest:
                return point, here
        point, here = point + share * step, there
        record(here)
    return point, here


def start_search(
    white: WhitenedPatterns, structure: Structure, integrator: Integrator, linear: Linear
) -> Array:
    """Return a point (p + c,) to start from: the model without random effects, and steps for lam.

    Of logit and probit, effects within groups are larger than the linear model's, by a factor of
    about sqrt(1 + v / c), v the mean variance of z'u. Source: Zeger, Liang & Albert (1988),
    Biometrics 44, 1049-1060.

    A step for lam takes the ratio of the spread of the posterior means to what it is on average if
    lam is right, I - C of posterior covariances C; it goes further than one of EM. Source: Schall
    (1991), Biometrika 78, 719-727.
    """
    theta = structure.project(np.eye(structure.q))
    halved = HALVED.get(white.family.link, np.inf)
    beta = linear.beta
    for _ in range(STARTING_STEPS):
        lam = place_factors(structure, theta)
        found = integrator.evaluate(beta, lam, derivatives=False)
        theta = lengthen(structure, lam, found.mean, found.cov)
        lam = place_factors(structure, theta)
        grown = float(np.mean(np.sum((white.z @ lam) ** 2, axis=1)))
        beta = linear.beta * np.sqrt(1.0 + grown / halved)
    return np.concatenate([beta, theta])


def lengthen(structure: Structure, lam: Array, mean: Array, cov: Array) -> Array:
    """Return theta (c,) after a step for lam that `start_search` describes.

    `mean` (J, q) and `cov` (J, q, q) are those of the posterior of v.
    """
    left = np.eye(structure.q) - cov.mean(axis=0)
    spread = mean.T @ mean / len(mean)
    values, vectors = np.linalg.eigh(left)
    half = vectors / np.sqrt(np.maximum(values, LEFT)) @ vectors.T
    values, vectors = np.linalg.eigh(half @ spread @ half)
    # Such steps close 0.2 to 0.6 of what is left, and twice as long ones more.
    ratio = (vectors * np.clip(values**2, 1.0 / LONGEST, LONGEST)) @ vectors.T
    return structure.project(lam @ ratio @ lam.T)


def maximize_patterns(
    white: WhitenedPatterns,
    structure: Structure,
    *,
    start: Array | None = None,
    linear: Linear | None = None,
    tolerance: float = TOLERANCE,
) -> FamilyOptimum:
    """Return the maximum of the marginal likelihood over beta~ and theta.

    Coarse nodes lead near; then each group's nodes are made as dense as it needs, and Newton's
    steps finish. `error` measures the quadrature at the maximum; if it is above the tolerance, and
    above what doubles round off, the nodes are made denser and the search goes on.

    Args:
        white: the whitened patterns.
        structure: the covariance structure.
        start: (p + c,) to start at.
        linear: the maximum without random effects, where it is known already.
        tolerance: of the log-likelihood.
    """
    integrator = Integrator(white)
    is_large = integrator.reference.is_relative
    if is_large:
        # The information is a small difference of large moments, of which wide steps know seven
        # digits.
        integrator.steps[:] = WIDEST * SHRINK
    problem = Problem(integrator, structure)
    steps: list[Step] = []

    def record(here: Point) -> None:
        steps.append(Step("newton", len(steps), -here.value))

    if start is None:
        start = start_search(white, structure, integrator, linear or fit_linear(white))
    point = start
    # Of coarse nodes the gradient is not quite the value's, so that steps may never descend.
    point, _ = descend(problem, point, enough=NEAR, record=record, shortest=0.9)
    share = tolerance / (4.0 * white.n_groups)
    for round_ in range(4):
        problem.refine(point, tolerance=share, is_foretold=round_ == 0 and not is_large)
        point, here = leave_saddles(problem, point, record)
        point, here, singular = _settle_boundary(problem, point, here)
        found = problem.find(point)
        halved, change = integrator.measure_error(*problem.split(point), found)
        rounding = integrator.measure_rounding(*problem.split(point), found)
        if change <= max(tolerance, rounding):
            break
        share *= 0.1
    p = white.x.shape[1]
    beta, lam = problem.split(point)
    steps[-1] = Step("newton", len(steps) - 1, halved.loglik)
    return FamilyOptimum(
        beta=beta,
        theta=point[p:],
        lam=lam,
        at=halved._replace(score=found.score, information=found.information),
        gradient=-here.gradient,
        information=here.hessian,
        error=change + rounding,
        converged=is_stationary(here, white.n_groups, rounding=rounding),
        singular=singular,
        steps=tuple(steps),
    )


def is_stationary(here: Point, n_groups: int, *, rounding: float = 0.0) -> bool:
    """Return whether the gradient at a point is zero, as well as so many groups' sums tell.

    That of large counts has rounding of its own; where the curvature is that of a maximum, it is
    zero too if Newton's step gains next to nothing, or less than the log-likelihood is rounded by.
    """
    if not (np.isfinite(here.value) and np.isfinite(here.gradient).all()):
        return False
    limit = STATIONARY * max(1.0, float(np.sqrt(n_groups)))
    if np.abs(here.gradient).max() < limit:
        return True
    values, vectors = np.linalg.eigh(here.hessian)
    if not values[0] > FLAT * max(values[-1], 1.0):
        return False
    gain = np.sum((vectors.T @ here.gradient) ** 2 / values)
    return bool(gain < max(GAINED, min(rounding, COARSEST)))


def leave_saddles(
    problem: Descended, point: Array, record: Callable[[Point], None]
) -> tuple[Array, Point]:
    """Return a minimum, leaving any saddle at which a variance of zero has trapped it."""
    for _ in range(SADDLES):
        point, here = descend(problem, point, enough=DONE, record=record)
        values, vectors = np.linalg.eigh(here.hessian)
        if values[0] > -1e-7 * max(values[-1], 1.0):
            break
        point = point + 0.1 * vectors[:, 0]
    return point, here


def settle(structure: Structure, lam: Array, covs: Array) -> Array | None:
    """Return theta (c,) with the directions of lam that have all but vanished at zero, if any.

    Those have an SD next to zero, or one that is next to zero beside what each group's rows leave
    unknown: of counts of 1e5 an SD of 3e-5 is.

    Args:
        structure: the covariance structure.
        lam: (q, q) whitened.
        covs: (J, q, q) posterior covariances of v, u~ = lam v.
    """
    values, vectors = np.linalg.eigh(lam @ lam.T)
    along = lam.T @ vectors
    along /= np.maximum(np.linalg.norm(along, axis=0), np.finfo(np.float64).tiny)
    known = 1.0 - np.einsum("ad,jab,bd->jd", along, covs, along)
    small = (values < ZERO**2) | (known.max(axis=0) < UNKNOWN)
    if not small.any():
        return None
    return structure.project((vectors * np.where(small, 0.0, values)) @ vectors.T)


def _settle_boundary(problem: Problem, point: Array, here: Point) -> tuple[Array, Point, bool]:
    """Return the point with directions that have all but vanished at zero, and if any were."""
    p = problem.integrator.white.x.shape[1]
    beta, lam = problem.split(point)
    found = problem.find(point)
    theta = settle(problem.structure, lam, found.cov)
    if theta is None:
        return point, here, False
    settled = np.concatenate([point[:p], theta])
    there = problem.at(settled)
    if there.value <= here.value + SETTLED + problem.integrator.measure_rounding(beta, lam, found):
        return settled, there, True
    return point, problem.at(point), False
