"""Wald tests of linear hypotheses, and the result that every joint test returns."""

from dataclasses import dataclass

import numpy as np

from bhlm.errors import ArgumentError
from bhlm.likelihood.laws import chi_square_tail

Array = np.ndarray

# Hypotheses of unit length span no direction in which they are shorter than this. Columns may be
# combinations of others up to 1e-6 of their length, and stay apart here.
REPEATED = 1e-10
# Values that repeated hypotheses ask for agree to this share of a standard error.
AGREE = 1e-5
# A variance below this share of the largest is rounding: the covariance has lost rank.
LOST = 1e-14


@dataclass(frozen=True, slots=True)
class JointTest:
    """A test of several linear hypotheses at once.

    `statistic` is an F with (df, ddf) degrees of freedom, or, where ddf is infinite, a
    chi-square with df.
    """

    statistic: float
    df: int
    ddf: float
    p: float
    method: str


def check_contrasts(contrasts: Array, p: int) -> Array:
    """Return `contrasts` (c, p) as a matrix of finite numbers, one hypothesis per row.

    Raises:
        ArgumentError: the rows do not have one number per fixed effect, or one is not finite
            or all zero.
    """
    matrix = np.atleast_2d(np.asarray(contrasts, dtype=np.float64))
    if matrix.ndim != 2 or matrix.shape[1] != p:
        raise ArgumentError(
            f"contrasts of shape {np.shape(contrasts)} do not fit {p} fixed effects; give one row "
            f"of {p} numbers per hypothesis"
        )
    if not np.isfinite(matrix).all():
        raise ArgumentError("a contrast holds a number that is not finite; give finite numbers")
    if not (is_some := matrix.any(axis=1)).all():
        row = int(is_some.argmin())
        raise ArgumentError(f"contrast {row} is zero in every fixed effect; drop that row")
    return matrix


def wald_test(
    beta: Array,
    cov: Array,
    *,
    contrasts: Array,
    values: Array | None = None,
    method: str = "z",
    loadings: Array | None = None,
) -> JointTest:
    """Return the chi-square test that contrasts beta = values.

    chi2 = d' (L cov L')^-1 d, d = L beta - values, with the number of independent rows of L as
    its degrees of freedom.

    Args:
        beta: estimates (p,).
        cov: their covariance (p, p).
        contrasts: L (c, p).
        values: the hypothesised values (c,); zero without them.
        method: the name that the result carries.
        loadings: (p, p) where cov is that of beta~, of which beta is b + loadings beta~.

    Raises:
        ArgumentError: the contrasts contradict each other or do not fit beta.
    """
    matrix = check_contrasts(contrasts, len(beta))
    turned, scores, variances = decorrelate(beta, cov, matrix, values, loadings=loadings)
    chi2, df = float((scores**2 / variances).sum()), len(turned)
    return JointTest(chi2, df, np.inf, float(chi_square_tail(chi2, df)), method)


def decorrelate(
    beta: Array,
    cov: Array,
    matrix: Array,
    values: Array | None,
    *,
    loadings: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Return uncorrelated combinations of hypotheses, without the repeated ones.

    That is P L (r, p), P (L beta - values) (r,) and their variances d (r,), P chosen so that the
    r rows of P L are independent and P L cov (P L)' = diag(d). Which hypotheses repeat others is
    a matter of L alone, however their estimates correlate.

    Args:
        beta: estimates (p,).
        cov: the covariance (p, p) of beta~, of which beta is b + loadings beta~.
        matrix: L (c, p).
        values: the hypothesised values (c,); zero without them.
        loadings: (p, p); None where cov is that of beta itself.

    Raises:
        ArgumentError: a hypothesis that repeats others asks for another value than they do, or
            a covariance of too low a rank, as cluster-robust ones of few groups are.
    """
    if loadings is None:
        loadings = np.diag(np.sqrt(np.diag(cov)))
        cov = cov / np.outer(np.diag(loadings), np.diag(loadings))
    gaps = matrix @ beta - (0.0 if values is None else np.asarray(values, dtype=np.float64))
    rows = matrix @ loadings
    length = np.linalg.norm(rows, axis=1)
    turn, size, axes = np.linalg.svd(rows / length[:, None])
    kept = np.zeros(len(matrix), dtype=bool)
    kept[: len(size)] = size > REPEATED * size[0]
    lost, scaled = turn[:, ~kept].T, gaps / length
    if np.any(np.abs(lost @ scaled) > AGREE * (1.0 + np.abs(lost) @ np.abs(scaled))):
        raise ArgumentError(
            "the hypotheses contradict each other: one repeats the others with another value; "
            "drop it"
        )
    r = int(kept.sum())
    basis = axes[:r]
    variances, vectors = np.linalg.eigh(basis @ cov @ basis.T)
    if not variances[0] > LOST * variances[-1]:
        raise ArgumentError(
            f"the covariance of the estimates has too low a rank to test {r} hypotheses at once, "
            "for want of groups; test fewer, or use another method"
        )
    turn = vectors.T @ (turn[:, kept].T / size[:r, None]) / length
    return turn @ matrix, turn @ gaps, variances
