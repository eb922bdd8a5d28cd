"""What is the matter with a fit that is singular or has not converged, in words."""

from collections.abc import Iterable

import numpy as np

from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.parameters import scale_covariance
from bhlm.reml.optimize import STATIONARY, STEEP, ZERO

Array = np.ndarray

# Of an intraclass correlation above 1 - 1e-10 the criterion has no digits left.
PERFECT = 1e-10


def advise_less(structures: Iterable[Structure]) -> str:
    """Return what to do about singular covariances of these structures, in one clause."""
    told = "the data do not support the full random part: drop the term"
    if any(i != j for structure in structures for i, j in structure.labels):
        told += ", use independent coefficients"
    return told


def describe_singularity(structure: Structure, basis: Array, root: Array, sigma2: float) -> str:
    """Return which variance or correlation stands on its boundary, in one clause.

    Args:
        structure: the covariance structure.
        basis: that of the whitening (q, q), for the size of each coefficient's column.
        root: a square root (q, q) of the singular covariance matrix.
        sigma2: the residual variance.
    """
    # Of a slope and an intercept far from the covariate's zero every correlation is all but +-1;
    # whether their plane has lost a dimension shows in the whitened basis.
    g, lam = root @ root.T, np.linalg.solve(basis, root) / np.sqrt(sigma2)
    values = scale_covariance(g, structure.labels)
    size = np.diag(basis @ basis.T)
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
        if i != j and abs(value) > 1.0 - 1e-6 and _lose_dimension(basis[[i, j]], lam)
    ]
    if extreme:
        return " and ".join(extreme)
    # The coefficient that weighs most, in units of the SDs, counts once.
    weights = np.linalg.solve(basis.T, np.linalg.svd(lam)[0][:, -1])
    weights /= weights[np.argmax(np.abs(weights) * np.sqrt(np.diag(g)))]
    parts = zip(weights, structure.names, strict=True)
    return "the variance of " + " ".join(f"{w:+.2g} {name}" for w, name in parts) + " is 0"


def _lose_dimension(rows: Array, lam: Array) -> bool:
    """Return whether two coefficients, rows (2, q) of the basis, vary along one line only."""
    plane = np.linalg.qr(rows.T)[0]
    return bool(np.linalg.svd(lam.T @ plane, compute_uv=False)[-1] < ZERO)


def describe_failure(
    response: str, sigma2: float, *, share: float, gradient: float, steepest: float
) -> str:
    """Return why the optimiser did not converge, and what to do, in one clause.

    Args:
        response: its name.
        sigma2: the residual variance.
        share: of it in that of ordinary least squares.
        gradient: the largest component.
        steepest: the largest of the relative covariance factors' coefficients.
    """
    if share < PERFECT or (gradient < STATIONARY and steepest >= STEEP):
        return (
            f"the fixed and random effects fit '{response}' all but without error "
            f"(residual variance {sigma2:.2g}), and then the likelihood has no maximum that can be "
            "found; drop random terms, or model one value per group"
        )
    return (
        f"the optimiser did not reach a stationary point (gradient {gradient:.2g}); do not report "
        "these estimates"
    )
