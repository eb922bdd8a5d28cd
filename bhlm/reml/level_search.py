"""Whitened cross-products of several factors -> the maximum of the (restricted) likelihood.

From the variances by MIVQUE(0), which need no likelihood, Newton's descent in theta, the
coefficients of every factor's lam, without bounds and by the exact gradient and Hessian. Where the
Hessian is dear, as with many levels of crossed factors, a quasi-Newton search goes first, from
about the expected information, and leaves nothing but the check to it. Where a search ends on the
boundary, or there are few units, there may be a higher maximum elsewhere, and it is begun again
from several places.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from bhlm.errors import IdentifiabilityError
from bhlm.layout import list_names
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.identify import NO_INFORMATION, REPEATED
from bhlm.likelihood.levels import (
    Levels,
    LevelsCriterion,
    bend_levels,
    evaluate_levels,
    expect_squares,
    guess_bend,
    score_levels,
)
from bhlm.likelihood.parameters import RESIDUAL
from bhlm.likelihood.visit import GRADIENT, SAME
from bhlm.reml.optimize import (
    FAR,
    FLOOR,
    NEAR,
    ZERO,
    Scaled,
    Step,
    descend,
    has_few_groups,
    is_maximum,
    list_far,
    polish,
    raise_psi,
    solve_squares,
    unwhiten_loglik,
)

Array = np.ndarray

QUASI_STEPS = 40
HALVINGS = 30


class Arranged(Scaled, Protocol):
    """Whitened cross-products under the pattern of their factors."""

    @property
    def levels(self) -> Levels:
        """The factors."""

    @property
    def held(self) -> float | None:
        """The residual variance in whitened units, where it is known."""


@dataclass(frozen=True, slots=True)
class LevelsOptimum:
    """The maximum found, in whitened units."""

    theta: Array  # (c,) factors' coefficients, factor after factor
    lams: tuple[Array, ...]  # (q_f, q_f) relative covariance factors
    criterion: LevelsCriterion
    gradient: Array  # (c,) of minus twice the log-likelihood by theta
    hessian: Array  # (c, c)
    converged: bool
    singular: bool  # some Psi has lost rank
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class LevelsProblem:
    """The profiled criterion of several factors as a function of theta."""

    white: Arranged
    structures: tuple[Structure, ...]
    restricted: bool
    # The last points and what was computed there: value, gradient and Hessian ask one by one.
    _last: dict[bytes, tuple[LevelsCriterion, Array]] = field(default_factory=dict, repr=False)
    _bends: dict[bytes, Array] = field(default_factory=dict, repr=False)

    def split(self, theta: Array) -> list[Array]:
        """Return the theta (c_f,) of every factor."""
        stops = np.cumsum([len(structure.factors) for structure in self.structures])
        return np.split(theta, stops[:-1])

    def factor(self, theta: Array) -> tuple[Array, ...]:
        """Return the lam_f (q_f, q_f) = sum theta_c N_c."""
        return tuple(
            np.ascontiguousarray(np.tensordot(part, structure.factors, axes=1))
            for part, structure in zip(self.split(theta), self.structures, strict=True)
        )

    def project(self, psis: list[Array]) -> Array:
        """Return theta (c,) of the structures' nearest match to Psi_f (q_f, q_f)."""
        pairs = zip(self.structures, psis, strict=True)
        return np.concatenate([structure.project(psi) for structure, psi in pairs])

    def evaluate(self, theta: Array) -> LevelsCriterion:
        """Return the criterion at theta."""
        white = self.white
        return evaluate_levels(
            white.levels,
            self.factor(theta),
            n=white.n,
            restricted=self.restricted,
            held=white.held,
        )

    def visit(self, theta: Array) -> tuple[LevelsCriterion, Array]:
        """Return the criterion and its gradient (c,) at theta."""
        key = theta.tobytes()
        if key not in self._last:
            criterion = self.evaluate(theta)
            slopes = score_levels(self.white.levels, self.factor(theta), criterion)
            self._last.clear()
            self._last[key] = criterion, self.pull(slopes)
        return self._last[key]

    def pull(self, slopes: tuple[Array, ...]) -> Array:
        """Return derivatives by theta (c,) from those by lam_f (q_f, q_f)."""
        pairs = zip(self.structures, slopes, strict=True)
        return np.concatenate(
            [np.einsum("cij,ij->c", structure.factors, slope) for structure, slope in pairs]
        )

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Return the criterion and its gradient (c,)."""
        criterion, gradient = self.visit(theta)
        return criterion.at.value, gradient

    def hessian(self, theta: Array) -> Array:
        """Return the Hessian (c, c)."""
        key = theta.tobytes()
        if key not in self._bends:
            criterion, _ = self.visit(theta)
            factors = [structure.factors for structure in self.structures]
            self._bends.clear()
            self._bends[key] = bend_levels(
                self.white.levels, self.factor(theta), criterion, factors
            )
        return self._bends[key]

    def guess(self, theta: Array) -> Array:
        """Return about the Hessian (c, c), at little cost."""
        criterion, _ = self.visit(theta)
        factors = [structure.factors for structure in self.structures]
        return guess_bend(self.white.levels, self.factor(theta), criterion, factors)

    def has_curvature(self, theta: Array) -> bool:
        """Whether the Hessian is finite."""
        return bool(np.isfinite(self.hessian(theta)).all())


def maximize_levels(
    white: Arranged,
    structures: tuple[Structure, ...],
    *,
    restricted: bool,
    start: Array | None = None,
) -> LevelsOptimum:
    """Return the maximum of the profiled (restricted) likelihood over all Psi_f.

    Args:
        white: whitened cross-products.
        structures: the covariance structure of every factor.
        restricted: True for REML, False for ML.
        start: theta (c,) to start at instead of the variances by MIVQUE(0).

    Raises:
        IdentifiabilityError: the restricted likelihood does not depend on some variance, or tells
            some not apart; only without a start.
    """
    problem = LevelsProblem(white, structures, restricted)
    if start is not None:
        return _search(problem, np.asarray(start, dtype=np.float64))
    found = _search(problem, _begin(problem))
    for theta in _list_others(problem, found):
        other = _search(problem, theta)
        higher = other.criterion.at.value < found.criterion.at.value - SAME
        if higher and other.converged >= found.converged:
            found = other
    return found


def _search(problem: LevelsProblem, theta: Array) -> LevelsOptimum:
    """Return the maximum that Newton's descent from theta (c,) finds."""
    white = problem.white
    steps: list[Step] = []

    def record(theta: Array) -> None:
        count = sum(step.phase == "newton" for step in steps)
        value = problem.visit(np.asarray(theta))[0].at.value
        steps.append(Step("newton", count, unwhiten_loglik(value, white, problem.restricted)))

    record(theta)
    if white.levels.bends_dearly:
        theta = _approach(problem, theta, record)
    theta = descend(problem, theta, callback=record)
    theta, singular = _settle_boundary(problem, theta)
    if singular or not white.levels.bends_dearly:
        theta = polish(problem, theta)
    criterion, gradient = problem.visit(theta)
    return LevelsOptimum(
        theta=theta,
        lams=problem.factor(theta),
        criterion=criterion,
        gradient=gradient,
        hessian=problem.hessian(theta),
        converged=is_maximum(problem, theta, n=white.n),
        singular=singular,
        steps=tuple(steps),
    )


