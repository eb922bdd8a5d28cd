"""The gap between posterior mean and REML estimate, split into what accounts for it.

gap = posterior mean of the draws - REML estimate is split exactly:

    shape        flat-prior mean - flat-prior mode: skewness of the posterior, and integrating
                 over the variance components instead of plugging them in
    prior        mean under the chosen priors - mean under flat ones
    monte_carlo  mean of the draws - mean under the chosen priors, as far as the Monte Carlo
                 error of the draws allows
    unexplained  flat-prior mode - REML estimate, which is zero if both engines are right, and
                 what the draws miss the mean by beyond their Monte Carlo error

Where there are one or two random coefficients the two means come from quadrature, which has no
Monte Carlo error and shares no Jacobian with the sampler. Elsewhere they are means of draws, the
Monte Carlo share cannot be told apart, and its standard error stays in shape and prior.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bhlm.bayes.convergence import summarize
from bhlm.bayes.density import build_density
from bhlm.bayes.draws import Draws, Settings, parameter_draws
from bhlm.bayes.priors.families import Normal
from bhlm.bayes.priors.resolve import Priors, ResolvedPriors, bounds_variances, resolve_priors
from bhlm.bayes.quadrature import QuadraturePosterior, integrate_resolved
from bhlm.bayes.sampling import Progress, sample_moments
from bhlm.errors import PriorError
from bhlm.reconciliation.flat_mode import FlatMode, condition_fixed, find_flat_mode
from bhlm.reml.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

Array = np.ndarray

# A gap that no reader of the posterior would notice, in posterior SDs.
NEGLIGIBLE = 0.1
# What optimisation by numerical derivatives may leave between the two modes, in posterior SDs;
# next to a boundary, where the mode is approached but not attained, it stops further away.
IDENTITY = 1e-3
BOUNDARY_IDENTITY = 2e-2
MONTE_CARLO = 4.0  # standard errors that Monte Carlo noise may reach
# Means by quadrature that are not certified to this many posterior SDs are not used.
CERTIFIED = 1e-3
# Each node of the quadrature is a pass over the groups with algebra of the fixed effects; beyond
# these sizes draws are cheaper.
MOST_GROUPS = 1000
MOST_FIXED = 10


@dataclass(frozen=True, slots=True)
class Means:
    """Posterior means of parameters, by quadrature or by draws."""

    mean: dict[str, float]  # of the parameters whose mean is known
    error: dict[str, float]  # bound (quadrature) or standard error (draws), in the same units
    route: str  # "quadrature" or "draws"
    note: str = ""  # what keeps other parameters out
    fit: Draws | None = None  # the draws
    exact: QuadraturePosterior | None = None  # the quadrature


def locate_chosen(post: Draws) -> Means | None:
    """Return the exact means under the chosen priors; None where quadrature cannot serve."""
    return _integrate(post, post.priors)


def locate_flat(post: Draws, *, progress: Progress | None = None) -> Means | None:
    """Return the means under flat priors; None where that posterior is improper.

    They come from quadrature or, where that cannot serve, from a second run of the sampler with
    a seed derived from the posterior's.
    """
    if not all(bounds_variances(post.moments, post.structure)):
        return None
    exact = _integrate(post, resolve_priors(Priors.flat(), post.moments, structure=post.structure))
    return exact or _sample_flat(post, progress)


def _integrate(post: Draws, priors: ResolvedPriors) -> Means | None:
    moments = post.moments
    if post.structure.shares_variance:
        return None
    if len(moments.random) > 2 or moments.n_groups > MOST_GROUPS or len(moments.fixed) > MOST_FIXED:
        return None
    try:
        found = integrate_resolved(moments, post.structure, priors)
    except PriorError:
        return None
    certified = [name for name, error in found.error.items() if error <= CERTIFIED]
    if found.stopped == "budget" and len(certified) < len(found.error):
        return None
    return Means(
        mean={name: found.mean[name] for name in certified},
        error={name: found.error[name] * found.sd[name] for name in certified},
        route="quadrature",
        note="" if len(certified) == len(found.error) else found.note,
        exact=found,
    )


def _sample_flat(post: Draws, progress: Progress | None) -> Means:
    settings = post.settings
    flat = sample_moments(
        post.moments,
        seed=int(np.random.SeedSequence([post.seed, 1]).generate_state(1)[0]),
        settings=Settings(
            draws=settings.draws, tune=max(settings.draws, 1000), chains=settings.chains
        ),
        priors=Priors.flat(),
        covariance=post.structure.name_override,
        progress=progress,
    )
    # E[beta | y] by Rao-Blackwell: the exact conditional means at each draw of the rest.
    exact = dict(zip(flat.moments.fixed, average_conditionals(flat), strict=True))
    rows = summarize(flat.draws) | summarize(exact)
    return Means(
        mean={name: row.mean for name, row in rows.items()},
        error={name: row.mcse_mean for name, row in rows.items()},
        route="draws",
        fit=flat,
    )


def find_mode(post: Draws, flat: Means | None) -> FlatMode:
    """Return the flat-prior mode, started from draws and not from the REML estimate."""
    flat_priors = resolve_priors(Priors.flat(), post.moments, structure=post.structure)
    density = build_density(post.white, flat_priors, post.structure)
    if flat is not None and flat.fit is not None:
        x = flat.fit.data["unconstrained_posterior"]["x"].values
        return find_flat_mode(
            density, post.white, post.structure, x.reshape(-1, x.shape[-1]).mean(axis=0)
        )
    p, s = post.white.p, len(density.unit)
    drawn = post.data["posterior"].dataset
    start = np.zeros(density.dimension)
    sd = drawn["sd"].values.mean(axis=(0, 1))
    first = np.unique(post.structure.owners, return_index=True)[1]
    start[p : p + s] = np.log(sd[first] / density.unit)
    start[-1] = np.log(drawn["sigma"].values.mean())
    return find_flat_mode(density, post.white, post.structure, start)


def split_gaps(
    reml: Estimate, post: Draws, mode: FlatMode, chosen: Means | None, flat: Means | None
) -> "pd.DataFrame":
    """Return the split of every gap, one row per parameter.

    Columns `reml, posterior, sd, gap, gap_sd, shape, prior, monte_carlo, unexplained`, the
    uncertainty of each share as `shape_se, prior_se, monte_carlo_se, unexplained_se`, and
    `verdict`. Shares add up to the gap; they are nan where the flat-prior mean is not known.
    """
    import pandas as pd

    estimates = reml.estimates["estimate"]
    modes = _name_mode(post, mode)
    rows = {}
    columns = ["mean", "sd", "mcse_mean"]
    for name, drawn, sd, mcse in post.estimates[columns].itertuples(name=None):
        estimate = float(estimates[name])
        exact = name in chosen.mean if chosen else False
        target = chosen.mean[name] if chosen and exact else drawn
        target_error = chosen.error[name] if chosen and exact else mcse
        flat_mean = flat.mean.get(name, np.nan) if flat else np.nan
        flat_error = flat.error.get(name, np.nan) if flat else np.nan
        noise = float(np.clip(drawn - target, -MONTE_CARLO * mcse, MONTE_CARLO * mcse))
        rows[name] = {
            "reml": estimate,
            "posterior": drawn,
            "sd": sd,
            "gap": drawn - estimate,
            "gap_sd": (drawn - estimate) / sd,
            "shape": flat_mean - modes[name],
            "prior": target - flat_mean,
            "monte_carlo": noise,
            "unexplained": modes[name] - estimate + (drawn - target - noise),
            "shape_se": flat_error,
            "prior_se": float(np.hypot(flat_error, target_error)),
            "monte_carlo_se": mcse,
            "unexplained_se": mcse if exact else float(np.hypot(mcse, np.nan_to_num(flat_error))),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "parameter"
    limit = BOUNDARY_IDENTITY if reml.singular else IDENTITY
    table["verdict"] = np.where(
        table["unexplained"].abs() > limit * table["sd"],
        "unexplained",
        np.where(table["gap"].abs() <= NEGLIGIBLE * table["sd"], "agree", "explained"),
    )
    return table


def _name_mode(post: Draws, mode: FlatMode) -> dict[str, float]:
    """Return the mode under each parameter's name; on the SD scale, of the transformed mode."""
    sigma = np.sqrt(np.asarray(mode.sigma2))
    named = parameter_draws(post.moments, post.structure, mode.beta, mode.g, sigma)
    return {name: float(value) for name, value in named.items()}


