"""Whitened cross-products of several factors -> the maximum of the (restricted) likelihood.

As with one factor: a few EM steps, and then descent in theta, the coefficients of every factor's
lam, without bounds. The gradient is exact; the Hessian is its central difference, so that a
quasi-Newton search goes first and Newton's steps finish.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import minimize

from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.levels import LevelsCriterion, evaluate_levels, score_levels
from bhlm.reml.optimize import (
    SAME,
    STATIONARY,
    ZERO,
    Step,
    descend,
    polish,
    unwhiten_loglik,
)

Array = np.ndarray

EM_STEPS = 5
NEAR = 1e-3  # gradient at which the quasi-Newton search hands over
# Of the differences: of fourth order, they leave some 1e-11 of the Hessian by truncation, and 1e-10
# of it by the rounding of the gradient.
STEP = 2e-3


@dataclass(frozen=True, slots=True)
class LevelsOptimum:
    """The maximum found, in whitened units."""

    theta: Array  # (c,) factors' coefficients, of one grouping factor after the other
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

    white: WhitenedCells
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
        return evaluate_levels(
            self.white.levels, self.factor(theta), n=self.white.n, restricted=self.restricted
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
        """Return the Hessian (c, c), from differences of the gradient of the fourth order."""
        key = theta.tobytes()
        if key not in self._bends:
            found = np.empty((len(theta), len(theta)))
            for c, value in enumerate(theta):
                step = STEP * max(1.0, abs(float(value)))
                near, far = (
                    self._slope(theta, c, size) - self._slope(theta, c, -size)
                    for size in (step, 2.0 * step)
                )
                found[c] = (8.0 * near - far) / (12.0 * step)
            self._bends.clear()
            self._bends[key] = 0.5 * (found + found.T)
        return self._bends[key]

    def has_curvature(self, theta: Array) -> bool:
        """Whether the Hessian is finite."""
        return bool(np.isfinite(self.hessian(theta)).all())

    def _slope(self, theta: Array, c: int, step: float) -> Array:
        moved = theta.copy()
        moved[c] += step
        criterion = self.evaluate(moved)
        return self.pull(score_levels(self.white.levels, self.factor(moved), criterion))


def maximize_levels(
    white: WhitenedCells,
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
        start: theta (c,) to start at instead of EM from unit matrices.
    """
    problem = LevelsProblem(white, structures, restricted)
    steps: list[Step] = []

    def record(theta: Array) -> None:
        count = sum(step.phase == "newton" for step in steps)
        value = problem.visit(np.asarray(theta))[0].at.value
        steps.append(Step("newton", count, unwhiten_loglik(value, white, restricted)))

    theta = _expectation_maximization(problem, steps) if start is None else np.asarray(start)
    record(theta)
    theta = _approach(problem, theta)
    record(theta)
    theta = descend(problem, theta, record)
    theta, singular = _settle_boundary(problem, theta)
    theta = polish(problem, theta)
    criterion, gradient = problem.visit(theta)
    return LevelsOptimum(
        theta=theta,
        lams=problem.factor(theta),
        criterion=criterion,
        gradient=gradient,
        hessian=problem.hessian(theta),
        converged=bool(np.max(np.abs(gradient)) < STATIONARY * max(1.0, white.n / 1e4)),
        singular=singular,
        steps=tuple(steps),
    )


def _expectation_maximization(problem: LevelsProblem, steps: list[Step]) -> Array:
    """Return theta after EM from Psi_f = I.

    With sigma^2 profiled, E[u u' | y] averaged over the J_f levels is Psi - Psi score Psi / J_f,
    score the derivative of the criterion by Psi, of which the slope by lam is 2 score lam.
    """
    white = problem.white
    theta = problem.project([np.eye(structure.q) for structure in problem.structures])
    for iteration in range(EM_STEPS):
        lams, criterion = problem.factor(theta), problem.evaluate(theta)
        value = unwhiten_loglik(criterion.at.value, white, problem.restricted)
        steps.append(Step("em", iteration, value))
        slopes = score_levels(white.levels, lams, criterion)
        theta = problem.project(
            [
                lam @ (np.eye(len(lam)) - 0.5 * lam.T @ slope / count) @ lam.T
                for lam, slope, count in zip(lams, slopes, white.levels.counts, strict=True)
            ]
        )
    return theta


def _approach(problem: LevelsProblem, theta: Array) -> Array:
    """Return theta after a quasi-Newton search, which needs no Hessian."""
    found = minimize(
        problem.value_and_gradient, theta, jac=True, method="BFGS", options={"gtol": NEAR}
    )
    return np.asarray(found.x) if np.isfinite(found.fun) else theta


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