def may_be_lower_levels(
    white: Arranged, structures: tuple[Structure, ...], found: LevelsOptimum
) -> bool:
    """Return whether a maximum may be lower than another: on the boundary, and of few units."""
    return found.singular or not found.converged or _has_few_units(white, structures)


def _has_few_units(white: Arranged, structures: tuple[Structure, ...]) -> bool:
    return has_few_groups(white.levels.counts, structures)


def _list_others(problem: LevelsProblem, found: LevelsOptimum) -> list[Array]:
    """Return theta (c,) of where a maximum higher than the one found is looked for.

    On the boundary the variance of a factor may have gone to another, a correlation to the wrong
    one of its two ends, or a variance may have two maxima of which one is zero. So every factor in
    turn has the larger variances; every one that has lost rank is given it back, and every one that
    has some loses all, the others being as they were found. Of few units there may be several
    maxima inside and on one boundary, and every coefficient in turn has the larger variance.
    """
    white, structures = problem.white, problem.structures
    places = _list_across(structures, found) if found.singular or not found.converged else []
    if _has_few_units(white, structures):
        places += list_far([structure.q for structure in structures])
    return list(map(problem.project, places))


def _list_across(structures: tuple[Structure, ...], found: LevelsOptimum) -> list[list[Array]]:
    """Return the Psi_f (q_f, q_f) of other boundaries than the one found."""
    sizes = [structure.q for structure in structures]
    places = []
    for at in range(len(sizes)):
        shares = [FAR if other == at else NEAR for other in range(len(sizes))]
        places.append([share * np.eye(q) for share, q in zip(shares, sizes, strict=True)])
    psis = [lam @ lam.T for lam in found.lams]
    for at, psi in enumerate(psis):
        if np.linalg.eigvalsh(psi)[0] < ZERO**2:
            full = max(float(np.trace(psi)), NEAR) * np.eye(sizes[at])
            places.append([*psis[:at], full, *psis[at + 1 :]])
        if psi.any():
            places.append([*psis[:at], np.zeros_like(psi), *psis[at + 1 :]])
    return places


