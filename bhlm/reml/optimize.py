"""Whitened cross-products -> the maximum of the (restricted) likelihood.

MIVQUE(0) and an EM step bring theta near, Newton's method with the exact Hessian finishes. On
the boundary, and of few groups, there may be a higher maximum elsewhere, and it begins again.

theta needs no bounds: the criterion depends on Psi = lam lam', which is even in the factors'
signs, so a variance of zero is an ordinary stationary point at which theta is 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.identify import NO_INFORMATION
from bhlm.likelihood.panel_bends import join_score
from bhlm.likelihood.panels import THREADED, Panels, build_panels
from bhlm.likelihood.profiled import (
    Criterion,
    Curvature,
    evaluate,
    expect_group_squares,
    join_bends,
    join_squares,
    profile_total,
    score_psi,
    sum_bends,
)
from bhlm.likelihood.visit import (
    ALIKE,
    GRADIENT,
    POLISHED,
    SAME,
    SHORTER,
    Descent,
    bend_theta,
    descend_panels,
    find_tangents,
    join_factors,
    slope_theta,
    take_criterion,
)
from bhlm.likelihood.weighted import weigh_panels
from bhlm.likelihood.whitening import EPS, Whitened

Array = np.ndarray

FLOOR = 0.1  # share of a group's own error, squared, that a variance starts with at least
# What counts as stationary after the Newton polish: the criterion is a sum of about n terms,
# whose derivative rounding leaves at some eps * n.
STATIONARY = 1e-5
ZERO = 1e-4  # a relative SD below this is tried at exactly zero, as lme4's isSingular does
INSIDE = 1e-2  # relative SDs above this are far from the boundary
# Of a Newton step, tried one after the other: the trust region costs more than half a step.
SHARES = (1.0, 0.5)
# Beyond such a relative SD the residual variance may be on its way to zero: then the criterion at
# ten times theta is not above this one by more than ALIKE. At a maximum it is above by some 100 for
# each degree of freedom that is left for the residual.
STEEP = 30.0
# There the logarithm of theta is what must be stationary: this leaves a thousandth of sigma^2.
STATIONARY_LOG = 1e-3
NEWTON_STEPS = 8
SADDLES = 5  # restarts from saddles
CURVED = 1e-8  # negative curvature below this share of the largest is rounding
# Variances in those of the residual, far from each other, at which a search begins again.
FAR, NEAR, LITTLE = 10.0, 0.1, 0.01
# Groups per covariance parameter below which a likelihood is searched from several places. Of small
# random designs (tests/survey_designs.py) with one factor and sampling weights 3 of 241 maxima
# inside were missed below 4, the last at 3.5, and none of 505 above.
FEW = 5.0


class Smooth(Protocol):
    """What a trust region searches: a function with its first two derivatives."""

    def value_and_gradient(self, point: Array, /) -> tuple[float, Array]:
        """Return the value and the gradient (c,)."""

    def hessian(self, point: Array, /) -> Array:
        """Return the Hessian (c, c)."""


class Searched(Smooth, Protocol):
    """What Newton's steps search: it also says where they cannot be taken."""

    def has_curvature(self, point: Array, /) -> bool:
        """Whether the Hessian is finite."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the iteration log."""

    phase: str  # "em" or "newton"
    iteration: int
    loglik: float


@dataclass(frozen=True, slots=True)
class Optimum:
    """The maximum found, in whitened units."""

    theta: Array  # (c,) factors' coefficients
    lam: Array  # (q, q) relative covariance factor
    criterion: Criterion
    gradient: Array  # (c,) of minus twice the log-likelihood by theta
    converged: bool
    singular: bool  # Psi has lost rank
    steps: tuple[Step, ...]
    linear: float  # the criterion without random effects
    bends: Array  # what `join_bends` takes second derivatives from
    score: Array | None = None  # (q, q) of the criterion by Psi, where it was kept


