"""Whitened patterns of nested units -> the maximum of their marginal likelihood.

As `bhlm.reml.family.search`: Newton's method with the exact gradient and Hessian by beta~ and the
theta of all levels, in which a variance of zero is an ordinary stationary point.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag

from bhlm.errors import DataError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.nested_families import NestIntegrator, NestMarginal, WhitenedNest
from bhlm.likelihood.patterns import SHRINK, WIDEST
from bhlm.reml.family.search import (
    HALVED,
    NEAR,
    SETTLED,
    STARTING_STEPS,
    TOLERANCE,
    Linear,
    Point,
    descend,
    fit_linear,
    is_stationary,
    keep_finite,
    leave_saddles,
    lengthen,
    place_factors,
    settle,
    widen,
)
from bhlm.reml.optimize import Step

Array = np.ndarray

COARSE = 1.4  # posterior SDs between the nodes that lead near: a normal integrand's error is 1e-4


@dataclass(frozen=True, slots=True)
class NestOptimum:
    """The maximum found, in whitened units; levels from the coarsest to the finest."""

    beta: Array  # (p,)
    theta: Array  # (c,) of one level after the other
    lams: tuple[Array, ...]  # L, (q_l, q_l)
    at: NestMarginal  # with the nodes' steps halved, and the derivatives of those before
    gradient: Array  # (p + c,) of the log-likelihood
    information: Array  # (p + c, p + c) observed
    error: float  # of the log-likelihood, by halving the steps, and by rounding
    converged: bool
    singular: bool
    steps: tuple[Step, ...]


def widen_levels(structures: Sequence[Structure], p: int) -> Array:
    """Return the Jacobian (p + sum q_l^2, p + c) of beta~ and all lam, row by row, by the point."""
    own = [widen(structure, 0) for structure in structures]
    return np.asarray(block_diag(np.eye(p), *own))


def split_point(structures: Sequence[Structure], point: Array) -> tuple[Array, tuple[Array, ...]]:
    """Return beta~ (p,) and the lam_l (q_l, q_l) of a point (p + c,)."""
    counts = [len(structure.factors) for structure in structures]
    start = len(point) - sum(counts)
    beta, lams = point[:start], []
    for structure, count in zip(structures, counts, strict=True):
        lams.append(place_factors(structure, point[start : start + count]))
        start += count
    return beta, tuple(lams)


@dataclass(slots=True)
class NestProblem:
    """Minus the marginal log-likelihood as a function of beta~ and the theta of all levels."""

    integrator: NestIntegrator
    structures: tuple[Structure, ...]  # L, coarsest first
    last: tuple[Array, NestMarginal] | None = None

    def find(self, point: Array) -> NestMarginal:
        """Return the marginal likelihood at a point (p + c,), once where it was found last."""
        if self.last is None or not np.array_equal(self.last[0], point):
            self.last = point, self.integrator.evaluate(*split_point(self.structures, point))
        return self.last[1]

    def at(self, point: Array) -> Point:
        """Return value, gradient and Hessian at a point (p + c,)."""
        found = self.find(point)
        wide = widen_levels(self.structures, self.integrator.white.p)
        score = found.score.sum(axis=0)
        return keep_finite(-found.loglik, -score @ wide, wide.T @ found.information @ wide)


def start_nest(
    white: WhitenedNest,
    structures: Sequence[Structure],
    integrator: NestIntegrator,
    linear: Linear,
) -> Array:
    """Return a point (p + c,) to start from; see `bhlm.reml.family.search.start_search`.

    The levels share the variance of the linear predictor at first, and each takes its own steps.
    """
    thetas = [each.project(np.eye(each.q) / len(structures)) for each in structures]
    halved = HALVED.get(white.family.link, np.inf)
    beta = linear.beta
    for _ in range(STARTING_STEPS):
        lams = [place_factors(each, own) for each, own in zip(structures, thetas, strict=True)]
        found = integrator.evaluate(beta, lams, derivatives=False)
        rows = zip(structures, lams, found.means, found.covs, strict=True)
        thetas = [lengthen(*each) for each in rows]
        grown = sum(
            float(np.mean(np.sum((z @ place_factors(each, own)) ** 2, axis=1)))
            for z, each, own in zip(white.z, structures, thetas, strict=True)
        )
        beta = linear.beta * np.sqrt(1.0 + grown / halved)
    return np.concatenate([beta, *thetas])


def maximize_nest(
    white: WhitenedNest,
    structures: Sequence[Structure],
    *,
    start: Array | None = None,
    linear: Linear | None = None,
    tolerance: float = TOLERANCE,
) -> NestOptimum:
    """Return the maximum of the marginal likelihood over beta~ and theta.

    As `bhlm.reml.family.search.maximize_patterns`: coarse nodes lead near, then each unit's nodes
    are made as dense as it needs, and `error` measures the quadrature at the maximum.

    Args:
        white: the whitened patterns.
        structures: of each level, the coarsest first.
        start: (p + c,) to start at.
        linear: the maximum without random effects, where it is known already.
        tolerance: of the log-likelihood.

    Raises:
        DataError: the integrals lose all digits, as those of very large counts may.
    """
    integrator = NestIntegrator(white)
    problem = NestProblem(integrator, tuple(structures))
    steps: list[Step] = []

    def record(here: Point) -> None:
        steps.append(Step("newton", len(steps), -here.value))

    integrator.steps[:] = WIDEST * SHRINK if integrator.reference.is_relative else COARSE
    if start is None:
        start = start_nest(white, structures, integrator, linear or fit_linear(white))
    point, _ = descend(problem, start, enough=NEAR, record=record, shortest=0.9)
    share = tolerance / (4.0 * sum(white.counts))
    for _ in range(4):
        integrator.refine(*split_point(structures, point), tolerance=share)
        problem.last = None
        point, here = leave_saddles(problem, point, record)
        point, here, singular = _settle_boundary(problem, point, here)
        found = problem.find(point)
        beta, lams = split_point(structures, point)
        halved, change = integrator.measure_error(beta, lams, found)
        rounding = integrator.measure_rounding(beta, lams, found)
        if not np.isfinite(halved.loglik):
            raise DataError(
                "the integrals of nested units come to no finite log-likelihood, with responses "
                f"up to {white.y.max():.3g}; take nagq=1, Laplace's approximation"
            )
        if change <= max(tolerance, rounding):
            break
        share *= 0.1
    steps[-1] = Step("newton", len(steps) - 1, halved.loglik)
    return NestOptimum(
        beta=beta,
        theta=point[white.p :],
        lams=lams,
        at=halved._replace(score=found.score, information=found.information, nodes=found.nodes),
        gradient=-here.gradient,
        information=here.hessian,
        error=change + rounding,
        converged=is_stationary(here, white.counts[0], rounding=rounding),
        singular=singular,
        steps=tuple(steps),
    )


def _settle_boundary(problem: NestProblem, point: Array, here: Point) -> tuple[Array, Point, bool]:
    """Return the point with what has all but vanished at zero, level by level, and if any did."""
    singular = False
    found = problem.find(point)
    beta, lams = split_point(problem.structures, point)
    slack = SETTLED + problem.integrator.measure_rounding(beta, lams, found)
    start = problem.integrator.white.p
    for structure, lam, covs in zip(problem.structures, lams, found.covs, strict=True):
        span = slice(start, start + len(structure.factors))
        start = span.stop
        theta = settle(structure, lam, covs)
        if theta is None:
            continue
        settled = point.copy()
        settled[span] = theta
        there = problem.at(settled)
        if there.value <= here.value + slack:
            point, here, singular = settled, there, True
    return point, problem.at(point), singular
