"""Standard errors of variance components from the observed information, and their intervals."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from bhlm.errors import IdentifiabilityError
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.identify import expect_information, find_flat
from bhlm.likelihood.parameters import RESIDUAL
from bhlm.likelihood.profiled import Criterion, Curvature, join_bends, score_psi
from bhlm.likelihood.whitening import Whitened
from bhlm.moments.moments import Moments
from bhlm.reml.optimize import ZERO, Optimum, list_tangents

Array = np.ndarray

LARGEST = 1e150  # whose square still is a double
LOG_LARGEST = float(np.log(np.finfo(float).max))
Z95 = float(special.ndtri(0.975))


def variance_covariance(
    moments: Moments, structure: Structure, white: Whitened, optimum: Optimum
) -> Array:
    """Return the inverse observed information (m + 1, m + 1) of g's elements and sigma^2.

    The information is that of the (restricted) log-likelihood in (psi, v), v = sigma^2,
    psi = g / v, carried to (g, v). At a boundary, elements of g that have none are nan.

    Raises:
        IdentifiabilityError: the likelihood does not depend on some element, or combination.
    """
    at = optimum.criterion
    v = at.sigma2 * white.scale**2
    m = len(structure.directions)
    _check_sizes(moments, white, v)
    information = _observe(structure, white, optimum)
    _refuse_flat(moments, structure, white, _find_flat(structure, white, optimum, information))
    if optimum.singular:
        return _singular_covariance(structure, white, optimum)
    # The whitened elements of g are well scaled wherever the columns' zeros lie; the structure
    # is closed under the change of basis, so that g is linear in them.
    directions = structure.directions
    root = white.basis @ optimum.lam
    turned = white.basis @ directions @ white.basis.T
    jacobian = np.zeros((m + 1, m + 1))
    jacobian[:m, :m] = v * structure.read(turned).T
    jacobian[:m, m] = structure.read(root @ root.T)
    jacobian[m, m] = 1.0
    return _carry(jacobian, np.linalg.inv(information), white)


def _carry(jacobian: Array, covariance: Array, white: Whitened) -> Array:
    """Return J covariance J' (m + 1, m + 1); sigma^2 has no error where it is known."""
    if white.held is not None:
        jacobian[:-1, -1] = 0.0
    result = np.asarray(jacobian @ covariance @ jacobian.T) / white.unit
    if white.held is not None:
        result[-1, :] = result[:, -1] = np.nan
    return result


def _check_sizes(moments: Moments, white: Whitened, v: float) -> None:
    """Raise `IdentifiabilityError` where the square of a variance is no double."""
    sizes = [v, *(v * row @ row for row in white.basis)]
    for name, size in zip((moments.response, *moments.random), sizes, strict=True):
        if not 1.0 / LARGEST < size < LARGEST:
            raise IdentifiabilityError(
                f"a variance of the size {size:.2g} has a standard error that is no double; give "
                f"'{name}' in other units"
            )


def is_flat(structure: Structure, white: Whitened, optimum: Optimum) -> bool:
    """Return whether the likelihood does not depend on some element of G, or combination."""
    information = _observe(structure, white, optimum)
    return len(_find_flat(structure, white, optimum, information)) > 0


def _observe(structure: Structure, white: Whitened, optimum: Optimum) -> Array:
    """Return the observed information; the expected one of meta-analyses, as all others print."""
    at = optimum.criterion
    if at.held is not None:
        expected = expect_information(
            white.blocks,
            white.q,
            structure,
            n=white.n,
            restricted=at.restricted,
            psi=optimum.lam @ optimum.lam.T,
        )
        expected[:-1, -1] = expected[-1, :-1] = 0.0
        return expected
    curve = join_bends(optimum.bends, at, structure.directions)
    return _information(curve, at, white.scale)


def _find_flat(
    structure: Structure, white: Whitened, optimum: Optimum, information: Array
) -> Array:
    """Return directions (f, m + 1) of (psi, log v) in which the likelihood is flat; mostly none.

    Each element is taken relative to its size, one at least, and then has an information of
    about the number of groups that tell of it. On the boundary the likelihood may bend either way,
    and the expected information tells whether it depends on an element at all.
    """
    at = optimum.criterion
    n_groups = len(white.blocks)
    if not optimum.converged:
        return np.empty((0, len(information)))
    if optimum.singular:
        expected = expect_information(
            white.blocks, white.q, structure, n=white.n, restricted=at.restricted
        )
        return find_flat(expected, np.ones(len(expected)), n_groups=n_groups)
    wide = np.maximum((optimum.lam**2).sum(axis=1), 1.0)
    size = np.ones(len(information))
    size[:-1] = np.sqrt(structure.read(wide[:, None] * wide))
    units = size.copy()
    units[-1] = at.sigma2 * white.scale**2
    return find_flat(information, units, n_groups=n_groups) * size


