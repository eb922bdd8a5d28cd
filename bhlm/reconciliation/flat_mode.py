"""The mode of the flat-prior posterior of (G, sigma^2), through the sampler's own density.

Under flat priors on beta, G and sigma^2 the posterior of (G, sigma^2) with beta integrated out
is proportional to the restricted likelihood, so that its mode is the REML estimate. Here the mode
is found with none of the code that REML uses. The sampler's log density at x is

    log_density(x) = log-likelihood(beta, root, sigma) + log |d(beta, G, sigma^2) / dx| + constant

if its priors are as flat as they claim. Both halves are used: the likelihood is maximised through
the sampler's kernel, in roots of G, where it is analytic and G may be singular; and that the rest
is a constant is verified at and around the mode (`check_flatness`), since a wrong prior or
Jacobian would move the mode.

With u = B u~ and Psi = lam lam' = B^-1 G B^-T / sigma^2, the free elements of the lower
triangular lam have any sign. The function is even in each column, so that a lost rank is an
ordinary stationary point, and a saddle wherever giving the rank back pays. Where coefficients share
an SD, lam is the symmetric root, a sum of the structure's factors with weights of any sign.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bhlm.bayes.density import AnyWhitened, Density, constrain, log_density
from bhlm.bayes.level_density import LevelDensity, constrain_levels, log_levels
from bhlm.bayes.priors.frame import Frame
from bhlm.design.kernels import kernel
from bhlm.likelihood.cells import WhitenedCells
from bhlm.likelihood.covariance import Structure
from bhlm.likelihood.level_pattern import marginal_cells
from bhlm.likelihood.marginal import marginal_panels
from bhlm.likelihood.parameters import Parameters
from bhlm.likelihood.whitening import Whitened

Array = np.ndarray

GRADIENT = 1e-7  # of the log-likelihood per element of lam: below, a step gains less than 1e-12
STEPS = 60
DIFFERENCE = 1e-5  # of exact gradients, for the Hessian: errors of 1e-10 in it do not slow Newton
CURVED = 1e-7  # negative curvature below this share of the largest is rounding
GAIN = 1e-8  # in log-likelihood: a start that ends higher by less has found the same mode
NEAR = 1e-3  # of the known height, in log-likelihood
LEAVE = 0.1  # the first step along negative curvature out of a saddle
FARTHEST = 1e3  # the largest change of lam in one step, relative to 1 + |lam|
NUDGE = 1e-3  # relative SDs and correlations are kept from their boundary by this, in probes only
PROBES = 6
FLAT = 1e-6  # what rounding leaves of the constant, per unit of |log density| / 1e4


@dataclass(frozen=True, slots=True)
class FlatMode:
    """The mode of (G, sigma^2), the fixed effects' mean there, and what the search knows of it."""

    beta: Array  # (p,)
    g: Array  # (q, q)
    root: Array  # (q, q) a square root of g
    sigma2: float | Array  # of strata (S,)
    loglik: float  # restricted log-likelihood at the mode, by the sampler's kernel
    start_loglik: float  # the same at the given start (the REML estimate), nan without one
    own_loglik: float  # the highest that was reached from the other starts
    gradient: float  # largest component of the gradient by lam
    singular: bool  # lam has lost rank
    # Range of what should be constant, in log density, beyond `bound_rounding`; inf if not finite.
    flatness: float

    @property
    def shortfall(self) -> float:
        """How much higher than the start the mode stands: above 0, the start is no optimum."""
        return self.loglik - self.start_loglik


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the restricted log-likelihood by lam needs of a `Density` or a `LevelDensity`."""

    panels: Array
    total: Array
    reach: float
    n: float
    p: int
    q: int
    factors: Array  # (c, q, q) orthogonal: lam is their sum by the free values (c,)
    constant: float  # to the log-likelihood in the columns as given
    levels: LevelDensity | None = None  # of several factors, in place of the panels
    held: float = 0.0  # of several factors the whitened residual SD where it is known

    def restrict(self, lam: Array) -> tuple[float, float, Array, Array]:
        """Return what `_restrict` does at lam (q, q)."""
        if self.levels is not None:
            return _restrict_levels(self.levels, self.n, self.p, lam, held=self.held)
        return _restrict(self.panels, self.total, self.reach, self.n, lam)


def _restrict_levels(
    density: LevelDensity, n: float, p: int, lam: Array, *, held: float
) -> tuple[float, float, Array, Array]:
    """Return what `_restrict` does, of several factors, whose sigma may be known."""

    def evaluate(beta: Array, sigma: float) -> tuple[float, Array, Array, float]:
        return marginal_cells(density.pattern, n, lam, beta, sigma)

    origin = evaluate(np.zeros(p), 1.0)[2]
    precision = np.column_stack([origin - evaluate(unit, 1.0)[2] for unit in np.eye(p)])
    try:
        root = np.linalg.cholesky(0.5 * (precision + precision.T))
    except np.linalg.LinAlgError:
        return -math.inf, 1.0, np.zeros(p), np.zeros_like(lam)
    inverse = np.linalg.inv(root)
    mean = inverse.T @ (inverse @ origin)
    sigma = held or math.sqrt((evaluate(mean, 1.0)[3] + n) / (n - p))
    value, gradient, _, _ = evaluate(mean, sigma)
    value += p * math.log(sigma) - float(np.log(np.diag(root)).sum())
    out = gradient.copy()
    for row in inverse:
        for sign in (-1.0, 1.0):
            out += 0.5 * (evaluate(mean + sign * sigma * row, sigma)[1] - gradient)
    return float(value), sigma, mean, out


@kernel
def _restrict(
    panels: Array, total: Array, reach: float, n: float, lam: Array
) -> tuple[float, float, Array, Array]:
    """Return the restricted log-likelihood at lam with beta integrated and sigma^2 profiled.

    Then sigma~, beta~'s mean (p,) and the gradient by lam (q, q). The kernel's gradient by beta is
    linear in beta, so p + 1 calls give mean and precision P = X'H^-1 X / sigma^2 exactly. Its
    gradient by lam is quadratic in beta, so that with sum_i v_i v_i' = P^-1

        d(-1/2 log|P|)/d lam = 1/2 sum_i grad(beta + v_i) + grad(beta - v_i) - 2 grad(beta)

    is exact as well: no step size is involved. With beta integrated, sigma^2 = rss / (n - p).
    """
    p = total.shape[0] - 1
    q = lam.shape[0]
    beta = np.zeros(p)
    precision = np.empty((p, p))
    _, _, origin, _ = marginal_panels(panels, total, reach, n, lam, beta, 1.0)
    for i in range(p):
        beta[:] = 0.0
        beta[i] = 1.0
        _, _, slope, _ = marginal_panels(panels, total, reach, n, lam, beta, 1.0)
        for m in range(p):
            precision[m, i] = origin[m] - slope[m]
    root = np.zeros((p, p))
    logdet = 0.0
    for a in range(p):
        for b in range(a + 1):
            entry = 0.5 * (precision[a, b] + precision[b, a])
            for i in range(b):
                entry -= root[a, i] * root[b, i]
            if a == b:
                root[a, a] = math.sqrt(entry)
                logdet += math.log(entry)
            else:
                root[a, b] = entry / root[b, b]
    # root root' beta = origin, and inverse = root^-1, whose rows are the v_i.
    inverse = np.zeros((p, p))
    for c in range(p):
        for a in range(c, p):
            entry = 1.0 if a == c else 0.0
            for i in range(c, a):
                entry -= root[a, i] * inverse[i, c]
            inverse[a, c] = entry / root[a, a]
    half = np.zeros(p)
    for a in range(p):
        for i in range(a + 1):
            half[a] += inverse[a, i] * origin[i]
    mean = np.zeros(p)
    for a in range(p):
        for i in range(a, p):
            mean[a] += inverse[i, a] * half[i]
    _, _, _, dlog = marginal_panels(panels, total, reach, n, lam, mean, 1.0)
    sigma = math.sqrt((dlog + n) / (n - p))
    value, gradient, _, _ = marginal_panels(panels, total, reach, n, lam, mean, sigma)
    # P at sigma is precision / sigma^2.
    value += -0.5 * logdet + p * math.log(sigma)
    out = gradient.copy()
    for i in range(p):
        for sign in (-1.0, 1.0):
            for m in range(p):
                beta[m] = mean[m] + sign * sigma * inverse[i, m]
            _, moved, _, _ = marginal_panels(panels, total, reach, n, lam, beta, sigma)
            for a in range(q):
                for b in range(q):
                    out[a, b] += 0.5 * (moved[a, b] - gradient[a, b])
    return value, sigma, mean, out


def find_flat_mode(
    density: Density | LevelDensity,
    white: Whitened | WhitenedCells,
    *,
    structure: Structure | None = None,
    start: Array | None = None,
    seed: int = 0,
    turned: Array | None = None,
) -> FlatMode:
    """Return the mode of the flat-prior posterior of (G, sigma^2).

    The search starts at `start`, at lam = I, and at roots of every rank below q with every sign of
    their correlations, so that the result does not rest on where REML stopped.

    Args:
        density: that under `Priors.flat`, in any frame; at the columns' means correlations are
            told from 1 wherever the covariates' zeros lie.
        white: the whitening behind it.
        structure: of the random coefficients; needed where they share an SD.
        start: a root (q, q) of G / sigma^2 in the columns as given, such as REML's
            `root / sqrt(sigma2)`; its log-likelihood is reported for comparison.
        seed: of the probes of `check_flatness` and of the starts.
        turned: the frame (q, q) of the density's priors; None is that of the columns as given.
    """
    shared = structure if structure is not None and structure.shares_variance else None
    kernel = _read_kernel(density, white, shared)
    sizes = density.base.sizes if isinstance(density, LevelDensity) else density.sizes
    begin = None
    start_loglik = math.nan
    if start is not None:
        begin = np.linalg.solve(white.basis, start)
        begin = _place(kernel, shared.project(begin @ begin.T)) if shared else _lower(begin, sizes)
        start_loglik = _evaluate(kernel, _read_free(kernel, begin))[0]
    best: Array | None = None
    height = own = -math.inf
    starts = _spread_shared(kernel) if shared else _choose_starts(kernel, sizes, seed)
    for lam in starts if begin is None else (begin, *starts):
        found, value = _climb(kernel, _read_free(kernel, lam), known=height)
        if best is None or value > height + GAIN:
            best, height = found, value
        if lam is not begin:
            # A search that is on the known hill does not climb it to the end.
            own = max(own, height if value > height - NEAR else value)
    assert best is not None
    _, gradient = _evaluate(kernel, best)
    lam = _place(kernel, best)
    value, sigma, mean, _ = kernel.restrict(lam)
    root = white.basis @ lam * sigma * white.scale
    values = np.linalg.svd(lam, compute_uv=False)
    return FlatMode(
        beta=white.ols + white.scale * white.fixed @ mean,
        g=root @ root.T,
        root=root,
        sigma2=float((sigma * white.scale) ** 2),
        loglik=float(value + kernel.constant),
        start_loglik=float(start_loglik + kernel.constant),
        own_loglik=float(own + kernel.constant),
        gradient=float(np.max(np.abs(gradient))),
        singular=bool(values[-1] < 1e-4),
        flatness=check_flatness(
            density, white, lam=lam, sigma=sigma, beta=mean, seed=seed, shared=shared, turned=turned
        ),
    )


def _read_kernel(
    density: Density | LevelDensity, white: Whitened | WhitenedCells, shared: Structure | None
) -> Kernel:
    levels = density if isinstance(density, LevelDensity) else None
    density = density.base if isinstance(density, LevelDensity) else density
    factors = span_blocks(density.sizes, white.q) if shared is None else shared.factors
    p = white.p
    # Of the integral over beta, (2 pi)^(p/2) |scale A|, and of y = scale y~, in the log-likelihood.
    constant = 0.5 * p * math.log(2.0 * math.pi) + white.logdet_fixed
    constant += white.offset + white.restricted_offset - (white.n - p) * math.log(white.scale)
    held = 0.0 if levels is None else levels.held / white.scale
    return Kernel(
        density.panels, density.total, density.reach, density.n, p, white.q, factors, constant,
        levels, held,
    )  # fmt: skip


def span_blocks(sizes: Sequence[int] | Array, q: int) -> Array:
    """Return a factor (c, q, q) for each element of the lower triangles of the blocks."""
    starts = np.cumsum([0, *sizes])
    parts = [
        np.add(np.tril_indices(int(size)), at) for size, at in zip(sizes, starts, strict=False)
    ]
    rows, columns = np.concatenate(parts, axis=1)
    factors = np.zeros((len(rows), q, q))
    factors[np.arange(len(rows)), rows, columns] = 1.0
    return factors


def _lower(root: Array, sizes: Sequence[int] | Array) -> Array:
    """Return a lower triangular root (q, q) of root root', block by block; ranks may be lost."""
    out = np.zeros_like(root)
    at = 0
    for size in sizes:
        span = slice(at, at + int(size))
        # LQ by QR: exact for singular roots, where Cholesky divides by zero.
        out[span, span] = np.linalg.qr(root[span].T)[1].T[:, : int(size)]
        at += int(size)
    return out