def _begin(problem: LevelsProblem) -> Array:
    """Return theta (c,) of the variances by MIVQUE(0), none of them next to zero.

    A zero would be a stationary point, and hold the search.
    """
    white, structures = problem.white, problem.structures
    levels = white.levels
    equations, squares = expect_squares(
        levels, [structure.directions for structure in structures], n=white.n
    )
    if problem.restricted:
        _refuse_flat(structures, equations, n=white.n, held=white.held is not None)
    if white.held is None:
        found, v = solve_squares(equations, squares)
    else:
        v = white.held
        inner, right = equations[:-1, :-1], squares[:-1] - equations[:-1, -1] * v
        found = np.linalg.lstsq(inner, right, rcond=None)[0]
    stops = np.cumsum([len(structure.labels) for structure in structures])[:-1]
    parts = zip(structures, levels.counts, np.split(found, stops), strict=True)
    return problem.project(
        [
            raise_psi(structure.assemble(part / v), FLOOR * count / white.n)
            for structure, count, part in parts
        ]
    )


def _refuse_flat(
    structures: tuple[Structure, ...], equations: Array, *, n: float, held: bool = False
) -> None:
    """Refuse variances that the restricted likelihood does not depend on, or tells not apart.

    The equations (m + 1, m + 1) of MIVQUE(0) are twice the expected information where all Psi_f
    are zero, of which the rank is the same everywhere. Of whitened columns tr(Q V_a) is about n
    unless the fixed effects take up V_a.
    """
    labels = [label for part in structures for label in part.labels]
    varies = np.array([*(i == j for i, j in labels), False])
    flat = np.eye(len(varies))[varies & (equations[:, -1] < NO_INFORMATION * n)]
    if held:  # it is known, and need not be told from the others
        equations = equations.copy()
        equations[-1, :-1] = equations[:-1, -1] = 0.0
    own = np.diag(equations)
    if not len(flat) and own.min() > 0.0:
        values, vectors = np.linalg.eigh(equations / np.sqrt(np.outer(own, own)))
        flat = vectors.T[values < REPEATED]
    if not len(flat):
        return
    seen = (np.abs(flat) > 1e-6 * np.abs(flat).max(axis=1, keepdims=True)).any(axis=0)
    parameters = [*(each for part in structures for each in part.variances), RESIDUAL]
    named = [str(each) for each, found in zip(parameters, seen, strict=True) if found]
    what = f"depend on {named[0]}" if len(named) == 1 else f"tell {list_names(named)} apart"
    raise IdentifiabilityError(
        f"the restricted likelihood does not {what}; drop random terms that repeat others, or "
        "fixed effects that tell every level of a factor from the others"
    )


def _approach(problem: LevelsProblem, theta: Array, record: Callable[[Array], None]) -> Array:
    """Return theta after a quasi-Newton search (BFGS) from about the expected information."""
    value, gradient = problem.value_and_gradient(theta)
    bend = problem.guess(theta)
    for _ in range(QUASI_STEPS):
        if np.max(np.abs(gradient)) < GRADIENT:
            break
        values, vectors = np.linalg.eigh(bend)
        values = np.maximum(values, 1e-6 * values[-1])
        step = -vectors @ ((vectors.T @ gradient) / values)
        for _ in range(HALVINGS):
            trial_value, trial_gradient = problem.value_and_gradient(theta + step)
            if trial_value < value + SAME:
                break
            step = 0.5 * step
        else:
            break
        change, moved = trial_gradient - gradient, bend @ step
        if change @ step > 1e-3 * (moved @ step):
            bend = bend + np.outer(change, change) / (change @ step)
            bend -= np.outer(moved, moved) / (moved @ step)
        theta, value, gradient = theta + step, trial_value, trial_gradient
        record(theta)
    return theta


def _settle_boundary(problem: LevelsProblem, theta: Array) -> tuple[Array, bool]:
    """Return theta with directions that have all but vanished set to zero, and if any were.

    Factor by factor, and only where the criterion does not rise by it.
    """
    singular = False
    for at in range(len(problem.structures)):
        psis = [lam @ lam.T for lam in problem.factor(theta)]
        values, vectors = np.linalg.eigh(psis[at])
        small = values < ZERO**2
        if not small.any():
            continue
        psis[at] = (vectors * np.where(small, 0.0, values)) @ vectors.T
        parts = problem.split(theta)
        parts[at] = problem.structures[at].project(psis[at])
        settled = np.concatenate(parts)
        if problem.evaluate(settled).at.value <= problem.evaluate(theta).at.value + SAME:
            theta, singular = settled, True
    return theta, singular
