"""The marginal Gaussian algebra on whitened cross-products, once, with derivatives.

Group j has the covariance sigma^2 H_j, H_j = I + Z_j Psi Z_j', Psi = lam lam'. With
K_j = I + lam' Z_j'Z_j lam, everything follows from three sums over groups (Woodbury):

    log |H_j| = log |K_j|
    F_j = Z_j' H_j^-1 Z_j            U_j = Z_j' H_j^-1 [X_j y_j]
    E   = sum_j [X_j y_j]' H_j^-1 [X_j y_j]

and, since d F = -F dPsi F and d U = -F dPsi U, so do the gradient and the Hessian.
Source: Bates, Maechler, Bolker & Walker (2015), J. Stat. Softw. 67(1), section 3, for the
criterion; Lindstrom & Bates (1988), JASA 83, 1014-1022, for the derivatives.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from bhlm.design.kernels import kernel, light_kernel
from bhlm.likelihood.panel_bends import (
    add_stretches,
    add_weights,
    count_bends,
    fill_bends,
    join_sums,
)
from bhlm.likelihood.panel_sums import fill_products, fill_scores
from bhlm.likelihood.panels import Panels, build_panels, sum_stretches
from bhlm.likelihood.weighted import spread_lower, spread_weights, sum_inner

Array = np.ndarray


@kernel
def factor_group(block: Array, q: int, lam: Array, root: Array, half: Array) -> float:
    """Write the Cholesky root of K_j and half = root^-1 lam'[Z'Z Z'X Z'y]; return log |K_j|.

    Of `block` only the rows of Z are read. `root` (q, q) is lower triangular, `half` (q, k) covers
    the columns of Z, X and y.
    """
    k = block.shape[1]
    for a in range(q):
        for c in range(k):
            value = 0.0
            for i in range(q):
                value += lam[i, a] * block[i, c]
            half[a, c] = value
    logdet = 0.0
    for a in range(q):
        for b in range(a + 1):
            value = 1.0 if a == b else 0.0
            for i in range(q):
                value += half[a, i] * lam[i, b]
            for i in range(b):
                value -= root[a, i] * root[b, i]
            if a == b:
                root[a, a] = np.sqrt(value)
                logdet += np.log(value)
            else:
                root[a, b] = value / root[b, b]
    for c in range(k):
        for a in range(q):
            value = half[a, c]
            for i in range(a):
                value -= root[a, i] * half[i, c]
            half[a, c] = value / root[a, a]
    return logdet


@kernel
def project_group(block: Array, q: int, half: Array, out: Array) -> None:
    """Write [F_j U_j] = Z'[Z X y] - half_Z' half into `out` (q, k)."""
    k = block.shape[1]
    for i in range(q):
        for c in range(k):
            value = block[i, c]
            for a in range(q):
                value -= half[a, i] * half[a, c]
            out[i, c] = value


@kernel
def invert_group(lam: Array, root: Array, low: Array, out: Array) -> None:
    """Write T_j = lam K_j^-1 lam' (q, q) into `out`, by way of `low` (q, q) = root^-1 lam'."""
    q = len(lam)
    for c in range(q):
        for a in range(q):
            value = lam[c, a]
            for i in range(a):
                value -= root[a, i] * low[i, c]
            low[a, c] = value / root[a, a]
    for a in range(q):
        for b in range(q):
            value = 0.0
            for i in range(q):
                value += low[i, a] * low[i, b]
            out[a, b] = value


def sum_scores(
    blocks: Array, q: int, lam: Array, weight: Array, *, panels: Panels | None = None
) -> Array:
    """Return sum_j F_j - U_j weight U_j', the derivative by Psi (q, q) of

    sum_j log |H_j| + tr(weight E), with `weight` (p + 1, p + 1) held fixed.
    """
    panels = panels or build_panels(blocks, q)
    sums = np.empty((panels.n_stretches, q * q))

    def fill(first: int, last: int) -> None:
        fill_scores(panels.values, first, last, lam, weight, sums)

    sum_stretches(fill, panels.n_stretches)
    score = sums.sum(axis=0).reshape(q, q)
    return np.asarray(0.5 * (score + score.T))


@dataclass(frozen=True, slots=True)
class Criterion:
    """Minus twice the profiled log-likelihood at one Psi, and what it was made of."""

    value: float
    logdet: float  # sum log |H_j|
    beta: Array  # (p,) generalised least squares, whitened
    phi: Array  # (p, p) inverse of X'H^-1 X
    rss: float  # (y - X beta)' H^-1 (y - X beta)
    dof: float  # n - p for REML, n for ML
    restricted: bool
    held: float | None = None  # a residual variance that is known, whitened, and not profiled

    @property
    def sigma2(self) -> float:
        """The residual variance in whitened units, profiled or held."""
        return self.rss / self.dof if self.held is None else self.held

    def hold(self, v: float) -> "Criterion":
        """Return the criterion of which the residual variance is known to be v."""
        return replace(self, value=self.at_variance(v), held=v)

    def at_variance(self, v: float, *, rss: float | None = None) -> float:
        """Return the criterion with the residual variance held at v, not profiled.

        `rss` is that of other fixed effects than the generalised least squares ones.
        """
        profiled = self.dof * (1.0 + np.log(2.0 * np.pi * self.rss / self.dof))
        held = self.dof * np.log(2.0 * np.pi * v) + (self.rss if rss is None else rss) / v
        return float(self.value - profiled + held)


@light_kernel
def profile_products(
    logdet: float, e: Array, n: float, restricted: bool
) -> tuple[float, Array, Array, float]:
    """Return the criterion of `evaluate` from sum log|H_j| and E, beta (p,), phi (p, p), rss."""
    p = e.shape[0] - 1
    root = np.zeros((p, p))
    half = np.empty(p)
    rss = e[p, p]
    value = logdet
    for a in range(p):
        for b in range(a + 1):
            entry = e[a, b]
            for i in range(b):
                entry -= root[a, i] * root[b, i]
            if a == b:
                root[a, a] = np.sqrt(entry)
                if restricted:
                    value += np.log(entry)
            else:
                root[a, b] = entry / root[b, b]
        entry = e[a, p]
        for i in range(a):
            entry -= root[a, i] * half[i]
        half[a] = entry / root[a, a]
        rss -= half[a] * half[a]
    inverse = np.zeros((p, p))
    for c in range(p):
        for a in range(c, p):
            entry = 1.0 if a == c else 0.0
            for i in range(c, a):
                entry -= root[a, i] * inverse[i, c]
            inverse[a, c] = entry / root[a, a]
    beta = np.zeros(p)
    phi = np.zeros((p, p))
    for a in range(p):
        for i in range(a, p):
            beta[a] += inverse[i, a] * half[i]
        for b in range(p):
            for i in range(max(a, b), p):
                phi[a, b] += inverse[i, a] * inverse[i, b]
    dof = n - p if restricted else n
    value += dof * (1.0 + np.log(2.0 * np.pi * rss / dof))
    return value, beta, phi, rss


def sum_products(panels: Panels, lam: Array, *, threads: int | None = None) -> tuple[float, Array]:
    """Return sum_j log |H_j| and E (p + 1, p + 1).

    See `bhlm.likelihood.panels.sum_stretches` for threads.
    """
    r = len(panels.total)
    sums = np.empty((panels.n_stretches, 1 + r * (r + 1) // 2))

    def fill(first: int, last: int) -> None:
        fill_products(panels.values, panels.reach, first, last, lam, sums)

    sum_stretches(fill, panels.n_stretches, threads=threads)
    found = sums.sum(axis=0)
    rows, columns = _list_lower(r)
    e = panels.total.copy()
    e[rows, columns] -= found[1:]
    e[columns, rows] = e[rows, columns]
    return float(found[0]), e


@lru_cache(maxsize=64)
def _list_lower(r: int) -> tuple[Array, Array]:
    """Return the rows and columns of a lower triangle (r, r), row by row."""
    return np.tril_indices(r)


def evaluate(
    blocks: Array,
    q: int,
    lam: Array,
    *,
    n: float,
    restricted: bool,
    panels: Panels | None = None,
    groups: Array | None = None,
) -> Criterion:
    """Return minus twice the (restricted) log-likelihood, profiled over beta and sigma^2.

    log|H| + [log|X'H^-1 X|] + dof (1 + log(2 pi rss / dof)), the bracket for REML only.
    `panels` are those of the blocks, for who asks more than once. `groups` (J,) are what each
    group's log-likelihood is multiplied by, and n then counts rows so weighted; panels are then
    weighted ones too.
    """
    panels = panels or build_panels(blocks, q, groups)
    logdet, e = sum_products(panels, lam)
    if groups is not None:
        logdet += float(sum_inner(panels, spread_weights(groups), lam)[0])
    value, beta, phi, rss = profile_products(logdet, e, n, restricted)
    return Criterion(value, logdet, beta, phi, rss, n - len(beta) if restricted else n, restricted)


def profile_total(total: Array, *, n: float, restricted: bool) -> Criterion:
    """Return the criterion of `evaluate` at Psi = 0, where E is the sum (p + 1, p + 1)."""
    value, beta, phi, rss = profile_products(0.0, np.ascontiguousarray(total), n, restricted)
    dof = n - len(beta) if restricted else n
    return Criterion(value, 0.0, beta, phi, rss, dof, restricted)


def score_psi(
    blocks: Array,
    q: int,
    lam: Array,
    at: Criterion,
    *,
    panels: Panels | None = None,
    groups: Array | None = None,
) -> Array:
    """Return the derivative (q, q) by Psi of the profiled criterion of `evaluate`.

    With E's derivative through rss and log|X'H^-1 X|, that is `sum_scores` with the weight
    dof / rss [-beta 1]'[-beta 1], and phi for the fixed effects under REML.
    """
    weight = weigh_products(at)
    return _sum_weighed(blocks, q, lam, weight, panels=panels, groups=groups)


def _sum_weighed(
    blocks: Array,
    q: int,
    lam: Array,
    weight: Array,
    *,
    panels: Panels | None,
    groups: Array | None,
) -> Array:
    """Return `sum_scores` of groups that have weights, or have none."""
    panels = panels or build_panels(blocks, q, groups)
    score = sum_scores(blocks, q, lam, weight, panels=panels)
    if groups is None:
        return score
    return np.asarray(score + spread_lower(sum_inner(panels, spread_weights(groups), lam), q))


def weigh_products(at: Criterion) -> Array:
    """Return the derivative (p + 1, p + 1) by E of the profiled criterion, less sum log |H_j|."""
    left = np.ones(len(at.beta) + 1)
    left[:-1] = -at.beta
    size = at.dof / at.rss if at.held is None else 1.0 / at.held
    weight: Array = size * (left[:, None] * left)
    if at.restricted:
        weight[:-1, :-1] += at.phi
    return weight


@dataclass(frozen=True, slots=True)
class Curvature:
    """First and second derivatives by Psi, along m directions, of the criterion's parts."""

    logdet: Array  # (m, m) of log|H| + [log|X'H^-1 X|]
    rss_slope: Array  # (m,)
    rss: Array  # (m, m)
    fixed_slope: Array  # (m, p, p) of X'H^-1 X


def differentiate(
    blocks: Array,
    q: int,
    lam: Array,
    at: Criterion,
    directions: Array,
    *,
    panels: Panels | None = None,
    groups: Array | None = None,
) -> Curvature:
    """Return second derivatives along symmetric `directions` (m, q, q) of Psi.

    `panels` and `groups` as in `evaluate`.
    """
    panels = panels or build_panels(blocks, q, groups)
    return join_bends(sum_bends(panels, lam, at, groups=groups), at, directions)


def sum_bends(panels: Panels, lam: Array, at: Criterion, *, groups: Array | None = None) -> Array:
    """Return the row of `fill_bends` summed over all groups, for `join_bends`."""
    q, k = panels.values.shape[1:3]
    sums = np.empty((panels.n_stretches, count_bends(q, k - q - 1)))

    def fill(first: int, last: int) -> None:
        fill_bends(panels.values, first, last, lam, at.phi, at.beta, at.restricted, sums)

    sum_stretches(fill, panels.n_stretches)
    found: Array = add_stretches(sums)
    if groups is not None:
        add_weights(found, sum_inner(panels, spread_weights(groups), lam), q)
    return found


def expect_group_squares(
    blocks: Array,
    q: int,
    directions: Array,
    *,
    n: float,
    panels: Panels | None = None,
    groups: Array | None = None,
) -> tuple[Array, Array]:
    """Return the equations (m + 1, m + 1) and (m + 1,) of MIVQUE(0) for Psi sigma^2 and sigma^2.

    As `bhlm.likelihood.levels.expect_squares`, of one factor: what they are made of are the
    restricted criterion's derivatives by Psi = 0 along `directions` (m, q, q). `panels` and
    `groups` as in `evaluate`.
    """
    none = np.zeros((q, q))
    panels = panels or build_panels(blocks, q, groups)
    at = profile_total(panels.total, n=n, restricted=True)
    curve = differentiate(blocks, q, none, at, directions, panels=panels, groups=groups)
    weight = np.zeros((len(at.beta) + 1, len(at.beta) + 1))
    weight[:-1, :-1] = at.phi
    score = _sum_weighed(blocks, q, none, weight, panels=panels, groups=groups)
    return join_squares(at, curve, score, directions)


def join_squares(
    at: Criterion, curve: Curvature, score: Array, directions: Array
) -> tuple[Array, Array]:
    """Return the equations of `expect_group_squares` from the restricted criterion at Psi = 0.

    Its `curve` is along `directions` (m, q, q); `score` (q, q) is sum F - U phi U'.
    """
    m = len(directions)
    equations = np.empty((m + 1, m + 1))
    equations[:m, :m] = -curve.logdet
    equations[:m, m] = equations[m, :m] = directions.reshape(m, -1) @ score.ravel()
    equations[m, m] = at.dof
    squares = np.empty(m + 1)
    squares[:m], squares[m] = -curve.rss_slope, at.rss
    return equations, squares


def join_bends(sums: Array, at: Criterion, directions: Array) -> Curvature:
    """Return the second derivatives along `directions` (m, q, q) from the sums of `sum_bends`."""
    q = directions.shape[1]
    return Curvature(*join_sums(sums, q, at.phi, at.restricted, np.ascontiguousarray(directions)))
