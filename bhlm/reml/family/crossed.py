"""Patterns with several factors -> the maximum of Laplace's approximation of their likelihood.

Newton's method by the exact gradient, whose differences are the Hessian: there are few parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.crossed_families import Approximation, LaplaceMarginal, WhitenedCross
from bhlm.reml.family.search import (
    DONE,
    FLAT,
    HALVED,
    LEFT,
    LONGEST,
    SADDLES,
    Linear,
    Point,
    descend,
    place_factors,
)
from bhlm.reml.optimize import ZERO, Step

Array = np.ndarray

STARTING_STEPS = 4
# Of a parameter: differences of the gradient are wrong by the square of it, or by the gradient's
# rounding over it.
GAP = 1e-4
STATIONARY = 1e-5  # of the gradient in whitened units
NEAR = 1e-2  # of the maximum, in units of the log-likelihood: BFGS has done its part
SETTLED = 1e-7  # of the log-likelihood: what a variance set to zero may cost


class CrossedOptimum(NamedTuple):
    """The maximum found, in whitened units."""

    beta: Array  # (p,)
    theta: Array  # (c,) of all factors
    lams: tuple[Array, ...]  # F, (q_f, q_f)
    at: LaplaceMarginal
    gradient: Array  # (p + c,) of the log-likelihood
    information: Array  # (p + c, p + c) observed
    converged: bool
    singular: bool
    steps: tuple[Step, ...]


@dataclass(slots=True)
class LaplaceProblem:
    """Minus the approximate log-likelihood as a function of (beta~, theta)."""

    approximation: Approximation
    structures: Sequence[Structure]

    def split(self, point: Array) -> tuple[Array, tuple[Array, ...]]:
        """Return beta~ (p,) and the lam_f (q_f, q_f)."""
        start = self.approximation.white.p
        beta, lams = point[:start], []
        for each in self.structures:
            stop = start + len(each.factors)
            lams.append(place_factors(each, point[start:stop]))
            start = stop
        return beta, tuple(lams)

    def project(self, matrices: Sequence[Array]) -> Array:
        """Return theta (c,) with lam_f lam_f' as near to the matrices as the structures allow."""
        pairs = zip(self.structures, matrices, strict=True)
        return np.concatenate([each.project(matrix) for each, matrix in pairs])

    def find(self, point: Array) -> LaplaceMarginal:
        """Return the approximation at a point (p + c,)."""
        return self.approximation.evaluate(*self.split(point))

    def slope(self, found: LaplaceMarginal) -> Array:
        """Return the gradient (p + c,) of minus the log-likelihood by (beta~, theta)."""
        start = self.approximation.white.p
        parts = [found.gradient[:start]]
        for each in self.structures:
            stop = start + each.q**2
            by_lam = found.gradient[start:stop]
            parts.append(each.factors.reshape(-1, each.q**2) @ by_lam)
            start = stop
        return -np.concatenate(parts)

    def at(self, point: Array) -> Point:
        """Return value, gradient and Hessian, by central differences of the gradient."""
        found = self.find(point)
        if not np.isfinite(found.loglik):
            return Point(np.inf, np.zeros_like(point), np.eye(len(point)))
        mode = self.approximation.mode
        rows = []
        for step in GAP * np.eye(len(point)):
            slopes = []
            for sign in (1.0, -1.0):
                self.approximation.mode = mode
                slopes.append(self.slope(self.find(point + sign * step)))
            rows.append((slopes[0] - slopes[1]) / (2.0 * GAP))
        self.approximation.mode = mode
        hessian = np.array(rows)
        return Point(-found.loglik, self.slope(found), 0.5 * (hessian + hessian.T))


def maximize_laplace(
    white: WhitenedCross, structures: Sequence[Structure], linear: Linear
) -> CrossedOptimum:
    """Return the maximum of Laplace's approximation over beta~ and theta.

    Args:
        white: the whitened patterns.
        structures: by factor.
        linear: the maximum without random effects.
    """
    approximation = Approximation(white)
    problem = LaplaceProblem(approximation, structures)
    steps: list[Step] = []

    def record(here: Point) -> None:
        steps.append(Step("newton", len(steps), -here.value))

    point = _come_near(problem, _start_search(problem, linear))
    point, here = _leave_saddles(problem, point, record)
    point, here, singular = _settle_boundary(problem, point, here)
    found = problem.find(point)
    beta, lams = problem.split(point)
    limit = STATIONARY * max(1.0, float(np.sqrt(len(white.n))))
    finite = np.isfinite(here.value) and np.isfinite(here.gradient).all()
    return CrossedOptimum(
        beta=beta,
        theta=point[white.p :],
        lams=lams,
        at=found,
        gradient=-here.gradient,
        information=here.hessian,
        converged=bool(finite and np.abs(here.gradient).max() < limit),
        singular=singular,
        steps=tuple(steps),
    )


