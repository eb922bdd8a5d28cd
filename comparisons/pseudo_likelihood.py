"""The weighted pseudo-likelihood of a random intercept, written out school by school.

Of school j with weights w_ij of its rows given the school, W_j of its own, and residuals
r = y - x'b,

    W_j log of the integral over u of prod_i N(r_ij; u, s2)^w_ij N(u; 0, t2) du
      = W_j (-sw/2 log(2 pi s2) - log(a)/2 - (sum w r^2 - t2/s2 (sum w r)^2 / a) / (2 s2))

with sw = sum w and a = 1 + t2 sw / s2. It shares no code with bhlm. Scores of schools are by
complex steps, exact to rounding, and the Hessian is by central differences of these.
"""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
TINY = 1e-30  # complex steps cancel nothing
STEP = 1e-5  # of each parameter: scores have all digits, and so the Hessian ten


@dataclass(frozen=True, slots=True)
class PseudoLikelihood:
    """A function of theta (p + 2,): p fixed effects, the schools' variance and the residual one."""

    x: Array  # (n, p)
    y: Array  # (n,)
    rows: Array  # (n,) weight of a row given its school
    schools: Array  # (J,) weight of a school
    school: Array  # (n,) number of each row's school

    def sum(self, values: Array) -> Array:
        """Return the sums (J,) by school, of complex numbers too."""
        real = np.bincount(self.school, values.real, len(self.schools))
        if not np.iscomplexobj(values):
            return real
        return real + 1j * np.bincount(self.school, values.imag, len(self.schools))

    def logliks(self, theta: Array) -> Array:
        """Return the schools' weighted log-likelihoods (J,)."""
        between, within = theta[-2:]
        rest = self.y - self.x @ theta[:-2]
        weight, first = self.sum(self.rows), self.sum(self.rows * rest)
        inside = 1.0 + between * weight / within
        squares = self.sum(self.rows * rest**2) - between / within * first**2 / inside
        logs = weight * np.log(2.0 * np.pi * within) + np.log(inside)
        return np.asarray(-0.5 * self.schools * (logs + squares / within))

    def scores(self, theta: Array) -> Array:
        """Return the schools' scores (J, p + 2)."""
        steps = np.diag(1j * TINY * np.abs(theta))
        found = [self.logliks(theta + step).imag for step in steps]
        return np.stack(found, axis=1) / (TINY * np.abs(theta))

    def hessian(self, theta: Array) -> Array:
        """Return minus the second derivatives (p + 2, p + 2)."""
        steps = np.diag(STEP * np.abs(theta))
        found = [
            (self.scores(theta - step) - self.scores(theta + step)).sum(axis=0) / (2.0 * step.sum())
            for step in steps
        ]
        return 0.5 * (np.array(found) + np.array(found).T)

    def maximize(self, start: Array) -> Array:
        """Return the maximum by Newton's steps from close to it."""
        theta = start
        for _ in range(20):
            step = np.linalg.solve(self.hessian(theta), self.scores(theta).sum(axis=0))
            theta = theta + step
            if np.abs(step / theta).max() < 1e-12:
                return theta
        raise RuntimeError("Newton's steps from the printed estimates do not converge")

    def errors(self, theta: Array, convention: str) -> Array:
        """Return standard errors (p + 2,) at any theta, by one of bhlm's conventions."""
        hessian, scores = self.hessian(theta), self.scores(theta)
        meat, bread = scores.T @ scores, np.linalg.inv(hessian)
        count = len(self.schools)
        factor = 1.0 if convention == "uncorrected" else count / (count - 1.0)
        if convention in ("full", "uncorrected"):
            return np.asarray(np.sqrt(factor * np.diag(bread @ meat @ bread)))
        found = np.empty(len(theta))
        for part in (slice(0, -2), slice(-2, None)):
            own = np.linalg.inv(hessian[part, part])
            if convention == "block" and part.start == -2:
                own = bread[part, part]
            found[part] = np.sqrt(factor * np.diag(own @ meat[part, part] @ own))
        return found