def _place(kernel: Kernel, values: Array) -> Array:
    return np.ascontiguousarray(np.tensordot(values, kernel.factors, axes=1))


def _read_free(kernel: Kernel, lam: Array) -> Array:
    """Return the free values (c,) of a lam that is a sum of the factors."""
    squares = np.einsum("cij,cij->c", kernel.factors, kernel.factors)
    return np.asarray(np.einsum("cij,ij->c", kernel.factors, lam) / squares)


def _evaluate(kernel: Kernel, values: Array) -> tuple[float, Array]:
    """Return the restricted log-likelihood and its gradient (c,) by lam's free elements."""
    lam = _place(kernel, values)
    value, _, _, gradient = kernel.restrict(lam)
    if not math.isfinite(value):
        return -math.inf, np.zeros(len(values))
    return value, np.einsum("cij,ij->c", kernel.factors, gradient)


def _spread_shared(kernel: Kernel) -> Iterator[Array]:
    """Yield sums of a structure's factors: alike, small, and each beside a tenth of the other."""
    c = len(kernel.factors)
    for values in (np.ones(c), np.full(c, 0.1), *(0.1 + 0.9 * np.eye(c) if c > 1 else ())):
        yield _place(kernel, values)


def _choose_starts(kernel: Kernel, sizes: Array, seed: int) -> Iterator[Array]:
    """Yield lower triangular starts: I, and one or two of each rank, signs drawn."""
    q = kernel.q
    yield np.eye(q)
    if len(sizes) == q:
        # Uncorrelated coefficients: each but one at zero.
        if q > 1:
            for i in range(q):
                yield np.diag(np.where(np.arange(q) == i, 1.0, 0.0))
        return
    rng = np.random.default_rng(seed)
    widest = int(max(sizes))
    for rank in range(1, widest):
        # Correlations of +-1 in whitened columns, where the coefficients are of one size.
        for _ in range(2 if widest < 4 else 1):
            root = np.zeros((q, q))
            signs = rng.choice([-0.5, 0.5], size=(q, rank))
            root[:, :rank] = signs + 0.1 * rng.normal(size=(q, rank))
            yield _lower(_mask(root, sizes), sizes)


