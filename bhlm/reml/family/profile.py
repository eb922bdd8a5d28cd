"""Profile-likelihood intervals of a family's parameters.

Twice what the log-likelihood falls by when a parameter is held and all others are found anew,
against the chi-square quantile with 1 df. Fixed effects have one under any random part, the
variance and the SD of a factor where it has one random coefficient, whose SD ends at 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from bhlm.errors import ArgumentError
from bhlm.likelihood.crossed_families import Approximation
from bhlm.likelihood.nested_families import WhitenedNest
from bhlm.likelihood.parameters import check_level
from bhlm.likelihood.patterns import WhitenedPatterns
from bhlm.reml.family.crossed import LaplaceProblem
from bhlm.reml.family.estimate import FamilyEstimate
from bhlm.reml.family.levels import FamilyLevelsEstimate
from bhlm.reml.family.maximum import FamilyMaximum
from bhlm.reml.family.nested import build_integrator
from bhlm.reml.family.nested_search import NestProblem
from bhlm.reml.family.search import Descended, Point, Problem, descend

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

ENOUGH = 1e-9  # of what is left to gain in a held maximum
LIMIT = 1e-7  # of a limit, relative to the standard error
DOUBLINGS = 12
EXACT = 1e-9  # of the log-likelihood of nested units


@dataclass(slots=True)
class _Held:
    """Minus the log-likelihood on the plane base + directions' x, as `descend` searches it."""

    problem: Descended
    base: Array  # (p + c,)
    directions: Array  # (r, p + c)

    def at(self, x: Array) -> Point:
        """Return value, gradient and Hessian by x (r,)."""
        found = self.problem.at(self.base + x @ self.directions)
        turned = self.directions
        return Point(found.value, turned @ found.gradient, turned @ found.hessian @ turned.T)


def profile_intervals(
    fit: FamilyMaximum, *, level: float = 0.95, parameters: Sequence[str] | None = None
) -> "pd.DataFrame":
    """Return the profile-likelihood interval of each parameter: `estimate, lower, upper`.

    Args:
        fit: the fit, with as many nodes as needed; of several factors its likelihood may be
            Laplace's approximation, and the profile is that of the approximation then.
        level: of the intervals.
        parameters: some of them; None is the fixed effects, and of each factor with one random
            coefficient its variance and SD.

    Raises:
        ArgumentError: a parameter that has no profile here, a fit of one factor by a fixed number
            of nodes or without a maximum, or a level outside (0, 1).
    """
    import pandas as pd

    check_level(level)
    has_nodes = isinstance(fit, FamilyEstimate) and fit.nagq is not None
    if has_nodes or not fit.converged:
        raise ArgumentError(
            "a profile needs a maximum of the exact likelihood; fit without nagq, and see "
            "fit.advice"
        )
    fixed = list(fit.moments.fixed)
    single = [part.structure.group for part in fit.parts if len(part.structure.factors) == 1]
    spread = [each for each in fit.parameters if not each.is_fixed and each.group in single]
    known = [*fixed, *map(str, spread)]
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
            group = next(each.group for each in spread if str(each) == name)
            ends = np.array(_profile_spread(fit, group, threshold))
            lower, upper = ends**2 if name.startswith("var") else ends
        rows.append((float(estimates.loc[name, "estimate"]), lower, upper))
    index = pd.Index(asked, name="parameter")
    return pd.DataFrame(rows, index=index, columns=["estimate", "lower", "upper"])


def _profile_fixed(fit: FamilyMaximum, at: int, threshold: float) -> tuple[float, float]:
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


def _profile_spread(fit: FamilyMaximum, group: str, threshold: float) -> tuple[float, float]:
    """Return the limits of the one SD of a factor."""
    problem, best = _prepare(fit)
    at, scale = _place_spread(fit, group)
    basis = np.delete(np.eye(len(fit.point)), at, axis=0)

    def rise(sd: float) -> float:
        base = fit.point.copy()
        base[at] = sd / scale
        held = _Held(problem, base, basis)
        _, here = descend(held, np.zeros(len(basis)), enough=ENOUGH, record=_ignore)
        return 2.0 * (here.value - best) - threshold

    sd = float(abs(fit.point[at]) * scale)
    row = next(str(each) for each in fit.parameters if each.is_sd and each.group == group)
    error = float(fit.estimates.loc[row, "se"]) if sd > 0.0 else np.nan
    step = error if np.isfinite(error) else 0.25
    lower = 0.0
    if sd > 0.0 and rise(0.0) > 0.0:
        lower = float(brentq(rise, 0.0, sd, xtol=LIMIT * step))
    return lower, _find_limit(rise, sd, step, threshold)


def _place_spread(fit: FamilyMaximum, group: str) -> tuple[int, float]:
    """Return where in the point a factor's one coefficient is, and what SD one of it makes."""
    names = [part.structure.group for part in fit.parts]
    structures = [part.structure for part in fit.parts]
    white = fit.white
    # Of nested factors the point goes level by level.
    order = white.order if isinstance(white, WhitenedNest) else tuple(range(len(names)))
    bases = (white.basis,) if isinstance(white, WhitenedPatterns) else white.bases
    factor = names.index(group)
    before = order[: order.index(factor)]
    at = len(fit.beta) + sum(len(structures[each].factors) for each in before)
    scale = float(np.abs(bases[factor] @ structures[factor].factors[0]).max())
    return at, scale


def _prepare(fit: FamilyMaximum) -> tuple[Descended, float]:
    """Return minus the log-likelihood with its derivatives, and its least value."""
    if isinstance(fit, FamilyEstimate):
        problem: Descended = Problem(fit.integrator(), fit.structure)
    else:
        assert isinstance(fit, FamilyLevelsEstimate)
        if isinstance(fit.white, WhitenedNest):
            order = fit.white.order
            integrator = build_integrator(fit, tolerance=EXACT / sum(fit.white.counts))
            problem = NestProblem(integrator, tuple(fit.structures[at] for at in order))
        else:
            problem = LaplaceProblem(Approximation(fit.white), fit.structures)
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
