"""The posterior with and without its priors by quadrature, where importance sampling fails.

There are one or two random coefficients then, and fixed effects with normal or flat priors. The
means and SDs have errors that are known; so have the distributions of the SDs, variances and
correlations that priors stand on themselves.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

import numpy as np

from bhlm.bayes.draws import Draws
from bhlm.bayes.priors.correlations import LKJ
from bhlm.bayes.priors.families import Flat, Prior
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.quadrature.posterior import (
    BUDGET,
    QuadraturePosterior,
    integrate_resolved,
)
from bhlm.errors import ArgumentError, PriorError
from bhlm.likelihood.parameters import Parameter

Array = np.ndarray

# In posterior SDs: a tenth of the bias that judging draws lets pass.
TOLERANCE = 1e-3
# Groups times nodes that an integral may take, which is some seconds.
WORK = 2e7
# What a flat prior can be put in the place of; a scale has no prior of its own.
SWAPPED = ("sd", "corr", "residual", "fixed")


@dataclass(frozen=True, slots=True)
class QuadratureRoute:
    """The posterior under the chosen priors, under flat ones, and without one prior each."""

    chosen: QuadraturePosterior
    flat: QuadraturePosterior | None = None  # None where it is improper or not accurate
    single: dict[str, QuadraturePosterior] = field(default_factory=dict)  # by names of `SWAPPED`


def integrate_draws(
    post: Draws, *, priors: ResolvedPriors | None = None
) -> QuadraturePosterior | None:
    """Return the posterior that draws are of by quadrature; None where it has no answer.

    Args:
        post: the draws.
        priors: other than theirs.
    """
    budget = int(min(BUDGET, max(WORK / post.moments.n_groups, 20_000)))
    try:
        found = integrate_resolved(
            post.moments, post.structure, post.priors if priors is None else priors,
            tolerance=TOLERANCE, budget=budget,
        )  # fmt: skip
    except (ArgumentError, PriorError):
        return None
    return found if found.converged else None


def drop_priors(priors: ResolvedPriors, without: Collection[str]) -> ResolvedPriors:
    """Return priors of which some, names of `SWAPPED`, are flat where they stand."""

    def drop(part: str, prior: Prior) -> Prior:
        return Flat() if part in without and not isinstance(prior, Flat) else prior

    return replace(
        priors,
        fixed=tuple(drop("fixed", prior) for prior in priors.fixed),
        sd=tuple(drop("sd", prior) for prior in priors.sd),
        corr=LKJ(1.0) if "corr" in without else priors.corr,
        sigma=drop("residual", priors.sigma),
    )


def tabulate_distribution(
    found: QuadraturePosterior, parameter: Parameter
) -> tuple[Array, Array] | None:
    """Return points (m,) and distribution function (m,) of a parameter; None where unknown."""
    # The density of a variance may be infinite at zero, where that of its SD is not.
    scale = parameter.scaled if parameter.is_variance else parameter
    if str(scale) not in found.densities:
        return None
    x, density = found.densities[str(scale)]
    share = np.concatenate([[0.0], np.cumsum(0.5 * (density[1:] + density[:-1]) * np.diff(x))])
    return (x**2 if parameter.is_variance else x), share / share[-1]


def find_marginal_mode(found: QuadraturePosterior, name: str) -> tuple[float, float]:
    """Return the mode of a parameter's density and its error, a step of its points; nan if unknown.

    Zero where an SD or a variance has its highest density at the lowest point.
    """
    if name not in found.densities:
        return math.nan, math.nan
    x, density = found.densities[name]
    top = int(np.argmax(density))
    step = float(x[min(top + 1, len(x) - 1)] - x[max(top - 1, 0)]) / 2.0
    is_scale = bool(np.all(x > 0.0))
    return (0.0 if is_scale and top == 0 else float(x[top])), step