def find_drift(fit: Draws) -> list[str]:
    """Return a sentence for each fixed effect whose draws miss their exact conditional means.

    Their average over the draws of the other parameters is E[beta | y] by Rao-Blackwell, exact
    under normal and flat priors; other priors have no such check.
    """
    if not all(isinstance(prior, Normal) or str(prior) == "Flat" for prior in fit.priors.fixed):
        return []
    if "x" not in fit.data["unconstrained_posterior"]:
        return []
    drawn = fit.estimates
    found = []
    for name, exact in zip(fit.moments.fixed, average_conditionals(fit), strict=True):
        difference = float(drawn.loc[name, "mean"]) - float(exact.mean())
        error = float(drawn.loc[name, "mcse_mean"])
        if abs(difference) > MONTE_CARLO * error:
            found.append(
                f"The draws of {name} average {difference:+.3g} off their exact conditional means, "
                f"{abs(difference) / error:.1f} Monte Carlo errors."
            )
    return found


def average_conditionals(fit: Draws) -> Array:
    """Return E[beta | other parameters, y] at each draw (p, chain, draw), flat or normal priors."""
    x = fit.data["unconstrained_posterior"]["x"].values
    p = fit.white.p
    density = build_density(fit.white, fit.priors, fit.structure)
    flat_x = x.reshape(-1, x.shape[-1])
    means = np.stack([condition_fixed(density, p, row[p:])[0] for row in flat_x])
    beta = fit.white.ols + fit.white.scale * means @ fit.white.fixed.T
    return np.moveaxis(beta.reshape(*x.shape[:2], p), -1, 0)


def describe_route(chosen: Means | None, flat: Means | None) -> str:
    """Return how the two means were found, in a sentence."""
    if chosen and flat and flat.route == "quadrature":
        return "Means by quadrature, so that the Monte Carlo error of the draws is known."
    if chosen:
        return "The mean under the chosen priors is by quadrature."
    return (
        "Means are those of draws, so that Monte Carlo noise (+-MC) stays in shape and prior; "
        "quadrature serves up to 2 random coefficients with normal or flat fixed effects."
    )


def collect_notes(chosen: Means | None, flat: Means | None) -> list[str]:
    """Return what the routes have to say about parameters that they do not know the mean of."""
    labels: Mapping[str, Means | None] = {"Chosen priors": chosen, "Flat priors": flat}
    return [f"{label}: {means.note}" for label, means in labels.items() if means and means.note]
