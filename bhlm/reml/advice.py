"""What is the matter with a fit that is singular or has not converged, in words."""

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import scale_covariance
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.moments import Moments
from bhlm.reml.optimize import ZERO

Array = np.ndarray

# Of an intraclass correlation above 1 - 1e-10 the criterion has no digits left.
PERFECT = 1e-10


def describe_singularity(
    moments: Moments, structure: Structure, white: Whitened, root: Array, sigma2: float
) -> str:
    """Return which variance or correlation stands on its boundary, in one clause.

    Args:
        moments: the reduced table, for the names.
        structure: the covariance structure.
        white: the whitening, for the size of each coefficient's column.
        root: a square root (q, q) of the singular covariance matrix.
        sigma2: the residual variance.
    """
    # Of a slope and an intercept far from the covariate's zero every correlation is all but +-1;
    # whether their plane has lost a dimension shows in the whitened basis.
    g, lam = root @ root.T, np.linalg.solve(white.basis, root) / np.sqrt(sigma2)
    values = scale_covariance(g, structure.labels)
    size = np.diag(white.basis @ white.basis.T)
    zero = [
        f"{name} = 0"
        for name, (i, j) in zip(structure.variances, structure.labels, strict=True)
        if i == j and g[i, i] < 1e-8 * sigma2 * size[i]
    ]
    if zero:
        return " and ".join(zero)
    extreme = [
        f"{name} = {round(value):+d}"
        for name, value, (i, j) in zip(structure.scaled, values, structure.labels, strict=True)
        if i != j and abs(value) > 1.0 - 1e-6 and _lose_dimension(white.basis[[i, j]], lam)
    ]
    if extreme:
        return " and ".join(extreme)
    # The coefficient that weighs most, in units of the SDs, counts once.
    weights = np.linalg.solve(white.basis.T, np.linalg.svd(lam)[0][:, -1])
    weights /= weights[np.argmax(np.abs(weights) * np.sqrt(np.diag(g)))]
    parts = zip(weights, moments.random, strict=True)
    return "the variance of " + " ".join(f"{w:+.2g} {name}" for w, name in parts) + " is 0"


def _lose_dimension(rows: Array, lam: Array) -> bool:
    """Return whether two coefficients, rows (2, q) of the basis, vary along one line only."""
    plane = np.linalg.qr(rows.T)[0]
    return bool(np.linalg.svd(lam.T @ plane, compute_uv=False)[-1] < ZERO)


def describe_failure(moments: Moments, sigma2: float, *, share: float, gradient: float) -> str:
    """Return why the optimiser did not converge, and what to do, in one clause.

    Args:
        moments: the reduced table, for the names.
        sigma2: the residual variance.
        share: of it in that of ordinary least squares.
        gradient: the largest component.
    """
    if share < PERFECT:
        return (
            f"the fixed and random effects fit '{moments.response}' all but without error "
            f"(residual variance {sigma2:.2g}), and then the likelihood has no maximum that can be "
            "found; drop random terms, or model one value per group"
        )
    return (
        f"the optimiser did not reach a stationary point (gradient {gradient:.2g}); do not report "
        "these estimates"
    )
