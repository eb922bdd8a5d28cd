"""Profile-likelihood intervals of a family's parameters.

Twice what the log-likelihood falls by when a parameter is held and all others are found anew,
against the chi-square quantile with 1 df. Fixed effects have one under any random part, the
variance and the SD where there is one random coefficient, whose SD ends at 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from bhlm.errors import ArgumentError
from bhlm.likelihood.parameters import check_level
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.search import Point, Problem, descend

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

ENOUGH = 1e-9  # of what is left to gain in a held maximum
LIMIT = 1e-7  # of a limit, relative to the standard error
DOUBLINGS = 12


@dataclass(slots=True)
class _Held:
    """Minus the log-likelihood on the plane base + directions' x, as `descend` searches it."""

    problem: Problem
    base: Array  # (p + c,)
    directions: Array  # (r, p + c)

    def at(self, x: Array) -> Point:
        """Return value, gradient and Hessian by x (r,)."""
        found = self.problem.at(self.base + x @ self.directions)
        turned = self.directions
        return Point(found.value, turned @ found.gradient, turned @ found.hessian @ turned.T)


def profile_intervals(
    fit: FamilyEstimate, *, level: float = 0.95, parameters: Sequence[str] | None = None
) -> "pd.DataFrame":
    """Return the profile-likelihood interval of each parameter: `estimate, lower, upper`.

    Args:
        fit: the fit, with as many nodes as needed.
        level: of the intervals.
        parameters: some of them; None is the fixed effects, and of one random coefficient its
            variance and SD.

    Raises:
        ArgumentError: a parameter that has no profile here, a fit by a fixed number of nodes or
            without a maximum, or a level outside (0, 1).
    """
    import pandas as pd

    check_level(level)
    if fit.nagq is not None or not fit.converged:
        raise ArgumentError(
            "a profile needs a maximum of the exact likelihood; fit without nagq, and see "
            "fit.advice"
        )
    fixed = list(fit.patterns.fixed)
    spread = [str(each) for each in fit.parameters if not each.is_fixed]
    known = [*fixed, *(spread if len(fit.structure.factors) == 1 else [])]
    asked = known if parameters is None else list(parameters)
    for name in asked:
        if name not in known:
            raise ArgumentError(
                f"{name!r} has no profile here; those that have one are {', '.join(known)}"
            )
    threshold = float(stats.chi2.ppf(level, 1))
    rows = []
    estimates = fit.estimates
    for name in asked:
        if name in fixed:
            lower, upper = _profile_fixed(fit, fixed.index(name), threshold)
        else:
            ends = np.array(_profile_spread(fit, threshold))
            lower, upper = ends**2 if name.startswith("var") else ends
        rows.append((float(estimates.loc[name, "estimate"]), lower, upper))
    index = pd.Index(asked, name="parameter")
    return pd.DataFrame(rows, index=index, columns=["estimate", "lower", "upper"])


def _profile_fixed(fit: FamilyEstimate, at: int, threshold: float) -> tuple[float, float]:
    """Return the limits of one fixed effect."""
    problem, best = _prepare(fit)
    row = np.zeros(len(fit.point))
    row[: len(fit.beta)] = fit.white.fixed[at]
    length = float(row @ row)
    # The rows after the first of a complete orthonormal basis move the other parameters.
    basis = np.linalg.qr(row[:, None], mode="complete")[0].T[1:]
    slope = np.linalg.solve(fit.information, row)
    slope /= row @ slope  # how the others follow, to first order
    state = np.zeros(len(basis))

    def rise(value: float) -> float:
        base = fit.point + (value - fit.beta[at]) * slope
        base = base + (value - row @ base) / length * row
        held = _Held(problem, base, basis)
        _, here = descend(held, state, enough=ENOUGH, record=_ignore)
        return 2.0 * (here.value - best) - threshold

    se = float(np.sqrt(fit.beta_cov[at, at]))
    return (
        _find_limit(rise, float(fit.beta[at]), -se, threshold),
        _find_limit(rise, float(fit.beta[at]), se, threshold),
    )


def _profile_spread(fit: FamilyEstimate, threshold: float) -> tuple[float, float]:
    """Return the limits of the one SD."""
    problem, best = _prepare(fit)
    scale = float(abs(fit.root).max() / max(abs(fit.point[-1]), 1e-300))
    scale = (
        float(np.abs(fit.white.basis @ fit.structure.factors[0]).max()) if fit.singular else scale
    )
    p = len(fit.beta)
    basis = np.eye(len(fit.point))[:p]

    def rise(sd: float) -> float:
        base = np.append(fit.point[:p], sd / scale)
        _, here = descend(_Held(problem, base, basis), np.zeros(p), enough=ENOUGH, record=_ignore)
        return 2.0 * (here.value - best) - threshold

    sd = float(abs(fit.point[-1]) * scale)
    error = np.sqrt(fit.variance_cov[0, 0]) / (2.0 * sd) if sd > 0.0 else np.nan
    step = float(error) if np.isfinite(error) else 0.25
    lower = 0.0
    if sd > 0.0 and rise(0.0) > 0.0:
        lower = float(brentq(rise, 0.0, sd, xtol=LIMIT * step))
    return lower, _find_limit(rise, sd, step, threshold)


def _prepare(fit: FamilyEstimate) -> tuple[Problem, float]:
    problem = Problem(fit.integrator(), fit.structure)
    return problem, problem.at(fit.point).value


def _find_limit(
    rise: Callable[[float], float], estimate: float, step: float, threshold: float
) -> float:
    """Return where the profile crosses its threshold on one side."""
    near, far = estimate, estimate + step * np.sqrt(threshold)
    for _ in range(DOUBLINGS):
        if rise(far) > 0.0:
            return float(brentq(rise, near, far, xtol=LIMIT * abs(step)))
        near, far = far, far + (far - estimate)
    return float("inf") if step > 0.0 else -float("inf")


def _ignore(here: Point) -> None:
    """Keep no record of a held search."""
