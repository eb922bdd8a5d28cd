"""The profile likelihood beside prior and posterior density, for each SD, variance, correlation."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.bayes.importance import ImportancePosterior
from bhlm.bayes.importance.marginals import find_support, fit_marginal
from bhlm.bayes.prior_table import evaluate_density
from bhlm.bayes.priors.correlations import find_law
from bhlm.bayes.priors.resolve import draw_prior
from bhlm.bayes.rounding import has_density
from bhlm.errors import ArgumentError
from bhlm.likelihood.parameters import RESIDUAL_SD, Parameter, scale_covariance
from bhlm.reml.estimate import Estimate
from bhlm.reml.profile.intervals import build_profile

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray
PRIOR_DRAWS = 20_000
KEPT = 0.99  # of an SD's prior draws, since those of a long tail would widen the kernel
NEAREST = 1e-3  # of the largest SD of a grid, its smallest, where zero is not out of reach
REACHED = 0.05  # of an SD's largest draws, its smallest, below which zero is not out of reach
LEVEL = 0.01  # relative change of a prior's density next to zero up to which it is level there
TAIL = 5e-4  # posterior probability left out at either end


def tabulate_curves(
    reml: Estimate, post: Draws, exact: ImportancePosterior | None, *, points: int = 61
) -> "pd.DataFrame":
    """Return three curves over one grid per parameter, tidy.

    Columns `parameter`, `x`; `profile`, the REML profile likelihood relative to its maximum,
    exp(-rise / 2) where -2 log L rises by `rise` when the parameter is held at x; `prior` and
    `posterior`, densities on the scale of the parameter, the posterior's by importance sampling
    where that is certified and else by ArviZ's kernel estimate of the draws.

    Args:
        reml: the REML fit.
        post: draws from the posterior.
        exact: the same posterior by importance sampling, or None.
        points: of each grid.

    Raises:
        ArgumentError: fewer than two points.
    """
    import pandas as pd

    if not (isinstance(points, int | np.integer) and points >= 2):
        raise ArgumentError(f"points={points!r} does not make a grid; give an integer of 2 or more")
    priors = _collect_priors(post)
    draws = post.draws
    tables = []
    held = reml.white.held is not None  # sigma is known then, and has no curve
    for parameter in (*reml.structure.scaled, *(() if held else (RESIDUAL_SD,))):
        name = str(parameter)
        x = _lay_grid(draws[name].ravel(), float(reml.estimates.loc[name, "estimate"]), points)
        rise = build_profile(reml, name).rise
        profile = np.array([np.exp(-0.5 * rise(float(value))) for value in x])
        posterior = np.interp(x, *find_density(parameter, post, exact), left=np.nan, right=np.nan)
        prior = priors[parameter](x)
        tables.append(_tabulate(name, x, profile, prior, posterior))
        if parameter.is_sd:
            squared = str(parameter.squared)
            # A density of the variance may be infinite at zero, and has no point next to it.
            far = x > 2.0 * NEAREST * x[-1]
            jacobian = 2.0 * x[far]
            tables.append(
                _tabulate(
                    squared, x[far] ** 2, profile[far], prior[far] / jacobian,
                    posterior[far] / jacobian,
                )
            )  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def _tabulate(
    name: str, x: Array, profile: Array, prior: Array, posterior: Array
) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(
        {"parameter": name, "x": x, "profile": profile, "prior": prior, "posterior": posterior}
    )


def _lay_grid(draws: Array, estimate: float, points: int) -> Array:
    """Return equally spaced points over the draws' bulk and the REML estimate."""
    low, high = np.quantile(draws, [TAIL, 1.0 - TAIL])
    if np.isfinite(estimate):
        low, high = min(low, estimate), max(high, estimate)
    if draws.min() >= 0.0 and low < REACHED * high:
        return np.linspace(NEAREST * high, high, points)
    return np.linspace(low, high, points)


