"""The maximum of a fixed Gauss-Hermite rule, as programs with a fixed number of nodes find it.

It is not the maximum of the likelihood, but of an approximation to it: what other programs print
can so be reproduced, and its distance from the exact answer be shown.
"""

from dataclasses import replace

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.patterns import Integrator, WhitenedPatterns
from bhlm.reml.family.search import FamilyOptimum, Problem
from bhlm.reml.optimize import Step

Array = np.ndarray

NUDGE = 1e-4  # of whitened parameters, for differences of the second order
REACHED = 2e-4  # of the gradient by differences, which knows no more


def maximize_nodes(
    white: WhitenedPatterns, structure: Structure, start: FamilyOptimum, *, nagq: int
) -> FamilyOptimum:
    """Return the maximum of the likelihood by `nagq` nodes per dimension, from the exact one.

    Derivatives are by central differences, since the nodes move with the parameters.
    """
    integrator = Integrator(white)
    integrator.modes[:] = 0.0
    problem = Problem(integrator, structure)

    def value(point: Array) -> float:
        beta, lam = problem.split(point)
        found = integrator.by_gauss_hermite(beta, lam, nagq=nagq)
        return -found if np.isfinite(found) else np.inf

    def slope(point: Array) -> Array:
        eye = NUDGE * np.eye(len(point))
        return np.array([(value(point + e) - value(point - e)) / (2.0 * NUDGE) for e in eye])

    begin = np.concatenate([start.beta, start.theta])
    if start.singular:
        begin[len(start.beta) :] += 0.1
    # The exact information is all but that of the rule, so that few steps are needed.
    guess = np.linalg.pinv(start.information, rcond=1e-8, hermitian=True)
    guess += 1e-8 * np.trace(guess) * np.eye(len(guess))
    options = {"gtol": 1e-5, "hess_inv0": 0.5 * (guess + guess.T)}
    from scipy.optimize import minimize  # slow to load, and few fits need it

    point = minimize(value, begin, jac=slope, method="BFGS", options=options).x
    # BFGS stops on the noise of the differences; Newton's steps by them finish.
    hessian, gradient = _differentiate(slope, point), -slope(point)
    for _ in range(4):
        trial = point + np.linalg.lstsq(hessian, gradient)[0]
        further = -slope(trial)
        if np.abs(further).max() >= np.abs(gradient).max():
            break
        point, gradient = trial, further
    beta, lam = problem.split(point)
    p = len(beta)
    exact = integrator.evaluate(beta, lam)
    loglik = -value(point)
    return replace(
        start,
        beta=beta,
        theta=point[p:],
        lam=lam,
        at=exact._replace(loglik=loglik, nodes=nagq ** len(lam) * white.n_groups),
        gradient=gradient,
        information=hessian,
        error=float("nan"),
        converged=bool(np.abs(gradient).max() < REACHED * max(1.0, abs(loglik) / 1e3)),
        singular=bool(np.linalg.svd(lam, compute_uv=False)[-1] < 1e-3),
        steps=(Step("newton", 0, loglik),),
    )


def _differentiate(slope, point: Array) -> Array:  # type: ignore[no-untyped-def]
    eye = NUDGE * np.eye(len(point))
    rows = [(slope(point + e) - slope(point - e)) / (2.0 * NUDGE) for e in eye]
    return 0.5 * (np.array(rows) + np.array(rows).T)
