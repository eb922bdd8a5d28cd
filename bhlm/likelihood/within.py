"""Least squares within each group, and the law that its results have under the model.

Within group j, regress y on the columns that vary there, C the centred ones that are not
combinations of others, with A = (C'C)^-1 and W = A C'[X Z]. Given the parameters and u,

    group mean   normal, mean_X'beta + mean_Z'u, variance sigma^2 / n
    slopes       normal, W [beta u], covariance sigma^2 A
    residual SD  sigma sqrt(chi2 / df), df = n - 1 - rank

independently, so that replicates of all three, and their tail probabilities, need no rows.
Source: Seber & Lee (2003), Linear Regression Analysis, section 3.4.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import gammaincc, ndtr

from bhlm.likelihood.whitening import ROUNDING
from bhlm.moments.moments import INTERCEPT, Moments

if TYPE_CHECKING:
    from bhlm.likelihood.within_levels import UnitMoments

Array = np.ndarray

# A column whose share of variance within a group, given the columns before it, is below this
# is a combination of them there.
COLLINEAR = 1e-10
# A residual sum of squares below this share of the total is what rounding leaves of zero.
PERFECT = 1e-12


@dataclass(frozen=True, slots=True)
class WithinRegressions:
    """Least squares of the response within each group, and what its law depends on."""

    columns: tuple[str, ...]  # the m columns that have a slope in two groups or more
    slopes: Array  # (J, m), nan in groups where the column has none
    sd: Array  # (J,) residual SD, nan without df
    df: Array  # (J,)
    root: Array  # (J, m, m) lower root of A, zero rows where there is no slope
    by_fixed: Array  # (J, m, p) expected slopes per unit of beta
    by_random: Array  # (J, m, q) and of u
    mean_fixed: Array  # (J, p) expected group mean per unit of beta
    mean_random: Array  # (J, q) and of u
    entered: tuple[str, ...]  # the m' columns that were regressed on where they vary
    inverse: Array  # (J, m', m') A of these, zero rows and columns where there is no slope


def regress_within(moments: "Moments | UnitMoments") -> WithinRegressions:
    """Return each group's least-squares regression on the columns that vary within groups.

    Columns enter in the order of the random slopes and then of the other fixed effects; one that
    is constant in a group, or there a combination of the columns before it, has no slope there.
    """
    place = {name: i for i, name in enumerate(moments.columns)}
    ordered = [name for name in (*moments.random, *moments.fixed) if name != INTERCEPT]
    at = [place[name] for name in dict.fromkeys(ordered)]
    gram = moments.cross[:, at][:, :, at]
    square = np.maximum(np.einsum("jaa->ja", gram), 0.0)
    varies = square > ROUNDING * moments.mass[:, None] * moments.mean[:, at] ** 2
    size = np.sqrt(np.where(varies, square, 1.0))
    unit = gram / size[:, :, None] / size[:, None, :]
    kept = _find_independent(unit, varies)
    both = kept[:, :, None] & kept[:, None, :]
    eye = np.eye(len(at))
    inverse = np.linalg.inv(np.where(both, unit, eye))
    root = np.where(kept[:, :, None], np.linalg.cholesky(inverse), 0.0) / size[:, :, None]
    a = root @ root.swapaxes(1, 2)
    slopes = np.einsum("jab,jb->ja", a, moments.cross[:, at, -1])
    total = moments.cross[:, -1, -1]
    rss = total - np.einsum("ja,ja->j", slopes, moments.cross[:, at, -1])
    rss = np.where(rss > PERFECT * total, rss, 0.0)
    df = np.maximum(moments.n - 1.0 - kept.sum(axis=1), 0.0)
    shown = np.flatnonzero(kept.sum(axis=0) > 1)
    sides = []
    for names in (moments.fixed, moments.random):
        cross, mean = np.zeros((len(df), len(at), len(names))), np.ones((len(df), len(names)))
        for column, name in enumerate(names):
            if name != INTERCEPT:
                cross[:, :, column] = moments.cross[:, at, place[name]]
                mean[:, column] = moments.mean[:, place[name]]
        sides.append(((a @ cross)[:, shown], mean))
    return WithinRegressions(
        columns=tuple(moments.columns[at[k]] for k in shown),
        slopes=np.where(kept, slopes, np.nan)[:, shown],
        sd=np.where(df > 0.0, np.sqrt(rss / np.maximum(df, 1.0)), np.nan),
        df=df,
        root=root[:, shown],
        by_fixed=sides[0][0],
        by_random=sides[1][0],
        mean_fixed=sides[0][1],
        mean_random=sides[1][1],
        entered=tuple(moments.columns[k] for k in at),
        inverse=a,
    )


def expect_statistics(within: WithinRegressions, members: Array, beta: Array, u: Array) -> Array:
    """Return the expected mean and slopes (D, m, 1 + slopes) given beta (D, p) and u (D, m, q)."""
    mean = beta @ within.mean_fixed[members].T
    mean += np.einsum("jb,djb->dj", within.mean_random[members], u)
    slopes = np.einsum("jab,db->dja", within.by_fixed[members], beta)
    slopes += np.einsum("jab,djb->dja", within.by_random[members], u)
    return np.concatenate([mean[..., None], slopes], axis=-1)


def replicate_statistics(
    within: WithinRegressions,
    n: Array,
    members: Array,
    beta: Array,
    u: Array,
    sigma: Array,
    rng: np.random.Generator,
) -> Array:
    """Return replicated statistics (D, m, S) of some groups, whether the group has them or not."""
    root, df = within.root[members], np.maximum(within.df[members], 1.0)
    out = expect_statistics(within, members, beta, u)
    shape = (len(beta), len(members))
    noise = sigma[:, None] / np.sqrt(n[members])
    out[..., 0] += noise * rng.standard_normal(shape)
    inner = rng.standard_normal((*shape, root.shape[-1]))
    out[..., 1:] += sigma[:, None, None] * np.einsum("jab,djb->dja", root, inner)
    squares = 2.0 * rng.standard_gamma(0.5 * df, size=shape)
    spread = sigma[:, None] * np.sqrt(squares / df)
    return np.concatenate([out, spread[..., None]], axis=-1)


def find_tails(
    within: WithinRegressions,
    n: Array,
    members: Array,
    observed: Array,
    beta: Array,
    u: Array,
    sigma: Array,
    effects: Array | None,
) -> Array:
    """Return P(replicate >= observed) (m, S) of each statistic, exact given each draw.

    With roots `effects` of G, u is integrated out, and is to be given as zero.
    """
    variance = sigma[:, None, None] ** 2 * np.concatenate(
        [1.0 / n[members][:, None], np.sum(within.root[members] ** 2, axis=2)], axis=1
    )
    if effects is not None:
        by_u = np.concatenate(
            [within.mean_random[members][:, None], within.by_random[members]], axis=1
        )
        variance += np.sum(np.einsum("jsa,dab->djsb", by_u, effects) ** 2, axis=-1)
    out = np.empty(observed.shape)
    width = variance.shape[-1]
    gap = expect_statistics(within, members, beta, u) - observed[:, :width]
    # A slope that the group does not have has no variance; it is nan all the same.
    with np.errstate(invalid="ignore", divide="ignore"):
        out[:, :width] = ndtr(gap / np.sqrt(variance)).mean(axis=0)
    if observed.shape[1] > width:
        half = 0.5 * np.maximum(within.df[members], 1.0)
        ratio = observed[:, -1] ** 2 / sigma[:, None] ** 2
        out[:, -1] = gammaincc(half, half * ratio).mean(axis=0)
    return out


def _find_independent(unit: Array, varies: Array) -> Array:
    """Return which columns (J, m) vary in a group and are no combination of those before them."""
    kept = varies.copy()
    root = np.zeros_like(unit)
    for k in range(unit.shape[1]):
        root[:, k:, k] = unit[:, k:, k] - np.einsum("jab,jb->ja", root[:, k:, :k], root[:, k, :k])
        kept[:, k] &= root[:, k, k] > COLLINEAR
        pivot = np.sqrt(np.where(kept[:, k], root[:, k, k], 1.0))
        root[:, k:, k] = np.where(kept[:, k, None], root[:, k:, k] / pivot[:, None], 0.0)
    return kept