def find_density(
    parameter: Parameter, post: Draws, exact: ImportancePosterior | None
) -> tuple[Array, Array]:
    """Return points and a parameter's posterior density there.

    Args:
        parameter: a variance, SD, covariance or correlation.
        post: draws from the posterior.
        exact: the same posterior by importance sampling, or None.
    """
    from arviz_stats.base import array_stats

    scale = parameter.scaled if parameter.is_variance else parameter
    own = post.draws[str(scale)].ravel()
    if not has_density(own):
        return own[:1], np.full(1, np.nan)
    if exact is not None:
        name = str(parameter)
        support = find_support(parameter)
        power = _find_power(parameter, post, own) if support == "positive" else None
        found = fit_marginal(exact.kernels[name], exact.draws.weight, support, power=power)
        return found.x, found.density
    at, density, _ = array_stats.kde(own)
    if scale == parameter:
        return at, density
    at, density = at[at > 0.0], density[at > 0.0]
    return at**2, density / (2.0 * at)


def _find_power(parameter: Parameter, post: Draws, own: Array) -> float | None:
    """Return the power of x with which the density of an SD or a variance leaves zero, or None.

    The likelihood is smooth at a variance of zero, so that an SD's density is level there where
    its prior's is, and that of its square goes as 1 / SD. None where draws of the SD (S,) are not
    near zero, its prior is not level there, or the prior stands on other SDs than this one.
    """
    low, high = np.quantile(own, [TAIL, 1.0 - TAIL])
    sds = dict(zip(map(str, post.structure.sds), post.priors.sd, strict=True))
    scale = parameter.scaled if parameter.is_variance else parameter
    if str(scale) not in sds or low >= REACHED * high or scale in _list_moved(post):
        return None
    near = evaluate_density(sds[str(scale)], high * NEAREST * np.array([NEAREST, 1.0]))
    if not (near[0] > 0.0 and abs(near[1] / near[0] - 1.0) <= LEVEL):
        return None
    return -0.5 if parameter.is_variance else 0.0


def _collect_priors(post: Draws) -> dict[Parameter, Callable[[Array], Array]]:
    """Return the prior's density by parameter, as a function of the parameter."""
    structure = post.structure
    found: dict[Parameter, Callable[[Array], Array]] = {}
    for parameter, prior in zip(structure.sds, post.priors.sd, strict=True):
        found[parameter] = partial(evaluate_density, prior)
    found[RESIDUAL_SD] = partial(evaluate_density, post.priors.sigma)
    for (i, _), parameter in zip(structure.labels, structure.scaled, strict=True):
        if parameter.is_correlation:
            found[parameter] = (
                find_law(structure).marginal(post.priors.corr.eta, len(structure.find_block(i))).pdf
            )
    return found | _estimate_moved(post)


def _estimate_moved(post: Draws) -> dict[Parameter, Callable[[Array], Array]]:
    """Return the prior's density of SDs and correlations that it does not stand on itself.

    Where priors stand at the columns' means, those at the columns' zeros have a density that is
    estimated from draws of the prior; nan for an improper one.
    """
    priors, structure = post.priors, post.structure
    chosen = _list_moved(post)
    if not chosen:
        return {}
    if any(prior.undrawable for prior in priors.every):
        return dict.fromkeys(chosen, lambda x: np.full(len(x), np.nan))
    _, root, _ = draw_prior(priors, structure, np.random.default_rng(0), PRIOR_DRAWS)
    scaled = scale_covariance(root @ root.swapaxes(-1, -2), list(chosen.values()))
    return {
        each: _smooth(column, 1.0 if each.is_correlation else KEPT)
        for each, column in zip(chosen, scaled.T, strict=True)
    }


def _list_moved(post: Draws) -> dict[Parameter, tuple[int, int]]:
    """Return the SDs and correlations that the prior does not stand on itself, with their place."""
    structure = post.structure
    back = np.linalg.inv(post.priors.frame.random)
    moved = np.any(back != np.eye(len(back)), axis=1)
    pairs = zip(structure.labels, structure.scaled, strict=True)
    return {parameter: (i, j) for (i, j), parameter in pairs if moved[i] or moved[j]}


def _smooth(draws: Array, kept: float) -> Callable[[Array], Array]:
    """Return the density of draws (S,) by a kernel estimate of this lower share of them."""
    from arviz_stats.base import array_stats

    draws = draws[draws <= np.quantile(draws, kept)]
    if not has_density(draws):
        return lambda x: np.full(len(x), np.nan)
    at, density, _ = array_stats.kde(draws)
    return lambda x: np.asarray(np.interp(x, at, kept * density, left=0.0, right=np.nan))
