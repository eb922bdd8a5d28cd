"""Correlations that are +-1 to rounding, and what is judged in their place.

Where zero lies D SDs from the values of a covariate, intercept and slope correlate by nearly -1,

    1 - |r| ~ (sd of the intercept at the mean / sd of the slope)^2 / (2 D^2),

and from about a million SDs on (a date as 20240101, a time in nanoseconds) doubles have no digits
left to tell one draw of r from another. The root of G has them still: the correlation at the
columns' means is read off it, and stands for the other wherever draws are judged.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from bhlm.bayes.priors.frame import stand_at_means
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import scale_covariance
from bhlm.moments.either import Reduced

Array = np.ndarray

# Of 1 - |r|. Its draws vary by some per cent of it, and r is known to about 4e-16: above this
# rounding moves no draw by more than 1e-3 of that.
ROUNDING = 1e-11
DRAWABLE = 1e-12  # of draws: what half of them spans has thousands of doubles then


def has_density(draws: Array) -> bool:
    """Return whether draws vary by so much more than rounding that their density can be drawn."""
    low, high = np.quantile(draws, [0.25, 0.75])
    return bool(high - low > DRAWABLE * np.median(np.abs(draws)))


def find_rounded(
    structure: Structure, draws: Mapping[str, Array], *, weight: Array | None = None
) -> tuple[str, ...]:
    """Return the correlations that are +-1 to rounding in at least half of the draws.

    Args:
        structure: of the random coefficients.
        draws: parameter -> draws of any shape.
        weight: of each draw (N,), where they are weighted.
    """
    names = [str(each) for each in structure.scaled if each.is_correlation]
    return tuple(
        name
        for name in names
        if np.average(1.0 - np.abs(draws[name]) <= ROUNDING, weights=weight) >= 0.5
    )


def read_at_means(
    moments: Reduced, structure: Structure, root: Array, names: Sequence[str]
) -> dict[str, Array]:
    """Return correlations (...) as they are where every covariate is at its mean.

    Args:
        moments: the reduced table.
        structure: of the random coefficients.
        root: of G (..., q, q).
        names: of the correlations wanted.
    """
    if not names:
        return {}
    turned = stand_at_means(moments, structure).random @ root
    scaled = scale_covariance(turned @ np.swapaxes(turned, -1, -2), structure.labels)
    labels = [str(each) for each in structure.scaled]
    return {name: scaled[..., labels.index(name)] for name in names}


def resolve_draws(
    moments: Reduced,
    structure: Structure,
    draws: Mapping[str, Array],
    root: Array,
    names: Sequence[str] | None = None,
) -> dict[str, Array]:
    """Return draws with each correlation that is +-1 to rounding as it is at the means.

    Args:
        moments: the reduced table.
        structure: of the random coefficients.
        draws: parameter -> (chain, draw).
        root: of G in the same draws, one chain after the other or chain by chain.
        names: of those correlations; None finds them in the draws.
    """
    names = find_rounded(structure, draws) if names is None else names
    found = read_at_means(moments, structure, root, names)
    return {name: found[name].reshape(x.shape) if name in found else x for name, x in draws.items()}
