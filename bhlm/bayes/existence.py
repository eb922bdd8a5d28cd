"""Which moments of a posterior exist, so that no table prints those that do not.

The average of draws is always a number, also where what it should estimate is infinite. Tail
indices come from `bhlm.bayes.priors.tails`; of draws from the prior alone they are the priors' own.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bhlm.bayes.level_tails import judge_existence
from bhlm.bayes.priors.families import HalfNormal, Normal, Prior, PyMCPrior, TextPrior
from bhlm.bayes.priors.resolve import ResolvedPriors
from bhlm.bayes.priors.tails import name_indices, name_tails
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.either import Reduced
from bhlm.moments.level_patterns import LevelPatterns
from bhlm.moments.patterns import Patterns

Array = np.ndarray


def index_tails(
    moments: Reduced,
    structure: Structure,
    priors: ResolvedPriors,
    white: Whitened | WhitenedCells | None,
    *,
    prior_only: bool = False,
) -> dict[str, float]:
    """Return the tail index of every parameter: its m-th moment exists if m < index.

    A prior whose tails nobody states, such as a PyMC distribution, counts as a light one.

    Args:
        moments: the reduced table.
        structure: of the random coefficients.
        priors: one prior per parameter.
        white: the whitened moments; draws from the prior alone need none.
        prior_only: whether the likelihood is left out.
    """
    known = replace(
        priors,
        fixed=tuple(_lighten(prior, Normal(0.0, 1.0)) for prior in priors.fixed),
        sd=tuple(_lighten(prior, HalfNormal(1.0)) for prior in priors.sd),
        sigma=_lighten(priors.sigma, HalfNormal(1.0)),
    )
    if prior_only:
        return _index_priors(moments, structure, known)
    assert white is not None
    assert not isinstance(moments, Patterns | LevelPatterns)
    return name_indices(judge_existence(white, structure, known), moments, structure)


def explain_missing(
    indices: Mapping[str, float], *, label: str = "the posterior"
) -> dict[str, str]:
    """Return why a mean does not exist, by parameter, where one does not."""
    if max(indices.values()) <= 0.0:
        return dict.fromkeys(indices, f"{label} is improper")
    return {
        name: f"{label} of {name} has no mean: its tail falls as x^-{index + 1.0:g}"
        for name, index in indices.items()
        if index <= 1.0
    }


def _lighten(prior: Prior, light: Prior) -> Prior:
    return light if isinstance(prior, PyMCPrior | TextPrior) else prior


def _index_priors(
    moments: Reduced, structure: Structure, priors: ResolvedPriors
) -> dict[str, float]:
    """Return the tail indices of draws from the prior."""
    fixed, sd = (
        np.array([-(prior.upper_power + 1.0) for prior in part])
        for part in (priors.fixed, priors.sd)
    )
    sigma = -(priors.sigma.upper_power + 1.0)
    sd = sd[list(structure.owners)]
    # As given, a coefficient is a sum of those on which the priors stand.
    sd = _take_heaviest(priors.frame.random, sd)
    beta = _take_heaviest(priors.frame.fixed, fixed)
    cov = np.minimum(sd[:, None], sd[None, :]) / 2.0
    return name_tails(moments, structure, beta, sd, cov, sigma)


def _take_heaviest(combine: Array, indices: Array) -> Array:
    """Return the smallest index (m,) among the parts of each coefficient as given."""
    is_part = np.linalg.inv(combine) != 0.0
    return np.asarray(np.min(np.where(is_part, indices, math.inf), axis=1, initial=math.inf))