def _mask(root: Array, sizes: Array) -> Array:
    """Return the root with each block's columns moved to the block's own."""
    out = np.zeros_like(root)
    at = 0
    for size in sizes:
        span = slice(at, at + int(size))
        out[span, span] = root[span, : int(size)]
        at += int(size)
    return out


def _climb(kernel: Kernel, values: Array, *, known: float) -> tuple[Array, float]:
    """Return the local maximum near the start, and its value.

    A search that comes within `NEAR` of the `known` height by a Newton step that cannot gain
    much more is on the same hill, and stops.

    Newton steps with the Hessian differenced from exact gradients, its eigenvalues made
    negative, halved until the value rises; where the gradient vanishes but a curvature is positive,
    a step along it leaves the saddle.
    """
    height, gradient = _evaluate(kernel, values)
    if not math.isfinite(height):
        return values, -math.inf
    for _ in range(STEPS):
        small = float(np.max(np.abs(gradient))) < GRADIENT
        curves, vectors = np.linalg.eigh(_bend(kernel, values, gradient, central=small))
        steepest = max(float(np.max(np.abs(curves))), 1.0)
        if small and curves[-1] <= CURVED * steepest:
            break
        if small:
            step = LEAVE * vectors[:, -1]
        else:
            along = vectors.T @ gradient
            sizes = np.maximum(np.abs(curves), CURVED * steepest)
            step = vectors @ (along / sizes)
            convex = curves[-1] <= CURVED * steepest
            # What a quadratic would gain; as much as is missing from a hill that is known, or less.
            gain = 0.5 * float(np.sum(along**2 / sizes))
            if convex and known >= height > known - NEAR and height + gain < known + GAIN:
                break
            if not convex and abs(along[-1]) < 1e-3 * np.max(np.abs(along)):
                # Next to a ridge the gradient points along it, and not off it.
                step = step + LEAVE * math.copysign(1.0, along[-1]) * vectors[:, -1]
            longest = float(np.max(np.abs(step))) / (1.0 + float(np.max(np.abs(values))))
            step = step * min(1.0, FARTHEST / longest) if longest > 0.0 else step
        for _ in range(40):
            trial, slope = _evaluate(kernel, values + step)
            better = trial > height
            if better or (
                not small
                and trial >= height - 1e-12 * abs(height)
                and np.max(np.abs(slope)) < 0.5 * np.max(np.abs(gradient))
            ):
                break
            step = 0.5 * step
        else:
            break
        values, height, gradient = values + step, trial, slope
    return values, height


