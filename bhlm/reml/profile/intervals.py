"""Profile-likelihood intervals of every parameter.

The profile of a parameter is minus twice the log-likelihood, maximised over all others, less
its minimum; the interval holds the values at which it stays below the chi-square quantile with
1 df. Variance parameters may be profiled by the restricted likelihood ("reml", the default for
a REML fit) or by the full one ("ml", which is what lme4's `confint(profile)` does, refitting
first). Fixed effects are not parameters of the restricted likelihood, so theirs are always
those of the full one; the column `likelihood` says which was used. An SD has the limit 0, and
a correlation +-1, where the profile does not reach the quantile before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from bhlm.errors import ArgumentError
from bhlm.likelihood.covariance import Based, Family
from bhlm.likelihood.panels import build_panels
from bhlm.likelihood.parameters import RESIDUAL_SD, Parameter, check_level, map_names
from bhlm.likelihood.whitening import whiten_parameters
from bhlm.moments.cells import CellMoments
from bhlm.reml.estimate import unwhiten
from bhlm.reml.group_algebra import expect_one
from bhlm.reml.level_search import maximize_levels
from bhlm.reml.levels import LevelsEstimate, unwhiten_levels
from bhlm.reml.maximum import Maximum, check_converged, require_plain
from bhlm.reml.optimize import maximize
from bhlm.reml.profile.held_levels import Held, HeldLevels, hold_fixed_effect
from bhlm.reml.profile.held_likelihood import HeldLikelihood, hold_fixed

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
type Point = tuple[float, Array]

LIMIT = 1e-9  # of a limit, relative to the first step towards it
UNRESOLVED = 1e-5  # a profile that is further from zero at its estimate has no digits there
DOUBLINGS = 60  # of the step, until a limit is between two points


@dataclass(frozen=True, slots=True)
class Profile:
    """The profile of one parameter: `rise(value)` is what -2 log L rises by when it is held."""

    name: str
    likelihood: str  # "reml" or "ml"
    estimate: float
    step: float  # about one standard error
    bounds: tuple[float, float]
    rise: Callable[[float], float]


def profile_intervals(
    fit: Maximum,
    *,
    level: float = 0.95,
    likelihood: str | None = None,
    parameters: Sequence[str] | None = None,
) -> "pd.DataFrame":
    """Return the profile-likelihood interval of each parameter.

    Rows are the fixed effects, then variances, SDs and correlations; columns `estimate, lower,
    upper, likelihood`. Variances are the squares of SDs, and so are their limits; covariances
    have none.

    Args:
        fit: the fit.
        level: of the intervals.
        likelihood: "reml" or "ml" for the variance parameters; None is the fit's own.
        parameters: the rows wanted; None is all.

    Raises:
        ArgumentError: a level outside (0, 1), an unknown likelihood or parameter, "reml" for
            a fit by ML, or a fit that did not converge.
    """
    require_plain(fit, "profile()")
    import pandas as pd

    check_level(level)
    known = map_names(list_profiled(fit))
    names = list(known)
    wanted = names if parameters is None else list(parameters)
    sources: dict[str, Profile] = {}
    limits: dict[str, tuple[float, float]] = {}
    rows: dict[str, list[float | str]] = {}
    for name in wanted:
        if name not in known:
            raise ArgumentError(f"'{name}' has no profile; choose one of {', '.join(names)}")
        source = str(known[name].scaled)
        if source not in limits:
            sources[source] = build_profile(fit, source, likelihood=likelihood)
            limits[source] = find_limits(sources[source], level=level)
        row = [sources[source].estimate, *limits[source]]
        shown = np.square(row) if name != source else row
        rows[name] = [*(float(value) for value in shown), sources[source].likelihood]
    table = pd.DataFrame.from_dict(
        rows, orient="index", columns=["estimate", "lower", "upper", "likelihood"]
    )
    table.index.name = "parameter"
    return table


def list_profiled(fit: Maximum) -> list[Parameter]:
    """Return the parameters that have a profile: all but the covariances."""
    return [parameter for parameter in fit.parameters if not parameter.is_covariance]


def build_profile(fit: Maximum, parameter: str, *, likelihood: str | None = None) -> Profile:
    """Return the profile of a fixed effect, an SD or a correlation.

    Raises:
        ArgumentError: an unknown likelihood or parameter, "reml" for a fit by ML, or a fit that
            did not converge.
    """
    if likelihood not in (None, "reml", "ml"):
        raise ArgumentError(f"likelihood={likelihood!r} is not known; choose 'reml' or 'ml'")
    if likelihood == "reml" and fit.method == "ml":
        raise ArgumentError(
            "likelihood='reml' does not belong to a fit by ML; fit with method='reml' first"
        )
    check_converged(fit, "a profile")
    if parameter in fit.moments.fixed:
        return _profile_fixed(_refit(fit, "ml"), fit.moments.fixed.index(parameter))
    fit = _refit(fit, likelihood or fit.method)
    if parameter == str(RESIDUAL_SD):
        return _profile_variance(fit, parameter, 0, None)
    for factor, part in enumerate(fit.parts):
        scaled = [str(each) for each in part.structure.scaled]
        if parameter in scaled:
            label = part.structure.labels[scaled.index(parameter)]
            return _profile_variance(fit, parameter, factor, label)
    scaled = [str(each) for part in fit.parts for each in part.structure.scaled]
    raise ArgumentError(
        f"'{parameter}' has no profile of its own; choose one of "
        f"{', '.join([*fit.moments.fixed, *scaled, str(RESIDUAL_SD)])}"
    )


def find_limits(profile: Profile, *, level: float) -> tuple[float, float]:
    """Return the values on both sides of the estimate at which the profile meets the quantile.

    nan where the parameter does not exist at the estimate (the correlation with an SD of 0), and
    where it is nearer to its bound than doubles tell (the correlation of a slope with an
    intercept a million SDs of the covariate away): the profile then is not zero at the estimate.
    """
    if np.isnan(profile.estimate) or abs(profile.rise(profile.estimate)) > UNRESOLVED:
        return np.nan, np.nan
    quantile = float(stats.chi2.ppf(level, 1))
    return _find_limit(profile, quantile, side=-1), _find_limit(profile, quantile, side=1)


def _find_limit(profile: Profile, quantile: float, *, side: int) -> float:
    bound = profile.bounds[0 if side < 0 else 1]

    def gap(value: float) -> float:
        # The root of the rise is nearly a straight line.
        return float(np.sqrt(max(profile.rise(value), 0.0)) - np.sqrt(quantile))

    inner, step = profile.estimate, profile.step
    for _ in range(DOUBLINGS):
        outer = inner + side * step
        if (outer - bound) * side >= 0.0:
            outer = bound if profile.name != str(RESIDUAL_SD) else 0.5 * inner
        if gap(outer) >= 0.0:
            return float(brentq(gap, inner, outer, xtol=LIMIT * profile.step, rtol=1e-12))
        if outer == bound:
            return bound
        inner, step = outer, 2.0 * step
    return side * np.inf


def _refit(fit: Maximum, method: str) -> Maximum:
    if fit.method == method:
        return fit
    restricted = method == "reml"
    if isinstance(fit, LevelsEstimate):
        several = maximize_levels(fit.white, fit.structures, restricted=restricted)
        refit: Maximum = unwhiten_levels(fit.moments, fit.structures, fit.white, several)
    else:
        one = expect_one(fit)
        found = maximize(one.white, one.structure, restricted=restricted)
        refit = unwhiten(one.moments, one.structure, one.white, found)
    check_converged(refit, "a profile")
    return refit


def _profile_fixed(fit: Maximum, index: int) -> Profile:
    lowest, theta = -2.0 * fit.loglik, fit.theta
    offset = 2.0 * fit.white.n * np.log(fit.white.scale)

    def rise(value: float) -> float:
        if isinstance(fit, LevelsEstimate):
            white = hold_fixed_effect(fit.white, index, value)
            several = maximize_levels(white, fit.structures, restricted=False, start=theta)
            return several.criterion.at.value + offset - lowest
        one = expect_one(fit)
        held = hold_fixed(one.white, index, value)
        found = maximize(held, one.structure, restricted=False, start=theta)
        return found.criterion.value + offset - lowest

    return Profile(
        name=fit.moments.fixed[index],
        likelihood="ml",
        estimate=float(fit.beta[index]),
        step=2.0 * float(np.sqrt(fit.beta_cov[index, index])),
        bounds=(-np.inf, np.inf),
        rise=rise,
    )


class _Scene(NamedTuple):
    """What the profile of a variance parameter takes of a fit, whatever its factors."""

    scale: float
    g: Any  # the estimates of G~, as `start` of a held likelihood takes them
    v: float
    basis: Based  # of the parameter's factor
    hold: Callable[..., Held]  # (family of the parameter's factor or None, v=None)


def _set_scene(fit: Maximum, factor: int) -> _Scene:
    restricted = fit.method == "reml"
    if isinstance(fit, LevelsEstimate):
        white, families = fit.white, [each.family() for each in fit.structures]
        v = fit.sigma2 / white.scale**2

        def hold_levels(family: Family | None, *, v: float | None = None) -> Held:
            own = list(families)
            own[factor] = family or own[factor]
            return HeldLevels(white, tuple(own), restricted, v)

        gs = [v * lam @ lam.T for lam in fit.lams]
        return _Scene(white.scale, gs, v, Based(white.bases[factor], white.scale), hold_levels)
    one = expect_one(fit)
    # By way of the root: G itself cancels where a covariate is far from zero.
    _, lam, sigma = whiten_parameters(one.white, one.beta, one.root, np.sqrt(one.sigma2))
    v = float(sigma) ** 2
    panels = build_panels(one.white.blocks, one.white.q)

    def hold_groups(family: Family | None, *, v: float | None = None) -> Held:
        family = family or one.structure.family()
        return HeldLikelihood(one.white, family, restricted, v, panels)

    based = Based(one.white.basis, one.white.scale)
    return _Scene(one.white.scale, v * lam @ lam.T, v, based, hold_groups)


def _profile_variance(
    fit: Maximum, name: str, factor: int, label: tuple[int, int] | None
) -> Profile:
    """Return the profile of the SD or correlation at `label` of G; of the residual SD for None."""
    structure, own_g = fit.parts[factor]
    scene = _set_scene(fit, factor)
    g, v = scene.g, scene.v
    sd = np.sqrt(np.diag(own_g))
    bounds = (0.0, np.inf)
    if label is None:
        estimate = float(np.sqrt(fit.sigma2))
    elif label[0] == label[1]:
        estimate = float(sd[label[0]])
    else:
        with np.errstate(invalid="ignore"):
            estimate = float(np.clip(own_g[label] / (sd[label[0]] * sd[label[1]]), -1.0, 1.0))
        bounds = structure.correlation_bounds

    def hold(value: float) -> Held:
        if label is None:
            return scene.hold(None, v=(value / scene.scale) ** 2)
        if label[0] == label[1]:
            return scene.hold(structure.family_with_sd(scene.basis, label[0], sd=value))
        return scene.hold(structure.family_with_correlation(scene.basis, *label, correlation=value))

    whole = scene.hold(None)
    lowest = whole.value_and_gradient(whole.start(g, v))[0]
    # Where one of the two SDs of a correlation turns negative, the point is one of the opposite
    # correlation; the minimum is then that with an SD of zero, at which every correlation is the
    # same.
    signed = label is not None and label[0] != label[1] and not structure.shares_variance
    floor = np.inf
    if signed:
        zeros = (structure.family_with_sd(scene.basis, i, sd=0.0) for i in label or ())
        helds = [scene.hold(each) for each in zeros]
        floor = min(held.minimize(held.start(g, v))[0] for held in helds)
    # Each point starts at the nearest one found before (coordinates of families of one kind
    # agree) and at the estimates, which keeps it out of lesser minima.
    found: dict[float, Array] = {}

    def rise(value: float) -> float:
        if not bounds[0] <= value <= bounds[1] or (label is None and value == 0.0):
            return np.inf
        held = hold(value)
        near = min(found, key=lambda known: abs(known - value), default=None)
        starts = [held.start(g, v)] + ([] if near is None else [found[near]])
        lower = floor
        for reached, point in (held.minimize(start) for start in starts):
            if reached < lower and held.keeps_signs(point):
                lower, found[value] = reached, point
        return lower - lowest

    step = 2.0 * _guess_error(fit, factor, label, scene.basis)
    return Profile(name, fit.method, estimate, step, bounds, rise)


def _guess_error(fit: Maximum, factor: int, label: tuple[int, int] | None, based: Based) -> float:
    """Return about one standard error, the scale of the search for a limit.

    From the information where there is one; for an SD of zero, the residual SD in the units of
    the coefficient over the root of the mean group size.
    """
    n_groups = _count_levels(fit)[factor]
    if label is not None and label[0] != label[1]:
        return float(1.0 / np.sqrt(n_groups))
    structure, g = fit.parts[factor]
    before = sum(len(part.structure.labels) for part in fit.parts[:factor])
    at = -1 if label is None else before + structure.labels.index(label)
    variance = fit.sigma2 if label is None else float(g[label])
    error = float(np.sqrt(fit.variance_cov[at, at]))
    if variance > 0.0 and np.isfinite(error) and error > 0.0:
        return float(error / (2.0 * np.sqrt(variance)))
    unit = 1.0 if label is None else float(np.linalg.norm(based.basis[label[0]]))
    return float(np.sqrt(fit.sigma2 * n_groups / fit.white.n) * unit)


def _count_levels(fit: Maximum) -> list[int]:
    """Return the levels of every factor."""
    moments = fit.moments
    return list(moments.groups.values()) if isinstance(moments, CellMoments) else [moments.n_groups]
