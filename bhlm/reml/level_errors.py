"""Standard errors of the variance components of several factors, from the observed information."""

import numpy as np

from bhlm.errors import IdentifiabilityError
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.levels import slope_rss
from bhlm.moments.cells import CellMoments
from bhlm.reml.level_search import LevelsOptimum, LevelsProblem
from bhlm.reml.optimize import ZERO

Array = np.ndarray

# Information below this share of the largest, each component in its own unit, is none: the
# matrices that it is made of leave some 1e-12 by rounding.
FLAT = 1e-8


def variances_covariance(
    moments: CellMoments,
    structures: tuple[Structure, ...],
    white: WhitenedCells,
    optimum: LevelsOptimum,
) -> Array:
    """Return the inverse observed information (m + 1, m + 1) of every g's elements and sigma^2.

    The information is that of minus twice the log-likelihood in (theta, v), v = sigma^2, carried
    to (g, v). At a boundary the vanished directions of theta are stationary and leave it; the
    elements of a block that has lost rank are nan.

    Raises:
        IdentifiabilityError: the likelihood does not tell some components apart.
    """
    at = optimum.criterion.at
    v = at.sigma2 * white.scale**2
    problem = LevelsProblem(white, structures, at.restricted)
    c = len(optimum.theta)
    information = np.empty((c + 1, c + 1))
    if white.held is None:
        slope = problem.pull(slope_rss(white.levels, optimum.lams, optimum.criterion))
        # The profiled Hessian is the full one less what v takes with it: D_tv = -slope / (s2 v).
        cross = -slope / (at.sigma2 * v)
        information[:c, :c] = optimum.hessian + np.outer(cross, cross) * v**2 / at.dof
        information[c, c] = at.dof / v**2
    else:
        cross = np.zeros(c)
        information[:c, :c] = optimum.hessian
        information[c, c] = 1.0 / v**2  # it has no error, and no share in the others'
    information[:c, c] = information[c, :c] = cross
    information *= 0.5
    jacobian, lost = _map_elements(structures, white, optimum, v)
    size = np.ones(c + 1)
    size[-1] = v
    scaled = information * np.outer(size, size)
    if optimum.singular:
        covariance = np.linalg.pinv(scaled, rcond=1e-10, hermitian=True)
    else:
        if optimum.converged:
            _refuse_flat(moments, structures, scaled)
        covariance = np.linalg.inv(scaled)
    jacobian = jacobian * size
    if white.held is not None:
        jacobian[:-1, -1] = 0.0
        lost = [*lost, len(jacobian) - 1]
    result = np.asarray(jacobian @ covariance @ jacobian.T) / white.unit
    result[lost, :] = result[:, lost] = np.nan
    return result


def _map_elements(
    structures: tuple[Structure, ...], white: WhitenedCells, optimum: LevelsOptimum, v: float
) -> tuple[Array, list[int]]:
    """Return the Jacobian (m + 1, c + 1) of (g, v) by (theta, v), and the elements without rank."""
    m = sum(len(structure.labels) for structure in structures)
    jacobian = np.zeros((m + 1, len(optimum.theta) + 1))
    jacobian[m, -1] = 1.0
    lost: list[int] = []
    row = column = 0
    for structure, basis, lam in zip(structures, white.bases, optimum.lams, strict=True):
        turned = structure.factors @ lam.T
        tangents = basis @ (turned + turned.transpose(0, 2, 1)) @ basis.T
        psi = basis @ lam @ lam.T @ basis.T
        columns = slice(column, column + len(tangents))
        column = columns.stop
        for i, j in structure.labels:
            jacobian[row, columns] = v * tangents[:, i, j]
            jacobian[row, -1] = psi[i, j]
            block = structure.find_block(i)
            values = np.linalg.svd(lam[np.ix_(block, block)], compute_uv=False)
            if optimum.singular and values[-1] < ZERO:
                lost.append(row)
            row += 1
    return jacobian, lost


def _refuse_flat(
    moments: CellMoments, structures: tuple[Structure, ...], information: Array
) -> None:
    """Raise `IdentifiabilityError` that names the factors whose variances cannot be told apart."""
    own = np.sqrt(np.abs(np.diag(information)))
    own = np.where(own > 0.0, own, 1.0)
    values, vectors = np.linalg.eigh(information / np.outer(own, own))
    if values[0] > FLAT * values[-1]:
        return
    share = np.abs(vectors[:, 0])
    stops = np.cumsum([len(structure.factors) for structure in structures])
    parts = np.split(share, stops)
    seen = [
        f"'{structure.group}'"
        for structure, part in zip(structures, parts, strict=False)
        if part.max() > 1e-3
    ]
    seen += ["the residual"] if share[-1] > 1e-3 else []
    raise IdentifiabilityError(
        f"the likelihood of '{moments.formula}' does not tell the variances of "
        f"{' and '.join(seen)} apart; drop random terms that repeat others"
    )