def _refuse_flat(moments: Moments, structure: Structure, white: Whitened, flat: Array) -> None:
    """Raise `IdentifiabilityError` that names what the likelihood does not depend on."""
    if not len(flat):
        return
    length = np.linalg.norm(white.basis, axis=1)
    seen = np.zeros(len(structure.labels) + 1, dtype=bool)
    for direction in flat:
        turned = np.tensordot(direction[:-1], structure.directions, axes=1)
        turned = white.basis @ turned @ white.basis.T / np.outer(length, length)
        share = np.append(structure.read(turned), direction[-1])
        seen |= np.abs(share) > 1e-6 * np.abs(share).max()
    parameters = (*structure.variances, RESIDUAL)
    shown = " and ".join(str(each) for each, named in zip(parameters, seen, strict=True) if named)
    what = f"depend on {shown}" if seen.sum() == 1 else f"tell {shown} apart"
    raise IdentifiabilityError(
        f"the likelihood of '{moments.formula}' does not {what}; drop random terms that repeat "
        "others, or fixed effects that tell every group from the others"
    )


def _information(curve: Curvature, at: Criterion, scale: float) -> Array:
    """Return half the Hessian of minus twice the log-likelihood by (psi, v), at the optimum.

    With rss = scale^2 rss~ and v = scale^2 s2 = rss / dof there. Where v is known it leaves psi
    alone.
    """
    m = len(curve.rss_slope)
    s2, dof = at.sigma2, at.dof
    v = scale**2 * s2
    hessian = np.empty((m + 1, m + 1))
    hessian[:m, :m] = curve.logdet + curve.rss / s2
    hessian[:m, m] = hessian[m, :m] = -curve.rss_slope / (s2 * v)
    hessian[m, m] = dof / v**2
    if at.held is not None:
        hessian[:m, m] = hessian[m, :m] = 0.0
    return 0.5 * hessian


def _singular_covariance(structure: Structure, white: Whitened, optimum: Optimum) -> Array:
    """Return the covariance (m + 1, m + 1) where G has lost rank.

    In theta the vanished directions are stationary and leave the information, so that sigma^2
    and the blocks of G that have kept their rank have standard errors; the others have none.
    """
    at, lam = optimum.criterion, optimum.lam
    m = len(structure.labels)
    v = at.sigma2 * white.scale**2
    tangents = list_tangents(structure, lam)
    curve = join_bends(optimum.bends, at, tangents)
    information = _information(curve, at, white.scale)
    score = score_psi(white.blocks, white.q, lam, at, groups=white.groups)
    factors = structure.factors
    information[:-1, :-1] += np.einsum("cij,ik,dkj->cd", factors, score, factors)
    covariance = np.linalg.pinv(information, rcond=1e-10, hermitian=True)
    tangents = white.basis @ tangents @ white.basis.T
    psi = white.basis @ lam @ lam.T @ white.basis.T
    jacobian = np.zeros((m + 1, len(factors) + 1))
    jacobian[:m, :-1] = v * structure.read(tangents).T
    jacobian[:m, -1] = structure.read(psi)
    jacobian[m, -1] = 1.0
    result = _carry(jacobian, covariance, white)
    lost = [
        row
        for row, (i, _) in enumerate(structure.labels)
        if has_lost_rank(lam, structure.find_block(i))
    ]
    result[lost, :] = result[:, lost] = np.nan
    return result


def has_lost_rank(lam: Array, block: list[int]) -> bool:
    """Return whether a block of a relative covariance factor (q, q) has lost rank."""
    singular_values = np.linalg.svd(lam[np.ix_(block, block)], compute_uv=False)
    return bool(singular_values[-1] < ZERO)


def scale_errors(
    g: Array, labels: Sequence[tuple[int, int]], cov: Array
) -> list[tuple[float, float]]:
    """Return the SDs and correlations of G (q, q) at `labels`, each with its standard error.

    By the delta method from the covariance (m, m) of G's elements at the labels. The error is nan
    of an SD of zero, where an element that it depends on has none, and where rounding has left a
    variance below zero.
    """
    place = {label: index for index, label in enumerate(labels)}
    elements, spread = g.tolist(), cov.tolist()
    sds = [math.sqrt(row[i]) for i, row in enumerate(elements)]
    found = []
    for at, (i, j) in enumerate(labels):
        both = sds[i] * sds[j]
        if not both > 0.0:
            found.append((sds[i] if i == j else math.nan, math.nan))
            continue
        value, slopes = sds[i], {at: 0.5 / sds[i]}
        if i != j:
            value = elements[i][j] / both
            slopes[at] = 1.0 / both
            for k in (i, j):
                # The exchangeable structure reports one variance for both coefficients.
                own = place.get((k, k), 0)
                slopes[own] = slopes.get(own, 0.0) - 0.5 * value / elements[k][k]
        used = [each for each in slopes.items() if each[1]]
        variance = sum(a * b * spread[row][column] for row, a in used for column, b in used)
        error = math.sqrt(variance) if variance >= 0.0 else math.nan
        found.append((value if i == j else min(max(value, -1.0), 1.0), error))
    return found


def log_interval(value: float, se: float) -> list[float]:
    """Return the 95 % interval of a positive parameter, symmetric on the log scale."""
    if not value > 0.0:
        return [np.nan, np.nan]
    log_factor = Z95 * float(se) / float(value)
    if not log_factor < LOG_LARGEST:  # next to zero the interval spans all that doubles can say
        return [np.nan, np.nan] if np.isnan(log_factor) else [0.0, np.inf]
    factor = math.exp(log_factor)
    return [value / factor, value * factor]


def standard_errors(cov: Array) -> Array:
    """Return standard errors; nan where rounding has left a variance below zero.

    That happens to a correlation within rounding of +-1, far from a covariate's zero.
    """
    variances = np.diag(cov)
    return np.sqrt(np.where(variances >= 0.0, variances, np.nan))
