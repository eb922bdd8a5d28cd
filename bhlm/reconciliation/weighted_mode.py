"""The mode under flat priors with weights of groups, known variances or strata.

Under priors flat on beta, G and the residual variances the mode of (G, sigma_s^2) with beta
integrated out is the REML estimate, sigma known or not; that of (beta, G, sigma^2) of a
pseudo-posterior is the pseudo-maximum-likelihood estimate. Here either is found through the
sampler's own kernel, in roots of G and logarithms of sigma_s; that the sampler's density is
the likelihood times the Jacobian, but for a constant, is verified around the mode.

The kernel's gradient by beta is linear in beta and its other gradients are quadratic in it, so that
sums over the p columns v_i of a root of beta's covariance integrate them exactly, as in
`flat_mode`.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from bhlm.bayes.weighted_density import WeightedDensity, log_weighted
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.weighted_marginal import weighted_marginal
from bhlm.likelihood.whitening import Whitened
from bhlm.reconciliation.flat_mode import (
    PROBES,
    FlatMode,
    bound_rounding,
    locate,
    locate_shared,
    log_jacobian,
    log_shared,
    span_blocks,
)

Array = np.ndarray

GAIN = 1e-8  # in log-likelihood: a start that ends higher by less has found the same mode
GRADIENT = 1e-7
LOST = 1e-4  # a singular value of the root, by the residual SD, below which its rank is lost
LOWEST = -1e300


class Height(NamedTuple):
    """A log-likelihood, restricted or not, and its gradients."""

    value: float
    beta: Array  # (p,) the mean given the rest, or what was given
    droot: Array  # (q, q)
    dbeta: Array  # (p,) zero where beta is integrated out
    dlog: Array  # (S,) by log sigma


def find_weighted_mode(
    density: WeightedDensity,
    white: Whitened,
    structure: Structure,
    *,
    start: tuple[Array, Array, Array],
    restricted: bool,
    seed: int = 0,
    turned: Array | None = None,
) -> FlatMode:
    """Return the mode under flat priors of (G, sigma), or jointly with beta.

    Args:
        density: that under `Priors.flat`.
        white: the whitening behind it.
        structure: of the random coefficients.
        start: beta (p,), a root of G (q, q) and the residual SDs (S,) of the fit, whose
            log-likelihood is reported for comparison; the search starts from points of its own too.
        restricted: whether beta is integrated out.
        seed: of the starts and of the probes around the mode.
        turned: the frame (q, q) of the density's priors; None is that of the columns as given.
    """
    p, q, n_free = white.p, white.q, density.n_sigmas
    shared = structure.shares_variance
    factors = structure.factors if shared else span_blocks(structure.sizes, q)
    squares = np.einsum("cij,cij->c", factors, factors)
    c = len(factors)
    held = np.full(len(density.blocks), density.held / white.scale)

    def read(root: Array) -> Array:
        return np.asarray(np.einsum("cij,ij->c", factors, root) / squares)

    def place(z: Array) -> tuple[Array, Array, Array]:
        root = np.ascontiguousarray(np.tensordot(z[:c], factors, axes=1))
        sigma = np.exp(z[c : c + n_free]) if n_free else held
        return root, sigma, z[c + n_free :]

    def measure(z: Array) -> Height:
        root, sigma, beta = place(z)
        if restricted:
            return _integrate(density, root, sigma, p)
        value, droot, dbeta, dlog = _evaluate(density, root, sigma, beta)
        return Height(value, beta, droot, dbeta, dlog)

    def fall(z: Array) -> tuple[float, Array]:
        at = measure(z)
        if not math.isfinite(at.value):
            return -LOWEST, np.zeros(len(z))
        slope = np.concatenate(
            [
                np.einsum("cij,ij->c", factors, at.droot),
                at.dlog if n_free else np.empty(0),
                np.empty(0) if restricted else at.dbeta,
            ]
        )
        return -at.value, -slope

    beta, root, sigma = start
    inner = np.linalg.solve(white.basis, root) / white.scale
    if shared:
        theta = structure.project(inner @ inner.T)
        inner = np.tensordot(theta, structure.factors, axes=1)
    else:
        inner = _lower_blocks(inner, structure.sizes)
    given = np.linalg.solve(white.fixed, beta - white.ols) / white.scale
    logs = np.log(sigma / white.scale) if n_free else np.empty(0)
    tail = np.empty(0) if restricted else given
    begin = np.concatenate([read(inner), logs, tail])
    starts = [begin]
    rng = np.random.default_rng(seed)
    for size in (0.2, 1.0):
        sds = np.zeros(n_free) if n_free else np.empty(0)
        level = size if n_free else size * float(held[0])
        own = level * (np.eye(q) + (0.0 if shared else 0.1) * np.tril(rng.normal(size=(q, q)), -1))
        starts.append(np.concatenate([read(own), sds, np.zeros_like(tail)]))
    heights: list[float] = []
    best = begin
    for each in starts:
        found = minimize(fall, each, jac=True, method="BFGS", options={"gtol": GRADIENT})
        heights.append(-float(found.fun))
        if heights[-1] > max(heights[:-1], default=-math.inf) + GAIN:
            best = found.x
    best = _leave_saddles(fall, best, c)
    value, gradient = fall(best)
    at = measure(best)
    root, sigma, _ = place(best)
    outer = white.basis @ root * white.scale
    constant, unit = _undo_scale(white, restricted=restricted)
    sds = sigma * white.scale
    return FlatMode(
        beta=white.ols + white.scale * white.fixed @ at.beta,
        g=outer @ outer.T,
        root=outer,
        sigma2=float(sds[0] ** 2) if len(sds) == 1 else sds**2,
        loglik=unit * -value + constant,
        start_loglik=unit * -fall(begin)[0] + constant,
        own_loglik=unit * max(heights[1:]) + constant,
        gradient=float(np.abs(gradient).max()),
        singular=bool(np.linalg.svd(root, compute_uv=False)[-1] < LOST * sigma.min()),
        flatness=_check_flatness(
            density,
            white,
            root=root,
            sigma=sigma,
            beta=at.beta,
            shared=shared,
            seed=seed,
            turned=turned,
        ),
    )


def _evaluate(
    density: WeightedDensity, root: Array, sigma: Array, beta: Array
) -> tuple[float, Array, Array, Array]:
    return weighted_marginal(
        density.blocks, density.sizes, density.groups, root, np.ascontiguousarray(beta), sigma
    )


def _integrate(density: WeightedDensity, root: Array, sigma: Array, p: int) -> Height:
    """Return the restricted log-likelihood of whitened columns: beta integrated, but for 2 pi."""
    origin = _evaluate(density, root, sigma, np.zeros(p))[2]
    precision = np.column_stack(
        [origin - _evaluate(density, root, sigma, unit)[2] for unit in np.eye(p)]
    )
    try:
        lower = np.linalg.cholesky(0.5 * (precision + precision.T))
    except np.linalg.LinAlgError:
        none = np.zeros(p)
        return Height(-math.inf, none, np.zeros_like(root), none, np.zeros(len(sigma)))
    inverse = np.linalg.inv(lower)
    mean = inverse.T @ (inverse @ origin)
    value, droot, _, dlog = _evaluate(density, root, sigma, mean)
    total, slope = droot.copy(), dlog.copy()
    for row in inverse:
        for sign in (-1.0, 1.0):
            _, moved, _, turned = _evaluate(density, root, sigma, mean + sign * row)
            total += 0.5 * (moved - droot)
            slope += 0.5 * (turned - dlog)
    value -= float(np.log(np.diag(lower)).sum())
    return Height(float(value), mean, total, np.zeros(p), slope)


def _leave_saddles(fall, best: Array, c: int) -> Array:  # type: ignore[no-untyped-def]
    """Return where a descent ends that has stepped off a root's lost rank to either side."""
    height = fall(best)[0]
    for i in range(c):
        if abs(best[i]) < LOST:
            moved = best.copy()
            moved[i] += 0.05
            found = minimize(fall, moved, jac=True, method="BFGS", options={"gtol": GRADIENT})
            if found.fun < height - GAIN:
                best, height = found.x, float(found.fun)
    return best