def _start_search(problem: LaplaceProblem, linear: Linear) -> Array:
    """Return a point (p + c,) to start from; see `bhlm.reml.family.search.start_search`."""
    white = problem.approximation.white
    theta = problem.project([np.eye(each.q) for each in problem.structures])
    halved = HALVED.get(white.family.link, np.inf)
    beta = linear.beta
    for _ in range(STARTING_STEPS):
        _, lams = problem.split(np.concatenate([beta, theta]))
        found = problem.approximation.evaluate(beta, lams)
        grown, matrices = 0.0, []
        for factor, lam in enumerate(lams):
            means, covs = found.means[factor], found.covs[factor]
            left = np.eye(len(lam)) - covs.mean(axis=0)
            spread = means.T @ means / len(means)
            values, vectors = np.linalg.eigh(left)
            half = vectors / np.sqrt(np.maximum(values, LEFT)) @ vectors.T
            values, vectors = np.linalg.eigh(half @ spread @ half)
            ratio = (vectors * np.clip(values**2, 1.0 / LONGEST, LONGEST)) @ vectors.T
            matrices.append(lam @ ratio @ lam.T)
        theta = problem.project(matrices)
        _, lams = problem.split(np.concatenate([beta, theta]))
        for level, factor in enumerate(white.order):
            grown += float(np.mean(np.sum((white.z[level] @ lams[factor]) ** 2, axis=1)))
        beta = linear.beta * np.sqrt(1.0 + grown / halved)
    return np.concatenate([beta, theta])


def _come_near(problem: LaplaceProblem, point: Array) -> Array:
    """Return a point near the maximum, by BFGS on the gradient alone.

    Every Hessian by differences takes two gradients a parameter, and far from the maximum is worth
    no more than what BFGS makes of the steps.
    """
    white = problem.approximation.white
    found = problem.find(point)
    value, slope = -found.loglik, problem.slope(found)
    # In whitened columns the information by beta~ is about that of the linear model.
    scale = np.full(len(point), 1.0 / max(float(white.n.sum()) / 4.0, 1.0))
    scale[white.p :] = 1.0 / max(min(white.counts), 1)
    inverse = np.diag(scale)
    for _ in range(20 + 4 * len(point)):
        step = -inverse @ slope
        decrement = -float(slope @ step)
        if not decrement > NEAR:
            break
        step *= min(1.0, 1.0 / np.abs(step).max())
        share = 1.0
        while True:
            there = problem.find(point + share * step)
            if -there.loglik <= value - 1e-4 * share * decrement:
                break
            share *= 0.4
            if share < 1e-6:
                return point
        moved, new = share * step, problem.slope(there)
        gap = new - slope
        curved = float(moved @ gap)
        if curved > 1e-10 * np.linalg.norm(moved) * np.linalg.norm(gap):
            turn = np.eye(len(point)) - np.outer(moved, gap) / curved
            inverse = turn @ inverse @ turn.T + np.outer(moved, moved) / curved
        point, value, slope = point + moved, -there.loglik, new
    return point


def _leave_saddles(
    problem: LaplaceProblem, point: Array, record: Callable[[Point], None]
) -> tuple[Array, Point]:
    """Return a minimum, leaving any saddle at which a variance of zero has trapped it."""
    for _ in range(SADDLES):
        point, here = descend(problem, point, enough=DONE, record=record)
        values, vectors = np.linalg.eigh(here.hessian)
        if values[0] > -max(1e-7 * values[-1], FLAT):
            break
        point = point + 0.1 * vectors[:, 0]
    return point, here


def _settle_boundary(
    problem: LaplaceProblem, point: Array, here: Point
) -> tuple[Array, Point, bool]:
    """Return the point with directions that have all but vanished at zero, and if any were."""
    beta, lams = problem.split(point)
    kept, vanished = [], False
    for lam in lams:
        values, vectors = np.linalg.eigh(lam @ lam.T)
        small = values < ZERO**2
        vanished |= bool(small.any())
        kept.append((vectors * np.where(small, 0.0, values)) @ vectors.T)
    if not vanished:
        return point, here, False
    settled = np.concatenate([beta, problem.project(kept)])
    there = problem.at(settled)
    if there.value <= here.value + SETTLED:
        return settled, there, True
    return point, here, False
