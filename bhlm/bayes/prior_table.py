"""Priors as a table that plots read: density on a grid, and quantiles, beside the posterior's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bhlm.bayes.density import evaluate_prior
from bhlm.bayes.draws import Posterior, turn_draws
from bhlm.bayes.priors.correlations import LKJ, arrange_prior, find_law
from bhlm.bayes.priors.families import (
    Prior,
    PyMCPrior,
)
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, list_judged, resolve_priors
from bhlm.errors import ArgumentError, check_arguments
from bhlm.likelihood.covariance import Structure
from bhlm.moments.either import Reduced

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

TAILS = (0.025, 0.5, 0.975)
# The grid ends at this quantile, or so many quartile distances from the median if that is
# nearer: a Cauchy's outer quantiles would leave nothing to see of its middle.
OUTERMOST = 0.999
QUARTILES = 10.0


@check_arguments
def tabulate_priors(
    moments: Reduced,
    priors: Priors | None = None,
    *,
    covariance: str | None = None,
    points: int = 200,
) -> "pd.DataFrame":
    """Return the density of each parameter's prior on a grid, and its quantiles.

    One row per parameter and grid point, on the scale on which the prior stands: fixed effects,
    SDs, correlations and the residual SD. Columns `parameter`, `prior` (as text), `x`,
    `density`, and `prior_lower`, `prior_median`, `prior_upper` (2.5, 50 and 97.5 %), the same in
    all rows of a parameter. The Intercept's prior, and all that stands in its rows, is about the
    expected response where the other columns are at their means.

    An improper prior has no quantiles (nan), and a density that is scaled to one over the grid,
    which is that of the default prior. A PyMC distribution has no quantiles here either.

    Args:
        moments: the reduced table, which scales the defaults.
        priors: what replaces the autoscaled defaults.
        covariance: "unstructured", "independent", "exchangeable" or "identity"; None keeps what
            the formula says.
        points: of each grid.

    Raises:
        ArgumentError: fewer than two points, or a covariance that has no prior.
        PriorError: priors that do not fit the model.
    """
    structure = arrange_prior(moments, covariance)
    resolved = resolve_priors(priors, moments, structure=structure)
    return _tabulate(moments, resolved, structure, {}, points=points)


def tabulate_fit(fit: Posterior, *, points: int = 200) -> "pd.DataFrame":
    """Return the table of `tabulate_priors` for the priors of a fit, with the posterior beside it.

    Adds `posterior_lower`, `posterior_median` and `posterior_upper`, of the same quantity as the
    prior's. The grid reaches over the middle 99 % of the draws too.

    Raises:
        ArgumentError: fewer than two points.
    """
    return _tabulate(fit.moments, fit.priors, fit.structure, turn_draws(fit), points=points)


def evaluate_density(prior: Prior, x: Array) -> Array:
    """Return the density of a prior at x (m,), improper ones up to a factor."""
    return np.asarray(np.exp(evaluate_prior(prior, x)))


def _tabulate(
    moments: Reduced,
    priors: ResolvedPriors,
    structure: Structure,
    draws: Mapping[str, Array],
    *,
    points: int,
) -> "pd.DataFrame":
    import pandas as pd

    if not (isinstance(points, int | np.integer) and points >= 2):
        raise ArgumentError(f"points={points!r} does not make a grid; give an integer of 2 or more")
    texts = priors.describe(moments, structure=structure)
    defaults = resolve_priors(None, moments, structure=structure)
    frames = []
    parameters = list_judged(moments, structure)
    for at, (parameter, prior) in enumerate(zip(parameters, priors.every, strict=True)):
        name = str(parameter)
        own = prior.quantile(np.array(TAILS))
        is_proper = not np.isnan(own).any()
        positive = not parameter.is_fixed
        x = _lay_grid(
            prior if is_proper else defaults.every[at],
            draws.get(name),
            positive=positive,
            points=points,
        )
        density = evaluate_density(prior, x)
        if not is_proper and not isinstance(prior, PyMCPrior):
            density = density / np.trapezoid(density, x)
        frames.append(_frame(name, texts[name], x, density, own, draws))
    for part, corr in zip(structure.parts, priors.corrs, strict=True):
        for name, law in _list_correlations(part, corr):
            x = np.linspace(-1.0, 1.0, points + 2)[1:-1]
            frames.append(_frame(name, str(corr), x, law.pdf(x), law.ppf(TAILS), draws))
    return pd.concat(frames, ignore_index=True)


def _list_correlations(structure: Structure, prior: LKJ) -> list[tuple[str, Any]]:
    """Return the correlations with the marginal distribution that their prior gives them."""
    law = find_law(structure)
    return [
        (str(parameter), law.marginal(prior.eta, len(structure.find_block(i))))
        for (i, _), parameter in zip(structure.labels, structure.scaled, strict=True)
        if parameter.is_correlation
    ]


def _lay_grid(prior: Prior, draws: Array | None, *, positive: bool, points: int) -> Array:
    """Return points (m,) over the middle of a proper prior, and over that of draws if given."""
    low, first, middle, third, high = prior.quantile(
        np.array([1.0 - OUTERMOST, 0.25, 0.5, 0.75, OUTERMOST])
    )
    low = max(low, middle - QUARTILES * (middle - first))
    high = min(high, middle + QUARTILES * (third - middle))
    if draws is not None:
        first, last = np.quantile(draws, [0.005, 0.995])
        low, high = min(low, first), max(high, last)
    if positive:  # without zero itself, where a density may be infinite
        return np.linspace(0.0, high, points + 1)[1:]
    return np.linspace(low, high, points)


def _frame(
    name: str, text: str, x: Array, density: Array, own: Array, draws: Mapping[str, Array]
) -> "pd.DataFrame":
    import pandas as pd

    columns = {"parameter": name, "prior": text, "x": x, "density": density}
    sides = ("lower", "median", "upper")
    columns |= {f"prior_{side}": value for side, value in zip(sides, own, strict=True)}
    if draws:
        posterior = np.quantile(draws[name], TAILS)
        columns |= {f"posterior_{s}": value for s, value in zip(sides, posterior, strict=True)}
    return pd.DataFrame(columns)
