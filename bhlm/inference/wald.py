"""Wald tests of linear hypotheses, and the result that every joint test returns."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from bhlm.errors import ArgumentError

Array = np.ndarray

# A direction whose variance is below this share of the largest repeats the others.
REPEATED = 1e-10


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
    for row, values in enumerate(matrix):
        if not values.any():
            raise ArgumentError(f"contrast {row} is zero in every fixed effect; drop that row")
    return matrix


def wald_test(
    beta: Array, cov: Array, *, contrasts: Array, values: Array | None = None, method: str = "z"
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

    Raises:
        ArgumentError: the contrasts contradict each other or do not fit beta.
    """
    matrix = check_contrasts(contrasts, len(beta))
    turned, scores, variances = decorrelate(beta, cov, matrix, values)
    chi2, df = float((scores**2 / variances).sum()), len(turned)
    return JointTest(chi2, df, np.inf, float(stats.chi2.sf(chi2, df)), method)


def decorrelate(
    beta: Array, cov: Array, matrix: Array, values: Array | None
) -> tuple[Array, Array, Array]:
    """Return uncorrelated combinations of hypotheses, without the repeated ones.

    With L cov L' = P diag(d) P': P'L (r, p), P'(L beta - values) (r,) and d (r,), for the r
    directions in which d is not zero.

    Raises:
        ArgumentError: a hypothesis that repeats others asks for another value than they do.
    """
    gaps = matrix @ beta - (0.0 if values is None else np.asarray(values, dtype=np.float64))
    middle = matrix @ cov @ matrix.T
    size = np.sqrt(np.diag(middle))
    variances, vectors = np.linalg.eigh(middle / np.outer(size, size))
    kept = variances > REPEATED * variances[-1]
    turn = (vectors / size[:, None]).T
    scores = turn @ gaps
    if np.any(np.abs(scores[~kept]) > np.sqrt(REPEATED) * (1.0 + np.abs(turn[~kept]) @ abs(gaps))):
        raise ArgumentError(
            "the hypotheses contradict each other: one repeats the others with another value; "
            "drop it"
        )
    return (turn @ matrix)[kept], scores[kept], variances[kept]