def _bend(kernel: Kernel, values: Array, gradient: Array, *, central: bool) -> Array:
    """Return the Hessian (c, c) from differences of exact gradients.

    Central differences tell a saddle from an optimum; on the way one-sided ones will do, at half
    the cost.
    """
    c = len(values)
    hessian = np.empty((c, c))
    for i in range(c):
        step = np.zeros(c)
        step[i] = DIFFERENCE * (1.0 + abs(values[i]))
        up = _evaluate(kernel, values + step)[1]
        down = _evaluate(kernel, values - step)[1] if central else gradient
        hessian[:, i] = (up - down) / ((2.0 if central else 1.0) * step[i])
    return 0.5 * (hessian + hessian.T)


def check_flatness(
    density: Density | LevelDensity,
    white: Whitened | WhitenedCells,
    *,
    lam: Array,
    sigma: float,
    beta: Array,
    seed: int = 0,
    shared: Structure | None = None,
    turned: Array | None = None,
) -> float:
    """Return the range of log_density(x) - loglik - log |d(beta, G, sigma^2)/dx| around a point.

    It is constant exactly if the sampler's prior is flat on (beta, G, sigma^2), its Jacobian right,
    and its likelihood the kernel's. Probes are the point, kept from the boundary, and random ones
    around it, SDs times e^(N(0, 1)), correlations and fixed effects moved likewise. SDs and
    correlations are those of the frame in which the priors of the density stand.
    """
    rng = np.random.default_rng(seed)
    find, measure = (locate, log_jacobian) if shared is None else (locate_shared, log_shared)
    base = density.base if isinstance(density, LevelDensity) else density
    turn = white.basis if turned is None else turned @ white.basis
    root = turn @ lam * sigma * white.scale
    first = find(base, white, root, sigma * white.scale, beta)
    # Where sigma is known x ends before it, but for the Jacobian.
    free = density.dimension
    remainders = []
    frame = Frame(np.eye(white.p), np.eye(white.q))  # roots stay in that of the priors
    for probe in range(PROBES):
        x = first if probe == 0 else first + 0.5 * rng.normal(size=len(first)) * (first != 0.0)
        x[free:] = first[free:]
        at_beta, at_root, at_sigma = _constrain(density, white, frame, x[None, :free])
        inner = np.linalg.solve(turn, at_root[0]) / at_sigma[0]
        whitened = np.linalg.solve(white.fixed, at_beta[0] - white.ols) / white.scale
        loglik, value = _evaluate_at(
            density,
            np.ascontiguousarray(x[:free]),
            np.ascontiguousarray(inner),
            whitened,
            float(at_sigma[0] / white.scale),
        )
        remainders.append(value - loglik - measure(base, white.p, x))
    spread = float(np.ptp(remainders))
    lost = bound_rounding(white, turned)
    return max(spread - lost, 0.0) if math.isfinite(spread) else math.inf