def _lower_blocks(root: Array, sizes: tuple[int, ...]) -> Array:
    """Return a lower triangular root (q, q) of root root', block by block; ranks may be lost."""
    out = np.zeros_like(root)
    at = 0
    for size in sizes:
        span = slice(at, at + size)
        out[span, span] = np.linalg.qr(root[span].T)[1].T[:, :size]
        at += size
    return out


def _undo_scale(white: Whitened, *, restricted: bool) -> tuple[float, float]:
    """Return what leads from a whitened log-likelihood to that of the columns as given."""
    p = white.p
    rows = white.n - p if restricted else white.n
    constant = -rows * math.log(white.scale) * white.unit + white.offset
    if restricted:
        constant += 0.5 * p * math.log(2.0 * math.pi) + white.logdet_fixed
        constant += white.restricted_offset
    return constant, white.unit


def _check_flatness(
    density: WeightedDensity,
    white: Whitened,
    *,
    root: Array,
    sigma: Array,
    beta: Array,
    shared: bool,
    seed: int,
    turned: Array | None = None,
) -> float:
    """Return the range of log_density(x) - loglik - log |d(beta, G, sigma^2)/dx| around a point."""
    from bhlm.bayes.priors.frame import Frame
    from bhlm.bayes.weighted_density import constrain_weighted

    find, measure = (locate_shared, log_shared) if shared else (locate, log_jacobian)
    base, n_free = density.base, density.n_sigmas
    rng = np.random.default_rng(seed)
    frame = Frame(np.eye(white.p), np.eye(white.q))  # roots stay in that of the priors
    turn = white.basis if turned is None else turned @ white.basis
    outer = turn @ root * white.scale
    # `locate` places one residual SD last, whatever their number.
    located = find(base, white, outer, 1.0, beta)[: density.dimension - n_free]
    logs = np.log(sigma * white.scale) if n_free else np.empty(0)
    first = np.concatenate([located, logs])
    remainders = []
    for probe in range(PROBES):
        x = first if probe == 0 else first + 0.5 * rng.normal(size=len(first)) * (first != 0.0)
        at = constrain_weighted(density, white, frame, x[None])
        inner = np.ascontiguousarray(np.linalg.solve(turn, at.root[0]) / white.scale)
        given = np.linalg.solve(white.fixed, at.beta[0] - white.ols) / white.scale
        sds = np.atleast_1d(at.sigma[0]) / white.scale
        loglik = _evaluate(density, inner, sds, given)[0]
        jacobian = measure(base, white.p, np.append(x[: len(located)], 0.0))
        jacobian += 2.0 * float(x[len(located) :].sum())
        remainders.append(float(log_weighted(x, density)[0]) - loglik - jacobian)
    spread = float(np.ptp(remainders))
    lost = bound_rounding(white, turned)
    return max(spread - lost, 0.0) if math.isfinite(spread) else math.inf
