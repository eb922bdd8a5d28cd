"""Which variance or correlation of a fit stands on its boundary, in words."""

import numpy as np

from bhlm.covariance import Structure
from bhlm.moments import Moments
from bhlm.parameters import scale_covariance, scaled_names, variance_names
from bhlm.whitening import Whitened

Array = np.ndarray


def describe_singularity(
    moments: Moments, structure: Structure, white: Whitened, g: Array, sigma2: float
) -> str:
    """Return which variance or correlation stands on its boundary, in one clause.

    Args:
        moments: the reduced table, for the names.
        structure: the covariance structure.
        white: the whitening, for the size of each coefficient's column.
        g: the singular covariance matrix (q, q).
        sigma2: the residual variance.
    """
    names = variance_names(moments.random, moments.group, structure.labels)
    scaled = scaled_names(moments.random, moments.group, structure.labels)
    values = scale_covariance(g, structure.labels)
    size = np.diag(white.basis @ white.basis.T)
    zero = [
        f"{name} = 0"
        for name, (i, j) in zip(names, structure.labels, strict=True)
        if i == j and g[i, i] < 1e-8 * sigma2 * size[i]
    ]
    if zero:
        return " and ".join(zero)
    extreme = [
        f"{name} = {round(value):+d}"
        for name, value in zip(scaled, values, strict=True)
        if name.startswith("corr(") and abs(value) > 1.0 - 1e-6
    ]
    if extreme:
        return " and ".join(extreme)
    _, vectors = np.linalg.eigh(g)
    parts = zip(vectors[:, 0], moments.random, strict=True)
    return "the variance of " + " ".join(f"{w:+.2g} {name}" for w, name in parts) + " is 0"