def bound_rounding(white: Whitened | WhitenedCells, turned: Array | None) -> float:
    """Return what rounding leaves of a log-likelihood whose roots are turned to a frame and back.

    With a covariate D SDs from zero, elements of the turned basis are differences of numbers D
    times as large. Of a root that is off by a share e the log-likelihood of
    J groups or cells is by about e J q.
    """
    if turned is None:
        return 0.0
    size = (np.abs(turned) @ np.abs(white.basis)).max(axis=1)
    lost = float(np.finfo(float).eps * np.max(size / np.abs(turned @ white.basis).max(axis=1)))
    return lost * len(white.blocks) * white.q


def _constrain(
    density: Density | LevelDensity, white: Whitened | WhitenedCells, frame: Frame, x: Array
) -> Parameters:
    """Return the parameters at positions x (N, d)."""
    if isinstance(density, LevelDensity):
        assert isinstance(white, WhitenedCells)
        return constrain_levels(density, white, frame, x)
    assert isinstance(white, Whitened)
    return constrain(density, white, frame, x)


def _evaluate_at(
    density: Density | LevelDensity, x: Array, lam: Array, beta: Array, sigma: float
) -> tuple[float, float]:
    """Return the log-likelihood by the sampler's kernel, and the sampler's log density at x."""
    if isinstance(density, LevelDensity):
        loglik = marginal_cells(density.pattern, density.base.n, lam, beta, sigma)[0]
        return float(loglik), float(log_levels(x, density)[0])
    loglik = marginal_panels(
        density.panels, density.total, density.reach, density.n, lam, beta, sigma
    )[0]
    return float(loglik), float(log_density(x, density)[0])