@dataclass(frozen=True, slots=True)
class Problem:
    """The profiled criterion as a function of theta, with its derivatives."""

    white: Whitened
    structure: Structure
    restricted: bool
    panels: Panels = field(init=False, repr=False)
    more: Array = field(init=False, repr=False)  # (T, LANES) what groups have more weight than 1
    # The last point and what was computed there: value, gradient and Hessian ask one by one.
    _last: dict[bytes, tuple[Array, Criterion, Array]] = field(default_factory=dict, repr=False)
    _bends: dict[bytes, Array] = field(default_factory=dict, repr=False)
    _sums: dict[bytes, Array] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        white = self.white
        panels = build_panels(white.blocks, white.q, white.groups)
        object.__setattr__(self, "panels", panels)
        object.__setattr__(self, "more", weigh_panels(white.groups))

    @property
    def are_few(self) -> bool:
        """Whether one thread sums over groups, and the whole visit is one compiled call."""
        return self.panels.n_stretches < THREADED

    def visit(self, theta: Array) -> tuple[Array, Criterion, Array]:
        """Return lam, the criterion and its score by Psi at theta."""
        key = theta.tobytes()
        if key not in self._last:
            if self.are_few:
                self._descend(theta, 0)
            else:
                lam = self.factor(theta)
                at = self.at(theta)
                self._last.clear()
                self._last[key] = lam, at, self._sum_score(lam, at)
        return self._last[key]

    def _sum_score(self, lam: Array, at: Criterion) -> Array:
        white = self.white
        return score_psi(white.blocks, white.q, lam, at, panels=self.panels, groups=white.groups)

    def descend(self, theta: Array) -> Descent | None:
        """Return where compiled Newton steps from theta (c,) lead to.

        None of many groups, whose sums threads share.
        """
        return self._descend(theta, NEWTON_STEPS) if self.are_few else None

    def expect_squares(self) -> tuple[Array, Array]:
        """Return the equations of MIVQUE(0) for Psi sigma^2 and sigma^2."""
        white, directions = self.white, self.structure.directions
        if not self.are_few:
            return expect_group_squares(
                white.blocks,
                white.q,
                directions,
                n=white.n,
                panels=self.panels,
                groups=white.groups,
            )
        none = np.zeros(len(self.structure.factors))
        found = self._run(none, 0, restricted=True, held=np.nan)
        at = take_criterion(found, white, True)
        q, p = white.q, white.p
        score = join_score(found.bends, q, p, at.phi, 0.0, True)  # without that of rss
        return join_squares(at, join_bends(found.bends, at, directions), score, directions)

    def _descend(self, theta: Array, most: int) -> Descent:
        """Return where at most so many steps lead to, and keep what was computed there."""
        held = self.white.held
        held = np.nan if held is None else held
        found = self._run(theta, most, restricted=self.restricted, held=held)
        key = found.theta.tobytes()
        for kept in (self._last, self._sums, self._bends):
            kept.clear()
        at = take_criterion(found, self.white, self.restricted)
        self._last[key] = found.lam, at, found.score
        self._sums[key], self._bends[key] = found.bends, found.hessian
        return found

    def _run(self, theta: Array, most: int, *, restricted: bool, held: float) -> Descent:
        panels, factors = self.panels, self.structure.factors
        return descend_panels(
            *(panels.values, panels.reach, panels.total, self.more, factors, theta),
            *(self.white.n, restricted, held, most),
        )

    def factor(self, theta: Array) -> Array:
        """Return lam (q, q) = sum theta_c N_c."""
        return join_factors(self.structure.factors, theta)

    def at(self, theta: Array) -> Criterion:
        """Return the criterion at theta."""
        lam = self.factor(theta)
        return evaluate_white(
            self.white,
            lam,
            restricted=self.restricted,
            panels=self.panels,
        )

    def at_zero(self) -> Criterion:
        """Return the criterion without random effects, of which [X y]'[X y] is all it needs."""
        found = profile_total(self.panels.total, n=self.white.n, restricted=self.restricted)
        return found if self.white.held is None else found.hold(self.white.held)

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Return the criterion and its gradient (c,), d/d theta_c = 2 tr(score N_c lam')."""
        lam, at, score = self.visit(theta)
        return at.value, slope_theta(self.structure.factors, lam, score)

    def hessian(self, theta: Array) -> Array:
        """Return the Hessian (c, c) of the profiled criterion by theta."""
        key = theta.tobytes()
        if key not in self._bends:
            self._bends.clear()
            self._bends[key] = self._differentiate(theta)
        return self._bends[key]

    def has_curvature(self, theta: Array) -> bool:
        """Whether the Hessian is finite, which it is not where the residual variance vanishes."""
        return bool(np.isfinite(self.hessian(theta)).all())

    def curve(self, theta: Array) -> Curvature:
        """Return the derivatives of the criterion's parts along d Psi / d theta."""
        lam, at, _ = self.visit(theta)
        return join_bends(self.bend(theta), at, list_tangents(self.structure, lam))

    def bend(self, theta: Array) -> Array:
        """Return what `join_bends` takes the derivatives along any directions from."""
        key = theta.tobytes()
        if key not in self._sums:
            lam, at, _ = self.visit(theta)
            if key not in self._sums:
                self._sums.clear()
                self._sums[key] = sum_bends(self.panels, lam, at, groups=self.white.groups)
        return self._sums[key]

    def _differentiate(self, theta: Array) -> Array:
        _, at, score = self.visit(theta)
        return bend_criterion(self.structure, at, score, self.curve(theta))


def bend_criterion(structure: Structure, at: Criterion, score: Array, curve: Curvature) -> Array:
    """Return the Hessian (c, c) of the profiled criterion by theta.

    From its score (q, q) by Psi and its curvature along d Psi / d theta.
    """
    held = np.nan if at.held is None else at.held
    return bend_theta(
        score, curve.logdet, curve.rss_slope, curve.rss, at.rss, at.dof, held, structure.factors
    )


def list_tangents(structure: Structure, lam: Array) -> Array:
    """Return d Psi / d theta (c, q, q) at lam (q, q)."""
    return find_tangents(structure.factors, lam)


def evaluate_white(
    white: Whitened,
    lam: Array,
    *,
    restricted: bool,
    panels: Panels | None = None,
) -> Criterion:
    """Return the criterion of whitened cross-products: weighted, and sigma held, if they say so."""
    found = evaluate(
        white.blocks,
        white.q,
        lam,
        n=white.n,
        restricted=restricted,
        panels=panels,
        groups=white.groups,
    )
    return found if white.held is None else found.hold(white.held)


def maximize(
    white: Whitened, structure: Structure, *, restricted: bool, start: Array | None = None
) -> Optimum:
    """Return the maximum of the profiled (restricted) likelihood over Psi.

    Args:
        white: whitened cross-products.
        structure: the covariance structure, which spans Psi.
        restricted: True for REML, False for ML.
        start: theta (c,) to start at instead of an EM step from the variances by MIVQUE(0).
    """
    problem = Problem(white, structure, restricted)
    steps: list[Step] = []
    theta = _begin(problem, steps) if start is None else np.asarray(start, dtype=np.float64)
    found = _search(problem, theta, steps)
    if start is not None:
        return found
    for place in _list_others(problem, found):
        other = _search(problem, place, [])
        # Where a boundary is left for a bound that no theta reaches, there is no maximum.
        if not (other.converged or found.singular or not found.converged):
            continue
        least = SAME if other.converged >= found.converged else ALIKE
        if other.criterion.value < found.criterion.value - least:
            found = other
    return found


def may_be_lower(white: Whitened, structure: Structure, found: Optimum) -> bool:
    """Return whether a maximum may be lower than another: on the boundary, and of few groups."""
    return found.singular or not found.converged or has_few(white, structure)


def has_few(white: Whitened, structure: Structure) -> bool:
    """Return whether there are so few groups that a likelihood may have several maxima."""
    return has_few_groups([len(white.blocks)], [structure])


def has_few_groups(counts: Sequence[int], structures: Sequence[Structure]) -> bool:
    """Return whether some factor has less than FEW groups for each of its covariance parameters."""
    pairs = zip(counts, structures, strict=True)
    return any(count < FEW * len(structure.factors) for count, structure in pairs)


def list_far(sizes: Sequence[int]) -> list[list[Array]]:
    """Return Psi_f (q_f, q_f) of factors with q_f coefficients that lie far from each other.

    Every coefficient in turn has a large variance and the others a small one; in the last all have
    next to none.
    """
    stops = np.cumsum(sizes)
    own = [np.full(stops[-1], LITTLE)]
    own[:0] = [np.where(np.arange(stops[-1]) == at, FAR, NEAR) for at in range(stops[-1])]
    return [[np.diag(part) for part in np.split(each, stops[:-1])] for each in own]


def _list_others(problem: Problem, found: Optimum) -> list[Array]:
    """Return theta (c,) of where a maximum higher than the one found is looked for.

    A boundary may hold a search that began near it. Of few groups there may be two maxima inside.
    """
    white, structure = problem.white, problem.structure
    places = [np.eye(white.q)] if found.singular or not found.converged else []
    if has_few(white, structure):
        places += [psi for (psi,) in list_far([white.q])]
    return list(map(structure.project, places))


def _search(problem: Problem, theta: Array, steps: list[Step]) -> Optimum:
    """Return the maximum that Newton's descent from theta (c,) finds; it adds to the steps."""
    white, restricted = problem.white, problem.restricted

    counted = count(sum(step.phase == "newton" for step in steps))
    unwhitened = choose_unit(white, restricted)

    def note(value: float) -> None:
        steps.append(Step("newton", next(counted), unwhitened(value)))

    def record(theta: Array) -> None:
        note(problem.visit(np.asarray(theta))[1].value)

    if (found := problem.descend(theta)) is None:
        record(theta)
    else:
        theta = found.theta
        for value in found.values.tolist():
            note(value)
        if is_final(found):
            return Optimum(
                theta=theta,
                lam=found.lam,
                criterion=problem.visit(theta)[1],
                gradient=found.gradient,
                converged=True,
                singular=False,
                steps=tuple(steps),
                linear=problem.at_zero().value,
                bends=found.bends,
                score=found.score,
            )
    theta = descend(problem, theta, callback=record)
    theta, singular = _settle_boundary(problem, theta)
    theta = polish(problem, theta)
    _, gradient = problem.value_and_gradient(theta)
    lam, criterion, score = problem.visit(theta)
    return Optimum(
        theta=theta,
        lam=lam,
        criterion=criterion,
        gradient=gradient,
        converged=is_maximum(problem, theta, n=white.n),
        singular=singular,
        steps=tuple(steps),
        linear=problem.at_zero().value,
        bends=problem.bend(theta),
        score=score,
    )


def is_inside(found: Descent) -> bool:
    """Return whether nothing is on a boundary, nor near to one, in a bowl of the criterion."""
    return found.is_convex and found.least >= INSIDE


def is_final(found: Descent) -> bool:
    """Return whether a descent has come to a maximum that nothing after it would move."""
    return (
        is_inside(found)
        and bool(np.abs(found.gradient).max() < POLISHED)
        and bool(np.abs(found.theta).max() < STEEP)
    )


class Scaled(Protocol):
    """What a whitening has done to the response and to the fixed effects."""

    @property
    def n(self) -> float:
        """Rows."""

    @property
    def p(self) -> int:
        """Fixed effects."""

    @property
    def scale(self) -> float:
        """The unit of the whitened response."""

    @property
    def logdet_fixed(self) -> float:
        """The log of |det A|, X~ = X A."""

    @property
    def unit(self) -> float:
        """What the log-likelihood is multiplied by."""

    @property
    def offset(self) -> float:
        """What is added to it then."""

    @property
    def restricted_offset(self) -> float:
        """What is added to the restricted one beside."""


def unwhiten_loglik(value: float, white: Scaled, restricted: bool) -> float:
    """Return the log-likelihood in the columns as given, from the whitened criterion."""
    return choose_unit(white, restricted)(value)


def choose_unit(white: Scaled, restricted: bool) -> Callable[[float], float]:
    """Return what leads from the whitened criterion to that log-likelihood."""
    dof = white.n - white.p if restricted else white.n
    rise, fall = 2.0 * dof * math.log(white.scale), 2.0 * white.logdet_fixed if restricted else 0.0
    offset, unit = white.offset + (white.restricted_offset if restricted else 0.0), white.unit
    return lambda value: float(-0.5 * (value + rise - fall) * unit + offset)


def _begin(problem: Problem, steps: list[Step]) -> Array:
    """Return theta (c,) after an EM step from the variances by MIVQUE(0).

    With sigma^2 profiled, E[u u' | y] averaged over the J groups is
    Psi - Psi score Psi / J, score the derivative of the criterion by Psi.
    """
    white, structure = problem.white, problem.structure
    n_groups = len(white.blocks) if white.groups is None else float(white.groups.sum())
    found, v = solve_squares(*problem.expect_squares())
    v = v if white.held is None else white.held
    psi = raise_psi(structure.assemble(found / v), FLOOR * n_groups / white.n)
    theta = structure.project(psi)
    lam, at, score = problem.visit(theta)
    steps.append(Step("em", 0, unwhiten_loglik(at.value, white, problem.restricted)))
    psi = lam @ lam.T
    return structure.project(psi - psi @ score @ psi / n_groups)


def solve_squares(equations: Array, squares: Array) -> tuple[Array, float]:
    """Return the covariance parameters (m,) by MIVQUE(0), and the residual variance.

    The latter is at least a tenth of that of least squares.

    Args:
        equations: (m + 1, m + 1), the residual variance last.
        squares: (m + 1,) the quadratic forms.
    """
    # A variance that the fixed effects leave nothing of counts as zero.
    own = equations.diagonal()
    size = np.sqrt(np.maximum(own, NO_INFORMATION * own.max()))
    # By eigenvalues, of which those of what the equations do not tell apart are left out.
    values, vectors = np.linalg.eigh(equations / (size[:, None] * size))
    sizes = np.abs(values)
    told = sizes > len(values) * EPS * sizes.max()
    shares = vectors.T @ (squares / size)
    found = vectors @ np.where(told, shares / np.where(told, values, 1.0), 0.0) / size
    return found[:-1], max(float(found[-1]), 0.1 * float(squares[-1] / equations[-1, -1]))


def raise_psi(psi: Array, least: float) -> Array:
    """Return psi (q, q) with eigenvalues of at least `least`.

    A variance of zero would be a stationary point, and hold the search; what is not finite, where
    least squares leave no residual, gives way to the unit matrix.
    """
    if not np.isfinite(psi).all():
        return np.eye(len(psi))
    values, vectors = np.linalg.eigh(psi)
    return np.asarray((vectors * np.maximum(values, least)) @ vectors.T)


def descend(
    problem: Searched, theta: Array, *, callback: Callable[[Array], None] | None = None
) -> Array:
    """Return a local minimum, leaving any saddle at which a variance of zero has trapped it.

    Args:
        problem: minus twice a log-likelihood.
        theta: where to start (c,).
        callback: called with every step.
    """
    for _ in range(SADDLES):
        theta = _advance(problem, theta, callback=callback)
        if not problem.has_curvature(theta):
            break
        if np.max(np.abs(problem.value_and_gradient(theta)[1])) > GRADIENT:
            theta = _search_trust_region(problem, theta, callback=callback)[0]
        if not problem.has_curvature(theta):
            break
        values, vectors = np.linalg.eigh(problem.hessian(theta))
        if values[0] > -CURVED * max(1.0, values[-1]):
            break
        theta = theta + 0.1 * vectors[:, 0]
    return theta


def is_maximum(problem: Smooth, theta: Array, *, n: float) -> bool:
    """Return whether the criterion is stationary, and not for its flatness far out alone.

    Where the effects can take up all of the residual, it falls as 1 / theta^2 towards a bound that
    no theta reaches, and any theta that is large enough looks stationary.
    """
    value, gradient = problem.value_and_gradient(theta)
    rounding = max(1.0, n / 1e4)
    if not np.max(np.abs(gradient)) < STATIONARY * rounding:
        return False
    if np.max(np.abs(theta)) < STEEP:
        return True
    if np.max(np.abs(theta * gradient)) > STATIONARY_LOG * rounding:
        return False
    return bool(problem.value_and_gradient(10.0 * theta)[0] > value + ALIKE)


class _NoCurvatureError(Exception):
    """A search has come to where the Hessian is not finite."""


def _search_trust_region(
    problem: Smooth, point: Array, *, callback: Callable[[Array], None] | None = None
) -> tuple[Array, float]:
    """Return where a trust region's search from a point ends, and the value there.

    It ends too where the Hessian is not finite.

    Args:
        problem: minus twice a log-likelihood.
        point: to start at.
        callback: called with every step.
    """
    best = (np.inf, point)

    def value_and_gradient(at: Array) -> tuple[float, Array]:
        nonlocal best
        value, gradient = problem.value_and_gradient(at)
        best = min(best, (value, at.copy()), key=lambda each: each[0])
        return value, gradient

    def hessian(at: Array) -> Array:
        found = problem.hessian(at)
        if not np.isfinite(found).all():
            raise _NoCurvatureError
        return found

    from scipy.optimize import minimize  # slow to load, and few fits need it

    try:
        found = minimize(
            value_and_gradient,
            point,
            jac=True,
            hess=hessian,
            method="trust-exact",
            callback=callback,
            options={"gtol": GRADIENT, "maxiter": 200},
        )
    except _NoCurvatureError:  # the residual variance vanishes on the way
        return best[1], best[0]
    return np.asarray(found.x), float(found.fun)


def _advance(
    problem: Searched, point: Array, *, callback: Callable[[Array], None] | None = None
) -> Array:
    """Return a point after full Newton steps, as long as each is one down a convex slope.

    Near a minimum that is the rule; the trust region takes over where it is not.

    Args:
        problem: minus twice a log-likelihood.
        point: to start at.
        callback: called with every step.
    """
    value, gradient = problem.value_and_gradient(point)
    for _ in range(NEWTON_STEPS):
        if np.max(np.abs(gradient)) < GRADIENT or not problem.has_curvature(point):
            break
        values, vectors = np.linalg.eigh(problem.hessian(point))
        if values[0] < 1e-6 * values[-1]:
            break
        step = vectors @ ((vectors.T @ gradient) / values)
        for share in SHARES:
            trial = point - share * step
            trial_value, trial_gradient = problem.value_and_gradient(trial)
            # Where the value has no digits left to gain, the gradient still has.
            closer = np.max(np.abs(trial_gradient)) < SHORTER * np.max(np.abs(gradient))
            if trial_value < value or (closer and trial_value <= value + SAME):
                break
        else:
            break
        point, value, gradient = trial, trial_value, trial_gradient
        if callback is not None:
            callback(point)
    return point


def _settle_boundary(problem: Problem, theta: Array) -> tuple[Array, bool]:
    """Return theta with directions of Psi that have all but vanished set to zero, and if any were.

    A direction goes to zero only where the criterion does not rise by it.
    """
    lam = problem.factor(theta)
    values, vectors = np.linalg.eigh(lam @ lam.T)
    small = values < ZERO**2
    if not small.any():
        return theta, False
    kept = (vectors * np.where(small, 0.0, values)) @ vectors.T
    settled = problem.structure.project(kept)
    if problem.at(settled).value <= problem.at(theta).value + SAME:
        return settled, True
    return theta, False


def polish(problem: Searched, theta: Array) -> Array:
    """Return theta after full Newton steps, taken while they shrink the gradient.

    Directions without curvature (the unused half of a singular factor) are left alone.
    """
    value, gradient = problem.value_and_gradient(theta)
    for _ in range(10):
        if np.max(np.abs(gradient)) < POLISHED or not problem.has_curvature(theta):
            break
        values, vectors = np.linalg.eigh(problem.hessian(theta))
        usable = values > 1e-9 * max(values[-1], 1.0)
        weights = np.where(usable, 1.0 / np.where(usable, values, 1.0), 0.0)
        trial = theta - vectors @ (weights * (vectors.T @ gradient))
        trial_value, trial_gradient = problem.value_and_gradient(trial)
        before, after = np.linalg.norm(gradient), np.linalg.norm(trial_gradient)
        # Down a bowl the value may have no digits left, and rise by rounding.
        closer = usable.all() and after < SHORTER * before
        if after >= before or trial_value > value + (ALIKE if closer else SAME):
            break
        theta, value, gradient = trial, trial_value, trial_gradient
    return theta
