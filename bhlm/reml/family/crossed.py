"""Patterns with several factors -> the maximum of Laplace's approximation of their likelihood.

Newton's method by the exact gradient, whose differences are the Hessian: there are few parameters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.crossed_families import Approximation, LaplaceMarginal, WhitenedCross
from bhlm.reml.family.search import (
    HALVED,
    SETTLED,
    Linear,
    Point,
    is_stationary,
    leave_saddles,
    lengthen,
    place_factors,
    settle,
)
from bhlm.reml.optimize import Step

Array = np.ndarray

STARTING_STEPS = 4
# Of a parameter: differences of the gradient are wrong by the square of it, or by the gradient's
# rounding over it.
GAP = 1e-4
# And in the SD of an effect that a unit's rows alone tell, about which a small variance of large
# counts turns: below, where theta is no larger either.
SHARE = 0.03
LARGE = 0.1  # theta beside which the first is small
NEAR = 1e-2  # of the maximum, in units of the log-likelihood: BFGS has done its part


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
        rows, gaps = [], self._find_gaps(point, found)
        for step in np.diag(gaps):
            slopes = []
            for sign in (1.0, -1.0):
                self.approximation.mode = mode
                slopes.append(self.slope(self.find(point + sign * step)))
            rows.append((slopes[0] - slopes[1]) / (2.0 * step.max()))
        self.approximation.mode = mode
        hessian = np.array(rows)
        return Point(-found.loglik, self.slope(found), 0.5 * (hessian + hessian.T))

    def _find_gaps(self, point: Array, found: LaplaceMarginal) -> Array:
        """Return the steps (p + c,) of the differences."""
        gaps, at = np.full(len(point), GAP), self.approximation.white.p
        for each, mass in zip(self.structures, found.masses, strict=True):
            for factor in each.factors:
                moved = np.abs(factor).max(axis=1) > 0.0
                own = SHARE / np.sqrt(max(float(mass[moved].max()), 1.0))
                gaps[at] = min(GAP, max(own, GAP * abs(point[at]) / LARGE))
                at += 1
        return gaps


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
    point, here = leave_saddles(problem, point, record)
    point, here, singular = _settle_boundary(problem, point, here)
    found = problem.find(point)
    beta, lams = problem.split(point)
    return CrossedOptimum(
        beta=beta,
        theta=point[white.p :],
        lams=lams,
        at=found,
        gradient=-here.gradient,
        information=here.hessian,
        converged=is_stationary(
            here, len(white.n), rounding=approximation.measure_rounding(beta, lams)
        ),
        singular=singular,
        steps=tuple(steps),
    )


def _start_search(problem: LaplaceProblem, linear: Linear) -> Array:
    """Return a point (p + c,) to start from; see `bhlm.reml.family.search.start_search`."""
    white = problem.approximation.white
    theta = np.concatenate([each.project(np.eye(each.q)) for each in problem.structures])
    halved = HALVED.get(white.family.link, np.inf)
    beta = linear.beta
    for _ in range(STARTING_STEPS):
        _, lams = problem.split(np.concatenate([beta, theta]))
        found = problem.approximation.evaluate(beta, lams)
        rows = zip(problem.structures, lams, found.means, found.covs, strict=True)
        theta = np.concatenate([lengthen(*each) for each in rows])
        grown = 0.0
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


def _settle_boundary(
    problem: LaplaceProblem, point: Array, here: Point
) -> tuple[Array, Point, bool]:
    """Return the point with what has all but vanished at zero, factor by factor, and if any did."""
    beta, lams = problem.split(point)
    covs = problem.find(point).covs
    slack = SETTLED + problem.approximation.measure_rounding(beta, lams)
    value, start, singular = here.value, len(beta), False
    for structure, lam, own in zip(problem.structures, lams, covs, strict=True):
        span = slice(start, start + len(structure.factors))
        start = span.stop
        theta = settle(structure, lam, own)
        if theta is None:
            continue
        settled = point.copy()
        settled[span] = theta
        there = -problem.find(settled).loglik
        if there <= value + slack:
            point, value, singular = settled, there, True
    return (point, problem.at(point), True) if singular else (point, here, False)