def locate(density: Density, white: AnyWhitened, root: Array, sigma: float, beta: Array) -> Array:
    """Return the unconstrained position x (d,) of a root, kept from the boundary by `NUDGE`."""
    p, q = white.p, white.q
    x = np.zeros(density.dimension)
    x[:p] = beta
    x[-1] = math.log(sigma)
    at, start = p + q, 0
    for size in density.sizes:
        span = slice(start, start + int(size))
        rows = _lower(root[span, span], [int(size)])
        sd = np.linalg.norm(rows, axis=1)
        floor = NUDGE * density.unit[span]
        for i in range(size):
            relative = max(sd[i], floor[i]) / density.unit[start + i]
            x[p + start + i] = relative if density.signed[start + i] else math.log(relative)
            rest = 1.0
            for j in range(i):
                z = rows[i, j] / (sd[i] * rest) if sd[i] > floor[i] and rest > NUDGE else 0.0
                z = min(max(z, NUDGE - 1.0), 1.0 - NUDGE)
                x[at] = math.atanh(z)
                rest *= math.sqrt(1.0 - z * z)
                at += 1
        start += int(size)
    return x


def locate_shared(
    density: Density, white: AnyWhitened, root: Array, sigma: float, beta: Array
) -> Array:
    """Return the same of a root of G = sd^2 ((1 - r) I + r 11')."""
    p, q, unit = white.p, white.q, float(density.unit[0])
    x = np.zeros(density.dimension)
    x[:p] = beta
    x[-1] = math.log(sigma)
    g = root @ root.T
    relative = max(math.sqrt(g[0, 0]) / unit, NUDGE)
    x[p] = relative if density.signed[0] else math.log(relative)
    if len(x) > p + 2:
        share = (1.0 + (q - 1.0) * g[0, 1] / g[0, 0]) / q if g[0, 0] > 0.0 else 0.5
        share = min(max(share, NUDGE), 1.0 - NUDGE)
        x[p + 1] = 0.5 * math.log(share / (1.0 - share))
    return x


def log_shared(density: Density, p: int, x: Array) -> float:
    """Return log |d(sd^2, r sd^2, sigma^2) / dx|, or without r, up to a constant."""
    has_correlation = len(x) > p + 2
    power = 3.0 if has_correlation else 1.0
    total = 2.0 * x[-1]
    total += power * math.log(abs(x[p])) if density.signed[0] else (power + 1.0) * x[p]
    if has_correlation:  # dr / dx ~ w (1 - w)
        total -= float(np.logaddexp(0.0, 2.0 * x[p + 1]) + np.logaddexp(0.0, -2.0 * x[p + 1]))
    return total


def log_jacobian(density: Density, p: int, x: Array) -> float:
    """Return log |d(G, sigma^2) / dx|, up to a constant.

    For a block of b coefficients dG = 2^b prod_i sd_i^b d(sd) dR, and with canonical partial
    correlations z of column j (from 0), dR = prod (1 - z^2)^((b - 2 - j) / 2) dz, dz/dx = 1 - z^2.
    Source: Lewandowski, Kurowicka & Joe (2009), J. Multivariate Anal. 100, 1989-2001, eq. 12.
    """
    q = len(density.unit)
    at, start = p + q, 0
    total = 2.0 * x[-1]  # d sigma^2 / d log sigma = 2 sigma^2
    for size in density.sizes:
        b = int(size)
        for i in range(b):
            coordinate = x[p + start + i]
            if density.signed[start + i]:
                total += b * math.log(abs(coordinate))
            else:
                total += (b + 1) * coordinate
            for j in range(i):
                z = math.tanh(x[at])
                total += (1.0 + 0.5 * (b - 2 - j)) * math.log(1.0 - z * z)
                at += 1
        start += b
    return total
